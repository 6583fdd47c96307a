package leaks

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// treeLayer is the machine's own files as a layer, packed while it is read.
type treeLayer struct {
	roots []string
	skip  func(path string) bool
	files int
}

func (l *treeLayer) Digest() (v1.Hash, error)             { return v1.Hash{Algorithm: "sha256", Hex: "1"}, nil }
func (l *treeLayer) DiffID() (v1.Hash, error)             { return l.Digest() }
func (l *treeLayer) Size() (int64, error)                 { return 0, nil }
func (l *treeLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l *treeLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

func (l *treeLayer) Compressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		err := l.pack(t)
		_ = w.CloseWithError(errors.Join(err, t.Close()))
	}()
	return r, nil
}

func (l *treeLayer) pack(t *tar.Writer) error {
	for _, root := range l.roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || l.skip(path):
				if d != nil && d.IsDir() {
					return fs.SkipDir
				}
				return nil // it is not there any more, or not for this test
			case !d.Type().IsRegular():
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return nil //nolint:nilerr // not this user's
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			l.files++
			if err := t.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o644, Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
				return err
			}
			_, err = io.CopyN(t, f, info.Size())
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// TestThisMachine packs the machine's own files, thousands of packages' worth of
// programs, manuals, certificates and examples, and wants no false finding in them.
// A private key is none: its form was checked, so that one is there (in packages
// of tests and examples), and it is only shown. KILN_TREE=all reads all of /usr.
func TestThisMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("reads gigabytes")
	}
	hostOnly := []string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private", "/etc/machine-id", "/etc/wireguard", "/etc/NetworkManager", "/etc/letsencrypt", "/etc/kubernetes"}
	roots, most := []string{"/etc", "/usr/share", "/usr/lib"}, int64(700<<20)
	if os.Getenv("KILN_TREE") == "all" {
		roots, most = []string{"/etc", "/usr"}, 1<<50
	}
	total, inRoot, root := int64(0), int64(0), ""
	l := &treeLayer{roots: roots, skip: func(path string) bool {
		if slices.Contains(roots, path) {
			root, inRoot = path, 0
		}
		info, err := os.Lstat(path)
		if err != nil || slices.Contains(hostOnly, path) || inRoot > most || info.Size() > most/8 {
			return true
		}
		if info.Mode().IsRegular() && below(path, root) {
			inRoot += info.Size()
			total += info.Size()
		}
		return false
	}}
	s := newSearch(Allowed{})
	s.layer = layer{blob: l}
	if _, err := s.walk(t.Context(), s.layer, s.visit); err != nil {
		t.Fatal(err)
	}
	s.endLayer()
	t.Logf("%d files, %d MB", l.files, total>>20)
	for _, f := range s.found {
		if f.Rule == rulePrivateKey || f.Rule == ruleGCP {
			t.Log(f)
			continue
		}
		t.Error(f)
	}
}
