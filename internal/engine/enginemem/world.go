// Package enginemem is an engine in memory: for tests and for the simulation.
// It does nothing by itself: what its servers do follows from their programs
// and its clock, and faults come from whoever drives it.
package enginemem

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// World is what outlives an engine: the images, the servers, and the highest
// epoch that was seen. It is safe for use at once.
type World struct {
	mu       sync.Mutex
	images   map[model.Digest]*image
	servers  []*server // by id
	epoch    uint64
	lost     map[string]bool // addresses of servers that vanished: somebody may still send there
	memory   int64
	watchers map[chan struct{}]bool
}

// Image is an image that can be had.
type Image struct {
	Users      []string // besides "" and "root"
	StopSignal string   // "": SIGTERM
	// Program says what the server with the template does. False: the command does
	// not exist.
	Program func(model.ServerID, model.Template) (Program, bool)
}

// Program is what a server does.
type Program struct {
	StartAfter time.Duration // from the acceptance until it runs
	EndAfter   time.Duration // from then until it ends by itself; 0: never
	Code       int           // exit status of that end
	Lines      []engine.LogLine
	// Signal says how it ends at a signal, and how long it takes. False: it
	// ignores it. Nil: every signal ends it at once with status 0.
	Signal func(signal string) (code int, after time.Duration, ends bool)
	// Exec says how a command in it ends, and how long it takes: negative: for
	// ever. False: there is no such command. Nil: there is none.
	Exec func(command []string) (r engine.ExecResult, after time.Duration, exists bool)
}

type image struct {
	Image
	prepared bool
}

type server struct {
	id        model.ServerID
	epoch     uint64
	template  model.Template
	hash      string
	program   Program
	address   string
	accepted  time.Time
	exit      *model.Exit // set when it has ended by anything but its own time
	busy      bool        // a mutation is under way
	disturbed disturbance
}

// NewWorld returns a world without images and servers whose machine has so
// much memory, in bytes.
func NewWorld(memory int64) *World {
	return &World{images: map[model.Digest]*image{}, lost: map[string]bool{}, memory: memory, watchers: map[chan struct{}]bool{}}
}

// AddImage makes an image available to Prepare.
func (w *World) AddImage(digest model.Digest, i Image) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images[digest] = &image{Image: i}
}

// RemoveImage makes the image unavailable, also to Provision.
func (w *World) RemoveImage(digest model.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.images, digest)
}

// Kill ends a server that has not ended yet, and reports whether there was one.
func (w *World) Kill(id model.ServerID, exit model.Exit) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.serverLocked(id)
	if s == nil || s.observed(exit.At).State == model.Exited {
		return false
	}
	s.exit = &exit
	w.hintLocked()
	return true
}

// Remains is a server that was taken out of a world.
type Remains struct{ *server }

// ID returns whose remains they are.
func (r Remains) ID() model.ServerID { return r.id }

// Vanish takes a server out of the world with all its remains; its address is
// not given again. False: there is none.
func (w *World) Vanish(id model.ServerID) (Remains, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.serverLocked(id)
	if s == nil {
		return Remains{}, false
	}
	w.removeLocked(s)
	w.lost[s.address] = true
	return Remains{s}, true
}

// Reuse lets the address of a vanished server be given again.
func (w *World) Reuse(r Remains) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lost, r.address)
}

// Return brings a server back that had vanished. False: its address or id is
// taken.
func (w *World) Return(r Remains) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		if s.id == r.id || s.address == r.address {
			return false
		}
	}
	r.busy = false
	w.insertLocked(r.server)
	return true
}

// Double makes another server like one that runs, by another's hand: nobody was
// told of it. False: there is none, or no address is free.
func (w *World) Double(id, as model.ServerID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.serverLocked(id)
	if s == nil || w.serverLocked(as) != nil {
		return false
	}
	address, err := w.addressLocked()
	if err != nil {
		return false
	}
	double := *s
	double.id, double.address, double.busy, double.disturbed = as, address, false, disturbance{}
	w.insertLocked(&double)
	return true
}

// Reboot ends every server as a machine that restarts does: nobody saw how.
func (w *World) Reboot(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		if s.observed(at).State != model.Exited {
			s.exit = &model.Exit{At: at}
		}
	}
	w.hintLocked()
}

// Observed returns what is true of every server at the time, ordered by id.
// No fault touches it.
func (w *World) Observed(at time.Time) []model.Observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.observedLocked(at)
}

func (w *World) observedLocked(at time.Time) []model.Observed {
	seen := make([]model.Observed, len(w.servers))
	for i, s := range w.servers {
		seen[i] = s.observed(at)
	}
	return seen
}

// Server returns what is true of one server at the time, or nil.
func (w *World) Server(id model.ServerID, at time.Time) *model.Observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.serverLocked(id)
	if s == nil {
		return nil
	}
	o := s.observed(at)
	return &o
}

// Template returns the template that the server runs.
func (w *World) Template(id model.ServerID) (model.Template, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.serverLocked(id)
	if s == nil {
		return model.Template{}, false
	}
	return s.template, true
}

func (w *World) serverLocked(id model.ServerID) *server {
	i, found := w.searchLocked(id)
	if !found {
		return nil
	}
	return w.servers[i]
}

func (w *World) searchLocked(id model.ServerID) (int, bool) {
	return slices.BinarySearchFunc(w.servers, id, func(s *server, id model.ServerID) int {
		return strings.Compare(string(s.id), string(id))
	})
}

func (w *World) insertLocked(s *server) {
	i, _ := w.searchLocked(s.id)
	w.servers = slices.Insert(w.servers, i, s)
	w.hintLocked()
}

func (w *World) removeLocked(s *server) {
	if i, found := w.searchLocked(s.id); found {
		w.servers = slices.Delete(w.servers, i, i+1)
		w.hintLocked()
	}
}

func (w *World) hintLocked() {
	for hints := range w.watchers {
		select {
		case hints <- struct{}{}:
		default: // one is waiting already
		}
	}
}

const (
	firstAddress = 0xC6120001 // 198.18.0.1
	addresses    = 1<<16 - 2
)

// addressLocked returns the lowest free address, so that what Destroy frees is
// soon used again.
func (w *World) addressLocked() (string, error) {
	taken := make(map[string]bool, len(w.servers))
	for _, s := range w.servers {
		taken[s.address] = true
	}
	for n := range uint32(addresses) {
		a := firstAddress + n
		address := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}).String()
		if !taken[address] && !w.lost[address] {
			return address, nil
		}
	}
	return "", model.Errorf(model.Unavailable, "cannot give an address: all %d are taken", addresses)
}

// observed says how the server stands at the time.
func (s *server) observed(at time.Time) model.Observed {
	o := model.Observed{ID: s.id, Epoch: s.epoch, TemplateHash: s.hash, Address: s.address, State: model.Starting}
	runs := s.accepted.Add(s.program.StartAfter)
	if !at.Before(runs) {
		o.State, o.StartedAt = model.Running, runs
	}
	o.Exit = s.ended(at)
	if o.Exit != nil {
		o.State = model.Exited
	}
	return o
}

func (s *server) ended(at time.Time) *model.Exit {
	if s.program.EndAfter > 0 {
		end := s.accepted.Add(s.program.StartAfter + s.program.EndAfter)
		if !at.Before(end) && (s.exit == nil || end.Before(s.exit.At)) {
			return &model.Exit{Known: true, Code: s.program.Code, At: end}
		}
	}
	return s.exit
}

// String names the server, for messages of the simulation.
func (r Remains) String() string { return fmt.Sprintf("%s at %s", r.id, r.address) }
