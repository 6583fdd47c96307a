package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status [SERVICE…]",
		Short:   "What is in service, and what is under way",
		Example: "  kiln status\n  kiln status shop --json",
		RunE: a.run(func(ctx context.Context, names []string) error {
			status, err := a.api().Status(ctx, names...)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(status)
			}
			if len(status.Services) == 0 {
				a.printf("no service is declared; deploy one with: kiln deploy\n")
			}
			for i, s := range status.Services {
				if i > 0 {
					a.printf("\n")
				}
				a.service(s)
			}
			if len(names) == 0 {
				a.storage(status.Storage)
				a.troubles(status.Troubles)
			}
			return nil
		}),
	}
}

// service prints one service.
func (a *app) service(s api.ServiceStatus) {
	if s.Release == 0 {
		a.printf("%s  nothing in service\n", s.Name)
	} else {
		a.printf("%s  release %d  image %s  %d of %d servers in service\n", s.Name, s.Release, s.Image.Short(), inService(s), s.Wanted)
	}
	if s.Environment != "" {
		a.printf("  environment %s of %s\n", s.Environment, s.Declared)
	}
	for _, r := range s.Routes {
		a.printf("  route       %s%s%s%s\n", r.Listen, spaced(r.Host), spaced(r.Path), routeMeans(r))
	}
	if d := s.Deployment; d != nil {
		a.deployment(s.Name, d)
	}
	for _, d := range s.Queue {
		a.printf("  queue       %s to release %d, %s, since %s%s\n", d.ID, d.To, d.Strategy, stamp(d.Since), behind(d.WaitingFor))
	}
	if s.Rejected != "" {
		a.printf("  rejected    %s\n", printable(s.Rejected))
	}
	if s.Meltdown != "" {
		a.printf("  meltdown    %s\n", printable(s.Meltdown))
	}
	if s.Destroying {
		a.printf("  destroying  its servers are being drained and ended\n")
	}
	for _, t := range s.Troubles {
		a.printf("  trouble     %s\n", printable(t))
	}
	if s.Message != "" {
		a.printf("  note        %s\n", s.Message)
	}
	if len(s.Servers) > 0 {
		a.servers(s.Servers, "  ")
	}
}

// routeMeans says what a route does besides asking servers.
func routeMeans(r model.Route) string {
	var words []string
	switch {
	case r.TLS.ACME != (model.ACME{}):
		words = append(words, "tls by ACME")
	case r.TLS.Enabled():
		words = append(words, "tls")
	}
	if r.Redirect != "" {
		words = append(words, "redirects to "+r.Redirect)
	}
	if r.ProxyProtocol {
		words = append(words, "PROXY protocol")
	}
	if len(words) == 0 {
		return ""
	}
	return "  (" + strings.Join(words, ", ") + ")"
}

// deployment prints the running deployment.
func (a *app) deployment(service string, d *api.DeploymentStatus) {
	a.printf("  deployment  %s from release %d to %d, %s, %s\n", d.ID, d.From, d.To, d.Strategy, d.Phase)
	if at := stageText(d.Staging, d.To); at != "" {
		if hold := d.Stages[d.Stage-1].Hold; hold > 0 && d.Phase == model.DeployHolding && !d.Paused {
			at += ", held " + hold.String()
		}
		a.printf("              %s\n", at)
	}
	switch {
	case d.Paused:
		a.printf("              paused%s\n", pauseText(service, d.Staging))
	case d.Phase == model.DeployHolding && len(d.Stages) > 1: // the stage says it
	case d.WaitingFor != "":
		a.printf("              waiting for %s\n", strings.TrimPrefix(d.WaitingFor, "waiting for "))
	}
	if d.Finishing != "" {
		a.printf("              passes over the stages that are left, asked by %s\n", printable(d.Finishing))
	}
	if !d.Paused { // the time of a pause does not count
		a.printf("              since %s, at the latest until %s\n", stamp(d.Since), stamp(d.Until))
	}
}

// behind says what a queued deployment waits for.
func behind(waitingFor string) string {
	if waitingFor == "" {
		return ""
	}
	return " behind " + waitingFor
}

// inService counts the servers of the release in service: beside them those of
// a canary may take requests.
func inService(s api.ServiceStatus) int {
	n := 0
	for _, srv := range s.Servers {
		if srv.InService && srv.Release == s.Release {
			n++
		}
	}
	return n
}

func spaced(s string) string {
	if s == "" {
		return ""
	}
	return " " + s
}

// servers prints a table of servers, and below it what is to be said of them.
func (a *app) servers(servers []api.ServerStatus, indent string) {
	a.table(indent, "SERVER\tRELEASE\tPHASE\tHEALTH\tADDRESS\tAGE", func(w io.Writer) {
		for _, s := range servers {
			health := "unhealthy"
			switch {
			case s.Healthy:
				health = "healthy"
			case s.Phase == model.PhaseCreated || s.Health == "":
				health = "unknown"
			}
			phase := string(s.Phase) + marksText(s)
			fmt.Fprintf(w, "%s%s\t%d\t%s\t%s\t%s\t%s\n", indent, s.ID, s.Release, phase, health, orDash(s.Address), a.age(s.StartedAt))
		}
	})
	for _, s := range servers {
		a.condemned(s, indent)
		if s.InService && s.Healthy {
			continue
		}
		said := s.Reason
		if !s.Healthy && s.Health != "" && !s.Parked {
			said = s.Health
		}
		if said != "" {
			a.printf("%s%s: %s\n", indent, s.ID, printable(said))
		}
		if s.Until != nil && (s.Parked || s.Phase == model.PhaseWarm) {
			a.printf("%s%s: stays until %s\n", indent, s.ID, stamp(*s.Until))
		}
	}
}

// table prints aligned columns.
func (a *app) table(indent, head string, rows func(io.Writer)) {
	w := tabwriter.NewWriter(a.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, indent+head)
	rows(w)
	_ = w.Flush() // as for every other line: what cannot be shown is not shown
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age says how long ago t was.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := a.Now().Sub(t)
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// stamp writes a time for people, in UTC.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func (a *app) serversCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "servers [SERVICE…]",
		Short:   "Every server, also those that wait, drain or are parked",
		Example: "  kiln servers\n  kiln servers shop --json",
		RunE: a.run(func(ctx context.Context, names []string) error {
			status, err := a.api().Status(ctx, names...)
			if err != nil {
				return err
			}
			all := []api.ServerStatus{}
			for _, s := range status.Services {
				all = append(all, s.Servers...)
			}
			if a.opts.json {
				return a.document(struct {
					Servers []api.ServerStatus `json:"servers"`
				}{all})
			}
			a.servers(all, "")
			for _, s := range status.Services {
				if d := s.Deployment; d != nil {
					if at := stageText(d.Staging, d.To); at != "" {
						a.printf("%s: %s\n", s.Name, at)
					}
				}
			}
			return nil
		}),
	}
}

func (a *app) releasesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "releases SERVICE",
		Short:   "The history of a service, newest first",
		Example: "  kiln releases shop",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			out, err := a.api().Releases(ctx, args[0])
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(out)
			}
			a.table("", "RELEASE\tIMAGE\tSERVERS\tVERDICT\tCREATED\tAUTHOR\tSOURCE\tREASON", func(w io.Writer) {
				for _, r := range out.Releases {
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", marked(r), r.Image.Short(), r.Servers, verdict(r),
						stamp(r.CreatedAt), orDash(printable(r.Author)), commitText(r.Commit, r.Dirty), printable(about(r)))
				}
			})
			return nil
		}),
	}
}

func marked(r api.ReleaseEntry) string {
	if r.InService {
		return fmt.Sprintf("%d *", r.Number)
	}
	return fmt.Sprint(r.Number)
}

func verdict(r api.ReleaseEntry) string {
	switch {
	case r.Verdict != "":
		return string(r.Verdict)
	case r.Phase == model.DeployQueued:
		return "queued"
	case r.Stages > 1:
		return fmt.Sprintf("stage %d of %d", r.Stage, r.Stages)
	default:
		return "under way"
	}
}

func commitText(commit string, dirty bool) string {
	short := orDash(commit[:min(len(commit), 10)])
	if dirty {
		short += "+"
	}
	return short
}

func about(r api.ReleaseEntry) string {
	if r.RollbackOf == nil || strings.HasPrefix(r.Reason, "rollback ") {
		return r.Reason // the daemon's own words say what it goes back to
	}
	back := fmt.Sprintf("rollback to %d", *r.RollbackOf)
	if r.Reason == "" {
		return back
	}
	return back + ": " + r.Reason
}

func (a *app) destroyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "destroy SERVICE",
		Short: "End a service with all its servers; its history stays",
		Long: `Takes the service out of the router, drains its servers, keeps their death records and
destroys them. Asks first on a terminal; without one, -y is needed.`,
		Example: "  kiln destroy shop\n  kiln destroy shop -y --detach",
		Args:    cobra.ExactArgs(1),
		RunE:    a.run(func(ctx context.Context, args []string) error { return a.destroy(ctx, args[0]) }),
	}
}

func (a *app) destroy(ctx context.Context, service string) error {
	if !a.opts.yes {
		if err := a.confirm("End " + service + " with all its servers?"); err != nil {
			return err
		}
	}
	acc, err := a.api().Destroy(ctx, service, api.DestroyRequest{Author: a.author(ctx)})
	if err != nil {
		return err
	}
	if !a.detached() {
		if err := a.untilGone(ctx, service); err != nil {
			return err
		}
	}
	if a.opts.json {
		return a.document(acc)
	}
	if a.detached() {
		a.printf("%s is being destroyed\n", service)
	} else {
		a.printf("%s is destroyed\n", service)
	}
	return nil
}

// confirm asks a person. Without a terminal there is nobody to ask.
func (a *app) confirm(question string) error {
	if !isTerminal(a.Stdin) || !isTerminal(a.Stderr) {
		return usagef("%s There is no terminal to ask on: say -y", question)
	}
	fmt.Fprintf(a.Stderr, "%s [y/N] ", question)
	var answer string
	if _, err := fmt.Fscanln(a.Stdin, &answer); err != nil {
		answer = "" // an empty line, or no more input
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		a.progressf("left as it is")
		return exit(exitFailed)
	}
	return nil
}

// untilGone watches a service until nothing of it runs any more.
func (a *app) untilGone(ctx context.Context, service string) error {
	return a.until(ctx, service, service+" is still being destroyed", func(s api.ServiceStatus) string {
		return left(service, len(s.Servers))
	})
}

// until watches a service until it is gone or nothing is missing any more, and
// says what is whenever that changes. While is what still happens when nobody
// watches any more.
func (a *app) until(ctx context.Context, service, while string, missing func(api.ServiceStatus) string) error {
	if a.opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.opts.timeout, errTimeout)
		defer cancel()
	}
	last := ""
	for {
		var status *api.Status
		err := a.steady(ctx, func() (err error) {
			status, err = a.api().Status(ctx, service)
			return err
		})
		switch {
		case model.CodeOf(err) == model.NotFound:
			return nil
		case ctx.Err() != nil:
			a.progressf("%s; %s: kiln status %s", a.whyStopped(ctx, nil), while, service)
			return exit(exitUnknown)
		case err != nil:
			return err
		case len(status.Services) == 0:
			return nil
		}
		switch words := missing(status.Services[0]); words {
		case "":
			return nil
		case last:
		default:
			a.progressf("%s", words)
			last = words
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func left(service string, n int) string {
	if n == 1 {
		return service + ": 1 server is left"
	}
	return fmt.Sprintf("%s: %d servers are left", service, n)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "The versions of this program and of the daemon",
		Example: "  kiln version",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			daemon, _ := a.api().Version(ctx) // nil: it is not reached, and that is what is shown
			if a.opts.json {
				return a.document(struct {
					Version string       `json:"version"`
					Daemon  *api.Version `json:"daemon"`
				}{a.Version, daemon})
			}
			a.printf("kiln    %s\n", a.Version)
			if daemon == nil {
				a.printf("daemon  not reached at %s\n", a.socket())
				return nil
			}
			a.printf("daemon  %s, instance %s, process %d, epoch %d\n", daemon.Version, daemon.Instance, daemon.PID, daemon.Epoch)
			return nil
		}),
	}
}
