package cli

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/model"
	"kiln/internal/spec"
)

// defaultServerNet is where servers get their addresses: a range that is set
// apart for tests between networks, and so is nobody's (RFC 2544).
const defaultServerNet = "198.18.0.0/16"

func (a *app) daemonCommand() *cobra.Command {
	var o DaemonOptions
	var network, names, memory, metricsSize, retention, evidenceBound, evidenceAge string
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the daemon",
		Long: `Runs the daemon: the API, the journal, the decisions and the probes. Servers and traffic do
not need it: ended by SIGTERM or SIGKILL they go on, and a new daemon takes over where
the old one stopped. Where no service is declared any more, SIGTERM ends everything of the
instance and leaves nothing behind. It has to run as root.`,
		Example: "  kiln daemon\n  kiln daemon --data-dir /srv/kiln --socket /run/kiln.sock",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			dir, err := filepath.Abs(a.dataDir())
			if err != nil {
				return err
			}
			socket, err := filepath.Abs(a.socket())
			if err != nil {
				return err
			}
			if o.ServerNet, err = netip.ParsePrefix(network); err != nil || !o.ServerNet.Addr().Is4() {
				return usagef("--server-net: %q is not a network like %s", network, defaultServerNet)
			}
			if o.ServiceNet, err = serviceNet(names, o.ServerNet); err != nil {
				return err
			}
			if memory != "" {
				if o.BuildMemory, err = spec.ParseSize(memory); err != nil {
					return usagef("--build-memory: %s", err)
				}
			}
			if err := cmp.Or(o.checkMetrics(retention, metricsSize), o.checkEvidence(evidenceBound, evidenceAge), o.placeFiles()); err != nil {
				return err
			}
			o.DataDir, o.Socket, o.Version, o.JSON = dir, socket, a.Version, a.opts.json
			return a.Roles.Daemon(ctx, o)
		}),
	}
	cmd.Flags().StringVar(&network, "server-net", defaultServerNet, "where servers get their addresses")
	cmd.Flags().StringVar(&names, "service-net", model.DefaultServiceNet, "where the names of services have their addresses")
	cmd.Flags().StringVar(&o.Runtime, "runtime", "", "another OCI runtime than the embedded runc, as /usr/bin/crun")
	cmd.Flags().StringVar(&memory, "build-memory", "", "the most memory that builds take together, as 2GiB (default half of the machine's)")
	cmd.Flags().StringVar(&o.AlertsFile, "alerts", "", "who is told what (default alerts.hcl in the data directory)")
	cmd.Flags().StringVar(&o.RegistryFile, "registry", "", "how the registry is kept, and who else is served (default registry.yml in the data directory)")
	cmd.Flags().StringVar(&o.SigningKey, "signing-key", "", "what images are signed with (default signing.key in the data directory, which is made where it is missing)")
	cmd.Flags().StringVar(&o.SigningPassphrase, "signing-passphrase", "", "the file with the passphrase of that key")
	cmd.Flags().StringVar(&o.Publish, "publish", "", "put what is built here, and what is said of it, into this registry for others, as registry.example.com/team")
	cmd.Flags().StringVar(&o.PublishLogin, "publish-login", "", "the file with the credentials of registries, as docker login writes it (default that of the daemon's user)")
	cmd.Flags().BoolVar(&o.RequireSignature, "require-signature", false, "start images from elsewhere only if a trusted key has signed them (those built here always have to be)")
	cmd.Flags().StringVar(&o.AgeIdentity, "age-identity", "", "the file with the age identity that secrets in repositories are encrypted for")
	cmd.Flags().StringVar(&o.MetricsListen, "metrics-listen", "", "serve metrics here, for reading only, as 127.0.0.1:9090 (default on the API's socket alone)")
	cmd.Flags().StringVar(&retention, "metrics-retention", defaultMetricsRetention, "how long metrics are kept")
	cmd.Flags().StringVar(&metricsSize, "metrics-size", defaultMetricsSize, "how much room metrics may take")
	cmd.Flags().StringVar(&evidenceBound, "evidence-bound", "256MiB", "how much room what ended servers leave may take; the oldest goes first")
	cmd.Flags().StringVar(&evidenceAge, "evidence-age", "90d", "how long it is kept")
	cmd.Flags().BoolVar(&o.Debug, "debug", false, "log more")
	return cmd
}

// placeFiles makes the names of files independent of the working directory.
func (o *DaemonOptions) placeFiles() (err error) {
	for _, file := range []*string{&o.AlertsFile, &o.RegistryFile, &o.SigningKey, &o.SigningPassphrase, &o.AgeIdentity, &o.PublishLogin} {
		if *file == "" {
			continue
		}
		if *file, err = filepath.Abs(*file); err != nil {
			return err
		}
	}
	return nil
}

// serviceNet reads the network of the names of services, which must not be the
// servers' one.
func serviceNet(text string, servers netip.Prefix) (netip.Prefix, error) {
	const fewest = 24 // so that two services of an instance hardly ever share an address
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !network.Addr().Is4() || network.Bits() > fewest:
		return network, usagef("--service-net: %q is not a network like %s, of at least 256 addresses", text, model.DefaultServiceNet)
	case network.Overlaps(servers):
		return network, usagef("--service-net: %s and --server-net %s overlap", network, servers)
	}
	return network.Masked(), nil
}

// The bounds of metrics.
const (
	defaultMetricsRetention = "15d"
	defaultMetricsSize      = "1GiB"
	leastMetrics            = 24 * time.Hour
	leastMetricsSize        = 16 << 20
)

// checkMetrics reads and checks what the daemon is told about metrics.
func (o *DaemonOptions) checkMetrics(retention, size string) (err error) {
	if o.MetricsSize, err = spec.ParseSize(size); err != nil {
		return usagef("--metrics-size: %s", err)
	}
	if o.MetricsSize < leastMetricsSize {
		return usagef("--metrics-size: %s is too little; at least 16MiB are needed", size)
	}
	kept, err := model.ParseDuration(retention)
	if err != nil {
		return usagef("--metrics-retention: %q is not a duration like 15d", retention)
	}
	if o.MetricsRetention = kept.D(); o.MetricsRetention < leastMetrics {
		return usagef("--metrics-retention: %s is too short; at least a day", retention)
	}
	if o.MetricsListen != "" {
		if _, _, err := net.SplitHostPort(o.MetricsListen); err != nil {
			return usagef("--metrics-listen: %q is not an address like 127.0.0.1:9090", o.MetricsListen)
		}
	}
	return nil
}

// checkEvidence reads and checks what the daemon is told about what ended
// servers leave.
func (o *DaemonOptions) checkEvidence(bound, age string) (err error) {
	const least = 1 << 20
	if o.EvidenceBound, err = spec.ParseSize(bound); err != nil {
		return usagef("--evidence-bound: %s", err)
	}
	if o.EvidenceBound < least {
		return usagef("--evidence-bound: %s is too little; at least 1MiB is needed", bound)
	}
	d, err := model.ParseDuration(age)
	if err != nil || d <= 0 {
		return usagef("--evidence-age: %q is not a time like 90d or 12h", age)
	}
	o.EvidenceAge = d.D()
	return nil
}
