package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// docs/commands.md is made from the commands; UPDATE_SCRIPTS=1 writes it anew.
func TestCommandsAreDocumented(t *testing.T) {
	const path = "../../docs/commands.md"
	var out bytes.Buffer
	out.WriteString("# The command line\n\nMade from the commands themselves: `kiln COMMAND --help` says the same.\n\n")
	root := (&app{}).root()
	out.WriteString("```\n" + root.Long + "\n```\n\nEvery command takes:\n\n```\n" + root.PersistentFlags().FlagUsages() + "```\n")
	walk(root, func(c *cobra.Command) {
		out.WriteString("\n## " + c.CommandPath() + "\n\n" + c.Short + ".\n\n```\n" + c.UseLine() + "\n```\n")
		if c.Long != "" {
			out.WriteString("\n" + c.Long + "\n")
		}
		if flags := c.LocalNonPersistentFlags().FlagUsages(); flags != "" {
			out.WriteString("\n```\n" + flags + "```\n")
		}
		out.WriteString("\nExamples:\n\n```\n" + c.Example + "\n```\n")
	})
	if os.Getenv("UPDATE_SCRIPTS") != "" {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s is not what the commands say (-want +got), UPDATE_SCRIPTS=1 writes it anew:\n%s", path, diff)
	}
}

func walk(c *cobra.Command, f func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			f(sub)
			walk(sub, f)
		}
	}
}

// Every command says what it is for, shows an example that begins with its own
// name, and leaves no flag without words.
func TestEveryCommandHelps(t *testing.T) {
	walk((&app{}).root(), func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: the example is %q", c.CommandPath(), c.Example)
		}
	})
}
