package router

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A server that is gone is not looked for beyond this machine. The address is
// one of those that are set apart for documentation (RFC 5737).
func TestServersAreOnTheMachine(t *testing.T) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: onLink}
	conn, err := d.DialContext(t.Context(), "tcp", "203.0.113.7:80")
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("an address that no link of the machine has was dialled: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("one that it has cannot be reached: %v", err)
	}
	_ = conn.Close()
}
