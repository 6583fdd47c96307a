package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// routerThroughput measures requests per second through kiln's router and
// through others, to the same servers.
func routerThroughput(ctx context.Context, b *bench) (*section, error) {
	if err := b.twoReleases(ctx, 2, "0s"); err != nil {
		return nil, err
	}
	s, err := b.service(ctx)
	if err != nil {
		return nil, err
	}
	var upstreams []string
	for _, one := range s.Servers {
		upstreams = append(upstreams, one.Address)
	}
	proxies := []*proxy{
		{name: "httputil.ReverseProxy", goal: 2, port: b.port + 1},
		{name: "nginx", goal: 0.95, port: b.port + 2},
		{name: "HAProxy", port: b.port + 3},
	}
	proxies[0].command, err = b.reverseProxyCommand(proxies[0].port, upstreams)
	if err != nil {
		return nil, err
	}
	if proxies[1].command, err = b.nginx(proxies[1].port, upstreams); err != nil {
		return nil, err
	}
	if proxies[2].command, err = b.haproxy(proxies[2].port, upstreams); err != nil {
		return nil, err
	}
	for _, p := range proxies {
		if err := p.start(ctx); err != nil {
			return nil, err
		}
		defer p.stop()
	}
	section := &section{
		title: "Router throughput",
		how: "wrk with 1 thread and 32 connections (8 for large answers) against each in turn, to the same two servers with connections kept alive on both sides; all on " +
			"the same cores as wrk and the servers. Small: GET /healthz (a few bytes) for 5 s; its 99th percentile is wrk's, of a closed loop. " +
			"Large: answers of 1 MiB, 3 s. Streams: 20 server-sent events a millisecond apart, each flushed, 3 s. kiln writes its access log; the " +
			"others write none. More is better, but for the percentile.",
	}
	return section, errors.Join(section.proxied(ctx, b, proxies), b.clear(ctx))
}

// proxied measures all loads against kiln and the proxies.
func (s *section) proxied(ctx context.Context, b *bench, proxies []*proxy) error {
	kiln := &proxy{name: "kiln", port: b.port}
	if err := inTurns(ctx, b.rounds, load{"/healthz", "5s", 32}, append([]*proxy{kiln}, proxies...)); err != nil {
		return err
	}
	for _, p := range proxies {
		s.rows = append(s.rows, compare("small answers", "/s", kiln.rates, p.name, p.rates, 0, p.goal))
	}
	tail := proxies[len(proxies)-1]
	s.rows = append(s.rows, compare("99th percentile", "ms", kiln.tails, tail.name, tail.tails, 1.5, 0))
	for _, l := range []struct {
		what string
		load load
	}{
		{"answers of 1 MiB", load{"/big?bytes=1048576", "3s", 8}},
		{"event streams", load{"/stream?events=20&every=1", "3s", 32}},
	} {
		kiln, peer := &proxy{port: b.port}, &proxy{port: proxies[0].port}
		if err := inTurns(ctx, b.rounds, l.load, []*proxy{kiln, peer}); err != nil {
			return err
		}
		s.rows = append(s.rows, compare(l.what, "/s", kiln.rates, proxies[0].name, peer.rates, 0, 1))
	}
	return nil
}

// load is what wrk asks for, how long, and over how many connections.
type load struct {
	path, duration string
	connections    int
}

// inTurns measures each proxy once a round. Each round begins with another
// one: a machine that others use is seldom as busy at its end.
func inTurns(ctx context.Context, rounds int, l load, proxies []*proxy) error {
	for round := range rounds {
		for i := range proxies {
			p := proxies[(i+round)%len(proxies)]
			rate, tail, err := wrk(ctx, p.port, l)
			if err != nil {
				return err
			}
			p.rates, p.tails = append(p.rates, rate), append(p.tails, tail)
		}
	}
	return nil
}

// proxy is one of the routers that kiln's is measured against.
type proxy struct {
	name    string
	goal    float64
	port    int
	command *exec.Cmd
	rates   series // requests a second
	tails   series // 99th percentiles, in milliseconds
}

func (p *proxy) start(ctx context.Context) error {
	p.command.Stderr = os.Stderr
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.command.Start(); err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Second}
	for range 100 {
		res, err := client.Get("http://127.0.0.1:" + strconv.Itoa(p.port) + "/healthz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not answer", p.name)
}

func (p *proxy) stop() {
	_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGTERM) // its group: nginx has workers
	_ = p.command.Wait()
}

// wrk returns requests per second and the 99th percentile in milliseconds,
// after wanting no error.
func wrk(ctx context.Context, port int, l load) (rate, tail float64, err error) {
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c"+strconv.Itoa(l.connections), "-d"+l.duration, "--latency", "--timeout", "10s",
		"http://127.0.0.1:"+strconv.Itoa(port)+l.path).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return 0, 0, fmt.Errorf("wrk saw errors: %s", out)
	}
	m := regexp.MustCompile(`99%\s+([\d.]+[a-z]+)[\s\S]*Requests/sec:\s+([\d.]+)`).FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("wrk printed no percentile and rate: %s", out)
	}
	late, err := time.ParseDuration(string(m[1]))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read wrk's percentile: %w", err)
	}
	rate, err = strconv.ParseFloat(string(m[2]), 64)
	return rate, float64(late) / float64(time.Millisecond), err
}

// reverseProxyCommand runs this program as a reverse proxy.
func (b *bench) reverseProxyCommand(port int, upstreams []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(self, "reverseproxy", "-port", strconv.Itoa(port), "-upstreams", strings.Join(upstreams, ",")), nil
}

// reverseProxy is the standard library's reverse proxy with a keep-alive pool.
func reverseProxy(args []string) error {
	flags := flag.NewFlagSet("reverseproxy", flag.ContinueOnError)
	port := flags.Int("port", 0, "to listen on")
	upstreams := flags.String("upstreams", "", "addresses, comma-separated")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var targets []*url.URL
	for address := range strings.SplitSeq(*upstreams, ",") {
		targets = append(targets, &url.URL{Scheme: "http", Host: address})
	}
	var next atomic.Uint64
	handler := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(targets[next.Add(1)%uint64(len(targets))])
			r.SetXForwarded()
		},
		Transport: &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 128, DisableCompression: true},
		ErrorLog:  log.New(os.Stderr, "reverseproxy: ", 0),
	}
	srv := &http.Server{Addr: "127.0.0.1:" + strconv.Itoa(*port), Handler: handler, ReadHeaderTimeout: time.Minute}
	return srv.ListenAndServe()
}

func (b *bench) nginx(port int, upstreams []string) (*exec.Cmd, error) {
	var servers strings.Builder
	for _, address := range upstreams {
		fmt.Fprintf(&servers, "    server %s;\n", address)
	}
	file := filepath.Join(b.dir, "nginx", "nginx.conf")
	return exec.Command("nginx", "-p", filepath.Dir(file), "-c", file), writeFile(file, fmt.Sprintf(`daemon off;
worker_processes auto;
pid nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  keepalive_requests 1000000;
  upstream shop {
%s    keepalive 128;
    keepalive_requests 1000000;
  }
  server {
    listen 127.0.0.1:%d;
    location / {
      proxy_pass http://shop;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
`, servers.String(), port), 0o644)
}

func (b *bench) haproxy(port int, upstreams []string) (*exec.Cmd, error) {
	var servers strings.Builder
	for n, address := range upstreams {
		fmt.Fprintf(&servers, "  server s%d %s\n", n, address)
	}
	file := filepath.Join(b.dir, "haproxy.cfg")
	return exec.Command("haproxy", "-db", "-q", "-f", file), writeFile(file, fmt.Sprintf(`defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend in
  bind 127.0.0.1:%d
  default_backend shop
backend shop
  balance roundrobin
%s`, port, servers.String()), 0o644)
}
