package conformance_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/router"
	"kiln/test/authority"
)

func startAuthority(t testing.TB, cfg authority.Config) *authority.Authority {
	t.Helper()
	cfg.Repository, cfg.Dir = repository(t), t.TempDir()
	a, err := authority.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the authority:\n%s", a.Output())
		}
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// shown returns the certificate that the address shows for the name, if it is
// one of the authority's.
func shown(a *authority.Authority, address, name string) (*x509.Certificate, error) {
	pem, err := os.ReadFile(a.Issuers)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, RootCAs: pool})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func TestCertificateComesByEachChallenge(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			secure, plain := freeAddress(t), freeAddress(t)
			cfg := authority.Config{HTTPPort: portOf(t, plain)}
			if challenge == "tls-alpn-01" {
				cfg = authority.Config{TLSPort: portOf(t, secure)}
			}
			a := startAuthority(t, cfg)
			r := startRouter(t, router.Limits{})
			svc := model.TableService{
				Name: "shop", Release: 1, Protocol: model.HTTP,
				Routes: []model.Route{{
					Listen: secure, Host: "shop.example.com",
					TLS: model.TLS{ACME: model.ACME{Directory: a.Directory, Roots: a.Roots, Email: "ops@example.com"}},
				}},
				Backends: []model.Upstream{backend(t, "shop-aaaaaa", http.HandlerFunc(hello))},
			}
			if challenge == "http-01" {
				svc.Routes = append(svc.Routes, model.Route{Listen: plain, Host: "shop.example.com", Redirect: "https"})
			}
			r.apply(svc)
			var cert *x509.Certificate
			eventually(t, 90*time.Second, "a certificate comes", func() (err error) {
				cert, err = shown(a, secure, "shop.example.com")
				return err
			})
			if !strings.Contains(cert.Issuer.CommonName, "Pebble") {
				t.Errorf("the issuer is %s", cert.Issuer)
			}
			checkPrivate(t, filepath.Join(r.data, "certificates"))
		})
	}
}

// A router that starts again shows the certificate on disk; it asks nobody.
func TestCertificateOutlivesTheRouter(t *testing.T) {
	secure := freeAddress(t)
	a := startAuthority(t, authority.Config{TLSPort: portOf(t, secure)})
	r := startRouter(t, router.Limits{})
	r.apply(model.TableService{
		Name: "shop", Release: 1, Protocol: model.HTTP,
		Routes: []model.Route{{
			Listen: secure, Host: "shop.example.com",
			TLS: model.TLS{ACME: model.ACME{Directory: a.Directory, Roots: a.Roots}},
		}},
		Backends: []model.Upstream{backend(t, "shop-aaaaaa", http.HandlerFunc(hello))},
	})
	eventually(t, 30*time.Second, "a certificate comes", func() error {
		_, err := shown(a, secure, "shop.example.com")
		return err
	})
	r.stop()
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	if _, err := shown(a, secure, "shop.example.com"); err != nil {
		t.Errorf("the first handshake after the start: %v", err)
	}
}

// checkPrivate checks that nobody but the owner can read what is below dir.
func checkPrivate(t testing.TB, dir string) {
	t.Helper()
	keys := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a lock that was given back meanwhile
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		if info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s: %s", path, info.Mode())
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if keys == 0 {
		t.Errorf("there is no key below %s", dir)
	}
}

// A certificate is renewed in the background.
func TestCertificateIsRenewedBeforeItEnds(t *testing.T) {
	const validity = 24 * time.Second
	secure := freeAddress(t)
	a := startAuthority(t, authority.Config{TLSPort: portOf(t, secure), Validity: validity})
	r := startRouter(t, router.Limits{RenewalCheck: time.Second})
	r.apply(model.TableService{
		Name: "shop", Release: 1, Protocol: model.HTTP,
		Routes: []model.Route{{
			Listen: secure, Host: "shop.example.com",
			TLS: model.TLS{ACME: model.ACME{Directory: a.Directory, Roots: a.Roots}},
		}},
		Backends: []model.Upstream{backend(t, "shop-aaaaaa", http.HandlerFunc(hello))},
	})
	var first *x509.Certificate
	eventually(t, 30*time.Second, "a certificate comes", func() (err error) {
		first, err = shown(a, secure, "shop.example.com")
		return err
	})
	eventually(t, validity, "another one comes in its place, before it ends", func() error {
		next, err := shown(a, secure, "shop.example.com")
		if err == nil && next.SerialNumber.Cmp(first.SerialNumber) == 0 {
			return errors.New("it is the same one")
		}
		return err
	})
}
