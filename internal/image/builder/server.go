package builder

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"kiln/internal/buildcontext"
	"kiln/internal/image"
	"kiln/internal/model"
)

// sessionDeadline is how long a build waits for the connection with its files.
const sessionDeadline = 20 * time.Second

// server answers the daemon.
type server struct {
	worker *worker
	store  *image.Store
	log    *slog.Logger
	idle   time.Duration
	// elsewhere makes a place for a build from nothing.
	elsewhere func() (*place, error)

	mu       sync.Mutex
	sessions map[string]chan net.Conn // by the build's id
	active   int                      // connections
	quiet    *time.Timer
	worked   time.Time // when it was started, or last built
}

func newServer(w *worker, store *image.Store, cfg Config) *server {
	return &server{worker: w, store: store, log: cfg.Log, idle: cfg.Idle, sessions: map[string]chan net.Conn{}}
}

// serve answers until ctx ends or nobody has asked for long enough, and
// returns when every connection has ended.
func (s *server) serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.idle > 0 {
		s.mu.Lock()
		s.quiet, s.worked = time.AfterFunc(s.idle, func() { s.rest(ln) }), time.Now()
		s.mu.Unlock()
		defer s.quiet.Stop()
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return model.Errorf(model.Unavailable, "cannot accept a connection: %w", err)
		}
		s.busy(1)
		connections.Go(func() {
			defer s.busy(-1)
			defer conn.Close()
			s.answer(ctx, conn)
		})
	}
}

// busy counts connections, so that the process ends only when there are none. Only
// builds keep it for longer; who has just asked whether it is there finds it once
// more.
func (s *server) busy(delta int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active += delta
	if s.quiet == nil {
		return
	}
	if s.active == 0 {
		s.quiet.Reset(max(time.Second, s.idle-time.Since(s.worked)))
	} else {
		s.quiet.Stop()
	}
}

// work notes that something was built.
func (s *server) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worked = time.Now()
}

// rest stops accepting when nobody is connected; one who was accepted at the
// last moment is served.
func (s *server) rest(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == 0 {
		ln.Close()
	}
}

// answer serves one connection.
func (s *server) answer(ctx context.Context, conn net.Conn) {
	r := bufio.NewReader(conn)
	var h hello
	if err := receive(r, &h); err != nil {
		if !errors.Is(err, io.EOF) { // a ping says nothing
			s.log.Warn("cannot read a request", "error", err)
		}
		return
	}
	rest := &readAhead{Conn: conn, r: r}
	switch {
	case h.Session:
		s.lend(ctx, h.ID, rest)
	case h.Cache != nil:
		s.cache(ctx, *h.Cache, rest)
	case h.Build != nil:
		s.build(ctx, h.ID, *h.Build, rest)
	}
}

// session returns the place where the two connections of a build meet.
func (s *server) session(id string) chan net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.sessions[id]
	if !ok {
		c = make(chan net.Conn)
		s.sessions[id] = c
	}
	return c
}

func (s *server) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, id)
}

// lend gives the connection with the files to its build and waits until the
// build closes it.
func (s *server) lend(ctx context.Context, id string, conn net.Conn) {
	held := &watched{Conn: conn, closed: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, sessionDeadline)
	defer cancel()
	select {
	case s.session(id) <- held:
		<-held.closed
	case <-ctx.Done():
		s.forget(id)
	}
}

// build carries a build out and reports it on conn. If the other end goes
// away, the build is cancelled.
func (s *server) build(ctx context.Context, id string, req Request, conn net.Conn) {
	defer s.forget(id)
	defer s.work()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn) // ends when the client does
		cancel()
	}()
	defer func() { conn.Close(); <-gone }()
	out := &lines{w: conn}
	res, err := s.run(ctx, id, req, func(e Event) {
		if err := out.send(reply{Event: &e}); err != nil {
			cancel()
		}
	})
	last := reply{Result: &res}
	if err != nil {
		last = reply{Failure: failureOf(err)}
	}
	if err := out.send(last); err != nil {
		s.log.Warn("cannot report a build: its client is gone", "error", err)
	}
}

// run waits for the files and builds.
func (s *server) run(ctx context.Context, id string, req Request, progress func(Event)) (Result, error) {
	var files net.Conn
	select {
	case files = <-s.session(id):
	case <-time.After(sessionDeadline):
		return Result{}, model.Errorf(model.Unavailable, "cannot build: the client did not offer its build context within %s", sessionDeadline)
	case <-ctx.Done():
		return Result{}, model.Errorf(model.Unavailable, "cannot build: it was cancelled")
	}
	defer files.Close()
	preamble, files, err := buildcontext.Accept(files)
	if err != nil {
		return Result{}, err
	}
	on := s.worker
	if req.Fresh {
		p, err := s.elsewhere()
		if err != nil {
			return Result{}, err
		}
		on = p.worker
		defer func() {
			if err := p.leave(context.WithoutCancel(ctx)); err != nil {
				s.log.Warn("what a build from nothing has left is removed later", "error", err)
			}
		}()
	}
	b := &build{worker: on, store: s.store, log: s.log, req: req, progress: progress}
	res, err := b.run(ctx, files, preamble)
	if err != nil && ctx.Err() != nil {
		return Result{}, model.Errorf(model.Unavailable, "cannot build: it was cancelled")
	}
	return res, err
}

// readAhead is a connection of which some bytes were read already.
type readAhead struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// watched is a connection that tells when it was closed.
type watched struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close implements net.Conn.
func (c *watched) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}
