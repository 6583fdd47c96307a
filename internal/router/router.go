package router

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// Config is what a router needs. The zero value of a limit means its default.
type Config struct {
	DataDir string // of the instance: router/table.json, router/access.log
	RunDir  string // of the instance: router.sock, and keeper.sock if there is a keeper
	Log     *slog.Logger
	Limits  Limits
	Build   string // of the program; the daemon hands over what is of another
	// Instance and ServiceNet say where the names of services have their
	// addresses. Without an instance names are not listened on; the zero
	// network is model.DefaultServiceNet.
	Instance   model.InstanceID
	ServiceNet netip.Prefix
}

// Limits bound what clients may take. Defaults are those of withDefaults.
type Limits struct {
	HeaderBytes         int           // of a request's head
	HeaderTimeout       time.Duration // from the first byte of a request to the end of its head
	IdleTimeout         time.Duration // between two requests of a connection
	BodyIdle            time.Duration // without a byte moving, either way, while a body is under way
	DialTimeout         time.Duration // to a server, for one attempt
	UpstreamIdle        time.Duration // of a kept connection to a server
	Linger              time.Duration // when the router leaves: silence after which a client's connection is closed
	AccessLogBytes      int64         // of each of the two access log files
	Handshakes          int           // under way on a listener; the oldest gives way to one more
	HandshakeTimeout    time.Duration // of TLS
	Connections         int           // of clients, at a time
	ListenerConnections int           // of those, on one listener
	Streams             int           // open at once on one HTTP/2 connection
	RenewalCheck        time.Duration // how often it is looked which certificates an authority has to renew
}

func (l Limits) withDefaults() Limits {
	set(&l.HeaderBytes, 64<<10)
	set(&l.HeaderTimeout, 10*time.Second)
	set(&l.IdleTimeout, 75*time.Second)
	set(&l.BodyIdle, time.Minute)
	set(&l.DialTimeout, 2*time.Second)
	set(&l.UpstreamIdle, 30*time.Second)
	set(&l.Linger, 10*time.Second)
	set(&l.AccessLogBytes, 64<<20)
	set(&l.Handshakes, 1024)
	set(&l.HandshakeTimeout, 10*time.Second)
	set(&l.Connections, defaultConnections())
	set(&l.ListenerConnections, max(1, l.Connections*3/4))
	set(&l.Streams, 250)
	set(&l.RenewalCheck, 10*time.Minute)
	return l
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Router is the data plane of one instance.
type Router struct {
	id         string
	build      string
	log        *slog.Logger
	limits     Limits
	store      tableStore
	binder     binder
	access     *accessLog
	names      names
	certs      *certificates
	acme       *acme
	complaints complaints

	current     atomic.Pointer[routing] // every dispatch reads it; see dispatch
	clock       atomic.Int64            // nanoseconds since start, coarse: advanced every 100 ms
	starvedAt   atomic.Int64            // when a lack of open files was logged last
	connections atomic.Int64            // of clients, now
	drainKick   chan struct{}
	bindKick    chan struct{}   // a listener is missing
	life        context.Context // ends when the router is told to end at once
	end         context.CancelFunc
	serving     sync.WaitGroup // accept loops

	standing atomic.Int32                   // the phase
	farewell atomic.Pointer[model.Draining] // when the router leaves: of every server
	forced   chan struct{}                  // serve without the lock
	left     chan struct{}                  // closed when the router has left

	applyMu   sync.Mutex // one switch at a time; guards the two below
	lock      *os.File   // held by the router that serves
	listeners map[string]*listener

	mu      sync.Mutex // those below
	servers map[serverKey]*server
	tallies tallies
	heirOf  []string          // routers before it whose counts are in tallies
	unbound map[string]string // what cannot be listened on: address → why
	missing int               // of those, how many are routes'
}

// newRouter returns a router with an empty table that listens nowhere.
func newRouter(cfg Config, b binder, access *accessLog) *Router {
	var id [8]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails: it ends the process
	r := &Router{
		id:        hex.EncodeToString(id[:]),
		build:     cfg.Build,
		log:       cfg.Log,
		limits:    cfg.Limits.withDefaults(),
		store:     tableStore{dir: filepath.Join(cfg.DataDir, "router")},
		binder:    b,
		access:    access,
		names:     newNames(cfg.Instance, cfg.ServiceNet),
		certs:     newCertificates(cfg.Log),
		acme:      newACME(filepath.Join(cfg.DataDir, "certificates"), cfg.Limits.withDefaults().RenewalCheck, cfg.Log),
		drainKick: make(chan struct{}, 1),
		bindKick:  make(chan struct{}, 1),
		forced:    make(chan struct{}, 1),
		left:      make(chan struct{}),
		listeners: map[string]*listener{},
		servers:   map[serverKey]*server{},
		tallies:   newTallies(),
	}
	r.life, r.end = context.WithCancel(context.Background())
	r.current.Store(compile(model.Table{}, nil, nil))
	return r
}

// Apply is the switch: it replaces the table, or changes nothing and says why.
// When it returns, not one new request reaches a server that t does not have
// among its backends; the status says what is still in flight.
func (r *Router) Apply(t model.Table) (model.RouterStatus, error) {
	if err := checkTable(&t); err != nil {
		return model.RouterStatus{}, err
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	have := r.current.Load()
	if !have.newer(&t) {
		return r.refuseOrConfirm(have, &t)
	}
	r.certs.changing.Lock()
	defer r.certs.changing.Unlock()
	pairs, err := r.certs.stage(&t, &have.table)
	if err != nil {
		return model.RouterStatus{}, err
	}
	if err := r.acme.check(&t); err != nil {
		return model.RouterStatus{}, err
	}
	fresh, err := r.bindMissing(&t)
	if err != nil {
		return model.RouterStatus{}, err
	}
	if err := r.keepLocked(&t); err != nil {
		for _, l := range fresh {
			l.close()
			r.release(l.address)
		}
		return model.RouterStatus{}, err
	}
	r.certs.take(pairs)
	r.publish(t, fresh)
	return r.Status(), nil
}

// keepLocked makes t durable, so that a router that is started serves it: the
// business of the one that serves. applyMu is held.
func (r *Router) keepLocked(t *model.Table) error {
	if r.phase() != serving {
		return nil
	}
	return r.store.save(t)
}

// refuseOrConfirm answers a table that is not newer: the same again is
// confirmed, so that a caller that lost the answer may ask once more.
func (r *Router) refuseOrConfirm(have *routing, t *model.Table) (model.RouterStatus, error) {
	if t.Epoch == have.table.Epoch && t.Generation == have.table.Generation {
		if sameTable(&have.table, t) {
			return r.Status(), nil
		}
		return model.RouterStatus{}, model.Errorf(model.Conflict, "cannot apply table %d.%d: the router has another one of that number", t.Epoch, t.Generation)
	}
	return model.RouterStatus{}, model.Errorf(model.Conflict, "cannot apply table %d.%d: the router has %d.%d already", t.Epoch, t.Generation, have.table.Epoch, have.table.Generation)
}

// bindMissing binds what t listens on and the router does not yet: all or none.
func (r *Router) bindMissing(t *model.Table) ([]*listener, error) {
	if r.phase() == leaving {
		return nil, nil // what is new is another's
	}
	var fresh []*listener
	for _, address := range listenAddresses(t) {
		if r.listeners[address] != nil {
			continue
		}
		nl, err := r.binder.Listen(address)
		if err != nil {
			for _, l := range fresh {
				l.close()
				r.release(l.address)
			}
			return nil, err
		}
		fresh = append(fresh, newListener(r, address, nl))
	}
	byName, missing := r.bindNames(t, map[string]string{})
	if missing {
		r.bindSoon()
	}
	return append(fresh, byName...), nil
}

// publish makes t what every dispatch uses. The store of current is the
// switch; see dispatch for why nothing needs to be waited for after it.
func (r *Router) publish(t model.Table, fresh []*listener) {
	r.mu.Lock()
	next := compile(t, r.serverForLocked, r.tallies.of)
	r.mu.Unlock()
	r.names.addTo(next)
	r.acme.adopt(&t)
	// A server that comes back is open for dispatch before the first one can
	// choose it; one that goes is closed only when none can choose it.
	for _, s := range next.servers {
		s.setDrain(r.untilFarewell(nil))
		s.out.Store(false)
	}
	for _, l := range fresh {
		r.listeners[l.address] = l
	}
	r.current.Store(next)
	r.retire(next)
	r.certs.retain(&t)
	r.acme.obtain(&t)
	for _, l := range fresh {
		r.startLocked(l)
	}
	wanted := r.names.all(&t)
	for address, l := range r.listeners {
		if !contains(wanted, address) {
			delete(r.listeners, address)
			l.close()
			r.release(address)
		}
	}
	if r.endDue() > 0 {
		r.kickDrain()
	}
}

// serverForLocked returns the record of the server, a new one if there is none.
func (r *Router) serverForLocked(u model.Upstream, p model.Protocol) *server {
	key := serverKey{u.Server, u.Address, p}
	if s := r.servers[key]; s != nil {
		return s
	}
	s := &server{id: u.Server, address: u.Address, protocol: p}
	if p == model.H2C {
		s.upstream = newH2(r, s)
	} else {
		s.upstream = newH1(r, s)
	}
	r.servers[key] = s
	return s
}

// retire takes every server that next does not use out, starts the drains, and
// forgets the records that nothing needs any more.
func (r *Router) retire(next *routing) {
	draining := map[model.ServerID]*model.Draining{}
	for i := range next.table.Draining {
		d := next.table.Draining[i]
		draining[d.Server] = &d
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, s := range r.servers {
		if next.servers[s.id] == s {
			continue
		}
		s.out.Store(true)
		s.setDrain(r.untilFarewell(draining[s.id]))
		if draining[s.id] == nil && s.idle() {
			s.upstream.close()
			delete(r.servers, key)
		}
	}
	r.tallies.prune(next)
}

// forgetIdle drops the records of servers that left the table while something
// was in flight to them, once nothing is.
func (r *Router) forgetIdle() {
	now := r.current.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, s := range r.servers {
		s.mu.Lock()
		unused := now.servers[s.id] != s && s.drain == nil && s.open == nil
		s.mu.Unlock()
		if unused && s.out.Load() {
			s.upstream.close()
			delete(r.servers, key)
		}
	}
}

// records returns the servers that are in the table, draining, or have
// something in flight.
func (r *Router) records() []*server {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*server, 0, len(r.servers))
	for _, s := range r.servers {
		out = append(out, s)
	}
	return out
}

// Status returns what the router says of itself. The numbers of the table are
// read before the counts: a count is never older than the table it answers for.
func (r *Router) Status() model.RouterStatus {
	have := r.current.Load()
	st := model.RouterStatus{ID: r.id, PID: os.Getpid(), Build: r.build, Phase: r.phase().named(), Epoch: have.table.Epoch, Generation: have.table.Generation}
	known := map[model.ServerID]bool{}
	now := time.Now()
	for _, s := range r.records() {
		st.Servers = append(st.Servers, s.account(now))
		known[s.id] = true
	}
	// A draining server that this process never sent anything to: it started
	// after the switch. It has nothing in flight, and says so.
	for _, d := range have.table.Draining {
		if !known[d.Server] {
			st.Servers = append(st.Servers, model.RouterServer{Server: d.Server})
		}
	}
	sortServers(st.Servers)
	r.mu.Lock()
	st.Unbound, st.Missing = r.unboundLocked(), r.missing
	r.mu.Unlock()
	st.Troubles = r.troubles(&have.table)
	return st
}

func (r *Router) kickDrain() {
	select {
	case r.drainKick <- struct{}{}:
	default:
	}
}

// tick advances the coarse clock and does the housekeeping, until ctx ends.
func (r *Router) tick(ctx context.Context) {
	const step = 100 * time.Millisecond
	start := time.Now()
	t := time.NewTicker(step)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			r.clock.Store(int64(now.Sub(start)))
		}
		if n%20 != 0 {
			continue
		}
		r.forgetIdle()
		for _, s := range r.records() {
			s.upstream.sweep()
		}
		r.inherit()
	}
}
