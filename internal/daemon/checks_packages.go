package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"kiln/internal/api"
	"kiln/internal/contents"
	"kiln/internal/model"
)

// packages holds what is inside an image against the policy.
func (c *checks) packages(ctx context.Context, q api.CheckRequest) ([]api.ImageCheck, error) {
	p := q.Policy.Image
	if len(p.ForbiddenPackages) == 0 && p.Vulnerabilities == nil {
		return nil, nil
	}
	value, err := c.d.images.Value(ctx, q.Template.Image)
	if err != nil {
		return nil, err
	}
	inventory, err := c.d.inside.reader().Packages(ctx, value)
	if err != nil {
		return nil, c.unreadable(ctx, err)
	}
	var list []api.ImageCheck
	if len(p.ForbiddenPackages) > 0 {
		list = append(list, forbidden(p.ForbiddenPackages, inventory))
	}
	if p.Vulnerabilities != nil {
		check, err := c.vulnerabilities(*p.Vulnerabilities, inventory)
		if err != nil {
			return nil, err
		}
		list = append(list, check)
	}
	return list, nil
}

// unknowable refuses an image of which cannot be told which packages it has: what is
// not known is not taken for good.
func unknowable(check *api.ImageCheck, inventory contents.Inventory) {
	if len(inventory.Packages) == 0 && len(inventory.Databases) == 0 {
		refuse(check, api.CheckFinding{
			What: "it cannot be told which packages it has: it has no package database, and no file of it names a package",
			Hint: "leave the database in the image (for Debian /var/lib/dpkg), or take the rule out for this service",
		})
	}
	for _, u := range inventory.Unread {
		refuse(check, api.CheckFinding{
			What: fmt.Sprintf("it cannot be told which packages it has: /%s cannot be understood: %s", u.Path, u.Reason),
			Hint: "mend the file, or leave it out of the image if nothing needs it",
		})
	}
	if check.Passed && len(inventory.Databases) == 0 {
		note(check, inventory.Statement())
	}
}

// forbidden looks for packages that must not be in an image.
func forbidden(texts []string, inventory contents.Inventory) api.ImageCheck {
	check := api.ImageCheck{Name: "policy/forbidden_packages", Passed: true, Detail: fmt.Sprintf("none of its %d packages is forbidden", len(inventory.Packages))}
	unknowable(&check, inventory)
	for _, p := range inventory.Packages {
		for _, text := range texts {
			rule, err := model.ParsePackageRule(text)
			if err != nil {
				continue // it was read before
			}
			found := fmt.Sprintf("%s %s, in /%s", p.Name, cmp.Or(p.Version, "of no known version"), p.Path)
			switch hit, err := contents.Forbids(rule, p); {
			case err != nil:
				refuse(&check, api.CheckFinding{What: fmt.Sprintf("it cannot be told whether %s is forbidden by %q: %v", found, text, err), Hint: "name versions by a pattern: " + rule.Name + "@1.*"})
			case hit:
				refuse(&check, api.CheckFinding{What: fmt.Sprintf("%s, is forbidden by %q", found, text), Hint: "do not install it, or build in a stage of its own and copy only what it made"})
			default:
				continue
			}
			break
		}
	}
	return check
}

// vulnerabilities compares what is in an image with lists.
func (c *checks) vulnerabilities(p model.VulnerabilityPolicy, inventory contents.Inventory) (api.ImageCheck, error) {
	check := api.ImageCheck{Name: "policy/vulnerabilities", Passed: true}
	unknowable(&check, inventory)
	var found []contents.Finding
	entries, unmatched, undecided := 0, 0, []contents.Undecided{}
	for _, list := range p.Lists {
		report, err := c.lists.judge(list, inventory.Packages)
		if err != nil {
			return check, err
		}
		found = append(found, report.Findings...)
		undecided = append(undecided, report.Undecided...)
		entries, unmatched = entries+report.Entries, report.Unmatched
	}
	counts := weigh(&check, p, found)
	if check.Passed {
		check.Detail = fmt.Sprintf("none of %d packages has a vulnerability that counts, of %d that are listed", len(inventory.Packages), entries)
	}
	say := func(n int, format string, args ...any) {
		if n > 0 {
			note(&check, fmt.Sprintf(format, append([]any{n}, args...)...))
		}
	}
	say(counts.below, "%d less severe than %s", p.Severity)
	say(counts.unknown, "%d of which no list says how severe they are; severity = \"any\" counts them")
	say(counts.ignored, "%d ignored, as the policy says")
	say(unmatched, "%d packages are of nothing that lists of this format name")
	if len(undecided) > 0 {
		say(len(undecided), "%d of which cannot be told whether they are meant, the first %s of %s: %s", undecided[0].ID, undecided[0].Package, undecided[0].Reason)
	}
	for _, id := range counts.stale {
		note(&check, id+" is ignored by the policy, and nothing in the image has it")
	}
	return check, nil
}

// weighed is how many vulnerabilities count for nothing.
type weighed struct {
	below, unknown, ignored int
	stale                   []string // what is ignored, and was not found
}

// weigh refuses for the vulnerabilities that count, the worst first.
func weigh(check *api.ImageCheck, p model.VulnerabilityPolicy, found []contents.Finding) (w weighed) {
	order := []contents.Level{contents.LevelCritical, contents.LevelHigh, contents.LevelMedium, contents.LevelLow, contents.LevelNone, contents.LevelUnknown}
	slices.SortStableFunc(found, func(a, b contents.Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Level), slices.Index(order, b.Level)), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version))
	})
	found = slices.CompactFunc(found, func(a, b contents.Finding) bool {
		return a.ID == b.ID && a.Package == b.Package && a.Version == b.Version && a.Type == b.Type
	})
	met := map[string]bool{}
	for _, f := range found {
		names := append([]string{f.ID}, f.Aliases...)
		ignored := slices.IndexFunc(p.Ignore, func(id string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, id) })
		})
		switch {
		case ignored >= 0:
			met[p.Ignore[ignored]] = true
			w.ignored++
		case p.Severity == "" || f.Level.AtLeast(contents.Level(p.Severity)):
			refuse(check, vulnerable(f))
		case f.Level == contents.LevelUnknown:
			w.unknown++
		default:
			w.below++
		}
	}
	for _, id := range p.Ignore {
		if !met[id] {
			w.stale = append(w.stale, id)
		}
	}
	return w
}

// vulnerable says which vulnerability a package has.
func vulnerable(f contents.Finding) api.CheckFinding {
	id := f.ID
	if others := slices.DeleteFunc(slices.Clone(f.Aliases), func(a string) bool { return a == f.ID }); len(others) > 0 {
		id += " (" + strings.Join(others[:min(len(others), 3)], ", ") + ")"
	}
	what := fmt.Sprintf("%s, %s: %s %s, in /%s", id, cmp.Or(string(f.Level), "of unknown severity"), f.Package, f.Version, strings.Join(f.Paths[:min(len(f.Paths), 3)], ", /"))
	if f.Summary != "" {
		what += ": " + f.Summary
	}
	hint := "no version without it is known; if it does no harm here: ignore = [\"" + f.ID + "\"]"
	if f.Fixed != "" {
		hint = "install " + f.Fixed + " or later"
	}
	return api.CheckFinding{What: what, Hint: hint}
}
