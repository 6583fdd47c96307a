package e2e_test

import (
	"flag"
	"testing"
)

var long = flag.Bool("long", false, "run testdata/long, too, which takes a quarter of an hour")

// TestLongScripts runs the scripts that take minutes each: they make bases and install
// packages, several times.
func TestLongScripts(t *testing.T) {
	if !*long {
		t.Skip("make conformance runs it")
	}
	scripts(t, "testdata/long")
}
