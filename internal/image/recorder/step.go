package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"kiln/internal/lock"
	"kiln/internal/model"
)

// instead says what a build does in place of what the recorder cannot replay.
const instead = "fetch a repository with ADD https://…/repository.git#COMMIT, and everything else with GET"

// Step is the network of one step: an http.Handler for requests whose URLs are
// whole.
type Step struct {
	r   *Recorder
	id  string
	ctx context.Context // for what the step has begun to fetch
	cut context.CancelFunc

	mu    sync.Mutex
	times map[request]int
}

// Step returns the view of a step, which is known by its command. Nothing is fetched
// for it any more when ctx is done.
func (r *Recorder) Step(ctx context.Context, command string) *Step {
	s := &Step{r: r, id: lock.StepID(command), times: map[request]int{}}
	s.ctx, s.cut = context.WithCancel(ctx)
	return s
}

// Tell tells another build, which waits for the same step, what that did not get.
func (s *Step) Tell(other *Recorder) {
	s.r.mu.Lock()
	mine := where(s.r.refusals, func(f Refusal) bool { return f.step == s.id })
	s.r.mu.Unlock()
	other.mu.Lock()
	defer other.mu.Unlock()
	other.refusals = append(other.refusals, mine...)
}

// Refuse notes what the step tried in another way than HTTP.
func (s *Step) Refuse(what, why string) *model.Error {
	return s.r.Refuse(Refusal{What: what, Why: why, Hint: instead, step: s.id})
}

// Succeeded says that the step has ended well, whatever it did not get.
func (s *Step) Succeeded() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	for i := range s.r.refusals {
		if s.r.refusals[i].step == s.id {
			s.r.refusals[i].Without = true
		}
	}
}

// ServeHTTP answers a request, and refuses what cannot be answered again.
func (s *Step) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	u := canonical(req.URL)
	what := req.Method + " " + u
	switch {
	case strings.HasPrefix(req.URL.Query().Get("service"), "git-"):
		s.deny(w, Refusal{What: what, Why: "is Git's, which a lock cannot replay", Hint: instead})
		return
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		s.deny(w, Refusal{What: what, Why: "is refused: only what is fetched with GET can be locked", Hint: instead})
		return
	case req.Header.Get("Upgrade") != "":
		s.deny(w, Refusal{What: what, Why: "is refused: it wants to go on as " + req.Header.Get("Upgrade"), Hint: instead})
		return
	}
	rng := req.Header.Get("Range")
	if req.Header.Get("If-Range") != "" {
		rng = ""
	}
	kind := lock.Get
	if req.Method == http.MethodHead {
		kind, rng = lock.Head, ""
	}
	key := request{kind, u, rng}
	s.mu.Lock()
	s.times[key]++
	nth := s.times[key]
	s.mu.Unlock()
	s.answer(w, req, key, nth)
}

// answer answers the nth request of its kind.
func (s *Step) answer(w http.ResponseWriter, req *http.Request, key request, nth int) {
	ctx, accept := req.Context(), req.Header.Get("Accept")
	e, known := s.r.lookup(key, accept, s.id, nth)
	if !known && (key.kind == lock.Head || key.rng != "") {
		// What was fetched whole tells of itself, and has its parts.
		if whole, ok := s.r.lookup(request{lock.Get, key.name, ""}, accept, s.id, nth); ok && whole.Status == 0 {
			e, known = whole, true
		}
	}
	switch {
	case known:
		if err := s.replay(ctx, w, req, e); err != nil {
			s.failed(w, req.Method+" "+key.name, err)
			return
		}
		s.note(nth, e)
	case s.r.cfg.Mode == Record:
		s.fetch(w, req, key, nth)
	default:
		s.deny(w, s.r.missing(req.Method+" "+key.name))
	}
}

// note puts an answer among what the build was made from.
func (s *Step) note(nth int, e lock.Entry) {
	e.Line, e.Step, e.Nth = 0, "", 0
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.notes = append(s.r.notes, note{s.id, nth, e})
}

// replay answers from the lock.
func (s *Step) replay(ctx context.Context, w http.ResponseWriter, req *http.Request, e lock.Entry) error {
	h := w.Header()
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Content-Type", e.Type)
	set("Content-Encoding", e.Encoding)
	set("Location", e.Location)
	set("Content-Range", e.Part)
	modified, _ := time.Parse(time.RFC3339, e.Modified) // zero: not said
	if !modified.IsZero() {
		h.Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
	}
	if e.Type == "" {
		h["Content-Type"] = nil // nobody is to guess
	}
	if e.Kind == lock.Head {
		if e.Size > 0 { // 0: it was not said
			h.Set("Content-Length", strconv.FormatInt(e.Size, 10))
		}
		w.WriteHeader(status(e))
		return nil
	}
	in, err := s.r.bytes(ctx, e, req.Header)
	if err != nil {
		clear(h)
		return err
	}
	defer in.Close()
	if e.Status == 0 {
		asked := &http.Request{Method: req.Method, URL: req.URL, Header: http.Header{}}
		if rng := req.Header.Get("Range"); rng != "" && req.Header.Get("If-Range") == "" && e.Range == "" {
			asked.Header.Set("Range", rng)
		}
		http.ServeContent(w, asked, "", modified, in.SectionReader)
		return nil
	}
	h.Set("Content-Length", strconv.FormatInt(e.Size, 10))
	w.WriteHeader(status(e))
	if req.Method != http.MethodHead {
		_, _ = io.Copy(w, in) // who has gone has not got it
	}
	return nil
}

func status(e lock.Entry) int {
	if e.Status == 0 {
		return http.StatusOK
	}
	return e.Status
}

// fetch answers from the network, and keeps what it gives: whole, whether or not
// the client stays.
func (s *Step) fetch(w http.ResponseWriter, req *http.Request, key request, nth int) {
	resp, err := s.r.ask(s.ctx, req.Method, key, req.Header)
	if err != nil {
		s.r.cfg.Log.Info("a build cannot fetch", "url", key.name, "error", err)
		_ = s.r.Refuse(Refusal{What: req.Method + " " + key.name, Why: "cannot be fetched: " + err.Error(), Passing: true, step: s.id})
		http.Error(w, "kiln: cannot fetch "+key.name+": "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	e := entryOf(key, resp, req.Header.Get("Accept"))
	out, err := s.r.cfg.Bytes.New(s.ctx)
	if err != nil {
		s.failed(w, req.Method+" "+key.name, err)
		return
	}
	defer out.Close()
	for _, name := range []string{"Content-Type", "Content-Encoding", "Location", "Content-Range", "Last-Modified", "Retry-After", "Www-Authenticate"} {
		if v := resp.Header.Values(name); len(v) > 0 {
			w.Header()[name] = v
		}
	}
	if resp.Header.Get("Content-Type") == "" {
		w.Header()["Content-Type"] = nil
	}
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(out, io.TeeReader(resp.Body, &faithless{w: w})); err != nil {
		s.r.cfg.Log.Info("a build cannot fetch all of it", "url", key.name, "error", err)
		_ = s.r.Refuse(Refusal{What: req.Method + " " + key.name, Why: "cannot be fetched whole: " + err.Error(), Passing: s.ctx.Err() == nil, step: s.id})
		panic(http.ErrAbortHandler) // the client sees that it is not whole
	}
	if transient(resp.StatusCode) {
		return // it is tried again, or was not needed
	}
	if key.kind == lock.Head {
		e.Size = max(0, resp.ContentLength)
	} else {
		kept, err := out.Keep("")
		if err != nil {
			_ = s.r.Refuse(Refusal{What: req.Method + " " + key.name, Why: "cannot be kept: " + err.Error(), step: s.id})
			panic(http.ErrAbortHandler)
		}
		e.Digest, e.Size = kept.Digest, kept.Size
	}
	s.note(nth, e)
}

// faithless passes bytes on until the other end is gone.
type faithless struct {
	w    io.Writer
	gone bool
}

func (f *faithless) Write(p []byte) (int, error) {
	if !f.gone {
		_, err := f.w.Write(p)
		f.gone = err != nil
	}
	return len(p), nil
}

// transient reports whether an answer is one that the same request may not get
// again in a moment.
func transient(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// entryOf is what an answer says, less its bytes.
func entryOf(key request, resp *http.Response, accept string) lock.Entry {
	e := lock.Entry{
		Kind: key.kind, Name: key.name, Range: key.rng,
		Type: resp.Header.Get("Content-Type"), Encoding: resp.Header.Get("Content-Encoding"),
		Location: WithoutLogin(resp.Header.Get("Location")), Part: resp.Header.Get("Content-Range"),
	}
	if resp.StatusCode != http.StatusOK {
		e.Status = resp.StatusCode
	}
	for _, vary := range resp.Header.Values("Vary") {
		for name := range strings.SplitSeq(vary, ",") {
			if strings.EqualFold(strings.TrimSpace(name), "Accept") {
				e.Accept = accept
			}
		}
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		e.Modified = t.UTC().Format(time.RFC3339)
	}
	return e
}

// failed answers a request that the recorder itself cannot answer.
func (s *Step) failed(w http.ResponseWriter, what string, err error) {
	if m, ok := errors.AsType[*model.Error](err); ok && m.Code == model.Denied {
		s.deny(w, Refusal{What: what, Why: "is refused: " + m.Message, Hint: m.Hint})
		return
	}
	s.deny(w, Refusal{What: what, Why: "cannot be answered: " + err.Error()})
}

// deny says no, for the step's output and for the build's error.
func (s *Step) deny(w http.ResponseWriter, f Refusal) {
	f.step = s.id
	err := s.r.Refuse(f)
	text := "kiln: " + err.Error() + "\n"
	if f.Hint != "" {
		text += "  " + f.Hint + "\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, text) // it is in the build's error as well
}

// canonical is a URL as the lock file has it: without a login, a fragment and
// the port that goes without saying.
func canonical(u *url.URL) string {
	c := *u
	c.User, c.Fragment, c.RawFragment, c.Scheme, c.Host = nil, "", "", strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	for scheme, port := range map[string]string{"http": ":80", "https": ":443"} {
		if c.Scheme == scheme {
			c.Host = strings.TrimSuffix(c.Host, port)
		}
	}
	if c.Path == "" {
		c.Path = "/"
	}
	var b strings.Builder
	for _, r := range []byte(c.String()) {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			fmt.Fprintf(&b, "%%%02X", r)
		} else {
			b.WriteByte(r)
		}
	}
	return b.String()
}

// WithoutLogin is a URL without the password that may be in it, over HTTP without the
// login: none gets into the lock file. What is no URL stays as it is.
func WithoutLogin(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	name := u.User.Username() // SSH needs it, and it tells nothing
	if u.User = nil; u.Scheme != "http" && u.Scheme != "https" && name != "" {
		u.User = url.User(name)
	}
	return u.String()
}

// Canonical is a URL as the lock file has it, or s where it is none.
func Canonical(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	return canonical(u)
}
