package router

import (
	"crypto/tls"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"kiln/internal/model"
)

// source says where a route's certificate is from: files, or the authority
// that is asked for the host's.
type source struct {
	files pairFiles
	acme  string // host
}

func filesOf(route *model.Route) pairFiles { return pairFiles{route.TLS.Cert, route.TLS.Key} }

func sourceOf(route *model.Route) source {
	if route.TLS.ACME != (model.ACME{}) {
		return source{acme: normalizeHost(route.Host)}
	}
	return source{files: filesOf(route)}
}

// chooser is which certificate a listener shows for which name.
type chooser struct {
	exact    map[string]source
	wildcard map[string]source // by what follows "*."
	other    source            // that of a route for any host, else the listener's first
	any      bool              // other is that of a route for any host
}

func (n *chooser) add(host string, s source) {
	if n.exact == nil {
		n.exact, n.wildcard, n.other = map[string]source{}, map[string]source{}, s
	}
	host = normalizeHost(host)
	if parent, wild := strings.CutPrefix(host, "*."); wild {
		keepFirst(n.wildcard, parent, s)
	} else if host != "" {
		keepFirst(n.exact, host, s)
	} else if !n.any {
		n.other, n.any = s, true
	}
}

// keepFirst leaves what is there: a host's routes may name different
// certificates, and the first one stands for the host.
func keepFirst(m map[string]source, key string, s source) {
	if _, ok := m[key]; !ok {
		m[key] = s
	}
}

// pick returns the certificate for the name: that of the exact host, of a
// wildcard of one label, else the one for all others. own reports whether it is
// the name's own.
func (n *chooser) pick(name string) (s source, own bool) {
	if s, ok := n.exact[name]; ok {
		return s, true
	}
	if label, parent, ok := strings.Cut(name, "."); ok && label != "" {
		if s, ok := n.wildcard[parent]; ok {
			return s, true
		}
	}
	return n.other, n.any
}

// misdirected reports whether a request for host must not be answered on a
// connection that was opened for the name: it is served under another
// certificate than the one that the client has checked (RFC 9110, 15.5.20).
func (n *chooser) misdirected(name, host string) bool {
	if name == host {
		return false
	}
	host, name = normalizeHost(host), normalizeHost(name)
	if name == host {
		return false
	}
	want, own := n.pick(host)
	if !own {
		return false // it has none; the routing says what becomes of it
	}
	shown, _ := n.pick(name)
	return want != shown
}

// secureRoutes yields the routes of t that are served by TLS.
func secureRoutes(t *model.Table) iter.Seq[*model.Route] {
	return func(yield func(*model.Route) bool) {
		for i := range t.Services {
			for j := range t.Services[i].Routes {
				if route := &t.Services[i].Routes[j]; route.TLS.Enabled() && !yield(route) {
					return
				}
			}
		}
	}
}

// checkSecurity refuses certificates and redirects that cannot be meant.
func checkSecurity(t *model.Table) error {
	secure := map[string]bool{} // by listener, of its first route
	issuers := map[string]model.ACME{}
	for i := range t.Services {
		s := &t.Services[i]
		for j := range s.Routes {
			route := &s.Routes[j]
			listen, err := normalizeListen(route.Listen)
			if err != nil {
				return err
			}
			if was, ok := secure[listen]; ok && was != route.TLS.Enabled() {
				return model.Errorf(model.Conflict, "cannot use table: listener %s would have to speak both TLS and plain bytes (service %q)", route.Listen, s.Name).
					WithHint("give every route of a listener a tls block, or none")
			}
			secure[listen] = route.TLS.Enabled()
			if err := checkTLS(route, issuers); err != nil {
				return err
			}
			if err := checkRedirect(route, s.Protocol); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTLS refuses a half-named certificate, and one that no authority gives.
func checkTLS(route *model.Route, issuers map[string]model.ACME) error {
	t := route.TLS
	files := t.Cert != "" || t.Key != ""
	acme := t.ACME != model.ACME{}
	switch {
	case files && acme:
		return model.Errorf(model.Invalid, "cannot use table: route %s %q names certificate files and an authority", route.Listen, route.Host)
	case files && (!filepath.IsAbs(t.Cert) || !filepath.IsAbs(t.Key)):
		return model.Errorf(model.Invalid, "cannot use table: route %s %q: certificate %q and key %q have to be absolute paths", route.Listen, route.Host, t.Cert, t.Key)
	case !acme:
		return nil
	}
	host := normalizeHost(route.Host)
	if host == "" || strings.HasPrefix(host, "*.") {
		return model.Errorf(model.Invalid, "cannot use table: route %s: no authority gives a certificate for host %q by HTTP-01 or TLS-ALPN-01", route.Listen, route.Host).
			WithHint("name one host in the route, or give the certificate as files")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return model.Errorf(model.Invalid, "cannot use table: route %s: host %q is an address, and ACME is for names", route.Listen, route.Host)
	}
	if other, ok := issuers[host]; ok && other != t.ACME {
		return model.Errorf(model.Conflict, "cannot use table: host %q is to have its certificate by two different acme blocks", route.Host)
	}
	issuers[host] = t.ACME
	return nil
}

// checkRedirect refuses what is no place to send a client to.
func checkRedirect(route *model.Route, p model.Protocol) error {
	switch {
	case route.Redirect == "":
		return nil
	case p == model.TCP:
		return model.Errorf(model.Invalid, "cannot use table: route %s redirects, and its service speaks tcp", route.Listen)
	case route.Redirect == "https" && route.TLS.Enabled():
		return model.Errorf(model.Invalid, "cannot use table: route %s %q redirects to itself", route.Listen, route.Host)
	case route.Redirect == "https":
		return nil
	}
	u, err := url.Parse(route.Redirect)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.TrimSuffix(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return model.Errorf(model.Invalid, "cannot use table: route %s %q redirects to %q", route.Listen, route.Host, route.Redirect).
			WithHint(`a redirect is "https", or a scheme and a host such as "https://www.example.com"`)
	}
	return nil
}

// secure notes the certificate of a route.
func (h *hosts) secure(host string, s source) {
	if h.certs == nil {
		h.certs = &chooser{}
	}
	h.certs.add(host, s)
}

// misdirected reports whether the request belongs on another connection.
func (l *listener) misdirected(req *http.Request) bool {
	n := l.chooser()
	return n != nil && n.misdirected(req.TLS.ServerName, req.Host)
}

// bytesServiceFor returns the look-up of the tcp service for the client: by
// TLS several share a listener, told apart by the name that the client gave.
func (l *listener) bytesServiceFor(client net.Conn) func(*routing) *service {
	tc, ok := client.(*tls.Conn)
	if !ok {
		return l.bytesService
	}
	name := normalizeHost(tc.ConnectionState().ServerName)
	return func(t *routing) *service {
		h := t.listeners[l.address]
		if h == nil {
			return nil
		}
		if svc := h.lookup(name, "/"); svc != nil && svc.protocol == model.TCP {
			return svc
		}
		return h.onlyBytes()
	}
}

// onlyBytes returns the tcp service of the listener if there is but one:
// clients that give no name mean that.
func (h *hosts) onlyBytes() *service {
	var only *service
	for _, m := range []map[string]prefixes{h.exact, h.wildcard, {"": h.any}} {
		for _, ps := range m {
			svc := ps.bytes()
			if svc == nil {
				continue
			}
			if only != nil && only != svc {
				return nil
			}
			only = svc
		}
	}
	return only
}
