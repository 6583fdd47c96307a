package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// Patience is how long a client that has lost the daemon tries again.
const Patience = 10 * time.Second

const retryEvery = 200 * time.Millisecond

// Client calls the API over the daemon's unix socket. Its methods may be used
// at once. Errors are *model.Error; those that say how contact was had satisfy
// Unreachable or Lost.
type Client struct {
	answered atomic.Bool // a daemon has answered once
	socket   string
	http     *http.Client
	patience time.Duration
	// OnLost, where it is set, is called when the daemon is lost and tried again.
	OnLost func()
}

// NewClient returns a client for the socket. It connects when it is first used.
func NewClient(socket string) *Client {
	c := &Client{socket: socket, patience: Patience}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		MaxIdleConnsPerHost: 4,
		DisableCompression:  true,
	}}
	return c
}

// Answered reports whether a daemon has answered once: from then on one that
// cannot be reached has gone away.
func (c *Client) Answered() bool { return c.answered.Load() }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// contactError says that there was no answer.
type contactError struct {
	err  error
	sent bool // the request may have been carried out
}

func (e *contactError) Error() string { return e.err.Error() }

func (e *contactError) Unwrap() error { return e.err }

// Unreachable reports whether err means that the daemon could not be reached:
// the request was not carried out.
func Unreachable(err error) bool {
	c, ok := errors.AsType[*contactError](err)
	return ok && !c.sent
}

// Lost reports whether err means that the daemon went away before it had
// answered: what became of the request is unknown.
func Lost(err error) bool {
	c, ok := errors.AsType[*contactError](err)
	return ok && c.sent
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err == nil {
		return conn, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // the rest is the socket's path, which is said anyway
	}
	return nil, &contactError{err: err}
}

// unreachable says in words why there was no answer.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		if of, ok := errors.AsType[*url.Error](err); ok {
			return of.Err // what it was to be sent to is nobody's business
		}
		return err
	}
	contact, ok := errors.AsType[*contactError](err)
	if !ok {
		contact = &contactError{err: err, sent: true}
		return model.Errorf(model.Unavailable, "lost the daemon at %s: %w", c.socket, contact).
			WithHint("see what became of it with: kiln status")
	}
	if contact.sent {
		return model.Errorf(model.Unavailable, "lost the daemon at %s: %w", c.socket, contact).
			WithHint("see what became of it with: kiln status")
	}
	return model.Errorf(model.Unavailable, "cannot reach the daemon at %s: %w", c.socket, contact).
		WithHint("start it with: kiln daemon; or name its socket with --socket or KILN_SOCKET")
}

// path fills the {names} of a path with escaped values.
func path(pattern string, values ...string) string {
	for _, v := range values {
		open := strings.IndexByte(pattern, '{')
		end := strings.IndexByte(pattern, '}')
		pattern = pattern[:open] + url.PathEscape(v) + pattern[end+1:]
	}
	return pattern
}

// call is one request. Without a body it is a GET.
type call struct {
	target string
	query  url.Values
	body   io.Reader
	kind   string // of body
}

// do sends a request and returns an answer of a good status.
func (c *Client) do(ctx context.Context, in call) (*http.Response, error) {
	target, method := "http://kiln"+in.target, http.MethodGet
	if len(in.query) > 0 {
		target += "?" + in.query.Encode()
	}
	if in.body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, target, in.body)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot make a request: %w", err)
	}
	if in.kind != "" {
		req.Header.Set("Content-Type", in.kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	c.answered.Store(true)
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, problem(resp)
	}
	return resp, nil
}

// problem reads the error of an answer.
func problem(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var p Problem
	// The errors of Prometheus' API have another status, and kiln's code as well.
	if _ = json.Unmarshal(raw, &p); p.Code == "" {
		code := model.Internal
		if resp.StatusCode < 500 {
			code = model.Invalid
		}
		text := p.Detail
		if text == "" {
			text = strings.TrimSpace(string(raw[:min(len(raw), 500)]))
		}
		return model.Errorf(code, "the daemon answered %s: %s", resp.Status, text).
			WithHint("client and daemon may be of different versions: kiln version")
	}
	return p.Err()
}

// Err returns the problem as the error it was.
func (p *Problem) Err() *model.Error {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	return &model.Error{Code: p.Code, Message: text, Hint: p.Hint}
}

// get decodes the answer to a GET.
func get[T any](ctx context.Context, c *Client, target string, query url.Values) (*T, error) {
	return answer[T](ctx, c, call{target: target, query: query})
}

// post sends in as JSON and decodes the answer.
func post[T any](ctx context.Context, c *Client, target string, in any) (*T, error) {
	call, err := sending(target, in)
	if err != nil {
		return nil, err
	}
	return answer[T](ctx, c, call)
}

// sending is the call that carries in as JSON.
func sending(target string, in any) (call, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return call{}, model.Errorf(model.Internal, "cannot write a request: %w", err)
	}
	return call{target: target, body: bytes.NewReader(raw), kind: "application/json"}, nil
}

// answer makes a call and decodes what comes back.
func answer[T any](ctx context.Context, c *Client, in call) (*T, error) {
	resp, err := c.do(ctx, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := new(T)
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, model.Errorf(model.Internal, "cannot read the daemon's answer: %w", err)
		}
		return nil, c.unreachable(&contactError{err: err, sent: true})
	}
	return out, nil
}

// errEnough ends a stream without an error.
var errEnough = errors.New("enough")

// stream makes a call and calls each for every line that comes back. opened,
// if not nil, is called once the daemon has answered.
func stream[T any](ctx context.Context, c *Client, in call, opened func(), each func(T) error) error {
	resp, err := c.do(ctx, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if opened != nil {
		opened()
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var line T
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return c.unreachable(&contactError{err: err, sent: true})
		}
		if err := each(line); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// again calls f until it returns something else than a lost contact, for as
// long as the client's patience after the last sign of life. f calls alive
// whenever it hears from the daemon. Contact that was never had is not waited
// for.
func (c *Client) again(ctx context.Context, f func(alive func()) error) error {
	reached, waiting := false, false
	last := time.Now()
	for {
		err := f(func() { reached, waiting, last = true, false, time.Now() })
		if err == nil || (!Lost(err) && !Unreachable(err)) {
			return err
		}
		if Unreachable(err) && !reached {
			return err
		}
		if !waiting && c.OnLost != nil {
			c.OnLost()
		}
		reached, waiting = true, true
		if time.Since(last) > c.patience {
			contact, _ := errors.AsType[*contactError](err)
			return model.Errorf(model.Unavailable, "lost the daemon at %s for more than %s: %w", c.socket, c.patience, &contactError{err: contact.err, sent: true}).
				WithHint("it goes on without you: kiln status tells how, once the daemon is back")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryEvery):
		}
	}
}

// Await waits for a daemon that was there a moment ago, for as long as the
// client's patience.
func (c *Client) Await(ctx context.Context) error {
	return c.again(ctx, func(func()) error {
		_, err := c.Version(ctx)
		if Unreachable(err) {
			return c.unreachable(&contactError{err: err, sent: true})
		}
		return err
	})
}
