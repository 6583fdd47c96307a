package vault

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"kiln/internal/model"
)

// open returns the key; where there is none it is made, if that is wanted and
// nothing is there that was encrypted for another.
func (v *Vault) open(makes bool) (*key, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.key != nil {
		return v.key, nil
	}
	path := filepath.Join(v.dir, KeyFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && v.empty() && makes:
		return v.makeKeyLocked(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, model.Errorf(model.Precondition, "the key of the secrets, %s, is missing", path).
			WithHint("put it back from where it was kept; a backup has none. To begin anew without it: remove %s and deploy every service that has secrets", filepath.Join(v.dir, SecretsDir))
	case err != nil:
		return nil, model.Errorf(model.Unavailable, "cannot read the key of the secrets: %w", err)
	}
	identity, err := parseKey(string(text))
	if err != nil {
		return nil, model.Errorf(model.Precondition, "%s is no key of secrets: %w", path, err).
			WithHint("put it back from where it was kept")
	}
	v.key = keyOf(identity)
	return v.key, nil
}

// empty reports whether no secret is kept.
func (v *Vault) empty() bool {
	found, _ := filepath.Glob(filepath.Join(v.dir, SecretsDir, "*.age"))
	return len(found) == 0
}

func (v *Vault) makeKeyLocked(path string) (*key, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot make a key for secrets: %w", err)
	}
	text := fmt.Sprintf("# The key of this kiln's secrets. Keep a copy of it apart from backups.\n# created: %s\n%s\n",
		time.Now().UTC().Format(time.RFC3339), identity)
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return nil, cannotKeep(err)
	}
	if err := writeDurably(path, []byte(text)); err != nil {
		return nil, cannotKeep(err)
	}
	v.key = keyOf(identity)
	return v.key, nil
}

func keyOf(identity *age.X25519Identity) *key {
	mac := hmac.New(sha256.New, []byte(identity.String()))
	mac.Write([]byte("digests of kiln's secrets"))
	return &key{identity: identity, mac: mac.Sum(nil)}
}

func parseKey(text string) (*age.X25519Identity, error) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, errors.New("it holds no age identity") // err may quote it
		}
		return identity, nil
	}
	return nil, errors.New("it holds no age identity")
}

// touch marks a file as just written.
func touch(path string) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return cannotKeep(err)
	}
	return nil
}

// writeDurably writes a file that only its owner can read.
func writeDurably(path string, b []byte) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = os.Remove(fresh)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
