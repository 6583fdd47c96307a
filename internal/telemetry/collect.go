package telemetry

import (
	"context"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Traffic asks every router what it has counted.
type Traffic interface {
	Traffic(ctx context.Context) ([]model.RouterTraffic, error)
}

// State shows what the journal has folded to. f must neither keep nor change it.
type State interface {
	View(f func(s *model.State, snapshot *model.Snapshot))
}

// collector makes samples of what it sees. It is used by one goroutine at a time.
type collector struct {
	meter   engine.Meter
	traffic Traffic
	state   State
	version string
	since   time.Time
	routers routers
	ended   ended
	took    time.Duration // of the last collection
}

// collect reads everything. What cannot be read is left out, and returned as an
// error beside what could.
func (c *collector) collect(ctx context.Context) (*families, []error) {
	began := time.Now()
	var errs []error
	usage, err := c.meter.Usage(ctx)
	if err != nil {
		errs = append(errs, err)
	}
	traffic, err := c.traffic.Traffic(ctx)
	if err != nil {
		errs = append(errs, err)
	}
	counters := c.routers.sum(traffic, err == nil)
	fs := newFamilies(table())
	c.state.View(func(s *model.State, _ *model.Snapshot) {
		for _, name := range slices.Sorted(maps.Keys(s.Services)) {
			svc := s.Services[name]
			c.ended.follow(svc)
			serviceSamples(fs, svc)
			for _, id := range slices.Sorted(maps.Keys(svc.Servers)) {
				srv := svc.Servers[id]
				labels := labelsOf(svc, srv)
				serverSamples(fs, srv, labels)
				if u, measured := usage[id]; measured {
					usageSamples(fs, string(id), u, labels)
				}
				for _, t := range counters.of(id) {
					// A release that changes nothing of the servers has the same ones.
					trafficSamples(fs, t, withRelease(labels, t.Release))
				}
			}
		}
		instanceSamples(fs, s)
	})
	c.ended.samples(fs)
	fs.add("kiln_build_info", "", 1, "version", c.version)
	if err == nil {
		fs.add("kiln_router_no_route_total", "", float64(counters.rest.NoRoute))
		fs.add("kiln_router_no_server_total", "", float64(counters.rest.NoServer))
		fs.add("kiln_router_retried_total", "", float64(counters.rest.Retried))
	}
	c.ownSamples(fs)
	c.took = time.Since(began)
	fs.add("kiln_scrape_duration_seconds", "", c.took.Seconds())
	return fs, errs
}

// labelsOf are the labels of everything that is about one server.
func labelsOf(svc *model.Service, srv *model.Server) []string {
	labels := []string{"service", svc.Name, "release", strconv.Itoa(srv.Release), "server", string(srv.ID)}
	if r := svc.Release(srv.Release); r != nil {
		labels = append(labels, "image", string(r.Template.Image), "commit", r.Provenance.Commit)
	}
	return labels
}

// withRelease is labels with another release.
func withRelease(labels []string, release int) []string {
	labels = slices.Clone(labels)
	labels[3] = strconv.Itoa(release)
	return labels
}

func serverSamples(fs *families, srv *model.Server, labels []string) {
	id := string(srv.ID)
	fs.add("kiln_server_info", id, 1, append(slices.Clip(labels), "phase", string(srv.Phase), "address", srv.Address)...)
	if !srv.StartedAt.IsZero() {
		fs.add("kiln_server_start_time_seconds", id, float64(srv.StartedAt.UnixMilli())/1000, labels...)
	}
	if srv.Phase.Alive() {
		fs.add("kiln_server_healthy", id, one(srv.Health == model.Healthy), labels...)
	}
}

func usageSamples(fs *families, id string, u engine.Usage, labels []string) {
	for name, value := range map[string]float64{
		"kiln_server_cpu_seconds_total":            u.CPU.Seconds(),
		"kiln_server_cpu_throttled_seconds_total":  u.Throttled.Seconds(),
		"kiln_server_memory_bytes":                 float64(u.Memory),
		"kiln_server_oom_kills_total":              float64(u.OOMKills),
		"kiln_server_processes":                    float64(u.PIDs),
		"kiln_server_disk_read_bytes_total":        float64(u.ReadBytes),
		"kiln_server_disk_written_bytes_total":     float64(u.WrittenBytes),
		"kiln_server_network_received_bytes_total": float64(u.ReceivedBytes),
		"kiln_server_network_sent_bytes_total":     float64(u.SentBytes),
	} {
		fs.add(name, id, value, labels...)
	}
	if u.MemoryLimit > 0 {
		fs.add("kiln_server_memory_limit_bytes", id, float64(u.MemoryLimit), labels...)
	}
}

func trafficSamples(fs *families, t model.Traffic, labels []string) {
	id := string(t.Server)
	codes := [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}
	for class, n := range t.Status {
		fs.add("kiln_requests_total", id, float64(n), append(slices.Clip(labels), "code", codes[class])...)
	}
	fs.add("kiln_requests_failed_total", id, float64(t.Failed()), labels...)
	fs.add("kiln_request_received_bytes_total", id, float64(t.BytesIn), labels...)
	fs.add("kiln_request_sent_bytes_total", id, float64(t.BytesOut), labels...)
	if len(t.Buckets) > 0 {
		bounds := model.LatencyBounds()
		seconds := make([]float64, len(bounds))
		for i, b := range bounds {
			seconds[i] = b.Seconds()
		}
		fs.addHistogram("kiln_request_duration_seconds", id, seconds, t.Buckets, t.Millis/1000, labels)
	}
}

func serviceSamples(fs *families, svc *model.Service) {
	if svc.Destroyed && len(svc.Servers) == 0 {
		return
	}
	phases := map[model.ServerPhase]int{}
	healthy, drifted, tainted, condemned := 0, 0, 0, 0
	for _, srv := range svc.Servers {
		phases[srv.Phase]++
		healthy += int(one(srv.Phase == model.PhaseServing && srv.Health == model.Healthy))
		drifted += int(one(srv.Drifts()))
		tainted += int(one(srv.Taint != nil))
		condemned += int(one(srv.Condemned != nil))
	}
	for _, phase := range []model.ServerPhase{
		model.PhaseCreated, model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm,
		model.PhaseDraining, model.PhaseParked, model.PhaseStopping, model.PhaseEnded, model.PhaseRecorded,
	} {
		fs.add("kiln_servers", "", float64(phases[phase]), "service", svc.Name, "phase", string(phase))
	}
	if r := svc.Release(svc.InService); r != nil {
		fs.add("kiln_servers_wanted", "", float64(r.Policy.Servers), "service", svc.Name)
	}
	fs.add("kiln_healthy_servers", "", float64(healthy), "service", svc.Name)
	fs.add("kiln_drifted_servers", "", float64(drifted), "service", svc.Name)
	fs.add("kiln_tainted_servers", "", float64(tainted), "service", svc.Name)
	fs.add("kiln_condemned_servers", "", float64(condemned), "service", svc.Name)
	fs.add("kiln_release", "", float64(svc.InService), "service", svc.Name)
	fs.add("kiln_deployment_running", "", one(svc.Deployment != nil), "service", svc.Name)
}

func instanceSamples(fs *families, s *model.State) {
	fs.add("kiln_fleet_findings", "", float64(len(s.Fleet)))
	fs.add("kiln_journal_events_total", "", float64(s.Seq))
	if s.Disk != nil {
		fs.add("kiln_disk_free_bytes", "", float64(s.Disk.Free), "path", s.Disk.Path)
	}
}

// ownSamples are about the daemon itself.
func (c *collector) ownSamples(fs *families) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err == nil {
		fs.add("process_cpu_seconds_total", "", time.Duration(r.Utime.Nano()+r.Stime.Nano()).Seconds())
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if words := strings.Fields(string(b)); len(words) > 1 {
			if pages, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				fs.add("process_resident_memory_bytes", "", float64(pages*int64(os.Getpagesize())))
			}
		}
	}
	fs.add("process_start_time_seconds", "", float64(c.since.UnixMilli())/1000)
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
