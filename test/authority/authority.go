// Package authority runs a certificate authority on the loopback: letsencrypt's
// pebble, with a DNS server beside it that leads every name to 127.0.0.1. Both
// are built from their module, pinned in test/tools.
package authority

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Authority is a running authority.
type Authority struct {
	Directory string // its URL
	Roots     string // PEM file by which the directory is trusted
	Issuers   string // PEM file of what issues certificates; another one at each start

	programs []*exec.Cmd
	output   lockedBuffer
}

// Config says where the authority looks for answers to challenges.
type Config struct {
	Repository string // root of kiln's source
	Dir        string // for programs and files
	HTTPPort   string // of HTTP-01; "" for none
	TLSPort    string // of TLS-ALPN-01; "" for none
	Validity   time.Duration
}

// Build builds the package of a program of test/tools and returns its path.
// What was built before takes no time.
func Build(ctx context.Context, repository, dir, pkg string) (string, error) {
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir = filepath.Join(repository, "test", "tools")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

const pebble = "github.com/letsencrypt/pebble/v2"

// Start starts the authority. The caller ends it with Stop.
func Start(ctx context.Context, cfg Config) (*Authority, error) {
	ca, err := Build(ctx, cfg.Repository, cfg.Dir, pebble+"/cmd/pebble")
	if err != nil {
		return nil, err
	}
	names, err := Build(ctx, cfg.Repository, cfg.Dir, pebble+"/cmd/pebble-challtestsrv")
	if err != nil {
		return nil, err
	}
	certs, err := certsDir(ctx, cfg.Repository)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	listen := func(i int) string { return "127.0.0.1:" + ports[i] }
	a := &Authority{
		Directory: "https://" + listen(0) + "/dir",
		Roots:     filepath.Join(certs, "pebble.minica.pem"),
		Issuers:   filepath.Join(cfg.Dir, "issuers.pem"),
	}
	config, err := writeConfig(cfg, listen(0), listen(1), certs, ports[4:])
	if err != nil {
		return nil, err
	}
	err = a.run(exec.Command(names, "-dnsserver", listen(2), "-management", listen(3), "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""))
	if err == nil {
		err = a.run(exec.Command(ca, "-config", config, "-dnsserver", listen(2)))
	}
	if err == nil {
		err = a.await(ctx, "https://"+listen(1))
	}
	if err != nil {
		return nil, errors.Join(err, a.Stop())
	}
	return a, nil
}

// writeConfig writes pebble's configuration. A challenge that is not to be
// used looks at a port where nobody listens.
func writeConfig(cfg Config, listen, management, certs string, unused []string) (string, error) {
	port := func(p, other string) (int, error) {
		if p == "" {
			p = other
		}
		return strconv.Atoi(p)
	}
	httpPort, err := port(cfg.HTTPPort, unused[0])
	if err != nil {
		return "", err
	}
	tlsPort, err := port(cfg.TLSPort, unused[1])
	if err != nil {
		return "", err
	}
	validity := cfg.Validity
	if validity == 0 {
		validity = 90 * 24 * time.Hour
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": management,
		"certificate": filepath.Join(certs, "localhost", "cert.pem"),
		"privateKey":  filepath.Join(certs, "localhost", "key.pem"),
		"httpPort":    httpPort, "tlsPort": tlsPort,
		"keyAlgorithm": "ecdsa",
		"retryAfter":   map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{
			"description": "the only one", "validityPeriod": int(validity / time.Second),
		}},
	}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(cfg.Dir, "pebble.json")
	return path, os.WriteFile(path, config, 0o600)
}

// certsDir returns where pebble's module keeps the certificate of its directory.
func certsDir(ctx context.Context, repository string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", pebble)
	cmd.Dir = filepath.Join(repository, "test", "tools")
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot find pebble's module: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "test", "certs"), nil
}

func (a *Authority) run(cmd *exec.Cmd) error {
	// The directory's answers shall not be refused at random, nor challenges
	// be looked at late.
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	cmd.Stdout, cmd.Stderr = &a.output, &a.output
	if err := cmd.Start(); err != nil {
		return err
	}
	a.programs = append(a.programs, cmd)
	return nil
}

// await waits until the authority answers, and keeps what it issues with.
func (a *Authority) await(ctx context.Context, management string) error {
	pem, err := os.ReadFile(a.Roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		issuers, err := get(ctx, client, management+"/roots/0")
		if err == nil {
			return os.WriteFile(a.Issuers, issuers, 0o600)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the authority does not answer: %w\n%s", err, a.Output())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return io.ReadAll(res.Body)
}

// Output returns what the programs have written.
func (a *Authority) Output() string { return a.output.String() }

// Stop ends the programs.
func (a *Authority) Stop() error {
	var err error
	for _, cmd := range a.programs {
		err = errors.Join(err, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
	a.programs = nil
	return err
}

// freePorts returns ports of the loopback on which nobody listens.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until the last is found, so that none comes twice
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// lockedBuffer keeps what two programs write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
