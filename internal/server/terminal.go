package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/api"
	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/session"
)

// maxTerminalRequest bounds what opens a session.
const maxTerminalRequest = 1 << 20

// terminal opens a session and turns the connection into its terminal. What
// keeps it from being opened is answered before.
func (s *Server) terminal(w http.ResponseWriter, r *http.Request) {
	server := model.ServerID(r.PathValue("server"))
	var req api.TerminalRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxTerminalRequest)).Decode(&req); err != nil {
		s.refuseRaw(w, model.Errorf(model.Invalid, "cannot open a session in %s: cannot read the request: %w", server, err))
		return
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok || r.Header.Get("Upgrade") != api.TerminalProtocol {
		s.refuseRaw(w, model.Errorf(model.Invalid, "cannot open a session in %s: the request must be upgraded to %s", server, api.TerminalProtocol))
		return
	}
	open, err := s.cfg.Sessions.Open(r.Context(), reconcile.SessionRequest{
		Server: server, Kind: req.Kind, By: actor(req.By), Reason: req.Reason, Command: req.Command,
		OutOfRotation: req.OutOfRotation, TTL: req.TTL,
	})
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	conn, buffered, err := hijacker.Hijack()
	if err == nil {
		_, err = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.TerminalProtocol + "\r\n\r\n")
	}
	if err == nil {
		err = buffered.Flush()
	}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	if err != nil { // it is open, and has to end
		end(session.ErrVanished)
		open.Run(ctx, nobody())
		if conn != nil {
			_ = conn.Close()
		}
		return
	}
	t := newTerminal(past(conn, buffered.Reader), req, s.cfg.Clock.Now(), open.Session)
	defer t.close()
	go t.listen(ctx, end)
	if err := t.last(open.Run(ctx, t.terminal())); err != nil {
		s.cfg.Log.Debug("the client of a session is gone", "session", string(open.ID), "error", err)
	}
}

// past returns the connection without the request's reader before it, which
// would end the request's context with the connection: then nobody could tell a
// client that vanishes from a daemon that ends.
func past(conn net.Conn, buffered *bufio.Reader) *hijacked {
	read, _ := buffered.Peek(buffered.Buffered()) // what is there can be had
	return &hijacked{conn, bufio.NewReader(io.MultiReader(bytes.NewReader(read), conn))}
}

// nobody is where a session is seen that nobody sees.
func nobody() session.Terminal {
	return session.Terminal{
		Shell: engine.Shell{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}, Note: func(string) {},
	}
}

// terminal is the daemon's end of a session's connection.
type terminal struct {
	conn    net.Conn
	frames  *api.Frames
	req     api.TerminalRequest
	input   *io.PipeReader
	typed   *io.PipeWriter
	pending chan []byte // that was typed and not read yet; nil: nothing follows
	notes   chan string // for the person
	sizes   chan engine.WindowSize
	signals chan string
}

const (
	pendingFrames = 64 // may be typed ahead of the command
	// lastWords is how long a client may take for what is sent to it at the end.
	lastWords = 5 * time.Second
)

func newTerminal(conn *hijacked, req api.TerminalRequest, now model.Now, x model.Session) *terminal {
	t := &terminal{
		conn: conn.Conn, frames: api.NewFrames(conn), req: req, pending: make(chan []byte, pendingFrames),
		notes: make(chan string, 4), sizes: make(chan engine.WindowSize, 1), signals: make(chan string, 16),
	}
	t.input, t.typed = io.Pipe()
	_ = t.frames.SendJSON(api.FrameBegun, sessionView(&x, now)) // a client that is gone is noticed by whoever listens
	go func() {
		for text := range t.notes {
			_ = t.frames.Send(api.FrameNote, []byte(text))
		}
	}()
	return t
}

// last tells the client how the session has ended. A client that has stopped
// reading does not hold it up for long.
func (t *terminal) last(end model.SessionEnd) error {
	close(t.notes)
	if err := t.conn.SetWriteDeadline(time.Now().Add(lastWords)); err != nil {
		return err
	}
	return t.frames.SendJSON(api.FrameEnded, end)
}

// note passes a note on to the client, unless that takes none.
func (t *terminal) note(text string) {
	select {
	case t.notes <- text:
	default:
	}
}

func (t *terminal) close() {
	_ = t.input.CloseWithError(io.ErrClosedPipe)
	_ = t.typed.Close()
	_ = t.frames.Close()
}

// terminal is what the session is run with.
func (t *terminal) terminal() session.Terminal {
	sh := engine.Shell{
		TTY: t.req.TTY, Term: t.req.Term, Size: engine.WindowSize(t.req.Size),
		Resize: t.sizes, Signals: t.signals, Stdin: t.input, Stdout: t.frames.Writer(api.FrameOutput),
	}
	if !t.req.TTY {
		sh.Stderr = t.frames.Writer(api.FrameError)
	}
	return session.Terminal{Shell: sh, Note: t.note}
}

// listen passes on what the client sends until the connection ends. That is
// the session's end too.
func (t *terminal) listen(ctx context.Context, end context.CancelCauseFunc) {
	defer close(t.sizes)
	go t.feed(ctx)
	for {
		kind, data, err := t.frames.Next()
		if err != nil {
			end(session.ErrVanished)
			return
		}
		switch kind {
		case api.FrameInput, api.FrameEnd:
			if kind == api.FrameEnd {
				data = nil
			}
			if !t.queue(ctx, data) {
				end(session.ErrVanished)
				return
			}
		case api.FrameSize:
			var size engine.WindowSize
			if json.Unmarshal(data, &size) == nil {
				t.resize(size)
			}
		case api.FrameSignal:
			select {
			case t.signals <- string(data):
			default: // nobody waits for so many
			}
		default: // of a newer client
		}
	}
}

// queue puts what was typed where the command gets it from. A client that goes
// away while the command reads nothing is noticed nevertheless; false then.
func (t *terminal) queue(ctx context.Context, data []byte) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case t.pending <- data:
			return true
		case <-ctx.Done():
			return true // the command has ended
		case <-tick.C:
			if hungUp(t.conn) {
				return false
			}
		}
	}
}

// feed gives the command what was typed.
func (t *terminal) feed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case data := <-t.pending:
			if data == nil {
				_ = t.typed.Close()
				return
			}
			if _, err := t.typed.Write(data); err != nil {
				return
			}
		}
	}
}

func (t *terminal) resize(size engine.WindowSize) {
	select {
	case <-t.sizes: // what nobody has taken is out of date
	default:
	}
	t.sizes <- size
}

// hungUp reports whether the other end of the connection is closed.
func hungUp(conn net.Conn) bool {
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	c, err := raw.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = c.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, _ := unix.Poll(polled, 0)
		gone = n > 0 && polled[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}
