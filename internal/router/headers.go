package router

import (
	"iter"
	"net"
	"net/http"
	"net/textproto"
	"strings"
)

// Headers that say how the client was reached. A client's own are dropped,
// whatever they say: kiln's router is the edge, and a server may trust what it
// finds here. The forms with underscores go too, because CGI-like servers
// cannot tell them apart.
//
//	X-Forwarded-For    the client's address, without port
//	X-Forwarded-Proto  http, or https if the client came by TLS
//	X-Forwarded-Host   the Host the client asked for
//	Forwarded          the same three (RFC 7239)
func isForwarded(key string) bool {
	if len(key) < len("Forwarded") {
		return false
	}
	if strings.IndexByte(key, '_') >= 0 {
		key = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(key, "_", "-"))
	}
	return key == "Forwarded" || key == "X-Real-Ip" || strings.HasPrefix(key, "X-Forwarded-")
}

// isHop reports whether the header, in canonical form, is about one connection
// only and not to be passed on (RFC 9110, 7.6.1).
func isHop(key string) bool {
	switch key {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// hopNames returns the further headers that a Connection header makes
// hop-by-hop, in canonical form; nil in nearly every case.
func hopNames(h http.Header) []string {
	var out []string
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
			switch name {
			case "", "Close", "Keep-Alive", "Upgrade":
			default:
				out = append(out, name)
			}
		}
	}
	return out
}

// hasToken reports whether the comma-separated header has the token.
func hasToken(values []string, token string) bool {
	for _, line := range values {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// scheme returns the scheme of the URL that the client asked for.
func (c *call) scheme() string {
	if c.secure {
		return "https"
	}
	return "http"
}

// clientIP returns the client's address without port.
func clientIP(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// forwardedHost returns the client's Host in a form that is safe inside a quoted
// string; net/http has refused what is no host at all.
func forwardedHost(host string) string {
	if strings.ContainsAny(host, `"\`) {
		return ""
	}
	return host
}

// appendForwarded appends the headers described at isForwarded.
func appendForwarded(b []byte, ip, host, proto string) []byte {
	b = append(b, "X-Forwarded-For: "...)
	b = append(b, ip...)
	b = append(b, "\r\nX-Forwarded-Proto: "...)
	b = append(b, proto...)
	b = append(b, "\r\nX-Forwarded-Host: "...)
	b = append(b, host...)
	b = append(b, "\r\nForwarded: for="...)
	b = appendNode(b, ip)
	b = append(b, `;host="`...)
	b = append(b, forwardedHost(host)...)
	b = append(b, "\";proto="...)
	b = append(b, proto...)
	return append(b, '\r', '\n')
}

// appendNode appends an address as RFC 7239 writes it.
func appendNode(b []byte, ip string) []byte {
	if strings.IndexByte(ip, ':') < 0 {
		return append(b, ip...)
	}
	b = append(b, `"[`...)
	b = append(b, ip...)
	return append(b, `]"`...)
}

// setForwarded is appendForwarded for a header map.
func setForwarded(h http.Header, ip, host, proto string) {
	h["X-Forwarded-For"] = []string{ip}
	h["X-Forwarded-Proto"] = []string{proto}
	h["X-Forwarded-Host"] = []string{host}
	h["Forwarded"] = []string{"for=" + string(appendNode(nil, ip)) + `;host="` + forwardedHost(host) + `";proto=` + proto}
}

// splitList returns the elements of a comma-separated value that are not empty.
func splitList(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for e := range strings.SplitSeq(value, ",") {
			if e = textproto.TrimString(e); e != "" && !yield(e) {
				return
			}
		}
	}
}
