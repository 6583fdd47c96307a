package telemetry

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	promtime "github.com/prometheus/common/model"

	"kiln/internal/model"
)

// Handler answers what a Prometheus answers, reading only:
//
//	GET /metrics                    the present values, in the text format
//	GET /api/v1/query               ?query= &time=
//	GET /api/v1/query_range         ?query= &start= &end= &step=
//	GET /api/v1/labels              ?match[]= &start= &end=
//	GET /api/v1/label/{name}/values ?match[]= &start= &end=
//	GET /api/v1/series              ?match[]= &start= &end=
//	GET /api/v1/metadata
//
// The questions may be put as POST of a form, too: some are long.
func (t *Telemetry) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(t.Text(r.Context())) // who asked may be gone
	})
	for path, answer := range map[string]func(*http.Request) (any, error){
		"/api/v1/query":               t.answerQuery,
		"/api/v1/query_range":         t.answerRange,
		"/api/v1/labels":              t.answerLabels,
		"/api/v1/label/{name}/values": t.answerLabels,
		"/api/v1/series":              t.answerSeries,
		"/api/v1/metadata":            answerMetadata,
	} {
		h := func(w http.ResponseWriter, r *http.Request) { respond(w, r, answer) }
		mux.HandleFunc("GET "+path, h)
		mux.HandleFunc("POST "+path, h)
	}
	return mux
}

// envelope is what every answer of Prometheus comes in.
type envelope struct {
	Status   string   `json:"status"`
	Data     any      `json:"data,omitempty"`
	Type     string   `json:"errorType,omitempty"`
	Error    string   `json:"error,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// The same as kiln's own API says it.
	Code   model.Code `json:"code,omitempty"`
	Detail string     `json:"detail,omitempty"`
	Hint   string     `json:"hint,omitempty"`
}

// maxForm bounds what a question may be long.
const maxForm = 1 << 20

func respond(w http.ResponseWriter, r *http.Request, answer func(*http.Request) (any, error)) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	var data any
	err := r.ParseForm()
	if err != nil {
		err = model.Errorf(model.Invalid, "cannot read the question: %v", err)
	} else {
		data, err = answer(r)
	}
	out, status := envelope{Status: "success", Data: data}, http.StatusOK
	if a, ok := data.(*Answer); ok && a != nil {
		out.Warnings = a.warnings
	}
	if err != nil {
		out = envelope{Status: "error", Type: "internal", Error: err.Error(), Code: model.CodeOf(err), Detail: err.Error(), Hint: model.HintOf(err)}
		status = http.StatusInternalServerError
		if model.CodeOf(err) == model.Invalid {
			out.Type, status = "bad_data", http.StatusBadRequest
		}
		if model.CodeOf(err) == model.Unavailable {
			out.Type, status = "unavailable", http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out) // who asked may be gone
}

func (t *Telemetry) answerQuery(r *http.Request) (any, error) {
	at, err := t.timeOf(r, "time", t.cfg.Clock.Now().Wall)
	if err != nil {
		return nil, err
	}
	return nilled(t.Query(r.Context(), r.Form.Get("query"), at))
}

func (t *Telemetry) answerRange(r *http.Request) (any, error) {
	now := t.cfg.Clock.Now().Wall
	start, err1 := t.timeOf(r, "start", now.Add(-time.Hour))
	end, err2 := t.timeOf(r, "end", now)
	step, err3 := stepOf(r.Form.Get("step"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, model.Errorf(model.Invalid, "%w", err)
	}
	return nilled(t.QueryRange(r.Context(), r.Form.Get("query"), start, end, step))
}

// nilled keeps a nil Answer from becoming a value.
func nilled(a *Answer, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (t *Telemetry) answerLabels(r *http.Request) (any, error) {
	s, err := t.selectionOf(r)
	if err != nil {
		return nil, err
	}
	return t.names(r.Context(), s, r.PathValue("name"))
}

func (t *Telemetry) answerSeries(r *http.Request) (any, error) {
	s, err := t.selectionOf(r)
	if err != nil {
		return nil, err
	}
	return t.seriesOf(r.Context(), s)
}

// answerMetadata says what each metric means.
func answerMetadata(*http.Request) (any, error) {
	type entry struct {
		Type kind   `json:"type"`
		Help string `json:"help"`
		Unit string `json:"unit"`
	}
	all := map[string][]entry{}
	for _, m := range table() {
		all[m.name] = []entry{{Type: m.kind, Help: m.help}}
	}
	return all, nil
}

// selectionOf reads which series are meant; without a time the last day's.
func (t *Telemetry) selectionOf(r *http.Request) (selection, error) {
	now := t.cfg.Clock.Now().Wall
	start, err1 := t.timeOf(r, "start", now.Add(-24*time.Hour))
	end, err2 := t.timeOf(r, "end", now)
	if err := errors.Join(err1, err2); err != nil {
		return selection{}, model.Errorf(model.Invalid, "%w", err)
	}
	return selection{start: start, end: end, selectors: r.Form["match[]"]}, nil
}

// timeOf reads a time: seconds since 1970 or RFC 3339.
func (t *Telemetry) timeOf(r *http.Request, name string, otherwise time.Time) (time.Time, error) {
	text := r.Form.Get(name)
	if text == "" {
		return otherwise, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > -1e11 && seconds < 1e11 {
		return time.UnixMilli(int64(seconds * 1000)), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, model.Errorf(model.Invalid, "cannot understand %s: %q is neither seconds since 1970 nor a time like 2026-01-02T15:04:05Z", name, text)
	}
	return at, nil
}

// stepOf reads a duration: seconds, or with units as in PromQL.
func stepOf(text string) (time.Duration, error) {
	if text == "" {
		return time.Minute, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 && seconds < 1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := promtime.ParseDuration(text)
	if err != nil {
		return 0, model.Errorf(model.Invalid, "cannot understand step: %q is not a duration like 30s", text)
	}
	return time.Duration(d), nil
}

func sortedKeys(set map[string]bool) []string {
	keys := slices.AppendSeq([]string{}, maps.Keys(set))
	slices.Sort(keys)
	return keys
}
