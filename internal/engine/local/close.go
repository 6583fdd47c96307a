package local

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// DialServer implements engine.Dialer: the machine has a route to each of its
// servers.
func (e *Engine) DialServer(ctx context.Context, id model.ServerID, address string) (net.Conn, error) {
	_, r := e.lookup(id)
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot dial %s at %q: %w", id, address, err)
	}
	if r == nil || r.Address != host {
		return nil, model.Errorf(model.NotFound, "cannot dial %s: it has no address %s", id, host)
	}
	if r.Exit != nil {
		return nil, model.Errorf(model.Unavailable, "cannot dial %s: it has ended (%s)", id, r.Exit)
	}
	d := net.Dialer{Control: onLink}
	return d.DialContext(ctx, "tcp", address)
}

// onLink makes a socket reach only what is on a link of this machine. A server
// whose link is gone, as after a reboot, is not looked for beyond it, where
// somebody else may answer for it.
func onLink(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DONTROUTE, 1)
	})
	return errors.Join(err, failed)
}

// RemoveBuildRemnants removes the containers that are not servers: steps of a
// build whose builder was killed. It must not be called while a builder runs.
func (e *Engine) RemoveBuildRemnants(ctx context.Context) error {
	ctx = e.scoped(ctx)
	containers, err := e.client.ContainerService().List(ctx)
	if err != nil {
		return containerdError(err, "list the containers")
	}
	var errs []error
	for _, c := range containers {
		if c.Labels[serverLabel] != "" {
			continue
		}
		e.Log.Info("removing what a build left", "container", c.ID)
		if err := e.deleteTask(ctx, model.ServerID(c.ID)); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := e.client.ContainerService().Delete(ctx, c.ID); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, containerdError(err, "delete container %s", c.ID))
		}
	}
	return errors.Join(errs...)
}

// Purge implements engine.Closer. What is left then is containerd itself, which
// is not the engine's to stop, and its directories with all images and the build
// cache.
func (e *Engine) Purge(ctx context.Context) error {
	ctx = e.scoped(ctx)
	e.mu.Lock()
	left := len(e.servers)
	e.mu.Unlock()
	if left > 0 {
		return model.Errorf(model.Precondition, "cannot remove the instance %s from the machine: it has %d servers", e.Instance, left).
			WithHint("destroy the services first")
	}
	if err := e.sweep(ctx); err != nil {
		return err
	}
	if err := e.RemoveBuildRemnants(ctx); err != nil {
		return err
	}
	errs := []error{removeGroup(e.cgroup()), removeFirewall(e.Config), removeLosses(e.Config), e.dropMemory()}
	for _, dir := range []string{e.netnsDir(), e.usernsDir(), e.mountsDir(), e.execDir(), e.runcRoot(), e.serversDir(), e.logsDir()} {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
