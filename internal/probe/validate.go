package probe

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// bodyLimit is how much of a body a validation reads.
const bodyLimit = 1 << 20

// Validate asks each validation of the server once, in order. The first that
// does not hold is the error (Precondition): which, what was expected, what was
// seen. Unavailable: ctx ended before they were asked.
func Validate(ctx context.Context, d Dialer, x Execer, t Target, validations []model.Validation) error {
	for _, v := range validations {
		err := validate(ctx, means{d, x}, t, v)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return model.Errorf(model.Unavailable, "cannot finish validation %q of server %s: %w", v.Name, t.Ref.ID, ctx.Err())
		}
		return model.Errorf(model.Precondition, "it does not pass validation %q: %w", v.Name, err)
	}
	return nil
}

// validate returns what is not as expected, in words.
func validate(ctx context.Context, m means, t Target, v model.Validation) error {
	l := look{kind: v.Kind, path: v.Path, port: v.Port, command: v.Command, timeout: positive(v.Timeout.D(), 10*time.Second)}
	switch v.Kind {
	case model.CheckNone:
		return nil
	case model.CheckHTTP:
		a, err := get(ctx, m.dialer, t, l, bodyLimit)
		if err != nil {
			return err
		}
		return a.expect(v)
	case model.CheckTCP:
		if connected, detail := m.connects(ctx, t, l); !connected {
			return fmt.Errorf("%s", detail)
		}
		return nil
	case model.CheckExec:
		seen, err := m.run(ctx, t, l)
		if err != nil {
			return err
		}
		if seen.Code != 0 {
			return fmt.Errorf("%s; expected exit status 0", ended(l, seen))
		}
		return nil
	default:
		return fmt.Errorf("there is no validation of the kind %q", v.Kind)
	}
}

// expect holds an answer against a validation.
func (a *answer) expect(v model.Validation) error {
	switch {
	case v.Status == 0 && a.redirects():
		return fmt.Errorf("%s, which a validation does not follow; expected a status of 200 to 299", a)
	case v.Status == 0 && (a.status < 200 || a.status > 299):
		return fmt.Errorf("%s; expected a status of 200 to 299", a)
	case v.Status != 0 && a.status != v.Status:
		return fmt.Errorf("%s; expected status %d", a, v.Status)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Headers)) {
		if err := a.expectHeader(name, v.Headers[name]); err != nil {
			return err
		}
	}
	if v.Contains != "" && !strings.Contains(string(a.body), v.Contains) {
		return fmt.Errorf("%s; expected the body to contain %q%s", a, v.Contains, a.looked())
	}
	if v.Matches == "" {
		return nil
	}
	re, err := regexp.Compile(v.Matches)
	if err != nil {
		return fmt.Errorf("%q is not a regular expression: %w", v.Matches, err)
	}
	if !re.Match(a.body) {
		return fmt.Errorf("%s; expected the body to match %q%s", a, v.Matches, a.looked())
	}
	return nil
}

func (a *answer) expectHeader(name, want string) error {
	seen := a.header.Values(name)
	if slices.Contains(seen, want) {
		return nil
	}
	name = http.CanonicalHeaderKey(name)
	if len(seen) == 0 {
		return fmt.Errorf("%s; expected the header %s: %s, and there is none", a, name, want)
	}
	return fmt.Errorf("%s; expected the header %s: %s, and it is %s", a, name, want, excerpt([]byte(strings.Join(seen, ", "))))
}

// looked says so where the body was longer than what was read.
func (a *answer) looked() string {
	if len(a.body) < bodyLimit {
		return ""
	}
	return " in its first MiB"
}
