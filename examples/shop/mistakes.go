package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

// mistakes are the ways in which a shop can be told to misbehave, to see what
// kiln says about it. They come from the environment; none is set by default.
type mistakes struct {
	listen     string // SHOP_LISTEN: another port, or 127.0.0.1:8080 only
	failHealth string // SHOP_FAIL_HEALTH: a status, "redirect" or "hang"
	failAfter  time.Duration
	exit       int    // SHOP_EXIT: end at once with this status
	eat        int    // SHOP_EAT: take this many MiB of memory first
	write      string // SHOP_WRITE: write to this path first, and end if that fails
	started    time.Time
	behind     string // SHOP_BEHIND: no mistake, but the URL of another service that /behind asks
}

// mistakesFromEnv reads the environment; what is not set is no mistake.
func mistakesFromEnv(env func(string) string) (mistakes, error) {
	m := mistakes{listen: ":8080", exit: -1, started: time.Now()}
	if v := env("SHOP_LISTEN"); v != "" {
		m.listen = v
	}
	m.failHealth, m.write, m.behind = env("SHOP_FAIL_HEALTH"), env("SHOP_WRITE"), env("SHOP_BEHIND")
	var err error
	if v := env("SHOP_FAIL_HEALTH_AFTER"); v != "" {
		if m.failAfter, err = time.ParseDuration(v); err != nil {
			return m, fmt.Errorf("cannot read SHOP_FAIL_HEALTH_AFTER: %w", err)
		}
	}
	if v := env("SHOP_EAT"); v != "" {
		if m.eat, err = strconv.Atoi(v); err != nil {
			return m, fmt.Errorf("cannot read SHOP_EAT: %w", err)
		}
	}
	if v := env("SHOP_EXIT"); v != "" {
		if m.exit, err = strconv.Atoi(v); err != nil {
			return m, fmt.Errorf("cannot read SHOP_EXIT: %w", err)
		}
	}
	return m, nil
}

// beforeServing carries out the mistakes that happen before the shop opens.
func (m mistakes) beforeServing() error {
	eaten := make([]byte, m.eat<<20)
	for i := 0; i < len(eaten); i += 4096 {
		eaten[i] = 1 // a page that is not written to takes no memory
	}
	if m.exit >= 0 {
		fmt.Fprintf(os.Stderr, "shop: SHOP_EXIT is set, ending with %d\n", m.exit)
		os.Exit(m.exit)
	}
	if m.write == "" {
		return nil
	}
	if err := os.WriteFile(m.write, []byte("shop\n"), 0o644); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// health answers 200, or makes the mistake it was told to make.
func (m mistakes) health(w http.ResponseWriter, r *http.Request) {
	failing := m.failHealth != "" && time.Since(m.started) >= m.failAfter
	status, err := strconv.Atoi(m.failHealth)
	switch {
	case !failing:
		send(w, []byte("ok\n"))
	case m.failHealth == "redirect":
		http.Redirect(w, r, "/", http.StatusFound)
	case m.failHealth == "hang":
		<-r.Context().Done()
	case err == nil:
		http.Error(w, "SHOP_FAIL_HEALTH is set", status)
	default:
		http.Error(w, "SHOP_FAIL_HEALTH must be a status, redirect or hang", http.StatusInternalServerError)
	}
}
