package leaks

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSecretNames(t *testing.T) {
	for _, name := range []string{
		"TOKEN", "GITHUB_TOKEN", "NOMAD_TOKEN", "USER_PASSWORD", "KEYCLOAK_ADMIN_PASSWORD", "PGPASSWORD", "db-passwd", "DB_PASS", "DB_PWD", "SECRET_KEY_BASE", "AWS_SECRET_ACCESS_KEY", "API_KEYS",
		"apiKey", "STRIPE_APIKEY", "GOOGLE_CREDENTIALS", "SSH_PRIVATE_KEY", "BASIC_AUTH", "APP_KEY", "client-secret", "com.example.token", "password", "REGISTRY_AUTH_TOKEN", "UNMASKED_TOKEN",
	} {
		if !secretName(name) {
			t.Errorf("%s is no secret", name)
		}
	}
	for _, name := range []string{
		"", "PATH", "PWD", "OLDPWD", "KEYBOARD", "MONKEY", "GPG_KEY", "AUTHOR", "COMPASS", "MAX_TOKENS", "EOS_TOKEN", "NEXT_PUBLIC_API_KEY", "DB_PASSWORD_FILE", "TOKEN_URL", "PASSWORD_MIN_LENGTH",
		"SSH_AUTH_SOCK", "PYTHON_GET_PIP_SHA256", "CACHE_KEY", "FORGOT_PASSWORD",
	} {
		if secretName(name) {
			t.Errorf("%s is a secret", name)
		}
	}
}

func TestOpens(t *testing.T) {
	for _, value := range []string{"abc123xyz", "myPassw0rd1", "!Passw0rd", "%x9Kk2", "(lala)99", "postgres", "hunter2", "addis-abeba7", "$ecret99!", "http://bob:hunter2@x/", "12345678", "correct horse battery", "[not closed"} {
		if !opens(value) {
			t.Errorf("%q opens nothing", value)
		}
	}
	for _, value := range []string{
		"", "abc", "${TOKEN}", "$TOKEN", "$(cat x)", "<token>", "{{ .Token }}", "{abc=}", "%TOKEN%", "%(token)s", "[redacted]", "your-token", "yourtoken", "my-token", "a_token_here", "changeme", "xxxxxxxx", "********",
		"true", "none", "test", "/run/secrets/x", "/a/path", "https://example.com/token", "vault:kv/x", "op://vault/x", "an-example-of-one",
	} {
		if opens(value) {
			t.Errorf("%q opens something", value)
		}
	}
}

// TestMatcher holds the one pass to what each literal alone says.
func TestMatcher(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		literals := rapid.SliceOfN(rapid.StringMatching(`[ab_]{4,7}`), 1, 5).Draw(t, "literals")
		data := []byte(rapid.StringMatching(`[ab_]{0,60}`).Draw(t, "data"))
		m := newMatcher()
		var want, got [][2]int
		for id, l := range literals {
			m.add(l, id)
			for at := range data {
				if bytes.HasPrefix(data[at:], []byte(l)) {
					want = append(want, [2]int{id, at})
				}
			}
		}
		m.find(data, func(id, at int) { got = append(got, [2]int{id, at}) })
		order := func(a, b [2]int) int { return slices.Compare(a[:], b[:]) }
		slices.SortFunc(got, order)
		slices.SortFunc(want, order)
		if !slices.Equal(got, want) {
			t.Fatalf("%q in %q: %v, want %v", literals, data, got, want)
		}
	})
}
