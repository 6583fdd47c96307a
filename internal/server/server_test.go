package server

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"

	"kiln/internal/api"
)

// The document describes every path of the API but the two that carry no JSON.
func TestDocumentDescribesThePaths(t *testing.T) {
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest("GET", "/openapi.json", nil))
	var doc struct {
		OpenAPI string
		Paths   map[string]any
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
		t.Fatalf("cannot read the document: %v\n%s", err, rec.Body)
	}
	if doc.OpenAPI[:4] != "3.1." {
		t.Errorf("the document is OpenAPI %s, not 3.1", doc.OpenAPI)
	}
	for _, path := range []string{
		api.PathVersion, api.PathStatus, api.PathDeploy, api.PathPlan, api.PathRollback, api.PathScale, api.PathAbort, api.PathPause, api.PathResume, api.PathFinish,
		api.PathDestroy, api.PathReleases, api.PathDeployment, api.PathWatch, api.PathLogs, api.PathEvents, api.PathAudit,
		api.PathVerify, api.PathDeath, api.PathEvidence, api.PathArchive, api.PathAccount, api.PathImages, api.PathImage, api.PathReject, api.PathApprove, api.PathApprovals, api.PathServed, api.PathPull, api.PathBuild,
		api.PathChaos, api.PathChaosRun, api.PathChaosStop, api.PathChaosReport,
	} {
		if doc.Paths[path] == nil {
			t.Errorf("the document says nothing of %s", path)
		}
	}
}
