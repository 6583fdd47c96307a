package builder

import (
	"bufio"
	"context"
	"net"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/metadata"

	"kiln/internal/model"
)

// Cache lists the records of the build cache. One that a build uses now has
// been used just now.
func (c *Client) Cache(ctx context.Context) ([]model.Object, error) {
	rep, err := c.askCache(ctx, cacheRequest{})
	return rep.Cache, err
}

// RemoveCache removes records of the build cache. What is in use, or absent, is
// passed over.
func (c *Client) RemoveCache(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := c.askCache(ctx, cacheRequest{Remove: ids})
	return err
}

func (c *Client) askCache(ctx context.Context, req cacheRequest) (reply, error) {
	conn, err := c.open(ctx, hello{Cache: &req})
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var rep reply
	if err := receiveAtMost(bufio.NewReader(conn), &rep, maxCache); err != nil {
		return reply{}, model.Errorf(model.Unavailable, "cannot look at the build cache: the builder ended: %w", err)
	}
	if rep.Failure != nil {
		return reply{}, rep.Failure.error()
	}
	return rep, nil
}

// cache answers what is asked about the cache.
func (s *server) cache(ctx context.Context, req cacheRequest, conn net.Conn) {
	out := &lines{w: conn}
	var last reply
	var err error
	if len(req.Remove) == 0 {
		last.Cache, err = s.worker.usage(ctx)
	} else {
		err = s.worker.prune(ctx, req.Remove)
	}
	last.Done = true
	if err != nil {
		last = reply{Failure: failureOf(model.Errorf(model.Unavailable, "cannot look at the build cache: %w", err))}
	}
	if err := out.send(last); err != nil {
		s.log.Warn("cannot answer about the build cache", "error", err)
	}
}

// usage lists BuildKit's records.
func (w *worker) usage(ctx context.Context) ([]model.Object, error) {
	resp, err := w.control.DiskUsage(ctx, &controlapi.DiskUsageRequest{})
	if err != nil {
		return nil, err
	}
	list := []model.Object{}
	for _, r := range resp.GetRecord() {
		o := model.Object{Kind: model.ObjectBuildCache, ID: r.GetID(), Name: title(r.GetDescription()), Parents: r.GetParents()}
		if r.GetCreatedAt() != nil {
			o.At = r.GetCreatedAt().AsTime().UTC()
		}
		if r.GetLastUsedAt() != nil {
			o.LastUse = r.GetLastUsedAt().AsTime().UTC()
		}
		if r.GetInUse() {
			o.LastUse = time.Now().UTC()
		}
		if !r.GetShared() { // what an image has as well would not be free
			o.Bytes = max(0, r.GetSize())
		}
		list = append(list, o)
	}
	return list, nil
}

// title is the first line of a record's description.
func title(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// prune removes records; BuildKit goes from children to parents by itself.
func (w *worker) prune(ctx context.Context, ids []string) error {
	const at = 100 // filters in one request
	for len(ids) > 0 {
		n := min(at, len(ids))
		filters := make([]string, 0, n)
		for _, id := range ids[:n] {
			filters = append(filters, "id=="+id)
		}
		ids = ids[n:]
		if err := w.control.Prune(&controlapi.PruneRequest{All: true, Filter: filters}, &pruned{ctx: ctx}); err != nil {
			return err
		}
	}
	return nil
}

// pruned is the stream on which BuildKit tells what it has removed.
type pruned struct{ ctx context.Context }

// Send implements controlapi.Control_PruneServer.
func (p *pruned) Send(*controlapi.UsageRecord) error { return nil }

// Context implements grpc.ServerStream.
func (p *pruned) Context() context.Context { return p.ctx }

// SetHeader implements grpc.ServerStream.
func (p *pruned) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream.
func (p *pruned) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream.
func (p *pruned) SetTrailer(metadata.MD) {}

// SendMsg implements grpc.ServerStream.
func (p *pruned) SendMsg(any) error { return nil }

// RecvMsg implements grpc.ServerStream.
func (p *pruned) RecvMsg(any) error { return nil }
