package engine

import (
	"context"

	"kiln/internal/model"
)

// Trials is implemented by engines that can run a server which is nobody's, to try
// an image with.
//
// A trial is made as Provision makes a server, from a template without volumes and
// connections, and is cut off: no packet of it gets further than the engine, and
// none but the engine's own gets to it (Dialer). It is no server to Observe, so
// nothing is decided about it. It is Stop's, Exec's, Collect's, Logger's and
// Destroy's as any other; an engine that is opened removes those that an earlier
// one has left.
type Trials interface {
	ProvisionTrial(ctx context.Context, ref Ref, t model.Template) error
	// ObserveTrial returns how it stands. NotFound: it is absent.
	ObserveTrial(ctx context.Context, id model.ServerID) (model.Observed, error)
}
