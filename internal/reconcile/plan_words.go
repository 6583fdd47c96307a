package reconcile

import (
	"cmp"
	"fmt"
	"strings"

	"kiln/internal/model"
)

// count says how many there are of something.
func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// policyLines says each part of a policy but the number of servers in a line
// of its own, always the same parts in the same order.
func policyLines(p model.Policy) []string {
	d := p.Deploy
	return []string{
		"route " + routesText(p.Routes),
		"health " + healthText(p.Health),
		"validate " + validationsText(p.Validations),
		fmt.Sprintf("deploy %s%s, deadline %s, keep_warm %s, max_unavailable %s, overlap %t", d.Strategy, strategyText(d), d.Deadline, d.KeepWarm, d.MaxUnavailable, d.Overlap),
		fmt.Sprintf("drain requests %s, streams %s, websockets %s", d.Drain.Requests, d.Drain.Streams, d.Drain.WebSockets),
		fmt.Sprintf("stop signal %s, grace %s", cmp.Or(p.StopSignal, "of the image"), p.StopGrace),
		driftText(p.Drift),
		lifetimeText(p.Lifetime),
		chaosText(p.Chaos),
		retentionText(p.Retention),
		"shell " + string(cmp.Or(p.Shell, model.ShellAllow)),
		parkText(p.Upkeep),
	}
}

// strategyText is what only one strategy has.
func strategyText(d model.Deploy) string {
	switch d.Strategy {
	case model.Rolling:
		return fmt.Sprintf(", max_surge %s", d.MaxSurge)
	case model.Canary:
		var steps []string
		for _, s := range d.Canary.Steps {
			steps = append(steps, fmt.Sprintf("%d%% for %s", s.Weight, s.Hold))
		}
		text := " (" + strings.Join(steps, ", ")
		if d.Canary.Cookie != "" {
			text += ", cookie " + d.Canary.Cookie
		}
		if d.Canary.Header != "" {
			text += ", header " + d.Canary.Header
		}
		return text + ")"
	default:
		return ""
	}
}

func routesText(routes []model.Route) string {
	var words []string
	for _, r := range routes {
		words = append(words, routeText(r)+routeMeans(r))
	}
	return cmp.Or(strings.Join(words, ", "), "none")
}

// routeMeans says what a route does besides asking servers in plain HTTP.
func routeMeans(r model.Route) string {
	var words []string
	switch {
	case r.TLS.ACME != (model.ACME{}):
		words = append(words, "tls by "+cmp.Or(r.TLS.ACME.Directory, "ACME"))
	case r.TLS.Enabled():
		words = append(words, "tls "+r.TLS.Cert)
	}
	if r.Redirect != "" {
		words = append(words, "redirects to "+r.Redirect)
	}
	if r.ProxyProtocol {
		words = append(words, "proxy_protocol")
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

func healthText(h model.Health) string {
	if h.Kind == model.CheckNone || h.Kind == "" {
		return fmt.Sprintf("none: the process runs, for %s", model.Duration(h.Interval.D()*timesOf(h.Passes)))
	}
	asks := cmp.Or(h.Path, strings.Join(h.Command, " "))
	port := ""
	if h.Port != 0 {
		port = fmt.Sprintf(" on port %d", h.Port)
	}
	return fmt.Sprintf("%s %s%s every %s, timeout %s, %d passes, %d fails, grace %s",
		h.Kind, cmp.Or(asks, "connect"), port, h.Interval, h.Timeout, h.Passes, h.Fails, h.Grace)
}

func validationsText(list []model.Validation) string {
	var words []string
	for _, v := range list {
		words = append(words, fmt.Sprintf("%q (%s %s, timeout %s)", v.Name, v.Kind, cmp.Or(v.Path, strings.Join(v.Command, " ")), v.Timeout))
	}
	return cmp.Or(strings.Join(words, ", "), "none")
}

func resourcesText(r model.Resources) string {
	var words []string
	if r.Memory != 0 {
		words = append(words, "memory "+bytesText(r.Memory))
	}
	if r.CPU != 0 {
		words = append(words, fmt.Sprintf("cpus %g", float64(r.CPU)/1000))
	}
	if r.PIDs != 0 {
		words = append(words, fmt.Sprintf("pids %d", r.PIDs))
	}
	return cmp.Or(strings.Join(words, ", "), "unbounded")
}

func ephemeralText(list []model.Ephemeral) string {
	var words []string
	for _, e := range list {
		words = append(words, e.Path+" "+bytesText(e.Size))
	}
	return strings.Join(words, ", ")
}
