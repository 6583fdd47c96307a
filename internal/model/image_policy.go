package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// ImagePolicy is what an image has to be before servers are made from it. Its
// zero value asks nothing.
type ImagePolicy struct {
	NotRoot         bool     `json:"not_root,omitempty"`       // the main process is not root's
	Exposed         bool     `json:"exposed,omitempty"`        // the declared port is among those that the image says it listens on
	NoSetuid        bool     `json:"no_setuid,omitempty"`      // no program gives whoever runs it more than it has: setuid, setgid, capabilities
	SetuidAllowed   []string `json:"setuid_allowed,omitempty"` // patterns of paths that may
	NoWorldWritable bool     `json:"no_world_writable,omitempty"`
	NoDevices       bool     `json:"no_devices,omitempty"`
	Size            int64    `json:"size,omitempty"`          // bytes of all layers as they are kept; 0: any
	UnpackedSize    int64    `json:"unpacked_size,omitempty"` // bytes of all layers as they are unpacked; 0: any
	// Labels are required, each with the regular expression (RE2) that its value
	// has to match as a whole; "": any value but an empty one.
	Labels         map[string]string `json:"labels,omitempty"`
	ForbiddenPaths []string          `json:"forbidden_paths,omitempty"` // patterns
	// ForbiddenPackages are in the form of ParsePackageRule.
	ForbiddenPackages []string             `json:"forbidden_packages,omitempty"`
	Vulnerabilities   *VulnerabilityPolicy `json:"vulnerabilities,omitempty"`
	// Validations are asked once of a disposable server that is cut off from the
	// network, before there is any other from the image.
	Validations []Validation `json:"validations,omitempty"`
	// Require is what has to be said and done about it; nil: nothing.
	Require *Requirement `json:"require,omitempty"`
}

// VulnerabilityPolicy says which vulnerabilities an image must not have.
type VulnerabilityPolicy struct {
	Lists []VulnerabilityList `json:"lists"`
	// Severity is the level from which on one counts: low, medium, high or critical;
	// "": every one, also those of which no list says how bad they are.
	Severity string   `json:"severity,omitempty"`
	Ignore   []string `json:"ignore,omitempty"` // ids or aliases
}

// VulnerabilityList is a file or directory of entries in the OSV format. The
// bytes are kept by their digest, so that what an image was judged by is known
// for good.
type VulnerabilityList struct {
	Name   string `json:"name"`   // as it was declared
	Digest Digest `json:"digest"` // of the file, or of the archive that was made of the directory
}

// Hash identifies what the policy asks of an image's form, for servers of the
// template: what an image has passed under one it has passed under another with
// the same hash.
func (p ImagePolicy) Hash(t Template) string {
	p.Validations = nil
	p.Require = nil // says nothing about its form
	return hashOf(struct {
		Policy ImagePolicy
		User   string
		Port   int
	}{p, t.User, t.Port})
}

// Trial is the template of the disposable server that an image's validations are
// asked of: what is the image's own. Where volumes would be there is an empty
// place.
func (t Template) Trial() Template {
	for _, m := range t.Volumes {
		t.Ephemeral = append(slices.Clip(t.Ephemeral), Ephemeral{Path: m.Path, Size: trialVolume})
	}
	slices.SortFunc(t.Ephemeral, func(a, b Ephemeral) int { return strings.Compare(a.Path, b.Path) })
	t.Volumes, t.Connects, t.Secrets, t.Config = nil, nil, nil, nil
	return t
}

// trialVolume is how much a disposable server can write where a volume would be, in
// bytes.
const trialVolume = 64 << 20

// ValidationsHash identifies what a disposable server of the template is asked.
func (p ImagePolicy) ValidationsHash(t Template) string {
	return hashOf(struct {
		Validations []Validation
		Template    Template
	}{p.Validations, t.Trial()})
}

// Checks are the names of what the policy asks of an image, in order: policy/RULE
// and image/VALIDATION. They are part of what is signed, and stay.
func (p ImagePolicy) Checks() []string {
	names := []string{}
	for name, is := range map[string]bool{
		"policy/devices": p.NoDevices, "policy/exposed": p.Exposed, "policy/forbidden_packages": len(p.ForbiddenPackages) > 0,
		"policy/forbidden_paths": len(p.ForbiddenPaths) > 0, "policy/labels": len(p.Labels) > 0, "policy/root": p.NotRoot,
		"policy/setuid": p.NoSetuid, "policy/size": p.Size > 0 || p.UnpackedSize > 0, "policy/vulnerabilities": p.Vulnerabilities != nil,
		"policy/world_writable": p.NoWorldWritable,
	} {
		if is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, v := range p.Validations {
		names = append(names, "image/"+v.Name)
	}
	return names
}

// hashOf is the SHA-256 of a value's JSON, in hexadecimal.
func hashOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // nothing that is hashed can fail to marshal
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
