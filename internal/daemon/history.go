package daemon

import (
	"context"
	"path/filepath"
	"time"

	"kiln/internal/api"
	"kiln/internal/audit"
	"kiln/internal/journal"
	"kiln/internal/server"
)

// history shows the journal to the API.
type history struct{ j *journal.Journal }

// Entries implements server.History.
func (h history) Entries(ctx context.Context, after uint64, limit int) ([]server.Entry, error) {
	entries, err := h.j.Events(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]server.Entry, len(entries))
	for i, e := range entries {
		out[i] = server.Entry{Event: e.Event, Raw: e.Raw, Hash: e.Hash.String()}
	}
	return out, nil
}

// Verify implements server.History.
func (h history) Verify(ctx context.Context) (api.AuditReport, error) {
	report, err := h.j.Verify(ctx)
	if err != nil {
		return api.AuditReport{}, err
	}
	return auditReport(report), nil
}

// VerifyJournal verifies the journal of a data directory that no daemon holds.
func VerifyJournal(ctx context.Context, dataDir string) (*api.AuditReport, error) {
	report, err := journal.VerifyFile(ctx, filepath.Join(dataDir, "journal"))
	if err != nil {
		return nil, err
	}
	out := auditReport(report)
	return &out, nil
}

// Account makes the account of the journal of a data directory that no daemon
// holds, as far as it can be read.
func Account(ctx context.Context, dataDir, service string, since, now time.Time) (audit.Account, error) {
	return server.AccountOf(service, since, now, func(each func(server.Entry)) (api.AuditReport, error) {
		report, err := journal.ReadFile(ctx, filepath.Join(dataDir, "journal"), func(e journal.Entry) {
			each(server.Entry{Event: e.Event, Raw: e.Raw, Hash: e.Hash.String()})
		})
		return auditReport(report), err
	})
}

func auditReport(report journal.Report) api.AuditReport {
	out := api.AuditReport{Whole: report.Whole(), Events: report.Events, Head: report.Last.Hash.String(), Signed: report.Signed}
	for _, p := range report.Problems {
		out.Problems = append(out.Problems, p.What)
	}
	return out
}
