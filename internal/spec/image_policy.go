package spec

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"kiln/internal/model"
)

// minImage is the least bound on an image's size, in bytes.
const minImage = 1 << 10

// imagePolicy reads what the service's image has to be.
func (b *body) imagePolicy(s *Service) {
	in := b.child("policy")
	if in == nil {
		return
	}
	p := &model.ImagePolicy{}
	if s.Policy.Image != nil {
		p = s.Policy.Image // with its validations
	}
	in.refuses("root", &p.NotRoot)
	in.boolean("exposed", &p.Exposed)
	if p.Exposed && s.Template.Port == 0 && !b.has("port") {
		in.errorf(in.at("exposed"), "add port = … to the service, or take it out", "%s has no port that its image could expose", b.where)
	}
	in.refuses("setuid", &p.NoSetuid)
	in.places("setuid_allowed", &p.SetuidAllowed)
	if in.has("setuid_allowed") && !p.NoSetuid {
		in.errorf(in.at("setuid_allowed"), "add setuid = false, or take it out", "setuid_allowed is the exception to setuid = false")
	}
	in.refuses("world_writable", &p.NoWorldWritable)
	in.refuses("devices", &p.NoDevices)
	in.size("size", minImage, &p.Size)
	in.size("unpacked_size", minImage, &p.UnpackedSize)
	in.requiredLabels(p)
	in.names("forbidden_packages", &p.ForbiddenPackages)
	for _, text := range p.ForbiddenPackages {
		if _, err := model.ParsePackageRule(text); err != nil {
			in.errorf(in.at("forbidden_packages"), `write "telnetd", "openssl@1.*" or "openssl<3.0.14"`, "forbidden_packages: %s", err)
		}
	}
	in.vulnerabilities(s, p)
	in.places("forbidden_paths", &p.ForbiddenPaths)
	in.requirement(s, p)
	in.done()
	s.Policy.Image = p
}

// refuses reads whether something may be in an image: true asks nothing.
func (b *body) refuses(name string, into *bool) {
	may := true
	b.boolean(name, &may)
	*into = !may
}

// places reads patterns of absolute paths; none of them is of everything.
func (b *body) places(name string, into *[]string) {
	b.names(name, into)
	for _, pattern := range *into {
		switch {
		case !path.IsAbs(pattern) && !strings.HasPrefix(pattern, "**/"):
			b.errorf(b.at(name), "did you mean \""+path.Clean("/"+pattern)+"\"?", "%s: %q is not an absolute path", name, pattern)
		case strings.Trim(pattern, "*?/") == "":
			b.errorf(b.at(name), "name a part of it", "%s: %q is a path of everything", name, pattern)
		case strings.ContainsAny(pattern, "\x00\n\r\""):
			b.errorf(b.at(name), "", "%s: %q has a character that cannot be meant", name, pattern)
		}
	}
}

// requiredLabels reads which labels an image has to have.
func (b *body) requiredLabels(p *model.ImagePolicy) {
	b.texts("labels", &p.Labels)
	for _, label := range slices.Sorted(maps.Keys(p.Labels)) {
		if strings.TrimSpace(label) == "" {
			b.errorf(b.at("labels"), "", "labels: a label needs a name")
		}
		if _, err := regexp.Compile(p.Labels[label]); err != nil {
			b.errorf(b.at("labels"), "the syntax is that of RE2", "labels: the value of %q: %s", label, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
	}
}

// severities are the words for how bad a vulnerability is.
var severities = []string{"any", "low", "medium", "high", "critical"}

// vulnerabilities reads which vulnerabilities the image must not have.
func (b *body) vulnerabilities(s *Service, p *model.ImagePolicy) {
	in := b.child("vulnerabilities")
	if in == nil {
		return
	}
	v := &model.VulnerabilityPolicy{}
	var paths []string
	if value, ok := in.value("list"); ok {
		if text, ok := scalar(value); ok {
			paths = []string{text}
		} else {
			in.names("list", &paths)
		}
	}
	if !in.has("list") {
		in.errorf(in.header, `add list = "osv/": a file or a directory of the OSV format, from this file's directory`, "%s has no list", in.where)
	}
	for _, at := range paths {
		if at == "" || strings.ContainsRune(at, 0) {
			in.errorf(in.at("list"), "", "list: %q is not a path", at)
		}
		v.Lists = append(v.Lists, model.VulnerabilityList{Name: at})
		s.Lists = append(s.Lists, List{at, in.at("list")})
	}
	if level, ok := in.choice("severity", severities...); ok && level != "any" {
		v.Severity = level
	}
	in.names("ignore", &v.Ignore)
	in.done()
	p.Vulnerabilities = v
}
