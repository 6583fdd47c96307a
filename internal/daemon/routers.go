package daemon

import (
	"cmp"
	"context"
	"sync"

	"kiln/internal/model"
	"kiln/internal/router"
)

// routers is every router of the instance: one, and while it is handed over to
// another process two.
type routers struct{ runDir string }

func newRouters(runDir string) routers { return routers{runDir} }

// ask puts a question to all of them at once. It returns the answers of those
// that live, how many of those did not answer, and why.
func (r routers) ask(question func(*router.Client) (model.RouterStatus, error)) (answered []model.RouterStatus, silent int, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range router.All(r.runDir) {
		wg.Go(func() {
			st, e := question(c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e == nil:
				answered = append(answered, st)
			case !router.Gone(e):
				silent++
				err = cmp.Or(err, e)
			}
		})
	}
	wg.Wait()
	for _, st := range answered {
		if st.Phase == model.RouterServing {
			return answered, silent, err
		}
	}
	// The keeper sees to it that one serves: it may come back with the table
	// that was the last on disk, whatever the others say.
	if silent == 0 {
		silent, err = 1, model.Errorf(model.Unavailable, "no router serves")
	}
	return answered, silent, err
}

// Apply implements control.Router.
func (r routers) Apply(ctx context.Context, table model.Table) error {
	_, _, err := r.ask(func(c *router.Client) (model.RouterStatus, error) { return c.Apply(ctx, table) })
	return err
}

// Status implements control.Router.
func (r routers) Status(ctx context.Context) (answered []model.RouterStatus, silent int, err error) {
	return r.ask(func(c *router.Client) (model.RouterStatus, error) { return c.Status(ctx) })
}
