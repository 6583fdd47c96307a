package router

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// closeWait is how long the other end may take to answer a polite close.
const closeWait = 5 * time.Second

// lastWordLimit is how long a close may take to be written that comes with the
// cut: nothing, as long as the end reads.
const lastWordLimit = 5 * time.Millisecond

// serviceRestart is the close code that tells a client to come back soon.
const serviceRestart = 1012

// webSocket is an open websocket through the router. It passes bytes on, and
// follows the frames only to know where one ends: there a close can be put in.
type webSocket struct {
	toServer, toClient flow
}

// newWebSocket joins the two ends.
func newWebSocket(client net.Conn, fromClient io.Reader, server net.Conn, fromServer io.Reader) *webSocket {
	t := &webSocket{}
	t.toServer = flow{src: fromClient, from: client, dst: server, goodbye: closeFrame(true)}
	t.toClient = flow{src: fromServer, from: server, dst: client, goodbye: closeFrame(false)}
	return t
}

// run passes frames on until both directions have ended.
func (t *webSocket) run() {
	var wg sync.WaitGroup
	wg.Go(func() { t.toServer.run() })
	t.toClient.run()
	wg.Wait()
}

// beginClose tells both ends, each at its next frame boundary, that the
// service restarts. It does not wait.
func (t *webSocket) beginClose() {
	for _, f := range []*flow{&t.toServer, &t.toClient} {
		if f.closing.CompareAndSwap(false, true) {
			// Not under the caller's locks: an end that reads slowly would
			// hold them.
			go f.sayGoodbye()
		}
	}
}

// lastWord tells both ends that the service restarts, right before they are cut,
// where that was not said before and is possible at once. It hardly waits.
func (t *webSocket) lastWord() {
	for _, f := range []*flow{&t.toServer, &t.toClient} {
		if !f.mu.TryLock() {
			continue // a frame is being written: no other may begin
		}
		if !f.said && f.frames.boundary() {
			f.said = true
			_ = f.dst.SetWriteDeadline(time.Now().Add(lastWordLimit))
			if n, err := f.dst.Write(f.goodbye); err == nil {
				f.passed.Add(int64(n))
			}
		}
		f.mu.Unlock()
	}
}

// flow is one direction of a websocket.
type flow struct {
	src     io.Reader
	from    net.Conn // below src
	dst     net.Conn
	goodbye []byte
	passed  atomic.Int64
	closing atomic.Bool // a polite close was asked for

	mu     sync.Mutex
	frames frames
	said   bool // a close frame has gone out: nothing may follow it
}

// run passes frames on until there are none left, then ends the direction.
func (f *flow) run() {
	p, _ := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	var err error
	for err == nil {
		var n int
		n, err = f.src.Read(*p)
		if n > 0 {
			if werr := f.pass((*p)[:n]); werr != nil {
				err = werr
			}
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// It was cut, or an answer to a close did not come: no more waiting.
		_ = f.dst.SetDeadline(past)
		return
	}
	// This side has no more to say. The other gets as long as an answer to a
	// close takes, in both directions.
	closeWrite(f.dst)
	_ = f.dst.SetReadDeadline(time.Now().Add(closeWait))
}

var errClosed = errors.New("closed")

// pass passes p on. It returns an error when nothing more is to be passed.
func (f *flow) pass(p []byte) error {
	f.mu.Lock()
	err := f.passLocked(p)
	f.mu.Unlock()
	if err == nil && f.closing.Load() {
		// beginClose may have come while the lock was held.
		f.sayGoodbye()
	}
	return err
}

func (f *flow) passLocked(p []byte) error {
	for len(p) > 0 {
		if f.closing.Load() && f.frames.boundary() {
			f.sayGoodbyeLocked()
		}
		n := len(p)
		if f.closing.Load() || f.said {
			n = f.frames.advance(p) // not past the end of this frame
		} else {
			for at := 0; at < n; {
				at += f.frames.advance(p[at:])
			}
		}
		if !f.said {
			if _, err := f.dst.Write(p[:n]); err != nil {
				return err
			}
			f.passed.Add(int64(n))
		}
		if f.frames.boundary() && f.frames.closed {
			// Its close: either the answer to ours, or its own wish. Nothing
			// follows a close frame.
			if f.said {
				return errClosed
			}
			f.said = true
		}
		p = p[n:]
	}
	return nil
}

// sayGoodbye puts the close in if the direction is between two frames. If not,
// pass does it when the frame has ended.
func (f *flow) sayGoodbye() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frames.boundary() {
		f.sayGoodbyeLocked()
	}
}

func (f *flow) sayGoodbyeLocked() {
	if f.said {
		return
	}
	f.said = true
	_ = f.dst.SetWriteDeadline(time.Now().Add(closeWait))
	if _, err := f.dst.Write(f.goodbye); err != nil {
		_ = f.dst.SetReadDeadline(past)
		return
	}
	f.passed.Add(int64(len(f.goodbye)))
	// The answer comes from where the close went.
	_ = f.dst.SetReadDeadline(time.Now().Add(closeWait))
}

// frames follows the frames of one direction (RFC 6455, 5.2).
type frames struct {
	head   [14]byte
	have   int
	left   uint64 // of the payload
	closed bool   // the last frame that began is a close
}

// boundary reports whether a frame has just ended, and none begun.
func (f *frames) boundary() bool { return f.have == 0 && f.left == 0 }

// advance consumes p up to the end of the current frame at most.
func (f *frames) advance(p []byte) (n int) {
	for f.left == 0 {
		if n == len(p) {
			return n
		}
		f.head[f.have] = p[n]
		f.have++
		n++
		if f.have == f.headLen() {
			f.closed = f.head[0]&0x0f == 8
			f.left = f.payloadLen()
			f.have = 0
			if f.left == 0 {
				return n
			}
		}
	}
	k := min(uint64(len(p)-n), f.left)
	f.left -= k
	return n + int(k)
}

// headLen returns the length of the head, as far as it is known.
func (f *frames) headLen() int {
	if f.have < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

func (f *frames) payloadLen() uint64 {
	switch n := f.head[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		return binary.BigEndian.Uint64(f.head[2:]) &^ (1 << 63)
	default:
		return uint64(n)
	}
}

// closeFrame returns a close frame with code 1012; a client's must be masked.
func closeFrame(masked bool) []byte {
	const reason = "service restart"
	payload := binary.BigEndian.AppendUint16(nil, serviceRestart)
	payload = append(payload, reason...)
	frame := []byte{0x88, byte(len(payload))}
	if !masked {
		return append(frame, payload...)
	}
	frame[1] |= 0x80
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails
	frame = append(frame, key[:]...)
	for i, b := range payload {
		frame = append(frame, b^key[i&3])
	}
	return frame
}

// closeWrite ends the sending direction of a connection that can do so.
func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}
