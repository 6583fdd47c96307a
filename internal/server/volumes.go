package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/engine"
	"kiln/internal/model"
)

func (s *Server) registerVolumes(h huma.API) {
	huma.Register(h, operation("volumes", http.MethodGet, api.PathVolumes, "What outlives servers"), s.volumes)
	huma.Register(h, operation("volume-snapshot", http.MethodPost, api.PathVolumeSnapshot, "Make a snapshot of a volume"), s.snapshotVolume)
	huma.Register(h, operation("volume-restore", http.MethodPost, api.PathVolumeRestore, "Make a volume what a snapshot is"), s.restoreVolume)
	huma.Register(h, operation("volume-remove", http.MethodPost, api.PathVolumeRemove, "Remove a volume, or one snapshot of it"), s.removeVolume)
	// The bodies of these are archives, so they stand beside huma.
	s.mux.HandleFunc("GET "+api.PathVolumeArchive, s.exportVolume)
	s.mux.HandleFunc("POST "+api.PathVolumeArchive, s.importVolume)
}

// engineVolumes returns the engine's part that keeps volumes.
func (s *Server) engineVolumes() (engine.Volumes, error) {
	volumes, ok := s.cfg.Engine.(engine.Volumes)
	if !ok {
		return nil, model.Errorf(model.Precondition, "this engine keeps no volumes")
	}
	return volumes, nil
}

// volumes joins what the journal knows with what is on the machine.
func (s *Server) volumes(ctx context.Context, _ *struct{}) (*reply[api.Volumes], error) {
	kept, err := s.engineVolumes()
	if err != nil {
		return nil, s.refuse(err)
	}
	observed, err := kept.ObserveVolumes(ctx)
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[api.Volumes]{api.Volumes{Volumes: []api.Volume{}}}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, service := range sortedKeys(st.Services) {
			for _, v := range st.Services[service].Volumes {
				out.Body.Volumes = append(out.Body.Volumes, knownVolume(v, observed))
			}
		}
	})
	for _, o := range observed {
		if !slices.ContainsFunc(out.Body.Volumes, func(v api.Volume) bool { return v.Service == o.Service && v.Name == o.Name }) {
			v := api.Volume{Service: o.Service, Name: o.Name, Unknown: true, Servers: []model.ServerID{}, Snapshots: []api.VolumeSnapshot{}}
			fillVolume(&v, o)
			out.Body.Volumes = append(out.Body.Volumes, v)
		}
	}
	slices.SortFunc(out.Body.Volumes, func(a, b api.Volume) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

func knownVolume(v *model.Volume, observed []engine.VolumeObserved) api.Volume {
	out := api.Volume{
		Service: v.Service, Name: v.Name, Access: cmp.Or(v.Access, model.SingleWriter), Size: v.Size, CreatedAt: v.CreatedAt,
		Servers: []model.ServerID{}, Snapshots: []api.VolumeSnapshot{},
	}
	var there []string
	for _, o := range observed {
		if o.Service == v.Service && o.Name == v.Name {
			fillVolume(&out, o)
			there = o.Snapshots
		}
	}
	for _, x := range v.Snapshots {
		out.Snapshots = append(out.Snapshots, api.VolumeSnapshot{VolumeSnapshot: x, Missing: !slices.Contains(there, x.ID)})
	}
	return out
}

func fillVolume(v *api.Volume, o engine.VolumeObserved) {
	v.Path, v.Used, v.Free, v.Enforced, v.CanCopy = o.Path, o.Used, o.Free, o.Bounded, o.CanCopy
	v.Servers = append(v.Servers, o.Servers...)
}

// volumesLack says what the machine cannot do for the volumes of a template that
// are there already.
func (s *Server) volumesLack(ctx context.Context, t model.Template) (lines []string) {
	kept, err := s.engineVolumes()
	if err != nil || len(t.Volumes) == 0 {
		return nil
	}
	observed, err := kept.ObserveVolumes(ctx)
	if err != nil {
		return []string{"what the machine can do for them is not known: " + err.Error()}
	}
	for _, m := range t.Volumes {
		i := slices.IndexFunc(observed, func(o engine.VolumeObserved) bool { return o.Service == t.Service && o.Name == m.Volume })
		if i < 0 {
			continue
		}
		if !observed[i].CanCopy {
			lines = append(lines, m.Volume+": no snapshot is made before: the file system shares no blocks between files; btrfs and xfs do")
		}
		if m.Size > 0 && !observed[i].Bounded {
			lines = append(lines, m.Volume+": its size is not enforced: the file system was not mounted with project quotas (prjquota)")
		}
	}
	return lines
}

type volumeInput struct {
	Service string `path:"service"`
	Volume  string `path:"volume"`
	Body    api.VolumeRequest
}

func (in *volumeInput) done(snapshot, words string) *reply[api.VolumeAccepted] {
	return &reply[api.VolumeAccepted]{api.VolumeAccepted{Service: in.Service, Name: in.Volume, Snapshot: snapshot, Done: words}}
}

// volumeNamed returns the volume or a NotFound error that names what there is.
func volumeNamed(st *model.State, service, name string) (*model.Volume, error) {
	svc, err := serviceNamed(st, service)
	if err != nil {
		return nil, err
	}
	if v := svc.Volume(name); v != nil {
		return v, nil
	}
	var names []string
	for _, v := range svc.Volumes {
		names = append(names, v.Name)
	}
	e := model.Errorf(model.NotFound, "%s has no volume %q", service, name)
	if len(names) == 0 {
		return nil, e.WithHint("it has none; a volume is made with the first server that declares it")
	}
	return nil, e.WithHint("it has: %s", strings.Join(names, ", "))
}

// journalVolume writes down what was done with a volume that still is.
func (s *Server) journalVolume(ctx context.Context, service, name, by string, event model.Payload) error {
	return s.cfg.Control.Do(ctx, actor(by), func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		if _, err := volumeNamed(st, service, name); err != nil {
			return nil, err
		}
		return []model.Payload{event}, nil
	})
}

// seeVolume refuses what the journal does not know, before anything is done.
func (s *Server) seeVolume(service, name string) (found model.Volume, err error) {
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		var v *model.Volume
		if v, err = volumeNamed(st, service, name); err == nil {
			found = *v
		}
	})
	return found, err
}

func (s *Server) snapshotVolume(ctx context.Context, in *volumeInput) (*reply[api.VolumeAccepted], error) {
	kept, err := s.engineVolumes()
	if err != nil {
		return nil, s.refuse(err)
	}
	v, err := s.seeVolume(in.Service, in.Volume)
	if err != nil {
		return nil, s.refuse(err)
	}
	now := s.cfg.Clock.Now()
	id := cmp.Or(in.Body.Snapshot, now.Wall.UTC().Format("20060102-150405"))
	if slices.ContainsFunc(v.Snapshots, func(x model.VolumeSnapshot) bool { return x.ID == id }) {
		return nil, s.refuse(model.Errorf(model.Conflict, "volume %s of %s has a snapshot %s already", in.Volume, in.Service, id))
	}
	if there, err := onDisk(ctx, kept, in.Service, in.Volume); err != nil {
		return nil, s.refuse(err)
	} else if there != nil && slices.Contains(there.Snapshots, id) {
		return nil, s.refuse(model.Errorf(model.Conflict, "a snapshot %s of volume %s of %s lies on the disk, and the journal does not know what it holds", id, in.Volume, in.Service).
			WithHint("another --name, or: kiln volumes remove %s/%s %s", in.Service, in.Volume, id))
	}
	made := model.VolumeSnapshot{ID: id, At: now.Wall, Reason: cmp.Or(in.Body.Reason, "asked for by "+actor(in.Body.Author)), Quiesced: true}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, srv := range st.Services[in.Service].Servers {
			made.Quiesced = made.Quiesced && !srv.Phase.Alive()
		}
	})
	if err := kept.SnapshotVolume(ctx, in.Service, in.Volume, id); err != nil {
		return nil, s.refuse(err)
	}
	if err := s.journalVolume(ctx, in.Service, in.Volume, in.Body.Author, model.VolumeSnapshotted{Service: in.Service, Name: in.Volume, Snapshot: made}); err != nil {
		return nil, s.refuse(err)
	}
	words := "snapshot " + id + " was made"
	if !made.Quiesced {
		words += " while servers ran: what they had not written yet is not in it"
	}
	return in.done(id, words), nil
}

func (s *Server) restoreVolume(ctx context.Context, in *volumeInput) (*reply[api.VolumeAccepted], error) {
	kept, err := s.engineVolumes()
	if err != nil {
		return nil, s.refuse(err)
	}
	if _, err := s.seeVolume(in.Service, in.Volume); err != nil {
		return nil, s.refuse(err)
	}
	if err := kept.RestoreVolume(ctx, in.Service, in.Volume, in.Body.Snapshot); err != nil {
		return nil, s.refuse(err)
	}
	from := "snapshot " + in.Body.Snapshot
	if err := s.journalVolume(ctx, in.Service, in.Volume, in.Body.Author, model.VolumeRestored{Service: in.Service, Name: in.Volume, From: from}); err != nil {
		return nil, s.refuse(err)
	}
	return in.done(in.Body.Snapshot, "it is what "+from+" was"), nil
}

func (s *Server) removeVolume(ctx context.Context, in *volumeInput) (*reply[api.VolumeAccepted], error) {
	kept, err := s.engineVolumes()
	if err != nil {
		return nil, s.refuse(err)
	}
	if err := s.removable(ctx, kept, in); err != nil {
		return nil, s.refuse(err)
	}
	// The journal comes first: what is removed there and still lies here is
	// listed, and removed by the same again.
	err = s.cfg.Control.Do(ctx, actor(in.Body.Author), func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		svc := st.Services[in.Service]
		if svc == nil || svc.Volume(in.Volume) == nil {
			return nil, nil // perhaps what the journal does not know
		}
		if in.Body.Snapshot != "" {
			if !hasSnapshot(svc.Volume(in.Volume), in.Body.Snapshot) {
				return nil, nil // it lies on the disk alone
			}
			return []model.Payload{model.VolumeSnapshotRemoved{
				Service: in.Service, Name: in.Volume, ID: in.Body.Snapshot, Reason: cmp.Or(in.Body.Reason, "asked for by "+actor(in.Body.Author)),
			}}, nil
		}
		if holder := holderOf(svc, in.Volume); holder != "" {
			return nil, model.Errorf(model.Precondition, "cannot remove volume %s of %s: server %s has it", in.Volume, in.Service, holder).
				WithHint("kiln destroy %s, or kiln scale %s 0, ends its servers", in.Service, in.Service)
		}
		return []model.Payload{model.VolumeRemoved{Service: in.Service, Name: in.Volume, At: now.Wall}}, nil
	})
	if err == nil {
		err = kept.RemoveVolume(ctx, in.Service, in.Volume, in.Body.Snapshot)
	}
	if err != nil {
		return nil, s.refuse(err)
	}
	if in.Body.Snapshot != "" {
		return in.done(in.Body.Snapshot, "snapshot "+in.Body.Snapshot+" is removed"), nil
	}
	return in.done("", "it is removed, with its snapshots"), nil
}

// onDisk returns what there is of a volume on the machine; nil: nothing.
func onDisk(ctx context.Context, kept engine.Volumes, service, name string) (*engine.VolumeObserved, error) {
	observed, err := kept.ObserveVolumes(ctx)
	for i, o := range observed {
		if o.Service == service && o.Name == name {
			return &observed[i], err
		}
	}
	return nil, err
}

func hasSnapshot(v *model.Volume, id string) bool {
	return slices.ContainsFunc(v.Snapshots, func(x model.VolumeSnapshot) bool { return x.ID == id })
}

// removable refuses to remove what neither the journal nor the machine has.
func (s *Server) removable(ctx context.Context, kept engine.Volumes, in *volumeInput) error {
	there, err := onDisk(ctx, kept, in.Service, in.Volume)
	if err != nil {
		return err
	}
	v, unknown := s.seeVolume(in.Service, in.Volume)
	id := in.Body.Snapshot
	switch {
	case unknown != nil && there == nil:
		return unknown
	case id == "" || unknown == nil && hasSnapshot(&v, id) || there != nil && slices.Contains(there.Snapshots, id):
		return nil
	default:
		return model.Errorf(model.NotFound, "volume %s of %s has no snapshot %q", in.Volume, in.Service, id).WithHint("kiln volumes show %s/%s lists them", in.Service, in.Volume)
	}
}

// holderOf returns a living server that has the volume; "": none.
func holderOf(svc *model.Service, volume string) model.ServerID {
	for _, id := range sortedKeys(svc.Servers) {
		srv := svc.Servers[id]
		release := svc.Release(srv.Release)
		if srv.Phase.Alive() && release != nil && slices.ContainsFunc(release.Template.Volumes, func(m model.Mount) bool { return m.Volume == volume }) {
			return id
		}
	}
	return ""
}

// exportVolume streams an archive. What went wrong is known when the stream has
// begun, so that it stands in a trailer.
func (s *Server) exportVolume(w http.ResponseWriter, r *http.Request) {
	kept, err := s.engineVolumes()
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	service, name := r.PathValue("service"), r.PathValue("volume")
	if _, err := s.seeVolume(service, name); err != nil {
		s.refuseRaw(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", api.TrailerProblem)
	if err := kept.ExportVolume(r.Context(), service, name, w); err != nil {
		s.cfg.Log.Warn("a volume could not be written out", "service", service, "volume", name, "error", err)
		text, encoding := json.Marshal(problemOf(err))
		if encoding != nil {
			s.cfg.Log.Error("cannot answer", "error", encoding)
		}
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush() // an answer that is short so far has trailers only then
		}
		w.Header().Set(api.TrailerProblem, string(text))
	}
}

func (s *Server) importVolume(w http.ResponseWriter, r *http.Request) {
	kept, err := s.engineVolumes()
	service, name, by := r.PathValue("service"), r.PathValue("volume"), r.URL.Query().Get("author")
	if err == nil {
		_, err = s.seeVolume(service, name)
	}
	if err == nil {
		err = kept.ImportVolume(r.Context(), service, name, r.Body)
	}
	from := cmp.Or(r.URL.Query().Get("from"), "an archive")
	if err == nil {
		err = s.journalVolume(r.Context(), service, name, by, model.VolumeRestored{Service: service, Name: name, From: from})
	}
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(api.VolumeAccepted{Service: service, Name: name, Done: "it is what " + from + " holds"}); err != nil {
		s.cfg.Log.Debug("cannot answer", "error", err)
	}
}

// volumeInWords says what happened to a volume.
func volumeInWords(p model.Payload) (service, text string) {
	switch p := p.(type) {
	case model.VolumeCreated:
		return p.Volume.Service, fmt.Sprintf("volume %s is made", p.Volume.Name)
	case model.VolumeSnapshotted:
		if p.Missing != "" {
			return p.Service, fmt.Sprintf("no snapshot of volume %s %s: %s", p.Name, p.Snapshot.Reason, p.Missing)
		}
		still := ""
		if !p.Snapshot.Quiesced {
			still = ", while servers had it"
		}
		return p.Service, fmt.Sprintf("snapshot %s of volume %s, %s%s", p.Snapshot.ID, p.Name, p.Snapshot.Reason, still)
	case model.VolumeSnapshotRemoved:
		return p.Service, fmt.Sprintf("snapshot %s of volume %s is removed: %s", p.ID, p.Name, p.Reason)
	case model.VolumeRestored:
		return p.Service, fmt.Sprintf("volume %s was made what %s holds", p.Name, p.From)
	case model.VolumeRemoved:
		return p.Service, fmt.Sprintf("volume %s is removed with all that it held", p.Name)
	default:
		return "", string(p.Kind())
	}
}
