package audit

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// columns of the table.
var columns = []string{"service", "what", "id", "release", "image", "commit", "author", "by", "from", "to", "result", "reason", "evidence", "seq", "hash"}

// row is one line of the table.
type row struct {
	service, what, id         string
	release                   int
	image, commit, author, by string
	from, to                  time.Time
	result, reason, evidence  string
	seq                       uint64
	hash                      string
}

// CSV writes the account as one table, a line for each thing that happened. The
// first line after the head says whether the chain is whole.
func (a Account) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := []row{{what: "chain", id: string(a.Instance), from: a.Since, to: a.Until, result: a.Chain.word(), reason: a.Chain.sentence(), seq: a.Chain.Events, hash: a.Chain.Head}}
	for _, s := range a.Services {
		rows = append(rows, s.rows()...)
	}
	for _, e := range a.Machine {
		rows = append(rows, e.row("", "event"))
	}
	if err := out.Write(columns); err != nil {
		return err
	}
	for _, r := range rows {
		if err := out.Write(r.cells()); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func (e Entry) row(service, what string) row {
	return row{service: service, what: what, by: e.By, from: e.At, reason: e.Text, seq: e.Seq, hash: e.Hash}
}

func (s Service) rows() []row {
	var rows []row
	for _, x := range s.Images {
		rows = append(rows, row{service: s.Name, what: "image in service", release: x.Release, image: string(x.Digest), commit: x.source(), author: x.Author, reason: x.Reason, from: x.From, to: x.To})
	}
	for _, x := range s.Line {
		rows = append(rows, x.row(s.Name))
	}
	for _, x := range s.Deployments {
		rows = append(rows, row{service: s.Name, what: "deployment", id: string(x.ID), release: x.To, image: string(x.Image), by: x.By, from: x.At, to: x.EndedAt, result: string(x.Verdict), reason: sentences(x.Reason, x.Why), seq: x.Seq, hash: x.Hash})
		for _, c := range x.Checks {
			rows = append(rows, row{service: s.Name, what: "check", id: string(x.ID), release: x.To, image: string(x.Image), result: c.result(), reason: sentences(append([]string{c.Name}, c.Failed...)...), from: x.At})
		}
	}
	for _, x := range s.Servers {
		rows = append(rows, row{service: s.Name, what: "server", id: string(x.ID), release: x.Release, image: string(x.Image), from: x.CreatedAt, to: x.EndedAt, result: x.Exit, reason: sentences(x.Cause, x.Why), evidence: x.Evidence})
	}
	for _, x := range s.Sessions {
		r := row{service: s.Name, what: string(x.Kind), id: string(x.ID), by: x.By, from: x.OpenedAt, reason: sentences(string(x.Server), x.Reason), seq: x.Seq, hash: x.Hash}
		if x.Ended != nil {
			r.to, r.result, r.evidence = x.Ended.At, x.Ended.How, x.Ended.Evidence
		}
		rows = append(rows, r)
		for _, more := range x.Extensions {
			rows = append(rows, row{service: s.Name, what: "extension", id: string(x.ID), by: more.By, from: more.At, reason: more.Reason})
		}
	}
	for _, x := range s.Drifts {
		r := x.row(s.Name, "drift")
		r.id, r.result, r.reason = string(x.Server), string(x.Response), sentences(x.found(), x.Done)
		rows = append(rows, r)
	}
	for _, x := range s.Experiments {
		rows = append(rows, row{service: s.Name, what: "chaos", id: string(x.ID), by: x.By, from: x.StartedAt, to: x.EndedAt, result: string(x.Outcome), reason: sentences(string(x.Kind)+" of "+string(x.Server), x.Reason), seq: x.Seq, hash: x.Hash})
	}
	for _, x := range s.Recycled {
		r := x.row(s.Name, "replacement")
		r.id, r.to, r.result, r.reason = string(x.Server), x.GoneAt, string(x.Cause), x.Reason
		rows = append(rows, r)
	}
	for _, x := range s.Other {
		rows = append(rows, x.row(s.Name, "event"))
	}
	return rows
}

// row is the place of an image in the line.
func (a Ancestor) row(service string) row {
	r := row{service: service, what: "image", image: string(a.Digest), commit: a.origin(), author: a.Author, from: a.At, to: a.RemovedAt, reason: a.Reason}
	if a.From != "" {
		r.id, r.reason = string(a.From), sentences(a.Reason, "goes on from "+a.From.Short()+": "+a.descent())
	}
	for _, s := range a.Releases {
		if from := s.Promotion(); from != "" {
			r.reason = sentences(r.reason, fmt.Sprintf("release %d of %s was %s", s.Number, s.Service, from))
		}
	}
	if rejected := a.Rejected(); rejected != "" {
		r.result, r.by = "rejected", a.Rejection.By
		r.reason = sentences(r.reason, rejected)
	}
	return r
}

// cells are what a spreadsheet takes as text: none begins as a formula does.
func (r row) cells() []string {
	cells := []string{
		r.service, r.what, r.id, number(r.release), r.image, r.commit, r.author, r.by, day(r.from), day(r.to),
		r.result, r.reason, r.evidence, number(int(r.seq)), r.hash,
	}
	for i, c := range cells {
		if c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			cells[i] = "'" + c
		}
	}
	return cells
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
