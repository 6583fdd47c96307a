package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"kiln/internal/api"
)

// Backups makes backups.
type Backups interface {
	Write(ctx context.Context, w io.Writer, req api.BackupRequest) (*api.BackupReport, error)
}

// backup streams an archive. What went wrong is known when the stream has
// begun, so that it stands in a trailer.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	req := api.BackupRequest{Images: query.Get("images") != "false", Evidence: query.Get("evidence") == "true"}
	w.Header().Set("Content-Type", "application/zstd")
	w.Header().Set("Trailer", api.TrailerProblem)
	report, err := s.cfg.Backups.Write(r.Context(), w, req)
	if err == nil {
		s.cfg.Log.Info("a backup was made", "seq", report.Seq, "hash", report.Hash, "images", len(report.Images), "missing", len(report.Missing))
		return
	}
	s.cfg.Log.Warn("a backup failed", "error", err)
	text, err := json.Marshal(problemOf(err))
	if err != nil {
		s.cfg.Log.Error("cannot answer", "error", err)
	}
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush() // an answer that is short so far has trailers only then
	}
	w.Header().Set(api.TrailerProblem, string(text))
}
