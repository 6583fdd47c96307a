package session

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
)

// containerfile returns the lines that make the changes part of an image. The
// names of the files to copy are below DirFiles, beside it.
func containerfile(from, title string, changes []Change) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s\n# These lines make what it changed part of an image: add those after FROM to the\n# Containerfile of the service, and the directory %q to its context.\n", oneLine(title), DirFiles)
	if from != "" {
		fmt.Fprintf(&out, "FROM %s\n", from)
	}
	for _, c := range removedFirst(changes) {
		for _, line := range linesFor(c) {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// removedFirst orders the changes so that what takes the place of something
// that was removed comes after that; otherwise they stay as they are, a
// directory before what is in it.
func removedFirst(changes []Change) []Change {
	ordered := make([]Change, 0, len(changes))
	for _, removed := range []bool{true, false} {
		for _, c := range changes {
			if (c.Kind == "removed") == removed {
				ordered = append(ordered, c)
			}
		}
	}
	return ordered
}

func linesFor(c Change) []string {
	owner := fmt.Sprintf("%d:%d", c.UID, c.GID)
	switch {
	case c.Kind == "removed":
		return []string{run("rm", "-rf", "--", c.Path)}
	case c.Type == "file" && c.File == "":
		return []string{"# " + oneLine(c.Path) + ": its content was not kept; see what the session says is missing"}
	case c.Type == "file":
		return []string{copied(owner, c)}
	case c.Type == "directory" && c.Kind == "added":
		return []string{run("mkdir", "-p", "--", c.Path), run("chown", owner, "--", c.Path), run("chmod", c.Mode, "--", c.Path)}
	case c.Type == "directory":
		return []string{run("chown", owner, "--", c.Path), run("chmod", c.Mode, "--", c.Path)}
	case c.Type == "link":
		return []string{run("ln", "-sfn", "--", c.Target, c.Path), run("chown", "-h", owner, "--", c.Path)}
	default:
		return []string{"# " + oneLine(c.Path) + " is neither a file, nor a directory, nor a link"}
	}
}

// run is an instruction without a shell, as any name can stand in it.
func run(words ...string) string { return "RUN " + list(words...) }

// copied is the instruction that copies a file. What would be a pattern or a
// variable in its name is none.
func copied(owner string, c Change) string {
	source := strings.NewReplacer("[", "[[]", "*", "[*]", "?", "[?]").Replace(c.File)
	return fmt.Sprintf("COPY --chown=%s --chmod=%s %s", owner, c.Mode, strings.ReplaceAll(list(source, c.Path), "$", `\\$`))
}

// list writes words as instructions take them.
func list(words ...string) string {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(words) // strings can always be written
	return strings.TrimSpace(out.String())
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// octal is a mode as chmod takes it.
func octal(m fs.FileMode) string {
	bits := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return fmt.Sprintf("%04o", bits)
}
