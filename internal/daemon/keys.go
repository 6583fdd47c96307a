package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/backup"
	"kiln/internal/model"
	"kiln/internal/sign"
)

// keyFile is where the instance's private key is.
func (d *daemon) keyFile() (path string, passphrase []byte, err error) {
	path = d.cfg.SigningKey
	if path == "" {
		path = filepath.Join(d.cfg.DataDir, backup.SigningKey)
	}
	if d.cfg.SigningPassphrase == "" {
		return path, nil, nil
	}
	text, err := os.ReadFile(d.cfg.SigningPassphrase)
	if err != nil {
		return path, nil, model.Errorf(model.Invalid, "cannot read the passphrase of the signing key: %w", err)
	}
	if passphrase = bytes.TrimRight(text, "\r\n"); len(passphrase) == 0 {
		return path, nil, model.Errorf(model.Invalid, "the passphrase of the signing key is empty: %s", d.cfg.SigningPassphrase)
	}
	if kept, err := os.ReadFile(path); err == nil && bytes.Contains(kept, []byte("-----BEGIN")) && !bytes.Contains(kept, []byte("ENCRYPTED")) {
		return path, nil, model.Errorf(model.Invalid, "a passphrase is given for the signing key %s, which is not encrypted", path).
			WithHint("encrypt it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in %s -out NEW, and put that in its place with mode 0600", path)
	}
	return path, passphrase, nil
}

// openSigner reads the key, or makes one where there is none yet.
func (d *daemon) openSigner() error {
	path, passphrase, err := d.keyFile()
	if err != nil {
		return err
	}
	key, err := sign.ReadPrivateKey(path, passphrase)
	if model.CodeOf(err) == model.NotFound && d.cfg.SigningKey == "" {
		if key, err = sign.Generate(); err == nil {
			err = key.WriteFile(path, passphrase)
		}
	}
	if errors.Is(err, sign.ErrNoPassphrase) || errors.Is(err, sign.ErrWrongPassphrase) {
		return model.Errorf(model.CodeOf(err), "%w", err).WithHint("kiln daemon --signing-passphrase names the file with its passphrase")
	}
	if err != nil {
		return err
	}
	if known := d.state.Key(key.Public().ID()); known != nil && known.Revoked != nil {
		return model.Errorf(model.Precondition, "cannot sign with the key in %s: it is key %q, which was revoked: %s", path, known.Name, known.Revoked.Reason).
			WithHint("put another key there, or take it away: the daemon makes one")
	}
	d.signer, d.sources = &signer{d: d, key: key}, &sources{d: d}
	return nil
}

// adoptKey is what there is to write down of the key that the daemon was started
// with: it may be the first, or another than before.
func (d *daemon) adoptKey() []model.Payload {
	own, key := d.state.OwnKey(), described(d.signer.key.Public())
	switch {
	case own != nil && own.ID == key.ID:
		return nil
	case own == nil && len(d.state.Keys) == 0:
		key.Name, key.Own = ownName(d.state), true
		return []model.Payload{model.KeyTrusted{Key: key, Reason: "this kiln signs with it"}}
	default:
		key.Name, key.Own = ownName(d.state), true
		return []model.Payload{model.KeyRotated{Key: key, Reason: "the daemon was started with another key"}}
	}
}

// ownName is the name of the next key of the instance's own.
func ownName(s *model.State) string {
	for n := 1; ; n++ {
		if name := fmt.Sprintf("kiln-%d", n); s.Key(name) == nil {
			return name
		}
	}
}

func described(k sign.PublicKey) model.SigningKey {
	return model.SigningKey{ID: k.ID(), Algorithm: k.Algorithm(), PEM: string(k.PEM())}
}

// Parse implements server.Keys.
func (s *signer) Parse(pem string) (model.SigningKey, error) {
	key, err := sign.ParsePublicKey("the key", []byte(pem))
	if err != nil {
		return model.SigningKey{}, err
	}
	return described(key), nil
}

// Rotate implements server.Keys. A daemon that ends between the file and the journal
// is made up for by the next one (adoptKey).
func (s *signer) Rotate(ctx context.Context, by, reason string) (api.Key, error) {
	if s.d.cfg.SigningKey != "" {
		return api.Key{}, model.Errorf(model.Precondition, "cannot rotate the key: it was given, in %s", s.d.cfg.SigningKey).
			WithHint("put another key there and start the daemon anew: it notices, and what this one signed stays good")
	}
	path, passphrase, err := s.d.keyFile()
	if err != nil {
		return api.Key{}, err
	}
	next, err := sign.Generate()
	if err != nil {
		return api.Key{}, err
	}
	s.mu.Lock() // nothing is signed meanwhile
	defer s.mu.Unlock()
	if err := next.ReplaceFile(path, passphrase); err != nil {
		return api.Key{}, err
	}
	if reason == "" {
		reason = "it was rotated"
	}
	err = s.d.control.Do(ctx, by, func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		key := described(next.Public())
		key.Name, key.Own = ownName(st), true
		return []model.Payload{model.KeyRotated{Key: key, Reason: reason}}, nil
	})
	if err != nil {
		return api.Key{}, err
	}
	s.setKey(next)
	s.signOld()
	return s.Key(), nil
}

// private is the key that is signed with.
func (s *signer) private() *sign.PrivateKey {
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	return s.key
}

func (s *signer) setKey(key *sign.PrivateKey) {
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	s.key = key
}

// ring is the keys that are believed, and what they were used for.
func (s *signer) ring() (sign.Keyring, error) {
	var known []model.SigningKey
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		for _, k := range st.Keys {
			known = append(known, *k)
		}
	})
	return ringOf(known)
}

func ringOf(known []model.SigningKey) (sign.Keyring, error) {
	keys := make([]sign.Key, len(known))
	for i, k := range known {
		public, err := sign.ParsePublicKey("key "+k.Name, []byte(k.PEM))
		if err != nil {
			return sign.Keyring{}, err
		}
		keys[i] = sign.Key{Name: k.Name, Public: public, NotBefore: k.NotBefore, NotAfter: k.NotAfter, Ended: k.Ended}
		switch r := k.Revoked; {
		case r == nil:
		case r.Since.IsZero() || !k.NotBefore.Before(r.Since): // nothing that it signed is older
			keys[i].Revoked = r.Reason
		case k.NotAfter.IsZero() || r.Since.Before(k.NotAfter):
			keys[i].NotAfter, keys[i].Ended = r.Since, "it was revoked: "+r.Reason
		}
	}
	return sign.NewKeyring(keys...)
}

// memory is what the journal knows of an image's bundles.
func memory(img model.Image) sign.Memory {
	return func(bundle digest.Digest) (time.Time, bool) {
		for _, said := range img.Statements {
			if said.Bundle == model.Digest(bundle) {
				return said.At, true
			}
		}
		return time.Time{}, false
	}
}
