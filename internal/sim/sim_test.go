package sim_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/sim"
)

var (
	seedCount = flag.Int("seeds", envInt("KILN_SIM_SEEDS", 60), "how many seeds to run")
	stepCount = flag.Int("steps", 200, "how often control observes, decides and acts in each run, at least")
	firstSeed = flag.Uint64("first", 1, "what the seeds follow from")
	oneSeed   = flag.Uint64("seed", 0, "run this seed alone and print its script")
	untilOne  = flag.Bool("until-broken", false, "end with the first seed that breaks a promise, and do not shorten its script")
	coverage  = flag.Bool("coverage", false, "print what was covered, whatever the number of seeds")
)

func envInt(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// wholeRun is the number of seeds for which every transition and every kind of
// fault has to be met leastMet times.
const (
	wholeRun = 20000
	leastMet = 100
)

// TestScripts plays what once broke a promise, or was thought of as likely to,
// under many seeds.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no scripts (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, err := sim.ParseScript(string(text))
			if err != nil {
				t.Fatal(err)
			}
			s := sim.New(*stepCount)
			s.Traced = testing.Verbose()
			for _, seed := range sim.Seeds(3, 100) {
				if r := s.Run(seed, script); r.Broken != nil {
					t.Fatalf("seed %d breaks %v\n%s", seed, r.Broken, r.Trace)
				}
			}
		})
	}
}

func TestSeeds(t *testing.T) {
	debug.SetGCPercent(400) // runs are short, and leave nothing behind
	s := sim.New(*stepCount)
	if *oneSeed != 0 {
		s.Traced = true
		report(t, s, *oneSeed)
		return
	}
	began := time.Now()
	total, broken := runAll(s, sim.Seeds(*firstSeed, *seedCount))
	t.Logf("%d seeds of %d steps in %s", *seedCount, *stepCount, time.Since(began).Round(time.Millisecond))
	for i, seed := range broken {
		if i == 3 {
			t.Errorf("and %d more seeds: %v", len(broken)-i, broken[i:])
			break
		}
		report(t, s, seed)
	}
	if *coverage || *seedCount >= wholeRun {
		fmt.Println(total)
	}
	if *seedCount < wholeRun || len(broken) > 0 {
		return
	}
	for _, short := range total.Short(leastMet) {
		t.Errorf("met fewer than %d times: %s", leastMet, short)
	}
}

// runAll plays every seed and returns what was covered, and the seeds that
// broke a promise, in order.
func runAll(s *sim.Simulation, seeds []uint64) (sim.Coverage, []uint64) {
	var (
		next    atomic.Int64
		found   atomic.Bool
		mu      sync.Mutex
		workers sync.WaitGroup
		total   = sim.Coverage{}
		failed  = make([]bool, len(seeds))
	)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			mine := sim.Coverage{}
			for i := next.Add(1) - 1; i < int64(len(seeds)) && (!*untilOne || !found.Load()); i = next.Add(1) - 1 {
				r := s.Run(seeds[i], s.Script(seeds[i]))
				failed[i] = r.Broken != nil
				found.Store(found.Load() || failed[i])
				mine.Add(r.Coverage)
			}
			mu.Lock()
			defer mu.Unlock()
			total.Add(mine)
		})
	}
	workers.Wait()
	var broken []uint64
	for i, f := range failed {
		if f {
			broken = append(broken, seeds[i])
		}
	}
	return total, broken
}

// report fails the test with the shortest script that still breaks a promise.
func report(t *testing.T, s *sim.Simulation, seed uint64) {
	t.Helper()
	script := s.Script(seed)
	first := s.Run(seed, script)
	if first.Broken == nil {
		t.Logf("seed %d holds", seed)
		return
	}
	if *untilOne {
		t.Errorf("seed %d breaks %v", seed, first.Broken)
		return
	}
	script, broken := s.Minimise(seed, script, 300)
	if s.Traced {
		t.Log("the journal of the shortest script:\n" + s.Run(seed, script).Trace)
	}
	t.Errorf("seed %d breaks %v\nThe shortest script found that breaks it: %v\n%s\nrun it again: go test ./internal/sim -run TestSeeds -seed=%d",
		seed, first.Broken, broken, script, seed)
}

// TestReproducible runs seeds twice: both times the same must happen.
func TestReproducible(t *testing.T) {
	s := sim.New(*stepCount)
	s.Traced = true
	for _, seed := range sim.Seeds(7, 20) {
		script := s.Script(seed)
		a, b := s.Run(seed, script), s.Run(seed, script)
		if a.Trace == "" || a.Trace != b.Trace {
			t.Errorf("seed %d gave two different runs", seed)
		}
	}
}
