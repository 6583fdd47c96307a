package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// class is a drain class of requests.
type class int

const (
	classRequest class = iota
	classStream
	classWebSocket
)

// request is one request in flight.
type request struct {
	server model.ServerID
	class  class
	began  time.Duration
	ends   time.Duration // by itself
}

// router is one router process.
type router struct {
	id       string
	table    model.Table // that new dispatches use
	older    model.Table // that a late dispatch may still hold while late is set
	late     bool
	epoch    uint64 // of the acknowledged table
	acked    uint64
	silent   time.Duration // answers nothing before this time
	flight   []request
	accounts []account
}

type account struct {
	server        model.ServerID
	finished, cut uint64
}

// fleet is all routers of the machine. They share one table on disk.
type fleet struct {
	w    *world
	disk model.Table
	live []*router // by age
	made int
}

// start adds a router that serves the table on disk.
func (f *fleet) start() {
	f.made++
	f.live = append(f.live, &router{
		id: fmt.Sprintf("r%d", f.made), table: f.disk, epoch: f.disk.Epoch, acked: f.disk.Generation,
	})
}

// kill ends a router with all that is in flight in it.
func (f *fleet) kill(i int) { f.live = slices.Delete(f.live, i, i+1) }

func newer(epoch, generation uint64, than model.Table) bool {
	return epoch > than.Epoch || epoch == than.Epoch && generation > than.Generation
}

// Apply implements control.Router.
func (f *fleet) Apply(ctx context.Context, table model.Table) error {
	if len(f.live) == 0 {
		return model.Errorf(model.Unavailable, "cannot give the table: no router lives")
	}
	var first error
	for _, r := range slices.Clone(f.live) {
		if err := f.apply(ctx, r, table); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (f *fleet) apply(ctx context.Context, r *router, table model.Table) error {
	fault := f.w.routerFault()
	if err := f.w.wait(ctx, fault.before); err != nil {
		return err
	}
	if !slices.Contains(f.live, r) || f.w.now < r.silent {
		return model.Errorf(model.Unavailable, "cannot give the table to router %s: it does not answer", r.id)
	}
	if fault.refuse {
		return model.Errorf(model.Conflict, "cannot listen on :80: the port is taken")
	}
	switch {
	case newer(table.Epoch, table.Generation, r.table):
		f.install(r, table)
	case newer(r.table.Epoch, r.table.Generation, table):
		return model.Errorf(model.Conflict, "cannot take table %d: router %s has %d", table.Generation, r.id, r.table.Generation)
	}
	if err := f.w.wait(ctx, fault.after); err != nil {
		f.acknowledgeLater(r, table, fault.after)
		return err
	}
	f.acknowledge(r, table)
	return fault.lie
}

func (f *fleet) install(r *router, table model.Table) {
	f.settle(r)
	f.w.judgeTable(r, table)
	if !r.late { // an older table may be held by dispatches that began before
		r.older = r.table
	}
	r.late, r.table, f.disk = true, table, table
}

// acknowledgeLater does what a router does whose client has gone: it goes on.
func (f *fleet) acknowledgeLater(r *router, table model.Table, d time.Duration) {
	f.w.after(min(d, time.Second), func() { f.acknowledge(r, table) })
}

// acknowledge says that every dispatch uses the table; just before, the last
// one that held the older table may go out.
func (f *fleet) acknowledge(r *router, table model.Table) {
	if !slices.Contains(f.live, r) || !newer(table.Epoch, table.Generation, model.Table{Epoch: r.epoch, Generation: r.acked}) {
		return
	}
	if r.table.Epoch != table.Epoch || r.table.Generation != table.Generation {
		return // a newer one waits for its own acknowledgement
	}
	if r.late && f.w.chance("late dispatch", 2) {
		f.dispatch(r, r.older)
	}
	r.late, r.older = false, model.Table{}
	r.epoch, r.acked = table.Epoch, table.Generation
	f.w.acknowledged(r)
}

// traffic lets clients ask every router.
func (f *fleet) traffic() {
	for _, r := range f.live {
		f.settle(r)
		f.dispatch(r, r.table)
	}
}

// dispatch sends one request to a server of each service in the table.
func (f *fleet) dispatch(r *router, table model.Table) {
	for _, svc := range table.Services {
		if len(svc.Backends) == 0 {
			continue
		}
		n := f.w.draw("dispatch")
		backend := svc.Backends[n%uint64(len(svc.Backends))]
		if !f.w.judgeDispatch(r, svc, backend) {
			continue
		}
		q := request{server: backend.Server, class: class(n >> 8 % 3), began: f.w.now}
		longest := []time.Duration{4 * time.Second, 40 * time.Second, 90 * time.Second}[q.class]
		q.ends = f.w.now + time.Duration(n>>16)%longest
		r.flight = append(r.flight, q)
	}
}

// settle lets end what has ended until now: by itself, with its server, or cut
// at the deadline of its class.
func (f *fleet) settle(r *router) {
	deadlines := r.table.Draining
	kept := r.flight[:0]
	for _, q := range r.flight {
		cut := time.Duration(1<<63 - 1)
		for _, d := range deadlines {
			if d.Server == q.server {
				cut = f.w.simulated(model.Instant([]int64{d.Requests, d.Streams, d.WebSockets}[q.class]))
			}
		}
		switch {
		case q.ends <= f.w.now && q.ends <= cut:
			r.account(q.server).finished++
		case cut <= f.w.now:
			f.w.judgeCut(r, q, cut)
			r.account(q.server).cut++
		case !f.w.runs(q.server):
			r.account(q.server).finished++
		default:
			kept = append(kept, q)
		}
	}
	r.flight = kept
}

func (r *router) account(id model.ServerID) *account {
	for i := range r.accounts {
		if r.accounts[i].server == id {
			return &r.accounts[i]
		}
	}
	r.accounts = append(r.accounts, account{server: id})
	return &r.accounts[len(r.accounts)-1]
}

// names reports whether requests may reach the server through the router.
func (r *router) names(id model.ServerID) bool {
	return names(r.table, id) || r.late && names(r.older, id)
}

func names(t model.Table, id model.ServerID) bool {
	for _, svc := range t.Services {
		for _, b := range svc.Backends {
			if b.Server == id {
				return true
			}
		}
	}
	return false
}

// Status implements control.Router.
func (f *fleet) Status(context.Context) (answered []model.RouterStatus, silent int, err error) {
	for _, r := range f.live {
		if f.w.now < r.silent {
			silent++
			continue
		}
		f.settle(r)
		answered = append(answered, r.status())
	}
	return answered, silent, nil
}

func (r *router) status() model.RouterStatus {
	s := model.RouterStatus{ID: r.id, Epoch: r.epoch, Generation: r.acked}
	for _, a := range r.accounts {
		s.Servers = append(s.Servers, model.RouterServer{Server: a.server, Finished: a.finished, Cut: a.cut})
	}
	for _, q := range r.flight {
		i := slices.IndexFunc(s.Servers, func(x model.RouterServer) bool { return x.Server == q.server })
		if i < 0 {
			i = len(s.Servers)
			s.Servers = append(s.Servers, model.RouterServer{Server: q.server})
		}
		switch open := &s.Servers[i].InFlight; q.class {
		case classRequest:
			open.Requests++
		case classStream:
			open.Streams++
		default:
			open.WebSockets++
		}
	}
	slices.SortFunc(s.Servers, func(a, b model.RouterServer) int { return strings.Compare(string(a.Server), string(b.Server)) })
	return s
}
