package model

import "time"

// ObjectKind is a kind of thing that kiln keeps on the disk and may remove.
type ObjectKind string

// The kinds of objects.
const (
	ObjectImage      ObjectKind = "image"       // content and unpacked layers of an image
	ObjectSnapshot   ObjectKind = "snapshot"    // of containerd, of no image and no server
	ObjectBuildCache ObjectKind = "build-cache" // one record of the builder's cache
	ObjectInputs     ObjectKind = "inputs"      // what a build has fetched, as a lock file names it
	ObjectLog        ObjectKind = "log"         // of a server that is gone
	ObjectEvidence   ObjectKind = "evidence"    // a death record's or session's archive
	ObjectVolumeCopy ObjectKind = "volume-snapshot"
	ObjectSecret     ObjectKind = "secret" // a value, by its keyed digest
	ObjectConfig     ObjectKind = "config" // the content of a configuration file
)

// Object is one thing that takes room on the disk.
type Object struct {
	Kind    ObjectKind `json:"kind"`
	ID      string     `json:"id"` // digest, key of the snapshot, id of the server, …
	Name    string     `json:"name,omitempty"`
	Bytes   int64      `json:"bytes"`             // that its removal would free, as far as known
	At      time.Time  `json:"at,omitzero"`       // when it was made
	LastUse time.Time  `json:"last_use,omitzero"` // where it is known
	Parents []string   `json:"parents,omitempty"` // objects of the same kind that it stands on
	Server  ServerID   `json:"server,omitempty"`  // whose it is
}

// Kept is an object with the verdict on it.
type Kept struct {
	Object
	Keep   bool   `json:"keep"`
	Serves bool   `json:"serves"` // what runs, or is about to, needs it
	Reason string `json:"reason"` // why it stays, or goes
}

// DiskState says how much room there is where kiln writes.
type DiskState string

// The states of the disk.
const (
	DiskWell  DiskState = "well"
	DiskLow   DiskState = "low"   // told, and what serves nobody is removed
	DiskShort DiskState = "short" // builds and deployments are refused
)

// Disk is the room where kiln writes, as last written down.
type Disk struct {
	State DiskState `json:"state"`
	Path  string    `json:"path"`
	Free  int64     `json:"free"`  // bytes
	Total int64     `json:"total"` // bytes
	Since Instant   `json:"since"`
}
