package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Protocol is what a service speaks on its port.
type Protocol string

// The protocols of a service's port.
const (
	HTTP Protocol = "http" // HTTP/1.1, WebSocket, event streams
	H2C  Protocol = "h2c"  // cleartext HTTP/2, gRPC
	TCP  Protocol = "tcp"  // bytes
)

// Template is everything that makes a server what it is. Two servers with the
// same template are interchangeable; a change of any field means new servers.
type Template struct {
	Service    string            `json:"service"`
	Image      Digest            `json:"image"`
	Entrypoint []string          `json:"entrypoint,omitempty"` // empty: the image's
	Command    []string          `json:"command,omitempty"`    // empty: the image's
	User       string            `json:"user,omitempty"`       // empty: the image's
	Env        map[string]string `json:"env,omitempty"`        // over the image's
	Port       int               `json:"port,omitempty"`       // 0: serves no port
	Protocol   Protocol          `json:"protocol,omitempty"`
	Resources  Resources         `json:"resources"`
	Ephemeral  []Ephemeral       `json:"ephemeral,omitempty"`
	// Connects are the services that its servers reach by name: "db" is db.kiln.
	Connects []string `json:"connects,omitempty"`
	// Environment is where its servers run. Those that connect to db-staging there
	// reach it as db.kiln, too.
	Environment string `json:"environment,omitempty"`
	// ProxyProtocol is the version of the PROXY header that every connection to
	// its servers begins with (tcp only); 0: none.
	ProxyProtocol int `json:"proxy_protocol,omitempty"`
	// UserNamespace says that root in a server is nobody on the host.
	UserNamespace bool `json:"user_namespace,omitempty"`
	// Volumes are what its servers keep beyond their end.
	Volumes []Mount `json:"volumes,omitempty"`
	// Secrets and Config are what its servers are given beside the image, by
	// version and by content: by name, and by path.
	Secrets []SecretRef `json:"secrets,omitempty"`
	Config  []ConfigRef `json:"config,omitempty"`
}

// Resources bound what one server may use. Zero means no bound.
type Resources struct {
	Memory int64 `json:"memory,omitempty"` // bytes
	CPU    int64 `json:"cpu,omitempty"`    // thousandths of a core
	PIDs   int64 `json:"pids,omitempty"`   // processes and threads
}

// Ephemeral is a writable place that lives and dies with its server (tmpfs).
type Ephemeral struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes
}

// Hash identifies the template's content: the SHA-256 of its JSON, in
// hexadecimal. Field order is fixed and map keys are sorted by encoding/json.
func (t Template) Hash() string {
	b, err := json.Marshal(t)
	if err != nil { // no field of a Template can fail to marshal
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
