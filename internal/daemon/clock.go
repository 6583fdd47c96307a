package daemon

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// clock is the machine's time as model.Now has it.
type clock struct {
	offset model.Instant // what carries CLOCK_BOOTTIME on over reboots
	bootID string
}

// kernelBootID is where the kernel says which boot this is.
const kernelBootID = "/proc/sys/kernel/random/boot_id"

// readBootID returns the identifier of this boot.
func readBootID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// bootTime returns CLOCK_BOOTTIME.
func bootTime() model.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // the kernel has had this clock since 2.6.39
	}
	return model.Instant(ts.Nano())
}

// newClock returns a clock that goes on where the journal's state stopped. On
// the same boot nothing was lost; after a reboot the time that the machine was
// off does not count.
func newClock(s *model.State, bootIDFile string) (clock, error) {
	id, err := readBootID(bootIDFile)
	if err != nil {
		return clock{}, err
	}
	if s.BootID == id {
		return clock{offset: s.BootOffset, bootID: id}, nil
	}
	return clock{offset: s.Elapsed - bootTime(), bootID: id}, nil
}

// Now implements control.Clock.
func (c clock) Now() model.Now {
	return model.Now{Elapsed: bootTime() + c.offset, Wall: time.Now().UTC(), BootID: c.bootID}
}
