package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// split asks the shop so often, a fresh connection each time, and wants that
// LOW to HIGH per cent of the answers are of the version.
func split(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 5, "split URL REQUESTS VERSION LOW HIGH")
	requests, err := strconv.Atoi(args[1])
	check(ts, err)
	low, err := strconv.Atoi(args[3])
	check(ts, err)
	high, err := strconv.Atoi(args[4])
	check(ts, err)
	counts := map[string]int{}
	for range requests {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
		version, err := versionOf(client, args[0])
		check(ts, err)
		counts[version]++
	}
	share := counts[args[2]] * 100 / requests
	if share < low || share > high {
		check(ts, fmt.Errorf("%d %% of the answers are of version %s, not %d to %d %%: %v", share, args[2], low, high, counts))
	}
	fmt.Fprintln(ts.Stdout(), counts)
}

// sticky has so many visitors ask three times each, and wants that each gets
// one version only, and that not all get the same one.
func sticky(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "sticky URL VISITORS")
	visitors, err := strconv.Atoi(args[1])
	check(ts, err)
	counts := map[string]int{}
	for range visitors {
		jar, err := cookiejar.New(nil)
		check(ts, err)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Jar: jar, Timeout: 10 * time.Second}
		first, err := versionOf(client, args[0])
		check(ts, err)
		counts[first]++
		for range 2 {
			again, err := versionOf(client, args[0])
			check(ts, err)
			if again != first {
				check(ts, fmt.Errorf("a visitor got version %s, then %s", first, again))
			}
		}
	}
	if len(counts) < 2 {
		check(ts, fmt.Errorf("all of %d visitors are on one side: %v", visitors, counts))
	}
	fmt.Fprintln(ts.Stdout(), counts)
}

// versionOf asks the shop which version answers.
func versionOf(client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "", err
	}
	version := res.Header.Get("X-Shop-Version")
	if res.StatusCode != http.StatusOK || version == "" {
		return "", errors.New(url + " answered " + res.Status)
	}
	return version, nil
}
