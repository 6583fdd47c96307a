package spec

import (
	"strconv"
	"time"

	"kiln/internal/model"
)

// Default is what a key is when it is not declared.
type Default struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Meaning string `json:"meaning"`
}

// The defaults that are not zero values. Defaults lists them for people.
const (
	defaultContainerfile = "Containerfile"
	defaultServers       = 1
	defaultPIDs          = 4096
	defaultEphemeral     = 64 << 20
	defaultStopGrace     = model.Duration(10 * time.Second)
	defaultValidation    = model.Duration(10 * time.Second)
)

func defaultHealth(kind model.CheckKind) model.Health {
	h := model.Health{
		Kind:     kind,
		Interval: model.Duration(time.Second),
		Timeout:  model.Duration(time.Second),
		Passes:   2,
		Fails:    3,
		Grace:    model.Duration(30 * time.Second),
	}
	if kind == model.CheckHTTP {
		h.Path = "/healthz"
	}
	return h
}

func defaultDeploy(routed bool) model.Deploy {
	d := model.Deploy{
		Strategy: model.BlueGreen,
		Deadline: model.Duration(10 * time.Minute),
		Drain: model.Drain{
			Requests:   model.Duration(30 * time.Second),
			Streams:    model.Duration(2 * time.Minute),
			WebSockets: model.Duration(5 * time.Minute),
		},
	}
	if routed { // what has no route has nothing to switch back to
		d.KeepWarm = model.Duration(10 * time.Minute)
	}
	return d
}

// Defaults are the values of everything that need not be declared.
func Defaults() []Default {
	h, d := defaultHealth(model.CheckHTTP), defaultDeploy(true)
	return []Default{
		{"image.context", ".", "directory of the build context, from the declaration's directory"},
		{"image.containerfile", defaultContainerfile, "from the context; Dockerfile where there is no Containerfile"},
		{"servers", strconv.Itoa(defaultServers), "how many servers run"},
		{"protocol", string(model.HTTP), "what the port speaks"},
		{"stop_signal", "the image's, else SIGTERM", "what asks a server to end"},
		{"stop_grace", defaultStopGrace.String(), "from that signal to SIGKILL"},
		{"route.host", "any", "the host that requests are for"},
		{"route.path", "/", "the path below which requests are taken"},
		{"health", `"tcp" with a port, else "none"`, "how a server's fitness is watched without a health block"},
		{"health.path", h.Path, `for health "http"`},
		{"health.port", "the service's port", ""},
		{"health.interval", h.Interval.String(), "between two probes"},
		{"health.timeout", h.Timeout.String(), "of one probe"},
		{"health.passes", strconv.Itoa(h.Passes), "in a row, until healthy"},
		{"health.fails", strconv.Itoa(h.Fails), "in a row, until unhealthy"},
		{"health.grace", h.Grace.String(), "from the start until a server must be healthy"},
		{"validate.status", "any 2xx", `for validate "http"`},
		{"validate.timeout", defaultValidation.String(), "of one validation"},
		{"deploy.strategy", string(d.Strategy), ""},
		{"deploy.deadline", d.Deadline.String(), "from acceptance to the last acknowledged switch"},
		{"deploy.keep_warm", d.KeepWarm.String(), "how long the old servers stay ready to take over; without a route 0s"},
		{"deploy.max_unavailable", "0", "servers that may be away: a number or a percentage"},
		{"deploy.overlap", "false", "without a route: may old and new servers run at once"},
		{"deploy.drain.requests", d.Drain.Requests.String(), "how long requests may take to end"},
		{"deploy.drain.streams", d.Drain.Streams.String(), "likewise streams: gRPC, event streams, anything open longer than 30s"},
		{"deploy.drain.websockets", d.Drain.WebSockets.String(), "likewise websockets"},
		{"resources.memory", "unlimited", ""},
		{"resources.cpus", "unlimited", ""},
		{"resources.pids", strconv.Itoa(defaultPIDs), "processes and threads"},
		{"ephemeral.size", Size(defaultEphemeral), "of one writable place"},
	}
}
