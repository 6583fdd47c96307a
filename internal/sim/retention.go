package sim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"kiln/internal/control"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// store is the images on the disk, as retention lists and removes them.
type store struct{ w *world }

// Objects implements engine.Inventory. What it lists may be old when it is
// decided on.
func (s store) Objects(ctx context.Context) ([]model.Object, error) {
	if err := s.w.wait(ctx, s.w.between("list", time.Millisecond, 200*time.Millisecond)); err != nil {
		return nil, err
	}
	var list []model.Object
	for _, d := range s.w.content {
		list = append(list, model.Object{Kind: model.ObjectImage, ID: string(d), Bytes: 1, At: s.w.wall()})
	}
	return list, s.w.wait(ctx, s.w.between("listed", time.Millisecond, 20*time.Second))
}

// Remove implements engine.Inventory.
func (s store) Remove(_ context.Context, o model.Object) error {
	w, d := s.w, model.Digest(o.ID)
	if !w.written[d] {
		w.violate(7, "image %s is removed, and the journal does not say so", d.Short())
	}
	if w.chance("remove", 3) { // as if it had crashed before
		w.cover.met(kindRetention, "removal fails")
		return model.Errorf(model.Unavailable, "cannot remove image %s", d.Short())
	}
	w.content = slices.DeleteFunc(w.content, func(x model.Digest) bool { return x == d })
	w.machine.RemoveImage(d)
	w.cover.met(kindRetention, "content removed")
	return nil
}

// newRetention is the daemon's retention over the world's images.
func (d *daemon) newRetention() *control.Retention {
	return control.NewRetention(control.RetentionConfig{
		Control: d.control, Clock: d, Log: slog.New(slog.DiscardHandler),
		Sources: []control.Source{{Kind: model.ObjectImage, Inventory: store{d.w}}},
	})
}

// gc sweeps, beside whatever else is asked for meanwhile.
func (w *world) gc(uint64) bool {
	d := w.daemon
	if d == nil || d.sweeping {
		return false
	}
	d.sweeping = true
	d.spawn(func() {
		defer func() { d.sweeping = false }()
		_, _ = d.retain.Sweep(context.Background(), "somebody") // a journal that is full refuses it
	})
	return true
}

// baseOf is what an image was built on: images of different behaviour share it.
func baseOf(d model.Digest) model.Digest {
	return model.Digest(fmt.Sprintf("sha256:%060d", 0) + "ba5" + string(d[len(d)-1]))
}

// build sees to it that an image is here, as a build before a deployment does.
// Now and then nobody does.
func (w *world) build(d model.Digest) {
	b := behaviourOf(d)
	if w.daemon == nil || b.name == "absent" || w.chance("build", 8) {
		return
	}
	for _, img := range []model.Image{
		{Digest: baseOf(d), Source: "import"},
		{Digest: d, Source: "build", Provenance: model.Provenance{Parents: []model.Parent{{Name: "base", Digest: baseOf(d)}}}},
	} {
		if known := w.journal.replay.Images[img.Digest]; known != nil && known.RemovedAt.IsZero() {
			continue
		}
		if !slices.Contains(w.content, img.Digest) {
			w.content = append(w.content, img.Digest)
			if img.Source == "build" {
				w.machine.AddImage(img.Digest, w.imageOf(b))
			}
		}
		_ = w.daemon.retain.Admit(context.Background(), "somebody", func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, error) {
			return []model.Payload{model.ImageAdded{Image: img}}, nil
		}, func() bool { return slices.Contains(w.content, img.Digest) })
	}
}

// release deploys the next of the good images, so that older ones leave the
// window.
func (w *world) release(n uint64) bool {
	service := serviceNames[n%2]
	version := 0
	if svc := w.journal.replay.Services[service]; svc != nil {
		version = len(svc.Releases)
	}
	p := policyOf(service, n)
	p.Servers, p.Validations, p.Health.Kind = 1, nil, model.CheckHTTP
	p.Deploy.Strategy, p.Deploy.KeepWarm, p.Deploy.Deadline = model.BlueGreen, 0, model.Duration(8*time.Minute)
	p.Retention = model.RetentionPolicy{Releases: 1, For: model.Duration(time.Second)}
	t := model.Template{Service: service, Image: imageOf("good", version%versions), Port: 8080, Protocol: model.HTTP}
	return w.deployThis(service, t, p, reconcile.Queue)
}

// pin marks one of the images, or unmarks it.
func (w *world) pin(n uint64) bool {
	if len(w.content) == 0 {
		return false
	}
	d := w.content[n%uint64(len(w.content))]
	return w.do(func(s *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, err := reconcile.Pin(s, reconcile.PinRequest{Image: d, Pinned: n>>32%3 != 0, By: "somebody"})
		return events, reconcile.DeployResult{}, err
	})
}

func retentionOf(n uint64) model.RetentionPolicy {
	return model.RetentionPolicy{
		Releases: 1 + int(n%3), For: model.Duration([]time.Duration{time.Second, time.Minute, 10 * time.Minute, 2 * time.Hour}[n>>4%4]),
	}
}

// noteRetention judges the removal of an image (7), and keeps what that takes.
func (w *world) noteRetention(e model.Event, s *model.State) {
	switch p := e.Data.(type) {
	case model.ClockJumped:
		w.jumped = e.Elapsed
	case model.ServiceSwitched:
		svc := s.Services[p.Service]
		if old := svc.Release(svc.InService); old != nil && old.Number != p.Release {
			w.left[p.Service+"/"+old.TemplateHash] = e.Elapsed
		}
	case model.ImageAdded:
		delete(w.written, p.Image.Digest)
	case model.ImageRemoved:
		w.written[p.Digest] = true
		w.cover.met(kindRetention, "image removed")
		if why := w.neededImage(p.Digest, s, e.Elapsed); why != "" {
			w.violate(7, "image %s is to be removed (%s), and %s", p.Digest.Short(), p.Reason, why)
		}
		if w.jumped != 0 && e.Elapsed < w.jumped.Add(time.Hour) {
			w.violate(7, "image %s is to be removed within an hour of a jump of the wall clock", p.Digest.Short())
		}
	default:
	}
}

// neededImage says why the image has to stay; "": it need not.
func (w *world) neededImage(d model.Digest, s *model.State, now model.Instant) string {
	for _, img := range s.Images { // what stands on it
		for _, p := range img.Provenance.Parents {
			if p.Digest == d && img.RemovedAt.IsZero() {
				if why := w.neededImage(img.Digest, s, now); why != "" {
					return "image " + img.Digest.Short() + " stands on it: " + why
				}
			}
		}
	}
	if img := s.Images[d]; img != nil && img.Pinned != nil {
		return "it is pinned"
	}
	for _, name := range serviceNames {
		svc := s.Services[name]
		if svc == nil {
			continue
		}
		has := func(number int) bool { r := svc.Release(number); return r != nil && r.Template.Image == d }
		for _, srv := range svc.Servers {
			if has(srv.Release) {
				return "server " + string(srv.ID) + " is of it"
			}
		}
		if running := svc.Deployment; running != nil && (has(running.To) || has(running.From)) {
			return name + " is deploying it, or goes back to it"
		}
		if slices.ContainsFunc(svc.Queue, func(x *model.Deployment) bool { return has(x.To) }) {
			return name + " has it in its queue"
		}
		if has(svc.InService) || svc.Pending != nil && has(svc.Pending.Release) {
			return name + " has it in service"
		}
		if w.inWindow(svc, d, now) {
			return name + " may be rolled back to it"
		}
	}
	return ""
}

// inWindow reports whether the image is that of one of the newest templates that
// served before the present one, or of one that left service lately.
func (w *world) inWindow(svc *model.Service, d model.Digest, now model.Instant) bool {
	present := svc.Release(svc.InService)
	if svc.Pending != nil {
		present = svc.Release(svc.Pending.Release)
	}
	if present == nil || svc.Destroyed {
		return false
	}
	policy := present.Policy.Retention.WithDefaults()
	met := []string{present.TemplateHash}
	for _, r := range slices.Backward(svc.Releases) {
		if slices.Contains(met, r.TemplateHash) || !slices.ContainsFunc(svc.Deployments, func(x *model.Deployment) bool {
			return x.To == r.Number && (x.Switched || x.Verdict == model.Succeeded)
		}) {
			continue
		}
		met = append(met, r.TemplateHash)
		left, known := w.left[svc.Name+"/"+r.TemplateHash]
		lately := known && now < left.Add(policy.For.D())
		if r.Template.Image == d && (len(met)-1 <= policy.Releases || lately) {
			return true
		}
	}
	return false
}
