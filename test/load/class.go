package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// slack is how long an answer may take over the length it was meant to have.
const slack = 30 * time.Second

// job is one request.
type job struct {
	class   string
	seed    uint64
	began   time.Time
	allowed map[string]bool // versions that may answer; nil: any
	length  time.Duration   // meant, chosen before it is sent
	drain   time.Duration   // deadline of its class
	took    time.Duration
	version string // of the service that answered, as it says
	server  string // that answered, as it says
	retried bool   // the client had to send it again, on another connection
	polite  bool   // a WebSocket that was closed with 1012
	err     error
}

// rng returns the job's own source of choices.
func (j *job) rng() *rand.Rand { return rand.New(rand.NewPCG(j.seed, 2)) }

// class carries one request out and fills the job in.
type class func(context.Context, *Run, *job)

// classes are the kinds of requests, by name.
var classes = map[string]class{
	"page":      func(_ context.Context, r *Run, j *job) { r.page(r.keep, false, j) },
	"fresh":     func(_ context.Context, r *Run, j *job) { r.page(r.keep, true, j) },
	"tcp":       func(_ context.Context, r *Run, j *job) { r.page(r.bytes, true, j) },
	"tls":       func(_ context.Context, r *Run, j *job) { r.page(r.secure, j.rng().IntN(4) == 0, j) },
	"post":      post,
	"slow":      slow,
	"upload":    upload,
	"big":       big,
	"h2":        h2,
	"stream":    stream,
	"websocket": webSocket,
}

// page asks for the front page.
func (r *Run) page(w *wire, fresh bool, j *job) {
	j.drain = r.opts.Drain.Requests
	head := r.front
	if fresh {
		head = r.frontClose
	}
	body, done := r.do(w, j, head, nil, fresh, r.opts.Checksum)
	defer done()
	if j.err == nil && !bytes.Contains(body, r.expect) {
		j.err = fmt.Errorf("a page without %q", r.opts.Expect)
	}
}

// slow asks for an answer that takes up to 60 % of the drain deadline, most
// often a short one.
func slow(_ context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Requests
	longest := min(0.6*j.drain.Seconds(), 10)
	part := j.rng().Float64()
	j.length = time.Duration(longest * part * part * part * float64(time.Second)).Truncate(time.Millisecond)
	_, done := r.do(r.keep, j, r.head("GET", "/slow?ms="+strconv.FormatInt(j.length.Milliseconds(), 10), ""), nil, false, true)
	done()
}

// post sends a small body, whole.
func post(_ context.Context, r *Run, j *job) {
	r.echo(j, filled(1+j.rng().IntN(1<<10), j.seed), false)
}

// upload sends a body of up to 256 KiB, half of them in chunks, and checks what
// arrived.
func upload(_ context.Context, r *Run, j *job) {
	rng := j.rng()
	r.echo(j, filled(1+rng.IntN(256<<10), j.seed), rng.IntN(2) == 0)
}

func (r *Run) echo(j *job, content []byte, chunked bool) {
	j.drain = r.opts.Drain.Requests
	sum := sha256.Sum256(content)
	extra, body := "Content-Length: "+strconv.Itoa(len(content))+"\r\n", content
	if chunked {
		extra, body = "Transfer-Encoding: chunked\r\n", inChunks(content)
	}
	answer, done := r.do(r.keep, j, r.head("POST", "/echo", extra), body, false, true)
	defer done()
	if j.err == nil && string(answer) != hex.EncodeToString(sum[:]) {
		j.err = errors.New("wrong checksum of an upload")
	}
}

// inChunks encodes content as chunks of 16 KiB.
func inChunks(content []byte) []byte {
	const size = 16 << 10
	out := make([]byte, 0, len(content)+len(content)/size*12+32)
	for len(content) > 0 {
		n := min(size, len(content))
		out = strconv.AppendInt(out, int64(n), 16)
		out = append(out, "\r\n"...)
		out = append(out, content[:n]...)
		out = append(out, "\r\n"...)
		content = content[n:]
	}
	return append(out, "0\r\n\r\n"...)
}

// big asks for up to 512 KiB.
func big(_ context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Requests
	_, done := r.do(r.keep, j, r.head("GET", "/big?bytes="+strconv.Itoa(j.rng().IntN(512<<10)), ""), nil, false, true)
	done()
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

// scratch is what an answer is read into and summed with.
type scratch struct {
	buf bytes.Buffer
	sum hash.Hash
}

var scratches = sync.Pool{New: func() any { return &scratch{sum: sha256.New()} }}

// do sends a request and returns the whole body of a right answer, which is
// valid until the function it returns is called.
func (r *Run) do(w *wire, j *job, head, body []byte, fresh, checked bool) ([]byte, func()) {
	began := time.Now()
	defer func() { j.took = time.Since(began) }()
	c, a, again, err := w.exchange(head, body, fresh, j.length+slack)
	j.retried = again
	if err != nil {
		j.err = err
		return nil, func() {}
	}
	j.version, j.server = a.version, a.server
	s := scratches.Get().(*scratch)
	s.buf.Reset()
	if _, err = s.buf.ReadFrom(c.body(a)); err != nil {
		err = fmt.Errorf("in the body: %w", err)
	}
	if err != nil || a.close || fresh {
		_ = c.Close()
	} else {
		w.give(c)
	}
	j.err = s.judge(a, err, checked)
	return s.buf.Bytes(), func() { scratches.Put(s) }
}

// judge says what is wrong with an answer.
func (s *scratch) judge(a response, err error, checked bool) error {
	switch {
	case err != nil:
		return err
	case a.status < 200 || a.status > 299:
		return fmt.Errorf("status %d: %.80s", a.status, firstLine(s.buf.Bytes()))
	case checked:
		s.sum.Reset()
		_, _ = s.sum.Write(s.buf.Bytes()) // never fails
		if hex.EncodeToString(s.sum.Sum(nil)) != a.checksum {
			return errors.New("wrong checksum of a body")
		}
	}
	return nil
}

// h2 asks over cleartext HTTP/2, many requests at once on a connection; half of
// them with a body.
func h2(ctx context.Context, r *Run, j *job) {
	j.drain = r.opts.Drain.Requests
	ctx, cancel := context.WithTimeout(ctx, slack)
	defer cancel()
	method, path, content := http.MethodGet, "/", []byte(nil)
	if j.rng().IntN(2) == 0 {
		method, path, content = http.MethodPost, "/echo", filled(1+j.rng().IntN(8<<10), j.seed)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.opts.H2+path, bytes.NewReader(content))
	if err != nil {
		j.err = err
		return
	}
	began := time.Now()
	defer func() { j.took = time.Since(began) }()
	res, err := r.multiplexed.Do(req)
	if err != nil {
		j.err = err
		return
	}
	defer func() { _ = res.Body.Close() }()
	j.version, j.server = res.Header.Get("X-Shop-Version"), res.Header.Get("X-Shop-Server")
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.buf.Reset()
	_, err = io.Copy(&s.buf, res.Body)
	j.err = s.judge(response{status: res.StatusCode, checksum: res.Header.Get("X-Shop-Checksum")}, err, true)
	if j.err == nil && res.ProtoMajor != 2 {
		j.err = fmt.Errorf("%s where HTTP/2 was asked for", res.Proto)
	}
	sum := sha256.Sum256(content)
	if j.err == nil && content != nil && s.buf.String() != hex.EncodeToString(sum[:]) {
		j.err = errors.New("wrong checksum of an upload")
	}
}

// head returns a request's head.
func (r *Run) head(method, path, extra string) []byte {
	return []byte(method + " " + path + " HTTP/1.1\r\nHost: " + r.host + "\r\n" + extra + "\r\n")
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}
