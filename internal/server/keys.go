package server

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Keys reads keys, and makes them.
type Keys interface {
	// Parse reads a public key: its id, its algorithm, its form.
	Parse(pem string) (model.SigningKey, error)
	// Rotate has images signed with a new key from now on.
	Rotate(ctx context.Context, by, reason string) (api.Key, error)
}

func (s *Server) registerKeys(h huma.API) {
	huma.Register(h, operation("keys", http.MethodGet, api.PathKeys, "Whose signatures are believed"), s.keys)
	huma.Register(h, operation("trust-key", http.MethodPost, api.PathKeys, "Believe signatures of a key"), s.trustKey)
	huma.Register(h, operation("rotate-key", http.MethodPost, api.PathKey, "Sign with another key from now on"), s.rotateKey)
	huma.Register(h, operation("revoke-key", http.MethodPost, api.PathRevoke, "Believe signatures of a key no more"), s.revokeKey)
}

func (s *Server) keys(context.Context, *struct{}) (*reply[api.Keys], error) {
	out := &reply[api.Keys]{api.Keys{Keys: []api.KnownKey{}}}
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, k := range st.Keys {
			out.Body.Keys = append(out.Body.Keys, knownKey(st, k, now))
		}
	})
	return out, nil
}

// knownKey says what a key is worth now.
func knownKey(st *model.State, k *model.SigningKey, now model.Now) api.KnownKey {
	out := api.KnownKey{SigningKey: *k, State: api.KeyTrusted}
	switch own := st.OwnKey(); {
	case k.Revoked != nil:
		out.State = api.KeyRevoked
	case own != nil && own.ID == k.ID:
		out.State = api.KeySigns
	case k.Own:
		out.State = api.KeyRotated
	case now.Wall.Before(k.NotBefore):
		out.State = api.KeyWaits
	case !k.InUse(now.Wall):
		out.State = api.KeyExpired
	}
	return out
}

type trustInput struct{ Body api.TrustRequest }

func (s *Server) trustKey(ctx context.Context, in *trustInput) (*reply[api.KnownKey], error) {
	key, err := s.cfg.Keys.Parse(in.Body.PEM)
	if err != nil {
		return nil, s.refuse(err)
	}
	key.Name, key.NotBefore, key.NotAfter = in.Body.Name, in.Body.NotBefore.UTC(), in.Body.NotAfter.UTC()
	return s.changeKey(ctx, in.Body.Author, key.ID, func(st *model.State, _ model.Now) ([]model.Payload, error) {
		return reconcile.TrustKey(st, key, in.Body.Reason)
	})
}

type rotateInput struct{ Body api.RotateRequest }

func (s *Server) rotateKey(ctx context.Context, in *rotateInput) (*reply[api.Key], error) {
	key, err := s.cfg.Keys.Rotate(context.WithoutCancel(ctx), peer(ctx, in.Body.Author), in.Body.Reason)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.Key]{key}, nil
}

type revokeInput struct {
	Key  string `path:"key"`
	Body api.RevokeRequest
}

func (s *Server) revokeKey(ctx context.Context, in *revokeInput) (*reply[api.KnownKey], error) {
	name, err := url.PathUnescape(in.Key)
	if err != nil {
		name = in.Key
	}
	return s.changeKey(ctx, in.Body.Author, name, func(st *model.State, now model.Now) ([]model.Payload, error) {
		if in.Body.Forget {
			return reconcile.DistrustKey(st, name, in.Body.Reason)
		}
		return reconcile.RevokeKey(st, name, model.Revoked{Since: in.Body.Since.UTC(), Reason: in.Body.Reason, By: peer(ctx, in.Body.Author)}, now)
	})
}

// changeKey carries out what is decided of a key, and shows it: as it is then, or as
// it was if it is gone.
func (s *Server) changeKey(ctx context.Context, by, name string, decide func(*model.State, model.Now) ([]model.Payload, error)) (*reply[api.KnownKey], error) {
	out := &reply[api.KnownKey]{}
	show := func(st *model.State, now model.Now) {
		if k := st.Key(name); k != nil {
			out.Body = knownKey(st, k, now)
		}
	}
	err := s.cfg.Control.Do(ctx, peer(ctx, by), func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		show(st, now)
		return decide(st, now)
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) { show(st, s.cfg.Clock.Now()) })
	return out, nil
}

// keyInWords says what became of a key.
func keyInWords(p model.Payload) string {
	switch p := p.(type) {
	case model.KeyTrusted:
		return because("signatures of key "+p.Key.Name+" ("+shortKey(p.Key.ID)+") are believed", p.Reason)
	case model.KeyRotated:
		return because("images are signed with key "+p.Key.Name+" ("+shortKey(p.Key.ID)+") from here on, no longer with the one before", p.Reason)
	case model.KeyRevoked:
		if !p.Revoked.Since.IsZero() {
			return because("what key "+p.Name+" signed since "+p.Revoked.Since.UTC().Format("2006-01-02 15:04:05")+" is not believed any more", p.Revoked.Reason)
		}
		return because("key "+p.Name+" is revoked: nothing that it signed is believed any more", p.Revoked.Reason)
	case model.KeyDistrusted:
		return because("signatures of key "+p.Name+" ("+shortKey(p.ID)+") are not believed any more", p.Reason)
	default:
		return string(p.Kind())
	}
}
