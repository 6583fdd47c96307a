package builder

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"

	"kiln/internal/buildcontext"
	"kiln/internal/image"
	"kiln/internal/model"
)

// sessionIDHeader is where a session says what it is called.
const sessionIDHeader = "X-Docker-Expose-Session-Uuid"

// build is one build.
type build struct {
	worker   *worker
	store    *image.Store
	log      *slog.Logger
	req      Request
	progress func(Event)
}

// run builds with the files that the client serves over conn.
func (b *build) run(ctx context.Context, conn net.Conn, p buildcontext.Preamble) (Result, error) {
	ids := p.Headers[sessionIDHeader]
	if len(ids) != 1 {
		return Result{}, model.Errorf(model.Invalid, "cannot build: the build context has no session")
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = b.worker.sessions.HandleConn(ctx, conn, p.Headers) })

	ref := identity.NewID()
	trace := newTrace(b.progress)
	watch := b.worker.frontends.watch(ids[0], trace.note)
	defer b.worker.frontends.unwatch(ids[0])

	watched := make(chan struct{})
	go func() {
		defer close(watched)
		b.follow(ctx, ref, trace)
	}()
	resp, err := b.worker.control.Solve(ctx, b.solveRequest(ref, ids[0]))
	if err == nil {
		// The record of the trace ends with the solve; what it said last counts.
		<-watched
		return b.finish(ctx, ref, resp, watch.parents())
	}
	if ctx.Err() == nil {
		<-watched
	}
	return Result{}, b.explain(err, trace)
}

// follow feeds the solve's status to the trace until the solve has ended.
func (b *build) follow(ctx context.Context, ref string, t *trace) {
	err := b.worker.control.Status(&controlapi.StatusRequest{Ref: ref}, &statusStream{ctx: ctx, sink: t.update})
	if err != nil && ctx.Err() == nil {
		b.log.Warn("cannot follow a build", "error", err)
	}
}

// solveRequest says to BuildKit what to build. What would make two builds of
// the same content differ is fixed: times are those of the epoch 0.
func (b *build) solveRequest(ref, session string) *controlapi.SolveRequest {
	attrs := map[string]string{
		"filename":                    filepath.Base(b.req.Containerfile),
		"image-resolve-mode":          "local",
		"build-arg:SOURCE_DATE_EPOCH": "0",
	}
	if b.req.Target != "" {
		attrs["target"] = b.req.Target
	}
	if b.req.NoCache {
		attrs["no-cache"] = ""
	}
	args := maps.Clone(b.req.Args)
	for k, v := range args {
		attrs["build-arg:"+k] = v
	}
	return &controlapi.SolveRequest{
		Ref:           ref,
		Session:       session,
		Internal:      true, // no history of it is kept: the journal has it
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{
			"name":                                  image.TemporaryName(ref),
			string(exptypes.OptKeyStore):            "true",
			string(exptypes.OptKeyUnpack):           "false",
			string(exptypes.OptKeyOCITypes):         "true",
			string(exptypes.OptKeyLayerCompression): "zstd",
			string(exptypes.OptKeyRewriteTimestamp): "true",
		}}},
	}
}

// finish records what was built.
func (b *build) finish(ctx context.Context, ref string, resp *controlapi.SolveResponse, parents []model.Parent) (Result, error) {
	img, err := b.store.Adopt(ctx, image.TemporaryName(ref), "build", b.req.Name)
	if err != nil {
		return Result{}, err
	}
	if want := resp.ExporterResponse[exptypes.ExporterImageDigestKey]; want != string(img.Digest) {
		return Result{}, model.Errorf(model.Internal, "cannot build: BuildKit says it made %s, and stored %s", want, img.Digest)
	}
	return Result{Digest: img.Digest, Parents: parents, Size: img.Size}, nil
}
