package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) volumesCommand() *cobra.Command {
	list := func(ctx context.Context, _ []string) error { return a.listVolumes(ctx) }
	cmd := &cobra.Command{
		Use:   "volumes",
		Short: "What outlives servers",
		Long: `A volume is declared in kiln.hcl, made with the first server that needs it, and removed by a
person only: neither a deploy, a rollback nor "kiln destroy" touches what it holds. Volumes are
named SERVICE/VOLUME.`,
		Example: "  kiln volumes\n  kiln volumes show db/data\n  kiln volumes backup db/data /backup/db.tar",
		Args:    knownCommand,
		RunE:    a.run(list),
	}
	cmd.AddCommand(
		&cobra.Command{Use: "ls", Short: "All volumes", Example: "  kiln volumes ls --json", Args: cobra.NoArgs, RunE: a.run(list)},
		&cobra.Command{
			Use: "show SERVICE/VOLUME", Short: "One volume and its snapshots",
			Example: "  kiln volumes show db/data",
			Args:    cobra.ExactArgs(1),
			RunE:    a.run(func(ctx context.Context, args []string) error { return a.showVolume(ctx, args[0]) }),
		},
		a.volumeSnapshotCommand(), a.volumeRestoreCommand(), a.volumeRemoveCommand(), a.volumeBackupCommand(), a.volumeImportCommand(),
	)
	return cmd
}

func (a *app) volumeSnapshotCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "snapshot SERVICE/VOLUME", Short: "Keep what a volume holds now",
		Long: `Makes a snapshot, where the file system can: btrfs and xfs, whose files can share their blocks.
With servers running it holds what they had written by then; a database finds there what it would
after a power failure. One is made before each deployment of the service by itself.`,
		Example: "  kiln volumes snapshot db/data\n  kiln volumes snapshot db/data --name before-migration",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.onVolume(ctx, args[0], api.VolumeRequest{Snapshot: name}, (*api.Client).SnapshotVolume)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "what it is called; the time, if not said")
	return cmd
}

func (a *app) volumeRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use: "restore SERVICE/VOLUME SNAPSHOT", Short: "Make a volume what a snapshot is",
		Long: `Replaces what the volume holds. No server may have it: scale the service to 0 before, and up
again after. What the volume held is lost, unless there is a snapshot of that too. Asks first on
a terminal; without one, -y is needed.`,
		Example: "  kiln scale db 0\n  kiln volumes restore db/data before-4-abcdef -y\n  kiln scale db 1",
		Args:    cobra.ExactArgs(2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if err := a.sure("Replace what " + args[0] + " holds?"); err != nil {
				return err
			}
			return a.onVolume(ctx, args[0], api.VolumeRequest{Snapshot: args[1]}, (*api.Client).RestoreVolume)
		}),
	}
}

func (a *app) volumeRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove SERVICE/VOLUME [SNAPSHOT]", Short: "Remove a volume with all that it holds, or one snapshot of it",
		Long:    "Removes it for good. No server may have the volume. Asks first on a terminal; without one, -y is\nneeded.",
		Example: "  kiln volumes remove db/data before-2-abcdef -y\n  kiln volumes remove db/data -y",
		Args:    cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			req := api.VolumeRequest{}
			if len(args) > 1 {
				if req.Snapshot = args[1]; req.Snapshot == "" {
					return usagef("the name of the snapshot is empty; without one the whole volume would be removed")
				}
			}
			if err := a.sure("Remove " + strings.Join(args, " ") + " for good?"); err != nil {
				return err
			}
			return a.onVolume(ctx, args[0], req, (*api.Client).RemoveVolume)
		}),
	}
}

func (a *app) volumeBackupCommand() *cobra.Command {
	return &cobra.Command{
		Use: "backup SERVICE/VOLUME FILE", Short: "Write what a volume holds as a tar archive",
		Long: `Writes owners, modes, times and extended attributes too; "-" writes to standard output. Where the
file system can make snapshots, the archive is of one instant. FILE appears when it is whole.`,
		Example: "  kiln volumes backup db/data /backup/db.tar\n  kiln volumes backup db/data - | zstd | ssh backup 'cat > db.tar.zst'",
		Args:    cobra.ExactArgs(2),
		RunE:    a.run(func(ctx context.Context, args []string) error { return a.backupVolume(ctx, args[0], args[1]) }),
	}
}

func (a *app) volumeImportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "import SERVICE/VOLUME FILE", Short: "Make a volume what a tar archive holds",
		Long: `Replaces what the volume holds by what "kiln volumes backup" or tar wrote, from another machine
perhaps; "-" reads standard input. The owners in it are the users of the servers. No server may
have the volume: scale the service to 0 before, and up again after. If the archive is not whole the
volume stays as it was. Asks first on a terminal; without one, -y is needed.`,
		Example: "  kiln scale db 0\n  kiln volumes import db/data /backup/db.tar -y\n  kiln scale db 1",
		Args:    cobra.ExactArgs(2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			service, volume, err := volumeName(args[0])
			if err != nil {
				return err
			}
			if err := a.sure("Replace what " + args[0] + " holds?"); err != nil {
				return err
			}
			if st, err := os.Stat(args[1]); err == nil && st.IsDir() {
				return invalid("cannot import %s: it is a directory", args[1]).
					WithHint("tar -C %s -c . | kiln volumes import %s - -y", args[1], args[0])
			}
			archive, err := a.open(args[1])
			if err != nil {
				return err
			}
			defer archive.Close()
			from := "standard input"
			if args[1] != "-" {
				from = filepath.Base(args[1])
			}
			done, err := a.api().ImportVolume(ctx, service, volume, api.VolumeRequest{Author: a.author(ctx), Reason: from}, archive)
			return a.volumeResult(done, err)
		}),
	}
}

// sure asks a person, unless -y was said.
func (a *app) sure(question string) error {
	if a.opts.yes {
		return nil
	}
	return a.confirm(question)
}

// volumeName reads SERVICE/VOLUME.
func volumeName(text string) (service, volume string, err error) {
	service, volume, found := strings.Cut(text, "/")
	if !found || !model.ValidServiceName(service) || !model.ValidServiceName(volume) {
		return "", "", usagef("%q is no volume: write SERVICE/VOLUME, as db/data", text)
	}
	return service, volume, nil
}

func (a *app) onVolume(ctx context.Context, name string, req api.VolumeRequest,
	call func(*api.Client, context.Context, string, string, api.VolumeRequest) (*api.VolumeAccepted, error),
) error {
	service, volume, err := volumeName(name)
	if err != nil {
		return err
	}
	req.Author, req.Reason = a.author(ctx), a.opts.message
	done, err := call(a.api(), ctx, service, volume, req)
	return a.volumeResult(done, err)
}

func (a *app) volumeResult(done *api.VolumeAccepted, err error) error {
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(done)
	}
	a.printf("%s/%s: %s\n", done.Service, done.Name, done.Done)
	return nil
}

func (a *app) listVolumes(ctx context.Context) error {
	all, err := a.api().Volumes(ctx)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(all)
	}
	a.table("", "VOLUME\tACCESS\tUSED\tSIZE\tFREE\tSNAPSHOTS\tSERVERS", func(w io.Writer) {
		for _, v := range all.Volumes {
			fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Service, v.Name, orDash(string(v.Access)), model.SizeText(v.Used), sizeOfVolume(v),
				model.SizeText(v.Free), snapshotsText(v), orDash(joined(v.Servers)))
		}
	})
	return nil
}

func joined(ids []model.ServerID) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = string(id)
	}
	return strings.Join(words, " ")
}

func sizeOfVolume(v api.Volume) string {
	switch {
	case v.Size == 0:
		return "-"
	case !v.Enforced:
		return model.SizeText(v.Size) + ", not enforced"
	default:
		return model.SizeText(v.Size)
	}
}

func snapshotsText(v api.Volume) string {
	if !v.CanCopy && v.Path != "" {
		return "not possible here"
	}
	return fmt.Sprint(len(v.Snapshots))
}

func (a *app) showVolume(ctx context.Context, name string) error {
	service, volume, err := volumeName(name)
	if err != nil {
		return err
	}
	all, err := a.api().Volumes(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, v := range all.Volumes {
		if v.Service == service && v.Name == volume {
			if a.opts.json {
				return a.document(v)
			}
			a.describeVolume(v)
			return nil
		}
		names = append(names, v.Service+"/"+v.Name)
	}
	hint := "there is none; a volume is made with the first server that declares it"
	if len(names) > 0 {
		hint = "there are: " + strings.Join(names, ", ")
	}
	return model.Errorf(model.NotFound, "there is no volume %s", name).WithHint("%s", hint)
}

func (a *app) describeVolume(v api.Volume) {
	a.printf("volume      %s/%s, %s\n", v.Service, v.Name, orDash(string(v.Access)))
	switch {
	case v.Path == "":
		a.printf("content     none of it is on this machine\n")
	default:
		a.printf("content     %s, %s used, %s free\n", v.Path, model.SizeText(v.Used), model.SizeText(v.Free))
	}
	if v.Size != 0 {
		enforced := ""
		if !v.Enforced {
			enforced = ", which the file system does not enforce: it was not mounted with project quotas (prjquota)"
		}
		a.printf("size        %s%s\n", model.SizeText(v.Size), enforced)
	}
	if v.Unknown {
		a.printf("journal     knows nothing of it: it was removed, or comes from elsewhere\n")
	} else {
		a.printf("made        %s\n", stamp(v.CreatedAt))
	}
	a.printf("servers     %s\n", orDash(joined(v.Servers)))
	if !v.CanCopy && v.Path != "" {
		a.printf("snapshots   cannot be made: the file system shares no blocks between files; btrfs and xfs do\n")
	}
	for _, s := range v.Snapshots {
		words := s.Reason
		if !s.Quiesced {
			words += ", while servers had it"
		}
		if s.Missing {
			words += "; it is not there any more"
		}
		a.printf("snapshot    %s  %s  %s\n", s.ID, stamp(s.At), printable(words))
	}
}

func (a *app) backupVolume(ctx context.Context, name, file string) error {
	service, volume, err := volumeName(name)
	if err != nil {
		return err
	}
	if file == "-" {
		if isTerminal(a.Stdout) {
			return usagef("standard output is a terminal: name a file, or pipe the archive elsewhere")
		}
		return a.api().ExportVolume(ctx, service, volume, a.Stdout)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	size, err := writeWhole(path, 0o600, func(w io.Writer) error { return a.api().ExportVolume(ctx, service, volume, w) })
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(struct {
			Service string `json:"service"`
			Name    string `json:"name"`
			File    string `json:"file"`
			Bytes   int64  `json:"bytes"`
		}{service, volume, path, size})
	}
	a.printf("%s: written, %s\n", path, model.SizeText(size))
	return nil
}
