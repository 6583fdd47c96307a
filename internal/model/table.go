package model

// Table is the whole of what the router does: it is replaced as one value,
// never changed in part. (Epoch, Generation) orders tables: a router refuses
// one that is not newer than what it has.
type Table struct {
	Epoch      uint64         `json:"epoch"`
	Generation uint64         `json:"generation"`
	Services   []TableService `json:"services"`
	Draining   []Draining     `json:"draining,omitempty"`
}

// TableService is a service as the router sees it. It is reached by its
// routes, and by other services of the instance at ServiceAddress:Port.
type TableService struct {
	Name          string     `json:"name"`
	Release       int        `json:"release"`
	Protocol      Protocol   `json:"protocol"`
	Port          int        `json:"port,omitempty"`           // of its name, for the services that connect to it
	ProxyProtocol int        `json:"proxy_protocol,omitempty"` // tcp: the version (1, 2) of the PROXY header that servers are sent; 0: none
	Routes        []Route    `json:"routes"`
	Backends      []Upstream `json:"backends"` // none: 503 with Retry-After
	Split         *Split     `json:"split,omitempty"`
}

// Split shares the requests between two releases while a canary runs: the
// backends of Release get Weight per cent, the others the rest.
type Split struct {
	Release int    `json:"release"`
	Weight  int    `json:"weight"`           // per cent, 0 to 100
	Cookie  string `json:"cookie,omitempty"` // CanaryPolicy.Cookie
	Header  string `json:"header,omitempty"` // CanaryPolicy.Header
}

// Upstream is one server that takes requests.
type Upstream struct {
	Server  ServerID `json:"server"`
	Release int      `json:"release"`
	Address string   `json:"address"` // IP:port
}

// Draining is a server that takes no new request. What is in flight to it may
// end until the deadline of its class, then it is cut. Deadlines are in
// nanoseconds of CLOCK_BOOTTIME, which every process of the machine shares;
// zero means at once.
type Draining struct {
	Server     ServerID `json:"server"`
	Address    string   `json:"address"`
	Requests   int64    `json:"requests"`
	Streams    int64    `json:"streams"`
	WebSockets int64    `json:"websockets"`
}

// RouterStatus is what one live router says of itself.
type RouterStatus struct {
	ID         string         `json:"id"`         // of the process: a restarted router has another
	Epoch      uint64         `json:"epoch"`      // of the table that every dispatch now uses
	Generation uint64         `json:"generation"` // likewise: the acknowledgement
	Servers    []RouterServer `json:"servers"`    // all that are in the table, draining, or have something in flight
	PID        int            `json:"pid,omitempty"`
	Build      string         `json:"build,omitempty"`   // of its program; empty: of a version that does not say
	Phase      RouterPhase    `json:"phase,omitempty"`   // empty: it serves
	Unbound    []string       `json:"unbound,omitempty"` // what cannot be listened on, and why
	Missing    int            `json:"missing,omitempty"` // of those, how many are routes'; the others are names of services
	Troubles   []Trouble      `json:"troubles,omitempty"`
}

// Trouble is something that keeps a router from serving what its table says,
// and that passes only when somebody or something outside of kiln acts.
type Trouble struct {
	Service string `json:"service"`
	What    string `json:"what"` // in words
}

// RouterPhase is where a router stands while one is handed over to another. In
// every phase it has to acknowledge every table.
type RouterPhase string

// The phases of a router.
const (
	RouterServing RouterPhase = ""        // it takes connections
	RouterWaiting RouterPhase = "waiting" // until the router before takes none any more
	RouterLeaving RouterPhase = "leaving" // it serves what it has, and ends when that has ended
)

// RouterServer is the accounting for one server since the router started.
type RouterServer struct {
	Server   ServerID `json:"server"`
	InFlight InFlight `json:"in_flight"`
	Finished uint64   `json:"finished"`          // ended by themselves
	Cut      uint64   `json:"cut"`               // ended by a drain deadline
	Ejected  bool     `json:"ejected,omitempty"` // it cannot be reached: the others are preferred
}

// InFlight counts what is open, by drain class.
type InFlight struct {
	Requests   int `json:"requests"`
	Streams    int `json:"streams"`
	WebSockets int `json:"websockets"`
}

// Total returns the sum over the classes.
func (f InFlight) Total() int { return f.Requests + f.Streams + f.WebSockets }
