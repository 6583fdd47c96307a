package cli

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/doctor"
	"kiln/internal/model"
	"kiln/internal/spec"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		Short:   "What this machine lacks, and the command that mends it",
		Long:    "Looks at the machine it is called on; it needs no daemon. Exit code 1: something is missing.",
		Example: "  kiln doctor\n  kiln doctor --json",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			dir, err := filepath.Abs(a.dataDir())
			if err != nil {
				return err
			}
			checks := doctor.Run(ctx, doctor.Machine{DataDir: dir, Listens: a.listens(), Daemon: a.daemon(ctx)})
			code := exitDone
			for _, c := range checks.Checks {
				if c.State == doctor.Fail {
					code = exitFailed
				}
			}
			if a.opts.json {
				if err := a.document(checks); err != nil {
					return err
				}
				return exit(code)
			}
			for _, c := range checks.Checks {
				a.check(c)
			}
			return exit(code)
		}),
	}
}

func (a *app) check(c api.Check) {
	mark := map[string]string{doctor.OK: "ok  ", doctor.Warn: "warn", doctor.Fail: "FAIL"}[c.State]
	a.printf("%s  %-16s %s\n", mark, c.Name, c.Detail)
	if c.Fix != "" {
		a.printf("      %-16s   mend it with: %s\n", "", c.Fix)
	}
}

// listens returns the listeners that the declaration asks for, if there is a
// good one here.
func (a *app) listens() []string {
	src, err := os.ReadFile(a.opts.file)
	if err != nil {
		return nil
	}
	file, diags := spec.Parse(a.opts.file, src)
	if len(diags) > 0 {
		return nil
	}
	seen := map[string]bool{}
	var out []string
	services := file.Services
	for _, e := range file.Environments {
		if where := a.environment(); where == "" || where == e.Name {
			services = append(services, e.Services...)
		}
	}
	for _, s := range services {
		for _, r := range s.Policy.Routes {
			if !seen[r.Listen] {
				seen[r.Listen] = true
				out = append(out, r.Listen)
			}
		}
	}
	return out
}

// daemon asks the daemon for a sign of life.
func (a *app) daemon(ctx context.Context) doctor.Daemon {
	v, err := a.api().Version(ctx)
	if err != nil {
		return doctor.Daemon{Socket: a.socket(), Problem: err.Error()}
	}
	d := doctor.Daemon{Socket: a.socket(), Instance: v.Instance, Version: v.Version}
	if status, err := a.api().Status(ctx); err == nil { // it has just answered; what it says is an extra
		for _, t := range status.Troubles {
			d.Troubles = append(d.Troubles, model.Trouble{What: t})
		}
		for _, s := range status.Services {
			for _, t := range s.Troubles {
				d.Troubles = append(d.Troubles, model.Trouble{Service: s.Name, What: t})
			}
		}
	}
	return d
}
