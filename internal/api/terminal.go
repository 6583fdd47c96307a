package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"kiln/internal/model"
)

// The paths of sessions. {session} is the id of one.
const (
	PathTerminal     = "/v1/servers/{server}/session"        // POST TerminalRequest with Upgrade: kiln-terminal → the connection carries frames
	PathExtend       = "/v1/servers/{server}/session/extend" // POST ExtendRequest → Extended
	PathSessions     = "/v1/sessions"                        // GET ?service=&server= → Sessions
	PathSessionShown = "/v1/sessions/{session}"              // GET → SessionShown
	PathSessionFile  = "/v1/sessions/{session}/file"         // GET ?name= → one file of what it leaves
)

// TerminalProtocol is what the connection of a session is upgraded to: from
// then on it carries frames both ways.
const TerminalProtocol = "kiln-terminal"

// TerminalRequest opens a session in a server.
type TerminalRequest struct {
	Kind          model.SessionKind `json:"kind" enum:"hotfix,shell"`
	By            string            `json:"by,omitempty"`
	Reason        string            `json:"reason,omitempty"`
	Command       []string          `json:"command,omitempty"`
	OutOfRotation bool              `json:"out_of_rotation,omitempty"`
	TTL           model.Duration    `json:"ttl,omitempty"`
	TTY           bool              `json:"tty,omitempty"`
	Term          string            `json:"term,omitempty"`
	Size          WindowSize        `json:"size,omitzero"`
}

// WindowSize is that of a terminal, in characters.
type WindowSize struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// ExtendRequest gives a hotfix more time.
type ExtendRequest struct {
	By     string         `json:"by,omitempty"`
	Reason string         `json:"reason"`
	For    model.Duration `json:"for,omitempty"`
}

// Session is a session as people see it: its times are of the wall clock.
type Session struct {
	ID            model.SessionID   `json:"id"`
	Service       string            `json:"service"`
	Server        model.ServerID    `json:"server"`
	Kind          model.SessionKind `json:"kind"`
	By            string            `json:"by"`
	Reason        string            `json:"reason,omitempty"`
	Command       []string          `json:"command,omitempty"`
	OutOfRotation bool              `json:"out_of_rotation,omitempty"`
	OpenedAt      time.Time         `json:"opened_at"`
	Until         time.Time         `json:"until"` // its server is gone by then
	Extensions    []Extension       `json:"extensions,omitempty"`
	Ended         *model.SessionEnd `json:"ended"` // null: it is open
}

// Extension is more time that a session was given.
type Extension struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"`
}

// Extended is a session that was given more time.
type Extended struct {
	Session
	Left *int `json:"extensions_left"` // how often its server's time can be extended yet
}

// Sessions are those of an instance, a service or a server, the latest first.
type Sessions struct {
	Sessions []Session `json:"sessions"`
}

// SessionShown is a session with what it leaves.
type SessionShown struct {
	Session
	Changes       json.RawMessage `json:"changes,omitempty"` // a list: path, kind, type, mode, uid, gid, size, …
	Patch         string          `json:"patch,omitempty"`   // unified
	Containerfile string          `json:"containerfile,omitempty"`
	Files         []string        `json:"files,omitempty"` // of the archive, for PathSessionFile
}

// FrameKind says what a frame carries.
type FrameKind byte

// The kinds of frames. The client sends the first four, the daemon the others.
const (
	FrameInput  FrameKind = 'i' // what is typed
	FrameEnd    FrameKind = 'e' // nothing more is typed; not on a terminal
	FrameSize   FrameKind = 'w' // a WindowSize
	FrameSignal FrameKind = 's' // a signal's name without SIG
	FrameOutput FrameKind = 'o'
	FrameError  FrameKind = 'x' // standard error
	FrameNote   FrameKind = 'n' // text for the person
	FrameBegun  FrameKind = 'b' // a Session: the first frame
	FrameEnded  FrameKind = 'z' // a model.SessionEnd: the last frame
)

// maxFrame bounds what one frame carries.
const maxFrame = 64 << 10

// Frames reads and writes the frames of a connection. Writing may be done at
// once.
type Frames struct {
	conn net.Conn
	r    *bufio.Reader
	mu   sync.Mutex
}

// NewFrames returns the frames of a connection that was upgraded.
func NewFrames(conn net.Conn) *Frames { return &Frames{conn: conn, r: bufio.NewReader(conn)} }

// Close closes the connection.
func (f *Frames) Close() error { return f.conn.Close() }

// Send writes one frame, or more where the data is long.
func (f *Frames) Send(kind FrameKind, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), maxFrame)
		head := binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(n))
		if _, err := f.conn.Write(append(head, data[:n]...)); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// SendJSON writes one frame that carries a value.
func (f *Frames) SendJSON(kind FrameKind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("%d bytes do not fit into a frame", len(b))
	}
	return f.Send(kind, b)
}

// Next reads one frame.
func (f *Frames) Next() (FrameKind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes is too long", n)
	}
	data := make([]byte, n)
	_, err := io.ReadFull(f.r, data)
	return FrameKind(head[0]), data, err
}

// Writer returns a writer that sends frames of the kind.
func (f *Frames) Writer(kind FrameKind) io.Writer { return frameWriter{f, kind} }

type frameWriter struct {
	f    *Frames
	kind FrameKind
}

// Write implements io.Writer.
func (w frameWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return len(b), w.f.Send(w.kind, b)
}

// OpenTerminal opens a session. The connection ends with ctx.
func (c *Client) OpenTerminal(ctx context.Context, server model.ServerID, in TerminalRequest) (*Frames, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot write a request: %w", err)
	}
	conn, err := c.upgradeTo(ctx, path(PathTerminal, string(server)), TerminalProtocol, b)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return NewFrames(conn), nil
}

// LostSession returns the error of a session whose connection has ended before it had.
func (c *Client) LostSession(err error) error {
	return c.unreachable(&contactError{err: err, sent: true})
}

// Extend gives the hotfix of a server more time.
func (c *Client) Extend(ctx context.Context, server model.ServerID, in ExtendRequest) (*Extended, error) {
	return post[Extended](ctx, c, path(PathExtend, string(server)), in)
}

// SessionQuery chooses sessions.
type SessionQuery struct {
	Service string
	Server  model.ServerID
}

// Sessions asks for sessions.
func (c *Client) Sessions(ctx context.Context, q SessionQuery) (*Sessions, error) {
	v := url.Values{}
	if q.Service != "" {
		v.Set("service", q.Service)
	}
	if q.Server != "" {
		v.Set("server", string(q.Server))
	}
	return get[Sessions](ctx, c, PathSessions, v)
}

// Session asks for one session with what it leaves.
func (c *Client) Session(ctx context.Context, id model.SessionID) (*SessionShown, error) {
	return get[SessionShown](ctx, c, path(PathSessionShown, string(id)), nil)
}

// SessionFile writes one file of what a session leaves to w.
func (c *Client) SessionFile(ctx context.Context, id model.SessionID, name string, w io.Writer) error {
	resp, err := c.do(ctx, call{target: path(PathSessionFile, string(id)), query: url.Values{"name": {name}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) {
			return c.unreachable(&contactError{err: err, sent: true})
		}
		return model.Errorf(model.Internal, "cannot write %s of %s: %w", name, id, err)
	}
	return nil
}

// upgradeTo opens a connection of its own and turns it into one of a protocol.
func (c *Client) upgradeTo(ctx context.Context, target, protocol string, body []byte) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.unreachable(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kiln"+target, bytes.NewReader(body))
	if err != nil {
		conn.Close()
		return nil, model.Errorf(model.Internal, "cannot make a request: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, c.unreachable(&contactError{err: err, sent: true})
	}
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, req)
	if err != nil {
		conn.Close()
		return nil, c.unreachable(&contactError{err: err, sent: true})
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			return nil, problem(resp)
		}
		return nil, model.Errorf(model.Internal, "cannot open a connection of %s: the daemon answered %s", protocol, resp.Status)
	}
	return &bufferedConn{Conn: conn, buffered: buffered}, nil
}
