package soak_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiln/internal/api"
	"kiln/test/load"
)

// kill ends a process of the role with SIGKILL, and returns when it is gone.
// Of servers and shims it takes one whose server is in service.
func (s *shop) kill(role string) (death, error) {
	d := death{what: role}
	pids, err := s.kiln.PIDs(role)
	if role == "server" || role == "shim" {
		pids, d.servers, err = s.victim(role)
	}
	if err != nil || len(pids) == 0 {
		return d, errors.Join(fmt.Errorf("no process of %s to kill", role), err)
	}
	watched := pids
	for _, id := range d.servers { // they end with their shim
		more, err := s.kiln.PIDs(id)
		if err != nil {
			return d, err
		}
		watched = append(watched, more...)
	}
	d.from = time.Now()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return d, err
		}
	}
	for _, pid := range watched {
		for deadline := time.Now().Add(10 * time.Second); !gone(pid) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	d.to = time.Now()
	return d, nil
}

// victim chooses a server in service, and returns its process or its shim's.
func (s *shop) victim(role string) (pids []int, servers []string, err error) {
	all, err := s.statuses()
	if err != nil {
		return nil, nil, err
	}
	for _, server := range all["shop"].Servers {
		if !server.InService {
			continue
		}
		if role == "server" {
			pids, err = s.kiln.PIDs(string(server.ID))
		} else if pid, lookErr := s.kiln.ShimOf(string(server.ID)); pid != 0 || lookErr != nil {
			pids, err = []int{pid}, lookErr
		}
		if len(pids) > 0 || err != nil {
			return pids, []string{string(server.ID)}, err
		}
	}
	return nil, nil, errors.New("no server is in service")
}

// gone reports whether a process has ended, reaped or not: with all its threads,
// for the first one may be over while others still hold the files.
func gone(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // it has just gone
		}
		if at := strings.LastIndex(string(stat), ") "); at < 0 || !strings.ContainsRune("ZX", rune(stat[at+2])) {
			return false
		}
	}
	return true
}

// front asks for the front page on a fresh connection and returns which version
// and server answered.
func front(ctx context.Context, port string) (version, server string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", "", err
	}
	b, err := io.ReadAll(conn)
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch strings.ToLower(name) {
		case "x-shop-version":
			version = value
		case "x-shop-server":
			server = value
		}
	}
	if err == nil && (version == "" || server == "") {
		err = fmt.Errorf("a strange answer: %.200s", b)
	}
	return version, server, err
}

// served is the version that the shop answers with.
func (s *shop) served() string {
	s.Helper()
	version, _, err := front(s.Context(), s.port)
	s.must(err)
	return version
}

// newest returns a service's newest release.
func (s *shop) newest(service string) (last api.ReleaseEntry, err error) {
	r, err := s.client.Releases(s.Context(), service)
	if err != nil {
		return last, err
	}
	for _, one := range r.Releases {
		if one.Number > last.Number {
			last = one
		}
	}
	return last, nil
}

// stand is how a service stood before something was done to it.
type stand struct {
	newest  int
	release int
	version string
}

func (s *shop) stands() map[string]stand {
	s.Helper()
	all, err := s.statuses()
	s.must(err)
	found := map[string]stand{}
	for service, port := range map[string]string{"shop": s.port, "pipe": s.tcp} {
		last, err := s.newest(service)
		s.must(err)
		version, _, err := front(s.Context(), port)
		s.must(err)
		found[service] = stand{newest: last.Number, release: all[service].Release, version: version}
	}
	return found
}

// truth compares what kiln says happened in a deploy of target with what the
// answers show, for services that are settled.
func (s *shop) truth(before map[string]stand, target string) error {
	all, err := s.statuses()
	if err != nil {
		return err
	}
	for service, port := range map[string]string{"shop": s.port, "pipe": s.tcp} {
		was, now := before[service], all[service]
		last, err := s.newest(service)
		if err != nil {
			return err
		}
		wantVersion, wantRelease := was.version, was.release
		switch {
		case last.Number == was.newest: // nothing was accepted
		case last.Verdict == "succeeded":
			wantVersion, wantRelease = target, last.Number
		case last.Verdict == "failed" || last.Verdict == "aborted":
		default:
			return fmt.Errorf("release %d of %s ended as %q: %s", last.Number, service, last.Verdict, last.Reason)
		}
		if now.Release != wantRelease {
			return fmt.Errorf("release %d of %s %s, and release %d is in service", last.Number, service, last.Verdict, now.Release)
		}
		in := map[string]bool{}
		for _, server := range now.Servers {
			in[string(server.ID)] = server.InService
		}
		for range 4 {
			version, server, err := front(s.Context(), port)
			if err != nil {
				return err
			}
			if version != wantVersion || !in[server] {
				return fmt.Errorf("release %d of %s %s: version %s of %s answers, want %s of %v", last.Number, service, last.Verdict, version, server, wantVersion, in)
			}
		}
	}
	return nil
}

// orphans wants nothing on the machine of servers that are no more.
func (s *shop) orphans() {
	s.Helper()
	var strays []string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(300 * time.Millisecond) {
		all, err := s.statuses()
		s.must(err)
		var ids []string
		for _, svc := range all {
			for _, server := range svc.Servers {
				ids = append(ids, string(server.ID))
			}
		}
		strays, err = s.kiln.Strays(s.Context(), ids)
		s.must(err)
		if len(strays) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("left of servers that are no more:\n  %s", strings.Join(strays, "\n  "))
		}
	}
}

// begin starts a deploy of the other version, which may lose its daemon.
func (s *shop) begin(n int) (target string, wait func()) {
	s.Helper()
	target = otherThan(s.version)
	s.choose(target, inTurn(n))
	client := exec.CommandContext(s.Context(), s.kiln.Bin, "deploy", "--detach", "-f", s.file())
	client.Env = append(os.Environ(), s.kiln.Env()...)
	s.must(client.Start())
	return target, func() { _ = client.Wait() } // the journal says what became of the deploy
}

// TestDaemonKilled kills the daemon at random moments of deploys, up to three
// times in one.
func TestDaemonKilled(t *testing.T) {
	s := open(t, "2s", "0s", min(*rate, 200))
	s.load.Allow()
	before, killed, accepted, began := s.stands(), 0, 0, 0
	for ; killed < *kills; began++ {
		target, wait := s.begin(began)
		var moments []time.Duration
		for since := time.Now(); len(moments) < 3 && killed < *kills && (len(moments) == 0 || s.deploying()); killed++ {
			time.Sleep(time.Duration(s.rng.Int64N(int64(3 * time.Second))))
			moments = append(moments, time.Since(since).Truncate(time.Millisecond))
			s.must(s.kiln.Kill())
			s.must(s.kiln.Start(t.Context()))
		}
		wait()
		s.until(2*time.Minute, "settled", status.settled)
		if err := s.truth(before, target); err != nil {
			t.Fatalf("killed %v after the beginning of deploy %d (%s): %v", moments, began, inTurn(began), err)
		}
		now := s.stands()
		if now["shop"].newest > before["shop"].newest {
			accepted++
		}
		s.version, before = now["shop"].version, now
		if began%10 == 9 {
			s.orphans()
		}
	}
	s.orphans()
	t.Logf("%d kills in %d deploys, %d of which were accepted", killed, began, accepted)
	s.judge(nil)
}

// deploying reports whether a deployment of the shop runs.
func (s *shop) deploying() bool {
	all, err := s.statuses()
	return err == nil && all["shop"].Deployment != nil
}

// judge ends the load; every failure has to have its death.
func (s *shop) judge(deaths []death) {
	s.Helper()
	rep := s.load.Stop()
	s.load = nil
	s.must(rep.WriteTable(s.Output()))
	cut, rest := blame(rep.Failures, deaths)
	s.Logf("cut by the end of: %v", cut)
	for i, f := range rest[:min(20, len(rest))] {
		s.Errorf("failure %d of %d that no kill explains: %s, %s after it began at %s: %s", i+1, len(rest), f.Class,
			f.Ended.Sub(f.Began).Truncate(time.Millisecond), f.Began.Format("15:04:05.000"), f.Error)
	}
}

// TestTwoKilled kills any two processes at once, at random moments of deploys.
func TestTwoKilled(t *testing.T) {
	s := open(t, "2s", "0s", min(*rate, 200))
	s.load.Allow()
	roles := []string{"keeper", "router", "daemon", "builder", "containerd", "shim", "server"}
	var both [][2]string
	for i, one := range roles {
		for _, other := range roles[i+1:] {
			both = append(both, [2]string{one, other})
		}
	}
	s.rng.Shuffle(len(both), func(i, j int) { both[i], both[j] = both[j], both[i] })
	var deaths []death
	for n := range *pairs {
		pair := both[n%len(both)]
		before := s.stands()
		target, wait := s.begin(n)
		after := time.Duration(s.rng.Int64N(int64(3500 * time.Millisecond)))
		time.Sleep(after)
		deaths = append(deaths, s.killBoth(pair)...)
		wait()
		s.until(2*time.Minute, fmt.Sprintf("settled after the end of %v", pair), status.settled)
		if err := s.truth(before, target); err != nil {
			t.Fatalf("%v killed %s after the beginning of deploy %d (%s): %v", pair, after, n, inTurn(n), err)
		}
		s.version = s.served()
		t.Logf("%v killed %s after the beginning of a deploy (%s): version %s", pair, after.Truncate(time.Millisecond), inTurn(n), s.version)
		if n%10 == 9 {
			s.orphans()
		}
	}
	s.orphans()
	if _, err := s.kiln.Run(t.Context(), "audit", "verify"); err != nil {
		t.Error(err)
	}
	s.judge(deaths)
}

// killBoth kills two processes in the same moment, and starts the daemon again
// if it was one of them.
func (s *shop) killBoth(pair [2]string) []death {
	s.Helper()
	type end struct {
		death
		err error
	}
	ends := make(chan end, len(pair))
	for _, role := range pair {
		go func() {
			d, err := s.kill(role)
			ends <- end{d, err}
		}()
	}
	var deaths []death
	for range pair {
		e := <-ends
		if e.err != nil && e.what != "builder" && e.what != "shim" && e.what != "server" { // those may not be there
			s.Fatal(e.err)
		}
		deaths = append(deaths, e.death)
	}
	if pair[0] == "daemon" || pair[1] == "daemon" {
		s.must(s.kiln.Start(s.Context()))
	}
	return deaths
}

// TestRouterKilled wants no connection to be refused while the router comes
// back, and says how long it takes until one is served.
func TestRouterKilled(t *testing.T) {
	s := open(t, drain.String(), "2s", min(*rate, 200))
	s.load.Stop() // what is in flight dies with the router; new connections must not
	s.load = nil
	for range 10 {
		s.must(s.kiln.Signal("router", syscall.SIGKILL))
		began := time.Now()
		rep, err := load.Start(t.Context(), load.Options{
			URL: "http://127.0.0.1:" + s.port, Rate: 100, Most: 30, Mix: map[string]int{"fresh": 1}, Expect: "Shop", Checksum: true,
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
}
