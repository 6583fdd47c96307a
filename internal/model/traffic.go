package model

import "time"

// Traffic is what went through a router for one server of one release of one
// service since the router started.
type Traffic struct {
	Service  string   `json:"service"`
	Release  int      `json:"release"`
	Server   ServerID `json:"server"`
	Requests uint64   `json:"requests"`
	// Status counts the requests by the first digit of the answer's status; 0: no
	// answer was begun, or the service speaks another protocol than HTTP.
	Status   [6]uint64 `json:"status"`
	Broken   uint64    `json:"broken"` // answers that the server began and did not end
	BytesIn  uint64    `json:"bytes_in"`
	BytesOut uint64    `json:"bytes_out"`
	Millis   float64   `json:"millis"` // sum of the durations
	// Buckets counts the requests by duration: each in the first of LatencyBounds
	// that is not less, and in the last of Buckets if there is none. Routers of
	// older kilns have none.
	Buckets []uint64 `json:"buckets,omitempty"`
}

// Failed counts the requests that a client had no good answer to.
func (t Traffic) Failed() uint64 { return t.Status[5] + t.Broken }

// RouterTraffic is everything that a router counts.
type RouterTraffic struct {
	Router        string    `json:"router"`
	HeirOf        []string  `json:"heir_of,omitempty"` // routers before it whose counts are in these
	Leaving       bool      `json:"leaving,omitempty"` // another will inherit these
	Counters      []Traffic `json:"counters"`
	NoRoute       uint64    `json:"no_route"`       // answered 404 by the router
	NoServer      uint64    `json:"no_server"`      // answered 503 by the router
	Retried       uint64    `json:"retried"`        // sent elsewhere after a failure
	NoProxy       uint64    `json:"no_proxy"`       // connections closed: they did not begin with a PROXY header
	AccessDropped uint64    `json:"access_dropped"` // lines the access log could not take
	RouterMillis  int64     `json:"router_age_ms"`  // since the router started
}

// LatencyBounds are the upper bounds of Traffic.Buckets.
func LatencyBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{
		ms, 2500 * time.Microsecond, 5 * ms, 10 * ms, 25 * ms, 50 * ms,
		100 * ms, 250 * ms, 500 * ms, 1000 * ms, 2500 * ms, 5000 * ms, 10000 * ms,
	}
}
