package api

import (
	"context"
	"io"
	"net/url"
	"time"

	"kiln/internal/model"
)

// The paths of volumes; {service} and {volume} stand for their names.
const (
	PathVolumes        = "/v1/volumes"                             // GET → Volumes
	PathVolumeSnapshot = "/v1/volumes/{service}/{volume}/snapshot" // POST VolumeRequest → VolumeAccepted
	PathVolumeRestore  = "/v1/volumes/{service}/{volume}/restore"  // POST VolumeRequest → VolumeAccepted
	PathVolumeRemove   = "/v1/volumes/{service}/{volume}/remove"   // POST VolumeRequest → VolumeAccepted
	PathVolumeArchive  = "/v1/volumes/{service}/{volume}/archive"  // GET → a tar archive, a trailer says what went wrong; POST body: the archive → VolumeAccepted
)

// Volumes are all volumes of the instance.
type Volumes struct {
	Volumes []Volume `json:"volumes"`
}

// Volume is a volume as the journal and the machine know it.
type Volume struct {
	Service   string             `json:"service"`
	Name      string             `json:"name"`
	Access    model.VolumeAccess `json:"access"`
	Path      string             `json:"path"` // on the machine; "": nothing of it is there
	Used      int64              `json:"used"`
	Free      int64              `json:"free"`
	Size      int64              `json:"size,omitempty"` // that it may hold; 0: no bound
	Enforced  bool               `json:"enforced"`       // the file system keeps it within its size
	CanCopy   bool               `json:"can_snapshot"`   // the file system can make snapshots
	Servers   []model.ServerID   `json:"servers"`        // that have it now
	CreatedAt time.Time          `json:"created_at,omitzero"`
	Snapshots []VolumeSnapshot   `json:"snapshots"`
	Unknown   bool               `json:"unknown,omitempty"` // the journal knows nothing of it
}

// VolumeSnapshot is a volume as it was.
type VolumeSnapshot struct {
	model.VolumeSnapshot
	Missing bool `json:"missing,omitempty"` // the journal knows it, and it is not there
}

// VolumeRequest asks for a change of a volume.
type VolumeRequest struct {
	Snapshot string `json:"snapshot,omitempty"` // which one; for a new one: its name, "" is the time
	Author   string `json:"author,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// VolumeAccepted is what became of it.
type VolumeAccepted struct {
	Service  string `json:"service"`
	Name     string `json:"name"`
	Snapshot string `json:"snapshot,omitempty"`
	Done     string `json:"done"` // in words
}

// Volumes asks for all volumes.
func (c *Client) Volumes(ctx context.Context) (*Volumes, error) {
	return get[Volumes](ctx, c, PathVolumes, nil)
}

// SnapshotVolume makes a snapshot.
func (c *Client) SnapshotVolume(ctx context.Context, service, name string, in VolumeRequest) (*VolumeAccepted, error) {
	return post[VolumeAccepted](ctx, c, path(PathVolumeSnapshot, service, name), in)
}

// RestoreVolume makes a volume what a snapshot is.
func (c *Client) RestoreVolume(ctx context.Context, service, name string, in VolumeRequest) (*VolumeAccepted, error) {
	return post[VolumeAccepted](ctx, c, path(PathVolumeRestore, service, name), in)
}

// RemoveVolume removes a volume, or one snapshot of it.
func (c *Client) RemoveVolume(ctx context.Context, service, name string, in VolumeRequest) (*VolumeAccepted, error) {
	return post[VolumeAccepted](ctx, c, path(PathVolumeRemove, service, name), in)
}

// ExportVolume copies a volume's content to w as a tar archive. After an error
// what was written is not whole.
func (c *Client) ExportVolume(ctx context.Context, service, name string, w io.Writer) error {
	return c.download(ctx, call{target: path(PathVolumeArchive, service, name)}, w)
}

// ImportVolume makes the content of a volume what the tar archive says.
func (c *Client) ImportVolume(ctx context.Context, service, name string, in VolumeRequest, archive io.Reader) (*VolumeAccepted, error) {
	query := url.Values{"author": {in.Author}, "from": {in.Reason}}
	return answer[VolumeAccepted](ctx, c, call{target: path(PathVolumeArchive, service, name), query: query, body: archive, kind: "application/x-tar"})
}
