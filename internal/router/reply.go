package router

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"
)

// reply is the http.ResponseWriter of the long way: it writes an answer as
// HTTP/1.1. Unlike net/http's it guesses nothing: an answer without
// Content-Length is chunked.
type reply struct {
	c      *conn1
	in     *clientStream
	method string
	minor  int
	header http.Header

	mu       sync.Mutex // guards begun, for sayContinue
	begun    bool       // the head has been made
	chunked  bool
	bodiless bool
	left     int64 // of what Content-Length announced; -1: it did not
	trailers []string
	hijacked bool
	out      []byte // not written yet
	err      error
}

// maxHeld is how much of an answer is held back until it is flushed or ends.
const maxHeld = 8 << 10

// Header implements http.ResponseWriter.
func (o *reply) Header() http.Header { return o.header }

// sayContinue asks for the body, unless the answer has begun.
func (o *reply) sayContinue() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.begun {
		return false
	}
	_, err := io.WriteString(o.c.nc, "HTTP/1.1 100 Continue\r\n\r\n")
	return err == nil
}

// WriteHeader implements http.ResponseWriter.
func (o *reply) WriteHeader(status int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.begun {
		return
	}
	o.out = append(o.out, "HTTP/1.1 "+strconv.Itoa(status)+" "+refusalText(status)+"\r\n"...)
	if status < 200 {
		if o.minor == 0 {
			o.out = o.out[:0]
			return
		}
		o.out = append(appendFields(o.out, o.header, nil), '\r', '\n')
		o.flush()
		return
	}
	o.begun = true
	o.frame(status)
	o.out = append(o.out, '\r', '\n')
}

// frame decides how the body is framed, and appends the fields.
func (o *reply) frame(status int) {
	h := o.header
	o.bodiless = o.method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	for _, line := range h["Trailer"] {
		for name := range splitList(line) {
			o.trailers = append(o.trailers, textproto.CanonicalMIMEHeaderKey(name))
		}
	}
	if lengths := h["Content-Length"]; len(lengths) > 0 {
		if n, ok := parseLength([]byte(lengths[0])); ok && len(lengths) == 1 {
			o.left = n
		} else {
			delete(h, "Content-Length")
		}
	}
	if status == http.StatusNoContent {
		delete(h, "Content-Length")
	}
	delete(h, "Transfer-Encoding")
	if hasToken(h["Connection"], "close") {
		o.c.ends = true
	}
	delete(h, "Connection")
	switch {
	case o.bodiless || o.left >= 0:
	case o.minor == 0:
		o.c.ends = true
	default:
		o.chunked = true
	}
	if !o.chunked {
		delete(h, "Trailer")
	}
	if !o.in.ended.Load() && (o.in.expects.Load() || o.in.left.Load() > lingerBytes) || o.c.listener.clients.lastAnswers() {
		o.c.ends = true
	}
	o.out = appendFields(o.out, h, o.trailers)
	if _, ok := h["Date"]; !ok {
		o.out = append(o.out, "Date: "+time.Now().UTC().Format(http.TimeFormat)+"\r\n"...)
	}
	switch {
	case o.c.ends:
		o.out = append(o.out, "Connection: close\r\n"...)
	case o.minor == 0:
		o.out = append(o.out, "Connection: keep-alive\r\n"...)
	}
	if o.chunked {
		o.out = append(o.out, "Transfer-Encoding: chunked\r\n"...)
	}
	if len(h["Upgrade"]) > 0 {
		o.out = append(o.out, "Connection: Upgrade\r\n"...)
	}
}

// appendFields appends the fields of h that are fields, without those that
// belong into the trailer.
func appendFields(b []byte, h http.Header, trailers []string) []byte {
	for key, values := range h {
		if strings.HasPrefix(key, http.TrailerPrefix) || !isToken(key) || (contains(trailers, key) && key != "Trailer") {
			continue
		}
		for _, v := range values {
			b = appendSafe(b, key, v)
		}
	}
	return b
}

// appendSafe appends a field, unless its value would be more than one line.
func appendSafe(b []byte, key, value string) []byte {
	for i := range len(value) {
		if !valueBytes[value[i]] {
			return b
		}
	}
	return appendField(b, []byte(key), []byte(value))
}

// Write implements http.ResponseWriter.
func (o *reply) Write(p []byte) (int, error) {
	if !o.begun {
		o.WriteHeader(http.StatusOK)
	}
	switch {
	case o.err != nil:
		return 0, o.err
	case o.bodiless || len(p) == 0:
		return len(p), nil
	case o.left >= 0 && int64(len(p)) > o.left:
		return 0, http.ErrContentLength
	case o.left >= 0:
		o.left -= int64(len(p))
	}
	if !o.chunked {
		o.out = append(o.out, p...)
	} else {
		o.out = frame(o.out, p)
	}
	if len(o.out) >= maxHeld {
		o.flush()
	}
	if o.err != nil {
		return 0, o.err
	}
	return len(p), nil
}

// FlushError implements what http.ResponseController asks for.
func (o *reply) FlushError() error {
	if !o.begun {
		o.WriteHeader(http.StatusOK)
	}
	o.flush()
	return o.err
}

func (o *reply) flush() {
	if o.err == nil && len(o.out) > 0 {
		_, o.err = o.c.nc.Write(o.out)
	}
	o.out = o.out[:0]
}

// finish ends the answer. It reports whether all of it was written.
func (o *reply) finish() bool {
	if !o.begun {
		o.WriteHeader(http.StatusOK)
	}
	if o.chunked {
		o.out = append(o.out, "0\r\n"...)
		for key, values := range o.header {
			name, late := strings.CutPrefix(key, http.TrailerPrefix)
			if !late && !contains(o.trailers, key) || !isToken(name) || kindOf([]byte(name)) != plainField {
				continue
			}
			for _, v := range values {
				o.out = appendSafe(o.out, name, v)
			}
		}
		o.out = append(o.out, '\r', '\n')
	}
	o.flush()
	return o.err == nil && (o.bodiless || o.left <= 0)
}

// Hijack implements http.Hijacker. The connection is the caller's from then on.
func (o *reply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.c.work
	o.begun, o.hijacked = true, true
	_ = o.c.nc.SetReadDeadline(time.Time{})
	ahead := bytes.Clone(w.in[w.r:w.w])
	w.r = w.w
	br := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(ahead), o.c.nc), max(16, len(ahead)))
	if len(ahead) > 0 {
		if _, err := br.Peek(len(ahead)); err != nil {
			return nil, nil, err
		}
	}
	return o.c.nc, bufio.NewReadWriter(br, bufio.NewWriterSize(o.c.nc, 16)), nil
}
