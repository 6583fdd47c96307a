package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"kiln/internal/model"
)

// tableStore keeps the last table on disk: a router that starts serves it
// before anybody has spoken to it.
type tableStore struct{ dir string }

func (s tableStore) path() string { return filepath.Join(s.dir, "table.json") }

// save is durable when it returns nil, and leaves the old table otherwise.
func (s tableStore) save(t *model.Table) error {
	data, err := json.MarshalIndent(t, "", "\t")
	if err != nil {
		return model.Errorf(model.Internal, "cannot save table: %w", err)
	}
	if err := s.replace(data); err != nil {
		return model.Errorf(model.Unavailable, "cannot save table: %w", err)
	}
	return nil
}

func (s tableStore) replace(data []byte) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, "table-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path())
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load returns the last table, or nil if there never was one.
func (s tableStore) load() (*model.Table, error) {
	data, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read table: %w", err)
	}
	var t model.Table
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, model.Errorf(model.Internal, "cannot read table %s: %w", s.path(), err)
	}
	if err := checkTable(&t); err != nil {
		return nil, err
	}
	return &t, nil
}

// sameTable compares by what travels: nil and empty lists are the same table.
func sameTable(a, b *model.Table) bool {
	ja, errA := json.Marshal(normalForm(a))
	jb, errB := json.Marshal(normalForm(b))
	return errA == nil && errB == nil && bytes.Equal(ja, jb)
}

func normalForm(t *model.Table) model.Table {
	n := *t
	n.Services = append([]model.TableService{}, t.Services...)
	for i := range n.Services {
		n.Services[i].Backends = append([]model.Upstream{}, n.Services[i].Backends...)
		n.Services[i].Routes = append([]model.Route{}, n.Services[i].Routes...)
	}
	return n
}
