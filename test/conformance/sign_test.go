package conformance_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // keeps a test's content
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"kiln/internal/contents"
	"kiln/internal/model"
	"kiln/internal/registry"
	"kiln/internal/sign"
)

// cosign is cosign 3, and a place for its files.
type cosign struct {
	testing.TB
	path, dir string
}

// startCosign builds cosign from its module, pinned in test/tools-cosign. What was
// built before takes no time.
func startCosign(t testing.TB) *cosign {
	t.Helper()
	if !*all {
		t.Skip("builds cosign, which takes minutes the first time: make conformance")
	}
	c := &cosign{TB: t, path: filepath.Join(repository(t), "bin", "tools", "cosign"), dir: t.TempDir()}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", c.path, "github.com/sigstore/cosign/v3/cmd/cosign")
	build.Dir = filepath.Join(repository(t), "test", "tools-cosign")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build cosign: %v\n%s", err, out)
	}
	// cosign wants to know whom Sigstore trusts even where a key is given, and would
	// ask Sigstore. This says: nobody. It is what docs/signing.md shows.
	c.write("nobody.json", []byte(`{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	return c
}

func (c *cosign) write(file string, text []byte) {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, file), text, 0o600); err != nil {
		c.Fatal(err)
	}
}

// run runs a command in the directory of its files.
func (c *cosign) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "COSIGN_PASSWORD=secret")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// accepts wants cosign to accept, and to say all the words.
func (c *cosign) accepts(words []string, args ...string) {
	c.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.Errorf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.Errorf("cosign %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// refuses wants cosign to refuse for the reason that the expression matches.
func (c *cosign) refuses(why string, args ...string) {
	c.Helper()
	out, err := c.run(args...)
	if err == nil || !regexp.MustCompile(why).MatchString(out) {
		c.Errorf("cosign %s (%v), want it to refuse because of %q:\n%s", strings.Join(args, " "), err, why, out)
	}
}

// badSignature is how cosign says that a signature does not hold.
const badSignature = "failed to verify signature: .* accepted signatures do not match threshold, Found: 0"

// verify and verifyAttestation are the commands of docs/signing.md.
func verify(key, image string) []string {
	return []string{"verify", "--key", key, "--private-infrastructure", "--trusted-root", "nobody.json", image}
}

func verifyAttestation(key, kind, image string) []string {
	return []string{"verify-attestation", "--key", key, "--type", kind, "--private-infrastructure", "--trusted-root", "nobody.json", image}
}

// theRegistry is a registry with a repository.
type theRegistry struct {
	testing.TB
	repository name.Repository
	dir        string // of its content; "": none
}

// registries calls the test with kiln's registry, and with one that has no referrers
// API.
func registries(t *testing.T, test func(t *testing.T, r *theRegistry)) {
	serve := func(t *testing.T, h http.Handler, dir string) *theRegistry {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		repo, err := name.NewRepository(strings.TrimPrefix(s.URL, "http://") + "/team/shop")
		if err != nil {
			t.Fatal(err)
		}
		return &theRegistry{TB: t, repository: repo, dir: dir}
	}
	t.Run("referrers API", func(t *testing.T) {
		dir := t.TempDir()
		kept, err := registry.Open(t.Context(), registry.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kept.Close() }) // of no interest any more
		test(t, serve(t, kept.Handler(), dir))
	})
	t.Run("tag", func(t *testing.T) {
		c := &configuration.Configuration{Storage: configuration.Storage{"inmemory": nil}}
		c.Log.Level = "error"
		test(t, serve(t, handlers.NewApp(t.Context(), c), ""))
	})
}

// push stores an image under a tag.
func (r *theRegistry) push(tag string) name.Digest {
	r.Helper()
	img, err := random.Image(1000, 2)
	if err != nil {
		r.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		r.Fatal(err)
	}
	if err := remote.Write(r.repository.Tag(tag), img); err != nil {
		r.Fatal(err)
	}
	return r.repository.Digest(d.String())
}

// attach attaches a bundle.
func (r *theRegistry) attach(image name.Digest, bundle []byte, err error) sign.Attachment {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
	a, err := sign.Push(r.Context(), image, bundle, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	return a
}

func digestOf(image name.Digest) digest.Digest { return digest.Digest(image.DigestStr()) }

func newKey(t testing.TB) *sign.PrivateKey {
	t.Helper()
	key, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestCosignVerifies has cosign judge what is signed here.
func TestCosignVerifies(t *testing.T) {
	c := startCosign(t)
	key, stranger := newKey(t), newKey(t)
	c.write("kiln.pub", key.Public().PEM())
	c.write("stranger.pub", stranger.Public().PEM())
	registries(t, func(t *testing.T, r *theRegistry) {
		c := &cosign{TB: t, path: c.path, dir: c.dir}
		image, bare := r.push("1"), r.push("bare")
		bundle, err := key.SignImage(digestOf(image))
		r.attach(image, bundle, err)
		c.accepts([]string{image.DigestStr(), sign.Signature, "verified against the specified public key"}, verify("kiln.pub", image.String())...)
		c.accepts([]string{image.DigestStr()}, verify("kiln.pub", r.repository.Tag("1").String())...)
		c.accepts(nil, verifyAttestation("kiln.pub", sign.Signature, image.String())...)
		c.accepts([]string{image.DigestStr()}, "verify", "--key", "kiln.pub", "--insecure-ignore-tlog=true", "--allow-http-registry", "--trusted-root", "nobody.json", image.String())
		c.refuses("no signatures found", verify("kiln.pub", bare.String())...)
		c.refuses(badSignature, verify("stranger.pub", image.String())...)
		c.refuses("none of the attestations matched the predicate type", verifyAttestation("kiln.pub", "slsaprovenance1", image.String())...)

		provenance, err := sign.Build{
			Type: "https://example.com/kiln/build/v1", Builder: "https://example.com/kiln/aaaaaa",
			Parameters: map[string]any{"containerfile": "Containerfile"},
			Inputs:     []sign.Input{{Name: "base", Digests: []digest.Digest{digestOf(bare)}}},
			Started:    time.Now(), Finished: time.Now(),
		}.Predicate()
		if err != nil {
			t.Fatal(err)
		}
		bill := contents.Bill{Image: model.Digest(image.DigestStr()), Name: "shop", Tool: "test", Inventory: contents.Inventory{
			Packages: []contents.Package{{Name: "hello", Version: "2.10-3", Type: "deb", Path: "var/lib/dpkg/status", PURL: "pkg:deb/debian/hello@2.10-3"}},
		}}
		for _, a := range []struct {
			kind, called string
			predicate    string
		}{
			{sign.Provenance, "slsaprovenance1", string(provenance)},
			{sign.SPDX, "spdxjson", document(t, bill.SPDX)},
			{sign.CycloneDX, "cyclonedx", document(t, bill.CycloneDX)},
			{sign.TestResult, sign.TestResult, `{"result":"PASSED","configuration":[]}`},
			{"https://example.com/approval/v1", "https://example.com/approval/v1", `{"by":"Ann"}`},
		} {
			bundle, err := key.Attest(digestOf(image), a.kind, json.RawMessage(a.predicate))
			r.attach(image, bundle, err)
			statement, _, err := sign.Peek(bundle)
			if err != nil {
				t.Fatal(err)
			}
			if string(statement.Predicate) != a.predicate {
				t.Errorf("%s is %s", a.kind, statement.Predicate)
			}
			shown := base64.StdEncoding.EncodeToString(payloadOf(t, bundle))
			c.accepts([]string{shown}, verifyAttestation("kiln.pub", a.called, image.String())...)
			c.refuses(badSignature, verifyAttestation("stranger.pub", a.called, image.String())...)
		}
	})
}

// document is a list of what is in an image, as a statement has it.
func document(t testing.TB, write func() ([]byte, error)) string {
	t.Helper()
	text, err := write()
	var out bytes.Buffer
	if err == nil {
		err = json.Compact(&out, text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func payloadOf(t testing.TB, bundle []byte) []byte {
	t.Helper()
	var b struct{ DSSEEnvelope struct{ Payload []byte } }
	if err := json.Unmarshal(bundle, &b); err != nil {
		t.Fatal(err)
	}
	return b.DSSEEnvelope.Payload
}

// TestCosignRefuses has cosign judge what is not what it says.
func TestCosignRefuses(t *testing.T) {
	c := startCosign(t)
	key, stranger := newKey(t), newKey(t)
	c.write("kiln.pub", key.Public().PEM())
	registries(t, func(t *testing.T, r *theRegistry) {
		c := &cosign{TB: t, path: c.path, dir: c.dir}
		good, other := r.push("good"), r.push("other")
		bundle, err := key.SignImage(digestOf(good))
		r.attach(good, bundle, err)

		r.attach(other, bundle, nil) // moved over as it is
		c.refuses("digest", verify("kiln.pub", other.String())...)

		renamed := r.push("renamed") // moved over, with the other image's digest in it
		r.attach(renamed, replaced(t, bundle, good.DigestStr(), renamed.DigestStr()), nil)
		c.refuses(badSignature, verify("kiln.pub", renamed.String())...)

		changed := r.push("changed") // a statement that says something else than was signed
		text, err := key.Attest(digestOf(changed), "https://example.com/approval/v1", json.RawMessage(`{"by":"Ann"}`))
		r.attach(changed, replaced(t, text, `"Ann"`, `"Bob"`), err)
		c.refuses(badSignature, verifyAttestation("kiln.pub", "https://example.com/approval/v1", changed.String())...)

		posing := r.push("posing") // another key's, under this one's name
		text, err = stranger.SignImage(digestOf(posing))
		if err != nil {
			t.Fatal(err)
		}
		r.attach(posing, bytes.Replace(text, []byte(hint(stranger)), []byte(hint(key)), 1), nil)
		c.refuses(badSignature, verify("kiln.pub", posing.String())...)

		cut := r.push("cut") // a signature of another length
		text, err = key.SignImage(digestOf(cut))
		r.attach(cut, regexp.MustCompile(`"sig":"[^"]+"`).ReplaceAll(text, []byte(`"sig":"MEUCIQ=="`)), err)
		c.refuses("signature", verify("kiln.pub", cut.String())...)

		for _, image := range []name.Digest{other, renamed, changed, posing, cut} {
			list, err := sign.List(t.Context(), image)
			if err != nil || len(list) != 1 {
				t.Fatalf("attached is %v (%v)", list, err)
			}
			text, err := sign.Fetch(t.Context(), r.repository, list[0])
			if err != nil {
				t.Fatal(err)
			}
			if v, err := sign.Verify(text, []sign.PublicKey{key.Public()}, digestOf(image), ""); !sign.Untrusted(err) {
				t.Errorf("kiln accepts it: %+v (%v)", v, err)
			}
		}
		if r.dir != "" {
			c.refusesWhatIsDamaged(r, good)
		}
	})
}

// TestCosignWithRotatedKeys: what the former key signed is good for who trusts that, and
// what both signed for who trusts either.
func TestCosignWithRotatedKeys(t *testing.T) {
	c := startCosign(t)
	former, present := newKey(t), newKey(t)
	c.write("former.pub", former.Public().PEM())
	c.write("present.pub", present.Public().PEM())
	registries(t, func(t *testing.T, r *theRegistry) {
		c := &cosign{TB: t, path: c.path, dir: c.dir}
		old, both := r.push("old"), r.push("both")
		for image, keys := range map[name.Digest][]*sign.PrivateKey{old: {former}, both: {former, present}} {
			for _, key := range keys {
				bundle, err := key.SignImage(digestOf(image))
				r.attach(image, bundle, err)
			}
		}
		c.accepts([]string{old.DigestStr()}, verify("former.pub", old.String())...)
		c.refuses(badSignature, verify("present.pub", old.String())...)
		c.accepts([]string{both.DigestStr()}, verify("former.pub", both.String())...)
		c.accepts([]string{both.DigestStr()}, verify("present.pub", both.String())...)
	})
}

// refusesWhatIsDamaged changes an accepted bundle on the registry's disk.
func (c *cosign) refusesWhatIsDamaged(r *theRegistry, image name.Digest) {
	c.Helper()
	c.accepts(nil, verify("kiln.pub", image.String())...)
	list, err := sign.List(c.Context(), image)
	if err != nil || len(list) != 1 {
		c.Fatalf("attached is %v (%v)", list, err)
	}
	damaged := 0
	err = filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/blobs/") || !strings.Contains(path, list[0].Bundle.Encoded()) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		damaged++
		return os.WriteFile(path, bytes.Replace(text, []byte(`"sig":"M`), []byte(`"sig":"N`), 1), 0o600)
	})
	if err != nil || damaged == 0 {
		c.Fatalf("%d files were damaged (%v)", damaged, err)
	}
	c.refuses("no signatures found", verify("kiln.pub", image.String())...)
}

// replaced returns the bundle with another payload, and the signature of the old one.
func replaced(t testing.TB, bundle []byte, old, text string) []byte {
	t.Helper()
	payload := payloadOf(t, bundle)
	other := bytes.ReplaceAll(payload, []byte(strings.TrimPrefix(old, "sha256:")), []byte(strings.TrimPrefix(text, "sha256:")))
	if bytes.Equal(payload, other) {
		t.Fatalf("%s does not say %s", payload, old)
	}
	return bytes.Replace(bundle, []byte(base64.StdEncoding.EncodeToString(payload)), []byte(base64.StdEncoding.EncodeToString(other)), 1)
}

// hint is how a bundle names the key.
func hint(key *sign.PrivateKey) string {
	block, _ := pem.Decode(key.Public().PEM())
	sum := sha256.Sum256(block.Bytes)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// TestCosignWithKeysOfEachKind verifies with keys that a user brings along.
func TestCosignWithKeysOfEachKind(t *testing.T) {
	c := startCosign(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	registries(t, func(t *testing.T, r *theRegistry) {
		for _, k := range []struct {
			raw  any
			more []string
		}{{p384, []string{"--signature-digest-algorithm", "sha384"}}, {edwards, nil}, {long, nil}} {
			c := &cosign{TB: t, path: c.path, dir: c.dir}
			der, err := x509.MarshalPKCS8PrivateKey(k.raw)
			if err != nil {
				t.Fatal(err)
			}
			key, err := sign.ParsePrivateKey("the key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
			if err != nil {
				t.Fatal(err)
			}
			c.write("given.pub", key.Public().PEM())
			image := r.push("given")
			bundle, err := key.SignImage(digestOf(image))
			r.attach(image, bundle, err)
			c.accepts([]string{image.DigestStr()}, append(verify("given.pub", image.String()), k.more...)...)
		}
	})
}

// TestCosignSigns has cosign sign, and kiln judge.
func TestCosignSigns(t *testing.T) {
	c := startCosign(t)
	c.accepts(nil, "generate-key-pair")
	text, err := os.ReadFile(filepath.Join(c.dir, "cosign.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ParsePrivateKey("cosign.key", text, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := sign.ReadPublicKey(filepath.Join(c.dir, "cosign.pub"))
	if err != nil || !public.Equal(key.Public()) {
		t.Fatalf("cosign's keys do not belong together: %v", err)
	}
	// cosign takes kiln's key, too, but not with a passphrase.
	own := newKey(t)
	text, err = own.PEM(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.write("kiln.key", text)
	c.accepts(nil, "import-key-pair", "--key", "kiln.key", "--output-key-prefix", "imported")
	if imported, err := sign.ReadPublicKey(filepath.Join(c.dir, "imported.pub")); err != nil || !imported.Equal(own.Public()) {
		t.Errorf("cosign imports another key (%v)", err)
	}
	registries(t, func(t *testing.T, r *theRegistry) {
		c := &cosign{TB: t, path: c.path, dir: c.dir}
		image := r.push("1")
		offline := []string{"--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false"}
		c.write("predicate.json", []byte(`{"by":"Ann"}`))
		c.accepts(nil, append(append([]string{"sign"}, offline...), image.String())...)
		c.accepts(nil, append(append([]string{"attest", "--type", "https://example.com/approval/v1", "--predicate", "predicate.json"}, offline...), image.String())...)
		list, err := sign.List(t.Context(), image)
		if err != nil || len(list) != 2 {
			t.Fatalf("attached is %+v (%v)", list, err)
		}
		for _, a := range list {
			text, err := sign.Fetch(t.Context(), r.repository, a)
			if err != nil {
				t.Fatal(err)
			}
			v, err := sign.Verify(text, []sign.PublicKey{public}, digestOf(image), a.PredicateType)
			if err != nil {
				t.Errorf("%s: %v", a.PredicateType, err)
			}
			if a.PredicateType != sign.Signature {
				if string(v.Statement.Predicate) != `{"by":"Ann"}` {
					t.Errorf("it says %s", v.Statement.Predicate)
				}
				continue
			}
			// But for the signature, which is random, kiln writes the same bytes.
			ours, err := key.SignImage(digestOf(image))
			if err != nil {
				t.Fatal(err)
			}
			random := regexp.MustCompile(`"sig": ?"[^"]+"`)
			var compact bytes.Buffer // cosign's white space is random, too
			if err := json.Compact(&compact, text); err != nil {
				t.Fatal(err)
			}
			if got, want := random.ReplaceAll(ours, nil), random.ReplaceAll(compact.Bytes(), nil); !bytes.Equal(got, want) {
				t.Errorf("kiln writes\n%s\ncosign writes\n%s", got, want)
			}
		}
	})
}
