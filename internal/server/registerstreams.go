package server

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/engine"
	"kiln/internal/model"
)

func (s *Server) registerStreams(h huma.API) {
	huma.Register(h, operation("deployment", http.MethodGet, api.PathDeployment, "Where a deployment stands"), s.deployment)
	huma.Register(h, operation("watch", http.MethodGet, api.PathWatch, "Follow a deployment"), s.watch)
	huma.Register(h, operation("logs", http.MethodGet, api.PathLogs, "What servers write"), s.logs)
	huma.Register(h, operation("events", http.MethodGet, api.PathEvents, "What happened and why"),
		func(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) { return s.events(in, false) })
	huma.Register(h, operation("audit", http.MethodGet, api.PathAudit, "The journal with its hashes"),
		func(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) { return s.events(in, true) })
}

type eventsInput struct {
	After   uint64 `query:"after" doc:"only events after this sequence number"`
	Follow  bool   `query:"follow"`
	Service string `query:"service"`
	Tail    uint64 `query:"tail" doc:"only the last so many entries of the journal"`
}

// events streams the journal, in words, optionally as it grows.
func (s *Server) events(in *eventsInput, hashes bool) (*huma.StreamResponse, error) {
	after := in.After
	var unknown error
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if in.Service != "" {
			_, unknown = serviceNamed(st, in.Service)
		}
		if in.Tail > 0 && st.Seq > in.Tail {
			after = max(after, st.Seq-in.Tail)
		}
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	return stream(func(hctx huma.Context, out *ndjson) error {
		ctx := hctx.Context()
		for {
			changed := s.cfg.Control.Changed()
			entries, err := s.cfg.History.Entries(ctx, after, 256)
			if err != nil {
				return err
			}
			for _, e := range entries {
				after = e.Event.Seq
				if err := s.sendEntry(out, e, in.Service, hashes); err != nil {
					return err
				}
			}
			switch {
			case len(entries) > 0:
				continue
			case !in.Follow:
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			}
		}
	}), nil
}

func (s *Server) sendEntry(out *ndjson, e Entry, only string, hashes bool) error {
	service, text := inWords(e.Event)
	if only != "" && service != only {
		return nil
	}
	data, err := json.Marshal(e.Event.Data)
	if err != nil {
		return err
	}
	line := api.Event{
		Seq: e.Event.Seq, Epoch: e.Event.Epoch, Kind: e.Event.Data.Kind(), At: e.Event.At, Actor: e.Event.Actor,
		Service: service, Text: text, Data: data,
	}
	if hashes {
		line.Hash = e.Hash
	}
	return out.send(line)
}

type logsInput struct {
	Server  model.ServerID `query:"server"`
	Service string         `query:"service"`
	Follow  bool           `query:"follow"`
	Tail    int            `query:"tail" minimum:"0"`
	Since   time.Time      `query:"since"`
}

// logs streams what one server, or the present servers of a service, write.
func (s *Server) logs(ctx context.Context, in *logsInput) (*huma.StreamResponse, error) {
	sources, gone, err := s.logSources(in)
	if err == nil && gone { // what hinders is told before the answer begins
		err = s.readable(ctx, in.Server)
	}
	if err != nil {
		return nil, s.refuse(err)
	}
	return stream(func(hctx huma.Context, out *ndjson) error {
		opts := engine.LogOptions{Since: in.Since, Tail: in.Tail, Follow: in.Follow}
		if !in.Follow { // one after the other reads better than interleaved
			for _, src := range sources {
				err := s.sendLogs(hctx.Context(), src, opts, out.send)
				if err != nil && (len(sources) == 1 || model.CodeOf(err) != model.NotFound) { // one of many may have gone meanwhile
					return err
				}
			}
			return nil
		}
		var writing sync.Mutex
		var all sync.WaitGroup
		for _, src := range sources {
			all.Go(func() {
				_ = s.sendLogs(hctx.Context(), src, opts, func(v any) error {
					writing.Lock()
					defer writing.Unlock()
					return out.send(v)
				})
			})
		}
		all.Wait()
		return nil
	}), nil
}

// logSources returns the label of each server whose lines are asked for; gone
// says that it is one that is not there any more.
func (s *Server) logSources(in *logsInput) (sources []api.LogLine, gone bool, failed error) {
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		name := in.Service
		if in.Server != "" {
			name = in.Server.Service()
		}
		svc, err := serviceNamed(st, name)
		if err != nil {
			failed = err
			return
		}
		for _, id := range sortedKeys(svc.Servers) {
			if in.Server != "" && id != in.Server {
				continue
			}
			srv := svc.Servers[id]
			label := api.LogLine{Service: svc.Name, Server: id, Release: srv.Release}
			if r := svc.Release(srv.Release); r != nil {
				label.Image, label.Commit = r.Template.Image, r.Provenance.Commit
			}
			sources = append(sources, label)
		}
		if in.Server != "" && len(sources) == 0 {
			sources, gone = append(sources, labelOfDead(svc, in.Server)), true
		}
	})
	return sources, gone, failed
}

// sendLogs sends what the server writes, or wrote if it is gone.
func (s *Server) sendLogs(ctx context.Context, label api.LogLine, opts engine.LogOptions, send func(any) error) error {
	sent := false
	sink := func(l engine.LogLine) error {
		line := label
		line.At, line.Stream, line.Text = l.At, l.Stream, l.Text
		sent = true
		return send(line)
	}
	err := s.cfg.Logs.Logs(ctx, label.Server, opts, sink)
	if model.CodeOf(err) != model.NotFound || sent {
		return err
	}
	digest, err := s.archiveOf(ctx, string(label.Server))
	if err != nil {
		return err
	}
	return s.cfg.Archives.Log(ctx, digest, opts, sink)
}
