package alert

import (
	"encoding/json"
	"path"
	"slices"
	"time"

	"kiln/internal/model"
)

// Event is what a receiver is told, as JSON.
type Event struct {
	Instance model.InstanceID `json:"instance"`
	Key      string           `json:"key"` // the same for the same event, however often it comes
	Seq      uint64           `json:"seq"` // of the journal; 0: a test
	Kind     model.Kind       `json:"kind"`
	At       time.Time        `json:"at"`
	Actor    string           `json:"actor,omitempty"`
	Service  string           `json:"service,omitempty"`
	Text     string           `json:"text"` // one sentence
	Data     json.RawMessage  `json:"data,omitempty"`
	Verdict  model.Verdict    `json:"-"` // of a deployment that ended
	About    string           `json:"-"` // the receiver that a failed alert is about
}

// TestKind is the kind of what a test call tells.
const TestKind model.Kind = "alert.test"

// deploymentFailed selects the deployments that did not succeed: it is no kind of
// the journal.
const deploymentFailed = "deployment.failed"

// standard is what a receiver is told that does not say what it wants: what
// somebody should know of, and not what happens every day.
func standard() []string {
	return []string{
		deploymentFailed, "server.drifted", "server.overdue", "fleet.drifted", "service.drift_recurred", "service.melting",
		"service.backed_off", "session.opened", "session.ended", "disk.changed", "clock.jumped", "journal.restored", "alert.failed",
	}
}

// matches reports whether one of the patterns selects the event: a kind, a pattern
// like server.*, or deployment.failed.
func matches(patterns []string, e Event) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == deploymentFailed {
			return e.Kind == model.DeploymentEnded{}.Kind() && e.Verdict != model.Succeeded && e.Verdict != model.Unchanged
		}
		ok, err := path.Match(p, string(e.Kind))
		return ok && err == nil
	})
}
