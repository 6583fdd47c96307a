package router

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"kiln/internal/model"
)

// dropping takes connections at a socket, reads the question and ends the first
// n connections without an answer, as a process does that ends. Then it answers,
// or is gone.
func dropping(t *testing.T, n int, answers bool) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "router-x.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for range n {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.Close() // what was sent is unread: a reset
		}
		if !answers {
			_ = ln.Close()
			return
		}
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(model.RouterStatus{ID: "x"})
		}))
	}()
	return dialSocket(path)
}

// A router that ends may reset a connection before it has answered: that is
// neither an answer nor an error of the one who asks.
func TestClientMeetsAnEndingRouter(t *testing.T) {
	if _, err := dropping(t, 1, false).Apply(t.Context(), model.Table{}); !Gone(err) {
		t.Errorf("a router that ended while it was asked: %v, want one that is gone", err)
	}
	if st, err := dropping(t, 2, true).Apply(t.Context(), model.Table{}); err != nil || st.ID != "x" {
		t.Errorf("a router that answers the third time: %+v %v", st, err)
	}
	if _, err := dropping(t, 1000, true).Apply(t.Context(), model.Table{}); err == nil || Gone(err) {
		t.Errorf("a router that never answers: %v, want an error that says so", err)
	}
}
