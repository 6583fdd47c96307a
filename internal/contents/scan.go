package contents

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
)

// scanner reads images into trees.
type scanner struct {
	ctx     context.Context
	walker  layers.Walker // before any layer
	limits  layers.Limits
	spool   *spool
	formats *formats
	memory  *Memory
}

// seen is an image that was read, or its lowest layers.
type seen struct {
	tree     *tree
	walker   layers.Walker
	unpacked []int64 // bytes of each layer
}

func (r Reader) scan(ctx context.Context) (*scanner, error) {
	s, err := newSpool(r.Dir)
	if err != nil {
		return nil, err
	}
	w := layers.NewWalker(r.Limits)
	w.Unpacked = r.Unpacked
	return &scanner{ctx: ctx, walker: w, limits: r.Limits.OrDefault(), spool: s, formats: newFormats(), memory: r.Memory}, nil
}

func (s *scanner) close() { s.spool.close() }

// empty is an image of which nothing was read.
func (s *scanner) empty(digests bool) *seen {
	return &seen{tree: newTree(s.limits, digests), walker: s.walker}
}

// image reads a whole image, without the digests of its files.
func (s *scanner) image(img v1.Image) (*seen, error) {
	all, err := layers.Of(s.ctx, img)
	if err != nil {
		return nil, err
	}
	to := s.empty(false)
	return to, s.add(to, all)
}

// add reads layers onto those that were read before.
func (s *scanner) add(to *seen, all []layers.Layer) error {
	to.tree.layers = append(to.tree.layers, layersOf(all)...)
	for _, l := range all {
		size, err := s.layer(to, l)
		if err != nil {
			return err
		}
		to.unpacked = append(to.unpacked, size)
	}
	return nil
}

// layer reads a layer, or remembers it, and returns what it unpacks to in bytes.
func (s *scanner) layer(to *seen, l layers.Layer) (int64, error) {
	if to.tree.buffer != nil { // digests of files are not remembered
		return to.walker.Walk(s.ctx, l, func(e *layers.Entry) error { return to.tree.add(e, s.learn) })
	}
	if known := s.memory.recall(l); known != nil {
		return known.size, known.replay(to.tree, l)
	}
	var learned memories
	size, err := to.walker.Walk(s.ctx, l, func(e *layers.Entry) error {
		var of *found
		err := to.tree.add(e, func(e *layers.Entry, r io.Reader) (_ *found, err error) {
			of, err = s.learn(e, r)
			return of, err
		})
		if err == nil && s.memory != nil {
			err = learned.add(s.spool, e, of)
		}
		return err
	})
	if err == nil {
		learned.size = size
		s.memory.keep(l, &learned)
	}
	return size, err
}

// clone returns what other layers can be added to.
func (s *seen) clone() *seen {
	c := *s
	c.tree, c.unpacked = s.tree.clone(), append([]int64(nil), s.unpacked...)
	return &c
}
