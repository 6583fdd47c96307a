package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// Redacted stands for what was taken out.
const Redacted = "[redacted]"

const redacted = Redacted

const (
	// shortestSecret is how long a value has to be to be looked for: a shorter
	// one is found in everything.
	shortestSecret = 8
	// shortestKnown is the same for values that are known to be secrets.
	shortestKnown = 4
	// longestKey bounds how many lines a private key may have. A beginning
	// without an end does not take the rest of the log with it.
	longestKey = 200
)

// Redactor takes secrets out of text: those that it knows, and as well as can be
// done those that it does not know: the values of environment variables whose names look like those of
// secrets, wherever they occur; values that are given such names in the text
// itself (NAME=VALUE, "name": "value"); passwords in URLs; Authorization headers
// and bearer tokens; private keys in PEM.
type Redactor struct {
	values *strings.Replacer // nil: none is known
}

// NewRedactor returns a Redactor for what is written where this environment
// (NAME=VALUE) holds, and where these are known to be secrets.
func NewRedactor(environment []string, known ...string) *Redactor {
	var secrets []string
	for _, v := range environment {
		name, value, _ := strings.Cut(v, "=")
		if secretName(name) {
			secrets = append(secrets, value)
			secrets = append(secrets, strings.Split(value, "\n")...) // a log has them line by line
		} else if _, password, ok := urlPassword(value); ok {
			secrets = append(secrets, password)
		}
	}
	secrets = slices.DeleteFunc(secrets, func(s string) bool { return len(strings.TrimSpace(s)) < shortestSecret })
	secrets = append(secrets, Forms(known)...)
	if len(secrets) == 0 {
		return &Redactor{}
	}
	// Of two that begin alike the longer is found.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range slices.Compact(secrets) {
		pairs = append(pairs, s, redacted)
		if quoted, err := json.Marshal(s); err == nil && string(quoted[1:len(quoted)-1]) != s {
			pairs = append(pairs, string(quoted[1:len(quoted)-1]), redacted)
		}
	}
	return &Redactor{values: strings.NewReplacer(pairs...)}
}

// Forms are the forms in which values occur: whole, without the white space
// around them, line by line, and as programs like to encode them. What is too
// short to be told from other text is none.
func Forms(values []string) []string {
	var forms []string
	for _, v := range values {
		raw := []byte(v)
		forms = append(forms, v, strings.TrimSpace(v),
			base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), hex.EncodeToString(raw), url.QueryEscape(v))
		for line := range strings.Lines(v) {
			forms = append(forms, strings.TrimSpace(line))
		}
	}
	return slices.DeleteFunc(forms, func(s string) bool { return len(strings.TrimSpace(s)) < shortestKnown })
}

// secretWords are the words of a name that make what it names a secret.
var secretWords = []string{
	"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "KEY", "CREDENTIAL", "PRIVATE", "APIKEY", "AUTH", "AUTHORIZATION", "COOKIE", "SALT", "PASS", "PWD",
}

// secretName reports whether a name looks like that of a secret. Its words are
// divided by what is no letter, or by a capital letter.
func secretName(name string) bool {
	if name == "PWD" || name == "OLDPWD" { // directories
		return false
	}
	for _, whole := range []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY"} {
		if len(name) >= len(whole) && containsFold(name, whole) {
			return true
		}
	}
	for _, word := range wordsOf(name) {
		if slices.Contains(secretWords, strings.TrimSuffix(strings.ToUpper(word), "S")) || strings.EqualFold(word, "pass") {
			return true
		}
	}
	return false
}

// namedSecret is secretName where names are not only those of variables: a key
// or an author that stands alone is mostly that of a cache or a commit.
func namedSecret(name string) bool {
	switch strings.TrimSuffix(strings.ToLower(name), "s") {
	case "key", "auth", "private", "salt", "cookie", "authorization":
		return false
	default:
		return secretName(name)
	}
}

// wordsOf divides accessKey, ACCESS_KEY and access-key alike.
func wordsOf(name string) []string {
	var words []string
	start, before := 0, ' '
	for i, r := range name {
		letter := unicode.IsLetter(r)
		if !letter || unicode.IsUpper(r) && unicode.IsLower(before) {
			words = append(words, strings.TrimFunc(name[start:i], func(r rune) bool { return !unicode.IsLetter(r) }))
			start = i
		}
		before = r
	}
	return append(words, strings.TrimFunc(name[start:], func(r rune) bool { return !unicode.IsLetter(r) }))
}

// containsFold reports whether s contains the ASCII word, in whatever case.
func containsFold(s, word string) bool { return indexFold(s, word) >= 0 }

func indexFold(s, word string) int {
	for i := 0; i+len(word) <= len(s); i++ {
		if s[i]|0x20 == word[0]|0x20 && strings.EqualFold(s[i:i+len(word)], word) {
			return i
		}
	}
	return -1
}

// Environment returns the environment without its secrets.
func (r *Redactor) Environment(environment []string) []string {
	out := make([]string, len(environment))
	for i, v := range environment {
		name, value, _ := strings.Cut(v, "=")
		if out[i] = name + "=" + r.Text(value); secretName(name) {
			out[i] = name + "=" + redacted
		}
	}
	return out
}

// Text returns a text without its secrets.
func (r *Redactor) Text(s string) string {
	if !strings.Contains(s, "\n") && !strings.Contains(s, keyBegins) {
		return r.line(s)
	}
	stream := r.Stream()
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = stream.Line("", l)
	}
	return strings.Join(lines, "\n")
}

// JSON returns a document whose strings are without their secrets; what is no
// document is redacted as text.
func (r *Redactor) JSON(raw json.RawMessage) json.RawMessage {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if decoder.Decode(&v) != nil {
		b, _ := json.Marshal(r.Text(string(raw))) // a string always can
		return b
	}
	b, err := json.Marshal(r.value("", v))
	if err != nil {
		return nil
	}
	return b
}

func (r *Redactor) value(name string, v any) any {
	switch x := v.(type) {
	case string:
		if namedSecret(name) {
			return redacted
		}
		return r.Text(x)
	case []any:
		for i := range x {
			x[i] = r.value(name, x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = r.value(k, x[k])
		}
	}
	return v
}

// line redacts what is within one line.
func (r *Redactor) line(s string) string {
	if r.values != nil {
		s = r.values.Replace(s)
	}
	s = redactURLs(s)
	// Without the first letter each has two spellings that occur; to look for
	// these is ten times faster than for all.
	if strings.Contains(s, "uthorization") || strings.Contains(s, "UTHORIZATION") {
		s = redactHeader(s, "authorization")
	}
	if strings.Contains(s, "earer ") || strings.Contains(s, "EARER ") {
		s = redactBearer(s)
	}
	return redactNamed(s)
}

// Stream redacts lines that follow one another.
type Stream struct {
	r    *Redactor
	keys map[string]int // lines that a private key of each stream may still have
}

// Stream returns a redaction of the lines of one log.
func (r *Redactor) Stream() *Stream { return &Stream{r: r, keys: map[string]int{}} }

const (
	keyBegins = "-----BEGIN "
	keyEnds   = "-----END "
	keyIs     = "PRIVATE KEY"
)

// Line returns the next line of the named stream without its secrets.
func (x *Stream) Line(stream, s string) string {
	if left := x.keys[stream]; left > 0 {
		x.keys[stream] = left - 1
		_, after, ends := strings.Cut(s, keyEnds)
		if !ends {
			return redacted
		}
		x.keys[stream] = 0
		if _, rest, ok := strings.Cut(after, "-----"); ok {
			return redacted + x.Line(stream, rest)
		}
		return redacted
	}
	before, rest, begins := strings.Cut(s, keyBegins)
	if !begins {
		return x.r.line(s)
	}
	label, body, ok := strings.Cut(rest, "-----")
	if !ok || !strings.HasSuffix(label, keyIs) {
		return x.r.line(s)
	}
	x.keys[stream] = longestKey
	head := x.r.line(before)
	if body == "" {
		return head + redacted
	}
	return head + x.Line(stream, body)
}

// urlPassword finds the first URL with a password and returns where it is.
func urlPassword(s string) (from int, password string, ok bool) {
	for at := 0; ; {
		i := strings.Index(s[at:], "://")
		if i < 0 {
			return 0, "", false
		}
		at += i + len("://")
		authority := s[at:]
		if end := strings.IndexAny(authority, "/?# \t\"'<>`"); end >= 0 {
			authority = authority[:end]
		}
		user, _, given := cutLast(authority, "@")
		name, password, two := strings.Cut(user, ":")
		if given && two && password != "" {
			return at + len(name) + 1, password, true
		}
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func redactURLs(s string) string {
	var out strings.Builder
	for {
		from, password, ok := urlPassword(s)
		if !ok {
			if out.Len() == 0 {
				return s
			}
			return out.String() + s
		}
		out.WriteString(s[:from])
		out.WriteString(redacted)
		s = s[from+len(password):]
	}
}

// redactHeader takes out the value of a header, to its quote's or the line's
// end.
func redactHeader(s, header string) string {
	i := indexFold(s, header)
	if i < 0 {
		return s
	}
	at := i + len(header)
	rest := strings.TrimLeft(s[at:], `"'\`)
	rest = strings.TrimLeft(rest, " ")
	if rest == "" || rest[0] != ':' && rest[0] != '=' {
		return s[:at] + redactHeader(s[at:], header)
	}
	rest = strings.TrimLeft(rest[1:], ` "'[\`)
	value := rest
	if end := strings.IndexAny(rest, "\"'\\]\r\n"); end >= 0 {
		value = rest[:end]
	}
	if value == "" {
		return s
	}
	begin := len(s) - len(rest)
	return s[:begin] + redacted + redactHeader(rest[len(value):], header)
}

// redactBearer takes out tokens that follow the word Bearer.
func redactBearer(s string) string {
	const word = "bearer "
	i := indexFold(s, word)
	if i < 0 {
		return s
	}
	at := i + len(word)
	end := at
	for end < len(s) && !strings.ContainsRune(" \t\"'\\,;<>", rune(s[end])) {
		end++
	}
	if end-at < shortestSecret {
		return s[:end] + redactBearer(s[end:])
	}
	return s[:at] + redacted + redactBearer(s[end:])
}

// redactNamed takes out what is given the name of a secret: NAME=VALUE,
// name="value", "name": "value".
func redactNamed(s string) string {
	for at := 0; at < len(s); {
		i := strings.IndexAny(s[at:], "=:")
		if i < 0 {
			return s
		}
		at += i
		end := at // of the name
		quoted := end > 0 && (s[end-1] == '"' || s[end-1] == '\'')
		if quoted {
			end--
		}
		begin := end
		for begin > 0 && nameByte(s[begin-1]) {
			begin--
		}
		at++
		if begin == end || s[at-1] == ':' && !quoted || !namedSecret(s[begin:end]) {
			continue
		}
		from, to := valueAt(s, at)
		if to-from == 0 || s[from:to] == redacted {
			continue
		}
		s = s[:from] + redacted + s[to:]
		at = from + len(redacted)
	}
	return s
}

func nameByte(b byte) bool {
	return b == '_' || b == '-' || b == '.' || '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// valueAt returns where the value after a sign at is.
func valueAt(s string, at int) (from, to int) {
	for at < len(s) && s[at] == ' ' && s[at-1] != '=' {
		at++
	}
	if at < len(s) && (s[at] == '"' || s[at] == '\'') {
		from = at + 1
		to = from
		for to < len(s) && s[to] != s[at] {
			if s[to] == '\\' {
				to++
			}
			to++
		}
		return from, min(to, len(s))
	}
	to = at
	for to < len(s) && !strings.ContainsRune(" \t,;&\"'", rune(s[to])) {
		to++
	}
	return at, to
}

// redact takes the secrets out of everything in the content but the metrics.
func (c *Content) redact(r *Redactor) {
	c.Environment = r.Environment(c.Environment)
	stream := r.Stream()
	c.Log = slices.Clone(c.Log)
	for i, l := range c.Log {
		c.Log[i].Text = stream.Line(l.Stream, l.Text)
	}
	c.Processes = slices.Clone(c.Processes)
	for i, p := range c.Processes {
		c.Processes[i].Command = r.Text(p.Command)
	}
	c.Kernel = slices.Clone(c.Kernel)
	for i, l := range c.Kernel {
		c.Kernel[i] = r.line(l)
	}
	for i, e := range c.Events {
		c.Events[i].Text, c.Events[i].Event = r.Text(e.Text), r.JSON(e.Event)
	}
	c.Record.Reason = r.Text(c.Record.Reason)
}
