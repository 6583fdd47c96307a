package daemon

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"kiln/internal/api"
	"kiln/internal/leaks"
	"kiln/internal/model"
)

// checks judge images before servers are made from them.
type checks struct {
	d     *daemon
	lists knownLists

	mu     sync.Mutex
	passed map[string][]api.ImageCheck // by image and what was asked
	trying chan struct{}               // has room for one trial
}

func newChecks(d *daemon) *checks {
	return &checks{d: d, lists: knownLists{filepath.Join(d.cfg.DataDir, "lists")}, trying: make(chan struct{}, 1)}
}

// Judge implements server.Checks.
func (c *checks) Judge(ctx context.Context, q api.CheckRequest, run bool) (api.ImageChecks, error) {
	out := api.ImageChecks{Image: q.Template.Image, Service: q.Template.Service, Passed: true, Checks: []api.ImageCheck{}}
	if q.Policy.Image == nil {
		return out, nil
	}
	list, err := c.form(ctx, q, run)
	if err == nil {
		var tried []api.ImageCheck
		tried, err = c.validations(ctx, q, run)
		list = append(list, tried...)
	}
	if err != nil {
		return out, model.Errorf(model.CodeOf(err), "cannot judge image %s: %w", out.Image.Short(), err).WithHint("%s", model.HintOf(err))
	}
	out.Checks = list
	for _, check := range list {
		out.Passed = out.Passed && check.Passed
	}
	return out, nil
}

// form holds the form of an image against the policy.
func (c *checks) form(ctx context.Context, q api.CheckRequest, run bool) ([]api.ImageCheck, error) {
	config, names := q.Policy.Image.Hash(q.Template), slices.DeleteFunc(q.Policy.Image.Checks(), func(name string) bool { return !strings.HasPrefix(name, suitePolicy+"/") })
	if known, ok := c.passedBefore(q.Template.Image, suitePolicy, config, names); ok {
		return known, nil
	}
	value, err := c.d.images.Value(ctx, q.Template.Image)
	if err != nil {
		return nil, err
	}
	report, err := leaks.Structure(ctx, value, rulesOf(q))
	if err != nil {
		return nil, c.unreadable(ctx, err)
	}
	list := formChecks(q, report)
	inside, err := c.packages(ctx, q)
	if err != nil {
		return nil, err
	}
	list = append(list, inside...)
	slices.SortFunc(list, func(a, b api.ImageCheck) int { return strings.Compare(a.Name, b.Name) })
	if run {
		c.result(ctx, q.Author, q.Template.Image, suitePolicy, config, list)
	}
	return list, nil
}

// unreadable is what to say of an image that cannot be looked into: the policy was
// read, so it is the image.
func (c *checks) unreadable(ctx context.Context, err error) error {
	err = c.d.images.OfStored(ctx, err)
	if model.CodeOf(err) == model.Invalid {
		err = model.Errorf(model.Precondition, "%w", err).WithHint("%s", model.HintOf(err))
	}
	return err
}

// passedBefore returns what an image has passed before, if that is still to be had
// under a signature that counts.
func (c *checks) passedBefore(d model.Digest, suite, config string, names []string) ([]api.ImageCheck, bool) {
	if !c.attested(d, suite, config) {
		return nil, false
	}
	if list, ok := c.known(string(d) + " " + config); ok {
		return list, true
	}
	return c.before(d, suite, config, names)
}

// known returns what an image has passed before.
func (c *checks) known(key string) ([]api.ImageCheck, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, ok := c.passed[key]
	return slices.Clone(list), ok
}

// remember keeps what an image has passed, as a whole; not where that could not be
// written down (lost), so that it is tried again.
func (c *checks) remember(key string, list []api.ImageCheck, lost error) {
	if lost != nil || slices.ContainsFunc(list, func(c api.ImageCheck) bool { return !c.Passed }) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed == nil || len(c.passed) >= passedKept {
		c.passed = map[string][]api.ImageCheck{}
	}
	c.passed[key] = slices.Clone(list)
}

// rulesOf is what a policy asks of an image's form.
func rulesOf(q api.CheckRequest) leaks.Rules {
	p := q.Policy.Image
	rules := leaks.Rules{
		NotRoot: p.NotRoot, User: q.Template.User, NoSetuid: p.NoSetuid, NoCapabilities: p.NoSetuid,
		NoWorldWritable: p.NoWorldWritable, NoDevices: p.NoDevices, MaxCompressed: p.Size, MaxUncompressed: p.UnpackedSize,
		Labels: p.Labels, ForbiddenPaths: p.ForbiddenPaths, Allowed: leaks.AllowPrograms(p.SetuidAllowed, "setuid_allowed"),
	}
	if p.Exposed {
		rules.Port = q.Template.Port
	}
	return rules
}

// formRules are the checks of an image's form, by the rules that findings name.
var formRules = map[string]string{
	"root-user": "policy/root", "exposed-port": "policy/exposed", "setuid": "policy/setuid", "capabilities": "policy/setuid",
	"world-writable": "policy/world_writable", "device-node": "policy/devices", "size": "policy/size", "label": "policy/labels",
	"forbidden-path": "policy/forbidden_paths",
}

// asked are the checks of an image's form that a policy has, and what each says
// when it is passed.
func asked(p *model.ImagePolicy) map[string]string {
	all := map[string]string{}
	add := func(name string, is bool, words string) {
		if is {
			all[name] = words
		}
	}
	add("policy/root", p.NotRoot, "its main process is not root's")
	add("policy/exposed", p.Exposed, "it exposes the declared port")
	add("policy/setuid", p.NoSetuid, "no program in it runs with more than whoever starts it has")
	add("policy/world_writable", p.NoWorldWritable, "nothing in it may be changed by everybody")
	add("policy/devices", p.NoDevices, "no device node is in it")
	add("policy/size", p.Size > 0 || p.UnpackedSize > 0, "it is within its bounds")
	add("policy/labels", len(p.Labels) > 0, "it has every label that is required")
	add("policy/forbidden_paths", len(p.ForbiddenPaths) > 0, "nothing forbidden is in it")
	return all
}

// formChecks are what a report says of each check that was asked.
func formChecks(q api.CheckRequest, report *leaks.Report) []api.ImageCheck {
	words := asked(q.Policy.Image)
	list := []api.ImageCheck{}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		check := api.ImageCheck{Name: name, Passed: true, Detail: words[name]}
		for _, f := range report.Findings {
			if formRules[f.Rule] == name {
				refuse(&check, api.CheckFinding{What: f.Words(), Hint: f.Hint})
			}
		}
		for _, a := range report.Allowed {
			if formRules[a.Finding.Rule] == name {
				note(&check, fmt.Sprintf("allowed by %s: %s", a.Entry.Reason, a.Finding.Words()))
			}
		}
		if check.Passed && report.More > 0 {
			// Whose those are that there was no room for is not known.
			check.Passed, check.Detail = false, "not judged: there is too much that the policy forbids otherwise"
		}
		list = append(list, check)
	}
	return list
}

// refuse adds what is not as it should be to a check, as far as people read.
func refuse(check *api.ImageCheck, f api.CheckFinding) {
	check.Passed = false
	if len(check.Findings) == toldMost {
		check.More++
	} else {
		check.Findings = append(check.Findings, f)
	}
	check.Detail = check.Findings[0].What
	if n := len(check.Findings) + check.More - 1; n > 0 {
		check.Detail += fmt.Sprintf("; and %d more", n)
	}
}

func note(check *api.ImageCheck, text string) {
	if len(check.Notes) < toldMost {
		check.Notes = append(check.Notes, text)
	}
}
