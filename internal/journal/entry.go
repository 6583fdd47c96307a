package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"kiln/internal/model"
)

// Hash is a link of the chain: SHA-256(previous hash ‖ stored bytes).
type Hash [sha256.Size]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("a hash has %d hexadecimal digits, not %d", hex.EncodedLen(len(h)), len(text))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// link returns the hash of an event that follows the one with hash prev.
func link(prev Hash, raw []byte) Hash {
	d := sha256.New()
	d.Write(prev[:])
	d.Write(raw)
	var h Hash
	d.Sum(h[:0])
	return h
}

// Entry is an event as the journal holds it.
type Entry struct {
	Event model.Event `json:"event"`
	Hash  Hash        `json:"hash"`
	Raw   []byte      `json:"-"` // the stored bytes, which Hash covers
}

// Head names the end of a journal. The zero Head is that of an empty one.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

// Mark is an event's place in the chain and in time.
type Mark struct {
	Head
	At time.Time `json:"at,omitzero"`
}
