package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
)

func (a *app) secretsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "secrets [SERVICE]",
		Short: "Which versions of secrets there are, and which releases have them",
		Long: `Lists the secrets of services by version: when each was set and by whom, which releases have it, on
how many servers it is, and whether its value is kept. No command shows a value.`,
		Example: "  kiln secrets\n  kiln secrets shop --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			service := ""
			if len(args) == 1 {
				service = args[0]
			}
			list, err := a.api().Secrets(ctx, service)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(list)
			}
			a.listSecrets(list)
			return nil
		}),
	}
}

func (a *app) listSecrets(list *api.Secrets) {
	a.table("", "SERVICE\tSECRET\tVERSION\tAS\tSET\tBY\tRELEASES\tSERVERS\tVALUE", func(w io.Writer) {
		for _, x := range list.Secrets {
			kept := "kept"
			if !x.Kept {
				kept = "not kept"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%s\n", x.Service, x.Name, x.Version, x.As, stamp(x.SetAt), orDash(printable(x.SetBy)),
				numbers(x), x.Servers, kept)
		}
	})
}

// numbers lists the releases that have the version, of many the newest.
func numbers(x api.Secret) string {
	const most = 5
	var words []string
	for _, number := range slices.Backward(x.Releases) {
		if len(words) == most {
			words = append(words, "…")
			break
		}
		words = append(words, strconv.Itoa(number))
	}
	text := strings.Join(words, " ")
	if x.InService {
		text += " (in service)"
	}
	return text
}
