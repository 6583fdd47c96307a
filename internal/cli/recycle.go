package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) recycleCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "recycle SERVICE|SERVER",
		Short: "Replace servers by identical ones, one after the other",
		Long: `Replaces one server, or all of a service that are in service, by servers of the same template.
Each successor is made and proven before its predecessor drains, as far as the service lets two
run at once. Nothing is deployed. Waits until all of them are out of service.`,
		Example: "  kiln recycle shop\n  kiln recycle shop-k3r7zg --reason \"memory leak\" --detach",
		Args:    cobra.ExactArgs(1),
		RunE:    a.run(func(ctx context.Context, args []string) error { return a.recycle(ctx, args[0], reason) }),
	}
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) recycle(ctx context.Context, target, reason string) error {
	if reason == "" {
		reason = a.opts.message
	}
	acc, err := a.api().Recycle(ctx, api.RecycleRequest{Target: target, Author: a.author(ctx), Reason: reason})
	if err != nil {
		return err
	}
	if !a.detached() {
		if err := a.untilReplaced(ctx, acc); err != nil {
			return err
		}
	}
	switch {
	case a.opts.json:
		return a.document(acc)
	case a.detached():
		a.printf("%s: %s to be replaced, one after the other\n", acc.Service, serverCount(len(acc.Servers)))
	default:
		a.printf("%s: %s replaced\n", acc.Service, serverCount(len(acc.Servers)))
	}
	return nil
}

func serverCount(n int) string {
	if n == 1 {
		return "1 server"
	}
	return fmt.Sprintf("%d servers", n)
}

// untilReplaced watches the service until none of the servers is in service,
// nor parked.
func (a *app) untilReplaced(ctx context.Context, acc *api.Recycling) error {
	return a.until(ctx, acc.Service, "the servers are still being replaced", func(s api.ServiceStatus) string {
		left := remaining(s, acc.Servers)
		if len(left) == 0 {
			return ""
		}
		return acc.Service + ": " + strings.Join(left, "; ")
	})
}

// remaining says what is left of the servers that are to be replaced.
func remaining(s api.ServiceStatus, servers []model.ServerID) []string {
	var left []string
	waiting := 0
	for _, srv := range s.Servers {
		switch {
		case !slices.Contains(servers, srv.ID) || !srv.InService && !srv.Parked && srv.Phase != model.PhaseWarm:
		case srv.Condemned != nil && srv.Condemned.Late:
			left = append(left, fmt.Sprintf("%s is overdue: %s", srv.ID, srv.Condemned.Reason))
		default:
			waiting++
		}
	}
	if waiting > 0 {
		left = append(left, serverCount(waiting)+" left")
	}
	return left
}

// marksText says what is special about a server, after its phase.
func marksText(s api.ServerStatus) string {
	var marks []string
	if s.Tainted {
		marks = append(marks, "tainted")
	}
	if s.Drifted {
		marks = append(marks, "drifted")
	}
	if s.Rejected {
		marks = append(marks, "of a rejected image")
	}
	switch c := s.Condemned; {
	case c == nil:
	case c.Late:
		marks = append(marks, "overdue")
	default:
		marks = append(marks, "to be replaced")
	}
	if len(marks) == 0 {
		return ""
	}
	return ", " + strings.Join(marks, ", ")
}

// condemned says below the table when and why a server is replaced.
func (a *app) condemned(s api.ServerStatus, indent string) {
	c := s.Condemned
	if c == nil || !s.InService && !s.Parked {
		return
	}
	when := "as soon as the others allow it"
	if c.Until != nil {
		when = "by " + stamp(*c.Until)
	}
	a.printf("%s%s: to be replaced %s: %s\n", indent, s.ID, when, printable(c.Reason))
}
