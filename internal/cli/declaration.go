package cli

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

func invalid(format string, args ...any) *model.Error {
	return model.Errorf(model.Invalid, format, args...)
}

// chosen returns the declared services with the names, all without names, in
// the order of the file, as they are in the chosen environment. What their images
// are made from is there.
func (a *app) chosen(names []string) ([]*spec.Service, error) {
	file, err := a.declarationHere()
	if err != nil {
		return nil, err
	}
	return a.buildable(file, names)
}

// buildable returns the services of the file with the names, all without names.
// What their images are made from is there.
func (a *app) buildable(file *spec.File, names []string) ([]*spec.Service, error) {
	services, err := a.named(file, names)
	if err != nil {
		return nil, err
	}
	var diags spec.Diagnostics
	for _, s := range services {
		if s.Build != nil {
			diags = append(diags, a.checkBuild(file, s.Build)...)
		}
		diags = append(diags, a.checkSources(s)...)
		diags = append(diags, a.checkLists(file, s)...)
	}
	if len(diags) > 0 {
		return nil, diags
	}
	if _, _, err := a.lockFile(); err != nil { // before anything is built
		return nil, err
	}
	return services, nil
}

// declared is chosen for services that are not built.
func (a *app) declared(names []string) ([]*spec.Service, error) {
	file, err := a.declarationHere()
	if err != nil {
		return nil, err
	}
	return a.named(file, names)
}

// environment returns the name of the environment that is chosen, "" for none.
func (a *app) environment() string { return cmp.Or(a.opts.where, a.Env("KILN_ENVIRONMENT")) }

// declarationHere is the declaration as it is in the chosen environment; from then
// on that one's kiln is asked.
func (a *app) declarationHere() (*spec.File, error) {
	file, err := a.declaration()
	if err != nil {
		return nil, err
	}
	if a.environment() == "" && len(file.Environments) > 0 {
		return nil, invalid("%s has environments, and none is chosen", a.opts.file).
			WithHint("choose one: -e %s", strings.Join(file.EnvironmentNames(), ", or -e "))
	}
	return a.in(file, a.environment())
}

// in is a declaration as it is in an environment; "": it has none.
func (a *app) in(file *spec.File, environment string) (*spec.File, error) {
	if environment == "" {
		return file, nil
	}
	here := file.In(environment)
	if here == nil {
		hint := "it has no environments: leave out -e, and KILN_ENVIRONMENT"
		if known := file.EnvironmentNames(); len(known) > 0 {
			hint = "declared are: " + strings.Join(known, ", ")
			if near := spec.Nearest(environment, known); near != "" {
				hint = "did you mean \"" + near + "\"?"
			}
		}
		return nil, invalid("%s declares no environment %q", a.opts.file, environment).WithHint("%s", hint)
	}
	if kiln := here.Chosen.Kiln; kiln != "" {
		if !filepath.IsAbs(kiln) {
			kiln = filepath.Join(filepath.Dir(a.opts.file), kiln)
		}
		a.kiln = kiln
	}
	return here, nil
}

// named returns the services of the file with the names, all without names.
func (a *app) named(file *spec.File, names []string) ([]*spec.Service, error) {
	wanted := map[*spec.Service]bool{}
	for _, name := range names {
		s := file.Service(name)
		if s == nil {
			hint := "declared are: " + strings.Join(file.Names(), ", ")
			if near := spec.Nearest(name, file.Names()); near != "" {
				hint = "did you mean \"" + near + "\"?"
			}
			return nil, invalid("%s declares no service %q", a.opts.file, name).WithHint("%s", hint)
		}
		wanted[s] = true
	}
	var services []*spec.Service
	for _, s := range file.Services {
		if len(names) == 0 || wanted[s] {
			policy, err := a.keyIDs(s.Policy)
			if err != nil {
				return nil, err
			}
			s.Policy = policy
			services = append(services, s)
		}
	}
	return services, nil
}

// contextDir returns the directory of a build context: the declaration's
// directory is where relative ones begin.
func (a *app) contextDir(b *spec.Build) string {
	if filepath.IsAbs(b.Context) {
		return b.Context
	}
	return filepath.Join(filepath.Dir(a.opts.file), b.Context)
}

// checkBuild finds what a build needs, and fills in which Containerfile it is.
func (a *app) checkBuild(file *spec.File, b *spec.Build) spec.Diagnostics {
	dir := a.contextDir(b)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		hint := ""
		if near := nearFile(dir, true); near != "" {
			hint = "did you mean \"" + near + "\"?"
		}
		return spec.Diagnostics{file.Diagnose(b.ContextAt, hint, "there is no directory %s", dir)}
	}
	if b.Containerfile == "" {
		for _, name := range []string{"Containerfile", "Dockerfile"} {
			if regular(filepath.Join(dir, name)) == nil {
				b.Containerfile = name
				return nil
			}
		}
		return spec.Diagnostics{file.Diagnose(b.ContainerfileAt, "write one, or name it: containerfile = \"…\"",
			"there is neither a Containerfile nor a Dockerfile in %s", dir)}
	}
	full := b.Containerfile
	if !filepath.IsAbs(full) {
		full = filepath.Join(dir, full)
	}
	if err := regular(full); err != nil {
		hint := "its path is from the build context"
		if near := nearFile(full, false); near != "" {
			hint = "did you mean \"" + near + "\"?"
		}
		return spec.Diagnostics{file.Diagnose(b.ContainerfileAt, hint, "cannot read %s: %s", full, err)}
	}
	return nil
}

func regular(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return readFailure(err)
	case !st.Mode().IsRegular():
		return errors.New("it is not a file")
	}
	return nil
}

// nearFile returns the name of a file or directory that may be meant by path:
// one whose name is near, or what other tools call a Containerfile.
func nearFile(path string, dirs bool) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() == dirs {
			names = append(names, e.Name())
		}
	}
	if near := spec.Nearest(filepath.Base(path), names); near != "" {
		return near
	}
	for _, name := range names {
		if !dirs && (name == "Containerfile" || name == "Dockerfile") {
			return name
		}
	}
	return ""
}

// allowed returns the text of the list, "" where there is none.
func (a *app) allowed() (string, error) {
	const most = 1 << 20 // bytes
	path := filepath.Join(filepath.Dir(a.opts.file), api.AllowFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", invalid("cannot read %s: %w", path, readFailure(err))
	case len(text) > most:
		return "", invalid("%s has %d bytes; at most %d are a list that somebody reviews", path, len(text), most)
	}
	return string(text), nil
}
