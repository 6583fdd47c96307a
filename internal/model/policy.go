package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

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
}

// Route sends what arrives at a listener, for a host and below a path, to the
// service.
type Route struct {
	Listen string `json:"listen"`         // ":80", "127.0.0.1:8080"
	Host   string `json:"host,omitempty"` // "": any; "*.example.com": one label
	Path   string `json:"path,omitempty"` // prefix of whole segments; "": everything
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

// BlueGreen proves the whole new set before any traffic reaches it.
const BlueGreen Strategy = "blue-green"

// Deploy bounds and shapes a deployment.
type Deploy struct {
	Strategy       Strategy `json:"strategy"`
	Deadline       Duration `json:"deadline"`        // acceptance to the last acknowledged switch
	KeepWarm       Duration `json:"keep_warm"`       // how long the old set stays ready to take over
	MaxUnavailable int      `json:"max_unavailable"` // ready servers that may be away
	Overlap        bool     `json:"overlap"`         // services without a route: may both sets run at once
	Drain          Drain    `json:"drain"`
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
