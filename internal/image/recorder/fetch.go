package recorder

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"kiln/internal/image"
	"kiln/internal/lock"
	"kiln/internal/model"
)

// forgotten are request headers that are the connection's, or would make the
// answer depend on what the client has already.
var forgotten = []string{
	"Accept-Encoding", "Connection", "Proxy-Connection", "Proxy-Authorization", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"If-Modified-Since", "If-None-Match", "If-Match", "If-Unmodified-Since", "If-Range", "Range",
}

// ask asks the network for what a client wants, whole and not compressed.
func (r *Recorder) ask(ctx context.Context, method string, key request, headers http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, key.name, nil)
	if err != nil {
		return nil, err
	}
	req.Header = headers.Clone()
	for _, name := range forgotten {
		req.Header.Del(name)
	}
	req.Header.Set("Accept-Encoding", "identity")
	if key.rng != "" {
		req.Header.Set("Range", key.rng)
	}
	return r.cfg.Transport.RoundTrip(req)
}

// bytes opens the bytes of an entry. Where they are not here they are fetched
// again, unless the recorder is sealed, and are what the lock says or refused.
func (r *Recorder) bytes(ctx context.Context, e lock.Entry, headers http.Header) (*image.Input, error) {
	in, err := r.open(ctx, e)
	if model.CodeOf(err) != model.NotFound {
		return in, err
	}
	if r.cfg.Mode == Sealed {
		return nil, gone(r.Where(e), e)
	}
	if err := r.refetch(ctx, e, headers); err != nil {
		return nil, err
	}
	return r.open(ctx, e)
}

func gone(where string, e lock.Entry) *model.Error {
	return model.Errorf(model.Denied, "%s: the bytes of %s are not here", where, e.Name).
		WithHint("a build without --locked fetches them again, and takes them if they are the same")
}

// refetch fetches what an entry names.
func (r *Recorder) refetch(ctx context.Context, e lock.Entry, headers http.Header) error {
	refuse := func(err error) error {
		return model.Errorf(model.Denied, "%s: the bytes of %s are not here, and cannot be fetched again: %w", r.Where(e), e.Name, err).
			WithHint("kiln lock update locks what is there now")
	}
	resp, err := r.ask(ctx, http.MethodGet, request{e.Kind, e.Name, e.Range}, headers)
	if err == nil && e.Kind == lock.Add {
		resp, err = r.follow(ctx, resp, headers)
	}
	if err != nil {
		return refuse(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != status(e) {
		return refuse(errors.New("the answer is " + resp.Status))
	}
	out, err := r.cfg.Bytes.New(ctx)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return refuse(err)
	}
	if _, err := out.Keep(e.Digest); err != nil {
		if model.CodeOf(err) == model.Invalid {
			return model.Errorf(model.Denied, "%s: %s has other bytes now than the lock says: %w, and the lock says %s", r.Where(e), e.Name, err, e.Digest).
				WithHint("kiln lock update locks what is there now")
		}
		return err
	}
	return nil
}

// follow goes where redirections lead, as ADD does.
func (r *Recorder) follow(ctx context.Context, resp *http.Response, headers http.Header) (*http.Response, error) {
	const most = 10
	at, err := url.Parse(resp.Request.URL.String())
	if err != nil {
		return nil, err
	}
	for range most {
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, nil
		}
		next, err := at.Parse(resp.Header.Get("Location"))
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if next.Host != at.Host { // a login is for whom it was given
			headers = headers.Clone()
			headers.Del("Authorization")
			headers.Del("Cookie")
		}
		if at = next; at.Scheme != "http" && at.Scheme != "https" {
			return nil, errors.New("it leads to " + canonical(at))
		}
		if resp, err = r.ask(ctx, http.MethodGet, request{name: at.String()}, headers); err != nil {
			return nil, err
		}
	}
	_ = resp.Body.Close()
	return nil, errors.New("it was sent on ten times")
}

// Fetch answers a request of ADD's.
func (r *Recorder) Fetch(req *http.Request) (*http.Response, error) {
	key := request{kind: lock.Add, name: canonical(req.URL)}
	r.mu.Lock()
	turn := r.fetching[key]
	if turn == nil {
		turn = &sync.Mutex{}
		r.fetching[key] = turn
	}
	r.mu.Unlock()
	turn.Lock()
	defer turn.Unlock()
	ctx := req.Context()
	e, known := r.Entry(lock.Add, key.name)
	if !known {
		r.mu.Lock()
		e, known = r.added[string(lock.Add)+" "+key.name]
		r.mu.Unlock()
	}
	if !known {
		if r.cfg.Mode != Record {
			return nil, r.Missing("ADD " + key.name)
		}
		var err error
		if e, err = r.fetchAdded(ctx, key, req.Header); err != nil {
			return nil, err
		}
	}
	in, err := r.bytes(ctx, e, req.Header)
	if err != nil {
		if m, ok := errors.AsType[*model.Error](err); ok && m.Code == model.Denied {
			err = r.Refuse(Refusal{What: "ADD " + key.name, Why: "is refused: " + m.Message, Hint: m.Hint})
		}
		return nil, err
	}
	r.Note(e)
	return added(req, e, in), nil
}

// fetchAdded fetches what ADD names, wherever that leads.
func (r *Recorder) fetchAdded(ctx context.Context, key request, headers http.Header) (lock.Entry, error) {
	refuse := func(err error) (lock.Entry, error) {
		return lock.Entry{}, model.Errorf(model.Unavailable, "cannot fetch %s: %w", key.name, err)
	}
	resp, err := r.ask(ctx, http.MethodGet, key, headers)
	if err == nil {
		resp, err = r.follow(ctx, resp, headers)
	}
	if err != nil {
		return refuse(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refuse(errors.New("the answer is " + resp.Status))
	}
	out, err := r.cfg.Bytes.New(ctx)
	if err != nil {
		return lock.Entry{}, err
	}
	defer out.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return refuse(err)
	}
	e := entryOf(key, resp, "")
	e.Location, e.Part, e.Accept = "", "", ""
	kept, err := out.Keep("")
	e.Digest, e.Size = kept.Digest, kept.Size
	return e, err
}

// added is the answer to ADD.
func added(req *http.Request, e lock.Entry, in *image.Input) *http.Response {
	h := http.Header{"Etag": {`"` + strings.TrimPrefix(string(e.Digest), "sha256:") + `"`}, "Content-Length": {strconv.FormatInt(e.Size, 10)}}
	if e.Type != "" {
		h.Set("Content-Type", e.Type)
	}
	if e.Encoding != "" {
		h.Set("Content-Encoding", e.Encoding)
	}
	if t, err := time.Parse(time.RFC3339, e.Modified); err == nil {
		h.Set("Last-Modified", t.UTC().Format(http.TimeFormat))
	}
	resp := &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: in, ContentLength: e.Size, Request: req,
	}
	if req.Method == http.MethodHead {
		_ = in.Close()
		resp.Body = http.NoBody
	}
	return resp
}
