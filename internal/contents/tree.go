package contents

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"kiln/internal/layers"
)

// inode is a file as it is, whatever its names: hard links share one. It is not
// changed once it is in a tree, so that trees can share it.
type inode struct {
	kind       Kind
	mode       uint32 // permissions, setuid, setgid, sticky
	uid, gid   int
	size       int64
	sum        [sha256.Size]byte // of a regular file's contents
	link       string            // where a symbolic link leads
	major      int64             // of a device
	minor      int64
	attributes string // the digest of extended attributes, "" without any
	layer      int32  // that brought it
	found      *found // what was learned of its contents, nil: nothing
}

// node is a name in a directory.
type node struct {
	*inode
	children map[string]*node // of a directory
	named    int32            // the last layer that has an entry of this name
}

// tree is an image's files after some of its layers.
type tree struct {
	root   *node
	layers []Layer
	nodes  int // made, and what long links count as
	limits layers.Limits
	buffer []byte // to read files with for their digests; nil: digests are not wanted
}

func newTree(l layers.Limits, digests bool) *tree {
	t := &tree{root: directory(0), limits: l}
	if digests {
		t.buffer = make([]byte, copyBuffer)
	}
	return t
}

const (
	copyBuffer = 64 << 10 // bytes
	maxPath    = 4096     // bytes, of Linux (limits.h)
)

// directory is one that no entry describes, but is needed.
func directory(layer int32) *node {
	return &node{inode: &inode{kind: Directory, mode: 0o755, layer: layer}, children: map[string]*node{}, named: -1}
}

// clone returns a tree that other layers can be added to.
func (t *tree) clone() *tree {
	c := *t
	c.root, c.layers = t.root.clone(), slices.Clone(t.layers)
	return &c
}

func (n *node) clone() *node {
	c := *n
	if n.children != nil {
		c.children = make(map[string]*node, len(n.children))
		for name, child := range n.children {
			c.children[name] = child.clone()
		}
	}
	return &c
}

// count makes room for another name.
func (t *tree) count(link string) error {
	t.nodes += 1 + len(link)/256 // long ones need memory too
	if t.nodes > t.limits.Entries {
		return layers.TooMuch("the image has more than %d files", t.limits.Entries)
	}
	return nil
}

// maxHops is how many symbolic links a path may lead through: as many as Linux
// follows (path_resolution(7)).
const maxHops = 40

// step is a directory on the way to a file.
type step struct {
	*node
	length int // of its path in bytes
}

// follow returns the file that the names lead to from the root, where what unpacks
// layers would find it: symbolic links are followed, inside of the image. What is
// missing is made, as a directory, if layer is not negative; else the file is nil.
func (t *tree) follow(names []string, layer int32) (*node, error) {
	at := []step{{node: t.root}}
	for hops, steps := 0, 0; len(names) > 0; steps++ {
		here, name := at[len(at)-1], names[0]
		names = names[1:]
		if name == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		if here.kind != Directory {
			if layer < 0 {
				return nil, nil
			}
			return nil, layers.Broken("a part of its path is no directory")
		}
		next := here.children[name]
		switch {
		case next == nil && layer < 0:
			return nil, nil
		case next == nil:
			if err := t.count(""); err != nil {
				return nil, err
			}
			next = directory(layer)
			here.children[strings.Clone(name)] = next
		case next.kind == Symlink:
			if hops++; hops > maxHops || steps > maxPath {
				return nil, layers.Broken("it is reached through too many symbolic links")
			}
			if strings.HasPrefix(next.link, "/") {
				at = at[:1]
			}
			names = append(split(next.link), names...)
			continue
		}
		if at = append(at, step{next, here.length + 1 + len(name)}); at[len(at)-1].length > maxPath {
			return nil, layers.Broken("its path gets longer than Linux has them")
		}
	}
	return at[len(at)-1].node, nil
}

// parent returns the directory that a path's last name is in, and the name.
func (t *tree) parent(p string, layer int32) (*node, string, error) {
	dir, base := path.Split(p)
	n, err := t.follow(split(dir), layer)
	if err != nil || n == nil {
		return nil, base, err
	}
	if n.kind != Directory {
		if layer < 0 {
			return nil, base, nil
		}
		return nil, base, layers.Broken("what it is in is no directory")
	}
	return n, base, nil
}

// find returns the file that a path leads to, or nil.
func (t *tree) find(p string) *node {
	n, err := t.follow(split(p), -1)
	if err != nil {
		return nil
	}
	return n
}

// split returns the names of a path, without those that mean nothing.
func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// add applies an entry. learn is called for a regular file with its contents, and
// returns what is to be remembered of them.
func (t *tree) add(e *layers.Entry, learn func(*layers.Entry, io.Reader) (*found, error)) error {
	layer := int32(e.Layer.Index)
	switch e.Whiteout {
	case layers.OfPath:
		dir, base, err := t.parent(e.Path, -1)
		if dir != nil {
			dir.hide(base, layer)
		}
		return err
	case layers.OfContents:
		dir, err := t.follow(split(e.Path), -1)
		if dir != nil {
			for name := range dir.children {
				dir.hide(name, layer)
			}
		}
		return err
	case layers.NoWhiteout:
	}
	if e.Path == "." {
		t.root.inode, t.root.named = t.root.described(e, layer), layer
		return nil
	}
	dir, base, err := t.parent(e.Path, layer)
	if err != nil {
		return err
	}
	made, err := t.make(e, dir.children[base], learn)
	if err != nil {
		return err
	}
	if dir.children[base] == nil {
		if err := t.count(made.link); err != nil {
			return err
		}
	}
	made.named = layer
	dir.children[strings.Clone(base)] = made
	return nil
}

// make returns the node that an entry takes the place of old with, which may be nil.
func (t *tree) make(e *layers.Entry, old *node, learn func(*layers.Entry, io.Reader) (*found, error)) (*node, error) {
	layer := int32(e.Layer.Index)
	switch e.Typeflag {
	case tar.TypeDir:
		if old == nil || old.kind != Directory {
			old = directory(layer)
		}
		return &node{inode: old.described(e, layer), children: old.children}, nil
	case tar.TypeLink:
		dir, base, err := t.parent(e.Linkname, -1)
		if err != nil {
			return nil, err
		}
		if dir == nil || dir.children[base] == nil || dir.children[base].kind == Directory {
			return nil, layers.Broken("it is a hard link to %.200s, which is no file before it", e.Linkname)
		}
		return &node{inode: dir.children[base].inode}, nil
	}
	made := describe(e.Header, layer)
	if made.kind != Regular {
		return &node{inode: made}, nil
	}
	r, sum := e.Content, sha256.New()
	if t.buffer != nil {
		r = io.TeeReader(r, sum)
	}
	var err error
	if made.found, err = learn(e, r); err != nil {
		return nil, err
	}
	if t.buffer != nil {
		if _, err := io.CopyBuffer(io.Discard, onlyReader{r}, t.buffer); err != nil { // what learn has left
			return nil, err
		}
		sum.Sum(made.sum[:0])
	}
	return &node{inode: made}, nil
}

// onlyReader hides what else a reader can do, so that the buffer given is used.
type onlyReader struct{ io.Reader }

// hide removes what layers below the given one have by the name.
func (n *node) hide(name string, layer int32) {
	child := n.children[name]
	if child == nil {
		return
	}
	for below := range child.children {
		child.hide(below, layer)
	}
	if child.named != layer && len(child.children) == 0 {
		delete(n.children, name)
	}
}

// described returns a directory's inode as an entry describes it: the same one where
// the entry says nothing new, as those of directories that lead to others.
func (n *node) described(e *layers.Entry, layer int32) *inode {
	made := describe(e.Header, layer)
	if n.named >= 0 {
		made.layer = n.layer
		if *made == *n.inode {
			return n.inode
		}
		made.layer = layer
	}
	return made
}

// describe makes an inode of a header, without what only its contents say.
func describe(h *tar.Header, layer int32) *inode {
	n := &inode{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, layer: layer, attributes: attributes(h)}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind = Directory
	case tar.TypeSymlink:
		n.kind, n.link, n.mode = Symlink, strings.Clone(h.Linkname), 0o777
	case tar.TypeChar:
		n.kind, n.major, n.minor = CharDevice, h.Devmajor, h.Devminor
	case tar.TypeBlock:
		n.kind, n.major, n.minor = BlockDevice, h.Devmajor, h.Devminor
	case tar.TypeFifo:
		n.kind = Fifo
	default:
		n.kind, n.size = Regular, h.Size
	}
	return n
}

// attributePrefix begins the names of extended attributes, as libarchive, GNU tar and
// Go write them.
const attributePrefix = "SCHILY.xattr."

// attributes is a digest of an entry's extended attributes, capabilities among them.
func attributes(h *tar.Header) string {
	sum := sha256.New()
	none := true
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if strings.HasPrefix(key, attributePrefix) {
			none = false
			fmt.Fprintf(sum, "%q=%q\n", key, h.PAXRecords[key])
		}
	}
	if none {
		return ""
	}
	return string(sum.Sum(nil))
}

// each calls visit with every file below n, a directory before what is in it, in
// the order of the names.
func (n *node) each(p string, visit func(string, *node) error) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[name]
		full := path.Join(p, name)
		if err := visit(full, child); err != nil {
			return err
		}
		if err := child.each(full, visit); err != nil {
			return err
		}
	}
	return nil
}
