package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"kiln/internal/model"
)

// Options say what is to be installed.
type Options struct {
	DataDir    string   // absolute
	Socket     string   // absolute
	Arguments  []string // of the daemon, besides these two
	Executable string   // this program
	Root       string   // "": the machine; else a directory that stands for it, and systemd is left alone
}

// The states of a file before an installation.
const (
	New     = "new"
	Same    = "same"
	Differs = "differs"
)

// File is what will be written.
type File struct {
	Path    string `json:"path"`
	State   string `json:"state"`
	Content string `json:"content,omitempty"` // of a unit
	Diff    string `json:"diff,omitempty"`    // from what is there to Content
	copyOf  string // of the program
}

// Plan is what an installation does, in its order.
type Plan struct {
	Files    []File     `json:"files"`
	Commands [][]string `json:"commands"`
	root     string
}

// NewPlan looks at the machine and returns what is to be done.
func NewPlan(o Options) (*Plan, error) {
	p := &Plan{root: o.Root}
	binary := File{Path: binaryPath, copyOf: o.Executable}
	same, err := sameFile(o.Executable, filepath.Join(o.Root, binaryPath))
	if err != nil {
		return nil, err
	}
	binary.State = same
	service := File{Path: unitPath, Content: unit(o.DataDir, arguments(o)), State: New}
	old, err := os.ReadFile(filepath.Join(o.Root, unitPath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, model.Errorf(model.Unavailable, "cannot install: %w", err)
	case string(old) == service.Content:
		service.State = Same
	default:
		service.State = Differs
		service.Diff = string(diff.Diff(unitPath, old, unitPath+" (new)", []byte(service.Content)))
	}
	p.Files = []File{binary, service}
	p.Commands = [][]string{{"systemctl", "daemon-reload"}, {"systemctl", "enable", unitName}, {"systemctl", "restart", unitName}}
	return p, nil
}

// sameFile compares what is to be installed with what is there.
func sameFile(from, to string) (string, error) {
	there, err := os.Stat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return New, nil
	}
	if err != nil {
		return "", model.Errorf(model.Unavailable, "cannot install: %w", err)
	}
	is, err := os.Stat(from)
	if err != nil {
		return "", model.Errorf(model.Unavailable, "cannot install: %w", err)
	}
	if os.SameFile(is, there) {
		return Same, nil
	}
	if is.Size() != there.Size() {
		return Differs, nil
	}
	a, err := os.ReadFile(from)
	if err != nil {
		return "", model.Errorf(model.Unavailable, "cannot install: %w", err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		return "", model.Errorf(model.Unavailable, "cannot install: %w", err)
	}
	if bytes.Equal(a, b) {
		return Same, nil
	}
	return Differs, nil
}

// Print writes what will be done: the units byte for byte.
func (p *Plan) Print(w io.Writer) error {
	for _, f := range p.Files {
		var err error
		switch {
		case f.copyOf != "":
			_, err = fmt.Fprintf(w, "# %s: a copy of %s (%s)\n", f.Path, f.copyOf, f.State)
		case f.Diff != "":
			_, err = fmt.Fprintf(w, "# %s (differs)\n%s\n%s", f.Path, f.Content, f.Diff)
		default:
			_, err = fmt.Fprintf(w, "# %s (%s)\n%s", f.Path, f.State, f.Content)
		}
		if err != nil {
			return err
		}
	}
	for _, c := range p.Commands {
		if _, err := fmt.Fprintf(w, "# %s\n", strings.Join(c, " ")); err != nil {
			return err
		}
	}
	return nil
}

// Apply carries the plan out. A unit that was changed by hand is replaced only
// by force. An older program is replaced while it runs: what runs goes on with
// it.
func (p *Plan) Apply(ctx context.Context, force bool) error {
	for _, f := range p.Files {
		if f.Diff != "" && !force {
			return model.Errorf(model.Precondition, "cannot install: %s is there and differs:\n%s", f.Path, f.Diff).
				WithHint("kiln install --force replaces it; kiln install --dry-run shows the whole")
		}
	}
	if err := underSystemd(p.root); err != nil {
		return err
	}
	for _, f := range p.Files {
		if f.State == Same {
			continue
		}
		if err := f.write(p.root); err != nil {
			return model.Errorf(model.Unavailable, "cannot install %s: %w", f.Path, err)
		}
	}
	return run(ctx, p.root, p.Commands)
}

// write makes the file appear at once.
func (f File) write(root string) error {
	path := filepath.Join(root, f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	var content io.Reader = strings.NewReader(f.Content)
	if f.copyOf != "" {
		program, err := os.Open(f.copyOf)
		if err != nil {
			return err
		}
		defer program.Close()
		mode, content = 0o755, program
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".kiln-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when it was renamed
	_, err = io.Copy(tmp, content)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Remove undoes an installation. The data directory stays.
func Remove(ctx context.Context, root string) ([]string, error) {
	if err := underSystemd(root); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, unitPath)); errors.Is(err, fs.ErrNotExist) {
		return nil, model.Errorf(model.Precondition, "cannot uninstall: there is no %s", unitPath).
			WithHint("kiln was not installed here by kiln install")
	}
	if err := run(ctx, root, [][]string{{"systemctl", "disable", "--now", unitName}}); err != nil {
		return nil, err
	}
	removed := []string{unitPath, binaryPath}
	for _, path := range removed {
		if err := os.Remove(filepath.Join(root, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, model.Errorf(model.Unavailable, "cannot uninstall: %w", err)
		}
	}
	return removed, run(ctx, root, [][]string{{"systemctl", "daemon-reload"}})
}

// underSystemd refuses a machine that systemd does not run.
func underSystemd(root string) error {
	if root != "" {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return model.Errorf(model.Precondition, "this machine is not run by systemd: there is no /run/systemd/system").
			WithHint("kiln install --dry-run prints the unit; elsewhere have whatever starts services run: kiln daemon")
	}
	return nil
}

func run(ctx context.Context, root string, commands [][]string) error {
	if root != "" {
		return nil
	}
	for _, c := range commands {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
		if err != nil {
			return model.Errorf(model.Unavailable, "cannot run %s: %w: %s", strings.Join(c, " "), err, bytes.TrimSpace(out)).
				WithHint("systemctl status %s, journalctl -u %s", unitName, unitName)
		}
	}
	return nil
}
