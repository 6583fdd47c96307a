package router

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"sync/atomic"
	"time"
)

// longWay serves the request as net/http would: with an http.Request and an
// http.ResponseWriter, by the code that serves HTTP/2 as well. failed is why
// the short way did not succeed, if it was tried. It reports whether request and
// answer have passed whole.
func (c *conn1) longWay(failed *failure) (again bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.cancel.Store(&breaker{trip: cancel})
	defer c.cancel.Store(nil)
	if c.gone() {
		cancel()
	}
	req, in, err := c.httpRequest(ctx)
	if err != nil {
		c.refuse(bad("the target is no URL"))
		return false
	}
	out := &reply{c: c, in: in, method: req.Method, minor: c.work.req.minor, header: http.Header{}, left: -1}
	in.out = out
	// The lines of the head are in the buffer that the body is read into; what
	// a split asks for is in the request from here on.
	c.armedFor = 0
	whole := c.run(out, req, failed)
	c.straggler = !in.ended.Load()
	if out.hijacked || !whole {
		return false
	}
	if !in.ended.Load() || in.expects.Load() {
		c.linger()
		return false
	}
	return !c.x.wasCut.Load()
}

// run answers the request, and reports whether the whole answer was written.
func (c *conn1) run(out *reply, req *http.Request, failed *failure) (whole bool) {
	defer func() {
		if v := recover(); v != nil {
			whole = false
			if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				c.router.log.Error("request ended by a panic", "panic", v)
			}
		}
	}()
	k := c.listener.newCall(&c.x, out, req)
	defer k.record()
	if failed == nil {
		c.listener.answer(k)
	} else {
		w := c.work
		k.body.buffered = w.in[w.r : w.r+int(max(0, w.req.length))]
		w.r += len(k.body.buffered)
		out.in.left.Store(0)
		out.in.ended.Store(true)
		k.bytesIn.Store(int64(len(k.body.buffered)))
		c.listener.answerAfter(k, failed)
	}
	return out.hijacked || out.finish()
}

// httpRequest returns the request as net/http has it.
func (c *conn1) httpRequest(ctx context.Context) (*http.Request, *clientStream, error) {
	h := &c.work.req
	req := (&http.Request{
		Method: h.method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: h.minor,
		Header: make(http.Header, len(h.fields)), Host: string(h.host), Close: c.ends,
		RemoteAddr: c.nc.RemoteAddr().String(), RequestURI: string(h.origin), TLS: c.secure,
		ContentLength: max(0, h.length),
	}).WithContext(ctx)
	in := &clientStream{c: c, work: c.work, chunked: h.chunked}
	in.left.Store(max(0, h.length))
	in.expects.Store(h.expects)
	if h.minor == 0 {
		req.Proto = "HTTP/1.0"
		in.expects.Store(false)
	}
	var err error
	switch {
	case h.method == http.MethodConnect:
		req.URL, req.RequestURI = &url.URL{Host: string(h.target)}, string(h.target)
	case req.RequestURI == "*":
		req.URL = &url.URL{Path: "*"}
	default:
		req.URL, err = url.ParseRequestURI(req.RequestURI)
	}
	for i := range h.fields {
		f := &h.fields[i]
		key := textproto.CanonicalMIMEHeaderKey(string(f.name))
		switch f.kind {
		case hostField, encodingField, droppedHere:
		case trailerField:
			announce(req, string(f.value))
		default:
			req.Header[key] = append(req.Header[key], string(f.value))
		}
	}
	switch {
	case h.chunked:
		req.ContentLength, req.TransferEncoding = -1, []string{"chunked"}
		in.trailer = req.Trailer
		req.Body = in
	case h.length > 0:
		req.Body = in
	default:
		in.ended.Store(true)
		in.expects.Store(false)
		req.Body = http.NoBody
	}
	return req, in, err
}

// announce notes which fields a trailer will have.
func announce(req *http.Request, value string) {
	if req.Trailer == nil {
		req.Trailer = http.Header{}
	}
	for name := range splitList(value) {
		if key := textproto.CanonicalMIMEHeaderKey(name); kindOf([]byte(key)) == plainField && isToken(key) {
			req.Trailer[key] = nil
		}
	}
}

// clientStream is the body of a request, read from the client's connection. An
// HTTP/2 server's body is sent by another goroutine than the one that answers,
// which looks at how far the reading has come: once ended is set, nobody reads
// here any more.
type clientStream struct {
	c       *conn1
	work    *work
	out     *reply
	left    atomic.Int64 // of a body of known length
	chunked bool
	chunks  chunks
	trailer http.Header // filled at the end, where it was announced
	expects atomic.Bool // the client waits to be told to go on
	ended   atomic.Bool // all of it was read
}

// Read implements io.Reader.
func (s *clientStream) Read(p []byte) (int, error) {
	if s.ended.Load() {
		return 0, io.EOF
	}
	if s.expects.CompareAndSwap(true, false) {
		if !s.out.sayContinue() {
			return 0, http.ErrBodyReadAfterClose
		}
	}
	if s.chunked {
		return s.readChunks(p)
	}
	p = p[:min(int64(len(p)), s.left.Load())]
	var n int
	var err error
	if w := s.work; w.r < w.w {
		n = copy(p, w.in[w.r:w.w])
		w.r += n
	} else {
		n, err = s.c.nc.Read(p)
	}
	switch {
	case s.left.Add(-int64(n)) == 0:
		s.ended.Store(true)
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *clientStream) readChunks(p []byte) (int, error) {
	w := s.work
	for {
		if w.r == w.w {
			n, err := s.c.nc.Read(w.in)
			w.r, w.w = 0, n
			if n == 0 && err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return 0, err
			}
		}
		part := w.in[w.r:min(w.w, w.r+len(p))]
		n, used, err := s.chunks.decode(part)
		copy(p, part[:n])
		w.r += used
		if err != nil {
			return n, err
		}
		if s.chunks.done() {
			err := s.endTrailer()
			s.ended.Store(true)
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// endTrailer fills the trailer in and returns io.EOF.
func (s *clientStream) endTrailer() error {
	fields, err := s.chunks.fields()
	if err != nil {
		return err
	}
	for _, f := range fields {
		key := textproto.CanonicalMIMEHeaderKey(string(f.name))
		if _, announced := s.trailer[key]; announced {
			s.trailer[key] = append(s.trailer[key], string(f.value))
		}
	}
	return io.EOF
}

// Close implements io.Closer.
func (s *clientStream) Close() error { return nil }

// SetReadDeadline sets the deadline of the client's connection.
func (o *reply) SetReadDeadline(t time.Time) error { return o.c.nc.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of the client's connection.
func (o *reply) SetWriteDeadline(t time.Time) error { return o.c.nc.SetWriteDeadline(t) }
