package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// MaxServers is how many servers a service may have.
const MaxServers = 1000

// Policy is how a release is run and replaced. A release that differs from the
// one in service by its policy only replaces no server.
type Policy struct {
	Servers     int          `json:"servers"`
	Routes      []Route      `json:"routes,omitempty"`
	Health      Health       `json:"health"`
	Validations []Validation `json:"validations,omitempty"`
	Deploy      Deploy       `json:"deploy"`
	StopSignal  string       `json:"stop_signal,omitempty"` // empty: the image's, else SIGTERM
	StopGrace   Duration     `json:"stop_grace"`            // from the signal to SIGKILL
	Image       *ImagePolicy `json:"image,omitempty"`       // what its image has to be; nil: nothing is asked
	Upkeep
}

// Route sends what arrives at a listener, for a host and below a path, to the
// service.
type Route struct {
	Listen string `json:"listen"`         // ":80", "127.0.0.1:8080"
	Host   string `json:"host,omitempty"` // "": any; "*.example.com": one label
	Path   string `json:"path,omitempty"` // prefix of whole segments; "": everything
	// TLS says by which certificate the route is served; its zero value: none,
	// the route speaks plain HTTP. Routes of one listener either all have one or
	// none has.
	TLS TLS `json:"tls,omitzero"`
	// Redirect answers 308 instead of asking a server: "https" for the same URL
	// under https, or the scheme and host (and port) that it begins with instead.
	Redirect string `json:"redirect,omitempty"`
	// ProxyProtocol says that clients' connections to the listener begin with a
	// PROXY header (version 1 or 2), as written by a load balancer before it.
	ProxyProtocol bool `json:"proxy_protocol,omitempty"`
}

// TLS names the certificate of a route: files on the machine, read again when
// they change, or one that is had by ACME. Neither key nor certificate is ever
// in the journal.
type TLS struct {
	Cert string `json:"cert,omitempty"` // PEM file: the certificate and its chain
	Key  string `json:"key,omitempty"`  // PEM file
	ACME ACME   `json:"acme,omitzero"`
}

// ACME asks a certificate authority (RFC 8555) for the certificate of the
// route's host, by HTTP-01 or TLS-ALPN-01.
type ACME struct {
	Directory string `json:"directory"`       // URL; Let's Encrypt's by default
	Email     string `json:"email,omitempty"` // of the account
	Roots     string `json:"roots,omitempty"` // PEM file: authorities by which the directory itself is trusted, beside the system's
}

// Enabled reports whether the route is served by TLS.
func (t TLS) Enabled() bool { return t != TLS{} }

// SameKey reports whether two routes take the same requests.
func (r Route) SameKey(o Route) bool {
	return r.Listen == o.Listen && r.Host == o.Host && r.Path == o.Path
}

// CheckKind says by what means a health check or a validation looks.
type CheckKind string

// The kinds of checks.
const (
	CheckNone CheckKind = "none" // the process runs; nothing else is asked
	CheckHTTP CheckKind = "http"
	CheckTCP  CheckKind = "tcp"
	CheckExec CheckKind = "exec"
)

// Health decides when a server is fit for traffic.
type Health struct {
	Kind     CheckKind `json:"kind"`
	Path     string    `json:"path,omitempty"`    // http
	Port     int       `json:"port,omitempty"`    // 0: the template's
	Command  []string  `json:"command,omitempty"` // exec
	Interval Duration  `json:"interval"`
	Timeout  Duration  `json:"timeout"`
	Passes   int       `json:"passes"` // in a row, until healthy
	Fails    int       `json:"fails"`  // in a row, until unhealthy
	Grace    Duration  `json:"grace"`  // from the start until it must be healthy; also how long it may be unhealthy before it is replaced
}

// Validation is asked once of every new server, before it gets traffic.
type Validation struct {
	Name     string            `json:"name"`
	Kind     CheckKind         `json:"kind"`
	Path     string            `json:"path,omitempty"`
	Port     int               `json:"port,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`  // that the answer must carry
	Status   int               `json:"status,omitempty"`   // 0: any 2xx
	Contains string            `json:"contains,omitempty"` // in the body
	Matches  string            `json:"matches,omitempty"`  // regular expression (RE2) over the body
	Command  []string          `json:"command,omitempty"`
	Timeout  Duration          `json:"timeout"`
}

// Strategy is how a deployment moves from one set of servers to the other.
type Strategy string

// The strategies. Each is a list of stages (Stage); they differ in nothing
// else.
const (
	BlueGreen Strategy = "blue-green" // the whole new set is proven before any traffic reaches it, then switched to at once
	Rolling   Strategy = "rolling"    // batches of new servers take the places of old ones; the first batch is one server
	Canary    Strategy = "canary"     // a share of the requests goes to the new release, in steps, each held for a time
)

// Deploy bounds and shapes a deployment.
type Deploy struct {
	Strategy       Strategy     `json:"strategy"`
	Deadline       Duration     `json:"deadline"`        // acceptance to the last acknowledged switch
	KeepWarm       Duration     `json:"keep_warm"`       // how long the old set stays ready to take over
	MaxUnavailable Amount       `json:"max_unavailable"` // ready servers that may be away; a percentage is of the count, rounded down
	MaxSurge       Amount       `json:"max_surge"`       // rolling: servers that may run beyond the count; a percentage is rounded up
	Overlap        bool         `json:"overlap"`         // services without a route: may both sets run at once
	Canary         CanaryPolicy `json:"canary,omitzero"` // canary
	Drain          Drain        `json:"drain"`
}

// CanaryPolicy shapes a canary. After the last step everything goes to the new
// release.
type CanaryPolicy struct {
	Steps []CanaryStep `json:"steps"` // by rising weight
	// Cookie names a cookie that keeps a visitor on one side: it holds the
	// visitor's place in 0…99, and whoever is below the weight goes to the new
	// release, so that nobody ever goes back. "": every request is drawn anew.
	Cookie string `json:"cookie,omitempty"`
	// Header names a request header by which one asks for a side: "always" the
	// new release, "never" the old one. "": there is none.
	Header string `json:"header,omitempty"`
}

// CanaryStep is a share of the requests, held for a time.
type CanaryStep struct {
	Weight int      `json:"weight"` // per cent of the requests, 1 to 99
	Hold   Duration `json:"hold"`   // from the acknowledgement to the next step
}

// Drain is how long what is in flight may take to end, by class.
type Drain struct {
	Requests   Duration `json:"requests"`
	Streams    Duration `json:"streams"` // event streams, gRPC, anything open longer than 30 s
	WebSockets Duration `json:"websockets"`
}

// Longest returns the longest of the three.
func (d Drain) Longest() Duration { return max(d.Requests, d.Streams, d.WebSockets) }

// ChecksHash identifies what a server must pass before it gets traffic under
// the policy: the health check and the validations. A server that has passed
// them under one policy needs no new proof under another with the same hash.
func (p Policy) ChecksHash() string {
	b, err := json.Marshal(struct {
		Health      Health
		Validations []Validation `json:",omitempty"`
	}{p.Health, p.Validations})
	if err != nil { // no field of a Policy can fail to marshal
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
