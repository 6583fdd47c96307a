package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/spec"
)

func (a *app) rebuildCommand() *cobra.Command {
	var base string
	var turn turn
	cmd := &cobra.Command{
		Use:   "rebuild --base NAME [SERVICE…]",
		Short: "Build the services that stand on a base anew, and deploy them one after the other",
		Long: `Builds the image of every declared service whose image stands on the base (its Containerfile
says FROM NAME), on the image that bears the name now, and deploys one after the other, each
by its own strategy. The first that fails ends it: those after it stay as they are.

Standard output gets one JSON line for each service.`,
		Example: "  kiln images import bookworm.tar --name base/debian:12\n  kiln rebuild --base base/debian:12 -m \"security update\"",
		RunE: a.run(func(ctx context.Context, names []string) error {
			if base == "" {
				return usagef("--base is missing: the name that FROM calls the base by, as base/debian:12")
			}
			mode, err := turn.mode()
			if err != nil {
				return err
			}
			services, err := a.standingOn(ctx, base, names)
			if err != nil {
				return err
			}
			for i, s := range services {
				a.progressf("%s: %d of %d that stand on %s", s.Name, i+1, len(services), base)
				if code := a.deploy(ctx, s, "", mode); code != exitDone {
					for _, later := range services[i+1:] {
						a.progressf("%s: left as it is, since %s failed", later.Name, s.Name)
					}
					return exit(code)
				}
			}
			return nil
		}),
	}
	turn.flags(cmd)
	cmd.Flags().StringVar(&base, "base", "", "the base, as FROM calls it")
	return cmd
}

// standingOn returns the declared services whose image in service was built on
// the base.
func (a *app) standingOn(ctx context.Context, base string, names []string) ([]*spec.Service, error) {
	services, err := a.chosen(names)
	if err != nil {
		return nil, err
	}
	if _, err := a.api().Image(ctx, base); err != nil {
		if model.CodeOf(err) == model.NotFound {
			return nil, invalid("cannot rebuild: no image is called %s here", base).
				WithHint("kiln images lists what is here; kiln images import and kiln images pull bring more")
		}
		return nil, err
	}
	status, err := a.api().Status(ctx)
	if err != nil {
		return nil, err
	}
	var standing []*spec.Service
	for _, s := range services {
		i := slices.IndexFunc(status.Services, func(x api.ServiceStatus) bool { return x.Name == s.Name })
		if s.Build == nil || i < 0 || status.Services[i].Image == "" {
			continue
		}
		img, err := a.api().Image(ctx, string(status.Services[i].Image))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(img.Provenance.Parents, func(p model.Parent) bool { return reconcile.SameName(p.Name, base) }) {
			standing = append(standing, s)
		}
	}
	if len(standing) == 0 {
		a.progressf("no service of %s that is in service stands on %s", a.opts.file, base)
	}
	return standing, nil
}
