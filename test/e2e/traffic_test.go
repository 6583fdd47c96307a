package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/test/load"
)

// httpCommand sends one request on a fresh connection and prints status, headers and
// body; without an answer it fails.
func httpCommand(ts *testscript.TestScript, neg bool, args []string) {
	text, err := ask(args)
	if neg {
		if err == nil {
			check(ts, fmt.Errorf("http %s was answered:\n%s", strings.Join(args, " "), text))
		}
		return
	}
	check(ts, err)
	fmt.Fprint(ts.Stdout(), text)
}

// ask carries "METHOD URL [-body TEXT] [-header NAME:VALUE]… [-cacert FILE]" out.
func ask(args []string) (string, error) {
	if len(args) < 2 {
		return "", errors.New("usage: http METHOD URL [-body TEXT] [-header NAME:VALUE]… [-cacert FILE]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	header, body := http.Header{}, ""
	transport := &http.Transport{DisableKeepAlives: true}
	for rest := args[2:]; len(rest) > 0; rest = rest[2:] {
		if len(rest) == 1 {
			return "", fmt.Errorf("%s wants a value", rest[0])
		}
		switch rest[0] {
		case "-body":
			body = rest[1]
		case "-header":
			name, value, _ := strings.Cut(rest[1], ":")
			header.Set(name, strings.TrimSpace(value))
		case "-cacert":
			var err error
			if transport, err = trusting(rest[1]); err != nil {
				return "", err
			}
		default:
			return "", fmt.Errorf("unknown flag %s", rest[0])
		}
	}
	req, err := http.NewRequestWithContext(ctx, args[0], args[1], strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header, req.Host = header, header.Get("Host")
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	lines := []string{res.Proto + " " + res.Status}
	if res.TLS != nil {
		lines = append(lines, "issued by: "+res.TLS.PeerCertificates[0].Issuer.CommonName)
	}
	for name, values := range res.Header {
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	sort.Strings(lines[1:])
	return strings.Join(lines, "\n") + "\n\n" + string(answer), nil
}

// underway is a load that a script started.
type underway struct{ run *load.Run }

// loadCommand starts a mixed load in the background, and stops it with its
// judgement: no failed request, or with ! at least one.
func loadCommand(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "load start NAME URL RATE [pages] | load stop NAME"
	want(ts, len(args) >= 2, usage)
	w := of(ts)
	switch args[0] {
	case "start":
		want(ts, len(args) >= 4, usage)
		rate, err := strconv.ParseFloat(args[3], 64)
		check(ts, err)
		o := load.Options{
			URL: args[2], Rate: rate, Checksum: true, Expect: "Shop",
			Drain: load.Drain{Requests: 10 * time.Second, Streams: 10 * time.Second, WebSockets: 10 * time.Second},
		}
		if len(args) == 5 && args[4] == "pages" {
			o.Mix, o.Checksum, o.Expect = load.Pages(), false, ""
		}
		run, err := load.Start(context.Background(), o)
		check(ts, err)
		w.loads[args[1]] = &underway{run}
	case "stop":
		l := w.loads[args[1]]
		want(ts, l != nil, usage)
		delete(w.loads, args[1])
		rep := l.run.Stop()
		check(ts, rep.WriteTable(ts.Stderr()))
		check(ts, json.NewEncoder(ts.Stdout()).Encode(rep))
		if (rep.Failed > 0) != neg {
			var table strings.Builder
			_ = rep.WriteTable(&table) // a Builder takes everything
			check(ts, fmt.Errorf("load %s:\n%s", args[1], table.String()))
		}
		if rep.Requests == 0 {
			check(ts, fmt.Errorf("load %s sent nothing", args[1]))
		}
	default:
		ts.Fatalf("usage: %s", usage)
	}
}

// stopLoads ends what a script left under way.
func (w *world) stopLoads() {
	for _, l := range w.loads {
		l.run.Stop()
	}
}
