package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"kiln/internal/model"
	"kiln/internal/sign"
	"kiln/internal/spec"
)

// example is what init writes; what is commented out is the default.
var example = template.Must(template.New("kiln.hcl").Parse(`# What this service is. "kiln plan" shows what would happen, "kiln deploy" does it.
service "{{.Name}}" {
  image {
    context       = "."
    containerfile = "{{.Containerfile}}"
  }
  servers = 2
  port    = {{.Port}}

  route {
    listen = ":8080"
    # host = "{{.Name}}.example.com"
  }

  # When is a server fit for traffic?
  health "http" {
    path = "/"
    # interval = "1s"
    # grace    = "30s"
  }

  # What has to be true of every new server before it gets traffic?
  # validate "http" "home page" {
  #   path     = "/"
  #   status   = 200
  #   contains = "Welcome"
  # }

  # env = {
  #   LOG_LEVEL = "info"
  # }

  resources {
    memory = "256MiB"
    # cpus = 0.5
  }

  # A server's root is read-only. What it may write to, besides /tmp and /run:
  # ephemeral "/var/cache/{{.Name}}" {
  #   size = "64MiB"
  # }

  # What outlives its servers; for files that several servers may write, access = "shared".
  # volume "data" {
  #   path   = "/var/lib/{{.Name}}"
  #   access = "single-writer"
  #   size   = "10GiB"
  # }

  # A server that is not its template any more is replaced, which is the default.
  # drift {
  #   response = "replace"
  #   interval = "30s"
  # }

  # No server gets older than this; identical ones take their places, spread out.
  # lifetime {
  #   max_age = "24h"
  #   jitter  = "10%"
  # }

  # Does the service survive the loss of a server? Find out while you are at work:
  # chaos {
  #   mean_between = "2d"
  #   hours        = "09:00-15:00"
  #   days         = ["mon", "tue", "wed", "thu", "fri"]
  #   time_zone    = "Europe/Berlin"
  #   kinds        = ["kill", "terminate", "freeze"]
  #   lasts        = "30s"
  # }

  # What can be rolled back to, shells in its servers, failed servers for inspection:
  # retention {
  #   releases = 5
  #   for      = "30d"
  # }
  # shell = "deny"
  # park  = "15m"
}
`))

func (a *app) initCommand() *cobra.Command {
	var key keyPair
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write an example kiln.hcl",
		Long: `Writes an example kiln.hcl. It never replaces a file.

The daemon makes the key that it signs images with at its first start (kiln key shows it). To
have one made here instead, and to give it to the daemon, name a file: --signing-key FILE
writes the private half there and the public one to FILE.pub.`,
		Example: "  kiln init\n  kiln init -f deploy/kiln.hcl\n  kiln init --signing-key kiln.key --signing-passphrase secret.txt",
		Args:    cobra.NoArgs,
		RunE:    a.run(func(context.Context, []string) error { return a.init(key) }),
	}
	cmd.Flags().StringVar(&key.Private, "signing-key", "", "make a key pair as well: the private half here, the public one beside it with .pub")
	cmd.Flags().StringVar(&key.passphrase, "signing-passphrase", "", "the file with the passphrase that the private half is encrypted with")
	return cmd
}

// keyPair is a key pair that init makes.
type keyPair struct {
	Private    string `json:"private,omitempty"` // file
	Public     string `json:"public,omitempty"`  // file
	ID         string `json:"id,omitempty"`
	passphrase string // file
}

// make writes both halves to new files.
func (k *keyPair) make() error {
	if k.Private == "" {
		if k.passphrase != "" {
			return usagef("--signing-passphrase is the passphrase of the key that --signing-key makes; that is missing")
		}
		return nil
	}
	var passphrase []byte
	if k.passphrase != "" {
		text, err := os.ReadFile(k.passphrase)
		if err != nil {
			return invalid("cannot read the passphrase %s: %w", k.passphrase, readFailure(err))
		}
		if passphrase = bytes.TrimRight(text, "\r\n"); len(passphrase) == 0 {
			return invalid("the passphrase in %s is empty", k.passphrase)
		}
	}
	key, err := sign.Generate()
	if err == nil {
		err = key.WriteFile(k.Private, passphrase)
	}
	if err != nil {
		return err
	}
	k.Public, k.ID = k.Private+".pub", key.Public().ID()
	if err := key.Public().WriteFile(k.Public); err != nil {
		return errors.Join(err, os.Remove(k.Private)) // it was made just now, and signed nothing
	}
	return nil
}

// made returns the pair, or nil where none was asked for.
func (k *keyPair) made() *keyPair {
	if k.ID == "" {
		return nil
	}
	return k
}

// init writes the example; it never replaces a file.
func (a *app) init(key keyPair) error {
	full, err := filepath.Abs(a.opts.file)
	if err != nil {
		return err
	}
	dir := filepath.Dir(full)
	containerfile := "Containerfile"
	if regular(filepath.Join(dir, "Containerfile")) != nil && regular(filepath.Join(dir, "Dockerfile")) == nil {
		containerfile = "Dockerfile"
	}
	var text bytes.Buffer
	err = example.Execute(&text, struct{ Name, Containerfile, Port string }{serviceName(filepath.Base(dir)), containerfile, exposed(filepath.Join(dir, containerfile))})
	if err != nil {
		return err
	}
	if _, err := os.Lstat(a.opts.file); err == nil {
		return invalid("there is a %s already; it was left as it is", a.opts.file)
	}
	if err := key.make(); err != nil {
		return err
	}
	f, err := os.OpenFile(a.opts.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return invalid("cannot write %s: %w", a.opts.file, readFailure(err))
	}
	_, err = f.Write(text.Bytes())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", a.opts.file, err)
	}
	if a.opts.json {
		return a.document(struct {
			File string   `json:"file"`
			Key  *keyPair `json:"key,omitempty"`
		}{a.opts.file, key.made()})
	}
	a.printf("wrote %s\n", a.opts.file)
	if key.ID != "" {
		a.printf("made the key pair %s and %s: kiln daemon --signing-key %s\n", key.Private, key.Public, key.Private)
	}
	a.printf("\nnext:\n")
	if regular(filepath.Join(dir, containerfile)) != nil {
		a.printf("  write a %s beside it\n", containerfile)
	}
	a.printf("  kiln doctor      what this machine lacks\n  kiln validate    is the declaration good?\n  kiln deploy      build it and bring it into service\n")
	return nil
}

// declaredAnywhere returns the declared services with the names, all without names,
// and the environments that were looked at: all of them, or the chosen one.
func (a *app) declaredAnywhere(names []string) ([]*spec.Service, []string, error) {
	file, err := a.declaration()
	if err != nil {
		return nil, nil, err
	}
	environments := file.EnvironmentNames()
	if a.environment() != "" {
		environments = []string{a.environment()}
	}
	here, err := a.in(file, cmp.Or(a.environment(), first(environments)))
	if err != nil {
		return nil, nil, err
	}
	services, err := a.buildable(here, names)
	return services, environments, err
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// serviceName makes a service's name of a directory's.
func serviceName(dir string) string {
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(dir), "-"), "-0123456789")
	if name = strings.Trim(name[:min(len(name), 40)], "-"); model.ValidServiceName(name) {
		return name
	}
	return "web"
}

// exposed returns the first port that a Containerfile exposes.
func exposed(path string) string {
	src, err := os.ReadFile(path)
	if err != nil {
		return "8080"
	}
	if m := regexp.MustCompile(`(?mi)^\s*EXPOSE\s+([0-9]{1,5})`).FindSubmatch(src); m != nil {
		return string(m[1])
	}
	return "8080"
}

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "validate [SERVICE…]",
		Short:   "Is the declaration good?",
		Long:    "Reads the declaration and looks for the files it names. It needs no daemon.",
		Example: "  kiln validate\n  kiln validate -f other.hcl --json",
		RunE:    a.run(func(_ context.Context, names []string) error { return a.validate(names) }),
	}
}

func (a *app) validate(names []string) error {
	services, environments, err := a.declaredAnywhere(names)
	diags, wrong := errors.AsType[spec.Diagnostics](err)
	if err != nil && !wrong {
		return err
	}
	if !a.opts.json {
		if err == nil {
			in := ""
			if n := len(environments); n > 0 {
				in = fmt.Sprintf(" in %d %s", n, plural(n, "environment"))
			}
			a.printf("%s is good: %d %s%s\n", a.opts.file, len(services), plural(len(services), "service"), in)
		}
		return err
	}
	if diags == nil {
		diags = append(spec.Diagnostics{}, a.warnings...)
	}
	names = []string{}
	for _, s := range services {
		names = append(names, declaredName(s))
	}
	if err := a.document(struct {
		Valid        bool             `json:"valid"`
		Services     []string         `json:"services"`
		Environments []string         `json:"environments,omitempty"`
		Diagnostics  spec.Diagnostics `json:"diagnostics"`
	}{!wrong, names, environments, diags}); err != nil {
		return err
	}
	if wrong {
		return exit(exitInvalid)
	}
	return nil
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
