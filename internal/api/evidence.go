package api

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"time"

	"kiln/internal/model"
)

// EvidenceList is what is kept of ended servers and of sessions.
type EvidenceList struct {
	Evidence []EvidenceEntry `json:"evidence"` // oldest first
	Archives int             `json:"archives"` // that are kept, of all services
	Bytes    int64           `json:"bytes"`    // of these
}

// EvidenceEntry is what a server or a session left.
type EvidenceEntry struct {
	Service string          `json:"service,omitempty"`
	Server  model.ServerID  `json:"server,omitempty"`
	Session model.SessionID `json:"session,omitempty"` // a session's; else it is a death record's
	Release int             `json:"release,omitempty"`
	Image   model.Digest    `json:"image,omitempty"`
	At      time.Time       `json:"at"` // when the server, or the session, ended
	Reason  string          `json:"reason,omitempty"`
	Exit    *model.Exit     `json:"exit,omitempty"`
	Digest  string          `json:"digest,omitempty"` // of its archive; "": it has none
	Size    int64           `json:"size,omitempty"`   // of its archive, bytes
	Kept    bool            `json:"kept"`             // its archive is still there
	Missing []string        `json:"missing,omitempty"`
}

// Archive is one archive of the evidence.
type Archive struct {
	Name   string    // of the server or the session; "" where it is not known
	Digest string    // sha256:…
	Size   int64     // bytes
	At     time.Time // when it was written
}

// Evidence asks what is kept of ended servers and sessions; without a service,
// of all.
func (c *Client) Evidence(ctx context.Context, service string) (*EvidenceList, error) {
	query := url.Values{}
	if service != "" {
		query.Set("service", service)
	}
	return get[EvidenceList](ctx, c, PathEvidence, query)
}

// Account asks for the account of what happened since then; without a service,
// of all. It is package audit's value, decoded into what into points at.
func (c *Client) Account(ctx context.Context, service string, since time.Time, into any) error {
	query := url.Values{"since": {since.UTC().Format(time.RFC3339Nano)}}
	if service != "" {
		query.Set("service", service)
	}
	raw, err := get[json.RawMessage](ctx, c, PathAccount, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(*raw, into); err != nil {
		return model.Errorf(model.Internal, "cannot read the daemon's account: %w", err)
	}
	return nil
}

// PathImageHistory is the line of a service's images: GET → package audit's History.
const PathImageHistory = "/v1/services/{service}/images"

// ImageHistory asks for the line of a service's images. It is package audit's
// value, decoded into what into points at.
func (c *Client) ImageHistory(ctx context.Context, service string, into any) error {
	raw, err := get[json.RawMessage](ctx, c, path(PathImageHistory, service), nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(*raw, into); err != nil {
		return model.Errorf(model.Internal, "cannot read the daemon's history of images: %w", err)
	}
	return nil
}

// HeaderDigest is the header of PathArchive that names the digest of what
// follows.
const HeaderDigest = "Kiln-Digest"

// Archive copies the archive of a server, a session, or with a digest to w, and
// returns the digest that it shall have.
func (c *Client) Archive(ctx context.Context, name string, w io.Writer) (digest string, err error) {
	resp, err := c.do(ctx, call{target: path(PathArchive, name)})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, &fromDaemon{r: resp.Body, c: c})
	return resp.Header.Get(HeaderDigest), err
}
