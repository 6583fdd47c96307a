package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// attributes are extended attributes of a file, by name.
type attributes map[string]string

const (
	fileCapabilities = "security.capability"
	accessACL        = "system.posix_acl_access"
	defaultACL       = "system.posix_acl_default"
	overlayOwn       = "trusted.overlay." // what the overlay keeps of its layers
	archived         = "SCHILY.xattr."    // what an archive's records of attributes begin with
)

// attributesOf reads the attributes of a file, of a link its own. A file that
// has just gone has none.
func attributesOf(file string) (attributes, error) {
	names, err := readAttribute(func(b []byte) (int, error) { return unix.Llistxattr(file, b) })
	if err != nil {
		return nil, fmt.Errorf("cannot list the attributes of %s: %w", file, err)
	}
	var all attributes
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		if name == "" {
			continue
		}
		var gone bool
		value, err := readAttribute(func(b []byte) (int, error) {
			n, err := unix.Lgetxattr(file, name, b)
			gone = err != nil
			return n, err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read attribute %s of %s: %w", name, file, err)
		}
		if gone {
			continue
		}
		if all == nil {
			all = attributes{}
		}
		all[name] = value
	}
	return all, nil
}

// readAttribute reads into a buffer that is large enough.
func readAttribute(read func([]byte) (int, error)) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := read(b)
		switch {
		case err == nil:
			return string(b[:n]), nil
		case errors.Is(err, unix.ERANGE) && size < 1<<20:
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOTSUP):
			return "", nil
		default:
			return "", err
		}
	}
}

// recorded returns the attributes that an archive's records give a file.
func recorded(records map[string]string) attributes {
	var all attributes
	for key, value := range records {
		name, is := strings.CutPrefix(key, archived)
		if !is || strings.HasPrefix(name, "trusted.") { // those no archive can set
			continue
		}
		if all == nil {
			all = attributes{}
		}
		all[name] = value
	}
	return all
}

// ofFile returns the attributes that belong to the file, each in the one form
// in which two that mean the same are the same; the ids in them are moved back by
// the offset. Not among them are the overlay's own, the labels that the machine's
// security modules give, and what file systems keep of their own.
func (a attributes) ofFile(mode fs.FileMode, offset uint32) attributes {
	var own attributes
	for name, value := range a {
		switch {
		case name == accessACL && mode.Type() != fs.ModeSymlink:
			value = namedInACL(value, offset)
		case name == defaultACL && mode.IsDir():
			value = movedACL(value, offset)
		case name == fileCapabilities:
		case strings.HasPrefix(name, "user.") && (mode.IsRegular() || mode.IsDir()):
			value = "=" + value // one that is empty is there all the same
		case strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, overlayOwn) && !strings.HasPrefix(name, "trusted.SGI_ACL_"):
			value = "=" + value
		default:
			continue
		}
		if value == "" {
			continue
		}
		if own == nil {
			own = attributes{}
		}
		own[name] = value
	}
	return own
}

// An access control list: linux/posix_acl_xattr.h.
const (
	aclHeader = 4
	aclEntry  = 8
	aclUser   = 0x02
	aclOwners = 0x04 // the group that the file belongs to
	aclGroup  = 0x08
	aclMask   = 0x10
)

// namedInACL returns of a list what the file's mode does not say. One without a
// mask says nothing else.
func namedInACL(acl string, offset uint32) string {
	var named strings.Builder
	masked := false
	for entry := range slices.Chunk([]byte(movedACL(acl, offset)), aclEntry) {
		switch tag := binary.LittleEndian.Uint16(entry); tag {
		case aclUser, aclOwners, aclGroup:
			named.Write(entry)
		case aclMask:
			masked = true
		}
	}
	if !masked {
		return ""
	}
	return named.String()
}

// movedACL returns the entries of a list, with its ids moved back by the offset.
func movedACL(acl string, offset uint32) string {
	if len(acl) < aclHeader || (len(acl)-aclHeader)%aclEntry != 0 {
		return ""
	}
	entries := []byte(acl[aclHeader:])
	for entry := range slices.Chunk(entries, aclEntry) {
		if tag := binary.LittleEndian.Uint16(entry); tag == aclUser || tag == aclGroup {
			id := entry[aclEntry-4:]
			binary.LittleEndian.PutUint32(id, binary.LittleEndian.Uint32(id)-offset)
		}
	}
	return string(entries)
}

// differ says in what the attributes differ from those that are wanted; both are
// of files.
func (a attributes) differ(want attributes) string {
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, wanted := want[name]; !wanted {
			return "it has an attribute that the image's has not: " + name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		value, has := a[name]
		switch {
		case value == want[name]:
		case name == fileCapabilities:
			return "it has other file capabilities than the image's"
		case !has:
			return "it has not the image's attribute " + name
		default:
			return "it has another value of the attribute " + name + " than the image's"
		}
	}
	return ""
}

// besides returns the attributes with those of b that are not among them.
func (a attributes) besides(b attributes) attributes {
	all := maps.Clone(b)
	if all == nil {
		return a
	}
	maps.Copy(all, a)
	return all
}

// without returns the attributes without those that drop names.
func (a attributes) without(drop func(name string) bool) attributes {
	kept := maps.Clone(a)
	maps.DeleteFunc(kept, func(name, _ string) bool { return drop(name) })
	return kept
}

// steers returns an attribute by which the overlay would take something else for
// the file than what is there, but for opaque; "" for none.
func (a attributes) steers() string {
	for _, name := range []string{"redirect", "metacopy", "whiteout"} {
		if _, is := a[overlayOwn+name]; is {
			return overlayOwn + name
		}
	}
	return ""
}

// handsDown reports whether what is made in the directory begins with an access
// control list of the directory's.
func handsDown(dir string) bool {
	n, err := unix.Lgetxattr(dir, defaultACL, nil)
	return err == nil && n > 0
}

// cannotHold reports whether the file system has no attributes of that name.
func cannotHold(file, name string) bool {
	_, err := unix.Lgetxattr(file, name, nil)
	return errors.Is(err, unix.ENOTSUP)
}

// otherAttributes says in what the attributes of a directory in a server's own
// layer differ from those of the image's; offset is what the server's ids are
// moved by.
func otherAttributes(before string, was fs.FileInfo, file string, now fs.FileInfo, offset uint32) (string, error) {
	want, err := attributesOf(before)
	if err != nil {
		return "", err
	}
	is, err := attributesOf(file)
	if err != nil {
		return "", err
	}
	return is.ofFile(now.Mode(), offset).differ(want.ofFile(was.Mode(), 0)), nil
}

// otherThanArchived says in what the attributes of a layer's file differ from
// those that are wanted of it. A list that it inherits of its directory, as that
// is or was, is no difference.
func otherThanArchived(file string, is, want attributes, inherits bool) string {
	if why := is.differ(want); why == "" {
		return ""
	}
	inherits = inherits || handsDown(filepath.Dir(file))
	is = is.without(func(name string) bool {
		_, wanted := want[name]
		return !wanted && inherits && (name == accessACL || name == defaultACL)
	})
	want = want.without(func(name string) bool {
		_, has := is[name]
		return !has && cannotHold(file, name)
	})
	return is.differ(want)
}
