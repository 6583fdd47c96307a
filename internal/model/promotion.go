package model

// Promotion says where a release's image served before: it was moved from there, as
// it is.
type Promotion struct {
	Instance    InstanceID `json:"instance"`
	Environment string     `json:"environment"`
	Service     string     `json:"service"` // as it is called there
	Release     int        `json:"release"` // of that service
}

// Requirement is what has to be said and done about an image before a service may
// have a release of it. Its zero value asks nothing.
type Requirement struct {
	Signed    []string `json:"signed,omitempty"`    // keys that have signed it, by name or id
	Checks    []string `json:"checks,omitempty"`    // that it has passed, under a signature that is believed
	Served    []Served `json:"served,omitempty"`    // where it has served before, and how long
	Approvals []string `json:"approvals,omitempty"` // who has to have approved it for this environment
	// Approvers is how many have to have; 0: all of Approvals. More than one
	// approval of the same person counts once.
	Approvers int `json:"approvers,omitempty"`
}

// Served is time that an image was in service in an environment.
type Served struct {
	Environment string   `json:"environment"`
	For         Duration `json:"for"`
}
