package router

import (
	"errors"
	"io"
)

// respond passes the answer whose head was read on to the client, as it comes:
// nothing that has arrived waits for what has not.
func (a *answer) respond(conn *h1Conn) *failure {
	c, w := a.c, a.c.work
	h := &w.res
	rest := w.ans[a.end:a.have]
	a.status = h.status
	out := a.appendAnswer(w.out[:0])
	defer func() { w.out = out }()
	c.x.breakable(&c.x.toClient, &c.toClient)
	switch {
	case h.bodiless(w.req.method):
		a.excess, a.last = len(rest) > 0, out
		return nil
	case h.chunked:
		data, used, err := a.chunks.decode(rest)
		if err != nil {
			return &failure{err: err} // nothing of it has been passed on
		}
		a.excess = used < len(rest)
		if out, err = a.appendChunk(out, rest[:data]); err != nil {
			return &failure{err: err}
		}
		if a.chunks.done() {
			a.last, a.sent = out, int64(data)
			return nil
		}
		if f := a.write(out, data); f != nil {
			return f
		}
		return a.relayChunks(conn)
	case h.length >= 0:
		if int64(len(rest)) > h.length {
			a.excess, rest = true, rest[:h.length]
		}
		out = append(out, rest...)
		if int64(len(rest)) == h.length {
			a.last, a.sent = out, h.length
			return nil
		}
		if f := a.write(out, len(rest)); f != nil {
			return f
		}
		return a.relayLength(conn, h.length-int64(len(rest)))
	}
	h.closes = true // the server's closing is what ends it
	out = frame(out, rest)
	if f := a.write(out, len(rest)); f != nil {
		return f
	}
	return a.relayUntilClose(conn)
}

// write writes b, in which there are so many bytes of the body.
func (a *answer) write(b []byte, body int) *failure {
	if _, err := a.c.nc.Write(b); err != nil {
		return &failure{err: err, begun: true, client: true}
	}
	a.sent += int64(body)
	return nil
}

// broken is the failure when the answer ends before its end.
func broken(err error) *failure {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &failure{err: err, begun: true}
}

// relayLength passes on what is left of a body of known length.
func (a *answer) relayLength(conn *h1Conn, left int64) *failure {
	if left == 0 {
		return nil
	}
	p, _ := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	for left > 0 {
		n, err := conn.Conn.Read((*p)[:min(left, int64(len(*p)))])
		if n > 0 {
			if f := a.write((*p)[:n], n); f != nil {
				return f
			}
			left -= int64(n)
		}
		if err != nil && left > 0 {
			return broken(err)
		}
	}
	return nil
}

// Room in a buffer in front of a chunk's data, and behind it.
const (
	chunkRoom = 8
	chunkTail = 2
)

// relayChunks passes on what is left of a chunked body, framed anew: each read
// is one chunk, whatever the server's were.
func (a *answer) relayChunks(conn *h1Conn) *failure {
	p, _ := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	buf := *p
	for !a.chunks.done() {
		n, err := conn.Conn.Read(buf[chunkRoom : len(buf)-chunkTail])
		if n == 0 && err != nil {
			return broken(err)
		}
		data, used, err := a.chunks.decode(buf[chunkRoom : chunkRoom+n])
		if err != nil {
			return broken(err)
		}
		a.excess = used < n
		var out []byte
		if data > 0 {
			out = frameChunk(buf, chunkRoom, data)
		}
		if a.chunks.done() {
			if out, err = a.chunks.appendTrailer(out); err != nil {
				return broken(err)
			}
		}
		if len(out) == 0 {
			continue
		}
		if f := a.write(out, data); f != nil {
			return f
		}
	}
	return nil
}

// relayUntilClose passes on a body that ends with the server's connection.
func (a *answer) relayUntilClose(conn *h1Conn) *failure {
	p, _ := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	buf := *p
	for {
		n, err := conn.Conn.Read(buf[chunkRoom : len(buf)-chunkTail])
		if n > 0 {
			if f := a.write(frameChunk(buf, chunkRoom, n), n); f != nil {
				return f
			}
		}
		if errors.Is(err, io.EOF) {
			return a.write([]byte("0\r\n\r\n"), 0)
		}
		if err != nil {
			return broken(err)
		}
	}
}

// appendChunk appends data as a chunk, and the end of the body if it has come.
func (a *answer) appendChunk(b, data []byte) ([]byte, error) {
	b = frame(b, data)
	if !a.chunks.done() {
		return b, nil
	}
	return a.chunks.appendTrailer(b)
}

// frame appends data as a chunk; nothing if there is none.
func frame(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	const digits = "0123456789abcdef"
	shift := 0
	for len(data)>>(shift+4) > 0 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		b = append(b, digits[len(data)>>shift&15])
	}
	b = append(b, '\r', '\n')
	b = append(b, data...)
	return append(b, '\r', '\n')
}
