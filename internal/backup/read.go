package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/api"
	"kiln/internal/journal"
	"kiln/internal/model"
)

// maxText bounds what is read into memory of one entry: parts of the journal
// and descriptions, never layers.
const maxText = 1 << 30

// sink takes the files of an archive. It hears of an entry once, and nothing
// that it took counts before the reader has come to the end without an error.
type sink interface {
	// events takes the next events of the journal.
	events(ctx context.Context, lines []byte) error
	// chain is what was taken.
	chain() *journal.Chain
	// file takes any other file.
	file(name string, content io.Reader) error
}

// reader checks an archive while it is read.
type reader struct {
	ctx     context.Context
	to      sink
	version int // of the archive's format
	files   []file
	texts   map[string][]byte // the small entries
	blobs   map[string]bool   // that are there, by digest
}

// Verify checks an archive from its first byte to its last: the digest of each
// file, the journal's chain, what is signed, and that images are whole.
func Verify(ctx context.Context, r io.Reader) (*api.BackupReport, error) {
	to := &checkOnly{journal.NewChain()}
	m, key, signedHeads, err := read(ctx, r, to)
	if err != nil {
		return nil, err
	}
	report := m.report()
	report.Volumes = volumesOf(to.c.State())
	report.Key, report.Signed = fmt.Sprintf("%x", key), signedHeads
	return report, nil
}

// volumesOf names the volumes that a journal knows.
func volumesOf(s *model.State) (names []string) {
	for _, service := range slices.Sorted(maps.Keys(s.Services)) {
		for _, v := range s.Services[service].Volumes {
			names = append(names, service+"/"+v.Name)
		}
	}
	return names
}

// checkOnly is a sink that keeps nothing.
type checkOnly struct{ c *journal.Chain }

func (s *checkOnly) events(_ context.Context, lines []byte) error {
	_, err := s.c.Add(lines)
	return err
}

func (s *checkOnly) chain() *journal.Chain { return s.c }

func (s *checkOnly) file(_ string, content io.Reader) error {
	_, err := io.Copy(io.Discard, content)
	return err
}

// read hands an archive to a sink, and returns its manifest once everything
// fits.
func read(ctx context.Context, r io.Reader, to sink) (*manifest, ed25519.PublicKey, int, error) {
	counted := &counter{r: r}
	z, err := zstd.NewReader(counted, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, nil, 0, counted.explain(err)
	}
	defer z.Close()
	in := &reader{ctx: ctx, to: to, texts: map[string][]byte{}, blobs: map[string]bool{}}
	err = in.entries(tar.NewReader(z))
	if err == nil {
		_, err = io.Copy(io.Discard, z) // behind the last entry: a checksum of all
	}
	if err != nil {
		return nil, nil, 0, counted.explain(err)
	}
	m, key, signedHeads, err := in.judge()
	if err != nil {
		return nil, nil, 0, damaged(err)
	}
	return m, key, signedHeads, nil
}

func (in *reader) entries(t *tar.Reader) error {
	for first := true; ; first = false {
		if err := in.ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF && !first {
			return nil
		}
		if err != nil {
			return err
		}
		if first {
			if err := in.mark(h, t); err != nil {
				return err
			}
			continue
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || filepath.ToSlash(filepath.Clean(h.Name)) != h.Name {
			return fmt.Errorf("it has an entry %q", h.Name)
		}
		if err := in.entry(h, t); err != nil {
			return err
		}
	}
}

// mark reads the first entry, which says what this is.
func (in *reader) mark(h *tar.Header, t *tar.Reader) error {
	var is mark
	b, err := io.ReadAll(io.LimitReader(t, 4096))
	if err != nil {
		return err
	}
	if h.Name != markName || json.Unmarshal(b, &is) != nil || is.Format != format {
		return noBackup()
	}
	if is.Version < 1 || is.Version > formatVersion {
		return model.Errorf(model.Invalid, "cannot read the backup: its format is version %d, and this kiln knows those up to %d", is.Version, formatVersion).
			WithHint("use the kiln that made it, or a newer one")
	}
	in.version = is.Version
	in.note(h, sha256.Sum256(b))
	return nil
}

func (in *reader) note(h *tar.Header, sum [sha256.Size]byte) {
	in.files = append(in.files, file{Name: h.Name, Size: h.Size, SHA256: hex.EncodeToString(sum[:])})
}

// entry hands one file on, and computes its digest on the way.
func (in *reader) entry(h *tar.Header, t io.Reader) error {
	digest := sha256.New()
	content := io.TeeReader(t, digest)
	var err error
	switch {
	case strings.HasPrefix(h.Name, eventsDir):
		err = in.events(h, content)
	case h.Name == manifestName, h.Name == sigName:
		in.texts[h.Name], err = text(h, content)
		return err // no file of the manifest's own list
	case h.Name == instanceName, strings.HasPrefix(h.Name, journalDir), strings.HasPrefix(h.Name, imagesDir) && !strings.HasPrefix(h.Name, blobsDir):
		if in.texts[h.Name], err = text(h, content); err == nil {
			err = in.to.file(h.Name, bytes.NewReader(in.texts[h.Name]))
		}
	case strings.HasPrefix(h.Name, blobsDir), strings.HasPrefix(h.Name, certsDir), strings.HasPrefix(h.Name, evidenceDir), valueFile.MatchString(h.Name), slices.Contains(declaredFiles, h.Name):
		err = in.blob(h, content, digest)
	default:
		err = fmt.Errorf("it has an entry %q", h.Name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	in.note(h, [sha256.Size]byte(digest.Sum(nil)))
	return nil
}

func text(h *tar.Header, r io.Reader) ([]byte, error) {
	if h.Size > maxText {
		return nil, fmt.Errorf("it has %d bytes", h.Size)
	}
	return io.ReadAll(r)
}

func (in *reader) events(h *tar.Header, r io.Reader) error {
	lines, err := text(h, r)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%s%012d", eventsDir, in.to.chain().Head().Seq+1); h.Name != want {
		return fmt.Errorf("%s should come here", want)
	}
	return in.to.events(in.ctx, lines)
}

// blob hands on a file that may be large. A small one that is part of an image
// is remembered: it may be the manifest that says what else has to be there.
func (in *reader) blob(h *tar.Header, r io.Reader, digest hash.Hash) error {
	const describes = 1 << 20
	var seen bytes.Buffer
	hex64, isPart := strings.CutPrefix(h.Name, blobsDir)
	if isPart && h.Size <= describes {
		r = io.TeeReader(r, &seen)
	}
	if err := in.to.file(h.Name, r); err != nil {
		return err
	}
	if isPart && hex64 != hex.EncodeToString(digest.Sum(nil)) {
		return errors.New("its content is not what its name says")
	}
	if isPart {
		in.blobs[hex64] = true
		in.texts[h.Name] = seen.Bytes()
	}
	return nil
}

// judge holds what was read against the manifest, and that against its
// signature.
func (in *reader) judge() (*manifest, ed25519.PublicKey, int, error) {
	text, signature := in.texts[manifestName], in.texts[sigName]
	m := new(manifest)
	if text == nil || signature == nil {
		return nil, nil, 0, errors.New("its manifest is missing: it was cut off")
	}
	key, err := journal.PublicKey(in.texts[journalDir+"key.pub"])
	if err != nil {
		return nil, nil, 0, fmt.Errorf("the journal's key: %w", err)
	}
	if !verifySignature(key, in.version, text, signature) {
		return nil, nil, 0, errors.New("its manifest is not signed by the journal's key")
	}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, nil, 0, fmt.Errorf("its manifest: %w", err)
	}
	if err := in.compareFiles(m); err != nil {
		return nil, nil, 0, err
	}
	chain := in.to.chain()
	if chain.Head() != m.Head {
		return nil, nil, 0, fmt.Errorf("its journal ends with event %d, %s; the manifest says %d, %s", chain.Head().Seq, chain.Head().Hash, m.Head.Seq, m.Head.Hash)
	}
	if id := strings.TrimSpace(string(in.texts[instanceName])); id != string(m.Instance) || chain.State().Instance != m.Instance {
		return nil, nil, 0, fmt.Errorf("its files are of different instances: %s, %s and %s", m.Instance, id, chain.State().Instance)
	}
	signedHeads, err := chain.Signed(in.texts[journalDir+"heads.log"], key)
	if err != nil {
		return nil, nil, 0, err
	}
	return m, key, signedHeads, in.wholeImages(m)
}

func (in *reader) compareFiles(m *manifest) error {
	for i, f := range in.files {
		if i >= len(m.Files) || m.Files[i] != f {
			return fmt.Errorf("%s is not what the manifest says", f.Name)
		}
	}
	if len(in.files) < len(m.Files) {
		return fmt.Errorf("%s is missing", m.Files[len(in.files)].Name)
	}
	return nil
}

// wholeImages checks that every part of every image is there.
func (in *reader) wholeImages(m *manifest) error {
	for _, img := range m.Images {
		var parts ocispec.Manifest
		if err := json.Unmarshal(in.texts[blobsDir+strings.TrimPrefix(string(img.Image), "sha256:")], &parts); err != nil {
			return fmt.Errorf("image %s has no manifest", img.Image)
		}
		for _, p := range append([]ocispec.Descriptor{parts.Config}, parts.Layers...) {
			if !in.blobs[p.Digest.Encoded()] {
				return fmt.Errorf("image %s lacks %s", img.Image, p.Digest)
			}
		}
	}
	return nil
}

func noBackup() error {
	return model.Errorf(model.Invalid, "cannot read the backup: this is not one").
		WithHint("a backup is what `kiln backup FILE` wrote")
}

func damaged(err error) error {
	return model.Errorf(model.Precondition, "cannot use the backup: it is damaged: %w", err).
		WithHint("nothing of it was used; take another copy of it, or an older backup")
}

// counter remembers how much was read, and a failure to read, so that it is not
// mistaken for a defect of the archive.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func (c *counter) explain(err error) error {
	switch code := model.CodeOf(err); {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case c.err != nil:
		return model.Errorf(model.Unavailable, "cannot read the backup: after %d bytes: %w", c.n, c.err)
	case code == model.Invalid, code == model.Unavailable: // not the archive's fault, or no archive
		return err
	case errors.Is(err, zstd.ErrMagicMismatch), c.n == 0:
		return noBackup()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return damaged(fmt.Errorf("it is cut off after %d bytes", c.n))
	default:
		return damaged(err)
	}
}
