package cli

import (
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/model"
)

// length is a flag's value that takes what the declaration does: "10m", "90d".
type length time.Duration

// lengthFlag declares a flag that takes a duration, days too.
func lengthFlag(cmd *cobra.Command, into *time.Duration, name string, value time.Duration, usage string) {
	*into = value
	cmd.Flags().Var((*length)(into), name, usage)
}

// Set implements the flag's value.
func (l *length) Set(text string) error {
	d, err := model.ParseDuration(text)
	if err != nil || d < 0 {
		return usagef("%q is not a duration: write 10m, 36h or 90d", text)
	}
	*l = length(d)
	return nil
}

// String implements the flag's value; nothing for a default of zero.
func (l *length) String() string {
	if *l == 0 {
		return ""
	}
	return model.Duration(*l).String()
}

// Type implements the flag's value.
func (l *length) Type() string { return "duration" }
