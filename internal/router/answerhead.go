package router

import "bytes"

// parseAnswer takes the head b of a server's answer apart, its last empty line
// included. A server that sends what cannot be read in one way only is not
// passed on: the next answer on the client's connection would be at its mercy.
func (h *head) parseAnswer(b []byte) *refusal {
	*h = head{fields: h.fields[:0], length: -1}
	end := bytes.IndexByte(b, '\n') // endOfHead has found it, with a CR before
	if r := h.statusLine(b[:end-1]); r != nil {
		return r
	}
	if r := h.lines(b[end+1:len(b)-2], maxAnswerFields); r != nil {
		return r
	}
	for i := range h.fields {
		f := &h.fields[i]
		if f.kind = answerKind(kindOf(f.name)); f.kind == plainField || f.kind == droppedHere || f.kind == dateField {
			continue
		}
		if r := h.note(f); r != nil {
			return r
		}
	}
	if h.chunked && h.minor == 0 {
		return bad("HTTP/1.0 has no Transfer-Encoding")
	}
	if h.chunked && h.length >= 0 {
		// The encoding is what counts (RFC 9112, 6.3), and nothing else is to
		// come on a connection whose other end writes both.
		h.length, h.closes = -1, true
	}
	return nil
}

// answerKind is what a request's kind of field is in an answer.
func answerKind(k fieldKind) fieldKind {
	switch k {
	case hostField, expectField, teField:
		return plainField
	case plainField, droppedHere, lengthField, encodingField, connectionField, upgradeField, trailerField, dateField:
	}
	return k
}

// statusLine takes the first line of an answer apart.
func (h *head) statusLine(line []byte) *refusal {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || (line[7] != '0' && line[7] != '1') {
		return bad("the answer does not begin with a version and a status")
	}
	h.minor = int(line[7] - '0')
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return bad("the answer's status is no number of three digits")
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || (len(line) > 12 && line[12] != ' ') {
		return bad("the answer's status is no number of three digits")
	}
	for _, c := range line[12:] {
		if !valueBytes[c] {
			return bad("the answer's reason has a control character")
		}
	}
	h.line = line[9:]
	return nil
}

// bodiless reports whether the answer to a request of the method has no body.
func (h *head) bodiless(method string) bool {
	return method == "HEAD" || h.status == 204 || h.status == 304 || h.status < 200
}

// names reports whether a Connection field names the field, which is then
// about one connection only.
func (h *head) names(name []byte) bool {
	for i := range h.fields {
		if h.fields[i].kind != connectionField {
			continue
		}
		for token := range bytes.SplitSeq(h.fields[i].value, []byte(",")) {
			if bytes.EqualFold(bytes.Trim(token, " \t"), name) {
				return true
			}
		}
	}
	return false
}
