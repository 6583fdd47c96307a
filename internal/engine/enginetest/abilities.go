package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func watcher(t *testing.T, s *suite) {
	w, ok := s.Engine.(engine.Watcher)
	if !ok {
		t.Log("the engine gives no hints")
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ref := s.running(t, "serve", "8080")
	hints := w.Watch(ctx)
	// What is left over from the start is not what is waited for.
	for quiet := false; !quiet; {
		select {
		case <-hints:
		case <-time.After(200 * time.Millisecond):
			quiet = true
		}
	}
	if err := s.Engine.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	select {
	case _, open := <-hints:
		if !open {
			t.Fatal("the channel was closed before its context ended")
		}
	case <-time.After(soon):
		t.Error("no hint came when a server ended")
	}
	cancel()
	end := time.After(soon)
	for {
		select {
		case _, open := <-hints:
			if !open {
				return
			}
		case <-end:
			t.Fatal("the channel was not closed when its context ended")
		}
	}
}

func dialer(t *testing.T, s *suite) {
	d, ok := s.Engine.(engine.Dialer)
	if !ok {
		t.Log("the engine's servers cannot be reached")
		return
	}
	ref := s.running(t, "serve", strconv.Itoa(servePort))
	address := s.observe(t, ref.ID).Address
	eventually(t, "the server answers", func() error { return get(t.Context(), d, ref.ID, address) })
	if err := s.Engine.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := get(ctx, d, ref.ID, address); err == nil {
		t.Error("an ended server answers")
	}
}

// get asks the program of the suite over the engine's network.
func get(ctx context.Context, d engine.Dialer, id model.ServerID, ip string) error {
	address := net.JoinHostPort(ip, strconv.Itoa(servePort))
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialServer(ctx, id, address)
		},
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", http.NoBody)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 2 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was read, nothing can be lost
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != "served\n" {
		err = fmt.Errorf("it answered %q", body)
	}
	return err
}

func logger(t *testing.T, s *suite) {
	l, ok := s.Engine.(engine.Logger)
	if !ok {
		t.Log("the engine keeps no lines")
		return
	}
	ref := s.exited(t, "lines", "100")
	s.awaitLog(t, ref, "line 100")
	lines := func(o engine.LogOptions) (texts []string) {
		t.Helper()
		err := l.Logs(t.Context(), ref.ID, o, func(line engine.LogLine) error {
			texts = append(texts, line.Text)
			return nil
		})
		if err != nil {
			t.Errorf("Logs %+v: %v", o, err)
		}
		return texts
	}
	all := lines(engine.LogOptions{})
	if len(all) != 100 || all[0] != "line 1" || all[99] != "line 100" {
		t.Errorf("all lines are %d: %q", len(all), all)
	}
	if tail := lines(engine.LogOptions{Tail: 2}); len(tail) != 2 || tail[0] != "line 99" || tail[1] != "line 100" {
		t.Errorf("the last two lines are %q", tail)
	}
	if none := lines(engine.LogOptions{Since: time.Now().Add(time.Hour)}); len(none) != 0 {
		t.Errorf("the lines of the future are %q", none)
	}
	enough := errors.New("enough")
	got := 0
	err := l.Logs(t.Context(), ref.ID, engine.LogOptions{}, func(engine.LogLine) error {
		got++
		return enough
	})
	if got != 1 || !errors.Is(err, enough) {
		t.Errorf("a sink that had enough got %d lines, and Logs said %v", got, err)
	}
	follow(t, s, l)
}

// follow checks that following gives what is there and ends with its context.
func follow(t *testing.T, s *suite, l engine.Logger) {
	t.Helper()
	ref := s.running(t, "spew", "2")
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	got := 0
	err := l.Logs(ctx, ref.ID, engine.LogOptions{Follow: true}, func(engine.LogLine) error {
		if got++; got == 4 {
			cancel()
		}
		return nil
	})
	if got != 4 {
		t.Errorf("following gave %d lines of 4 (%v)", got, err)
	}
}
