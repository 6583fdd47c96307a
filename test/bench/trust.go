package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/test/instance"
)

// without are the places where the product signs, lists what is in an image, and
// checks before each start; left out they make the program that trust is measured
// against. The product itself has no switch for it.
var without = []struct{ file, old, new string }{
	{"internal/daemon/daemon.go", "Zones: &zones{}, Trust: d.signer,", "Zones: &zones{},"},
	{"internal/daemon/signer.go", "	if s.ctx.Err() != nil {\n		return // the daemon ends\n	}\n", "	if s.ctx != nil {\n		return\n	}\n"},
	{"internal/engine/local/provision.go", "return e.wholeRoot(ctx, asked, ref.ID, t, p, p.lowers) })", "_ = asked; return nil })"},
	{"internal/engine/local/image.go", "	if err := e.wholeBlobs(ctx, digest, record); err != nil {\n		return err\n	}\n", ""},
	{"internal/engine/local/image.go", "	if err := e.wholeImage(ctx, digest, record, chainsOf(config)); err != nil {\n		return err\n	}\n", "	_ = config\n"},
}

// trust measures what signing, SBOMs and the checks before each start add to a
// deployment: the same source with and without them, in turns.
func trust(ctx context.Context, b *bench) (*section, error) {
	bare, err := b.bare(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		bare.api.Close()
		_ = bare.kiln.Purge(context.WithoutCancel(ctx))
		_ = os.RemoveAll(bare.dir)
	}()
	tar := filepath.Join(b.dir, "debian.tar")
	if err := sh(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "bookworm", tar); err != nil {
		return nil, err
	}
	for _, k := range []*bench{b, bare} {
		if _, err := k.kiln.Run(ctx, "images", "import", tar, "--name", "base/debian:12"); err != nil {
			return nil, err
		}
	}
	s := &section{
		title: "What signing, SBOMs and the checks before each start cost",
		how: "Ten servers of a changed shop: `kiln deploy` from its start until the ten new ones serve and the ten old ones are gone (a build, a " +
			"signature, a provenance; every blob read, every unpacked layer compared; the SBOMs are made five seconds after the build, unless " +
			"somebody asks for them), and `kiln rollback` to the other version (what " +
			"was checked before is found unchanged). Against the same source compiled without signing, SBOMs and checks, in turns.",
	}
	for _, base := range []string{"scratch", "base/debian:12"} {
		deploys, rollbacks, err := b.withAndWithout(ctx, bare, base)
		if err != nil {
			return nil, err
		}
		s.rows = append(s.rows,
			compare("a deployment, FROM "+base, "s", deploys[0], "without", deploys[1], 1.1, 0),
			compare("a rollback, FROM "+base, "s", rollbacks[0], "without", rollbacks[1], 1.1, 0))
	}
	return s, nil
}

// bare builds the program without what is measured, and starts an instance of it.
func (b *bench) bare(ctx context.Context) (*bench, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "k-")
	if err != nil {
		return nil, err
	}
	replace := map[string]string{}
	for i, w := range without {
		from := filepath.Join(root, w.file)
		if changed := replace[from]; changed != "" {
			from = changed
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if strings.Count(string(text), w.old) != 1 {
			return nil, fmt.Errorf("%s has changed: what is to be left out is not there once: %q", w.file, w.old)
		}
		to := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := writeFile(to, strings.Replace(string(text), w.old, w.new, 1), 0o644); err != nil {
			return nil, err
		}
		replace[filepath.Join(root, w.file)] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, "overlay.json"), string(overlay), 0o644); err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, "kiln")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-ldflags", "-s -w", "-o", bin, "./cmd/kiln")
	cmd.Env, cmd.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot build kiln without what is measured: %w", err)
	}
	bare := &bench{options: b.options, dir: dir, kiln: instance.New(bin, dir), port: b.port + 1}
	bare.api = api.NewClient(bare.kiln.Socket())
	for _, version := range []string{"1", "2"} {
		if err := sh(ctx, "cp", filepath.Join(b.dir, "shop"+version), dir); err != nil {
			return nil, err
		}
	}
	return bare, bare.kiln.Start(ctx)
}

// withAndWithout deploys changed images and rolls back, on both in turns.
func (b *bench) withAndWithout(ctx context.Context, bare *bench, base string) (deploys, rollbacks [2]series, err error) {
	for n := range b.rounds + 2 {
		sides := []*bench{b, bare}
		for i := range sides {
			at := (n + i) % 2
			k := sides[at]
			took, err := k.changed(ctx, base, n)
			if err != nil {
				return deploys, rollbacks, err
			}
			if n < 2 {
				continue // there is nothing to replace yet, then nothing to go back to
			}
			deploys[at] = append(deploys[at], took)
			began := time.Now()
			if _, err := k.result(ctx, "rollback", "shop"); err != nil {
				return deploys, rollbacks, err
			}
			if err := k.rest(ctx, 10); err != nil {
				return deploys, rollbacks, err
			}
			rollbacks[at] = append(rollbacks[at], time.Since(began).Seconds())
		}
	}
	for _, k := range []*bench{b, bare} {
		if err := k.clear(ctx); err != nil {
			return deploys, rollbacks, err
		}
	}
	return deploys, rollbacks, nil
}

// changed deploys ten servers of an image that was not there before.
func (b *bench) changed(ctx context.Context, base string, n int) (float64, error) {
	dir, err := b.context("1")
	if err != nil {
		return 0, err
	}
	text := fmt.Sprintf("FROM %s\nCOPY app /app\nCOPY note /note\nUSER 65534:65534\nENTRYPOINT [\"/app\"]\n", base)
	if err := writeFile(filepath.Join(dir, "Containerfile"), text, 0o644); err != nil {
		return 0, err
	}
	if err := writeFile(filepath.Join(dir, "note"), fmt.Sprintf("%s %d %d\n", base, n, time.Now().UnixNano()), 0o644); err != nil {
		return 0, err
	}
	file, err := b.declare(dir, "shop", 10, "  deploy {\n    keep_warm = \"0s\"\n    drain {\n      requests = \"5s\"\n    }\n  }\n  resources {\n    memory = \"64MiB\"\n  }\n")
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := b.result(ctx, "deploy", "-f", file); err != nil {
		return 0, err
	}
	if err := b.rest(ctx, 10); err != nil {
		return 0, err
	}
	return time.Since(began).Seconds(), nil
}
