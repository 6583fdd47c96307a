package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// slack is how long an answer may take over the length it was meant to have.
const slack = 30 * time.Second

// job is one request.
type job struct {
	class   string
	seed    uint64
	length  time.Duration // meant, chosen before it is sent
	drain   time.Duration // deadline of its class
	took    time.Duration
	version string // of the service that answered, as it says
	retried bool   // the client had to send it again, on another connection
	polite  bool   // a WebSocket that was closed with 1012
	err     error
}

// rng returns the job's own source of choices.
func (j *job) rng() *rand.Rand { return rand.New(rand.NewPCG(j.seed, 2)) }

// class carries one request out and fills the job in.
type class func(context.Context, *Run, *job)

// classes are the kinds of requests, by name.
func classes() map[string]class {
	return map[string]class{
		"page":      func(ctx context.Context, r *Run, j *job) { r.page(ctx, r.keep, j) },
		"fresh":     func(ctx context.Context, r *Run, j *job) { r.page(ctx, r.fresh, j) },
		"slow":      slow,
		"upload":    upload,
		"big":       big,
		"stream":    stream,
		"websocket": webSocket,
	}
}

// page asks for the front page.
func (r *Run) page(ctx context.Context, c *http.Client, j *job) {
	j.drain = r.opts.Drain.Requests
	body := r.do(ctx, c, j, http.MethodGet, "/", nil, r.opts.Checksum)
	if j.err == nil && !strings.Contains(string(body), r.opts.Expect) {
		j.err = fmt.Errorf("a page without %q", r.opts.Expect)
	}
}

// slow asks for an answer that takes up to 60 % of the drain deadline, most
// often a short one.
func slow(ctx context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Requests
	longest := min(0.6*j.drain.Seconds(), 10)
	part := j.rng().Float64()
	j.length = time.Duration(longest * part * part * part * float64(time.Second)).Truncate(time.Millisecond)
	r.do(ctx, r.keep, j, http.MethodGet, fmt.Sprintf("/slow?ms=%d", j.length.Milliseconds()), nil, true)
}

// upload sends a body of up to 256 KiB in pieces and checks what arrived.
func upload(ctx context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Requests
	rng := j.rng()
	body := filled(1+rng.IntN(256<<10), j.seed)
	sum := sha256.Sum256(body)
	// A reader of unknown length makes the client send chunks.
	var reader io.Reader = bytes.NewReader(body)
	if rng.IntN(2) == 0 {
		reader = io.MultiReader(reader)
	}
	answer := r.do(ctx, r.keep, j, http.MethodPost, "/echo", reader, true)
	if j.err == nil && string(answer) != hex.EncodeToString(sum[:]) {
		j.err = fmt.Errorf("wrong checksum of an upload")
	}
}

// big asks for up to 512 KiB.
func big(ctx context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Requests
	r.do(ctx, r.keep, j, http.MethodGet, fmt.Sprintf("/big?bytes=%d", j.rng().IntN(512<<10)), nil, true)
}

// filled returns n bytes that depend on the seed alone.
func filled(n int, seed uint64) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// do sends a request and returns the whole body of a right answer.
func (r *Run) do(ctx context.Context, c *http.Client, j *job, method, path string, body io.Reader, checked bool) []byte {
	res, cancel := r.send(ctx, c, j, method, path, body)
	defer cancel()
	if j.err != nil {
		return nil
	}
	began := time.Now()
	defer func() { _ = res.Body.Close(); j.took += time.Since(began) }()
	answer, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		j.err = fmt.Errorf("in the body: %w", err)
	case res.StatusCode < 200 || res.StatusCode > 299:
		j.err = fmt.Errorf("status %d: %.80s", res.StatusCode, firstLine(answer))
	case checked:
		if sum := sha256.Sum256(answer); res.Header.Get("X-Shop-Checksum") != hex.EncodeToString(sum[:]) {
			j.err = fmt.Errorf("wrong checksum of a body")
		}
	}
	return answer
}

// send sends a request and returns when the answer's headers are there. The
// function that it returns ends the exchange.
func (r *Run) send(ctx context.Context, c *http.Client, j *job, method, path string, body io.Reader) (*http.Response, func()) {
	ctx, cancel := context.WithTimeout(ctx, j.length+slack)
	connections := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connections++ }})
	req, err := http.NewRequestWithContext(ctx, method, r.opts.URL+path, body)
	if err != nil {
		j.err = err
		return nil, cancel
	}
	if r.opts.Host != "" {
		req.Host = r.opts.Host
	}
	began := time.Now()
	res, err := c.Do(req)
	j.took = time.Since(began)
	j.retried = connections > 1
	if err != nil {
		j.err = err
		return nil, cancel
	}
	j.version = res.Header.Get("X-Shop-Version")
	return res, cancel
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}
