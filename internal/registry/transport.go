package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"kiln/internal/model"
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

// CopyBlob copies a blob of a repository to w as it is read, without keeping it in
// memory.
//
// NotFound: it is not here. Precondition: it is damaged where it is kept; of a large one
// the beginning may be written then. Unavailable: it cannot be read now.
func (r *Registry) CopyBlob(ctx context.Context, repository string, d model.Digest, w io.Writer) (err error) {
	target := "http://" + Host + "/v2/" + repository + "/blobs/" + string(d)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return model.Errorf(model.Invalid, "cannot read %s: %w", d, err)
	}
	req.RequestURI, req.RemoteAddr = req.URL.RequestURI(), "kiln"
	damaged := model.Errorf(model.Precondition, "cannot read %s: it is damaged where it is kept", d.Short())
	defer func() {
		if p := recover(); p != nil { // the handler's way to break an answer off
			err = damaged
		}
	}()
	out := &copied{w: w, header: http.Header{}}
	r.inside.ServeHTTP(out, req)
	switch {
	case out.err != nil:
		return model.Errorf(model.Unavailable, "cannot pass %s on: %w", d.Short(), out.err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case out.status == http.StatusNotFound:
		return model.Errorf(model.NotFound, "%s is not in the repository %s", d.Short(), repository)
	case out.status == http.StatusInternalServerError && bytes.Contains(out.refusal.Bytes(), []byte("damaged")):
		return damaged
	case out.status != http.StatusOK:
		return model.Errorf(model.Unavailable, "cannot read %s: the registry answered %d: %s", d.Short(), out.status, out.refusal.String())
	}
	return nil
}

// copied passes a good answer's body on.
type copied struct {
	w       io.Writer
	header  http.Header
	status  int
	refusal bytes.Buffer
	err     error // of w
}

// Header implements http.ResponseWriter.
func (c *copied) Header() http.Header { return c.header }

// WriteHeader implements http.ResponseWriter.
func (c *copied) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
}

// Write implements http.ResponseWriter.
func (c *copied) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.status != http.StatusOK {
		return c.refusal.Write(p)
	}
	n, err := c.w.Write(p)
	if err != nil && c.err == nil {
		c.err = err
	}
	return n, err
}
