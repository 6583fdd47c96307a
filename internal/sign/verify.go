package sign

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

// Why a bundle is not believed, for errors.Is. The errors that wrap them say what
// was seen.
var (
	// ErrNoBundle: it is no bundle with a statement of in-toto in it.
	ErrNoBundle = errors.New("it is no Sigstore bundle with a statement")
	// ErrUnknownKey: it was not signed with one of the keys.
	ErrUnknownKey = errors.New("it was not signed with a known key")
	// ErrBadSignature: it names one of the keys, and the signature is not that
	// key's over what is in it.
	ErrBadSignature = errors.New("its signature does not hold")
	// ErrOtherImage: the signature holds, for another image.
	ErrOtherImage = errors.New("it is of another image")
	// ErrOtherType: the signature holds, for this image, and the statement is of
	// another type than was asked for.
	ErrOtherType = errors.New("it says something else")
	// ErrKeyNotInUse: the signature holds, and its key was not in use when it was
	// made, or nobody remembers that it was.
	ErrKeyNotInUse = errors.New("its key is not in use")
)

// Verified is what a bundle says, now that it was checked.
type Verified struct {
	Statement Statement
	Key       PublicKey
	Name      string // of the key in its Keyring; "" from Verify
}

// Verify checks a bundle: one of the keys has signed it, it is about the image, and
// what it says is of the type ("": of any). Keys count as valid for ever: see Keyring
// for keys that change.
//
// Invalid: it is no bundle (ErrNoBundle), or no digest of an image. Denied: it is not
// to be believed, or not what was asked for (ErrUnknownKey, ErrBadSignature,
// ErrOtherImage, ErrOtherType).
func Verify(text []byte, keys []PublicKey, image digest.Digest, predicateType string) (Verified, error) {
	named := make([]Key, len(keys))
	for i, k := range keys {
		named[i] = Key{Public: k}
	}
	return verify(text, named, image, predicateType)
}

func verify(text []byte, keys []Key, image digest.Digest, predicateType string) (Verified, error) {
	if err := checkDigest(image); err != nil {
		return Verified{}, err
	}
	refuse := func(why error, format string, args ...any) *model.Error {
		return model.Errorf(model.Denied, "cannot trust what is attached to %s: %w: %s", image, why, fmt.Sprintf(format, args...))
	}
	b, err := parseBundle(text)
	if err != nil {
		return Verified{}, model.Errorf(model.Invalid, "cannot trust what is attached to %s: %w", image, err).WithHint("%s", model.HintOf(err))
	}
	signer, err := b.signer(keys, refuse)
	if err != nil {
		return Verified{}, err
	}
	// Only now is it worth reading what was signed.
	s, err := parseStatement(b.payload)
	if err != nil {
		return Verified{}, model.Errorf(model.Invalid, "cannot trust what is attached to %s: %w: %v", image, ErrNoBundle, err).WithHint(writers)
	}
	if !s.about(image) {
		return Verified{}, refuse(ErrOtherImage, "key %s has signed it for %s, not for %s", signer, s.subjects(), image).
			WithHint("it was moved over from there: look who may write to this repository")
	}
	if predicateType != "" && s.PredicateType != predicateType {
		return Verified{}, refuse(ErrOtherType, "it is a statement of the type %s, not %s", s.PredicateType, predicateType)
	}
	return Verified{Statement: s, Key: signer.Public, Name: signer.Name}, nil
}

// signer returns the key with which the bundle was signed. Its hint only serves to
// say what is wrong: anybody can change it.
func (b bundle) signer(keys []Key, refuse func(error, string, ...any) *model.Error) (Key, error) {
	message := encoded(payloadType, b.payload)
	for _, k := range keys {
		if k.Public.verify(message, b.signature) {
			return k, nil
		}
	}
	known := make([]string, len(keys))
	for i, k := range keys {
		if k.Public.hint() == b.hint {
			return Key{}, refuse(ErrBadSignature, "it says that key %s has signed it, and it was changed since, or never signed with that key", k).
				WithHint("get the image and its signatures again from where they were made; if it stays so, somebody changes them")
		}
		known[i] = k.String()
	}
	by := "it names no key"
	if b.hint != "" {
		by = "it names key " + idOf(b.hint)
	}
	if len(keys) == 0 {
		return Key{}, refuse(ErrUnknownKey, "%s, and no keys are trusted", by).WithHint("name the public keys that are to be trusted")
	}
	return Key{}, refuse(ErrUnknownKey, "%s; trusted are %s", by, strings.Join(known, ", ")).
		WithHint("if that key is to be trusted, add its public key to the trusted ones")
}

// subjects names what the statement is about.
func (s Statement) subjects() string {
	var names []string
	for _, subject := range s.Subjects {
		for algorithm, hex := range subject.Digest {
			names = append(names, algorithm+":"+hex)
		}
	}
	switch {
	case len(names) == 0:
		return "nothing that has a digest"
	case len(names) > 3:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// Untrusted reports whether the error says that a bundle is not to be believed, or
// not what was asked for: among several bundles of an image such a one is passed
// over.
func Untrusted(err error) bool {
	for _, why := range []error{ErrNoBundle, ErrUnknownKey, ErrBadSignature, ErrOtherImage, ErrOtherType, ErrKeyNotInUse} {
		if errors.Is(err, why) {
			return true
		}
	}
	return false
}
