package server

import (
	"cmp"
	"context"
)

type peerKey struct{}

// WithPeer notes who is at the other end of a connection, as the machine knows it.
func WithPeer(ctx context.Context, user string) context.Context {
	return context.WithValue(ctx, peerKey{}, user)
}

// peer is who asks: as the machine knows it, else as they say.
func peer(ctx context.Context, said string) string {
	user, _ := ctx.Value(peerKey{}).(string)
	return cmp.Or(user, actor(said))
}
