// Package sign makes and checks signatures of images, and signed statements about
// them, in the formats that cosign 3 writes and reads: in-toto statements
// (https://github.com/in-toto/attestation/tree/main/spec/v1) in DSSE envelopes
// (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md) in Sigstore
// bundles (https://docs.sigstore.dev/about/bundle/), which a registry keeps as
// referrers of the image.
//
// What a bundle says about an image is worth something only after Verify or
// Keyring.Verify has returned it. There is no transparency log and no authority for
// time stamps: whom to believe is a question of keys alone, and when something was
// signed only the caller's own record can tell (see Keyring).
package sign

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

// The types of statements that others know. Any other URI will do as well.
const (
	// These are the model's. Signature says nothing but which image it is of.
	Signature  = model.SignatureType
	Provenance = model.ProvenanceType
	// SPDX and CycloneDX are lists of what is inside.
	SPDX      = model.SPDXType
	CycloneDX = model.CycloneDXType
	// TestResult is which checks passed and failed
	// (https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md).
	TestResult = "https://in-toto.io/attestation/test-result/v0.1"
)

// payloadType is the media type of a statement in its envelope.
const payloadType = "application/vnd.in-toto+json"

// The types of statements as such. cosign attest still writes the older one, which
// has the same fields.
const (
	statementV1  = "https://in-toto.io/Statement/v1"
	statementV01 = "https://in-toto.io/Statement/v0.1"
)

// Statement says something about artifacts that it names by their digests.
type Statement struct {
	Subjects      []Subject
	PredicateType string
	// Predicate is a JSON object, byte for byte as it was signed; nil: there is
	// none, as in cosign's signatures.
	Predicate json.RawMessage
}

// Subject is an artifact that a statement is about.
type Subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"` // by algorithm, in hexadecimal
}

// Image returns the digest of the first subject, as an image's; "": there is none.
func (s Statement) Image() digest.Digest {
	for _, subject := range s.Subjects {
		if hex := subject.Digest[string(digest.SHA256)]; hex != "" {
			return digest.NewDigestFromEncoded(digest.SHA256, hex)
		}
	}
	return ""
}

// about reports whether the digest is a subject of the statement.
func (s Statement) about(d digest.Digest) bool {
	for _, subject := range s.Subjects {
		if hex, ok := subject.Digest[string(d.Algorithm())]; ok && hex == d.Encoded() {
			return true
		}
	}
	return false
}

// newStatement checks what is to be signed and returns it as bytes.
//
// Invalid: the digest is none of SHA-256, the type is no URI, or the predicate is
// not a JSON object.
func newStatement(subject digest.Digest, predicateType string, predicate json.RawMessage) ([]byte, error) {
	if err := checkDigest(subject); err != nil {
		return nil, err
	}
	if u, err := url.Parse(predicateType); err != nil || u.Scheme == "" {
		return nil, model.Errorf(model.Invalid, "cannot sign a statement of the type %q: it is no URI", predicateType)
	}
	if predicate != nil && (!utf8.Valid(predicate) || !json.Valid(predicate) || bytes.TrimLeft(predicate, " \t\r\n")[0] != '{') {
		return nil, model.Errorf(model.Invalid, "cannot sign a statement of the type %s: what it says is not a JSON object", predicateType)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // the predicate's bytes stay what they are, but for white space
	err := enc.Encode(struct {
		Type          string          `json:"_type"`
		Subject       []Subject       `json:"subject"`
		PredicateType string          `json:"predicateType"`
		Predicate     json.RawMessage `json:"predicate,omitempty"`
	}{statementV1, []Subject{{Digest: map[string]string{string(subject.Algorithm()): subject.Encoded()}}}, predicateType, predicate})
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// checkDigest refuses what is no digest of an image's manifest.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return model.Errorf(model.Invalid, "%q is no digest of an image", string(d)).
			WithHint("a digest is sha256: and 64 hexadecimal digits")
	}
	return nil
}

// parseStatement reads a statement. It does not take what another reader could take
// for something else: a field that is there twice, or written otherwise.
func parseStatement(text []byte) (Statement, error) {
	f, err := fields(text)
	if err != nil {
		return Statement{}, model.Errorf(model.Invalid, "what was signed is not a statement: %w", err)
	}
	var kind string
	if err := json.Unmarshal(f["_type"], &kind); err != nil || kind != statementV1 && kind != statementV01 {
		return Statement{}, model.Errorf(model.Invalid, "what was signed is not an in-toto statement: its type is %s", orNothing(f["_type"]))
	}
	s := Statement{Predicate: f["predicate"]}
	if err := json.Unmarshal(f["predicateType"], &s.PredicateType); err != nil || s.PredicateType == "" {
		return Statement{}, model.Errorf(model.Invalid, "the statement does not say of which type it is: predicateType is %s", orNothing(f["predicateType"]))
	}
	if string(s.Predicate) == "null" {
		s.Predicate = nil
	}
	if s.Predicate != nil && s.Predicate[0] != '{' {
		return Statement{}, model.Errorf(model.Invalid, "the statement says nothing: its predicate is not a JSON object")
	}
	var subjects []json.RawMessage
	if err := json.Unmarshal(f["subject"], &subjects); err != nil || len(subjects) == 0 {
		return Statement{}, model.Errorf(model.Invalid, "the statement does not say what it is about: subject is %s", orNothing(f["subject"]))
	}
	for _, raw := range subjects {
		subject, err := parseSubject(raw)
		if err != nil {
			return Statement{}, model.Errorf(model.Invalid, "the statement does not say what it is about: %w", err)
		}
		s.Subjects = append(s.Subjects, subject)
	}
	return s, nil
}

func parseSubject(raw json.RawMessage) (Subject, error) {
	f, err := fields(raw)
	if err != nil {
		return Subject{}, err
	}
	var s Subject
	if f["name"] != nil {
		if err := json.Unmarshal(f["name"], &s.Name); err != nil {
			return Subject{}, err
		}
	}
	byAlgorithm, err := fields(f["digest"])
	if err != nil {
		return Subject{}, err
	}
	s.Digest = map[string]string{}
	for algorithm, raw := range byAlgorithm {
		var hex string
		if err := json.Unmarshal(raw, &hex); err != nil {
			return Subject{}, err
		}
		s.Digest[algorithm] = hex
	}
	return s, nil
}

// fields returns what a JSON object has, and refuses one that has a field twice.
func fields(text []byte) (map[string]json.RawMessage, error) {
	in := json.NewDecoder(bytes.NewReader(text))
	if open, err := in.Token(); err != nil || open != json.Delim('{') {
		return nil, model.Errorf(model.Invalid, "it is not a JSON object")
	}
	found := map[string]json.RawMessage{}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return nil, model.Errorf(model.Invalid, "it is not JSON: %w", err)
		}
		name, _ := key.(string) // the decoder takes nothing else for a key
		if _, twice := found[name]; twice {
			return nil, model.Errorf(model.Invalid, "it has %q twice", name)
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return nil, model.Errorf(model.Invalid, "it is not JSON: %w", err)
		}
		found[name] = value
	}
	if _, err := in.Token(); err != nil {
		return nil, model.Errorf(model.Invalid, "it is not JSON: %w", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return nil, model.Errorf(model.Invalid, "something follows the JSON object")
	}
	return found, nil
}

// orNothing shows the beginning of a field in a message.
func orNothing(raw json.RawMessage) string {
	switch {
	case raw == nil:
		return "not there"
	case len(raw) > 100:
		return string(bytes.ToValidUTF8(raw[:100], nil)) + "…"
	}
	return string(raw)
}
