package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"kiln/internal/image"
	"kiln/internal/model"
	"kiln/internal/sign"
)

// publisher puts what is built here, with all that is attached to it, into a registry
// that others share, and brings here what they attached to it there. Nothing waits
// for it: what servers start from is here.
type publisher struct {
	d    *daemon
	base string // HOST[:PORT][/PATH], below which each service has a repository
	keys authn.Keychain
	opts []remote.Option
}

// How often what could not be published is tried again: after a pause that doubles, so
// often, and then when something is attached to the image or the daemon starts.
const (
	publishPause  = 5 * time.Second
	publishLonger = 10 * time.Minute
	publishTries  = 12
	publishWithin = 30 * time.Minute // one image
	shareEvery    = time.Minute      // how often what others attached is looked for
	shareWithin   = time.Minute
)

// openPublisher checks where to publish. The zero value of the configuration: nowhere.
func (d *daemon) openPublisher() error {
	keys, err := image.Logins(d.cfg.PublishLogin)
	if err != nil {
		return err
	}
	d.publisher = &publisher{d: d, base: strings.TrimSuffix(d.cfg.Publish, "/"), keys: keys, opts: image.Reach(keys, sign.Paged(image.Transport()))}
	if d.publisher.base == "" {
		return nil
	}
	if _, err := reference.ParseNormalizedNamed(d.publisher.base + "/x"); err != nil || !strings.ContainsAny(strings.SplitN(d.publisher.base, "/", 2)[0], ".:") && !strings.HasPrefix(d.publisher.base, "localhost") {
		return model.Errorf(model.Invalid, "cannot publish to %q: that is no registry", d.cfg.Publish).
			WithHint("name its host, and a path below which services have their repositories: --publish registry.example.com/team")
	}
	return nil
}

// targets are the repositories of the shared registry that an image belongs into, and
// whether its content comes from here: what was pulled from there is there.
func (p *publisher) targets(img model.Image) (repositories []name.Repository, ours bool) {
	if p.base == "" || !img.RemovedAt.IsZero() {
		return nil, false
	}
	var names []string
	if img.Source == "build" {
		for _, service := range img.Services {
			names = append(names, p.base+"/"+service)
		}
		ours = true
	}
	for _, full := range img.Names {
		if named, err := reference.ParseDockerRef(full); err == nil && strings.HasPrefix(named.Name(), p.base+"/") {
			names = append(names, named.Name())
		}
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		if r, err := name.NewRepository(n); err == nil {
			repositories = append(repositories, r)
		}
	}
	return repositories, ours
}

// attempt is what came of publishing an image last.
type attempt struct {
	statements int // of the image then
	tries      int
	next       time.Time
}

// Run publishes what is not, and looks for what others attached, until ctx ends.
func (p *publisher) Run(ctx context.Context) {
	if p.base == "" {
		return
	}
	failed := map[model.Digest]attempt{}
	var shared time.Time
	for ctx.Err() == nil {
		changed := p.d.control.Changed()
		wake := p.publishAll(ctx, failed)
		if time.Since(shared) >= shareEvery {
			p.shareAll(ctx)
			shared = time.Now()
		}
		wake = min(wake, max(0, shareEvery-time.Since(shared)))
		timer := time.NewTimer(wake)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// publishAll publishes every image that is due, and returns when the next is.
func (p *publisher) publishAll(ctx context.Context, failed map[model.Digest]attempt) time.Duration {
	wake := shareEvery
	for _, img := range p.due() {
		last := failed[img.Digest]
		if last.tries > 0 && last.statements == len(img.Statements) {
			if last.tries >= publishTries {
				continue
			}
			if wait := time.Until(last.next); wait > 0 {
				wake = min(wake, wait)
				continue
			}
		}
		if last.statements != len(img.Statements) {
			last = attempt{statements: len(img.Statements)}
		}
		err := p.publish(ctx, img.Digest)
		if ctx.Err() != nil {
			return wake
		}
		if err == nil {
			delete(failed, img.Digest)
			continue
		}
		pause := min(publishLonger, publishPause<<last.tries)
		last.tries++
		last.next = time.Now().Add(pause)
		failed[img.Digest] = last
		wake = min(wake, pause)
	}
	return wake
}

// due are the images that have something that is not published.
func (p *publisher) due() []model.Image {
	var due []model.Image
	p.d.control.View(func(st *model.State, _ *model.Snapshot) {
		for _, img := range st.Images {
			to, ours := p.targets(*img)
			mine := ours || slices.ContainsFunc(img.Statements, func(said model.Statement) bool {
				k := st.Key(said.Key)
				return k != nil && k.Own
			})
			if len(to) == 0 || !mine {
				continue
			}
			if was := img.Published; was == nil || was.To != p.base || was.Trouble != "" || was.Statements < len(img.Statements) {
				due = append(due, *img)
			}
		}
	})
	slices.SortFunc(due, func(a, b model.Image) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return due
}

// publish puts an image and what is attached to it where it belongs, and writes down
// what came of it.
func (p *publisher) publish(ctx context.Context, d model.Digest) error {
	ctx, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	p.d.signer.settled(ctx, d) // what is about to be attached goes along
	img := p.d.signer.image(d)
	to, ours := p.targets(img)
	var err error
	for _, repository := range to {
		if err = p.publishTo(ctx, img, repository, ours); err != nil {
			break
		}
	}
	said := model.Publication{To: p.base, Statements: len(img.Statements)}
	if err != nil {
		if context.Cause(ctx) == context.Canceled { //nolint:errorlint // the daemon ends; a time-out is told
			return err
		}
		said.Trouble = err.Error()
	}
	if was := img.Published; was != nil && was.To == said.To && was.Statements == said.Statements && was.Trouble == said.Trouble {
		return err // it is known
	}
	doing := p.d.control.Do(ctx, "kiln", func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		if st.Images[d] == nil {
			return nil, nil
		}
		return []model.Payload{model.ImagePublished{Digest: d, Publication: said}}, nil
	})
	if err == nil {
		err = doing
	}
	return err
}

func (p *publisher) publishTo(ctx context.Context, img model.Image, to name.Repository, ours bool) error {
	if ours {
		// A tag, since registries may collect what has none.
		if err := p.d.images.Push(ctx, img.Digest, to.Tag("kiln-"+img.Digest.Short()), p.opts...); err != nil {
			return err
		}
	}
	target := to.Digest(string(img.Digest))
	there, err := sign.List(ctx, target, p.opts...)
	if err != nil {
		return err
	}
	s := p.d.signer
	for _, repository := range s.repositories(img.Digest) {
		from, err := inRegistry(repository, img.Digest)
		if err != nil {
			return err
		}
		attached, err := sign.List(ctx, from, s.reach()...)
		if err != nil {
			return err
		}
		for _, a := range attached {
			if a.Err != nil || lists(there, a.Bundle) {
				continue
			}
			text, err := sign.Fetch(ctx, from.Context(), a, s.reach()...)
			if err != nil {
				continue // it is damaged here; whoever checks it is told
			}
			pushed, err := sign.Push(ctx, target, text, a.Created, p.opts...)
			if err != nil {
				return err
			}
			there = append(there, pushed)
		}
	}
	return nil
}

func lists(list []sign.Attachment, bundle digest.Digest) bool {
	return slices.ContainsFunc(list, func(a sign.Attachment) bool { return a.Err == nil && a.Bundle == bundle })
}

// shareAll looks for what others attached to the images that are here.
func (p *publisher) shareAll(ctx context.Context) {
	var all []model.Digest
	p.d.control.View(func(st *model.State, _ *model.Snapshot) {
		for d, img := range st.Images {
			if to, _ := p.targets(*img); len(to) > 0 {
				all = append(all, d)
			}
		}
	})
	slices.Sort(all)
	for _, d := range all {
		within, cancel := context.WithTimeout(ctx, shareWithin)
		err := p.share(within, d)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.d.cfg.Log.Warn("what others said of an image cannot be read", "image", string(d), "registry", p.base, "error", err)
			return // the next one would fail alike
		}
	}
}

// share brings here what others attached to an image in the shared registry, as far
// as it holds: signatures, checks, approvals, rejections.
func (p *publisher) share(ctx context.Context, d model.Digest) error {
	to, _ := p.targets(p.d.signer.image(d))
	for _, repository := range to {
		if err := p.d.signer.take(ctx, d, repository, p.opts); err != nil {
			return err
		}
	}
	return nil
}

// Bring implements server.Bringer: what is attached to an image comes along from where it was pulled from.
func (p *publisher) Bring(ctx context.Context, d model.Digest, ref string) error {
	return p.pulled(ctx, d, ref)
}

// pulled brings here what is attached to an image in the registry that it came from.
func (p *publisher) pulled(ctx context.Context, d model.Digest, ref string) error {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil // it came from nowhere
	}
	from, err := name.NewRepository(named.Name())
	if err != nil {
		return nil // likewise
	}
	ctx, cancel := context.WithTimeout(ctx, shareWithin)
	defer cancel()
	return p.d.signer.take(ctx, d, from, p.opts)
}

// take attaches to an image what is attached to it in another registry, as far as it
// holds. Nothing that is signed here waits while that registry answers.
func (s *signer) take(ctx context.Context, d model.Digest, from name.Repository, opts []remote.Option) error {
	there, err := sign.List(ctx, from.Digest(string(d)), opts...)
	if err != nil || len(there) == 0 {
		return err
	}
	for _, repository := range s.repositories(d) {
		at, err := inRegistry(repository, d)
		if err != nil {
			return err
		}
		here, err := sign.List(ctx, at, s.reach()...)
		if err != nil {
			return err
		}
		for _, a := range there {
			if a.Err != nil || lists(here, a.Bundle) {
				continue
			}
			text, err := sign.Fetch(ctx, from, a, opts...)
			if model.CodeOf(err) == model.Unavailable || model.CodeOf(err) == model.Denied {
				return err
			}
			if err != nil {
				continue // damaged there
			}
			if err := s.takeOne(ctx, d, at, a, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeOne attaches a bundle that came from elsewhere to an image, if it holds.
func (s *signer) takeOne(ctx context.Context, d model.Digest, at name.Digest, a sign.Attachment, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.image(d)
	ring, err := s.ring()
	if err != nil {
		return err
	}
	v, err := ring.Verify(text, digest.Digest(d), "", time.Now(), memory(img))
	if err != nil {
		return nil // it is nobody's whom this kiln believes
	}
	if _, err := sign.Push(ctx, at, text, a.Created, s.reach()...); err != nil {
		return err
	}
	return s.remember(ctx, img, statementOf(a, v))
}

func statementOf(a sign.Attachment, v sign.Verified) statement {
	said := statement{predicate: v.Statement.Predicate}
	said.Bundle, said.Type, said.Key, said.Holds = model.Digest(a.Bundle), v.Statement.PredicateType, v.Key.ID(), true
	return said
}
