package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/test/authority"
)

// authorityCommand starts a certificate authority of the script's own.
func authorityCommand(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "authority HTTPPORT|- TLSPORT|-")
	for i := range args {
		if args[i] == "-" {
			args[i] = ""
		}
	}
	w := of(ts)
	dir := filepath.Join(ts.Getenv("WORK"), fmt.Sprintf("authority%d", len(w.authorities)))
	check(ts, os.MkdirAll(dir, 0o700))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	a, err := authority.Start(ctx, authority.Config{Repository: ts.Getenv("REPO"), Dir: dir, HTTPPort: args[0], TLSPort: args[1]})
	check(ts, err)
	w.authorities = append(w.authorities, a)
	ts.Setenv("DIRECTORY", a.Directory)
	ts.Setenv("ROOTS", a.Roots)
	ts.Setenv("ISSUERS", a.Issuers)
}

// stopAuthorities ends what the script started of them.
func (w *world) stopAuthorities() {
	for _, a := range w.authorities {
		_ = a.Stop() // it may have ended
	}
}

// certificate writes a certificate that is its own authority, over what is
// there. It is valid for two hours, with the moment of -at in their middle.
func certificate(ts *testscript.TestScript, _ bool, args []string) {
	middle := time.Now()
	if len(args) > 2 && args[0] == "-at" {
		d, err := time.ParseDuration(args[1])
		check(ts, err)
		middle, args = middle.Add(d), args[2:]
	}
	want(ts, len(args) >= 2, "certificate [-at DURATION] NAME… DIR")
	names, dir := args[:len(args)-1], ts.MkAbs(args[len(args)-1])
	check(ts, os.MkdirAll(dir, 0o700))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(ts, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), IsCA: true, BasicConstraintsValid: true,
		NotBefore: middle.Add(-time.Hour), NotAfter: middle.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(ts, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(ts, err)
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		path := filepath.Join(dir, name)
		check(ts, os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600))
		check(ts, os.Rename(path+".new", path))
	}
}

// trusting returns a transport that trusts what the PEM file holds and reaches
// every name at 127.0.0.1.
func trusting(path string) (*http.Transport, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate", path)
	}
	return &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			var d net.Dialer
			return d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		},
	}, nil
}
