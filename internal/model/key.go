package model

import (
	"fmt"
	"slices"
	"time"
)

// SigningKey is a public key whose signatures the instance believes, or did. Its
// private half is nowhere in the journal.
type SigningKey struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"` // SHA-256 of its PKIX form, in hexadecimal
	Algorithm string    `json:"algorithm"`
	PEM       string    `json:"pem"`           // PKIX
	Own       bool      `json:"own,omitempty"` // this instance signs with it, or did
	Added     time.Time `json:"added,omitzero"`
	// NotBefore and NotAfter bound its use; zero: they do not. What it signed
	// within them stays good, as far as the journal remembers that.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Ended     string    `json:"ended,omitempty"` // why its use ended; "": by NotAfter alone
	Revoked   *Revoked  `json:"revoked,omitempty"`
}

// Revoked says that a key is not to be believed any more.
type Revoked struct {
	Since  time.Time `json:"since,omitzero"` // what it signed before stays good; zero: nothing does
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at,omitzero"`
}

// InUse reports whether the key signs at the time.
func (k *SigningKey) InUse(at time.Time) bool {
	return k.Revoked == nil && !at.Before(k.NotBefore) && (k.NotAfter.IsZero() || at.Before(k.NotAfter))
}

// Key returns the key of the name or the id, or nil.
func (s *State) Key(name string) *SigningKey {
	for _, k := range s.Keys {
		if k.Name == name || k.ID == name {
			return k
		}
	}
	return nil
}

// OwnKey returns the key that the instance signs with, or nil.
func (s *State) OwnKey() *SigningKey {
	for _, k := range s.Keys {
		if k.Own && k.Revoked == nil && k.Ended == "" {
			return k
		}
	}
	return nil
}

// foldKey folds what happens to keys.
func (s *State) foldKey(e Event) error {
	switch p := e.Data.(type) {
	case KeyTrusted:
		if s.Key(p.Key.ID) != nil || s.Key(p.Key.Name) != nil {
			return fmt.Errorf("key %q or its name is known already", p.Key.Name)
		}
		k := p.Key
		k.Added = e.At
		s.Keys = append(slices.Clip(s.Keys), &k)
	case KeyRotated:
		s.rotateKey(e, p)
	case KeyRevoked:
		return s.changeKey(p.Name, func(k *SigningKey) {
			r := p.Revoked
			r.At = e.At
			k.Revoked = &r
		})
	case KeyDistrusted:
		if s.Key(p.Name) == nil {
			return fmt.Errorf("there is no key %q", p.Name)
		}
		s.Keys = slices.DeleteFunc(slices.Clone(s.Keys), func(k *SigningKey) bool { return k.Name == p.Name })
	}
	return nil
}

// rotateKey has the instance sign with another key. What the one before has signed
// is in the journal: its use ends after all of that, whatever the clock said.
func (s *State) rotateKey(e Event, p KeyRotated) {
	end := e.At
	if was := s.OwnKey(); was != nil {
		for _, img := range s.Images {
			for _, said := range img.Statements {
				if said.Key == was.ID && !said.At.Before(end) {
					end = said.At.Add(time.Millisecond)
				}
			}
		}
		_ = s.changeKey(was.Name, func(k *SigningKey) { k.NotAfter, k.Ended = end, p.Reason })
	}
	next := p.Key
	next.Added = e.At
	if known := s.Key(next.ID); known != nil { // it was used before, or another's
		_ = s.changeKey(known.Name, func(k *SigningKey) { k.Own, k.NotBefore, k.NotAfter, k.Ended = true, time.Time{}, time.Time{}, "" })
		return
	}
	s.Keys = append(slices.Clip(s.Keys), &next)
}

// changeKey puts a changed key in the place of the one of the name.
func (s *State) changeKey(name string, change func(*SigningKey)) error {
	for i, k := range s.Keys {
		if k.Name == name {
			changed := *k
			change(&changed)
			s.Keys = slices.Clone(s.Keys)
			s.Keys[i] = &changed
			return nil
		}
	}
	return fmt.Errorf("there is no key %q", name)
}
