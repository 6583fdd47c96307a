package builder

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

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

	return b.attempts(ctx, ids[0])
}

// solve builds once.
func (b *build) solve(ctx context.Context, session string, around *surroundings) (Result, error) {
	ref := identity.NewID()
	trace := newTrace(b.progress)
	watch := b.worker.frontends.watch(session, around, trace.note)
	defer b.worker.frontends.unwatch(session)

	watched := make(chan struct{})
	go func() {
		defer close(watched)
		b.follow(ctx, ref, trace)
	}()
	reached := b.worker.memory.watch()
	_, err := b.worker.control.Solve(ctx, b.solveRequest(ref, session))
	if err == nil {
		// The record of the trace ends with the solve; what it said last counts.
		<-watched
		return b.finish(ctx, ref, watch.parents())
	}
	if ctx.Err() == nil {
		<-watched
	}
	return Result{}, b.explain(err, trace, reached(), around)
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
		"filename":              filepath.Base(b.req.Containerfile),
		"image-resolve-mode":    "local",
		"build-arg:" + epochArg: "0",
	}
	if b.req.Target != "" {
		attrs["target"] = b.req.Target
	}
	if b.req.NoCache || b.req.Fresh {
		attrs["no-cache"] = ""
	}
	for k, v := range b.req.Args {
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
			string(exptypes.OptKeyCompressionLevel): "1", // the store compresses anew when it settles the layers
		}}},
	}
}

// finish records what was built.
func (b *build) finish(ctx context.Context, ref string, parents []model.Parent) (Result, error) {
	made := image.Built{Temporary: image.TemporaryName(ref), Name: b.req.Name, Epoch: b.epoch()}
	for _, p := range parents {
		made.Bases = append(made.Bases, p.Digest)
	}
	img, err := b.store.Adopt(ctx, made)
	if err != nil {
		return Result{}, err
	}
	return Result{Digest: img.Digest, Parents: parents, Size: img.Size}, nil
}

// epochArg is the build argument that says what no time in an image is later
// than, in seconds since 1970.
const epochArg = "SOURCE_DATE_EPOCH"

// epoch returns the argument, which BuildKit has checked, or 0.
func (b *build) epoch() time.Time {
	seconds, err := strconv.ParseInt(b.req.Args[epochArg], 10, 64)
	if err != nil {
		return time.Unix(0, 0)
	}
	return time.Unix(seconds, 0)
}
