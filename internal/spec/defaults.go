package spec

import (
	"strconv"
	"strings"
	"time"

	"kiln/internal/model"
)

// Default is what a key is when it is not declared.
type Default struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Meaning string `json:"meaning"`
	// Constant names where a limit that no key sets is written down.
	Constant string `json:"constant,omitempty"`
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

// What a strategy takes where nothing is declared.
const defaultHold = model.Duration(15 * time.Second)

func defaultSurge() model.Amount { return model.Amount{N: 25, Percent: true} }

func defaultSteps() []model.CanaryStep {
	return []model.CanaryStep{{Weight: 10, Hold: defaultHold}, {Weight: 50, Hold: defaultHold}}
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

// stepsText says what a canary's steps come to.
func stepsText(steps []model.CanaryStep) string {
	words := make([]string, len(steps))
	for i, s := range steps {
		words[i] = strconv.Itoa(s.Weight) + "% for " + s.Hold.String()
	}
	return strings.Join(words, ", then ")
}

// Defaults are the values of everything that need not be declared.
func Defaults() []Default {
	h, d := defaultHealth(model.CheckHTTP), defaultDeploy(true)
	return append([]Default{
		{"image.context", ".", "directory of the build context, from the declaration's directory", ""},
		{"image.containerfile", defaultContainerfile, "from the context; Dockerfile where there is no Containerfile", ""},
		{"image.source_date_epoch", "0", `what no time in the image is later than, in seconds since 1970, or "commit"`, ""},
		{"image.network", string(NetworkOpen), "what the build reaches", ""},
		{"servers", strconv.Itoa(defaultServers), "how many servers run", ""},
		{"protocol", string(model.HTTP), "what the port speaks", ""},
		{"proxy_protocol", "none", `for protocol "tcp": the PROXY header, "v1" or "v2", that every connection to a server begins with`, ""},
		{"connects", "none", "services that the servers reach by name", ""},
		{"user_namespace", "true", "root in a server is nobody on the host", ""},
		{"stop_signal", "the image's, else SIGTERM", "what asks a server to end", ""},
		{"stop_grace", defaultStopGrace.String(), "from that signal to SIGKILL", ""},
		{"route.host", "any", "the host that requests are for", ""},
		{"route.path", "/", "the path below which requests are taken", ""},
		{"route.redirect", "none", "where requests are sent with 308 instead", ""},
		{"route.proxy_protocol", "false", "whether clients' connections begin with a PROXY header", ""},
		{"route.tls", "none", "the listener speaks plain HTTP or TCP", ""},
		{"route.tls.acme.directory", DefaultACME, "who is asked for the certificate", ""},
		{"route.tls.acme.email", "none", "whom the authority may write to", ""},
		{"route.tls.acme.roots", "the system's", "further authorities by which the directory is trusted", ""},
		{"health", `"tcp" with a port, else "none"`, "how a server's fitness is watched without a health block", ""},
		{"health.path", h.Path, `for health "http"`, ""},
		{"health.port", "the service's port", "", ""},
		{"health.interval", h.Interval.String(), "between two probes", ""},
		{"health.timeout", h.Timeout.String(), "of one probe", ""},
		{"health.passes", strconv.Itoa(h.Passes), "in a row, until healthy", ""},
		{"health.fails", strconv.Itoa(h.Fails), "in a row, until unhealthy", ""},
		{"health.grace", h.Grace.String(), "from the start until a server must be healthy", ""},
		{"validate.status", "any 2xx", `for validate "http"`, ""},
		{"validate.timeout", defaultValidation.String(), "of one validation", ""},
		{"deploy.strategy", string(d.Strategy), "", ""},
		{"deploy.deadline", d.Deadline.String(), "from acceptance to the last acknowledged switch", ""},
		{"deploy.keep_warm", d.KeepWarm.String(), "how long the old servers stay ready to take over; without a route 0s", ""},
		{"deploy.max_unavailable", "0", "servers that may be away: a number or a percentage (rounded down)", ""},
		{"deploy.max_surge", defaultSurge().String(), `for strategy "rolling": servers that may run beyond the count, a number or a percentage (rounded up)`, ""},
		{"deploy.canary.step", stepsText(defaultSteps()), `for strategy "canary": the shares of the requests; after the last everything`, ""},
		{"deploy.canary.step.hold", defaultHold.String(), "from the step's acknowledgement to the next one", ""},
		{"deploy.canary.cookie", "none", "keeps a visitor on one side", ""},
		{"deploy.canary.header", "none", "asks for a side: always the new one, or never", ""},
		{"deploy.overlap", "false", "without a route: may old and new servers run at once", ""},
		{"deploy.drain.requests", d.Drain.Requests.String(), "how long requests may take to end", ""},
		{"deploy.drain.streams", d.Drain.Streams.String(), "likewise streams: gRPC, event streams, anything open longer than 30s", ""},
		{"deploy.drain.websockets", d.Drain.WebSockets.String(), "likewise websockets", ""},
		{"resources.memory", "unlimited", "", ""},
		{"resources.cpus", "unlimited", "", ""},
		{"resources.pids", strconv.Itoa(defaultPIDs), "processes and threads", ""},
		{"ephemeral.size", Size(defaultEphemeral), "of one writable place", ""},
		{"volume.access", string(model.SingleWriter), "how many servers may have it at a time: one, or all of the service", ""},
		{"volume.size", "unlimited", "bytes that it may hold", ""},
	}, upkeepDefaults()...)
}

func upkeepDefaults() []Default {
	drift, keep := model.DriftPolicy{}.WithDefaults(), model.RetentionPolicy{}.WithDefaults()
	return []Default{
		{"drift.response", string(drift.Response), "what is done about a server that is not its template any more", ""},
		{"drift.interval", drift.Interval.String(), "how often is looked for what no event tells", ""},
		{"lifetime", "none", "servers may live for ever", ""},
		{"lifetime.jitter", strconv.Itoa(defaultJitter) + "%", "of max_age, over which servers are spread out", ""},
		{"chaos", "none", "nothing is disturbed", ""},
		{"chaos.hours", "all day", "when experiments begin", ""},
		{"chaos.days", "every day", "on which the hours begin", ""},
		{"chaos.time_zone", "UTC", "of hours and days", ""},
		{"chaos.kinds", string(model.ChaosKill), "ways to disturb a server", ""},
		{"chaos.lasts", model.DefaultChaosLasts.String(), "at most, of disturbances that last", ""},
		{"retention.releases", strconv.Itoa(keep.Releases), "how many of the last ones can be rolled back to, whatever their age", ""},
		{"retention.for", keep.For.String(), "how long since it left service any can be, if that is longer", ""},
		{"shell", string(model.ShellAllow), "may shells and hotfixes be opened in its servers", ""},
		{"park", model.DefaultPark.String(), "how long a server that failed to become healthy is kept for inspection", ""},
	}
}
