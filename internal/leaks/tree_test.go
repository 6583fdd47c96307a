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

// treeLayer is a layer that is packed while it is read.
type treeLayer struct {
	pack  func(*tar.Writer) error
	files int
	bytes int64
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

// hostOnly are the secrets of the machine itself, which no image has.
var hostOnly = []string{
	"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private", "/etc/machine-id", "/etc/wireguard", "/etc/NetworkManager", "/etc/letsencrypt", "/etc/kubernetes",
}

// machineLayer packs the machine's own files, so many bytes of each root at most.
func machineLayer(most int64, roots []string) *treeLayer {
	l := &treeLayer{}
	l.pack = func(t *tar.Writer) error {
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
				n, err := packFile(t, path, most/8)
				left, l.bytes = left-n, l.bytes+n
				l.files++
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return l
}

func packFile(t *tar.Writer, path string, most int64) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil // not this user's
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > most {
		return 0, err
	}
	if err := t.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: int64(info.Mode().Perm()), Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
		return 0, err
	}
	return io.CopyN(t, f, info.Size())
}

// TestThisMachine packs the machine's own files, hundreds of packages' worth of
// programs, manuals, certificates and examples, and wants no false finding in them.
// A private key is none: its form was checked, so that one is there (in packages of
// tests and examples), and it is only shown. KILN_TREE=all reads all of /usr.
func TestThisMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("reads many files")
	}
	l := machineLayer(400<<20, []string{"/etc", "/usr/share", "/usr/lib"})
	if os.Getenv("KILN_TREE") == "all" {
		l = machineLayer(1<<50, []string{"/etc", "/usr"})
	}
	s := newSearch(Allowed{})
	s.layer = layer{blob: l}
	if _, err := s.walk(t.Context(), s.layer, s.visit); err != nil {
		t.Fatal(err)
	}
	s.endLayer()
	t.Logf("%d files, %d MB", l.files, l.bytes>>20)
	for _, f := range s.found {
		if f.Rule == rulePrivateKey || f.Rule == ruleGCP {
			t.Log(f)
			continue
		}
		t.Error(f)
	}
}
