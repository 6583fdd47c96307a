package builder

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	solvererrdefs "github.com/moby/buildkit/solver/errdefs"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// killedExit is the exit code of what SIGKILL has ended.
const killedExit = 128 + 9

// tailLines is how much of a step's output an error shows.
const tailLines = 20

// notInContext is what BuildKit says where COPY or ADD names a file that the
// context does not have.
var notInContext = regexp.MustCompile(`failed to calculate checksum of ref .*: "([^"]+)": not found`)

// explain says in words why a build failed: which line of the Containerfile,
// what it was about, and what the step wrote last. full says that the builds'
// memory was used up meanwhile.
func (b *build) explain(err error, t *trace, full bool, around *surroundings) error {
	where := b.location(err)
	if coded, ok := errors.AsType[*model.Error](err); ok {
		e := *coded
		if where != "" && !strings.Contains(e.Message, where) {
			e.Message += "\n" + where
		}
		return &e
	}
	hint := model.Exhausted(err)
	what := "cannot build: " + firstLine(rootCause(err).Error())
	if m := notInContext.FindStringSubmatch(err.Error()); m != nil {
		what = fmt.Sprintf("cannot build: %s is not in the build context", strings.TrimPrefix(m[1], "/"))
		hint = "make it there first, look at .dockerignore, or correct image.context in kiln.hcl"
	}
	if exit, ok := errors.AsType[*gatewaypb.ExitError](err); ok {
		what = fmt.Sprintf("cannot build: a step ended with exit code %d", exit.ExitCode)
		if full && exit.ExitCode == killedExit {
			what = fmt.Sprintf("cannot build: a step was ended because it wanted more memory than builds may take: %s", b.worker.memory)
			hint = "let the step take less, or start the daemon with a larger --build-memory"
		}
	}
	code, refused, instead := around.refused()
	if hint == "" {
		hint = instead
	}
	var msg strings.Builder
	msg.WriteString(what)
	msg.WriteString(refused)
	for _, dir := range fullDirs(b.worker.dirs) {
		msg.WriteString("\n" + dir + " has no room left")
	}
	if where != "" {
		msg.WriteString("\n" + where)
	}
	if tail := lastLines(string(t.tail()), tailLines); tail != "" {
		msg.WriteString("\nIts last output:\n" + tail)
	}
	e := model.Errorf(code, "%s", msg.String())
	if hint != "" {
		return e.WithHint("%s", hint)
	}
	return e
}

// refused says what the build's steps did not get, one a line, and what to do
// instead. Denied where anything was refused.
func (s *surroundings) refused() (code model.Code, told, hint string) {
	if s.net == nil {
		return model.Invalid, "", ""
	}
	code = model.Invalid
	for i, f := range s.net.Refusals() {
		if f.Without {
			continue // that is not why
		}
		if !f.Passing {
			code = model.Denied
		}
		if i == tailLines {
			told += "\nand more"
			break
		}
		told += "\n" + f.What + " " + f.Why
		if hint == "" {
			hint = f.Hint
		}
	}
	return code, told, hint
}

// location shows the line of the Containerfile that an error is about, or "".
func (b *build) location(err error) string {
	for _, src := range solvererrdefs.Sources(err) {
		if src.Info == nil || len(src.Ranges) == 0 || src.Ranges[0].Start == nil {
			continue
		}
		n := int(src.Ranges[0].Start.Line)
		text := strings.Split(string(src.Info.Data), "\n")
		if n < 1 || n > len(text) {
			continue
		}
		return fmt.Sprintf("%s:%d: %s", b.req.Containerfile, n, strings.TrimSpace(text[n-1]))
	}
	return ""
}

// fullDirs returns those of the directories whose disk is full.
func fullDirs(dirs []string) []string {
	const full = 256 << 10 // bytes: too little for anything
	var out []string
	for _, dir := range dirs {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && int64(st.Bavail)*st.Bsize < full {
			out = append(out, dir)
		}
	}
	return out
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// lastLines returns at most n lines, indented. A carriage return begins a line
// anew, as on a terminal.
func lastLines(s string, n int) string {
	if s == "" {
		return ""
	}
	all := strings.Split(s, "\n")
	if len(all) > n {
		all = all[len(all)-n:]
	}
	for i, l := range all {
		l = strings.TrimRight(l, "\r")
		if at := strings.LastIndexByte(l, '\r'); at >= 0 {
			l = l[at+1:]
		}
		all[i] = "  " + l
	}
	return strings.Join(all, "\n")
}
