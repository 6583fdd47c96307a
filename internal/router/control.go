package router

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"kiln/internal/model"
)

// control is the router's own socket: JSON over HTTP, for the daemon. Who may
// open the socket (mode 0600) may do everything.
//
//	PUT /v1/table     a model.Table; the answer is a model.RouterStatus
//	GET /v1/status    a model.RouterStatus
//	POST /v1/leave    a Leave: take nothing new, end when what there is has ended
//	POST /v1/serve    take connections, though the router before holds the lock still
//	GET /v1/counters  Counters
//	GET /v1/access    lines of JSON; ?lines=N&follow=1
type control struct {
	router   *Router
	runDir   string
	path     string // of the socket
	listener net.Listener
	server   *http.Server
	cancel   context.CancelFunc
}

// maxTableBytes bounds what the control socket reads.
const maxTableBytes = 16 << 20

func newControl(r *Router, runDir string) (*control, error) {
	c := &control{router: r, runDir: runDir, path: filepath.Join(runDir, "router-"+r.id+".sock")}
	// Bound under another name first: who finds a socket at the path may take
	// it for dead when nobody answers.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.path + ".new", Net: "unix"})
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(c.path+".new", 0o600), os.Rename(c.path+".new", c.path))
	if err != nil {
		_ = l.Close()
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	c.listener = l
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
	_ = os.Remove(c.path)
	if to, err := os.Readlink(c.known()); err == nil && to == filepath.Base(c.path) {
		_ = os.Remove(c.known())
	}
}

// known returns where the router that serves is found by those who look for one
// only: a link to its socket.
func (c *control) known() string { return filepath.Join(c.runDir, "router.sock") }

// beKnown keeps the link on this router while it serves, until ctx ends.
func (c *control) beKnown(ctx context.Context) {
	const often, seldom = 10 * time.Millisecond, time.Second
	for {
		wait := often
		if c.router.phase() == serving {
			wait = seldom
			if to, err := os.Readlink(c.known()); err != nil || to != filepath.Base(c.path) {
				c.link()
			}
			removeDead(c.runDir)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (c *control) link() {
	draft := c.path + ".link"
	if err := errors.Join(os.Symlink(filepath.Base(c.path), draft), os.Rename(draft, c.known())); err != nil {
		c.router.log.Warn("cannot link the control socket", "error", err)
		_ = os.Remove(draft)
	}
}

// removeDead removes the sockets of routers that were killed.
func removeDead(runDir string) {
	paths, err := filepath.Glob(filepath.Join(runDir, "router-*.sock"))
	if err != nil {
		return
	}
	for _, path := range paths {
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			_ = conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/table", c.putTable)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.router.Status()) })
	mux.HandleFunc("POST /v1/leave", c.leave)
	mux.HandleFunc("POST /v1/serve", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case c.router.forced <- struct{}{}:
		default: // asked already
		}
		writeJSON(w, c.router.Status())
	})
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

func (c *control) leave(w http.ResponseWriter, req *http.Request) {
	var windows Leave
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<10)).Decode(&windows); err != nil {
		writeError(w, model.Errorf(model.Invalid, "cannot read windows: %v", err))
		return
	}
	c.router.Leave(windows)
	writeJSON(w, c.router.Status())
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
