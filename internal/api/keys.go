package api

import (
	"context"
	"time"

	"kiln/internal/model"
)

// Keys are the public keys that this kiln knows: its own, former ones, and those of
// others whose signatures it believes.
type Keys struct {
	Keys []KnownKey `json:"keys"` // oldest first
}

// KnownKey is one of them.
type KnownKey struct {
	model.SigningKey
	State KeyState `json:"state"`
}

// KeyState says what a key's signatures are worth now.
type KeyState string

// The states of keys.
const (
	KeySigns   KeyState = "signs"   // this kiln signs with it
	KeyTrusted KeyState = "trusted" // another's, and believed
	KeyWaits   KeyState = "waits"   // its use has not begun
	KeyRotated KeyState = "rotated" // this kiln's before: what it signed stays good
	KeyExpired KeyState = "expired" // likewise another's
	KeyRevoked KeyState = "revoked"
)

// TrustRequest asks to believe a key's signatures.
type TrustRequest struct {
	Name      string    `json:"name"`
	PEM       string    `json:"pem"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Author    string    `json:"author,omitempty"`
	Reason    string    `json:"reason,omitempty"`
}

// RotateRequest asks for another key to sign with.
type RotateRequest struct {
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// RevokeRequest asks not to believe a key any more: what it signed from Since on, or
// all of it. With Forget it is another's, and is not known any more.
type RevokeRequest struct {
	Since  time.Time `json:"since,omitzero"`
	Forget bool      `json:"forget,omitempty"`
	Author string    `json:"author,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Keys asks which keys are known.
func (c *Client) Keys(ctx context.Context) (*Keys, error) { return get[Keys](ctx, c, PathKeys, nil) }

// TrustKey has another's key believed.
func (c *Client) TrustKey(ctx context.Context, in TrustRequest) (*KnownKey, error) {
	return post[KnownKey](ctx, c, PathKeys, in)
}

// RotateKey has the daemon sign with a new key.
func (c *Client) RotateKey(ctx context.Context, in RotateRequest) (*Key, error) {
	return post[Key](ctx, c, PathKey, in)
}

// RevokeKey has a key not believed any more.
func (c *Client) RevokeKey(ctx context.Context, name string, in RevokeRequest) (*KnownKey, error) {
	return post[KnownKey](ctx, c, path(PathRevoke, name), in)
}
