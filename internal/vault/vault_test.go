package vault

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

const password = "correct horse battery staple"

func keep(t *testing.T, v *Vault, service, name, value string) model.SecretRef {
	t.Helper()
	digest, release, err := v.Keep(Value{Service: service, Name: name, Bytes: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	release()
	return model.SecretRef{Name: name, Version: 1, Digest: digest}
}

// A value comes back, also from a vault that is opened anew, and no file has it.
func TestSecretIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	ref := keep(t, New(dir), "shop", "DB", password)
	got, err := New(dir).Secret(t.Context(), "shop", ref)
	if err != nil || string(got) != password {
		t.Fatalf("it is %q (%v)", got, err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(password)) {
			t.Errorf("%s has the value", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Digests are the same for the same value of a secret, and tell nothing else.
func TestDigests(t *testing.T) {
	v := New(filepath.Join(t.TempDir(), "vault"))
	one := keep(t, v, "shop", "DB", password)
	seen := map[string]string{one.Digest: "it"}
	for what, other := range map[string]Value{
		"another value":   {Service: "shop", Name: "DB", Bytes: []byte(password + ".")},
		"another name":    {Service: "shop", Name: "DC", Bytes: []byte(password)},
		"another service": {Service: "stop", Name: "DB", Bytes: []byte(password)},
		"a shifted name":  {Service: "shop D", Name: "B", Bytes: []byte(password)},
		"a file":          {Bytes: []byte(password)},
	} {
		digest, err := v.Digest(other)
		if err != nil {
			t.Fatal(err)
		}
		if seen[digest] != "" {
			t.Errorf("%s has the digest of %s", what, seen[digest])
		}
		seen[digest] = what
	}
	if again := keep(t, v, "shop", "DB", password); again.Digest != one.Digest {
		t.Error("the same value has another digest")
	}
	elsewhere := keep(t, New(filepath.Join(t.TempDir(), "vault")), "shop", "DB", password)
	if elsewhere.Digest == one.Digest {
		t.Error("the digest can be made without the key")
	}
}

// What is damaged, moved or missing is said, and is never a value.
func TestBadLuck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	v := New(dir)
	one, two := keep(t, v, "shop", "DB", password), keep(t, v, "shop", "OTHER", "eight llamas")
	path := func(ref model.SecretRef) string { return v.path(true, ref.Digest) }
	sealed, err := os.ReadFile(path(one))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(path(two))
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"truncated": sealed[:len(sealed)-5], "empty": nil, "of another secret": other, "flipped": append(bytes.Clone(sealed[:len(sealed)-1]), sealed[len(sealed)-1]^1),
	} {
		if err := os.WriteFile(path(one), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := v.Secret(t.Context(), "shop", one); err == nil || model.CodeOf(err) != model.Precondition {
			t.Errorf("%s: %q, %v", what, got, err)
		} else if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "llamas") {
			t.Errorf("%s: the error has a value: %v", what, err)
		}
	}
	if keep(t, v, "shop", "DB", password); string(must(v.Secret(t.Context(), "shop", one))) != password {
		t.Error("keeping it again does not mend it")
	}
	if err := os.Remove(path(one)); err != nil {
		t.Fatal(err)
	}
	_, err = v.Secret(t.Context(), "shop", one)
	if model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "version 1 of secret DB is not kept here") {
		t.Errorf("a missing one: %v", err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// A vault whose key is gone makes no other over what needs it.
func TestKeyIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	ref := keep(t, New(dir), "shop", "DB", password)
	if err := os.Remove(filepath.Join(dir, KeyFile)); err != nil {
		t.Fatal(err)
	}
	v := New(dir)
	if _, err := v.Secret(t.Context(), "shop", ref); model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("reading: %v", err)
	}
	if _, _, err := v.Keep(Value{Service: "shop", Name: "DB", Bytes: []byte(password)}); model.CodeOf(err) != model.Precondition {
		t.Errorf("keeping: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, KeyFile), []byte("AGE-SECRET-KEY-1WRONG\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Secret(t.Context(), "shop", ref); err == nil || strings.Contains(err.Error(), "1WRONG") {
		t.Errorf("a damaged key: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, SecretsDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, KeyFile)); err != nil {
		t.Fatal(err)
	}
	if again := keep(t, New(dir), "shop", "DB", password); again.Digest == ref.Digest {
		t.Error("a new key makes the digests of the old one")
	}
}

// What no release names goes at the next start; what one is made of does not go
// at all.
func TestTidyAndRemove(t *testing.T) {
	v := New(filepath.Join(t.TempDir(), "vault"))
	named, orphan := keep(t, v, "shop", "A", password), keep(t, v, "shop", "B", password)
	file, release, err := v.Keep(Value{Bytes: []byte("color = red")})
	if err != nil {
		t.Fatal(err)
	}
	half := v.path(true, "half") + ".new"
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inventory := Inventory{v, model.ObjectConfig}
	objects, err := inventory.Objects(t.Context())
	if err != nil || len(objects) != 1 || objects[0].ID != file {
		t.Fatalf("the inventory is %+v (%v)", objects, err)
	}
	if err := inventory.Remove(t.Context(), objects[0]); model.CodeOf(err) != model.Precondition {
		t.Errorf("what a release is being made of was removed: %v", err)
	}
	release()
	old := objects[0]
	old.At = old.At.Add(-time.Second)
	if err := inventory.Remove(t.Context(), old); model.CodeOf(err) != model.Precondition {
		t.Errorf("what was kept anew since was removed: %v", err)
	}
	removed, err := v.Tidy(map[string]bool{named.Digest: true, file: true})
	if err != nil || removed != 1 {
		t.Errorf("%d were removed (%v), want 1", removed, err)
	}
	if _, err := v.Secret(t.Context(), "shop", orphan); err == nil {
		t.Error("an orphan is kept")
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("what was half written is kept")
	}
	if missing := v.Missing(t.Context(), model.Template{Service: "shop", Secrets: []model.SecretRef{named}, Config: []model.ConfigRef{{Path: "/x", Digest: model.Digest(file)}}}); len(missing) > 0 {
		t.Errorf("missing: %q", missing)
	}
	if err := inventory.Remove(t.Context(), objects[0]); err != nil {
		t.Error(err)
	}
	if missing := v.Missing(t.Context(), model.Template{Config: []model.ConfigRef{{Path: "/x", Digest: model.Digest(file)}}}); len(missing) != 1 {
		t.Errorf("missing: %q", missing)
	}
}
