package daemon

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/server"
	"kiln/internal/sign"
)

// witness is a kiln that says how long an image served, and what another makes of it.
type witness struct {
	t   *testing.T
	key *sign.PrivateKey
	now time.Time
	d   model.Digest
}

func newWitness(t *testing.T) witness {
	t.Helper()
	key, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return witness{t: t, key: key, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), d: model.Digest(digest.FromString("image"))}
}

func (w witness) says(d model.Digest, kind string, p served) []byte {
	w.t.Helper()
	predicate, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	bundle, err := w.key.Attest(digest.Digest(d), kind, predicate)
	if err != nil {
		w.t.Fatal(err)
	}
	return bundle
}

func (w witness) hour() served {
	return served{Environment: "staging", Service: "shop-staging", For: model.Duration(time.Hour), At: w.now, Instance: "abcdef"}
}

// ring is keys that are believed: the witness's, as k has it, if any.
func (w witness) ring(k *sign.Key) sign.Keyring {
	w.t.Helper()
	own, err := sign.Generate()
	if err != nil {
		w.t.Fatal(err)
	}
	keys := []sign.Key{{Name: "kiln-1", Public: own.Public()}}
	if k != nil {
		k.Name, k.Public = "builder", w.key.Public()
		keys = append(keys, *k)
	}
	ring, err := sign.NewKeyring(keys...)
	if err != nil {
		w.t.Fatal(err)
	}
	return ring
}

// tampered puts more hours into what was signed.
func (w witness) tampered(bundle []byte) []byte {
	w.t.Helper()
	var b map[string]any
	if err := json.Unmarshal(bundle, &b); err != nil {
		w.t.Fatal(err)
	}
	envelope := b["dsseEnvelope"].(map[string]any)
	var payload []byte
	if err := json.Unmarshal([]byte(`"`+envelope["payload"].(string)+`"`), &payload); err != nil {
		w.t.Fatal(err)
	}
	changed := bytes.Replace(payload, []byte(`"1h"`), []byte(`"9h"`), 1)
	if bytes.Equal(changed, payload) {
		w.t.Fatalf("nothing to change in %s", payload)
	}
	envelope["payload"] = changed
	out, err := json.Marshal(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestWhatAnotherKilnSaysOfTimeInService(t *testing.T) {
	w := newWitness(t)
	other := model.Digest(digest.FromString("another image"))
	with := func(change func(*served)) []byte {
		p := w.hour()
		change(&p)
		return w.says(w.d, model.ServedType, p)
	}
	trusted := &sign.Key{}
	for name, c := range map[string]struct {
		bundle []byte
		key    *sign.Key
		code   model.Code // "": it is believed
		want   string
		hint   string
	}{
		"what it said":            {bundle: w.says(w.d, model.ServedType, w.hour()), key: trusted},
		"by a clock a bit ahead":  {bundle: with(func(p *served) { p.At = w.now.Add(time.Minute) }), key: trusted},
		"of another image":        {bundle: w.says(other, model.ServedType, w.hour()), key: trusted, code: model.Denied, want: "it is of another image", hint: "moved over"},
		"tampered with":           {bundle: w.tampered(w.says(w.d, model.ServedType, w.hour())), key: trusted, code: model.Denied, want: "its signature does not hold"},
		"another type":            {bundle: w.says(w.d, model.ApprovalType, w.hour()), key: trusted, code: model.Denied, want: "it says something else"},
		"no bundle":               {bundle: []byte(`{}`), key: trusted, code: model.Invalid, want: "no Sigstore bundle"},
		"a stranger's key":        {bundle: w.says(w.d, model.ServedType, w.hour()), code: model.Denied, want: "it was not signed with a known key", hint: "kiln key trust"},
		"a revoked key":           {bundle: w.says(w.d, model.ServedType, w.hour()), key: &sign.Key{Revoked: "stolen"}, code: model.Denied, want: "was revoked: stolen"},
		"a key that was in use":   {bundle: w.says(w.d, model.ServedType, w.hour()), key: &sign.Key{NotAfter: w.now.Add(-time.Minute)}, code: model.Denied, want: "nothing tells that this was signed before"},
		"of the future":           {bundle: with(func(p *served) { p.At = w.now.Add(time.Hour) }), key: trusted, code: model.Invalid, want: "it was made at 2026-11-21T13:00:00Z, and it is 2026-11-21T12:00:00Z now", hint: "clock"},
		"of no time":              {bundle: with(func(p *served) { p.At = time.Time{} }), key: trusted, code: model.Invalid, want: "when it was made"},
		"for no time":             {bundle: with(func(p *served) { p.For = 0 }), key: trusted, code: model.Invalid, want: "of no time in service"},
		"for less than none":      {bundle: with(func(p *served) { p.For = -1 }), key: trusted, code: model.Invalid, want: "of no time in service"},
		"of another environment":  {bundle: with(func(p *served) { p.Environment = "qa" }), key: trusted, code: model.Invalid, want: "it is of shop-staging in environment qa, not of shop-staging in staging"},
		"of another service":      {bundle: with(func(p *served) { p.Service = "till-staging" }), key: trusted, code: model.Invalid, want: "it is of till-staging"},
		"of no kiln":              {bundle: with(func(p *served) { p.Instance = "" }), key: trusted, code: model.Invalid, want: "it names no environment, service and kiln"},
		"posing as this kiln's":   {bundle: with(func(p *served) { p.Instance = "ghijkl" }), key: trusted, code: model.Invalid, want: "it is this kiln's own word", hint: "journal"},
		"with a time of nonsense": {bundle: bundleOf(t, w, `{"environment":"staging","service":"shop-staging","for":"soon","at":"2026-11-21T12:00:00Z","instance":"abcdef"}`), key: trusted, code: model.Invalid, want: "it cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			req := api.ServedRequest{Environment: "staging", Service: "shop-staging", Bundle: c.bundle}
			p, v, err := believeServed(w.ring(c.key), w.d, req, "ghijkl", w.now, nil)
			if c.code == "" {
				if err != nil || p.For != model.Duration(time.Hour) || v.Name != "builder" {
					t.Errorf("believes %+v of %q: %v", p, v.Name, err)
				}
				return
			}
			if err == nil || model.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) || !strings.Contains(model.HintOf(err), c.hint) {
				t.Errorf("says %v (%s; %s), want %s: %q (%q)", err, model.CodeOf(err), model.HintOf(err), c.code, c.want, c.hint)
			}
			if p != (served{}) {
				t.Errorf("and believes %+v", p)
			}
		})
	}
}

func bundleOf(t *testing.T, w witness, predicate string) []byte {
	t.Helper()
	bundle, err := w.key.Attest(digest.Digest(w.d), model.ServedType, json.RawMessage(predicate))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// What has come along from a registry is heard under the same conditions, but for what
// the signature has shown before.
func TestTimeInServiceThatIsHeard(t *testing.T) {
	w := newWitness(t)
	s := &signer{d: &daemon{instance: "ghijkl"}}
	heard := func(change func(*served)) int {
		p := w.hour()
		p.At = time.Now().UTC()
		change(&p)
		predicate, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var said server.Said
		s.hear(&said, w.d, statement{Statement: api.Statement{Type: model.ServedType, Key: "k"}, predicate: predicate})
		for _, x := range said.Served {
			if x.Key != "k" || x.Instance != p.Instance || x.Environment != p.Environment || x.Service != p.Service || x.For != p.For || !x.At.Equal(p.At) {
				t.Errorf("heard %+v of %+v", x, p)
			}
		}
		return len(said.Served)
	}
	if n := heard(func(*served) {}); n != 1 {
		t.Errorf("heard %d", n)
	}
	for name, change := range map[string]func(*served){
		"of the future":   func(p *served) { p.At = p.At.Add(time.Hour) },
		"for no time":     func(p *served) { p.For = 0 },
		"of this kiln":    func(p *served) { p.Instance = "ghijkl" },
		"of no kiln":      func(p *served) { p.Instance = "x" },
		"no environment":  func(p *served) { p.Environment = "" },
		"without a date":  func(p *served) { p.At = time.Time{} },
		"no service's is": func(p *served) { p.Service = "Shop!" },
	} {
		if n := heard(change); n != 0 {
			t.Errorf("%s: heard %d", name, n)
		}
	}
}
