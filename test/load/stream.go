package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// stream reads server-sent events for up to five seconds, and wants to see the
// one that ends them.
func stream(_ context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Streams
	const every = 100 * time.Millisecond
	events := 2 + j.rng().IntN(int(longest(j.drain)/every))
	j.length = time.Duration(events) * every
	began := time.Now()
	defer func() { j.took = time.Since(began) }()
	head := r.head("GET", fmt.Sprintf("/stream?events=%d&every=%d", events, every.Milliseconds()), "")
	c, a, again, err := r.keep.exchange(head, nil, false, j.length+slack)
	if j.retried = again; err != nil {
		j.err = err
		return
	}
	j.version, j.server = a.version, a.server
	if a.status != http.StatusOK {
		_ = c.Close()
		j.err = fmt.Errorf("status %d", a.status)
		return
	}
	seen, ended := 0, false
	lines := bufio.NewScanner(c.body(a))
	for lines.Scan() {
		switch text := lines.Bytes(); {
		case string(text) == "event: end":
			ended = true
		case !ended && bytes.HasPrefix(text, []byte("data: ")):
			seen++
		}
	}
	switch {
	case lines.Err() != nil:
		j.err = fmt.Errorf("in a stream: %w", lines.Err())
	case !ended || seen != events:
		j.err = errors.New("a stream without its end")
	}
	if j.err != nil || a.close || a.length < 0 && !a.chunked {
		_ = c.Close()
		return
	}
	r.keep.give(c)
}

// webSocket keeps a conversation up for up to five seconds and closes it. One
// that the service closes with 1012 (service restart) between two messages was
// ended politely: it is counted, and no failure.
func webSocket(ctx context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.WebSockets
	j.length = 100*time.Millisecond + time.Duration(j.rng().Int64N(int64(longest(j.drain))))
	began := time.Now()
	defer func() { j.took = time.Since(began) }()
	h := http.Header{}
	if r.opts.Host != "" {
		h.Set("Host", r.opts.Host)
	}
	conn, res, err := r.dialer.DialContext(ctx, "ws"+strings.TrimPrefix(r.opts.URL, "http")+"/ws", h)
	if err != nil {
		if j.err = err; res != nil {
			j.err = fmt.Errorf("status %d for a WebSocket", res.StatusCode)
		}
		return
	}
	defer func() { _ = conn.Close() }()
	j.version, j.server = res.Header.Get("X-Shop-Version"), res.Header.Get("X-Shop-Server")
	j.err = converse(conn, j)
	if websocket.IsCloseError(j.err, websocket.CloseServiceRestart) {
		j.polite, j.err = true, nil
	}
}

// converse sends messages and compares what comes back until the length is
// reached, then closes.
func converse(conn *websocket.Conn, j *job) error {
	began := time.Now()
	for n := uint64(0); time.Since(began) < j.length; n++ {
		if err := conn.SetReadDeadline(time.Now().Add(slack)); err != nil {
			return err
		}
		msg := filled(1+int(n*997%2048), j.seed+n)
		sent := conn.WriteMessage(websocket.BinaryMessage, msg)
		_, got, err := conn.ReadMessage() // also after a failed write: the close frame says why
		switch {
		case err != nil:
			return err
		case sent != nil:
			return sent
		case !bytes.Equal(got, msg):
			return errors.New("wrong message in a WebSocket")
		}
		time.Sleep(50 * time.Millisecond)
	}
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(slack)); err != nil {
		return err
	}
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		return err
	}
	return nil
}

// longest is how long an open exchange is meant to last at most.
func longest(drain time.Duration) time.Duration {
	return max(min(drain*6/10, 5*time.Second), 200*time.Millisecond)
}
