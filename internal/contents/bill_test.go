package contents

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"

	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func someBill() Bill {
	return Bill{
		Image: someDigest, Name: "registry.example.com/Shop", Created: time.Date(2026, 5, 4, 3, 2, 1, 5, time.FixedZone("", 3600)), Tool: "v1.2.3",
		Inventory: Inventory{
			System: "Debian GNU/Linux 13", Databases: []string{"var/lib/dpkg/status"}, Unread: []Unread{{"x/package.json", "unexpected end"}},
			Packages: []Package{
				{Name: "libc6", Version: "2.41", Type: "deb", Architecture: "amd64", Path: "var/lib/dpkg/status", PURL: "pkg:deb/debian/libc6@2.41?arch=amd64"},
				{Name: "golang.org/x/net", Version: "0.1.0", Type: "golang", Path: "usr/bin/a", PURL: "pkg:golang/golang.org/x/net@0.1.0"},
				{Name: "golang.org/x/net", Version: "0.1.0", Type: "golang", Path: "usr/bin/b", PURL: "pkg:golang/golang.org/x/net@0.1.0"},
				{Name: "@types/node", Version: "1", Type: "npm", Licenses: []string{"MIT", "Apache-2.0 OR BSD-3-Clause"}, Path: "a/package.json", PURL: "pkg:npm/%40types/node@1"},
				{Name: "öde", Version: "", Type: "npm", Licenses: []string{"see <LICENSE>", "MIT"}, Path: "b/package.json"},
			},
		},
	}
}

// schema compiles a JSON schema, and those beside it that it refers to.
func schema(t *testing.T, id string, files map[string]string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	for url, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func conforms(t *testing.T, s *jsonschema.Schema, document []byte) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("the document does not conform: %v\n%s", err, document)
	}
}

// TestSchemasRefuse: what conforms does, lest it lets everything pass.
func TestSchemasRefuse(t *testing.T) {
	const id = "http://spdx.org/rdf/terms/2.3"
	s := schema(t, id, map[string]string{id: "testdata/spdx-schema-2.3.json"})
	for _, text := range []string{`{"SPDXID":"SPDXRef-DOCUMENT"}`, `[]`} {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if s.Validate(doc) == nil {
			t.Errorf("%s conforms to SPDX's schema", text)
		}
	}
}

func TestSPDX(t *testing.T) {
	text, err := someBill().SPDX()
	if err != nil {
		t.Fatal(err)
	}
	const id = "http://spdx.org/rdf/terms/2.3"
	s := schema(t, id, map[string]string{id: "testdata/spdx-schema-2.3.json"})
	conforms(t, s, text)
	doc, err := spdxjson.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	if n := len(doc.Packages); n != 5 {
		t.Errorf("the document has %d packages, want the image and 4", n)
	}
	if doc.CreationInfo.Created != "2026-05-04T02:02:01Z" || doc.DocumentName != "registry.example.com/Shop" {
		t.Errorf("the document is %q of %s", doc.DocumentName, doc.CreationInfo.Created)
	}
	for _, w := range []string{
		"pkg:oci/shop@sha256", `"found in: usr/bin/a, usr/bin/b"`, "MIT AND (Apache-2.0 OR BSD-3-Clause)", " AND MIT", `"extractedText":"see <LICENSE>"`,
		"Not understood: x/package.json", someDigest, "Tool: kiln-v1.2.3",
	} {
		if !bytes.Contains(text, []byte(w)) {
			t.Errorf("the document has no %s: %s", w, text)
		}
	}
	empty, err := Bill{Image: someDigest}.SPDX()
	if err != nil {
		t.Fatal(err)
	}
	conforms(t, s, empty)
	if !bytes.Contains(empty, []byte("No package database was found")) {
		t.Errorf("the document of nothing does not say so: %s", empty)
	}
}

func TestCycloneDX(t *testing.T) {
	text, err := someBill().CycloneDX()
	if err != nil {
		t.Fatal(err)
	}
	dir := moduleFile(t, "github.com/CycloneDX/cyclonedx-go", "schema/")
	const at = "http://cyclonedx.org/schema/"
	s := schema(t, at+"bom-1.6.schema.json", map[string]string{
		at + "bom-1.6.schema.json": dir + "/bom-1.6.schema.json", at + "spdx.schema.json": dir + "/spdx.schema.json", at + "jsf-0.82.schema.json": dir + "/jsf-0.82.schemax.json",
	})
	conforms(t, s, text)
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if len(*bom.Components) != 4 || bom.Metadata.Component.Version != someDigest || bom.Metadata.Timestamp != "2026-05-04T02:02:01Z" || bom.Compositions != nil {
		t.Errorf("the document is %s", text)
	}
	empty, err := Bill{Image: someDigest}.CycloneDX()
	if err != nil {
		t.Fatal(err)
	}
	conforms(t, s, empty)
	if !bytes.Contains(empty, []byte(`"incomplete"`)) {
		t.Errorf("the document of nothing does not say that it is incomplete: %s", empty)
	}
}

// TestBillsAreTheSame wants the same bytes of the same bill, and others of another.
func TestBillsAreTheSame(t *testing.T) {
	write := func(b Bill) string {
		a, err := b.SPDX()
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.CycloneDX()
		if err != nil {
			t.Fatal(err)
		}
		return string(a) + string(c)
	}
	first := write(someBill())
	if second := write(someBill()); second != first {
		t.Errorf("two documents of one bill differ:\n%s\n%s", first, second)
	}
	other := someBill()
	other.Inventory.Packages = slices.Clone(other.Inventory.Packages[1:])
	if write(other) == first {
		t.Error("the documents of two bills are the same")
	}
	uuids := map[string]bool{}
	for _, b := range []Bill{someBill(), other} {
		for _, f := range []string{"a", "b"} {
			u, err := b.uuid(f)
			if err != nil {
				t.Fatal(err)
			}
			uuids[u] = true
		}
	}
	if len(uuids) != 4 {
		t.Errorf("the four documents have %d identifiers", len(uuids))
	}
}

// TestBillOfAnImage goes the whole way from layers to documents, twice.
func TestBillOfAnImage(t *testing.T) {
	img := layertest.Image(t, layertest.Files(t, layertest.File{Name: "etc/os-release", Text: debianRelease}, layertest.File{Name: "var/lib/dpkg/status", Text: stanza("bash", "5.2", "") + stanza("dash", "0.5", "")}))
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for range 2 {
		list, err := Packages(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Bill{Image: model.Digest(digest.String()), Inventory: list}.SPDX()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	if texts[0] != texts[1] || !strings.Contains(texts[0], digest.Hex) || !strings.Contains(texts[0], "pkg:deb/debian/dash@0.5") {
		t.Errorf("the documents are\n%s\n%s", texts[0], texts[1])
	}
	if !json.Valid([]byte(texts[0])) {
		t.Error("the document is no JSON")
	}
}

// TestPURLOfImages: a tag and a digest are no part of an image's name.
func TestPURLOfImages(t *testing.T) {
	at := strings.ReplaceAll(someDigest, ":", "%3A")
	for name, want := range map[string]string{
		"": "pkg:oci/image@" + at, "shop": "pkg:oci/shop@" + at, "base/Debian:12-Slim": "pkg:oci/debian@" + at + "?tag=12-Slim",
		"localhost:5000/a/b": "pkg:oci/b@" + at, "a/b@" + someDigest: "pkg:oci/b@" + at,
	} {
		if got := (Bill{Image: someDigest, Name: name}).purl(); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
}
