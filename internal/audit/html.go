package audit

import (
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"kiln/internal/model"
)

//go:embed report.html.tmpl
var files embed.FS

// HTML writes the account as one page that needs nothing else, and prints.
func (a Account) HTML(w io.Writer) error {
	page, err := template.New("report.html.tmpl").Funcs(template.FuncMap{
		"time": stamp, "span": span, "short": short, "bars": a.bars, "result": Check.result, "source": Image.source,
		"verdict": verdictClass, "sentence": a.Chain.sentence, "lasted": lasted, "after": after, "hash": hash, "digest": digest,
		"exit": func(s string) string { return cmp.Or(s, "—") }, "join": strings.Join, "command": command, "total": a.total, "absent": Service.absent,
		"descent": Ancestor.descent, "origin": Ancestor.origin, "key": hash,
	}).ParseFS(files, "report.html.tmpl")
	if err != nil {
		return err
	}
	return page.Execute(w, a)
}

// figure is a number at the head of the page.
type figure struct {
	Count int
	What  string
}

func (a Account) total() []figure {
	sums := []figure{{What: "images in service"}, {What: "deployments"}, {What: "servers"}, {What: "hotfixes and shells"}, {What: "drifts"}, {What: "chaos experiments"}, {What: "planned replacements"}}
	for _, s := range a.Services {
		images := map[model.Digest]bool{}
		for _, x := range s.Images {
			images[x.Digest] = true
		}
		for i, n := range []int{len(images), len(s.Deployments), len(s.Servers), len(s.Sessions), len(s.Drifts), len(s.Experiments), len(s.Recycled)} {
			sums[i].Count += n
		}
	}
	return sums
}

// absent names what there was none of.
func (s Service) absent() string {
	var none []string
	for _, part := range []struct {
		what  string
		count int
	}{
		{"images in service", len(s.Images)},
		{"deployments", len(s.Deployments)},
		{"servers", len(s.Servers)},
		{"hotfixes and shells", len(s.Sessions)},
		{"drift", len(s.Drifts)},
		{"chaos", len(s.Experiments)},
		{"planned replacements", len(s.Recycled)},
	} {
		if part.count == 0 {
			none = append(none, part.what)
		}
	}
	return strings.Join(none, ", ")
}

// descent says how it is known what an image goes on from.
func (a Ancestor) descent() string {
	switch {
	case a.How == model.ByCheckout:
		return "its source was taken out of that"
	case a.Branch:
		return "a branch, by its commit"
	case a.How == model.ByCommit:
		return "by its commit"
	default:
		return "built before"
	}
}

// origin says what an image was made from.
func (a Ancestor) origin() string {
	commit := a.Commit[:min(12, len(a.Commit))]
	switch {
	case a.Source != "build":
		return a.Source
	case a.Dirty:
		return commit + " and changes"
	default:
		return commit
	}
}

// bar is a part of the period.
type bar struct {
	Left, Width float64 // per cent
	Label       string
	Title       string
	Odd         bool
}

// bars draws which release served when.
func (a Account) bars(images []Image) []bar {
	whole := a.Until.Sub(a.Since).Seconds()
	if whole <= 0 {
		return nil
	}
	var out []bar
	for i, x := range images {
		from, to := x.From, x.To
		if from.Before(a.Since) {
			from = a.Since
		}
		if to.IsZero() || to.After(a.Until) {
			to = a.Until
		}
		b := bar{
			Left: 100 * from.Sub(a.Since).Seconds() / whole, Width: 100 * to.Sub(from).Seconds() / whole,
			Title: fmt.Sprintf("release %d from %s to %s", x.Release, stamp(x.From), stamp(x.To)), Odd: i%2 == 1,
		}
		if b.Width > 2 {
			b.Label = fmt.Sprint(x.Release)
		}
		out = append(out, b)
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "—"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// span says from when to when.
func span(from, to time.Time) string {
	if to.IsZero() {
		return stamp(from) + " – now"
	}
	return stamp(from) + " – " + stamp(to)
}

func lasted(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "—"
	}
	return round(to.Sub(from))
}

// after says how long after the start something came; "—" if it did not.
func after(from, at model.Instant) string {
	if at == 0 {
		return "—"
	}
	return round(at.Sub(from))
}

func round(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return model.Duration(d.Round(time.Second)).String()
	}
}

func short(d model.Digest) string { return d.Short() }

func digest(s string) string { return model.Digest(s).Short() }

func hash(s string) string { return s[:min(12, len(s))] }

func command(words []string) string { return cmp.Or(strings.Join(words, " "), "a shell") }

// verdictClass is the colour of a verdict.
func verdictClass(v model.Verdict) string {
	switch v {
	case model.Succeeded, model.Unchanged:
		return "good"
	case model.Failed, model.Aborted:
		return "bad"
	default:
		return "open"
	}
}
