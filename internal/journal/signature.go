package journal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	headsName  = "heads.log"
	keyName    = "key"
	publicName = "key.pub"
	// signEvery is how many events apart signed heads are.
	signEvery = 1000
)

// SignedHead is a line of heads.log: a head that the journal's key vouches for.
// A copy kept elsewhere shows a rewrite of the whole journal.
type SignedHead struct {
	Seq       uint64    `json:"seq"`
	Hash      Hash      `json:"hash"`
	At        time.Time `json:"at"` // of the event
	Key       []byte    `json:"key"`
	Signature []byte    `json:"signature"`
}

func (s SignedHead) message() []byte {
	return fmt.Appendf(nil, "kiln journal head 1\n%d\n%s\n%s\n", s.Seq, s.Hash, s.At.UTC().Format(time.RFC3339Nano))
}

// Valid reports whether the head was signed with the private half of key.
func (s SignedHead) Valid(key ed25519.PublicKey) bool {
	return bytes.Equal(s.Key, key) && ed25519.Verify(key, s.message(), s.Signature)
}

func signHead(key ed25519.PrivateKey, e Entry) SignedHead {
	s := SignedHead{Seq: e.Event.Seq, Hash: e.Hash, At: e.Event.At.UTC(), Key: publicKey(key)}
	s.Signature = ed25519.Sign(key, s.message())
	return s
}

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey {
	return key.Public().(ed25519.PublicKey) // as its documentation says
}

// readHeads reads heads.log. The length is that of its whole lines: a crash
// may have left a part of one behind them.
func readHeads(dir string) (heads []SignedHead, length int64, err error) {
	b, err := os.ReadFile(filepath.Join(dir, headsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			return heads, length, nil
		}
		var h SignedHead
		if err := json.Unmarshal(line, &h); err != nil {
			h = SignedHead{} // a line without a valid signature
		}
		heads = append(heads, h)
		length += int64(len(line)) + 1
		b = rest
	}
}

// appendHead adds a line to heads.log, durably, behind the first length bytes.
func appendHead(dir string, length int64, s SignedHead) (int64, error) {
	line, err := json.Marshal(s)
	if err != nil {
		return length, err
	}
	f, err := os.OpenFile(filepath.Join(dir, headsName), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return length, err
	}
	err = f.Truncate(length) // what a crash left of a line
	if err == nil {
		_, err = f.WriteAt(append(line, '\n'), length)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return length, err
	}
	return length + int64(len(line)) + 1, syncDir(dir)
}

// readKey returns the journal's key, nil if there is none.
func readKey(dir string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(filepath.Join(dir, keyName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it is not in PEM form")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("it is not an Ed25519 key")
	}
	public, err := encodePublic(key)
	if err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(filepath.Join(dir, publicName)); err != nil || !bytes.Equal(b, public) {
		return nil, fmt.Errorf("%s is not its public half", publicName)
	}
	return key, nil
}

func encodePublic(key ed25519.PrivateKey) ([]byte, error) {
	b, err := x509.MarshalPKIXPublicKey(publicKey(key))
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b}), err
}

func decodePublic(b []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it is not in PEM form")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("it is not an Ed25519 key")
	}
	return key, nil
}

// createKey makes the key and, for those who check signatures elsewhere, its
// public half.
func createKey(dir string) (ed25519.PrivateKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	public, err := encodePublic(private)
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, publicName), public, 0o644); err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	return private, writeFile(filepath.Join(dir, keyName), block, 0o600)
}
