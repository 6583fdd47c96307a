package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"golang.org/x/term"

	"kiln/internal/api"
	"kiln/internal/audit"
	"kiln/internal/spec"
)

const (
	defaultDataDir = "/var/lib/kiln"
	defaultFile    = "kiln.hcl"
)

// Program is one run of the command line, with its surroundings.
type Program struct {
	Version string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Env     func(key string) string
	Now     func() time.Time
	Roles   Roles
}

// Roles are the parts of the binary that the command line starts and may not
// import.
type Roles struct {
	// Daemon runs the daemon until ctx ends.
	Daemon func(ctx context.Context, o DaemonOptions) error
	// VerifyJournal verifies the journal of a data directory that no daemon holds.
	VerifyJournal func(ctx context.Context, dataDir string) (*api.AuditReport, error)
	// Account makes the account of such a journal, as far as it can be read.
	Account func(ctx context.Context, dataDir, service string, since, now time.Time) (audit.Account, error)
	// VerifyBackup checks a backup.
	VerifyBackup func(ctx context.Context, r io.Reader) (*api.BackupReport, error)
	// Restore makes a data directory of a backup.
	Restore func(ctx context.Context, r io.Reader, req api.RestoreRequest) (*api.RestoreReport, error)
	// ServeContext offers a build context over conn, as package buildcontext does.
	ServeContext func(ctx context.Context, conn net.Conn, dir, containerfile string) error
}

// DaemonOptions are what `kiln daemon` was called with.
type DaemonOptions struct {
	DataDir    string // absolute
	Socket     string // absolute
	ServerNet  netip.Prefix
	ServiceNet netip.Prefix // addresses of services' names
	Runtime    string       // another OCI runtime; "": the embedded one
	// BuildMemory is the most that builds take together, in bytes; 0: half of
	// the machine's.
	BuildMemory       int64
	RegistryFile      string // how the registry is kept, and who else is served; "": registry.yml in DataDir
	Publish           string // the registry into which what is built is put for others
	PublishLogin      string // a file with credentials of registries
	RequireSignature  bool   // images from elsewhere start only if a key that is trusted has signed them
	SigningKey        string // what images are signed with; "": signing.key in DataDir
	SigningPassphrase string // the file with that key's passphrase; "": it has none
	AgeIdentity       string // what secrets in repositories are encrypted for; "": none
	AlertsFile        string // declares who is told what; "": alerts.hcl in DataDir
	// MetricsListen is an address on which metrics are served; "": none.
	MetricsListen    string
	MetricsRetention time.Duration // 0: the default
	EvidenceBound    int64         // bytes; 0: the default
	EvidenceAge      time.Duration // 0: the default
	MetricsSize      int64         // bytes; 0: the default
	Debug            bool          // log more
	JSON             bool          // log JSON
	Version          string
}

// app is the state of one run.
type app struct {
	Program
	opts     options
	client   *api.Client
	kiln     string           // the socket that the chosen environment names
	warnings spec.Diagnostics // of the declaration
	ran      bool             // a command began: what fails from then on is not its usage
}

// options are the flags that every command takes.
type options struct {
	file    string
	where   string // the environment that is chosen; "": KILN_ENVIRONMENT
	socket  string
	dataDir string
	json    bool
	yes     bool
	wait    bool
	detach  bool
	verbose bool
	timeout time.Duration
	message string
	locked  bool           // build from the lock file alone
	relock  *relockOptions // nil: the lock file is not made anew
}

// Run executes a command line without the program's name and returns the exit
// code.
func (p Program) Run(ctx context.Context, args []string) int {
	a := &app{Program: p}
	root := a.root() //nolint:contextcheck // cobra hands the context to the commands
	root.SetArgs(args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		return exitDone
	}
	if !a.ran {
		if _, ok := errors.AsType[*usageError](err); !ok {
			err = &usageError{err}
		}
	}
	complain(p.Stderr, err)
	if _, ok := errors.AsType[*usageError](err); ok && cmd != nil {
		fmt.Fprintf(p.Stderr, "  %s --help shows how it is used\n", cmd.CommandPath())
	}
	return exitCode(err)
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kiln",
		Short: "Immutable servers: build, prove, switch, drain, roll back",
		Long: `kiln builds a server image once, proves it, runs identical read-only servers from
it, moves traffic to them in one step, and replaces them when anything must change.

Exit codes: 0 done; 1 it failed; 2 the input is wrong; 3 the verdict is unknown
(contact lost, or the watching ended first); 4 the daemon cannot be reached;
5 plan --detailed-exitcode found changes. Of several services the highest counts.`,
		Example:       "  kiln init\n  kiln daemon &\n  kiln deploy",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&a.opts.socket, "socket", "", "the daemon's socket (KILN_SOCKET; default: kiln.sock in the data directory)")
	f.StringVar(&a.opts.dataDir, "data-dir", "", "the data directory (KILN_DATA_DIR; default: "+defaultDataDir+")")
	f.BoolVar(&a.opts.json, "json", false, "print JSON: one document, or one object a line for what streams")
	f.BoolVarP(&a.opts.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&a.opts.wait, "wait", true, "watch until it is done")
	f.BoolVar(&a.opts.detach, "detach", false, "return when it is accepted")
	f.DurationVar(&a.opts.timeout, "timeout", 0, "stop watching after so long; what was started goes on")
	f.StringVarP(&a.opts.message, "message", "m", "", "the reason, for the history")
	f.BoolVarP(&a.opts.verbose, "verbose", "v", false, "show the output of build steps")
	for _, cmd := range []*cobra.Command{
		a.initCommand(), a.validateCommand(), a.planCommand(), a.buildCommand(), a.deployCommand(), a.promoteCommand(), a.rebuildCommand(), a.doctorCommand(),
	} {
		// Only these read the declaration; elsewhere -f follows.
		cmd.Flags().StringVarP(&a.opts.file, "file", "f", defaultFile, "the declaration")
		if name := cmd.Name(); name != "init" && name != "promote" {
			cmd.Flags().StringVarP(&a.opts.where, "environment", "e", "", "the environment, of a declaration that has some (KILN_ENVIRONMENT)")
		}
		root.AddCommand(cmd)
	}
	root.AddCommand(
		a.daemonCommand(), a.abortCommand(), a.statusCommand(), a.serversCommand(), a.releasesCommand(),
		a.rollbackCommand(), a.scaleCommand(), a.approveCommand(), a.canaryCommand(), a.logsCommand(), a.eventsCommand(), a.auditCommand(),
		a.chaosCommand(),
		a.driftCommand(), a.evidenceCommand(), a.metricsCommand(), a.alertCommand(), a.imagesCommand(), a.keyCommand(), a.gcCommand(), a.secretsCommand(), a.recycleCommand(), a.destroyCommand(), a.backupCommand(), a.restoreCommand(),
		a.installCommand(), a.uninstallCommand(), a.versionCommand(),
		a.volumesCommand(), a.lockCommand(),
		manCommand(),
	)
	root.AddCommand(a.hotfixCommand(), a.shellCommand())
	return root
}

// manCommand writes the manual pages, for whoever packages kiln.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIRECTORY",
		Short:   "Write the manual pages",
		Example: "  kiln man /usr/share/man/man1",
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "KILN", Section: "1", Source: "kiln", Manual: "kiln"}, args[0])
		},
	}
}

// knownCommand refuses what is not the name of a command, and says what may be
// meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	near := cmd.SuggestionsFor(args[0])
	if len(near) == 0 {
		return usagef("there is no command %q", cmd.CommandPath()+" "+args[0])
	}
	return usagef("there is no command %q; did you mean %q?", cmd.CommandPath()+" "+args[0], near[0])
}

// run wraps what a command does.
func (a *app) run(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.ran = true
		if a.opts.timeout < 0 {
			return usagef("--timeout is a duration like 30s")
		}
		return f(cmd.Context(), args)
	}
}

func (a *app) detached() bool { return a.opts.detach || !a.opts.wait }

// dataDir returns the data directory by flag, environment or default.
func (a *app) dataDir() string {
	if a.opts.dataDir != "" {
		return a.opts.dataDir
	}
	if dir := a.Env("KILN_DATA_DIR"); dir != "" {
		return dir
	}
	return defaultDataDir
}

// socket returns the daemon's socket by flag, declaration, environment or default.
func (a *app) socket() string {
	if a.opts.socket != "" {
		return a.opts.socket
	}
	if a.kiln != "" && a.opts.dataDir == "" {
		return a.kiln
	}
	if a.opts.dataDir == "" && a.Env("KILN_SOCKET") != "" {
		return a.Env("KILN_SOCKET")
	}
	return filepath.Join(a.dataDir(), "kiln.sock")
}

// api returns the client.
func (a *app) api() *api.Client {
	if a.client == nil {
		a.client = api.NewClient(a.socket())
		a.client.OnLost = func() { a.progressf("lost the daemon, trying again for %s", api.Patience) }
	}
	return a.client
}

// steady calls what may be called twice. Once the daemon has answered, one that
// goes away is waited for.
func (a *app) steady(ctx context.Context, call func() error) error {
	err := call()
	if a.api().Answered() && (api.Unreachable(err) || api.Lost(err)) {
		if err := a.api().Await(ctx); err != nil {
			return err
		}
		return call()
	}
	return err
}

// document prints one JSON document.
func (a *app) document(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// line prints one JSON object on a line of its own.
func (a *app) line(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// declaration reads and parses kiln.hcl, with all its environments.
func (a *app) declaration() (*spec.File, error) {
	src, err := os.ReadFile(a.opts.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, invalid("there is no %s here", a.opts.file).WithHint("write an example with: kiln init; or name another with -f FILE")
	}
	if err != nil {
		return nil, invalid("cannot read %s: %w", a.opts.file, readFailure(err))
	}
	file, diags := spec.Parse(a.opts.file, src)
	if len(diags) > 0 {
		return nil, diags
	}
	if len(file.Warnings) > 0 && a.warnings == nil { // they are said once
		a.warnings = file.Warnings
		fmt.Fprintln(a.Stderr, file.Warnings.Error())
	}
	return file, nil
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
