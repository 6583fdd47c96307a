package cli

import (
	"bytes"
	"context"
	"io"

	"github.com/spf13/cobra"

	"kiln/internal/audit"
	"kiln/internal/model"
)

// reportFormats are the ways to write an account.
var reportFormats = map[string]func(audit.Account, io.Writer) error{
	"html": audit.Account.HTML, "csv": audit.Account.CSV, "json": audit.Account.JSON,
}

func (a *app) reportCommand() *cobra.Command {
	var since, format, output string
	cmd := &cobra.Command{
		Use:   "report [SERVICE]",
		Short: "The account of what happened, for an auditor",
		Long: `Says which image (digest, commit, author, reason) ran when and on which servers, who deployed it, what its
checks said, every hotfix, drift, chaos experiment and planned replacement, and whether the journal that all of it is
made from is whole. As html it is one page that needs nothing else, for a browser or a printer; csv is one table; json is
the whole of it. Where the journal is not whole the report says so, and the command ends with 1.`,
		Example: "  kiln audit report shop --since 90d --format html -o shop.html\n  kiln audit report --since 2026-07-01T00:00:00Z --format csv",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			service := ""
			if len(args) == 1 {
				service = args[0]
			}
			if a.opts.json {
				format = "json"
			}
			return a.report(ctx, service, since, format, output)
		}),
	}
	cmd.Flags().StringVar(&since, "since", "90d", "what happened since then: 90d, 12h, or 2026-01-02T15:04:05Z")
	cmd.Flags().StringVar(&format, "format", "html", "html, json or csv")
	cmd.Flags().StringVarP(&output, "output", "o", "", "where to; else standard output")
	return cmd
}

func (a *app) report(ctx context.Context, service, since, format, output string) error {
	begin, err := a.moment(since)
	if err != nil {
		return err
	}
	write := reportFormats[format]
	if write == nil {
		return usagef("%q is no format: it is html, json or csv", format)
	}
	var account audit.Account
	err = a.api().Account(ctx, service, begin, &account)
	if model.CodeOf(err) == model.Unavailable {
		// As with verify: no daemon runs on a damaged journal.
		found, offline := a.Roles.Account(ctx, a.dataDir(), service, begin, a.Now())
		switch {
		case offline == nil && service != "" && len(found.Services) == 0:
			err = model.Errorf(model.NotFound, "there is no service %q in the journal of %s", service, a.dataDir())
		case offline == nil:
			account, err = found, nil
		}
	}
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := write(account, &text); err != nil {
		return err
	}
	if err := a.writeOut(output, text.Bytes()); err != nil {
		return err
	}
	if !account.Chain.Whole {
		return exit(exitFailed)
	}
	return nil
}

// writeOut writes what was made to a file, which everybody may read, or to
// standard output ("" or "-").
func (a *app) writeOut(path string, content []byte) error {
	write := func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
	if path == "" || path == "-" {
		return write(a.Stdout)
	}
	_, err := writeWhole(path, 0o644, write)
	return err
}
