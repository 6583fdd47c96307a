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
func stream(ctx context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Streams
	const every = 50 * time.Millisecond
	events := 2 + j.rng().IntN(int(longest(j.drain)/every))
	j.length = time.Duration(events) * every
	res, cancel := r.send(ctx, r.keep, j, http.MethodGet,
		fmt.Sprintf("/stream?events=%d&every=%d", events, every.Milliseconds()), nil)
	defer cancel()
	if j.err != nil {
		return
	}
	began := time.Now()
	defer func() { _ = res.Body.Close(); j.took += time.Since(began) }()
	if res.StatusCode != http.StatusOK {
		j.err = fmt.Errorf("status %d", res.StatusCode)
		return
	}
	seen, ended := 0, false
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		switch text := lines.Text(); {
		case text == "event: end":
			ended = true
		case !ended && strings.HasPrefix(text, "data: "):
			seen++
		}
	}
	switch {
	case lines.Err() != nil:
		j.err = fmt.Errorf("in a stream: %w", lines.Err())
	case !ended || seen != events:
		j.err = errors.New("a stream without its end")
	}
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
	j.version = res.Header.Get("X-Shop-Version")
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
		msg := filled(1+int(n*997%4096), j.seed+n)
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
		time.Sleep(20 * time.Millisecond)
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
