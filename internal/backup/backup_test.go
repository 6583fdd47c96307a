package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/api"
	"kiln/internal/backup"
	"kiln/internal/image"
	"kiln/internal/journal"
	"kiln/internal/model"
)

// store is images in memory.
type store map[model.Digest][]byte

func (s store) add(b []byte) ocispec.Descriptor {
	d := model.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(b)))
	s[d] = b
	return ocispec.Descriptor{Digest: digest.Digest(d), Size: int64(len(b))}
}

func (s store) Blobs(_ context.Context, d model.Digest) ([]image.Blob, error) {
	b, ok := s[d]
	if !ok {
		return nil, model.Errorf(model.NotFound, "no image %s", d)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	blobs := []image.Blob{{Digest: d, Size: int64(len(b)), MediaType: ocispec.MediaTypeImageManifest}}
	for _, p := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		blobs = append(blobs, image.Blob{Digest: model.Digest(p.Digest), Size: p.Size})
	}
	return blobs, nil
}

func (s store) OpenBlob(_ context.Context, b image.Blob) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s[b.Digest])), nil
}

// source is an instance with two releases: the image of one is there, the
// other's is not.
func source(t *testing.T) (backup.Source, model.Digest) {
	t.Helper()
	images := store{}
	manifest, err := json.Marshal(ocispec.Manifest{Config: images.add([]byte("{}")), Layers: []ocispec.Descriptor{images.add(bytes.Repeat([]byte("layer"), 3000))}})
	if err != nil {
		t.Fatal(err)
	}
	here := model.Digest(images.add(manifest).Digest)
	dir := t.TempDir()
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	release := func(number int, img model.Digest) model.ReleaseCreated {
		return model.ReleaseCreated{Release: model.Release{Service: "shop", Number: number, Template: model.Template{Service: "shop", Image: img}, Policy: model.Policy{Servers: 1}}}
	}
	deploy := func(id string, to int) []model.Payload {
		d := model.DeploymentID(id)
		return []model.Payload{
			model.DeploymentStarted{Deployment: model.Deployment{ID: d, Service: "shop", To: to, Phase: model.DeployPreparing}},
			model.ServiceSwitched{Service: "shop", Release: to, Deployment: d},
			model.DeploymentEnded{ID: d, Service: "shop", Verdict: model.Succeeded},
		}
	}
	payloads := []model.Payload{model.InstanceCreated{Instance: "abcdef"}, release(1, "sha256:"+model.Digest(strings.Repeat("0", 64)))}
	payloads = append(payloads, deploy("d-aaaaaa", 1)...)
	payloads = append(payloads, release(2, here))
	payloads = append(payloads, deploy("d-bbbbbb", 2)...)
	var events []model.Event
	for i, p := range payloads {
		events = append(events, model.Event{Seq: uint64(i) + 1, Epoch: 3, Elapsed: model.Instant(i + 1), At: time.Now().UTC(), Data: p})
	}
	if err := j.Append(t.Context(), 3, 0, events); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"certificates/ca/site.pem": "certificate", "certificates/.new-1": "half", "evidence/aa.zst": "evidence", "alerts.hcl": "receivers", "registry.yml": "who else is served",
		"vault/key": "of the secrets", "vault/secrets/" + value + ".age": "a secret", "vault/config/" + value: "a file", "vault/secrets/" + value + ".age.new": "half",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return backup.Source{Journal: j, Images: images, DataDir: dir, Version: "1", Daemon: []string{"daemon"}}, here
}

// value is the name of a value of a release.
const value = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func write(t *testing.T, req api.BackupRequest) ([]byte, model.Digest) {
	t.Helper()
	src, here := source(t)
	var out bytes.Buffer
	if _, err := backup.Write(t.Context(), &out, src, req); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), here
}

// What is written is verified, restored, and opened as the same instance.
func TestBackupIsRestored(t *testing.T) {
	archive, here := write(t, api.BackupRequest{Images: true, Evidence: true})
	report, err := backup.Verify(t.Context(), bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	if report.Instance != "abcdef" || report.Seq != 9 || len(report.Images) != 1 || report.Images[0].Image != here || len(report.Missing) != 1 {
		t.Errorf("the backup says %+v", report)
	}
	dir := filepath.Join(t.TempDir(), "new")
	now := time.Now()
	restored, err := backup.Restore(t.Context(), bytes.NewReader(archive), api.RestoreRequest{DataDir: dir}, backup.Restorer{Version: "2", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if restored.Epoch <= 3 || restored.Epoch < uint64(now.Unix()) {
		t.Errorf("the epoch is %d", restored.Epoch)
	}
	for name, want := range map[string]string{
		"instance": "abcdef\n", "certificates/ca/site.pem": "certificate", "evidence/aa.zst": "evidence", "alerts.hcl": "receivers", "registry.yml": "who else is served",
		"vault/secrets/" + value + ".age": "a secret", "vault/config/" + value: "a file",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil && name != "instance" && st.Mode() != 0o600 {
			t.Errorf("%s has mode %s", name, st.Mode())
		}
	}
	for _, name := range []string{"certificates/.new-1", ".restoring", "vault/key", "vault/secrets/" + value + ".age.new"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("there is %s", name)
		}
	}
	pending, err := backup.PendingImages(dir)
	if err != nil || pending == nil || len(pending.Images) != 1 {
		t.Fatalf("the images that wait are %+v (%v)", pending, err)
	}
	if f, err := pending.Layout().Open("blobs/sha256/" + strings.TrimPrefix(string(here), "sha256:")); err != nil {
		t.Error(err)
	} else {
		_ = f.Close()
	}
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if s, err := j.Load(t.Context()); err != nil || s.Services["shop"].InService != 2 || s.Seq != 10 {
		t.Errorf("the restored state is %+v (%v)", s, err)
	}
}

// A backup of the format before this one, in which alerts were not, is read.
func TestEarlierFormatIsRead(t *testing.T) {
	f, err := os.Open("testdata/version1.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if report, err := backup.Verify(t.Context(), f); err != nil || report.Instance != "abcdef" || report.Seq != 9 {
		t.Errorf("the backup says %+v (%v)", report, err)
	}
}

// No damage goes unseen: not a flipped bit anywhere, not a cut.
func TestDamageIsFound(t *testing.T) {
	archive, _ := write(t, api.BackupRequest{Images: true, Evidence: true})
	check := func(what string, b []byte) {
		t.Helper()
		_, err := backup.Verify(t.Context(), bytes.NewReader(b))
		if code := model.CodeOf(err); code != model.Precondition && code != model.Invalid || model.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	content := plain(t, archive)
	for at := 0; at < len(archive); at += 3 {
		b := bytes.Clone(archive)
		b[at] ^= 0x10
		if changed, err := decode(b); err == nil && bytes.Equal(changed, content) {
			continue // another way to write the same: of equal bytes it does not matter which are repeated
		}
		check(fmt.Sprintf("byte %d of %d changed", at, len(archive)), b)
	}
	for n := 0; n < len(archive); n += 101 {
		check(fmt.Sprintf("cut to %d bytes", n), archive[:n])
	}
	check("text", []byte("hello, this is no backup at all"))
}

func decode(b []byte) ([]byte, error) {
	z, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

func plain(t *testing.T, b []byte) []byte {
	t.Helper()
	content, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// A restore that fails, for whatever reason, leaves nothing.
func TestFailedRestoreLeavesNothing(t *testing.T) {
	archive, _ := write(t, api.BackupRequest{Images: true})
	dir := filepath.Join(t.TempDir(), "new")
	broken := errors.New("broken")
	for name, r := range map[string]io.Reader{
		"cut":        bytes.NewReader(archive[:len(archive)/2]),
		"unreadable": io.MultiReader(bytes.NewReader(archive[:len(archive)/2]), iotest.ErrReader(broken)),
	} {
		if _, err := backup.Restore(t.Context(), r, api.RestoreRequest{DataDir: dir}, backup.Restorer{Version: "2", Now: time.Now()}); err == nil {
			t.Errorf("%s: it was restored", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: it left %s", name, dir)
		}
	}
}

// What is there is not written over, and only a journal that is damaged or
// lost is replaced, by one of the same instance.
func TestRestoreSparesWhatIsThere(t *testing.T) {
	archive, _ := write(t, api.BackupRequest{})
	dir := filepath.Join(t.TempDir(), "new")
	restore := func(req api.RestoreRequest) (*api.RestoreReport, error) {
		req.DataDir = dir
		return backup.Restore(t.Context(), bytes.NewReader(archive), req, backup.Restorer{Version: "2", Now: time.Now()})
	}
	if _, err := restore(api.RestoreRequest{Journal: true}); model.CodeOf(err) != model.Precondition {
		t.Errorf("the journal of a directory that is not there: %v", err)
	}
	if _, err := restore(api.RestoreRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(api.RestoreRequest{}); model.CodeOf(err) != model.Precondition || model.HintOf(err) == "" {
		t.Errorf("over what is there: %v", err)
	}
	if _, err := restore(api.RestoreRequest{Journal: true}); model.CodeOf(err) != model.Precondition {
		t.Errorf("over a journal that is whole: %v", err)
	}
	err := errors.Join(os.Remove(filepath.Join(dir, "journal", "journal.db")), os.Remove(filepath.Join(dir, backup.AlertsFile)))
	if err != nil {
		t.Fatal(err)
	}
	report, err := restore(api.RestoreRequest{Journal: true})
	if err != nil || report.Kept == "" {
		t.Fatalf("over a damaged journal: %+v, %v", report, err)
	}
	if _, err := os.Stat(filepath.Join(dir, backup.AlertsFile)); err == nil {
		t.Error("alerts that were taken away came back with the journal")
	}
	if _, err := os.Stat(filepath.Join(report.Kept, "journal.head")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "journal")), os.WriteFile(filepath.Join(dir, "instance"), []byte("zzzzzz\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(api.RestoreRequest{Journal: true}); model.CodeOf(err) != model.Conflict {
		t.Errorf("into another instance: %v", err)
	}
}
