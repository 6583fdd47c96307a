package reconcile

import (
	"cmp"
	"fmt"
	"strings"

	"kiln/internal/model"
)

func driftText(d model.DriftPolicy) string {
	d = d.WithDefaults()
	return fmt.Sprintf("drift %s, looked for every %s", d.Response, d.Interval)
}

func lifetimeText(l model.Lifetime) string {
	if l.MaxAge == 0 {
		return "lifetime unbounded"
	}
	return fmt.Sprintf("lifetime at most %s, jitter %d%%", l.MaxAge, l.Jitter)
}

func chaosText(c model.ChaosPolicy) string {
	if c.MeanBetween == 0 {
		return "chaos none"
	}
	kinds := []string{string(model.ChaosKill)}
	if len(c.Kinds) > 0 {
		kinds = nil
		for _, k := range c.Kinds {
			kinds = append(kinds, string(k))
		}
	}
	days := "every day"
	if len(c.Days) > 0 {
		var words []string
		for _, d := range c.Days {
			words = append(words, strings.ToLower(d.String()[:3]))
		}
		days = strings.Join(words, " ")
	}
	return fmt.Sprintf("chaos %s, every %s on average, %s, %s %s, lasts at most %s", strings.Join(kinds, " "), c.MeanBetween,
		days, cmp.Or(c.Hours, "all day"), cmp.Or(c.TimeZone, "UTC"), cmp.Or(c.Lasts, model.DefaultChaosLasts))
}

func retentionText(r model.RetentionPolicy) string {
	r = r.WithDefaults()
	return fmt.Sprintf("retention %s, and what served within %s", count(r.Releases, "release"), r.For)
}

func parkText(u model.Upkeep) string {
	if u.ParkFor() == 0 {
		return "park: failed servers go at once"
	}
	return fmt.Sprintf("park failed servers for %s", model.Duration(u.ParkFor()))
}

func volumesText(list []model.Mount) string {
	var words []string
	for _, m := range list {
		size := "unbounded"
		if m.Size != 0 {
			size = bytesText(m.Size)
		}
		words = append(words, fmt.Sprintf("%s at %s (%s, %s)", m.Volume, m.Path, cmp.Or(m.Access, model.SingleWriter), size))
	}
	return strings.Join(words, ", ")
}
