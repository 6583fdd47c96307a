package model

import "time"

// State is the fold of the journal. It is changed by Apply alone.
type State struct {
	Instance    InstanceID          `json:"instance"`
	Seq         uint64              `json:"seq"`
	Epoch       uint64              `json:"epoch"`
	Elapsed     Instant             `json:"elapsed"` // of the last event
	BootID      string              `json:"boot_id"`
	DaemonSince Instant             `json:"daemon_since"`          // when the present daemon took over
	BootOffset  Instant             `json:"boot_offset"`           // elapsed = CLOCK_BOOTTIME + BootOffset
	Format      int                 `json:"format,omitempty"`      // of the journal; 0: that of the first kilns
	NextID      uint64              `json:"next_id"`               // of Sixes
	RestoredAt  Instant             `json:"restored_at,omitempty"` // until routers use a table of the journal that was restored; 0: they do
	Services    map[string]*Service `json:"services"`
	Images      map[Digest]*Image   `json:"images"`
	Keys        []*SigningKey       `json:"keys,omitempty"` // whose signatures are believed, or were, oldest first
	Table       TableState          `json:"table"`
	Fleet       []Finding           `json:"fleet,omitempty"`        // drift of no server, as it stands
	Strangers   []ServerID          `json:"strangers,omitempty"`    // servers that no release made and that have a death record, the newest 1,000
	Disk        *Disk               `json:"disk,omitempty"`         // nil: nothing is short
	ClockJumped Instant             `json:"clock_jumped,omitempty"` // when the wall clock was last seen to jump
	Wall        time.Time           `json:"wall,omitzero"`          // the wall clock at the last event
	Forgotten   map[string]bool     `json:"forgotten,omitempty"`    // values of secrets and configuration files that retention has removed, by digest
}

// TableState is what the journal knows of the routing table.
type TableState struct {
	Generation   uint64 `json:"generation"`   // last published
	Acknowledged uint64 `json:"acknowledged"` // last acknowledged by every live router
	Hash         string `json:"hash"`         // content of the last published
}

// Service is what the journal knows of one service.
type Service struct {
	Name        string               `json:"name"`
	Releases    []*Release           `json:"releases"`           // by number, from 1
	InService   int                  `json:"in_service"`         // 0: none
	Deployment  *Deployment          `json:"deployment"`         // the running one
	Deployments []*Deployment        `json:"deployments"`        // the ended ones, oldest first
	Queue       []*Deployment        `json:"queue,omitempty"`    // those that wait for the running one, the first first
	Meltdown    *Meltdown            `json:"meltdown,omitempty"` // many servers failed at once: replacement is held back
	Losses      []Instant            `json:"losses,omitempty"`   // when servers in service ended or became unhealthy by themselves, the newest 100
	Servers     map[ServerID]*Server `json:"servers"`            // all but the destroyed ones
	Dead        []*DeathRecord       `json:"dead"`               // oldest first, the newest 1,000
	BackOff     BackOff              `json:"back_off"`
	Pending     *PendingSwitch       `json:"pending,omitempty"` // a switch whose verdict is unknown
	Destroying  bool                 `json:"destroying"`
	Destroyed   bool                 `json:"destroyed"`
	Left        map[int]Instant      `json:"left,omitempty"`        // when each release last left service, by number
	Recurrence  *DriftRecurrence     `json:"recurrence,omitempty"`  // drift that comes back
	Sessions    []*Session           `json:"sessions,omitempty"`    // open and ended ones, oldest first, the newest 1,000
	Experiment  *Experiment          `json:"experiment,omitempty"`  // the one that runs
	Experiments []*Experiment        `json:"experiments,omitempty"` // the ended ones, oldest first
	Volumes     []*Volume            `json:"volumes,omitempty"`     // that exist, by name
}

// BackOff holds replacements back while servers keep failing.
type BackOff struct {
	Failures int     `json:"failures"`
	Until    Instant `json:"until"`
	Reason   string  `json:"reason,omitempty"`
}

// Meltdown says that so many servers failed within a minute that whatever
// ended them would end their replacements too: these are made one at a time,
// and more only as they prove themselves.
type Meltdown struct {
	Since  Instant `json:"since"`
	Reason string  `json:"reason"`
	Proven int     `json:"proven"` // replacements that have come into service since
}

// PendingSwitch is a switch whose deployment ended as unknown: a router was
// silent. Both sets stay until it is acknowledged, superseded or abandoned.
type PendingSwitch struct {
	Release    int          `json:"release"`
	Deployment DeploymentID `json:"deployment"`
	Generation uint64       `json:"generation"`
}

// Release returns the release with the number, or nil.
func (s *Service) Release(number int) *Release {
	if number < 1 || number > len(s.Releases) {
		return nil
	}
	return s.Releases[number-1]
}

// DeploymentByID returns the deployment, running, waiting or ended, or nil.
func (s *Service) DeploymentByID(id DeploymentID) *Deployment {
	if s.Deployment != nil && s.Deployment.ID == id {
		return s.Deployment
	}
	for _, list := range [][]*Deployment{s.Queue, s.Deployments} {
		for _, d := range list {
			if d.ID == id {
				return d
			}
		}
	}
	return nil
}

// Server returns the server, or nil if it never was or is destroyed.
func (s *State) Server(id ServerID) *Server {
	if svc := s.Services[id.Service()]; svc != nil {
		return svc.Servers[id]
	}
	return nil
}

// Volume returns the service's volume of the name, or nil.
func (s *Service) Volume(name string) *Volume {
	for _, v := range s.Volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// Session returns the session, open or ended, or nil.
func (s *Service) Session(id SessionID) *Session {
	for _, x := range s.Sessions {
		if x.ID == id {
			return x
		}
	}
	return nil
}

// NewState returns the state before the first event.
func NewState() *State {
	return &State{Services: map[string]*Service{}, Images: map[Digest]*Image{}}
}
