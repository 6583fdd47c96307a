package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/session"
)

func (s *Server) registerSessions(h huma.API) {
	huma.Register(h, operation("extend-session", http.MethodPost, api.PathExtend, "Give a hotfix more time"), s.extendSession)
	huma.Register(h, operation("sessions", http.MethodGet, api.PathSessions, "Who had a terminal in which server"), s.sessionList)
	huma.Register(h, operation("session", http.MethodGet, api.PathSessionShown, "One session with what it leaves"), s.sessionShown)
	s.mux.HandleFunc("POST "+api.PathTerminal, s.terminal)
	s.mux.HandleFunc("GET "+api.PathSessionFile, s.sessionFile)
}

// sessionView is a session as people see it.
func sessionView(x *model.Session, now model.Now) api.Session {
	var extensions []api.Extension
	for _, e := range x.Extensions {
		extensions = append(extensions, api.Extension{By: e.By, Reason: e.Reason, At: e.At, Until: wall(e.Until, now)})
	}
	return api.Session{
		ID: x.ID, Service: x.Server.Service(), Server: x.Server, Kind: x.Kind, By: x.By, Reason: x.Reason, Command: x.Command,
		OutOfRotation: x.OutOfRotation, OpenedAt: x.OpenedAt, Until: wall(x.Until, now), Extensions: extensions, Ended: x.Ended,
	}
}

type extendInput struct {
	Server model.ServerID `path:"server"`
	Body   api.ExtendRequest
}

func (s *Server) extendSession(ctx context.Context, in *extendInput) (*reply[api.Extended], error) {
	var id model.SessionID
	err := s.cfg.Control.Do(ctx, actor(in.Body.By), func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		events, err := reconcile.ExtendSession(st, reconcile.ExtendRequest{
			Server: in.Server, By: actor(in.Body.By), Reason: in.Body.Reason, For: in.Body.For,
		}, now)
		for _, e := range events {
			if extended, ok := e.(model.SessionExtended); ok {
				id = extended.ID
			}
		}
		return events, err
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	found, err := s.findSession(id)
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[api.Extended]{api.Extended{Session: found}}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		left := reconcile.ExtensionsLeft(st, in.Server, s.cfg.Clock.Now())
		out.Body.Left = &left
	})
	return out, nil
}

// findSession returns one session.
func (s *Server) findSession(id model.SessionID) (found api.Session, err error) {
	err = model.Errorf(model.NotFound, "cannot find session %q", id).WithHint("kiln hotfix ls lists them")
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, svc := range st.Services {
			if x := svc.Session(id); x != nil {
				found, err = sessionView(x, now), nil
			}
		}
	})
	return found, err
}

type sessionsInput struct {
	Service string         `query:"service"`
	Server  model.ServerID `query:"server"`
}

func (s *Server) sessionList(_ context.Context, in *sessionsInput) (*reply[api.Sessions], error) {
	out := &reply[api.Sessions]{api.Sessions{Sessions: []api.Session{}}}
	var failed error
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if st.Services[string(in.Server)] != nil { // a service whose name looks like a server's
			in.Service, in.Server = string(in.Server), ""
		}
		if name := cmp.Or(in.Service, in.Server.Service()); name != "" {
			if _, failed = serviceNamed(st, name); failed != nil {
				return
			}
		}
		for name, svc := range st.Services {
			if in.Service != "" && name != in.Service {
				continue
			}
			for _, x := range svc.Sessions {
				if in.Server == "" || x.Server == in.Server {
					out.Body.Sessions = append(out.Body.Sessions, sessionView(x, now))
				}
			}
		}
	})
	if failed != nil {
		return nil, s.refuse(failed)
	}
	slices.SortFunc(out.Body.Sessions, func(a, b api.Session) int { return b.OpenedAt.Compare(a.OpenedAt) })
	return out, nil
}

type sessionInput struct {
	Session model.SessionID `path:"session"`
}

func (s *Server) sessionShown(_ context.Context, in *sessionInput) (*reply[api.SessionShown], error) {
	x, err := s.findSession(in.Session)
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[api.SessionShown]{api.SessionShown{Session: x}}
	if x.Ended == nil || x.Ended.Evidence == "" {
		return out, nil
	}
	if err := s.showLeft(&out.Body); err != nil {
		end := *x.Ended
		end.Missing = append(slices.Clone(end.Missing), "what it leaves: "+err.Error())
		out.Body.Ended = &end
	}
	return out, nil
}

// showLeft fills in what a session leaves.
func (s *Server) showLeft(shown *api.SessionShown) error {
	files, err := s.cfg.Sessions.Leaves(shown.Ended.Evidence)
	if err != nil {
		return err
	}
	defer files.Close()
	texts := map[string]string{}
	for _, name := range []string{session.FileChanges, session.FilePatch, session.FileContainerfile} {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		texts[name] = string(b)
	}
	shown.Changes = json.RawMessage(texts[session.FileChanges])
	shown.Patch, shown.Containerfile = texts[session.FilePatch], texts[session.FileContainerfile]
	var changes []session.Change
	if err := json.Unmarshal(shown.Changes, &changes); err != nil {
		return err
	}
	shown.Files = []string{session.FileContainerfile, session.FilePatch}
	for _, c := range changes {
		if c.File != "" {
			shown.Files = append(shown.Files, c.File)
		}
	}
	return nil
}

// sessionFile answers with one file of what a session leaves.
func (s *Server) sessionFile(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	x, err := s.findSession(model.SessionID(r.PathValue("session")))
	switch {
	case err != nil:
	case x.Ended == nil:
		err = model.Errorf(model.Precondition, "cannot show what session %s leaves: it is open", x.ID)
	case x.Ended.Evidence == "":
		err = model.Errorf(model.NotFound, "cannot show what session %s leaves: nothing was kept", x.ID)
	default:
		err = s.sendFile(w, x, name)
	}
	if err != nil {
		s.refuseRaw(w, err)
	}
}

// sendFile sends a file, or returns why there is none; what goes wrong later
// cuts the answer short.
func (s *Server) sendFile(w http.ResponseWriter, x api.Session, name string) error {
	files, err := s.cfg.Sessions.Leaves(x.Ended.Evidence)
	if err != nil {
		return err
	}
	defer files.Close()
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return model.Errorf(model.NotFound, "cannot show %q of session %s: it has no such file", name, x.ID)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := io.Copy(w, f); err != nil {
		s.cfg.Log.Warn("cannot send what a session leaves", "session", string(x.ID), "file", name, "error", err)
		panic(http.ErrAbortHandler) // it must not look whole
	}
	return nil
}
