package leaks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

func structureOf(t *testing.T, image v1.Image, rules Rules) []string {
	t.Helper()
	r, err := Structure(t.Context(), image, rules)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range r.Findings {
		if f.Hint == "" || f.Severity != Refuse || f.What == "" {
			t.Errorf("%+v", f)
		}
		out = append(out, f.Rule+" "+f.Path)
	}
	return out
}

func TestUser(t *testing.T) {
	passwd := "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n7777:x:0:0::/:/bin/sh\n"
	for name, refused := range map[string]bool{
		"": true, "root": true, "0": true, "0:0": true, "00": true, "toor": true, "toor:app": true, "nobody-knows": true, "app:nogroup": true,
		"app": false, "7777": false, "1000": false, "10001": false, "10001:0": false, "app:app": false, "app:1000": false,
	} {
		image := layertest.ImageOf(t,
			layertest.Archive(t, layertest.File{Name: "etc/passwd", Text: "app:x:0:0::/:/bin/sh\n"}),
			layertest.Archive(t, layertest.File{Name: "etc/passwd", Text: passwd}, layertest.File{Name: "etc/group", Text: "root:x:0:\napp:x:1000:\n"}))
		image = layertest.Configured(t, image, func(c *v1.ConfigFile) { c.Config.User = name })
		if got := structureOf(t, image, Rules{NotRoot: true}); (len(got) == 1) != refused {
			t.Errorf("%q: %v", name, got)
		}
		if got := structureOf(t, image, Rules{}); len(got) > 0 {
			t.Errorf("unasked: %v", got)
		}
	}
	// A file that a later layer takes away says nothing.
	image := layertest.Configured(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "etc/passwd", Text: passwd}), layertest.Archive(t, layertest.File{Name: "etc/.wh.passwd"})), func(c *v1.ConfigFile) { c.Config.User = "app" })
	if got := structureOf(t, image, Rules{NotRoot: true}); len(got) != 1 {
		t.Error(got)
	}
	// One that is a link by now says nothing either, and what hides the layers below hides nothing of its own.
	for _, c := range []struct {
		top     []byte
		refused int
	}{
		{layertest.Archive(t, layertest.File{Name: "etc/passwd", Kind: '2', Link: "elsewhere"}), 1},
		{layertest.Archive(t, layertest.File{Name: "etc/passwd", Text: passwd}, layertest.File{Name: "etc/.wh..wh..opq"}, layertest.File{Name: ".wh.etc"}), 0},
		{layertest.Archive(t, layertest.File{Name: "etc/.wh..wh..opq"}), 1},
	} {
		image := layertest.Configured(t, layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "etc/passwd", Text: passwd}), c.top), func(c *v1.ConfigFile) { c.Config.User = "app" })
		if got := structureOf(t, image, Rules{NotRoot: true}); len(got) != c.refused {
			t.Error(got, c.refused)
		}
	}
}

func TestPort(t *testing.T) {
	image := layertest.Configured(t, layertest.ImageOf(t, layertest.Archive(t)), func(c *v1.ConfigFile) {
		c.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}, "9000": {}, "53/udp": {}}
	})
	for port, refused := range map[int]bool{0: false, 8080: false, 9000: false, 53: true, 80: true} {
		if got := structureOf(t, image, Rules{Port: port}); (len(got) == 1) != refused {
			t.Errorf("%d: %v", port, got)
		}
	}
	if got := structureOf(t, image, Rules{Port: 53, Protocol: "udp"}); len(got) > 0 {
		t.Error(got)
	}
}

func TestFiles(t *testing.T) {
	caps := map[string]string{capabilityRecord: "\x01\x00\x00\x02"}
	image := layertest.ImageOf(
		t,
		layertest.Archive(
			t, layertest.File{Name: "usr/bin/su", Mode: 0o4755, Text: "x"}, layertest.File{Name: "usr/bin/gone", Mode: 0o4755}, layertest.File{Name: "usr/bin/mended", Mode: 0o4755}, layertest.File{Name: "usr/bin/wall", Mode: 0o2755},
			layertest.File{Name: "usr/bin/ping", Mode: 0o755, Records: caps}, layertest.File{Name: "usr/bin/link", Kind: '1', Link: "usr/bin/su", Mode: 0o4755},
			layertest.File{Name: "tmp", Kind: '5', Mode: 0o1777}, layertest.File{Name: "var/mail", Kind: '5', Mode: 0o2775}, layertest.File{Name: "srv", Kind: '5', Mode: 0o777}, layertest.File{Name: "srv/x", Mode: 0o666},
			layertest.File{Name: "lib", Kind: '2', Link: "usr/lib", Mode: 0o777}, layertest.File{Name: "dev/null", Kind: '3', Mode: 0o666}, layertest.File{Name: "srv/null", Kind: '3', Mode: 0o600}, layertest.File{Name: "opt/all/su", Mode: 0o4755}, layertest.File{Name: "opt/opaque/su", Mode: 0o4755},
			layertest.File{Name: "opt/dir/su", Mode: 0o4755}, layertest.File{Name: "usr/bin/gcc", Mode: 0o755},
		),
		layertest.Archive(
			t, layertest.File{Name: "usr/bin/.wh.gone"}, layertest.File{Name: "usr/bin/mended", Mode: 0o755}, layertest.File{Name: "opt/.wh.all"}, layertest.File{Name: "opt/opaque/new", Mode: 0o4755}, layertest.File{Name: "opt/opaque/.wh..wh..opq"},
			layertest.File{Name: "opt/dir", Mode: 0o644},
		),
	)
	all := Rules{NoSetuid: true, NoCapabilities: true, NoWorldWritable: true, NoDevices: true, ForbiddenPaths: []string{"/usr/bin/gcc*", "/opt/all/**"}}
	want := []string{
		"setuid /opt/opaque/new", "world-writable /srv", "device-node /srv/null", "world-writable /srv/x", "forbidden-path /usr/bin/gcc", "setuid /usr/bin/link", "capabilities /usr/bin/ping",
		"setuid /usr/bin/su", "setuid /usr/bin/wall",
	}
	if diff := cmp.Diff(want, structureOf(t, image, all)); diff != "" {
		t.Error(diff)
	}
	if got := structureOf(t, image, Rules{}); len(got) > 0 {
		t.Error(got)
	}
	allowed, err := ParseAllowed("kiln.allow", []byte("setuid /usr/bin/*  # reviewed\nsetuid /usr/bin/no # not there\nprivate-key /x # Search's\n* /opt/** # Search's\n"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Structure(t.Context(), image, Rules{NoSetuid: true, Allowed: allowed})
	if err != nil || len(r.Findings) != 1 || len(r.Allowed) != 3 || len(r.Stale) != 1 || r.Stale[0].Line != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSizesLabelsPackages(t *testing.T) {
	image := layertest.Configured(t, layertest.ImageOf(t, layertest.Gzip(t, layertest.Archive(t, layertest.File{Name: "zeros", Text: strings.Repeat("0", 1<<20)}))), func(c *v1.ConfigFile) {
		c.Config.Labels = map[string]string{"org.opencontainers.image.source": "https://git.example.com/x", "empty": "", "team": "shop\nx"}
	})
	for _, c := range []struct {
		rules Rules
		want  string
	}{
		{Rules{MaxCompressed: 1 << 20, MaxUncompressed: 2 << 20}, "[]"},
		{Rules{MaxUncompressed: 1 << 20}, "[size image:size]"},
		{Rules{MaxCompressed: 100}, "[size image:size]"},
		{Rules{Labels: map[string]string{"org.opencontainers.image.source": `https://git\.example\.com/.*`}}, "[]"},
		{Rules{Labels: map[string]string{"org.opencontainers.image.source": `https://git`, "empty": "", "team": "", "none": ".*"}}, "[label label:empty label label:none label label:org.opencontainers.image.source]"},
		{Rules{ForbiddenPackages: []string{"gcc*", "curl"}, Packages: []string{"libc6", "gcc-14", "gcc-14", "libcurl4"}}, "[package image:package:gcc-14]"},
	} {
		if got := fmt.Sprint(structureOf(t, image, c.rules)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.rules, got, c.want)
		}
	}
	if _, err := Structure(t.Context(), image, Rules{Labels: map[string]string{"x": "("}}); model.CodeOf(err) != model.Invalid {
		t.Error(err)
	}
}
