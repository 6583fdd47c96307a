package router

import (
	"bytes"
	"errors"
)

// chunks follows a chunked body (RFC 9112, 7.1) as its bytes come, without
// leniency: sizes are hexadecimal digits and nothing else, lines end with CR LF.
type chunks struct {
	state   chunkState
	digits  int
	left    int64 // of the chunk's data
	extra   int   // bytes of extensions so far
	trailer []byte
	line    int // bytes of the trailer's line so far
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkTrailerLF
	chunksDone
)

// Limits on what is not data.
const (
	maxChunkDigits    = 15
	maxChunkExtension = 4 << 10 // of all chunks of a body
	maxTrailerBytes   = 8 << 10
	maxTrailerFields  = 32
)

// errChunks says that a body cannot be read in one way only.
var errChunks = errors.New("the body's chunks are malformed")

// decode takes p apart: the data it has moves to p's front. It returns how
// much data there is and how much of p belongs to the body; less than all only
// when the body has ended.
func (d *chunks) decode(p []byte) (data, used int, err error) {
	for used < len(p) && d.state != chunksDone {
		if d.state == chunkData {
			n := int(min(d.left, int64(len(p)-used)))
			copy(p[data:], p[used:used+n])
			data, used = data+n, used+n
			if d.left -= int64(n); d.left == 0 {
				d.state = chunkDataCR
			}
			continue
		}
		if !d.step(p[used]) {
			return data, used, errChunks
		}
		used++
	}
	return data, used, nil
}

// done reports whether the body has ended.
func (d *chunks) done() bool { return d.state == chunksDone }

// step takes one byte that is not data.
func (d *chunks) step(c byte) bool {
	switch d.state {
	case chunkSize:
		return d.size(c)
	case chunkExtension:
		if c == '\r' {
			d.state = chunkSizeLF
			return true
		}
		d.extra++
		return valueBytes[c] && d.extra <= maxChunkExtension
	case chunkSizeLF:
		d.state, d.digits = chunkData, 0
		if d.left == 0 {
			d.state = chunkTrailer
		}
		return c == '\n'
	case chunkDataCR:
		d.state = chunkDataLF
		return c == '\r'
	case chunkDataLF:
		d.state = chunkSize
		return c == '\n'
	case chunkTrailer, chunkTrailerLF:
		return d.trailerByte(c)
	case chunkData, chunksDone:
	}
	return false
}

func (d *chunks) size(c byte) bool {
	switch {
	case hexBytes[c]:
		d.digits++
		d.left = d.left<<4 | int64(hexValue(c))
		return d.digits <= maxChunkDigits
	case d.digits == 0:
		return false
	case c == ';':
		d.state = chunkExtension
		return true
	case c == '\r':
		d.state = chunkSizeLF
		return true
	}
	return false
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

func (d *chunks) trailerByte(c byte) bool {
	if len(d.trailer) == maxTrailerBytes {
		return false
	}
	d.trailer = append(d.trailer, c)
	switch {
	case d.state == chunkTrailer && c == '\r':
		d.state = chunkTrailerLF
		return true
	case d.state == chunkTrailer:
		d.line++
		return c != '\n'
	case c != '\n':
		return false
	}
	d.state = chunkTrailer
	if d.line == 0 {
		d.state = chunksDone
	}
	d.line = 0
	return true
}

// fields takes the trailer apart, once the body has ended. What says how a
// message is framed or where it goes must not come so late (RFC 9110, 6.5.1),
// and is left out.
func (d *chunks) fields() ([]field, error) {
	if len(d.trailer) <= 2 {
		return nil, nil
	}
	var h head
	if r := h.lines(d.trailer[:len(d.trailer)-2], maxTrailerFields); r != nil {
		return nil, errChunks
	}
	kept := h.fields[:0]
	for _, f := range h.fields {
		if kindOf(f.name) == plainField {
			kept = append(kept, f)
		}
	}
	return kept, nil
}

// appendTrailer appends the last chunk and the trailer.
func (d *chunks) appendTrailer(b []byte) ([]byte, error) {
	b = append(b, "0\r\n"...)
	fields, err := d.fields()
	for _, f := range fields {
		b = appendField(b, f.name, f.value)
	}
	return append(b, '\r', '\n'), err
}

func appendField(b, name, value []byte) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// isPreface reports whether b, in full or so far, is what HTTP/2 begins with.
func isPreface(b []byte) bool {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	return len(b) > 0 && bytes.HasPrefix([]byte(preface), b[:min(len(b), len(preface))])
}
