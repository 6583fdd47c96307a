package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"kiln/internal/api"
	"kiln/internal/contents"
	"kiln/internal/image"
	"kiln/internal/model"
)

// inside tells the API what is inside images.
type inside struct {
	store   *image.Store
	dir     string // for what has to be read twice
	version string
	memory  *contents.Memory
}

func (i inside) reader() contents.Reader {
	return contents.Reader{Dir: i.dir, Unpacked: true, Memory: i.memory}
}

// Diff implements server.Contents.
func (i inside) Diff(ctx context.Context, a, b model.Digest) (*api.ImageDiff, error) {
	before, err := i.store.Value(ctx, a)
	if err != nil {
		return nil, err
	}
	after, err := i.store.Value(ctx, b)
	if err != nil {
		return nil, err
	}
	diff, err := i.reader().Diff(ctx, before, after)
	if err != nil {
		return nil, i.store.OfStored(ctx, err)
	}
	text, err := json.Marshal(diff)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot write how images differ: %w", err)
	}
	var out api.ImageDiff // has the fields by the same names: one that it lacks is an error
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&out); err != nil {
		return nil, model.Errorf(model.Internal, "cannot write how images differ: %w", err)
	}
	return &out, nil
}

// placesTold is how many places are told at which two images differ.
const placesTold = 1000

// Compare implements server.Contents.
func (i inside) Compare(ctx context.Context, a, b model.Digest) (*api.Discrepancies, error) {
	first, err := i.store.Value(ctx, a)
	if err != nil {
		return nil, err
	}
	second, err := i.store.Value(ctx, b)
	if err != nil {
		return nil, err
	}
	found, err := i.reader().Compare(ctx, first, second)
	if err != nil {
		return nil, i.store.OfStored(ctx, err)
	}
	out := &api.Discrepancies{First: a, Second: b, Places: []api.Discrepancy{}, More: max(0, len(found)-placesTold)}
	for _, d := range found[:min(len(found), placesTold)] {
		out.Places = append(out.Places, api.Discrepancy(d))
	}
	return out, nil
}

// Bill implements server.Contents.
func (i inside) Bill(ctx context.Context, img model.Image, form string) (kind string, text []byte, err error) {
	bill, err := i.bill(ctx, img)
	if err != nil {
		return "", nil, err
	}
	if form == api.CycloneDX {
		text, err = bill.CycloneDX()
		return contents.CycloneDXType, text, err
	}
	text, err = bill.SPDX()
	return contents.SPDXType, text, err
}

// bill looks for what is in an image.
func (i inside) bill(ctx context.Context, img model.Image) (*contents.Bill, error) {
	value, err := i.store.Value(ctx, img.Digest)
	if err != nil {
		return nil, err
	}
	packages, err := i.reader().Packages(ctx, value)
	if err != nil {
		return nil, i.store.OfStored(ctx, err)
	}
	bill := &contents.Bill{Image: img.Digest, Created: img.CreatedAt, Tool: i.version, Inventory: packages}
	if len(img.Services) > 0 {
		bill.Name = img.Services[0]
	} else if len(img.Names) > 0 {
		bill.Name = image.Familiar(img.Names[0])
	}
	return bill, nil
}

// openInside makes the place for what has to be read twice anew.
func (d *daemon) openInside() (inside, error) {
	dir := filepath.Join(d.cfg.DataDir, "tmp")
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return inside{}, model.Errorf(model.Unavailable, "cannot make a directory for temporary files: %w", err)
	}
	return inside{store: d.images, dir: dir, version: d.cfg.Version, memory: &contents.Memory{}}, nil
}
