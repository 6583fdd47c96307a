package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"kiln/internal/drift"
	"kiln/internal/model"
)

// rested is how long servers at rest are watched: two turns of the default
// interval.
const rested = time.Minute

// watching measures what it costs to compare servers at rest with their
// template: the processor time of a process that does nothing else.
func watching(ctx context.Context, b *bench) (*section, error) {
	image, err := b.shopImage(ctx)
	if err != nil {
		return nil, err
	}
	s := &section{
		title: "Watching servers at rest for drift",
		how: fmt.Sprintf("As many servers of examples/shop, all healthy and asked for nothing, are compared with their template as `kiln daemon` does it: "+
			"alarms, a walk through the machine's processes every ten seconds, a look at each server and the fleet every 30 s. The figure is the "+
			"processor time of a process that does only that, over %s, as a share of one core.", rested),
	}
	return s, b.withEngine(ctx, image, func(p *provisioner) error {
		if err := p.engine.Prepare(ctx, image); err != nil {
			return err
		}
		p.template.UserNamespace = true
		var ids []model.ServerID
		for _, count := range []int{1, 10, 50, 100} {
			for len(ids) < count {
				id := p.next()
				if _, err := p.server(ctx, id); err != nil {
					return err
				}
				ids = append(ids, id)
			}
			share, err := p.watched(ctx, ids)
			if err != nil {
				return err
			}
			goal := 0.0
			if count == 50 {
				goal = 2
			}
			s.rows = append(s.rows, figure(plural(count), "%", series{share}, goal))
		}
		for _, id := range ids {
			if err := p.destroy(ctx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

func plural(n int) string {
	if n == 1 {
		return "a server"
	}
	return fmt.Sprintf("%d servers", n)
}

// watched watches the servers, and returns the share of a core that this took.
func (p *provisioner) watched(ctx context.Context, ids []model.ServerID) (float64, error) {
	ctx, stop := context.WithCancel(ctx)
	began := time.Now()
	w := drift.New(drift.Config{
		Inspector: p.engine, Sentinel: p.engine,
		Now: func() model.Instant { return model.Instant(time.Since(began)) + model.Instant(time.Second) },
		Targets: func() []drift.Target {
			targets := make([]drift.Target, 0, len(ids))
			for _, id := range ids {
				targets = append(targets, drift.Target{Server: id, Image: p.template.Image, Interval: model.DefaultDriftInterval.D()})
			}
			return targets
		},
	})
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	defer running.Wait()
	defer stop()
	const first = 5 * time.Second // the first look remembers
	for _, pause := range []time.Duration{first, rested} {
		before, from := used(), time.Now()
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
		if pause != rested {
			continue
		}
		for id, found := range w.Standing().Servers {
			if len(found) > 0 {
				return 0, fmt.Errorf("%s is said to have drifted: %v", id, found)
			}
		}
		if n := len(w.Standing().Servers); n != len(ids) {
			return 0, fmt.Errorf("%d of %d servers were looked at", n, len(ids))
		}
		return 100 * (used() - before).Seconds() / time.Since(from).Seconds(), nil
	}
	return 0, nil
}

// used is the processor time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
