package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

// evidence is the part of what was collected that is shown to people; --json
// gives all of it.
type evidence struct {
	Events []struct {
		Seq  uint64 `json:"seq"`
		Text string `json:"text"`
	} `json:"events"`
	Kernel []string `json:"kernel"`
	Log    []struct {
		Text string `json:"text"`
	} `json:"log"`
	Changes []struct {
		Path string `json:"path"`
		Kind string `json:"kind"`
	} `json:"changes"`
	Listening []struct {
		Network string `json:"network"`
		Address string `json:"address"`
	} `json:"listening"`
	Processes []struct {
		PID     int    `json:"pid"`
		Command string `json:"command"`
	} `json:"processes"`
}

const shownLines = 20 // of each kind of evidence, the last ones

// record prints a death record.
func (a *app) record(r *api.DeathRecord) {
	a.printf("%s  release %d of %s, image %s\n", r.Server, r.Release, r.Service, r.Image.Short())
	a.printf("  ended    %s\n  reason   %s\n", stamp(r.EndedAt), r.Reason)
	if r.Exit != nil {
		a.printf("  process  %s\n", r.Exit)
	}
	if r.Evidence != "" {
		a.printf("  archive  %s\n", r.Evidence)
	}
	for _, m := range r.Missing {
		a.printf("  missing  %s\n", m)
	}
	var e evidence
	if len(r.Files) == 0 {
		return
	}
	if err := json.Unmarshal(r.Files, &e); err != nil {
		a.printf("  what was collected cannot be read: %s\n", err)
		return
	}
	section(a, "what led there", e.Events, func(i int) string { return fmt.Sprintf("%6d %s", e.Events[i].Seq, e.Events[i].Text) })
	section(a, "the kernel said", e.Kernel, func(i int) string { return e.Kernel[i] })
	section(a, "changed", e.Changes, func(i int) string { return e.Changes[i].Kind + " " + e.Changes[i].Path })
	section(a, "listened", e.Listening, func(i int) string { return e.Listening[i].Network + " " + e.Listening[i].Address })
	section(a, "processes", e.Processes, func(i int) string { return e.Processes[i].Command })
	section(a, "last lines", e.Log, func(i int) string { return e.Log[i].Text })
}

func section[T any](a *app, title string, items []T, text func(int) string) {
	if len(items) == 0 {
		return
	}
	a.printf("  %s\n", title)
	from := max(0, len(items)-shownLines)
	if from > 0 {
		a.printf("    … %d more with --json\n", from)
	}
	for i := from; i < len(items); i++ {
		a.printf("    %s\n", printable(text(i)))
	}
}

func (a *app) evidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "evidence",
		Short:   "What ended servers left for the root cause",
		Example: "  kiln evidence ls shop\n  kiln evidence show shop-ab2c3d\n  kiln evidence export shop-ab2c3d",
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.evidenceList(), a.evidenceShow(), a.evidenceExport())
	return cmd
}

func (a *app) evidenceList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls [SERVICE]",
		Short:   "What is kept of ended servers and of sessions in them",
		Example: "  kiln evidence ls shop\n  kiln evidence ls --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			service := ""
			if len(args) == 1 {
				service = args[0]
			}
			list, err := a.api().Evidence(ctx, service)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(list)
			}
			for _, e := range list.Evidence {
				a.evidenceLine(e)
			}
			a.printf("%d %s, %s\n", list.Archives, plural(list.Archives, "archive"), model.SizeText(list.Bytes))
			return nil
		}),
	}
}

func (a *app) evidenceLine(e api.EvidenceEntry) {
	name, size := string(e.Server), model.SizeText(e.Size)
	if e.Session != "" {
		name = string(e.Session)
	}
	switch {
	case e.Digest == "":
		size = "none"
	case !e.Kept:
		size = "removed"
	}
	reason := e.Reason
	if e.Exit != nil && e.Exit.OOM {
		reason += " (out of memory)"
	}
	a.printf("%s  %-20s %9s  %s\n", stamp(e.At), name, size, printable(reason))
}

func (a *app) evidenceShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show SERVER",
		Short:   "The death record of a server",
		Example: "  kiln evidence show shop-ab2c3d --json",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if !model.ValidServerID(args[0]) {
				return usagef("%q is not the id of a server: those are SERVICE-xxxxxx", args[0])
			}
			record, err := a.api().Record(ctx, model.ServerID(args[0]))
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(record)
			}
			a.record(record)
			return nil
		}),
	}
}

func (a *app) evidenceExport() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export SERVER|SESSION|DIGEST",
		Short: "The whole archive of a server or a session, as a file",
		Long: `Writes the archive (tar, compressed with zstd) as it was kept, and checks that it has the digest that the
journal names. Its name is that of the server or session with .tar.zst, unless -o says otherwise; -o - is standard output.`,
		Example: "  kiln evidence export shop-ab2c3d\n  kiln evidence export shop-ab2c3d -o - | tar --zstd -tvf -",
		Args:    cobra.ExactArgs(1),
		RunE:    a.run(func(ctx context.Context, args []string) error { return a.export(ctx, args[0], output) }),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "where to; - is standard output")
	return cmd
}

// exported is what --json says of an archive that was written.
type exported struct {
	File   string `json:"file"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// export writes an archive to a file that is there whole or not at all.
func (a *app) export(ctx context.Context, name, output string) error {
	digest := ""
	write := func(w io.Writer) (err error) {
		sum := sha256.New()
		digest, err = a.api().Archive(ctx, name, io.MultiWriter(w, sum))
		if err != nil {
			return err
		}
		return matches(sum.Sum(nil), digest)
	}
	if output == "-" {
		return write(a.Stdout)
	}
	if output == "" {
		output = filepath.Base(name) + ".tar.zst"
	}
	size, err := writeWhole(output, 0o600, write)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(exported{output, digest, size})
	}
	a.printf("%s  %s  %s\n", output, model.SizeText(size), digest)
	return nil
}

// matches tells whether what came is what the daemon said it would be.
func matches(sum []byte, digest string) error {
	if got := "sha256:" + hex.EncodeToString(sum); digest != "" && got != digest {
		return model.Errorf(model.Unavailable, "cannot write the archive: what came has the digest %s instead of %s", got, digest).WithHint("ask again")
	}
	return nil
}
