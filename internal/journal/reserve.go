package journal

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	reserveName = "reserve"
	// reserveSize is room for some ten thousand events: enough to end what
	// fills the disk, and to write down that it ended.
	reserveSize = 8 << 20
	// headsAhead is the room that heads.log always has before it: a signed
	// head that is due must not find the disk full.
	headsAhead = 64 << 10
)

// makeReserve takes room on the disk for when it is full. Without it all goes
// on.
func (j *Journal) makeReserve() {
	path := filepath.Join(j.dir, reserveName)
	if info, err := os.Stat(path); err == nil && info.Size() == reserveSize {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveSize), f.Close())
	}
	if j.bare = err != nil; j.bare {
		_ = os.Remove(path)
		j.opts.Log.Warn("there is no room for the journal's reserve", "dir", j.dir, "bytes", reserveSize, "error", err)
	}
}

// retakeReserve makes a reserve that was given up again, once there is more room
// than giving it up has made.
func (j *Journal) retakeReserve() {
	var st unix.Statfs_t
	if err := unix.Statfs(j.dir, &st); err != nil || int64(st.Bavail)*st.Bsize < reserveSize+reserveSize/8 {
		return
	}
	if j.makeReserve(); !j.bare {
		j.opts.Log.Info("the journal's reserve is there again", "dir", j.dir, "bytes", reserveSize)
	}
}

// giveUpReserve reports whether there was one.
func (j *Journal) giveUpReserve() bool {
	if os.Remove(filepath.Join(j.dir, reserveName)) != nil {
		return false
	}
	j.bare = true
	j.opts.Log.Warn("the disk is full: the journal's reserve is given up", "dir", j.dir, "bytes", reserveSize)
	return true
}

// growHeads takes room for further lines of heads.log.
func (j *Journal) growHeads() {
	f, err := os.OpenFile(filepath.Join(j.dir, headsName), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, j.headsLength+headsAhead), f.Close())
	}
	if err != nil {
		j.opts.Log.Warn("there is no room for further signed heads", "dir", j.dir, "error", err)
	}
}
