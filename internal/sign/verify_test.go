package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

var (
	image = digest.FromString("an image")
	other = digest.FromString("another image")
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// must returns a bundle.
func must(t testing.TB) func(text []byte, err error) []byte {
	return func(text []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

// edited returns the bundle with a change of its JSON.
func edited(t testing.TB, text []byte, change func(bundle, envelope map[string]any)) []byte {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	envelope, _ := b["dsseEnvelope"].(map[string]any)
	change(b, envelope)
	out, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// enveloped returns a bundle of the payload, whatever it is, which the key signed.
func enveloped(t testing.TB, key *PrivateKey, payload string) []byte {
	t.Helper()
	signature, err := key.sign(encoded(payloadType, []byte(payload)))
	if err != nil {
		t.Fatal(err)
	}
	return edited(t, must(t)(key.SignImage(image)), func(_, e map[string]any) {
		e["payload"] = base64.StdEncoding.EncodeToString([]byte(payload))
		e["signatures"] = []any{map[string]any{"sig": base64.StdEncoding.EncodeToString(signature)}}
	})
}

func TestSignedImage(t *testing.T) {
	key := generate(t)
	text := must(t)(key.SignImage(image))
	v, err := Verify(text, []PublicKey{generate(t).Public(), key.Public()}, image, Signature)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Key.Equal(key.Public()) || v.Statement.PredicateType != Signature || v.Statement.Image() != image || v.Statement.Predicate != nil {
		t.Errorf("it says %+v", v)
	}
	if _, err := Verify(text, []PublicKey{key.Public()}, image, ""); err != nil {
		t.Error(err)
	}
}

func TestAttestation(t *testing.T) {
	key := generate(t)
	predicate := `{"name":"<shop> & co","big":12345678901234567890,"list":[1,2,{"z":1,"a":2}]}`
	text := must(t)(key.Attest(image, SPDX, json.RawMessage(predicate)))
	v, err := Verify(text, []PublicKey{key.Public()}, image, SPDX)
	if err != nil {
		t.Fatal(err)
	}
	if string(v.Statement.Predicate) != predicate {
		t.Errorf("it says %s", v.Statement.Predicate)
	}
	for what, c := range map[string]struct {
		image     digest.Digest
		kind      string
		predicate string
	}{
		"no digest":     {"sha256:12", SPDX, "{}"},
		"another hash":  {digest.SHA512.FromString("x"), SPDX, "{}"},
		"no URI":        {image, "spdx", "{}"},
		"no predicate":  {image, SPDX, ""},
		"no object":     {image, SPDX, "[1]"},
		"no JSON":       {image, SPDX, "{"},
		"no characters": {image, SPDX, "{\"a\":\"\xff\"}"},
	} {
		raw := json.RawMessage(c.predicate)
		if c.predicate == "" {
			raw = nil
		}
		if _, err := key.Attest(c.image, c.kind, raw); model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := key.Attest(image, SPDX, json.RawMessage{}); model.CodeOf(err) != model.Invalid {
		t.Errorf("an empty predicate: %v", err)
	}
}

// TestBundleIsAsCosignWritesIt compares with what is written by cosign, but for key
// and signature.
func TestBundleIsAsCosignWritesIt(t *testing.T) {
	key := generate(t)
	text := must(t)(key.SignImage(image))
	var b struct {
		DSSEEnvelope struct {
			Payload    []byte
			Signatures []struct{ Sig []byte }
		}
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	shown := strings.ReplaceAll(string(text), key.Public().hint(), "HINT")
	shown = strings.ReplaceAll(shown, base64.StdEncoding.EncodeToString(b.DSSEEnvelope.Signatures[0].Sig), "SIGNATURE")
	shown += "\n" + string(b.DSSEEnvelope.Payload) + "\n"
	golden(t, "signature.golden", shown)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("it is\n%s\nwant\n%s", got, want)
	}
}

func TestRefusals(t *testing.T) {
	key, stranger := generate(t), generate(t)
	good := must(t)(key.SignImage(image))
	strange := must(t)(stranger.SignImage(image))
	var out strings.Builder
	for _, c := range []struct {
		what  string
		text  []byte
		kind  string
		why   error
		class model.Code
	}{
		{"of another image", must(t)(key.SignImage(other)), "", ErrOtherImage, model.Denied},
		{"of another type", good, Provenance, ErrOtherType, model.Denied},
		{"of another key", strange, "", ErrUnknownKey, model.Denied},
		{"of another key that says it is ours", edited(t, strange, func(b, _ map[string]any) {
			b["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": key.Public().hint()}}
		}), "", ErrBadSignature, model.Denied},
		{"with another payload", edited(t, good, func(_, e map[string]any) {
			e["payload"] = base64.StdEncoding.EncodeToString([]byte(`{"_type":"https://in-toto.io/Statement/v1"}`))
		}), "", ErrBadSignature, model.Denied},
		{"without a signature's bytes", edited(t, good, func(_, e map[string]any) {
			e["signatures"] = []any{map[string]any{"sig": ""}}
		}), "", ErrBadSignature, model.Denied},
		{"without signatures", edited(t, good, func(_, e map[string]any) { delete(e, "signatures") }), "", ErrNoBundle, model.Invalid},
		{"with two signatures", edited(t, good, func(_, e map[string]any) {
			list := e["signatures"].([]any)
			e["signatures"] = append(list, list[0])
		}), "", ErrNoBundle, model.Invalid},
		{"of another envelope", edited(t, good, func(_, e map[string]any) { e["payloadType"] = "text/plain" }), "", ErrNoBundle, model.Invalid},
		{"of another version", edited(t, good, func(b, _ map[string]any) {
			b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1"
		}), "", ErrNoBundle, model.Invalid},
		{"of a file", edited(t, good, func(b, _ map[string]any) {
			delete(b, "dsseEnvelope")
			b["messageSignature"] = map[string]any{"signature": "MEUC"}
		}), "", ErrNoBundle, model.Invalid},
		{"without an envelope", edited(t, good, func(b, _ map[string]any) { delete(b, "dsseEnvelope") }), "", ErrNoBundle, model.Invalid},
		{"with a field of its own", edited(t, good, func(b, _ map[string]any) { b["more"] = 1 }), "", ErrNoBundle, model.Invalid},
		{"not JSON", []byte("garbage"), "", ErrNoBundle, model.Invalid},
		{"empty", nil, "", ErrNoBundle, model.Invalid},
		{"too large", make([]byte, MaxBundle+1), "", ErrNoBundle, model.Invalid},
		{"without a statement", enveloped(t, key, "[]"), "", ErrNoBundle, model.Invalid},
		{"with another kind of statement", enveloped(t, key, `{"_type":"x"}`), "", ErrNoBundle, model.Invalid},
		{"with a field twice", enveloped(t, key, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"a:b","predicateType":"a:c"}`), "", ErrNoBundle, model.Invalid},
		{"about nothing", enveloped(t, key, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"a:b","subject":[]}`), "", ErrNoBundle, model.Invalid},
		{"about what has no digest", enveloped(t, key, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"a:b","subject":[{"digest":{}}]}`), "", ErrOtherImage, model.Denied},
		{"without a type", enveloped(t, key, `{"_type":"https://in-toto.io/Statement/v1"}`), "", ErrNoBundle, model.Invalid},
		{"that says a list", enveloped(t, key, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"a:b","predicate":[]}`), "", ErrNoBundle, model.Invalid},
		{"with more behind it", enveloped(t, key, `{"_type":"https://in-toto.io/Statement/v1"}{}`), "", ErrNoBundle, model.Invalid},
	} {
		v, err := Verify(c.text, []PublicKey{key.Public()}, image, c.kind)
		if !errors.Is(err, c.why) || model.CodeOf(err) != c.class || v.Statement.PredicateType != "" || !Untrusted(err) {
			t.Errorf("%s: %v (%s, %+v), want %v", c.what, err, model.CodeOf(err), v, c.why)
		}
		shown := fmt.Sprintf("%s\n    %v\n    hint: %s\n", c.what, err, model.HintOf(err))
		shown = strings.ReplaceAll(shown, key.Public().ID(), "KEY")
		shown = strings.ReplaceAll(strings.ReplaceAll(shown, stranger.Public().ID(), "STRANGER"), "\u00a0", " ")
		fmt.Fprint(&out, regexp.MustCompile(`line 1:\d+`).ReplaceAllString(shown, "line 1:N")) // signatures vary in length
	}
	golden(t, "refusals.golden", out.String())
	if _, err := Verify(good, nil, image, ""); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), "no keys are trusted") {
		t.Errorf("without keys: %v", err)
	}
	if _, err := Verify(good, []PublicKey{key.Public()}, "latest", ""); model.CodeOf(err) != model.Invalid || Untrusted(err) {
		t.Errorf("without a digest: %v", err)
	}
}

// TestEveryBit changes each bit of a bundle: what still verifies says the same.
func TestEveryBit(t *testing.T) {
	key := generate(t)
	good := must(t)(key.SignImage(image))
	want, err := Verify(good, []PublicKey{key.Public()}, image, Signature)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			text := bytes.Clone(good)
			text[i] ^= 1 << bit
			v, err := Verify(text, []PublicKey{key.Public()}, image, Signature)
			if err == nil && (v.Statement.Image() != want.Statement.Image() || v.Statement.PredicateType != want.Statement.PredicateType) {
				t.Errorf("byte %d, bit %d: it says %+v", i, bit, v)
			}
		}
	}
}

func TestHintIsNotBelieved(t *testing.T) {
	key := generate(t)
	text := edited(t, must(t)(key.SignImage(image)), func(b, _ map[string]any) {
		b["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": "somebody"}}
	})
	if _, err := Verify(text, []PublicKey{key.Public()}, image, ""); err != nil {
		t.Error(err)
	}
	if _, id, err := Peek(text); err != nil || id != "somebody" {
		t.Errorf("it names %q (%v)", id, err)
	}
}

func TestKeyring(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	old, current := generate(t), generate(t)
	ring, err := NewKeyring(
		Key{Name: "old", Public: old.Public(), NotAfter: day(10)},
		Key{Name: "current", Public: current.Public(), NotBefore: day(9)},
	)
	if err != nil {
		t.Fatal(err)
	}
	byOld, byCurrent := must(t)(old.SignImage(image)), must(t)(current.SignImage(image))
	remember := func(text []byte, at time.Time) Memory {
		return func(d digest.Digest) (time.Time, bool) { return at, d == BundleDigest(text) }
	}
	for _, c := range []struct {
		what   string
		text   []byte
		now    time.Time
		memory Memory
		want   string // in the error; "": it is accepted
	}{
		{"old key, in use", byOld, day(5), nil, ""},
		{"old key, at its end", byOld, day(10), nil, "nothing tells that this was signed before"},
		{"old key, ended, remembered", byOld, day(20), remember(byOld, day(5)), ""},
		{"old key, ended, seen too late", byOld, day(20), remember(byOld, day(15)), "first seen at 2026-01-15T00:00:00Z"},
		{"old key, ended, another is remembered", must(t)(old.Attest(image, TestResult, json.RawMessage(`{}`))), day(20), remember(byOld, day(5)), "nothing tells"},
		{"current key, in use", byCurrent, day(20), nil, ""},
		{"current key, too early", byCurrent, day(5), remember(byCurrent, day(9)), "begins at 2026-01-09T00:00:00Z"},
	} {
		v, err := ring.Verify(c.text, image, "", c.now, c.memory)
		switch {
		case c.want == "" && (err != nil || v.Name == ""):
			t.Errorf("%s: %v", c.what, err)
		case c.want != "" && (!errors.Is(err, ErrKeyNotInUse) || !strings.Contains(err.Error(), c.want) || v.Name != "" || model.HintOf(err) == "" || !Untrusted(err)):
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	if _, err := ring.Verify(byCurrent, other, "", day(20), nil); !errors.Is(err, ErrOtherImage) || !strings.Contains(err.Error(), `"current"`) {
		t.Errorf("another image: %v", err)
	}
	if _, err := (Keyring{}).Verify(byCurrent, image, "", day(20), nil); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("an empty ring: %v", err)
	}
	gone, err := NewKeyring(Key{Name: "gone", Public: current.Public(), Revoked: "the laptop was stolen"})
	if err != nil {
		t.Fatal(err)
	}
	always := func(digest.Digest) (time.Time, bool) { return day(1), true }
	if _, err := gone.Verify(byCurrent, image, "", day(20), always); !errors.Is(err, ErrKeyNotInUse) || !strings.Contains(err.Error(), "was revoked: the laptop was stolen") {
		t.Errorf("a revoked key: %v", err)
	}
	a, b := Key{Name: "a", Public: old.Public()}, Key{Name: "b", Public: current.Public()}
	for what, keys := range map[string][]Key{
		"a name twice": {a, {Name: "a", Public: current.Public()}},
		"a key twice":  {a, {Name: "b", Public: old.Public()}},
		"no name":      {{Public: old.Public()}},
		"no key":       {b, {Name: "a"}},
		"no time":      {{Name: "a", Public: old.Public(), NotBefore: day(2), NotAfter: day(2)}},
	} {
		if _, err := NewKeyring(keys...); model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := NewKeyring(a, b); err != nil {
		t.Error(err)
	}
}

// BenchmarkVerify is what a check costs before a server is provisioned, and of a
// large list of packages.
func BenchmarkVerify(b *testing.B) {
	key := generate(b)
	list := `{"packages":[` + strings.Repeat(`{"name":"libc6","versionInfo":"2.36-9+deb12u4","files":["/lib/x86_64-linux-gnu/libc.so.6"]},`, 100_000) + `{}]}`
	for what, text := range map[string][]byte{
		"signature":         must(b)(key.SignImage(image)),
		"list of 100,000":   must(b)(key.Attest(image, SPDX, json.RawMessage(list))),
		"of an unknown key": must(b)(generate(b).SignImage(image)),
	} {
		b.Run(what, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := Verify(text, []PublicKey{key.Public()}, image, ""); err != nil && !errors.Is(err, ErrUnknownKey) {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	key := generate(f)
	good := must(f)(key.SignImage(image))
	f.Add(good)
	f.Add(must(f)(key.Attest(image, SPDX, json.RawMessage(`{"a":[1,"b"]}`))))
	f.Add(edited(f, good, func(_, e map[string]any) { delete(e, "signatures") }))
	f.Add(enveloped(f, key, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":""}}]}`))
	f.Add([]byte(`{"mediaType":"` + olderMediaType + `","dsse_envelope":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, _, peeked := Peek(text)
		v, err := Verify(text, []PublicKey{key.Public()}, image, "")
		switch {
		case err != nil && !Untrusted(err):
			t.Errorf("an error of another kind: %v", err)
		case err == nil && (peeked != nil || v.Statement.Image() != image || s.Image() != image):
			t.Errorf("it is accepted, and says %+v (%v)", v.Statement, peeked)
		}
		// Whatever is signed is read without a panic.
		signed := enveloped(t, key, string(text))
		if _, err := Verify(signed, []PublicKey{key.Public()}, image, ""); err != nil && !Untrusted(err) {
			t.Errorf("an error of another kind: %v", err)
		}
	})
}
