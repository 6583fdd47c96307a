// Package load drives a mixed load at a service and judges every answer. It is
// an open loop: requests begin when their time has come, however long earlier
// ones take, so a service that stalls is seen to stall.
//
// Each request has a length of its own, chosen before it is sent: how long the
// answer is meant to take. A request that fails counts as a failure if its own
// length is below 80 % of its class's drain deadline; a longer one may be cut by
// a drain and is counted apart, as excused.
package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Options say what to drive and how to judge it.
type Options struct {
	URL      string         // of the service, without a path: "http://127.0.0.1:8080"
	TCP      string         // address of a tcp service of the same kind, for the class "tcp"
	TLS      string         // address where the same service is served over TLS, for the class "tls"
	Roots    *x509.CertPool // that TLS is judged by
	H2       string         // URL for the class "h2"; "": URL
	Host     string         // Host header; "": from the URL
	Rate     float64        // requests begun per second, all classes together
	Duration time.Duration  // 0: until the context ends
	Most     int            // requests begun; 0: no bound
	InFlight int            // at once; 0: 4096. What comes due above it is shed
	Mix      map[string]int // weight by class; nil: Mixed
	Expect   string         // text that a page must contain
	Checksum bool           // pages must carry the checksum of their body
	Drain    Drain          // deadlines that failures are judged by; zero: the defaults of a declaration
	Seed     uint64
}

// Drain is how long the service lets what is in flight go on, by class.
type Drain struct{ Requests, Streams, WebSockets time.Duration }

// defaultDrain is what a declaration gives when it says nothing.
var defaultDrain = Drain{Requests: 30 * time.Second, Streams: 2 * time.Minute, WebSockets: 5 * time.Minute}

// judged is the part of a drain deadline below which a request must not fail.
const judged = 0.8

// Mixed returns the weights of the load that examples/shop is driven with.
func Mixed() map[string]int {
	return map[string]int{
		"page": 44, "fresh": 20, "slow": 10, "upload": 10, "big": 10, "stream": 3, "websocket": 3,
	}
}

// Pages returns the weights for a service that serves pages only.
func Pages() map[string]int { return map[string]int{"page": 70, "fresh": 30} }

// Heavy returns the weights of a load in which a second has thousands of
// requests: mostly small ones.
func Heavy() map[string]int {
	return map[string]int{
		"page": 460, "fresh": 100, "post": 140, "h2": 80, "tls": 80, "slow": 40, "tcp": 40, "upload": 20, "big": 20,
		"stream": 10, "websocket": 10,
	}
}

// Run is a load under way.
type Run struct {
	opts       Options
	host       string // as requests say it
	front      []byte // a whole request for the front page
	frontClose []byte // likewise, the last on its connection
	expect     []byte

	keep        *wire
	bytes       *wire        // of the tcp service
	secure      *wire        // over TLS
	multiplexed *http.Client // over HTTP/2
	dialer      *websocket.Dialer

	allowed atomic.Pointer[map[string]bool]
	account *account
	pick    []string // class names, by weight
	cancel  context.CancelFunc
	done    chan struct{}
	began   time.Time
}

// Start begins a load. Stop must be called to end it.
func Start(ctx context.Context, opts Options) (*Run, error) {
	opts.URL = strings.TrimSuffix(opts.URL, "/")
	u, err := url.Parse(opts.URL)
	if err != nil || u.Host == "" || opts.Rate <= 0 || opts.Rate > 100_000 {
		return nil, fmt.Errorf("cannot start a load: url %q, rate %v", opts.URL, opts.Rate)
	}
	if opts.InFlight == 0 {
		opts.InFlight = 4096
	}
	if opts.Drain == (Drain{}) {
		opts.Drain = defaultDrain
	}
	if opts.Mix == nil {
		opts.Mix = Mixed()
	}
	if opts.H2 == "" {
		opts.H2 = opts.URL
	}
	r := &Run{opts: opts, account: newAccount(), done: make(chan struct{}), began: time.Now(), host: u.Host, expect: []byte(opts.Expect)}
	if opts.Host != "" {
		r.host = opts.Host
	}
	if err := r.weigh(); err != nil {
		return nil, err
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "80")
	}
	const kept = 512
	r.front, r.frontClose = r.head("GET", "/", ""), r.head("GET", "/", "Connection: close\r\n")
	r.keep, r.bytes, r.secure = newWire(address, kept), newWire(opts.TCP, kept), newWire(opts.TLS, kept)
	r.secure.tls = &tls.Config{RootCAs: opts.Roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	r.multiplexed = &http.Client{Transport: &http.Transport{Protocols: protocols, DisableCompression: true}}
	r.dialer = &websocket.Dialer{HandshakeTimeout: slack}
	ctx, r.cancel = context.WithCancel(ctx)
	go r.drive(ctx)
	return r, nil
}

// weigh makes the list that classes are picked from.
func (r *Run) weigh() error {
	for _, name := range slices.Sorted(maps.Keys(r.opts.Mix)) {
		weight := r.opts.Mix[name]
		switch {
		case classes[name] == nil:
			return fmt.Errorf("cannot start a load: no class %q", name)
		case weight > 0 && (name == "tcp" && r.opts.TCP == "" || name == "tls" && r.opts.TLS == ""):
			return fmt.Errorf("cannot start a load: no address for the class %q", name)
		}
		for range weight {
			r.pick = append(r.pick, name)
		}
	}
	if len(r.pick) == 0 {
		return fmt.Errorf("cannot start a load: no class has a weight")
	}
	return nil
}

// Allow says which versions may answer requests that begin from now on: an
// answer by another is a failure. Without versions any may.
func (r *Run) Allow(versions ...string) {
	if len(versions) == 0 {
		r.allowed.Store(nil)
		return
	}
	set := map[string]bool{}
	for _, v := range versions {
		set[v] = true
	}
	r.allowed.Store(&set)
}

// drive begins requests at the rate until it is told to stop, then waits for
// those under way.
func (r *Run) drive(ctx context.Context) {
	defer close(r.done)
	var under sync.WaitGroup
	slots := make(chan struct{}, r.opts.InFlight)
	rng := rand.New(rand.NewPCG(r.opts.Seed, 1))
	const beat = 2 * time.Millisecond
	tick := time.NewTicker(beat)
	defer tick.Stop()
	begun := 0
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-tick.C:
			past := time.Since(r.began)
			if r.opts.Duration > 0 && past >= r.opts.Duration {
				running = false
			}
			for due := int(past.Seconds() * r.opts.Rate); begun < due && running; begun++ {
				if r.opts.Most > 0 && begun >= r.opts.Most {
					running = false
					break
				}
				r.begin(slots, &under, rng)
			}
		}
	}
	r.account.close(time.Since(r.began)) // the rate is that of the beginnings
	under.Wait()
	for _, w := range []*wire{r.keep, r.bytes, r.secure} {
		w.close()
	}
	r.multiplexed.CloseIdleConnections()
}

// begin sends one request, unless too many are in flight.
func (r *Run) begin(slots chan struct{}, under *sync.WaitGroup, rng *rand.Rand) {
	name := r.pick[rng.IntN(len(r.pick))]
	j := job{class: name, seed: rng.Uint64(), began: time.Now()}
	if set := r.allowed.Load(); set != nil {
		j.allowed = *set
	}
	select {
	case slots <- struct{}{}:
	default:
		r.account.shed()
		return
	}
	under.Go(func() {
		defer func() { <-slots }()
		// What was begun is finished even if the load is told to stop: a
		// request that the load itself cut says nothing about the service.
		classes[name](context.Background(), r, &j)
		r.account.add(&j)
	})
}

// Stop begins no further requests, waits for those under way and returns the
// account.
func (r *Run) Stop() *Report {
	r.cancel()
	return r.Wait()
}

// Wait returns the account when the load has ended by itself.
func (r *Run) Wait() *Report {
	<-r.done
	r.cancel()
	return r.account.report()
}

// Report returns the account so far.
func (r *Run) Report() *Report {
	rep := r.account.report()
	if rep.Seconds == 0 {
		rep.Seconds = time.Since(r.began).Seconds()
	}
	return rep
}
