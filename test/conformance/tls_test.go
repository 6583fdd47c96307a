package conformance_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kiln/internal/model"
	"kiln/internal/router"
)

// testsslExceptions are findings of testssl.sh above "low" that are not the
// router's, and why.
var testsslExceptions = map[string]string{
	"cert_revocation":  "the test's certificate is its own authority, which has no list of what it has revoked",
	"security_headers": "these are the service's to set, HSTS among them; they pass through",
	"engine_problem":   "about the openssl that testssl.sh is run with",
}

// TestTestssl has testssl.sh look at the router's TLS.
func TestTestssl(t *testing.T) {
	if !*all {
		t.Skip("needs testssl.sh: make conformance")
	}
	r := startRouter(t, router.Limits{})
	route := model.Route{Listen: freeAddress(t), TLS: selfSigned(t, "shop.test")}
	r.apply(model.TableService{
		Name: "shop", Release: 1, Protocol: model.HTTP, Routes: []model.Route{route},
		Backends: []model.Upstream{backend(t, "shop-aaaaaa", http.HandlerFunc(hello))},
	})
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), "testssl", "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none",
		"--add-ca", route.TLS.Cert, "--jsonfile", report, route.Listen)
	out, runErr := cmd.CombinedOutput() // its status counts findings
	data, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v: %v\n%s", runErr, err, out)
	}
	var findings []struct{ ID, Severity, Finding string }
	if err := json.Unmarshal(data, &findings); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	seen := map[string]int{}
	for _, f := range findings {
		seen[f.Severity]++
		switch f.Severity {
		case "OK", "INFO", "LOW":
			continue
		}
		if why, ok := testsslExceptions[f.ID]; ok {
			t.Logf("excepted: %s (%s: %s): %s", f.ID, f.Severity, f.Finding, why)
			continue
		}
		t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
	}
	t.Logf("findings by severity: %v", seen)
	if seen["OK"] < 20 {
		t.Errorf("testssl.sh hardly looked:\n%s", out)
	}
}
