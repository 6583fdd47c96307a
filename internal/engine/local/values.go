package local

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/engine/local/privateenv"
	"kiln/internal/model"
)

// Secrets are in memory alone: in one file system of the instance, with a
// directory for each server that has any. What is in it besides the files that a
// server sees is its environment, the runtime's configuration that has it, and
// what commands in the server are started with.
func (c Config) secretsDir() string { return filepath.Join(c.RunDir, "secrets") }

func (c Config) secretDir(id model.ServerID) string {
	return filepath.Join(c.secretsDir(), string(id))
}

// configDir has the server's configuration files, by their number.
func (c Config) configDir(id model.ServerID) string {
	return filepath.Join(c.serverDir(id), "config")
}

const (
	secretFiles = "files"
	secretKey   = "key"
	secretExecs = "exec"
)

// giveValues puts what the template only names where the server is given it.
func (e *Engine) giveValues(ctx context.Context, r *record, p *plan) error {
	t := r.Template
	if len(t.Secrets)+len(t.Config) == 0 {
		return nil
	}
	if e.Vault == nil {
		return model.Errorf(model.Precondition, "it has secrets or configuration files, and nothing here keeps any")
	}
	if err := e.giveConfig(ctx, r); err != nil {
		return err
	}
	if len(t.Secrets) == 0 {
		return nil
	}
	if err := e.ensureMemory(); err != nil {
		return err
	}
	dir := e.secretDir(r.ID)
	for _, d := range []string{dir, filepath.Join(dir, secretFiles), filepath.Join(dir, secretExecs)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("cannot make a place for secrets: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, secretKey), []byte(rand.Text()), 0o600); err != nil {
		return fmt.Errorf("cannot make a place for secrets: %w", err)
	}
	return e.giveSecrets(ctx, r, p)
}

func (e *Engine) giveSecrets(ctx context.Context, r *record, p *plan) error {
	var env []string
	files := filepath.Join(e.secretDir(r.ID), secretFiles)
	uid, gid := int(r.IDs+p.user.UID), int(r.IDs+p.user.GID)
	for _, ref := range r.Template.Secrets {
		value, err := e.Vault.Secret(ctx, r.Template.Service, ref)
		if err != nil {
			return err
		}
		if ref.As == model.SecretEnv {
			env = append(env, ref.Name+"="+string(value))
			continue
		}
		if err := writeOwned(filepath.Join(files, ref.Name), value, 0o400, uid, gid); err != nil {
			return fmt.Errorf("cannot give it secret %s: %w", ref.Name, err)
		}
	}
	if err := os.Chown(files, uid, gid); err != nil {
		return fmt.Errorf("cannot give it secrets: %w", err)
	}
	if err := os.Chmod(files, 0o500); err != nil {
		return fmt.Errorf("cannot give it secrets: %w", err)
	}
	if len(env) == 0 {
		return nil
	}
	if err := privateenv.Write(e.secretDir(r.ID), env); err != nil {
		return fmt.Errorf("cannot give it secrets: %w", err)
	}
	return nil
}

func (e *Engine) giveConfig(ctx context.Context, r *record) error {
	dir := e.configDir(r.ID)
	for i, ref := range r.Template.Config {
		content, err := e.Vault.Config(ctx, ref)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make a place for %s: %w", ref.Path, err)
		}
		if err := writeOwned(filepath.Join(dir, strconv.Itoa(i)), content, 0o444, int(r.IDs), int(r.IDs)); err != nil {
			return fmt.Errorf("cannot give it %s: %w", ref.Path, err)
		}
	}
	return nil
}

// writeOwned writes a file that somebody else owns.
func writeOwned(path string, b []byte, mode os.FileMode, uid, gid int) error {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chown(path, uid, gid), os.Chmod(path, mode))
}

// valueMounts shows the server what giveValues made.
func (e *Engine) valueMounts(r *record) []specs.Mount {
	bind := func(at, from string) specs.Mount {
		return specs.Mount{Destination: at, Type: "bind", Source: from, Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"}}
	}
	var mounts []specs.Mount
	for i, ref := range r.Template.Config {
		mounts = append(mounts, bind(ref.Path, filepath.Join(e.configDir(r.ID), strconv.Itoa(i))))
	}
	if r.Template.HasSecretFiles() {
		mounts = append(mounts, bind(model.SecretsDir, filepath.Join(e.secretDir(r.ID), secretFiles)))
	}
	return mounts
}

// configPaths are the template's configuration files, as paths.
func configPaths(t model.Template) []string {
	var list []string
	for _, ref := range t.Config {
		list = append(list, ref.Path)
	}
	return list
}

// ensureMemory mounts the file system for secrets, if it is not. Where the
// kernel can it is never written to swap.
func (e *Engine) ensureMemory() error {
	e.mounting.Lock()
	defer e.mounting.Unlock()
	dir := e.secretsDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a place for secrets: %w", err)
	}
	mounted, err := isMount(dir)
	if mounted || err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err = unix.Mount("kiln-secrets", dir, "tmpfs", flags, "mode=0700,noswap")
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4
		err = unix.Mount("kiln-secrets", dir, "tmpfs", flags, "mode=0700")
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot mount memory for secrets at %s: %w", dir, err)
	}
	return nil
}

// isMount reports whether another file system than its parent's is mounted on
// the directory.
func isMount(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		return false, fmt.Errorf("cannot look at %s: %w", dir, err)
	}
	if err := unix.Stat(filepath.Dir(dir), &above); err != nil {
		return false, fmt.Errorf("cannot look at %s: %w", filepath.Dir(dir), err)
	}
	return here.Dev != above.Dev, nil
}

// dropMemory forgets every secret.
func (e *Engine) dropMemory() error {
	if err := unix.Unmount(e.secretsDir(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount %s: %w", e.secretsDir(), err)
	}
	return os.RemoveAll(e.secretsDir())
}

// environment is the server's, with the secrets in it.
func (e *Engine) environment(r *record) []string {
	if !r.Template.HasSecretEnv() {
		return r.Env
	}
	private, err := privateenv.Read(e.secretDir(r.ID))
	if err != nil {
		e.Log.Warn("cannot read the secrets of a server: what is run in it has none", "server", r.ID, "error", err)
	}
	return privateenv.Join(r.Env, private)
}

// execPlace is where what is started in the server is written down.
func (e *Engine) execPlace(r *record) string {
	if r.Template.HasSecretEnv() {
		return filepath.Join(e.secretDir(r.ID), secretExecs)
	}
	return e.execDir()
}

// Secrets implements engine.Confidant.
func (e *Engine) Secrets(ctx context.Context, id model.ServerID) []string {
	_, r := e.lookup(id)
	if r == nil || e.Vault == nil {
		return nil
	}
	var values []string
	for _, ref := range r.Template.Secrets {
		value, err := e.Vault.Secret(ctx, r.Template.Service, ref)
		if err != nil && ref.As == model.SecretFile {
			value, err = os.ReadFile(filepath.Join(e.secretDir(id), secretFiles, ref.Name))
		}
		if err == nil {
			values = append(values, string(value))
		}
	}
	return values
}

// specDigest identifies the runtime's configuration of the server. One that has
// secrets is identified by a key in memory: what is kept of it on the disk gives
// nothing to guess from.
func (e *Engine) specDigest(id model.ServerID, spec []byte) string {
	key, err := os.ReadFile(filepath.Join(e.secretDir(id), secretKey))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			e.Log.Warn("cannot read the key of a server's configuration", "server", id, "error", err)
		}
		return digestOf(spec)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(spec)
	return hex.EncodeToString(mac.Sum(nil))
}
