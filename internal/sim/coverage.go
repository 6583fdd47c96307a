package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Coverage counts what a run has met, by kind and name.
type Coverage map[[2]string]int

func (c Coverage) met(kind, name string) { c[[2]string{kind, name}]++ }

// Add adds what another run has met.
func (c Coverage) Add(other Coverage) {
	for k, n := range other {
		c[k] += n
	}
}

// Kinds of what has to be met.
const (
	kindDeployment = "deployment"
	kindVerdict    = "verdict"
	kindServer     = "server"
	kindFault      = "fault"
	kindStage      = "stage"
	kindGuard      = "guard"
	kindRetention  = "retention"
)

func arrow[T ~string](from, to T) string { return string(from) + " → " + string(to) }

// wanted lists what a whole run has to meet: each transition of a deployment
// and of a server, each verdict, each kind of fault.
func wanted() [][2]string {
	var list [][2]string
	deploys := []model.DeployPhase{
		model.DeployQueued, model.DeployPreparing, model.DeployProvisioning, model.DeployChecking,
		model.DeployValidating, model.DeploySwitching, model.DeployHolding, model.DeployEnded,
	}
	for _, from := range deploys {
		for _, to := range deploys {
			if reconcile.CanBecome(from, to) {
				list = append(list, [2]string{kindDeployment, arrow(from, to)})
			}
		}
	}
	for _, v := range []model.Verdict{model.Succeeded, model.Failed, model.Aborted, model.Unknown} {
		list = append(list, [2]string{kindVerdict, string(v)})
	}
	for _, strategy := range []model.Strategy{model.Rolling, model.Canary} {
		list = append(list, [2]string{kindStage, string(strategy)}, [2]string{kindStage, string(strategy) + " ended in force"})
	}
	list = append(list, [2]string{kindStage, "made whole again"})
	for _, k := range []model.Payload{model.DeploymentQueued{}, model.DeploymentPaused{}, model.DeploymentResumed{}, model.DeploymentFinishing{}} {
		list = append(list, [2]string{kindStage, string(k.Kind())})
	}
	for _, k := range []model.Payload{model.ServiceMelting{}, model.ServiceRecovered{}} {
		list = append(list, [2]string{kindGuard, string(k.Kind())})
	}
	servers := []model.ServerPhase{
		model.PhaseCreated, model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm, model.PhaseDraining,
		model.PhaseParked, model.PhaseStopping, model.PhaseEnded, model.PhaseRecorded, model.PhaseDestroyed,
	}
	for _, from := range servers {
		for _, to := range servers {
			if from.CanBecome(to) {
				list = append(list, [2]string{kindServer, arrow(from, to)})
			}
		}
	}
	list = append(list, chaosWanted()...)
	list = append(list, [2]string{kindRetention, "image removed"}, [2]string{kindRetention, "content removed"}, [2]string{kindRetention, "removal fails"})
	list = append(list, upkeepWanted()...)
	for _, f := range faults() {
		list = append(list, [2]string{kindFault, f})
	}
	return list
}

// Short lists what was met fewer than least times.
func (c Coverage) Short(least int) []string {
	var short []string
	for _, k := range wanted() {
		if c[k] < least {
			short = append(short, fmt.Sprintf("%s %s: %d", k[0], k[1], c[k]))
		}
	}
	return short
}

// String is a table of everything that was met, and of what was not.
func (c Coverage) String() string {
	all := maps.Clone(c)
	for _, k := range wanted() {
		all[k] += 0
	}
	keys := slices.SortedFunc(maps.Keys(all), func(a, b [2]string) int {
		return strings.Compare(a[0]+"\x00"+a[1], b[0]+"\x00"+b[1])
	})
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, k := range keys {
		fmt.Fprintf(table, "%s\t%s\t%d\n", k[0], k[1], all[k])
	}
	_ = table.Flush() // writing to a strings.Builder cannot fail
	return b.String()
}
