package reconcile

import (
	"fmt"
	"strings"

	"kiln/internal/model"
)

// Plan is what a deployment would do, as a value: it is printed, sent, kept in
// the audit, and what the deployment then does follows the same functions.
type Plan struct {
	Service    string         `json:"service"`
	Changes    bool           `json:"changes"` // false: the release in service is what is asked for
	From       int            `json:"from"`    // the release in service; 0: none
	To         int            `json:"to"`      // the release that would be made
	Strategy   model.Strategy `json:"strategy"`
	Refused    string         `json:"refused,omitempty"` // why it would not be accepted
	Hint       string         `json:"hint,omitempty"`
	Template   []string       `json:"template,omitempty"` // what changes in it; none: no server is replaced
	Policy     []string       `json:"policy,omitempty"`   // what changes in it
	Servers    []PlannedMove  `json:"servers"`
	Stages     []PlannedStage `json:"stages,omitempty"` // where the strategy has several
	Outage     string         `json:"outage,omitempty"`
	Timers     []Timer        `json:"timers"`
	AtMost     model.Duration `json:"at_most"` // their sum
	Deadline   model.Duration `json:"deadline"`
	Rollback   string         `json:"rollback"` // whether it will be possible, in words
	RollbackTo int            `json:"rollback_to,omitempty"`
	Overrides  string         `json:"overrides,omitempty"` // a scale that the declaration undoes
	Applies    []string       `json:"applies"`             // every setting that holds, defaults included
	Memory     string         `json:"memory,omitempty"`
	Volumes    []string       `json:"volumes,omitempty"` // what the machine cannot do for them, in words
	Checks     []string       `json:"checks,omitempty"`  // what its policy asks of the image, and how that stands
}

// PlannedMove is what happens to one server, or to several that do not exist
// yet.
type PlannedMove struct {
	Server model.ServerID `json:"server,omitempty"` // "": a new one
	Action string         `json:"action"`           // keep, create, adopt, retire, replace
	Then   string         `json:"then"`             // in words
}

// PlannedStage is a stage of the deployment.
type PlannedStage struct {
	model.Stage
	Then string `json:"then"` // in words
}

// PlanDeploy says what Deploy would do with the request, server by server. The
// snapshot may be nil; then what is free is not judged.
func PlanDeploy(s *model.State, snap *model.Snapshot, req DeployRequest, now model.Now) Plan {
	if snap != nil {
		req.Capacity = &snap.Capacity
	}
	svc := s.Services[req.Service]
	if svc == nil {
		svc = &model.Service{Name: req.Service}
	}
	from := current(svc)
	req.Template = numbered(svc, req.Template)
	to := &model.Release{
		Service: req.Service, Number: len(svc.Releases) + 1, Template: req.Template, Policy: req.Policy,
		TemplateHash: req.Template.Hash(), ChecksHash: req.Policy.ChecksHash(),
	}
	p := Plan{
		Service: req.Service, Changes: true, To: to.Number, Strategy: req.Policy.Deploy.Strategy,
		Deadline: req.Policy.Deploy.Deadline, Applies: applies(to),
	}
	_, result, err := Deploy(s, req, now)
	if err != nil {
		p.Refused, p.Hint = err.Error(), model.HintOf(err)
	}
	if from != nil {
		p.From = from.Number
		p.Template, p.Policy = templateChanges(from.Template, to.Template), policyChanges(from.Policy, to.Policy)
		p.Overrides = overridesScale(svc, from, to)
	}
	if result.Verdict == model.Unchanged {
		p.Changes, p.To = false, from.Number
	}
	p.moves(svc, from, to)
	p.stages(svc, to)
	p.time(svc, to)
	p.wayBack(from, to)
	if limit := to.Template.Resources.Memory; limit > 0 && snap != nil {
		need, n := needed(svc, to, p.Strategy, limit, memoryOf)
		p.Memory = fmt.Sprintf("%d new servers of %s: %s beside the ones that run, of %s that is free",
			n, bytesText(limit), bytesText(need), bytesText(snap.Capacity.MemoryFree))
	}
	return p
}

func (p *Plan) stages(svc *model.Service, to *model.Release) {
	list := stagesOf(svc, to, p.Strategy)
	if !p.Changes || len(list) < 2 && list[0].Away == 0 {
		return
	}
	before := 0
	for i, stage := range list {
		p.Stages = append(p.Stages, PlannedStage{stage, stageText(stage, stage.New-before, i == len(list)-1, to.Number)})
		before = stage.New
	}
}

func stageText(stage model.Stage, makes int, last bool, number int) string {
	text := fmt.Sprintf("%d more of the new servers", makes)
	if stage.Away > 0 {
		text = fmt.Sprintf("%d old servers leave, then %s", stage.Away, text)
	}
	switch {
	case last:
		return fmt.Sprintf("%s: all %d serve, release %d is in service", text, stage.New, number)
	case stage.Weight > 0:
		return fmt.Sprintf("%s: %d get %d %% of the requests for %s, %d old ones the rest", text, stage.New, stage.Weight, stage.Hold, stage.Old)
	default:
		return fmt.Sprintf("%s: %d serve beside %d old ones", text, stage.New, stage.Old)
	}
}

func (p *Plan) moves(svc *model.Service, from, to *model.Release) {
	p.Servers = []PlannedMove{}
	set := map[model.ServerID]bool{}
	for _, srv := range members(svc, to) {
		set[srv.ID] = true
		move := PlannedMove{srv.ID, "keep", "stays in service: its template does not change"}
		if srv.Phase == model.PhaseWarm {
			move = PlannedMove{srv.ID, "adopt", "waits warm with this template: takes over if its health check is fresh"}
		}
		p.Servers = append(p.Servers, move)
	}
	made := "is made from image " + to.Template.Image.Short() + " and has to pass its checks"
	if listed(to) {
		made += "; it gets traffic with the switch"
	}
	if p.Changes && len(stagesOf(svc, to, p.Strategy)) > 1 {
		made += " of its stage"
	}
	for range missing(svc, to) {
		p.Servers = append(p.Servers, PlannedMove{"", "create", made})
	}
	for _, srv := range serversOf(svc) {
		if !set[srv.ID] {
			if then := leaves(srv, from, to); then != "" {
				p.Servers = append(p.Servers, PlannedMove{srv.ID, "retire", then})
			}
		}
	}
	if n := missing(svc, to); from != nil && stopFirst(from, to) && n > 0 {
		p.Outage = outage(svc, from, to)
	}
}

// outage says why nothing runs while one release takes the place of the other,
// and for how long at most.
func outage(svc *model.Service, from, to *model.Release) string {
	why := "no route, and deploy.overlap is false"
	for _, m := range to.Template.Volumes {
		if contend(from, to) && m.Access != model.Shared {
			why = fmt.Sprintf("one server at a time may have the volume %q", m.Volume)
		}
	}
	most := stopTimeOf(from) + provisionTimeout + to.Policy.Health.Grace.D()
	if savesVolumes(svc, from, to) {
		most += snapshotTimeout
	}
	if listed(from, to) {
		most += validationTime(to.Policy) + switchTimeout
	}
	return fmt.Sprintf("the old servers end before the new ones start (%s): nothing of %s runs for up to %s", why, to.Service, model.Duration(most))
}

// leaves says what becomes of a server that is not in the new set; "" if the
// deployment has nothing to do with it.
func leaves(srv *model.Server, from, to *model.Release) string {
	drain := to.Policy.Deploy.Drain
	if from != nil {
		drain = from.Policy.Deploy.Drain
	}
	drains := fmt.Sprintf("drains (requests %s, streams %s, websockets %s) and is destroyed", drain.Requests, drain.Streams, drain.WebSockets)
	switch srv.Phase {
	case model.PhaseServing:
		switch {
		case !listed(from, to):
			return "is stopped and destroyed"
		case stopFirst(from, to):
			return drains + " before its successor starts"
		case srv.TemplateHash != to.TemplateHash && to.Policy.Deploy.Strategy == model.Rolling:
			return drains + " when a new one has taken its place"
		case srv.TemplateHash != to.TemplateHash && to.Policy.Deploy.KeepWarm > 0 && routed(from):
			return fmt.Sprintf("waits warm for %s after the switch, then %s", to.Policy.Deploy.KeepWarm, drains)
		default:
			return drains + " after the switch"
		}
	case model.PhaseWarm:
		return "waits warm until the switch, then " + drains
	case model.PhaseParked:
		return "is parked after its failure; this deployment ends that"
	default:
		return ""
	}
}

func (p *Plan) time(svc *model.Service, to *model.Release) {
	if !p.Changes {
		p.Timers = []Timer{}
		return
	}
	p.Timers = timersOf(svc, to, p.Strategy)
	sum, _ := sumOf(p.Timers)
	p.AtMost = model.Duration(sum)
}

func (p *Plan) wayBack(from, to *model.Release) {
	switch {
	case from == nil:
		p.Rollback = "not possible: there is no earlier release"
	case !p.Changes:
		p.Rollback = "nothing changes"
	case from.TemplateHash == to.TemplateHash:
		p.Rollback = fmt.Sprintf("not needed: release %d has the same template; deploy the former declaration", from.Number)
	case routed(to) && to.Policy.Deploy.KeepWarm > 0 && p.Strategy != model.Rolling && !stopFirst(from, to):
		p.RollbackTo = from.Number
		p.Rollback = fmt.Sprintf("possible, to release %d: one switch within %s, then with new servers", from.Number, to.Policy.Deploy.KeepWarm)
	default:
		p.RollbackTo = from.Number
		p.Rollback = fmt.Sprintf("possible, to release %d, with new servers", from.Number)
	}
}

// overridesScale says that the declaration undoes a scale.
func overridesScale(svc *model.Service, from, to *model.Release) string {
	before := svc.Release(from.Number - 1)
	if from.Policy.Servers == to.Policy.Servers || before == nil || before.TemplateHash != from.TemplateHash {
		return ""
	}
	scaled := from.Policy
	scaled.Servers = before.Policy.Servers
	if !samePolicy(scaled, before.Policy) || before.Policy.Servers == from.Policy.Servers {
		return ""
	}
	return fmt.Sprintf("release %d was scaled to %d servers; the declaration says %d and wins", from.Number, from.Policy.Servers, to.Policy.Servers)
}

// String prints the plan for people.
func (p Plan) String() string {
	var b strings.Builder
	switch {
	case !p.Changes:
		fmt.Fprintf(&b, "%s: no change, release %d is what is declared\n", p.Service, p.From)
	case p.From == 0:
		fmt.Fprintf(&b, "%s: release %d would be the first in service (%s)\n", p.Service, p.To, p.Strategy)
	default:
		fmt.Fprintf(&b, "%s: release %d → %d (%s)\n", p.Service, p.From, p.To, p.Strategy)
	}
	if p.Refused != "" {
		fmt.Fprintf(&b, "  REFUSED: %s\n", p.Refused)
		if p.Hint != "" {
			fmt.Fprintf(&b, "    hint: %s\n", p.Hint)
		}
	}
	if p.Changes {
		p.printChanges(&b)
	}
	fmt.Fprintf(&b, "  settings that hold, defaults included:\n")
	for _, line := range p.Applies {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	return b.String()
}

func (p Plan) printChanges(b *strings.Builder) {
	section(b, "template changes, so every server is replaced", p.Template)
	section(b, "policy changes", p.Policy)
	if p.From != 0 && len(p.Template) == 0 {
		fmt.Fprintf(b, "  the template does not change: no server is replaced\n")
	}
	if p.Overrides != "" {
		fmt.Fprintf(b, "  note: %s\n", p.Overrides)
	}
	fmt.Fprintf(b, "  servers:\n")
	for _, m := range p.Servers {
		sign, name := map[string]string{"create": "+", "retire": "-", "adopt": "~"}[m.Action], string(m.Server)
		if sign == "" {
			sign = "="
		}
		if name == "" {
			name = "a new server"
		}
		fmt.Fprintf(b, "    %s %s %s\n", sign, name, m.Then)
	}
	for i, stage := range p.Stages {
		fmt.Fprintf(b, "  stage %d of %d: %s\n", i+1, len(p.Stages), stage.Then)
	}
	if p.Outage != "" {
		fmt.Fprintf(b, "  OUTAGE: %s\n", p.Outage)
	}
	if p.Memory != "" {
		fmt.Fprintf(b, "  memory: %s\n", p.Memory)
	}
	for _, line := range p.Volumes {
		fmt.Fprintf(b, "  volume %s\n", line)
	}
	section(b, "the image", p.Checks)
	_, words := sumOf(p.Timers)
	fmt.Fprintf(b, "  time: at most %s (%s), deadline %s\n", p.AtMost, words, p.Deadline)
	fmt.Fprintf(b, "  rollback: %s\n", p.Rollback)
}

func section(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "  %s:\n", title)
	for _, line := range lines {
		fmt.Fprintf(b, "    %s\n", line)
	}
}
