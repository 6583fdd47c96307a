package spec

import (
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"kiln/internal/model"
)

// DefaultACME is the directory that certificates are asked of.
const DefaultACME = "https://acme-v02.api.letsencrypt.org/directory"

var hostForm = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// route reads one route.
func (b *body) route(s *Service, block *hclsyntax.Block) {
	in := b.inside(block, "route")
	d := declaredRoute{service: s.Name, protocol: s.Template.Protocol, at: in.header}
	good := in.listen(&d)
	in.matches(&d)
	in.boolean("proxy_protocol", &d.ProxyProtocol)
	if in.str("redirect", &d.Redirect) {
		in.checkRedirect(d.Redirect)
	}
	if tls := in.child("tls"); tls != nil {
		tls.tls(d.Host, &d.TLS)
		d.tls = true
		if d.Redirect == "https" {
			in.errorf(in.at("redirect"), "redirect the route of the listener without tls, or name the host to go to", "%s redirects to itself: it has tls already", in.where)
		}
	}
	if good && !d.tls && d.leadsToItself() {
		in.errorf(in.at("redirect"), "name another host or port", "redirect leads to the route itself: nobody would ever arrive")
	}
	if d.protocol == model.TCP {
		in.bytesOnly(&d)
	}
	if s.Template.Port == 0 && !b.has("port") {
		in.errorf(in.header, "add port = … to the service: the port that its servers listen on", "%s leads nowhere: the service has no port", in.where)
	}
	in.done()
	if good {
		s.Policy.Routes = append(s.Policy.Routes, d.Route)
		s.routes = append(s.routes, d)
	}
}

// matches reads which requests a route takes.
func (b *body) matches(d *declaredRoute) {
	if b.str("host", &d.Host) && d.Host != "" {
		d.Host = strings.TrimSuffix(strings.ToLower(d.Host), ".")
		if len(d.Host) > 253 || !hostForm.MatchString(d.Host) {
			b.errorf(b.at("host"), "a host is a name without scheme, port and path, as \"shop.example.com\" or \"*.example.com\"", "%q is not a host", d.Host)
		}
	}
	if b.str("path", &d.Path) {
		b.checkPath("path")
		if d.Path = strings.TrimRight(d.Path, "/"); strings.Contains(d.Path, "//") || strings.ContainsAny(d.Path, "*") {
			b.errorf(b.at("path"), "it is a prefix of whole segments already: \"/shop\" takes /shop and /shop/…", "path cannot have \"*\" or \"//\"")
		}
	}
}

// bytesOnly reports what a route cannot have where kiln reads no requests. The
// host is known all the same where a TLS client names it (SNI).
func (b *body) bytesOnly(d *declaredRoute) {
	const hint = "take host and path out, or use protocol = \"http\""
	switch {
	case d.Path != "":
		b.errorf(b.header, hint, "%s cannot have a path: the service speaks tcp", b.where)
	case d.Host != "" && !d.tls:
		b.errorf(b.header, hint+"; with tls { … } the host is the one that clients name (SNI)", "%s cannot have a host: the service speaks tcp without tls", b.where)
	}
	if b.has("redirect") {
		b.errorf(b.at("redirect"), "take it out, or use protocol = \"http\"", "%s cannot redirect: the service speaks tcp", b.where)
	}
}

// checkRedirect reports what is neither "https" nor scheme and host.
func (b *body) checkRedirect(to string) {
	if to == "https" {
		return
	}
	const form = `write "https" for the same address under https, or scheme and host: "https://www.example.com"`
	u, err := url.Parse(to)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		b.errorf(b.at("redirect"), form, "%q is not where a redirect can lead", to)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(to, "?#") || strings.Trim(u.Path, "/") != "":
		b.errorf(b.at("redirect"), "write "+strconv.Quote(u.Scheme+"://"+u.Host)+": path and query are the request's", "redirect: %q has more than scheme, host and port", to)
	case strings.HasSuffix(to, "/") || !hostForm.MatchString(u.Hostname()) && !isIP(u.Hostname()):
		b.errorf(b.at("redirect"), "did you mean "+strconv.Quote(u.Scheme+"://"+strings.ToLower(u.Host))+"?", "redirect: %q does not end with a host or port", to)
	}
}

// leadsToItself reports whether a redirect goes where it comes from.
func (d declaredRoute) leadsToItself() bool {
	if d.Redirect == "" || d.Redirect == "https" {
		return d.Redirect != "" && d.port == 443
	}
	u, err := url.Parse(d.Redirect)
	if err != nil {
		return false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return d.Host != "" && strings.EqualFold(u.Hostname(), d.Host) && port == strconv.Itoa(d.port)
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// tls reads by which certificate a route is served.
func (b *body) tls(host string, t *model.TLS) {
	b.file("cert", &t.Cert)
	b.file("key", &t.Key)
	acme := b.child("acme")
	switch {
	case acme != nil && (b.has("cert") || b.has("key")):
		b.errorf(acme.header, "take one of them out: the certificate is either in files, or had by ACME", "%s cannot have both acme and cert or key", b.where)
	case acme != nil:
	case !b.has("cert") && !b.has("key"):
		b.errorf(b.header, "add cert = \"/….pem\" and key = \"/….key\", or acme { }", "%s has no certificate", b.where)
	case !b.has("cert"):
		b.errorf(b.at("key"), "add cert = \"/….pem\": the certificate and its chain", "%s has a key and no cert", b.where)
	case !b.has("key"):
		b.errorf(b.at("cert"), "add key = \"/….key\": the certificate's private key", "%s has a cert and no key", b.where)
	}
	if acme != nil {
		acme.acme(host, &t.ACME)
	}
	b.done()
}

// acme reads of whom a certificate is asked.
func (b *body) acme(host string, a *model.ACME) {
	a.Directory = DefaultACME
	switch {
	case host == "":
		b.errorf(b.header, "add host = \"shop.example.com\" to the route", "%s needs the route's host: a certificate is for a name", b.where)
	case strings.HasPrefix(host, "*."):
		b.errorf(b.header, "name each host in a route of its own, or give cert and key", "%s cannot have a certificate for %q: wildcards need a DNS challenge", b.where, host)
	}
	if b.str("email", &a.Email) && (strings.Count(a.Email, "@") != 1 || strings.HasPrefix(a.Email, "@") || strings.HasSuffix(a.Email, "@") || strings.ContainsAny(a.Email, " ,;:<>\t\r\n")) {
		b.errorf(b.at("email"), "write it as \"ops@example.com\"", "%q is not an address for mail", a.Email)
	}
	if b.str("directory", &a.Directory) {
		if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
			b.errorf(b.at("directory"), "leave the line out for Let's Encrypt, "+strconv.Quote(DefaultACME), "%q is not the https:// URL of an ACME directory", a.Directory)
		}
	}
	b.file("roots", &a.Roots)
	b.done()
}

// file reads the absolute path of a file on the daemon's machine.
func (b *body) file(name string, into *string) {
	if !b.str(name, into) {
		return
	}
	switch {
	case strings.Contains(*into, "-----BEGIN"):
		b.errorf(b.at(name), "keep it in a file, and write the file's path", "%s is a path, not the certificate or key itself", name)
	case *into == "" || strings.ContainsRune(*into, 0):
		b.errorf(b.at(name), "", "%s is not a path", name)
	case !path.IsAbs(*into):
		b.errorf(b.at(name), "the daemon reads it: write the whole path, as \"/etc/kiln/"+path.Base(*into)+"\"", "%s: %q is not an absolute path", name, *into)
	}
}

// listen reads the listener of a route: ":80" or "192.0.2.1:80".
func (b *body) listen(d *declaredRoute) bool {
	v, ok := b.value("listen")
	if !ok {
		if !b.has("listen") {
			b.errorf(b.header, "add listen = \":80\"", "%s has no listen", b.where)
		}
		return false
	}
	text, _ := scalar(v)
	hint := listenHint(text)
	if v.Type() != cty.String {
		b.errorf(b.at("listen"), hint, "listen takes a text, not %s", kindOf(v))
		return false
	}
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		b.errorf(b.at("listen"), hint, "listen: %q has no port", text)
		return false
	}
	port, err := strconv.ParseUint(text[at+1:], 10, 16)
	if err != nil || port == 0 {
		b.errorf(b.at("listen"), "", "listen: %q is not a port from 1 to 65535", text[at+1:])
		return false
	}
	d.Listen, d.port = text, int(port)
	if at == 0 {
		return true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text[:at], "["), "]"))
	if err != nil || addr.Zone() != "" || addr.Is6() != strings.HasPrefix(text, "[") {
		b.errorf(b.at("listen"), hint, "listen: %q is not an IP address; the name of a host goes to host", text[:at])
		return false
	}
	if !addr.IsUnspecified() {
		d.address = addr.String()
	}
	return true
}

func listenHint(text string) string {
	if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
		return "did you mean \":" + text + "\"?"
	}
	return `write ":80" for every address, or "192.0.2.1:80", "[2001:db8::1]:80"`
}
