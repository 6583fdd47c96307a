package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

// serve runs a handler on a socket and returns a client for it.
func serve(t *testing.T, h http.HandlerFunc) (*Client, func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { _ = server.Serve(l); close(done) }()
	stop := func() { _ = server.Close(); <-done }
	t.Cleanup(stop)
	c := NewClient(socket)
	c.patience = 300 * time.Millisecond
	t.Cleanup(c.Close)
	return c, stop
}

func TestErrorsKeepTheirClassAndHint(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"title":"Conflict","status":409,"detail":"busy","code":"conflict","hint":"wait"}`)
	})
	_, err := c.Status(t.Context())
	if model.CodeOf(err) != model.Conflict || err.Error() != "busy" || model.HintOf(err) != "wait" {
		t.Errorf("got %v, code %s, hint %q", err, model.CodeOf(err), model.HintOf(err))
	}
	if Lost(err) || Unreachable(err) || !c.Answered() {
		t.Error("an answer was taken for none")
	}
}

func TestUnreachableIsNotWaitedFor(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "nothing"))
	began := time.Now()
	err := c.Watch(t.Context(), "d-abcdef", func(Progress) error { return nil })
	if !Unreachable(err) || Lost(err) || model.CodeOf(err) != model.Unavailable || c.Answered() {
		t.Errorf("got %v", err)
	}
	if time.Since(began) > time.Second {
		t.Error("it was waited for")
	}
}

func TestWatchGoesOnWhereTheStreamBreaks(t *testing.T) {
	calls := 0
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		fmt.Fprintf(w, "{\"phase\":\"checking\",\"message\":\"call %d\"}\n", calls)
		w.(http.Flusher).Flush()
		switch calls {
		case 1:
			panic(http.ErrAbortHandler)
		case 2: // an end without Done is a break too
		default:
			fmt.Fprintln(w, `{"phase":"ended","done":true}`)
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the client does not wait for the stream to end
		}
	})
	lost := 0
	c.OnLost = func() { lost++ }
	var seen []string
	err := c.Watch(t.Context(), "d-abcdef", func(p Progress) error {
		seen = append(seen, p.Message)
		return nil
	})
	if err != nil || strings.Join(seen, ",") != "call 1,call 2,call 3," || lost != 2 {
		t.Errorf("error %v, seen %q, lost %d times", err, seen, lost)
	}
}

func TestPatienceEnds(t *testing.T) {
	c, stop := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "{\"phase\":\"checking\"}\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	err := c.Watch(t.Context(), "d-abcdef", func(Progress) error {
		go stop()
		return nil
	})
	if !Lost(err) || Unreachable(err) {
		t.Errorf("got %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "{\"phase\":\"checking\"}\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Watch(ctx, "d-abcdef", func(Progress) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// An answer that is cut says nothing about whether the command was carried out.
func TestCutAnswerIsLost(t *testing.T) {
	c, _ := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := c.Deploy(t.Context(), "shop", DeployRequest{})
	if !Lost(err) {
		t.Errorf("got %v", err)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	var got string
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.EscapedPath()
		fmt.Fprint(w, `{"digest":"sha256:1"}`)
	})
	if _, err := c.Image(t.Context(), "base/debian:12"); err != nil || got != "/v1/images/base%2Fdebian:12" {
		t.Errorf("path %s, error %v", got, err)
	}
}

func TestLogsAreNotReadTwice(t *testing.T) {
	var queries []string
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		for i := range len(queries) { // asked again, it begins with what came before
			fmt.Fprintf(w, "{\"at\":\"2026-11-21T12:00:0%dZ\",\"text\":\"line %d\"}\n", i, i)
		}
		w.(http.Flusher).Flush()
		if len(queries) == 1 {
			panic(http.ErrAbortHandler)
		}
	})
	lines := 0
	err := c.Logs(t.Context(), LogQuery{Service: "shop", Follow: true, Tail: 5}, func(LogLine) error { lines++; return nil })
	want := []string{"follow=true&service=shop&tail=5", "follow=true&service=shop&since=2026-11-21T12%3A00%3A00Z"}
	if err != nil || lines != 2 || strings.Join(queries, " ") != strings.Join(want, " ") {
		t.Errorf("error %v, %d lines, queries %q", err, lines, queries)
	}
}

func TestBuildServesItsContext(t *testing.T) {
	session := make(chan string, 1)
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == SessionProtocol {
			if r.URL.Path != "/v1/builds/b1/session" {
				t.Errorf("session at %s", r.URL.Path)
			}
			conn, _, _ := http.NewResponseController(w).Hijack()
			defer conn.Close()
			// What comes with the head of the answer belongs to the session.
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: kiln-build\r\n\r\nask\n")
			line, _ := bufio.NewReader(conn).ReadString('\n')
			session <- line
			return
		}
		fmt.Fprint(w, "{\"build\":\"b1\"}\n")
		w.(http.Flusher).Flush()
		fmt.Fprintf(w, "{\"log\":%q}\n", <-session)
		fmt.Fprint(w, `{"result":{"image":"sha256:1"}}`+"\n")
	})
	serve := func(_ context.Context, conn net.Conn) error {
		defer conn.Close()
		question, err := bufio.NewReader(conn).ReadString('\n')
		fmt.Fprintf(conn, "answer to %s", question)
		return err
	}
	var log string
	last, err := c.Build(t.Context(), BuildRequest{}, serve, func(e BuildEvent) error {
		log += e.Log
		return nil
	})
	if err != nil || last.Result.Image != "sha256:1" || log != "answer to ask\n" {
		t.Errorf("error %v, last %+v, log %q", err, last, log)
	}
}

// A build that ends while its session is open ends the session too.
func TestBuildEndsItsSession(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == SessionProtocol {
			conn, _, _ := http.NewResponseController(w).Hijack()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: kiln-build\r\n\r\n")
			t.Cleanup(func() { conn.Close() }) // never before the test ends
			return
		}
		fmt.Fprint(w, "{\"build\":\"b1\"}\n{\"error\":{\"code\":\"precondition\",\"detail\":\"no\"}}\n")
	})
	serve := func(_ context.Context, conn net.Conn) error {
		_, err := io.Copy(io.Discard, conn)
		return err
	}
	_, err := c.Build(t.Context(), BuildRequest{}, serve, func(BuildEvent) error { return nil })
	if model.CodeOf(err) != model.Precondition {
		t.Errorf("got %v", err)
	}
}

func TestBuildErrors(t *testing.T) {
	for name, body := range map[string]string{
		"failed":   `{"error":{"code":"precondition","detail":"step 2 failed"}}`,
		"cut":      `{"step":"x"}`,
		"no lines": ``,
	} {
		c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, body+"\n") })
		_, err := c.Build(t.Context(), BuildRequest{}, nil, func(BuildEvent) error { return nil })
		if err == nil || Lost(err) == (name == "failed") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
