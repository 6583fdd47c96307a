package journal

import (
	"crypto/ed25519"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"kiln/internal/model"
)

// snapshot is the fold of a prefix of the journal, so that opening a long one
// is fast. It is used only if this very program made it (the fold may differ
// in another), the journal's key signed it, and the chain has its hash at its
// place. Otherwise the fold starts at the first event.
type snapshot struct {
	head  Head
	state *model.State
}

func snapshotMessage(head Head, build string, state []byte) []byte {
	return fmt.Appendf(nil, "kiln journal snapshot 1\n%d\n%s\n%s\n%x\n", head.Seq, head.Hash, build, sha256.Sum256(state))
}

func encodeSnapshot(key ed25519.PrivateKey, head Head, build string, state *model.State) (storedSnapshot, error) {
	b, err := json.Marshal(state)
	if err != nil {
		return storedSnapshot{}, err
	}
	return storedSnapshot{head: head, build: build, state: b, signature: ed25519.Sign(key, snapshotMessage(head, build, b))}, nil
}

// decodeSnapshot returns nil for a snapshot that must not be used.
func decodeSnapshot(key ed25519.PublicKey, build string, s storedSnapshot) *snapshot {
	if build == "" || s.build != build || !ed25519.Verify(key, snapshotMessage(s.head, s.build, s.state), s.signature) {
		return nil
	}
	state, err := decodeState(s.state)
	if err != nil || state.Seq != s.head.Seq {
		return nil
	}
	return &snapshot{head: s.head, state: state}
}

// buildID returns what names the running program's code: the id that the Go
// linker wrote. "" if it cannot be had.
func buildID() string {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	note := f.Section(".note.go.buildid")
	if note == nil {
		return ""
	}
	b, err := note.Data()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
