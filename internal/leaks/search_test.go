package leaks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers/layertest"
)

// keys returns private keys of all forms, by what they are called.
func keys(t testing.TB) map[string]string {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	put := func(name, label string, der []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
	}
	put("rsa", "RSA "+"PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil)
	der, err := x509.MarshalECPrivateKey(e)
	put("ec", "EC "+"PRIVATE KEY", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(ed)
	put("pkcs8", "PRIVATE "+"KEY", der, err)
	block, err := x509.EncryptPEMBlock(rand.Reader, "RSA "+"PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), []byte("x"), x509.PEMCipherAES256) //nolint:staticcheck // that is what old tools write
	if err != nil {
		t.Fatal(err)
	}
	out["encrypted by its header"] = string(pem.EncodeToMemory(block))
	put("openssh", "OPENSSH "+"PRIVATE KEY", append([]byte("openssh-key-v1\x00"), drawn(6, 300, base64s)...), nil)
	put("cosign", "ENCRYPTED SIGSTORE "+"PRIVATE KEY", []byte(`{"kdf":{"name":"scrypt","params":{"N":32768,"r":8,"p":1}}}`), nil)
	put("pgp", "PGP "+"PRIVATE KEY"+" BLOCK", append([]byte{0x95, 0x03, 0x98, 0x04}, []byte(drawn(1, 200, base64s))...), nil)
	out["putty"] = "PuTTY-User-Key-" + "File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 1\n" + drawn(1, 64, base64s) + "\nPrivate-Lines: 1\n" + drawn(2, 64, base64s) + "\nPrivate-MAC: 00\n"
	out["age"] = ageSecret()
	out["minisign"] = "untrusted comment: minisign encrypted " + "secret key\n" + base64.StdEncoding.EncodeToString(append([]byte("EdSc"), []byte(drawn(4, 154, base64s))...)) + "\n"
	out["in json"] = `{"key": "` + strings.ReplaceAll(out["pkcs8"], "\n", `\n`) + `"}`
	out["in kubernetes"] = "  client-key-data: " + base64.StdEncoding.EncodeToString([]byte(out["rsa"])) + "\n"
	out["in a program"] = "key := \"" + strings.ReplaceAll(out["ec"], "\n", "\\n\" +\n\t\"") + "\""
	out["with windows' ends of lines"] = strings.ReplaceAll(out["rsa"], "\n", "\r\n")
	out["on one line"] = "KEY='" + strings.ReplaceAll(strings.TrimSpace(out["rsa"]), "\n", " ") + "'"
	out["indented"] = "key: |\n    " + strings.ReplaceAll(out["rsa"], "\n", "\n    ")
	return out
}

// ageSecret searches the checksum that fits.
func ageSecret() string {
	const charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	head := "age-secret-" + "key-1" + drawn(8, 52, charset)
	// The checksum of BIP 173, as its reference computes it.
	values := []uint32{}
	hrp := head[:strings.LastIndexByte(head, '1')]
	for _, c := range []byte(hrp) {
		values = append(values, uint32(c>>5))
	}
	values = append(values, 0)
	for _, c := range []byte(hrp) {
		values = append(values, uint32(c&31))
	}
	for _, c := range []byte(head[len(hrp)+1:]) {
		values = append(values, uint32(strings.IndexByte(charset, c)))
	}
	sum := uint32(1)
	for _, v := range append(values, 0, 0, 0, 0, 0, 0) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ v
		for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	sum ^= 1
	for i := range 6 {
		head += string(charset[sum>>(5*(5-i))&31])
	}
	return strings.ToUpper(head)
}

func TestPrivateKeys(t *testing.T) {
	for name, key := range keys(t) {
		for _, where := range []string{"srv/data", "usr/lib/x.so"} {
			text := "# first\n" + key + "\nafter\n"
			line := 2
			if where == "usr/lib/x.so" {
				text, line = "\x00\x01"+text, 0
			}
			r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: where, Text: text})), Allowed{})
			if len(r.Findings) != 1 || r.Findings[0].Rule != rulePrivateKey {
				t.Errorf("%s: %v in\n%.300s", name, r.Findings, text)
				continue
			}
			f := r.Findings[0]
			if name != "indented" && f.Line != line || f.Severity != Refuse || f.Path != "/"+where || f.Hint == "" {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

// TestPublishedKeys: what everybody has is no secret.
func TestPublishedKeys(t *testing.T) {
	defer func(before []string) { published = before }(published)
	text := keys(t)["rsa"]
	block, _ := pem.Decode([]byte(text))
	sum := sha256.Sum256(block.Bytes)
	published = append(slices.Clone(published), hex.EncodeToString(sum[:8]))
	if r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "lib.so", Text: text})), Allowed{}); len(r.Findings) > 0 {
		t.Error(r.Findings)
	}
}

func TestNoPrivateKeys(t *testing.T) {
	_, rest, _ := strings.Cut(keys(t)["rsa"], "\n")
	short, _ := pem.Decode([]byte(keys(t)["rsa"]))
	short.Bytes = short.Bytes[:len(short.Bytes)&^7-8]
	for name, text := range map[string]string{
		"a program that reads them":  `if strings.HasPrefix(s, "-----BEGIN RSA ` + `PRIVATE KEY-----") {` + "\n\treturn true\n}\n",
		"a manual":                   "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC...\n-----END " + "PRIVATE KEY-----\n",
		"a key without its first":    rest,
		"a shortened one":            string(pem.EncodeToMemory(short)),
		"a damaged one":              "-----BEGIN RSA " + "PRIVATE KEY-----\n" + drawn(1, 64, base64s) + "\n" + drawn(2, 44, base64s) + "\n-----END RSA " + "PRIVATE KEY-----\n",
		"a certificate":              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(drawn(1, 600, base64s))})),
		"a public key":               string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: append([]byte{0x30, 0x2a}, drawn(1, 42, base64s)...)})),
		"a public pgp key":           "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + drawn(1, 200, base64s) + "\n-----END PGP PUBLIC KEY BLOCK-----\n",
		"an age key that is wrong":   ageSecret()[:60] + "QQQQQQ" + "A\n",
		"age's words":                "AGE-SECRET-KEY-" + "1… is the form",
		"a certificate in a kubecfg": "certificate-authority-data: " + base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(drawn(1, 600, base64s))})),
		"putty's words":              "PuTTY-User-Key-" + "File-2: is the header\n",
	} {
		if r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "srv/data", Text: text})), Allowed{}); len(r.Findings) > 0 {
			t.Errorf("%s: %v", name, r.Findings)
		}
	}
}

// tokens are by rule what each rule has to find.
func tokens() map[string][]string {
	dots := func(parts ...string) string { return strings.Join(parts, ".") }
	return map[string][]string{
		ruleAWS: {
			"AKIA" + drawn(1, 16, base32), "ASIA" + drawn(5, 16, base32[:26]),
			"aws_secret_" + "access_key = " + drawn(3, 40, base64s), `"Secret` + `AccessKey": "` + drawn(4, 40, base64s) + `"`, "AWS_SECRET_" + "ACCESS_KEY=" + drawn(6, 40, base64s),
		},
		ruleGCP:    {`{"type": "service_account", "project_id": "x", "private_key": "-----BEGIN ` + `PRIVATE KEY-----\n` + pkcs8 + `\n-----END ` + `PRIVATE KEY-----\n"}`},
		ruleGitHub: {gitHub("ghp"), plainGitHub(), gitHub("ghs"), gitHub("gho"), "ghu_" + drawn(8, 36, base62), "github_" + "pat_" + drawn(1, 22, base62) + "_" + drawn(2, 59, base62)},
		ruleGitLab: {"glpat-" + drawn(1, 20, base62), "glrt-" + drawn(2, 20, base62), "glpat-" + drawn(3, 27, base62) + ".01.1a2b3c4d5"},
		ruleSlack: {
			"xoxb-" + drawn(1, 12, "123456789") + "-" + drawn(2, 12, "123456789") + "-" + drawn(3, 24, base62),
			"xoxp-" + drawn(1, 12, "123456789") + "-" + drawn(2, 12, "123456789") + "-" + drawn(3, 12, "123456789") + "-" + drawn(4, 32, hexDigits),
			"xapp-1-A" + drawn(1, 10, base32) + "-" + drawn(2, 13, "123456789") + "-" + drawn(5, 64, hexDigits),
			"https://hooks.slack.com/" + "services/T" + drawn(1, 8, base32) + "/B" + drawn(2, 8, base32) + "/" + drawn(5, 24, base62),
		},
		ruleStripe: {"sk_" + "live_" + drawn(1, 24, base62), "rk_" + "live_" + drawn(2, 99, base62), "whsec_" + drawn(3, 32, base62)},
		ruleNPM:    {"npm_" + drawn(1, 36, base62)},
		rulePyPI:   {"pypi-" + base64.RawURLEncoding.EncodeToString([]byte("\x02\x01\x08pypi.org\x02\x24"+drawn(1, 90, base62)))},
		ruleDocker: {"dckr_" + "pat_" + drawn(1, 27, base62), `{"auths": {"registry.example.com": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("bob:"+drawn(1, 14, base62))) + `"}}}`},
		ruleKubernetes: {
			signed(`{"iss":"kubernetes/serviceaccount","sub":"system:serviceaccount:default:x"}`),
			signed(`{"iss":"https://kubernetes.default.svc","kubernetes.io":{"namespace":"default"},"sub":"x"}`),
		},
		ruleAPIKey: {
			"sk-ant-" + "api03-" + drawn(1, 93, base62) + "AA", "sk-proj-" + drawn(1, 40, base62) + "T3Blbk" + "FJ" + drawn(2, 40, base62),
			"dop_" + "v1_" + drawn(1, 64, hexDigits), "hvs." + drawn(1, 95, base62), drawn(1, 14, base62) + dots("", "atlas"+"v1", drawn(2, 67, base62)), "shpat_" + drawn(1, 32, hexDigits),
			"rubygems_" + drawn(1, 48, hexDigits), "glsa_" + drawn(1, 32, base62) + "_" + drawn(2, 8, hexDigits),
			"DefaultEndpointsProtocol=https;AccountName=x;Account" + "Key=" + drawn(1, 86, base64s) + "==;EndpointSuffix=core.windows.net",
		},
		ruleJWT: {signed(`{"iss":"https://login.shop.internal","sub":"7","exp":1893456000}`)},
	}
}

// plainGitHub is a token that nobody would take for one, but for its checksum.
func plainGitHub() string {
	body := strings.Repeat("ab", 15)
	return "ghp_" + body + checksumOf(body)
}

// pkcs8 is the body of an Ed25519 key, made of parts.
var pkcs8 = base64.StdEncoding.EncodeToString(append([]byte{0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20}, []byte(drawn(5, 32, base62))...))

func TestTokens(t *testing.T) {
	for rule, list := range tokens() {
		for i, token := range list {
			for _, around := range []string{"%s", "token: %s\n", "x = '%s'; y", "\"%s\",", "\n\n\n%s\n", "https://host/?k=%s&x"} {
				text := fmt.Sprintf(around, token)
				r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "app/settings.json", Text: text})), Allowed{})
				if len(r.Findings) != 1 || r.Findings[0].Rule != rule {
					t.Errorf("%s %d: %v in %q", rule, i, r.Findings, text)
					continue
				}
				f := r.Findings[0]
				if want := strings.Count(before(text, token), "\n") + 1; f.Line != want {
					t.Errorf("%s %d: line %d, want %d", rule, i, f.Line, want)
				}
				if sum := sha256.Sum256([]byte(text)); f.SHA256 != hex.EncodeToString(sum[:]) {
					t.Errorf("%s %d: sum %s", rule, i, f.SHA256)
				}
			}
		}
	}
}

// TestNothingIsTold: what a report says has no more of a secret than four
// characters.
func TestNothingIsTold(t *testing.T) {
	for rule, list := range tokens() {
		for _, token := range list {
			r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "root/.npmrc", Text: "//r/:_authToken=" + token + "\n"})), Allowed{})
			text, err := json.Marshal(r)
			if err != nil || len(r.Findings) == 0 {
				t.Fatal(err, rule, r)
			}
			// Only the four characters in quotes may be of the secret.
			if shown := quotedIn(r.Findings[0].What); len(shown) > 4 || shown != "" && !strings.Contains(token, shown) {
				t.Errorf("%s: %s tells %q", rule, text, shown)
			}
			for i := 0; i+8 <= len(token); i++ {
				if part := token[i : i+8]; strings.Contains(string(text), part) && !strings.Contains(string(text[bytes.Index(text, []byte(`"hint"`)):]), part) && !strings.Contains("a login to a registry, service account private key", part) {
					t.Errorf("%s: %s tells %q", rule, text, part)
				}
			}
		}
	}
}

func quotedIn(s string) string {
	_, rest, _ := strings.Cut(s, `"`)
	shown, _, _ := strings.Cut(rest, `"`)
	return shown
}

func TestNoTokens(t *testing.T) {
	example := "EXAM" + "PLE"
	for name, text := range map[string]string{
		"AWS's example":             "AKIA" + "IOSFODNN7" + example + "\naws_secret_" + "access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + example + "KEY",
		"GitHub in words":           "ghp_" + strings.Repeat("x", 36) + " ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789",
		"within base64":             drawn(1, 30, base62) + gitHub("ghp"),
		"a longer word":             gitHub("ghp") + "more",
		"npm's functions":           "npm_config_registry npm_package_version_of_this_and_that_one_here_x",
		"Stripe's test key":         "sk_" + "test_" + drawn(1, 24, base62),
		"Slack in words":            "xoxb-your-token-here xoxb-000000000000-000000000000-xxxxxxxxxxxxxxxxxxxxxxxx",
		"docker without a password": `{"auths": {"registry.example.com": {}}, "credsStore": "pass"}`,
		"jwt.io's":                  signed(`{"sub":"1234567890","name":"John Doe","iat":1516239022}`),
		"a token without a claim":   signed(`{}`),
		"signed by nobody":          strings.Replace(signed(`{"sub":"x"}`), base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)), 1),
		"a manual's login":          `{"auths": {"r": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("user:password")) + `"}}}`,
		"unsigned":                  base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"x"}`)) + ".",
		"Azurite's":                 "Account" + "Key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
		"gitlab in words":           "glpat-xxxxxxxxxxxxxxxxxxxx glpat-your-access-token-here",
	} {
		if r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "app/settings.json", Text: text})), Allowed{}); len(r.Findings) > 0 {
			t.Errorf("%s: %v", name, r.Findings)
		}
	}
	// A token that is signed is an example where packages are.
	jwt := tokens()[ruleJWT][0]
	for _, where := range []string{"usr/share/doc/x/README", "usr/local/lib/python3/site-packages/x/tests/token.json", "app/main.go"} {
		if r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: where, Text: jwt})), Allowed{}); len(r.Findings) > 0 {
			t.Errorf("%s: %v", where, r.Findings)
		}
	}
}

func TestCredentialFiles(t *testing.T) {
	secret := drawn(11, 12, base62)
	for _, c := range []struct {
		path, text string
		line       int // 0: no finding
	}{
		{"root/.netrc", "machine x\n login bob\n password " + secret + "\n", 3},
		{"root/.netrc", "machine x login bob password ${PASSWORD}\n", 0},
		{"etc/apt/auth.conf.d/x.conf", "machine x login bob password " + secret, 1},
		{"root/.npmrc", "registry=https://r/\n//r/:_authToken=" + secret + "\n", 2},
		{"root/.npmrc", "//r/:_authToken=${NPM_TOKEN}\n", 0},
		{"root/.npmrc", "fund=false\n", 0},
		{"home/bob/.pypirc", "[pypi]\nusername = bob\npassword = " + secret, 3},
		{"root/.git-credentials", "https://bob:" + secret + "@git.example.com\n", 1},
		{"app/.git/config", "[remote \"origin\"]\n\turl = https://bob:" + secret + "@git.example.com/x\n", 2},
		{"app/.git/config", "[remote \"origin\"]\n\turl = https://git.example.com/x\n", 0},
		{"root/.docker/config.json", `{"auths":{"r":{"identitytoken":"` + secret + `"}}}`, 1},
		{"root/.docker/config.json", `{"credsStore":"x","auths":{"r":{}}}`, 0},
		{"root/.aws/credentials", "[default]\naws_secret_" + "access_key = " + secret, 2},
		{"root/.ssh/id_ed25519", secret, 1},
		{"root/.ssh/id_ed25519.pub", "ssh-ed25519 AAAA", 0},
		{"root/.ssh/known_hosts", "host ssh-ed25519 AAAA", 0},
		{"app/.env", "LOG_LEVEL=info\nDB_PASSWORD=" + secret + "\n", 2},
		{"app/.env.production", "DATABASE_URL=postgres://bob:" + secret + "@db/x\n", 1},
		{"app/.env", "DB_PASSWORD=${DB_PASSWORD}\nDB_PASSWORD_FILE=/run/x\nTOKEN=changeme\nPORT=8080\n", 0},
		{"app/.env.example", "DB_PASSWORD=" + secret, 0},
		{"etc/pip.conf", "[global]\nindex-url = https://bob:" + secret + "@pypi.example.com/simple\n", 2},
		{"etc/pip.conf", "[global]\nindex-url = https://pypi.example.com/simple\n", 0},
		{"root/.m2/settings.xml", "<settings>\n<!-- <password>" + secret + "</password>\n-->\n<password>" + secret + "</password>", 4},
		{"root/.m2/settings.xml", "<!-- <password>" + secret + "</password>\n--><password>${env.PW}</password><password>{" + secret + "=}</password>", 0},
		{"root/.pgpass", "db:5432:shop:bob:" + secret, 1},
		{"root/.kube/config", "users:\n- user:\n    token: " + secret, 3},
		{"root/.cargo/credentials.toml", "[registry]\ntoken = \"" + secret + "\"", 2},
		{"root/.config/gh/hosts.yml", "github.com:\n    oauth_token: " + secret, 2},
		{"run/secrets/db", secret, 1},
		{"etc/shadow", "root:*:19000:0:99999:7:::\nbob:$6$" + secret + "$" + drawn(1, 86, base62) + ":19000:0:99999:7:::\n", 2},
		{"etc/shadow", "root:*:19000:0:99999:7:::\nbin:!:19000::::::\n", 0},
	} {
		r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: c.path, Text: c.text})), Allowed{})
		switch {
		case c.line == 0 && len(r.Findings) > 0:
			t.Errorf("%s: %v in\n%s", c.path, r.Findings, c.text)
		case c.line > 0 && (len(r.Findings) != 1 || r.Findings[0].Line != c.line || !slices.Contains([]string{ruleCredentialFile, ruleDocker}, r.Findings[0].Rule) || r.Findings[0].Severity != Refuse):
			t.Errorf("%s: %v in\n%s", c.path, r.Findings, c.text)
		case c.line > 0 && strings.Contains(r.Findings[0].What, secret[:5]):
			t.Errorf("%s tells %q", c.path, r.Findings[0].What)
		}
	}
}

func TestTraces(t *testing.T) {
	image := layertest.ImageOf(t, layertest.Archive(
		t, layertest.File{Name: "root/.bash_history", Text: "ls\n"}, layertest.File{Name: "root/.python_history"}, layertest.File{Name: "root/.viminfo", Text: "x"},
		layertest.File{Name: "var/cache/apt/archives/lock", Text: ""}, layertest.File{Name: "var/cache/apt/archives/a_1_all.deb", Text: "12345"}, layertest.File{Name: "var/cache/apt/archives/b_1_all.deb", Text: "12345"},
		layertest.File{Name: "var/lib/apt/lists/deb.example.com_dists_x_InRelease", Text: "x"}, layertest.File{Name: "root/.cache/go-build/00/x-d", Text: "x"},
		layertest.File{Name: "home/bob/.cache/thing/x", Text: "x"}, layertest.File{Name: "root/.npm/_cacache/index-v5/x", Text: "x"}, layertest.File{Name: "root/.cache/pip/http/x", Text: "x"},
		layertest.File{Name: "usr/lib/cache/x", Text: "x"}, layertest.File{Name: "app/.cache", Text: "x"},
	))
	r := searchOf(t, image, Allowed{})
	var got []string
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%s %s %s: %s", f.Severity, f.Rule, f.Path, f.What))
	}
	want := []string{
		"refuse shell-history /root/.bash_history: what was typed, 3 bytes",
		"refuse shell-history /root/.viminfo: what was typed, 1 byte",
		"refuse package-cache /var/cache/apt/archives: packages that apt has downloaded: 2 files, 10 bytes",
		"refuse package-cache /var/lib/apt/lists: package lists of apt: 1 file, 1 byte",
		"refuse package-cache /root/.cache/go-build: the build cache of Go: 1 file, 1 byte",
		"warn cache /home/bob/.cache: caches in a home directory: 1 file, 1 byte",
		"refuse package-cache /root/.npm/_cacache: the cache of npm: 1 file, 1 byte",
		"refuse package-cache /root/.cache/pip: the cache of pip: 1 file, 1 byte",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !r.Refused() {
		t.Error("it is not refused")
	}
}

func TestConfiguration(t *testing.T) {
	secret := drawn(12, 20, base62)
	image := layertest.Configured(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "x"}), layertest.Archive(t, layertest.File{Name: "y"})), func(c *v1.ConfigFile) {
		c.Config.Env = []string{
			"PATH=/usr/bin", "DB_PASSWORD=" + secret, "DB_PASSWORD_FILE=/run/secrets/db", "GPG_KEY=" + strings.ToUpper(drawn(1, 40, hexDigits)), "DATABASE_URL=postgres://bob:" + secret + "@db/x",
			"TOKEN=" + gitHub("ghp"), "API_URL=https://api.example.com/token", "MYSQL_ALLOW_EMPTY_PASSWORD=yes", "SECRET_KEY_BASE=dummy", "MAX_TOKENS=4096",
		}
		c.Config.Labels = map[string]string{"org.opencontainers.image.source": "https://git.example.com/x", "com.example.api-key": secret}
		c.Config.Cmd = []string{"/app", "--password=" + secret}
		c.History = []v1.History{
			{CreatedBy: "/bin/sh -c #(nop) ENV BASE_TOKEN=" + secret, EmptyLayer: true},
			{CreatedBy: "RUN of the base"},
			{CreatedBy: "ARG NPM_TOKEN=" + secret, EmptyLayer: true},
			{CreatedBy: "RUN |1 NPM_TOKEN=" + secret + " /bin/sh -c npm ci # buildkit"},
			{CreatedBy: "RUN --mount=type=secret,id=npm_token NPM_TOKEN=$(cat /run/secrets/npm_token) npm ci", EmptyLayer: true},
			{CreatedBy: "RUN git clone https://bob:" + secret + "@git.example.com/x", EmptyLayer: true},
		}
	})
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	// Layers that were searched before are not read again; how they were made is.
	known, err := SearchNew(t.Context(), image, c.RootFS.DiffIDs[:1], len(c.RootFS.DiffIDs), Allowed{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Search(t.Context(), image, c.RootFS.DiffIDs[:1], Allowed{})
	if err != nil {
		t.Fatal(err)
	}
	if len(known.Findings) == 0 || len(known.Findings) != len(r.Findings) {
		t.Errorf("of layers that are known %d findings are left, of new ones %d", len(known.Findings), len(r.Findings))
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, f.Rule+" "+f.Path)
		if strings.Contains(f.What, secret[:5]) || f.Layer != Configuration {
			t.Errorf("%+v", f)
		}
	}
	want := []string{
		"config-secret env:DB_PASSWORD", "config-secret env:DATABASE_URL", "github-token env:TOKEN", "config-secret label:com.example.api-key", "config-secret command",
		"config-secret history:3", "config-secret history:4", "config-secret history:6",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLayers(t *testing.T) {
	key := keys(t)["rsa"]
	image := layertest.ImageOf(
		t,
		layertest.Archive(t, layertest.File{Name: "base/key", Text: key}),
		layertest.Gzip(t, layertest.Archive(t, layertest.File{Name: "a/one", Text: key}, layertest.File{Name: "a/two", Text: key}, layertest.File{Name: "b/three", Text: key}, layertest.File{Name: "c/four", Text: key}, layertest.File{Name: "d", Text: key},
			layertest.File{Name: "var/lib/apt/lists/x", Text: "x"})),
		layertest.Zstd(t, layertest.Archive(t, layertest.File{Name: "a/.wh.one"}, layertest.File{Name: "b/.wh..wh..opq"}, layertest.File{Name: ".wh.c"}, layertest.File{Name: "d", Text: "other"}, layertest.File{Name: "var/lib/apt/lists/.wh.x"})),
		layertest.Archive(t, layertest.File{Name: "a", Kind: '5'}, layertest.File{Name: "e", Text: key}, layertest.File{Name: "f/g", Text: key}, layertest.File{Name: "f/.wh..wh..opq"}, layertest.File{Name: "f/.wh.g"}),
	)
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Search(t.Context(), image, c.RootFS.DiffIDs[:1], Allowed{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%d %s %t", f.Layer, f.Path, f.RemovedLater))
		if string(f.Digest) != manifest.Layers[f.Layer].Digest.String() {
			t.Errorf("%+v", f)
		}
	}
	want := []string{"1 /a/one true", "1 /a/two false", "1 /b/three true", "1 /c/four true", "1 /d true", "1 /var/lib/apt/lists true", "3 /e false", "3 /f/g false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s := r.Findings[0].String(); !strings.Contains(s, "layer 2: /a/one:1: a private key") || !strings.Contains(s, "a later layer removes") {
		t.Error(s)
	}
	// A base that is not this image's is no base.
	r, err = Search(t.Context(), image, c.RootFS.DiffIDs[1:], Allowed{})
	if err != nil || len(r.Findings) != 9 {
		t.Errorf("%v, %v", r.Findings, err)
	}
}

// TestWindows puts secrets across the places where a large file is divided.
func TestWindows(t *testing.T) {
	token, key := gitHub("ghp"), keys(t)["rsa"]
	for _, text := range []string{token, key} {
		for _, at := range []int{windowSize - lookAhead - 3, windowSize - lookAhead, windowSize - 10, windowSize, windowSize + 1, 2*windowSize - lookAhead - 20, 3*windowSize - 7} {
			content := slices.Concat(bytes.Repeat([]byte("0123456789abcde\n"), at/16+1)[:at-1], []byte("\n"+text+"\n"), bytes.Repeat([]byte("0123456789abcde\n"), windowSize/10))
			r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "large", Text: string(content)})), Allowed{})
			want := bytes.Count(content[:at], []byte("\n")) + 1
			if len(r.Findings) != 1 || r.Findings[0].Line != want {
				t.Errorf("at %d: %v, want line %d", at, r.Findings, want)
			}
		}
	}
	// What is before a place is known there, too.
	place := windowSize - lookAhead
	inWord := strings.Repeat("#", place-1) + "x" + token + strings.Repeat("\n", windowSize)
	if r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "large", Text: inWord})), Allowed{}); len(r.Findings) > 0 {
		t.Errorf("in a word: %v", r.Findings)
	}
	account := tokens()[ruleGCP][0]
	account = strings.Repeat("\n", place-strings.Index(account, "-----")) + account + strings.Repeat("\n", windowSize)
	if r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "large", Text: account})), Allowed{}); len(r.Findings) != 1 || r.Findings[0].Rule != ruleGCP {
		t.Errorf("an account: %v", r.Findings)
	}
	// A file of credentials that is too large for that says so.
	r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "app/.env", Text: "A_TOKEN=" + drawn(1, 20, base62) + "\n" + strings.Repeat("#\n", maxWhole/2)})), Allowed{})
	if len(r.Findings) != 1 || len(r.Partial) != 1 || r.Partial[0].Read != maxWhole || r.Partial[0].Size <= maxWhole || r.Partial[0].Path != "/app/.env" {
		t.Errorf("%v, %+v", r.Findings, r.Partial)
	}
}

// TestPackages: the keys that packages test themselves with are everybody's.
func TestPackages(t *testing.T) {
	key := keys(t)["ec"]
	for path, severity := range map[string]Severity{
		"app/node_modules/tls/test/key.pem": Warn, "usr/lib/python3/dist-packages/ecdsa/test_keys.py": Warn, "usr/share/doc/x/examples/key.pem": Warn, "go/pkg/mod/x@v1/y/testdata/key.pem": Warn,
		"app/test/key.pem": Refuse, "usr/lib/app/key.pem": Refuse, "app/node_modules/tls/key.pem": Refuse, "etc/ssl/private/key.pem": Refuse,
	} {
		r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: path, Text: key})), Allowed{})
		if len(r.Findings) != 1 || r.Findings[0].Severity != severity || r.Refused() != (severity == Refuse) {
			t.Errorf("%s: %v", path, r.Findings)
		}
	}
}

func TestManyFindings(t *testing.T) {
	var files []layertest.File
	token := gitHub("ghp")
	for i := range 3000 {
		files = append(files, layertest.File{Name: fmt.Sprint("f", i), Text: token})
	}
	files = append(files, layertest.File{Name: "many", Text: strings.Repeat(token+"\n", 100)})
	r := searchOf(t, layertest.ImageOf(t, layertest.Archive(t, files...)), Allowed{})
	if len(r.Findings) != mostFindings || r.More != 3000-mostFindings+100 || !r.Refused() {
		t.Errorf("%d and %d more", len(r.Findings), r.More)
	}
}
