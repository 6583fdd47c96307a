package router

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"kiln/internal/model"
)

// Client speaks to the router of a run directory. It holds no connection that
// a restarted router would break: each call finds the router that lives now.
type Client struct {
	http *http.Client
}

// Dial returns a client for the router of the run directory. Whether one is
// there shows with the first call: unavailable if not.
func Dial(runDir string) *Client {
	return dialSocket(filepath.Join(runDir, "router.sock"))
}

// All returns a client for each router of the run directory that may live: one,
// or while it is handed over two or more. Which of them do shows with the first
// call; see Gone.
func All(runDir string) []*Client {
	var out []*Client
	paths, err := filepath.Glob(filepath.Join(runDir, "router-*.sock"))
	if err != nil { // the pattern is good
		return nil
	}
	// A router of an older version has the one name only, and no link.
	one := filepath.Join(runDir, "router.sock")
	if st, err := os.Lstat(one); err == nil && st.Mode().Type() == fs.ModeSocket {
		paths = append(paths, one)
	}
	for _, path := range paths {
		out = append(out, dialSocket(path))
	}
	return out
}

// Gone reports whether the error of a call says that the router does not live
// any more.
func Gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

func dialSocket(path string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 2 * time.Second}
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

// Apply hands t over. When it returns without an error, every dispatch uses t,
// and the status says what is still in flight. An unavailable error says
// nothing about which table is used: ask again, with the same table or Status.
func (c *Client) Apply(ctx context.Context, t model.Table) (model.RouterStatus, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return model.RouterStatus{}, model.Errorf(model.Internal, "cannot apply table: %w", err)
	}
	var st model.RouterStatus
	return st, c.call(ctx, http.MethodPut, "/v1/table", body, &st)
}

// Status returns what the router says of itself.
func (c *Client) Status(ctx context.Context) (model.RouterStatus, error) {
	var st model.RouterStatus
	return st, c.call(ctx, http.MethodGet, "/v1/status", nil, &st)
}

// Leave tells the router to take nothing new, and to end when what it has has
// ended. When it returns without an error another router may serve.
func (c *Client) Leave(ctx context.Context, windows Leave) error {
	body, err := json.Marshal(windows)
	if err != nil {
		return model.Errorf(model.Internal, "cannot tell the router to leave: %w", err)
	}
	var st model.RouterStatus
	return c.call(ctx, http.MethodPost, "/v1/leave", body, &st)
}

// Serve tells a router that waits to take connections now.
func (c *Client) Serve(ctx context.Context) error {
	var st model.RouterStatus
	return c.call(ctx, http.MethodPost, "/v1/serve", nil, &st)
}

// Counters returns what the router has counted since it started.
func (c *Client) Counters(ctx context.Context) (Counters, error) {
	var cs Counters
	return cs, c.call(ctx, http.MethodGet, "/v1/counters", nil, &cs)
}

// AccessLog returns the last lines of the access log as JSON lines and, with
// follow, all that come until ctx ends. The caller closes it.
func (c *Client) AccessLog(ctx context.Context, lines int, follow bool) (io.ReadCloser, error) {
	path := fmt.Sprintf("/v1/access?lines=%d", lines)
	if follow {
		path += "&follow=1"
	}
	res, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// call asks until the router answers or is gone. A router that ends resets the
// connections that it has not answered yet, whose question it may have taken:
// every call may be made twice, and the second one finds out.
func (c *Client) call(ctx context.Context, method, path string, body []byte, out any) error {
	for try := 1; ; try++ {
		err := c.ask(ctx, method, path, body, out)
		if err == nil || !cutOff(err) || try == 5 {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// cutOff reports whether err says that a connection was made and ended without
// an answer. net/http has several words for that, not all of them exported.
func cutOff(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, asked := errors.AsType[*url.Error](err)
	return asked || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (c *Client) ask(ctx context.Context, method, path string, body []byte, out any) error {
	res, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return model.Errorf(model.Unavailable, "cannot read the router's answer: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://router"+path, bytes.NewReader(body))
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot ask the router: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot reach the router: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	var w wireError
	if err := json.NewDecoder(res.Body).Decode(&w); err != nil || w.Code == "" {
		return nil, model.Errorf(model.Internal, "cannot ask the router: it answered %s", res.Status)
	}
	e := model.Errorf(w.Code, "%s", w.Message)
	if w.Hint != "" {
		e = e.WithHint("%s", w.Hint)
	}
	return nil, e
}
