package leaks

import (
	"fmt"
	"math"
	"strings"
)

// entropy returns the bits that a character of s has, by how often each occurs in
// it: random base64 of 40 characters has about 4.9, words of a language below 4.
func entropy(s []byte) float64 {
	var counts [256]int
	for _, c := range s {
		counts[c]++
	}
	var bits float64
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(s))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}

// random reports whether s looks drawn, not written: so many bits a character, and
// characters of at least two kinds.
func random(s []byte, bits float64) bool {
	var lower, upper, digit int
	for _, c := range s {
		switch {
		case 'a' <= c && c <= 'z':
			lower = 1
		case 'A' <= c && c <= 'Z':
			upper = 1
		case '0' <= c && c <= '9':
			digit = 1
		}
	}
	return lower+upper+digit >= 2 && entropy(s) >= bits && !sequence(s)
}

// sequence reports whether a good part of s is the alphabet or the digits in their
// order, as in examples.
func sequence(s []byte) bool {
	steps := 0
	for i := 1; i < len(s); i++ {
		if s[i] == s[i-1]+1 || s[i] == s[i-1] {
			steps++
		}
	}
	return steps*2 > len(s)
}

// masked says of a secret what may be said: its first four characters, if these are
// not a good part of it, and its length.
func masked(s []byte) string {
	if len(s) < 16 {
		return fmt.Sprintf("%d characters", len(s))
	}
	return fmt.Sprintf("%q…, %d characters", s[:4], len(s))
}

// nameOfSecret finds names that are given to secrets: DB_PASSWORD, apiKey,
// aws-secret-access-key. KEY and AUTH alone are not among them: keys are mostly
// those of caches and maps, or public (GPG_KEY).
var nameOfSecret = expression(`(?i)(?:^|[_.-]|\b)(?:[a-z0-9]*(?:passw(?:or)?d|passphrase|secret|token|credentials?)|pass|pwd|basic[_.-]?auth|` +
	`[a-z0-9]*(?:api|app|access|private|secret|signing|encryption|master|account|auth|license)[_.-]?key(?:[_.-]?base)?)s?$`)

// aboutSecret finds names of what is no secret: numbers of tokens, public keys,
// identifiers, directories.
var aboutSecret = expression(`(?i)(?:^|[_.-])(?:public|max|min|num|n|eos|bos|pad|unk|mask|cancellation|reset|forgot)[_.-](?:[a-z]+[_.-])?(?:passw(?:or)?d|token|secret|key)s?$|` +
	`^(?:OLD)?PWD$`)

// secretName reports whether a variable, a label or a field of that name holds a
// secret.
func secretName(name string) bool {
	return nameOfSecret().MatchString(name) && !aboutSecret().MatchString(name)
}

// insteadOfSecret finds what is written where a secret would be.
var insteadOfSecret = expression(`(?i)^(?:true|false|yes|no|on|off|none|null|nil|undefined|empty|unset|default|required|optional|` +
	`[0-9]{0,3}|\*+|x+|\.+|-+|your.*|(?:my|the|some|a|an|insert|enter|put|add|replace|change)[-_ ].*|` +
	`.*(?:placeholder|redacted|changeme|change[-_]me|replace[-_ ]?me|example|dummy|todo|fixme).*|` +
	`pass|passwd|password|passw0rd|pwd|secret|token|key|api[-_]?key|user|username|foo|bar|foobar|test|testing|dev|string)$`)

// placeholder reports whether a value is none: a reference to where the value is,
// or a word that stands for it.
func placeholder(value string) bool {
	value = strings.TrimSpace(value)
	return value == "" || insteadOfSecret().MatchString(value) || reference(value)
}

// elsewhere finds values that only say where the value is: variables of shells,
// templates and formats, addresses in stores of secrets, paths.
var elsewhere = expression("^(?:\\$\\$?[A-Za-z_][A-Za-z0-9_]*$|\\$[({]|<.*>$|\\{.*\\}$|\\[.*\\]$|%[A-Za-z_]+%?$|%\\(|`|" +
	`(?:env|file|vault|ssm|secret|arn|op|exec):|!(?:vault|secret|Ref|Sub)\b|/run/secrets|/var/run/secrets|/etc/|\.\.?/|~/)|\$\{|\{\{`)

// reference reports whether a value only says where the value is.
func reference(value string) bool { return elsewhere().MatchString(value) }

// opens reports whether a value of a name for secrets is one: no placeholder, no
// path or address, long enough to be worth its name.
func opens(value string) bool {
	if len(value) < 4 || placeholder(value) || strings.HasPrefix(value, "/") {
		return false
	}
	return !strings.Contains(value, "://") || urlWithPassword().MatchString(value)
}

// urlWithPassword finds SCHEME://USER:PASSWORD@HOST; its group is the password.
var urlWithPassword = expression(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#:@"'<>]*:([^\s/?#@"'<>]+)@[^\s/?#@"'<>]`)

// passwordInURL returns the password of the first URL with one in a text.
func passwordInURL(text string) (string, bool) {
	for _, m := range urlWithPassword().FindAllStringSubmatch(text, 16) {
		if !placeholder(m[1]) {
			return m[1], true
		}
	}
	return "", false
}
