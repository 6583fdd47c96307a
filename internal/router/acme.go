package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"kiln/internal/model"
)

// letsEncrypt is the directory that is asked when a table names none.
const letsEncrypt = certmagic.LetsEncryptProductionCA

// acme has certificates from authorities by RFC 8555: it asks for those that
// the table names, answers their challenges through the router's own
// listeners, and renews in the background. Keys and certificates are below dir,
// for root alone; routers that share it keep out of each other's way by the
// locks there.
type acme struct {
	dir   string
	log   *slog.Logger
	every time.Duration // how often renewals are looked at

	ctx    context.Context // of all asking; stop ends it
	cancel context.CancelFunc

	changing sync.Mutex // of adopt, obtain and stop: one at a time
	stopped  bool
	work     sync.WaitGroup

	// certmagic asks for hosts while it holds its own lock, so this one is
	// never held around a call of certmagic.
	mu    sync.RWMutex
	cache *certmagic.Cache // nil until a table needs it
	hosts map[string]*acmeHost
}

// acmeHost is one host's certificate and how it is had.
type acmeHost struct {
	terms  acmeTerms
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer
	ctx    context.Context // of the asking: ends when the terms do
	cancel context.CancelFunc
	asked  bool
	failed atomic.Pointer[string] // why the last attempt to have a certificate failed; nil: it did not
}

// acmeTerms are what has to stay the same for the asking to go on.
type acmeTerms struct {
	authority model.ACME
	http, tls int    // ports of the router's listeners on which challenges can arrive; 0: none
	address   string // of these listeners, if they are on one address
}

func newACME(dir string, every time.Duration, log *slog.Logger) *acme {
	a := &acme{dir: dir, log: log, every: every, hosts: map[string]*acmeHost{}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// knows reports whether the host's certificate is had here.
func (a *acme) knows(host string) bool { return a.host(host) != nil }

func (a *acme) host(host string) *acmeHost {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.hosts[normalizeHost(host)]
}

// certificate returns the host's certificate, or the answer to a challenge.
func (a *acme) certificate(host string, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	h := a.host(host)
	if h == nil {
		return nil, model.Errorf(model.NotFound, "host %q has no certificate authority any more", host)
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeALPN {
		return h.config.GetCertificate(hello)
	}
	best := a.newest(host)
	if best == nil {
		return nil, model.Errorf(model.Unavailable, "the certificate for host %q has not come from %s yet", host, h.terms.authority.Directory)
	}
	return &best.Certificate, nil
}

// check refuses a table whose authorities cannot be asked.
func (a *acme) check(t *model.Table) error {
	for route := range secureRoutes(t) {
		authority := route.TLS.ACME
		if authority == (model.ACME{}) {
			continue
		}
		if h := a.host(route.Host); h != nil && h.terms.authority == withDirectory(authority) {
			continue // it was looked at, and another's deployment must not fail on it
		}
		u, err := url.Parse(withDirectory(authority).Directory)
		if err != nil || u.Host == "" || (u.Scheme != "https" && !(u.Scheme == "http" && certmagic.SubjectIsInternal(u.Host))) {
			return model.Errorf(model.Invalid, "cannot use acme directory %q for host %q: it is no https URL", authority.Directory, route.Host)
		}
		if _, err := rootsOf(authority.Roots); err != nil {
			return err
		}
	}
	return nil
}

func withDirectory(authority model.ACME) model.ACME {
	if authority.Directory == "" {
		authority.Directory = letsEncrypt
	}
	return authority
}

// rootsOf returns the system's authorities and those of the file; nil: the
// system's alone.
func rootsOf(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, model.Errorf(model.Precondition, "cannot read acme roots: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, model.Errorf(model.Precondition, "cannot use acme roots %s: no certificate in PEM is in it", path)
	}
	return pool, nil
}

// adopt makes the hosts of t known before t is in use: their challenges can be
// answered, and what is on disk is served. It asks nobody.
func (a *acme) adopt(t *model.Table) {
	wanted := termsOf(t)
	a.changing.Lock()
	defer a.changing.Unlock()
	if a.stopped || len(wanted) == 0 {
		return
	}
	a.open()
	for host, terms := range wanted {
		old := a.host(host)
		if old != nil && old.terms == terms {
			continue
		}
		if old != nil {
			old.cancel()
			if old.terms.authority != terms.authority {
				a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: host}})
			}
		}
		h := a.newHost(host, terms)
		a.mu.Lock()
		a.hosts[host] = h
		a.mu.Unlock()
	}
}

// open makes the store.
func (a *acme) open() {
	if a.cache != nil {
		return
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		a.log.Error("cannot make the directory of certificates", "error", err)
	}
	cache := certmagic.NewCache(certmagic.CacheOptions{
		RenewCheckInterval: a.every,
		Logger:             zapLogger(a.log),
		GetConfigForCert: func(cert certmagic.Certificate) (*certmagic.Config, error) {
			for _, name := range cert.Names {
				if h := a.host(name); h != nil {
					return h.config, nil
				}
			}
			return nil, errors.New("no route has this host any more")
		},
	})
	a.mu.Lock()
	a.cache = cache
	a.mu.Unlock()
}

// newHost returns the host by its terms, with the certificate from disk
// if there is one.
func (a *acme) newHost(host string, terms acmeTerms) *acmeHost {
	roots, err := rootsOf(terms.authority.Roots)
	if err != nil { // it was readable when the table came
		a.log.Error("the certificate authority will not be trusted", "host", host, "error", err)
	}
	h := &acmeHost{terms: terms}
	h.ctx, h.cancel = context.WithCancel(a.ctx)
	log := zapLogger(a.log)
	h.config = certmagic.New(a.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: a.dir},
		Logger:  log,
		OnEvent: h.note,
		OCSP:    certmagic.OCSPConfig{DisableStapling: true}, // reading a certificate from disk must not wait for a network
	})
	h.issuer = certmagic.NewACMEIssuer(h.config, certmagic.ACMEIssuer{
		CA: terms.authority.Directory, TestCA: terms.authority.Directory, Email: terms.authority.Email,
		Agreed: true, TrustedRoots: roots, Logger: log,
		// certmagic would open listeners at these if they were free: they are
		// the router's own, and it finds them taken.
		ListenHost: terms.address, AltHTTPPort: terms.http, AltTLSALPNPort: terms.tls,
		DisableHTTPChallenge: terms.http == 0, DisableTLSALPNChallenge: terms.tls == 0,
	})
	h.config.Issuers = []certmagic.Issuer{h.issuer}
	if _, err := h.config.CacheManagedCertificate(h.ctx, host); err == nil {
		a.log.Info("certificate read from disk", "host", host)
	} else if !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("cannot read a certificate from disk; asking for another", "host", host, "error", err)
	}
	return h
}

// note keeps why an attempt failed, for the status.
func (h *acmeHost) note(_ context.Context, event string, data map[string]any) error {
	switch event {
	case "cert_failed":
		why := fmt.Sprint(data["error"])
		h.failed.Store(&why)
	case "cert_obtained":
		h.failed.Store(nil)
	}
	return nil
}

// newest returns the host's certificate that is valid for longest, or nil.
func (a *acme) newest(host string) *certmagic.Certificate {
	var best *certmagic.Certificate
	for _, cert := range a.cache.AllMatchingCertificates(host) {
		if cert.Leaf != nil && (best == nil || cert.Leaf.NotAfter.After(best.Leaf.NotAfter)) {
			best = &cert
		}
	}
	return best
}

// obtain asks for what is missing, once the table is in use and challenges can
// arrive, and forgets what the table does not name. It does not wait.
func (a *acme) obtain(t *model.Table) {
	wanted := termsOf(t)
	a.changing.Lock()
	defer a.changing.Unlock()
	if a.cache == nil || a.stopped {
		return
	}
	a.mu.RLock()
	hosts := maps.Clone(a.hosts)
	a.mu.RUnlock()
	held := false
	for host, h := range hosts {
		if _, ok := wanted[host]; !ok {
			h.cancel()
			a.mu.Lock()
			delete(a.hosts, host)
			a.mu.Unlock()
			a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: host}})
			continue
		}
		if h.asked {
			continue
		}
		h.asked = true
		if len(a.cache.AllMatchingCertificates(host)) > 0 {
			held = true
			continue
		}
		a.work.Go(func() { a.ask(host, h) })
	}
	if held {
		a.work.Go(a.look)
	}
}

// look sees at once, and not at the next look, whether what was read from disk
// is to be renewed.
func (a *acme) look() {
	if err := a.cache.RenewManagedCertificates(a.ctx); err != nil && a.ctx.Err() == nil {
		a.log.Error("cannot look after certificates", "error", err)
	}
}

// The pauses after which a certificate is asked for again that could not even be
// asked for, as without room on the disk. certmagic repeats what else fails.
const (
	askAgain   = 5 * time.Second
	askLongest = 5 * time.Minute
)

// ask has the host's certificate issued; it tries again, less and less often,
// until it is there or the terms end.
func (a *acme) ask(host string, h *acmeHost) {
	a.log.Info("asking for a certificate; until it comes handshakes fail", "host", host, "directory", h.terms.authority.Directory,
		"http_01", h.terms.http != 0, "tls_alpn_01", h.terms.tls != 0)
	for wait := askAgain; ; wait = min(2*wait, askLongest) {
		err := h.config.ObtainCertAsync(h.ctx, host) // returns when it is there
		if err == nil {
			_, err = h.config.CacheManagedCertificate(h.ctx, host)
		}
		if h.ctx.Err() != nil {
			return
		}
		if err == nil {
			h.failed.Store(nil)
			a.log.Info("certificate has come", "host", host)
			return
		}
		why := err.Error()
		h.failed.Store(&why)
		a.log.Error("no certificate could be had; trying again", "host", host, "wait", wait, "error", err)
		select {
		case <-h.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// stop ends the asking and the renewing.
func (a *acme) stop() {
	a.changing.Lock()
	defer a.changing.Unlock()
	if a.stopped {
		return
	}
	a.stopped = true
	a.cancel()
	a.work.Wait()
	if a.cache != nil {
		a.cache.Stop()
	}
}

// termsOf returns how each host of t that has an authority is to have its
// certificate. A challenge is offered where it can arrive: at its own port if
// the table listens there, else at whatever port the table has for the host,
// which a forwarding may lead to.
func termsOf(t *model.Table) map[string]acmeTerms {
	all := map[string]acmeTerms{}
	for route := range secureRoutes(t) {
		if route.TLS.ACME == (model.ACME{}) {
			continue
		}
		host := normalizeHost(route.Host)
		terms := all[host]
		terms.authority = withDirectory(route.TLS.ACME)
		terms.offer(route.Listen, true)
		all[host] = terms
	}
	if len(all) == 0 {
		return nil
	}
	for i := range t.Services {
		if t.Services[i].Protocol == model.TCP {
			continue
		}
		for _, route := range t.Services[i].Routes {
			if route.TLS.Enabled() {
				continue
			}
			for host, terms := range all {
				if carries(normalizeHost(route.Host), host) {
					terms.offer(route.Listen, false)
					all[host] = terms
				}
			}
		}
	}
	for host, terms := range all {
		switch {
		case terms.tls == 443 && terms.http != 80:
			terms.http = 0
		case terms.http == 80 && terms.tls != 443:
			terms.tls = 0
		}
		all[host] = terms
	}
	return all
}

// carries reports whether a route for the pattern takes requests for the host.
func carries(pattern, host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return pattern == "" || pattern == host || pattern == "*."+parent
}

// offer notes a listener on which challenges can arrive.
func (terms *acmeTerms) offer(listen string, secure bool) {
	listen, err := normalizeListen(listen)
	if err != nil { // checkTable has refused it
		return
	}
	address, port, err := net.SplitHostPort(listen)
	if err != nil {
		return
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return
	}
	at, own := &terms.http, 80
	if secure {
		at, own = &terms.tls, 443
	}
	if terms.http == 0 && terms.tls == 0 {
		terms.address = address
	} else if terms.address != address {
		terms.address = "" // every address: certainly taken, by the router
	}
	if *at == 0 || n == own {
		*at = n
	}
}

// challengePath begins the path of an HTTP-01 challenge.
const challengePath = "/.well-known/acme-challenge/"

// challenge answers an HTTP-01 challenge for a host whose certificate is had
// here. Other hosts' servers may answer their own.
func (c *call) challenge() bool {
	if !strings.HasPrefix(c.req.URL.Path, challengePath) {
		return false
	}
	h := c.router.acme.host(c.req.Host)
	if h == nil {
		return false
	}
	var out capture
	if !h.issuer.HandleHTTPChallenge(&out, c.req) {
		return false
	}
	header := c.w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(out.body.Len()))
	c.status = http.StatusOK
	c.w.WriteHeader(c.status)
	n, _ := c.w.Write(out.body.Bytes()) // the authority may be gone, and asks again
	c.bytesOut += int64(n)
	return true
}

// capture keeps an answer instead of sending it.
type capture struct {
	header http.Header
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *capture) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter. A challenge's answer is 200.
func (a *capture) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (a *capture) Write(p []byte) (int, error) { return a.body.Write(p) }
