package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"kiln/internal/api"
	"kiln/internal/model"
)

// The suites of checks: each is asked, remembered and signed as one.
const (
	suitePolicy = "policy"
	suiteImage  = "image"
)

// testResult is the predicate of model.TestResultType.
type testResult struct {
	Result        string       `json:"result"`        // PASSED or FAILED
	Configuration []descriptor `json:"configuration"` // what was asked
	Passed        []string     `json:"passedTests"`
	Failed        []string     `json:"failedTests"`
}

// descriptor is a ResourceDescriptor of in-toto's, as far as kiln writes one.
type descriptor struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// resultsIn returns the names in a predicate of results.
func resultsIn(kind string, predicate json.RawMessage) (passed, failed []string) {
	var r testResult
	if kind != model.TestResultType || json.Unmarshal(predicate, &r) != nil {
		return nil, nil
	}
	return r.Passed, r.Failed
}

// before returns what an image has passed before, by the journal: every check of the
// suite, asked the same.
func (c *checks) before(d model.Digest, suite, config string, names []string) (list []api.ImageCheck, ok bool) {
	c.d.control.View(func(st *model.State, _ *model.Snapshot) {
		img := st.Images[d]
		if img == nil {
			return
		}
		known := img.CheckedBy(suite, config)
		if known == nil || len(known.Failed) > 0 {
			return
		}
		for _, name := range names {
			if !slices.Contains(known.Passed, name) {
				return
			}
			list = append(list, api.ImageCheck{Name: name, Passed: true, Detail: "passed on " + known.At.UTC().Format("2006-01-02 15:04:05")})
		}
		ok = true
	})
	return list, ok
}

// attested reports whether what came of a suite is attached to an image under a key
// that still counts. Of an image that is in no repository nobody can ask for that.
func (c *checks) attested(d model.Digest, suite, config string) (is bool) {
	if len(c.d.signer.repositories(d)) == 0 {
		return true
	}
	c.d.control.View(func(st *model.State, _ *model.Snapshot) {
		if img := st.Images[d]; img != nil {
			is = resultStands(st, img, img.CheckedBy(suite, config))
		}
	})
	return is
}

// resultStands reports whether the statement that was made when a suite was asked
// counts: it is written down right before.
func resultStands(st *model.State, img *model.Image, checked *model.CheckedImage) bool {
	if checked == nil {
		return false
	}
	stands := false
	for _, said := range img.Statements {
		if k := st.Key(said.Key); k != nil && k.Own && said.Type == model.TestResultType && !said.At.After(checked.At) {
			stands = k.Revoked == nil || said.At.Before(k.Revoked.Since)
		}
	}
	return stands
}

// result signs what came of a suite and writes it down, unless it was known, and
// remembers it. What cannot be signed or written down now is asked again.
func (c *checks) result(ctx context.Context, author string, d model.Digest, suite, config string, list []api.ImageCheck) {
	err := c.written(ctx, author, d, suite, config, list)
	if err != nil && ctx.Err() == nil {
		c.d.cfg.Log.Warn("what came of the checks of an image cannot be signed; they are asked again", "image", string(d), "error", err)
	}
	c.remember(string(d)+" "+config, list, err)
}

// written signs what came of a suite, then writes it down, unless it was known.
func (c *checks) written(ctx context.Context, author string, d model.Digest, suite, config string, list []api.ImageCheck) error {
	checked := model.CheckedImage{Suite: suite, Config: config}
	for _, check := range list {
		if check.Passed {
			checked.Passed = append(checked.Passed, check.Name)
		} else {
			checked.Failed = append(checked.Failed, check.Name)
		}
	}
	if len(list) == 0 || c.same(d, checked) && c.attested(d, suite, config) {
		return nil
	}
	if err := c.attest(ctx, d, checked); err != nil {
		return err
	}
	return c.d.control.Do(ctx, cmp.Or(author, "kiln"), func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		if st.Images[d] == nil {
			return nil, nil
		}
		return []model.Payload{model.ImageChecked{Digest: d, Checked: checked}}, nil
	})
}

// same reports whether the same is known already.
func (c *checks) same(d model.Digest, checked model.CheckedImage) (same bool) {
	c.d.control.View(func(st *model.State, _ *model.Snapshot) {
		if img := st.Images[d]; img != nil {
			known := img.CheckedBy(checked.Suite, checked.Config)
			same = known != nil && slices.Equal(known.Passed, checked.Passed) && slices.Equal(known.Failed, checked.Failed)
		}
	})
	return same
}

// attest attaches what came of a suite to the image, wherever the registry has it.
func (c *checks) attest(ctx context.Context, d model.Digest, checked model.CheckedImage) error {
	if len(c.d.signer.repositories(d)) == 0 {
		return nil // nobody can ask for it
	}
	r := testResult{
		Result: "PASSED", Passed: append([]string{}, checked.Passed...), Failed: append([]string{}, checked.Failed...),
		Configuration: []descriptor{{Name: checked.Suite, Digest: map[string]string{"sha256": checked.Config}}},
	}
	if len(r.Failed) > 0 {
		r.Result = "FAILED"
	}
	predicate, err := json.Marshal(r)
	if err != nil {
		return model.Errorf(model.Internal, "%w", err)
	}
	_, err = c.d.signer.attest(ctx, d, model.TestResultType, predicate)
	return err
}
