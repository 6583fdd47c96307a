package router

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kiln/internal/model"
)

// everything is a server with one path for each drain class. What is open ends
// by itself only when release is called.
type everything struct {
	hold    chan struct{}
	once    sync.Once
	closeMu sync.Mutex
	closes  []int // close codes that the server side of websockets received
}

func newEverything() *everything { return &everything{hold: make(chan struct{})} }

func (e *everything) release() { e.once.Do(func() { close(e.hold) }) }

func (e *everything) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/slow":
		select {
		case <-e.hold:
		case <-req.Context().Done():
		}
		_, _ = io.WriteString(w, "slow is done")
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-e.hold:
				return
			case <-req.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	case "/ws":
		e.echo(w, req)
	default:
		_, _ = io.WriteString(w, "ok")
	}
}

// echo answers each message with itself, and notes the close code it gets.
func (e *everything) echo(w http.ResponseWriter, req *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := up.Upgrade(w, req, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		kind, data, err := conn.ReadMessage()
		if err != nil {
			e.closeMu.Lock()
			if ce, ok := err.(*websocket.CloseError); ok {
				e.closes = append(e.closes, ce.Code)
			} else {
				e.closes = append(e.closes, -1)
			}
			e.closeMu.Unlock()
			return
		}
		if conn.WriteMessage(kind, data) != nil {
			return
		}
	}
}

func (e *everything) closeCodes() []int {
	e.closeMu.Lock()
	defer e.closeMu.Unlock()
	return append([]int(nil), e.closes...)
}

// drainOf returns a drain of the upstream with the windows, from now.
func drainOf(u model.Upstream, requests, streams, websockets time.Duration) model.Draining {
	now := boottime()
	return model.Draining{
		Server: u.Server, Address: u.Address,
		Requests: now + int64(requests), Streams: now + int64(streams), WebSockets: now + int64(websockets),
	}
}

// openAll opens n of each class to the router and waits until they are counted.
func openAll(t *testing.T, r *testRouter, n int, id model.ServerID) (ends chan string, sockets []*websocket.Conn) {
	t.Helper()
	ends = make(chan string, 2*n)
	for i := range n {
		c := client(t, i%2 == 1)
		c.Timeout = 0
		for _, path := range []string{"/slow", "/events"} {
			go func() { ends <- path + ": " + fetch(c, r.url(path)) }()
		}
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+r.address+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		t.Cleanup(func() { _ = conn.Close() })
		sockets = append(sockets, conn)
	}
	want := model.InFlight{Requests: n, Streams: n, WebSockets: n}
	eventually(t, "all are counted in flight by class", func() bool {
		a, _ := of(r.Status(), id)
		return a.InFlight == want
	})
	return ends, sockets
}

// fetch returns the end of an exchange in words.
func fetch(c *http.Client, url string) string {
	req, err := http.NewRequestWithContext(context.Background(), "GET", url, nil)
	if err != nil {
		return err.Error()
	}
	res, err := c.Do(req)
	if err != nil {
		return "failed"
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	if err != nil {
		return "broken"
	}
	return res.Status
}

// TestDrainByClass: each class ends at its own deadline and not before; what
// ends by itself is finished, what is ended is cut; the account is kept until
// the drain is over.
func TestDrainByClass(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	old := backendServer(t, "web-oldold", e)
	fresh := backendServer(t, "web-newnew", text("new"))
	r.serve(model.HTTP, old)
	const n = 4
	ends, sockets := openAll(t, r, n, "web-oldold")
	begin := time.Now()
	st := r.apply([]model.TableService{r.service(model.HTTP, fresh)}, drainOf(old, 300*time.Millisecond, 900*time.Millisecond, 20*time.Second))
	if a, _ := of(st, "web-oldold"); a.InFlight.Total() != 3*n {
		t.Fatalf("the switch itself ended something: %+v", a)
	}
	if _, body := do(t, client(t, false), "GET", r.url("/"), nil); body != "new" {
		t.Errorf("a new request got %q", body)
	}
	for i := range 2 * n {
		end := <-ends
		took := time.Since(begin)
		path, how, _ := strings.Cut(end, ": ")
		switch {
		case i < n && (path != "/slow" || how != "503 Service Unavailable" || took < 300*time.Millisecond):
			t.Errorf("end %d: %s after %v", i, end, took)
		case i >= n && (path != "/events" || how == "200 OK" || took < 900*time.Millisecond):
			t.Errorf("end %d: %s after %v", i, end, took)
		}
	}
	eventually(t, "the account has 8 cut", func() bool {
		a, ok := of(r.Status(), "web-oldold")
		return ok && a.Cut == 2*n && a.InFlight == model.InFlight{WebSockets: n}
	})
	for _, s := range sockets {
		_ = s.Close()
	}
	eventually(t, "the websockets have finished", func() bool {
		a, ok := of(r.Status(), "web-oldold")
		return ok && a.Finished == n && a.InFlight.Total() == 0
	})
	if st := r.serve(model.HTTP, fresh); len(st.Servers) != 1 {
		t.Errorf("a server that neither serves nor drains is still there: %+v", st.Servers)
	}
}

// TestDrainLetsFinish: what ends before its deadline ends well.
func TestDrainLetsFinish(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	old := backendServer(t, "web-oldold", e)
	r.serve(model.HTTP, old)
	ends, _ := openAll(t, r, 2, "web-oldold")
	r.apply([]model.TableService{r.service(model.HTTP)}, drainOf(old, time.Minute, time.Minute, time.Minute))
	e.release()
	for range 4 {
		if end := <-ends; !strings.HasSuffix(end, "200 OK") {
			t.Errorf("a drain of a minute broke %s", end)
		}
	}
	a, _ := of(r.Status(), "web-oldold")
	if a.Finished != 4 || a.Cut != 0 {
		t.Errorf("account %+v", a)
	}
}

// TestDrainAtOnce: deadlines of zero cut everything with the switch.
func TestDrainAtOnce(t *testing.T) {
	r := startRouter(t, Limits{})
	old := backendServer(t, "web-oldold", newEverything())
	r.serve(model.HTTP, old)
	ends, sockets := openAll(t, r, 3, "web-oldold")
	r.apply([]model.TableService{r.service(model.HTTP)}, model.Draining{Server: old.Server, Address: old.Address})
	for range 6 {
		if end := <-ends; strings.HasSuffix(end, "200 OK") {
			t.Errorf("a drain without time let %s", end)
		}
	}
	for _, s := range sockets {
		if _, _, err := s.ReadMessage(); err == nil {
			t.Error("a drain without time left a websocket open")
		}
	}
	eventually(t, "all are cut", func() bool {
		a, _ := of(r.Status(), "web-oldold")
		return a.Cut == 9 && a.InFlight.Total() == 0
	})
}

// TestDrainCancelled: a server that comes back keeps what is in flight to it.
func TestDrainCancelled(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	old := backendServer(t, "web-oldold", e)
	r.serve(model.HTTP, old)
	ends, sockets := openAll(t, r, 2, "web-oldold")
	d := 300 * time.Millisecond
	r.apply([]model.TableService{r.service(model.HTTP)}, drainOf(old, d, d, 20*time.Second))
	r.serve(model.HTTP, old)
	time.Sleep(2 * d)
	e.release()
	for range 4 {
		if end := <-ends; !strings.HasSuffix(end, "200 OK") {
			t.Errorf("after the drain was cancelled: %s", end)
		}
	}
	for _, s := range sockets {
		if err := s.WriteMessage(websocket.TextMessage, []byte("still here")); err != nil {
			t.Error(err)
		}
		if _, data, err := s.ReadMessage(); err != nil || string(data) != "still here" {
			t.Errorf("websocket after the drain was cancelled: %q %v", data, err)
		}
	}
}

// TestWebSocketsClosePolitely: under traffic, both ends of each websocket get
// one close frame with 1012 where a frame has ended, spread over the window.
func TestWebSocketsClosePolitely(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	old := backendServer(t, "web-oldold", e)
	r.serve(model.HTTP, old)
	const n = 12
	const window = 2 * time.Second
	var clients sync.WaitGroup
	var mu sync.Mutex
	var codes []int
	var times []time.Duration
	var begin time.Time
	for i := range n {
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+r.address+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		defer conn.Close()
		if i%2 == 0 { // half of them are busy with messages of all frame lengths
			clients.Go(func() {
				for k := 0; ; k++ {
					msg := strings.Repeat("m", []int{1, 125, 126, 4000, 70000}[k%5])
					if conn.WriteMessage(websocket.TextMessage, []byte(msg)) != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		clients.Go(func() {
			for {
				_, data, err := conn.ReadMessage()
				if err == nil {
					if strings.Trim(string(data), "m") != "" {
						t.Errorf("a message was torn")
					}
					continue
				}
				code := -1
				if ce, ok := err.(*websocket.CloseError); ok {
					code = ce.Code
				} else {
					t.Logf("client: %v", err)
				}
				mu.Lock()
				codes, times = append(codes, code), append(times, time.Since(begin))
				mu.Unlock()
				return
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	begin = time.Now()
	mu.Lock()   // orders begin before the readers' use of it
	mu.Unlock() //nolint:staticcheck // an empty section on purpose: see above
	r.apply([]model.TableService{r.service(model.HTTP)}, drainOf(old, window, window, window))
	clients.Wait()
	first, last := window, time.Duration(0)
	for i, code := range codes {
		if code != serviceRestart {
			t.Errorf("a client got close code %d", code)
		}
		first, last = min(first, times[i]), max(last, times[i])
	}
	if last > window || last-first < window/4 {
		t.Errorf("the closes came between %v and %v of a window of %v", first, last, window)
	}
	eventually(t, "the account is closed", func() bool {
		a, _ := of(r.Status(), "web-oldold")
		return a.InFlight.Total() == 0 && len(e.closeCodes()) == n
	})
	for _, code := range e.closeCodes() {
		if code != serviceRestart {
			t.Errorf("the server got close code %d", code)
		}
	}
	if a, _ := of(r.Status(), "web-oldold"); a.Cut != 0 || a.Finished != n {
		t.Errorf("account %+v", a)
	}
}

// The closes leave time for their answers, and the cut has the last word.
func TestSpreadLeavesTimeForAnswers(t *testing.T) {
	for window, want := range map[time.Duration]time.Duration{
		-time.Second:     0,
		2 * time.Second:  time.Second,
		10 * time.Second: 5 * time.Second,
		30 * time.Second: 25 * time.Second,
		5 * time.Minute:  270 * time.Second,
	} {
		if got := time.Duration(spreadOver(int64(window))); got != want {
			t.Errorf("of %s the closes take %s, want %s", window, got, want)
		}
	}
}

// TestCutSaysWhy: a websocket whose time is up before a polite close could come
// to an end is told why, at both ends.
func TestCutSaysWhy(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	old := backendServer(t, "web-oldold", e)
	r.serve(model.HTTP, old)
	conn, res, err := websocket.DefaultDialer.Dial("ws://"+r.address+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	defer conn.Close()
	if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	r.apply([]model.TableService{r.service(model.HTTP)}, drainOf(old, 0, 0, 0))
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, serviceRestart) {
		t.Errorf("the client of a websocket that was cut: %v", err)
	}
	eventually(t, "the server is told too", func() bool { return len(e.closeCodes()) == 1 && e.closeCodes()[0] == serviceRestart })
}

// TestLongRequestBecomesAStream: the class follows the age.
func TestLongRequestBecomesAStream(t *testing.T) {
	x := newExchange()
	if c := x.classAt(x.start.Add(streamAfter - time.Millisecond)); c != classRequest {
		t.Errorf("young: %v", c)
	}
	if c := x.classAt(x.start.Add(streamAfter)); c != classStream {
		t.Errorf("old: %v", c)
	}
	s := &server{}
	s.enter(x)
	x.start = x.start.Add(-streamAfter)
	s.setDrain(&model.Draining{Requests: 1, Streams: boottime() + int64(time.Minute)})
	s.endDue(time.Now(), boottime())
	if x.wasCut.Load() {
		t.Error("a stream was cut by the deadline of requests")
	}
	if a := s.account(time.Now()); a.InFlight.Streams != 1 {
		t.Errorf("account %+v", a)
	}
}

// TestEventsAreFlushed: an event reaches the client while the next is awaited.
func TestEventsAreFlushed(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		r := startRouter(t, Limits{})
		next := make(chan string)
		r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			for s := range next {
				fmt.Fprintf(w, "data: %s\n\n", s)
				_ = http.NewResponseController(w).Flush()
			}
		})))
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(res.Body)
		for i := range 5 {
			want := fmt.Sprintf("data: %d\n", i)
			next <- fmt.Sprint(i)
			got, err := br.ReadString('\n')
			if err != nil || got != want {
				t.Fatalf("%s: event %d: %q %v", protocol, i, got, err)
			}
			_, _ = br.ReadString('\n')
		}
		if a, _ := of(r.Status(), "web-aaaaaa"); a.InFlight.Streams != 1 {
			t.Errorf("%s: an event stream counts as %+v", protocol, a.InFlight)
		}
		close(next)
		_ = res.Body.Close()
	}
}
