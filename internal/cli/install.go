package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/install"
	"kiln/internal/model"
)

func (a *app) installCommand() *cobra.Command {
	var dryRun, force bool
	var root string
	cmd := &cobra.Command{
		Use:   "install [-- DAEMON FLAG…]",
		Short: "Make kiln a service of systemd",
		Long: `Copies this program to /usr/local/bin/kiln, writes /etc/systemd/system/kiln.service, and starts
it now and at every boot. With --dry-run it prints exactly what would be written, and changes
nothing. A later version is installed the same way: the daemon is restarted, servers and traffic
go on. What follows -- are further flags of the daemon.`,
		Example: "  kiln install --dry-run\n  kiln install\n  kiln install --data-dir /srv/kiln -- --server-net 10.99.0.0/16",
		RunE: a.run(func(ctx context.Context, args []string) error {
			plan, err := a.installation(root, args)
			if err != nil {
				return err
			}
			if !dryRun {
				if err := plan.Apply(ctx, force); err != nil {
					return err
				}
			}
			if a.opts.json {
				return a.document(plan)
			}
			if dryRun {
				return plan.Print(a.Stdout)
			}
			for _, f := range plan.Files {
				a.printf("%s (was %s)\n", f.Path, f.State)
			}
			if root != "" {
				return nil
			}
			a.printf("kiln runs as a service: systemctl status kiln, journalctl -u kiln\n")
			return nil
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be written, and change nothing")
	cmd.Flags().BoolVar(&force, "force", false, "replace a unit that was changed by hand")
	rootFlag(cmd, &root)
	return cmd
}

// rootFlag is for packages and tests: a directory that stands for the machine.
func rootFlag(cmd *cobra.Command, root *string) {
	cmd.Flags().StringVar(root, "root", "", "write below this directory, and leave systemd alone: for packages")
}

func (a *app) installation(root string, args []string) (*install.Plan, error) {
	dir, err := filepath.Abs(a.dataDir())
	if err != nil {
		return nil, err
	}
	socket, err := filepath.Abs(a.socket())
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") && len(args) == 1 {
			return nil, usagef("%q is no flag of the daemon; those follow -- ", arg)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot find this program's own file: %w", err)
	}
	return install.NewPlan(install.Options{DataDir: dir, Socket: socket, Arguments: args, Executable: exe, Root: root})
}

func (a *app) uninstallCommand() *cobra.Command {
	var force bool
	var root string
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Undo kiln install",
		Long: `Stops the service and removes its unit and /usr/local/bin/kiln. It refuses while services are
declared: what they run would go on, and nobody would look after it. The data directory stays.`,
		Example: "  kiln destroy shop\n  kiln uninstall",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			if !force {
				if err := a.nothingDeclared(ctx); err != nil {
					return err
				}
			}
			removed, err := install.Remove(ctx, root)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(map[string]any{"removed": removed, "kept": a.dataDir()})
			}
			a.printf("removed %s; images and history stay in %s\n", strings.Join(removed, ", "), a.dataDir())
			return nil
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "although services are declared, or the daemon does not answer: what runs goes on")
	rootFlag(cmd, &root)
	return cmd
}

// nothingDeclared refuses while there are services, or while nobody knows.
func (a *app) nothingDeclared(ctx context.Context) error {
	status, err := a.api().Status(ctx)
	if api.Unreachable(err) {
		if _, there := os.Stat(filepath.Join(a.dataDir(), "instance")); os.IsNotExist(there) {
			return nil // it never ran
		}
		return model.Errorf(model.Precondition, "cannot uninstall: whether services are declared is not known, since the daemon does not answer").
			WithHint("start it (systemctl start kiln), or uninstall with --force: what runs goes on then")
	}
	if err != nil {
		return err
	}
	var names []string
	for _, s := range status.Services {
		names = append(names, s.Name)
	}
	if len(names) > 0 {
		return model.Errorf(model.Precondition, "cannot uninstall: services are declared: %s", strings.Join(names, ", ")).
			WithHint("end them first: kiln destroy %s", names[0])
	}
	return nil
}
