package router

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"time"

	"kiln/internal/model"
)

// A certificate that nobody has renewed is told of in the last sixth of its
// life, and not before its last week. ACME renews in the last third.
const (
	expiresWithin = 7 * 24 * time.Hour
	expiresPart   = 6
)

// troubles returns what keeps t from being served as it says: listeners that
// cannot be had, certificates that are missing, unusable, not valid yet or at
// their end.
func (r *Router) troubles(t *model.Table) []model.Trouble {
	r.mu.Lock()
	unbound := r.unbound // replaced as a whole, never written to
	r.mu.Unlock()
	var out []model.Trouble
	said := map[model.Trouble]bool{}
	say := func(service, what string) {
		if trouble := (model.Trouble{Service: service, What: what}); what != "" && !said[trouble] {
			said[trouble] = true
			out = append(out, trouble)
		}
	}
	now := time.Now()
	for i := range t.Services {
		s := &t.Services[i]
		say(s.Name, unbound[r.names.address(s)])
		for j := range s.Routes {
			route := &s.Routes[j]
			if listen, err := normalizeListen(route.Listen); err == nil {
				say(s.Name, unbound[listen])
			}
			if route.TLS.Enabled() {
				say(s.Name, r.certificateTrouble(route, now))
			}
		}
	}
	return out
}

// certificateTrouble says what is wrong with the certificate of a route; "":
// nothing.
func (r *Router) certificateTrouble(route *model.Route, now time.Time) string {
	host := normalizeHost(route.Host)
	if route.TLS.ACME != (model.ACME{}) {
		return r.acme.trouble(host, now)
	}
	files := filesOf(route)
	pair := r.certs.pair(files)
	if pair == nil { // the table is just being changed
		return ""
	}
	problem := ""
	if p := pair.problem.Load(); p != nil {
		problem = (*p).Error()
	}
	current := pair.current.Load()
	if current == nil {
		return problem
	}
	if end := outOfTime(current.Leaf, now); end != "" {
		return fmt.Sprintf("the certificate %s for %s %s%s", files.cert, cmp.Or(host, "any host"), end, because(problem))
	}
	if problem != "" {
		return "the certificate before stays in use: " + problem
	}
	return ""
}

// trouble says what is wrong with the host's certificate; "": nothing.
func (a *acme) trouble(host string, now time.Time) string {
	h := a.host(host)
	if h == nil {
		return ""
	}
	why := ""
	if p := h.failed.Load(); p != nil {
		why = *p
	}
	best := a.newest(host)
	if best == nil {
		return fmt.Sprintf("no certificate for %s has come from %s yet, and handshakes fail%s", host, h.terms.authority.Directory, because(why))
	}
	if end := outOfTime(best.Leaf, now); end != "" {
		return fmt.Sprintf("the certificate for %s %s, and %s has given no other%s", host, end, h.terms.authority.Directory, because(why))
	}
	return ""
}

// outOfTime says that a certificate is not valid yet, has ended or is about to.
func outOfTime(leaf *x509.Certificate, now time.Time) string {
	end := leaf.NotAfter
	soon := min(expiresWithin, end.Sub(leaf.NotBefore)/expiresPart)
	switch left := end.Sub(now); {
	case now.Before(leaf.NotBefore):
		return "is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339)
	case left <= 0:
		return "is not valid since " + end.UTC().Format(time.RFC3339)
	case left < soon:
		return "is valid until " + end.UTC().Format(time.RFC3339) + " only"
	default:
		return ""
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
