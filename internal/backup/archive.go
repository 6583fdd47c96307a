// Package backup writes all that an instance is into one archive while it
// runs, checks such an archive without a daemon, and makes a data directory of
// it again.
//
// # The archive
//
// A tar, compressed with zstd. Its entries, in this order:
//
//	kiln-backup                      what this is, and its version
//	instance                         the instance's id
//	journal/key, key.pub, heads.log  the journal's key and signed heads
//	journal/events/NNNNNNNNNNNN      the stored events from that number on, one a line
//	certificates/…                   as in the data directory
//	alerts.hcl, registry.yml, signing.key  likewise, since version 2
//	vault/secrets/…, vault/config/…  likewise, since version 3: values, of secrets encrypted; not their key
//	evidence/…                       if asked for
//	images/…                         an OCI layout of the images that releases need
//	manifest.json                    what is in it: each file with its digest, the journal's head
//	manifest.sig                     the signature of the journal's key over manifest.json
//
// The journal is not copied as the file that it is kept in, which changes all
// the time, but as the bytes that its chain covers: so that a backup needs no
// room on the machine's disk, holds nothing up, and is checked by the chain.
//
// Whoever has the archive has the instance's keys.
package backup

import (
	"archive/tar"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"time"

	"kiln/internal/api"
	"kiln/internal/journal"
	"kiln/internal/model"
)

const (
	format        = "kiln backup"
	formatVersion = 3 // 1 had no declared files, 2 no values

	markName     = "kiln-backup"
	instanceName = "instance"
	journalDir   = "journal/"
	eventsDir    = "journal/events/"
	certsDir     = "certificates/"
	evidenceDir  = "evidence/"
	imagesDir    = "images/"
	blobsDir     = "images/blobs/sha256/"
	manifestName = "manifest.json"
	sigName      = "manifest.sig"
)

// Single files of a data directory, unless the daemon is told other places, which
// are no business of a backup: the receivers of alerts, how the registry is kept,
// and the key that images are signed with.
const (
	AlertsFile   = "alerts.hcl"
	RegistryFile = "registry.yml"
	SigningKey   = "signing.key"
)

var declaredFiles = []string{AlertsFile, RegistryFile, SigningKey}

// Where in a data directory the values are that releases only name. Beside them
// lies the key of those that are secret, which is not to be where they are.
var valueDirs = []string{"vault/secrets/", "vault/config/"}

var valueFile = regexp.MustCompile(`^vault/(secrets/[0-9a-f]{64}\.age|config/[0-9a-f]{64})$`)

// mark is the first entry. It is read before anything else, so that a newer
// format is told from a damaged archive.
type mark struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
}

// manifest says what an archive holds.
type manifest struct {
	mark
	Instance model.InstanceID  `json:"instance"`
	MadeAt   time.Time         `json:"made_at"`
	Kiln     string            `json:"kiln"`
	Head     journal.Head      `json:"head"`
	Daemon   []string          `json:"daemon"`
	Images   []api.BackupImage `json:"images"`
	Missing  []api.BackupImage `json:"missing"`
	Files    []file            `json:"files"`
}

// file is an entry of the archive before the manifest.
type file struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (m *manifest) report() *api.BackupReport {
	return &api.BackupReport{
		Instance: m.Instance, MadeAt: m.MadeAt, Version: m.Kiln, Seq: m.Head.Seq, Hash: m.Head.Hash.String(),
		Images: m.Images, Missing: m.Missing, Files: len(m.Files), Daemon: m.Daemon,
	}
}

// signed is the text that the signature covers, in an archive of that version.
func signed(version int, manifest []byte) []byte {
	return append(fmt.Appendf(nil, "%s %d\n", format, version), manifest...)
}

func verifySignature(key ed25519.PublicKey, version int, manifest, signature []byte) bool {
	return ed25519.Verify(key, signed(version, manifest), signature)
}

// packer writes entries and remembers their digests.
type packer struct {
	tar   *tar.Writer
	at    time.Time
	files []file
}

// add writes one entry of exactly size bytes.
func (p *packer) add(name string, size int64, content io.Reader) error {
	if err := p.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: p.at, Format: tar.FormatPAX}); err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(p.tar, h), io.LimitReader(content, size))
	if err == nil && n < size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, n, size)
	}
	p.files = append(p.files, file{Name: name, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))})
	return err
}
