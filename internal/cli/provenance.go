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

// commit returns the source commit of a directory and whether what lies in it
// differs from it.
func commit(ctx context.Context, dir string) (hash string, dirty bool) {
	hash, ok := git(ctx, dir, "rev-parse", "--verify", "HEAD")
	if !ok {
		return "", false
	}
	changes, ok := git(ctx, dir, "status", "--porcelain", "--untracked-files=normal", "--", ".")
	return hash, !ok || changes != ""
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
