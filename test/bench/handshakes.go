package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// handshakes measures full TLS handshakes a second, by kiln's router and by
// nginx, with one certificate.
func handshakes(ctx context.Context, b *bench) (*section, error) {
	cert, key, err := b.certificate()
	if err != nil {
		return nil, err
	}
	ours, theirs := b.port+4, b.port+5
	if err := b.deploySecure(ctx, ours, cert, key); err != nil {
		return nil, err
	}
	s, err := b.service(ctx)
	if err != nil {
		return nil, err
	}
	command, err := b.secureNginx(theirs, s.Servers[0].Address, cert, key)
	if err != nil {
		return nil, err
	}
	p := &proxy{name: "nginx", port: b.port + 6, command: command}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	defer p.stop()
	var rates [2]series
	for range b.rounds {
		for i, port := range []int{ours, theirs} {
			rate, err := shakeHands(ctx, port)
			if err != nil {
				return nil, err
			}
			rates[i] = append(rates[i], rate)
		}
	}
	return &section{
		title: "TLS handshakes",
		how: "Eight connections at a time for 4 s against each in turn, by a client of Go's on the same cores: a full handshake of TLS 1.3 with " +
			"X25519 and a P-256 certificate, nothing resumed, one GET /healthz, and the end of the connection. nginx does the same with OpenSSL, " +
			"a worker for each core, in front of the same server. More is better.",
		rows: []row{compare("connections a second", "/s", rates[0], p.name, rates[1], 0, 0)},
	}, b.clear(ctx)
}

// certificate writes a certificate of a P-256 key that is its own authority.
func (b *bench) certificate() (cert, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"shop.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(b.dir, "tls", "cert.pem"), filepath.Join(b.dir, "tls", "key.pem")
	return cert, key, errors.Join(
		writeFile(cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644),
		writeFile(key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), 0o600))
}

// deploySecure deploys the shop with a route by TLS as well.
func (b *bench) deploySecure(ctx context.Context, port int, cert, key string) error {
	dir, err := b.context("1")
	if err != nil {
		return err
	}
	file, err := b.declare(dir, "shop", 1, fmt.Sprintf("  route {\n    listen = \"127.0.0.1:%d\"\n    host   = \"shop.test\"\n    tls {\n"+
		"      cert = %q\n      key  = %q\n    }\n  }\n", port, cert, key))
	if err != nil {
		return err
	}
	if _, err := b.result(ctx, "deploy", "-f", file); err != nil {
		return err
	}
	return b.rest(ctx, 1)
}

// secureNginx returns an nginx that ends TLS in front of the server; it answers
// in clear one port further, for the start to be seen.
func (b *bench) secureNginx(port int, upstream, cert, key string) (*exec.Cmd, error) {
	file := filepath.Join(b.dir, "nginx-tls", "nginx.conf")
	return exec.Command("nginx", "-p", filepath.Dir(file), "-c", file), writeFile(file, fmt.Sprintf(`user root;
daemon off;
worker_processes auto;
pid nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream shop {
    server %s;
    keepalive 128;
    keepalive_requests 1000000;
  }
  server {
    listen 127.0.0.1:%d ssl;
    listen 127.0.0.1:%d;
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;
    location / {
      proxy_pass http://shop;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
`, upstream, port, port+1, cert, key), 0o644)
}

// shakeHands returns connections a second, after wanting no error.
func shakeHands(ctx context.Context, port int) (float64, error) {
	const clients, length = 8, 4 * time.Second
	config := &tls.Config{
		ServerName: "shop.test", InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, //nolint:gosec // the client's checking is not what is measured
		CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"http/1.1"},
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, clients)
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(began) < length && ctx.Err() == nil {
				if err := shakeOnce(ctx, port, config); err != nil {
					failed <- err
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	close(failed)
	if err := <-failed; err != nil {
		return 0, err
	}
	return float64(done.Load()) / took.Seconds(), ctx.Err()
}

func shakeOnce(ctx context.Context, port int, config *tls.Config) error {
	d := tls.Dialer{Config: config}
	conn, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	var answer [12]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if !strings.HasSuffix(string(answer[:]), " 200") {
		return fmt.Errorf("port %d answers %q", port, answer)
	}
	return nil
}
