package reconcile

import (
	stdcmp "cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/model"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files of this package")

// TestScripts runs the scenario scripts. A line that begins with "> " is a
// command; what follows it is what kiln wrote down.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	w := newWorld()
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		case strings.HasPrefix(line, "> "):
			w.out.Reset()
			if err := w.command(strings.Fields(line[2:])); err != nil {
				fmt.Fprintf(&w.out, "refused (%s): %v\n", model.CodeOf(err), err)
				if hint := model.HintOf(err); hint != "" {
					fmt.Fprintf(&w.out, "hint: %s\n", hint)
				}
			}
			if out.Len() > 0 && !strings.HasSuffix(out.String(), "\n#") && !lastIsComment(out.String()) {
				out.WriteString("\n")
			}
			out.WriteString(line + "\n" + w.out.String())
		}
	}
	return out.String()
}

func lastIsComment(s string) bool {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return strings.HasPrefix(lines[len(lines)-1], "#")
}

// command carries out one line of a script.
func (w *world) command(words []string) error {
	args := map[string]string{}
	var plain []string
	for _, word := range words[1:] {
		if k, v, ok := strings.Cut(word, "="); ok {
			args[k] = v
		} else {
			plain = append(plain, word)
		}
	}
	switch words[0] {
	case "deploy", "rollback", "scale", "abort", "destroy", "plan", "pause", "resume", "finish":
		return w.order(words[0], plain, args)
	case "recycle", "hotfix", "shell", "extend", "leave", "drift", "fleet", "clock", "reject", "unreject":
		return w.upkeep(words[0], plain, args)
	case "run":
		w.run()
	case "backup":
		w.saved = clone(w.s)
	case "restore":
		w.restore()
	case "wait":
		d, err := time.ParseDuration(plain[0])
		if err != nil {
			return err
		}
		w.wait(d)
	case "chaos", "calm":
		return w.experiment(words[0], plain[0], args)
	default:
		return w.happen(words[0], plain, args)
	}
	return nil
}

func (w *world) order(verb string, plain []string, args map[string]string) error {
	var events []model.Payload
	var result DeployResult
	var err error
	service := plain[0]
	switch verb {
	case "deploy":
		events, result, err = Deploy(w.s, w.request(service, args), w.now)
	case "plan":
		fmt.Fprint(&w.out, PlanDeploy(w.s, w.observe().Snapshot, w.request(service, args), w.now))
		return nil
	case "rollback":
		to, _ := strconv.Atoi(args["to"])
		events, result, err = Rollback(w.s, RollbackRequest{Service: service, To: to, Actor: "ann", Mode: DeployMode(args["mode"])}, w.now)
	case "scale":
		n, _ := strconv.Atoi(args["servers"])
		events, result, err = Scale(w.s, ScaleRequest{Service: service, Servers: n, Actor: "ann", Mode: DeployMode(args["mode"])}, w.now)
	case "abort":
		events, err = Abort(w.s, AbortRequest{Service: service, Deployment: w.waiting(service, args["waiting"]), Actor: "ann", Reason: args["reason"]}, w.now)
	case "pause", "resume", "finish":
		events, err = w.stages(verb, service, args)
	case "destroy":
		events, err = DestroyService(w.s, service)
	}
	if err != nil {
		return err
	}
	if result.Verdict == model.Unchanged {
		fmt.Fprintf(&w.out, "unchanged: release %d\n", result.Release)
	}
	w.append("ann", events...)
	if args["wait"] != "no" {
		w.wait(2 * time.Second)
	}
	return nil
}

// waiting returns the id of the n-th deployment that waits; "": of none.
func (w *world) waiting(service, n string) model.DeploymentID {
	i, err := strconv.Atoi(n)
	if svc := w.s.Services[service]; err == nil && svc != nil && i < len(svc.Queue) {
		return svc.Queue[i].ID
	}
	return ""
}

func (w *world) stages(verb, service string, args map[string]string) ([]model.Payload, error) {
	req := StageRequest{Service: service, Actor: "ann", Reason: args["reason"]}
	switch verb {
	case "pause":
		d, _ := time.ParseDuration(args["for"])
		req.For = model.Duration(d)
		return Pause(w.s, req, w.now)
	case "resume":
		return Resume(w.s, req, w.now)
	default:
		return Finish(w.s, req, w.now)
	}
}

// canarySteps reads steps such as "10/15s,50/15s".
func canarySteps(text string) model.CanaryPolicy {
	var c model.CanaryPolicy
	for step := range strings.SplitSeq(text, ",") {
		weight, hold, _ := strings.Cut(step, "/")
		n, _ := strconv.Atoi(weight)
		d, _ := time.ParseDuration(hold)
		c.Steps = append(c.Steps, model.CanaryStep{Weight: n, Hold: model.Duration(d)})
	}
	return c
}

// request builds a deploy request from a script's words: image=NAME names the
// image and, after a dash, what it does ("2-sick").
func (w *world) request(service string, args map[string]string) DeployRequest {
	number := func(key string, otherwise int) int {
		if n, err := strconv.Atoi(args[key]); err == nil {
			return n
		}
		return otherwise
	}
	span := func(key, otherwise string) model.Duration {
		text := otherwise
		if args[key] != "" {
			text = args[key]
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(err)
		}
		return model.Duration(d)
	}
	version, behaviour, _ := strings.Cut(args["image"], "-")
	digest := model.Digest("sha256:" + strings.Repeat(version, 64)[:64])
	w.behaves[digest] = behaviour
	req := DeployRequest{
		Service: service, Actor: "ann", Author: "ann",
		Template: model.Template{Service: service, Image: digest, Port: 8080, Protocol: model.HTTP, Resources: model.Resources{Memory: int64(number("memory", 0)) << 20}},
		Policy: model.Policy{
			Servers:   number("servers", 2),
			Routes:    []model.Route{{Listen: ":80", Host: service + ".example.com"}},
			Health:    model.Health{Kind: model.CheckHTTP, Path: "/healthz", Interval: span("interval", "1s"), Timeout: span("timeout", "1s"), Passes: 2, Fails: 3, Grace: span("grace", "30s")},
			StopGrace: span("stop_grace", "10s"),
			Deploy: model.Deploy{
				Strategy: model.BlueGreen, Deadline: span("deadline", "10m"), KeepWarm: span("keep_warm", "10m"),
				Overlap: args["overlap"] == "true",
				Drain:   model.Drain{Requests: span("drain", "30s"), Streams: span("drain", "2m"), WebSockets: span("drain", "5m")},
			},
		},
	}
	if args["park"] != "" {
		req.Policy.Park = span("park", "")
	}
	if args["strategy"] != "" {
		req.Policy.Deploy.Strategy = model.Strategy(args["strategy"])
		req.Policy.Deploy.MaxSurge, _ = model.ParseAmount(stdcmp.Or(args["surge"], "25%"))
		req.Policy.Deploy.Canary = canarySteps(stdcmp.Or(args["steps"], "10/15s,50/15s"))
	}
	req.Policy.Deploy.MaxUnavailable, _ = model.ParseAmount(stdcmp.Or(args["unavailable"], "0"))
	req.Mode = DeployMode(args["mode"])
	if args["route"] == "name" { // a port that other services reach by its name
		req.Policy.Routes = nil
	}
	if args["volume"] != "" { // volume=single-writer
		req.Template.Volumes = []model.Mount{{Volume: "data", Path: "/data", Access: model.VolumeAccess(args["volume"])}}
	}
	req.Policy.Lifetime = model.Lifetime{MaxAge: span("max_age", "0s"), Jitter: number("jitter", 0)}
	req.Policy.Drift.Response, req.Policy.Shell, req.Policy.Park = model.DriftResponse(args["drift"]), model.ShellRule(args["shell"]), span("park", "0s")
	if args["connects"] != "" {
		req.Template.Connects = []string{args["connects"]}
	}
	if args["listen"] != "" {
		req.Policy.Routes[0].Listen = args["listen"]
	}
	if args["tls"] != "" {
		req.Policy.Routes[0].TLS.Cert = args["tls"]
	}
	if args["host"] != "" {
		req.Policy.Routes[0].Host = args["host"]
	}
	if args["protocol"] != "" {
		req.Template.Protocol = model.Protocol(args["protocol"])
	}
	if args["route"] == "none" {
		req.Policy.Routes, req.Template.Port, req.Template.Protocol = nil, 0, ""
		req.Policy.Health.Kind = model.CheckNone
	}
	req.Policy.Chaos = chaosPolicy(args)
	if args["validate"] != "" {
		req.Policy.Validations = []model.Validation{{Name: args["validate"], Kind: model.CheckHTTP, Path: "/", Timeout: span("validate_timeout", "30s")}}
	}
	if capacity := w.observe().Snapshot; capacity != nil {
		req.Capacity = &capacity.Capacity
	}
	return req
}

// happen makes something befall the world.
func (w *world) happen(what string, plain []string, args map[string]string) error {
	switch what {
	case "kill": // kill the n-th oldest living server of a service: kill shop 0
		id := w.nth(plain)
		w.exit(id, model.Exit{Known: true, Code: 137, Signal: "SIGKILL"})
	case "vanish":
		delete(w.servers, w.nth(plain))
	case "health": // health shop 0 unhealthy
		w.health[w.nth(plain)] = model.HealthObserved{Status: model.HealthStatus(plain[2]), At: w.now.Elapsed, Detail: "told " + plain[2]}
	case "flight": // flight shop 0 requests=3
		n, _ := strconv.Atoi(args["requests"])
		id := w.nth(plain)
		r := w.routers[0]
		if cut, _ := strconv.Atoi(args["cut"]); cut > 0 {
			r.cut[id] += uint64(cut)
		}
		if n == 0 || r.sends(id) {
			r.flight[id] = n
		}
	case "router": // router add r2 · router silent r1 · router back r1 · router gone r1 · router refuses r1
		return w.router(plain)
	case "daemon": // the daemon is killed, and another starts
		w.restart(w.now.BootID)
	case "reboot":
		for id := range w.servers {
			w.exit(id, model.Exit{})
		}
		w.routers[0].flight = map[model.ServerID]int{}
		w.restart(w.now.BootID + "+")
	case "orphan":
		id := model.ServerID(plain[0])
		w.servers[id] = &model.Observed{ID: id, Epoch: 1, State: model.Running}
	case "snapshots": // snapshots impossible · snapshots possible
		w.uncopied = plain[0] == "impossible"
	case "probes":
		w.noProbes, w.stalled = plain[0] == "off", plain[0] == "stall"
	case "engine":
		w.blind = plain[0] == "silent"
	case "image": // image 2 behaves NAME
		digest := model.Digest("sha256:" + strings.Repeat(plain[0], 64)[:64])
		w.behaves[digest] = plain[1]
		if plain[1] == "missing" {
			delete(w.images, digest)
		}
	case "servers":
		w.list()
	case "table":
		for _, svc := range w.routers[0].table.Services {
			fmt.Fprintf(&w.out, "%s (release %d):", svc.Name, svc.Release)
			for _, b := range svc.Backends {
				fmt.Fprintf(&w.out, " %s", b.Server)
				if b.Release != svc.Release {
					fmt.Fprintf(&w.out, " (%d)", b.Release)
				}
			}
			if svc.Split != nil {
				fmt.Fprintf(&w.out, "; release %d gets %d %%", svc.Split.Release, svc.Split.Weight)
			}
			fmt.Fprintln(&w.out)
		}
	default:
		return fmt.Errorf("no command %q", what)
	}
	return nil
}

func (w *world) router(plain []string) error {
	if plain[0] == "add" {
		w.addRouter(plain[1])
		return nil
	}
	for i, r := range w.routers {
		if r.id != plain[1] {
			continue
		}
		switch plain[0] {
		case "silent":
			r.silent = true
		case "back":
			r.silent, r.refuse = false, ""
		case "refuses":
			r.refuse = "cannot listen on :80: address already in use"
		case "gone":
			w.routers = slices.Delete(w.routers, i, i+1)
		default:
			return fmt.Errorf("no command router %s", plain[0])
		}
		return nil
	}
	return fmt.Errorf("no router %s", plain[1])
}

func (w *world) nth(plain []string) model.ServerID {
	n, err := strconv.Atoi(plain[1])
	if err != nil {
		return model.ServerID(plain[1])
	}
	var alive []*model.Server
	for _, srv := range serversOf(w.s.Services[plain[0]]) {
		if o := w.servers[srv.ID]; o != nil && o.State == model.Running {
			alive = append(alive, srv)
		}
	}
	if n >= len(alive) {
		panic(fmt.Sprintf("%s has %d living servers", plain[0], len(alive)))
	}
	return alive[n].ID
}

func (w *world) list() {
	for _, name := range sortedNames(w.s) {
		svc := w.s.Services[name]
		fmt.Fprintf(&w.out, "%s: release %d in service\n", name, svc.InService)
		for _, srv := range serversOf(svc) {
			fmt.Fprintf(&w.out, "  %s release %d %s %s\n", srv.ID, srv.Release, srv.Phase, srv.Health)
		}
	}
}
