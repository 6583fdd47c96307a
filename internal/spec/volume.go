package spec

import (
	"path"
	"slices"
	"strings"

	"kiln/internal/model"
)

const minVolume = 1 << 20 // bytes

// mountPoint is a path of a server that something else than the image is seen at.
type mountPoint struct {
	what string // `ephemeral "/x"`
	path string
}

func mountPoints(t *model.Template) []mountPoint {
	var all []mountPoint
	if t.HasSecretFiles() {
		all = append(all, mountPoint{"the service's secrets", model.SecretsDir})
	}
	for _, c := range t.Config {
		all = append(all, mountPoint{"config \"" + c.Path + "\"", c.Path})
	}
	for _, e := range t.Ephemeral {
		all = append(all, mountPoint{"ephemeral \"" + e.Path + "\"", e.Path})
	}
	for _, v := range t.Volumes {
		all = append(all, mountPoint{"volume \"" + v.Volume + "\"", v.Path})
	}
	return all
}

// volumes reads what servers keep beyond their end. The ephemeral places are
// read before.
func (b *body) volumes(t *model.Template) {
	for _, block := range b.children("volume") {
		labels := b.labels(block, 1, `volume "name" {`)
		if labels == nil {
			continue
		}
		name, at := labels[0], b.position(block.LabelRanges[0])
		if !model.ValidServiceName(name) {
			b.errorf(at, nameHint(name), "%q cannot be a volume's name: that is a letter, then letters, digits and \"-\", at most 40, all lower case", name)
		}
		if slices.ContainsFunc(t.Volumes, func(m model.Mount) bool { return m.Volume == name }) {
			b.errorf(at, "give it another name", "%s declares volume %q a second time", b.where, name)
		}
		m := model.Mount{Volume: name, Access: model.SingleWriter}
		in := b.inside(block, "volume \""+name+"\"")
		good := in.mountPath(t, &m)
		if access, ok := in.choice("access", string(model.SingleWriter), string(model.Shared)); ok {
			m.Access = model.VolumeAccess(access)
		}
		in.size("size", minVolume, &m.Size)
		in.done()
		if good {
			t.Volumes = append(t.Volumes, m)
		}
	}
	slices.SortFunc(t.Volumes, func(a, b model.Mount) int { return strings.Compare(a.Volume, b.Volume) })
}

func (b *body) mountPath(t *model.Template, m *model.Mount) bool {
	var text string
	switch {
	case !b.has("path"):
		b.errorf(b.header, `add path = "/var/lib/…": where its servers see it`, "%s has no path", b.where)
		return false
	case !b.str("path", &text):
		return false
	}
	m.Path = path.Clean(text)
	if message, hint := mountProblem(text, m.Path, mountPoints(t)); message != "" {
		b.errorf(b.at("path"), hint, "path %q %s", text, message)
		return false
	}
	return true
}

// oneWriter reports what would have two servers at once where a volume is one
// server's at a time. Without a word in the declaration nothing of it holds.
func (b *body) oneWriter(s *Service) {
	i := slices.IndexFunc(s.Template.Volumes, func(m model.Mount) bool { return m.Access != model.Shared })
	if i < 0 {
		return
	}
	volume := s.Template.Volumes[i].Volume
	if n := s.Policy.Servers; n > 1 {
		b.errorf(b.at("servers"), "declare one server, or access = \"shared\" if the program shares its files with others of its kind",
			"%d servers cannot have volume %q: its access is single-writer, one server at a time", n, volume)
	}
	d := &s.Policy.Deploy
	in := b.deployBlock()
	if in == nil {
		d.KeepWarm = 0
		return
	}
	if d.Strategy != model.BlueGreen {
		in.errorf(in.at("strategy"), "leave the line out: the old server ends before the new one starts",
			"strategy %q has old and new servers run at once, and volume %q is one server's at a time", d.Strategy, volume)
	}
	if d.Overlap {
		in.errorf(in.at("overlap"), "take it out", "overlap has old and new servers run at once, and volume %q is one server's at a time", volume)
	}
	if in.syntax.Attributes["keep_warm"] == nil {
		d.KeepWarm = 0
	} else if d.KeepWarm > 0 {
		in.errorf(in.at("keep_warm"), "take it out", "no old server can stay warm beside the new one: volume %q is one server's at a time", volume)
	}
}

// deployBlock returns the deploy block for a second look, or nil.
func (b *body) deployBlock() *body {
	for _, c := range b.syntax.Blocks {
		if c.Type == "deploy" {
			return b.inside(c, "deploy")
		}
	}
	return nil
}
