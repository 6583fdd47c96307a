package contents

import (
	"bufio"
	"io"
	"regexp"
	"slices"
	"strings"
)

// maxCopyright is the largest file of copyrights that is read: the longest of Debian's
// have several MiB, few more than one.
const maxCopyright = 1 << 20 // bytes

var copyrightPath = regexp.MustCompile(`^usr/share/doc/[^/]+/copyright$`)

// debianLicences returns the licences of a package of Debian's. Its directory may be a
// symbolic link to another's.
func (t *tree) debianLicences(name string) []string {
	n := t.find("usr/share/doc/" + name + "/copyright")
	if n == nil || n.found == nil {
		return nil
	}
	return n.found.licences
}

// debianLicences returns the licences of a file of copyrights, as expressions of SPDX
// where Debian has its own words for them. Files in free form, which do not begin with
// the format's name, tell of none
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/).
func debianLicences(r io.Reader) []string {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), 64<<10)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "Format:") {
		return nil
	}
	var found []string
	for lines.Scan() {
		said, ok := strings.CutPrefix(lines.Text(), "License:")
		if said = strings.TrimSpace(said); !ok || said == "" || len(said) > maxLicence {
			continue
		}
		if l := expression(said); !slices.Contains(found, l) {
			found = append(found, l)
		}
	}
	slices.Sort(found)
	return found
}

// debianNames are short names of Debian's format that SPDX has others for.
var debianNames = map[string]string{
	"Expat": "MIT", "BSD-2-clause": "BSD-2-Clause", "BSD-3-clause": "BSD-3-Clause", "BSD-4-clause": "BSD-4-Clause",
	"Artistic": "Artistic-1.0-Perl", "zlib": "Zlib", "Apache-2": "Apache-2.0", "MPL-2": "MPL-2.0", "CC0": "CC0-1.0", "PSF-2": "PSF-2.0", "Python": "Python-2.0",
}

var gnuName = regexp.MustCompile(`^(A?GPL|LGPL|GFDL)-(\d)(?:\.(\d))?(\+?)$`)

// expression translates what stands after "License:". What has no translation stays
// as it is, whole.
func expression(said string) string {
	words := strings.Fields(strings.ReplaceAll(said, ",", " "))
	for i, w := range words {
		switch {
		case w == "and" || w == "or":
			words[i] = strings.ToUpper(w)
		case debianNames[w] != "":
			words[i] = debianNames[w]
		default:
			words[i] = gnu(w)
		}
	}
	if e := strings.Join(words, " "); isExpression(e) {
		return e
	}
	return said
}

// gnu translates names such as LGPL-2.1+.
func gnu(w string) string {
	m := gnuName.FindStringSubmatch(w)
	if m == nil {
		return w
	}
	minor, which := m[3], "only"
	if minor == "" {
		minor = "0"
	}
	if m[4] == "+" {
		which = "or-later"
	}
	return m[1] + "-" + m[2] + "." + minor + "-" + which
}
