package api

import (
	"context"
	"encoding/json"
	"net/url"

	"kiln/internal/model"
)

// MetricsAnswer is what a query comes to, as Prometheus writes it.
type MetricsAnswer struct {
	Type   string          `json:"resultType"` // vector, matrix, scalar or string
	Result json.RawMessage `json:"result"`
}

// Series is one time series of an answer: of a vector it has Value, of a matrix
// Values.
type Series struct {
	Metric map[string]string `json:"metric"`
	Value  MetricPoint       `json:"value,omitzero"`
	Values []MetricPoint     `json:"values,omitempty"`
}

// MetricPoint is a value at a time.
type MetricPoint struct {
	Time  float64 // seconds since 1970
	Value string  // a number, NaN, +Inf or -Inf
}

// UnmarshalJSON reads [time, "value"].
func (p *MetricPoint) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[2]any{&p.Time, &p.Value})
}

// MarshalJSON writes [time, "value"].
func (p MetricPoint) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]any{p.Time, p.Value})
}

// MetricsRange asks for every Step from Start to End instead of at this moment: seconds
// since 1970 or RFC 3339, and a duration as in PromQL.
type MetricsRange struct{ Start, End, Step string }

// Metrics evaluates a query of PromQL, now or over a range.
func (c *Client) Metrics(ctx context.Context, query string, over *MetricsRange) (*MetricsAnswer, error) {
	type envelope struct {
		Data MetricsAnswer `json:"data"`
	}
	target, values := PathQuery, url.Values{"query": {query}}
	if over != nil {
		target = PathQueryRange
		values.Set("start", over.Start)
		values.Set("end", over.End)
		values.Set("step", over.Step)
	}
	out, err := get[envelope](ctx, c, target, values)
	if err != nil {
		return nil, err
	}
	return &out.Data, nil
}

// Vector asks a query whose answer has one value for each series.
func (c *Client) Vector(ctx context.Context, query string) ([]Series, error) {
	answer, err := c.Metrics(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	var series []Series
	if err := json.Unmarshal(answer.Result, &series); err != nil {
		return nil, model.Errorf(model.Internal, "cannot read the daemon's answer: %w", err)
	}
	return series, nil
}
