package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

const (
	// inputsPrefix begins the names of the records that keep what builds fetched.
	inputsPrefix  = "kiln/inputs/"
	inputsType    = "application/vnd.kiln.inputs.v1"
	inputsTerm    = 24 * time.Hour // how long what a build has fetched is safe without a record
	usedLabel     = "kiln.used"
	inputsService = "kiln.service"
	refLabel      = "containerd.io/gc.ref.content."
)

// Inputs is where a build keeps the bytes that it fetches, for as long as it is
// open, and for good what it has Keep.
type Inputs struct {
	store *Store
	lease leases.Lease
}

// InputBlob is bytes by their digest.
type InputBlob struct {
	Digest model.Digest
	Size   int64
}

// OpenInputs begins a build.
func (s *Store) OpenInputs(ctx context.Context) (*Inputs, error) {
	lease, err := s.client.LeasesService().Create(s.scoped(ctx), leases.WithRandomID(), leases.WithExpiration(inputsTerm))
	if err != nil {
		return nil, unavailable("keep what a build fetches", err)
	}
	return &Inputs{store: s, lease: lease}, nil
}

// Close ends the build: what no record keeps may go.
func (i *Inputs) Close(ctx context.Context) {
	if err := i.store.client.LeasesService().Delete(i.store.scoped(ctx), i.lease); err != nil {
		i.store.log.Warn("cannot end a lease of the image store", "error", err)
	}
}

func (i *Inputs) scoped(ctx context.Context) context.Context {
	return leases.WithLease(i.store.scoped(ctx), i.lease.ID)
}

// Has reports whether bytes are there, and holds them.
func (i *Inputs) Has(ctx context.Context, d model.Digest) (bool, error) {
	ctx = i.scoped(ctx)
	_, err := i.store.client.ContentStore().Info(ctx, digest.Digest(d))
	if err == nil {
		err = i.store.client.LeasesService().AddResource(ctx, i.lease, leases.Resource{ID: string(d), Type: "content"})
	}
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, unavailable("look for "+string(d), err)
	}
	return true, nil
}

// Input is bytes that were fetched.
type Input struct {
	*io.SectionReader
	io.Closer
}

// Open opens bytes. NotFound: they are not there.
func (i *Inputs) Open(ctx context.Context, d model.Digest) (*Input, error) {
	return i.store.OpenInput(leases.WithLease(ctx, i.lease.ID), d)
}

// OpenInput opens bytes that some build has fetched. NotFound: they are not there.
func (s *Store) OpenInput(ctx context.Context, d model.Digest) (*Input, error) {
	if !model.ValidDigest(string(d)) {
		return nil, model.Errorf(model.NotFound, "%q is no digest", d)
	}
	r, err := s.client.ContentStore().ReaderAt(s.scoped(ctx), ocispec.Descriptor{Digest: digest.Digest(d)})
	if errdefs.IsNotFound(err) {
		return nil, model.Errorf(model.NotFound, "%s is not here", d)
	}
	if err != nil {
		return nil, unavailable("read "+string(d), err)
	}
	return &Input{io.NewSectionReader(r, 0, r.Size()), r}, nil
}

// InputWriter takes bytes in. Close removes what was not committed.
type InputWriter struct {
	content.Writer
	ctx   context.Context //nolint:containedctx // the lease's, for Commit
	store content.Store
	ref   string
	size  int64
}

// New begins to take bytes in.
func (i *Inputs) New(ctx context.Context) (*InputWriter, error) {
	ctx, ref := i.scoped(ctx), "kiln-input-"+rand.Text()
	store := i.store.client.ContentStore()
	w, err := store.Writer(ctx, content.WithRef(ref))
	if err != nil {
		return nil, unavailable("keep what a build fetches", err)
	}
	return &InputWriter{Writer: w, ctx: ctx, store: store, ref: ref}, nil
}

// Write implements io.Writer.
func (w *InputWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.size += int64(n)
	return n, err
}

// Keep ends the bytes, which stay. want is what they have to be; "": anything.
// Invalid: they are something else.
func (w *InputWriter) Keep(want model.Digest) (InputBlob, error) {
	got := InputBlob{Digest: model.Digest(w.Digest()), Size: w.size}
	if w.size == 0 { // the store knows a digest from the first byte on
		got.Digest = model.Digest(digest.FromBytes(nil))
	}
	if want != "" && got.Digest != want {
		return got, model.Errorf(model.Invalid, "the bytes are %s", got.Digest)
	}
	if err := w.Commit(w.ctx, got.Size, digest.Digest(got.Digest)); err != nil && !errdefs.IsAlreadyExists(err) {
		return got, unavailable("keep what a build fetches", err)
	}
	w.ref = ""
	return got, nil
}

// Close implements io.Closer.
func (w *InputWriter) Close() error {
	err := w.Writer.Close()
	if w.ref == "" {
		return err
	}
	if gone := w.store.Abort(w.ctx, w.ref); gone != nil && !errdefs.IsNotFound(gone) {
		err = errors.Join(err, gone)
	}
	return err
}

// Discard removes bytes that are not what their digest says.
func (i *Inputs) Discard(ctx context.Context, d model.Digest) error {
	ctx = i.store.scoped(ctx)
	if err := i.store.client.ContentStore().Delete(ctx, digest.Digest(d)); err != nil && !errdefs.IsNotFound(err) {
		return unavailable("remove "+string(d), err)
	}
	// The collector takes them off the disk, and is asked by the end of a lease.
	lease, err := i.store.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTerm))
	if err == nil {
		err = i.store.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		return unavailable("remove "+string(d), err)
	}
	return nil
}

// Keep keeps bytes for a service, until the record that it returns is removed. The
// same again is the same record, used now.
func (i *Inputs) Keep(ctx context.Context, service string, blobs []InputBlob) (model.Digest, error) {
	ctx = i.scoped(ctx)
	desc, labels, text, err := inputsManifest(service, blobs)
	if err != nil {
		return "", err
	}
	store := i.store.client.ContentStore()
	for _, part := range []struct {
		desc   ocispec.Descriptor
		text   []byte
		labels map[string]string
	}{{ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data, nil}, {desc, text, labels}} {
		ref := "kiln-input-" + rand.Text()
		plain := ocispec.Descriptor{MediaType: part.desc.MediaType, Digest: part.desc.Digest, Size: part.desc.Size}
		err := content.WriteBlob(ctx, store, ref, strings.NewReader(string(part.text)), plain, content.WithLabels(part.labels))
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return "", unavailable("record what a build has fetched", err)
		}
	}
	record := images.Image{
		Name: inputsPrefix + desc.Digest.String(), Target: desc,
		Labels: map[string]string{usedLabel: time.Now().UTC().Format(time.RFC3339), inputsService: service},
	}
	_, err = i.store.client.ImageService().Create(ctx, record)
	if errdefs.IsAlreadyExists(err) {
		_, err = i.store.client.ImageService().Update(ctx, record, "labels."+usedLabel)
	}
	if err != nil {
		return "", unavailable("record what a build has fetched", err)
	}
	return model.Digest(desc.Digest), nil
}

// inputsManifest lists bytes as an OCI artifact, whose labels keep them.
func inputsManifest(service string, blobs []InputBlob) (ocispec.Descriptor, map[string]string, []byte, error) {
	blobs = slices.Clone(blobs)
	slices.SortFunc(blobs, func(a, b InputBlob) int { return cmp.Compare(a.Digest, b.Digest) })
	blobs = slices.CompactFunc(blobs, func(a, b InputBlob) bool { return a.Digest == b.Digest })
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: inputsType,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: ocispec.DescriptorEmptyJSON.Size},
		Layers: []ocispec.Descriptor{}, Annotations: map[string]string{inputsService: service},
	}
	labels := map[string]string{refLabel + "config": string(m.Config.Digest)}
	for n, b := range blobs {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.Digest(b.Digest), Size: b.Size})
		labels[refLabel+"l."+strconv.Itoa(n)] = string(b.Digest)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, nil, nil, model.Errorf(model.Internal, "cannot list what a build has fetched: %w", err)
	}
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}, labels, text, nil
}

// InputInventory lists the records of what builds have fetched, and removes them.
type InputInventory struct{ Store *Store }

// Objects lists the records. The bytes of each are those that no other has.
func (i InputInventory) Objects(ctx context.Context) ([]model.Object, error) {
	s := i.Store
	ctx = s.scoped(ctx)
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, unavailable("list what builds have fetched", err)
	}
	var list []model.Object
	manifests := map[string]ocispec.Manifest{}
	users := map[digest.Digest]int{}
	for _, r := range records {
		if !strings.HasPrefix(r.Name, inputsPrefix) {
			continue
		}
		m, err := s.manifest(ctx, r.Target)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, unavailable("list what builds have fetched", err)
		}
		o := model.Object{Kind: model.ObjectInputs, ID: string(r.Target.Digest), Name: r.Labels[inputsService], At: r.CreatedAt.UTC()}
		if used, err := time.Parse(time.RFC3339, r.Labels[usedLabel]); err == nil {
			o.LastUse = used
		}
		for _, l := range m.Layers {
			users[l.Digest]++
		}
		manifests[o.ID] = m
		list = append(list, o)
	}
	for n, o := range list {
		for _, l := range manifests[o.ID].Layers {
			if users[l.Digest] == 1 {
				list[n].Bytes += l.Size
			}
		}
	}
	return list, nil
}

// Remove removes a record, and gives the space back of what no other has. Absent
// is done.
func (i InputInventory) Remove(ctx context.Context, o model.Object) error {
	err := i.Store.client.ImageService().Delete(i.Store.scoped(ctx), inputsPrefix+o.ID, images.SynchronousDelete())
	if err != nil && !errdefs.IsNotFound(err) {
		return unavailable("remove what a build has fetched", err)
	}
	return nil
}
