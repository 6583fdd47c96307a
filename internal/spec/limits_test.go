package spec

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

// constants are the numbers that a package's source declares, by name; fields
// that a method of Limits gives a default, by set(&l.Field, value), are there as
// Limits.Field.
type constants map[string]ast.Expr

func constantsOf(t *testing.T, dir string) constants {
	t.Helper()
	all := constants{}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no source in %s: %v", dir, err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				all.declared(d)
			case *ast.FuncDecl:
				all.given(d)
			}
		}
	}
	return all
}

// declared adds what a declaration of the package names.
func (c constants) declared(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		if v, ok := spec.(*ast.ValueSpec); ok {
			for i, name := range v.Names {
				if i < len(v.Values) {
					c[name.Name] = v.Values[i]
				}
			}
		}
	}
}

// given adds the fields to which a method gives defaults.
func (c constants) given(d *ast.FuncDecl) {
	if d.Recv == nil {
		return
	}
	of, ok := d.Recv.List[0].Type.(*ast.Ident)
	if !ok {
		return
	}
	ast.Inspect(d, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 2 {
			return true
		}
		if fun, ok := call.Fun.(*ast.Ident); !ok || fun.Name != "set" {
			return true
		}
		if ref, ok := call.Args[0].(*ast.UnaryExpr); ok {
			if field, ok := ref.X.(*ast.SelectorExpr); ok {
				c[of.Name+"."+field.Sel.Name] = call.Args[1]
			}
		}
		return true
	})
}

// value evaluates an expression of numbers, and says whether it is a time.
func (c constants) value(t *testing.T, e ast.Expr) (v constant.Value, isTime bool) {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0), false
	case *ast.ParenExpr:
		return c.value(t, e.X)
	case *ast.Ident:
		return c.value(t, c[e.Name])
	case *ast.CallExpr: // a conversion
		v, isTime = c.value(t, e.Args[0])
		to, ok := e.Fun.(*ast.SelectorExpr)
		return constant.ToInt(v), isTime || ok && to.Sel.Name == "Duration"
	case *ast.SelectorExpr:
		units := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
		return constant.MakeInt64(int64(units[e.Sel.Name])), true
	case *ast.BinaryExpr:
		x, timeX := c.value(t, e.X)
		y, timeY := c.value(t, e.Y)
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(n)), timeX
		}
		return constant.BinaryOp(x, e.Op, y), timeX || timeY
	}
	t.Fatalf("cannot evaluate %T", e)
	return nil, false
}

// Every limit that is documented is what the code says.
func TestLimitsAreWhatTheCodeSays(t *testing.T) {
	for _, l := range Limits() {
		dir, name := l.Constant, ""
		if i := strings.LastIndexByte(dir, '/'); strings.Contains(dir[i+1:], ".") {
			j := i + 1 + strings.IndexByte(dir[i+1:], '.')
			dir, name = dir[:j], dir[j+1:]
		}
		all := constantsOf(t, filepath.Join("..", filepath.FromSlash(dir)))
		expr := all[name]
		if expr == nil {
			t.Errorf("%s: there is no constant %s", l.Key, l.Constant)
			continue
		}
		v, isTime := all.value(t, expr)
		n, _ := constant.Int64Val(v)
		want := strconv.FormatInt(n, 10)
		switch {
		case isTime:
			want = model.Duration(n).String()
		case strings.HasSuffix(l.Value, "B"):
			want = Size(n)
		}
		if l.Value != want {
			t.Errorf("%s is documented as %s; %s is %s", l.Key, l.Value, l.Constant, want)
		}
	}
}

// Every default and limit is there once: under one name, and by one constant.
func TestLimitsAreThereOnce(t *testing.T) {
	keys, by := map[string]bool{}, map[string]string{}
	for _, d := range slices.Concat(Defaults(), Limits()) {
		if keys[d.Key] {
			t.Errorf("there are two rows called %q", d.Key)
		}
		keys[d.Key] = true
		if d.Constant == "" {
			continue
		}
		if other := by[d.Constant]; other != "" {
			t.Errorf("%q and %q are both %s", other, d.Key, d.Constant)
		}
		by[d.Constant] = d.Key
	}
}

// Every timer of the decisions is documented.
func TestTimersAreDocumented(t *testing.T) {
	src, err := os.ReadFile("../reconcile/timers.go")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "timers.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if !slices.ContainsFunc(Limits(), func(l Default) bool { return l.Constant == "reconcile."+name.Name }) {
					t.Errorf("%s is a timer, and not in the table of limits", name.Name)
				}
			}
		}
		return true
	})
}

// docs/defaults.md is made from Defaults and Limits; -rewrite writes it anew.
func TestDefaultsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Every default\n\nMade from the code, and held to it by a test. `kiln plan` shows what holds for a service; the daemon's own\nsettings are flags of [`kiln daemon`](commands.md#kiln-daemon).\n")
	section := func(title, text string, list []Default) {
		page.WriteString("\n## " + title + "\n\n" + text + "\n\n| what | default | meaning |\n|---|---|---|\n")
		for _, d := range list {
			key := d.Key
			if d.Constant == "" {
				key = "`" + key + "`"
			}
			page.WriteString("| " + key + " | " + d.Value + " | " + d.Meaning + " |\n")
		}
	}
	section("Keys of the declaration", "What a key is where it is not declared. [The declaration](declaration.md) says what each is for.", Defaults())
	section("Deployments and replacement", "Timers that no key sets. The sum of those that a deployment needs is checked against its `deadline` before it starts.", deployLimits())
	section("The router", "Bounds that hold for every listener.", routerLimits())
	section("Servers", "What every server has, and what is looked at.", serverLimits())
	section("What is kept", "Retention of what is not in use any more.", keptLimits())
	const path = "../../docs/defaults.md"
	golden(t, path, page.String())
}
