// Package kiln_test holds what ARCHITECTURE.md says about the packages to what
// their source says: the edges between them, the purity of the core, and which
// of them may know which outside module.
package kiln_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// row is a line of the layer table.
type row struct {
	layer string
	may   []string // packages that it may import; "*" for all
}

// pkg is a package as its source shows it, test files left out.
type pkg struct {
	imports map[string]string // import path to the file that has it
	files   []string
}

const module = "kiln/"

// short returns a package's name in the table: without the module's name and
// without internal/.
func short(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "internal/")
}

// table reads the rows between the markers in ARCHITECTURE.md.
func table(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "<!-- layers:begin -->")
	inside, _, closed := strings.Cut(rest, "<!-- layers:end -->")
	if !ok || !closed {
		t.Fatal("ARCHITECTURE.md has no table between layers:begin and layers:end")
	}
	rows := map[string]row{}
	names := regexp.MustCompile("`([^`]+)`")
	for line := range strings.SplitSeq(inside, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.Contains(cells[2], "`") {
			continue
		}
		var r row
		r.layer = strings.TrimSpace(cells[1])
		for _, m := range names.FindAllStringSubmatch(cells[4], -1) {
			r.may = append(r.may, m[1])
		}
		for _, m := range names.FindAllStringSubmatch(cells[2], -1) {
			rows[m[1]] = r
		}
	}
	return rows
}

// packages parses the imports of all our packages that the product and the
// examples consist of. Tests, and what only tests use, may import anything.
func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	found := map[string]*pkg{}
	for _, root := range []string{"cmd", "internal", "examples"} {
		err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			name := short(module + path.Dir(filepath.ToSlash(file)))
			p := found[name]
			if p == nil {
				p = &pkg{imports: map[string]string{}}
				found[name] = p
			}
			p.files = append(p.files, file)
			for _, imp := range f.Imports {
				p.imports[importPath(imp)] = file
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func importPath(imp *ast.ImportSpec) string {
	s, _ := strconv.Unquote(imp.Path.Value) // the parser has checked it
	return s
}

func TestLayers(t *testing.T) {
	rows, found := table(t), packages(t)
	for _, name := range slices.Sorted(maps.Keys(found)) {
		r, ok := rows[name]
		if !ok {
			t.Errorf("package %s has no row in ARCHITECTURE.md", name)
			continue
		}
		for imp, file := range found[name].imports {
			if !strings.HasPrefix(imp, module) || slices.Contains(r.may, "*") {
				continue
			}
			if !slices.Contains(r.may, short(imp)) {
				t.Errorf("%s: %s imports %s, which ARCHITECTURE.md does not allow", file, name, short(imp))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if found[name] == nil {
			t.Errorf("ARCHITECTURE.md has a row for %s, and there is no such package", name)
		}
		for _, may := range rows[name].may {
			if _, ok := rows[may]; !ok && may != "*" {
				t.Errorf("ARCHITECTURE.md lets %s import %s, which has no row", name, may)
			}
		}
	}
}

// fences says which of our packages may import an outside module, and why
// nobody else: an entry holds for what is below it too.
var fences = map[string][]string{
	"github.com/containerd/containerd": {"engine/local", "image"},
	"github.com/moby/buildkit":         {"image", "buildcontext"}, // both sides of a build speak its protocol
	"k8s.io":                           {"engine/kube"},
	"github.com/spf13/cobra":           {"cli"},
	"github.com/prometheus/prometheus": {"telemetry"},
	"database/sql":                     {"journal"},
	"modernc.org/sqlite":               {"journal"},
	"github.com/caddyserver/certmagic": {"router"},
	"github.com/google/osv-scalibr":    {"contents"},
}

func TestFences(t *testing.T) {
	for name, p := range packages(t) {
		for imp, file := range p.imports {
			for outside, inside := range fences {
				if !below(imp, outside) {
					continue
				}
				if !slices.ContainsFunc(inside, func(of string) bool { return below(name, of) }) {
					t.Errorf("%s: %s imports %s; only %v may", file, name, imp, inside)
				}
			}
		}
	}
}

// below reports whether p is the path of, or lies under it.
func below(p, of string) bool { return p == of || strings.HasPrefix(p, of+"/") }

// pure are the packages that decide or describe, without touching the world:
// that is what lets the simulation run them millions of times and get the same
// answer each time.
var pure = []string{"model", "reconcile", "spec"}

// impure are the imports that would let them touch it. net/netip and net/url,
// which only compute, are not among them.
var impure = []string{"os", "net", "net/http", "sync", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog", "syscall", "io/ioutil", "runtime", "unsafe"}

func TestPurity(t *testing.T) {
	found := packages(t)
	for _, name := range pure {
		if found[name] == nil {
			t.Errorf("there is no package %s", name)
			continue
		}
		for imp, file := range found[name].imports {
			if slices.Contains(impure, imp) || below(imp, "os") {
				t.Errorf("%s: %s imports %s, and has to be pure", file, name, imp)
			}
		}
		for _, file := range found[name].files {
			for _, what := range impurities(t, file) {
				t.Errorf("%s, and %s has to be pure", what, name)
			}
		}
	}
}

// impurities finds go statements and readings of the clock.
func impurities(t *testing.T, file string) (found []string) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, fmt.Sprintf("%s: a go statement", fset.Position(n.Pos())))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: time.%s", fset.Position(n.Pos()), n.Sel.Name))
			}
		}
		return true
	})
	return found
}

// TestHabits holds what every package keeps to: one doc comment, no init function,
// files that can be read in one go.
func TestHabits(t *testing.T) {
	for name, p := range packages(t) {
		docs := 0
		for _, file := range p.files {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs++
			}
			if lines := fset.File(f.Pos()).LineCount(); lines > 600 {
				t.Errorf("%s has %d lines; past 600 look for the noun that wants out", file, lines)
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				if fn.Name.Name == "init" && fn.Recv == nil {
					t.Errorf("%s has an init function", file)
				}
				if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line; n > 60 {
					t.Errorf("%s: %s has %d lines, more than 60", fset.Position(fn.Pos()), fn.Name.Name, n)
				}
			}
		}
		if docs != 1 {
			t.Errorf("package %s has %d doc comments, want one", name, docs)
		}
	}
}

// TestArchitectureIsShort keeps the story one that is read.
func TestArchitectureIsShort(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n >= 300 {
		t.Errorf("ARCHITECTURE.md has %d lines, and has to stay under 300", n)
	}
}
