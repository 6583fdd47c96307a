package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"kiln/internal/model"
)

// SourceConfig says how an image is built from its source. Paths are those of the
// archive.
type SourceConfig struct {
	Version       int               `json:"kiln_source"` // 1
	Service       string            `json:"service"`
	Declaration   string            `json:"declaration"`
	Context       string            `json:"context"` // "." for all of it
	Containerfile string            `json:"containerfile"`
	Target        string            `json:"target,omitempty"`
	Args          map[string]string `json:"args,omitempty"`
}

// Source is what an image was made from, as it is kept beside it: an archive, and how
// the image is built from that.
type Source struct {
	Image   model.Digest `json:"image"`
	Archive model.Digest `json:"archive"`
	Size    int64        `json:"size"`  // bytes of the archive
	Files   int          `json:"files"` // in it
	Bytes   int64        `json:"bytes"` // of these
	Commit  string       `json:"commit,omitempty"`
	Dirty   bool         `json:"dirty,omitempty"` // the archive differs from the commit
	Config  SourceConfig `json:"config"`
}

// SourceHead is the first line of what KeepSource sends; the archive follows.
type SourceHead struct {
	Config SourceConfig `json:"config"`
	Allow  string       `json:"allow,omitempty"` // as BuildRequest's
}

// MaxSourceHead bounds the line before an archive.
const MaxSourceHead = 4 << 20 // bytes

// KeepSource brings what an image was made from, as an archive of package source.
func (c *Client) KeepSource(ctx context.Context, image model.Digest, in SourceHead, archive io.Reader) (*Source, error) {
	head, err := json.Marshal(in)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot write a request: %w", err)
	}
	body := io.MultiReader(bytes.NewReader(append(head, '\n')), archive)
	return answer[Source](ctx, c, call{target: path(PathSource, string(image)), body: body, kind: "application/octet-stream"})
}

// Source asks for what an image was made from. The archive is what is returned beside:
// whether it is that of the digest is for the caller to find out, who closes it.
func (c *Client) Source(ctx context.Context, image string) (*Source, io.ReadCloser, error) {
	resp, err := c.do(ctx, call{target: path(PathSource, image)})
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(&fromDaemon{r: resp.Body, c: c}, 64<<10)
	s := &Source{}
	if err := ReadLine(r, s); err != nil {
		resp.Body.Close()
		return nil, nil, err
	}
	return s, struct {
		io.Reader
		io.Closer
	}{r, resp.Body}, nil
}

// ReadLine decodes the line of JSON that comes before an archive.
func ReadLine(r *bufio.Reader, into any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxSourceHead {
			return model.Errorf(model.Invalid, "cannot read what comes before the archive: it has more than %d bytes", MaxSourceHead)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if _, known := errors.AsType[*model.Error](err); known {
				return err
			}
			return model.Errorf(model.Invalid, "cannot read what comes before the archive: %w", err)
		}
	}
	if err := json.Unmarshal(line, into); err != nil {
		return model.Errorf(model.Invalid, "cannot read what comes before the archive: %w", err).
			WithHint("client and daemon may be of different versions: compare `kiln version`")
	}
	return nil
}
