package daemon

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"kiln/internal/model"
	"kiln/internal/sign"
)

func TestStatementsAreBounded(t *testing.T) {
	img := model.Image{Digest: "sha256:aa", Statements: make([]model.Statement, maxStatements-1)}
	if err := roomFor(img, model.ApprovalType); err != nil {
		t.Fatal(err)
	}
	img.Statements = append(img.Statements, model.Statement{})
	if err := roomFor(img, model.ApprovalType); model.CodeOf(err) != model.Precondition || model.HintOf(err) == "" {
		t.Errorf("one more than there is room for: %v", err)
	}
	if err := roomFor(img, sign.Signature); err != nil {
		t.Errorf("a signature, without which nothing starts: %v", err)
	}
}

// Who asks a registry what is attached to an image waits for what is about to be, and
// has it begun; who asks for anything else does not.
func TestOthersWaitForWhatIsAttached(t *testing.T) {
	const hex = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
	for path, waits := range map[string]bool{
		"/v2/shop/referrers/sha256:" + hex: true, "/v2/team/shop/manifests/sha256-" + hex: true,
		"/v2/shop/manifests/sha256:" + hex: false, "/v2/shop/manifests/1": false, "/v2/": false,
	} {
		s := &signer{d: &daemon{sources: &sources{}}}
		_, wanted, end := s.listed.begin("sha256:" + hex)
		answered := make(chan struct{})
		go func() {
			s.settling(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(answered) })).
				ServeHTTP(nil, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
		}()
		if waits {
			<-wanted
			select {
			case <-answered:
				t.Errorf("%s was answered before", path)
			default:
			}
			end()
		}
		<-answered
	}
}
