package sign

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

// Key is a public key, and from when to when it is used for signing.
type Key struct {
	Name   string
	Public PublicKey
	// NotBefore is when its use begins; zero: it always was in use.
	NotBefore time.Time
	// NotAfter is when its use ends, for its rotation or because it got into other
	// hands (then: when it did); zero: it is in use.
	NotAfter time.Time
	// Ended says why its use ended, for people; "": it was to end then.
	Ended string
	// Revoked says why nothing that it signed counts any more; "": it does.
	Revoked string
}

// String names the key for messages.
func (k Key) String() string {
	if k.Name == "" {
		return k.Public.ID()
	}
	return fmt.Sprintf("%q (%s)", k.Name, k.Public.ID())
}

// why says why its use ended.
func (k Key) why() string {
	if k.Ended == "" {
		return " (it has expired)"
	}
	return " (" + k.Ended + ")"
}

// usedAt reports whether the key was in use at the time.
func (k Key) usedAt(t time.Time) bool {
	return !t.Before(k.NotBefore) && (k.NotAfter.IsZero() || t.Before(k.NotAfter))
}

// Keyring is the keys that are trusted, and those that once were. It does not change.
//
// Keys are rotated: a new one is added, and the old one gets an end of its use. What
// the old one signed before stays good, and what it signs afterwards does not count,
// because by then somebody else may have it. But a signature does not prove when it
// was made: whoever has the old key can sign today and write any date. Only a record
// that cannot be changed afterwards tells them apart. kiln has one, its journal, and
// so Verify is told what it remembers.
//
// The caller therefore notes the BundleDigest of each bundle that it makes, or that
// Verify accepts from elsewhere, together with the time, and gives that back as a
// Memory. What it notes is the digest of the whole bundle, not of the image: else an
// old key could still put any new statement, an approval say, on an image that it
// once signed.
//
// A key that was never to be trusted is Revoked, or left out of the ring altogether:
// with it, all that it signed falls.
type Keyring struct{ keys []Key }

// Memory says when the caller first accepted or made a bundle; false: it does not
// know of it. It is asked only about signatures that hold.
type Memory func(bundle digest.Digest) (time.Time, bool)

// BundleDigest is by what a Memory knows a bundle: the SHA-256 of its bytes, as it
// is a blob in a registry.
func BundleDigest(text []byte) digest.Digest { return digest.FromBytes(text) }

// NewKeyring returns the keys as a ring.
//
// Invalid: a name or a key is there twice, a name is missing, or a use ends before
// it begins.
func NewKeyring(keys ...Key) (Keyring, error) {
	names, ids := map[string]bool{}, map[string]string{}
	for _, k := range keys {
		switch first, twice := ids[k.Public.ID()]; {
		case k.Name == "":
			return Keyring{}, model.Errorf(model.Invalid, "the key %s has no name", k.Public.ID())
		case k.Public.key == nil:
			return Keyring{}, model.Errorf(model.Invalid, "the key %q has no public key", k.Name)
		case names[k.Name]:
			return Keyring{}, model.Errorf(model.Invalid, "there are two keys of the name %q", k.Name)
		case twice:
			return Keyring{}, model.Errorf(model.Invalid, "%q and %q are the same key", first, k.Name).
				WithHint("a key has one name, and one time of use")
		case !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter):
			return Keyring{}, model.Errorf(model.Invalid, "the use of key %q ends at %s, before it begins", k.Name, stamp(k.NotAfter))
		}
		names[k.Name], ids[k.Public.ID()] = true, k.Name
	}
	return Keyring{keys: append([]Key(nil), keys...)}, nil
}

// Keys returns the keys, in the order in which they were given.
func (r Keyring) Keys() []Key { return append([]Key(nil), r.keys...) }

// Verify checks a bundle as the function Verify does, and that its key is in use now,
// or was when the caller first knew of the bundle. memory may be nil: nothing is
// remembered.
//
// Invalid and Denied: as the function; Denied also where the key is not, and was
// not, in use (ErrKeyNotInUse).
func (r Keyring) Verify(text []byte, image digest.Digest, predicateType string, now time.Time, memory Memory) (Verified, error) {
	v, err := verify(text, r.keys, image, predicateType)
	if err != nil {
		return Verified{}, err
	}
	key := r.key(v.Name)
	refuse := func(format string, args ...any) *model.Error {
		return model.Errorf(model.Denied, "cannot trust what is attached to %s: %w: %s", image, ErrKeyNotInUse, fmt.Sprintf(format, args...))
	}
	again := "sign the image again with a key that is in use"
	if key.Revoked != "" {
		return Verified{}, refuse("key %s was revoked: %s", key, key.Revoked).WithHint("%s", again)
	}
	if key.usedAt(now) {
		return v, nil
	}
	if now.Before(key.NotBefore) {
		return Verified{}, refuse("the use of key %s begins at %s", key, stamp(key.NotBefore)).
			WithHint("is the clock right? it is %s", stamp(now))
	}
	var first time.Time
	var known bool
	if memory != nil {
		first, known = memory(BundleDigest(text))
	}
	switch {
	case !known:
		return Verified{}, refuse("the use of key %s ended at %s%s, and nothing tells that this was signed before", key, stamp(key.NotAfter), key.why()).
			WithHint("%s", again)
	case !key.usedAt(first):
		return Verified{}, refuse("the use of key %s ended at %s%s, and this was first seen at %s", key, stamp(key.NotAfter), key.why(), stamp(first)).
			WithHint("%s", again)
	}
	return v, nil
}

func (r Keyring) key(name string) Key {
	for _, k := range r.keys {
		if k.Name == name {
			return k
		}
	}
	return Key{}
}

// stamp writes a time as everywhere in kiln: RFC 3339 in UTC.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
