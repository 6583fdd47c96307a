package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// sessionTimeout is how long a build waits for its client's context.
const sessionTimeout = 15 * time.Second

func (s *Server) registerImages(h huma.API) {
	huma.Register(h, operation("images", http.MethodGet, api.PathImages, "What images there are"), s.images)
	huma.Register(h, operation("image", http.MethodGet, api.PathImage, "One image"), s.image)
	huma.Register(h, operation("image-history", http.MethodGet, api.PathImageHistory, "The line of a service's images"), s.imageHistory)
	huma.Register(h, operation("pull", http.MethodPost, api.PathPull, "Take an image from a registry"), s.pull)
	build := operation("build", http.MethodPost, api.PathBuild, "Build an image")
	build.MaxBodyBytes = maxLocked
	huma.Register(h, build, s.build)
	// The bodies of these are no JSON, so they stand beside huma.
	s.mux.HandleFunc("POST "+api.PathImport, s.importImage)
	s.mux.HandleFunc("POST "+api.PathSession, s.session)
	s.mux.HandleFunc("GET "+api.PathBackup, s.backup)
}

func (s *Server) images(context.Context, *struct{}) (*reply[api.Images], error) {
	out := &reply[api.Images]{api.Images{Images: []model.Image{}}}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, img := range st.Images {
			if !img.RemovedAt.IsZero() {
				continue // it is not here any more
			}
			out.Body.Images = append(out.Body.Images, copyOf(img))
		}
	})
	slices.SortFunc(out.Body.Images, func(a, b model.Image) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.Digest), string(b.Digest))
	})
	return out, nil
}

func copyOf(img *model.Image) model.Image {
	c := *img
	if img.Rejection != nil {
		said := *img.Rejection
		c.Rejection = &said
	}
	c.Checked = slices.Clone(img.Checked)
	c.Names, c.Services, c.Statements, c.Made = slices.Clone(img.Names), slices.Clone(img.Services), slices.Clone(img.Statements), slices.Clone(img.Made)
	return c
}

type imageInput struct {
	Image string `path:"image"`
}

func (s *Server) image(ctx context.Context, in *imageInput) (*reply[api.Image], error) {
	name, err := url.PathUnescape(in.Image)
	if err != nil {
		name = in.Image
	}
	var known *model.Image
	var usedBy []string
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if known, err = imageNamed(st, name); err == nil {
			usedBy = users(st, known.Digest)
		}
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	shown, err := s.cfg.Images.Show(ctx, known.Digest)
	if model.CodeOf(err) == model.NotFound && !known.RemovedAt.IsZero() {
		shown, err = api.Image{Layers: []api.Layer{}}, nil // what is known of it is all there is
	}
	if err != nil {
		return nil, s.refuse(err)
	}
	shown.Image, shown.UsedBy = *known, usedBy
	return &reply[api.Image]{shown}, nil
}

// imageNamed finds an image by its digest, the beginning of it (four digits or
// more), or a name. The result is a copy.
func imageNamed(st *model.State, name string) (*model.Image, error) {
	var matches []model.Image
	for _, img := range st.Images {
		if named(img, name) || digits(img, name) {
			matches = append(matches, copyOf(img))
		}
	}
	switch len(matches) {
	case 1:
		return &matches[0], nil
	case 0:
		return nil, model.Errorf(model.NotFound, "cannot find image %q", name).WithHint("kiln images lists them")
	default:
		return nil, model.Errorf(model.Invalid, "cannot tell which image %q is: it is a name or the beginning of the digest of %d images", name, len(matches)).
			WithHint("give more digits, or the whole name")
	}
}

// named reports whether the image has the name, written in full or short.
func named(img *model.Image, name string) bool {
	return slices.ContainsFunc(img.Names, func(n string) bool { return reconcile.SameName(n, name) })
}

// digits reports whether the image's digest begins so: with four digits or more.
func digits(img *model.Image, text string) bool {
	text = strings.TrimPrefix(text, "sha256:")
	return len(text) >= 4 && strings.HasPrefix(strings.TrimPrefix(string(img.Digest), "sha256:"), text)
}

// settled reports whether the reference means the image for good: it is one of
// this machine's, or says the digest. What came from a registry by its name is
// asked of that again, for the name may have moved there.
func settled(img *model.Image, ref string) bool {
	return img.Source == "import" || img.Source == "build" || strings.Contains(ref, "sha256:") || !named(img, ref)
}

func users(st *model.State, digest model.Digest) []string {
	var out []string
	for _, name := range sortedKeys(st.Services) {
		svc := st.Services[name]
		for _, r := range svc.Releases {
			if r.Template.Image != digest {
				continue
			}
			use := name + " release " + strconv.Itoa(r.Number)
			if svc.InService == r.Number {
				use += " (in service)"
			}
			out = append(out, use)
		}
	}
	return out
}

// usedAgain is how old the last use of an image may be that is made again
// without being journalled again.
const usedAgain = 10 * time.Minute

// added journals an image. What is not in the journal does not exist for kiln,
// so this comes before the answer. What complete adds is of the state at that
// moment.
func (s *Server) added(ctx context.Context, img model.Image, complete ...func(*model.State, *model.Image)) error {
	return s.cfg.Admission.Admit(ctx, img.Author, func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		img.CreatedAt = now.Wall
		for _, c := range complete {
			c(st, &img)
		}
		if known := st.Images[img.Digest]; known != nil {
			fresh := slices.ContainsFunc(img.Names, func(n string) bool { return !slices.Contains(known.Names, n) }) ||
				slices.ContainsFunc(img.Services, func(n string) bool { return !slices.Contains(known.Services, n) })
			fresh = fresh || img.Provenance.Inputs != "" && img.Provenance.Inputs != known.Provenance.Inputs
			lately := known.RemovedAt.IsZero() && now.Elapsed.Sub(known.LastUse) < usedAgain
			if !fresh && lately {
				return nil, nil
			}
		}
		return []model.Payload{model.ImageAdded{Image: img}}, nil
	}, func() bool { return s.present(ctx, img.Digest) })
}

type pullInput struct{ Body api.PullRequest }

func (s *Server) pull(ctx context.Context, in *pullInput) (*reply[api.ImageResult], error) {
	began := time.Now()
	var local *model.Image
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) { local, _ = imageNamed(st, in.Body.Ref) })
	if local != nil && (!settled(local, in.Body.Ref) || !s.present(ctx, local.Digest)) {
		local = nil // present is false after a restore that did not bring it
	}
	if local != nil {
		if strings.Contains(in.Body.Ref, "@sha256:") && local.Source != "build" && local.Source != "import" {
			s.bring(ctx, local.Digest, in.Body.Ref) // more may have been said of it, or other keys be believed by now
		}
		return &reply[api.ImageResult]{api.ImageResult{Image: local.Digest, Name: in.Body.Ref, Size: local.Size}}, nil
	}
	if err := s.fits("pull "+in.Body.Ref, nothing); err != nil {
		return nil, s.refuse(err)
	}
	img, err := s.cfg.Images.Pull(ctx, in.Body.Ref)
	if err != nil {
		return nil, s.refuse(err)
	}
	img.Author, img.Reason, img.Source = in.Body.Author, in.Body.Reason, in.Body.Ref
	if err := s.added(ctx, img); err != nil {
		return nil, s.refuse(err)
	}
	s.bring(ctx, img.Digest, in.Body.Ref)
	return &reply[api.ImageResult]{api.ImageResult{Image: img.Digest, Name: in.Body.Ref, Size: img.Size, TookMS: time.Since(began).Milliseconds()}}, nil
}

// bring has what is attached to an image come along. That it cannot does not keep the
// image from being here.
func (s *Server) bring(ctx context.Context, image model.Digest, ref string) {
	if err := s.cfg.Bringer.Bring(ctx, image, ref); err != nil {
		s.cfg.Log.Warn("what is attached to an image could not be brought along", "image", string(image), "from", ref, "error", err)
	}
}

// present reports whether the image store has the image.
func (s *Server) present(ctx context.Context, digest model.Digest) bool {
	_, err := s.cfg.Images.Show(ctx, digest)
	return model.CodeOf(err) != model.NotFound
}

func (s *Server) importImage(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	query := r.URL.Query()
	var img model.Image
	err := s.fits("import "+query.Get("name"), func(*model.State, *model.Snapshot) int64 { return max(0, r.ContentLength) })
	if err == nil {
		img, err = s.cfg.Images.Import(r.Context(), r.Body, query.Get("name"))
	}
	if err == nil {
		img.Author, img.Reason, img.Source = query.Get("author"), query.Get("reason"), "import"
		err = s.added(r.Context(), img)
	}
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	result := api.ImageResult{Image: img.Digest, Name: query.Get("name"), Size: img.Size, TookMS: time.Since(began).Milliseconds()}
	if err := json.NewEncoder(w).Encode(result); err != nil {
		s.cfg.Log.Debug("cannot answer", "error", err)
	}
}

type buildInput struct{ Body api.BuildRequest }

// build streams a build's progress. Its first line names the build, so that
// the client can bring its context.
func (s *Server) build(_ context.Context, in *buildInput) (*huma.StreamResponse, error) {
	err := s.fits("build "+in.Body.Service, func(st *model.State, _ *model.Snapshot) int64 { return reconcile.BuildNeed(st, in.Body.Service) })
	if err != nil {
		return nil, s.refuse(err)
	}
	id := strings.ToLower(rand.Text())
	waiting := make(chan net.Conn, 1)
	s.mu.Lock()
	s.sessions[id] = waiting
	s.mu.Unlock()
	return stream(func(hctx huma.Context, out *ndjson) error {
		defer s.forget(id, waiting)
		ctx := hctx.Context()
		if err := out.send(api.BuildEvent{Build: id}); err != nil {
			return err
		}
		last := s.runBuild(ctx, in.Body, waiting, func(e api.BuildEvent) { _ = out.send(e) })
		return out.send(last)
	}), nil
}

// forget drops the build's waiting session, and a connection that came late.
func (s *Server) forget(id string, waiting chan net.Conn) {
	s.mu.Lock()
	delete(s.sessions, id)
	s.mu.Unlock()
	select {
	case conn := <-waiting:
		_ = conn.Close()
	default:
	}
}

// runBuild waits for the context, builds, and journals the image. What it
// returns is the last line.
func (s *Server) runBuild(ctx context.Context, req api.BuildRequest, waiting chan net.Conn, progress func(api.BuildEvent)) api.BuildEvent {
	began := time.Now()
	var session net.Conn
	select {
	case session = <-waiting:
		defer session.Close()
	case <-ctx.Done():
		return api.BuildEvent{Error: problemOf(ctx.Err())}
	case <-time.After(sessionTimeout):
		return api.BuildEvent{Error: problemOf(model.Errorf(model.Unavailable, "cannot build: the client brought no context within %s", sessionTimeout))}
	}
	locked := ""
	img, err := s.cfg.Builder.Build(ctx, req, session, func(e api.BuildEvent) {
		if e.Lock != "" {
			locked = e.Lock
			return
		}
		progress(e)
	})
	if locked != "" && req.Lock != nil {
		after := *req.Lock
		after.Text, req.Lock = locked, &after
	}
	if err == nil && req.Same != "" {
		return s.compared(ctx, req.Same, img, began)
	}
	if err == nil {
		img.Author, img.Reason, img.Source = req.Author, req.Reason, "build"
		if req.Service != "" {
			img.Services = []string{req.Service}
		}
		img.Provenance.Commit, img.Provenance.Dirty = req.Commit, req.Dirty
		err = s.added(ctx, img, func(st *model.State, img *model.Image) { img.Made = makingOf(st, img, req) })
	}
	if err == nil {
		s.cfg.Signer.Sign(img, req, began)
	}
	if err != nil {
		return api.BuildEvent{Error: problemOf(err)}
	}
	return api.BuildEvent{
		Result:  &api.ImageResult{Image: img.Digest, Size: img.Size, TookMS: time.Since(began).Milliseconds()},
		Parents: img.Provenance.Parents, Lock: locked, Inputs: img.Provenance.Inputs,
		WantsSource: s.cfg.Sources.Lacks(ctx, img.Digest),
	}
}

// compared ends a build that was made to see whether it is the same again. Its image
// is written down nowhere: what nobody knows is removed by retention.
func (s *Server) compared(ctx context.Context, first model.Digest, img model.Image, began time.Time) api.BuildEvent {
	last := api.BuildEvent{
		Result:  &api.ImageResult{Image: img.Digest, Size: img.Size, TookMS: time.Since(began).Milliseconds()},
		Parents: img.Provenance.Parents,
	}
	if img.Digest == first {
		return last
	}
	var err error
	if last.Differs, err = s.cfg.Contents.Compare(ctx, first, img.Digest); err != nil {
		return api.BuildEvent{Error: problemOf(err)}
	}
	return last
}

// makingOf says how an image has just come to be for the service that it was built
// for; nil: that is known.
func makingOf(st *model.State, img *model.Image, req api.BuildRequest) []model.Making {
	if known := st.Images[img.Digest]; req.Service == "" || known != nil && known.MadeFor(req.Service) != nil {
		return nil
	}
	made := model.Making{
		Service: req.Service, At: img.CreatedAt, Author: req.Author, Reason: req.Reason, Commit: req.Commit, Dirty: req.Dirty,
	}
	made.From, made.How = reconcile.Descend(st, req.Service, img.Digest, req.Origin, req.Ancestry)
	return []model.Making{made}
}

// session turns the connection into the session of a build that waits for it.
func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	waiting := s.sessions[r.PathValue("build")]
	delete(s.sessions, r.PathValue("build"))
	s.mu.Unlock()
	if waiting == nil {
		s.refuseRaw(w, model.Errorf(model.NotFound, "cannot bring a context: no build %q waits for one", r.PathValue("build")))
		return
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok || r.Header.Get("Upgrade") != api.SessionProtocol {
		s.refuseRaw(w, model.Errorf(model.Invalid, "cannot bring a context: the request must be upgraded to %s", api.SessionProtocol))
		return
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		s.cfg.Log.Error("cannot take over the connection", "error", err)
		return
	}
	_, err = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.SessionProtocol + "\r\n\r\n")
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		_ = conn.Close()
		return
	}
	waiting <- &hijacked{conn, buffered.Reader}
}
