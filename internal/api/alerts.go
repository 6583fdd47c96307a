package api

import (
	"context"
	"time"
)

// Alerts are the receivers of alerts.
type Alerts struct {
	File      string          `json:"file"`            // declares them
	Error     string          `json:"error,omitempty"` // what is wrong with the file; then what was declared before holds
	Receivers []AlertReceiver `json:"receivers"`
}

// AlertReceiver is how a receiver stands.
type AlertReceiver struct {
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`   // webhook or command
	Target    string    `json:"target"` // without what may be secret
	Events    []string  `json:"events"`
	Services  []string  `json:"services,omitempty"`
	Seq       uint64    `json:"seq"`       // it was told up to this event of the journal
	Behind    uint64    `json:"behind"`    // events after that which are still to be looked at
	Delivered uint64    `json:"delivered"` // since the daemon started
	Failed    uint64    `json:"failed"`    // given up since the daemon started
	LastAt    time.Time `json:"last_at,omitzero"`
	Tries     int       `json:"tries,omitempty"` // that have failed for the present event
	Error     string    `json:"error,omitempty"` // of the last try, while it fails
}

// AlertTest asks for a test call.
type AlertTest struct {
	Name string `json:"name,omitempty"` // of the receiver; "": all
	By   string `json:"by,omitempty"`
}

// AlertsTested is what came of it.
type AlertsTested struct {
	Receivers []AlertTested `json:"receivers"`
}

// AlertTested is what came of a test call of one receiver.
type AlertTested struct {
	Name   string `json:"name"`
	TookMS int64  `json:"took_ms"`
	Error  string `json:"error,omitempty"` // "": it was acknowledged
}

// Alerts asks how the receivers stand.
func (c *Client) Alerts(ctx context.Context) (*Alerts, error) {
	return get[Alerts](ctx, c, PathAlerts, nil)
}

// TestAlerts tells receivers that this is a test.
func (c *Client) TestAlerts(ctx context.Context, in AlertTest) (*AlertsTested, error) {
	return post[AlertsTested](ctx, c, PathAlertTest, in)
}
