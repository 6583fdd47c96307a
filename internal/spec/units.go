package spec

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"kiln/internal/model"
)

// quantity is a number followed by a unit.
var quantity = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)$`)

// parseDuration reads "1m30s". Where it cannot, the hint says what was meant.
func parseDuration(text string) (d model.Duration, hint string, ok bool) {
	v, err := model.ParseDuration(text)
	if err == nil && v >= 0 {
		return v, "", true
	}
	m := quantity.FindStringSubmatch(text)
	if m == nil {
		return 0, `durations look like "500ms", "10s", "1m30s", "2h", "3d"`, false
	}
	switch unit := strings.ToLower(m[2]); unit {
	case "":
		return 0, "write the unit: " + strconv.Quote(m[1]+"s"), false
	case "sec", "secs", "second", "seconds":
		return 0, "did you mean " + strconv.Quote(m[1]+"s") + "?", false
	case "min", "mins", "minute", "minutes":
		return 0, "did you mean " + strconv.Quote(m[1]+"m") + "?", false
	case "hour", "hours", "hr", "hrs":
		return 0, "did you mean " + strconv.Quote(m[1]+"h") + "?", false
	case "day", "days":
		return 0, "did you mean " + strconv.Quote(m[1]+"d") + "?", false
	case "w", "week", "weeks":
		if weeks, err := strconv.ParseFloat(m[1], 64); err == nil && weeks < 1000 {
			return 0, "did you mean " + strconv.Quote(strconv.FormatFloat(weeks*7, 'f', -1, 64)+"d") + "?", false
		}
	case "s", "m", "h", "ms", "d": // a right unit, or in capitals
		if unit != m[2] {
			return 0, "did you mean " + strconv.Quote(m[1]+unit) + "?", false
		}
	}
	return 0, `units are ms, s, m, h and d: "500ms", "10s", "1m30s", "2h", "3d"`, false
}

// sizeUnit returns how many bytes a unit has.
func sizeUnit(unit string) (float64, bool) {
	n, ok := map[string]float64{
		"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
		"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	}[unit]
	return n, ok
}

// parseSize reads "64MiB" as bytes.
func parseSize(text string) (bytes int64, hint string, ok bool) {
	m := quantity.FindStringSubmatch(text)
	if m == nil {
		return 0, `sizes look like "64MiB", "1.5GiB", "500MB"`, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, `sizes look like "64MiB", "1.5GiB", "500MB"`, false
	}
	if per, known := sizeUnit(m[2]); known {
		if n*per >= math.MaxInt64/2 {
			return 0, "that is more than any machine has", false
		}
		return int64(n * per), "", true
	}
	switch strings.ToLower(m[2]) {
	case "":
		return 0, "write the unit: " + strconv.Quote(m[1]+"MiB"), false
	case "k", "kib", "kb", "ki":
		return 0, "did you mean " + strconv.Quote(m[1]+"KiB") + "?", false
	case "m", "mib", "mb", "mi":
		return 0, "did you mean " + strconv.Quote(m[1]+"MiB") + "?", false
	case "g", "gib", "gb", "gi":
		return 0, "did you mean " + strconv.Quote(m[1]+"GiB") + "?", false
	case "t", "tib", "tb", "ti":
		return 0, "did you mean " + strconv.Quote(m[1]+"TiB") + "?", false
	}
	return 0, "units are B, KiB, MiB, GiB, TiB, and kB, MB, GB, TB for powers of ten", false
}

// ParseSize reads "64MiB" as bytes. The error says what was meant.
func ParseSize(text string) (int64, error) {
	bytes, hint, ok := parseSize(text)
	if !ok {
		return 0, model.Errorf(model.Invalid, "cannot read the size %q: %s", text, hint)
	}
	return bytes, nil
}

// Size writes bytes as the declaration would, with the largest unit that
// leaves a whole number.
func Size(bytes int64) string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		per, _ := sizeUnit(u)
		if n := int64(per); bytes >= n && bytes%n == 0 {
			return strconv.FormatInt(bytes/n, 10) + u
		}
	}
	return strconv.FormatInt(bytes, 10) + "B"
}
