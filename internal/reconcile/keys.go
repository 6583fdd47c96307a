package reconcile

import (
	"time"

	"kiln/internal/model"
)

// TrustKey has signatures of another's key believed. Nothing follows where the key
// is trusted under that name already.
func TrustKey(s *model.State, k model.SigningKey, reason string) ([]model.Payload, error) {
	refuse := func(format string, args ...any) *model.Error {
		return model.Errorf(model.Conflict, "cannot trust key %q: "+format, append([]any{k.Name}, args...)...)
	}
	switch same, named := s.Key(k.ID), s.Key(k.Name); {
	case !ValidKeyName(k.Name):
		return nil, model.Errorf(model.Invalid, "cannot trust a key as %q: that is no name", k.Name).
			WithHint("a name has letters, digits, dots, dashes and underscores, at most 64, and begins with a letter: --name alice")
	case !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter):
		return nil, model.Errorf(model.Invalid, "cannot trust key %q: its use ends at %s, before it begins", k.Name, stamp(k.NotAfter))
	case same != nil && same.Revoked != nil:
		return nil, refuse("it is key %q, which %s has revoked: %s", same.Name, same.Revoked.By, same.Revoked.Reason).
			WithHint("its owner has to make a new one")
	case same != nil && same.Own:
		return nil, refuse("it is this kiln's own, %s", same.Name)
	case same != nil && same.Name == k.Name && same.NotBefore.Equal(k.NotBefore) && same.NotAfter.Equal(k.NotAfter):
		return nil, nil
	case same != nil:
		return nil, refuse("it is known already, as %s", same.Name).WithHint("kiln key distrust %s, to name it anew", same.Name)
	case named != nil:
		return nil, refuse("there is another key of that name, %s", named.ID[:min(12, len(named.ID))]).
			WithHint("take another name, or first: kiln key distrust %s", named.Name)
	}
	return []model.Payload{model.KeyTrusted{Key: k, Reason: reason}}, nil
}

// ValidKeyName reports whether a key may have the name.
func ValidKeyName(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '-' && r != '_' && r != '.') {
			return false
		}
	}
	return true
}

// DistrustKey forgets another's key: all that it signed falls.
func DistrustKey(s *model.State, name, reason string) ([]model.Payload, error) {
	switch k := s.Key(name); {
	case k == nil:
		return nil, noKey("distrust", name)
	case k.Own:
		return nil, model.Errorf(model.Precondition, "cannot distrust key %q: it is this kiln's own", k.Name).
			WithHint("kiln key rotate makes another; after that, kiln key revoke %s takes back what this one signed", k.Name)
	case k.Revoked != nil:
		return nil, model.Errorf(model.Precondition, "cannot distrust key %q: it is revoked, and that is remembered", k.Name)
	default:
		return []model.Payload{model.KeyDistrusted{Name: k.Name, ID: k.ID, Reason: reason}}, nil
	}
}

// RevokeKey has a key not believed any more: what it signed since the time, or with
// the zero time all of it, falls. It is never trusted again.
func RevokeKey(s *model.State, name string, r model.Revoked, now model.Now) ([]model.Payload, error) {
	k := s.Key(name)
	switch own := s.OwnKey(); {
	case k == nil:
		return nil, noKey("revoke", name)
	case r.Reason == "":
		return nil, model.Errorf(model.Invalid, "cannot revoke key %q without a reason", k.Name).WithHint("kiln key revoke %s --reason …", k.Name)
	case own != nil && own.Name == k.Name:
		return nil, model.Errorf(model.Precondition, "cannot revoke key %q: this kiln signs with it", k.Name).
			WithHint("kiln key rotate first: it makes another and signs with that what is here")
	case k.Revoked != nil && !earlier(r.Since, k.Revoked.Since):
		return nil, nil
	case r.Since.After(now.Wall):
		return nil, model.Errorf(model.Invalid, "cannot revoke key %q from %s on: that is yet to come", k.Name, stamp(r.Since))
	}
	return []model.Payload{model.KeyRevoked{Name: k.Name, Revoked: r}}, nil
}

// earlier reports whether a revocation from a on takes back more than one from b on.
func earlier(a, b time.Time) bool {
	switch {
	case b.IsZero():
		return false
	case a.IsZero():
		return true
	default:
		return a.Before(b)
	}
}

func noKey(verb, name string) error {
	return model.Errorf(model.NotFound, "cannot %s key %q: there is none", verb, name).WithHint("kiln key list shows them")
}
