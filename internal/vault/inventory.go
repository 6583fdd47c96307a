package vault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/model"
)

// Inventory lists the values of one kind for retention, and removes them.
type Inventory struct {
	Vault *Vault
	Kind  model.ObjectKind // ObjectSecret or ObjectConfig
}

func (i Inventory) secret() bool { return i.Kind == model.ObjectSecret }

// Objects implements engine.Inventory.
func (i Inventory) Objects(context.Context) ([]model.Object, error) {
	dir := filepath.Dir(i.Vault.path(i.secret(), "x"))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, model.Errorf(model.Unavailable, "cannot list the values in %s: %w", dir, err)
	}
	var list []model.Object
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || strings.HasSuffix(entry.Name(), ".new") {
			continue // it has gone meanwhile, or is being written
		}
		id := "sha256:" + entry.Name()
		if i.secret() {
			id = strings.TrimSuffix(entry.Name(), ".age")
		}
		list = append(list, model.Object{Kind: i.Kind, ID: id, Bytes: info.Size(), At: info.ModTime().UTC()})
	}
	return list, nil
}

// Remove implements engine.Inventory.
func (i Inventory) Remove(_ context.Context, o model.Object) error {
	v, path := i.Vault, i.Vault.path(i.secret(), o.ID)
	v.mu.Lock()
	defer v.mu.Unlock()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && (v.held[path] > 0 || info.ModTime().UTC().After(o.At)) {
		return model.Errorf(model.Precondition, "a release is being made that has it")
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot remove a value: %w", err)
	}
	return nil
}

// Tidy removes every value that is not needed, and what an interrupted write
// left. Nothing may be about to make a release. It returns how many went.
func (v *Vault) Tidy(needed map[string]bool) (removed int, err error) {
	for _, kind := range []model.ObjectKind{model.ObjectSecret, model.ObjectConfig} {
		inventory := Inventory{v, kind}
		left, _ := filepath.Glob(filepath.Join(filepath.Dir(v.path(inventory.secret(), "x")), "*.new"))
		for _, path := range left {
			err = errors.Join(err, os.Remove(path))
		}
		objects, listing := inventory.Objects(context.Background())
		err = errors.Join(err, listing)
		for _, o := range objects {
			if needed[o.ID] {
				continue
			}
			if removing := inventory.Remove(context.Background(), o); removing != nil {
				err = errors.Join(err, removing)
				continue
			}
			removed++
		}
	}
	return removed, err
}
