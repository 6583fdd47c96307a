package reconcile

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"kiln/internal/model"
)

// phaseDoc says what a deployment does in a phase.
type phaseDoc struct {
	Phase model.DeployPhase
	Doc   string
}

// phases lists the phases in their order.
var phases = []phaseDoc{
	{model.DeployQueued, "It waits until the deployment before it has ended."},
	{model.DeployPreparing, "The image is made present, whole and pinned."},
	{model.DeployProvisioning, "The servers that are missing from the new set, or from the part of it that is this stage's, are made."},
	{model.DeployChecking, "Every server of the new set has to become healthy within its grace."},
	{model.DeployValidating, "Every server of the new set has to pass the validations, once."},
	{model.DeploySwitching, "A table that names the new set (in an intermediate stage: both) is published; every live router has to acknowledge it."},
	{model.DeployHolding, "A stage is in force: both releases serve, and the new one is watched. The next stage follows, or waits for a person."},
	{model.DeployEnded, "The verdict stands. What was taken out of service drains and is retired."},
}

// transition is a permitted move of a deployment.
type transition struct {
	From, To model.DeployPhase
	Doc      string
}

// transitions is the transition table of a deployment; there are no other
// moves. The diagram in ARCHITECTURE.md is made from it.
var transitions = []transition{
	{model.DeployQueued, model.DeployPreparing, "its turn has come"},
	{model.DeployQueued, model.DeployEnded, "aborted, superseded, or not possible any more"},
	{model.DeployPreparing, model.DeployProvisioning, "the image is ready"},
	{model.DeployPreparing, model.DeployValidating, "every server exists and is healthy; the checks are new"},
	{model.DeployPreparing, model.DeploySwitching, "every server exists and is proven"},
	{model.DeployProvisioning, model.DeployChecking, "every server runs"},
	{model.DeployChecking, model.DeployValidating, "every server is healthy"},
	{model.DeployChecking, model.DeployProvisioning, "a server taken over was lost"},
	{model.DeployValidating, model.DeploySwitching, "every server is proven"},
	{model.DeployValidating, model.DeployProvisioning, "a server taken over was lost"},
	{model.DeployPreparing, model.DeployEnded, "failed or aborted"},
	{model.DeployProvisioning, model.DeployEnded, "failed or aborted"},
	{model.DeployChecking, model.DeployEnded, "failed or aborted"},
	{model.DeployValidating, model.DeployEnded, "failed or aborted"},
	{model.DeploySwitching, model.DeployHolding, "a stage before the last is acknowledged"},
	{model.DeployHolding, model.DeployProvisioning, "the next stage, or a server was lost"},
	{model.DeployHolding, model.DeployEnded, "failed or aborted"},
	{model.DeploySwitching, model.DeployEnded, "succeeded, failed, aborted, or unknown"},
}

// CanBecome reports whether a deployment may move from one phase to another.
func CanBecome(from, to model.DeployPhase) bool {
	for _, t := range transitions {
		if t.From == from && t.To == to {
			return true
		}
	}
	return false
}

// Diagram draws the transition table as a Mermaid state diagram.
func Diagram() string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> preparing: accepted\n    [*] --> queued: accepted while another runs\n")
	for _, t := range transitions {
		fmt.Fprintf(&b, "    %s --> %s: %s\n", t.From, t.To, t.Doc)
	}
	b.WriteString("    ended --> [*]\n```\n\n| phase | what happens in it |\n|---|---|\n")
	for _, p := range phases {
		fmt.Fprintf(&b, "| %s | %s |\n", p.Phase, p.Doc)
	}
	return b.String()
}

// phaseTime is the longest that the running deployment may stay in a phase of
// a stage.
func (v *service) phaseTime(phase model.DeployPhase, stage int) time.Duration {
	switch phase {
	case model.DeployPreparing:
		return prepareTimeout
	case model.DeployProvisioning:
		return v.stopTime() + v.saveTime() + provisionTimeout
	case model.DeployChecking:
		return v.target().Policy.Health.Grace.D()
	case model.DeployValidating:
		return validationTime(v.target().Policy)
	case model.DeployHolding:
		return v.svc.Deployment.Stages[stage].Hold.D()
	default:
		return switchTimeout
	}
}

// validationTime is the longest that the validations of a server may take: they
// are asked one after the other.
func validationTime(p model.Policy) time.Duration {
	sum := time.Duration(0)
	for _, c := range p.Validations {
		sum += c.Timeout.D()
	}
	return sum + p.Health.Timeout.D() + validateSlack
}

// advance moves the running deployment to another phase.
func (v *service) advance(to model.DeployPhase, waitingFor string) {
	v.advanceTo(to, v.svc.Deployment.Stage, waitingFor)
}

// advanceTo moves it to a phase of a stage.
func (v *service) advanceTo(to model.DeployPhase, stage int, waitingFor string) {
	d := v.svc.Deployment
	if !CanBecome(d.Phase, to) {
		panic(fmt.Sprintf("reconcile: deployment %s is %s and cannot become %s", d.ID, d.Phase, to))
	}
	until := v.now.Elapsed.Add(v.phaseTime(to, stage))
	if d.Pause == nil {
		until = min(until, d.Deadline)
	}
	v.emit(model.DeploymentAdvanced{
		ID: d.ID, Service: v.svc.Name, Phase: to, WaitingFor: waitingFor, Until: until, Stage: stage,
	})
}

func (v *service) becomeProvisioning() {
	v.advance(model.DeployProvisioning, "the new servers to run")
}

func (v *service) becomeChecking() {
	v.advance(model.DeployChecking, cmp.Or(v.unhealthyMembers(), "the new servers")+" to become healthy")
}

func (v *service) becomeValidating() {
	v.advance(model.DeployValidating, cmp.Or(v.unprovenMembers(), "the new servers")+" to pass the validations")
}

func (v *service) becomeSwitching() {
	if d := v.svc.Deployment; d.Pause != nil && d.LastStage() && d.Phase == model.DeployPreparing {
		v.waitFor(pausedBy(d))
		return
	}
	v.advance(model.DeploySwitching, "the table that names the new servers")
}

// waitFor says anew what the deployment waits for, if that has changed.
func (v *service) waitFor(what string) {
	d := v.svc.Deployment
	if d.WaitingFor != what {
		v.emit(model.DeploymentAdvanced{ID: d.ID, Service: v.svc.Name, Phase: d.Phase, WaitingFor: what, Until: d.Until, Stage: d.Stage})
	}
}
