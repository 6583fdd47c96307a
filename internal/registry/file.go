package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"             // auth: htpasswd
	_ "github.com/distribution/distribution/v3/registry/auth/token"                // auth: token
	_ "github.com/distribution/distribution/v3/registry/storage/driver/azure"      // storage: azure
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // storage: filesystem
	_ "github.com/distribution/distribution/v3/registry/storage/driver/gcs"        // storage: gcs
	_ "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"     // storage: s3
	"go.yaml.in/yaml/v2"

	"kiln/internal/model"
)

// File is a registry's configuration as an operator writes it, in the format of
// distribution (https://distribution.github.io/distribution/about/configuration/).
// Of that format storage, http.addr, http.tls (certificate, key) and auth mean
// something here.
type File struct {
	configuration.Configuration
	// Push says that others may change what is there:
	// storage.maintenance.readonly.enabled is written, and false.
	Push bool
}

// ReadFile reads a configuration; nil: there is no such file.
//
// Invalid: it cannot be used.
func ReadFile(path string) (*File, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read the registry's configuration: %w", err)
	}
	text, given, err := withStorage(text)
	var c *configuration.Configuration
	if err == nil {
		c, err = configuration.Parse(bytes.NewReader(text))
	}
	if err != nil {
		return nil, model.Errorf(model.Invalid, "%s: %w", path, err).
			WithHint("the format is that of https://distribution.github.io/distribution/about/configuration/")
	}
	f := &File{Configuration: *c, Push: writable(c.Storage)}
	if !given {
		f.Storage = nil
	}
	switch {
	case c.Proxy.RemoteURL != "":
		err = errors.New("proxy: this registry is no cache of another one")
	case (c.HTTP.TLS.Certificate == "") != (c.HTTP.TLS.Key == ""):
		err = errors.New("http.tls: a certificate and its key belong together")
	case c.HTTP.Prefix != "" && c.HTTP.Prefix != "/":
		err = errors.New("http.prefix: the registry is served at /v2/")
	case len(c.HTTP.TLS.ClientCAs) > 0 || c.HTTP.TLS.ClientAuth != "" || c.HTTP.TLS.LetsEncrypt.CacheFile != "" || len(c.HTTP.TLS.LetsEncrypt.Hosts) > 0 ||
		c.HTTP.TLS.MinimumTLS != "" || len(c.HTTP.TLS.CipherSuites) > 0:
		err = errors.New("http.tls: only certificate and key are read here; what is left out would not protect anybody")
	case c.HTTP.Net != "" && c.HTTP.Net != "tcp":
		err = errors.New("http.net: the registry is served on TCP, and on the daemon's socket")
	case c.Auth.Type() == "silly":
		err = errors.New("auth: silly is for tests of distribution")
	}
	if err != nil {
		return nil, model.Errorf(model.Invalid, "%s: %w", path, err)
	}
	return f, nil
}

// withStorage names a storage where the configuration names none, which
// distribution insists on, and reports whether it did name one.
func withStorage(text []byte) (whole []byte, given bool, err error) {
	var all map[string]any
	if err := yaml.Unmarshal(text, &all); err != nil {
		return nil, false, err
	}
	storage := map[any]any{}
	switch said := all["storage"].(type) {
	case nil:
	case map[any]any:
		storage = said
	default:
		return text, true, nil // distribution judges it
	}
	for key := range storage {
		switch key {
		case "maintenance", "cache", "delete", "redirect", "tag":
		default:
			return text, true, nil
		}
	}
	storage["filesystem"] = map[any]any{}
	if all == nil {
		all = map[string]any{}
	}
	all["storage"] = storage
	whole, err = yaml.Marshal(all)
	return whole, false, err
}

// writable reports whether the configuration says in so many words that the
// registry is not read-only.
func writable(s configuration.Storage) bool {
	readonly, _ := s["maintenance"]["readonly"].(map[any]any)
	enabled, said := readonly["enabled"].(bool)
	return said && !enabled
}

// Address is where others are served; "": nowhere.
func (f *File) Address() string { return f.HTTP.Addr }

// Listen binds the address at which others are served.
//
// Unavailable: it cannot be had. Invalid: the certificate cannot be used.
func (r *Registry) Listen(ctx context.Context) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.file.Address())
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot serve the registry at %s: %w", r.file.Address(), err)
	}
	t := r.file.HTTP.TLS
	if t.Certificate == "" {
		return l, nil
	}
	pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		_ = l.Close()
		return nil, model.Errorf(model.Invalid, "cannot serve the registry with certificate %s: %w", t.Certificate, err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}), nil
}
