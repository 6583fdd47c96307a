package contents

import (
	"bytes"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"

	"kiln/internal/model"
)

// CycloneDXType is the media type of CycloneDX documents in JSON (registered with
// IANA).
const CycloneDXType = "application/vnd.cyclonedx+json"

// CycloneDX returns the bill as a document of CycloneDX 1.6 in JSON
// (https://cyclonedx.org/docs/1.6/json/).
func (b Bill) CycloneDX() ([]byte, error) {
	uuid, err := b.uuid("cyclonedx-1.6")
	if err != nil {
		return nil, err
	}
	const image = "image"
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuid
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: b.date(),
		Tools:     &cyclonedx.ToolsChoice{Components: &[]cyclonedx.Component{{Type: cyclonedx.ComponentTypeApplication, Name: "kiln", Version: b.Tool}}},
		Component: &cyclonedx.Component{
			BOMRef: image, Type: cyclonedx.ComponentTypeContainer, Name: b.name(), Version: string(b.Image), PackageURL: b.purl(),
			Hashes: &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: strings.TrimPrefix(string(b.Image), "sha256:")}},
		},
		Properties: b.properties(),
	}
	parts := []cyclonedx.Component{}
	refs := []string{}
	for _, c := range b.components() {
		parts = append(parts, c.cyclonedx())
		refs = append(refs, c.id)
	}
	bom.Components = &parts
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: image, Dependencies: &refs}}
	if len(b.Inventory.Databases) == 0 {
		bom.Compositions = &[]cyclonedx.Composition{{Aggregate: cyclonedx.CompositionAggregateIncomplete, Assemblies: &[]cyclonedx.BOMReference{image}}}
	}
	var out bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetEscapeHTML(false).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot write the bill of materials: %w", err)
	}
	return out.Bytes(), nil
}

func (b Bill) properties() *[]cyclonedx.Property {
	all := []cyclonedx.Property{{Name: "kiln:statement", Value: b.Inventory.Statement()}}
	if s := b.Inventory.System; s != "" {
		all = append(all, cyclonedx.Property{Name: "kiln:system", Value: s})
	}
	for _, u := range b.Inventory.Unread {
		all = append(all, cyclonedx.Property{Name: "kiln:unread", Value: u.Path + ": " + u.Reason})
	}
	return &all
}

func (c component) cyclonedx() cyclonedx.Component {
	var where []cyclonedx.EvidenceOccurrence
	for _, p := range c.paths {
		where = append(where, cyclonedx.EvidenceOccurrence{Location: p})
	}
	return cyclonedx.Component{
		BOMRef: c.id, Type: cyclonedx.ComponentTypeLibrary, Name: c.Name, Version: c.Version, PackageURL: c.PURL,
		Licenses: c.cyclonedxLicences(), Evidence: &cyclonedx.Evidence{Occurrences: &where},
	}
}

// cyclonedxLicences are one expression, or names: the format wants no mixture.
func (c component) cyclonedxLicences() *cyclonedx.Licenses {
	if len(c.Licenses) == 0 {
		return nil
	}
	var names cyclonedx.Licenses
	all := true
	for _, l := range c.Licenses {
		all = all && isExpression(l)
		names = append(names, cyclonedx.LicenseChoice{License: &cyclonedx.License{Name: l, Acknowledgement: cyclonedx.LicenseAcknowledgementDeclared}})
	}
	if all {
		return &cyclonedx.Licenses{{Expression: conjunction(c.Licenses)}}
	}
	return &names
}
