package daemon

import (
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
