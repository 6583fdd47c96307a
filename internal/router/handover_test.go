package router

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kiln/internal/model"
)

// succession returns what hands the router of p over.
func (p *processes) succession() Succession {
	return Succession{
		RunDir:  p.run,
		Windows: Leave{Requests: model.Duration(10 * time.Second), Streams: model.Duration(3 * time.Second), WebSockets: model.Duration(2 * time.Second)},
		Renew:   func(ctx context.Context) error { return p.keeper.Renew(ctx, "router") },
	}
}

// load is what clients do while routers come and go: each of them fails the
// test by a single request that gets no answer.
type pressure struct {
	t      *testing.T
	p      *processes
	stop   atomic.Bool
	wg     sync.WaitGroup
	served atomic.Int64
	failed atomic.Int64
	closed atomic.Int64 // websockets that were told that the service restarts
}

func (l *pressure) fail(format string, args ...any) {
	if l.failed.Add(1) < 10 {
		l.t.Errorf(format, args...)
	}
}

func press(t *testing.T, p *processes) *pressure {
	l := &pressure{t: t, p: p}
	for i := range 4 {
		l.wg.Go(func() { l.keepAlive(i%2 == 1) })
	}
	l.wg.Go(l.fresh)
	l.wg.Go(l.events)
	l.wg.Go(l.sockets)
	return l
}

func (l *pressure) end() {
	l.stop.Store(true)
	l.wg.Wait()
}

// keepAlive sends POSTs, which nobody may repeat, over connections that are
// kept. The client does not either: what it sends has no way to be sent again.
func (l *pressure) keepAlive(h2 bool) {
	c := client(l.t, h2)
	for n := 0; !l.stop.Load(); n++ {
		body := fmt.Sprintf("body %d", n)
		var src io.Reader = strings.NewReader(body)
		if !h2 {
			src = struct{ io.Reader }{src}
		}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+l.p.address+"/echo", src)
		if err != nil {
			l.t.Error(err)
			return
		}
		res, err := c.Do(req)
		if err != nil {
			l.fail("POST (HTTP/2 %v): %v", h2, err)
			continue
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(got) != body {
			l.fail("POST (HTTP/2 %v): %s %q %v", h2, res.Status, got, err)
		}
		l.served.Add(1)
		if n%8 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// fresh makes a connection for each request.
func (l *pressure) fresh() {
	for !l.stop.Load() {
		if err := freshRequest(l.p.address); err != nil {
			l.fail("new connection: %v", err)
		}
		l.served.Add(1)
		time.Sleep(time.Millisecond)
	}
}

// events reads streams that last longer than a hand-over takes.
func (l *pressure) events() {
	c := client(l.t, false)
	for !l.stop.Load() {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+l.p.address+"/stream", nil)
		if err != nil {
			l.t.Error(err)
			return
		}
		res, err := c.Do(req)
		if err != nil {
			l.fail("stream: %v", err)
			continue
		}
		n := 0
		for sc := bufio.NewScanner(res.Body); sc.Scan(); {
			if sc.Text() == fmt.Sprintf("data: %d", n) {
				n++
			}
		}
		_ = res.Body.Close()
		if n != 20 {
			l.fail("stream: %d of 20 events", n)
		}
		l.served.Add(1)
	}
}

// sockets keeps a websocket open: it may be closed by 1012 at a message's
// boundary, and by nothing else.
func (l *pressure) sockets() {
	for !l.stop.Load() {
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+l.p.address+"/ws", nil)
		if err != nil {
			l.fail("websocket: %v", err)
			continue
		}
		_ = res.Body.Close()
		for !l.stop.Load() {
			err := conn.WriteMessage(websocket.TextMessage, []byte("hello"))
			if err == nil {
				_, _, err = conn.ReadMessage()
			}
			if websocket.IsCloseError(err, serviceRestart) {
				l.closed.Add(1)
				break
			}
			if err != nil {
				l.fail("websocket: %v", err)
				break
			}
			l.served.Add(1)
			time.Sleep(2 * time.Millisecond)
		}
		_ = conn.Close()
	}
}

// answers is the server behind the load.
func answers(t *testing.T, id string) model.Upstream {
	e := newEverything()
	t.Cleanup(e.release)
	return backendServer(t, id, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/echo":
			b, err := io.ReadAll(req.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(b)
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 20 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(25 * time.Millisecond)
			}
		default:
			e.ServeHTTP(w, req)
		}
	}))
}

// one waits until one router lives, and it serves.
func (p *processes) one() member {
	p.t.Helper()
	var m member
	defer func() {
		if p.t.Failed() {
			all, err := members(context.Background(), p.run)
			p.t.Logf("routers %+v %v", all, err)
		}
	}()
	eventually(p.t, "one router lives, and serves", func() bool {
		all, err := members(p.t.Context(), p.run)
		if err != nil || len(all) != 1 || all[0].Phase != model.RouterServing {
			return false
		}
		m = all[0]
		return true
	})
	return m
}

// TestHandOver: under load one router after another is handed over, and not
// one request fails.
func TestHandOver(t *testing.T) {
	p := newProcesses(t)
	p.startKeeper()
	up := answers(t, "web-aaaaaa")
	if err := p.serve([]string{p.address}, up); err != nil {
		t.Fatal(err)
	}
	l := press(t, p)
	ids := []string{p.awaitRouter("").ID}
	for n := range 6 {
		time.Sleep(200 * time.Millisecond)
		begin := time.Now()
		if err := p.succession().Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := p.awaitRouter(ids[n])
		t.Logf("hand-over %d took %v", n+1, time.Since(begin))
		if st.Generation != p.gen || slices.Contains(ids, st.ID) {
			t.Errorf("after the hand-over router %s has table %d, the newest is %d", st.ID, st.Generation, p.gen)
		}
		ids = append(ids, st.ID)
		if n%2 == 0 { // a switch while two routers live
			p.gen++
			svc := model.TableService{Name: "web", Release: 1, Protocol: model.HTTP, Backends: []model.Upstream{up}, Routes: []model.Route{{Listen: p.address}}}
			for _, c := range All(p.run) {
				if _, err := c.Apply(t.Context(), model.Table{Epoch: 1, Generation: p.gen, Services: []model.TableService{svc}}); err != nil && !Gone(err) {
					t.Error(err)
				}
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	l.end()
	t.Logf("%d served, %d failed, %d websockets told that the service restarts", l.served.Load(), l.failed.Load(), l.closed.Load())
	if l.served.Load() < 500 {
		t.Errorf("only %d served: that proves nothing", l.served.Load())
	}
	last := p.one()
	if last.ID != ids[len(ids)-1] {
		t.Errorf("router %s is left, %s was the last to be handed over to", last.ID, ids[len(ids)-1])
	}
	eventually(t, "the keeper keeps the last router, and no other is left", func() bool {
		st, err := p.keeper.Status(t.Context())
		return err == nil && st.Children[0].PID == last.PID && len(st.Children[0].Before) == 0 && st.Children[0].Restarts == 0
	})
	eventually(t, "the counters survive", func() bool {
		c, err := p.router.Counters(t.Context())
		if err != nil {
			return false
		}
		sum := uint64(0)
		for _, k := range c.Counters {
			sum += k.Requests
		}
		return sum >= uint64(l.served.Load()-l.closed.Load())/2
	})
}

// TestHandOverMeetsDeath: whoever is killed at whatever step, exactly one router
// serves afterwards, no new connection is refused, and the next hand-over works.
func TestHandOverMeetsDeath(t *testing.T) {
	p := newProcesses(t)
	k := p.startKeeper()
	if err := p.serve([]string{p.address}, answers(t, "web-aaaaaa")); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var refused, served atomic.Int64
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for !stop.Load() {
				if err := freshRequest(p.address); err == nil {
					served.Add(1)
				} else if strings.Contains(err.Error(), "refused") {
					refused.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	pidOf := func(phase model.RouterPhase) int {
		pid := 0
		eventually(t, "a router is "+string(phase), func() bool {
			all, err := members(t.Context(), p.run)
			if m := find(all, func(m member) bool { return m.Phase == phase }); err == nil && m != nil {
				pid = m.PID
			}
			return pid != 0
		})
		return pid
	}
	renew := func() { _ = p.keeper.Renew(t.Context(), "router") }
	leave := func() {
		for _, c := range All(p.run) {
			if st, err := c.Status(t.Context()); err == nil && st.Phase == model.RouterServing {
				_ = c.Leave(t.Context(), Leave{Streams: model.Duration(time.Second)})
				return // the next one serves already
			}
		}
	}
	for name, step := range map[string]func(){
		"the new one, while it waits":         func() { renew(); kill(t, pidOf(model.RouterWaiting)) },
		"the old one, before it was told":     func() { renew(); pidOf(model.RouterWaiting); kill(t, pidOf(model.RouterServing)) },
		"the new one, at once when it serves": func() { renew(); pidOf(model.RouterWaiting); leave(); kill(t, pidOf(model.RouterServing)) },
		"the old one, while it leaves":        func() { renew(); pidOf(model.RouterWaiting); leave(); kill(t, pidOf(model.RouterLeaving)) },
		"both, at once": func() {
			renew()
			w, s := pidOf(model.RouterWaiting), pidOf(model.RouterServing)
			kill(t, w)
			kill(t, s)
		},
		"the old one, right after the new starts": func() { s := pidOf(model.RouterServing); renew(); kill(t, s) },
		"the keeper, while one waits": func() {
			renew()
			pidOf(model.RouterWaiting)
			kill(t, k.Process.Pid)
			_ = k.wait()
			k = p.startKeeper()
		},
		"the keeper, while one leaves": func() {
			renew()
			pidOf(model.RouterWaiting)
			leave()
			kill(t, k.Process.Pid)
			_ = k.wait()
			k = p.startKeeper()
		},
	} {
		hold, err := http.Get("http://" + p.address + "/stream") //nolint:noctx // it is to be open while one leaves
		if err != nil {
			t.Fatal(err)
		}
		step()
		if err := freshRequest(p.address); err != nil {
			t.Errorf("killed: %s: %v", name, err)
		}
		_ = hold.Body.Close()
		eventually(t, "one serves after the death of "+name, func() bool {
			all, err := members(t.Context(), p.run)
			serving := 0
			for _, m := range all {
				if m.Phase == model.RouterServing {
					serving++
				}
			}
			return err == nil && serving == 1
		})
		// What was killed may just have been on its way to serve.
		eventually(t, "the next hand-over", func() bool {
			err := p.succession().Run(t.Context())
			if err != nil {
				t.Logf("killed: %s: %v", name, err)
			}
			return err == nil
		})
		// The keeper may have started one that waits, for the one that was
		// killed: the next hand-over, which the daemon does, is to that one.
		eventually(t, "one router lives, and serves", func() bool {
			all, err := members(t.Context(), p.run)
			if err == nil && find(all, func(m member) bool { return m.Phase == model.RouterWaiting }) != nil {
				_ = p.succession().Run(t.Context())
			}
			return err == nil && len(all) == 1 && all[0].Phase == model.RouterServing
		})
	}
	stop.Store(true)
	load.Wait()
	if refused.Load() > 0 || served.Load() < 50 {
		t.Errorf("%d connections refused, %d served", refused.Load(), served.Load())
	}
}

// TestHandOverThatFails: where no new router gets ready the one before goes on.
func TestHandOverThatFails(t *testing.T) {
	p := newProcesses(t)
	p.startKeeper()
	if err := p.serve([]string{p.address}, answers(t, "web-aaaaaa")); err != nil {
		t.Fatal(err)
	}
	before := p.one()
	s := p.succession()
	s.Renew = func(context.Context) error { return model.Errorf(model.Unavailable, "no such program") }
	if err := s.Run(t.Context()); model.CodeOf(err) != model.Unavailable {
		t.Errorf("%v", err)
	}
	s.Build = "other" // than the test's routers have
	s.Renew = func(ctx context.Context) error { return p.keeper.Renew(ctx, "router") }
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Run(ctx); model.CodeOf(err) != model.Unavailable {
		t.Errorf("%v", err)
	}
	if err := freshRequest(p.address); err != nil {
		t.Error(err)
	}
	if st := p.awaitRouter(""); st.ID != before.ID || st.Phase != model.RouterServing {
		t.Errorf("router %s is %q, before it was %s", st.ID, st.Phase, before.ID)
	}
	if syscall.Kill(before.PID, 0) != nil {
		t.Error("the router before has ended")
	}
}
