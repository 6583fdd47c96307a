package audit

import (
	"encoding/json"
	"io"
)

// JSON writes the whole account as one document.
func (a Account) JSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(a)
}
