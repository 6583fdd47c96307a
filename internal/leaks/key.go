package leaks

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// keyMark is a literal that a private key has at its beginning, and what finds out
// whether there is one: hold by hold.
type keyMark struct {
	literal string
	// key returns what it is and where it begins in the window; "": there is no key.
	key func(window []byte, at int) (what string, from int)
}

// keyMarks are the beginnings of private keys.
var keyMarks = []keyMark{
	{"PRIVATE KEY", pemKey},
	{"PuTTY-User-Key-File-", puttyKey},
	{"AGE-SECRET-KEY-", ageKey},
	{"encrypted secret key", minisignKey},
	// base64 of "-----BEGIN ", as Kubernetes writes keys into its files
	{"LS0tLS1CRUdJTi", wrappedKey},
}

// longestKey bounds how far a private key is read. That of RSA with 16384 bits has
// 13 KB; one of PGP may be longer, and is taken for one by its beginning.
const longestKey = 24 << 10 // bytes

// pemKey judges PEM (RFC 7468), what OpenSSH and OpenPGP (RFC 9580, section 6) make
// of it, and their relatives, all of which say PRIVATE KEY in their first line. A
// program that reads such files has that line too: a key is one whose body is what
// the line says.
func pemKey(window []byte, at int) (string, int) {
	line := window[max(0, at-48):at]
	i := bytes.LastIndex(line, []byte("BEGIN "))
	if i < 0 || bytes.ContainsAny(line[i:], "\n\r") {
		return "", 0
	}
	label := string(line[i+len("BEGIN "):]) + "PRIVATE KEY"
	rest := window[at+len("PRIVATE KEY") : min(len(window), at+longestKey)]
	if after, ok := bytes.CutPrefix(rest, []byte(" BLOCK")); ok {
		label, rest = label+" BLOCK", after
	}
	dashes := 0
	for dashes < len(rest) && rest[dashes] == '-' || dashes < len(rest) && rest[dashes] == ' ' && dashes == 0 {
		dashes++
	}
	if dashes < 4 {
		return "", 0
	}
	text, ended := body(rest[dashes:])
	if bytes.Contains(rest, []byte("Proc-Type: 4,ENCRYPTED")) {
		label = "encrypted " + label
	}
	if !keyBody(label, text, ended) {
		return "", 0
	}
	return fmt.Sprintf("a private key (%s)", strings.ToLower(label)), at - len(line) + i
}

// body returns the base64 of a key, without what divides it where the key is in a
// program's or another file's text (ends of lines, quotes, \n), and whether the
// line that ends it follows. Header fields are left out.
func body(text []byte) (base64 []byte, ended bool) {
	if end := bytes.Index(text, []byte("---")); end >= 0 {
		text, ended = text[:end], true
	}
	text = bytes.ReplaceAll(text, []byte(`\n`), []byte("\n"))
	text = bytes.ReplaceAll(text, []byte(`\r`), nil)
	for line := range bytes.Lines(text) {
		line = bytes.Trim(line, frame)
		line = bytes.Trim(bytes.TrimSuffix(bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("// ")), []byte("+ ")), []byte(" +")), frame)
		if string(line) == "+" {
			continue // a program joins its lines
		}
		if bytes.Contains(line, []byte(": ")) || bytes.HasSuffix(line, []byte(":")) {
			continue // Proc-Type: 4,ENCRYPTED
		}
		if len(line) == 5 && line[0] == '=' {
			continue // OpenPGP's checksum
		}
		base64 = append(base64, bytes.ReplaceAll(line, []byte(" "), nil)...) // a variable has all on one line
	}
	return base64, ended
}

// frame is what may be around a line of base64 in another file, and never in it.
const frame = " \t\r\n\"'`\\,;.*#>|()"

// keyBody reports whether the base64 is of a private key of the kind that the
// label says.
func keyBody(label string, text []byte, ended bool) bool {
	text = bytes.TrimRight(text, "=")
	if len(text) < 40 {
		return false
	}
	raw := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, err := base64.RawStdEncoding.Decode(raw, text)
	if err != nil && (ended || n < 64) {
		return false
	}
	raw = raw[:n]
	if isPublished(raw) {
		return false
	}
	switch {
	case strings.HasPrefix(label, "OPENSSH"):
		return bytes.HasPrefix(raw, []byte("openssh-key-v1\x00"))
	case strings.HasPrefix(label, "PGP"):
		// A secret key's packet, by its tag: 5, or 7 of a subkey.
		tag := raw[0] >> 2 & 0x0f
		if raw[0]&0x40 != 0 {
			tag = raw[0] & 0x3f
		}
		return raw[0]&0x80 != 0 && (tag == 5 || tag == 7)
	case strings.Contains(label, "COSIGN"), strings.Contains(label, "SIGSTORE"):
		return raw[0] == '{'
	case strings.Contains(label, "SSH2"):
		return bytes.HasPrefix(raw, []byte{0x3f, 0x6f, 0xf9, 0xeb})
	}
	if strings.HasPrefix(label, "encrypted ") { // as a whole, as its header says
		return entropy(raw) > 5 && n%8 == 0
	}
	return sequenceOf(raw, ended)
}

// sequenceOf reports whether raw is one sequence of ASN.1 in DER, and has no more
// and, if it is whole, no less.
func sequenceOf(raw []byte, whole bool) bool {
	if len(raw) < 4 || raw[0] != 0x30 {
		return false
	}
	length, head := int(raw[1]), 2
	switch raw[1] {
	case 0x81:
		length, head = int(raw[2]), 3
	case 0x82:
		length, head = int(binary.BigEndian.Uint16(raw[2:])), 4
	default:
		if length >= 0x80 {
			return false
		}
	}
	if !whole {
		return true
	}
	return head+length == len(raw)
}

// puttyKey: https://the.earth.li/~sgtatham/putty/0.83/htmldoc/AppendixC.html
func puttyKey(window []byte, at int) (string, int) {
	rest := window[at:min(len(window), at+longestKey)]
	i := bytes.Index(rest, []byte("\nPrivate-Lines: "))
	if i < 0 || at > 0 && window[at-1] != '\n' {
		return "", 0
	}
	lines := bytes.SplitN(rest[i+1:], []byte("\n"), 3)
	if len(lines) < 2 || len(bytes.TrimSpace(lines[1])) < 16 {
		return "", 0
	}
	return "a private key of PuTTY", at
}

// ageKey: https://github.com/C2SP/C2SP/blob/main/age.md#the-x25519-recipient-type,
// in Bech32 (BIP 173), whose checksum tells a key from its like.
func ageKey(window []byte, at int) (string, int) {
	rest := window[at:min(len(window), at+256)]
	end := 0
	for end < len(rest) && (wordByte(rest[end]) || rest[end] == '-') && rest[end] != '_' {
		end++
	}
	if !bech32(strings.ToLower(string(rest[:end]))) {
		return "", 0
	}
	return "a private key of age", at
}

// bech32 reports whether a text's checksum holds, by that of BIP 173.
func bech32(s string) bool {
	i := strings.LastIndexByte(s, '1')
	if i < 1 || i+7 > len(s) {
		return false
	}
	sum := uint32(1)
	step := func(v uint32) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ v
		for j, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>j&1 == 1 {
				sum ^= g
			}
		}
	}
	for _, c := range []byte(s[:i]) {
		step(uint32(c >> 5))
	}
	step(0)
	for _, c := range []byte(s[:i]) {
		step(uint32(c & 31))
	}
	for _, c := range []byte(s[i+1:]) {
		v := strings.IndexByte("qpzry9x8gf2tvdw0s3jn54khce6mua7l", c)
		if v < 0 {
			return false
		}
		step(uint32(v))
	}
	return sum == 1
}

// minisignKey: https://jedisct1.github.io/minisign/#secret-key-format; signify's
// and rsign's are alike.
func minisignKey(window []byte, at int) (string, int) {
	from := bytes.LastIndexByte(window[:at], '\n') + 1
	if !bytes.HasPrefix(window[from:at], []byte("untrusted comment: ")) {
		return "", 0
	}
	_, rest, _ := bytes.Cut(window[at:min(len(window), at+1024)], []byte("\n"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(line)))
	if err != nil || len(raw) < 64 || raw[0] != 'E' {
		return "", 0
	}
	return "a private key of minisign", from
}

// wrappedKey judges a PEM file that was encoded once more.
func wrappedKey(window []byte, at int) (string, int) {
	if at > 0 && wordByte(window[at-1]) {
		return "", 0
	}
	rest := window[at:min(len(window), at+longestKey)]
	end := 0
	for end < len(rest) && (wordByte(rest[end]) && rest[end] != '_' || rest[end] == '+' || rest[end] == '/') {
		end++
	}
	raw := make([]byte, base64.RawStdEncoding.DecodedLen(end))
	n, _ := base64.RawStdEncoding.Decode(raw, rest[:end-end%4])
	i := bytes.Index(raw[:n], []byte("PRIVATE KEY"))
	if i < 0 {
		return "", 0
	}
	what, _ := pemKey(raw[:n], i)
	if what == "" {
		return "", 0
	}
	return what + ", in base64", at
}
