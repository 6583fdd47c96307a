package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kiln/internal/model"
)

// imagePolicyText is what an image has to be, in the words of the declaration.
func imagePolicyText(p *model.ImagePolicy) string {
	if p == nil {
		return ""
	}
	var words []string
	add := func(set bool, format string, args ...any) {
		if set {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(p.NotRoot, "root false")
	add(p.Exposed, "exposed")
	add(p.NoSetuid, "setuid false")
	add(len(p.SetuidAllowed) > 0, "setuid_allowed %s", strings.Join(p.SetuidAllowed, " "))
	add(p.NoWorldWritable, "world_writable false")
	add(p.NoDevices, "devices false")
	add(p.Size > 0, "size %s", bytesText(p.Size))
	add(p.UnpackedSize > 0, "unpacked_size %s", bytesText(p.UnpackedSize))
	for _, label := range slices.Sorted(maps.Keys(p.Labels)) {
		add(true, "label %s=%s", label, p.Labels[label])
	}
	add(len(p.ForbiddenPaths) > 0, "forbidden_paths %s", strings.Join(p.ForbiddenPaths, " "))
	add(len(p.ForbiddenPackages) > 0, "forbidden_packages %s", strings.Join(p.ForbiddenPackages, " "))
	if v := p.Vulnerabilities; v != nil {
		for _, l := range v.Lists {
			add(true, "vulnerabilities of %s (%s)", l.Name, l.Digest.Short())
		}
		add(v.Severity != "", "of severity %s or worse", v.Severity)
		add(len(v.Ignore) > 0, "but %s", strings.Join(v.Ignore, " "))
	}
	for _, v := range p.Validations {
		add(true, "validate %q on the image (%s %s, timeout %s)", v.Name, v.Kind, cmp.Or(v.Path, strings.Join(v.Command, " ")), v.Timeout)
	}
	words = append(words, requirementText(p.Require)...)
	if len(words) == 0 {
		return "nothing is asked"
	}
	return strings.Join(words, ", ")
}

// shortKeys are keys as people know them: by name, or the beginning of the id.
func shortKeys(keys []string) []string {
	short := make([]string, len(keys))
	for i, k := range keys {
		short[i] = k
		if len(k) == 64 {
			short[i] = k[:12]
		}
	}
	return short
}

// requirementText is what has to be said and done about an image.
func requirementText(r *model.Requirement) (words []string) {
	if r == nil {
		return nil
	}
	if len(r.Signed) > 0 {
		words = append(words, "signed with "+strings.Join(shortKeys(r.Signed), ", "))
	}
	if len(r.Checks) > 0 {
		words = append(words, "passed "+strings.Join(r.Checks, ", "))
	}
	for _, served := range r.Served {
		words = append(words, fmt.Sprintf("served in %s for %s", served.Environment, served.For))
	}
	switch {
	case r.Approvers > 0 && len(r.Approvals) > 0:
		words = append(words, fmt.Sprintf("approved by %d of %s", r.Approvers, strings.Join(r.Approvals, ", ")))
	case r.Approvers > 0:
		words = append(words, fmt.Sprintf("approved by %d", r.Approvers))
	case len(r.Approvals) > 0:
		words = append(words, "approved by "+strings.Join(r.Approvals, ", "))
	}
	return words
}
