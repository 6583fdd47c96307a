package daemon

import (
	"context"

	"kiln/internal/model"
	"kiln/internal/router"
)

// routers is every router of the instance: one, on one machine.
type routers struct{ client *router.Client }

func newRouters(runDir string) routers { return routers{router.Dial(runDir)} }

// Apply implements control.Router.
func (r routers) Apply(ctx context.Context, table model.Table) error {
	_, err := r.client.Apply(ctx, table)
	return err
}

// Status implements control.Router. A router that does not answer is silent:
// the keeper sees to it that one lives, so it may come back with any table.
func (r routers) Status(ctx context.Context) (answered []model.RouterStatus, silent int, err error) {
	status, err := r.client.Status(ctx)
	if err != nil {
		return nil, 1, err
	}
	return []model.RouterStatus{status}, 0, nil
}
