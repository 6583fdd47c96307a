package image_test

import (
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"

	"kiln/internal/image"
	"kiln/internal/image/imagetest"
	"kiln/internal/model"
)

// testNotWhole: a part that is missing is the store's trouble, not that of whoever
// has named the image.
func testNotWhole(t *testing.T, m *imagetest.Machine, s *image.Store) {
	img := bring(t, s, rootfs(t), "base/debian:12")
	parts, err := s.Blobs(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(image.SocketPath(m.RunDir), client.WithDefaultNamespace(image.Namespace(m.Instance)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := namespaces.WithNamespace(t.Context(), image.Namespace(m.Instance))
	layer := parts[len(parts)-1].Digest
	if err := c.ContentStore().Delete(ctx, digest.Digest(layer)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Value(t.Context(), img.Digest)
	wantError(t, err, model.Precondition, string(layer)+" is missing")
}
