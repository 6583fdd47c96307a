package local

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// TestInvalid tries what can never run: it is refused with clear words, and
// nothing is left behind.
func TestInvalid(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}},
		file{name: "/plain", content: "text", mode: 0o644},
		file{name: "/executable-text", content: "text without a first line", mode: 0o755},
		file{name: "/script", content: "#!/bin/no-such-shell -e\n", mode: 0o755},
		file{name: "/dos", content: "#!/bin/program\r\n", mode: 0o755},
		file{name: "/arm", content: "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xb7\x00\x01\x00\x00\x00" + strings.Repeat("\x00", 64), mode: 0o755},
		file{name: "/closed/", mode: 0o700}, file{name: "/closed/program", content: "#!/bin/program\n", mode: 0o755})
	s := w.servers(t, e, image)
	for name, c := range map[string]struct {
		edit func(*model.Template)
		says string
	}{
		"user":               {func(t *model.Template) { t.User = "nobody-here" }, `no user "nobody-here"`},
		"group":              {func(t *model.Template) { t.User = "web:nobody-here" }, `no user "web:nobody-here"`},
		"large id":           {func(t *model.Template) { t.User, t.UserNamespace = "70000", true }, `"70000" has the id 70000, and a server's user namespace has those below 65536`},
		"command":            {func(t *model.Template) { t.Entrypoint = []string{"/no/such"} }, "there is no file /no/such"},
		"command in PATH":    {func(t *model.Template) { t.Entrypoint = []string{"nosuch"} }, "no such command in PATH=/bin"},
		"not executable":     {func(t *model.Template) { t.Entrypoint = []string{"/plain"} }, "/plain is not executable"},
		"directory":          {func(t *model.Template) { t.Entrypoint = []string{"/bin"} }, "/bin is a directory"},
		"no program":         {func(t *model.Template) { t.Entrypoint = []string{"/executable-text"} }, "neither a binary of this machine nor a script"},
		"interpreter":        {func(t *model.Template) { t.Entrypoint = []string{"/script"} }, "its interpreter is missing: there is no file /bin/no-such-shell"},
		"carriage return":    {func(t *model.Template) { t.Entrypoint = []string{"/dos"} }, "carriage return"},
		"another machine's":  {func(t *model.Template) { t.Entrypoint = []string{"/arm"} }, "EM_AARCH64"},
		"not permitted":      {func(t *model.Template) { t.Entrypoint, t.User = []string{"/closed/program"}, "web" }, "permission denied"},
		"ephemeral relative": {func(t *model.Template) { t.Ephemeral = []model.Ephemeral{{Path: "here", Size: 1}} }, `ephemeral place "here"`},
		"ephemeral in /proc": {func(t *model.Template) { t.Ephemeral = []model.Ephemeral{{Path: "/proc/x", Size: 1}} }, "the kernel's"},
		"ephemeral on file":  {func(t *model.Template) { t.Ephemeral = []model.Ephemeral{{Path: "/plain/x", Size: 1}} }, "no room for a directory at /plain/x"},
	} {
		t.Run(name, func(t *testing.T) {
			template := s.template("wait")
			c.edit(&template)
			err := e.Provision(t.Context(), s.ref(), template)
			if model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says (%s): %v\nwant (invalid): … %s …", model.CodeOf(err), err, c.says)
			}
		})
	}
	snapshot, err := e.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(snapshot.Servers) != 0 || len(snapshot.Orphans) != 0 {
		t.Errorf("left behind: %+v %q", snapshot.Servers, snapshot.Orphans)
	}
}
