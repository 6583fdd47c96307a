package local

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// fillPlaces fills the server's writable places, its volumes excepted: what is
// in those outlives it. The files have no name, so the server does not see them,
// and they are gone when this process closes them, or ends.
func (e *Engine) fillPlaces(r *record) (undo func(), err error) {
	_, free, err := e.memory()
	if err != nil {
		return nil, err
	}
	size := int64(tmpSize + runSize + shmSize)
	for _, p := range r.Template.Ephemeral {
		size += p.Size
	}
	if size > free/2 {
		return nil, model.Errorf(model.Unavailable, "its writable places hold %d MiB, and the machine has only %d MiB of memory to fill them with", size>>20, free>>20)
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", r.Process.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	if !r.Process.runs(e.boot) { // the root may be another's with its number
		return nil, model.Errorf(model.Precondition, "it has just ended")
	}
	var files []*os.File
	undo = func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	failed := make(chan error)
	go func() {
		// Never unlocked: the thread acts for the server's user, and ends with
		// this function.
		runtime.LockOSThread()
		failed <- func() error {
			for _, err := range []error{unix.Setfsgid(int(r.IDs + r.User.GID)), unix.Setfsuid(int(r.IDs + r.User.UID))} {
				if err != nil {
					return err
				}
			}
			for _, place := range placesToFill(r) {
				f, err := fillPlace(root, place)
				if errors.Is(err, unix.EACCES) {
					continue // the server's user cannot write there either
				}
				if err != nil {
					return fmt.Errorf("cannot fill %s: %w", place, err)
				}
				files = append(files, f)
			}
			return nil
		}()
	}()
	if err := <-failed; err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// fillPlace fills one place with a file that has no name. Links in it lead
// nowhere but into the same root.
func fillPlace(root int, place string) (*os.File, error) {
	fd, err := unix.Openat2(root, strings.TrimPrefix(place, "/"), &unix.OpenHow{
		Flags: unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC, Mode: 0o600, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), place)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Type != unix.TMPFS_MAGIC {
		return nil, errors.Join(errors.New("it is not in memory"), f.Close())
	}
	length := int64(0)
	for step := int64(st.Bavail) * st.Bsize; step >= st.Bsize; {
		switch err := unix.Fallocate(fd, 0, length, step); {
		case err == nil:
			length += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case errors.Is(err, unix.EINTR):
		default:
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}
