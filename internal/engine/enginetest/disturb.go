package enginetest

import (
	"context"
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
	v := &victim{kind: kind, engine: d, ref: s.server(t)}
	s.mustProvision(t, v.ref, template)
	v.address = s.await(t, v.ref.ID, model.Running).Address
	v.dialer, _ = s.Engine.(engine.Dialer)
	v.awaitAnswer(t, "it began")
	v.disturb(t, 2*time.Second)
	v.awaitAnswer(t, "its time was over")
	v.disturb(t, time.Minute)
	if err := d.Calm(t.Context(), v.ref); err != nil {
		t.Fatalf("Calm: %v", err)
	}
	v.awaitAnswer(t, "it was undone")
	v.disturb(t, time.Minute)
	begun := time.Now()
	if err := s.Engine.Stop(t.Context(), v.ref, "", 5*time.Second); err != nil {
		t.Errorf("a disturbed server cannot be stopped: %v", err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("a disturbed server took %s to stop", took)
	}
}

// victim is a server that is disturbed in one way.
type victim struct {
	kind    model.ChaosKind
	engine  engine.Disturber
	ref     engine.Ref
	address string
	dialer  engine.Dialer // nil: nothing of it can be felt
}

// promptly is how soon a server that nothing disturbs answers.
const promptly = 200 * time.Millisecond

func (v *victim) answers(t *testing.T) error {
	ctx, cancel := context.WithTimeout(t.Context(), promptly)
	defer cancel()
	return get(ctx, v.dialer, v.ref.ID, v.address)
}

func (v *victim) awaitAnswer(t *testing.T, when string) {
	t.Helper()
	if v.dialer != nil {
		eventually(t, fmt.Sprintf("the server answers after %s (%s)", when, v.kind), func() error { return v.answers(t) })
	}
}

// disturb disturbs the server and checks that it is felt.
func (v *victim) disturb(t *testing.T, lasts time.Duration) {
	t.Helper()
	err := v.engine.Disturb(t.Context(), v.ref, model.Disturbance{Kind: v.kind, Lasts: model.Duration(lasts)})
	if model.CodeOf(err) == model.Invalid {
		t.Skipf("this engine cannot: %v", err)
	}
	if err != nil {
		t.Fatalf("Disturb: %v", err)
	}
	switch v.kind {
	case model.ChaosFreeze, model.ChaosLoss, model.ChaosLatency:
		if v.dialer != nil && v.answers(t) == nil {
			t.Errorf("a server with %s answers at once", v.kind)
		}
	default: // what it does to a server is up to that
	}
}
