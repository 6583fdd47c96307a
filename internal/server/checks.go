package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Checks judges images before servers are made from them.
type Checks interface {
	// Judge holds the image of the template against what the policy asks of it.
	// What it has passed before it is not asked again. With run, what only a server
	// that runs can tell is asked of a disposable one; without, it is pending unless
	// it is known. An image that does not pass is no error.
	Judge(ctx context.Context, q api.CheckRequest, run bool) (api.ImageChecks, error)
}

// Lists keeps lists of vulnerabilities.
type Lists interface {
	Has(d model.Digest) bool
	// Keep reads a list and keeps it if it can be understood. Invalid: it cannot.
	Keep(ctx context.Context, name string, r io.Reader) (api.List, error)
}

func (s *Server) registerChecks(h huma.API) {
	s.mux.HandleFunc("POST "+api.PathLists, s.keepList)
	huma.Register(h, operation("list", http.MethodGet, api.PathLists, "Whether a list of vulnerabilities is here"), s.hasList)
	huma.Register(h, operation("check", http.MethodPost, api.PathCheck, "Whether an image is what a policy asks for"), s.check)
	huma.Register(h, operation("image-checks", http.MethodGet, api.PathChecks, "Whether an image is what a service asks for"), s.imageChecks)
}

type checkInput struct {
	Service string `path:"service"`
	Body    api.CheckRequest
}

func (s *Server) check(ctx context.Context, in *checkInput) (*reply[api.ImageChecks], error) {
	in.Body.Template.Service = in.Service
	if _, err := s.imageHere(string(in.Body.Template.Image)); err != nil {
		return nil, s.refuse(err)
	}
	checks, err := s.cfg.Checks.Judge(ctx, in.Body, true)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.ImageChecks]{checks}, nil
}

type listInput struct {
	Digest model.Digest `query:"digest" required:"true"`
}

func (s *Server) hasList(_ context.Context, in *listInput) (*reply[api.List], error) {
	if !s.cfg.Lists.Has(in.Digest) {
		return nil, s.refuse(model.Errorf(model.NotFound, "there is no list of vulnerabilities %s here", in.Digest.Short()))
	}
	return &reply[api.List]{api.List{Digest: in.Digest}}, nil
}

func (s *Server) keepList(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	err := s.fits("take the list of vulnerabilities "+name, func(*model.State, *model.Snapshot) int64 { return max(0, r.ContentLength) })
	var list api.List
	if err == nil {
		list, err = s.cfg.Lists.Keep(r.Context(), name, r.Body)
	}
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		s.cfg.Log.Debug("cannot answer", "error", err)
	}
}

type imageChecksInput struct {
	Image   string `path:"image"`
	Service string `query:"service"`
}

// imageChecks judges an image by the newest release of a service.
func (s *Server) imageChecks(ctx context.Context, in *imageChecksInput) (*reply[api.ImageChecks], error) {
	img, err := s.imageHere(in.Image)
	if err != nil {
		return nil, s.refuse(err)
	}
	var q api.CheckRequest
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) { q, err = askedOf(st, img, in.Service) })
	if err != nil {
		return nil, s.refuse(err)
	}
	checks, err := s.cfg.Checks.Judge(ctx, q, true)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.ImageChecks]{checks}, nil
}

// askedOf is what a service's newest release asks of an image; without a name,
// the only service that the image was built for or that had a release of it.
func askedOf(st *model.State, img model.Image, name string) (q api.CheckRequest, err error) {
	if name == "" {
		names := slices.Clone(img.Services)
		for _, other := range sortedKeys(st.Services) {
			if slices.ContainsFunc(st.Services[other].Releases, func(r *model.Release) bool { return r.Template.Image == img.Digest }) {
				names = append(names, other)
			}
		}
		slices.Sort(names)
		if names = slices.Compact(names); len(names) != 1 {
			return q, model.Errorf(model.Invalid, "cannot tell by whose policy image %s is to be judged: it is of %d services", img.Digest.Short(), len(names)).
				WithHint("name one: --service NAME")
		}
		name = names[0]
	}
	svc, err := serviceNamed(st, name)
	if err != nil {
		return q, err
	}
	if len(svc.Releases) == 0 {
		return q, model.Errorf(model.Precondition, "cannot judge an image by the policy of %s: it has no release", name).WithHint("kiln build judges by what is declared")
	}
	newest := svc.Releases[len(svc.Releases)-1]
	q.Template, q.Policy = newest.Template, newest.Policy
	q.Template.Image = img.Digest
	return q, nil
}

// judged is deployed for a release whose image has to be what its policy asks
// for. That is found out before the release is made. Despite, where it is not nil,
// lets it not be: it is told what has not passed.
func (s *Server) judged(ctx context.Context, service, author string, despite func(failed []string), command releasing) (*reply[api.DeployAccepted], error) {
	release, err := s.released(command)
	if err != nil {
		return nil, s.refuse(err)
	}
	if release == nil || release.Policy.Image == nil {
		return s.deployed(ctx, service, author, command)
	}
	checks, err := s.cfg.Checks.Judge(ctx, api.CheckRequest{Template: release.Template, Policy: release.Policy, Author: author}, true)
	switch {
	case err != nil || checks.Passed:
	case despite == nil:
		err = unfit(service, checks)
	default:
		despite(failed(checks))
	}
	if err != nil {
		return nil, s.refuse(err)
	}
	return s.deployed(ctx, service, author, func(st *model.State, snap *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, result, err := command(st, snap, now)
		if made := releaseIn(events); err == nil && made != nil && !sameImage(made, release) {
			return nil, result, model.Errorf(model.Conflict, "cannot make a release of %s: while its image was judged, another release was made", service).
				WithHint("run the command again")
		}
		return events, result, err
	})
}

// released is the release that a command would make now; nil: none.
func (s *Server) released(command releasing) (release *model.Release, err error) {
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, snap *model.Snapshot) {
		var events []model.Payload
		if events, _, err = command(st, snap, now); err == nil {
			release = releaseIn(events)
		}
	})
	return release, err
}

func releaseIn(events []model.Payload) *model.Release {
	for _, e := range events {
		if made, ok := e.(model.ReleaseCreated); ok {
			return &made.Release
		}
	}
	return nil
}

// sameImage reports whether what was judged for one release holds for the other.
func sameImage(a, b *model.Release) bool {
	if a.Template.Hash() != b.Template.Hash() || (a.Policy.Image == nil) != (b.Policy.Image == nil) {
		return false
	}
	return a.Policy.Image == nil || a.Policy.Image.Hash(a.Template) == b.Policy.Image.Hash(b.Template) &&
		a.Policy.Image.ValidationsHash(a.Template) == b.Policy.Image.ValidationsHash(b.Template)
}

// unfit says why an image may not be deployed.
func unfit(service string, checks api.ImageChecks) error {
	return model.Errorf(model.Precondition, "cannot deploy %s: image %s is not what its policy asks for\n%s", service, checks.Image.Short(), strings.Join(failures(checks), "\n")).
		WithHint("mend the image, or change the policy in kiln.hcl")
}

// failed are the names of what an image has not passed.
func failed(checks api.ImageChecks) (names []string) {
	for _, c := range checks.Checks {
		if !c.Passed {
			names = append(names, c.Name)
		}
	}
	return names
}

// failures are what an image has not passed, line by line.
func failures(checks api.ImageChecks) (lines []string) {
	for _, c := range checks.Checks {
		if c.Passed || c.Pending {
			continue
		}
		if len(c.Findings) == 0 {
			lines = append(lines, fmt.Sprintf("  %s: %s", c.Name, c.Detail))
		}
		for _, f := range c.Findings {
			lines = append(lines, fmt.Sprintf("  %s: %s", c.Name, f.What))
			if f.Hint != "" {
				lines = append(lines, "    "+f.Hint)
			}
		}
		for _, line := range c.Log {
			lines = append(lines, "    | "+line)
		}
		if c.More > 0 {
			lines = append(lines, fmt.Sprintf("  %s: and %d more", c.Name, c.More))
		}
	}
	return lines
}

// planChecks adds to a plan what its image was found to be, as far as no server
// has to run for it.
func (s *Server) planChecks(ctx context.Context, in *deployInput, p *reconcile.Plan) error {
	if in.Body.Policy.Image == nil || !p.Changes {
		return nil
	}
	if _, err := s.imageHere(string(in.Body.Template.Image)); err != nil {
		return nil //nolint:nilerr // the plan says so itself
	}
	checks, err := s.cfg.Checks.Judge(ctx, api.CheckRequest{Template: in.Body.Template, Policy: in.Body.Policy}, false)
	if err != nil {
		return err
	}
	for _, c := range checks.Checks {
		p.Checks = append(p.Checks, c.Name+": "+c.Detail)
	}
	if lines := failures(checks); len(lines) > 0 && p.Refused == "" {
		err := unfit(in.Service, checks)
		p.Refused, p.Hint = err.Error(), model.HintOf(err)
	}
	return nil
}
