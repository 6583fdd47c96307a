package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// verifier passes an answer on and compares it with its digest. The last piece is
// held back until that is done: what was changed where it is kept ends short, and
// no client takes it for whole.
type verifier struct {
	http.ResponseWriter
	wanted   string // the digest; or a tag, whose digest the answer names
	log      *slog.Logger
	discard  func(digest string) // takes away what is damaged
	verifier digest.Verifier     // nil: this answer has no digest, or is a part only
	left     int64               // of the body
	status   int                 // 0: none yet
	begun    bool                // the answer is on its way
}

func (r *Registry) verified(w http.ResponseWriter, wanted string) http.ResponseWriter {
	return &verifier{ResponseWriter: w, wanted: wanted, log: r.log, discard: r.discard}
}

var errDamaged = errors.New("the content is damaged")

// WriteHeader implements http.ResponseWriter. An answer that is to be compared goes
// out with its first piece: one that comes whole is refused with an answer of its
// own.
func (v *verifier) WriteHeader(status int) {
	if v.status != 0 {
		return
	}
	v.status = status
	if status == http.StatusOK {
		h := v.Header()
		d, err := digest.Parse(v.wanted)
		if err != nil {
			d, err = digest.Parse(h.Get("Docker-Content-Digest"))
		}
		length, unknown := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
		if err == nil && unknown == nil && length == 0 && d != digest.FromString("") && d.Algorithm() == digest.SHA256 {
			v.damaged(d.String())
			return
		}
		if err == nil && unknown == nil && length > 0 {
			v.wanted, v.verifier, v.left = d.String(), d.Verifier(), length
			return
		}
	}
	v.ResponseWriter.WriteHeader(status)
	v.begun = true
}

// Write implements http.ResponseWriter.
func (v *verifier) Write(p []byte) (int, error) {
	v.WriteHeader(http.StatusOK)
	if v.verifier == nil {
		return v.ResponseWriter.Write(p)
	}
	_, _ = v.verifier.Write(p) // a hash takes everything
	v.left -= int64(len(p))
	if v.left <= 0 && !v.verifier.Verified() {
		if v.begun {
			v.log.Error("content of the registry is damaged and is not served", "digest", v.wanted)
			v.discard(v.wanted)
			panic(http.ErrAbortHandler)
		}
		v.damaged(v.wanted)
		return 0, errDamaged
	}
	if !v.begun {
		v.begun = true
		v.ResponseWriter.WriteHeader(v.status)
	}
	return v.ResponseWriter.Write(p)
}

// damaged answers that what is kept is not what it should be.
func (v *verifier) damaged(wanted string) {
	v.log.Error("content of the registry is damaged and is not served", "digest", wanted)
	v.discard(wanted)
	v.begun = true
	for _, name := range []string{"Docker-Content-Digest", "Etag", "Cache-Control", "Accept-Ranges"} {
		v.Header().Del(name)
	}
	fail(v.ResponseWriter, http.StatusInternalServerError, "UNKNOWN", "the content is damaged where it is kept: "+wanted)
}

// discard takes content away that is not what its digest says, so that it can be
// pushed again: where it is, nobody who pushes it writes anything. Storage that
// others may use, too, is left alone.
func (r *Registry) discard(wanted string) {
	d, err := digest.Parse(wanted)
	if err != nil || !r.alone {
		return
	}
	at := path.Join("/docker/registry/v2/blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded(), "data")
	if err := r.storage.Delete(context.Background(), at); err != nil {
		r.log.Warn("damaged content of the registry cannot be removed", "digest", wanted, "error", err)
	}
}

// Unwrap is for http.ResponseController.
func (v *verifier) Unwrap() http.ResponseWriter { return v.ResponseWriter }
