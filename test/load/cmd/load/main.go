// Command load drives a mixed load at a service, prints the account and ends
// with status 1 if a request failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kiln/test/load"
)

func main() {
	failed, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

func run(args []string) (failed int, err error) {
	var o load.Options
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.StringVar(&o.URL, "url", "http://127.0.0.1:8080", "the service, without a path")
	flags.StringVar(&o.Host, "host", "", "Host header, if it is not the URL's")
	flags.Float64Var(&o.Rate, "rate", 500, "requests begun per second")
	flags.DurationVar(&o.Duration, "for", 30*time.Second, "how long; 0: until interrupted")
	flags.IntVar(&o.Most, "most", 0, "requests begun at most; 0: no bound")
	flags.StringVar(&o.Expect, "expect", "", "text that a page must contain")
	flags.BoolVar(&o.Checksum, "checksum", true, "pages must carry their checksum")
	flags.DurationVar(&o.Drain.Requests, "drain-requests", 30*time.Second, "judge requests by this drain deadline")
	flags.DurationVar(&o.Drain.Streams, "drain-streams", 2*time.Minute, "judge streams by this drain deadline")
	flags.DurationVar(&o.Drain.WebSockets, "drain-websockets", 5*time.Minute, "judge WebSockets by this drain deadline")
	flags.Uint64Var(&o.Seed, "seed", uint64(time.Now().UnixNano()), "of the choices made")
	mix := flags.String("mix", "", "weights, as page=70,fresh=30; empty: the mix for examples/shop")
	file := flags.String("json", "", "write the account to this file as well")
	if err := flags.Parse(args); err != nil {
		return 0, err
	}
	if o.Mix, err = weights(*mix); err != nil {
		return 0, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := load.Start(ctx, o)
	if err != nil {
		return 0, err
	}
	rep := r.Wait()
	if *file != "" {
		if err := save(rep, *file); err != nil {
			return 0, err
		}
	}
	return rep.Failed, rep.WriteTable(os.Stdout)
}

func save(rep *load.Report, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := rep.WriteJSON(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// weights reads page=70,fresh=30.
func weights(text string) (map[string]int, error) {
	if text == "" {
		return nil, nil
	}
	mix := map[string]int{}
	for part := range strings.SplitSeq(text, ",") {
		name, weight, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(weight)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("cannot read the weight %q", part)
		}
		mix[name] = n
	}
	return mix, nil
}
