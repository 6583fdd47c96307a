package image

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
)

// ingest is the content store while one image is written. Its transactions
// have names of their own, so that none goes on with what another import, or
// one that was cut off, wrote under the same name.
type ingest struct {
	content.Store
	prefix string

	mu   sync.Mutex
	refs []string
}

// Writer implements content.Ingester.
func (i *ingest) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	ref := i.prefix + o.Ref
	i.mu.Lock()
	i.refs = append(i.refs, ref)
	i.mu.Unlock()
	return i.Store.Writer(ctx, content.WithRef(ref), content.WithDescriptor(o.Desc))
}

// abort removes what was not finished. containerd closes a transaction after
// its writer did, and writes to its directory once more when it does: so each
// is opened again first, which waits for that.
func (i *ingest) abort(ctx context.Context) {
	for _, ref := range i.refs {
		if _, err := i.Store.Status(ctx, ref); err != nil {
			continue // it was finished
		}
		w, err := content.OpenWriter(ctx, i.Store, content.WithRef(ref))
		if err != nil {
			continue // the lease's end removes it
		}
		_ = i.Store.Abort(ctx, ref) // as above
		_ = w.Close()
	}
}

// leased runs do with a lease that protects the content it writes. If do
// fails, what it wrote is removed before leased returns.
func (s *Store) leased(ctx context.Context, do func(ctx context.Context, to *ingest) error) error {
	ctx = s.scoped(ctx)
	manager := s.client.LeasesService()
	lease, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTerm))
	if err != nil {
		return unavailable("write to the image store", err)
	}
	to := &ingest{Store: s.client.ContentStore(), prefix: "kiln-" + rand.Text() + "-"}
	ctx = leases.WithLease(ctx, lease.ID)
	err = do(ctx, to)
	after := context.WithoutCancel(ctx)
	var opts []leases.DeleteOpt
	if err != nil {
		to.abort(after)
		opts = append(opts, leases.SynchronousDelete)
	}
	if derr := manager.Delete(after, lease, opts...); derr != nil {
		s.log.Warn("cannot end a lease of the image store", "error", derr)
	}
	return err
}
