package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
)

// replaceTen measures replacing ten servers, all of the new ones before any of
// the old ones goes.
func replaceTen(ctx context.Context, b *bench) (*section, error) {
	if err := b.twoReleases(ctx, 10, "0s"); err != nil {
		return nil, err
	}
	d, err := b.dockerImages(ctx)
	if err != nil {
		return nil, err
	}
	running, err := d.ten(ctx, "shop:2")
	if err != nil {
		return nil, err
	}
	var ours, loop, once series
	for n := range b.rounds {
		began := time.Now()
		// A rollback is a blue-green deployment of the other template, and
		// builds nothing.
		if _, err := b.result(ctx, "rollback", "shop", []string{"1", "2"}[n%2]); err != nil {
			return nil, err
		}
		if err := b.rest(ctx, 10); err != nil {
			return nil, err
		}
		ours = append(ours, time.Since(began).Seconds())
		image := []string{"shop:1", "shop:2"}[n%2]
		for _, into := range []*series{&loop, &once} {
			began = time.Now()
			if into == &loop {
				running, err = d.replace(ctx, running, func() ([]string, error) { return d.ten(ctx, image) })
			} else {
				running, err = d.replace(ctx, running, func() ([]string, error) { return d.tenAtOnce(ctx, image) })
			}
			if err != nil {
				return nil, err
			}
			*into = append(*into, time.Since(began).Seconds())
		}
	}
	if _, err := d.run(ctx, append([]string{"rm", "-f"}, running...)...); err != nil {
		return nil, err
	}
	return &section{
		title: "Replacing ten servers, blue-green",
		how: "kiln: `kiln rollback` to the other version until the ten new servers serve, proved by a health check each, and the ten old " +
			"ones are gone, death records written. Docker: ten `docker run -d`, one after the other as a script does it, or all at once; each " +
			"container asked for /healthz until it answers; then `docker stop` and `docker rm` of the old ten, at once. No traffic is switched " +
			"on Docker's side.",
		rows: []row{
			compare("ten servers", "s", ours, "docker run, one by one", loop, 0.25, 0),
			compare("ten servers", "s", ours, "docker run, all at once", once, 0, 0),
		},
	}, b.clear(ctx)
}

// twoReleases deploys versions 1 and 2 of the shop, as releases 1 and 2.
func (b *bench) twoReleases(ctx context.Context, servers int, warm string) error {
	more := fmt.Sprintf("  deploy {\n    keep_warm = %q\n    drain {\n      requests = \"5s\"\n    }\n  }\n"+
		"  resources {\n    memory = \"128MiB\"\n  }\n", warm)
	for _, version := range []string{"1", "2"} {
		dir, err := b.context(version)
		if err != nil {
			return err
		}
		file, err := b.declare(dir, "shop", servers, more)
		if err != nil {
			return err
		}
		if _, err := b.result(ctx, "deploy", "-f", file); err != nil {
			return err
		}
	}
	if warm == "0s" {
		return b.rest(ctx, servers)
	}
	return nil
}

// dockerImages builds shop:1 and shop:2 with Docker.
func (b *bench) dockerImages(ctx context.Context) (*docker, error) {
	d, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	for _, version := range []string{"1", "2"} {
		dir, err := b.context(version)
		if err != nil {
			return nil, err
		}
		if _, err := d.run(ctx, "build", "-q", "-t", "shop:"+version, "-f", filepath.Join(dir, "Containerfile"), dir); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// ten starts ten containers, one after the other.
func (d *docker) ten(ctx context.Context, image string) ([]string, error) {
	var ids []string
	for range 10 {
		id, err := d.start(ctx, image)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// tenAtOnce starts ten containers at once.
func (d *docker) tenAtOnce(ctx context.Context, image string) ([]string, error) {
	type started struct {
		id  string
		err error
	}
	done := make(chan started)
	for range 10 {
		go func() {
			id, err := d.start(ctx, image)
			done <- started{id, err}
		}()
	}
	var ids []string
	var err error
	for range 10 {
		if s := <-done; s.err != nil {
			err = s.err
		} else {
			ids = append(ids, s.id)
		}
	}
	return ids, err
}

// replace starts new containers, waits until they are healthy, and removes the
// old ones.
func (d *docker) replace(ctx context.Context, old []string, start func() ([]string, error)) ([]string, error) {
	ids, err := start()
	if err != nil {
		return nil, err
	}
	out, err := d.run(ctx, append([]string{"inspect", "-f", "{{.NetworkSettings.IPAddress}}"}, ids...)...)
	if err != nil {
		return nil, err
	}
	for ip := range strings.FieldsSeq(out) {
		if err := d.healthy(ctx, ip+":8080"); err != nil {
			return nil, err
		}
	}
	if _, err := d.run(ctx, append([]string{"stop"}, old...)...); err != nil {
		return nil, err
	}
	_, err = d.run(ctx, append([]string{"rm"}, old...)...)
	return ids, err
}

// healthy asks a container for /healthz until it answers well.
func (d *docker) healthy(ctx context.Context, address string) error {
	for range 200 {
		conn, err := d.dial(address)
		if err == nil {
			var answer [12]byte
			_, err = fmt.Fprintf(conn, "GET /healthz HTTP/1.0\r\nHost: %s\r\n\r\n", address)
			if err == nil {
				_, err = conn.Read(answer[:])
			}
			_ = conn.Close()
			if err == nil && string(answer[9:12]) == "200" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not get healthy", address)
}

// warmRollback measures going back to servers that are still warm, from the
// API call to the acknowledged switch.
func warmRollback(ctx context.Context, b *bench) (*section, error) {
	if err := b.twoReleases(ctx, 3, "10m"); err != nil {
		return nil, err
	}
	var took series
	for n := range 3 * b.rounds {
		// What was rolled back from is warm now, and healthy.
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		acc, err := b.api.Rollback(ctx, "shop", api.RollbackRequest{To: 1 + n%2})
		if err != nil {
			return nil, err
		}
		if acc.Deployment == nil {
			return nil, fmt.Errorf("a rollback that changes nothing: %s", acc.Message)
		}
		verdict := time.Duration(0)
		err = b.api.Watch(ctx, *acc.Deployment, func(p api.Progress) error {
			if p.Result != nil && verdict == 0 {
				verdict = time.Since(began)
				if p.Result.Verdict != model.Succeeded {
					return fmt.Errorf("%s: %s", p.Result.Verdict, p.Result.Reason)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		took = append(took, ms(verdict))
	}
	return &section{
		title: "Rolling back while the old servers are warm",
		how:   "From the call of the API until the client has read the verdict, which falls when the router has acknowledged the switch.",
		rows:  []row{figure("a warm rollback", "ms", took, 50)},
	}, b.clear(ctx)
}

// daemonReady measures a daemon's start over twenty servers.
func daemonReady(ctx context.Context, b *bench) (*section, error) {
	dir, err := b.context("1")
	if err != nil {
		return nil, err
	}
	file, err := b.declare(dir, "shop", 20, "  resources {\n    memory = \"64MiB\"\n  }\n")
	if err != nil {
		return nil, err
	}
	if _, err := b.result(ctx, "deploy", "-f", file); err != nil {
		return nil, err
	}
	var took series
	for range b.rounds {
		if err := b.rest(ctx, 20); err != nil {
			return nil, err
		}
		if err := b.kiln.Kill(); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := b.kiln.Start(ctx); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return &section{
		title: "A daemon that was killed, ready again",
		how: "Twenty servers run; the daemon is killed with SIGKILL and started. Ready is when a client has asked the new one something " +
			"and was answered, the client's own start included.",
		rows: []row{figure("daemon ready with 20 servers", "s", took, 1)},
	}, b.clear(ctx)
}

// routerKilled measures how long no request is served when the router is
// killed. New connections wait in the backlog meanwhile and are not refused.
func routerKilled(ctx context.Context, b *bench) (*section, error) {
	if err := b.twoReleases(ctx, 3, "0s"); err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	var took series
	for range b.rounds {
		time.Sleep(6 * time.Second) // one that dies young is started later
		if err := b.kiln.Signal("router", syscall.SIGKILL); err != nil {
			return nil, err
		}
		began := time.Now()
		res, err := client.Get(b.url() + "/healthz")
		if err != nil {
			return nil, fmt.Errorf("a connection made after the router was killed: %w", err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("after the router was killed: %s", res.Status)
		}
		took = append(took, ms(time.Since(began)))
	}
	return &section{
		title: "A router that was killed, serving again",
		how:   "From SIGKILL until a connection that was opened right after it has its answer. None was refused.",
		rows:  []row{figure("a request is served again", "ms", took, 200)},
	}, b.clear(ctx)
}
