package cli

import (
	"bytes"
	"context"
	"maps"
	"os/exec"
	"os/user"
	"strings"
	"time"

	"kiln/internal/spec"
)

// gitPatience bounds each question to git: provenance is worth little waiting.
const gitPatience = 5 * time.Second

// git asks git about a directory; "" where there is no repository or no git.
func git(ctx context.Context, dir string, args ...string) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, gitPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second // what git leaves running may hold its output open
	if cmd.Run() != nil {
		return "", false
	}
	return strings.TrimSpace(out.String()), true
}

// ancestryTold is how many commits before its own are told of a build: among them
// is that of the image which it goes on from, unless nothing was built for long.
const ancestryTold = "256"

// commits returns the source commit of a directory and those before it, the nearest
// first, and whether what lies in the directory differs from it.
func commits(ctx context.Context, dir string) (ancestry []string, dirty bool) {
	list, ok := git(ctx, dir, "rev-list", "--max-count="+ancestryTold, "HEAD", "--")
	if !ok || list == "" {
		return nil, false
	}
	changes, ok := git(ctx, dir, "status", "--porcelain", "--untracked-files=normal", "--", ".")
	return strings.Fields(list), !ok || changes != ""
}

// epochArg is the build argument that says what no time in an image is later than.
const epochArg = "SOURCE_DATE_EPOCH"

// buildArgs returns the declared build arguments, with the time that is declared for
// the image's: one that follows from the source only where that is committed.
func buildArgs(ctx context.Context, b *spec.Build, dir string, dirty bool) map[string]string {
	if _, given := b.Args[epochArg]; given || b.Epoch == "" {
		return b.Args
	}
	epoch := b.Epoch
	if epoch == "commit" {
		at, ok := git(ctx, dir, "log", "-1", "--format=%ct", "--", ".")
		if !ok || dirty || at == "" {
			return b.Args
		}
		epoch = at
	}
	args := maps.Clone(b.Args)
	if args == nil {
		args = map[string]string{}
	}
	args[epochArg] = epoch
	return args
}

// author returns who is to be written into the history.
func (a *app) author(ctx context.Context) string {
	if name := a.Env("KILN_AUTHOR"); name != "" {
		return name
	}
	if name, ok := git(ctx, ".", "config", "user.name"); ok && name != "" {
		return name
	}
	if name := a.Env("USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
