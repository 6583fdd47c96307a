package router

import (
	"cmp"
	"slices"
	"strings"

	"kiln/internal/model"
)

// hosts is the routing of one listener: by host, then by path. The most
// specific wins: an exact host before a wildcard before any; among the paths
// of a host the longest prefix. A host whose paths do not fit leaves the
// request to the next less specific one.
type hosts struct {
	exact      map[string]prefixes
	wildcard   map[string]prefixes // by what follows "*."
	any        prefixes
	introduced bool     // connections begin with a PROXY header
	certs      *chooser // nil: no TLS
}

// prefixes are the paths of one host, longest first.
type prefixes []prefix

type prefix struct {
	path    string // "" or "/a/b", without a slash at its end
	service *service
}

func newHosts() *hosts {
	return &hosts{exact: map[string]prefixes{}, wildcard: map[string]prefixes{}}
}

func (h *hosts) add(host, path string, svc *service) {
	p := prefix{normalizePrefix(path), svc}
	host = normalizeHost(host)
	if host == "" {
		h.any = h.any.with(p)
	} else if parent, ok := strings.CutPrefix(host, "*."); ok {
		h.wildcard[parent] = h.wildcard[parent].with(p)
	} else {
		h.exact[host] = h.exact[host].with(p)
	}
}

// with returns the prefixes and p, longest first.
func (ps prefixes) with(p prefix) prefixes {
	if slices.ContainsFunc(ps, func(o prefix) bool { return o.path == p.path }) {
		return ps
	}
	ps = append(slices.Clone(ps), p)
	slices.SortStableFunc(ps, func(a, b prefix) int { return cmp.Compare(len(b.path), len(a.path)) })
	return ps
}

// lookup returns the service for the host and path, or nil.
func (h *hosts) lookup(host, path string) *service {
	if len(h.exact) > 0 || len(h.wildcard) > 0 {
		host = normalizeHost(host)
		if svc := h.exact[host].lookup(path); svc != nil {
			return svc
		}
		if label, parent, ok := strings.Cut(host, "."); ok && label != "" {
			if svc := h.wildcard[parent].lookup(path); svc != nil {
				return svc
			}
		}
	}
	return h.any.lookup(path)
}

// bytes returns the service that takes plain bytes here, or nil: then the
// listener speaks HTTP. checkTable sees to it that there is no third case.
func (h *hosts) bytes() *service {
	for _, ps := range h.exact {
		if svc := ps.bytes(); svc != nil {
			return svc
		}
	}
	for _, ps := range h.wildcard {
		if svc := ps.bytes(); svc != nil {
			return svc
		}
	}
	return h.any.bytes()
}

func (ps prefixes) bytes() *service {
	for _, p := range ps {
		if p.service.protocol == model.TCP {
			return p.service
		}
	}
	return nil
}

func (ps prefixes) lookup(path string) *service {
	for i := range ps {
		if p := ps[i].path; strings.HasPrefix(path, p) && (len(path) == len(p) || path[len(p)] == '/' || p == "") {
			return ps[i].service
		}
	}
	return nil
}

// normalizePrefix drops what does not distinguish two prefixes of whole
// segments: a slash at the end, a missing one at the beginning.
func normalizePrefix(path string) string {
	path = strings.Trim(path, "/")
	if path == "" {
		return ""
	}
	return "/" + path
}

// normalizeHost returns the host of a Host header in lower case, without port
// and without the dot of a fully qualified name. It allocates only when there
// is something to change to lower case.
func normalizeHost(host string) string {
	if strings.HasPrefix(host, "[") {
		if i := strings.IndexByte(host, ']'); i > 0 {
			host = host[1:i]
		}
	} else if i := strings.IndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i+1:], ':') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
