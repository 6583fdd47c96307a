package cli

import (
	"bytes"
	"context"
	"os/exec"
	"os/user"
	"strings"
	"time"
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
