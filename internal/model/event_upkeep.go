package model

import "time"

// The events of what becomes of servers that serve, and of what is kept.

// ServerCondemned says that a server is to be replaced by an identical one. Of
// two such the one with the sooner From holds; one that somebody asked for
// (CondemnedByRequest) over the others.
type ServerCondemned struct {
	ID     ServerID     `json:"id"`
	Cause  CondemnCause `json:"cause"`
	Reason string       `json:"reason"`
	From   Instant      `json:"from"`
	Until  Instant      `json:"until,omitempty"`
}

// ServerOverdue says that a condemned server is still there though its time is
// up, because no replacement is to be had: it is the last healthy one, or the
// budget allows none. It stays, and that is an alarm.
type ServerOverdue struct {
	ID     ServerID `json:"id"`
	Reason string   `json:"reason"`
}

// ServerDrifted says that a server is not its template any more. Findings are
// the new ones.
type ServerDrifted struct {
	ID       ServerID      `json:"id"`
	Findings []Finding     `json:"findings"`
	More     int           `json:"more,omitempty"` // new ones that are not named
	Response DriftResponse `json:"response"`
	Done     string        `json:"done"` // what follows, in words
}

// ServerUndrifted says that what was found is not to be seen any more: a
// foreign process that has ended, say. A server that is replaced for it stays
// marked as drifted.
type ServerUndrifted struct {
	ID   ServerID `json:"id"`
	Keys []string `json:"keys"` // Finding.Key
}

// FleetDrifted says that something of kiln's own on the machine was changed, or
// that something is there which is not its own. Done says what is done about it.
type FleetDrifted struct {
	Findings []Finding `json:"findings"`
	More     int       `json:"more,omitempty"`
	Done     string    `json:"done"`
}

// FleetMended says that what was found is not to be seen any more.
type FleetMended struct {
	Keys []string `json:"keys"` // Finding.Key
}

// DriftRecurred counts a server that drifted soon after it had been made. With
// Halted no more servers of this template are replaced for drift.
type DriftRecurred struct {
	Service      string `json:"service"`
	TemplateHash string `json:"template_hash"`
	Count        int    `json:"count"`
	Halted       bool   `json:"halted,omitempty"`
	Reason       string `json:"reason"`
}

// SessionOpened says that somebody has a terminal in a server: it is tainted,
// and condemned.
type SessionOpened struct {
	Session Session `json:"session"`
	From    Instant `json:"from"` // from when on it is replaced
}

// SessionExtended gives a hotfix more time.
type SessionExtended struct {
	ID     SessionID `json:"id"`
	Server ServerID  `json:"server"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	From   Instant   `json:"from"`
	Until  Instant   `json:"until"`
}

// SessionEnded says how a session ended and what it leaves.
type SessionEnded struct {
	ID     SessionID  `json:"id"`
	Server ServerID   `json:"server"`
	End    SessionEnd `json:"end"`
}

// ExperimentStarted says that a server is going to be disturbed.
type ExperimentStarted struct {
	Experiment Experiment `json:"experiment"`
}

// ExperimentAdvanced notes when the disturbance was in force, detected, or the
// service whole again. Zero: as it was. With Ending it is to be undone, and the
// experiment ends so when it is.
type ExperimentAdvanced struct {
	ID       ExperimentID `json:"id"`
	Service  string       `json:"service"`
	Armed    Instant      `json:"armed,omitempty"`
	Applied  Instant      `json:"applied,omitempty"`
	Detected Instant      `json:"detected,omitempty"`
	Replaced Instant      `json:"replaced,omitempty"`
	Ending   ChaosOutcome `json:"ending,omitempty"`
	Reason   string       `json:"reason,omitempty"` // of Ending
}

// ExperimentEnded says what came of a disturbance, which is undone.
type ExperimentEnded struct {
	ID      ExperimentID `json:"id"`
	Service string       `json:"service"`
	Outcome ChaosOutcome `json:"outcome"`
	Reason  string       `json:"reason"`
	Failed  uint64       `json:"failed"`
}

// ImagePinned says that an image is to be kept, or (Pinned false) need not be.
type ImagePinned struct {
	Digest Digest `json:"digest"`
	Pinned bool   `json:"pinned"`
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// ImageAttested says that a signed statement is attached to an image. That it is
// written down here is what tells it from one that is made later with a key that
// was taken out of use.
type ImageAttested struct {
	Digest    Digest    `json:"digest"`
	Statement Statement `json:"statement"` // its time is the event's
}

// ImageChecked says what came of a suite of checks of an image, before servers were
// made from it.
type ImageChecked struct {
	Digest  Digest       `json:"digest"`
	Checked CheckedImage `json:"checked"` // its time is the event's
}

// ImageRejected says that an image is bad, or (Lifted) is not bad after all.
type ImageRejected struct {
	Digest    Digest    `json:"digest"`
	Rejection Rejection `json:"rejection"` // its time is the event's, for one of this instance's own
}

// ImagePublished says that an image was put into a registry that others share, or
// why it could not be.
type ImagePublished struct {
	Digest      Digest      `json:"digest"`
	Publication Publication `json:"publication"` // its time is the event's
}

// ImageRemoved says that the content of an image is going to be removed. From
// here on nothing may start from it until it is added again.
type ImageRemoved struct {
	Digest Digest `json:"digest"`
	Bytes  int64  `json:"bytes"`
	Reason string `json:"reason"`
}

// ObjectsRemoved says that objects of one kind, none of them an image, are
// going to be removed.
type ObjectsRemoved struct {
	Object ObjectKind `json:"object"`
	Count  int        `json:"count"`
	Bytes  int64      `json:"bytes"`
	Reason string     `json:"reason"`
	IDs    []string   `json:"ids,omitempty"` // at most 20 of them; all of secrets and configuration files
}

// VolumeCreated says that a volume is made.
type VolumeCreated struct {
	Volume Volume `json:"volume"`
}

// VolumeSnapshotted says that a snapshot of a volume exists, or with Missing
// why none could be made.
type VolumeSnapshotted struct {
	Service  string         `json:"service"`
	Name     string         `json:"name"`
	Snapshot VolumeSnapshot `json:"snapshot"`
	Missing  string         `json:"missing,omitempty"`
}

// VolumeSnapshotRemoved says that a snapshot is not kept any more.
type VolumeSnapshotRemoved struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	ID      string `json:"id"`
	Reason  string `json:"reason"`
}

// VolumeRestored says that the content of a volume was replaced, by a snapshot
// of it or an archive.
type VolumeRestored struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	From    string `json:"from"` // in words
}

// VolumeRemoved says that somebody removed a volume with all that it held.
type VolumeRemoved struct {
	Service string    `json:"service"`
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
}

// ClockJumped says that the wall clock went another way than the elapsed time.
type ClockJumped struct {
	By Duration `json:"by"` // forward, or back where it is negative
}

// DiskChanged says how much room there is where kiln writes.
type DiskChanged struct {
	Disk Disk `json:"disk"`
}

// AlertFailed says that an alert could not be delivered.
type AlertFailed struct {
	Name   string `json:"name"` // of the receiver
	Seq    uint64 `json:"seq"`  // of the event that it was about
	Reason string `json:"reason"`
}

// Kind implements Payload.
func (ServerCondemned) Kind() Kind { return "server.condemned" }

// Kind implements Payload.
func (ServerOverdue) Kind() Kind { return "server.overdue" }

// Kind implements Payload.
func (ServerDrifted) Kind() Kind { return "server.drifted" }

// Kind implements Payload.
func (ServerUndrifted) Kind() Kind { return "server.undrifted" }

// Kind implements Payload.
func (FleetDrifted) Kind() Kind { return "fleet.drifted" }

// Kind implements Payload.
func (FleetMended) Kind() Kind { return "fleet.mended" }

// Kind implements Payload.
func (DriftRecurred) Kind() Kind { return "service.drift_recurred" }

// Kind implements Payload.
func (SessionOpened) Kind() Kind { return "session.opened" }

// Kind implements Payload.
func (SessionExtended) Kind() Kind { return "session.extended" }

// Kind implements Payload.
func (SessionEnded) Kind() Kind { return "session.ended" }

// Kind implements Payload.
func (ExperimentStarted) Kind() Kind { return "chaos.started" }

// Kind implements Payload.
func (ExperimentAdvanced) Kind() Kind { return "chaos.advanced" }

// Kind implements Payload.
func (ExperimentEnded) Kind() Kind { return "chaos.ended" }

// Kind implements Payload.
func (ImagePinned) Kind() Kind { return "image.pinned" }

// Kind implements Payload.
func (ImageChecked) Kind() Kind { return "image.checked" }

// Kind implements Payload.
func (ImageRejected) Kind() Kind { return "image.rejected" }

// Kind implements Payload.
func (ImageAttested) Kind() Kind { return "image.attested" }

// Kind implements Payload.
func (ImagePublished) Kind() Kind { return "image.published" }

// Kind implements Payload.
func (ImageRemoved) Kind() Kind { return "image.removed" }

// Kind implements Payload.
func (ObjectsRemoved) Kind() Kind { return "retention.removed" }

// Kind implements Payload.
func (VolumeCreated) Kind() Kind { return "volume.created" }

// Kind implements Payload.
func (VolumeSnapshotted) Kind() Kind { return "volume.snapshotted" }

// Kind implements Payload.
func (VolumeSnapshotRemoved) Kind() Kind { return "volume.snapshot_removed" }

// Kind implements Payload.
func (VolumeRestored) Kind() Kind { return "volume.restored" }

// Kind implements Payload.
func (VolumeRemoved) Kind() Kind { return "volume.removed" }

// Kind implements Payload.
func (ClockJumped) Kind() Kind { return "clock.jumped" }

// Kind implements Payload.
func (DiskChanged) Kind() Kind { return "disk.changed" }

// Kind implements Payload.
func (AlertFailed) Kind() Kind { return "alert.failed" }
