package api

import (
	"context"
	"io"
	"net/url"

	"kiln/internal/model"
)

// ImageDiff is how one image differs from another.
type ImageDiff struct {
	Before       ImageExtent     `json:"before"`
	After        ImageExtent     `json:"after"`
	SharedLayers int             `json:"shared_layers"` // of the lowest ones
	Packages     []PackageChange `json:"packages"`      // by type, name, architecture
	Files        []FileChange    `json:"files"`         // a directory before what is in it
	Config       []ConfigChange  `json:"config"`
}

// ImageExtent is how large an image is.
type ImageExtent struct {
	Digest       model.Digest `json:"digest"`
	Layers       []ImageLayer `json:"layers"`       // the lowest first
	Compressed   int64        `json:"compressed"`   // bytes of its layers as stored
	Uncompressed int64        `json:"uncompressed"` // bytes of its layers' archives
	Files        int          `json:"files"`        // directories among them
	FileBytes    int64        `json:"file_bytes"`   // bytes of the files that can be seen
	Databases    []string     `json:"databases"`    // of packages
	Unread       []Unread     `json:"unread,omitempty"`
}

// ImageLayer names a layer of an image.
type ImageLayer struct {
	Index  int          `json:"index"` // the lowest is 0
	Digest model.Digest `json:"digest"`
}

// Unread is a file that should name packages and cannot be understood.
type Unread struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// PackageChange is a package that is in one image only ("added", "removed"), or in
// two versions ("changed").
type PackageChange struct {
	Name         string `json:"name"`
	Type         string `json:"type"` // deb, apk, rpm, golang, npm, pypi, gem, maven
	Architecture string `json:"architecture,omitempty"`
	Change       string `json:"change"`
	Before       string `json:"before,omitempty"` // version
	After        string `json:"after,omitempty"`
	Path         string `json:"path"` // the file that says so
}

// FileChange is a path at which two images differ.
type FileChange struct {
	Path    string     `json:"path"` // without a slash at its beginning
	Change  string     `json:"change"`
	Aspects []string   `json:"aspects,omitempty"` // of what is changed: kind, mode, owner, size, content, link, device, attributes
	Before  *ImageFile `json:"before,omitempty"`
	After   *ImageFile `json:"after,omitempty"`
}

// ImageFile is a file of an image.
type ImageFile struct {
	Kind   string       `json:"kind"`
	Mode   string       `json:"mode"` // octal
	UID    int          `json:"uid"`
	GID    int          `json:"gid"`
	Size   int64        `json:"size"` // bytes
	Digest model.Digest `json:"digest,omitempty"`
	Link   string       `json:"link,omitempty"`
	Device string       `json:"device,omitempty"`
	Layer  ImageLayer   `json:"layer"` // that brought it, as it is
}

// ConfigChange is a setting in which two images differ.
type ConfigChange struct {
	Field  string   `json:"field"`
	Key    string   `json:"key,omitempty"` // of a variable, a label, a port, a volume
	Change string   `json:"change"`
	Before []string `json:"before,omitempty"`
	After  []string `json:"after,omitempty"`
}

// The forms of a list of what is in an image.
const (
	SPDX      = "spdx"
	CycloneDX = "cyclonedx"
)

// Bill copies the list of what is in an image, in a form, to w.
func (c *Client) Bill(ctx context.Context, image, form string, w io.Writer) error {
	resp, err := c.do(ctx, call{target: path(PathBill, image), query: url.Values{"form": {form}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, &fromDaemon{r: resp.Body, c: c})
	return err
}

// ImageDiff asks how image b differs from image a.
func (c *Client) ImageDiff(ctx context.Context, a, b string) (*ImageDiff, error) {
	return get[ImageDiff](ctx, c, PathDiff, url.Values{"from": {a}, "to": {b}})
}
