package router

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// respond passes a server's answer on to the client. more reports whether more
// of the body is at hand without waiting: then nothing needs to be flushed.
func (c *call) respond(res *http.Response, more func() bool) *failure {
	defer res.Body.Close()
	h := c.w.Header()
	closing := h["Connection"] // set by the router itself
	named := hopNames(res.Header)
	for key, values := range res.Header {
		if isHop(key) || (named != nil && contains(named, key)) {
			continue
		}
		h[key] = values
	}
	if res.StatusCode == http.StatusUpgradeRequired && c.req.ProtoMajor == 1 && c.req.ProtoMinor > 0 {
		h["Upgrade"] = res.Header["Upgrade"]
	}
	if closing != nil {
		h["Connection"] = closing
	}
	c.tellPlace(h)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // net/http shall not guess
	}
	announced := len(res.Trailer)
	for key := range res.Trailer {
		h["Trailer"] = append(h["Trailer"], key)
	}
	live := c.classify(res)
	c.status = res.StatusCode
	c.clientBreaker.trip = func() { _ = c.rc.SetWriteDeadline(past) }
	c.breakable(&c.toClient, &c.clientBreaker)
	defer c.toClient.Store(nil)
	if c.req.ProtoMajor == 2 {
		c.stall = newStall(c.router.limits.stall(), c.clientBreaker.trip)
		defer c.stall.end()
	}
	c.w.WriteHeader(res.StatusCode)
	if live {
		_ = c.flush()
	}
	if err := c.copyBody(res.Body, live, more); err != nil {
		return err
	}
	c.trailers(res, announced)
	if c.stall != nil && c.bytesOut > 0 {
		_ = c.flush() // what net/http would send after the stall has ended
	}
	return nil
}

// classify says whether the answer has to be passed on as it comes, and moves
// the exchange to its drain class.
func (c *call) classify(res *http.Response) (live bool) {
	if ct := res.Header["Content-Type"]; len(ct) == 1 {
		if strings.HasPrefix(ct[0], "text/event-stream") || strings.HasPrefix(ct[0], "application/grpc") {
			c.become(classStream)
			return true
		}
	}
	return res.ContentLength < 0
}

// copyBody copies the answer's body.
func (c *call) copyBody(src io.Reader, live bool, more func() bool) *failure {
	if src == http.NoBody {
		return nil
	}
	p, _ := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	for {
		n, err := src.Read((*p)[:32<<10])
		if n > 0 {
			w, werr := c.write((*p)[:n])
			c.bytesOut += int64(w)
			if werr != nil {
				return &failure{err: werr, begun: true, client: true}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &failure{err: err, begun: true}
		}
		if live && !more() {
			if err := c.flush(); err != nil {
				return &failure{err: err, begun: true, client: true}
			}
		}
	}
}

// write writes some of the body.
func (c *call) write(p []byte) (n int, err error) {
	if c.stall == nil {
		return c.w.Write(p)
	}
	const piece = 4 << 10 // what net/http buffers of a stream
	for n < len(p) && err == nil {
		var w int
		c.stall.during(func() { w, err = c.w.Write(p[n:min(len(p), n+piece)]) })
		n += w
	}
	return n, err
}

// flush sends what was written.
func (c *call) flush() (err error) {
	if c.stall == nil {
		return c.rc.Flush()
	}
	c.stall.during(func() { err = c.rc.Flush() })
	return err
}

// trailers passes on what came after the body. Those that were not announced
// need net/http's prefix.
func (c *call) trailers(res *http.Response, announced int) {
	if len(res.Trailer) == 0 {
		return
	}
	h := c.w.Header()
	_ = c.flush() // a body that fits the buffer would be sent with its length, without room for trailers
	for key, values := range res.Trailer {
		if len(res.Trailer) != announced {
			key = http.TrailerPrefix + key
		}
		h[key] = values
	}
}

// interim passes a 103 on; 100 and 102 are about this connection.
func (c *call) interim(res *http.Response) {
	if res.StatusCode != http.StatusEarlyHints {
		return
	}
	h := c.w.Header()
	for key, values := range res.Header {
		if !isHop(key) {
			h[key] = values
		}
	}
	c.w.WriteHeader(res.StatusCode)
	clear(h)
}
