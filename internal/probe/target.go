package probe

import (
	"context"
	"net"
	"reflect"
	"strconv"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Dialer reaches servers over the network. Engines implement it.
type Dialer interface {
	DialServer(ctx context.Context, id model.ServerID, address string) (net.Conn, error)
}

// Execer runs commands in servers. Engines implement it.
type Execer interface {
	Exec(ctx context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error)
}

// Target is a server to look at.
type Target struct {
	Ref      engine.Ref
	Address  string         // IP:port, or IP alone
	Port     int            // of the template; 0: the one in Address
	Protocol model.Protocol // of that port
	Health   model.Health
	// Proven says that the server was healthy before this prober saw it, so
	// that failing makes it unhealthy rather than leaves it unknown.
	Proven bool
}

// sameCheck reports whether a running probe of t can go on for o.
func (t Target) sameCheck(o Target) bool {
	return t.Address == o.Address && t.Port == o.Port && t.Protocol == o.Protocol && reflect.DeepEqual(t.Health, o.Health)
}

// look is one question to a server.
type look struct {
	kind    model.CheckKind
	path    string
	port    int // 0: the target's
	command []string
	timeout time.Duration
}

// endpoint returns the IP:port to ask, "" if there is none.
func (t Target) endpoint(port int) string {
	host, given, err := net.SplitHostPort(t.Address)
	if err != nil {
		host = t.Address
	}
	if port == 0 {
		port = t.Port
	}
	if port != 0 {
		given = strconv.Itoa(port)
	}
	if host == "" || given == "" {
		return ""
	}
	return net.JoinHostPort(host, given)
}

// http2 reports whether the port speaks cleartext HTTP/2 only.
func (t Target) http2(port int) bool {
	return t.Protocol == model.H2C && (port == 0 || port == t.Port)
}
