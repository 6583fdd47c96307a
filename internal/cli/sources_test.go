package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/spec"
)

// fromCommand declares a secret that comes from a command.
func fromCommand(t *testing.T, command string) (*app, spec.Secret) {
	t.Helper()
	dir := t.TempDir()
	text := `service "shop" {
  image {
    ref = "shop:1"
  }
  secret "DB" {
    from = { command = ["sh", "-c", ` + "\"" + command + "\"" + `] }
  }
}
`
	file, diags := spec.Parse(filepath.Join(dir, "kiln.hcl"), []byte(text))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	a := &app{Program: Program{Stdout: io.Discard, Stderr: &bytes.Buffer{}}}
	a.opts.file = filepath.Join(dir, "kiln.hcl")
	return a, file.Services[0].Secrets[0]
}

func TestCommandGivesASecret(t *testing.T) {
	a, x := fromCommand(t, "pwd; cat; echo 'to a person' >&2")
	got, err := a.output(t.Context(), x, time.Minute)
	if err != nil || strings.TrimSpace(string(got)) != filepath.Dir(a.opts.file) {
		t.Errorf("it is %q (%v), want its directory, and no more to read", got, err)
	}
}

// A command that fails, hangs or writes too much gives no secret, is left to end
// by nobody, and what it has written is in no message.
func TestCommandFails(t *testing.T) {
	for what, c := range map[string]struct {
		command, want string
		limit         time.Duration
	}{
		"fails":       {"echo hunter2; exit 3", "it ended with exit status 3", time.Minute},
		"is killed":   {"echo hunter2; kill -9 $$", "it ended with signal: killed", time.Minute},
		"hangs":       {"echo hunter2; sleep 1000 & echo $! > pid; wait", "it has not ended within 1s", time.Second},
		"floods":      {"echo hunter2; cat /dev/zero", "it writes more than the 1.0 MiB", time.Minute},
		"is not here": {"exec /no/such/program", "it ended with exit status 127", time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			a, x := fromCommand(t, c.command)
			got, err := a.output(t.Context(), x, c.limit)
			if err == nil || exitCode(err) != exitFailed {
				t.Fatalf("it gives %d bytes and %v", len(got), err)
			}
			if text := err.Error(); !strings.Contains(text, c.want) || !strings.Contains(text, "kiln.hcl:6:12") {
				t.Errorf("it says %s", text)
			}
			diags := err.Error()[:strings.Index(err.Error(), "\n")]
			if strings.Contains(diags, "hunter2") {
				t.Errorf("the message has what was written: %s", diags)
			}
			if pid, err := os.ReadFile(filepath.Join(filepath.Dir(a.opts.file), "pid")); err == nil {
				awaitGone(t, "/proc/"+strings.TrimSpace(string(pid)))
			}
		})
	}
}

func awaitGone(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(path + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("%s still runs", path)
}

// A file is taken as it is, up to the bound.
func TestFileGivesASecret(t *testing.T) {
	dir := t.TempDir()
	from := func() spec.Source {
		file, diags := spec.Parse(filepath.Join(dir, "kiln.hcl"), []byte("service \"shop\" {\n  image {\n    ref = \"a\"\n  }\n  secret \"X\" {\n    from = { file = \"x\" }\n  }\n}\n"))
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		return file.Services[0].Secrets[0].From
	}()
	a := &app{}
	a.opts.file = filepath.Join(dir, "kiln.hcl")
	for size, good := range map[int]bool{0: true, 5: true, model.MaxValue: true, model.MaxValue + 1: false} {
		if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := a.file(from, model.MaxValue); (err == nil) != good || good && len(b) != size {
			t.Errorf("of %d bytes: %d (%v)", size, len(b), err)
		}
	}
}
