package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"

	"kiln/internal/model"
)

// minRSA is how many bits an RSA key has at least, and maxRSA at most: longer ones
// cost seconds.
const (
	minRSA = 2048
	maxRSA = 8192
)

// PrivateKey signs. It is shown as its id, never as what it is.
type PrivateKey struct {
	signer crypto.Signer
	public PublicKey
}

// PublicKey checks signatures. Its text form (MarshalText) is PEM.
type PublicKey struct {
	key crypto.PublicKey
	der []byte // PKIX, as in RFC 5280, 4.1
}

// Generate makes a key: ECDSA on P-256, as cosign makes them.
func Generate() (*PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot make a key: %w", err)
	}
	return newPrivateKey(key)
}

// newPrivateKey takes what Go's parsers return.
//
// Invalid: it is of a kind with which nothing is signed here.
func newPrivateKey(key any) (*PrivateKey, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, unusable(key)
	}
	public, err := newPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	return &PrivateKey{signer: signer, public: public}, nil
}

// newPublicKey takes what Go's parsers return.
//
// Invalid: it is of a kind with which nothing is signed here.
func newPublicKey(key crypto.PublicKey) (PublicKey, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return PublicKey{}, model.Errorf(model.Invalid, "it is an ECDSA key on the curve %s", k.Params().Name).WithHint("%s", kinds)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return PublicKey{}, model.Errorf(model.Invalid, "it is an RSA key of %d bits", n).WithHint("%s", kinds)
		}
	default:
		return PublicKey{}, unusable(key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, model.Errorf(model.Invalid, "the key cannot be used: %w", err).WithHint("%s", kinds)
	}
	return PublicKey{key: key, der: der}, nil
}

const kinds = "use ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits"

func unusable(key any) error {
	return model.Errorf(model.Invalid, "it is a key of the kind %T", key).WithHint("%s", kinds)
}

// Public returns the public half.
func (k *PrivateKey) Public() PublicKey { return k.public }

// String names the key without giving it away.
func (k *PrivateKey) String() string { return "private key " + k.public.ID() }

// GoString is String, for %#v.
func (k *PrivateKey) GoString() string { return k.String() }

// sign returns the signature of the message as the algorithm has it: ECDSA in ASN.1,
// RSA by PKCS #1 v1.5. The hash is the one that Sigstore has for the kind of key
// (https://github.com/sigstore/architecture-docs/blob/main/algorithm-registry.md).
func (k *PrivateKey) sign(message []byte) ([]byte, error) {
	var text []byte
	var err error
	switch key := k.public.key.(type) {
	case ed25519.PublicKey:
		text, err = k.signer.Sign(nil, message, crypto.Hash(0))
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P384() {
			sum := sha512.Sum384(message)
			text, err = k.signer.Sign(rand.Reader, sum[:], crypto.SHA384)
			break
		}
		sum := sha256.Sum256(message)
		text, err = k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	default:
		sum := sha256.Sum256(message)
		text, err = k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot sign with key %s: %w", k.public.ID(), err)
	}
	return text, nil
}

// verify reports whether the signature is the key's over the message. On P-384,
// SHA-256 is taken as well: that is what cosign uses unless told otherwise.
func (k PublicKey) verify(message, signature []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P384() {
			if sum := sha512.Sum384(message); ecdsa.VerifyASN1(key, sum[:], signature) {
				return true
			}
		}
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], signature)
	case *rsa.PublicKey:
		sum := sha256.Sum256(message)
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	}
	return false
}

// ID names the key: the SHA-256 of its PKIX form, in hexadecimal.
func (k PublicKey) ID() string {
	sum := sha256.Sum256(k.der)
	return hex.EncodeToString(sum[:])
}

// hint is the ID as cosign writes it into a bundle.
func (k PublicKey) hint() string {
	sum := sha256.Sum256(k.der)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// idOf returns the ID that a bundle's hint stands for, or the hint itself.
func idOf(hint string) string {
	if sum, err := base64.StdEncoding.DecodeString(hint); err == nil && len(sum) == sha256.Size {
		return hex.EncodeToString(sum)
	}
	return hint
}

// Algorithm says of which kind the key is, for people.
func (k PublicKey) Algorithm() string {
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	}
	return "none"
}

// String names the key.
func (k PublicKey) String() string { return k.ID() }

// Equal reports whether both are the same key.
func (k PublicKey) Equal(other PublicKey) bool { return string(k.der) == string(other.der) }

// PEM returns the key as PKIX in PEM ("PUBLIC KEY"), which every other tool reads.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der})
}

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) { return k.PEM(), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
//
// Invalid: as ParsePublicKey.
func (k *PublicKey) UnmarshalText(text []byte) error {
	parsed, err := ParsePublicKey("the key", text)
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}
