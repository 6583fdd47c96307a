package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"kiln/internal/model"
)

// Answer is the answer to a query, as Prometheus writes it.
type Answer struct {
	Type     parser.ValueType `json:"resultType"`
	Result   parser.Value     `json:"result"`
	warnings []string
}

// most is how many points of a series an answer has at most.
const most = 11000

// Query evaluates the query at an instant.
func (t *Telemetry) Query(ctx context.Context, query string, at time.Time) (*Answer, error) {
	return t.ask(ctx, query, func(ctx context.Context, st *store) (promql.Query, error) {
		return t.engine.NewInstantQuery(ctx, st.db, nil, query, at)
	})
}

// QueryRange evaluates the query at every step from start to end.
func (t *Telemetry) QueryRange(ctx context.Context, query string, start, end time.Time, step time.Duration) (*Answer, error) {
	switch {
	case step <= 0:
		return nil, model.Errorf(model.Invalid, "cannot evaluate the query: a step has to be longer than nothing, this is %s", step)
	case end.Before(start):
		return nil, model.Errorf(model.Invalid, "cannot evaluate the query: its end is before its start")
	case end.Sub(start)/step > most:
		return nil, model.Errorf(model.Invalid, "cannot evaluate the query: it would have more than %d points in a series", most).
			WithHint("ask for a longer step, or less time")
	}
	return t.ask(ctx, query, func(ctx context.Context, st *store) (promql.Query, error) {
		return t.engine.NewRangeQuery(ctx, st.db, nil, query, start, end, step)
	})
}

// opened calls f with the database, which is not closed meanwhile. At most a few
// ask at once: the others wait.
func (t *Telemetry) opened(ctx context.Context, f func(*store) error) error {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return model.Errorf(model.Unavailable, "cannot ask the metrics: others ask too much")
	}
	t.opening.RLock()
	defer t.opening.RUnlock()
	st := t.store.Load()
	if st == nil {
		return model.Errorf(model.Unavailable, "cannot ask the metrics: their database is not open").
			WithHint("it is read while the daemon starts; if this lasts, the daemon's log says why")
	}
	return f(st)
}

func (t *Telemetry) ask(ctx context.Context, query string, prepare func(context.Context, *store) (promql.Query, error)) (*Answer, error) {
	var out *Answer
	err := t.opened(ctx, func(st *store) error {
		q, err := prepare(ctx, st)
		if err != nil {
			return model.Errorf(model.Invalid, "cannot understand the query: %v", err)
		}
		defer q.Close()
		result := q.Exec(ctx)
		if result.Err != nil {
			return model.Errorf(codeOf(result.Err), "cannot evaluate the query: %v", result.Err)
		}
		// What q holds is given back at its end.
		out = &Answer{Type: result.Value.Type(), Result: copied(result.Value)}
		warnings, infos := result.Warnings.AsStrings(query, 10, 10)
		out.warnings = append(warnings, infos...)
		return nil
	})
	return out, err
}

func codeOf(err error) model.Code {
	var (
		timeout  promql.ErrQueryTimeout
		canceled promql.ErrQueryCanceled
		broken   promql.ErrStorage
	)
	switch {
	case errors.As(err, &timeout), errors.As(err, &canceled):
		return model.Unavailable
	case errors.As(err, &broken):
		return model.Internal
	default:
		return model.Invalid
	}
}

// copied returns a value that outlives its query, never nil where it is a list.
func copied(v parser.Value) parser.Value {
	switch v := v.(type) {
	case promql.Vector:
		return append(promql.Vector{}, v...)
	case promql.Matrix:
		out := make(promql.Matrix, len(v))
		for i, s := range v {
			out[i] = promql.Series{
				Metric: s.Metric, Floats: append([]promql.FPoint(nil), s.Floats...), Histograms: append([]promql.HPoint(nil), s.Histograms...),
			}
		}
		return out
	default:
		return v
	}
}

// selection is the series of a time that one of the selectors matches; without
// selectors all of them.
type selection struct {
	start, end time.Time
	selectors  []string
}

func (s selection) matchers() ([][]*labels.Matcher, error) {
	var sets [][]*labels.Matcher
	for _, text := range s.selectors {
		set, err := parser.ParseMetricSelector(text)
		if err != nil {
			return nil, model.Errorf(model.Invalid, "cannot understand the selector %q: %v", text, err)
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// names returns the names that the selection has for a label, or with "" the
// labels.
func (t *Telemetry) names(ctx context.Context, s selection, label string) ([]string, error) {
	sets, err := s.matchers()
	if err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	seen := map[string]bool{}
	err = t.opened(ctx, func(st *store) error {
		q, err := st.db.Querier(s.start.UnixMilli(), s.end.UnixMilli())
		if err != nil {
			return model.Errorf(model.Internal, "cannot read the metrics: %w", err)
		}
		defer q.Close()
		for _, set := range sets {
			found, err := namesOf(ctx, q, label, set)
			if err != nil {
				return model.Errorf(model.Internal, "cannot read the metrics: %w", err)
			}
			for _, name := range found {
				seen[string([]byte(name))] = true // it is not to be used after q is closed
			}
		}
		return nil
	})
	return sortedKeys(seen), err
}

func namesOf(ctx context.Context, q storage.Querier, label string, set []*labels.Matcher) (found []string, err error) {
	if label == "" {
		found, _, err = q.LabelNames(ctx, nil, set...)
	} else {
		found, _, err = q.LabelValues(ctx, label, nil, set...)
	}
	return found, err
}

// seriesOf returns the labels of the series of the selection.
func (t *Telemetry) seriesOf(ctx context.Context, s selection) ([]labels.Labels, error) {
	sets, err := s.matchers()
	if err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		return nil, model.Errorf(model.Invalid, "cannot list series: no match[] says which")
	}
	found := []labels.Labels{}
	err = t.opened(ctx, func(st *store) error {
		q, err := st.db.Querier(s.start.UnixMilli(), s.end.UnixMilli())
		if err != nil {
			return model.Errorf(model.Internal, "cannot read the metrics: %w", err)
		}
		defer q.Close()
		hints := &storage.SelectHints{Start: s.start.UnixMilli(), End: s.end.UnixMilli(), Func: "series"}
		var all []storage.SeriesSet
		for _, set := range sets {
			all = append(all, q.Select(ctx, true, hints, set...))
		}
		merged := storage.NewMergeSeriesSet(all, 0, storage.ChainedSeriesMerge)
		for merged.Next() {
			found = append(found, merged.At().Labels().Copy())
		}
		if err := merged.Err(); err != nil {
			return model.Errorf(model.Internal, "cannot read the metrics: %w", err)
		}
		return nil
	})
	return found, err
}
