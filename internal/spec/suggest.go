package spec

import "fmt"

// didYouMean returns a hint that names the known word nearest to word, or "".
func didYouMean(word string, known []string) string {
	if k := nearest(word, known); k != "" {
		return fmt.Sprintf("did you mean %q?", k)
	}
	return ""
}

// nearest returns the known word that is at most a third of its length away
// from word, or "".
func nearest(word string, known []string) string {
	best, at := "", 1<<30
	for _, k := range known {
		if d := distance(word, k); d < at && d <= max(1, len(k)/3) {
			best, at = k, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours that make b from a (Damerau's, restricted).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 1 << 20
	}
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, old[j]+1, old[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}

// otherName maps what other tools call a key to what it is called here.
func otherName(key string) string {
	return map[string]string{
		"replicas": "servers", "count": "servers", "instances": "servers", "scale": "servers",
		"dockerfile": "containerfile", "file": "containerfile", "build": "image", "build_args": "args",
		"cmd": "command", "environment": "env", "ports": "port", "expose": "port",
		"healthcheck": "health", "health_check": "health", "check": "health", "validation": "validate",
		"cpu": "cpus", "mem": "memory", "tmpfs": "ephemeral", "limits": "resources",
		"update": "deploy", "rollout": "deploy", "signal": "stop_signal", "stop_timeout": "stop_grace",
		"prefix": "path", "hostname": "host", "domain": "host", "address": "listen",
		"volumes": "volume", "mount": "volume", "recycle": "lifetime", "max_lifetime": "lifetime", "timezone": "time_zone", "zone": "time_zone",
		"keep": "releases", "mode": "access", "quota": "size", "action": "response", "every": "interval", "duration": "lasts", "mean_time": "mean_between",
		"retries": "fails", "start_period": "grace", "args_command": "command", "name": "",
	}[key]
}

// notYet tells what a key of a later version is for.
func notYet(key string) string {
	return map[string]string{"schedule": "schedules"}[key]
}

// elsewhere tells how to write a key that was put into the wrong block.
func elsewhere(key string) string {
	return map[string]string{
		"tls": "route { tls { … } }", "redirect": "route { redirect = \"https\" }", "acme": "route { tls { acme { } } }",
		"cert": "route { tls { cert = … } }", "listen": "route { listen = … }",
		"strategy": "deploy { strategy = … }", "max_surge": "deploy { max_surge = … }", "max_unavailable": "deploy { max_unavailable = … }",
		"deadline": "deploy { deadline = … }", "keep_warm": "deploy { keep_warm = … }", "overlap": "deploy { overlap = … }",
		"drain": "deploy { drain { … } }", "canary": "deploy { canary { … } }", "step": "deploy { canary { step { … } } }",
		"weight": "deploy { canary { step { weight = … } } }", "hold": "deploy { canary { step { hold = … } } }",
		"cookie":  "deploy { canary { cookie = … } }",
		"rolling": "deploy { strategy = \"rolling\" }", "memory": "resources { memory = … }", "cpus": "resources { cpus = … }",
		"connects": "service \"…\" { connects = … }", "user_namespace": "service \"…\" { user_namespace = … }",
		"max_age": "lifetime { max_age = … }", "jitter": "lifetime { jitter = … }",
		"mean_between": "chaos { mean_between = … }", "hours": "chaos { hours = … }", "days": "chaos { days = … }", "kinds": "chaos { kinds = … }",
		"response": "drift { response = … }", "access": "volume \"…\" { access = … }", "releases": "retention { releases = … }",
		"shell": "service \"…\" { shell = … }", "park": "service \"…\" { park = … }",
		"context": "image { context = … }", "containerfile": "image { containerfile = … }",
	}[key]
}
