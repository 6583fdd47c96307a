// Package server answers the API: it turns requests into commands of control
// and the state into what people and programs read.
package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"kiln/internal/api"
	"kiln/internal/control"
	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/session"
)

// Control is what the server asks of package control.
type Control interface {
	Do(ctx context.Context, actor string, command control.Command) error
	View(f func(s *model.State, snapshot *model.Snapshot))
	Changed() <-chan struct{}
	Troubles() []model.Trouble
}

// Clock tells the time.
type Clock interface {
	Now() model.Now
}

// Observer tells what was observed last.
type Observer interface {
	Observed() reconcile.Observation
}

// History reads the journal.
type History interface {
	// Entries returns at most limit events after the sequence number, with
	// the hash of each.
	Entries(ctx context.Context, after uint64, limit int) ([]Entry, error)
	Verify(ctx context.Context) (api.AuditReport, error)
}

// Entry is a journal entry.
type Entry struct {
	Event model.Event
	Raw   json.RawMessage // the stored bytes
	Hash  string
}

// Images holds images.
type Images interface {
	Import(ctx context.Context, r io.Reader, name string) (model.Image, error)
	Pull(ctx context.Context, ref string) (model.Image, error)
	Show(ctx context.Context, digest model.Digest) (api.Image, error)
}

// Builder builds images. The session is the client's side of the build: its
// bytes are relayed as they are.
type Builder interface {
	Build(ctx context.Context, req api.BuildRequest, session net.Conn, progress func(api.BuildEvent)) (model.Image, error)
}

// Evidence reads what death records point to.
type Evidence interface {
	Read(ctx context.Context, digest string) (json.RawMessage, error)
}

// Archives are what Evidence is read from.
type Archives interface {
	// List returns all that are kept, oldest first.
	List(ctx context.Context) ([]api.Archive, error)
	// Raw returns the bytes of one. Whoever asked closes them.
	Raw(ctx context.Context, digest string) (io.ReadCloser, error)
	// Log passes the lines that a server wrote to sink, as Logs does for those
	// that are there.
	Log(ctx context.Context, digest string, opts engine.LogOptions, sink func(engine.LogLine) error) error
}

// Config is what a Server works with.
type Config struct {
	Inputs    Inputs
	Version   api.Version
	Control   Control
	Clock     Clock
	Observer  Observer
	Engine    engine.Engine
	Logs      engine.Logger
	History   History
	Images    Images
	Builder   Builder
	Evidence  Evidence
	Verifier  Verifier
	Archives  Archives
	Backups   Backups
	Alerts    Alerts          // nil: there are none
	Troubles  func() []string // what kiln cannot write down beside its work; nil: nothing
	Signer    Signer
	Word      Word
	Witness   Witness
	Keys      Keys
	Values    Values
	Bringer   Bringer
	Contents  Contents
	Checks    Checks
	Lists     Lists
	Sources   Sources
	Registry  http.Handler // of what is below api.PathRegistry; nil: there is none
	Metrics   http.Handler // of api.PathMetrics and what is below api.PathQueries; nil: there are none
	Retention Retention
	Admission Admission
	Rooms     control.Rooms
	Sessions  *session.Runner
	Log       *slog.Logger
}

// Server is the API of one instance.
type Server struct {
	cfg Config
	mux *http.ServeMux

	mu       sync.Mutex
	sessions map[string]chan net.Conn // of builds that wait for their context
}

// New returns a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, mux: http.NewServeMux(), sessions: map[string]chan net.Conn{}}
	hc := huma.DefaultConfig("kiln", cfg.Version.Version)
	hc.DocsPath = "" // the document is served; a page for it would load scripts from elsewhere
	hc.SchemasPath = ""
	hc.CreateHooks = nil // no $schema in every answer
	hc.Components = &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName)}
	hc.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[model.Amount](), reflect.TypeFor[amount]())
	h := humago.New(s.mux, hc)
	s.registerViews(h)
	s.registerInputs(h)
	s.registerDrift(h)
	s.registerCommands(h)
	s.registerStreams(h)
	s.registerImages(h)
	s.registerStatements(h)
	s.registerKeys(h)
	s.registerContents(h)
	s.registerChecks(h)
	s.registerSources()
	s.registerValues(h)
	s.registerVolumes(h)
	s.registerRetention(h)
	s.registerSessions(h)
	s.registerEvidence(h)
	s.registerAccount(h)
	s.registerAlerts(h)
	s.registerPromotion(h)
	if cfg.Registry != nil {
		s.mux.Handle(api.PathRegistry, cfg.Registry)
	}
	if cfg.Metrics != nil {
		s.mux.Handle(api.PathMetrics, cfg.Metrics)
		s.mux.Handle(api.PathQueries, cfg.Metrics)
	}
	return s
}

// amount is model.Amount as the document has it.
type amount struct{}

// Schema implements huma.SchemaProvider.
func (amount) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		{Type: huma.TypeInteger, Description: "a number of servers"},
		{Type: huma.TypeString, Pattern: "^[0-9]+%$", Description: "a percentage of the service's count"},
	}}
}

// schemaName names a type in the document. Wire types have their own names,
// the nouns that they carry are told apart by their package.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch {
	case strings.HasSuffix(t.PkgPath(), "/model"):
		return "Model" + name
	case strings.HasSuffix(t.PkgPath(), "/audit"):
		return "Audited" + name
	}
	return name
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// problem is an api.Problem as an error that huma answers with.
type problem struct{ api.Problem }

// Error implements error.
func (p *problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// statuses are the HTTP statuses of the error classes.
var statuses = map[model.Code]int{
	model.Invalid:      http.StatusBadRequest,
	model.NotFound:     http.StatusNotFound,
	model.Conflict:     http.StatusConflict,
	model.Precondition: http.StatusPreconditionFailed,
	model.Unavailable:  http.StatusServiceUnavailable,
	model.Denied:       http.StatusForbidden,
	model.Internal:     http.StatusInternalServerError,
}

// problemOf returns err as the API says it.
func problemOf(err error) *api.Problem {
	code := model.CodeOf(err)
	status := statuses[code]
	return &api.Problem{Title: http.StatusText(status), Status: status, Detail: err.Error(), Code: code, Hint: model.HintOf(err)}
}

// refuse turns an error into an answer.
func (s *Server) refuse(err error) error {
	if model.CodeOf(err) == model.Internal {
		s.cfg.Log.Error("request failed", "error", err)
	}
	return &problem{*problemOf(err)}
}

// refuseRaw answers with an error outside of huma.
func (s *Server) refuseRaw(w http.ResponseWriter, err error) {
	p := problemOf(err)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		s.cfg.Log.Debug("cannot answer", "error", err)
	}
}

// reply is an answer with a body.
type reply[T any] struct{ Body T }

// serviceNamed returns the service or a NotFound error that names what there is.
func serviceNamed(st *model.State, name string) (*model.Service, error) {
	if svc := st.Services[name]; svc != nil {
		return svc, nil
	}
	err := model.Errorf(model.NotFound, "cannot find service %q: no such service was ever deployed here", name)
	if known := sortedKeys(st.Services); len(known) > 0 {
		return nil, err.WithHint("there are: %s", joined(known))
	}
	return nil, err.WithHint("deploy one: kiln deploy %s", name)
}
