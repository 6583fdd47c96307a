package contents

import (
	"bufio"
	"encoding/json"
	"io"
	"net/textproto"
	"path"
	"regexp"
	"strings"
)

// maxLicence is how long what a manifest says of its licence may be. Some have the
// whole text there.
const maxLicence = 1000 // bytes

// licences returns what a manifest says of its package's licences.
func licences(file string, r io.Reader) []string {
	var said []string
	switch base := path.Base(file); {
	case base == "package.json":
		said = npmLicences(r)
	case base == "METADATA", base == "PKG-INFO", strings.HasSuffix(base, ".egg-info"):
		said = pythonLicences(r)
	case strings.HasSuffix(base, ".gemspec"):
		said = gemLicences(r)
	}
	var kept []string
	for _, l := range said {
		if l = strings.TrimSpace(l); l != "" && len(l) <= maxLicence && l != "UNKNOWN" && !strings.Contains(l, "\n") {
			kept = append(kept, l)
		}
	}
	return kept
}

// npmLicences reads package.json's "license", or what older ones have
// (https://docs.npmjs.com/cli/configuring-npm/package-json#license).
func npmLicences(r io.Reader) []string {
	var manifest struct {
		License  json.RawMessage   `json:"license"`
		Licenses []json.RawMessage `json:"licenses"`
	}
	if json.NewDecoder(r).Decode(&manifest) != nil {
		return nil
	}
	var said []string
	for _, raw := range append([]json.RawMessage{manifest.License}, manifest.Licenses...) {
		var name string
		var typed struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(raw, &name) == nil {
			said = append(said, name)
		} else if json.Unmarshal(raw, &typed) == nil {
			said = append(said, typed.Type)
		}
	}
	return said
}

// pythonLicences reads core metadata
// (https://packaging.python.org/specifications/core-metadata/).
func pythonLicences(r io.Reader) []string {
	h, _ := textproto.NewReader(bufio.NewReader(r)).ReadMIMEHeader() // as far as it can be read
	if l := h.Get("License-Expression"); l != "" {
		return []string{l}
	}
	return []string{h.Get("License")}
}

var (
	gemLicence  = regexp.MustCompile(`\.licenses?\s*=\s*(.*)`)
	gemLicenceS = regexp.MustCompile(`["']([^"']+)["']`)
)

// gemLicences reads a specification's licenses
// (https://guides.rubygems.org/specification-reference/#licenses=).
func gemLicences(r io.Reader) []string {
	var said []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m := gemLicence.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		for _, q := range gemLicenceS.FindAllStringSubmatch(m[1], -1) {
			said = append(said, q[1])
		}
		return said
	}
	return said
}
