package leaks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"path"
	"strings"
)

// jwtBegins are base64 of {"alg":, {"typ":, {"kid":, {"enc":, {"cty": which JSON
// Web Tokens (RFC 7519) begin with.
var jwtBegins = []string{"eyJhbGciOi", "eyJ0eXAiOi", "eyJraWQiOi", "eyJlbmMiOi", "eyJjdHkiOi"}

// longestJWT bounds how far a token is read.
const longestJWT = 8 << 10 // bytes

// claims are what matters of a token's.
type claims struct {
	Issuer     string          `json:"iss"`
	Subject    string          `json:"sub"`
	Name       string          `json:"name"`
	Expires    json.Number     `json:"exp"`
	Audience   json.RawMessage `json:"aud"`
	Kubernetes json.RawMessage `json:"kubernetes.io"`
}

// jwt reads the token that begins at a place of the window; rule is "" if there is
// none that opens anything.
func jwt(window []byte, at int) (rule string, token []byte) {
	if at > 0 && (wordByte(window[at-1]) || window[at-1] == '.') {
		return "", nil
	}
	rest := window[at:min(len(window), at+longestJWT)]
	end := 0
	for end < len(rest) && (wordByte(rest[end]) || rest[end] == '-' || rest[end] == '.') {
		end++
	}
	parts := bytes.Split(bytes.TrimRight(rest[:end], "."), []byte("."))
	if len(parts) != 3 || len(parts[2]) < 22 || entropy(parts[2]) < 3.5 {
		return "", nil
	}
	var head struct {
		Algorithm string `json:"alg"`
	}
	var c claims
	if !part(parts[0], &head) || !part(parts[1], &c) || head.Algorithm == "" || strings.EqualFold(head.Algorithm, "none") {
		return "", nil
	}
	token = rest[:end]
	switch {
	case c.Issuer == "kubernetes/serviceaccount" || len(c.Kubernetes) > 0:
		return ruleKubernetes, token
	case c.Name == "John Doe" || strings.Contains(c.Issuer, "example"): // jwt.io's, RFC 7519's
		return "", nil
	case c.Issuer == "" && c.Subject == "" && c.Expires == "" && len(c.Audience) == 0:
		return "", nil
	}
	return ruleJWT, token
}

func part(text []byte, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(string(text))
	return err == nil && json.Unmarshal(raw, into) == nil
}

// likelyForJWT reports whether a token in such a file is one that somebody put
// there, and not an example of a package: a token's shape alone does not say that
// it opens anything.
func likelyForJWT(file string) bool {
	if ofPackage(file) || ofTests(file) {
		return false
	}
	base := strings.ToLower(path.Base(file))
	for _, word := range []string{"token", "secret", "credential", "cred", "auth", "jwt", ".env", "config", "settings"} {
		if strings.Contains(base, word) {
			return true
		}
	}
	switch path.Ext(base) {
	case "", ".env", ".json", ".yaml", ".yml", ".toml", ".ini", ".conf", ".cfg", ".properties", ".xml", ".sh", ".txt":
		return true
	}
	return false
}
