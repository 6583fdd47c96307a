package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"kiln/internal/alert"
	"kiln/internal/api"
	"kiln/internal/backup"
	"kiln/internal/control"
	"kiln/internal/journal"
	"kiln/internal/model"
	"kiln/internal/server"
)

// news is the journal as receivers of alerts are told of it.
type news struct {
	instance model.InstanceID
	journal  *journal.Journal
	control  *control.Control
}

// Entries implements alert.Journal.
func (n news) Entries(ctx context.Context, after uint64, limit int) ([]alert.Event, error) {
	entries, err := n.journal.Events(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]alert.Event, len(entries))
	for i, e := range entries {
		data, err := json.Marshal(e.Event.Data)
		if err != nil {
			return nil, model.Errorf(model.Internal, "cannot write event %d: %w", e.Event.Seq, err)
		}
		service, text := server.Words(e.Event)
		out[i] = alert.Event{
			Instance: n.instance, Key: fmt.Sprintf("%s-%d", n.instance, e.Event.Seq), Seq: e.Event.Seq, Kind: e.Event.Data.Kind(),
			At: e.Event.At, Actor: e.Event.Actor, Service: service, Text: text, Data: data,
		}
		switch p := e.Event.Data.(type) {
		case model.DeploymentEnded:
			out[i].Verdict = p.Verdict
		case model.AlertFailed:
			out[i].About = p.Name
		}
	}
	return out, nil
}

// Head implements alert.Journal.
func (n news) Head() (seq uint64) {
	n.control.View(func(s *model.State, _ *model.Snapshot) { seq = s.Seq })
	return seq
}

// Changed implements alert.Journal.
func (n news) Changed() <-chan struct{} { return n.control.Changed() }

// Failed implements alert.Journal.
func (n news) Failed(ctx context.Context, failed model.AlertFailed) error {
	return n.control.Do(ctx, "kiln", func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, error) {
		return []model.Payload{failed}, nil
	})
}

func (d *daemon) newAlerts() *alert.Alerts {
	if d.cfg.AlertsFile == "" {
		d.cfg.AlertsFile = filepath.Join(d.cfg.DataDir, backup.AlertsFile)
	}
	return alert.New(alert.Config{
		Instance: d.instance, File: d.cfg.AlertsFile, Dir: filepath.Join(d.cfg.DataDir, "alerts"),
		Journal: news{d.instance, d.journal, d.control}, Log: d.cfg.Log,
	})
}

// startAlerts tells receivers until ctx ends.
func (d *daemon) startAlerts(ctx context.Context) {
	d.running.Go(func() {
		if err := d.alerts.Run(ctx); err != nil {
			d.cfg.Log.Error("no alerts are told", "error", err)
		}
	})
}

// alerts shows the receivers to the API.
type alerts struct {
	*alert.Alerts
	file string
}

// Standing implements server.Alerts.
func (a alerts) Standing() api.Alerts {
	standing, err := a.Alerts.Standing()
	out := api.Alerts{File: a.file, Receivers: make([]api.AlertReceiver, len(standing))}
	for i, s := range standing {
		out.Receivers[i] = api.AlertReceiver(s)
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// Test implements server.Alerts.
func (a alerts) Test(ctx context.Context, in api.AlertTest) (api.AlertsTested, error) {
	tested, err := a.Alerts.Test(ctx, in.Name, in.By)
	out := api.AlertsTested{Receivers: make([]api.AlertTested, len(tested))}
	for i, t := range tested {
		out.Receivers[i] = api.AlertTested(t)
	}
	return out, err
}
