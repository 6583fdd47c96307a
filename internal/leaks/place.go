package leaks

import (
	"path"
	"slices"
	"strings"
)

// packageDirs are directories whose files come from packages, by the names that
// they have anywhere, and systemDirs those that are at one place.
var (
	packageDirs = []string{"node_modules", "site-packages", "dist-packages", "gems", "vendor"}
	systemDirs  = []string{"/usr/share", "/usr/lib", "/usr/src", "/usr/include", "/usr/local/go", "/usr/local/lib", "/go/pkg/mod", "/root/go/pkg/mod"}
	testDirs    = []string{"test", "tests", "testing", "testdata", "test_data", "test-data", "__tests__", "spec", "fixtures", "doc", "docs", "example", "examples", "samples", "demo"}
)

// ofPackage reports whether a file comes from a package, by its path.
func ofPackage(file string) bool {
	return slices.ContainsFunc(systemDirs, func(dir string) bool { return below(file, dir) }) || within(file, packageDirs)
}

// ofTests reports whether a file is one of tests, examples or manuals, by its path.
func ofTests(file string) bool {
	base := path.Base(file)
	return within(file, testDirs) || strings.HasPrefix(base, "test_") || strings.Contains(base, "_test.") || strings.Contains(base, ".test.")
}

// within reports whether a directory above a file has one of the names.
func within(file string, dirs []string) bool {
	for dir := range strings.SplitSeq(path.Dir(file), "/") {
		if slices.Contains(dirs, dir) {
			return true
		}
	}
	return false
}
