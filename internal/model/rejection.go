package model

import "time"

// Rejection says that an image is bad: nothing new is started from it, wherever the
// word gets to.
type Rejection struct {
	Lifted bool      `json:"lifted,omitempty"` // it was a mistake: the image is as good as before
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	From   string    `json:"from,omitempty"` // the instance whose word it is; "": this one's
	At     time.Time `json:"at"`
}

// Rejected reports whether the image is known and rejected.
func (i *Image) Rejected() bool { return i != nil && i.Rejection != nil && !i.Rejection.Lifted }
