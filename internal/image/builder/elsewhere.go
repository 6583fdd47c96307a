package builder

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"

	"kiln/internal/model"
)

// elsewherePrefix begins the names of the directories in which builds are made from
// nothing, beside the cache of the others.
const elsewherePrefix = "elsewhere-"

// place is where a build is made from nothing: no step, file or mount that an
// earlier one has left is there.
type place struct {
	worker *worker
	dir    string
}

// opener opens BuildKit on a directory.
type opener func(root string) (*worker, error)

// elsewhere makes a place of its own for one build, in the directory.
func (open opener) elsewhere(dir string) (*place, error) {
	root, err := os.MkdirTemp(dir, elsewherePrefix)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot make a place for a build from nothing: %w", err)
	}
	w, err := open(root)
	if err != nil {
		_ = os.RemoveAll(root) // the next builder tries again
		return nil, err
	}
	return &place{worker: w, dir: root}, nil
}

// leave removes the place with all that was made in it, but for images.
func (p *place) leave(ctx context.Context) error {
	err := p.worker.control.Prune(&controlapi.PruneRequest{All: true}, &pruned{ctx: ctx})
	p.worker.close()
	if err == nil {
		err = os.RemoveAll(p.dir)
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot remove the place of a build from nothing: %w", err)
	}
	return nil
}

// leaveAll removes the places that a killed builder has left, with what containerd
// keeps for them.
func (open opener) leaveAll(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot look for places of builds: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), elsewherePrefix) {
			continue
		}
		root := filepath.Join(dir, e.Name())
		w, err := open(root)
		if err != nil {
			return err
		}
		if err := (&place{worker: w, dir: root}).leave(ctx); err != nil {
			return err
		}
	}
	return nil
}
