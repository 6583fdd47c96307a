package leaks

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/user"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// Rules are the forms that a policy asks of an image. The zero value asks nothing.
type Rules struct {
	NotRoot         bool   // the main process is not root's
	User            string // that it is run as; "": the image's
	Port            int    // has to be among the image's exposed ports; 0: not asked
	Protocol        string
	NoSetuid        bool  // no program that runs as another user or group
	NoCapabilities  bool  // no program with capabilities in its attributes
	NoWorldWritable bool  // nothing that everybody may change, directories with the sticky bit apart
	NoDevices       bool  // no device nodes but in /dev, which the runtime covers with its own
	MaxCompressed   int64 // bytes of all layers as they are moved; 0: not asked
	MaxUncompressed int64 // bytes of all layers as they are unpacked; 0: not asked
	// Labels are required, and their values have to be what the expression says, as
	// a whole; "": any but an empty one.
	Labels map[string]string
	// ForbiddenPackages are names or patterns (* and ?) of packages, and Packages
	// what the image has, as the caller knows it.
	ForbiddenPackages []string
	Packages          []string
	// ForbiddenPaths are patterns as in an allow-list.
	ForbiddenPaths []string
	// Allowed lets findings of these rules stay: Search reports none of its entries
	// for them as stale, and Structure none for Search's.
	Allowed Allowed
}

// readsLayers reports whether the layers have to be read.
func (r *Rules) readsLayers() bool {
	return r.NotRoot || r.NoSetuid || r.NoCapabilities || r.NoWorldWritable || r.NoDevices || r.MaxUncompressed > 0 || len(r.ForbiddenPaths) > 0
}

// Structure says where an image is not of the form that the rules ask for: all of
// it, its base's layers too, as its servers will see it. Findings are of severity
// Refuse, those of the configuration first, then those of files by their paths.
//
// Invalid: the rules cannot be understood; or the image is damaged, contradicts
// itself, or has what no layer should have. Unavailable: its content cannot be read
// now.
func Structure(ctx context.Context, image v1.Image, rules Rules) (*Report, error) {
	s := &structure{
		walker: layers.NewWalker(defaults()), rules: rules, allow: rules.Allowed.judging(), report: newReport(),
		files: map[string]map[string]Finding{}, above: map[string]bool{"/": true, "/etc": true}, texts: map[string]account{},
	}
	labels, err := s.labelForms()
	if err != nil {
		return nil, err
	}
	all, config, err := layersOf(ctx, image)
	if err != nil {
		return nil, err
	}
	if rules.readsLayers() {
		for _, s.layer = range all {
			n, err := s.walker.Walk(ctx, s.layer, s.visit)
			if err != nil {
				return nil, err
			}
			s.unpacked += n
		}
	}
	s.checkUser(cmp.Or(rules.User, config.Config.User))
	s.checkPort(config.Config.ExposedPorts)
	s.checkSizes(all)
	s.checkLabels(config.Config.Labels, labels)
	s.checkPackages()
	s.checkFiles()
	s.report.More += s.more
	s.report.Stale = s.allow.stale(false)
	return s.report, nil
}

// structure is one run of Structure.
type structure struct {
	walker layers.Walker
	rules  Rules
	allow  Allowed
	report *Report

	layer    layers.Layer
	unpacked int64                         // bytes
	files    map[string]map[string]Finding // by path, then rule: of what is there so far
	kept     int                           // findings in files
	more     int                           // findings that there was no room for
	above    map[string]bool               // the directories above files
	texts    map[string]account            // /etc/passwd and /etc/group, as they are so far
}

func (s *structure) say(rule, path, what, hint string) {
	s.report.add(Finding{Rule: rule, Severity: Refuse, Layer: Configuration, Path: path, What: what, Hint: hint}, s.allow)
}

func (s *structure) labelForms() (map[string]*regexp.Regexp, error) {
	forms := map[string]*regexp.Regexp{}
	for name, value := range s.rules.Labels {
		if value == "" {
			value = `(?s).+`
		}
		form, err := regexp.Compile(`^(?:` + value + `)$`)
		if err != nil {
			return nil, model.Errorf(model.Invalid, "cannot use %q as a pattern of label %s: %w", value, name, err)
		}
		forms[name] = form
	}
	return forms, nil
}

const userHint = "create a user in the image and name it, best by its number: USER 10001:10001"

// checkUser asks as the engine will: a name is looked up in the image's own
// /etc/passwd, and a number is that user's.
func (s *structure) checkUser(name string) {
	if !s.rules.NotRoot {
		return
	}
	if name == "" {
		s.say(ruleRootUser, "image:user", "no user is set, so its main process is root's", userHint)
		return
	}
	whose := "its user"
	if s.rules.User != "" {
		whose = "the declared user"
	}
	found, err := user.GetExecUser(name, &user.ExecUser{}, bytes.NewReader(s.texts["/etc/passwd"].text), bytes.NewReader(s.texts["/etc/group"].text))
	switch {
	case err != nil:
		s.say(ruleRootUser, "image:user", fmt.Sprintf("%s %q is not in its /etc/passwd or /etc/group, so no server can start: %v", whose, clip(name), err), userHint)
	case found.Uid == 0:
		s.say(ruleRootUser, "image:user", fmt.Sprintf("%s %q is root", whose, clip(name)), userHint)
	}
}

func (s *structure) checkPort(exposed map[string]struct{}) {
	if s.rules.Port == 0 {
		return
	}
	protocol := s.rules.Protocol
	if protocol == "" {
		protocol = "tcp"
	}
	want := fmt.Sprintf("%d/%s", s.rules.Port, protocol)
	if _, ok := exposed[want]; ok {
		return
	}
	if _, ok := exposed[fmt.Sprint(s.rules.Port)]; ok && protocol == "tcp" {
		return
	}
	has := "none"
	if len(exposed) > 0 {
		has = strings.Join(slices.Sorted(maps.Keys(exposed)), ", ")
	}
	s.say(rulePort, "image:ports", fmt.Sprintf("the declared port %s is not among the ports it exposes: %s", want, has), fmt.Sprintf("write EXPOSE %s into the Containerfile, or correct the declared port", want))
}

func (s *structure) checkSizes(all []layers.Layer) {
	var packed int64
	var largest layers.Layer
	for _, l := range all {
		packed += l.Size
		if l.Size > largest.Size {
			largest = l
		}
	}
	hint := "leave out what only the build needs: a stage of its own (FROM … AS build), and COPY --from=build of what it made"
	if most := s.rules.MaxCompressed; most > 0 && packed > most {
		s.say(ruleSize, "image:size", fmt.Sprintf("its layers have %s compressed, and may have %s; most are in %s: %s", bytesOf(packed), bytesOf(most), largest, bytesOf(largest.Size)), hint)
	}
	if most := s.rules.MaxUncompressed; most > 0 && s.unpacked > most {
		s.say(ruleSize, "image:size", fmt.Sprintf("its layers have %s uncompressed, and may have %s", bytesOf(s.unpacked), bytesOf(most)), hint)
	}
}

// bytesOf writes a size for people, and in full where that is short.
func bytesOf(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

func (s *structure) checkLabels(has map[string]string, forms map[string]*regexp.Regexp) {
	for _, name := range slices.Sorted(maps.Keys(forms)) {
		value, ok := has[name]
		hint := fmt.Sprintf("write LABEL %s=… into the Containerfile", name)
		switch {
		case !ok:
			s.say(ruleLabel, "label:"+name, fmt.Sprintf("the label %s is required and not there", name), hint)
		case !forms[name].MatchString(value):
			s.say(ruleLabel, "label:"+name, fmt.Sprintf("the label %s is %q, and has to be of the form %s", name, clip(value), s.wanted(name)), hint)
		}
	}
}

func (s *structure) wanted(label string) string {
	if form := s.rules.Labels[label]; form != "" {
		return form
	}
	return "of any but an empty value"
}

func (s *structure) checkPackages() {
	has := slices.Compact(slices.Sorted(slices.Values(s.rules.Packages)))
	for _, name := range has {
		for _, pattern := range s.rules.ForbiddenPackages {
			if matches(pattern, name) {
				s.say(rulePackage, "image:package:"+name, fmt.Sprintf("it has the package %s, which is forbidden (%s)", name, pattern), "do not install it, or build in a stage of its own and copy only what it made")
				break
			}
		}
	}
}

func (s *structure) checkFiles() {
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		for _, rule := range slices.Sorted(maps.Keys(s.files[path])) {
			s.report.add(s.files[path][rule], s.allow)
		}
	}
}
