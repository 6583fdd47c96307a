package recorder

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"

	"kiln/internal/image"
	"kiln/internal/lock"
	"kiln/internal/model"
)

// memory is a store of bytes that is this process's.
type memory struct {
	mu  sync.Mutex
	all map[model.Digest][]byte
}

func (m *memory) Has(_ context.Context, d model.Digest) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, is := m.all[d]
	return is, nil
}

func (m *memory) Open(_ context.Context, d model.Digest) (*image.Input, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, is := m.all[d]
	if !is {
		return nil, model.Errorf(model.NotFound, "%s is not here", d)
	}
	return &image.Input{SectionReader: io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), Closer: io.NopCloser(nil)}, nil
}

func (m *memory) New(context.Context) (*image.InputWriter, error) {
	return &image.InputWriter{Writer: &writer{into: m}}, nil
}

func (m *memory) Discard(_ context.Context, d model.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, d)
	return nil
}

func (m *memory) put(text string) model.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := model.Digest(digest.FromString(text))
	m.all[d] = []byte(text)
	return d
}

// writer implements content.Writer.
type writer struct {
	bytes.Buffer
	into *memory
}

func (w *writer) Digest() digest.Digest { return digest.FromBytes(w.Bytes()) }

func (w *writer) Commit(_ context.Context, _ int64, _ digest.Digest, _ ...content.Opt) error {
	w.into.put(w.String())
	return nil
}

func (w *writer) Status() (content.Status, error) { return content.Status{}, nil }

func (w *writer) Truncate(int64) error { return nil }

func (w *writer) Close() error { return nil }

// kit is a recorder, and the bytes that it has.
type kit struct {
	*Recorder
	bytes *memory
}

func newKit(t *testing.T, mode Mode, known ...lock.Entry) *kit {
	t.Helper()
	m := &memory{all: map[model.Digest][]byte{}}
	r, err := New(Config{Mode: mode, Known: known, File: "kiln.lock", Name: "shop", Bytes: m, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &kit{r, m}
}

// again is a recorder that builds from what another one has noted, and its bytes.
func (k *kit) again(t *testing.T, mode Mode) *kit {
	t.Helper()
	next := newKit(t, mode, k.Entries()...)
	next.bytes.all = k.bytes.all
	return next
}

// ask has a step ask, and returns the answer.
func ask(t *testing.T, s *Step, method, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w
}

func outside(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

func TestWhatWasFetchedIsAnsweredAgain(t *testing.T) {
	times := 0
	at := outside(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/count":
			times++
			fmt.Fprint(w, times)
		case "/absent":
			http.NotFound(w, r)
		case "/vary":
			w.Header().Set("Vary", "Origin, accept")
			fmt.Fprint(w, "as "+r.Header.Get("Accept"))
		case "/whole":
			http.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader("0123456789"))
		case "/sent":
			w.Header().Set("Location", "http://me:hidden@other.test/x")
			w.WriteHeader(http.StatusFound)
		case "/streamed":
			w.(http.Flusher).Flush()
		}
	})
	type asked struct{ step, method, path, header, value string }
	list := []asked{
		{"a", "GET", "/count", "", ""},
		{"a", "GET", "/count", "", ""},
		{"b", "GET", "/count", "", ""},
		{"a", "GET", "/absent", "", ""},
		{"a", "GET", "/vary", "Accept", "text/a"},
		{"a", "GET", "/vary", "Accept", "text/b"},
		{"a", "GET", "/whole", "", ""},
		{"a", "GET", "/whole", "Range", "bytes=2-4"},
		{"a", "HEAD", "/whole", "", ""},
		{"a", "HEAD", "/streamed", "", ""},
		{"a", "GET", "/sent", "", ""},
	}
	answers := func(k *kit) (all []string) {
		steps := map[string]*Step{"a": k.Step(t.Context(), "a"), "b": k.Step(t.Context(), "b")}
		for _, q := range list {
			var header []string
			if q.header != "" {
				header = []string{q.header, q.value}
			}
			w := ask(t, steps[q.step], q.method, at+q.path, header...)
			h := w.Header()
			all = append(all, fmt.Sprintf("%s %s: %d %q %s %s %s", q.method, q.path, w.Code, w.Body, h.Get("Content-Length"), h.Get("Content-Range"), h.Get("Last-Modified")))
		}
		return all
	}
	recorded := newKit(t, Record)
	want := answers(recorded)
	for _, e := range recorded.Entries() {
		if strings.Contains(e.String(), "hidden") {
			t.Errorf("a login is in the lock: %s", e)
		}
	}
	sealed := recorded.again(t, Sealed)
	for i, got := range answers(sealed) {
		if got != want[i] {
			t.Errorf("again %s\nwas   %s", got, want[i])
		}
	}
	if times != 3 {
		t.Errorf("it was asked %d times, want 3", times)
	}
	if refused := sealed.Refusals(); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if a, b := lock.Digest(recorded.Entries()), lock.Digest(sealed.Entries()); a != b {
		t.Errorf("what it was made from is another:\n%v\n%v", recorded.Entries(), sealed.Entries())
	}
}

func TestWhatIsNotInTheLockIsRefused(t *testing.T) {
	at := outside(t, func(http.ResponseWriter, *http.Request) { t.Error("the network was asked") })
	for _, mode := range []Mode{Sealed, Replay} {
		k := newKit(t, mode)
		s := k.Step(t.Context(), "curl")
		if w := ask(t, s, "GET", at+"/x"); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "kiln lock update shop") {
			t.Errorf("the answer is %d %s", w.Code, w.Body)
		}
		if w := ask(t, s, "POST", at+"/x"); w.Code != http.StatusForbidden {
			t.Errorf("POST: the answer is %d", w.Code)
		}
		other := newKit(t, mode)
		s.Tell(other.Recorder)
		k.Step(t.Context(), "other").Tell(other.Recorder)
		for _, r := range []*Recorder{k.Recorder, other.Recorder} {
			list := r.Refusals()
			if len(list) != 2 || !list[0].Missing || list[1].Missing {
				t.Errorf("refused: %+v", list)
			}
		}
	}
}

func TestChangedBytes(t *testing.T) {
	asked := 0
	at := outside(t, func(w http.ResponseWriter, _ *http.Request) { asked++; fmt.Fprint(w, "true") })
	recorded := newKit(t, Record)
	ask(t, recorded.Step(t.Context(), "a"), "GET", at+"/x")
	d := recorded.Entries()[0].Digest
	for _, test := range []struct {
		mode  Mode
		code  int
		asked int
	}{{Sealed, http.StatusForbidden, 1}, {Replay, http.StatusOK, 2}} {
		recorded.bytes.all[d] = []byte("false")
		w := ask(t, recorded.again(t, test.mode).Step(t.Context(), "a"), "GET", at+"/x")
		if w.Code != test.code || strings.Contains(w.Body.String(), "false") || asked != test.asked {
			t.Errorf("mode %d: the answer is %d %s, asked %d times", test.mode, w.Code, w.Body, asked)
		}
	}
}

// proxied starts a step's proxy, and returns how a program of the step asks it.
func proxied(t *testing.T, s *Step) (*Proxy, *http.Client) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := s.NewProxy()
	p.Serve(ln)
	address := &url.URL{Scheme: "http", Host: ln.Addr().String()}
	return p, &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(address)}}
}

// first reads the first byte of an answer, and goes.
func first(t *testing.T, client *http.Client, at string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
}

func TestWhatAStepHasNotWaitedForIsLocked(t *testing.T) {
	gone := make(chan struct{})
	at := outside(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("a", 1<<20))
		w.(http.Flusher).Flush()
		<-gone
		fmt.Fprint(w, strings.Repeat("b", 1<<20))
	})
	k := newKit(t, Record)
	p, client := proxied(t, k.Step(t.Context(), "curl | head"))
	first(t, client, at+"/x")
	close(gone)
	p.Close()
	list := k.Entries()
	if want := int64(2 << 20); len(list) != 1 || list[0].Size != want {
		t.Fatalf("what is locked is %v, want one entry of %d bytes", list, want)
	}
}

func TestWhatDoesNotEndIsCut(t *testing.T) {
	for name, cut := range map[string]func(p *Proxy, cancel func()){
		"the build was cancelled": func(_ *Proxy, cancel func()) { cancel() },
		"it takes too long":       func(p *Proxy, _ func()) { p.after = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{})
			at := outside(t, func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, strings.Repeat("a", 1<<20))
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				close(ended)
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			k := newKit(t, Record)
			p, client := proxied(t, k.Step(ctx, "curl"))
			first(t, client, at+"/x")
			cut(p, cancel)
			p.Close()
			<-ended // the test's own deadline is the limit
			if list := k.Entries(); len(list) > 0 {
				t.Errorf("locked is what did not come: %v", list)
			}
			if list := k.Refusals(); len(list) != 1 || list[0].Passing || !strings.Contains(list[0].Why, "cannot be fetched whole") {
				t.Errorf("it is not told: %+v", list)
			}
		})
	}
}

func TestConnectIsIntercepted(t *testing.T) {
	k := newKit(t, Replay)
	s := k.Step(t.Context(), "curl")
	d := k.bytes.put("page")
	k.known[request{lock.Get, "https://shop.test/x", ""}] = []lock.Entry{{Kind: lock.Get, Name: "https://shop.test/x", Digest: d, Size: 4}}
	p, client := proxied(t, s)
	defer p.Close()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(k.Authority()) {
		t.Fatal("the authority is no certificate")
	}
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{"/x": http.StatusOK, "/y": http.StatusForbidden} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://shop.test"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestLogins(t *testing.T) {
	for in, want := range map[string]string{
		"https://me:word@host.test/a.git#main": "https://host.test/a.git#main",
		"https://token@host.test/a.git":        "https://host.test/a.git",
		"ssh://git:word@host.test/a.git":       "ssh://git@host.test/a.git",
		"git@host.test:a/b.git":                "git@host.test:a/b.git",
		"https://host.test/a b":                "https://host.test/a b",
	} {
		if got := WithoutLogin(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := Canonical("HTTPS://me:word@Host.test:443?q=1#f"); got != "https://host.test/?q=1" {
		t.Error(got)
	}
}

func TestABundleThatWasLostIsLockedAnew(t *testing.T) {
	before := lock.Entry{Kind: lock.Git, Name: "https://host.test/a.git", Commit: strings.Repeat("a", 40), Digest: "sha256:1", Size: 1, Line: 3}
	other := lock.Entry{Kind: lock.Get, Name: "https://host.test/x", Digest: "sha256:3", Size: 3}
	k := newKit(t, Replay, before, other)
	if got := k.Relocked(); !slices.Equal(got, []lock.Entry{before, other}) {
		t.Errorf("nothing was made anew: %v", got)
	}
	made := before
	made.Digest, made.Size, made.Line = "sha256:2", 2, 0
	k.Note(made)
	if got := k.Relocked(); !slices.Equal(got, []lock.Entry{made, other}) {
		t.Errorf("got %v", got)
	}
}
