package builder

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"kiln/internal/image"
	"kiln/internal/model"
)

const imageScheme = "docker-image://"

// frontends reads Containerfiles with BuildKit's own frontend, and notes for
// each build what it learns on the way. A build is known by its session.
type frontends struct {
	mu     sync.Mutex
	builds map[string]*observer
}

func newFrontends() *frontends { return &frontends{builds: map[string]*observer{}} }

// observer is what is noted of one build.
type observer struct {
	note   func(string)
	around *surroundings

	mu    sync.Mutex
	bases []model.Parent
}

func (f *frontends) watch(session string, around *surroundings, note func(string)) *observer {
	o := &observer{note: note, around: around}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.builds[session] = o
	return o
}

func (f *frontends) unwatch(session string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.builds, session)
}

// build is the frontend.
func (f *frontends) build(ctx context.Context, c client.Client) (*client.Result, error) {
	f.mu.Lock()
	o := f.builds[c.BuildOpts().SessionID]
	f.mu.Unlock()
	if o == nil {
		return nil, model.Errorf(model.Internal, "cannot build: the build has no observer")
	}
	return dockerfile.Build(ctx, &observed{Client: c, o: o})
}

// parents returns the images that the build took something from.
func (o *observer) parents() []model.Parent {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bases
}

func (o *observer) took(name string, d model.Digest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.bases {
		if b.Digest == d && b.Name == name {
			return
		}
	}
	o.bases = append(o.bases, model.Parent{Name: name, Digest: d})
}

// observed is the frontend's view of BuildKit.
type observed struct {
	client.Client
	o       *observer
	builtin bool // the "# syntax=" line was dealt with
}

// BuildOpts implements client.Client.
func (c *observed) BuildOpts() client.BuildOpts {
	opts := c.Client.BuildOpts()
	if c.builtin {
		m := map[string]string{"cmdline": "builtin"}
		maps.Copy(m, opts.Opts)
		opts.Opts = m
	}
	return opts
}

// Solve implements client.Client. The frontend asks for another one here when
// the Containerfile has a "# syntax=" line.
func (c *observed) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Frontend != "gateway.v0" {
		if req.Definition == nil {
			return c.Client.Solve(ctx, req)
		}
		def, err := c.surround(ctx, req.Definition)
		if err != nil {
			return nil, err
		}
		req.Definition = def
		return c.Client.Solve(ctx, req)
	}
	source := req.FrontendOpt["source"]
	if !isDockerfileFrontend(source) {
		return nil, model.Errorf(model.Invalid, "cannot build: the Containerfile wants the frontend %q, and kiln has only its own", source).
			WithHint("remove the \"# syntax=\" line, or make it docker/dockerfile:1")
	}
	c.o.note("# syntax=" + source + " is read by kiln's built-in frontend")
	return dockerfile.Build(ctx, &observed{Client: c.Client, o: c.o, builtin: true})
}

// surround gives the operations of the build its network.
func (c *observed) surround(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	around := c.o.around
	w := &rewriter{
		token: around.token, steps: around.steps,
		source: func(op *pb.SourceOp) error { return around.source(ctx, op) },
		located: func(err error, where *pb.Location) error {
			return locate(err, around.containerfile, def.Source.GetInfos(), where)
		},
	}
	return w.rewrite(def)
}

// isDockerfileFrontend reports whether a frontend is the one that is built in.
func isDockerfileFrontend(source string) bool {
	full, err := image.Normalize(source)
	if err != nil {
		return false
	}
	name, _, _ := strings.Cut(full, "@")
	return strings.HasPrefix(name, "docker.io/docker/dockerfile:")
}

// ResolveImageConfig implements client.Client: every FROM and every
// COPY --from=IMAGE comes by here.
func (c *observed) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	want, err := c.o.around.base(ctx, ref)
	if err != nil {
		return "", "", nil, err
	}
	exact := ref
	if want != "" && !strings.Contains(ref, "@") {
		exact += "@" + string(want) // a tag may have moved in its registry
	}
	resolved, d, config, err := c.Client.ResolveImageConfig(ctx, exact, opt)
	if err != nil {
		return "", "", nil, baseError(ctx, ref, err)
	}
	if resolved == exact {
		resolved = ref
	}
	if err := c.o.around.took(ref, model.Digest(d)); err != nil {
		return "", "", nil, err
	}
	c.o.took(ref, model.Digest(d))
	return resolved, d, config, nil
}

// ResolveSourceMetadata implements sourceresolver.MetaResolver: named contexts
// that are images come by here.
func (c *observed) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	name, isImage := strings.CutPrefix(op.GetIdentifier(), imageScheme)
	if isImage {
		if _, err := c.o.around.base(ctx, name); err != nil {
			return nil, err
		}
	}
	resp, err := c.Client.ResolveSourceMetadata(ctx, op, opt)
	if !isImage {
		return resp, err
	}
	if err != nil {
		return nil, baseError(ctx, name, err)
	}
	if resp.Image != nil {
		if err := c.o.around.took(name, model.Digest(resp.Image.Digest)); err != nil {
			return nil, err
		}
		c.o.took(name, model.Digest(resp.Image.Digest))
	}
	return resp, nil
}

// baseError says what is to be done about a base that is not to be had.
func baseError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return err
	}
	familiar := image.Familiar(name)
	short, _, _ := strings.Cut(familiar, "@")
	var e *model.Error
	if onHub(name) {
		e = model.Errorf(model.Invalid, "cannot find the base image %s: kiln has no image of this name", familiar)
	} else if errdefs.IsNotFound(err) {
		e = model.Errorf(model.Invalid, "cannot find the base image %s: neither kiln nor its registry has it", familiar)
	} else {
		e = model.Errorf(model.Unavailable, "cannot get the base image %s: kiln does not have it, and its registry says: %v", familiar, rootCause(err))
	}
	return e.WithHint("import it: kiln images import FILE --name %s; or correct the name", short)
}

// rootCause drops what BuildKit says around the fact.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
