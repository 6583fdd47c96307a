package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// disturbed checks what engine.Disturber promises, for every kind that the
// engine can do.
func disturbed(t *testing.T, s *suite) {
	d, ok := s.Engine.(engine.Disturber)
	if !ok {
		t.Log("the engine disturbs no servers")
		return
	}
	for _, kind := range []model.ChaosKind{model.ChaosKill, model.ChaosTerminate} {
		t.Run(string(kind), func(t *testing.T) {
			ref := s.running(t, "serve", strconv.Itoa(servePort))
			if err := d.Disturb(t.Context(), ref, model.Disturbance{Kind: kind, Lasts: model.Duration(5 * time.Second)}); err != nil {
				t.Fatalf("Disturb: %v", err)
			}
			seen := s.await(t, ref.ID, model.Exited)
			if kind == model.ChaosKill && (seen.Exit == nil || seen.Exit.Code != 137) {
				t.Errorf("a killed server ended with %v", seen.Exit)
			}
			if err := d.Calm(t.Context(), ref); err != nil {
				t.Errorf("Calm of an ended server: %v", err)
			}
			err := d.Disturb(t.Context(), ref, model.Disturbance{Kind: kind})
			wantCode(t, "Disturb of an ended server", err, model.Precondition)
		})
	}
	for _, kind := range model.ChaosKinds() {
		if kind.Lasting() {
			t.Run(string(kind), func(t *testing.T) { s.lasting(t, d, kind) })
		}
	}
	t.Run("refused", func(t *testing.T) {
		ref := s.running(t, "serve", strconv.Itoa(servePort))
		wantCode(t, "Disturb in an unknown way", d.Disturb(t.Context(), ref, model.Disturbance{Kind: "noise"}), model.Invalid)
		none := engine.Ref{Epoch: s.epoch, ID: "conform-aaaaaa"}
		wantCode(t, "Disturb of no server", d.Disturb(t.Context(), none, model.Disturbance{Kind: model.ChaosKill}), model.Precondition)
		if err := d.Calm(t.Context(), none); err != nil {
			t.Errorf("Calm of no server: %v", err)
		}
		old := engine.Ref{Epoch: s.epoch - 1, ID: ref.ID}
		wantCode(t, "Disturb by an old writer", d.Disturb(t.Context(), old, model.Disturbance{Kind: model.ChaosKill}), model.Conflict)
	})
}

// lasting checks that a disturbance is felt, ends by itself, can be ended
// before, and does not keep the server from being stopped.
func (s *suite) lasting(t *testing.T, d engine.Disturber, kind model.ChaosKind) {
	template := s.template("serve", strconv.Itoa(servePort))
	template.Resources.CPU = 200
	template.Ephemeral = []model.Ephemeral{{Path: "/scratch", Size: 1 << 20}}
	ref := s.server(t)
	s.mustProvision(t, ref, template)
	address := s.await(t, ref.ID, model.Running).Address
	dialer, reachable := s.Engine.(engine.Dialer)
	answers := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return get(ctx, dialer, ref.ID, address)
	}
	if reachable {
		eventually(t, "the server answers", func() error { return answers(time.Second) })
	}
	disturb := func(lasts time.Duration) {
		t.Helper()
		err := d.Disturb(t.Context(), ref, model.Disturbance{Kind: kind, Lasts: model.Duration(lasts)})
		if model.CodeOf(err) == model.Invalid {
			t.Skipf("this engine cannot: %v", err)
		}
		if err != nil {
			t.Fatalf("Disturb: %v", err)
		}
	}
	silent := kind == model.ChaosFreeze || kind == model.ChaosLoss
	felt := func() error {
		switch err := answers(150 * time.Millisecond); {
		case silent && err == nil:
			return errors.New("it answers")
		case kind == model.ChaosLatency && err == nil:
			return errors.New("it answers at once")
		}
		return nil
	}
	disturb(2 * time.Second)
	if reachable {
		if err := felt(); err != nil {
			t.Errorf("a server with %s: %v", kind, err)
		}
		eventually(t, fmt.Sprintf("%s ends by itself", kind), func() error { return answers(150 * time.Millisecond) })
	}
	disturb(time.Minute)
	if reachable {
		if err := felt(); err != nil {
			t.Errorf("a server with %s, again: %v", kind, err)
		}
	}
	if err := d.Calm(t.Context(), ref); err != nil {
		t.Fatalf("Calm: %v", err)
	}
	if reachable {
		eventually(t, fmt.Sprintf("%s is undone", kind), func() error { return answers(150 * time.Millisecond) })
	}
	disturb(time.Minute)
	begun := time.Now()
	if err := s.Engine.Stop(t.Context(), ref, "", 5*time.Second); err != nil {
		t.Errorf("a disturbed server cannot be stopped: %v", err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("a disturbed server took %s to stop", took)
	}
}
