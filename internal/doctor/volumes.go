package doctor

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"kiln/internal/api"
)

// volumes says what the data directory's file system can do for volumes. What it
// cannot do keeps no service from running.
func volumes(dataDir string) api.Check {
	dir := existing(dataDir)
	var can, cannot []string
	if clones(dir) {
		can = append(can, "snapshots are made before deployments")
	} else {
		cannot = append(cannot, "no snapshots before deployments: files share no blocks on this file system; btrfs and xfs can")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil && projectQuotas(string(mounts), mountPoint(dir)) {
		can = append(can, "sizes are enforced")
	} else {
		cannot = append(cannot, "sizes are not enforced: the file system is not mounted with project quotas (prjquota)")
	}
	return ok("volumes", "%s", strings.Join(append(can, cannot...), "; "))
}

// projectQuotas reports whether the file system at the mount point keeps them.
func projectQuotas(mountinfo, point string) bool {
	found := false
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[4] == point { // the last mount there is the one that is seen
			options := strings.Split(fields[len(fields)-1]+","+fields[5], ",")
			found = false
			for _, o := range options {
				found = found || o == "prjquota" || o == "pquota"
			}
		}
	}
	return found
}

// clones reports whether files of the directory can share their blocks.
func clones(dir string) bool {
	var pair [2]*os.File
	for i := range pair {
		f, err := os.CreateTemp(dir, ".kiln-doctor-")
		if err != nil {
			return false
		}
		defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
		pair[i] = f
	}
	if _, err := pair[0].Write(make([]byte, 8192)); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(pair[1].Fd()), int(pair[0].Fd())) == nil
}
