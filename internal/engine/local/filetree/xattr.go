package filetree

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// kept reports whether an extended attribute belongs to the content: those of
// security modules belong to the machine.
func kept(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "system.posix_acl_access" || name == "system.posix_acl_default" || name == "security.capability"
}

// attributes returns the extended attributes of an open file.
func attributes(f *os.File) (map[string]string, error) {
	fd := int(f.Fd())
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(fd, names); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		if !kept(name) {
			continue
		}
		value := make([]byte, 64<<10) // the kernel's bound
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue // it has just gone
		}
		if err != nil {
			return nil, err
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

func setAttributes(f *os.File, all map[string]string) error {
	for name, value := range all {
		if !kept(name) {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return &os.PathError{Op: "set attribute " + name, Path: f.Name(), Err: err}
		}
	}
	return nil
}
