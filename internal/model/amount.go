package model

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Amount is a number of servers, or a percentage of a service's count. In JSON
// it is a number, or a string such as "25%".
type Amount struct {
	N       int
	Percent bool
}

// Servers returns an amount that is a number.
func Servers(n int) Amount { return Amount{N: n} }

// ParseAmount reads "3" or "25%".
func ParseAmount(text string) (Amount, error) {
	digits, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || percent && n > 100 {
		return Amount{}, fmt.Errorf("%q is neither a number of servers nor a percentage such as \"25%%\"", text)
	}
	return Amount{n, percent}, nil
}

// Down returns how many of count servers it is, a percentage rounded down.
func (a Amount) Down(count int) int {
	if a.Percent {
		return count * a.N / 100
	}
	return a.N
}

// Up is Down with a percentage rounded up.
func (a Amount) Up(count int) int {
	if a.Percent {
		return (count*a.N + 99) / 100
	}
	return a.N
}

// String writes it as ParseAmount reads it.
func (a Amount) String() string {
	if a.Percent {
		return strconv.Itoa(a.N) + "%"
	}
	return strconv.Itoa(a.N)
}

// MarshalJSON writes a number, or a string with a percentage.
func (a Amount) MarshalJSON() ([]byte, error) {
	if a.Percent {
		return json.Marshal(a.String())
	}
	return json.Marshal(a.N)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (a *Amount) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) != nil {
		text = string(b)
	}
	parsed, err := ParseAmount(text)
	if err == nil {
		*a = parsed
	}
	return err
}
