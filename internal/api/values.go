package api

import (
	"context"
	"net/url"
	"time"

	"kiln/internal/model"
)

// PathSecrets lists secrets, never their values.
const PathSecrets = "/v1/secrets" // GET ?service= → Secrets

// Values are what a template only names, as whoever deploys brings it. They are
// in requests alone, never in an answer.
type Values struct {
	Secrets []SecretValue `json:"secrets,omitempty"`
	Config  []ConfigValue `json:"config,omitempty"`
}

// SecretValue is where the value of a secret comes from: exactly one of the
// three.
type SecretValue struct {
	Name  string `json:"name"`
	Value []byte `json:"value,omitempty"` // the value itself
	Age   []byte `json:"age,omitempty"`   // the value, encrypted for the daemon's identity
	Env   string `json:"env,omitempty"`   // a variable of the daemon's environment
}

// ConfigValue is the content of a configuration file.
type ConfigValue struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
}

// Secrets are the secrets of services, by service, name and version, the newest
// version first.
type Secrets struct {
	Secrets []Secret `json:"secrets"`
}

// Secret is one version of a secret.
type Secret struct {
	Service   string           `json:"service"`
	Name      string           `json:"name"`
	As        model.SecretForm `json:"as"`
	Version   int              `json:"version"`
	SetAt     time.Time        `json:"set_at"` // when the first release with it was made
	SetBy     string           `json:"set_by,omitempty"`
	Releases  []int            `json:"releases"`   // that have it
	InService bool             `json:"in_service"` // the release in service does
	Servers   int              `json:"servers"`    // that were given it and are there
	Kept      bool             `json:"kept"`       // its value is kept: a server can be given it
	Missing   string           `json:"missing,omitempty"`
}

// Secrets asks for the secrets of a service; "": of all.
func (c *Client) Secrets(ctx context.Context, service string) (*Secrets, error) {
	query := url.Values{}
	if service != "" {
		query.Set("service", service)
	}
	return get[Secrets](ctx, c, PathSecrets, query)
}
