package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/registry"
	"kiln/internal/sign"
)

// buildType says how the parameters of a provenance have to be read
// (docs/signing.md).
const buildType = "urn:kiln:build:containerfile:1"

// signer signs the images that this kiln has built, and attaches what it says of
// them to them in the registry.
type signer struct {
	d   *daemon
	ctx context.Context //nolint:containedctx // until which it signs; set before it serves
	mu  sync.Mutex      // one image at a time

	keyMu sync.Mutex
	key   *sign.PrivateKey

	listing sync.Mutex // one image at a time is looked into for what is in it
	signing underway   // images that are about to be signed
	listed  underway   // images whose contents are about to be listed
	trust   verdicts
}

// reach reaches the registry. It is in this process: what fails once fails again.
func (s *signer) reach() []remote.Option {
	return []remote.Option{remote.WithTransport(s.d.registry.Transport()), remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
}

// Key implements server.Signer.
func (s *signer) Key() api.Key {
	public := s.private().Public()
	return api.Key{ID: public.ID(), Algorithm: public.Algorithm(), PEM: string(public.PEM())}
}

// Sign implements server.Signer. It returns at once: nobody's build waits for
// disks. Who asks for what is attached does (Check), and what the daemon's end
// prevents the next one makes up for (signOld).
func (s *signer) Sign(img model.Image, req api.BuildRequest, began time.Time) {
	if s.ctx.Err() != nil {
		return // the daemon ends
	}
	build := s.provenance(img, req, began)
	before, _, signed := s.signing.begin(img.Digest)
	_, wanted, listed := s.listed.begin(img.Digest) // those of an image take their turns in list
	s.d.running.Go(func() {
		defer listed()
		if before != nil {
			<-before
		}
		err := s.sign(s.ctx, img.Digest, build)
		signed() // whoever wants the signature does not wait for the rest
		s.complain(img.Digest, err)
		if err != nil {
			return
		}
		select {
		case <-time.After(listAfter):
		case <-wanted:
		case <-s.ctx.Done():
			return
		}
		s.complain(img.Digest, s.list(s.ctx, img.Digest))
	})
}

// listAfter is how long after a build it is said what is in the image, unless somebody
// asks: who builds is about to deploy, and that needs the machine.
const listAfter = 5 * time.Second

// complain says what could not be attached to an image that was built.
func (s *signer) complain(d model.Digest, err error) {
	if err != nil && s.ctx.Err() == nil {
		s.d.cfg.Log.Warn("what is to be attached to an image is not; its next build tries again", "image", string(d), "error", err)
	}
}

// provenance is how an image was built.
func (s *signer) provenance(img model.Image, req api.BuildRequest, began time.Time) *sign.Build {
	build := &sign.Build{
		Type: buildType, Builder: "urn:kiln:instance:" + string(s.d.instance), Versions: map[string]string{"kiln": s.d.cfg.Version},
		Started: began.UTC(), Finished: time.Now().UTC(),
		Parameters: map[string]any{
			"service": req.Service, "containerfile": req.Containerfile, "target": req.Target, "args": argsOf(req.Args),
			"commit": req.Commit, "uncommitted_changes": req.Dirty, "network": cmp.Or(req.Network, "open"),
		},
	}
	for _, p := range img.Provenance.Parents {
		build.Inputs = append(build.Inputs, sign.Input{Name: p.Name, Digests: []digest.Digest{digest.Digest(p.Digest)}})
	}
	build.Inputs = append(build.Inputs, lockedInputs(lockSection(req.Lock, req.Service))...)
	if req.Commit != "" {
		build.Inputs = append(build.Inputs, sign.Input{Name: "source", Commit: req.Commit})
	}
	return build
}

func argsOf(args map[string]string) map[string]any {
	all := map[string]any{}
	for name, value := range args {
		all[name] = value
	}
	return all
}

// signOld signs the images that were built and to which no signature of this key is
// attached: they are older than the key, their record was the last that a daemon
// did, or somebody deleted it. It returns at once; whoever wants to know of one of
// them waits for it.
func (s *signer) signOld() {
	var todo []model.Digest
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		for d, img := range st.Images {
			if img.Source == "build" && img.RemovedAt.IsZero() && len(img.Services) > 0 {
				todo = append(todo, d)
			}
		}
	})
	slices.Sort(todo)
	ends := make([]func(), len(todo))
	for i, d := range todo {
		_, _, ends[i] = s.signing.begin(d)
	}
	s.d.running.Go(func() {
		for i, d := range todo {
			if s.ctx.Err() == nil {
				s.complain(d, s.sign(s.ctx, d, nil))
			}
			ends[i]()
		}
		for _, d := range todo {
			if s.ctx.Err() == nil {
				s.complain(d, s.list(s.ctx, d))
			}
		}
	})
}

// sign signs an image and says how it was built, as far as that is not attached to
// it, and holds.
func (s *signer) sign(ctx context.Context, d model.Digest, build *sign.Build) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.image(d)
	attached, err := s.attached(ctx, img)
	if err != nil {
		return cannotSign(d, err)
	}
	for _, kind := range []string{sign.Signature, sign.Provenance} {
		key := "" // whoever has said how it was built
		if kind == sign.Signature {
			key = s.Key().ID
		}
		lacking := lackingOf(img, attached, kind, key)
		if len(lacking) == 0 || kind == sign.Provenance && build == nil {
			continue
		}
		bundle, err := s.bundle(d, kind, build)
		if err == nil {
			_, err = s.attach(ctx, d, lacking, bundle, kind)
		}
		if err != nil {
			return cannotSign(d, err)
		}
	}
	return nil
}

// bundle makes a statement of the kind.
func (s *signer) bundle(d model.Digest, kind string, build *sign.Build) ([]byte, error) {
	if kind == sign.Signature {
		return s.private().SignImage(digest.Digest(d))
	}
	predicate, err := build.Predicate()
	if err != nil {
		return nil, err
	}
	return s.private().Attest(digest.Digest(d), kind, predicate)
}

// image is what the journal knows of an image; the zero value: nothing.
func (s *signer) image(d model.Digest) (img model.Image) {
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		if known := st.Images[d]; known != nil {
			img = *known
		}
	})
	return img
}

// lackingOf returns the services for which an image was built and in whose
// repositories no statement of the type holds, with the key ("": with any).
func lackingOf(img model.Image, attached []statement, kind, key string) []string {
	return slices.DeleteFunc(slices.Clone(img.Services), func(service string) bool {
		return slices.ContainsFunc(attached, func(a statement) bool {
			return a.Repository == service && a.Type == kind && a.Holds && (key == "" || a.Key == key)
		})
	})
}

func cannotSign(d model.Digest, err error) error {
	return model.Errorf(model.CodeOf(err), "image %s is built, and cannot be signed: %w", d.Short(), err).WithHint("the next build of it tries again")
}

// attest signs a statement about an image, of a type of in-toto's and what it says
// in JSON, and attaches it wherever the registry has the image.
func (s *signer) attest(ctx context.Context, d model.Digest, kind string, predicate json.RawMessage) (model.Statement, error) {
	_, said, err := s.attestFor(ctx, byItself, d, kind, predicate)
	return said, err
}

// attestFor is attest for what somebody says, or wants said and needs the bundle of.
func (s *signer) attestFor(ctx context.Context, by string, d model.Digest, kind string, predicate json.RawMessage) ([]byte, model.Statement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.private()
	bundle, err := key.Attest(digest.Digest(d), kind, predicate)
	if err != nil {
		return nil, model.Statement{}, err
	}
	said, err := s.attachSigned(ctx, by, d, s.repositories(d), bundle, kind, key.Public().ID())
	return bundle, said, err
}

// byItself is who does what nobody has asked for.
const byItself = "kiln"

// repositories are where the registry shows an image.
func (s *signer) repositories(d model.Digest) []string {
	return shelf{control: s.d.control}.Holding(d)
}

// attach attaches a bundle to the image in repositories, and writes it down.
func (s *signer) attach(ctx context.Context, d model.Digest, repositories []string, bundle []byte, kind string) (model.Statement, error) {
	return s.attachSigned(ctx, byItself, d, repositories, bundle, kind, s.private().Public().ID())
}

// attachSigned is attach for a bundle that is signed with any key, for what somebody
// says.
func (s *signer) attachSigned(ctx context.Context, by string, d model.Digest, repositories []string, bundle []byte, kind, key string) (model.Statement, error) {
	if err := roomFor(s.image(d), kind); err != nil {
		return model.Statement{}, err
	}
	for _, repository := range repositories {
		to, err := inRegistry(repository, d)
		if err != nil {
			return model.Statement{}, err
		}
		if _, err := sign.Push(ctx, to, bundle, time.Now(), s.reach()...); err != nil {
			return model.Statement{}, err
		}
	}
	said := model.Statement{Bundle: model.Digest(sign.BundleDigest(bundle)), Type: kind, Key: key}
	return said, s.d.control.Do(ctx, by, func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		img := st.Images[d]
		if img == nil || slices.ContainsFunc(img.Statements, func(known model.Statement) bool { return known.Bundle == said.Bundle }) {
			return nil, nil
		}
		return []model.Payload{model.ImageAttested{Digest: d, Statement: said}}, nil
	})
}

// maxStatements is how many statements are attached to an image. All are read when a
// server is to be started from it, and sign.List reads no more than twice as many.
const maxStatements = 500

// roomFor refuses a statement that is one too many. For signatures there is always
// room: without one nothing starts.
func roomFor(img model.Image, kind string) error {
	if kind == sign.Signature || len(img.Statements) < maxStatements {
		return nil
	}
	return model.Errorf(model.Precondition, "%d statements are attached to image %s, and there is no room for more", len(img.Statements), img.Digest.Short()).
		WithHint("kiln images verify %s shows them; an image that is built anew has none", img.Digest.Short())
}

// inRegistry is where an image is in the registry, for who reaches that by
// Transport.
func inRegistry(service string, d model.Digest) (name.Digest, error) {
	to, err := name.NewDigest(registry.Host+"/"+service+"@"+string(d), name.Insecure)
	if err != nil {
		return to, model.Errorf(model.Internal, "%w", err)
	}
	return to, nil
}

// settled waits until all is attached to an image that is about to be.
func (s *signer) settled(ctx context.Context, d model.Digest) {
	s.signing.settled(ctx, d)
	s.listed.settled(ctx, d)
	s.d.sources.keeping.settled(ctx, d)
}

// attachedPath is where clients of a registry ask what is attached to an image: its
// referrers, and the tag where there is no list of them.
var attachedPath = regexp.MustCompile(`^/v2/.+/(?:referrers/sha256:|manifests/sha256-)([0-9a-f]{64})$`)

// settling has others wait for what is about to be attached to an image that they ask
// about, though not for long.
func (s *signer) settling(next http.Handler) http.Handler {
	const patience = 20 * time.Second
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := attachedPath.FindStringSubmatch(r.URL.Path); m != nil {
			ctx, cancel := context.WithTimeout(r.Context(), patience)
			s.settled(ctx, model.Digest("sha256:"+m[1]))
			cancel()
		}
		next.ServeHTTP(w, r)
	})
}

// Check implements server.Signer.
func (s *signer) Check(ctx context.Context, img model.Image) ([]api.Statement, error) {
	s.settled(ctx, img.Digest)
	attached, err := s.attached(ctx, s.image(img.Digest)) // with what was just written down
	list := make([]api.Statement, len(attached))
	for i, a := range attached {
		list[i] = a.Statement
	}
	return list, err
}

// attached reads and checks what is attached to an image.
func (s *signer) attached(ctx context.Context, img model.Image) ([]statement, error) {
	return s.attachedOf(ctx, img, func(string) bool { return true })
}

// attachedOf is attached for the types that are wanted, as far as the registry tells
// them.
func (s *signer) attachedOf(ctx context.Context, img model.Image, wanted func(kind string) bool) ([]statement, error) {
	ring, err := s.ring()
	if err != nil {
		return nil, err
	}
	remembered := memory(img)
	list := []statement{}
	for _, repository := range s.repositories(img.Digest) {
		at, err := inRegistry(repository, img.Digest)
		if err != nil {
			return nil, err
		}
		attached, err := sign.List(ctx, at, s.reach()...)
		if err != nil {
			return nil, err
		}
		for _, a := range attached {
			if !wanted(a.PredicateType) {
				continue
			}
			list = append(list, s.check(ctx, at, a, ring, remembered))
		}
	}
	return list, nil
}

// statement is what is attached to an image: as it is shown, and what it says.
type statement struct {
	api.Statement
	predicate json.RawMessage // nil: it does not hold, or is a signature
	text      []byte          // the bundle; nil: it does not hold
}

// check reads and checks one thing that is attached to an image.
func (s *signer) check(ctx context.Context, image name.Digest, a sign.Attachment, ring sign.Keyring, remembered sign.Memory) statement {
	said := statement{Statement: api.Statement{
		Repository: image.RepositoryStr(), Manifest: model.Digest(a.Manifest), Bundle: model.Digest(a.Bundle), Type: a.PredicateType,
	}}
	if at, known := remembered(a.Bundle); known {
		said.At = &at
	}
	err, text := a.Err, []byte(nil)
	if err == nil {
		text, err = sign.Fetch(ctx, image.Repository, a, s.reach()...)
	}
	if err == nil {
		var v sign.Verified
		if v, err = ring.Verify(text, digest.Digest(image.DigestStr()), "", time.Now(), remembered); err == nil {
			said.Type, said.Key, said.KeyName, said.Holds = v.Statement.PredicateType, v.Key.ID(), v.Name, true
			said.predicate, said.text = v.Statement.Predicate, text
			said.Passed, said.Failed = resultsIn(said.Type, said.predicate)
		}
	}
	if err != nil {
		said.Trouble = err.Error()
	}
	return said
}
