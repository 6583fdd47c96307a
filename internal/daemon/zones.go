package daemon

import (
	"sync"
	"time"
	_ "time/tzdata" // where the machine has no time zones, those of this program
)

// zones are the time zones of the machine.
type zones struct {
	mu    sync.Mutex
	known map[string]*time.Location // nil: there is no such zone
}

// Zone implements control.Zones.
func (z *zones) Zone(name string) *time.Location {
	z.mu.Lock()
	defer z.mu.Unlock()
	zone, asked := z.known[name]
	if asked || name == "Local" { // that would be whatever the daemon was started with
		return zone
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		zone = nil
	}
	if z.known == nil {
		z.known = map[string]*time.Location{}
	}
	z.known[name] = zone
	return zone
}
