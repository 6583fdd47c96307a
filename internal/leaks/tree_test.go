package leaks

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/internal/layers"
)

// hostOnly are the secrets of the machine itself, which no image has.
var hostOnly = []string{
	"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private", "/etc/machine-id", "/etc/wireguard", "/etc/NetworkManager", "/etc/letsencrypt", "/etc/kubernetes",
}

// eachOfMachine visits the machine's own files, so many bytes of each root at most.
func eachOfMachine(most int64, roots []string, visit func(*tar.Header, io.Reader) error) error {
	for _, root := range roots {
		left := most
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || slices.Contains(hostOnly, path):
				if d != nil && d.IsDir() {
					return fs.SkipDir
				}
				return nil // it is not there any more, or not for this test
			case left <= 0:
				return fs.SkipAll
			case !d.Type().IsRegular():
				return nil
			}
			n, err := visitFile(path, most/8, visit)
			left -= n
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func visitFile(path string, most int64, visit func(*tar.Header, io.Reader) error) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil // not this user's
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > most {
		return 0, err
	}
	h := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: int64(info.Mode().Perm()), Size: info.Size(), Typeflag: tar.TypeReg}
	return info.Size(), visit(h, f)
}

// TestThisMachine searches the machine's own files, hundreds of packages' worth of
// programs, manuals, certificates and examples, and wants no false finding in them.
// A private key is none: its form was checked, so that one is there (in packages of
// tests and examples), and it is only shown. KILN_TREE=all reads all of /usr.
func TestThisMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("reads many files")
	}
	most, roots := int64(400<<20), []string{"/etc", "/usr/share", "/usr/lib"}
	if os.Getenv("KILN_TREE") == "all" {
		most, roots = 1<<50, []string{"/etc", "/usr"}
	}
	s := newSearch(Allowed{})
	files, read := 0, int64(0)
	err := eachOfMachine(most, roots, func(h *tar.Header, from io.Reader) error {
		files, read = files+1, read+h.Size
		return s.visit(&layers.Entry{Header: h, Path: h.Name, Content: from})
	})
	if err != nil {
		t.Fatal(err)
	}
	s.endLayer()
	t.Logf("%d files, %d MB", files, read>>20)
	for _, f := range s.found {
		if f.Rule == rulePrivateKey || f.Rule == ruleGCP {
			t.Log(f)
			continue
		}
		t.Error(f)
	}
}
