package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"kiln/internal/model"
)

// LogInventory lists the logs of servers, and removes those of servers that are
// gone.
type LogInventory struct{ Engine *Engine }

// Objects implements engine.Inventory.
func (l LogInventory) Objects(context.Context) ([]model.Object, error) {
	names, err := namesIn(l.Engine.logsDir())
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot list the logs: %w", err)
	}
	var list []model.Object
	for _, dir := range names {
		id := filepath.Base(dir)
		if !model.ValidServerID(id) {
			continue
		}
		o := model.Object{Kind: model.ObjectLog, ID: id, Server: model.ServerID(id)}
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			o.Bytes += info.Size()
			if info.ModTime().After(o.At) {
				o.At = info.ModTime().UTC()
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // its server was destroyed meanwhile
		}
		if err != nil {
			return nil, model.Errorf(model.Unavailable, "cannot measure the log of %s: %w", id, err)
		}
		list = append(list, o)
	}
	return list, nil
}

// Remove implements engine.Inventory.
func (l LogInventory) Remove(_ context.Context, o model.Object) error {
	if _, r := l.Engine.lookup(o.Server); r != nil {
		return model.Errorf(model.Precondition, "cannot remove the log of %s: the server is there", o.Server)
	}
	if !model.ValidServerID(string(o.Server)) {
		return model.Errorf(model.Invalid, "cannot remove the log of %q: that is no server", o.Server)
	}
	if err := os.RemoveAll(l.Engine.logDir(o.Server)); err != nil {
		return model.Errorf(model.Unavailable, "cannot remove the log of %s: %w", o.Server, err)
	}
	return nil
}
