package kiln_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"kiln/internal/spec"
)

// TestDeclarationExample parses the example that the reference shows.
func TestDeclarationExample(t *testing.T) {
	for _, file := range []string{"docs/declaration.md", "docs/first-steps.md", "docs/volumes.md", "docs/secrets.md", "docs/promotion.md", "README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllSubmatch(text, -1)
		if len(blocks) == 0 {
			t.Errorf("%s shows no declaration", file)
		}
		for _, block := range blocks {
			if _, diags := spec.Parse(file, block[1]); len(diags) > 0 {
				t.Errorf("%s shows a declaration that is wrong: %s", file, diags.Error())
			}
		}
	}
	for _, file := range []string{"examples/shop/kiln.hcl", "examples/site/kiln.hcl", "examples/shop/environments.hcl"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, diags := spec.Parse(file, text); len(diags) > 0 {
			t.Errorf("%s is wrong: %s", file, diags.Error())
		}
	}
}

// TestLinks wants every link between our own documents to lead somewhere.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob("docs/decisions/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, decisions...)
	files = append(files, "README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md")
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)|src="([^":]+)"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			to := string(m[1]) + string(m[3])
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), to)); err != nil {
				t.Errorf("%s links to %s, which is not there", file, to)
			}
		}
	}
}
