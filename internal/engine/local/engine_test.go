package local

import (
	"testing"

	"kiln/internal/engine"
	"kiln/internal/engine/enginetest"
)

func TestConformance(t *testing.T) {
	w := newWorld(t)
	var current *Engine
	enginetest.Run(t, func(t *testing.T) enginetest.Subject {
		current = w.open(t)
		return enginetest.Subject{
			Engine: current,
			Image:  w.addSuiteImage(t),
			Reopen: func(*testing.T) engine.Engine {
				if err := current.Close(); err != nil {
					t.Fatalf("Close: %v", err)
				}
				current = w.open(t) // until the suite ends, not its check
				return current
			},
		}
	})
}
