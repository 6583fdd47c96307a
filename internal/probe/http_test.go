package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// site answers as real servers do, well and badly.
func site(t *testing.T) (address string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Shop", "open")
		fmt.Fprintf(w, "<h1>Shop</h1> for %s", r.UserAgent())
	})
	mux.HandleFunc("/none", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/500", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, "database\n\x00 is down "+strings.Repeat("é", 300))
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example/login", http.StatusFound)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/halfway", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/reset", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestHTTPHealth(t *testing.T) {
	address, closed := site(t), closedPort(t)
	for name, c := range map[string]struct {
		address, path string
		passed        bool
		says          []string
	}{
		"well":     {address, "/ok", true, []string{address + "/ok answered 200 in ", `"<h1>Shop</h1> for kiln-probe"`}},
		"empty":    {address, "/none", true, []string{"answered 204"}},
		"no slash": {address, "ok", true, []string{address + "/ok answered 200"}},
		"500":      {address, "/500", false, []string{"/500 answered 500", `: "database . is down é`, `é…"`}},
		"404":      {address, "/absent", false, []string{"/absent answered 404", "page not found"}},
		"redirect": {address, "/moved", false, []string{"/moved answered 302", "a redirect to https://elsewhere.example/login, which a health check does not follow"}},
		"hangs":    {address, "/hang", false, []string{address + "/hang took the connection and did not answer within 1s"}},
		"halfway":  {address, "/halfway", false, []string{"answered 200 and did not end its answer within 1s"}},
		"resets":   {address, "/reset", false, []string{"/reset closed the connection without an answer"}},
		"refused":  {closed, "/", false, []string{closed + "/ refused the connection: nothing listens there"}},
		"no port":  {"127.0.0.1", "/", false, []string{"it has no address with a port"}},
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Ref: engine.Ref{ID: server}, Address: c.address, Health: model.Health{
				Kind: model.CheckHTTP, Path: c.path, Timeout: model.Duration(time.Second),
			}}
			passed, detail := means{dialer: loopback{}}.healthy(t.Context(), target)
			if passed != c.passed {
				t.Fatalf("passed is %v: %s", passed, detail)
			}
			for _, want := range c.says {
				if !strings.Contains(detail, want) {
					t.Errorf("%q does not say %q", detail, want)
				}
			}
			if len(detail) > 450 {
				t.Errorf("%d bytes of detail", len(detail))
			}
		})
	}
}

func TestHTTP2Health(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	target := Target{Ref: engine.Ref{ID: server}, Address: srv.Listener.Addr().String(), Protocol: model.H2C, Health: model.Health{Kind: model.CheckHTTP}}
	if passed, detail := (means{dialer: loopback{}}).healthy(t.Context(), target); !passed || !strings.Contains(detail, `"HTTP/2.0"`) {
		t.Fatalf("%v: %s", passed, detail)
	}
	target.Protocol = model.HTTP
	if passed, detail := (means{dialer: loopback{}}).healthy(t.Context(), target); passed {
		t.Fatalf("HTTP/1.1 to a port that speaks HTTP/2 only passed: %s", detail)
	}
}

func TestPorts(t *testing.T) {
	for want, target := range map[string]Target{
		"10.0.0.1:80":  {Address: "10.0.0.1:80"},
		"10.0.0.1:81":  {Address: "10.0.0.1", Port: 81},
		"10.0.0.1:82":  {Address: "10.0.0.1:80", Port: 82},
		"[fd00::1]:83": {Address: "[fd00::1]:80", Port: 83},
		"":             {Address: "10.0.0.1"},
	} {
		if got := target.endpoint(0); got != want {
			t.Errorf("%+v is asked at %q, want %q", target, got, want)
		}
	}
	if got := (Target{Address: "10.0.0.1:80", Port: 80}).endpoint(9000); got != "10.0.0.1:9000" {
		t.Errorf("the check's own port is not asked: %s", got)
	}
}

func TestValidate(t *testing.T) {
	address, closed := site(t), closedPort(t)
	http := func(v model.Validation) model.Validation {
		v.Kind, v.Name, v.Timeout = model.CheckHTTP, "home page", model.Duration(time.Second)
		return v
	}
	for name, c := range map[string]struct {
		address string
		v       model.Validation
		says    []string // none: it holds
	}{
		"status":          {address, http(model.Validation{Path: "/ok", Status: 200}), nil},
		"any 2xx":         {address, http(model.Validation{Path: "/none"}), nil},
		"wanted redirect": {address, http(model.Validation{Path: "/moved", Status: 302, Headers: map[string]string{"location": "https://elsewhere.example/login"}}), nil},
		"everything":      {address, http(model.Validation{Path: "/ok", Contains: "Shop", Matches: "^<h1>.*</h1>", Headers: map[string]string{"x-shop": "open"}}), nil},
		"wrong status":    {address, http(model.Validation{Path: "/500", Status: 200}), []string{`"home page"`, "/500 answered 500", "database", "expected status 200"}},
		"not 2xx":         {address, http(model.Validation{Path: "/500"}), []string{"expected a status of 200 to 299"}},
		"redirect":        {address, http(model.Validation{Path: "/moved"}), []string{"a redirect to https://elsewhere", "does not follow"}},
		"no such text":    {address, http(model.Validation{Path: "/ok", Contains: "Cart"}), []string{"<h1>Shop", `expected the body to contain "Cart"`}},
		"no match":        {address, http(model.Validation{Path: "/ok", Matches: "^Shop"}), []string{`expected the body to match "^Shop"`}},
		"bad expression":  {address, http(model.Validation{Path: "/ok", Matches: "("}), []string{"is not a regular expression"}},
		"other header":    {address, http(model.Validation{Path: "/ok", Headers: map[string]string{"x-shop": "closed"}}), []string{"expected the header X-Shop: closed, and it is open"}},
		"no header":       {address, http(model.Validation{Path: "/ok", Headers: map[string]string{"x-till": "1"}}), []string{"expected the header X-Till: 1, and there is none"}},
		"hangs":           {address, http(model.Validation{Path: "/hang"}), []string{"did not answer within 1s"}},
		"refused":         {closed, http(model.Validation{Path: "/"}), []string{closed + "/ refused the connection"}},
		"tcp":             {address, model.Validation{Name: "port", Kind: model.CheckTCP}, nil},
		"tcp refused":     {closed, model.Validation{Name: "port", Kind: model.CheckTCP}, []string{`"port"`, closed + " refused the connection"}},
		"exec":            {"", model.Validation{Name: "self-test", Kind: model.CheckExec, Command: []string{"well"}}, nil},
		"exec fails":      {"", model.Validation{Name: "self-test", Kind: model.CheckExec, Command: []string{"badly"}}, []string{`"self-test"`, `"badly" ended with exit status 3: "…`, `the end"`, "expected exit status 0"}},
		"exec hangs":      {"", model.Validation{Name: "self-test", Kind: model.CheckExec, Command: []string{"hang"}, Timeout: model.Duration(50 * time.Millisecond)}, []string{`"hang" did not end within 50ms: "so far"`}},
		"exec absent":     {"", model.Validation{Name: "self-test", Kind: model.CheckExec, Command: []string{"absent"}}, []string{`"absent" could not be run`, "no such command"}},
		"unknown kind":    {"", model.Validation{Name: "x", Kind: "udp"}, []string{`no validation of the kind "udp"`}},
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Ref: engine.Ref{ID: server}, Address: c.address}
			err := Validate(t.Context(), loopback{}, execFunc(program), target, []model.Validation{c.v})
			if c.says == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if model.CodeOf(err) != model.Precondition {
				t.Fatalf("the error is %v (%s)", err, model.CodeOf(err))
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), string(server)) {
				t.Errorf("%q names the server, which whoever asked does too", err)
			}
		})
	}
}

func program(ctx context.Context, _ engine.Ref, x engine.Exec) (engine.ExecResult, error) {
	switch x.Command[0] {
	case "well":
		return engine.ExecResult{}, nil
	case "badly":
		return engine.ExecResult{Code: 3, Output: []byte(strings.Repeat("x", 500) + "\nthe end\n")}, nil
	case "hang":
		<-ctx.Done()
		return engine.ExecResult{Output: []byte("so far\n")}, ctx.Err()
	default:
		return engine.ExecResult{}, errors.New("there is no such command")
	}
}

func TestValidateAsksInOrderAndOnce(t *testing.T) {
	var asked []string
	run := execFunc(func(_ context.Context, _ engine.Ref, x engine.Exec) (engine.ExecResult, error) {
		asked = append(asked, x.Command[0])
		if x.Command[0] == "b" {
			return engine.ExecResult{Code: 1}, nil
		}
		return engine.ExecResult{}, nil
	})
	var all []model.Validation
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, model.Validation{Name: name, Kind: model.CheckExec, Command: []string{name}})
	}
	err := Validate(t.Context(), loopback{}, run, Target{Ref: engine.Ref{ID: server}}, all)
	if err == nil || !strings.Contains(err.Error(), `validation "b"`) || strings.Join(asked, "") != "ab" {
		t.Fatalf("asked %v: %v", asked, err)
	}
}

func TestValidateInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	run := execFunc(func(ctx context.Context, _ engine.Ref, _ engine.Exec) (engine.ExecResult, error) {
		cancel()
		<-ctx.Done()
		return engine.ExecResult{}, ctx.Err()
	})
	err := Validate(ctx, loopback{}, run, Target{Ref: engine.Ref{ID: server}}, []model.Validation{{Name: "a", Kind: model.CheckExec, Command: []string{"a"}}})
	if model.CodeOf(err) != model.Unavailable {
		t.Fatalf("an interrupted validation is told as %v (%s)", err, model.CodeOf(err))
	}
}
