package soak_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/internal/api"
	"kiln/test/instance"
	"kiln/test/load"
)

// declaration is the shop's, once over HTTP and once as plain TCP, with quick
// probes and short drains.
const declaration = `service "shop" {
  image {
    context = "."
  }
  servers = 3
  port    = 8080
  route {
    listen = "127.0.0.1:%[1]s"
  }
  route {
    listen = "127.0.0.1:%[6]s"
    tls {
      cert = "%[7]s/cert.pem"
      key  = "%[7]s/key.pem"
    }
  }
  health "http" {
    path     = "/healthz"
    interval = "200ms"
  }
  validate "exec" "self-test" {
    command = ["/app", "selftest"]
  }
  deploy {
    deadline  = "15m"
    keep_warm = "%[4]s"
    %[5]s
    drain {
      requests   = "%[3]s"
      streams    = "%[3]s"
      websockets = "%[3]s"
    }
  }
  resources {
    memory = "%[8]s"
  }%[9]s
}

service "pipe" {
  image {
    context = "."
  }
  servers  = 1
  port     = 8080
  protocol = "tcp"
  route {
    listen = "127.0.0.1:%[2]s"
  }
  health "http" {
    path     = "/healthz"
    interval = "200ms"
  }
  deploy {
    deadline  = "15m"
    keep_warm = "%[4]s"
    drain {
      requests   = "%[3]s"
      streams    = "%[3]s"
      websockets = "%[3]s"
    }
  }
}
`

// strategies are what a deploy block says, by name.
var strategies = map[string]string{
	"blue-green": `strategy = "blue-green"`,
	"rolling":    "strategy = \"rolling\"\n    max_surge = 1",
	"canary": `strategy = "canary"
    canary {
      step {
        weight = "10%"
        hold   = "500ms"
      }
      step {
        weight = "50%"
        hold   = "500ms"
      }
    }`,
}

// inTurn returns the strategy of the nth deploy.
func inTurn(n int) string { return []string{"blue-green", "rolling", "canary"}[n%3] }

// shop is the service under test.
type shop struct {
	*testing.T
	kiln     *instance.Instance
	dir      string // of its declaration
	port     string
	tcp      string
	tls      string
	roots    *x509.CertPool
	client   *api.Client
	drain    string
	keepWarm string
	version  string // in service
	count    int    // servers of the shop
	memory   string // limit of each
	extra    string // more of the shop's declaration
	load     *load.Run
	rng      *mathrand.Rand
}

// open starts an instance with version 1 in service and the load on it.
func open(t *testing.T, drain, keepWarm string, rate float64) *shop {
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
	t.Logf("seed %d", *seed)
	s := &shop{
		T: t, kiln: instance.New(filepath.Join(root, "bin", "kiln"), dir), dir: filepath.Join(dir, "shop"),
		port: freePort(t), tcp: freePort(t), tls: freePort(t), drain: drain, keepWarm: keepWarm, count: 3, memory: "128MiB", rng: mathrand.New(mathrand.NewPCG(*seed, 3)),
	}
	s.client = api.NewClient(s.kiln.Socket())
	t.Cleanup(s.close)
	s.must(os.Mkdir(s.dir, 0o755))
	s.write("Containerfile", "FROM scratch\nCOPY app /app\nUSER 65534:65534\nENTRYPOINT [\"/app\"]\n")
	s.certify()
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
	s.deploy("1", "blue-green")
	s.begins(rate)
	return s
}

// begins starts the load. Its drain deadlines are those that its own lengths
// follow; a test without a drain is to fail by them.
func (s *shop) begins(rate float64) {
	s.Helper()
	judged, err := time.ParseDuration(s.drain)
	s.must(err)
	if judged == 0 {
		judged = drain
	}
	s.load, err = load.Start(context.Background(), load.Options{
		URL: "http://127.0.0.1:" + s.port, TCP: "127.0.0.1:" + s.tcp, TLS: "127.0.0.1:" + s.tls, Roots: s.roots, Rate: rate, Mix: load.Heavy(),
		Expect: "Shop", Checksum: true, Seed: *seed,
		Drain: load.Drain{Requests: judged, Streams: judged, WebSockets: judged},
	})
	s.must(err)
}

// certify makes the certificate that the shop is served by.
func (s *shop) certify() {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	s.must(err)
	packed, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	s.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: packed})))
	s.must(os.Chmod(filepath.Join(s.dir, "key.pem"), 0o600))
	cert, err := x509.ParseCertificate(der)
	s.must(err)
	s.roots = x509.NewCertPool()
	s.roots.AddCert(cert)
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

// choose puts a version's binary into the context, and a strategy into the
// declaration.
func (s *shop) choose(version, strategy string) {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(s.dir), version))
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.dir, "app"), b, 0o755))
	s.write("kiln.hcl", fmt.Sprintf(declaration, s.port, s.tcp, s.drain, s.keepWarm, strategies[strategy], s.tls, s.dir, s.memory, s.extra))
}

// file is the declaration's.
func (s *shop) file() string { return filepath.Join(s.dir, "kiln.hcl") }

// deploy brings a version into service and wants it to succeed.
func (s *shop) deploy(version, strategy string) {
	s.Helper()
	s.choose(version, strategy)
	s.allow(version)
	began := time.Now()
	if r := s.run("deploy", "-f", s.file(), "-m", "version "+version); r.bad() {
		s.Fatalf("deploy (%s): %s", strategy, r)
	}
	s.Logf("%-10s %s to version %s in %.1f s", "deploy", strategy, version, time.Since(began).Seconds())
	s.serves(version)
}

// rollback goes back to the version before.
func (s *shop) rollback() {
	s.Helper()
	version := otherThan(s.version)
	s.allow(version)
	began := time.Now()
	for _, service := range []string{"shop", "pipe"} {
		if r := s.run("rollback", service); r.bad() {
			s.Fatalf("rollback of %s: %s", service, r)
		}
	}
	s.Logf("%-10s to version %s in %.1f s", "rollback", version, time.Since(began).Seconds())
	s.serves(version)
}

// allow has both the version in service and the next one answer; serves only
// the one.
func (s *shop) allow(version string) {
	if s.load != nil {
		s.load.Allow(s.version, version)
	}
}

func (s *shop) serves(version string) {
	s.version = version
	if s.load != nil {
		s.load.Allow(version)
	}
}

// results are what deploy or rollback printed, a line for each service.
type results struct {
	lines []result
	err   error
}

type result struct {
	Service string `json:"service"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
}

func (r results) bad() bool {
	for _, line := range r.lines {
		if line.Verdict != "succeeded" && line.Verdict != "unchanged" {
			return true
		}
	}
	return r.err != nil || len(r.lines) == 0
}

func (r results) String() string { return fmt.Sprintf("%v %v", r.lines, r.err) }

// run runs deploy or rollback.
func (s *shop) run(args ...string) results {
	s.Helper()
	out, err := s.kiln.Run(s.Context(), append(args, "--json")...)
	r := results{err: err}
	for line := range strings.Lines(string(out)) {
		var one result
		if json.Unmarshal([]byte(line), &one) == nil && one.Verdict != "" {
			r.lines = append(r.lines, one)
		}
	}
	return r
}

// status is a service, and how many servers it shall have.
type status struct {
	api.ServiceStatus
	count int
}

// statuses asks for all services, by name.
func (s *shop) statuses() (map[string]status, error) {
	all, err := s.client.Status(s.Context())
	if err != nil {
		return nil, err
	}
	found := map[string]status{}
	for _, svc := range all.Services {
		found[svc.Name] = status{svc, map[string]int{"shop": s.count, "pipe": 1}[svc.Name]}
	}
	return found, nil
}

// until waits for every service to satisfy a condition.
func (s *shop) until(within time.Duration, what string, ok func(status) bool) {
	s.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		all, err := s.statuses()
		good := err == nil && len(all) == 2
		for _, svc := range all {
			good = good && ok(svc)
		}
		if good {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("not %s within %s: %v %+v", what, within, err, all)
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

// settled reports whether no deployment runs and the service has all servers
// that it shall have; old ones may still drain.
func (st status) settled() bool {
	return st.Deployment == nil && st.serving() == st.count
}

// idle reports whether nothing but the release's own servers is left, besides.
func (st status) idle() bool { return st.settled() && len(st.Servers) == st.count }

// freePort returns a port of the loopback below those that the kernel hands out:
// no client that connects meanwhile can get it.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + mathrand.IntN(20_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// otherThan alternates between the two versions.
func otherThan(version string) string {
	if version == "1" {
		return "2"
	}
	return "1"
}
