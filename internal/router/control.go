package router

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"kiln/internal/model"
)

// control is the router's own socket: JSON over HTTP, for the daemon. Who may
// open the socket (mode 0600) may do everything.
//
//	PUT /v1/table     a model.Table; the answer is a model.RouterStatus
//	GET /v1/status    a model.RouterStatus
//	GET /v1/counters  Counters
//	GET /v1/access    lines of JSON; ?lines=N&follow=1
type control struct {
	router   *Router
	listener net.Listener
	server   *http.Server
	cancel   context.CancelFunc
}

// maxTableBytes bounds what the control socket reads.
const maxTableBytes = 16 << 20

func newControl(r *Router, path string) (*control, error) {
	// The router.lock is held: a socket that is there belongs to nobody.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	c := &control{router: r, listener: l}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.server = &http.Server{
		Handler:           c.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	return c, nil
}

func (c *control) serve() {
	if err := c.server.Serve(c.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		c.router.log.Error("control socket ended", "error", err)
	}
}

func (c *control) close() {
	c.cancel()
	_ = c.server.Close()
	_ = c.listener.Close()
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/table", c.putTable)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.router.Status()) })
	mux.HandleFunc("GET /v1/counters", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.router.Counters()) })
	mux.HandleFunc("GET /v1/access", c.followAccess)
	return mux
}

func (c *control) putTable(w http.ResponseWriter, req *http.Request) {
	t, err := decodeTable(http.MaxBytesReader(w, req.Body, maxTableBytes))
	if err != nil {
		writeError(w, err)
		return
	}
	st, err := c.router.Apply(t)
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, st)
}

func decodeTable(r io.Reader) (t model.Table, err error) {
	if err := json.NewDecoder(r).Decode(&t); err != nil {
		return t, model.Errorf(model.Invalid, "cannot read table: %v", err)
	}
	return t, nil
}

func (c *control) followAccess(w http.ResponseWriter, req *http.Request) {
	lines, err := strconv.Atoi(req.FormValue("lines"))
	if err != nil || lines < 0 {
		lines = 0
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	err = c.router.access.copyTo(req.Context(), w, lines, req.FormValue("follow") != "", func() { _ = rc.Flush() })
	if err != nil {
		c.router.log.Debug("access log reader left", "error", err)
	}
}

// wireError is an error on the control socket.
type wireError struct {
	Code    model.Code `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint,omitempty"`
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a caller that has gone is not our trouble
}

func writeError(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(model.CodeOf(err)))
	_ = json.NewEncoder(w).Encode(wireError{model.CodeOf(err), err.Error(), model.HintOf(err)})
}

func statusOf(code model.Code) int {
	switch code {
	case model.Invalid:
		return http.StatusBadRequest
	case model.NotFound:
		return http.StatusNotFound
	case model.Conflict:
		return http.StatusConflict
	case model.Precondition:
		return http.StatusPreconditionFailed
	case model.Unavailable:
		return http.StatusServiceUnavailable
	case model.Denied:
		return http.StatusForbidden
	default:
		return http.StatusInternalServerError
	}
}
