package model

import "time"

// Release is a numbered, immutable pair of template and policy.
type Release struct {
	Service  string   `json:"service"`
	Number   int      `json:"number"`
	Template Template `json:"template"`
	// TemplateHash and ChecksHash are those of Template and Policy, filled in by
	// the fold: they are asked for at every decision.
	TemplateHash string     `json:"template_hash,omitempty"`
	ChecksHash   string     `json:"checks_hash,omitempty"`
	Policy       Policy     `json:"policy"`
	CreatedAt    time.Time  `json:"created_at"`
	Author       string     `json:"author,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	Provenance   Provenance `json:"provenance"`
	RollbackOf   int        `json:"rollback_of,omitempty"` // the release whose template this one takes again; 0: none
	// Environment and Declared are where it serves, and what the declaration calls
	// the service; "": the declaration has no environments.
	Environment string `json:"environment,omitempty"`
	Declared    string `json:"declared,omitempty"`
	// Promoted is where its image was taken from; nil: it was built or brought for it.
	Promoted *Promotion `json:"promoted,omitempty"`
}

// Provenance is where an image came from. It is kept in the journal and never
// in the image, whose bytes depend on content alone.
type Provenance struct {
	Commit  string   `json:"commit,omitempty"`  // of the source; "" outside a repository
	Dirty   bool     `json:"dirty,omitempty"`   // the tree differed from the commit
	Parents []Parent `json:"parents,omitempty"` // the images it was built on
	Inputs  Digest   `json:"inputs,omitempty"`  // of the record that keeps what the build fetched; "": nothing is kept
}

// Parent is an image that another was built on.
type Parent struct {
	Name   string `json:"name"`
	Digest Digest `json:"digest"`
}

// Image is what the journal knows of an image: its digest, and who made it.
type Image struct {
	Digest     Digest     `json:"digest"`
	Names      []string   `json:"names,omitempty"`    // what FROM may call it
	Services   []string   `json:"services,omitempty"` // what it was built for
	CreatedAt  time.Time  `json:"created_at"`
	Author     string     `json:"author,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	Source     string     `json:"source"` // "build", "import" or the reference it was pulled by
	Provenance Provenance `json:"provenance"`
	Size       int64      `json:"size"`                // bytes as stored, layers compressed
	Pinned     *Pin       `json:"pinned,omitempty"`    // somebody wants it kept
	RemovedAt  time.Time  `json:"removed_at,omitzero"` // retention removed its content; what is known of it stays
	LastUse    Instant    `json:"last_use,omitempty"`  // when it was added, or a release of it last left service
	// Statements are what was said of it under a signature, the oldest first.
	Statements []Statement `json:"statements,omitempty"`
	// Published is what came of putting it into a registry that others share, last.
	Published *Publication `json:"published,omitempty"`
	// Checked is what came of its checks: the last of each suite and configuration,
	// the oldest first.
	Checked []CheckedImage `json:"checked,omitempty"`
	// Made is how it came to be, for each service that it was built for.
	Made []Making `json:"made,omitempty"`
	// Rejection is the last word about whether it is bad; nil: nobody has said anything.
	Rejection *Rejection `json:"rejection,omitempty"`
}

// CheckedImage is what came of a suite of checks.
type CheckedImage struct {
	Suite  string    `json:"suite"`            // "policy" or "image"
	Config string    `json:"config"`           // what was asked: a hash of it, in hexadecimal
	Passed []string  `json:"passed,omitempty"` // names as of ImagePolicy.Checks
	Failed []string  `json:"failed,omitempty"`
	At     time.Time `json:"at"`
}

// CheckedBy returns what came of the suite with the configuration; nil: it was not
// asked, or so long ago that it is forgotten.
func (i *Image) CheckedBy(suite, config string) *CheckedImage {
	for k := range i.Checked {
		if i.Checked[k].Suite == suite && i.Checked[k].Config == config {
			return &i.Checked[k]
		}
	}
	return nil
}

// Making is how an image came to be, for one service: the first time, where it was
// built again.
type Making struct {
	Service string    `json:"service"`
	At      time.Time `json:"at"`
	Author  string    `json:"author,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Commit  string    `json:"commit,omitempty"`
	Dirty   bool      `json:"dirty,omitempty"` // the tree differed from the commit
	// From is the image whose source this one's goes on from; "": none is known.
	From Digest  `json:"from,omitempty"`
	How  Descent `json:"how,omitempty"` // that is known; "" without From
}

// Descent is how it is known which image another one goes on from.
type Descent string

// The ways.
const (
	ByCheckout Descent = "checkout" // its source was taken out of that image
	ByCommit   Descent = "commit"   // its commit comes after that image's, and after no other's that is nearer
	ByOrder    Descent = "order"    // that image is the one that was built before: nothing more is known
)

// MadeFor returns how the image came to be for a service; nil: it was not built for
// it, or by a kiln that did not write that down.
func (i *Image) MadeFor(service string) *Making {
	for k := range i.Made {
		if i.Made[k].Service == service {
			return &i.Made[k]
		}
	}
	return nil
}

// Publication is what came of putting an image, with what was said of it, into a
// registry that others share.
type Publication struct {
	To         string    `json:"to"`                // the registry, and a path below which services have repositories
	Statements int       `json:"statements"`        // how many there were of it
	Trouble    string    `json:"trouble,omitempty"` // why it is not there; "": it is
	At         time.Time `json:"at,omitzero"`
}

// Statement is a signed statement about an image, which is attached to it in a
// registry.
type Statement struct {
	Bundle Digest    `json:"bundle"` // of the Sigstore bundle's bytes
	Type   string    `json:"type"`   // of what it says: an URI of in-toto's, see package sign
	Key    string    `json:"key"`    // the id of the key that it is signed with
	At     time.Time `json:"at"`     // when kiln made it, or first accepted it
}

// The types of statements that kiln makes.
const (
	// SignatureType is what cosign 3 writes for "cosign sign": the statement says
	// nothing but which image it is of.
	SignatureType = "https://sigstore.dev/cosign/sign/v1"
	// ApprovalType is that somebody approves of an image for an environment.
	ApprovalType = "urn:kiln:approval:1"
	// ServedType is how long an image was in service in an environment.
	ServedType = "urn:kiln:served:1"
	// RejectionType is that an image is bad, or is not bad after all: a Rejection.
	RejectionType = "urn:kiln:rejection:1"
	// TestResultType is what came of checks of the image
	// (https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md).
	TestResultType = "https://in-toto.io/attestation/test-result/v0.1"
	// SourceType is which archive of its source is kept beside an image.
	SourceType = "urn:kiln:source:1"
	// ProvenanceType is how an image was built (https://slsa.dev/spec/v1.1/provenance).
	ProvenanceType = "https://slsa.dev/provenance/v1"
	// SPDXType and CycloneDXType are lists of what is inside
	// (https://spdx.github.io/spdx-spec/, https://cyclonedx.org/specification/overview/).
	SPDXType      = "https://spdx.dev/Document"
	CycloneDXType = "https://cyclonedx.org/bom"
)

// Pin says that an image is kept, whatever retention says.
type Pin struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}
