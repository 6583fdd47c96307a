package sign

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/youmark/pkcs8"

	"kiln/internal/model"
)

// What a caller who can ask for a passphrase asks for with errors.Is.
var (
	// ErrNoPassphrase: the key is encrypted, and no passphrase was given.
	ErrNoPassphrase = errors.New("it is encrypted, and no passphrase was given")
	// ErrWrongPassphrase: the key cannot be decrypted with the passphrase.
	ErrWrongPassphrase = errors.New("the passphrase is wrong, or the file is damaged")
)

// maxKeyFile is how large a key's file may be: what is longer is none.
const maxKeyFile = 64 << 10 // bytes

// derivations is how often PBKDF2 hashes a passphrase (OWASP, 2023): a fifth of a
// second for whoever knows it.
const derivations = 600_000

// PEM returns the key as PKCS #8 in PEM. With a passphrase it is encrypted as
// "openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256" does it (PBES2, RFC
// 8018, 6.2), and reads "ENCRYPTED PRIVATE KEY"; without one (nil or empty) it is
// in clear.
func (k *PrivateKey) PEM(passphrase []byte) ([]byte, error) {
	opts := &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: derivations, HMACHash: crypto.SHA256},
	}
	der, err := pkcs8.MarshalPrivateKey(k.signer, passphrase, opts)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot write %s: %w", k, err)
	}
	kind := "PRIVATE KEY"
	if len(passphrase) > 0 {
		kind = "ENCRYPTED PRIVATE KEY"
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), nil
}

// WriteFile writes the key, as PEM has it, to a new file that only its owner may
// read. After a crash at any moment the file is whole, or not there.
//
// Conflict: there is such a file. Unavailable: it cannot be written.
func (k *PrivateKey) WriteFile(path string, passphrase []byte) error {
	text, err := k.PEM(passphrase)
	if err != nil {
		return err
	}
	return writeNew(path, text, 0o600)
}

// WriteFile writes the key, as PEM has it, to a new file that everybody may read.
//
// Conflict: there is such a file. Unavailable: it cannot be written.
func (k PublicKey) WriteFile(path string) error { return writeNew(path, k.PEM(), 0o644) }

// ReplaceFile writes the key, as PEM has it, over a key's file. After a crash at any
// moment one of the two is there, whole.
//
// Unavailable: it cannot be written.
func (k *PrivateKey) ReplaceFile(path string, passphrase []byte) error {
	draft := path + "." + rand.Text()
	if err := k.WriteFile(draft, passphrase); err != nil {
		return err
	}
	err := os.Rename(draft, path)
	if err != nil {
		_ = os.Remove(draft)
		return model.Errorf(model.Unavailable, "cannot write the key %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot write the key %s: %w", path, err)
	}
	return nil
}

// writeNew makes a file that has the text as soon as it has its name.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	refuse := func(err error) error {
		if errors.Is(err, fs.ErrExist) {
			return model.Errorf(model.Conflict, "cannot write the key %s: there is such a file, and keys are never overwritten", path).
				WithHint("choose another name, or move the file away if its key is not needed any more")
		}
		return model.Errorf(model.Unavailable, "cannot write the key %s: %w", path, err)
	}
	if _, err := os.Lstat(path); err == nil {
		return refuse(fs.ErrExist)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return refuse(err)
	}
	defer dir.Close()
	draft := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	f, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return refuse(err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(draft, path) // unlike a renaming, it never replaces
	}
	if err = errors.Join(err, os.Remove(draft)); err != nil {
		return refuse(err)
	}
	if err := dir.Sync(); err != nil {
		return refuse(err)
	}
	return nil
}

// ReadPrivateKey reads a private key's file. The passphrase is not looked at where
// the key is not encrypted.
//
// NotFound: there is no such file. Denied: others than its owner and group may read
// or change it, or the passphrase is wrong (ErrWrongPassphrase). Precondition: it is
// encrypted, and there is no passphrase (ErrNoPassphrase). Invalid: it is no private
// key, or of no kind that is used here.
func ReadPrivateKey(path string, passphrase []byte) (*PrivateKey, error) {
	text, mode, err := read(path)
	if err != nil {
		return nil, err
	}
	if open := mode.Perm() & 0o027; open != 0 {
		return nil, model.Errorf(model.Denied, "cannot use %s as a private key: others may read or change it (its mode is %#o)", path, mode.Perm()).
			WithHint("chmod 600 %s; if others could read it until now, make a new key", path)
	}
	return ParsePrivateKey(path, text, passphrase)
}

// ReadPublicKey reads a public key's file.
//
// NotFound: there is no such file. Invalid: it is no public key, or of no kind that
// is used here.
func ReadPublicKey(path string) (PublicKey, error) {
	text, _, err := read(path)
	if err != nil {
		return PublicKey{}, err
	}
	return ParsePublicKey(path, text)
}

func read(path string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, model.Errorf(model.NotFound, "there is no key %s", path)
	}
	if err != nil {
		return nil, 0, model.Errorf(model.Denied, "cannot read the key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, model.Errorf(model.Unavailable, "cannot read the key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, model.Errorf(model.Invalid, "%s is no key: it is no file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, 0, model.Errorf(model.Unavailable, "cannot read the key: %w", err)
	}
	if len(text) > maxKeyFile {
		return nil, 0, model.Errorf(model.Invalid, "%s is no key: it has more than %d bytes", path, maxKeyFile)
	}
	return text, info.Mode(), nil
}

// ParsePrivateKey reads a private key: PKCS #8 in PEM, in clear or encrypted, the
// older forms of RSA and ECDSA in clear, or what cosign writes. what is how messages
// call it.
//
// Precondition: it is encrypted, and there is no passphrase (ErrNoPassphrase).
// Denied: the passphrase is wrong (ErrWrongPassphrase). Invalid: it is no private
// key, or of no kind that is used here.
func ParsePrivateKey(what string, text, passphrase []byte) (*PrivateKey, error) {
	var key any
	block, err := findBlock(text)
	if err == nil {
		key, err = parseBlock(what, block, passphrase)
	}
	var parsed *PrivateKey
	if err == nil {
		parsed, err = newPrivateKey(key)
	}
	if err != nil {
		return nil, model.Errorf(codeOr(err), "cannot use %s as a private key: %w", what, err).WithHint("%s", model.HintOf(err))
	}
	return parsed, nil
}

// codeOr is the class of an error of ours, and Invalid of a parser's.
func codeOr(err error) model.Code {
	if e, ok := errors.AsType[*model.Error](err); ok {
		return e.Code
	}
	return model.Invalid
}

func parseBlock(what string, block *pem.Block, passphrase []byte) (any, error) {
	if block.Headers["DEK-Info"] != "" {
		return nil, model.Errorf(model.Invalid, "it is encrypted in a way that is broken").
			WithHint("openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in %s -out NEW", what)
	}
	switch block.Type {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return decrypt(passphrase, func() (any, error) { return pkcs8.ParsePKCS8PrivateKey(block.Bytes, passphrase) })
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		return decrypt(passphrase, func() (any, error) {
			der, err := encrypted.Decrypt(block.Bytes, passphrase)
			if err != nil {
				return nil, err
			}
			return x509.ParsePKCS8PrivateKey(der)
		})
	case "OPENSSH PRIVATE KEY":
		return nil, model.Errorf(model.Invalid, "it is a private key of SSH").WithHint("ssh-keygen -p -m PKCS8 -f COPY makes a copy of it usable")
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return nil, model.Errorf(model.Invalid, "it is a public key").WithHint("name the private key that belongs to it")
	}
	return nil, model.Errorf(model.Invalid, "its PEM is of the kind %q", block.Type).
		WithHint("openssl pkcs8 -topk8 writes private keys that can be used")
}

// decrypt calls a parser of encrypted keys, which may panic on damaged ones.
func decrypt(passphrase []byte, parse func() (any, error)) (key any, err error) {
	if len(passphrase) == 0 {
		return nil, model.Errorf(model.Precondition, "%w", ErrNoPassphrase).WithHint("give the passphrase with which it was encrypted")
	}
	defer func() {
		if p := recover(); p != nil {
			key, err = nil, model.Errorf(model.Invalid, "it is damaged: %s", fmt.Sprint(p))
		}
	}()
	key, err = parse()
	if err != nil {
		return nil, model.Errorf(model.Denied, "%w", ErrWrongPassphrase).WithHint("give the passphrase with which it was encrypted (seen: %v)", err)
	}
	return key, nil
}

// ParsePublicKey reads a public key: PKIX in PEM. what is how messages call it.
//
// Invalid: it is no public key, or of no kind that is used here.
func ParsePublicKey(what string, text []byte) (PublicKey, error) {
	block, err := findBlock(text)
	var key any
	switch {
	case err != nil:
	case block.Type == "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case block.Type == "CERTIFICATE":
		err = model.Errorf(model.Invalid, "it is a certificate").WithHint("openssl x509 -in %s -noout -pubkey writes the key of it", what)
	case bytes.HasSuffix([]byte(block.Type), []byte("PRIVATE KEY")):
		err = model.Errorf(model.Invalid, "it is a private key").
			WithHint("openssl pkey -in %s -pubout writes the public key that belongs to it; never pass on the private one", what)
	default:
		err = model.Errorf(model.Invalid, "its PEM is of the kind %q", block.Type).WithHint("openssl pkey -pubin -in FILE -pubout writes public keys that can be used")
	}
	var parsed PublicKey
	if err == nil {
		parsed, err = newPublicKey(key)
	}
	if err != nil {
		return PublicKey{}, model.Errorf(codeOr(err), "cannot use %s as a public key: %w", what, err).WithHint("%s", model.HintOf(err))
	}
	return parsed, nil
}

// findBlock returns the first block of PEM that is not only about a key.
func findBlock(text []byte) (*pem.Block, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, model.Errorf(model.Invalid, "there is no PEM in it").WithHint("a key's file has a line that begins with -----BEGIN")
		}
		if block.Type != "EC PARAMETERS" {
			return block, nil
		}
	}
}
