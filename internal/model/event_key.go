package model

// KeyTrusted says that signatures of a key are believed from here on: the
// instance's first own one, or another's.
type KeyTrusted struct {
	Key    SigningKey `json:"key"`
	Reason string     `json:"reason,omitempty"`
}

// KeyRotated says that the instance signs with another key from here on. What the
// one before has signed stays good.
type KeyRotated struct {
	Key    SigningKey `json:"key"`
	Reason string     `json:"reason"` // why the use of the one before ended
}

// KeyRevoked says that a key is not to be believed any more.
type KeyRevoked struct {
	Name    string  `json:"name"`
	Revoked Revoked `json:"revoked"` // its time is the event's
}

// KeyDistrusted says that another's key is unknown from here on.
type KeyDistrusted struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Reason string `json:"reason,omitempty"`
}

// Kind implements Payload.
func (KeyTrusted) Kind() Kind { return "key.trusted" }

// Kind implements Payload.
func (KeyRotated) Kind() Kind { return "key.rotated" }

// Kind implements Payload.
func (KeyRevoked) Kind() Kind { return "key.revoked" }

// Kind implements Payload.
func (KeyDistrusted) Kind() Kind { return "key.distrusted" }
