package contents

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"

	"kiln/internal/model"
)

// SPDXType is the media type of SPDX documents in JSON (registered with IANA).
const SPDXType = "application/spdx+json"

const noAssertion = "NOASSERTION"

// SPDX returns the bill as a document of SPDX 2.3 in JSON
// (https://spdx.github.io/spdx-spec/v2.3/). Licences are as the packages declare them;
// nothing is concluded.
func (b Bill) SPDX() ([]byte, error) {
	uuid, err := b.uuid("spdx-2.3")
	if err != nil {
		return nil, err
	}
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: b.name(), DocumentNamespace: "https://spdx.org/spdxdocs/kiln-" + uuid, DocumentComment: b.statement(),
		CreationInfo: &spdx.CreationInfo{
			Created:  b.date(),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: strings.TrimSuffix("kiln-"+b.Tool, "-")}},
		},
	}
	image := &spdx.Package{
		PackageName: b.name(), PackageSPDXIdentifier: "Image", PackageVersion: string(b.Image),
		PackageDownloadLocation: noAssertion, PackageLicenseDeclared: noAssertion, PackageLicenseConcluded: noAssertion, PackageCopyrightText: noAssertion,
		PackageChecksums:          []common.Checksum{{Algorithm: common.SHA256, Value: strings.TrimPrefix(string(b.Image), "sha256:")}},
		PackageExternalReferences: reference(b.purl()), PrimaryPackagePurpose: "CONTAINER",
	}
	if s := b.Inventory.System; s != "" {
		image.PackageComment = "It calls itself " + s + "."
	}
	doc.Packages = append(doc.Packages, image)
	doc.Relationships = append(doc.Relationships, relation("DOCUMENT", "DESCRIBES", "Image"))
	words := map[string]bool{}
	for _, c := range b.components() {
		doc.Packages = append(doc.Packages, c.spdx(doc, words))
		doc.Relationships = append(doc.Relationships, relation("Image", "CONTAINS", common.ElementID("Package-"+c.id)))
	}
	var out bytes.Buffer
	if err := spdxjson.Write(doc, &out, spdxjson.EscapeHTML(false)); err != nil {
		return nil, model.Errorf(model.Internal, "cannot write the bill of materials: %w", err)
	}
	return out.Bytes(), nil
}

// spdx describes a package. Licences that are no expressions are put into the
// document, once for each, and referred to.
func (c component) spdx(doc *spdx.Document, words map[string]bool) *spdx.Package {
	declared := noAssertion
	var expressions []string
	for _, l := range c.Licenses {
		if !isExpression(l) {
			sum := sha256.Sum256([]byte(l))
			id := "LicenseRef-" + hex.EncodeToString(sum[:8])
			if !words[id] {
				words[id] = true
				doc.OtherLicenses = append(doc.OtherLicenses, &spdx.OtherLicense{LicenseIdentifier: id, LicenseName: noAssertion, ExtractedText: l})
			}
			l = id
		}
		expressions = append(expressions, l)
	}
	if len(expressions) > 0 {
		declared = conjunction(expressions)
	}
	p := &spdx.Package{
		PackageName: c.Name, PackageSPDXIdentifier: common.ElementID("Package-" + c.id), PackageVersion: c.Version,
		PackageDownloadLocation: noAssertion, PackageLicenseDeclared: declared, PackageLicenseConcluded: noAssertion, PackageCopyrightText: noAssertion,
		PackageSourceInfo: "found in: " + strings.Join(c.paths, ", "),
	}
	if c.PURL != "" {
		p.PackageExternalReferences = reference(c.PURL)
	}
	return p
}

func reference(purl string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
}

func relation(a common.ElementID, kind string, b common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{
		RefA: common.MakeDocElementID("", string(a)), Relationship: kind, RefB: common.MakeDocElementID("", string(b)),
	}
}
