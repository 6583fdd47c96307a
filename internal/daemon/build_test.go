package daemon

import (
	"net/netip"
	"os"
	"testing"
)

// TestBuildOf: this very program has an identifier, and what keeper and router
// are started with is part of it.
func TestBuildOf(t *testing.T) {
	id := buildOf(netip.Prefix{})
	if len(id) < 10 {
		t.Fatalf("the test's program has the build identifier %q", id)
	}
	if again := buildOf(netip.Prefix{}); again != id {
		t.Errorf("%q, then %q", id, again)
	}
	if other := buildOf(netip.MustParsePrefix("10.0.0.0/16")); other == id {
		t.Error("another network makes no other build")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if linkedID(exe) != id {
		t.Error("by its path the program has another identifier")
	}
	if got := linkedID("/etc/hostname"); got != "" {
		t.Errorf("a text file has the build identifier %q", got)
	}
}
