package contents

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/google/osv-scalibr/purl"

	"kiln/internal/model"
)

// Bill is what a software bill of materials is made from. The same bill gives the
// same bytes, whoever writes it, wherever and when: nothing in a document is random
// or of the moment.
type Bill struct {
	Image     model.Digest // of the image's manifest: what the documents are about
	Name      string       // what the image is called, such as its service; "": no name
	Created   time.Time    // the image's; documents are dated so
	Tool      string       // the version of kiln
	Inventory Inventory
}

// component is a package, once for all the files that tell of it.
type component struct {
	Package
	paths []string
	id    string // of letters, digits, dots and dashes; unique in a document
}

// components returns the packages as documents list them: one for each package URL.
func (b Bill) components() []component {
	at := map[string]int{}
	var all []component
	for _, p := range b.Inventory.Packages {
		key := strings.Join([]string{p.PURL, p.Type, p.Name, p.Version, p.Architecture}, "\x00")
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			sum := sha256.Sum256([]byte(key))
			all = append(all, component{Package: p, id: plain(p.Type+"-"+p.Name) + "-" + hex.EncodeToString(sum[:8])})
		}
		c := &all[i]
		c.paths = append(c.paths, p.Path)
		for _, l := range p.Licenses {
			if !slices.Contains(c.Licenses, l) {
				c.Licenses = append(slices.Clip(c.Licenses), l)
			}
		}
	}
	for i := range all {
		slices.Sort(all[i].paths)
		all[i].paths = slices.Compact(all[i].paths)
	}
	slices.SortFunc(all, func(x, y component) int {
		return cmp.Or(comparePackages(x.Package, y.Package), cmp.Compare(x.id, y.id))
	})
	return all
}

// plain replaces what an identifier of SPDX may not have.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '.' || r == '-') {
			return r
		}
		return '-'
	}, s)
}

// name is what the documents call the image.
func (b Bill) name() string {
	if b.Name == "" {
		return string(b.Image)
	}
	return b.Name
}

// purl names the image
// (https://github.com/package-url/purl-spec/blob/main/types-doc/oci-definition.md).
func (b Bill) purl() string {
	name, tag := "image", ""
	if b.Name != "" {
		name, _, _ = strings.Cut(path.Base(b.Name), "@")
		name, tag, _ = strings.Cut(name, ":")
		name = strings.ToLower(name)
	}
	u := purl.PackageURL{Type: "oci", Name: name, Version: string(b.Image)}
	if tag != "" {
		u.Qualifiers = purl.QualifiersFromMap(map[string]string{"tag": tag})
	}
	return u.String()
}

// date is the bill's, as both formats want it.
func (b Bill) date() string {
	t := b.Created
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format(time.RFC3339)
}

// uuid is one made of all that a document says: of version 8 (RFC 9562).
func (b Bill) uuid(format string) (string, error) {
	b.Created = b.Created.UTC().Truncate(time.Second)
	text, err := json.Marshal(b)
	if err != nil {
		return "", model.Errorf(model.Internal, "cannot write the bill of materials: %w", err)
	}
	sum := sha256.Sum256(append([]byte("kiln "+format+"\n"), text...))
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}

// statement says what the documents rest on.
func (b Bill) statement() string {
	lines := []string{b.Inventory.Statement()}
	for _, u := range b.Inventory.Unread {
		lines = append(lines, "Not understood: "+u.Path+": "+u.Reason)
	}
	return strings.Join(lines, "\n")
}

// isExpression reports whether a licence is an expression of SPDX
// (https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/).
func isExpression(licence string) (ok bool) {
	defer func() {
		if recover() != nil { // the words are anybody's
			ok = false
		}
	}()
	ok, _ = spdxexp.ValidateLicenses([]string{licence})
	return ok
}

// conjunction joins expressions, all of which hold.
func conjunction(expressions []string) string {
	if len(expressions) == 1 {
		return expressions[0]
	}
	parts := slices.Clone(expressions)
	for i, e := range parts {
		if strings.Contains(e, " ") {
			parts[i] = "(" + e + ")"
		}
	}
	return strings.Join(parts, " AND ")
}
