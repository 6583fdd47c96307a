// Package vault keeps what templates only name: the values of secrets,
// encrypted, and the contents of configuration files, each by a digest.
//
// Values are encrypted for a key that lies beside them, in a file that only root
// can read. That keeps them out of copies of single files and of backups, which
// have the values and not the key; it does not keep them from whoever is root on
// the machine, who can read the memory of every server anyway.
//
// The digest of a value is keyed with the same key, and bound to its service and
// its name: neither the journal nor the names of files give anything to guess
// from, or tell that two services have the same password.
package vault

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"filippo.io/age"

	"kiln/internal/model"
)

// The parts of a vault's directory.
const (
	KeyFile    = "key"
	SecretsDir = "secrets"
	ConfigDir  = "config"
)

// Vault is the values of one instance. Its methods may be called at once.
type Vault struct {
	dir string

	writing sync.Mutex // one file at a time

	mu   sync.Mutex
	key  *key           // nil: not read yet, or there is none yet
	held map[string]int // files that somebody is about to make a release of
}

// key is what values are encrypted for and their digests keyed with.
type key struct {
	identity *age.X25519Identity
	mac      []byte
}

// New returns the vault in the directory, which need not exist.
func New(dir string) *Vault { return &Vault{dir: dir, held: map[string]int{}} }

// Value is what is to be kept.
type Value struct {
	Service string
	Name    string // of a secret; "": it is a configuration file
	Bytes   []byte
}

// Digest returns what tells the value apart from others of its service and name.
// The key is made with the first secret.
func (v *Vault) Digest(x Value) (string, error) {
	if x.Name == "" {
		return contentDigest(x.Bytes), nil
	}
	k, err := v.open(true)
	if err != nil {
		return "", err
	}
	return k.digest(x.Service, x.Name, x.Bytes), nil
}

func contentDigest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (k *key) digest(service, name string, value []byte) string {
	mac := hmac.New(sha256.New, k.mac)
	fmt.Fprintf(mac, "%d %s %d %s ", len(service), service, len(name), name)
	mac.Write(value)
	return hex.EncodeToString(mac.Sum(nil))
}

// Keep stores the value durably and returns its digest. It stays at least until
// release is called: by then a release names it, or nothing needs it.
func (v *Vault) Keep(x Value) (digest string, release func(), err error) {
	if digest, err = v.Digest(x); err != nil {
		return "", nil, err
	}
	path := v.path(x.Name != "", digest)
	v.hold(path, 1)
	if err := v.write(path, x); err != nil {
		v.hold(path, -1)
		return "", nil, err
	}
	return digest, sync.OnceFunc(func() { v.hold(path, -1) }), nil
}

func (v *Vault) hold(path string, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.held[path] += n; v.held[path] <= 0 {
		delete(v.held, path)
	}
}

func (v *Vault) path(secret bool, digest string) string {
	if secret {
		return filepath.Join(v.dir, SecretsDir, digest+".age")
	}
	return filepath.Join(v.dir, ConfigDir, strings.TrimPrefix(digest, "sha256:"))
}

// write writes the value's file, unless a whole one is there.
func (v *Vault) write(path string, x Value) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	if have, err := v.read(path, x.Name != ""); err == nil && bytes.Equal(have, x.Bytes) {
		return touch(path)
	}
	b := x.Bytes
	if x.Name != "" {
		k, err := v.open(true)
		if err != nil {
			return err
		}
		if b, err = k.seal(x.Bytes); err != nil {
			return model.Errorf(model.Internal, "cannot encrypt secret %s: %w", x.Name, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return cannotKeep(err)
	}
	if err := writeDurably(path, b); err != nil {
		return cannotKeep(err)
	}
	return nil
}

// Secret returns the value that the reference of the service names.
func (v *Vault) Secret(_ context.Context, service string, ref model.SecretRef) ([]byte, error) {
	b, err := v.read(v.path(true, ref.Digest), true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, model.Errorf(model.Precondition, "version %d of secret %s is not kept here", ref.Version, ref.Name).
			WithHint("kiln deploy %s takes the value from its source anew; a backup has values, and not the key %s", service, filepath.Join(v.dir, KeyFile))
	case err != nil:
		return nil, model.Errorf(model.CodeOf(err), "version %d of secret %s cannot be read: %w", ref.Version, ref.Name, err).WithHint("%s", model.HintOf(err))
	}
	k, err := v.open(false)
	if err != nil {
		return nil, err
	}
	if k.digest(service, ref.Name, b) != ref.Digest {
		return nil, model.Errorf(model.Precondition, "version %d of secret %s is damaged: what is kept is another value", ref.Version, ref.Name).
			WithHint("kiln deploy %s takes the value from its source anew", service)
	}
	return b, nil
}

// Config returns the content that the reference names.
func (v *Vault) Config(_ context.Context, ref model.ConfigRef) ([]byte, error) {
	b, err := v.read(v.path(false, string(ref.Digest)), false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, model.Errorf(model.Precondition, "the content %s of %s is not kept here", ref.Digest.Short(), ref.Path).
			WithHint("kiln deploy takes it from its source anew; a backup has it")
	case err != nil:
		return nil, model.Errorf(model.Unavailable, "the content of %s cannot be read: %w", ref.Path, err)
	case contentDigest(b) != string(ref.Digest):
		return nil, model.Errorf(model.Precondition, "the content %s of %s is damaged", ref.Digest.Short(), ref.Path).
			WithHint("kiln deploy takes it from its source anew")
	}
	return b, nil
}

// Missing says which values of the template are not kept, in words.
func (v *Vault) Missing(ctx context.Context, t model.Template) []string {
	var missing []string
	for _, ref := range t.Secrets {
		if _, err := v.Secret(ctx, t.Service, ref); err != nil {
			missing = append(missing, err.Error())
		}
	}
	for _, ref := range t.Config {
		if _, err := v.Config(ctx, ref); err != nil {
			missing = append(missing, err.Error())
		}
	}
	return missing
}

// read returns what a file holds; a secret decrypted.
func (v *Vault) read(path string, secret bool) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil || !secret {
		return b, err
	}
	k, err := v.open(false)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(b), k.identity)
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, model.MaxValue+1))
	}
	if err != nil {
		return nil, model.Errorf(model.Precondition, "%s cannot be decrypted with %s: %w", path, filepath.Join(v.dir, KeyFile), err).
			WithHint("put back the key that it was encrypted for, or remove the file: kiln deploy takes the value from its source anew")
	}
	return b, nil
}

func (k *key) seal(value []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, k.identity.Recipient())
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(value); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func cannotKeep(err error) error {
	return model.Errorf(model.Unavailable, "cannot keep a value: %w", err).WithHint("%s", model.Exhausted(err))
}
