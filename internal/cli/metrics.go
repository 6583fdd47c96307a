package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) metricsCommand() *cobra.Command {
	var since, step string
	cmd := &cobra.Command{
		Use:   "metrics [QUERY]",
		Short: "What servers use and answer, now and in the past",
		Long: `Without a query: what each server uses and answers, over the last minute. With one, the
answer to it: a query is in PromQL, as Prometheus and Grafana have it; docs/metrics.md lists the
metrics. What was measured of servers that are gone is kept.`,
		Example: `  kiln metrics
  kiln metrics 'sum by (service, release) (rate(kiln_requests_total[1m]))'
  kiln metrics 'kiln_server_memory_bytes{service="shop"}' --since 1h --step 1m`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			past, every, err := pastOf(since, step)
			switch {
			case err != nil:
				return err
			case len(args) == 0 && past != 0:
				return usagef("--since needs a query: kiln metrics 'kiln_server_memory_bytes' --since 1h")
			case len(args) == 0:
				return a.serverMetrics(ctx)
			default:
				return a.query(ctx, args[0], past, every)
			}
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "the values of the past so long, not just the present")
	cmd.Flags().StringVar(&step, "step", "", "from one value to the next (default a hundredth of --since)")
	return cmd
}

// pastOf reads over what time and in what steps a query is evaluated; 0: now.
func pastOf(since, step string) (past, every time.Duration, err error) {
	for text, d := range map[*string]*time.Duration{&since: &past, &step: &every} {
		if *text == "" {
			continue
		}
		v, err := model.ParseDuration(*text)
		if err != nil || v <= 0 {
			return 0, 0, usagef("%q is not a duration like 1h or 2d", *text)
		}
		*d = v.D()
	}
	if past == 0 && every != 0 {
		return 0, 0, usagef("--step needs --since")
	}
	return past, every, nil
}

// query prints what a query comes to.
func (a *app) query(ctx context.Context, query string, since, step time.Duration) error {
	var over *api.MetricsRange
	if since > 0 {
		now := a.Now()
		over = &api.MetricsRange{
			Start: now.Add(-since).UTC().Format(time.RFC3339), End: now.UTC().Format(time.RFC3339),
			Step: strconv.FormatFloat(cmp.Or(step, max(time.Second, since/100)).Seconds(), 'f', 3, 64),
		}
	}
	answer, err := a.api().Metrics(ctx, query, over)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(answer)
	}
	if answer.Type != "vector" && answer.Type != "matrix" {
		var p api.MetricPoint
		if err := json.Unmarshal(answer.Result, &p); err != nil {
			return model.Errorf(model.Internal, "cannot read the daemon's answer: %w", err)
		}
		a.printf("%s\n", printable(p.Value))
		return nil
	}
	var series []api.Series
	if err := json.Unmarshal(answer.Result, &series); err != nil {
		return model.Errorf(model.Internal, "cannot read the daemon's answer: %w", err)
	}
	if len(series) == 0 {
		a.progressf("nothing matches")
	}
	for _, s := range series {
		if answer.Type == "vector" {
			a.printf("%s  %s\n", s.Value.Value, printable(seriesName(s.Metric)))
			continue
		}
		a.printf("%s\n", printable(seriesName(s.Metric)))
		for _, p := range s.Values {
			a.printf("  %s  %s\n", stamp(time.UnixMilli(int64(p.Time*1000))), p.Value)
		}
	}
	return nil
}

// seriesName writes labels as PromQL does; of a digest its beginning.
func seriesName(metric map[string]string) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(metric)) {
		value := metric[name]
		if name == "__name__" {
			continue
		}
		if name == "image" {
			value = model.Digest(value).Short()
		}
		pairs = append(pairs, name+"="+strconv.Quote(value))
	}
	if len(pairs) == 0 && metric["__name__"] != "" {
		return metric["__name__"]
	}
	return metric["__name__"] + "{" + strings.Join(pairs, ", ") + "}"
}

// serverMetrics is what a server uses and answers, over the last minute.
type serverMetrics struct {
	Server   model.ServerID `json:"server"`
	Service  string         `json:"service"`
	Release  int            `json:"release"`
	CPU      *float64       `json:"cpu"`                  // processors
	Memory   *float64       `json:"memory_bytes"`         //
	Limit    *float64       `json:"memory_limit_bytes"`   // null: none
	Requests *float64       `json:"requests_per_second"`  //
	Failed   *float64       `json:"failed_per_second"`    //
	P50      *float64       `json:"p50_seconds"`          // half of the requests took at most so long
	P95      *float64       `json:"p95_seconds"`          //
	Received *float64       `json:"received_per_second"`  // bytes over its link
	Sent     *float64       `json:"sent_per_second"`      //
	Read     *float64       `json:"disk_read_per_second"` // bytes
	Written  *float64       `json:"disk_written_per_second"`
}

// serverMetrics prints a line for each server.
func (a *app) serverMetrics(ctx context.Context) error {
	servers, err := a.measured(ctx)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(struct {
			Servers []*serverMetrics `json:"servers"`
		}{servers})
	}
	if len(servers) == 0 {
		a.printf("nothing is measured: no server runs, or the daemon has just started\n")
		return nil
	}
	a.table("", "SERVER\tRELEASE\tCPU\tMEMORY\tREQUESTS/S\tFAILED/S\tP50\tP95\tRECEIVED/S\tSENT/S", func(w io.Writer) {
		for _, s := range servers {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Server, s.Release, figure(s.CPU, "%.2f"), size(s.Memory),
				figure(s.Requests, "%.1f"), figure(s.Failed, "%.2f"), latency(s.P50), latency(s.P95), size(s.Received), size(s.Sent))
		}
	})
	return nil
}

// measured asks for each figure of all servers.
func (a *app) measured(ctx context.Context) ([]*serverMetrics, error) {
	running, err := a.api().Vector(ctx, "kiln_server_info")
	if err != nil {
		return nil, err
	}
	byID := map[string]*serverMetrics{}
	for _, s := range running {
		release, _ := strconv.Atoi(s.Metric["release"]) // the daemon wrote it
		id := s.Metric["server"]
		byID[id] = &serverMetrics{Server: model.ServerID(id), Service: s.Metric["service"], Release: release}
	}
	const bucket = "sum by (server, le) (rate(kiln_request_duration_seconds_bucket[1m])))"
	for query, field := range map[string]func(*serverMetrics) **float64{
		"sum by (server) (rate(kiln_server_cpu_seconds_total[1m]))":            func(s *serverMetrics) **float64 { return &s.CPU },
		"kiln_server_memory_bytes":                                             func(s *serverMetrics) **float64 { return &s.Memory },
		"kiln_server_memory_limit_bytes":                                       func(s *serverMetrics) **float64 { return &s.Limit },
		"sum by (server) (rate(kiln_requests_total[1m]))":                      func(s *serverMetrics) **float64 { return &s.Requests },
		"sum by (server) (rate(kiln_requests_failed_total[1m]))":               func(s *serverMetrics) **float64 { return &s.Failed },
		"histogram_quantile(0.5, " + bucket:                                    func(s *serverMetrics) **float64 { return &s.P50 },
		"histogram_quantile(0.95, " + bucket:                                   func(s *serverMetrics) **float64 { return &s.P95 },
		"sum by (server) (rate(kiln_server_network_received_bytes_total[1m]))": func(s *serverMetrics) **float64 { return &s.Received },
		"sum by (server) (rate(kiln_server_network_sent_bytes_total[1m]))":     func(s *serverMetrics) **float64 { return &s.Sent },
		"sum by (server) (rate(kiln_server_disk_read_bytes_total[1m]))":        func(s *serverMetrics) **float64 { return &s.Read },
		"sum by (server) (rate(kiln_server_disk_written_bytes_total[1m]))":     func(s *serverMetrics) **float64 { return &s.Written },
	} {
		series, err := a.api().Vector(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, x := range series {
			v, err := strconv.ParseFloat(x.Value.Value, 64)
			if s := byID[x.Metric["server"]]; s != nil && err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
				*field(s) = &v
			}
		}
	}
	return slices.SortedFunc(maps.Values(byID), func(x, y *serverMetrics) int { return cmp.Compare(x.Server, y.Server) }), nil
}

// figure writes a number, or that there is none.
func figure(v *float64, format string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

// size writes bytes with the unit that leaves few digits.
func size(v *float64) string {
	if v == nil {
		return "-"
	}
	n, units := *v, []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && i+1 < len(units) {
		n, i = n/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%.0fB", n)
	}
	return fmt.Sprintf("%.1f%s", n, units[i])
}

// latency writes seconds.
func latency(v *float64) string {
	if v == nil {
		return "-"
	}
	d := time.Duration(*v * float64(time.Second))
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}
