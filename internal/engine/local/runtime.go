package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the shim and runc travel in the binary
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// What servers run under, built and compressed by scripts/build-runtime.
var (
	//go:embed runtime/containerd-shim-runc-v2.zst
	shimBinary []byte
	//go:embed runtime/kiln-logger.zst
	loggerBinary []byte
	//go:embed runtime/runc.zst
	runcBinary []byte
)

// binaries are the unpacked programs.
type binaries struct {
	shim, logger, runc string
}

// unpack writes the embedded programs below dir, in a directory by their digest,
// unless they are there: what runs under another version keeps its own.
func unpack(dir string) (binaries, error) {
	sum := sha256.New()
	for _, packed := range [][]byte{shimBinary, loggerBinary, runcBinary} {
		sum.Write(packed)
	}
	home := filepath.Join(dir, hex.EncodeToString(sum.Sum(nil)))
	b := binaries{
		shim:   filepath.Join(home, "containerd-shim-runc-v2"),
		logger: filepath.Join(home, "kiln-logger"),
		runc:   filepath.Join(home, "runc"),
	}
	if _, err := os.Stat(home); err == nil {
		return b, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return b, err
	}
	// All or nothing: a directory under its digest is complete.
	fresh, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return b, err
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	if err := os.Chmod(fresh, 0o755); err != nil {
		return b, err
	}
	for path, packed := range map[string][]byte{b.shim: shimBinary, b.logger: loggerBinary, b.runc: runcBinary} {
		if err := decompress(filepath.Join(fresh, filepath.Base(path)), packed); err != nil {
			return b, fmt.Errorf("cannot unpack %s: %w", filepath.Base(path), err)
		}
	}
	if err := os.Rename(fresh, home); err != nil && !os.IsExist(err) {
		return b, err
	}
	return b, nil
}

// removeOldBinaries removes what earlier versions have unpacked, where nothing
// runs from it and containerd would not look for it. That it cannot is no reason
// not to start.
func (e *Engine) removeOldBinaries(ctx context.Context) {
	dir := filepath.Join(e.DataDir, "bin")
	homes, err := filepath.Glob(filepath.Join(dir, strings.Repeat("[0-9a-f]", 2*sha256.Size)))
	if err != nil || len(homes) < 2 {
		return // no more than this version's own
	}
	used, err := e.usedBinaries(ctx)
	if err != nil {
		e.Log.Warn("cannot find out which earlier versions are still in use", "error", err)
		return
	}
	used[filepath.Dir(e.binaries.shim)] = true
	for _, home := range homes {
		if used[home] {
			continue
		}
		e.Log.Info("removing what an earlier version ran servers under", "directory", home)
		if err := os.RemoveAll(home); err != nil {
			e.Log.Warn("cannot remove what an earlier version ran servers under", "directory", home, "error", err)
		}
	}
}

// usedBinaries returns the directories of programs that run, or that a container
// names.
func (e *Engine) usedBinaries(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	containers, err := e.client.ContainerService().List(e.scoped(ctx))
	if err != nil {
		return nil, containerdError(err, "list the containers")
	}
	for _, c := range containers {
		used[filepath.Dir(c.Runtime.Name)] = true
	}
	processes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	for _, process := range processes {
		if program, err := os.Readlink(process); err == nil { // else it has just ended
			used[filepath.Dir(program)] = true
		}
	}
	return used, nil
}

func decompress(path string, packed []byte) error {
	r, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := r.WriteTo(f); err != nil {
		_ = f.Close()
		return err
	}
	// Servers must find it whole after a power failure.
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
