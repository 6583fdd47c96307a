package model

import "slices"

// SecretForm is how a server gets a secret.
type SecretForm string

// The forms of secrets.
const (
	SecretFile SecretForm = "file" // SecretsDir/NAME, which only the server's user can read
	SecretEnv  SecretForm = "env"  // an environment variable of the name
)

// SecretsDir is where servers have the secrets that are files.
const SecretsDir = "/run/secrets"

// MaxValue bounds a secret and a configuration file, in bytes.
const MaxValue = 1 << 20

// SecretRef names one version of a secret. Its value is nowhere in the journal.
type SecretRef struct {
	Name    string     `json:"name"`
	As      SecretForm `json:"as"`
	Version int        `json:"version"` // counts the values that the service's secret has had, from 1
	// Digest tells values apart: it is keyed, and whoever has not got the key
	// learns nothing of the value from it.
	Digest string `json:"digest"`
}

// ConfigRef names a configuration file of servers by its content.
type ConfigRef struct {
	Path   string `json:"path"`
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Values lists the digests of what the template only names: secrets, then
// configuration files.
func (t Template) Values() []string {
	var list []string
	for _, s := range t.Secrets {
		list = append(list, s.Digest)
	}
	for _, c := range t.Config {
		list = append(list, string(c.Digest))
	}
	return list
}

// HasSecretFiles reports whether servers of the template have files in SecretsDir.
func (t Template) HasSecretFiles() bool {
	return slices.ContainsFunc(t.Secrets, func(s SecretRef) bool { return s.As == SecretFile })
}

// HasSecretEnv reports whether secrets are in the environment of its servers.
func (t Template) HasSecretEnv() bool {
	return slices.ContainsFunc(t.Secrets, func(s SecretRef) bool { return s.As == SecretEnv })
}
