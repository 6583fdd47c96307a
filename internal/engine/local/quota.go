package local

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The size of a volume is bounded by a project quota, where the file system was
// mounted with them (prjquota): kiln does not change how it is mounted. The
// kernel's calls for that have no names in package unix.
const (
	quotaGet     = 0x800007<<8 | projectQuota
	quotaSet     = 0x800008<<8 | projectQuota
	projectQuota = 2
	limitsValid  = 1 // QIF_BLIMITS
	quotaBlock   = 1024

	getAttributes  = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes  = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritProject = 0x200      // FS_XFLAG_PROJINHERIT
)

// diskQuota is struct if_dqblk.
type diskQuota struct {
	HardBlocks, SoftBlocks, Space  uint64 // blocks, blocks, bytes
	HardInodes, SoftInodes, Inodes uint64
	BlockTime, InodeTime           uint64
	Valid                          uint32
	_                              uint32
}

// fileAttributes is struct fsxattr.
type fileAttributes struct {
	Flags, ExtentSize, Extents, Project, CopyExtentSize uint32
	_                                                   [8]byte
}

// project is the quota's id for a volume: it follows from the names, and lies
// where nobody gives them out by hand.
func (c Config) project(service, name string) uint32 {
	sum := sha256.Sum256([]byte(string(c.Instance) + "/" + service + "/" + name))
	return 1<<30 | binary.BigEndian.Uint32(sum[:4])>>2
}

// bound has the directory's content, what is there and what comes, hold at most
// size bytes; 0 is no bound.
func bound(dir string, project uint32, size int64) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	q := diskQuota{HardBlocks: uint64(size+quotaBlock-1) / quotaBlock, Valid: limitsValid}
	if err := quotaCall(f, quotaSet, project, &q); err != nil {
		return fmt.Errorf("its file system (%s) was not mounted with project quotas: %w", fileSystem(dir), err)
	}
	if size == 0 {
		return nil
	}
	return setProject(f, project)
}

// setProject puts the directory into the quota's project. Only a new volume has
// nothing in it; what is in another one has belonged to the project since it was
// made, or is not counted.
func setProject(f *os.File, project uint32) error {
	var a fileAttributes
	if err := attributeCall(f, getAttributes, &a); err != nil {
		return err
	}
	if a.Project == project && a.Flags&inheritProject != 0 {
		return nil
	}
	a.Project, a.Flags = project, a.Flags|inheritProject
	return attributeCall(f, setAttributes, &a)
}

// quota returns what the project uses and may use, in bytes.
func quota(dir string, project uint32) (used, limit int64, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var q diskQuota
	if err := quotaCall(f, quotaGet, project, &q); err != nil {
		return 0, 0, err
	}
	return int64(q.Space), int64(q.HardBlocks) * quotaBlock, nil
}

func quotaCall(f *os.File, command int, id uint32, q *diskQuota) error {
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), uintptr(command), uintptr(id), uintptr(unsafe.Pointer(q)), 0, 0)
	return errnoOf(e)
}

func attributeCall(f *os.File, request uintptr, a *fileAttributes) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(a)))
	return errnoOf(e)
}

func errnoOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return errors.Join(e)
}
