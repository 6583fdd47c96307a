package server

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// ndjson writes one JSON object per line and flushes each.
type ndjson struct {
	enc     *json.Encoder
	flusher http.Flusher
}

// send writes one line. An error means that the client is gone.
func (n *ndjson) send(v any) error {
	if err := n.enc.Encode(v); err != nil {
		return err
	}
	if n.flusher != nil {
		n.flusher.Flush()
	}
	return nil
}

// stream answers with lines until f returns. Where that is for an error, or
// because the daemon ends, the answer is cut off: it must not look whole.
func stream(f func(ctx huma.Context, out *ndjson) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/x-ndjson")
		w := ctx.BodyWriter()
		flusher, _ := w.(http.Flusher)
		out := &ndjson{json.NewEncoder(w), flusher}
		if flusher != nil {
			flusher.Flush() // the headers: the client knows that it is heard
		}
		if err := f(ctx, out); err != nil || ctx.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
	}}
}

// joined lists names for a sentence.
func joined[S ~string](names []S) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(n))
	}
	return b.String()
}
