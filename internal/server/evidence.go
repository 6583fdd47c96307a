package server

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (s *Server) registerEvidence(h huma.API) {
	huma.Register(h, operation("evidence", http.MethodGet, api.PathEvidence, "What is kept of ended servers and sessions"), s.evidence)
	huma.Register(h, operation("archive", http.MethodGet, api.PathArchive, "The archive of a server or a session"), s.archive)
}

type evidenceInput struct {
	Service string `query:"service" doc:"only of this service"`
}

func (s *Server) evidence(ctx context.Context, in *evidenceInput) (*reply[api.EvidenceList], error) {
	archives, err := s.cfg.Archives.List(ctx)
	if err != nil {
		return nil, s.refuse(err)
	}
	kept := map[string]api.Archive{}
	out := &reply[api.EvidenceList]{api.EvidenceList{Archives: len(archives), Evidence: []api.EvidenceEntry{}}}
	for _, a := range archives {
		kept[a.Digest] = a
		out.Body.Bytes += a.Size
	}
	var unknown error
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if in.Service != "" {
			if _, unknown = serviceNamed(st, in.Service); unknown != nil {
				return
			}
		}
		for _, name := range sortedKeys(st.Services) {
			if in.Service == "" || in.Service == name {
				out.Body.Evidence = append(out.Body.Evidence, entriesOf(st.Services[name])...)
			}
		}
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	named := map[string]bool{}
	for i, e := range out.Body.Evidence {
		named[cmp.Or(string(e.Session), string(e.Server))] = true
		a, there := kept[e.Digest]
		out.Body.Evidence[i].Kept, out.Body.Evidence[i].Size = there, a.Size
		delete(kept, e.Digest)
	}
	out.Body.Evidence = append(out.Body.Evidence, olderThanTheState(kept, named, in.Service)...)
	slices.SortStableFunc(out.Body.Evidence, func(a, b api.EvidenceEntry) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Server, b.Server))
	})
	return out, nil
}

// entriesOf lists the death records and the ended sessions of a service.
func entriesOf(svc *model.Service) []api.EvidenceEntry {
	var out []api.EvidenceEntry
	for _, r := range svc.Dead {
		out = append(out, api.EvidenceEntry{
			Service: r.Service, Server: r.Server, Release: r.Release, Image: r.Image, At: r.EndedAt, Reason: r.Reason,
			Exit: r.Exit, Digest: r.Evidence, Missing: r.Missing,
		})
	}
	for _, x := range svc.Sessions {
		if x.Ended != nil {
			out = append(out, api.EvidenceEntry{
				Service: svc.Name, Server: x.Server, Session: x.ID, At: x.Ended.At,
				Reason: string(x.Kind) + " by " + x.By + ": " + x.Reason, Digest: x.Ended.Evidence, Missing: x.Ended.Missing,
			})
		}
	}
	return out
}

// olderThanTheState lists archives that the state knows no more: it remembers
// the newest records only. An archive of what is named already was written by a
// daemon that was killed before it could say so, and then anew.
func olderThanTheState(kept map[string]api.Archive, named map[string]bool, service string) []api.EvidenceEntry {
	var out []api.EvidenceEntry
	for _, a := range kept {
		if named[a.Name] {
			continue
		}
		e := api.EvidenceEntry{At: a.At, Digest: a.Digest, Size: a.Size, Kept: true}
		if id := model.ServerID(a.Name); model.ValidServerID(a.Name) {
			e.Server, e.Service = id, id.Service()
		} else {
			e.Session = model.SessionID(a.Name)
		}
		if service == "" || service == e.Service {
			out = append(out, e)
		}
	}
	return out
}

// archiveOf returns the digest of the archive of a server or a session, or the
// digest itself.
func (s *Server) archiveOf(ctx context.Context, name string) (string, error) {
	if model.ValidDigest(name) {
		return name, nil
	}
	alive, digest, ended := false, "", false
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		alive = st.Server(model.ServerID(name)) != nil
		for _, svc := range st.Services {
			for _, r := range svc.Dead {
				if string(r.Server) == name {
					digest, ended = r.Evidence, true
				}
			}
			if x := svc.Session(model.SessionID(name)); x != nil && x.Ended != nil {
				digest, ended = x.Ended.Evidence, true
			}
		}
	})
	if digest != "" {
		return digest, nil
	}
	archives, err := s.cfg.Archives.List(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range slices.Backward(archives) {
		if a.Name == name {
			return a.Digest, nil
		}
	}
	switch {
	case ended && strings.HasPrefix(name, "s-"):
		return "", model.Errorf(model.NotFound, "cannot read the evidence of %q: none could be kept", name).
			WithHint("kiln hotfix show %s says why", name)
	case ended:
		return "", model.Errorf(model.NotFound, "cannot read the evidence of %q: none could be kept", name).
			WithHint("kiln evidence show %s says why", name)
	case alive:
		return "", model.Errorf(model.Precondition, "cannot read the evidence of %q: it has not ended yet", name).
			WithHint("kiln logs %s shows what it writes", name)
	default:
		return "", model.Errorf(model.NotFound, "cannot find evidence of %q: no such server or session left any that is still kept", name).
			WithHint("kiln evidence ls lists what is kept")
	}
}

// readable tells why the archive of a server that is gone cannot be read.
func (s *Server) readable(ctx context.Context, id model.ServerID) error {
	digest, err := s.archiveOf(ctx, string(id))
	if err != nil {
		return err
	}
	raw, err := s.cfg.Archives.Raw(ctx, digest)
	if err != nil {
		return err
	}
	return raw.Close()
}

// archivedRecord returns the death record that is in the server's archive, nil
// if there is none.
func (s *Server) archivedRecord(ctx context.Context, id model.ServerID) *model.DeathRecord {
	digest, err := s.archiveOf(ctx, string(id))
	if err != nil {
		return nil
	}
	raw, err := s.cfg.Evidence.Read(ctx, digest)
	if err != nil {
		return nil
	}
	var content struct {
		Record model.DeathRecord `json:"record"`
	}
	if json.Unmarshal(raw, &content) != nil || content.Record.Server != id {
		return nil
	}
	content.Record.Evidence = digest // which the archive itself cannot say
	return &content.Record
}

// labelOfDead is logSources' label of a server that is gone.
func labelOfDead(svc *model.Service, id model.ServerID) api.LogLine {
	label := api.LogLine{Service: svc.Name, Server: id}
	for _, r := range svc.Dead {
		if r.Server != id {
			continue
		}
		label.Release, label.Image = r.Release, r.Image
		if rel := svc.Release(r.Release); rel != nil && rel.Template.Image == r.Image {
			label.Commit = rel.Provenance.Commit
		}
	}
	return label
}

type archiveInput struct {
	Archive string `path:"archive" doc:"a server, a session, or the digest of an archive"`
}

func (s *Server) archive(ctx context.Context, in *archiveInput) (*huma.StreamResponse, error) {
	digest, err := s.archiveOf(ctx, in.Archive)
	if err != nil {
		return nil, s.refuse(err)
	}
	raw, err := s.cfg.Archives.Raw(ctx, digest)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer func() { _ = raw.Close() }() // it was read only
		hctx.SetHeader("Content-Type", "application/zstd")
		hctx.SetHeader(api.HeaderDigest, digest)
		if sized, ok := raw.(interface{ Size() int64 }); ok {
			hctx.SetHeader("Content-Length", strconv.FormatInt(sized.Size(), 10))
		}
		if _, err := io.Copy(hctx.BodyWriter(), raw); err != nil {
			s.cfg.Log.Debug("cannot send an archive", "digest", digest, "error", err)
		}
	}}, nil
}
