package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strconv"
	"time"

	"kiln/internal/model"
)

// TrailerProblem is the trailer of PathBackup that says why the stream is not
// whole: a Problem as JSON. What is in a whole one, the stream itself says.
const TrailerProblem = "Kiln-Problem"

// BackupRequest says what a backup takes along besides journal, instance and
// certificates.
type BackupRequest struct {
	Images   bool // of the releases in service and of those that can be rolled back to
	Evidence bool // what ended servers left
}

// BackupReport is what a backup holds.
type BackupReport struct {
	File     string           `json:"file,omitempty"`
	Bytes    int64            `json:"bytes"`
	Instance model.InstanceID `json:"instance"`
	MadeAt   time.Time        `json:"made_at"`
	Version  string           `json:"version"` // of the kiln that made it
	Seq      uint64           `json:"seq"`     // of the journal's last event
	Hash     string           `json:"hash"`
	Key      string           `json:"key"`          // that signed it, in hexadecimal
	Signed   int              `json:"signed_heads"` // that fit
	Images   []BackupImage    `json:"images"`
	Missing  []BackupImage    `json:"missing"`           // that releases need and that are not in it
	Volumes  []string         `json:"volumes,omitempty"` // SERVICE/VOLUME: what they hold is in no backup
	Files    int              `json:"files"`
	Daemon   []string         `json:"daemon,omitempty"` // the arguments with which the daemon ran
}

// BackupImage is an image that releases need.
type BackupImage struct {
	Image  model.Digest `json:"image"`
	Names  []string     `json:"names,omitempty"`
	Source string       `json:"source,omitempty"`
	Size   int64        `json:"size"`
	UsedBy []string     `json:"used_by"`
}

// RestoreRequest says where a backup goes.
type RestoreRequest struct {
	DataDir string // absolute
	Journal bool   // the journal alone: the data directory is there
}

// RestoreReport is what a restore did.
type RestoreReport struct {
	BackupReport
	DataDir string `json:"data_dir"`
	Epoch   uint64 `json:"epoch"`
	Kept    string `json:"kept,omitempty"` // where the damaged journal is now
}

// Backup copies a backup to w while everything goes on. After an error what
// was written is not a backup.
func (c *Client) Backup(ctx context.Context, in BackupRequest, w io.Writer) error {
	query := url.Values{"images": {strconv.FormatBool(in.Images)}, "evidence": {strconv.FormatBool(in.Evidence)}}
	return c.download(ctx, call{target: PathBackup, query: query}, w)
}

// download copies what the daemon sends to w. What goes wrong in the midst of
// it comes behind it.
func (c *Client) download(ctx context.Context, in call, w io.Writer) error {
	resp, err := c.do(ctx, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, &fromDaemon{r: resp.Body, c: c}); err != nil {
		return err
	}
	text := resp.Trailer.Get(TrailerProblem)
	if text == "" {
		return nil
	}
	var p Problem
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return model.Errorf(model.Internal, "cannot read the daemon's answer: %w", err)
	}
	return p.Err()
}

// fromDaemon tells a daemon that goes away from a file that cannot be written.
type fromDaemon struct {
	r io.Reader
	c *Client
}

func (f *fromDaemon) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = f.c.unreachable(&contactError{err: err, sent: true})
	}
	return n, err
}
