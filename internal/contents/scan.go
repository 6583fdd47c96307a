package contents

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// scanner reads images into trees.
type scanner struct {
	ctx     context.Context
	limits  Limits
	spool   *spool
	formats *formats
}

// seen is an image that was read, or its lowest layers.
type seen struct {
	tree     *tree
	budget   budget
	unpacked []int64 // bytes of each layer
}

func (r Reader) scan(ctx context.Context) (*scanner, error) {
	s, err := newSpool(r.Dir)
	if err != nil {
		return nil, err
	}
	return &scanner{ctx: ctx, limits: r.limits(), spool: s, formats: newFormats()}, nil
}

func (s *scanner) close() { s.spool.close() }

// image reads a whole image, without the digests of its files.
func (s *scanner) image(img v1.Image) (*seen, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, manifestError(s.ctx, err)
	}
	to := &seen{tree: newTree(s.limits, false), budget: budget{limits: s.limits}}
	return to, s.add(to, layers)
}

// add reads layers onto those that were read before.
func (s *scanner) add(to *seen, layers []v1.Layer) error {
	for _, l := range layers {
		at := len(to.tree.layers)
		digest, err := l.Digest()
		if err != nil {
			return manifestError(s.ctx, err)
		}
		to.tree.layers = append(to.tree.layers, layerNamed(at, digest))
		size, err := walkLayer(s.ctx, at, l, &to.budget, func(e Entry, r io.Reader) error {
			return to.tree.add(e, r, s.learn)
		})
		if err != nil {
			return err
		}
		to.unpacked = append(to.unpacked, size)
	}
	return nil
}

// clone returns what other layers can be added to.
func (s *seen) clone() *seen {
	c := *s
	c.tree, c.unpacked = s.tree.clone(), append([]int64(nil), s.unpacked...)
	return &c
}
