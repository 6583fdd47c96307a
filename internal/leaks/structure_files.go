package leaks

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"slices"

	"kiln/internal/layers"
)

// capabilityRecord is how an archive keeps the attribute security.capability: see
// PAX records of star, which containerd, Docker and BuildKit write.
const capabilityRecord = "SCHILY.xattr.security.capability"

const (
	modeSetuid = 0o4000
	modeSetgid = 0o2000
	modeSticky = 0o1000
	modeWorld  = 0o0002
)

// accounts are the files that say who a user is.
var accounts = []string{"/etc/passwd", "/etc/group"}

// account is one of them.
type account struct {
	text  []byte
	layer int
}

// maxAccounts bounds them.
const maxAccounts = 1 << 20 // bytes

// visit follows the layers from the lowest up: what an entry says of a path holds
// until a later one says otherwise.
func (s *structure) visit(in *layers.Entry) error {
	e := at(in)
	s.forget(e)
	if e.Whiteout != layers.NoWhiteout {
		return nil
	}
	if slices.Contains(accounts, e.path) && e.Typeflag == tar.TypeReg {
		text, err := io.ReadAll(io.LimitReader(e.Content, maxAccounts))
		if err != nil {
			return err
		}
		s.texts[e.path] = account{text, s.layer.Index}
	}
	if e.Typeflag == tar.TypeLink {
		s.link(e)
	}
	s.judge(e)
	return nil
}

// forget drops what was found where the entry hides or replaces it. What hides
// does so to the layers below, wherever in its archive it comes.
func (s *structure) forget(e *entry) {
	switch {
	case e.hides():
		s.hide(e.path)
	case !e.hidesIn():
		s.drop(e.path)
		delete(s.texts, e.path)
	}
	if !e.hides() && !e.hidesIn() && !e.replaces() || !s.above[e.path] {
		return
	}
	for path := range s.files {
		if path != e.path && below(path, e.path) {
			s.hide(path)
		}
	}
	for _, path := range accounts {
		if path != e.path && below(path, e.path) {
			s.hide(path)
		}
	}
}

// hide drops what a layer below has at a path.
func (s *structure) hide(path string) {
	if a, ok := s.texts[path]; ok && a.layer < s.layer.Index {
		delete(s.texts, path)
	}
	for _, f := range s.files[path] {
		if f.Layer == s.layer.Index {
			return
		}
	}
	s.drop(path)
}

func (s *structure) drop(path string) {
	s.kept -= len(s.files[path])
	delete(s.files, path)
}

// link gives a hard link what its target was found with.
func (s *structure) link(e *entry) {
	for rule, f := range s.files[path.Clean("/"+e.Linkname)] {
		if rule == rulePath {
			continue // that one is about the name
		}
		f.Path, f.Layer, f.Digest = e.path, s.layer.Index, s.layer.Digest
		s.found(rule, f)
	}
}

// mostKept bounds what is remembered of files: an image may have millions that
// everybody may write to.
const mostKept = 10 * mostFindings

func (s *structure) found(rule string, f Finding) {
	if s.kept >= mostKept {
		s.more++
		return
	}
	if s.files[f.Path] == nil {
		s.files[f.Path] = map[string]Finding{}
	}
	s.files[f.Path][rule] = f
	s.kept++
	for dir := path.Dir(f.Path); !s.above[dir]; dir = path.Dir(dir) {
		s.above[dir] = true
	}
}

func (s *structure) judge(e *entry) {
	tell := func(rule, what, hint string) {
		s.found(rule, Finding{Rule: rule, Severity: Refuse, Layer: s.layer.Index, Digest: s.layer.Digest, Path: e.path, What: what, Hint: hint})
	}
	file := e.Typeflag == tar.TypeReg
	if s.rules.NoSetuid && file && e.Mode&(modeSetuid|modeSetgid) != 0 {
		tell(ruleSetuid, setuidWords(e), fmt.Sprintf("if nothing needs it: RUN chmod a-s %s", e.path))
	}
	if caps := e.PAXRecords[capabilityRecord]; s.rules.NoCapabilities && file && caps != "" {
		tell(ruleCapabilities, "whoever runs it has capabilities that it does not have otherwise", fmt.Sprintf("if nothing needs them: RUN setcap -r %s", e.path))
	}
	if s.rules.NoWorldWritable && e.Mode&modeWorld != 0 && (file || e.Typeflag == tar.TypeDir && e.Mode&modeSticky == 0) {
		kind := "file"
		if !file {
			kind = "directory, without the sticky bit,"
		}
		tell(ruleWorldWritable, fmt.Sprintf("a %s that everybody may write to (mode %04o)", kind, e.Mode&0o7777), fmt.Sprintf("RUN chmod o-w %s, or declare the place as ephemeral if servers write there", e.path))
	}
	if s.rules.NoDevices && !below(e.path, "/dev") && (e.Typeflag == tar.TypeChar || e.Typeflag == tar.TypeBlock) {
		tell(ruleDevice, fmt.Sprintf("a device node (%d:%d)", e.Devmajor, e.Devminor), "remove it: servers get the devices they need from the runtime")
	}
	for _, pattern := range s.rules.ForbiddenPaths {
		if matches(pattern, e.path) {
			tell(rulePath, fmt.Sprintf("nothing may be there (%s)", pattern), "leave it out (.dockerignore), or remove it in the step that makes it")
			break
		}
	}
}

func setuidWords(e *entry) string {
	who := fmt.Sprintf("user %d", e.Uid)
	if e.Mode&modeSetuid == 0 {
		who = fmt.Sprintf("group %d", e.Gid)
	}
	return fmt.Sprintf("whoever runs it becomes %s (mode %04o)", who, e.Mode&0o7777)
}
