package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kind names what an event says. Kinds are a file format: each has a version
// and a golden file, and none is ever given another meaning.
type Kind string

// Event is one entry of the journal.
type Event struct {
	Seq     uint64    // 1, 2, 3, …
	Epoch   uint64    // of the writer
	At      time.Time // wall clock, UTC
	Elapsed Instant   // elapsed time
	Actor   string    // who caused it: "kiln", or a person
	Data    Payload
}

// Payload is what an event of one kind says. The set of payloads is closed.
type Payload interface {
	Kind() Kind
}

// JournalFormat is what this program writes and can fold: 1 for the journals of
// kilns that deployed all at once, 2 since there are stages, 3 since templates
// name secrets and configuration files. It is raised when
// an older program would fold new events to another state; until then fields
// and kinds are only added.
const JournalFormat = 3

// Version is the version of an event kind's data as this program writes it.
const eventVersion = 1

type wireEvent struct {
	Seq     uint64          `json:"seq"`
	Epoch   uint64          `json:"epoch"`
	Kind    Kind            `json:"kind"`
	V       int             `json:"v"`
	At      time.Time       `json:"at"`
	Elapsed Instant         `json:"elapsed"`
	Actor   string          `json:"actor,omitempty"`
	Data    json.RawMessage `json:"data"`
}

// MarshalJSON writes the stored form {seq, epoch, kind, v, at, elapsed, actor, data}.
func (e Event) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(e.Data)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wireEvent{e.Seq, e.Epoch, e.Data.Kind(), eventVersion, e.At.UTC(), e.Elapsed, e.Actor, data})
}

// UnmarshalJSON reads the stored form. A kind or version that this program
// does not know is an error: a state that misses an event would be a guess.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w wireEvent
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	blank, ok := payloads[w.Kind]
	if !ok || w.V != eventVersion {
		return fmt.Errorf("event %d is of kind %q version %d, which this kiln does not know: it was written by a newer one", w.Seq, w.Kind, w.V)
	}
	data, err := blank(w.Data)
	if err != nil {
		return fmt.Errorf("event %d (%s): %w", w.Seq, w.Kind, err)
	}
	*e = Event{Seq: w.Seq, Epoch: w.Epoch, At: w.At, Elapsed: w.Elapsed, Actor: w.Actor, Data: data}
	return nil
}

// payloads holds a decoder for each kind.
var payloads = map[Kind]func([]byte) (Payload, error){
	InstanceCreated{}.Kind():     decode[InstanceCreated],
	DaemonStarted{}.Kind():       decode[DaemonStarted],
	HostChanged{}.Kind():         decode[HostChanged],
	JournalRestored{}.Kind():     decode[JournalRestored],
	JournalUpgraded{}.Kind():     decode[JournalUpgraded],
	ImageAdded{}.Kind():          decode[ImageAdded],
	ReleaseCreated{}.Kind():      decode[ReleaseCreated],
	DeploymentStarted{}.Kind():   decode[DeploymentStarted],
	DeploymentAdvanced{}.Kind():  decode[DeploymentAdvanced],
	DeploymentAborting{}.Kind():  decode[DeploymentAborting],
	DeploymentQueued{}.Kind():    decode[DeploymentQueued],
	DeploymentPaused{}.Kind():    decode[DeploymentPaused],
	DeploymentResumed{}.Kind():   decode[DeploymentResumed],
	DeploymentFinishing{}.Kind(): decode[DeploymentFinishing],
	DeploymentEnded{}.Kind():     decode[DeploymentEnded],
	DeploymentSettled{}.Kind():   decode[DeploymentSettled],
	ServerCreated{}.Kind():       decode[ServerCreated],
	ServerAdvanced{}.Kind():      decode[ServerAdvanced],
	ServerHealth{}.Kind():        decode[ServerHealth],
	ServerDrained{}.Kind():       decode[ServerDrained],
	ServerRecorded{}.Kind():      decode[ServerRecorded],
	StrangerRecorded{}.Kind():    decode[StrangerRecorded],
	TablePublished{}.Kind():      decode[TablePublished],
	TableAcknowledged{}.Kind():   decode[TableAcknowledged],
	ServiceSwitched{}.Kind():     decode[ServiceSwitched],
	SwitchAbandoned{}.Kind():     decode[SwitchAbandoned],
	ServerValidated{}.Kind():     decode[ServerValidated],
	ServiceBackedOff{}.Kind():    decode[ServiceBackedOff],
	ServiceMelting{}.Kind():      decode[ServiceMelting],
	ServiceRecovered{}.Kind():    decode[ServiceRecovered],
	ServiceDestroying{}.Kind():   decode[ServiceDestroying],
	ServiceDestroyed{}.Kind():    decode[ServiceDestroyed],

	ServerCondemned{}.Kind():       decode[ServerCondemned],
	ServerOverdue{}.Kind():         decode[ServerOverdue],
	ServerDrifted{}.Kind():         decode[ServerDrifted],
	ServerUndrifted{}.Kind():       decode[ServerUndrifted],
	FleetDrifted{}.Kind():          decode[FleetDrifted],
	FleetMended{}.Kind():           decode[FleetMended],
	DriftRecurred{}.Kind():         decode[DriftRecurred],
	SessionOpened{}.Kind():         decode[SessionOpened],
	SessionExtended{}.Kind():       decode[SessionExtended],
	SessionEnded{}.Kind():          decode[SessionEnded],
	ExperimentStarted{}.Kind():     decode[ExperimentStarted],
	ExperimentAdvanced{}.Kind():    decode[ExperimentAdvanced],
	ExperimentEnded{}.Kind():       decode[ExperimentEnded],
	ImagePinned{}.Kind():           decode[ImagePinned],
	ImageChecked{}.Kind():          decode[ImageChecked],
	ImageRejected{}.Kind():         decode[ImageRejected],
	ImageAttested{}.Kind():         decode[ImageAttested],
	ImagePublished{}.Kind():        decode[ImagePublished],
	ImageRemoved{}.Kind():          decode[ImageRemoved],
	ObjectsRemoved{}.Kind():        decode[ObjectsRemoved],
	VolumeCreated{}.Kind():         decode[VolumeCreated],
	VolumeSnapshotted{}.Kind():     decode[VolumeSnapshotted],
	VolumeSnapshotRemoved{}.Kind(): decode[VolumeSnapshotRemoved],
	VolumeRestored{}.Kind():        decode[VolumeRestored],
	VolumeRemoved{}.Kind():         decode[VolumeRemoved],
	ClockJumped{}.Kind():           decode[ClockJumped],
	DiskChanged{}.Kind():           decode[DiskChanged],
	AlertFailed{}.Kind():           decode[AlertFailed],
	KeyTrusted{}.Kind():            decode[KeyTrusted],
	KeyRotated{}.Kind():            decode[KeyRotated],
	KeyRevoked{}.Kind():            decode[KeyRevoked],
	KeyDistrusted{}.Kind():         decode[KeyDistrusted],
}

func decode[P Payload](b []byte) (Payload, error) {
	var p P
	err := json.Unmarshal(b, &p)
	return p, err
}

// InstanceCreated is the first event of a journal.
type InstanceCreated struct {
	Instance InstanceID `json:"instance"`
}

// DaemonStarted says that a daemon took over with a new epoch. On a new boot
// of the machine BootOffset is what to add to CLOCK_BOOTTIME to carry the
// elapsed time on.
type DaemonStarted struct {
	Epoch      uint64  `json:"epoch"`
	Version    string  `json:"version"`
	BootID     string  `json:"boot_id"`
	BootOffset Instant `json:"boot_offset"`
}

// HostChanged says that a setting of the machine was changed: announced, and
// only ever net.ipv4.ip_forward.
type HostChanged struct {
	Setting string `json:"setting"`
	From    string `json:"from"`
	To      string `json:"to"`
}

// JournalRestored says that the journal was put back from a backup: what was
// written after event Seq of it is lost. The event's epoch is above every one
// that the lost part can have had.
type JournalRestored struct {
	Seq     uint64    `json:"seq"`  // the last event of the backup
	Hash    string    `json:"hash"` // of it
	MadeAt  time.Time `json:"made_at"`
	Version string    `json:"version"` // of the kiln that restored it
}

// JournalUpgraded says that from here on the journal is of a newer format:
// kilns that know only older ones refuse it, rather than misread it.
type JournalUpgraded struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the kiln that raised it
}

// ImageAdded says that an image is known and where it came from. The same
// digest again adds names and replaces nothing else.
type ImageAdded struct {
	Image Image `json:"image"`
}

// ReleaseCreated numbers a release.
type ReleaseCreated struct {
	Release Release `json:"release"`
}

// DeploymentStarted begins a deployment; Phase is its first.
type DeploymentStarted struct {
	Deployment Deployment `json:"deployment"`
}

// DeploymentAdvanced moves a deployment to another phase, or says anew what it
// waits for.
type DeploymentAdvanced struct {
	ID         DeploymentID `json:"id"`
	Service    string       `json:"service"`
	Phase      DeployPhase  `json:"phase"`
	WaitingFor string       `json:"waiting_for,omitempty"`
	Until      Instant      `json:"until,omitempty"`
	Generation uint64       `json:"generation,omitempty"` // of the table that switches
	Stage      int          `json:"stage,omitempty"`      // the one that is worked on from now on
}

// DeploymentQueued says that a deployment waits for the one that runs; it is
// started, with the same id, by DeploymentStarted.
type DeploymentQueued struct {
	Deployment Deployment `json:"deployment"`
}

// DeploymentPaused says that the stage is held until somebody goes on.
type DeploymentPaused struct {
	ID      DeploymentID `json:"id"`
	Service string       `json:"service"`
	By      string       `json:"by"`
	Until   Instant      `json:"until"` // then the deployment is aborted
}

// DeploymentResumed ends a pause. The time of the pause does not count towards
// the deadlines.
type DeploymentResumed struct {
	ID       DeploymentID `json:"id"`
	Service  string       `json:"service"`
	By       string       `json:"by"`
	Until    Instant      `json:"until"`    // of the phase
	Deadline Instant      `json:"deadline"` // of the whole
}

// DeploymentFinishing says that the stages which are left are passed over: all
// of the new release's servers are made, and everything goes to them. It ends
// a pause as DeploymentResumed does.
type DeploymentFinishing struct {
	ID       DeploymentID `json:"id"`
	Service  string       `json:"service"`
	By       string       `json:"by"`
	Until    Instant      `json:"until"`
	Deadline Instant      `json:"deadline"`
}

// DeploymentAborting says that somebody asked for the deployment's end.
type DeploymentAborting struct {
	ID      DeploymentID `json:"id"`
	Service string       `json:"service"`
	By      string       `json:"by"`
}

// DeploymentEnded is the verdict.
type DeploymentEnded struct {
	ID      DeploymentID `json:"id"`
	Service string       `json:"service"`
	Verdict Verdict      `json:"verdict"`
	Reason  string       `json:"reason"`
	TookMS  int64        `json:"took_ms"`
}

// DeploymentSettled says that everything the deployment took out of service is
// drained, and what became of its requests.
type DeploymentSettled struct {
	ID       DeploymentID `json:"id"`
	Service  string       `json:"service"`
	Finished uint64       `json:"requests_finished"`
	Cut      uint64       `json:"requests_cut"`
}

// ServerCreated decides that a server shall exist. The engine hears of it
// afterwards.
type ServerCreated struct {
	ID           ServerID `json:"id"`
	Service      string   `json:"service"`
	Release      int      `json:"release"`
	TemplateHash string   `json:"template_hash"`
	Cause        string   `json:"cause"`
	Until        Instant  `json:"until,omitempty"`
}

// ServerAdvanced moves a server to another phase.
type ServerAdvanced struct {
	ID        ServerID     `json:"id"`
	Phase     ServerPhase  `json:"phase"`
	Reason    string       `json:"reason,omitempty"`
	Until     Instant      `json:"until,omitempty"`
	Address   string       `json:"address,omitempty"`    // with PhaseRunning
	StartedAt time.Time    `json:"started_at,omitzero"`  // with PhaseRunning
	Release   int          `json:"release,omitempty"`    // with PhaseServing: the release it now serves for
	Exit      *Exit        `json:"exit,omitempty"`       // with PhaseEnded, or a dead one that is parked
	Retired   DeploymentID `json:"retired,omitempty"`    // with PhaseWarm and PhaseDraining
	DrainGen  uint64       `json:"drain_gen,omitempty"`  // with PhaseWarm, PhaseDraining and PhaseEnded: the first table without it; 0: as it was, or in none
	InFlight  int          `json:"in_flight,omitempty"`  // with DrainGen: what was in flight to it
	CutBefore uint64       `json:"cut_before,omitempty"` // with DrainGen: the routers' count of cut requests
	Inspected bool         `json:"inspected,omitempty"`  // with PhaseStopping: evidence was collected while it was alive
}

// ServerValidated says that the server has passed the checks of a policy.
type ServerValidated struct {
	ID     ServerID `json:"id"`
	Checks string   `json:"checks"` // ChecksHash of the policy
}

// ServerHealth is a decision about a server's health, from its probes.
type ServerHealth struct {
	ID     ServerID     `json:"id"`
	Status HealthStatus `json:"status"`
	Detail string       `json:"detail,omitempty"`
}

// ServerDrained says that nothing is in flight to the server any more, or that
// the rest was cut.
type ServerDrained struct {
	ID       ServerID `json:"id"`
	Finished uint64   `json:"finished"`
	Cut      uint64   `json:"cut"`
}

// ServerRecorded says that the death record is durable, or what is missing. It
// precedes the destruction.
type ServerRecorded struct {
	Record DeathRecord `json:"record"`
}

// StrangerRecorded says that a server which the journal did not know, of a time
// after the backup that was restored for example, has a death record, or what is
// missing. It precedes the destruction.
type StrangerRecorded struct {
	Record DeathRecord `json:"record"`
}

// TablePublished says that routers are to be given this generation. The
// table's content follows from the state.
type TablePublished struct {
	Generation uint64 `json:"generation"`
	Hash       string `json:"hash"` // of the content, so that an equal table is not published again
}

// TableAcknowledged says that every live router uses the generation, or a
// newer one.
type TableAcknowledged struct {
	Generation uint64 `json:"generation"`
}

// ServiceSwitched says which release's servers are in service from now on:
// every live router has acknowledged it.
type ServiceSwitched struct {
	Service    string       `json:"service"`
	Release    int          `json:"release"`
	Deployment DeploymentID `json:"deployment"`
}

// SwitchAbandoned says that a switch whose verdict was unknown will not be
// completed: the release in service is given all traffic again.
type SwitchAbandoned struct {
	Service    string       `json:"service"`
	Deployment DeploymentID `json:"deployment"`
	Reason     string       `json:"reason"`
}

// ServiceBackedOff says that no replacement is started before Until, because
// servers keep failing. Failures 0 ends it.
type ServiceBackedOff struct {
	Service  string  `json:"service"`
	Failures int     `json:"failures"`
	Until    Instant `json:"until,omitempty"`
	Reason   string  `json:"reason,omitempty"`
}

// ServiceMelting says that many servers failed at once.
type ServiceMelting struct {
	Service string `json:"service"`
	Reason  string `json:"reason"`
}

// ServiceRecovered says that replacement is not held back any more.
type ServiceRecovered struct {
	Service string `json:"service"`
}

// ServiceDestroying says that the service is to be ended with all its servers.
type ServiceDestroying struct {
	Service string `json:"service"`
}

// ServiceDestroyed says that nothing of the service runs any more. Its history
// stays, and numbers go on where it is declared again.
type ServiceDestroyed struct {
	Service string `json:"service"`
}

// Kind implements Payload.
func (InstanceCreated) Kind() Kind { return "instance.created" }

// Kind implements Payload.
func (DaemonStarted) Kind() Kind { return "daemon.started" }

// Kind implements Payload.
func (HostChanged) Kind() Kind { return "host.changed" }

// Kind implements Payload.
func (JournalRestored) Kind() Kind { return "journal.restored" }

// Kind implements Payload.
func (JournalUpgraded) Kind() Kind { return "journal.upgraded" }

// Kind implements Payload.
func (ImageAdded) Kind() Kind { return "image.added" }

// Kind implements Payload.
func (ReleaseCreated) Kind() Kind { return "release.created" }

// Kind implements Payload.
func (DeploymentStarted) Kind() Kind { return "deployment.started" }

// Kind implements Payload.
func (DeploymentAdvanced) Kind() Kind { return "deployment.advanced" }

// Kind implements Payload.
func (DeploymentAborting) Kind() Kind { return "deployment.aborting" }

// Kind implements Payload.
func (DeploymentEnded) Kind() Kind { return "deployment.ended" }

// Kind implements Payload.
func (DeploymentSettled) Kind() Kind { return "deployment.settled" }

// Kind implements Payload.
func (ServerCreated) Kind() Kind { return "server.created" }

// Kind implements Payload.
func (ServerAdvanced) Kind() Kind { return "server.advanced" }

// Kind implements Payload.
func (ServerHealth) Kind() Kind { return "server.health" }

// Kind implements Payload.
func (ServerDrained) Kind() Kind { return "server.drained" }

// Kind implements Payload.
func (ServerRecorded) Kind() Kind { return "server.recorded" }

// Kind implements Payload.
func (StrangerRecorded) Kind() Kind { return "stranger.recorded" }

// Kind implements Payload.
func (TablePublished) Kind() Kind { return "table.published" }

// Kind implements Payload.
func (TableAcknowledged) Kind() Kind { return "table.acknowledged" }

// Kind implements Payload.
func (ServiceSwitched) Kind() Kind { return "service.switched" }

// Kind implements Payload.
func (SwitchAbandoned) Kind() Kind { return "service.switch_abandoned" }

// Kind implements Payload.
func (ServerValidated) Kind() Kind { return "server.validated" }

// Kind implements Payload.
func (ServiceBackedOff) Kind() Kind { return "service.backed_off" }

// Kind implements Payload.
func (ServiceDestroying) Kind() Kind { return "service.destroying" }

// Kind implements Payload.
func (ServiceDestroyed) Kind() Kind { return "service.destroyed" }

// Kind implements Payload.
func (DeploymentQueued) Kind() Kind { return "deployment.queued" }

// Kind implements Payload.
func (DeploymentPaused) Kind() Kind { return "deployment.paused" }

// Kind implements Payload.
func (DeploymentResumed) Kind() Kind { return "deployment.resumed" }

// Kind implements Payload.
func (DeploymentFinishing) Kind() Kind { return "deployment.finishing" }

// Kind implements Payload.
func (ServiceMelting) Kind() Kind { return "service.melting" }

// Kind implements Payload.
func (ServiceRecovered) Kind() Kind { return "service.recovered" }

// Kinds returns every kind of event there is, sorted.
func Kinds() []Kind { return slices.Sorted(maps.Keys(payloads)) }
