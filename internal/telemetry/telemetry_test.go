package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"kiln/internal/model"
)

// TestText: what /metrics says is what Prometheus' own parser reads, every metric
// is declared before its samples, and all that is known of a server is on them.
func TestText(t *testing.T) {
	w := newWorld(t)
	w.server("shop-aaaaaa")
	w.traffic = []model.RouterTraffic{counted("r1", "shop-aaaaaa", 7)}
	w.state.Disk = &model.Disk{Path: `/weird "path"` + "\n\\", Free: 5}
	tl, _ := w.telemetry(t.TempDir())
	_, text := get(t, tl, "/metrics")
	parser := textparse.NewPromParser([]byte(text), labels.NewSymbolTable(), false)
	declared, samples := map[string]bool{}, map[string]float64{}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the parser refuses it: %v\n%s", err, text)
		}
		switch entry {
		case textparse.EntryType:
			name, _ := parser.Type()
			if declared[string(name)] {
				t.Errorf("%s is declared twice", name)
			}
			declared[string(name)] = true
		case textparse.EntrySeries:
			_, _, v := parser.Series()
			var ls labels.Labels
			parser.Labels(&ls)
			if _, twice := samples[ls.String()]; twice {
				t.Errorf("%s comes twice", ls)
			}
			samples[ls.String()] = v
			base := regexp.MustCompile("_(bucket|sum|count)$").ReplaceAllString(ls.Get("__name__"), "")
			if !declared[base] && !declared[ls.Get("__name__")] {
				t.Errorf("%s is not declared", ls)
			}
		default:
		}
	}
	own := `commit="c0ffee", image="` + string(image) + `", `
	for series, want := range map[string]float64{
		`{__name__="kiln_server_cpu_seconds_total", ` + own + `release="2", server="shop-aaaaaa", service="shop"}`:                    1,
		`{__name__="kiln_requests_total", code="2xx", ` + own + `release="2", server="shop-aaaaaa", service="shop"}`:                  7,
		`{__name__="kiln_request_duration_seconds_bucket", ` + own + `le="0.001", release="2", server="shop-aaaaaa", service="shop"}`: 7,
		`{__name__="kiln_request_duration_seconds_bucket", ` + own + `le="+Inf", release="2", server="shop-aaaaaa", service="shop"}`:  7,
		`{__name__="kiln_request_duration_seconds_count", ` + own + `release="2", server="shop-aaaaaa", service="shop"}`:              7,
		`{__name__="kiln_servers", phase="serving", service="shop"}`:                                                                  1,
		`{__name__="kiln_servers_wanted", service="shop"}`:                                                                            2,
		`{__name__="kiln_disk_free_bytes", path="/weird \"path\"\n\\"}`:                                                               5,
	} {
		if got, there := samples[sortedLabels(t, series)]; !there || got != want {
			t.Errorf("%s is %v (%v), want %v", series, got, there, want)
		}
	}
}

// sortedLabels writes labels as labels.Labels does.
func sortedLabels(t *testing.T, text string) string {
	t.Helper()
	var pairs []string
	for _, m := range regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(text, -1) {
		pairs = append(pairs, m[1], strings.NewReplacer(`\"`, `"`, `\n`, "\n", `\\`, `\`).Replace(m[2]))
	}
	return labels.FromStrings(pairs...).String()
}

// TestDocumented: docs/metrics.md names every metric, and no other.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)`").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	for _, m := range table() {
		if !documented[m.name] {
			t.Errorf("docs/metrics.md does not describe %s", m.name)
		}
		delete(documented, m.name)
	}
	for name := range documented {
		t.Errorf("docs/metrics.md describes %s, which does not exist", name)
	}
}

// TestOutlives: what was measured of a server is there when it is gone, also
// for the next daemon, and what it counted in its first moments counts.
func TestOutlives(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.server("shop-aaaaaa")
	tl, st := w.telemetry(dir)
	tl.keep(t.Context(), st)
	for i := range 6 {
		w.pass(10 * time.Second)
		if i == 0 {
			w.server("shop-bbbbbb")
		}
		w.traffic = []model.RouterTraffic{counted("r1", "shop-bbbbbb", uint64(100+10*i))}
		tl.keep(t.Context(), st)
	}
	if got := w.value(tl, `max_over_time(kiln_requests_total{server="shop-bbbbbb",code="2xx"}[2m]) - min_over_time(kiln_requests_total{server="shop-bbbbbb",code="2xx"}[2m])`); !strings.HasSuffix(got, "150") {
		t.Errorf("the server had 150 requests in its only minute; kept are %s", got)
	}
	if got := w.value(tl, `histogram_quantile(0.5, sum by (le) (rate(kiln_request_duration_seconds_bucket[1m])))`); got != "0.0005" {
		t.Errorf("half of the requests took %s", got)
	}
	delete(w.state.Services["shop"].Servers, "shop-bbbbbb")
	delete(w.usage, "shop-bbbbbb")
	w.pass(10 * time.Second)
	tl.keep(t.Context(), st)
	if a, err := tl.Query(t.Context(), `kiln_server_memory_bytes{server="shop-bbbbbb"}`, w.now.Wall); err != nil || a.Result.String() != "" {
		t.Errorf("a server that is gone still has %v (%v)", a, err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}

	tl, st = w.telemetry(dir)
	w.pass(10 * time.Second)
	tl.keep(t.Context(), st)
	raw, err := tl.Hour(t.Context(), "shop-bbbbbb")
	var hour struct {
		ResultType string
		Result     []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	if err := errors.Join(err, json.Unmarshal(raw, &hour)); err != nil {
		t.Fatal(err)
	}
	points := 0
	for _, s := range hour.Result {
		if s.Metric["__name__"] == "kiln_server_memory_bytes" {
			points = len(s.Values)
		}
	}
	if hour.ResultType != "matrix" || points != 6 {
		t.Errorf("the hour of a dead server has %d samples of its memory, want 6: %s", points, raw)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
}

// TestHandOver: while a router hands over to another, the sums neither fall nor
// jump.
func TestHandOver(t *testing.T) {
	const id = "shop-aaaaaa"
	old, heir := counted("old", id, 100), counted("new", id, 5)
	leaving := old
	leaving.Leaving = true
	inherited := counted("new", id, 107)
	inherited.HeirOf = []string{"old"}
	var r routers
	for i, step := range []struct {
		seen []model.RouterTraffic
		want uint64
	}{
		{[]model.RouterTraffic{old}, 100},
		{[]model.RouterTraffic{leaving, heir}, 105},
		{[]model.RouterTraffic{heir}, 105}, // the old one has ended, and the heir has not taken its counts yet
		{[]model.RouterTraffic{inherited}, 107},
		{[]model.RouterTraffic{counted("third", id, 3)}, 3}, // after a kill the counts begin anew
	} {
		sums := r.sum(step.seen, true).of(id)
		if len(sums) != 1 || sums[0].Requests != step.want || sums[0].Buckets[0] != step.want {
			t.Errorf("step %d: the sums are %+v, want %d", i, sums, step.want)
		}
	}
	if sums := r.sum(nil, false).of(id); len(sums) != 0 {
		t.Errorf("of routers that did not answer there is %+v", sums)
	}
}

// TestEnded: what had ended before is not counted; what ends is counted once,
// also where the state forgets the oldest.
func TestEnded(t *testing.T) {
	svc := &model.Service{Name: "shop"}
	var e ended
	end := func(id model.DeploymentID, v model.Verdict) {
		svc.Deployments = append(svc.Deployments, &model.Deployment{ID: id, Verdict: v})
	}
	end("d-1", model.Succeeded)
	e.follow(svc)
	end("d-2", model.Succeeded)
	end("d-3", model.Failed)
	e.follow(svc)
	e.follow(svc)
	svc.Deployments = nil // more than the state keeps have ended since
	end("d-8", model.Failed)
	e.follow(svc)
	fs := newFamilies(table())
	e.samples(fs)
	text := string(fs.text())
	for _, want := range []string{
		`kiln_deployments_total{service="shop",verdict="failed"} 2`, `kiln_deployments_total{service="shop",verdict="succeeded"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing from\n%s", want, text)
		}
	}
}

// TestAnswers: the API answers as Prometheus does, and says what is wrong with a
// question.
func TestAnswers(t *testing.T) {
	w := newWorld(t)
	w.server("shop-aaaaaa")
	w.traffic = []model.RouterTraffic{counted("r1", "shop-aaaaaa", 7)}
	tl, st := w.telemetry(t.TempDir())
	defer st.close()
	tl.keep(t.Context(), st)
	w.pass(5 * time.Second)
	for _, c := range []struct{ target, want string }{
		{at("/api/v1/query", "query", "kiln_servers_wanted"), `"resultType":"vector","result":[{"metric":{"__name__":"kiln_servers_wanted","service":"shop"},"value":[1777636805,"2"]}]`},
		{at("/api/v1/query", "query", "nothing_at_all"), `"result":[]`},
		{at("/api/v1/query", "query", "1+1"), `"resultType":"scalar"`},
		{at("/api/v1/query_range", "query", "kiln_servers_wanted", "start", "1777636800", "end", "1777636810", "step", "5"), `"values":[[1777636800,"2"],[1777636805,"2"],[1777636810,"2"]]`},
		{at("/api/v1/labels", "match[]", "kiln_server_memory_bytes"), `["__name__","commit","image","release","server","service"]`},
		{at("/api/v1/label/server/values"), `["shop-aaaaaa"]`},
		{at("/api/v1/series", "match[]", `kiln_servers_wanted{service="shop"}`), `[{"__name__":"kiln_servers_wanted","service":"shop"}]`},
		{at("/api/v1/metadata"), `"kiln_servers":[{"type":"gauge"`},
	} {
		target, want := c.target, c.want
		if code, body := get(t, tl, target); code != 200 || !strings.Contains(body, want) || !strings.HasPrefix(body, `{"status":"success"`) {
			t.Errorf("%s answers %d %s\nwithout %s", target, code, body, want)
		}
	}
	for _, c := range []struct{ target, want string }{
		{at("/api/v1/query", "query", "sum("), "cannot understand the query"},
		{at("/api/v1/query", "query", "up", "time", "yesterday"), "seconds since 1970"},
		{at("/api/v1/query_range", "query", "up", "start", "0", "end", "1777636810", "step", "1s"), "more than 11000 points"},
		{at("/api/v1/query_range", "query", "up", "start", "1777636810", "end", "0"), "end is before"},
		{at("/api/v1/series"), "no match[]"},
		{at("/api/v1/labels", "match[]", "{"), "cannot understand the selector"},
	} {
		target, want := c.target, c.want
		if code, body := get(t, tl, target); code != 400 || !strings.Contains(body, want) || !strings.Contains(body, `"errorType":"bad_data"`) {
			t.Errorf("%s answers %d %s\nwithout %q", target, code, body, want)
		}
	}
}

// TestClockBack: after the wall clock was set back metrics go on, and while it is
// said to have jumped nothing is deleted for its age.
func TestClockBack(t *testing.T) {
	w := newWorld(t)
	w.server("shop-aaaaaa")
	tl, st := w.telemetry(t.TempDir())
	defer st.close()
	for _, jump := range []time.Duration{10 * time.Second, 24 * time.Hour, -24 * time.Hour, 10 * time.Second} {
		w.pass(jump)
		tl.keep(t.Context(), st)
		if got := w.value(tl, "kiln_servers_wanted"); got != "2" {
			t.Errorf("after %s there is %q", jump, got)
		}
	}
	if w.log.Len() > 0 {
		t.Errorf("it complains: %s", w.log.String())
	}
	if tl.clockJumped() {
		t.Error("no jump was written down")
	}
	w.state.ClockJumped = w.now.Elapsed
	tl.keep(t.Context(), st)
	if w.pass(59 * time.Minute); !tl.clockJumped() {
		t.Error("the jump is forgotten within the hour")
	}
	if w.pass(2 * time.Minute); tl.clockJumped() {
		t.Error("the jump is not forgotten")
	}
}

// TestDamaged: a database that cannot be opened is put aside, and metrics begin
// anew.
func TestDamaged(t *testing.T) {
	w, dir := newWorld(t), filepath.Join(t.TempDir(), "metrics")
	w.server("shop-aaaaaa")
	if err := os.WriteFile(dir, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	tl, st := w.telemetry(dir)
	defer st.close()
	tl.keep(t.Context(), st)
	if got := w.value(tl, "kiln_servers_wanted"); got != "2" || !strings.Contains(w.log.String(), "put aside") {
		t.Errorf("there is %q, and the log says %s", got, w.log.String())
	}
	if _, err := os.Stat(dir + ".damaged"); err != nil {
		t.Error(err)
	}
}

// TestUnreadable: what cannot be measured is left out and said once; the rest is
// kept.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	w.server("shop-aaaaaa")
	tl, st := w.telemetry(t.TempDir())
	defer st.close()
	w.err = model.Errorf(model.Unavailable, "the routers are silent")
	for range 3 {
		w.pass(10 * time.Second)
		tl.keep(t.Context(), st)
	}
	if n := strings.Count(w.log.String(), "the routers are silent"); n != 1 {
		t.Errorf("it is said %d times: %s", n, w.log.String())
	}
	if got := tl.Trouble(); got != "cannot keep all metrics: the routers are silent" {
		t.Errorf("the trouble is %q", got)
	}
	if w.err = nil; tl.Trouble() == "" {
		t.Error("the trouble is over before anything was kept again")
	}
	w.pass(10 * time.Second)
	if tl.keep(t.Context(), st); tl.Trouble() != "" {
		t.Errorf("the trouble stays: %s", tl.Trouble())
	}
	if got := w.value(tl, "kiln_servers_wanted"); got != "2" {
		t.Errorf("what could be had is %q", got)
	}
}

// TestNotOpen: before the database is open the present is told, and questions
// about the past are refused for now.
func TestNotOpen(t *testing.T) {
	w := newWorld(t)
	w.server("shop-aaaaaa")
	tl, st := w.telemetry(t.TempDir())
	tl.store.Store(nil)
	defer st.close()
	if code, body := get(t, tl, "/metrics"); code != 200 || !strings.Contains(body, "kiln_server_memory_bytes") {
		t.Errorf("/metrics answers %d %s", code, body)
	}
	if code, body := get(t, tl, at("/api/v1/query", "query", "up")); code != 503 || !strings.Contains(body, "not open") {
		t.Errorf("a query is answered %d %s", code, body)
	}
}

// TestRun: it collects by itself, and ends cleanly.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.server("shop-aaaaaa")
	tl := New(Config{
		Dir: filepath.Join(t.TempDir(), "metrics"), Meter: w, Traffic: w, State: w, Clock: w, Every: 5 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tl.Run(ctx) }()
	deadline := time.Now().Add(20 * time.Second)
	for {
		w.pass(10 * time.Second)
		a, err := tl.Query(t.Context(), "count_over_time(kiln_servers_wanted[1h]) >= 5", w.Now().Wall)
		if err == nil && a.Result.String() != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing was collected: %v %v", a, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := tl.Query(t.Context(), "up", w.Now().Wall); model.CodeOf(err) != model.Unavailable {
		t.Errorf("after the end a query is answered %v", err)
	}
}
