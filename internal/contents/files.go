package contents

import (
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"

	"kiln/internal/model"
)

// Kind is what a file is.
type Kind string

// The kinds of files.
const (
	Regular     Kind = "file"
	Directory   Kind = "directory"
	Symlink     Kind = "symlink"
	CharDevice  Kind = "character_device"
	BlockDevice Kind = "block_device"
	Fifo        Kind = "fifo"
)

// File is a file of an image.
type File struct {
	Kind   Kind         `json:"kind"`
	Mode   string       `json:"mode"` // octal: permissions, setuid, setgid, sticky
	UID    int          `json:"uid"`
	GID    int          `json:"gid"`
	Size   int64        `json:"size"`             // bytes
	Digest model.Digest `json:"digest,omitempty"` // of a regular file's contents
	Link   string       `json:"link,omitempty"`   // where a symbolic link leads
	Device string       `json:"device,omitempty"` // MAJOR:MINOR
	Layer  Layer        `json:"layer"`            // that brought it, as it is
}

// Change is what has become of something.
type Change string

// The changes.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// Aspect is what of a file has changed. The time of its last change is none: it
// changes with every build.
type Aspect string

// The aspects. A file whose size changes changes in content too.
const (
	AspectKind       Aspect = "kind"
	AspectMode       Aspect = "mode"
	AspectOwner      Aspect = "owner"
	AspectSize       Aspect = "size"
	AspectContent    Aspect = "content"
	AspectLink       Aspect = "link"
	AspectDevice     Aspect = "device"
	AspectAttributes Aspect = "attributes" // extended ones, capabilities among them
)

// FileChange is a path at which two images differ.
type FileChange struct {
	Path    string   `json:"path"` // from the root, without a slash at its beginning; the root is "."
	Change  Change   `json:"change"`
	Aspects []Aspect `json:"aspects,omitempty"` // of what is changed; in the order of the constants
	Before  *File    `json:"before,omitempty"`
	After   *File    `json:"after,omitempty"`
}

// file describes a node of the tree.
func (t *tree) file(n *node) *File {
	f := &File{
		Kind: n.kind, Mode: fmt.Sprintf("%04o", n.mode), UID: n.uid, GID: n.gid,
		Size: n.size, Link: n.link, Layer: t.layers[n.layer],
	}
	switch n.kind {
	case Regular:
		f.Digest = model.Digest("sha256:" + hex.EncodeToString(n.sum[:]))
	case CharDevice, BlockDevice:
		f.Device = fmt.Sprintf("%d:%d", n.major, n.minor)
	case Directory, Symlink, Fifo:
	}
	return f
}

// comparison collects what differs between two trees.
type comparison struct {
	before, after *tree
	changes       []FileChange
}

// compareFiles returns the paths at which two trees differ, in the order of a walk: a
// directory comes before what is in it.
func compareFiles(before, after *tree) []FileChange {
	c := &comparison{before: before, after: after}
	if before.root.named >= 0 && after.root.named >= 0 { // layers need not describe it
		c.nodes(".", before.root, after.root)
	}
	c.children("", before.root, after.root)
	return c.changes
}

func (c *comparison) nodes(p string, a, b *node) {
	if aspects := differences(a.inode, b.inode); len(aspects) > 0 {
		c.changes = append(c.changes, FileChange{Path: p, Change: Changed, Aspects: aspects, Before: c.before.file(a), After: c.after.file(b)})
	}
}

func (c *comparison) children(p string, a, b *node) {
	names := map[string]bool{}
	for _, n := range []*node{a, b} {
		if n != nil {
			for name := range n.children {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		full := path.Join(p, name)
		before, after := a.child(name), b.child(name)
		switch {
		case before == nil:
			c.changes = append(c.changes, FileChange{Path: full, Change: Added, After: c.after.file(after)})
		case after == nil:
			c.changes = append(c.changes, FileChange{Path: full, Change: Removed, Before: c.before.file(before)})
		default:
			c.nodes(full, before, after)
		}
		c.children(full, before, after)
	}
}

// child returns the file of that name, or nil; n may be nil.
func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	return n.children[name]
}

// differences returns in what two files differ.
func differences(a, b *inode) []Aspect {
	if a == b {
		return nil
	}
	var found []Aspect
	for _, d := range []struct {
		aspect  Aspect
		differs bool
	}{
		{AspectKind, a.kind != b.kind},
		{AspectMode, a.mode != b.mode && a.kind != Symlink && b.kind != Symlink},
		{AspectOwner, a.uid != b.uid || a.gid != b.gid},
		{AspectSize, a.kind == b.kind && a.size != b.size},
		{AspectContent, a.kind == b.kind && a.sum != b.sum},
		{AspectLink, a.kind == b.kind && a.link != b.link},
		{AspectDevice, a.kind == b.kind && (a.major != b.major || a.minor != b.minor)},
		{AspectAttributes, a.attributes != b.attributes},
	} {
		if d.differs {
			found = append(found, d.aspect)
		}
	}
	return found
}
