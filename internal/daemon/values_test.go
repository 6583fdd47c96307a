package daemon

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/vault"
)

// encrypted returns the value, encrypted for the recipient.
func encrypted(t *testing.T, to age.Recipient, value string, armored bool) []byte {
	t.Helper()
	var out bytes.Buffer
	var into io.WriteCloser = nopCloser{&out}
	if armored {
		into = armor.NewWriter(&out)
	}
	w, err := age.Encrypt(into, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(value)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := into.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func identity(t *testing.T) (*age.X25519Identity, string) {
	t.Helper()
	made, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(path, []byte("# of the daemon\n"+made.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return made, path
}

// What a source gives is kept, or refused with words that do not have it.
func TestSettle(t *testing.T) {
	own, path := identity(t)
	other, _ := identity(t)
	env := map[string]string{"TOKEN": "hunter2-token", "EMPTY": ""}
	v := values{vault.New(filepath.Join(t.TempDir(), "vault")), path, func(name string) (string, bool) { s, ok := env[name]; return s, ok }}
	sealed := encrypted(t, own.Recipient(), "hunter2\n", false)
	for what, c := range map[string]struct {
		as    model.SecretForm
		from  api.SecretValue
		value string // that is kept
		want  string // or what is said
		code  model.Code
	}{
		"a file":               {model.SecretFile, api.SecretValue{Value: []byte("hunter2\n\x00")}, "hunter2\n\x00", "", ""},
		"a variable":           {model.SecretEnv, api.SecretValue{Value: []byte("hunter2\n")}, "hunter2", "", ""},
		"one of the daemon":    {model.SecretEnv, api.SecretValue{Env: "TOKEN"}, "hunter2-token", "", ""},
		"encrypted":            {model.SecretFile, api.SecretValue{Age: sealed}, "hunter2\n", "", ""},
		"armored":              {model.SecretFile, api.SecretValue{Age: encrypted(t, own.Recipient(), "hunter2", true)}, "hunter2", "", ""},
		"not set":              {model.SecretEnv, api.SecretValue{Env: "TOKEM"}, "", "has no variable TOKEM", model.Precondition},
		"empty in the daemon":  {model.SecretEnv, api.SecretValue{Env: "EMPTY"}, "", "its value is empty", model.Invalid},
		"empty":                {model.SecretFile, api.SecretValue{}, "", "its value is empty", model.Invalid},
		"a line feed":          {model.SecretEnv, api.SecretValue{Value: []byte("\n")}, "", "its value is empty", model.Invalid},
		"zero byte":            {model.SecretEnv, api.SecretValue{Value: []byte("hunter2\x00x")}, "", "a zero byte", model.Invalid},
		"lines":                {model.SecretEnv, api.SecretValue{Value: []byte("hunter2\nhunter3\n")}, "", "several lines", model.Invalid},
		"long":                 {model.SecretEnv, api.SecretValue{Value: bytes.Repeat([]byte("hunter2"), 30000)}, "", "the kernel takes at most", model.Invalid},
		"too large":            {model.SecretFile, api.SecretValue{Value: bytes.Repeat([]byte("h"), model.MaxValue+1)}, "", "more than the 1048576 bytes", model.Invalid},
		"too large, encrypted": {model.SecretFile, api.SecretValue{Age: encrypted(t, own.Recipient(), strings.Repeat("h", model.MaxValue+1), false)}, "", "more than the 1048576 bytes", model.Invalid},
		"of somebody else":     {model.SecretFile, api.SecretValue{Age: encrypted(t, other.Recipient(), "hunter2", false)}, "", "for somebody else", model.Precondition},
		"cut off":              {model.SecretFile, api.SecretValue{Age: sealed[:len(sealed)-3]}, "", "damaged", model.Invalid},
		"cut off early":        {model.SecretFile, api.SecretValue{Age: sealed[:40]}, "", "damaged", model.Invalid},
		"not encrypted":        {model.SecretFile, api.SecretValue{Age: []byte("hunter2 in the clear\n")}, "", "no age file", model.Invalid},
	} {
		t.Run(what, func(t *testing.T) {
			c.from.Name = "S"
			in := api.DeployRequest{Values: api.Values{Secrets: []api.SecretValue{c.from}}}
			in.Template.Service, in.Template.Secrets = "shop", []model.SecretRef{{Name: "S", As: c.as}}
			settled, release, err := v.Settle(t.Context(), in, true)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || model.CodeOf(err) != c.code {
					t.Errorf("it says %v (%s)", err, model.CodeOf(err))
				}
				if err != nil && strings.Contains(err.Error()+model.HintOf(err), "hunter2") {
					t.Errorf("the message has the value: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			release()
			if got, err := v.vault.Secret(t.Context(), "shop", settled.Secrets[0]); err != nil || string(got) != c.value {
				t.Errorf("kept is %q (%v), want %q", got, err, c.value)
			}
			if in.Template.Secrets[0].Digest != "" {
				t.Error("the request was changed")
			}
		})
	}
}

// What the request brings nothing for is refused, and a plan keeps nothing.
func TestSettleWithout(t *testing.T) {
	v := values{vault: vault.New(filepath.Join(t.TempDir(), "vault")), env: os.LookupEnv}
	var in api.DeployRequest
	in.Template.Service, in.Template.Secrets = "shop", []model.SecretRef{{Name: "S", As: model.SecretFile}}
	if _, _, err := v.Settle(t.Context(), in, true); model.CodeOf(err) != model.Invalid {
		t.Errorf("without a value: %v", err)
	}
	in.Values.Secrets = []api.SecretValue{{Name: "S", Age: []byte("age-encryption.org/v1\n")}}
	if _, _, err := v.Settle(t.Context(), in, true); model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "no age identity") {
		t.Errorf("without an identity: %v", err)
	}
	in.Values.Secrets = []api.SecretValue{{Name: "S", Value: []byte("v")}}
	planned, _, err := v.Settle(t.Context(), in, false)
	if err != nil {
		t.Fatal(err)
	}
	if missing := v.Missing(t.Context(), planned); len(missing) != 1 {
		t.Errorf("a plan has kept its values: missing are %q", missing)
	}
	in.Template.Config = []model.ConfigRef{{Path: "/etc/x"}}
	if _, _, err := v.Settle(t.Context(), in, true); model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "no content is given for /etc/x") {
		t.Errorf("without a content: %v", err)
	}
}
