package router

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"kiln/internal/model"
)

// rawH2 is a client of HTTP/2 by TLS that may do what no client should.
type rawH2 struct {
	t      testing.TB
	conn   *tls.Conn
	framer *http2.Framer
	enc    *hpack.Encoder
	block  bytes.Buffer
	scheme string
	host   string
	path   string
}

func dialH2(t testing.TB, ca *testAuthority, address string) *rawH2 {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: ca.pool, ServerName: "shop.test", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &rawH2{t: t, conn: conn, framer: http2.NewFramer(conn, conn), scheme: "https", host: "shop.test", path: "/"}
	c.enc = hpack.NewEncoder(&c.block)
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// head returns the header block of a request.
func (c *rawH2) head(further ...hpack.HeaderField) []byte {
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: c.scheme}, {Name: ":authority", Value: c.host}, {Name: ":path", Value: c.path},
	}, further...) {
		if err := c.enc.WriteField(f); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.block.Bytes()
}

// request opens a stream.
func (c *rawH2) request(stream uint32) error {
	return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.head(), EndHeaders: true, EndStream: true})
}

// until reads frames until one is what is wanted.
func (c *rawH2) until(wanted func(http2.Frame) bool) error {
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if wanted(f) {
			return nil
		}
	}
}

// floodedRouter returns a router by TLS whose only server answers nothing.
func floodedRouter(t testing.TB, limits Limits) (*testRouter, *testAuthority) {
	t.Helper()
	r := startRouter(t, limits)
	ca := newAuthority(t)
	never := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	r.apply([]model.TableService{r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"), backendServer(t, "web-aaaaaa", never))})
	return r, ca
}

func TestStreamsAreBounded(t *testing.T) {
	const most = 5
	r, ca := floodedRouter(t, Limits{Streams: most})
	c := dialH2(t, ca, r.address)
	for i := range uint32(most + 1) {
		if err := c.request(2*i + 1); err != nil {
			t.Fatal(err)
		}
	}
	err := c.until(func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			return f.StreamID == 2*most+1 && (f.ErrCode == http2.ErrCodeRefusedStream || f.ErrCode == http2.ErrCodeProtocol)
		case *http2.GoAwayFrame:
			return f.ErrCode == http2.ErrCodeProtocol
		}
		return false
	})
	if err != nil {
		t.Errorf("a stream too many is not refused: %v", err)
	}
}

// Rapid reset (CVE-2023-44487): streams that are opened and reset at once never
// are more work than the streams that may be open, and end the connection.
func TestRapidResetIsBounded(t *testing.T) {
	const most = 10
	r, ca := floodedRouter(t, Limits{Streams: most})
	c := dialH2(t, ca, r.address)
	head := bytes.Clone(c.head())
	go func() { // until the connection is ended: how many it takes depends on who is faster
		var flood bytes.Buffer
		at := http2.NewFramer(&flood, nil)
		for i := range uint32(1 << 20) {
			err := errors.Join(
				at.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true}),
				at.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
			if i%500 == 499 {
				_, failed := c.conn.Write(flood.Bytes())
				flood.Reset()
				err = errors.Join(err, failed)
			}
			if err != nil {
				return
			}
		}
	}()
	ended := make(chan error, 1)
	go func() {
		ended <- c.until(func(f http2.Frame) bool {
			away, ok := f.(*http2.GoAwayFrame)
			return ok && away.ErrCode == http2.ErrCodeEnhanceYourCalm
		})
	}()
	worst := 0
	for going := true; going; {
		select {
		case err := <-ended:
			going = false
			if err != nil {
				t.Errorf("the connection was not ended for its resets: %v", err)
			}
		default:
			if a, ok := of(r.Status(), "web-aaaaaa"); ok {
				worst = max(worst, a.InFlight.Total())
			}
		}
	}
	if worst > most {
		t.Errorf("%d requests in flight, though %d streams may be open", worst, most)
	}
	_ = c.conn.Close()
	eventually(t, "nothing is left in flight", func() bool {
		a, _ := of(r.Status(), "web-aaaaaa")
		return a.InFlight.Total() == 0
	})
}

// A head that never ends (CVE-2023-45288) ends the connection.
func TestContinuationFloodEnds(t *testing.T) {
	r, ca := floodedRouter(t, Limits{})
	c := dialH2(t, ca, r.address)
	go func() { _, _ = io.Copy(io.Discard, c.conn) }()
	more := bytes.Clone(c.head(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("x", 8<<10)}))
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head(), EndStream: true})
	sent := 0
	for sent < 16<<20 && err == nil {
		err = c.framer.WriteContinuation(1, false, more)
		sent += len(more)
	}
	if err == nil {
		t.Errorf("%d bytes of a head were taken", sent)
	}
}

func TestLongHeadIsRefused(t *testing.T) {
	r, ca := floodedRouter(t, Limits{HeaderBytes: 16 << 10})
	for _, alpn := range []string{"h2", "http/1.1"} {
		client := ca.client(r.address)
		tr, _ := client.Transport.(*http.Transport)
		tr.TLSClientConfig.NextProtos, tr.ForceAttemptHTTP2 = []string{alpn}, alpn == "h2"
		req, err := http.NewRequest(http.MethodGet, "https://shop.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", 40<<10))
		res, err := client.Do(req)
		if err != nil {
			if alpn != "h2" { // its client keeps to the size that the router announces
				t.Errorf("%s: %v", alpn, err)
			}
			continue
		}
		res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: %s", alpn, res.Status)
		}
	}
}

// Whoever asks for answers and reads none is cut off, not remembered.
func TestPingFloodEnds(t *testing.T) {
	r, ca := floodedRouter(t, Limits{})
	c := dialH2(t, ca, r.address)
	flood := bytes.Repeat([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 1000)
	var err error
	for sent := 0; err == nil && sent < 64<<20; sent += len(flood) {
		_, err = c.conn.Write(flood)
	}
	if err == nil {
		t.Fatal("64 MB of pings were taken without one answer having been read")
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("the connection still stands: %v", err)
	}
}
