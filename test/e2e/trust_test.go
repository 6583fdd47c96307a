package e2e_test

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"

	"kiln/internal/sign"
)

// attach does to what is attached to an image in a registry what whoever may write
// there can do: "remove REF" takes all of it away, "move FROM TO" attaches what is
// attached to one image to another, "sign KEY REF" attaches a signature with a private
// key of a file.
func attach(ts *testscript.TestScript, _ bool, args []string) {
	const usage = "attach remove REF | move FROM TO | sign KEY REF"
	want(ts, len(args) > 1, usage)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch {
	case args[0] == "remove" && len(args) == 2:
		check(ts, removeAttached(ctx, args[1]))
	case args[0] == "move" && len(args) == 3:
		check(ts, moveAttached(ctx, args[1], args[2]))
	case args[0] == "sign" && len(args) == 3:
		check(ts, signAttached(ctx, ts.MkAbs(args[1]), args[2]))
	default:
		ts.Fatalf("usage: %s", usage)
	}
}

func removeAttached(ctx context.Context, ref string) error {
	at, err := name.NewDigest(ref, name.Insecure)
	if err != nil {
		return err
	}
	all, err := sign.List(ctx, at)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("nothing is attached to %s", ref)
	}
	for _, a := range all {
		if err := remote.Delete(at.Context().Digest(string(a.Manifest)), remote.WithContext(ctx)); err != nil {
			return err
		}
	}
	return nil
}

func moveAttached(ctx context.Context, from, to string) error {
	source, err := name.NewDigest(from, name.Insecure)
	if err != nil {
		return err
	}
	target, err := name.NewDigest(to, name.Insecure)
	if err != nil {
		return err
	}
	all, err := sign.List(ctx, source)
	if err != nil {
		return err
	}
	for _, a := range all {
		bundle, err := sign.Fetch(ctx, source.Context(), a)
		if err != nil {
			return err
		}
		if _, err := sign.Push(ctx, target, bundle, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func signAttached(ctx context.Context, file, ref string) error {
	at, err := name.NewDigest(ref, name.Insecure)
	if err != nil {
		return err
	}
	key, err := sign.ReadPrivateKey(file, nil)
	if err != nil {
		return err
	}
	bundle, err := key.SignImage(digest.Digest(at.DigestStr()))
	if err != nil {
		return err
	}
	_, err = sign.Push(ctx, at, bundle, time.Now())
	return err
}
