package model

import "time"

// VolumeAccess says how many servers may have a volume at a time.
type VolumeAccess string

// The kinds of access.
const (
	SingleWriter VolumeAccess = "single-writer" // one server at a time: it is stopped before its successor starts
	Shared       VolumeAccess = "shared"        // all servers of the service, as the files of one directory
)

// Mount is a volume of the service in its servers' file system.
type Mount struct {
	Volume string       `json:"volume"` // its name in the service
	Path   string       `json:"path"`
	Access VolumeAccess `json:"access"`
	Size   int64        `json:"size,omitempty"` // bytes that it may hold; 0: no bound
}

// SingleWriter reports whether servers of the template cannot overlap, for they
// have a volume that one at a time may have.
func (t Template) SingleWriter() bool {
	for _, m := range t.Volumes {
		if m.Access != Shared {
			return true
		}
	}
	return false
}

// Volume is state that outlives servers. It is made with the first server that
// needs it and removed by a person only.
type Volume struct {
	Service   string           `json:"service"`
	Name      string           `json:"name"`
	Access    VolumeAccess     `json:"access"`
	Size      int64            `json:"size,omitempty"`
	CreatedAt time.Time        `json:"created_at"`
	Snapshots []VolumeSnapshot `json:"snapshots,omitempty"` // oldest first
	Created   Instant          `json:"created,omitempty"`   // the same in elapsed time; the fold sets it
	RemovedAt time.Time        `json:"removed_at,omitzero"` // it was; a new one of the name is another
	Missed    DeploymentID     `json:"missed,omitempty"`    // the last one before which no snapshot could be made
}

// VolumeSnapshot is a volume as it was at one instant.
type VolumeSnapshot struct {
	ID         string       `json:"id"` // unique for the volume
	At         time.Time    `json:"at"`
	Reason     string       `json:"reason"`               // "before release 4", or who asked
	Deployment DeploymentID `json:"deployment,omitempty"` // before which it was made
	Quiesced   bool         `json:"quiesced"`             // no server had it then
}
