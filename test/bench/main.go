// Command bench measures kiln against what people use for the same jobs, on
// this machine, and writes docs/benchmarks.md. Every figure is a ratio of two
// measurements of one run, taken in turns; what is shown is the median of
// several rounds.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what bench was called with.
type options struct {
	rounds int
	only   string // comma-separated names of measurements; "": all
	out    string
	keep   bool
}

// measurement is one section of the document.
type measurement struct {
	name string
	run  func(context.Context, *bench) (*section, error)
}

func measurements() []measurement {
	return []measurement{
		{"provision", provision},
		{"replace", replaceTen},
		{"rollback", warmRollback},
		{"build", builds},
		{"router", routerThroughput},
		{"handshakes", handshakes},
		{"ready", daemonReady},
		{"routerkill", routerKilled},
		{"memory", memory},
		{"watch", watching},
		{"trust", trust},
		{"registry", registries},
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "reverseproxy" {
		fatal(reverseProxy(os.Args[2:]))
		return
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of each measurement")
	flag.StringVar(&o.only, "only", "", "comma-separated names of measurements; empty: all")
	flag.StringVar(&o.out, "out", "docs/benchmarks.md", "the document; - is standard output")
	flag.BoolVar(&o.keep, "keep", false, "keep the working directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fatal(run(ctx, o))
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("this starts servers, and has to run as root")
	}
	load := loadAverage()
	b, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if closing := b.close(); err == nil {
			err = closing
		}
	}()
	var sections []*section
	for _, m := range measurements() {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "== %s\n", m.name)
		began := time.Now()
		s, err := m.run(ctx, b)
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", m.name, err)
		}
		s.write(os.Stderr)
		fmt.Fprintf(os.Stderr, "   (%s)\n", time.Since(began).Truncate(time.Second))
		sections = append(sections, s)
	}
	return document(ctx, o.out, load, sections)
}

// writeFile writes a file and its directories.
func writeFile(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), mode)
}
