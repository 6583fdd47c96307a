package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"kiln/internal/model"
)

// History is the line of a service's images, the newest first: what was built for
// it, and what releases of it had. It knows those, too, that were removed since.
type History struct {
	Service string     `json:"service"`
	Images  []Ancestor `json:"images"`
}

// Ancestor is an image in a line.
type Ancestor struct {
	Digest model.Digest   `json:"digest"`
	Source string         `json:"source"`            // "build", "import" or the reference it was pulled by
	Bases  []model.Parent `json:"parents,omitempty"` // the images it was built on
	Size   int64          `json:"size"`              // bytes as stored
	model.Making
	// Branch says that From was gone on from before: this image begins a branch.
	Branch     bool              `json:"branch,omitempty"`
	RemovedAt  time.Time         `json:"removed_at,omitzero"` // its content is not here any more
	Statements []model.Statement `json:"statements,omitempty"`
	// Rejection is the last word about whether it is bad; nil: nobody has said anything.
	Rejection *model.Rejection `json:"rejection,omitempty"`
	Releases  []Serving        `json:"releases,omitempty"` // that have it, the oldest first
}

// Serving is a release of an image, and when it served.
type Serving struct {
	Service     string `json:"service"`
	Declared    string `json:"declared,omitempty"`    // what the declaration calls the service, if that has environments
	Environment string `json:"environment,omitempty"` // where it serves; "": the declaration has none
	Number      int    `json:"number"`
	Rollback    int    `json:"rollback_of,omitempty"`
	// Promoted is where its image served before; nil: it was built or brought for it.
	Promoted  *model.Promotion `json:"promoted,omitempty"`
	CreatedAt time.Time        `json:"created_at"`
	Author    string           `json:"author,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Verdict   model.Verdict    `json:"verdict,omitempty"` // of its last deployment; "": it is under way, or there was none
	Served    []Span           `json:"served,omitempty"`  // when it was the one in service, the oldest first
}

// Span is a time; a zero To: it is not over.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to,omitzero"`
}

// Promotion says where its image was taken from; "": from nowhere.
func (s Serving) Promotion() string {
	if s.Promoted == nil {
		return ""
	}
	return fmt.Sprintf("promoted from %s, release %d of %s", s.Promoted.Environment, s.Promoted.Release, s.Promoted.Service)
}

// Rejected says that the image is bad, and who says so; "": nobody does.
func (a Ancestor) Rejected() string {
	r := a.Rejection
	if r == nil || r.Lifted {
		return ""
	}
	by := r.By
	if r.From != "" {
		by += " on kiln " + r.From
	}
	return fmt.Sprintf("rejected by %s: %s", by, r.Reason)
}

// InService reports whether the release is the one in service.
func (s Serving) InService() bool {
	return len(s.Served) > 0 && s.Served[len(s.Served)-1].To.IsZero()
}

// Lineage makes histories of images from events, which are added in their order.
type Lineage struct {
	images   map[model.Digest]*model.Image
	releases map[string][]*Serving // by service; by number
	template map[*Serving]model.Digest
	deployed map[model.DeploymentID]*Serving // by the deployment that brings it
	serving  map[string]*Serving             // by service: the release in service
}

// NewLineage returns a Lineage of no events.
func NewLineage() *Lineage {
	return &Lineage{
		images: map[model.Digest]*model.Image{}, releases: map[string][]*Serving{},
		template: map[*Serving]model.Digest{}, deployed: map[model.DeploymentID]*Serving{}, serving: map[string]*Serving{},
	}
}

// Add takes in the next event.
func (l *Lineage) Add(e model.Event) {
	switch p := e.Data.(type) {
	case model.ImageAdded:
		l.image(p.Image)
	case model.ImageRemoved:
		if img := l.images[p.Digest]; img != nil {
			img.RemovedAt = e.At
		}
	case model.ImageAttested:
		if img := l.images[p.Digest]; img != nil {
			p.Statement.At = e.At
			img.Statements = append(img.Statements, p.Statement)
		}
	case model.ImageRejected:
		if img := l.images[p.Digest]; img != nil {
			if p.Rejection.From == "" {
				p.Rejection.At = e.At
			}
			img.Rejection = &p.Rejection
		}
	case model.ReleaseCreated:
		r := p.Release
		s := &Serving{
			Service: r.Service, Declared: r.Declared, Environment: r.Environment, Number: r.Number, Rollback: r.RollbackOf, Promoted: r.Promoted,
			CreatedAt: r.CreatedAt, Author: r.Author, Reason: r.Reason,
		}
		l.releases[r.Service] = append(l.releases[r.Service], s)
		l.template[s] = r.Template.Image
	case model.DeploymentStarted:
		l.deployed[p.Deployment.ID] = l.release(p.Deployment.Service, p.Deployment.To)
	case model.DeploymentQueued:
		l.deployed[p.Deployment.ID] = l.release(p.Deployment.Service, p.Deployment.To)
	case model.DeploymentEnded:
		if s := l.deployed[p.ID]; s != nil {
			s.Verdict = p.Verdict
		}
	case model.ServiceSwitched:
		l.serves(p.Service, p.Release, e.At)
	case model.ServiceDestroyed:
		l.serves(p.Service, 0, e.At)
	}
}

// image notes an image; the same again adds to it what is new.
func (l *Lineage) image(img model.Image) {
	if len(img.Made) == 0 && img.Source == "build" { // by a kiln that did not write that down
		for _, service := range img.Services {
			img.Made = append(img.Made, model.Making{
				Service: service, At: img.CreatedAt, Author: img.Author, Reason: img.Reason, Commit: img.Provenance.Commit, Dirty: img.Provenance.Dirty,
			})
		}
	}
	known := l.images[img.Digest]
	if known == nil {
		l.images[img.Digest] = &img
		return
	}
	known.RemovedAt = time.Time{}
	for _, made := range img.Made {
		if known.MadeFor(made.Service) == nil {
			known.Made = append(known.Made, made)
		}
	}
}

func (l *Lineage) release(service string, number int) *Serving {
	for _, s := range slices.Backward(l.releases[service]) {
		if s.Number == number {
			return s
		}
	}
	return nil
}

// serves notes that the release (0: none) is the one in service from now on.
func (l *Lineage) serves(service string, number int, at time.Time) {
	next := l.release(service, number)
	before := l.serving[service]
	if next == before {
		return
	}
	if before != nil {
		before.Served[len(before.Served)-1].To = at
	}
	if l.serving[service] = next; next != nil {
		next.Served = append(next.Served, Span{From: at})
	}
}

// History returns the line of a service's images: of one that is declared, those
// of all its environments. An image that also serves elsewhere has the releases of
// there, too.
func (l *Lineage) History(service string) History {
	of := map[model.Digest][]Serving{}
	mine := map[model.Digest]bool{}
	for _, name := range slices.Sorted(maps.Keys(l.releases)) {
		for _, s := range l.releases[name] {
			d := l.template[s]
			of[d] = append(of[d], *s)
			mine[d] = mine[d] || name == service || s.Declared == service
		}
	}
	h := History{Service: service, Images: []Ancestor{}}
	for d, img := range l.images {
		made := img.MadeFor(service)
		if made == nil && !mine[d] {
			continue
		}
		a := Ancestor{
			Digest: d, Source: img.Source, Bases: img.Provenance.Parents, Size: img.Size,
			RemovedAt: img.RemovedAt, Statements: img.Statements, Rejection: img.Rejection, Releases: of[d],
		}
		if made == nil { // it was not built for this service
			made = &model.Making{At: img.CreatedAt, Author: img.Author, Reason: img.Reason, Commit: img.Provenance.Commit, Dirty: img.Provenance.Dirty}
			if len(img.Made) > 0 {
				made = &img.Made[0]
			}
		}
		a.Making = *made
		h.Images = append(h.Images, a)
	}
	slices.SortFunc(h.Images, func(a, b Ancestor) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Digest, a.Digest)) })
	h.branch()
	return h
}

// since returns the images that were built since then, or served.
func (h History) since(begin time.Time) []Ancestor {
	return slices.DeleteFunc(h.Images, func(a Ancestor) bool {
		served := slices.ContainsFunc(a.Releases, func(s Serving) bool {
			return slices.ContainsFunc(s.Served, func(t Span) bool { return t.To.IsZero() || !t.To.Before(begin) })
		})
		return a.At.Before(begin) && !served
	})
}

// branch marks the images that begin a branch. An image that is older than the one
// it is said to go on from (the clock was set back) begins a line of its own.
func (h History) branch() {
	place := map[model.Digest]int{}
	for i, a := range h.Images {
		place[a.Digest] = i
	}
	goneOn := map[model.Digest]bool{}
	for i, a := range slices.Backward(h.Images) {
		if from, known := place[a.From]; a.From == "" || known && from <= i {
			h.Images[i].From, h.Images[i].How = "", ""
			continue
		}
		h.Images[i].Branch = goneOn[a.From]
		goneOn[a.From] = true
	}
}
