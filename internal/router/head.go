package router

import (
	"bytes"
	"strings"
)

// head is the head of an HTTP/1 message, taken apart by RFC 9112 without
// leniency: what two programs might read in two ways is refused. Its slices
// are of the buffer that the message was read into.
type head struct {
	minor  int    // of the version: HTTP/1.0 or HTTP/1.1
	method string // of a request
	target []byte // of a request, as it came
	path   []byte // of the target, still escaped; "*" for OPTIONS *
	origin []byte // of the target: path and query as they go to a server
	host   []byte // of a request, where it is for

	status int    // of an answer
	line   []byte // of an answer: status and reason

	fields  []field
	length  int64 // Content-Length; -1: there is none
	chunked bool
	trailer bool // a Trailer field is there
	closes  bool // Connection: close
	keeps   bool // Connection: keep-alive
	special bool // something in it wants more than passing it on
	upgrade bool // an Upgrade field is there
	expects bool // Expect: 100-continue
}

// field is one line of a head.
type field struct {
	name, value []byte
	kind        fieldKind
}

// fieldKind says what is to be done about a field.
type fieldKind uint8

const (
	plainField  fieldKind = iota // passed on as it is
	droppedHere                  // about this connection, or the router's to say
	hostField
	lengthField
	encodingField
	connectionField
	upgradeField
	expectField
	trailerField
	teField
	dateField
)

// Limits on heads; that on a request's length is Limits.HeaderBytes.
const (
	maxRequestFields = 100
	maxAnswerFields  = 1000
	maxAnswerHead    = 256 << 10
)

// refusal is why a message cannot be served, and how a request is answered then.
type refusal struct {
	status int
	text   string
}

func bad(text string) *refusal { return &refusal{400, text} }

// Error implements error, for answers of servers.
func (r *refusal) Error() string { return r.text }

// endOfHead looks for the end of the head in b, of which it knows that from is
// the beginning of a line. It returns the end, or 0 and from where to go on
// when there is more. Every line ends with CR LF: a bare LF is refused as soon
// as it is seen.
func endOfHead(b []byte, from int) (end, next int, r *refusal) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		switch {
		case i < 0:
			return 0, from, nil
		case i == 0 || b[from+i-1] != '\r':
			return 0, 0, bad("a line of the head does not end with CR LF")
		case i == 1 && from == 0:
			return 0, 0, bad("the head begins with an empty line")
		case i == 1:
			return from + 2, from, nil
		}
		from += i + 1
	}
}

// parseRequest takes the head b apart, its last empty line included.
func (h *head) parseRequest(b []byte) *refusal {
	*h = head{fields: h.fields[:0], length: -1}
	end := bytes.IndexByte(b, '\n') // endOfHead has found it, with a CR before
	if r := h.requestLine(b[:end-1]); r != nil {
		return r
	}
	if r := h.lines(b[end+1:len(b)-2], maxRequestFields); r != nil {
		return r
	}
	hosts := 0
	for i := range h.fields {
		f := &h.fields[i]
		f.kind = kindOf(f.name)
		if r := h.note(f); r != nil {
			return r
		}
		if f.kind == hostField {
			hosts++
		}
	}
	switch {
	case hosts > 1:
		return bad("there is more than one Host")
	case hosts == 0 && h.minor > 0:
		return bad("there is no Host")
	case h.chunked && h.length >= 0:
		return bad("there are both Content-Length and Transfer-Encoding")
	case h.chunked && h.minor == 0:
		return bad("HTTP/1.0 has no Transfer-Encoding")
	}
	return nil
}

// requestLine takes the first line of a request apart.
func (h *head) requestLine(line []byte) *refusal {
	i := bytes.IndexByte(line, ' ')
	j := bytes.LastIndexByte(line, ' ')
	if i <= 0 || j <= i {
		return bad("the request line is not a method, a target and a version")
	}
	for _, c := range line[:i] {
		if !tokenBytes[c] {
			return bad("the method is no token")
		}
	}
	h.method = methodOf(line[:i])
	h.target = line[i+1 : j]
	version := line[j+1:]
	switch {
	case string(version) == "HTTP/1.1":
		h.minor = 1
	case string(version) == "HTTP/1.0":
	case len(version) == 8 && string(version[:5]) == "HTTP/":
		return &refusal{505, "the version of HTTP is not one that is served here"}
	default:
		return bad("the request line does not end with a version")
	}
	return h.takeTarget()
}

// methodOf returns the method, without allocating for those that are common.
func methodOf(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "PATCH":
		return "PATCH"
	case "OPTIONS":
		return "OPTIONS"
	}
	return string(b)
}

// takeTarget takes the target apart. It is a path, or a whole URL of HTTP, or *
// for OPTIONS; the form of CONNECT is left to who refuses it.
func (h *head) takeTarget() *refusal {
	for _, c := range h.target {
		if c <= ' ' || c == 0x7f || c == '#' {
			return bad("the target has a byte that it must not have")
		}
	}
	t := h.target
	switch {
	case h.method == "CONNECT":
		return nil
	case len(t) == 0:
		return bad("the target is empty")
	case t[0] == '/':
		h.origin = t
	case string(t) == "*" && h.method == "OPTIONS":
		h.origin, h.path = t, t
		return nil
	default:
		if r := h.absoluteTarget(); r != nil {
			return r
		}
	}
	h.path = h.origin
	if i := bytes.IndexByte(h.path, '?'); i >= 0 {
		h.path = h.path[:i]
	}
	for rest := h.path; ; {
		i := bytes.IndexByte(rest, '%')
		if i < 0 {
			return nil
		}
		if len(rest) < i+3 || !hexBytes[rest[i+1]] || !hexBytes[rest[i+2]] {
			return bad("the path has an escape that is none")
		}
		rest = rest[i+3:]
	}
}

// absoluteTarget takes a whole URL apart. Its authority has to be the Host as
// well, which note sees to.
func (h *head) absoluteTarget() *refusal {
	t := h.target
	i := bytes.Index(t, []byte("://"))
	if i < 0 || (!same(t[:i], "http") && !same(t[:i], "https")) {
		return bad("the target is neither a path nor a URL of HTTP")
	}
	t = t[i+3:]
	end := bytes.IndexAny(t, "/?")
	if end < 0 {
		end = len(t)
	}
	h.host = t[:end]
	if len(h.host) == 0 || !validHost(h.host) {
		return bad("the target's authority is no host")
	}
	h.origin = t[end:]
	if len(h.origin) == 0 {
		h.origin = []byte("/")
	}
	if h.origin[0] != '/' {
		return bad("the target is a URL without a path")
	}
	return nil
}

// lines takes the fields apart.
func (h *head) lines(b []byte, most int) *refusal {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 1 || b[end-1] != '\r' {
			return bad("a line of the head does not end with CR LF")
		}
		line := b[:end-1]
		b = b[end+1:]
		n := 0
		for n < len(line) && tokenBytes[line[n]] {
			n++
		}
		if n == 0 || n == len(line) || line[n] != ':' {
			return bad("a line of the head is not a name, a colon and a value")
		}
		value := line[n+1:]
		for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
			value = value[1:]
		}
		for len(value) > 0 && (value[len(value)-1] == ' ' || value[len(value)-1] == '\t') {
			value = value[:len(value)-1]
		}
		for _, c := range value {
			if !valueBytes[c] {
				return bad("a value of the head has a control character")
			}
		}
		if len(h.fields) == most {
			return &refusal{431, "the head has too many fields"}
		}
		h.fields = append(h.fields, field{name: line[:n], value: value})
	}
	return nil
}

// note keeps what a field means for the message itself.
func (h *head) note(f *field) *refusal {
	switch f.kind {
	case lengthField:
		n, ok := parseLength(f.value)
		if !ok || h.length >= 0 {
			return bad("Content-Length is not one number")
		}
		h.length = n
	case encodingField:
		if h.chunked || !same(f.value, "chunked") {
			return &refusal{501, "Transfer-Encoding is not chunked alone"}
		}
		h.chunked = true
	case hostField:
		if !validHost(f.value) {
			return bad("Host is no host")
		}
		if h.host != nil && string(h.host) != string(f.value) {
			return bad("Host is not the target's")
		}
		h.host = f.value
	case connectionField:
		h.connection(f.value)
	case upgradeField:
		h.upgrade, h.special = true, true
	case trailerField:
		h.trailer, h.special = true, true
	case teField:
		h.special = true
	case expectField:
		h.special = true
		if !same(f.value, "100-continue") {
			return &refusal{417, "Expect is not 100-continue"}
		}
		h.expects = true
	case plainField, droppedHere, dateField:
	}
	return nil
}

// connection notes what a Connection field says. One that names further fields
// makes the head special.
func (h *head) connection(value []byte) {
	for len(value) > 0 {
		token := value
		if i := bytes.IndexByte(value, ','); i >= 0 {
			token, value = value[:i], value[i+1:]
		} else {
			value = nil
		}
		switch token = bytes.Trim(token, " \t"); {
		case same(token, "close"):
			h.closes = true
		case same(token, "keep-alive"):
			h.keeps = true
		case len(token) > 0:
			h.special = true
		}
	}
}

// parseLength reads digits and nothing else.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// kindOf says what a field is. A name with underscores is not passed on where
// the same with dashes means something to a router: programs that hand heads
// over as variables cannot tell the two apart.
func kindOf(name []byte) fieldKind {
	kind := plainField
	switch len(name) {
	case 2:
		kind = kindIf(name, "te", teField)
	case 4:
		if kind = kindIf(name, "host", hostField); kind == plainField {
			kind = kindIf(name, "date", dateField)
		}
	case 6:
		kind = kindIf(name, "expect", expectField)
	case 7:
		if kind = kindIf(name, "upgrade", upgradeField); kind == plainField {
			kind = kindIf(name, "trailer", trailerField)
		}
	case 9:
		if same(name, "forwarded") || same(name, "x-real-ip") {
			kind = droppedHere
		}
	case 10:
		if kind = kindIf(name, "connection", connectionField); kind == plainField {
			kind = kindIf(name, "keep-alive", droppedHere)
		}
	case 14:
		if kind = kindIf(name, "content-length", lengthField); kind == plainField {
			kind = kindIf(name, "http2-settings", droppedHere)
		}
	case 16:
		kind = kindIf(name, "proxy-connection", droppedHere)
	case 17:
		kind = kindIf(name, "transfer-encoding", encodingField)
	case 18:
		kind = kindIf(name, "proxy-authenticate", droppedHere)
	case 19:
		kind = kindIf(name, "proxy-authorization", droppedHere)
	}
	if kind == plainField && len(name) > 12 && (name[0]|0x20) == 'x' && same(name[:12], "x-forwarded-") {
		kind = droppedHere
	}
	if kind != plainField && bytes.IndexByte(name, '_') >= 0 {
		kind = droppedHere
	}
	return kind
}

func kindIf(name []byte, want string, kind fieldKind) fieldKind {
	if same(name, want) {
		return kind
	}
	return plainField
}

// same reports whether b is want, which is in lower case; letters of any case
// are alike, and so are underscores and dashes.
func same(b []byte, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		} else if c == '_' {
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// byteSet is which bytes may stand somewhere.
type byteSet [256]bool

func setOf(chars string, ranges ...byte) (s byteSet) {
	for i := range len(chars) {
		s[chars[i]] = true
	}
	for i := 0; i+1 < len(ranges); i += 2 {
		for c := int(ranges[i]); c <= int(ranges[i+1]); c++ {
			s[c] = true
		}
	}
	return s
}

var (
	tokenBytes = setOf("!#$%&'*+-.^_`|~", '0', '9', 'a', 'z', 'A', 'Z')
	valueBytes = setOf("\t", ' ', '~', 0x80, 0xff)
	hexBytes   = setOf("", '0', '9', 'a', 'f', 'A', 'F')
	hostBytes  = setOf("!$&'()*+,-.:;=[]_~", '0', '9', 'a', 'z', 'A', 'Z')
)

// validHost reports whether b can be a host with a port, as far as its bytes
// tell. An empty one is allowed (RFC 9112, 3.2).
func validHost(b []byte) bool {
	for _, c := range b {
		if !hostBytes[c] {
			return false
		}
	}
	return true
}

// header implements visitor, over lines as they came.
func (h *head) header(name string) string {
	for i := range h.fields {
		if f := &h.fields[i]; len(f.name) == len(name) && strings.EqualFold(string(f.name), name) {
			return string(f.value)
		}
	}
	return ""
}

// cookie implements visitor: the first of the name that is a place.
func (h *head) cookie(name string) string {
	for i := range h.fields {
		f := &h.fields[i]
		if !same(f.name, "cookie") {
			continue
		}
		for pair := range strings.SplitSeq(string(f.value), ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if _, ok := parsePlace(strings.Trim(value, `"`)); key == name && ok {
				return strings.Trim(value, `"`)
			}
		}
	}
	return ""
}
