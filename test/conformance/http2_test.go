package conformance_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/router"
	"kiln/test/authority"
)

// selfSigned writes a certificate for the names and its key.
func selfSigned(t testing.TB, names ...string) model.TLS {
	t.Helper()
	dir := t.TempDir()
	files := model.TLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// h2specExceptions are cases of h2spec that the router is not to pass, and why.
var h2specExceptions = map[string]string{
	"1: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "net/http ends a connection whose SETTINGS frame names one setting twice, " +
		"which no client does: it takes it for an attack",
	"1: Sends a HEADERS frame that contains the connection-specific header field": "refused by an answer 400, which RFC 9113, 8.1.1 allows " +
		"before the stream is ended",
	`2: Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`: "likewise an answer 400",
}

// clearTextExceptions are those where the first bytes tell the versions apart.
var clearTextExceptions = map[string]string{
	"2: Sends invalid connection preface": "on a clear text listener what is not HTTP/2's preface is HTTP/1.1, and answered 400 as such",
}

func TestH2spec(t *testing.T) {
	h2spec, err := authority.Build(t.Context(), repository(t), t.TempDir(), "github.com/summerwind/h2spec/cmd/h2spec")
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{"TLS", "clear text"} {
		for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
			if !*all && (by != "TLS" || protocol != model.HTTP) {
				continue
			}
			t.Run(by+" to "+string(protocol), func(t *testing.T) {
				r := startRouter(t, router.Limits{})
				route := model.Route{Listen: freeAddress(t)}
				args := []string{"-h", "127.0.0.1", "-p", portOf(t, route.Listen), "-o", "3"}
				if by == "TLS" {
					route.TLS = selfSigned(t, "shop.test")
					args = append(args, "-t", "-k")
				}
				r.apply(model.TableService{
					Name: "shop", Release: 1, Protocol: protocol, Routes: []model.Route{route},
					Backends: []model.Upstream{backend(t, "shop-aaaaaa", http.HandlerFunc(hello))},
				})
				out, err := exec.CommandContext(t.Context(), h2spec, args...).CombinedOutput()
				excepted := maps.Clone(h2specExceptions)
				if by == "clear text" {
					maps.Copy(excepted, clearTextExceptions)
				}
				judgeH2spec(t, string(out), err, excepted)
			})
		}
	}
}

var (
	h2specFailure = regexp.MustCompile(`(?m)^\s+× (.*)$`)
	h2specSummary = regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`)
)

// judgeH2spec fails on every case that failed and is no known exception.
func judgeH2spec(t *testing.T, out string, err error, excepted map[string]string) {
	t.Helper()
	summary := h2specSummary.FindStringSubmatch(out)
	if summary == nil {
		t.Fatalf("h2spec: %v\n%s", err, out)
	}
	t.Log(summary[0])
	_, failures, _ := strings.Cut(out, "Failures:")
	for _, m := range h2specFailure.FindAllStringSubmatch(failures, -1) {
		if why, ok := excepted[m[1]]; ok {
			t.Logf("excepted: %s: %s", m[1], why)
			continue
		}
		t.Errorf("failed: %s", m[1])
	}
	if t.Failed() {
		t.Log(failures)
	}
}
