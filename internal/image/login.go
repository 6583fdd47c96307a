package image

import (
	"os"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"

	"kiln/internal/model"
)

// Logins returns the credentials that a file in the form of docker's config.json has,
// and where it has none those of the user that runs kiln. path "": these alone.
//
// Invalid: it cannot be read, or others may read it.
func Logins(path string) (authn.Keychain, error) {
	if path == "" {
		return authn.DefaultKeychain, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read the logins of registries: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o007 != 0 {
		return nil, model.Errorf(model.Invalid, "others may read the logins of registries in %s (its mode is %#o)", path, info.Mode().Perm()).
			WithHint("chmod 600 %s", path)
	}
	file, err := config.LoadFromReader(f)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read the logins of registries in %s: %w", path, err).
			WithHint("it has to be as docker login writes it: {\"auths\": {\"registry.example.com\": {\"auth\": \"…\"}}}")
	}
	return authn.NewMultiKeychain(logins{file}, authn.DefaultKeychain), nil
}

type logins struct{ file *configfile.ConfigFile }

// Resolve implements authn.Keychain.
func (l logins) Resolve(of authn.Resource) (authn.Authenticator, error) {
	for _, key := range []string{of.String(), of.RegistryStr()} {
		cfg, err := l.file.GetAuthConfig(key)
		if err != nil {
			return nil, err
		}
		cfg.ServerAddress = ""
		if cfg != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: cfg.Username, Password: cfg.Password, Auth: cfg.Auth, IdentityToken: cfg.IdentityToken, RegistryToken: cfg.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}
