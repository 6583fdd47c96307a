package daemon

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"kiln/internal/backup"
	"kiln/internal/reconcile"
	"kiln/internal/registry"
)

// readRegistryFile reads how an operator has configured the registry, before
// anything is started that a mistake in it would leave behind.
func (d *daemon) readRegistryFile() (err error) {
	if d.cfg.RegistryFile == "" {
		d.cfg.RegistryFile = filepath.Join(d.cfg.DataDir, backup.RegistryFile)
	}
	d.registryFile, err = registry.ReadFile(d.cfg.RegistryFile)
	return err
}

// openRegistry opens the registry until ctx ends.
func (d *daemon) openRegistry(ctx context.Context) (err error) {
	d.signer.ctx = ctx
	d.registry, err = registry.Open(ctx, registry.Config{
		File: d.registryFile, Dir: filepath.Join(d.cfg.DataDir, "registry"), Images: shelf{d.control, d.images}, Log: d.cfg.Log, Room: d.room,
	})
	if err == nil {
		context.AfterFunc(ctx, func() { _ = d.registry.Close() }) // it keeps nothing back
	}
	return err
}

// startRegistry serves others where that is configured. An address that cannot be
// had is tried again: it is no reason to end.
func (d *daemon) startRegistry(ctx context.Context) {
	d.running.Go(func() { d.registry.Run(ctx) })
	d.signer.signOld()
	d.running.Go(func() { d.signer.rejectOld(d.signer.ctx) })
	d.running.Go(func() { d.sources.dropOld(d.signer.ctx) })
	d.running.Go(func() { d.publisher.Run(ctx) })
	public := d.registry.Public()
	if public == nil {
		return
	}
	d.running.Go(func() {
		d.serveAgain(ctx, "the registry", d.registry.Listen, &http.Server{
			Handler: d.signer.settling(public), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		})
	})
}

// room says why nothing can be pushed: what the journal and the servers need stays
// free.
func (d *daemon) room() error {
	disks, err := rooms(d.cfg.DataDir).Rooms()
	if err != nil {
		return nil //nolint:nilerr // a disk that cannot be looked at is no reason to refuse
	}
	return reconcile.FitsDisk(disks, "push to the registry", 0)
}
