package router

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime returns CLOCK_BOOTTIME in nanoseconds: drain deadlines come from
// another process, and the two share no other clock that cannot jump.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// The clock exists since Linux 2.6.39 and the pointer is good.
		panic("cannot read CLOCK_BOOTTIME: " + err.Error())
	}
	return ts.Nano()
}

// past is a deadline that has been reached: setting it wakes whoever reads or
// writes the connection, at once and without closing it under their hands.
var past = time.Unix(1, 0)
