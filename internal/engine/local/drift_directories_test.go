package local

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestDriftOfDirectories changes what only an attribute of a directory or of a
// file shows, in servers' own layers and in those below.
func TestDriftOfDirectories(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	d := &driftTest{t: t, servers: w.servers(t, e, w.addAttributed(t)), alarms: e.Alarms(t.Context())}

	t.Run("nothing", d.attributedAndNothing)
	t.Run("own layer", d.ownDirectories)
	t.Run("layers below", d.lowerDirectories)
}

// addAttributed adds an image whose layers have all that attributes can say, and
// what its unpacking makes of directories that are not in the archive.
func (w *world) addAttributed(t *testing.T) model.Digest {
	t.Helper()
	list := accessList(1000, 6)
	return w.addLayers(t, ocispec.ImageConfig{Entrypoint: []string{"/bin/program"}, Env: []string{"PATH=/bin"}},
		[]entry{
			{Header: tar.Header{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "none"}}},
			{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}},
			{Header: tar.Header{Name: ".wh.nothing"}},
			{Header: tar.Header{Name: "bin/program", Mode: 0o755}, content: testProgram(t)},
			{Header: tar.Header{Name: "etc/passwd", Mode: 0o644}, content: "root:x:0:0::/root:/bin/sh\n"},
			{Header: tar.Header{Name: "etc/group", Mode: 0o644}, content: "root:x:0:\n"},
			{Header: tar.Header{Name: "srv/old", Mode: 0o644}, content: "old"},
			{Header: tar.Header{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 33, Gid: 34}},
			{Header: tar.Header{Name: "list/", Typeflag: tar.TypeDir, Mode: 0o770, PAXRecords: map[string]string{
				"SCHILY.xattr.system.posix_acl_access": list, "SCHILY.xattr.system.posix_acl_default": list, "SCHILY.xattr.user.colour": "blue",
			}}},
			{Header: tar.Header{Name: "list/inherits", Mode: 0o640}, content: "x"},
			{Header: tar.Header{Name: "list/deep/inherits", Mode: 0o600}, content: "x"},
			{Header: tar.Header{Name: "minimal", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": list[:4] + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x04\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"}}},
			{Header: tar.Header{Name: "able", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": netRaw}}, content: "x"},
			{Header: tar.Header{Name: "able-too", Typeflag: tar.TypeLink, Linkname: "able", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": netRaw}}},
			{Header: tar.Header{Name: "unable", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": netRaw}}, content: "x"},
			{Header: tar.Header{Name: "unable-too", Typeflag: tar.TypeLink, Linkname: "unable", Mode: 0o755}},
			{Header: tar.Header{Name: "plain", Mode: 0o644}, content: "x"},
			{Header: tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "plain", Mode: 0o777}},
			{Header: tar.Header{Name: "gone", Mode: 0o644}, content: "x"},
			{Header: tar.Header{Name: "var/run", Typeflag: tar.TypeSymlink, Linkname: "../other", Mode: 0o777}},
			{Header: tar.Header{Name: "other", Typeflag: tar.TypeSymlink, Linkname: "/data", Mode: 0o777}},
		},
		[]entry{
			{Header: tar.Header{Name: "srv/.wh..wh..opq"}},
			{Header: tar.Header{Name: "srv/new", Mode: 0o644}, content: "new"},
			{Header: tar.Header{Name: "sticky/in", Mode: 0o644}},
			{Header: tar.Header{Name: "list/second", Mode: 0o644}},
			{Header: tar.Header{Name: ".wh.gone"}},
		},
	)
}

// netRaw is the capability CAP_NET_RAW of a file, permitted and effective.
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// accessList lets one more user have the rights.
func accessList(user uint32, rights uint16) string {
	const nobody = ^uint32(0)
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, x := range []struct {
		tag, rights uint16
		id          uint32
	}{{1, 7, nobody}, {aclUser, rights, user}, {aclOwners, 5, nobody}, {aclMask, 7, nobody}, {0x20, 0, nobody}} {
		b = binary.LittleEndian.AppendUint16(b, x.tag)
		b = binary.LittleEndian.AppendUint16(b, x.rights)
		b = binary.LittleEndian.AppendUint32(b, x.id)
	}
	return string(b)
}

func (d *driftTest) attributedAndNothing(t *testing.T) {
	through := func(t *model.Template) { t.Ephemeral = []model.Ephemeral{{Path: "/var/run/app", Size: 1 << 20}} }
	for _, edit := range []func(*model.Template){nil, func(t *model.Template) { t.UserNamespace = false }, through} {
		ref := d.serving(edit)
		for _, depth := range []engine.Depth{engine.Glance, engine.Whole, engine.Patient} {
			d.inspect(t, ref, depth)
		}
	}
}

// writable has the server's root written by who is root on the machine, and
// returns it.
func (d *driftTest) writable(t *testing.T, ref engine.Ref) string {
	t.Helper()
	pid := strconv.Itoa(d.pid(ref))
	if out, err := exec.Command("mount", "-N", "/proc/"+pid+"/ns/mnt", "-o", "remount,bind,rw", "/").CombinedOutput(); err != nil {
		t.Fatalf("cannot make the root writable: %v %s", err, out)
	}
	return "/proc/" + pid + "/root"
}

// files wants exactly these findings of files.
func (d *driftTest) filesAre(t *testing.T, ref engine.Ref, want ...string) {
	t.Helper()
	found, err := d.e.Inspect(t.Context(), ref.ID, engine.Glance)
	if err != nil {
		t.Fatal(err)
	}
	checkFindings(t, slices.DeleteFunc(found, func(f model.Finding) bool { return f.Detector != model.DetectFiles }), want)
}

func (d *driftTest) ownDirectories(t *testing.T) {
	for name, edit := range map[string]func(*model.Template){"user namespace": nil, "plain": func(t *model.Template) { t.UserNamespace = false }} {
		t.Run(name, func(t *testing.T) {
			ref := d.serving(edit)
			_, r := d.e.lookup(ref.ID)
			root := d.writable(t, ref)
			in := func(path string) string { return filepath.Join(root, path) }

			// The overlay copies the directories; what was in them goes again.
			for _, dir := range []string{"list", "sticky", "srv"} {
				must(t, os.WriteFile(in(dir+"/stray"), nil, 0o644))
				must(t, os.Remove(in(dir+"/stray")))
			}
			d.filesAre(t, ref)

			must(t, os.RemoveAll(in("srv")), os.Mkdir(in("srv"), 0o755), os.Chown(in("srv"), int(r.IDs), int(r.IDs)), os.Chmod(in("srv"), 0o755))
			d.filesAre(t, ref, "directory replaced /srv")
			d.changed(t, ref, "changed /srv")

			must(t, unix.Setxattr(in("sticky"), defaultACL, []byte(accessList(r.IDs+33, 7)), 0))
			d.filesAre(t, ref, "directory replaced /srv", "directory changed /sticky")
			must(t, unix.Removexattr(in("sticky"), defaultACL), unix.Setxattr(in("sticky"), "user.x", nil, 0))
			d.filesAre(t, ref, "directory replaced /srv", "directory changed /sticky")
			must(t, unix.Setxattr(in("list"), accessACL, []byte(accessList(r.IDs+1000, 7)), 0))
			d.filesAre(t, ref, "directory replaced /srv", "directory changed /sticky", "directory changed /list")
			must(t, unix.Setxattr(in("list"), accessACL, []byte(accessList(r.IDs+1000, 6)), 0))
			d.filesAre(t, ref, "directory replaced /srv", "directory changed /sticky")
			must(t, unix.Removexattr(in("list"), "user.colour"))
			d.filesAre(t, ref, "directory replaced /srv", "directory changed /sticky", "directory changed /list")
			d.changed(t, ref, "changed /list", "changed /srv", "changed /sticky")

			// What the image hides is none of it.
			must(t, os.Remove(in("srv")), os.MkdirAll(in("gone"), 0o755), os.Chown(in("gone"), int(r.IDs), int(r.IDs)))
			d.filesAre(t, ref, "file removed /srv", "file added /gone", "directory changed /sticky", "directory changed /list")
		})
	}
}

// changed wants exactly these changes in the evidence.
func (d *driftTest) changed(t *testing.T, ref engine.Ref, want ...string) {
	t.Helper()
	evidence, err := d.e.Collect(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range evidence.Changes {
		got = append(got, c.Kind+" "+c.Path)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the evidence has %q, want %q", got, want)
	}
}

func (d *driftTest) lowerDirectories(t *testing.T) {
	ref := d.serving(nil)
	_, r := d.e.lookup(ref.ID)
	made, second, first := r.Lowers[0], r.Lowers[1], r.Lowers[2]
	const opaqueName = overlayOwn + "opaque"
	for _, x := range []struct {
		name, want   string
		change, mend func() error
	}{
		{"hides", "directory replaced /sticky", set(second+"/sticky", opaqueName, "y"), unset(second+"/sticky", opaqueName)},
		{"hides, in kiln's own", "directory replaced /etc", set(made+"/etc", opaqueName, "y"), unset(made+"/etc", opaqueName)},
		{"hides no more", "directory changed /srv", unset(second+"/srv", opaqueName), set(second+"/srv", opaqueName, "y")},
		{"leads elsewhere", "directory changed /sticky", set(second+"/sticky", overlayOwn+"redirect", "/etc"), unset(second+"/sticky", overlayOwn+"redirect")},
		{"list added", "directory changed /sticky", set(first+"/sticky", defaultACL, accessList(33, 7)), unset(first+"/sticky", defaultACL)},
		{"list added, of a file", "file changed /plain", set(first+"/plain", accessACL, accessList(33, 4)[:4]+accessFile), func() error {
			return join(unset(first+"/plain", accessACL)(), os.Chmod(first+"/plain", 0o644))
		}},
		{"list changed", "directory changed /list", set(first+"/list", accessACL, accessList(1001, 6)), set(first+"/list", accessACL, accessList(1000, 6))},
		{"list removed", "directory changed /list", unset(first+"/list", defaultACL), set(first+"/list", defaultACL, accessList(1000, 6))},
		{"attribute added", "file changed /bin/program", set(first+"/bin/program", "user.x", ""), unset(first+"/bin/program", "user.x")},
		{"attribute removed", "directory changed /list", unset(first+"/list", "user.colour"), set(first+"/list", "user.colour", "blue")},
		{"capability added", "file changed /plain", set(first+"/plain", fileCapabilities, netRaw), unset(first+"/plain", fileCapabilities)},
		{"attribute of what leads", "directory changed /srv", set(second+"/srv", "user.x", "y"), unset(second+"/srv", "user.x")},
		{"rights of what leads", "directory changed /sticky", chmod(second+"/sticky", 0o777), chmod(second+"/sticky", 0o777|os.ModeSticky)},
	} {
		t.Run(x.name, func(t *testing.T) {
			want := []string{x.want}
			must(t, x.change())
			d.stale()
			d.inspect(t, ref, engine.Glance, want...)
			d.inspect(t, ref, engine.Whole, want...)
			must(t, x.mend())
			d.stale()
			d.inspect(t, ref, engine.Glance)
			d.inspect(t, ref, engine.Whole)
		})
	}
	t.Run("capability removed", func(t *testing.T) {
		must(t, unset(first+"/able", fileCapabilities)())
		d.inspect(t, ref, engine.Whole, "file changed /able", "file changed /able-too")
		must(t, set(first+"/able", fileCapabilities, netRaw)())
		d.inspect(t, ref, engine.Whole)
	})
}

// accessFile is a list for a file of the mode 0644.
const accessFile = "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x21\x00\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

func set(file, name, value string) func() error {
	return func() error { return unix.Setxattr(file, name, []byte(value), 0) }
}

func unset(file, name string) func() error {
	return func() error { return unix.Removexattr(file, name) }
}

func chmod(file string, mode os.FileMode) func() error {
	return func() error { return os.Chmod(file, mode) }
}

func join(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := join(errs...); err != nil {
		t.Fatal(err)
	}
}

// entry is one of an archive.
type entry struct {
	tar.Header
	content string
}

// addLayers adds an image of several layers, the lowest first.
func (w *world) addLayers(t testing.TB, config ocispec.ImageConfig, layers ...[]entry) model.Digest {
	t.Helper()
	archives := make([][]byte, 0, len(layers))
	for _, entries := range layers {
		archives = append(archives, archiveOf(t, entries))
	}
	return w.addArchives(t, config, archives...)
}

func archiveOf(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	for _, x := range entries {
		if x.Typeflag == 0 {
			x.Typeflag = tar.TypeReg
		}
		x.Size = int64(len(x.content))
		if err := archive.WriteHeader(&x.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(x.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (w *world) addArchives(t testing.TB, config ocispec.ImageConfig, archives ...[]byte) model.Digest {
	t.Helper()
	e, err := client.New(w.socket(), client.WithDefaultNamespace(w.namespace()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	ctx, done, err := e.WithLease((&Engine{Config: w.Config}).scoped(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	store := e.ContentStore()
	image := ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, Config: config, RootFS: ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	labels := map[string]string{}
	for i, b := range archives {
		layer := writeBlob(ctx, t, store, ocispec.MediaTypeImageLayer, b, nil)
		manifest.Layers = append(manifest.Layers, layer)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, layer.Digest)
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = layer.Digest.String()
	}
	manifest.Config = writeBlob(ctx, t, store, ocispec.MediaTypeImageConfig, encode(t, image), nil)
	labels["containerd.io/gc.ref.content.config"] = manifest.Config.Digest.String()
	desc := writeBlob(ctx, t, store, ocispec.MediaTypeImageManifest, encode(t, manifest), labels)
	if _, err := e.ImageService().Create(ctx, images.Image{Name: pinName(model.Digest(desc.Digest)), Target: desc}); err != nil {
		t.Fatal(err)
	}
	return model.Digest(desc.Digest)
}
