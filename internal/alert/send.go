package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// later is an error of a receiver that says when to come again.
type later struct {
	error
	wait time.Duration
}

// mostWords bounds what is kept of an answer that says why.
const mostWords = 200

// send tells the receiver once.
func (r receiver) send(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("cannot write the event: %w", err)
	}
	if r.url != "" {
		err = r.post(ctx, e, body)
	} else {
		err = r.run(ctx, e, body)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("it took longer than %s", r.timeout)
	}
	return err
}

// post sends the event to a webhook: any 2xx is an acknowledgement.
func (r receiver) post(ctx context.Context, e Event, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "kiln")
	req.Header.Set("Idempotency-Key", e.Key)
	for name, value := range r.headers {
		req.Header.Set(name, value)
	}
	// A connection of its own: alerts are seldom, and one that a receiver has
	// left half open must not swallow the next.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: r.timeout}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return reason(err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, mostWords))
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("it answered %s%s", resp.Status, words(said))
	if after, e := strconv.Atoi(resp.Header.Get("Retry-After")); e == nil && after > 0 {
		return &later{err, min(time.Duration(after)*time.Second, longestPause)}
	}
	return err
}

// reason is why a request failed, without its URL: that may hold a secret.
func reason(err error) error {
	var u interface{ Unwrap() error }
	if errors.As(err, &u) && u.Unwrap() != nil {
		return u.Unwrap()
	}
	return err
}

// run starts the command with the event on its standard input; status 0 is an
// acknowledgement. What it starts ends with it.
func (r receiver) run(ctx context.Context, e Event, body []byte) error {
	cmd := exec.CommandContext(ctx, r.command[0], r.command[1:]...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(body), nil, &head{&said}
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "KILN_INSTANCE=" + string(e.Instance),
		"KILN_SEQ=" + strconv.FormatUint(e.Seq, 10), "KILN_KIND=" + string(e.Kind), "KILN_SERVICE=" + e.Service, "KILN_TEXT=" + e.Text,
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil && cmd.ProcessState != nil {
		return fmt.Errorf("it ended with %s%s", cmd.ProcessState, words(said.Bytes()))
	}
	return err
}

// head keeps the beginning of what is written.
type head struct{ to *bytes.Buffer }

// Write implements io.Writer.
func (h *head) Write(p []byte) (int, error) {
	if room := mostWords - h.to.Len(); room > 0 {
		h.to.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// words is the first line of what a receiver said.
func words(said []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	if line == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(line, "?")
}
