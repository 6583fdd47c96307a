package api

import (
	"encoding/json"
	"time"

	"kiln/internal/model"
)

// Problem is every error of the API (RFC 9457, application/problem+json).
type Problem struct {
	Title  string     `json:"title"`
	Status int        `json:"status"`
	Detail string     `json:"detail"`         // what was attempted, what was seen
	Code   model.Code `json:"code"`           // the class
	Hint   string     `json:"hint,omitempty"` // what to do next
}

// Version says who answers.
type Version struct {
	Version  string           `json:"version"`
	Instance model.InstanceID `json:"instance"`
	PID      int              `json:"pid"`
	Epoch    uint64           `json:"epoch"`
}

// Status is the answer to "what runs?".
type Status struct {
	Services []ServiceStatus `json:"services"`
	Storage  *Storage        `json:"storage,omitempty"` // as it was seen last; null: not yet
	// Troubles keep kiln itself from its work beside the services: what it cannot
	// write down.
	Troubles []string `json:"troubles,omitempty"`
}

// ServiceStatus is one service.
type ServiceStatus struct {
	Name string `json:"name"`
	// Environment and Declared are where it serves, and what the declaration calls
	// it; "": the declaration has no environments.
	Environment string            `json:"environment,omitempty"`
	Declared    string            `json:"declared,omitempty"`
	Release     int               `json:"release"` // in service; 0: none
	Image       model.Digest      `json:"image"`
	Servers     []ServerStatus    `json:"servers"`
	Deployment  *DeploymentStatus `json:"deployment"`
	Wanted      int               `json:"wanted"`            // servers that the release in service asks for
	Message     string            `json:"message,omitempty"` // what a person should know: crash loop, all unhealthy, silent router
	Routes      []model.Route     `json:"routes,omitempty"`
	Destroying  bool              `json:"destroying,omitempty"`
	// Rejected says why the image in service is bad; "": it is not.
	Rejected string `json:"rejected,omitempty"`
	// Queue are the deployments that wait for the running one, the next first.
	Queue []DeploymentStatus `json:"queue"`
	// Meltdown says why replacement is held back: many servers failed at once.
	Meltdown string `json:"meltdown,omitempty"`
	// Troubles keep the router from serving it as declared: a certificate that
	// is missing or at its end, a listener that cannot be had.
	Troubles []string `json:"troubles,omitempty"`
}

// ServerStatus is one server.
type ServerStatus struct {
	ID        model.ServerID    `json:"id"`
	Release   int               `json:"release"`
	Image     model.Digest      `json:"image"`
	Phase     model.ServerPhase `json:"phase"`
	Healthy   bool              `json:"healthy"`
	InService bool              `json:"in_service"`
	Parked    bool              `json:"parked"`
	Tainted   bool              `json:"tainted"`            // somebody had a terminal in it
	Drifted   bool              `json:"drifted"`            // it is not its template any more
	Rejected  bool              `json:"rejected,omitempty"` // its image is
	Condemned *Condemned        `json:"condemned,omitempty"`
	Address   string            `json:"address"`
	StartedAt time.Time         `json:"started_at"`
	Reason    string            `json:"reason,omitempty"`
	Health    string            `json:"health,omitempty"` // the last probe, in words
	Until     *time.Time        `json:"until,omitempty"`  // when a parked or warm one goes
}

// DeploymentStatus is a running or a waiting deployment.
type DeploymentStatus struct {
	ID         model.DeploymentID `json:"id"`
	From       int                `json:"from"`
	To         int                `json:"to"`
	Strategy   model.Strategy     `json:"strategy"`
	Phase      model.DeployPhase  `json:"phase"`
	WaitingFor string             `json:"waiting_for"`
	Since      time.Time          `json:"since"`
	Until      time.Time          `json:"until,omitzero"` // the deployment's deadline; one that waits has none yet
	Staging
}

// Staging is what a deployment's strategy comes to, and where it stands.
type Staging struct {
	Stage  int     `json:"stage"`  // the one that is worked on, from 1; 0: it waits in the queue
	Stages []Stage `json:"stages"` // the last one has no old servers
	// Paused says that the stage is held until somebody resumes or finishes it.
	Paused      bool       `json:"paused"`
	PausedBy    string     `json:"paused_by,omitempty"`    // who, and why
	PausedUntil *time.Time `json:"paused_until,omitempty"` // then the deployment is aborted
	Finishing   string     `json:"finishing,omitempty"`    // who asked to pass over the stages that are left, and why
}

// Stage is what is in rotation once every router has acknowledged it.
type Stage struct {
	New    int            `json:"new"`    // servers of the new release
	Old    int            `json:"old"`    // servers of the old release
	Weight int            `json:"weight"` // canary: per cent of the requests for the new release; 0: by number of servers
	Hold   model.Duration `json:"hold"`   // from the acknowledgement to the next stage
}

// Mode says what becomes of a command while a deployment of the service runs.
type Mode string

// The modes.
const (
	Refuse    Mode = ""          // it is refused
	Queue     Mode = "queue"     // it waits for its turn
	Supersede Mode = "supersede" // the running one is aborted if it can be, those that wait are dropped
)

// DeployRequest asks for a release with this template and policy.
type DeployRequest struct {
	Template   model.Template   `json:"template"`
	Policy     model.Policy     `json:"policy"`
	Author     string           `json:"author,omitempty"`
	Reason     string           `json:"reason,omitempty"`
	Provenance model.Provenance `json:"provenance"`
	Mode       Mode             `json:"mode,omitempty" enum:",queue,supersede"`
	// Environment and Declared are where it serves, and what the declaration calls
	// the service; "": the declaration has no environments.
	Environment string `json:"environment,omitempty"`
	Declared    string `json:"declared,omitempty"`
	// Values are what the template names: its secrets have no version here, and
	// its configuration files no digest.
	Values Values `json:"values,omitzero"`
	// Promoted is where the image serves from which it is moved; null: it is no promotion.
	Promoted *model.Promotion `json:"promoted,omitempty"`
}

// RollbackRequest goes back to a release; 0: the last that served well.
type RollbackRequest struct {
	To     int    `json:"to,omitempty"`
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
	Mode   Mode   `json:"mode,omitempty" enum:",queue,supersede"`
	// Despite lets the image not be what the policy asks for now. It needs a reason.
	Despite bool `json:"despite,omitempty"`
}

// ScaleRequest changes the number of servers by a policy release.
type ScaleRequest struct {
	Servers int    `json:"servers"`
	Author  string `json:"author,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Mode    Mode   `json:"mode,omitempty" enum:",queue,supersede"`
}

// AbortRequest ends the running deployment, or one that waits.
type AbortRequest struct {
	Deployment model.DeploymentID `json:"deployment,omitempty"` // "": the running one
	Author     string             `json:"author,omitempty"`
	Reason     string             `json:"reason,omitempty"`
}

// StageRequest pauses, resumes or finishes the running deployment.
type StageRequest struct {
	Deployment model.DeploymentID `json:"deployment,omitempty"` // "": the running one, whichever it is
	Author     string             `json:"author,omitempty"`
	Reason     string             `json:"reason,omitempty"`
	For        model.Duration     `json:"for,omitempty"` // pause: then it is aborted; 0: 24h
}

// StageAccepted says that the command is durable, and how the deployment
// stands since.
type StageAccepted struct {
	Service    string           `json:"service"`
	Deployment DeploymentStatus `json:"deployment"`
}

// DestroyRequest ends the service.
type DestroyRequest struct {
	Author string `json:"author,omitempty"`
}

// Accepted says that the command is durable.
type Accepted struct {
	Service    string             `json:"service"`
	Deployment model.DeploymentID `json:"deployment,omitempty"`
}

// DeployAccepted says that the command is durable and what to watch. When
// nothing changes, Deployment is null and Verdict "unchanged".
type DeployAccepted struct {
	Deployment *model.DeploymentID `json:"deployment"`
	Service    string              `json:"service"`
	Release    int                 `json:"release"`
	Image      model.Digest        `json:"image"`
	Verdict    model.Verdict       `json:"verdict,omitempty"`
	Message    string              `json:"message,omitempty"`
	Queued     bool                `json:"queued,omitempty"` // it waits for the one that runs
	From       string              `json:"from,omitempty"`   // the environment that its image was promoted from
}

// Result is the last line of deploy and rollback.
type Result struct {
	Deployment       *model.DeploymentID `json:"deployment"`
	Service          string              `json:"service"`
	Release          int                 `json:"release"`
	Image            model.Digest        `json:"image"`
	From             string              `json:"from,omitempty"` // the environment that its image was promoted from
	Verdict          model.Verdict       `json:"verdict"`
	Reason           string              `json:"reason"`
	TookMS           int64               `json:"took_ms"`
	RequestsFinished uint64              `json:"requests_finished"`
	RequestsCut      uint64              `json:"requests_cut"`
}

// Progress is one line of a watched deployment.
type Progress struct {
	At         time.Time         `json:"at"`
	Phase      model.DeployPhase `json:"phase"`
	WaitingFor string            `json:"waiting_for,omitempty"`
	Release    int               `json:"release,omitempty"` // that it brings
	Staging    *Staging          `json:"staging,omitempty"` // where it has more than one stage
	Message    string            `json:"message,omitempty"` // one event, in words
	Servers    []ServerStatus    `json:"servers,omitempty"`
	Failure    *Failure          `json:"failure,omitempty"` // with the verdict, when servers failed
	Result     *Result           `json:"result,omitempty"`  // set once the verdict has fallen
	Done       bool              `json:"done,omitempty"`    // the old set is drained too; the last line
}

// Failure is everything that helps to understand a server that did not become
// fit for traffic.
type Failure struct {
	Server    model.ServerID `json:"server"`
	Reason    string         `json:"reason"`
	Probe     string         `json:"probe,omitempty"`     // the last one: address, status, first bytes
	Exit      string         `json:"exit,omitempty"`      // how its process ended
	Log       []string       `json:"log,omitempty"`       // its last lines
	Listening []string       `json:"listening,omitempty"` // ports it really listens on
	Port      int            `json:"port,omitempty"`      // the declared one
	Hint      string         `json:"hint,omitempty"`
}

// Releases is a service's history, newest first.
type Releases struct {
	Service  string         `json:"service"`
	Releases []ReleaseEntry `json:"releases"`
}

// ReleaseEntry is one release.
type ReleaseEntry struct {
	Number           int           `json:"number"`
	Image            model.Digest  `json:"image"`
	CreatedAt        time.Time     `json:"created_at"`
	Author           string        `json:"author"`
	Reason           string        `json:"reason"`
	Verdict          model.Verdict `json:"verdict"`     // "" while its deployment runs
	RollbackOf       *int          `json:"rollback_of"` // null: not a rollback
	RollbackPossible bool          `json:"rollback_possible"`
	InService        bool          `json:"in_service"`
	Servers          int           `json:"servers"`
	Commit           string        `json:"commit,omitempty"`
	Dirty            bool          `json:"dirty,omitempty"`
	Environment      string        `json:"environment,omitempty"` // where it served; "": the declaration had none
	From             string        `json:"from,omitempty"`        // the environment that its image was promoted from
	// While its deployment runs or waits:
	Phase  model.DeployPhase `json:"phase,omitempty"`
	Stage  int               `json:"stage,omitempty"`  // from 1
	Stages int               `json:"stages,omitempty"` // how many there are
}

// LogLine is a line that a server wrote.
type LogLine struct {
	At      time.Time      `json:"at"`
	Service string         `json:"service"`
	Release int            `json:"release"`
	Server  model.ServerID `json:"server"`
	Image   model.Digest   `json:"image"`
	Commit  string         `json:"commit,omitempty"`
	Stream  string         `json:"stream"`
	Text    string         `json:"text"`
}

// Event is a journal entry, with words for people.
type Event struct {
	Seq     uint64          `json:"seq"`
	Epoch   uint64          `json:"epoch"`
	Kind    model.Kind      `json:"kind"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor,omitempty"`
	Service string          `json:"service,omitempty"`
	Text    string          `json:"text"` // one sentence
	Data    json.RawMessage `json:"data"`
	Hash    string          `json:"hash,omitempty"` // PathAudit only
}

// AuditReport is the result of recomputing the chain.
type AuditReport struct {
	Whole    bool     `json:"whole"`
	Events   uint64   `json:"events"`
	Head     string   `json:"head"`
	Signed   int      `json:"signed"` // heads whose signature was checked
	Problems []string `json:"problems,omitempty"`
}

// DeathRecord is a record with the evidence that was kept.
type DeathRecord struct {
	model.DeathRecord
	Files json.RawMessage `json:"collected,omitempty"` // the archive's evidence, as written
}

// Images is what the instance holds.
type Images struct {
	Images []model.Image `json:"images"`
}

// Image is one image, with what its configuration says.
type Image struct {
	model.Image
	User       string            `json:"user,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Command    []string          `json:"command,omitempty"`
	Env        []string          `json:"env,omitempty"`
	WorkDir    string            `json:"workdir,omitempty"`
	Ports      []string          `json:"ports,omitempty"`
	StopSignal string            `json:"stop_signal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Layers     []Layer           `json:"layers"`
	UsedBy     []string          `json:"used_by,omitempty"` // "shop release 3 (in service)"
}

// Layer is one layer of an image.
type Layer struct {
	Digest    model.Digest `json:"digest"`
	Size      int64        `json:"size"` // bytes as stored
	MediaType string       `json:"media_type"`
}

// ImageResult is what import, pull and build end with.
type ImageResult struct {
	Image    model.Digest `json:"image"`
	Name     string       `json:"name,omitempty"`
	Size     int64        `json:"size"`
	TookMS   int64        `json:"took_ms"`
	Received int64        `json:"received,omitempty"` // bytes of context or archive that were sent
}

// PullRequest names an image of a registry.
type PullRequest struct {
	Ref    string `json:"ref"`
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// BuildRequest starts a build. The client then opens PathSession with the ID
// of the first BuildEvent and serves its context there.
type BuildRequest struct {
	Service       string            `json:"service"`
	Containerfile string            `json:"containerfile"` // relative to the context
	Target        string            `json:"target,omitempty"`
	Args          map[string]string `json:"args,omitempty"`
	Author        string            `json:"author,omitempty"`
	Reason        string            `json:"reason,omitempty"`
	Commit        string            `json:"commit,omitempty"`
	Dirty         bool              `json:"dirty,omitempty"`
	NoCache       bool              `json:"no_cache,omitempty"`
	Fresh         bool              `json:"fresh,omitempty"`    // from nothing: in a place of its own, where no earlier build has left anything
	Same          model.Digest      `json:"same,omitempty"`     // the result is compared with this image, and forgotten unless it is that
	Origin        model.Digest      `json:"origin,omitempty"`   // the image that the context was taken out of
	Ancestry      []string          `json:"ancestry,omitempty"` // the commit and those before it, the nearest first
	Allow         string            `json:"allow,omitempty"`    // the text of kiln.allow: what may be in the image though it looks like a secret
	Network       string            `json:"network,omitempty"`  // what it reaches: "none", "locked" or "open", which "" is as well
	Lock          *Lock             `json:"lock,omitempty"`     // nil: nothing is locked
}

// AllowFile is where what is allowed to be in images is declared, beside kiln.hcl.
const AllowFile = "kiln.allow"

// BuildEvent is one line of a build's progress.
type BuildEvent struct {
	Build   string         `json:"build,omitempty"` // the first line: the build's id
	Step    string         `json:"step,omitempty"`  // "[2/5] RUN apt-get update"
	State   string         `json:"state,omitempty"` // "started", "done", "cached", "failed"
	TookMS  int64          `json:"took_ms,omitempty"`
	Log     string         `json:"log,omitempty"`  // output of the step
	Note    string         `json:"note,omitempty"` // what kiln wants to say
	Result  *ImageResult   `json:"result,omitempty"`
	Parents []model.Parent `json:"parents,omitempty"` // with Result
	Differs *Discrepancies `json:"differs,omitempty"` // with Result, where that is not the image that it should be
	Lock    string         `json:"lock,omitempty"`    // with Result: the text of the lock file, with what the image was made from
	Inputs  model.Digest   `json:"inputs,omitempty"`  // with Result: of what keeps the bytes that were fetched
	// WantsSource, with Result: what the image was made from is not kept yet (KeepSource).
	WantsSource bool     `json:"wants_source,omitempty"`
	Error       *Problem `json:"error,omitempty"`
}

// Checks is what doctor found.
type Checks struct {
	Checks []Check `json:"checks"`
}

// Check is one thing that kiln needs of the machine.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "ok", "warn" or "fail"
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // the exact command that mends it
}
