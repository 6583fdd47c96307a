package contents

import (
	"cmp"
	"context"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// Difference is how one image differs from another.
type Difference struct {
	Before Extent `json:"before"`
	After  Extent `json:"after"`
	// SharedLayers is how many of the lowest layers are the same.
	SharedLayers int             `json:"shared_layers"`
	Packages     []PackageChange `json:"packages"` // by type, name, architecture
	Files        []FileChange    `json:"files"`    // in the order of a walk: a directory before what is in it
	Config       []ConfigChange  `json:"config"`
}

// Extent is how large an image is.
type Extent struct {
	Digest       model.Digest `json:"digest"`
	Layers       []Layer      `json:"layers"`       // the lowest first
	Compressed   int64        `json:"compressed"`   // bytes of its layers as stored
	Uncompressed int64        `json:"uncompressed"` // bytes of its layers' archives
	Files        int          `json:"files"`        // names that its files have, directories among them
	FileBytes    int64        `json:"file_bytes"`   // bytes of the files that can be seen, each counted once
	Databases    []string     `json:"databases"`    // of packages; as in Inventory
	Unread       []Unread     `json:"unread,omitempty"`
}

// PackageChange is a package that is in one image only, or in two versions.
type PackageChange struct {
	Name         string `json:"name"`
	Type         string `json:"type"` // as in Package
	Architecture string `json:"architecture,omitempty"`
	Change       Change `json:"change"`
	Before       string `json:"before,omitempty"` // version
	After        string `json:"after,omitempty"`  // version
	Path         string `json:"path"`             // as in Package: of the image that has it; of the second if both do
}

// Diff returns how b differs from a. Layers that both begin with are read once.
//
// Invalid, Unavailable: as layers.Walker; the message says of which image.
func (r Reader) Diff(ctx context.Context, a, b v1.Image) (Difference, error) {
	var d Difference
	s, err := r.scan(ctx)
	if err != nil {
		return d, err
	}
	defer s.close()
	before, after, shared, err := s.both(a, b)
	if err != nil {
		return d, err
	}
	d.SharedLayers = shared
	var ofA, ofB Inventory
	if d.Before, ofA, err = s.extent(a, before); err != nil {
		return d, err
	}
	if d.After, ofB, err = s.extent(b, after); err != nil {
		return d, err
	}
	d.Packages = comparePackageLists(ofA.Packages, ofB.Packages)
	d.Files = compareFiles(before.tree, after.tree)
	d.Config, err = compareConfigs(ctx, a, b)
	return d, err
}

// both reads two images, and returns how many layers they share.
func (s *scanner) both(a, b v1.Image) (before, after *seen, shared int, err error) {
	ofA, err := layers.Of(s.ctx, a)
	if err != nil {
		return nil, nil, 0, imageError("the first image", err)
	}
	ofB, err := layers.Of(s.ctx, b)
	if err != nil {
		return nil, nil, 0, imageError("the second image", err)
	}
	for shared < min(len(ofA), len(ofB)) && ofA[shared].Digest == ofB[shared].Digest && ofA[shared].DiffID == ofB[shared].DiffID {
		shared++
	}
	before = s.empty(true)
	if err := s.add(before, ofA[:shared]); err != nil {
		return nil, nil, 0, err
	}
	after = before.clone()
	if err := s.add(before, ofA[shared:]); err != nil {
		return nil, nil, 0, imageError("the first image", err)
	}
	if err := s.add(after, ofB[shared:]); err != nil {
		return nil, nil, 0, imageError("the second image", err)
	}
	return before, after, shared, nil
}

func imageError(which string, err error) error {
	e := model.Errorf(model.CodeOf(err), "%s: %w", which, err)
	if hint := model.HintOf(err); hint != "" {
		return e.WithHint("%s", hint)
	}
	return e
}

// extent measures an image and lists its packages.
func (s *scanner) extent(img v1.Image, seen *seen) (Extent, Inventory, error) {
	var none Extent
	digest, err := img.Digest()
	if err != nil {
		return none, Inventory{}, layers.Unreadable(s.ctx, "the image's manifest", err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return none, Inventory{}, layers.Unreadable(s.ctx, "the image's manifest", err)
	}
	list, err := s.inventory(seen.tree)
	if err != nil {
		return none, list, err
	}
	e := Extent{
		Digest: model.Digest(digest.String()), Layers: append([]Layer{}, seen.tree.layers...),
		Databases: list.Databases, Unread: list.Unread,
	}
	for _, l := range manifest.Layers {
		e.Compressed += l.Size
	}
	for _, n := range seen.unpacked {
		e.Uncompressed += n
	}
	counted := map[*inode]bool{}
	err = seen.tree.root.each("", func(_ string, n *node) error {
		e.Files++
		if n.kind == Regular && !counted[n.inode] {
			counted[n.inode] = true
			e.FileBytes += n.size
		}
		return s.ctx.Err()
	})
	if err != nil {
		err = layers.Unreadable(s.ctx, "the image", err)
	}
	return e, list, err
}

// identity is what makes packages of two images the same one.
type identity struct{ kind, name, architecture string }

// comparePackageLists pairs the versions that each image has of a package.
func comparePackageLists(before, after []Package) []PackageChange {
	type versions struct{ before, after []Package }
	all := map[identity]*versions{}
	of := func(p Package) *versions {
		key := identity{p.Type, p.Name, p.Architecture}
		if all[key] == nil {
			all[key] = &versions{}
		}
		return all[key]
	}
	for _, p := range before {
		of(p).before = append(of(p).before, p)
	}
	for _, p := range after {
		of(p).after = append(of(p).after, p)
	}
	changes := []PackageChange{}
	for key, v := range all {
		changes = append(changes, compareVersions(key, v.before, v.after)...)
	}
	slices.SortFunc(changes, func(a, b PackageChange) int {
		return cmp.Or(
			cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture),
			cmp.Compare(a.Before, b.Before), cmp.Compare(a.After, b.After), cmp.Compare(a.Path, b.Path),
		)
	})
	return changes
}

// compareVersions leaves out the versions that both have, wherever they are, and
// pairs what remains. The lists are sorted, and so the pairs are the same each time.
func compareVersions(key identity, before, after []Package) []PackageChange {
	left := slices.Clone(after)
	gone := slices.DeleteFunc(slices.Clone(before), func(p Package) bool {
		i := slices.IndexFunc(left, func(q Package) bool { return p.Version == q.Version })
		if i >= 0 {
			left = slices.Delete(left, i, i+1)
		}
		return i >= 0
	})
	var changes []PackageChange
	for i := range max(len(gone), len(left)) {
		c := PackageChange{Name: key.name, Type: key.kind, Architecture: key.architecture, Change: Changed}
		switch {
		case i >= len(gone):
			c.Change, c.After, c.Path = Added, left[i].Version, left[i].Path
		case i >= len(left):
			c.Change, c.Before, c.Path = Removed, gone[i].Version, gone[i].Path
		default:
			c.Before, c.After, c.Path = gone[i].Version, left[i].Version, left[i].Path
		}
		changes = append(changes, c)
	}
	return changes
}
