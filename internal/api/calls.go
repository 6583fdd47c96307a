package api

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"kiln/internal/model"
)

// Version asks who answers.
func (c *Client) Version(ctx context.Context) (*Version, error) {
	return get[Version](ctx, c, PathVersion, nil)
}

// Status asks what runs; without services, everything.
func (c *Client) Status(ctx context.Context, services ...string) (*Status, error) {
	return get[Status](ctx, c, PathStatus, url.Values{"service": services})
}

// Deploy asks for a release.
func (c *Client) Deploy(ctx context.Context, service string, in DeployRequest) (*DeployAccepted, error) {
	return post[DeployAccepted](ctx, c, path(PathDeploy, service), in)
}

// Plan asks what Deploy would do. The plan is package reconcile's value; it is
// decoded into what into points at.
func (c *Client) Plan(ctx context.Context, service string, in DeployRequest, into any) error {
	raw, err := post[json.RawMessage](ctx, c, path(PathPlan, service), in)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(*raw, into); err != nil {
		return model.Errorf(model.Internal, "cannot read the daemon's plan: %w", err)
	}
	return nil
}

// Rollback goes back to a release.
func (c *Client) Rollback(ctx context.Context, service string, in RollbackRequest) (*DeployAccepted, error) {
	return post[DeployAccepted](ctx, c, path(PathRollback, service), in)
}

// Scale changes the number of servers.
func (c *Client) Scale(ctx context.Context, service string, in ScaleRequest) (*DeployAccepted, error) {
	return post[DeployAccepted](ctx, c, path(PathScale, service), in)
}

// Pause holds the running deployment at the stage that is reached.
func (c *Client) Pause(ctx context.Context, service string, in StageRequest) (*StageAccepted, error) {
	return post[StageAccepted](ctx, c, path(PathPause, service), in)
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context, service string, in StageRequest) (*StageAccepted, error) {
	return post[StageAccepted](ctx, c, path(PathResume, service), in)
}

// Finish passes over the stages that are left.
func (c *Client) Finish(ctx context.Context, service string, in StageRequest) (*StageAccepted, error) {
	return post[StageAccepted](ctx, c, path(PathFinish, service), in)
}

// Abort ends the running deployment, or one that waits.
func (c *Client) Abort(ctx context.Context, service string, in AbortRequest) (*Accepted, error) {
	return post[Accepted](ctx, c, path(PathAbort, service), in)
}

// Destroy ends the service.
func (c *Client) Destroy(ctx context.Context, service string, in DestroyRequest) (*Accepted, error) {
	return post[Accepted](ctx, c, path(PathDestroy, service), in)
}

// Releases asks for a service's history.
func (c *Client) Releases(ctx context.Context, service string) (*Releases, error) {
	return get[Releases](ctx, c, path(PathReleases, service), nil)
}

// Deployment asks how a deployment stands.
func (c *Client) Deployment(ctx context.Context, id model.DeploymentID) (*Progress, error) {
	return get[Progress](ctx, c, path(PathDeployment, string(id)), nil)
}

// Watch calls each for every line of a deployment's progress until it is done.
// A daemon that goes away is waited for, and what was watched goes on: the
// lines tell how things stand, so that none that is missed is missing.
func (c *Client) Watch(ctx context.Context, id model.DeploymentID, each func(Progress) error) error {
	return c.again(ctx, func(alive func()) error {
		done := false
		err := stream(ctx, c, call{target: path(PathWatch, string(id))}, nil, func(p Progress) error {
			alive()
			if err := each(p); err != nil || !p.Done {
				return err
			}
			done = true
			return errEnough
		})
		if err == nil && !done {
			return c.unreachable(&contactError{err: io.ErrUnexpectedEOF, sent: true})
		}
		return err
	})
}

// Record asks for the death record of a server.
func (c *Client) Record(ctx context.Context, id model.ServerID) (*DeathRecord, error) {
	return get[DeathRecord](ctx, c, path(PathDeath, string(id)), nil)
}

// Images asks what the instance holds.
func (c *Client) Images(ctx context.Context) (*Images, error) {
	return get[Images](ctx, c, PathImages, nil)
}

// Image asks for one image by digest, its beginning, or name.
func (c *Client) Image(ctx context.Context, name string) (*Image, error) {
	return get[Image](ctx, c, path(PathImage, name), nil)
}

// ImportQuery says what an imported archive is to be called and who brings it.
type ImportQuery struct {
	Name   string
	Author string
	Reason string
}

// Import sends an archive: a root filesystem, an OCI or a docker archive.
func (c *Client) Import(ctx context.Context, in ImportQuery, archive io.Reader) (*ImageResult, error) {
	query := url.Values{"name": {in.Name}}
	if in.Author != "" {
		query.Set("author", in.Author)
	}
	if in.Reason != "" {
		query.Set("reason", in.Reason)
	}
	return answer[ImageResult](ctx, c, call{target: PathImport, query: query, body: archive, kind: "application/octet-stream"})
}

// Pull fetches an image of a registry.
func (c *Client) Pull(ctx context.Context, in PullRequest) (*ImageResult, error) {
	return post[ImageResult](ctx, c, PathPull, in)
}

// Verify recomputes the journal's chain.
func (c *Client) Verify(ctx context.Context) (*AuditReport, error) {
	return get[AuditReport](ctx, c, PathVerify, nil)
}

// LogQuery chooses log lines.
type LogQuery struct {
	Server  model.ServerID
	Service string
	Follow  bool
	Tail    int    // 0: all that are kept
	Since   string // RFC 3339; "": all that are kept
}

func (q LogQuery) values() url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	set("server", string(q.Server))
	set("service", q.Service)
	set("since", q.Since)
	if q.Follow {
		v.Set("follow", "true")
	}
	if q.Tail > 0 {
		v.Set("tail", strconv.Itoa(q.Tail))
	}
	return v
}

// Logs calls each for every line. With Follow it goes on until ctx ends, also
// over a daemon that goes away and comes back.
func (c *Client) Logs(ctx context.Context, q LogQuery, each func(LogLine) error) error {
	last := map[model.ServerID]time.Time{} // line that came
	return c.again(ctx, func(alive func()) error {
		// Asked again, the daemon sends anew what came before: of each server
		// that is passed over.
		had := maps.Clone(last)
		if len(had) > 0 && (q.Follow || q.Tail > 0) {
			q.Since, q.Tail = slices.MinFunc(slices.Collect(maps.Values(had)), time.Time.Compare).UTC().Format(time.RFC3339Nano), 0
		}
		return stream(ctx, c, call{target: PathLogs, query: q.values()}, alive, func(l LogLine) error {
			alive()
			if at, again := had[l.Server]; again && !l.At.After(at) {
				return nil
			}
			last[l.Server] = l.At
			return each(l)
		})
	})
}

// EventQuery chooses events.
type EventQuery struct {
	After   uint64 // sequence number
	Service string
	Follow  bool
}

func (q EventQuery) values() url.Values {
	v := url.Values{}
	if q.After > 0 {
		v.Set("after", strconv.FormatUint(q.After, 10))
	}
	if q.Service != "" {
		v.Set("service", q.Service)
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	return v
}

// Events calls each for every event. With Follow it goes on until ctx ends,
// also over a daemon that goes away and comes back.
func (c *Client) Events(ctx context.Context, q EventQuery, each func(Event) error) error {
	return c.events(ctx, PathEvents, q, each)
}

// Audit is Events with the hash of each.
func (c *Client) Audit(ctx context.Context, q EventQuery, each func(Event) error) error {
	return c.events(ctx, PathAudit, q, each)
}

func (c *Client) events(ctx context.Context, target string, q EventQuery, each func(Event) error) error {
	return c.again(ctx, func(alive func()) error {
		err := stream(ctx, c, call{target: target, query: q.values()}, alive, func(e Event) error {
			alive()
			q.After = max(q.After, e.Seq)
			return each(e)
		})
		if err == nil && q.Follow { // events never end: the daemon did
			return c.unreachable(&contactError{err: io.ErrUnexpectedEOF, sent: true})
		}
		return err
	})
}
