package server

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/source"
)

// Sources keeps what images were made from.
type Sources interface {
	// Lacks reports whether what an image was made from is to be kept and is not.
	Lacks(ctx context.Context, d model.Digest) bool
	// Keep keeps an archive as what an image was made from.
	Keep(ctx context.Context, img model.Image, head api.SourceHead, archive io.Reader) (api.Source, error)
	// Copy copies the archive to what begin returns, which is called once it is known.
	Copy(ctx context.Context, img model.Image, begin func(api.Source) io.Writer) error
}

func (s *Server) registerSources() {
	// The bodies of these are no JSON, so they stand beside huma.
	s.mux.HandleFunc("POST "+api.PathSource, s.keepSource)
	s.mux.HandleFunc("GET "+api.PathSource, s.source)
}

func (s *Server) keepSource(w http.ResponseWriter, r *http.Request) {
	img, err := s.imageHere(r.PathValue("image"))
	body := bufio.NewReaderSize(r.Body, 64<<10)
	var head api.SourceHead
	if err == nil {
		err = s.fits("keep the source of image "+img.Digest.Short(), nothing)
	}
	if err == nil {
		err = api.ReadLine(body, &head)
	}
	var kept api.Source
	if err == nil {
		kept, err = s.cfg.Sources.Keep(r.Context(), img, head, body)
	}
	// A client that still sends would not hear the answer.
	_, _ = io.Copy(io.Discard, io.LimitReader(body, source.MaxArchive)) // it may be gone
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(kept); err != nil {
		s.cfg.Log.Debug("cannot answer", "error", err)
	}
}

func (s *Server) source(w http.ResponseWriter, r *http.Request) {
	img, err := s.imageKnown(r.PathValue("image"))
	if err == nil && !img.RemovedAt.IsZero() {
		err = model.Errorf(model.Precondition, "cannot check out image %s: it was removed on %s, for nothing held it any more, and its source with it",
			img.Digest.Short(), img.RemovedAt.Format("2006-01-02 15:04:05")).WithHint("kiln images pin keeps an image, and so its source")
	}
	begun := false
	if err == nil {
		err = s.cfg.Sources.Copy(r.Context(), img, func(src api.Source) io.Writer {
			begun = true
			w.Header().Set("Content-Type", "application/octet-stream")
			_ = json.NewEncoder(w).Encode(src) // the client may be gone, as the next write says
			return w
		})
	}
	switch {
	case err != nil && begun:
		s.cfg.Log.Error("the source of an image was broken off", "image", string(img.Digest), "error", err)
		panic(http.ErrAbortHandler) // the client is not to take it for whole
	case err != nil:
		s.refuseRaw(w, err)
	}
}
