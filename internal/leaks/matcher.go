package leaks

import (
	"bytes"
	"encoding/binary"
)

// matcher finds where any of many literals is, in one pass that looks at two
// bytes of every three. Of each literal it takes the rarest four bytes, the anchor:
// wherever these are, one of the three pairs in them begins at a multiple of three,
// and the pairs that are not in any anchor, nearly all, are passed over.
type matcher struct {
	pairs    [1 << 10]uint64  // a bit for each pair of bytes that is in an anchor
	literals map[uint16][]hop // by pair
}

// hop says which literal a pair may be in, and how far behind its beginning.
type hop struct {
	literal []byte
	id      int // of the literal, as add was told
	offset  int
}

const anchorLength = 4

func newMatcher() *matcher { return &matcher{literals: map[uint16][]hop{}} }

// add makes the matcher look for a literal, of four bytes at least.
func (m *matcher) add(literal string, id int) {
	at := anchor(literal)
	for offset := at; offset < at+anchorLength-1; offset++ {
		pair := binary.LittleEndian.Uint16([]byte(literal[offset:]))
		m.pairs[pair>>6] |= 1 << (pair & 63)
		m.literals[pair] = append(m.literals[pair], hop{[]byte(literal), id, offset})
	}
}

// anchor returns where the four bytes of a literal begin that text has least often,
// as well as can be said by what kind of characters they are.
func anchor(literal string) int {
	best, least := 0, 1<<30
	for i := 0; i+anchorLength <= len(literal); i++ {
		often := 0
		for j := i; j < i+anchorLength-1; j++ {
			often += commonness(literal[j], literal[j+1])
		}
		if often < least {
			best, least = i, often
		}
	}
	return best
}

func commonness(a, b byte) int {
	lower := func(c byte) bool { return 'a' <= c && c <= 'z' }
	upper := func(c byte) bool { return 'A' <= c && c <= 'Z' }
	switch {
	case a == b && !lower(a) && !upper(a): // rulers: -----, _____
		return 30
	case lower(a) && lower(b):
		return 10
	case a == ' ' || b == ' ':
		return 8
	case upper(a) && upper(b):
		return 4
	}
	return 2
}

// find calls met for each literal in data, with the place of its beginning; not in
// their order.
func (m *matcher) find(data []byte, met func(id, at int)) {
	for i := 0; i+1 < len(data); i += 3 {
		pair := binary.LittleEndian.Uint16(data[i:])
		if m.pairs[pair>>6]&(1<<(pair&63)) != 0 {
			m.look(data, i, pair, met)
		}
	}
}

func (m *matcher) look(data []byte, i int, pair uint16, met func(id, at int)) {
	for _, h := range m.literals[pair] {
		at := i - h.offset
		if at < 0 || at+len(h.literal) > len(data) || !bytes.Equal(data[at:at+len(h.literal)], h.literal) {
			continue
		}
		met(h.id, at)
	}
}
