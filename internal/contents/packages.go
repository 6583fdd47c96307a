package contents

import (
	"cmp"
	"context"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Package is a package that is installed in an image, or built into one of its files.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"` // "" where the file does not say
	// Type is that of package URLs: deb, apk, rpm, golang, npm, pypi, gem, maven.
	Type         string `json:"type"`
	Architecture string `json:"architecture,omitempty"` // in the words of the package's own system
	// Licenses are as the package says them: expressions of SPDX, or words.
	Licenses []string `json:"licenses,omitempty"`
	// Path is the file that says so: a database of packages, a program, a manifest.
	Path string `json:"path"`
	// Source is the package that it was built from, where that has another name or
	// version: distributions report vulnerabilities of those.
	Source        string `json:"source,omitempty"`
	SourceVersion string `json:"source_version,omitempty"`
	// Ecosystem is OSV's name of where it comes from, such as Debian:13 or Go
	// (https://ossf.github.io/osv-schema/#defined-ecosystems); "" where OSV has none.
	Ecosystem string `json:"ecosystem,omitempty"`
	PURL      string `json:"purl"` // https://github.com/package-url/purl-spec
}

// Inventory is what is known of the packages of an image.
type Inventory struct {
	Packages []Package `json:"packages"` // by type, name, version, path
	// Databases are the paths of the databases of packages that the image has. Without
	// any, the packages are those that single files tell of: what was copied into the
	// image without leaving a word is not among them.
	Databases []string `json:"databases"`
	// System is what the image calls itself (os-release(5), PRETTY_NAME), or "".
	System string `json:"system,omitempty"`
	// Unread are files that should name packages and cannot be understood.
	Unread []Unread `json:"unread,omitempty"`
}

// Unread is a file that could not be understood.
type Unread struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Statement says in words what the list of packages is made from.
func (i Inventory) Statement() string {
	if len(i.Databases) > 0 {
		return "The packages are those of the image's package databases and of the files that name packages."
	}
	return "No package database was found in the image: the packages are those that single files tell of, and what else was copied into it is not listed."
}

// Packages returns the packages of an image, as its files are after its last layer.
// An image without any is no error.
//
// Invalid, Unavailable: as layers.Walker.
func (r Reader) Packages(ctx context.Context, img v1.Image) (Inventory, error) {
	s, err := r.scan(ctx)
	if err != nil {
		return Inventory{}, err
	}
	defer s.close()
	seen, err := s.image(img)
	if err != nil {
		return Inventory{}, err
	}
	return s.inventory(seen.tree)
}

// inventory puts together what was found in the files that are left at the end.
func (s *scanner) inventory(t *tree) (Inventory, error) {
	view := newView(s.spool, t)
	list := Inventory{Packages: []Package{}, Databases: []string{}, System: view.system()}
	err := t.root.each("", func(p string, n *node) error {
		f := n.found
		if f == nil {
			return nil
		}
		packages, err := f.packages, f.err
		if f.database != nil {
			list.Databases = append(list.Databases, p)
			packages, err = extractDatabase(s.ctx, f.database, view, p, n)
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if err != nil {
			list.Unread = append(list.Unread, Unread{Path: p, Reason: err.Error()})
		}
		for _, found := range packages {
			found.Path = p
			list.Packages = append(list.Packages, found)
		}
		return nil
	})
	for i, p := range list.Packages {
		if p.Type == "deb" && len(p.Licenses) == 0 {
			list.Packages[i].Licenses = t.debianLicences(p.Name)
		}
	}
	slices.SortFunc(list.Packages, comparePackages)
	list.Packages = slices.CompactFunc(list.Packages, func(a, b Package) bool { return comparePackages(a, b) == 0 })
	return list, err
}

func comparePackages(a, b Package) int {
	return cmp.Or(
		cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Architecture, b.Architecture), cmp.Compare(a.Path, b.Path), cmp.Compare(a.PURL, b.PURL),
	)
}
