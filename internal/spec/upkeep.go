package spec

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/internal/model"
)

// Bounds of upkeep.
const (
	minAge      = model.Duration(time.Minute) // a server has to have been observed before it is replaced by another
	minKeep     = model.Duration(time.Second) // the newest releases stay whatever their age
	maxJitter   = 90                          // per cent
	maxReleases = 1000
)

const defaultJitter = 10 // per cent of max_age

// upkeep reads what becomes of servers that serve, and what is kept of those
// that are gone. What is declared as the default stays the zero value, so that
// saying it changes nothing.
func (b *body) upkeep(s *Service) {
	u := &s.Policy.Upkeep
	b.drift(&u.Drift)
	b.lifetime(&u.Lifetime)
	b.chaos(s)
	b.retention(&u.Retention)
	if rule, ok := b.choice("shell", string(model.ShellAllow), string(model.ShellDeny)); ok && rule != string(model.ShellAllow) {
		u.Shell = model.ShellRule(rule)
	}
	park := model.DefaultPark
	b.duration("park", 0, &park)
	switch park {
	case 0:
		u.Park = -1 // not at all
	case model.DefaultPark:
	default:
		u.Park = park
	}
}

// choice reads one of a few words.
func (b *body) choice(name string, known ...string) (string, bool) {
	var text string
	if !b.str(name, &text) {
		return "", false
	}
	if !slices.Contains(known, text) {
		b.errorf(b.at(name), oneOf(text, known), "%s %q is not known", name, text)
		return "", false
	}
	return text, true
}

func (b *body) drift(d *model.DriftPolicy) {
	in := b.child("drift")
	if in == nil {
		return
	}
	if response, ok := in.choice("response", string(model.DriftReplace), string(model.DriftAlert)); ok && response != string(model.DriftReplace) {
		d.Response = model.DriftResponse(response)
	}
	interval := model.DefaultDriftInterval
	if in.duration("interval", ms(1000), &interval); interval != model.DefaultDriftInterval {
		d.Interval = interval
	}
	in.done()
}

// lifetime reads how old servers may get.
func (b *body) lifetime(l *model.Lifetime) {
	in := b.child("lifetime")
	if in == nil {
		return
	}
	var age model.Duration
	if !in.has("max_age") {
		in.errorf(in.header, "add max_age = \"24h\", or leave the block out: servers then may live for ever", "%s has no max_age", in.where)
	} else if in.duration("max_age", 0, &age); age > 0 && age < minAge {
		in.errorf(in.at("max_age"), "for a service that is recycled as fast as it can be: max_age = \"1m\"",
			"max_age is at least %s: that long a new server is watched before one more is replaced, so %s would never be kept", minAge, age)
	} else if age == 0 && in.readable("max_age") {
		in.errorf(in.at("max_age"), "leave the block out: servers then may live for ever", "max_age is at least %s", minAge)
	}
	jitter := model.Amount{N: defaultJitter, Percent: true}
	in.share("jitter", &jitter)
	in.done()
	*l = model.Lifetime{MaxAge: age, Jitter: jitter.N}
}

// readable reports whether the attribute is a duration, for checks beyond that.
func (b *body) readable(name string) bool {
	v, diags := b.syntax.Attributes[name].Expr.Value(nil)
	if diags.HasErrors() {
		return false
	}
	text, _ := scalar(v)
	_, _, ok := parseDuration(text)
	return ok
}

// share reads a percentage of at most maxJitter.
func (b *body) share(name string, into *model.Amount) {
	v, ok := b.value(name)
	if !ok {
		return
	}
	text, _ := scalar(v)
	a, err := model.ParseAmount(text)
	switch {
	case err != nil || !a.Percent:
		hint := `write it as "10%"`
		if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= maxJitter {
			hint = "did you mean " + strconv.Quote(text+"%") + "?"
		}
		b.errorf(b.at(name), hint, "%s takes a percentage of max_age, as a text", name)
	case a.N > maxJitter:
		b.errorf(b.at(name), `"10%" spreads them over the last tenth of their time`, "%s is at most %d%%: each server is replaced between max_age less %s and max_age", name, maxJitter, name)
	default:
		*into = a
	}
}

func (b *body) retention(r *model.RetentionPolicy) {
	in := b.child("retention")
	if in == nil {
		return
	}
	releases, keep := model.DefaultKeepReleases, model.DefaultKeepFor
	in.integer("releases", 1, maxReleases, &releases)
	in.duration("for", minKeep, &keep)
	in.done()
	if releases != model.DefaultKeepReleases {
		r.Releases = releases
	}
	if keep != model.DefaultKeepFor {
		r.For = keep
	}
}

// chaos reads whether, when and how servers are disturbed on purpose.
func (b *body) chaos(s *Service) {
	in := b.child("chaos")
	if in == nil {
		return
	}
	c := &s.Policy.Chaos
	if !in.has("mean_between") {
		in.errorf(in.header, "add mean_between = \"2d\", or leave the block out: without it nothing is disturbed", "%s has no mean_between", in.where)
	}
	in.duration("mean_between", ms(1000), &c.MeanBetween)
	in.hours(&c.Hours)
	in.days(&c.Days)
	in.timeZone(&c.TimeZone)
	in.kinds(&c.Kinds)
	lasts := model.DefaultChaosLasts
	if in.duration("lasts", ms(1000), &lasts); lasts != model.DefaultChaosLasts {
		c.Lasts = lasts
	}
	if s.Policy.Servers == 1 {
		in.warnf(in.header, "declare two servers or more", "chaos never touches the last healthy server, and %s has one", b.where)
	}
	in.done()
}

func (b *body) kinds(into *[]model.ChaosKind) {
	var words, known []string
	b.names("kinds", &words)
	for _, kind := range model.ChaosKinds() {
		known = append(known, string(kind))
	}
	for _, word := range words {
		if !slices.Contains(known, word) {
			b.errorf(b.at("kinds"), oneOf(word, known), "kinds: %q is not known", word)
			return
		}
	}
	if b.has("kinds") && len(words) == 0 {
		b.errorf(b.at("kinds"), "leave the line out for [\"kill\"]", "kinds is empty")
		return
	}
	for _, kind := range model.ChaosKinds() { // their order means nothing
		if slices.Contains(words, string(kind)) {
			*into = append(*into, kind)
		}
	}
	if len(*into) == 1 && (*into)[0] == model.ChaosKill {
		*into = nil // the default
	}
}

// dayNames are the days as a declaration writes them, by time.Weekday.
func dayNames() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

func (b *body) days(into *[]time.Weekday) {
	var words []string
	b.names("days", &words)
	var days []time.Weekday
	for _, word := range words {
		at := slices.Index(dayNames(), word)
		if at < 0 {
			b.errorf(b.at("days"), dayHint(word), "days: %q is not a day", word)
			return
		}
		days = append(days, time.Weekday(at))
	}
	if b.has("days") && len(words) == 0 {
		b.errorf(b.at("days"), "leave the line out for every day", "days is empty")
		return
	}
	if len(days) == len(dayNames()) {
		return // every day, which is the default
	}
	slices.SortFunc(days, func(x, y time.Weekday) int { return cmp.Compare((x+6)%7, (y+6)%7) })
	*into = days
}

func dayHint(word string) string {
	if lower := strings.ToLower(word); len(lower) >= 3 {
		if slices.Contains(dayNames(), lower[:3]) {
			return "did you mean \"" + lower[:3] + "\"?"
		}
	}
	return oneOf(word, []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"})
}

var hoursForm = regexp.MustCompile(`^([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})$`)

// hours reads "09:00-15:00" and keeps it in just that form; all day is "".
func (b *body) hours(into *string) {
	var text string
	if !b.str("hours", &text) {
		return
	}
	m := hoursForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		b.errorf(b.at("hours"), `write "09:00-15:00"; "22:00-04:00" goes over midnight`, "hours: %q is not a time of the day to another", text)
		return
	}
	var clock [4]int
	for i := range clock {
		clock[i], _ = strconv.Atoi(m[i+1]) // one or two digits
	}
	begin, end := clock[0]*60+clock[1], clock[2]*60+clock[3]
	const day = 24 * 60
	switch {
	case clock[1] > 59 || clock[3] > 59 || begin >= day || end > day:
		b.errorf(b.at("hours"), `times are "00:00" to "23:59", and "24:00" as an end`, "hours: %q has a time that no clock shows", text)
	case begin == end:
		b.errorf(b.at("hours"), "leave the line out for the whole day", "hours: %q ends when it begins", text)
	case begin == 0 && end == day:
		*into = ""
	default:
		*into = clockText(begin) + "-" + clockText(end%day)
	}
}

// clockText formats minutes after midnight.
func clockText(minutes int) string {
	two := func(n int) string { return string([]byte{byte('0' + n/10), byte('0' + n%10)}) }
	return two(minutes/60) + ":" + two(minutes%60)
}

func (b *body) timeZone(into *string) {
	var text string
	if !b.str("time_zone", &text) {
		return
	}
	if !slices.Contains(zones(), text) {
		b.errorf(b.at("time_zone"), zoneHint(text), "time_zone: there is no time zone %q", text)
		return
	}
	if text != "UTC" { // the default
		*into = text
	}
}
