package local

import (
	"fmt"
	"path/filepath"
)

// Programs returns where the embedded shim and runc lie, unpacked. Others that
// run containers beside this engine use the same.
func Programs(dataDir string) (shim, runc string, err error) {
	b, err := unpack(filepath.Join(dataDir, "bin"))
	if err != nil {
		return "", "", fmt.Errorf("cannot unpack the embedded programs: %w", err)
	}
	return b.shim, b.runc, nil
}
