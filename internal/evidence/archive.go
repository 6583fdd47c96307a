package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"kiln/internal/engine"
	"kiln/internal/model"
)

const (
	// formatVersion is that of the archives this program writes.
	formatVersion = 1
	// maxChanges bounds how many changed paths an archive lists.
	maxChanges = 20_000
	// maxContent bounds what is unpacked from an archive: far more than any
	// that was written here.
	maxContent = 64 << 20
)

// Content is what an archive holds, as JSON. What a server was given in its
// environment is not part of it, and neither are its files' contents.
type Content struct {
	Version int               `json:"version"`
	Record  model.DeathRecord `json:"record"`
	// Taken says when evidence was collected: "alive", "dead" or both. What
	// only a live server shows (processes, sockets) is from then; the rest is
	// from after its end, where that could be had.
	Taken []string `json:"taken"`
	engine.Evidence
}

// merge makes one of what was collected before the end and after it. Either
// may be nil.
func merge(record model.DeathRecord, alive, dead *engine.Evidence) Content {
	c := Content{Version: formatVersion, Record: record, Taken: []string{}}
	if alive != nil {
		c.Taken = append(c.Taken, "alive")
		c.Evidence = *alive
		c.Missing = nil
		c.miss("before its end: ", alive.Missing)
	}
	if dead != nil {
		c.Taken = append(c.Taken, "dead")
		c.Observed = dead.Observed
		c.Log = longer(dead.Log, c.Log)
		c.Changes = longer(dead.Changes, c.Changes)
		c.Processes = longer(c.Processes, dead.Processes)
		c.Listening = longer(c.Listening, dead.Listening)
		if c.Stats == nil {
			c.Stats = dead.Stats
		}
		c.miss("after its end: ", dead.Missing)
	}
	if n := len(c.Changes); n > maxChanges {
		c.Changes = c.Changes[:maxChanges]
		c.miss("", []string{fmt.Sprintf("%d of %d changed paths", n-maxChanges, n)})
	}
	return c
}

func (c *Content) miss(when string, what []string) {
	for _, m := range what {
		c.Missing = append(c.Missing, when+m)
	}
}

// longer returns a, or b where a is empty.
func longer[T any](a, b []T) []T {
	if len(a) > 0 {
		return a
	}
	return b
}

// pack returns the archive of the content and its digest.
func pack(c Content) ([]byte, string, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, "", err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, "", err
	}
	defer encoder.Close()
	packed := encoder.EncodeAll(plain, nil)
	return packed, digestOf(packed), nil
}

// unpack returns the content of an archive as it was written.
func unpack(packed []byte) (json.RawMessage, error) {
	decoder, err := zstd.NewReader(bytes.NewReader(nil), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxContent))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	return decoder.DecodeAll(packed, nil)
}

func digestOf(packed []byte) string {
	sum := sha256.Sum256(packed)
	return "sha256:" + hex.EncodeToString(sum[:])
}

const suffix = ".json.zst"

func fileName(digest string) string { return strings.TrimPrefix(digest, "sha256:") + suffix }

// digestIn returns the digest that a file of this name has, "" if it is not
// the name of an archive.
func digestIn(name string) string {
	digest := "sha256:" + strings.TrimSuffix(name, suffix)
	if !strings.HasSuffix(name, suffix) || !model.ValidDigest(digest) {
		return ""
	}
	return digest
}
