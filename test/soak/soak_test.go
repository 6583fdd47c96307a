// Package soak_test runs a shop under a mixed load for as long as it takes to
// deploy, roll back and kill many times, and wants not one request to fail.
package soak_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiln/test/instance"
	"kiln/test/load"
)

var (
	rate      = flag.Float64("rate", 500, "requests per second")
	deploys   = flag.Int("deploys", 20, "deploys under load")
	rollbacks = flag.Int("rollbacks", 10, "rollbacks under load, half of them warm")
	kills     = flag.Int("kills", 30, "times that the daemon is killed in a deploy")
	seed      = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the moments chosen")
)

// drain is what the declaration gives and what failures are judged by.
const drain = 10 * time.Second

// declaration is the shop's, with quick probes and short drains.
const declaration = `service "shop" {
  image {
    context = "."
  }
  servers = 3
  port    = 8080
  route {
    listen = "127.0.0.1:%[1]s"
  }
  health "http" {
    path     = "/healthz"
    interval = "200ms"
  }
  validate "exec" "self-test" {
    command = ["/app", "selftest"]
  }
  deploy {
    deadline  = "5m"
    keep_warm = "%[3]s"
    drain {
      requests   = "%[2]s"
      streams    = "%[2]s"
      websockets = "%[2]s"
    }
  }
  resources {
    memory = "128MiB"
  }
}
`

// shop is the service under test.
type shop struct {
	*testing.T
	kiln *instance.Instance
	dir  string // of its declaration
	url  string
	load *load.Run
}

// open starts an instance with version 1 in service and the load on it.
func open(t *testing.T, drain, keepWarm string) *shop {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this starts servers, and has to run as root")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "k-") //nolint:usetesting // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{T: t, kiln: instance.New(filepath.Join(root, "bin", "kiln"), dir), dir: filepath.Join(dir, "shop")}
	t.Cleanup(s.close)
	port := freePort(t)
	s.url = "http://127.0.0.1:" + port
	s.must(os.Mkdir(s.dir, 0o755))
	s.write("kiln.hcl", fmt.Sprintf(declaration, port, drain, keepWarm))
	s.write("Containerfile", "FROM scratch\nCOPY app /app\nUSER 65534:65534\nENTRYPOINT [\"/app\"]\n")
	s.write(".dockerignore", "*\n!app\n")
	for _, version := range []string{"1", "2"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -X main.version="+version, "-o", filepath.Join(dir, version), "./examples/shop")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot build the shop: %v\n%s", err, out)
		}
	}
	s.must(s.kiln.Start(t.Context()))
	s.deploy("1")
	s.load, err = load.Start(context.Background(), load.Options{
		URL: s.url, Rate: *rate, Expect: "Shop", Checksum: true, Seed: *seed,
		Drain: load.Drain{Requests: 10 * time.Second, Streams: 10 * time.Second, WebSockets: 10 * time.Second},
	})
	s.must(err)
	return s
}

// close ends the load and the instance; nothing of it may be left.
func (s *shop) close() {
	if s.load != nil {
		s.load.Stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if s.Failed() {
		s.Logf("the daemon's last words:\n%s", s.kiln.Tail(80))
	} else if left, err := s.kiln.End(ctx); err != nil || len(left) > 0 {
		s.Errorf("left behind: %v %s", err, strings.Join(left, "\n  "))
	}
	if err := s.kiln.Purge(ctx); err != nil {
		s.Errorf("cannot clean up: %v", err)
	}
	_ = os.RemoveAll(filepath.Dir(s.dir))
}

func (s *shop) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *shop) write(name, text string) {
	s.Helper()
	s.must(os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644))
}

// choose puts a version's binary into the context.
func (s *shop) choose(version string) {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(s.dir), version))
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.dir, "app"), b, 0o755))
}

// deploy brings a version into service and wants it to succeed.
func (s *shop) deploy(version string) {
	s.Helper()
	s.choose(version)
	s.result("deploy", "-f", filepath.Join(s.dir, "kiln.hcl"), "-m", "version "+version)
}

// result runs deploy or rollback and wants the verdict succeeded.
func (s *shop) result(args ...string) {
	s.Helper()
	began := time.Now()
	out, err := s.kiln.Run(s.Context(), append(args, "--json")...)
	s.must(err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var r struct {
		Verdict string `json:"verdict"`
		Reason  string `json:"reason"`
		Release int    `json:"release"`
		Cut     int    `json:"requests_cut"`
	}
	s.must(json.Unmarshal([]byte(lines[len(lines)-1]), &r))
	if r.Verdict != "succeeded" {
		s.Fatalf("%s: %s: %s", args[0], r.Verdict, r.Reason)
	}
	s.Logf("%-8s release %d in %.1f s, %d cut", args[0], r.Release, time.Since(began).Seconds(), r.Cut)
}

// status is what status --json says of the shop.
type status struct {
	Release    int             `json:"release"`
	Deployment json.RawMessage `json:"deployment"`
	Servers    []struct {
		ID        string `json:"id"`
		Release   int    `json:"release"`
		Phase     string `json:"phase"`
		Healthy   bool   `json:"healthy"`
		InService bool   `json:"in_service"`
	} `json:"servers"`
}

func (s *shop) status() status {
	s.Helper()
	out, err := s.kiln.Run(s.Context(), "status", "--json")
	s.must(err)
	var all struct {
		Services []status `json:"services"`
	}
	s.must(json.Unmarshal(out, &all))
	if len(all.Services) != 1 {
		s.Fatalf("status has %d services: %s", len(all.Services), out)
	}
	return all.Services[0]
}

// until waits for the status to satisfy a condition.
func (s *shop) until(within time.Duration, what string, ok func(status) bool) {
	s.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		st := s.status()
		if ok(st) {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("not %s within %s: %+v", what, within, st)
		}
	}
}

// serving counts the servers in service that are healthy.
func (st status) serving() (n int) {
	for _, server := range st.Servers {
		if server.InService && server.Healthy {
			n++
		}
	}
	return n
}

// idle reports whether no deployment runs and nothing but the release's own
// servers is left.
func (st status) idle() bool {
	return string(st.Deployment) == "null" && st.serving() == 3 && len(st.Servers) == 3
}

// account stops the load and judges it.
func (s *shop) account(failures bool) {
	s.Helper()
	rep := s.load.Stop()
	s.load = nil
	s.must(rep.WriteTable(s.Output()))
	if (rep.Failed > 0) != failures {
		s.Errorf("%d requests failed", rep.Failed)
	}
	if begun := float64(rep.Requests) / rep.Seconds; begun < *rate*0.9 {
		s.Errorf("the load ran at %.0f requests a second, not %.0f", begun, *rate)
	}
}

// freePort returns a port of the loopback below those that the kernel hands out:
// no client that connects meanwhile can get it.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// other alternates between the two versions.
func other(n int) string { return []string{"2", "1"}[n%2] }

func TestDeploysUnderLoad(t *testing.T) {
	s := open(t, drain.String(), "3s")
	rolled := 0
	for n := range *deploys {
		s.deploy(other(n))
		if rolled >= *rollbacks || n%2 == 0 && *rollbacks-rolled < *deploys-n {
			continue
		}
		if rolled%2 == 0 {
			s.until(time.Minute, "cold", status.idle) // the warm set is gone
		}
		s.result("rollback", "shop")
		rolled++
		s.deploy(other(n)) // go on from where the deploy had led
	}
	if rolled < *rollbacks {
		t.Errorf("%d rollbacks were made, want %d", rolled, *rollbacks)
	}
	s.account(false)
}

// TestNoDrainIsSeen shows that the judgement can fail.
func TestNoDrainIsSeen(t *testing.T) {
	s := open(t, "0s", "0s")
	for n := range 3 {
		s.deploy(other(n))
	}
	s.account(true)
}

// TestDaemonKilledInDeploys kills the daemon at random moments of deploys.
func TestDaemonKilledInDeploys(t *testing.T) {
	s := open(t, drain.String(), "2s")
	rng := rand.New(rand.NewPCG(*seed, 3))
	t.Logf("seed %d", *seed)
	for n := range *kills {
		s.choose(other(n))
		before := s.status().Release
		client := exec.CommandContext(t.Context(), s.kiln.Bin, "deploy", "--detach", "-f", filepath.Join(s.dir, "kiln.hcl"))
		client.Env = append(os.Environ(), s.kiln.Env()...)
		s.must(client.Start())
		after := time.Duration(rng.Int64N(int64(4 * time.Second)))
		time.Sleep(after)
		s.must(s.kiln.Kill())
		s.must(s.kiln.Start(t.Context()))
		_ = client.Wait() // it may have lost its daemon; the journal says what became of the deploy
		s.until(2*time.Minute, "at rest", status.idle)
		verdict := s.verdict()
		served := s.status().Release
		t.Logf("killed after %s: %s, release %d in service (was %d)", after.Truncate(time.Millisecond), verdict, served, before)
		switch verdict {
		case "succeeded", "failed", "aborted":
		default:
			t.Fatalf("the deployment ended as %q", verdict)
		}
		shims, err := s.kiln.PIDs("shim")
		s.must(err)
		if len(shims) != 3 {
			t.Fatalf("%d shims run for 3 servers", len(shims))
		}
	}
	s.account(false)
}

// verdict is that of the newest release.
func (s *shop) verdict() string {
	s.Helper()
	out, err := s.kiln.Run(s.Context(), "releases", "shop", "--json")
	s.must(err)
	var r struct {
		Releases []struct {
			Number  int    `json:"number"`
			Verdict string `json:"verdict"`
		} `json:"releases"`
	}
	s.must(json.Unmarshal(out, &r))
	newest := 0
	verdict := ""
	for _, release := range r.Releases {
		if release.Number > newest {
			newest, verdict = release.Number, release.Verdict
		}
	}
	return verdict
}

// TestRouterKilled wants no connection to be refused while the router comes
// back, and says how long it takes until one is served.
func TestRouterKilled(t *testing.T) {
	s := open(t, drain.String(), "2s")
	s.load.Stop() // what is in flight dies with the router; new connections must not
	for range 10 {
		s.must(s.kiln.Signal("router", syscall.SIGKILL))
		began := time.Now()
		rep, err := load.Start(t.Context(), load.Options{
			URL: s.url, Rate: 100, Most: 30, Mix: map[string]int{"fresh": 1}, Expect: "Shop", Checksum: true,
		})
		s.must(err)
		r := rep.Wait()
		if r.Failed > 0 {
			_ = r.WriteTable(t.Output())
			t.Fatalf("%d of %d fresh connections failed after the router was killed", r.Failed, r.Requests)
		}
		t.Logf("router killed: slowest 1 %% of fresh requests took %.0f ms (%s)", r.Classes["fresh"].P99, time.Since(began).Truncate(time.Millisecond))
		time.Sleep(6 * time.Second) // the keeper puts off what dies young again
	}
	s.load = nil
}
