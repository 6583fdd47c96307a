package router

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/model"
)

// shaky is an address at which a server can be begun and ended.
type shaky struct {
	model.Upstream
	t      *testing.T
	server *http.Server
}

func newShaky(t *testing.T, id string) *shaky {
	s := &shaky{t: t, Upstream: model.Upstream{Server: model.ServerID(id), Release: 1, Address: freeAddress(t)}}
	t.Cleanup(s.end)
	return s
}

func (s *shaky) begin() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s.server = &http.Server{ReadHeaderTimeout: time.Minute, Protocols: p, Handler: text("shaky")}
	go func(srv *http.Server) { _ = srv.Serve(l) }(s.server)
}

func (s *shaky) end() {
	if s.server != nil {
		_ = s.server.Close()
	}
}

// TestEjection: a server that refuses connections is left out at once and
// costs nobody an answer; it is tried again, and back as soon as it answers.
func TestEjection(t *testing.T) {
	r := startRouter(t, Limits{})
	var logged lockedBuilder
	r.log = slog.New(slog.NewTextHandler(&logged, nil))
	bad := newShaky(t, "web-badbad")
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("good")), bad.Upstream)
	c := client(t, false)
	post := func() string {
		t.Helper()
		res, body := do(t, c, "POST", r.url("/"), strings.NewReader("x"))
		if res.StatusCode != 200 {
			t.Fatalf("%s %q", res.Status, body)
		}
		return body
	}
	ejected := func() bool {
		a, _ := of(r.Status(), "web-badbad")
		return a.Ejected
	}
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for range 20 {
				if res, err := c.Post(r.url("/"), "text/plain", strings.NewReader("x")); err != nil || res.StatusCode != 200 {
					t.Errorf("%v %v", res, err)
				} else {
					_ = res.Body.Close()
				}
			}
		})
	}
	load.Wait()
	if !ejected() {
		t.Fatal("a server that refuses connections is not ejected")
	}
	if n := strings.Count(logged.String(), "cannot be reached"); n != 1 {
		t.Errorf("it was said %d times:\n%s", n, logged.String())
	}
	for range 100 {
		post()
	}
	if n := r.Counters().Retried; n > 20 {
		t.Errorf("%d requests were sent to the ejected server first", n)
	}
	bad.begin()
	eventually(t, "the server is back", func() bool { return post() == "shaky" })
	if ejected() || strings.Count(logged.String(), "reached again") != 1 {
		t.Errorf("ejected %v, log:\n%s", ejected(), logged.String())
	}
}

// TestEjectionOfAll: where nothing can be reached every server is tried, and
// the first that comes back answers at once, not when its time is over.
func TestEjectionOfAll(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		r := startRouter(t, Limits{})
		one, two := newShaky(t, "web-aaaaaa"), newShaky(t, "web-bbbbbb")
		r.serve(protocol, one.Upstream, two.Upstream)
		c := client(t, false)
		for range 5 {
			if res, body := do(t, c, "GET", r.url("/"), nil); res.StatusCode != 503 {
				t.Errorf("%s %q", res.Status, body)
			}
		}
		for _, s := range r.Status().Servers {
			if !s.Ejected {
				t.Errorf("%s is not ejected", s.Server)
			}
		}
		two.begin()
		if res, body := do(t, c, "GET", r.url("/"), nil); res.StatusCode != 200 {
			t.Errorf("with one server back: %s %q", res.Status, body)
		}
	}
}

// TestTrialIsOneAtATime: when the time is over one request goes to the server,
// the others do not wait for what comes of it; a failure doubles the time.
func TestTrialIsOneAtATime(t *testing.T) {
	r := startRouter(t, Limits{})
	s := &server{id: "web-badbad"}
	good := &server{id: "web-aaaaaa"}
	good.count.Store(10)
	svc := &service{backends: []backend{{server: s}, {server: good}}}
	pick := func(now int64) (*server, bool) {
		x := newExchange()
		b, _ := svc.pick(x, now, time.Second)
		return b.server, x.trial
	}
	refused := &net.OpError{Op: "dial", Err: errTimeout{}}
	r.unreached(s, false, refused)
	r.unreached(s, false, refused)
	over := s.ejection.until.Load()
	if wait := time.Duration(over - r.clock.Load()); wait > firstEjection || wait < firstEjection-time.Second/2 {
		t.Errorf("ejected for %v", wait)
	}
	if got, _ := pick(over - 1); got != good {
		t.Error("an ejected server was chosen")
	}
	if got, trial := pick(over); got != s || !trial {
		t.Error("nobody tries the server when its time is over")
	}
	for range 10 {
		if got, _ := pick(over); got != good {
			t.Error("a second one tries it at the same time")
		}
	}
	r.unreached(s, true, refused)
	if wait := time.Duration(s.ejection.until.Load() - r.clock.Load()); wait != 2*firstEjection {
		t.Errorf("ejected for %v after a failed trial", wait)
	}
	for range 10 {
		r.unreached(s, true, refused)
	}
	if wait := time.Duration(s.ejection.until.Load() - r.clock.Load()); wait != longestEjection {
		t.Errorf("ejected for %v at most", wait)
	}
	r.unreached(good, false, io.ErrUnexpectedEOF)
	if good.ejected() {
		t.Error("ejected for what is no failure to connect")
	}
}

type errTimeout struct{}

func (errTimeout) Error() string   { return "i/o timeout" }
func (errTimeout) Timeout() bool   { return true }
func (errTimeout) Temporary() bool { return true }

// lockedBuilder collects what is logged.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
