package router

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"kiln/internal/model"
)

// redirect is a route that sends the client elsewhere instead of asking a
// server. The answer is 308 for every method: unlike 301 it lets no client turn
// a POST into a GET.
type redirect struct {
	base string // scheme and authority; "": https and the host
	host string // of the route, if it is one host
	port string // ":8443" if https is not at its own port
}

// newRedirect returns the redirect of the route, or nil. securePort is where
// the host is served by TLS.
func newRedirect(route *model.Route, securePort string) *redirect {
	switch route.Redirect {
	case "":
		return nil
	case "https":
		d := &redirect{host: normalizeHost(route.Host)}
		if strings.HasPrefix(d.host, "*.") {
			d.host = ""
		}
		if securePort != "" && securePort != "443" {
			d.port = ":" + securePort
		}
		return d
	default:
		return &redirect{base: strings.TrimSuffix(route.Redirect, "/")}
	}
}

// location returns where the request is sent, or "" if its Host is no host. A
// declared host stands for itself, whatever the request says.
func (d *redirect) location(host, target string) string {
	if !strings.HasPrefix(target, "/") {
		target = "/" // OPTIONS *
	}
	base := d.base
	if base == "" {
		if d.host != "" {
			host = d.host
		} else if host = normalizeHost(host); !plausibleHost(host) {
			return ""
		}
		if strings.IndexByte(host, ':') >= 0 {
			host = "[" + host + "]"
		}
		base = "https://" + host + d.port
	}
	return base + escapeTarget(target)
}

// plausibleHost reports whether the host may stand in a URL as it is.
func plausibleHost(host string) bool {
	if host == "" {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' && c != ':' {
			return false
		}
	}
	return true
}

// escapeTarget escapes what a Location must not hold; a client's own escapes
// stay as they are.
func escapeTarget(target string) string {
	plain := true
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		return target
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' || c == '\\' {
			b.WriteString(string([]byte{'%', digits[c>>4], digits[c&15]}))
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// redirect answers the call with the route's redirect.
func (c *call) redirect(d *redirect) {
	to := d.location(c.req.Host, requestTarget(c.req))
	if to == "" {
		c.refuse(http.StatusBadRequest, "bad_host", "the request's Host is no host")
		return
	}
	h := c.w.Header()
	h.Set("Location", to)
	h.Set("Kiln-Router", "redirect")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.body.unread() {
		c.closeAfterwards()
	}
	out := "moved to " + to + "\n"
	h.Set("Content-Length", strconv.Itoa(len(out)))
	c.status = http.StatusPermanentRedirect
	c.w.WriteHeader(c.status)
	if c.req.Method == http.MethodHead {
		return
	}
	n, _ := io.WriteString(c.w, out) // the client may be gone, which is its right
	c.bytesOut += int64(n)
}

// securePorts returns, by normalized host, the port at which it is served by
// TLS: its own port if it is among them, else the first.
func securePorts(t *model.Table) map[string]string {
	ports := map[string]string{}
	for route := range secureRoutes(t) {
		listen, err := normalizeListen(route.Listen)
		if err != nil { // checkTable has refused it
			continue
		}
		_, port, err := net.SplitHostPort(listen)
		if err != nil {
			continue
		}
		host := normalizeHost(route.Host)
		if _, ok := ports[host]; !ok || port == "443" {
			ports[host] = port
		}
	}
	return ports
}

// securePort returns the port for a route's host, as far as ports tells.
func securePort(ports map[string]string, host string) string {
	host = normalizeHost(host)
	if port, ok := ports[host]; ok {
		return port
	}
	if _, parent, ok := strings.Cut(host, "."); ok {
		if port, ok := ports["*."+parent]; ok {
			return port
		}
	}
	return ports[""]
}
