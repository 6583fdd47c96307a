package contents

import (
	"fmt"

	"kiln/internal/model"
)

// Forbids reports whether a package is what a rule names. err: its version cannot be
// compared with the rule's, and it may be.
func Forbids(r model.PackageRule, p Package) (bool, error) {
	if !r.Names(p.Name) {
		return false, nil
	}
	switch r.By {
	case "":
		return true, nil
	case "@":
		return r.Like(p.Version), nil
	}
	if p.Version == "" {
		return false, fmt.Errorf("the version of %s is not known", p.Name)
	}
	system, _ := release(p.Ecosystem)
	if system == "" {
		return false, fmt.Errorf("the order of versions of %s is not known", p.Name)
	}
	order, err := compare(system, p.Version, r.Version)
	return err == nil && (order < 0 || r.By == "<=" && order == 0), err
}
