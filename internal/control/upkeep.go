package control

import (
	"context"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// mendTimeout is the longest that mending firewall and links may take.
const mendTimeout = 30 * time.Second

// observeUpkeep adds what the parts that are there have seen.
func (c *Control) observeUpkeep(obs *reconcile.Observation) {
	if c.cfg.Drift != nil {
		found := c.cfg.Drift.Standing()
		obs.Drift = found.Servers
		c.mu.Lock()
		fresh := found.FleetAt > c.mended
		c.mu.Unlock()
		if found.FleetAt != 0 && fresh {
			obs.Fleet = &reconcile.FleetObserved{Findings: found.Fleet}
		}
	}
	if c.cfg.Failed != nil {
		obs.Failed = c.cfg.Failed.Failed()
	}
	if c.cfg.Disk != nil {
		obs.Disk = c.cfg.Disk.Room()
	}
	if c.cfg.Zones != nil {
		obs.Zones = c.zones()
	}
}

// zones are those that the policies in service name.
func (c *Control) zones() map[string]*time.Location {
	c.mu.Lock()
	var names []string
	for _, svc := range c.state.Services {
		if r := svc.Release(svc.InService); r != nil && r.Policy.Chaos.TimeZone != "" {
			names = append(names, r.Policy.Chaos.TimeZone)
		}
	}
	c.mu.Unlock()
	known := map[string]*time.Location{}
	for _, name := range names {
		if zone := c.cfg.Zones.Zone(name); zone != nil {
			known[name] = zone
		}
	}
	return known
}

// mend makes what belongs to no server as it should be. What was seen of it
// before says nothing any more.
func (c *Control) mend(ctx context.Context) error {
	mender, can := c.cfg.Engine.(engine.Mender)
	if !can {
		return model.Errorf(model.Invalid, "cannot mend firewall and links: the engine has none of its own")
	}
	if err := within(ctx, mendTimeout, mender.Mend); err != nil {
		return err
	}
	c.mu.Lock()
	c.mended = c.cfg.Clock.Now().Elapsed
	c.mu.Unlock()
	return nil
}
