package contents

import (
	"fmt"
	"strings"

	"github.com/google/osv-scalibr/extractor"
	apkmeta "github.com/google/osv-scalibr/extractor/filesystem/os/apk/metadata"
	dpkgmeta "github.com/google/osv-scalibr/extractor/filesystem/os/dpkg/metadata"
	rpmmeta "github.com/google/osv-scalibr/extractor/filesystem/os/rpm/metadata"
	"github.com/google/osv-scalibr/purl"
)

// converted makes a Package of what an extractor found.
func converted(p *extractor.Package) Package {
	if p.PURLType == purl.TypeGolang {
		if p.Name == "go" { // OSV and newer extractors call the standard library so
			p.Name = "stdlib"
		}
		if p.Version == "(devel)" {
			p.Version = ""
		}
	}
	c := Package{Name: p.Name, Version: p.Version, Type: p.PURLType, Ecosystem: p.Ecosystem().String()}
	if u := p.PURL(); u != nil {
		if p.PURLType == purl.TypeNPM {
			u.Qualifiers = nil // how the extractor came by it, which is nobody's identity
		}
		c.PURL = u.String()
	}
	for _, l := range p.Licenses {
		if l = strings.TrimSpace(l); l != "" && len(l) <= maxLicence {
			c.Licenses = append(c.Licenses, l)
		}
	}
	switch m := p.Metadata.(type) {
	case *dpkgmeta.Metadata:
		if m.OSID == "" { // nothing is guessed
			c.Ecosystem = ""
		}
		c.Architecture, c.Source, c.SourceVersion = m.Architecture, m.SourceName, m.SourceVersion
	case *apkmeta.Metadata:
		c.Architecture = m.Architecture
		if e, ok := systems[m.OSID]; ok || m.OSID == "" {
			c.Ecosystem = e
		}
		if m.OriginName != p.Name {
			c.Source = m.OriginName
		}
	case *rpmmeta.Metadata:
		c.Architecture = m.Architecture
		if e, ok := systems[m.OSID]; ok {
			major, _, _ := strings.Cut(m.OSVersionID, ".")
			c.Ecosystem = strings.TrimSuffix(e+":"+major, ":")
		}
		if m.Epoch > 0 {
			c.Version = fmt.Sprintf("%d:%s", m.Epoch, c.Version)
		}
		c.Source, c.SourceVersion = sourceRPM(m.SourceRPM)
	}
	return c
}

// systems are the ecosystems of distributions, by their ID in os-release(5), that the
// extractors take for others or do not know.
var systems = map[string]string{
	"wolfi": "Wolfi", "chainguard": "Chainguard", // without releases
	"rocky": "Rocky Linux", "almalinux": "AlmaLinux", // with major ones
}

// sourceRPM returns name and version of NAME-VERSION-RELEASE.src.rpm.
func sourceRPM(file string) (name, version string) {
	s, ok := strings.CutSuffix(file, ".src.rpm")
	if !ok {
		return "", ""
	}
	if i := strings.LastIndexByte(s, '-'); i > 0 {
		if j := strings.LastIndexByte(s[:i], '-'); j > 0 {
			return s[:j], s[j+1:]
		}
	}
	return "", ""
}
