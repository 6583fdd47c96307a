package evidence

import (
	"context"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func TestSecretNames(t *testing.T) {
	for _, name := range []string{
		"TOKEN", "GITHUB_TOKEN", "githubToken", "DB_PASSWORD", "PGPASSWORD", "db-passwd", "SECRET_KEY_BASE", "AWS_ACCESS_KEY_ID", "API_KEYS",
		"apiKey", "STRIPE_APIKEY", "GOOGLE_CREDENTIALS", "SSH_PRIVATE_KEY", "BASIC_AUTH", "DB_PASS", "DB_PWD", "SESSION_COOKIE", "HASH_SALT",
	} {
		if !secretName(name) {
			t.Errorf("%s is no secret", name)
		}
	}
	for _, name := range []string{"", "PATH", "PWD", "OLDPWD", "LOG_LEVEL", "KEYBOARD", "MONKEY", "AUTHOR", "COMPASS", "BYPASS", "PASSENGERS", "HOME", "TOKYO"} {
		if secretName(name) {
			t.Errorf("%s is a secret", name)
		}
	}
}

func TestRedactText(t *testing.T) {
	r := NewRedactor([]string{
		"PATH=/usr/bin", "API_TOKEN=tok-1234567890", "SHORT_SECRET=abc", "DATABASE_URL=postgres://shop:hunter2hunter2@db/shop",
		"QUOTED_PASSWORD=a\"b\\c-long", "OTHER_TOKEN=tok-1234567890-and-more", "SIGNING_KEY=line one\nline two of it",
	})
	for text, want := range map[string]string{
		"nothing to see": "nothing to see",
		"used tok-1234567890 twice: tok-1234567890":                           "used [redacted] twice: [redacted]",
		"tok-1234567890-and-more":                                             "[redacted]",
		"abc is too short to look for":                                        "abc is too short to look for",
		"login with hunter2hunter2":                                           "login with [redacted]",
		"here is line two of it":                                              "here is [redacted]",
		`{"v":"a\"b\\c-long"}`:                                                `{"v":"[redacted]"}`,
		"GET https://u:pw@host/x and redis://:p@h":                            "GET https://u:[redacted]@host/x and redis://:[redacted]@h",
		"https://host/path?x=a:b@c":                                           "https://host/path?x=a:b@c",
		"Authorization: Bearer abcdef":                                        "Authorization: [redacted]",
		`{"Authorization":"Basic Zm9v","Host":"x"}`:                           `{"Authorization":"[redacted]","Host":"x"}`,
		"proxy-authorization=Basic Zm9vYmFy":                                  "proxy-authorization=[redacted]",
		"authorization failed for bob":                                        "authorization failed for bob",
		"sent Bearer abcdefghijkl, twice":                                     "sent Bearer [redacted], twice",
		"a bearer of news":                                                    "a bearer of news",
		"/app --password=hunter2 --port=80":                                   "/app --password=[redacted] --port=80",
		"DB_PASSWORD='two words' next":                                        "DB_PASSWORD='[redacted]' next",
		`{"password": "p\"q", "user": "bob"}`:                                 `{"password": "[redacted]", "user": "bob"}`,
		"url?token=abc&page=2":                                                "url?token=[redacted]&page=2",
		"cache key=user:42 auth=none":                                         "cache key=user:42 auth=none",
		"note: password":                                                      "note: password",
		"password=":                                                           "password=",
		"x -----BEGIN RSA PRIVATE KEY-----abc-----END RSA PRIVATE KEY----- y": "x [redacted] y",
		"-----BEGIN CERTIFICATE-----":                                         "-----BEGIN CERTIFICATE-----",
		"=:=:\"'":                                                             "=:=:\"'",
	} {
		if got := r.Text(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	if got := (&Redactor{}).Text("tok-1234567890"); got != "tok-1234567890" {
		t.Errorf("without secrets: %q", got)
	}
}

func TestRedactKeysOverLines(t *testing.T) {
	x := NewRedactor(nil).Stream()
	var got []string
	for _, l := range []struct{ stream, text string }{
		{"stdout", "-----BEGIN OPENSSH PRIVATE KEY-----"},
		{"stderr", "another stream goes on"},
		{"stdout", "b3BlbnNzaC1rZXk"},
		{"stdout", "-----END OPENSSH PRIVATE KEY----- after"},
		{"stdout", "and on"},
	} {
		got = append(got, x.Line(l.stream, l.text))
	}
	if diff := cmp.Diff([]string{redacted, "another stream goes on", redacted, redacted + " after", "and on"}, got); diff != "" {
		t.Error(diff)
	}
	// One that never ends does not take everything.
	for range longestKey + 1 {
		x.Line("stdout", "-----BEGIN PRIVATE KEY-----")
	}
	for range longestKey + 1 {
		x.Line("stdout", "x")
	}
	if got := x.Line("stdout", "later"); got != "later" {
		t.Errorf("later it is %q", got)
	}
}

// answers are what others know of a server.
type answers struct{ secret string }

func (a answers) Chain(context.Context, model.ServerID) ([]Event, error) {
	return []Event{{Seq: 7, Hash: "aa", Text: "it said " + a.secret, Event: json.RawMessage(`{"seq":7,"data":{"reason":"` + a.secret + `","api_token":"zz","keys":["a"]}}`)}}, nil
}

func (a answers) Hour(context.Context, model.ServerID) ([]byte, error) {
	return []byte(`{"memory":[1,2]}`), nil
}

// TestNoSecretIsKept looks for a secret in every byte of a whole archive.
func TestNoSecretIsKept(t *testing.T) {
	const secret = "s3cr3t-value-of-it"
	s := open(t, t.TempDir(), Options{
		Logs:    &logs{lines: 10, text: func() string { return "log: " + secret }},
		History: answers{secret}, Metrics: answers{},
	})
	alive, dead := evidenceOf("short log: "+secret), evidenceOf("short log: "+secret)
	alive.Environment = []string{"PATH=/bin", "APP_SECRET=" + secret, "URL=http://x:" + secret + "@y/"}
	alive.Processes = []engine.Process{{PID: 1, Command: "/app --with " + secret}}
	alive.Kernel = []string{"[1] app " + secret, "[2] app"}
	dead.Kernel = []string{"[2] app", "[3] killed"}
	r := record("shop-aaaaaa")
	r.Reason = "its probe said " + secret
	files, err := s.Open(write(t, s, r, alive, dead).Evidence)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	seen := map[string]string{}
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, path)
		seen[path] = string(b)
		if strings.Contains(string(b), secret) {
			t.Errorf("%s holds the secret:\n%s", path, b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string]string{
		recordFile: "its probe said [redacted]", eventsFile: `"seq": 7`, kernelFile: "[1] app [redacted]\n[2] app\n[3] killed\n",
		environFile: "APP_SECRET=[redacted]", processFile: "/app --with [redacted]", changesFile: "/tmp/x", metricsFile: `"memory"`,
		"log/000001.log": "stdout log: [redacted]\n",
	} {
		if !strings.Contains(seen[name], part) {
			t.Errorf("%s does not hold %q:\n%s", name, part, seen[name])
		}
	}
	if strings.Contains(seen[eventsFile], "zz") || !strings.Contains(seen[eventsFile], `"a"`) {
		t.Errorf("events: %s", seen[eventsFile])
	}
	c, err := files.Content(t.Context())
	if err != nil || len(c.Events) != 1 || len(c.Kernel) != 3 || len(c.Log) != 10 || len(c.Metrics) == 0 || c.Environment[0] != "PATH=/bin" {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{"a=b", `"password": "x\`, "://:@", "Authorization: ", "bearer ", "-----BEGIN X PRIVATE KEY-----", "token='"} {
		f.Add(s)
	}
	r := NewRedactor([]string{"A_TOKEN=abcdefgh"})
	f.Fuzz(func(t *testing.T, s string) {
		if got := r.Text(s); strings.Contains(got, "abcdefgh") {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}

func BenchmarkRedactLine(b *testing.B) {
	r := NewRedactor([]string{"A_TOKEN=abcdefghijkl", "DATABASE_URL=postgres://u:passpasspass@db/x"})
	line := `10.0.0.1 - - [21/Nov/2026:08:00:00 +0000] "GET /index.html?page=2 HTTP/1.1" 200 612 "https://example.com/" "curl/8.0" rt=0.003`
	x := r.Stream()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		x.Line("stdout", line)
	}
}
