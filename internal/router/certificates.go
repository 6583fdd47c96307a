package router

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kiln/internal/model"
)

// pairFiles names a certificate and its key on the machine.
type pairFiles struct{ cert, key string }

// keyPair is a certificate with its key, as the two files were when they last
// made sense: a renewal that went wrong leaves the old one in use.
type keyPair struct {
	files   pairFiles
	current atomic.Pointer[tls.Certificate] // nil: never readable since the router started
	problem atomic.Pointer[error]           // why the files as they are now cannot be used; nil: they can

	// Only the one who stages or watches touches it.
	seen [2]stamp // of the files when they were last read
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

func stampOf(path string) stamp {
	st, err := os.Stat(path) // follows links: certificate tools replace those
	if err != nil {
		return stamp{}
	}
	s := stamp{modified: st.ModTime(), size: st.Size()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

func (f pairFiles) stamps() [2]stamp { return [2]stamp{stampOf(f.cert), stampOf(f.key)} }

// read reads the two files. The stamps are taken before, so that a change in
// between is seen as one.
func (p *keyPair) read() error {
	err := p.load()
	if err != nil {
		p.problem.Store(&err)
	} else {
		p.problem.Store(nil)
	}
	return err
}

func (p *keyPair) load() error {
	p.seen = p.files.stamps()
	certPEM, err := os.ReadFile(p.files.cert)
	if err != nil {
		return model.Errorf(model.Precondition, "cannot read certificate: %w", err).
			WithHint("the router runs as root on this machine and reads the file itself: give its absolute path there")
	}
	keyPEM, err := os.ReadFile(p.files.key)
	if err != nil {
		return model.Errorf(model.Precondition, "cannot read certificate's key: %w", err).
			WithHint("the router runs as root on this machine and reads the file itself: give its absolute path there")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return model.Errorf(model.Precondition, "cannot use certificate %s with key %s: %w", p.files.cert, p.files.key, err).
			WithHint("the first certificate in the file has to be the one that the key belongs to, both in PEM")
	}
	p.current.Store(&pair)
	return nil
}

// fits refuses a certificate that no client would take for the host.
func (p *keyPair) fits(host string) error {
	pair := p.current.Load()
	if pair == nil || host == "" {
		return nil
	}
	name := host
	if parent, wild := strings.CutPrefix(host, "*."); wild {
		name = "any-label." + parent // a wildcard certificate matches every label
	}
	err := pair.Leaf.VerifyHostname(name)
	if err == nil {
		return nil
	}
	if _, other := errors.AsType[x509.HostnameError](err); !other {
		return model.Errorf(model.Precondition, "cannot use certificate %s for host %q: %w", p.files.cert, host, err)
	}
	return model.Errorf(model.Precondition, "cannot use certificate %s for host %q: it is for %s", p.files.cert, host, strings.Join(namesOf(pair.Leaf), ", ")).
		WithHint("the certificate's subject alternative names have to cover the route's host")
}

func namesOf(leaf *x509.Certificate) []string {
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return []string{"no name at all"}
	}
	return names
}

// certificates are the key pairs that the current table names.
type certificates struct {
	log *slog.Logger

	changing sync.Mutex // one who stages or watches at a time
	mu       sync.RWMutex
	pairs    map[pairFiles]*keyPair
}

func newCertificates(log *slog.Logger) *certificates {
	return &certificates{log: log, pairs: map[pairFiles]*keyPair{}}
}

func (cs *certificates) of(f pairFiles) *tls.Certificate {
	if p := cs.pair(f); p != nil {
		return p.current.Load()
	}
	return nil
}

func (cs *certificates) pair(f pairFiles) *keyPair {
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	return cs.pairs[f]
}

// stage reads what t names and the router does not hold yet. It changes
// nothing: the table may still be refused for another reason. A pair that is
// held is not looked at again, nor a host that have serves with it: one
// service's broken renewal must not stop another's deployment.
func (cs *certificates) stage(t, have *model.Table) (map[pairFiles]*keyPair, error) {
	fresh := map[pairFiles]*keyPair{}
	proven := map[hostPair]bool{}
	for route := range secureRoutes(have) {
		proven[hostPair{normalizeHost(route.Host), filesOf(route)}] = true
	}
	for route := range secureRoutes(t) {
		files := filesOf(route)
		if files == (pairFiles{}) {
			continue
		}
		cs.mu.RLock()
		p := cs.pairs[files]
		cs.mu.RUnlock()
		if p == nil {
			p = fresh[files]
		}
		if p == nil {
			p = &keyPair{files: files}
			if err := p.read(); err != nil {
				return nil, err
			}
			cs.remark(p)
			fresh[files] = p
		}
		if host := normalizeHost(route.Host); !proven[hostPair{host, files}] {
			if err := p.fits(host); err != nil {
				return nil, err
			}
		}
	}
	return fresh, nil
}

type hostPair struct {
	host  string
	files pairFiles
}

// remark says what is allowed and yet hardly meant.
func (cs *certificates) remark(p *keyPair) {
	leaf := p.current.Load().Leaf
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		cs.log.Warn("certificate is not valid now", "file", p.files.cert, "not_before", leaf.NotBefore, "not_after", leaf.NotAfter)
	}
	if st, err := os.Stat(p.files.key); err == nil && st.Mode().Perm()&0o004 != 0 {
		cs.log.Warn("certificate's key can be read by everybody", "file", p.files.key)
	}
}

// stagePossible is stage for a table that is in use already: what cannot be
// read is said, and tried again when the files change.
func (cs *certificates) stagePossible(t *model.Table) map[pairFiles]*keyPair {
	fresh := map[pairFiles]*keyPair{}
	for route := range secureRoutes(t) {
		files := filesOf(route)
		if files == (pairFiles{}) || fresh[files] != nil {
			continue
		}
		p := &keyPair{files: files}
		if err := p.read(); err != nil {
			cs.log.Error("certificate cannot be read; trying again when it changes", "host", route.Host, "error", err)
		}
		fresh[files] = p
	}
	return fresh
}

// take adds what was staged.
func (cs *certificates) take(fresh map[pairFiles]*keyPair) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	maps.Copy(cs.pairs, fresh)
}

// retain forgets what t does not name.
func (cs *certificates) retain(t *model.Table) {
	used := map[pairFiles]bool{}
	for route := range secureRoutes(t) {
		used[filesOf(route)] = true
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for files := range cs.pairs {
		if !used[files] {
			delete(cs.pairs, files)
		}
	}
}

// renewEvery is how often the files' modification times are looked at.
const renewEvery = time.Second

// watch reads files again when they change, until ctx ends.
func (cs *certificates) watch(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			cs.renew()
		}
	}
}

// renew reads again what has changed. What cannot be used leaves the old
// certificate in use until the files change once more.
func (cs *certificates) renew() {
	cs.changing.Lock()
	defer cs.changing.Unlock()
	cs.mu.RLock()
	pairs := make([]*keyPair, 0, len(cs.pairs))
	for _, p := range cs.pairs {
		pairs = append(pairs, p)
	}
	cs.mu.RUnlock()
	for _, p := range pairs {
		if p.files.stamps() == p.seen {
			continue
		}
		if err := p.read(); err != nil {
			cs.log.Error("renewed certificate cannot be used; keeping the old one", "file", p.files.cert, "error", err)
			continue
		}
		leaf := p.current.Load().Leaf
		cs.log.Info("certificate was renewed", "file", p.files.cert, "not_after", leaf.NotAfter, "names", namesOf(leaf))
		cs.remark(p)
	}
}
