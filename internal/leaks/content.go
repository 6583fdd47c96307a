package leaks

import (
	"bytes"
	"cmp"
	"slices"
)

// hit is a secret in a window.
type hit struct {
	rule string
	what string
	at   int // byte of the window
}

// seeker knows all literals that keys and tokens have.
type seeker struct {
	matcher *matcher
	judge   []func(window []byte, at int) (hit, bool) // by the literal's number
}

func newSeeker() *seeker {
	k := &seeker{matcher: newMatcher()}
	for _, m := range keyMarks {
		k.add(m.literal, func(window []byte, at int) (hit, bool) {
			what, from := m.key(window, at)
			if what == "" {
				return hit{}, false
			}
			if before := window[max(0, from-lookBehind):from]; bytes.Contains(before, []byte(`"service_account"`)) {
				return hit{ruleGCP, "the private key of a service account of Google Cloud", from}, true
			}
			return hit{rulePrivateKey, what, from}, true
		})
	}
	for i := range shapes {
		s := &shapes[i]
		for _, l := range s.literals {
			k.add(l, func(window []byte, at int) (hit, bool) {
				token, ok := s.match(window, at)
				return hit{s.rule, s.kind + ", " + masked(token), at}, ok
			})
		}
	}
	for _, l := range jwtBegins {
		k.add(l, func(window []byte, at int) (hit, bool) {
			rule, token := jwt(window, at)
			what := "a signed token (JWT), " + masked(token)
			if rule == ruleKubernetes {
				what = "a token of a service account of Kubernetes, " + masked(token)
			}
			return hit{rule, what, at}, rule != ""
		})
	}
	k.add(`"auths"`, func(window []byte, at int) (hit, bool) {
		from := bytes.LastIndexByte(window[:at], '{')
		if from < 0 || at-from > 64 {
			return hit{}, false
		}
		text := object(window[from:min(len(window), from+longestKey)])
		if l := dockerLogins(text); len(l) > 0 {
			return hit{ruleDocker, "a login to a registry, " + l[0].what, from + l[0].at}, true
		}
		return hit{}, false
	})
	return k
}

func (k *seeker) add(literal string, judge func([]byte, int) (hit, bool)) {
	k.matcher.add(literal, len(k.judge))
	k.judge = append(k.judge, judge)
}

// object returns the JSON object that text begins with; all of it, if it does not
// end.
func object(text []byte) []byte {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return text[:i+1]
			}
		}
	}
	return text
}

// hits returns the secrets that begin in window[from:to], in their order. What is
// before and behind that is there to judge them by.
func (k *seeker) hits(window []byte, from, to int) []hit {
	var found []hit
	k.matcher.find(window, func(id, at int) {
		if at < from || at >= to {
			return
		}
		if h, ok := k.judge[id](window, at); ok {
			found = append(found, h)
		}
	})
	slices.SortFunc(found, func(a, b hit) int {
		return cmp.Or(a.at-b.at, cmp.Compare(a.rule, b.rule))
	})
	return slices.CompactFunc(found, func(a, b hit) bool { return a.at == b.at && a.rule == b.rule })
}

const (
	windowSize = 1 << 20        // bytes of a file that are searched at a time
	lookBehind = 4 << 10        // bytes before a hit that are there to judge it by
	lookAhead  = longestKey + 1 // and behind its beginning
)
