package soak_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kiln/test/instance"
)

var calm = flag.Duration("calm", 10*time.Minute, "how long nginx, PostgreSQL and Node.js run without a false report of drift")

// TestNoFalseReport runs nginx, and Node.js with its PostgreSQL on a volume,
// under load, and wants not one drift reported of any of them. At its end it
// changes a server, and wants that reported.
func TestNoFalseReport(t *testing.T) {
	c := openCalm(t)
	c.load(*calm)
	if drifts := c.drifts(); drifts != "" {
		t.Errorf("what nobody has changed is reported as drift:\n%s", drifts)
	}
	c.Logf("%d requests answered, %d notes written in %s", c.answered.Load(), c.noted.Load(), *calm)
	c.run("drift", "verify", c.servers("notes")[0]) // byte for byte
	c.intrude(c.servers("site")[0])
}

// intrude puts a foreign process into a server, and wants it reported: what
// reports nothing at all proves nothing.
func (c *calmness) intrude(server string) {
	c.Helper()
	pids, err := c.kiln.PIDs(server)
	if err != nil || len(pids) == 0 {
		c.Fatalf("no process of %s: %v", server, err)
	}
	stranger := exec.CommandContext(c.Context(), "nsenter", "--target", strconv.Itoa(pids[0]), "--net", "--pid", "sleep", "30")
	if err := stranger.Start(); err != nil {
		c.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill() // it may have ended with its server
		_ = stranger.Wait()
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if drifts := c.drifts(); strings.Contains(drifts, server) {
			return
		}
		if time.Now().After(deadline) {
			c.Fatal("a foreign process is not reported within 10 s")
		}
	}
}

// calmness is an instance with the examples that stand for what people run.
type calmness struct {
	*testing.T
	kiln        *instance.Instance
	site, notes string // addresses

	answered, noted, failed atomic.Int64
}

func openCalm(t *testing.T) *calmness {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "k-") //nolint:usetesting // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	c := &calmness{T: t, kiln: instance.New(filepath.Join(root, "bin", "kiln"), dir), site: "127.0.0.1:" + freePort(t), notes: "127.0.0.1:" + freePort(t)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if t.Failed() {
			t.Logf("the daemon's last words:\n%s", c.kiln.Tail(80))
		}
		if err := c.kiln.Purge(ctx); err != nil {
			t.Errorf("cannot clean up: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	if err := c.kiln.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	base := exec.CommandContext(t.Context(), "sh", "-c",
		"mmdebstrap --quiet --variant=minbase bookworm - | "+c.kiln.Bin+" images import - --name base/debian:12")
	base.Env = append(os.Environ(), c.kiln.Env()...)
	if out, err := base.CombinedOutput(); err != nil {
		t.Fatalf("cannot make the base: %v\n%s", err, out)
	}
	for _, example := range []struct{ name, from, to string }{
		{"site", "127.0.0.1:18081", c.site},
		{"notes", "127.0.0.1:18082", c.notes},
	} {
		to := filepath.Join(dir, example.name)
		if err := os.CopyFS(to, os.DirFS(filepath.Join(root, "examples", example.name))); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(to, "kiln.hcl")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), example.from, example.to)), 0o644); err != nil {
			t.Fatal(err)
		}
		if example.name == "site" {
			if out, err := exec.CommandContext(t.Context(), filepath.Join(to, "build"), "1").CombinedOutput(); err != nil {
				t.Fatalf("cannot build the site: %v\n%s", err, out)
			}
		}
		if example.name == "notes" { // its health check asks the database
			c.run("deploy", "-f", file, "db")
			c.run("deploy", "-f", file, "notes")
			continue
		}
		c.run("deploy", "-f", file)
	}
	return c
}

func (c *calmness) run(args ...string) string {
	c.Helper()
	out, err := c.kiln.Run(c.Context(), args...)
	if err != nil {
		c.Fatal(err)
	}
	return string(out)
}

// load asks both for a while, and looks for drift every few seconds.
func (c *calmness) load(lasts time.Duration) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), lasts)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			c.ask(ctx, http.MethodGet, "http://"+c.site+"/", "")
			c.ask(ctx, http.MethodGet, "http://"+c.notes+"/", "")
			if c.ask(ctx, http.MethodPost, "http://"+c.notes+"/", fmt.Sprintf("note %d", n)) {
				c.noted.Add(1)
			}
		}
	}()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
		if drifts := c.drifts(); drifts != "" {
			c.Errorf("what nobody has changed is reported as drift:\n%s", drifts)
			cancel()
		}
	}
	<-done
	if failed := c.failed.Load(); failed > 0 {
		c.Errorf("%d of %d requests failed", failed, failed+c.answered.Load())
	}
}

func (c *calmness) ask(ctx context.Context, method, url, body string) bool {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		c.Error(err)
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil || res.StatusCode != http.StatusOK:
		c.failed.Add(1)
		return false
	}
	c.answered.Add(1)
	return true
}

// drifts returns what is reported, ""; nothing.
func (c *calmness) drifts() string {
	c.Helper()
	out, err := c.kiln.Run(c.Context(), "drift", "--exit-code", "--json")
	if err != nil {
		return err.Error() + "\n" + string(out)
	}
	return ""
}

// servers returns those of a service that serve.
func (c *calmness) servers(service string) (ids []string) {
	c.Helper()
	var st struct {
		Services []status `json:"services"`
	}
	if err := json.Unmarshal([]byte(c.run("status", service, "--json")), &st); err != nil {
		c.Fatal(err)
	}
	for _, svc := range st.Services {
		for _, srv := range svc.Servers {
			if srv.InService {
				ids = append(ids, string(srv.ID))
			}
		}
	}
	return ids
}
