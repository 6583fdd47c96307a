package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// shop answers what the classes ask for, as examples/shop does; fault, if set,
// may spoil an answer and says whether it did.
func shop(t *testing.T, fault func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault != nil && fault(w, r) {
			return
		}
		answer(w, r)
	}))
	srv.Config.Protocols = &http.Protocols{}
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

func answer(w http.ResponseWriter, r *http.Request) {
	q := func(name string) (n int) { _, _ = fmt.Sscan(r.URL.Query().Get(name), &n); return n }
	var body []byte
	switch r.URL.Path {
	case "/":
		body = []byte("Shop")
	case "/slow":
		time.Sleep(time.Duration(q("ms")) * time.Millisecond)
	case "/big":
		body = filled(q("bytes"), 7)
	case "/echo":
		h := sha256.New()
		_, _ = io.Copy(h, r.Body)
		body = []byte(hex.EncodeToString(h.Sum(nil)))
	case "/stream":
		for range q("events") {
			fmt.Fprint(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Duration(q("every")) * time.Millisecond)
		}
		fmt.Fprint(w, "event: end\ndata: bye\n\n")
		return
	case "/ws":
		echoSocket(w, r)
		return
	}
	sum := sha256.Sum256(body)
	w.Header().Set("X-Shop-Checksum", hex.EncodeToString(sum[:]))
	w.Header().Set("X-Shop-Version", "1")
	_, _ = w.Write(body)
}

func echoSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	for {
		kind, msg, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, msg) != nil {
			return
		}
	}
}

func drive(t *testing.T, o Options) *Report {
	t.Helper()
	r, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r.Wait()
}

func TestAWholeServiceHasNoFailures(t *testing.T) {
	rep := drive(t, Options{
		URL: shop(t, nil), Rate: 300, Most: 300, Seed: 1, Expect: "Shop", Checksum: true,
		Drain: Drain{Requests: time.Second, Streams: time.Second, WebSockets: time.Second},
	})
	if rep.Failed != 0 || rep.Requests != 300 || rep.Versions["1"] == 0 {
		_ = rep.WriteTable(t.Output())
		t.Errorf("a whole service: %s", rep.Summary())
	}
	for name := range Mixed() {
		if rep.Classes[name] == nil {
			t.Errorf("no request of the class %s", name)
		}
	}
}

// Every fault that the load is there to find is found.
func TestFaultsAreSeen(t *testing.T) {
	faults := map[string]struct {
		class, want string
		spoil       func(http.ResponseWriter, *http.Request) bool
	}{
		"status":  {"page", "status 503", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }},
		"reset":   {"fresh", "EOF", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }},
		"content": {"page", "without", func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("no")); return true }},
		"cut": {"big", "in the body", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("half"))
			return true
		}},
		"checksum": {"big", "wrong checksum", func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("x")); return true }},
		"upload": {"upload", "wrong checksum", func(w http.ResponseWriter, _ *http.Request) bool {
			sum := sha256.Sum256(nil)
			w.Header().Set("X-Shop-Checksum", hex.EncodeToString(sum[:]))
			return true
		}},
		"small upload": {"post", "wrong checksum", func(w http.ResponseWriter, _ *http.Request) bool {
			sum := sha256.Sum256(nil)
			w.Header().Set("X-Shop-Checksum", hex.EncodeToString(sum[:]))
			return true
		}},
		"chunks": {"big", "in the body", func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte("half"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		"h2":        {"h2", "status 503", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }},
		"h2 reset":  {"h2", "INTERNAL_ERROR", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }},
		"stream":    {"stream", "without its end", func(w http.ResponseWriter, _ *http.Request) bool { fmt.Fprint(w, "data: 1\n\n"); return true }},
		"websocket": {"websocket", "status 502", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(502); return true }},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			rep := drive(t, Options{URL: shop(t, f.spoil), Rate: 1000, Most: 5, Mix: map[string]int{f.class: 1}, Expect: "Shop"})
			if rep.Failed != 5 {
				t.Errorf("%d of 5 failures seen", rep.Failed)
			}
			for text := range rep.Classes[f.class].Errors {
				if !strings.Contains(text, f.want) {
					t.Errorf("error %q, want one with %q", text, f.want)
				}
			}
		})
	}
}

// One request in a thousand that is dropped is seen: it fails, or was sent
// again, as a client may do with one that has no body.
func TestOneDroppedRequestIsSeen(t *testing.T) {
	for _, class := range []string{"page", "post"} {
		var asked atomic.Int64
		rep := drive(t, Options{URL: shop(t, func(http.ResponseWriter, *http.Request) bool {
			if asked.Add(1) == 500 {
				panic(http.ErrAbortHandler)
			}
			return false
		}), Rate: 2000, Most: 1000, Mix: map[string]int{class: 1}, Expect: "Shop", Checksum: true})
		if rep.Failed+rep.Retried != 1 || class == "post" && rep.Failed != 1 {
			t.Errorf("%s: %d failed and %d sent again, want 1", class, rep.Failed, rep.Retried)
		}
		if len(rep.Failures) != rep.Failed {
			t.Errorf("%s: %d failures are described", class, len(rep.Failures))
		}
	}
}

// After a switch an answer by the version before is a failure.
func TestVersionsAreJudged(t *testing.T) {
	r, err := Start(t.Context(), Options{URL: shop(t, nil), Rate: 200, Mix: map[string]int{"page": 1}, Expect: "Shop"})
	if err != nil {
		t.Fatal(err)
	}
	r.Allow("1", "2")
	time.Sleep(200 * time.Millisecond)
	if rep := r.Report(); rep.Failed != 0 || rep.Requests == 0 {
		t.Errorf("with both versions allowed: %s", rep.Summary())
	}
	r.Allow("2")
	time.Sleep(200 * time.Millisecond)
	r.Allow()
	time.Sleep(200 * time.Millisecond)
	if rep := r.Stop(); rep.Failed == 0 || rep.Failed == rep.Requests {
		t.Errorf("with version 2 allowed: %s", rep.Summary())
	}
}

// A WebSocket that is moved politely is no failure; one that is torn is.
func TestWebSocketsMayBeMoved(t *testing.T) {
	closing := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
			if err != nil {
				return true
			}
			defer func() { _ = conn.Close() }()
			if code != 0 {
				_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
				_, _, _ = conn.ReadMessage()
			}
			return true
		}
	}
	for code, failed := range map[int]int{1012: 0, 1011: 3, 0: 3} {
		rep := drive(t, Options{URL: shop(t, closing(code)), Rate: 100, Most: 3, Mix: map[string]int{"websocket": 1}})
		if rep.Failed != failed || rep.Restarts != 3-failed {
			t.Errorf("closed with %d: %d failed, %d restarts", code, rep.Failed, rep.Restarts)
		}
	}
}

func TestLongRequestsAreExcused(t *testing.T) {
	a := newAccount()
	drain := 10 * time.Second
	a.add(&job{class: "slow", length: 7900 * time.Millisecond, drain: drain, err: errors.New("cut")})
	a.add(&job{class: "slow", length: 8 * time.Second, drain: drain, err: errors.New("cut")})
	if rep := a.report(); rep.Failed != 1 || rep.Excused != 1 {
		t.Errorf("%d failed, %d excused, want 1 and 1", rep.Failed, rep.Excused)
	}
}

func TestErrorsAreCountedByKind(t *testing.T) {
	one := plain(errors.New(`Get "http://x/slow?ms=12": read tcp 127.0.0.1:40000->127.0.0.1:80: connection reset`))
	two := plain(errors.New(`Get "http://x/slow?ms=99": read tcp 127.0.0.1:51111->127.0.0.1:80: connection reset`))
	if one != two {
		t.Errorf("%q and %q are counted apart", one, two)
	}
}

func TestQuantiles(t *testing.T) {
	var h histogram
	for ms := range 1000 {
		h.add(time.Duration(ms) * time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990} {
		if got := h.quantile(q); got < want*0.95 || got > want*1.05 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
}

func TestALoadThatMeansNothingIsRefused(t *testing.T) {
	for _, o := range []Options{{}, {URL: "http://x", Rate: 1, Mix: map[string]int{"nonsense": 1}}, {URL: "http://x", Rate: 1, Mix: map[string]int{}}} {
		if _, err := Start(context.Background(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
