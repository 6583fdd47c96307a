package api

import "kiln/internal/model"

// Discrepancies are the places at which an image that was built again is not what it
// was.
type Discrepancies struct {
	First  model.Digest  `json:"first"`
	Second model.Digest  `json:"second"`
	Places []Discrepancy `json:"places"`
	More   int           `json:"more,omitempty"` // that are not listed
}

// Discrepancy is a place at which two images are not the same, byte for byte.
type Discrepancy struct {
	Layer int    `json:"layer"`          // from 1; 0: the configuration
	Path  string `json:"path,omitempty"` // in the layer, or of a setting in the configuration
	// Aspect is what differs: content, mode, owner, names, time, link, device, kind,
	// attribute NAME, presence, order, form, value, layers.
	Aspect string `json:"aspect"`
	Offset int64  `json:"offset,omitempty"` // of the first byte that differs, where Aspect is content; -1: not known
	First  string `json:"first"`            // what the first image has; "": nothing
	Second string `json:"second"`
}
