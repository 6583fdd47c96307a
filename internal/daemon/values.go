package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"filippo.io/age/armor"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/vault"
)

// values keeps what templates only name, for the API.
type values struct {
	vault    *vault.Vault
	identity string                      // the file with the identities that age files are encrypted for; "": none
	env      func(string) (string, bool) // the daemon's environment
}

// openVault opens the vault, and reads the identity once: a daemon that is told
// of a wrong one does not start.
func (d *daemon) openVault() error {
	d.vault = vault.New(filepath.Join(d.cfg.DataDir, "vault"))
	d.values = values{d.vault, d.cfg.AgeIdentity, os.LookupEnv}
	if d.cfg.AgeIdentity == "" {
		return nil
	}
	if _, err := d.values.identities(); err != nil {
		return err
	}
	if info, err := os.Stat(d.cfg.AgeIdentity); err == nil && info.Mode().Perm()&0o077 != 0 {
		d.cfg.Log.Warn("others than its owner can read the age identity", "file", d.cfg.AgeIdentity, "mode", info.Mode().Perm().String())
	}
	return nil
}

// tidyVault removes what a daemon that was killed had kept for releases that were
// never made, and says what is missing.
func (d *daemon) tidyVault(ctx context.Context) {
	removed, err := d.vault.Tidy(reconcile.NamedValues(d.state))
	if err != nil {
		d.cfg.Log.Warn("cannot remove values that no release names", "error", err)
	}
	if removed > 0 {
		d.cfg.Log.Info("removed values that no release names", "count", removed)
	}
	for name, svc := range d.state.Services {
		r := svc.Release(svc.InService)
		if r == nil || svc.Destroyed {
			continue
		}
		for _, missing := range d.vault.Missing(ctx, r.Template) {
			d.cfg.Log.Error("what runs goes on, and no server of the service can be made: deploy it, or put back what is missing", "service", name, "missing", missing)
		}
	}
}

// identities reads the file that the daemon is told of.
func (v values) identities() ([]age.Identity, error) {
	f, err := os.Open(v.identity)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read the age identity: %w", err)
	}
	defer f.Close()
	list, err := age.ParseIdentities(io.LimitReader(f, 1<<20))
	if err != nil { // it may quote the file
		return nil, model.Errorf(model.Invalid, "%s holds no age identity", v.identity).
			WithHint("make one: age-keygen -o %s", v.identity)
	}
	return list, nil
}

// Missing implements server.Values.
func (v values) Missing(ctx context.Context, t model.Template) []string {
	return v.vault.Missing(ctx, t)
}

// Settle implements server.Values. No error has a value in it.
func (v values) Settle(_ context.Context, in api.DeployRequest, keep bool) (model.Template, func(), error) {
	t := in.Template
	var kept []func()
	release := func() {
		for _, done := range kept {
			done()
		}
	}
	settle := func(x vault.Value) (string, error) {
		if !keep {
			return v.vault.Digest(x)
		}
		digest, done, err := v.vault.Keep(x)
		if err == nil {
			kept = append(kept, done)
		}
		return digest, err
	}
	err := v.settleSecrets(&t, in.Values, settle)
	if err == nil {
		err = v.settleConfig(&t, in.Values, settle)
	}
	if err != nil {
		release()
		return t, nil, err
	}
	return t, release, nil
}

func (v values) settleSecrets(t *model.Template, given api.Values, settle func(vault.Value) (string, error)) error {
	by := map[string]api.SecretValue{}
	for _, x := range given.Secrets {
		by[x.Name] = x
	}
	secrets := make([]model.SecretRef, 0, len(t.Secrets))
	for _, ref := range t.Secrets {
		from, has := by[ref.Name]
		if !has {
			return model.Errorf(model.Invalid, "cannot deploy %s: no value is given for secret %s", t.Service, ref.Name)
		}
		value, err := v.value(from)
		if err == nil {
			value, err = fit(ref, value)
		}
		if err != nil {
			return model.Errorf(model.CodeOf(err), "cannot deploy %s: secret %s: %w", t.Service, ref.Name, err).WithHint("%s", model.HintOf(err))
		}
		if ref.Digest, err = settle(vault.Value{Service: t.Service, Name: ref.Name, Bytes: value}); err != nil {
			return model.Errorf(model.CodeOf(err), "cannot deploy %s: secret %s: %w", t.Service, ref.Name, err).WithHint("%s", model.HintOf(err))
		}
		secrets = append(secrets, ref)
	}
	if len(secrets) > 0 {
		t.Secrets = secrets
	}
	return nil
}

func (v values) settleConfig(t *model.Template, given api.Values, settle func(vault.Value) (string, error)) error {
	by := map[string][]byte{}
	for _, x := range given.Config {
		by[x.Path] = x.Content
	}
	files := make([]model.ConfigRef, 0, len(t.Config))
	for _, ref := range t.Config {
		content, has := by[ref.Path]
		if !has {
			return model.Errorf(model.Invalid, "cannot deploy %s: no content is given for %s", t.Service, ref.Path)
		}
		if len(content) > model.MaxValue {
			return model.Errorf(model.Invalid, "cannot deploy %s: %s has %d bytes, and a configuration file at most %d", t.Service, ref.Path, len(content), model.MaxValue)
		}
		digest, err := settle(vault.Value{Bytes: content})
		if err != nil {
			return model.Errorf(model.CodeOf(err), "cannot deploy %s: %s: %w", t.Service, ref.Path, err).WithHint("%s", model.HintOf(err))
		}
		ref.Digest, ref.Size = model.Digest(digest), int64(len(content))
		files = append(files, ref)
	}
	if len(files) > 0 {
		t.Config = files
	}
	return nil
}

// value takes a secret's value from where it comes.
func (v values) value(x api.SecretValue) ([]byte, error) {
	switch {
	case x.Env != "":
		text, set := v.env(x.Env)
		if !set {
			return nil, model.Errorf(model.Precondition, "the daemon's environment has no variable %s", x.Env).
				WithHint("set it where the daemon is started, and start the daemon again; servers and traffic go on meanwhile")
		}
		return []byte(text), nil
	case len(x.Age) > 0:
		return v.decrypt(x.Age)
	default:
		return x.Value, nil
	}
}

// decrypt opens a file that was encrypted for the daemon.
func (v values) decrypt(file []byte) ([]byte, error) {
	if v.identity == "" {
		return nil, model.Errorf(model.Precondition, "it is encrypted, and the daemon has no age identity").
			WithHint("age-keygen -o FILE makes one; start the daemon with --age-identity FILE")
	}
	identities, err := v.identities()
	if err != nil {
		return nil, err
	}
	var from io.Reader = bytes.NewReader(file)
	if bytes.HasPrefix(bytes.TrimSpace(file), []byte(armor.Header)) {
		from = armor.NewReader(from)
	}
	r, err := age.Decrypt(from, identities...)
	if _, other := errors.AsType[*age.NoIdentityMatchError](err); other {
		return nil, model.Errorf(model.Precondition, "it is encrypted for somebody else than the daemon: none of the identities in %s opens it", v.identity).
			WithHint("encrypt it for the daemon: age -r RECIPIENT -o FILE, with the recipient that age-keygen -y %s prints", v.identity)
	}
	var value []byte
	if err == nil {
		value, err = io.ReadAll(io.LimitReader(r, model.MaxValue+1))
	}
	if err != nil { // what it says may quote a file that is not encrypted at all
		return nil, model.Errorf(model.Invalid, "it is no age file, or a damaged one").
			WithHint("encrypt it again: age -r RECIPIENT -o FILE")
	}
	return value, nil
}

// fit refuses a value that cannot be given in its form. Of a variable one line
// feed at the end is left out, as shells do.
func fit(ref model.SecretRef, value []byte) ([]byte, error) {
	if ref.As == model.SecretEnv {
		value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	}
	switch {
	case len(value) == 0:
		return nil, model.Errorf(model.Invalid, "its value is empty")
	case len(value) > model.MaxValue:
		return nil, model.Errorf(model.Invalid, "its value has more than the %d bytes that one may have", model.MaxValue)
	case ref.As != model.SecretEnv:
		return value, nil
	case bytes.IndexByte(value, 0) >= 0:
		return nil, model.Errorf(model.Invalid, "its value contains a zero byte, which no environment variable can").WithHint(`as = "file"`)
	case bytes.IndexByte(value, '\n') >= 0:
		return nil, model.Errorf(model.Invalid, "its value has several lines, which few programs expect of an environment variable").WithHint(`as = "file"`)
	case len(value) > maxVariable:
		return nil, model.Errorf(model.Invalid, "its value has %d bytes, and the kernel takes at most %d of an environment variable", len(value), maxVariable).WithHint(`as = "file"`)
	}
	return value, nil
}

// maxVariable is somewhat less than MAX_ARG_STRLEN, name and all.
const maxVariable = 128<<10 - 256
