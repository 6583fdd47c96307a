package builder

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"kiln/internal/image"
)

const (
	hubHost      = "docker.io"
	dialDeadline = 10 * time.Second
)

// onHub reports whether a full name has no registry of its own.
func onHub(name string) bool {
	full, err := image.Normalize(name)
	return err == nil && strings.HasPrefix(full, hubHost+"/")
}

// registryHosts says where base images are asked for that kiln does not have.
// A name without a registry is only looked for here: kiln asks nobody whom the
// Containerfile does not name. Registries on the loopback interface are spoken
// to without TLS.
func registryHosts(n *netns) docker.RegistryHosts {
	transport := &http.Transport{
		DialContext:         n.dialHost,
		TLSHandshakeTimeout: dialDeadline,
		IdleConnTimeout:     30 * time.Second,
		ForceAttemptHTTP2:   true,
		Proxy:               http.ProxyFromEnvironment,
	}
	configured := docker.ConfigureDefaultRegistries(
		docker.WithClient(&http.Client{Transport: transport}),
		docker.WithPlainHTTP(docker.MatchLocalhost),
	)
	return func(host string) ([]docker.RegistryHost, error) {
		if host == hubHost {
			return nil, nil
		}
		return configured(host)
	}
}

// dialHost connects from the host's network namespace. It is for registries,
// which may be anywhere; the steps of a build have no way to it.
func (n *netns) dialHost(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialDeadline)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	resolver := &net.Resolver{PreferGo: true, Dial: n.dialLiteral}
	ips, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	for _, ip := range ips {
		conn, err = n.dialLiteral(ctx, network, net.JoinHostPort(ip.Unmap().String(), port))
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// dialLiteral connects to an IP address: its socket is made by the thread that
// asks for it, and so in the host's namespace.
func (n *netns) dialLiteral(ctx context.Context, network, address string) (conn net.Conn, err error) {
	failed := n.inHost(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, failed
}
