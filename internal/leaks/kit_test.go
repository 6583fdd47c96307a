package leaks

import (
	"encoding/base64"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func searchOf(t testing.TB, image v1.Image, allow Allowed) *Report {
	t.Helper()
	r, err := Search(t.Context(), image, nil, allow)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// drawn returns n characters as a service would draw them; the same for the same
// seed. No secret is written down in these tests.
func drawn(seed uint64, n int, alphabet string) string {
	r := rand.New(rand.NewPCG(seed, 7))
	var b strings.Builder
	for range n {
		b.WriteByte(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

const (
	hexDigits = "0123456789abcdef"
	base32    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	base64s   = base62 + "+/"
)

// gitHub returns a token of GitHub whose checksum holds.
func gitHub(prefix string) string {
	body := drawn(3, 30, base62)
	return prefix + "_" + body + checksumOf(body)
}

// checksumOf returns what GitHub appends to a token.
func checksumOf(body string) string {
	sum, end := crc32.ChecksumIEEE([]byte(body)), make([]byte, 6)
	for i := 5; i >= 0; i-- {
		end[i] = base62[sum%62]
		sum /= 62
	}
	return string(end)
}

func signed(claims string) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + e.EncodeToString([]byte(claims)) + "." + drawn(9, 86, base62)
}
