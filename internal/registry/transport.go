package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// Host is the name of the registry for clients that reach it by Transport.
const Host = "kiln.internal"

// Transport reaches the registry without a connection, as whoever may use Handler
// does. Answers are kept in memory until they are read: it is for manifests and
// what is attached to images.
func (r *Registry) Transport() http.RoundTripper { return inProcess{r.inside} }

type inProcess struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(req *http.Request) (res *http.Response, err error) {
	in := req.Clone(req.Context())
	in.RequestURI, in.RemoteAddr = req.URL.RequestURI(), "kiln"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer in.Body.Close()
	out := &reply{header: http.Header{}}
	defer func() {
		if p := recover(); p != nil { // the handler's way to break an answer off
			res, err = nil, fmt.Errorf("the registry broke its answer off: %w", io.ErrUnexpectedEOF)
		}
	}()
	t.handler.ServeHTTP(out, in)
	out.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: http.StatusText(out.status), StatusCode: out.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: out.header, Body: io.NopCloser(bytes.NewReader(out.body.Bytes())), ContentLength: int64(out.body.Len()), Request: req,
	}, nil
}
