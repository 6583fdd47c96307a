package local

import (
	"context"
	"errors"
	"fmt"
	"os"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// ProvisionTrial implements engine.Trials.
func (e *Engine) ProvisionTrial(ctx context.Context, ref engine.Ref, t model.Template) error {
	if len(t.Volumes) > 0 || len(t.Connects) > 0 {
		return model.Errorf(model.Invalid, "cannot try an image in %s: a server that is cut off has no volumes and connects to nothing", ref.ID)
	}
	return e.provision(ctx, ref, t, true)
}

// ObserveTrial implements engine.Trials.
func (e *Engine) ObserveTrial(_ context.Context, id model.ServerID) (model.Observed, error) {
	_, r := e.lookup(id)
	if r == nil || !r.Trial {
		return model.Observed{}, model.Errorf(model.NotFound, "there is no trial %s", id)
	}
	return r.observed(), nil
}

// cutOff has the machine forward nothing that comes in by the link. Inside there
// is no route but the one to the machine's end, and nobody who may make one: this
// is for what should get that far all the same.
func cutOff(link string) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		err := os.WriteFile("/proc/sys/net/"+family+"/conf/"+link+"/forwarding", []byte("0"), 0)
		if err != nil && (family == "ipv4" || !errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("cannot cut off link %s: %w", link, err)
		}
	}
	return nil
}
