package router

import (
	"net/http"
	"strings"
)

// HTTP/2 is read by net/http, which lets through what has a meaning in a head of
// HTTP/1 and must not get into one. What it has read is held to the rules of
// our own parser before anything is made of it.

// readAgain makes req what conn1 would have made of it, or refuses it as conn1
// would have done. What it says of TLS is the connection's, whatever scheme the
// client has written.
func readAgain(req *http.Request) *refusal {
	if r := checkLine(req); r != nil {
		return r
	}
	switch hosts := req.Header["Host"]; {
	case !validHost([]byte(req.Host)):
		return bad("the host is none")
	case len(hosts) > 1:
		return bad("there is more than one Host")
	case len(hosts) == 1 && !strings.EqualFold(hosts[0], req.Host):
		return bad("Host is not the target's")
	}
	delete(req.Header, "Host") // req.Host is it
	for key := range req.Header {
		if kindOf([]byte(key)) == droppedHere {
			delete(req.Header, key)
		}
	}
	for key := range req.Trailer {
		if kindOf([]byte(key)) != plainField || !isToken(key) {
			delete(req.Trailer, key) // net/http fills in what is announced here
		}
	}
	return nil
}

// checkLine refuses what could not be a request line.
func checkLine(req *http.Request) *refusal {
	if !isToken(req.Method) {
		return bad("the method is no token")
	}
	h := head{method: req.Method, target: []byte(req.RequestURI)}
	if r := h.takeTarget(); r != nil {
		return r
	}
	if h.host != nil {
		return bad("the target is not a path")
	}
	return nil
}
