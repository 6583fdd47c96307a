package registry

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

// TestCopyBlob: a blob comes as it is, or it is said why not, however large it is.
func TestCopyBlob(t *testing.T) {
	w := newWorld(t)
	large := make([]byte, 3<<20)
	_, _ = rand.Read(large)
	for name, content := range map[string][]byte{"small": []byte("a blob"), "large": large} {
		d := w.blob("shop", content).Digest
		var got bytes.Buffer
		if err := w.registry.CopyBlob(t.Context(), "shop", model.Digest(d), &got); err != nil || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
		if err := w.registry.CopyBlob(t.Context(), "other", model.Digest(d), io.Discard); model.CodeOf(err) != model.NotFound {
			t.Errorf("%s of another repository: %v", name, err)
		}
		if err := w.registry.CopyBlob(t.Context(), "shop", model.Digest(d), broken{}); model.CodeOf(err) != model.Unavailable || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s to who has gone: %v", name, err)
		}
		w.damage(d)
		got.Reset()
		if err := w.registry.CopyBlob(t.Context(), "shop", model.Digest(d), &got); model.CodeOf(err) != model.Precondition || got.Len() >= len(content) {
			t.Errorf("%s, damaged: %d bytes, %v", name, got.Len(), err)
		}
	}
	if err := w.registry.CopyBlob(t.Context(), "shop", model.Digest(digest.FromString("never seen")), io.Discard); model.CodeOf(err) != model.NotFound {
		t.Errorf("one that is not there: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
