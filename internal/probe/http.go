package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// answer is what a server said over HTTP.
type answer struct {
	address  string // IP:port
	path     string
	status   int
	header   http.Header
	body     []byte // its first bytes
	location string
	took     time.Duration
}

// String shows it on one line.
func (a *answer) String() string {
	text := fmt.Sprintf("%s%s answered %d in %s", a.address, a.path, a.status, took(a.took))
	if a.location != "" {
		return text + ", a redirect to " + excerpt([]byte(a.location))
	}
	return text + quoted(excerpt(a.body))
}

// redirects reports whether the answer sends the client elsewhere. Probes do
// not follow: whoever is asked has to answer.
func (a *answer) redirects() bool { return a.status >= 300 && a.status < 400 && a.location != "" }

// get asks the server and reads up to limit bytes of its body. The error is in
// words for people.
func get(ctx context.Context, d Dialer, t Target, l look, limit int64) (*answer, error) {
	address := t.endpoint(l.port)
	if address == "" {
		return nil, errors.New("cannot be asked: it has no address with a port")
	}
	target, err := url.Parse("http://" + address + rooted(l.path))
	if err != nil {
		return nil, fmt.Errorf("cannot be asked: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot be asked: %w", err)
	}
	req.Header.Set("User-Agent", "kiln-probe")
	var connected atomic.Bool // the transport dials on a goroutine of its own
	transport := transportTo(d, t, l, func() { connected.Store(true) })
	defer transport.CloseIdleConnections()
	began := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%s%s %s", address, rooted(l.path), reason(err, connected.Load(), l.timeout))
	}
	defer resp.Body.Close()
	// A body that breaks off is judged by what came of it.
	body, readErr := io.ReadAll(io.LimitReader(resp.Body, limit))
	if readErr != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%s%s answered %d and did not end its answer within %s", address, rooted(l.path), resp.StatusCode, l.timeout)
	}
	return &answer{
		address: address, path: rooted(l.path), status: resp.StatusCode, header: resp.Header, body: body,
		location: resp.Header.Get("Location"), took: time.Since(began),
	}, nil
}

// transportTo returns a transport with one connection, which goes through the
// dialer. RoundTrip follows no redirects.
func transportTo(d Dialer, t Target, l look, connected func()) *http.Transport {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			conn, err := d.DialServer(ctx, t.Ref.ID, address)
			if err == nil {
				connected()
			}
			return conn, err
		},
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	if t.http2(l.port) {
		transport.DisableKeepAlives = false // HTTP/2 has no other connections
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return transport
}

func rooted(path string) string {
	if path == "" || path[0] != '/' {
		return "/" + path
	}
	return path
}
