package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) hotfixCommand() *cobra.Command {
	var reason string
	var ttl time.Duration
	var aside bool
	cmd := &cobra.Command{
		Use:   "hotfix SERVER --reason TEXT [-- COMMAND]",
		Short: "A terminal in a server in which its root is writable; the server is replaced afterwards",
		Long: `Opens a terminal in a server, as its root, in which for this session alone the server's
files can be changed. From then on the server is tainted: it is shown so everywhere, and
an identical, unchanged one takes its place before the time is up.

The session is recorded, and so is every file that it adds, changes or removes, with the
lines of a Containerfile that make the change part of the next image: kiln hotfix show.`,
		Example: "  kiln hotfix shop-ab2c3d --reason \"find out why orders hang\"\n  kiln hotfix shop-ab2c3d --reason \"stop the leak\" --ttl 30m -- sed -i s/16/64/ /etc/shop.conf",
		Args:    serverAndCommand,
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.session(ctx, model.ServerID(args[0]), api.TerminalRequest{
				Kind: model.SessionHotfix, Reason: cmp.Or(reason, a.opts.message), Command: args[1:], OutOfRotation: aside, TTL: model.Duration(ttl),
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept, and is needed")
	lengthFlag(cmd, &ttl, "ttl", time.Hour, "the server is replaced before then")
	cmd.Flags().BoolVar(&aside, "out-of-rotation", false, "replace the server at once; it waits without traffic until the time is up")
	cmd.AddCommand(a.extendCommand(), a.sessionsCommand(), a.sessionCommand())
	return cmd
}

func (a *app) shellCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "shell SERVER [-- COMMAND]",
		Short: "A terminal in a server in which nothing is writable that was not before",
		Long: `Opens a terminal in a server, as whom its own processes run. The server is tainted by it,
and an identical one takes its place, as after a hotfix; shell = "deny" in the declaration
refuses both.`,
		Example: "  kiln shell shop-ab2c3d\n  kiln shell shop-ab2c3d -- cat /proc/meminfo",
		Args:    serverAndCommand,
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.session(ctx, model.ServerID(args[0]), api.TerminalRequest{
				Kind: model.SessionShell, Reason: cmp.Or(reason, a.opts.message), Command: args[1:],
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept")
	return cmd
}

// serverAndCommand wants a server, and a command only after --.
func serverAndCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s wants a server", cmd.CommandPath())
	}
	if at := cmd.ArgsLenAtDash(); at != 1 && (at >= 0 || len(args) > 1) {
		return usagef("%s wants one server, and a command only after --", cmd.CommandPath())
	}
	if !model.ValidServerID(args[0]) {
		return usagef("%q is not a server's name, as shop-ab2c3d; kiln servers lists them", args[0])
	}
	return nil
}

func (a *app) extendCommand() *cobra.Command {
	var reason string
	var by time.Duration
	cmd := &cobra.Command{
		Use:     "extend SERVER --reason TEXT",
		Short:   "Give a hotfix more time, at most twice",
		Example: "  kiln hotfix extend shop-ab2c3d --reason \"the dump takes longer\" --by 30m",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			x, err := a.api().Extend(ctx, model.ServerID(args[0]), api.ExtendRequest{
				By: a.author(ctx), Reason: cmp.Or(reason, a.opts.message), For: model.Duration(by),
			})
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(x)
			}
			a.printf("%s of %s: until %s%s\n", x.ID, x.Server, stamp(x.Until), extensionsLeft(x.Left))
			return nil
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept, and is needed")
	lengthFlag(cmd, &by, "by", 0, "so much more (default 30m)")
	return cmd
}

func extensionsLeft(left *int) string {
	switch {
	case left == nil: // an earlier daemon does not say
		return ""
	case *left == 0:
		return ", and no longer"
	case *left == 1:
		return ", can be extended once more"
	default:
		return fmt.Sprintf(", can be extended %d times more", *left)
	}
}

func (a *app) sessionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls [SERVER|SERVICE]",
		Short:   "Who had a terminal in which server, hotfixes and shells, the latest first",
		Example: "  kiln hotfix ls\n  kiln hotfix ls shop --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			var q api.SessionQuery
			if len(args) == 1 {
				if q.Service = args[0]; model.ValidServerID(args[0]) {
					q.Server, q.Service = model.ServerID(args[0]), ""
				}
			}
			found, err := a.api().Sessions(ctx, q)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(found)
			}
			a.listSessions(found.Sessions)
			return nil
		}),
	}
}

func (a *app) listSessions(sessions []api.Session) {
	if len(sessions) == 0 {
		a.printf("nobody had a terminal in a server\n")
		return
	}
	a.table("", "SESSION\tKIND\tSERVER\tBY\tOPENED\tENDED\tFILES\tREASON", func(w io.Writer) {
		for _, x := range sessions {
			ended, files := "open until "+stamp(x.Until), ""
			if e := x.Ended; e != nil {
				ended, files = printable(e.How), fmt.Sprintf("+%d ~%d -%d", e.Added, e.Changed, e.Removed)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
				x.ID, x.Kind, x.Server, printable(x.By), stamp(x.OpenedAt), ended, orDash(files), orDash(printable(x.Reason)))
		}
	})
}

func (a *app) sessionCommand() *cobra.Command {
	var cast, export string
	cmd := &cobra.Command{
		Use:   "show SESSION",
		Short: "What a session did: its changes as a diff, and as lines for the Containerfile",
		Long: `Shows what a session has changed, as a diff, and the lines of a Containerfile that make it
part of the next image. --cast writes the recording (asciicast v2: asciinema play FILE).
--export writes a directory that builds the changed image: Containerfile, the files that
it copies, and the diff as changes.patch.`,
		Example: "  kiln hotfix show s-ab2c3d\n  kiln hotfix show s-ab2c3d --cast session.cast\n  kiln hotfix show s-ab2c3d --export fix/",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			x, err := a.api().Session(ctx, model.SessionID(args[0]))
			if err != nil {
				return err
			}
			if cast != "" {
				return a.saveRecording(ctx, x.ID, cast)
			}
			if export != "" {
				return a.exportSession(ctx, x, export)
			}
			if a.opts.json {
				return a.document(x)
			}
			return a.showSession(x)
		}),
	}
	cmd.Flags().StringVar(&cast, "cast", "", "write the recording (asciicast v2) to the file, or with \"-\" to standard output")
	cmd.Flags().StringVar(&export, "export", "", "write what builds the changed image into the directory")
	cmd.MarkFlagsMutuallyExclusive("cast", "export")
	return cmd
}

// saveRecording writes the recording of a session, in which passwords may be
// seen, to a file of the caller's alone, or to standard output.
func (a *app) saveRecording(ctx context.Context, id model.SessionID, path string) error {
	write := func(w io.Writer) error { return a.api().SessionFile(ctx, id, "recording.cast", w) }
	if path == "-" {
		return write(a.Stdout)
	}
	size, err := writeWhole(path, 0o600, write)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(struct {
			Session model.SessionID `json:"session"`
			File    string          `json:"file"`
			Bytes   int64           `json:"bytes"`
		}{id, path, size})
	}
	a.printf("%s: written, %s\n", path, model.SizeText(size))
	return nil
}

// exportSession writes what a session leaves into a directory, which is made if
// there is none.
func (a *app) exportSession(ctx context.Context, x *api.SessionShown, dir string) error {
	if len(x.Files) == 0 {
		return model.Errorf(model.Precondition, "cannot export session %s: nothing of it was kept", x.ID)
	}
	for _, name := range x.Files {
		if !filepath.IsLocal(name) {
			return model.Errorf(model.Internal, "cannot export session %s: %q is no name of a file", x.ID, name)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return invalid("cannot write %s: %w", path, readFailure(err))
		}
		_, err := writeWhole(path, 0o644, func(w io.Writer) error { return a.api().SessionFile(ctx, x.ID, name, w) })
		if err != nil {
			return err
		}
	}
	if a.opts.json {
		return a.document(struct {
			Session model.SessionID `json:"session"`
			Dir     string          `json:"dir"`
			Files   []string        `json:"files"`
		}{x.ID, dir, x.Files})
	}
	a.printf("%s: %d files, its %s builds the changed image\n", dir, len(x.Files), filepath.Join(dir, "Containerfile"))
	return nil
}

// showSession prints what a session did.
func (a *app) showSession(x *api.SessionShown) error {
	a.printf("%s  %s in %s by %s\n", x.ID, x.Kind, x.Server, printable(x.By))
	if x.Reason != "" {
		a.printf("  reason   %s\n", printable(x.Reason))
	}
	if len(x.Command) > 0 {
		a.printf("  command  %s\n", printable(strings.Join(x.Command, " ")))
	}
	a.printf("  opened   %s, its server gone by %s\n", stamp(x.OpenedAt), stamp(x.Until))
	for _, e := range x.Extensions {
		a.printf("  extended %s by %s: %s\n", stamp(e.At), printable(e.By), printable(e.Reason))
	}
	if x.Ended == nil {
		a.printf("  it is open\n")
		return nil
	}
	a.printf("  ended    %s: %s\n", stamp(x.Ended.At), printable(x.Ended.How))
	for _, m := range x.Ended.Missing {
		a.printf("  missing  %s\n", printable(m))
	}
	var changes []struct {
		Path string `json:"path"`
		Kind string `json:"kind"`
		Mode string `json:"mode"`
		Type string `json:"type"`
		UID  uint32 `json:"uid"`
		GID  uint32 `json:"gid"`
	}
	if len(x.Changes) > 0 {
		if err := json.Unmarshal(x.Changes, &changes); err != nil {
			return model.Errorf(model.Internal, "cannot read the changes of session %s: %w", x.ID, err)
		}
	}
	if len(changes) == 0 {
		a.printf("  it changed no file\n")
		return nil
	}
	section(a, "changed", changes, func(i int) string {
		c := changes[i]
		if c.Kind == "removed" {
			return c.Kind + " " + c.Path
		}
		return fmt.Sprintf("%s %s (%s %s, %d:%d)", c.Kind, c.Path, c.Type, c.Mode, c.UID, c.GID)
	})
	for _, text := range []struct{ title, text string }{{"as a diff", x.Patch}, {"for the Containerfile", x.Containerfile}} {
		if text.text == "" {
			continue
		}
		a.printf("\n%s:\n\n", text.title)
		for line := range strings.Lines(text.text) {
			a.printf("  %s\n", printable(strings.TrimSuffix(line, "\n")))
		}
	}
	return nil
}
