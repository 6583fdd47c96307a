package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"kiln/internal/model"
)

// change is a line "name: a → b", or nothing when they are equal.
func change[T comparable](lines []string, name string, a, b T) []string {
	if a == b {
		return lines
	}
	return append(lines, fmt.Sprintf("%s: %s → %s", name, shown(a), shown(b)))
}

func shown(v any) string {
	if s := fmt.Sprint(v); s != "" {
		return s
	}
	return "(none)"
}

func templateChanges(a, b model.Template) []string {
	var lines []string
	if a.Image != b.Image {
		lines = append(lines, "image: "+a.Image.Short()+" → "+b.Image.Short())
	}
	lines = change(lines, "entrypoint", strings.Join(a.Entrypoint, " "), strings.Join(b.Entrypoint, " "))
	lines = change(lines, "command", strings.Join(a.Command, " "), strings.Join(b.Command, " "))
	lines = change(lines, "user", a.User, b.User)
	for _, key := range slices.Sorted(maps.Keys(merged(a.Env, b.Env))) {
		lines = change(lines, "env "+key, a.Env[key], b.Env[key])
	}
	lines = change(lines, "port", a.Port, b.Port)
	lines = change(lines, "protocol", a.Protocol, b.Protocol)
	lines = change(lines, "connects", strings.Join(a.Connects, " "), strings.Join(b.Connects, " "))
	lines = change(lines, "proxy_protocol", proxyText(a.ProxyProtocol), proxyText(b.ProxyProtocol))
	lines = change(lines, "user_namespace", a.UserNamespace, b.UserNamespace)
	lines = change(lines, "resources", resourcesText(a.Resources), resourcesText(b.Resources))
	lines = change(lines, "ephemeral", ephemeralText(a.Ephemeral), ephemeralText(b.Ephemeral))
	lines = change(lines, "volumes", volumesText(a.Volumes), volumesText(b.Volumes))
	return append(lines, secretChanges(a, b)...)
}

func merged(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return all
}

func policyChanges(a, b model.Policy) []string {
	lines := change(nil, "servers", a.Servers, b.Servers)
	x, y := policyLines(a), policyLines(b)
	for i := range x {
		if x[i] != y[i] {
			lines = append(lines, x[i]+" → "+y[i])
		}
	}
	return change(lines, "policy", imagePolicyText(a.Image), imagePolicyText(b.Image))
}

// applies lists every setting of a release.
func applies(r *model.Release) []string {
	lines := []string{"image " + string(r.Template.Image), fmt.Sprintf("servers %d", r.Policy.Servers)}
	if r.Template.Port != 0 {
		lines = append(lines, fmt.Sprintf("port %d, protocol %s", r.Template.Port, r.Template.Protocol))
	}
	if len(r.Template.Connects) > 0 {
		lines = append(lines, "connects "+strings.Join(r.Template.Connects, " "))
	}
	if v := r.Template.ProxyProtocol; v != 0 {
		lines = append(lines, "proxy_protocol "+proxyText(v))
	}
	lines = append(lines, fmt.Sprintf("user_namespace %t", r.Template.UserNamespace), "resources "+resourcesText(r.Template.Resources))
	if e := ephemeralText(r.Template.Ephemeral); e != "" {
		lines = append(lines, "ephemeral "+e)
	}
	if v := volumesText(r.Template.Volumes); v != "" {
		lines = append(lines, "volumes "+v)
	}
	if v := secretsText(r.Template.Secrets); v != "" {
		lines = append(lines, "secrets "+v)
	}
	if v := configText(r.Template.Config); v != "" {
		lines = append(lines, "config "+v)
	}
	lines = append(lines, policyLines(r.Policy)...)
	if text := imagePolicyText(r.Policy.Image); text != "" {
		lines = append(lines, "policy "+text)
	}
	return lines
}

func proxyText(version int) string {
	if version == 0 {
		return ""
	}
	return fmt.Sprintf("v%d", version)
}
