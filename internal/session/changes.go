package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"kiln/internal/engine"
	"kiln/internal/evidence"
	"kiln/internal/model"
)

// Bounds of what is kept of the files that a session has changed.
const (
	maxChanges  = 10_000
	maxFile     = 16 << 20 // bytes of one file
	maxContents = 64 << 20 // bytes of all files together
)

// The files of a session's archive.
const (
	FileSession       = "session.json"
	FileRecording     = "recording.cast"
	FileChanges       = "changes.json"
	FilePatch         = "changes.patch"
	FileContainerfile = "Containerfile"
	DirFiles          = "files" // the added and changed files, by their paths in the server
)

// Change is a path that a session has added, changed or removed.
type Change struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`           // "added", "changed" or "removed"
	Type   string `json:"type,omitempty"` // "file", "directory", "link" or "special"
	Mode   string `json:"mode,omitempty"` // octal: "0644"
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Size   int64  `json:"size,omitempty"`
	Target string `json:"target,omitempty"` // of a link
	Text   bool   `json:"text,omitempty"`   // the patch shows it
	File   string `json:"file,omitempty"`   // in the archive; "": its content was not kept
}

// taken returns what differs now and did not before, or differs since in
// another way.
func taken(before map[string]string, now []engine.Difference) []engine.Difference {
	var found []engine.Difference
	for _, d := range now {
		if before[d.Path] != d.Stamp || d.Stamp == "" {
			found = append(found, d)
		}
	}
	return found
}

func stamps(differences []engine.Difference) map[string]string {
	found := make(map[string]string, len(differences))
	for _, d := range differences {
		found[d.Path] = d.Stamp
	}
	return found
}

// changeOf describes a difference.
func changeOf(d engine.Difference) Change {
	c := Change{Path: d.Path, Kind: d.Kind, UID: d.UID, GID: d.GID, Size: d.Size, Target: d.Target}
	if d.Kind == "removed" {
		return c
	}
	switch {
	case d.Mode.IsRegular():
		c.Type = "file"
	case d.Mode.IsDir():
		c.Type = "directory"
	case d.Target != "":
		c.Type = "link"
	default:
		c.Type = "special"
	}
	c.Mode = octal(d.Mode)
	return c
}

// collection is what a session leaves, on its way into an archive.
type collection struct {
	differences []engine.Difference
	changes     []Change
	patch       strings.Builder
	kept        int64 // bytes of contents
	secrets     []string
	missing     []string
}

func (c *collection) miss(format string, args ...any) {
	c.missing = append(c.missing, fmt.Sprintf(format, args...))
}

// write writes the differences into the archive: the files as they are, and
// what can be shown as lines as a patch.
func (c *collection) write(w *evidence.Writer) error {
	for _, d := range c.differences {
		change := changeOf(d)
		if err := c.add(w, d, &change); err != nil {
			return err
		}
		c.changes = append(c.changes, change)
	}
	text, err := json.MarshalIndent(c.changes, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(w.File(FileChanges, bytes.NewReader(text)), w.File(FilePatch, strings.NewReader(c.patch.String())))
}

// add writes one difference. What of it cannot be read is missing, and no error.
func (c *collection) add(w *evidence.Writer, d engine.Difference, change *Change) error {
	if change.Type != "file" && change.Kind != "removed" {
		return nil
	}
	was, wasText := c.read(d.Before, d.Path+" in the image", diffBytes)
	var now []byte
	nowText := true // a file that was removed
	if change.Type == "file" {
		if d.Size > maxFile || c.kept+d.Size > maxContents {
			c.miss("the content of %s: its %d bytes are more than is kept", d.Path, d.Size)
			return nil
		}
		if now, nowText = c.read(d.Open, d.Path, maxFile); now == nil {
			return nil
		}
		if slices.ContainsFunc(c.secrets, func(s string) bool { return bytes.Contains(now, []byte(s)) }) {
			c.miss("the content of %s: it holds a secret of the server", d.Path)
			return nil
		}
		c.kept += int64(len(now))
		change.File = DirFiles + d.Path
		if err := w.File(change.File, bytes.NewReader(now)); err != nil {
			return err
		}
	}
	if d.Kind == "removed" && d.Before == nil || !wasText || !nowText || !isText(was) || !isText(now) {
		return nil
	}
	change.Text = true
	oldName, newName := "a"+d.Path, "b"+d.Path
	if d.Before == nil {
		oldName = "/dev/null"
	}
	if d.Kind == "removed" {
		newName = "/dev/null"
	}
	c.patch.WriteString(unified(oldName, newName, string(was), string(now)))
	return nil
}

// read reads a content of at most so many bytes; nil and whether that is no
// hindrance to showing it as lines: there is none to be read.
func (c *collection) read(open func() (io.ReadCloser, error), what string, most int64) ([]byte, bool) {
	if open == nil {
		return nil, true
	}
	f, err := open()
	if err != nil {
		c.miss("%s: %v", what, err)
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		c.miss("%s: %v", what, err)
		return nil, false
	}
	if int64(len(b)) > most {
		return nil, false
	}
	if b == nil {
		b = []byte{}
	}
	return b, true
}

// count fills in how many files were added, changed and removed.
func (c *collection) count(end *model.SessionEnd) {
	for _, d := range c.differences {
		switch d.Kind {
		case "added":
			end.Added++
		case "removed":
			end.Removed++
		default:
			end.Changed++
		}
	}
}
