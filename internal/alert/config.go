package alert

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"kiln/internal/model"
)

// receiver is one that is told, as the file declares it.
type receiver struct {
	name     string
	events   []string // patterns
	services []string // empty: all, and what is of none
	giveUp   time.Duration
	timeout  time.Duration

	url     string // of a webhook
	headers map[string]string
	command []string // of a command
}

// wants reports whether the receiver is to be told of the event. It is never told
// that it could not be told.
func (r receiver) wants(e Event) bool {
	if e.About == r.name && e.About != "" {
		return false
	}
	return matches(r.events, e) && (len(r.services) == 0 || slices.Contains(r.services, e.Service))
}

// kind says what the receiver is.
func (r receiver) kind() string {
	if r.url != "" {
		return "webhook"
	}
	return "command"
}

// target is where what is told goes, without what is secret: the query and the
// password of a URL, the arguments of a command.
func (r receiver) target() string {
	if r.url == "" {
		return r.command[0]
	}
	u, err := url.Parse(r.url)
	if err != nil { // the file was checked
		return ""
	}
	return u.Scheme + "://" + u.Host // the path of a webhook may be its secret
}

// document is the file.
type document struct {
	Webhooks []webhookBlock `hcl:"webhook,block"`
	Commands []commandBlock `hcl:"command,block"`
}

type webhookBlock struct {
	Name     string            `hcl:"name,label"`
	URL      string            `hcl:"url"`
	Headers  map[string]string `hcl:"headers,optional"`
	Events   []string          `hcl:"events,optional"`
	Services []string          `hcl:"services,optional"`
	Timeout  string            `hcl:"timeout,optional"`
	GiveUp   string            `hcl:"give_up,optional"`
}

type commandBlock struct {
	Name     string   `hcl:"name,label"`
	Command  []string `hcl:"command"`
	Events   []string `hcl:"events,optional"`
	Services []string `hcl:"services,optional"`
	Timeout  string   `hcl:"timeout,optional"`
	GiveUp   string   `hcl:"give_up,optional"`
}

// common is what all receivers have.
type common struct {
	events, services []string
	timeout, giveUp  string
}

// The defaults of a receiver.
const (
	defaultTimeout = 10 * time.Second
	defaultGiveUp  = time.Hour
	longestTimeout = 5 * time.Minute
)

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// readConfig reads the file; absent is no receiver.
func readConfig(file string) ([]receiver, error) {
	src, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read the alerts: %w", err)
	}
	if err := onlyOurs(file); err != nil {
		return nil, err
	}
	return parseConfig(filepath.Base(file), src)
}

// onlyOurs refuses a file that others may write: its commands run as root.
func onlyOurs(file string) error {
	st, err := os.Stat(file)
	if err != nil {
		return model.Errorf(model.Invalid, "cannot read the alerts: %w", err)
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if st.Mode()&0o022 != 0 || (ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid()) {
		return model.Errorf(model.Denied, "cannot use %s: others than root may write it, and its commands run as root", file).
			WithHint("chown root: %s && chmod go-w %s", file, file)
	}
	return nil
}

func parseConfig(name string, src []byte) ([]receiver, error) {
	parsed, diags := hclparse.NewParser().ParseHCL(src, name)
	var d document
	if !diags.HasErrors() {
		diags = gohcl.DecodeBody(parsed.Body, nil, &d)
	}
	if diags.HasErrors() {
		return nil, fromHCL(diags)
	}
	var all []receiver
	for _, b := range d.Webhooks {
		r, err := common{b.Events, b.Services, b.Timeout, b.GiveUp}.receiver(name, b.Name)
		if err != nil {
			return nil, err
		}
		u, err := url.Parse(b.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, model.Errorf(model.Invalid, "%s: webhook %q: url is not one like https://hooks.example.com/kiln", name, b.Name)
		}
		r.url, r.headers = b.URL, b.Headers
		all = append(all, r)
	}
	for _, b := range d.Commands {
		r, err := common{b.Events, b.Services, b.Timeout, b.GiveUp}.receiver(name, b.Name)
		if err != nil {
			return nil, err
		}
		if len(b.Command) == 0 || !filepath.IsAbs(b.Command[0]) {
			return nil, model.Errorf(model.Invalid, "%s: command %q: command begins with an absolute path, as [\"/usr/local/bin/page\"]", name, b.Name)
		}
		r.command = b.Command
		all = append(all, r)
	}
	seen := map[string]bool{}
	for _, r := range all {
		if seen[r.name] {
			return nil, model.Errorf(model.Invalid, "%s: two receivers are called %q", name, r.name)
		}
		seen[r.name] = true
	}
	return all, nil
}

// fromHCL is the first of what is wrong with the file.
func fromHCL(diags hcl.Diagnostics) error {
	for _, d := range diags.Errs() {
		if diag, ok := d.(*hcl.Diagnostic); ok && diag.Subject != nil { //nolint:errorlint // that is what they are
			return model.Errorf(model.Invalid, "%s:%d:%d: %s", diag.Subject.Filename, diag.Subject.Start.Line, diag.Subject.Start.Column, diag.Detail)
		}
	}
	return model.Errorf(model.Invalid, "%w", diags)
}

// receiver checks what all receivers have.
func (c common) receiver(file, name string) (receiver, error) {
	r := receiver{name: name, events: c.events, services: c.services, timeout: defaultTimeout, giveUp: defaultGiveUp}
	wrong := func(format string, a ...any) (receiver, error) {
		return r, model.Errorf(model.Invalid, "%s: receiver %q: %s", file, name, fmt.Sprintf(format, a...))
	}
	if !validName.MatchString(name) {
		return wrong("a name has at most 40 of a-z, 0-9 and -")
	}
	if c.events == nil {
		r.events = standard()
	}
	for _, p := range r.events {
		if !known(p) {
			return wrong("events: %q is no kind of event and matches none; kiln events --json shows kinds", p)
		}
	}
	for text, d := range map[*string]*time.Duration{&c.timeout: &r.timeout, &c.giveUp: &r.giveUp} {
		if *text == "" {
			continue
		}
		v, err := model.ParseDuration(*text)
		if err != nil || v <= 0 {
			return wrong("%q is not a duration like 10s", *text)
		}
		*d = v.D()
	}
	if r.timeout > longestTimeout {
		return wrong("timeout: at most %s", longestTimeout)
	}
	return r, nil
}

// known reports whether a pattern can select anything.
func known(pattern string) bool {
	return pattern == deploymentFailed || slices.ContainsFunc(model.Kinds(), func(k model.Kind) bool {
		ok, err := path.Match(pattern, string(k))
		return ok && err == nil
	})
}
