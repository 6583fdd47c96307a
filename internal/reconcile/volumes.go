package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

func snapshotKey(service, volume, id string) Key {
	return Key("snapshot/" + service + "/" + volume + "/" + id)
}

// createVolumes writes down the volumes that the first server of a release
// brings into being.
func (v *service) createVolumes(release *model.Release) {
	for _, m := range release.Template.Volumes {
		if v.svc.Volume(m.Volume) != nil || slices.ContainsFunc(v.events, func(p model.Payload) bool {
			made, ok := p.(model.VolumeCreated)
			return ok && made.Volume.Service == v.svc.Name && made.Volume.Name == m.Volume
		}) {
			continue
		}
		v.emit(model.VolumeCreated{Volume: model.Volume{
			Service: v.svc.Name, Name: m.Volume, Access: m.Access, Size: m.Size, CreatedAt: v.now.Wall, Created: v.now.Elapsed,
		}})
	}
}

// unsaved returns the volumes of which the running deployment still wants a
// snapshot before it makes servers with another template: all that were there
// before it.
func (v *service) unsaved() []*model.Volume {
	d, from, to := v.svc.Deployment, v.inService(), v.target()
	if from != nil && from.TemplateHash == to.TemplateHash || v.lacks() == 0 {
		return nil
	}
	var list []*model.Volume
	for _, m := range to.Template.Volumes {
		vol := v.svc.Volume(m.Volume)
		if vol == nil || vol.Created >= d.Started || vol.Missed == d.ID {
			continue
		}
		if !slices.ContainsFunc(vol.Snapshots, func(s model.VolumeSnapshot) bool { return s.Deployment == d.ID }) {
			list = append(list, vol)
		}
	}
	return list
}

// saveVolumes waits for the snapshots. It reports whether there are some to
// wait for.
func (v *service) saveVolumes() bool {
	list := v.unsaved()
	if len(list) == 0 {
		return false
	}
	var names []string
	for _, vol := range list {
		names = append(names, vol.Name)
	}
	v.waitFor("a snapshot of " + strings.Join(names, ", "))
	return true
}

// giveSnapshots has the snapshots made, once nothing is left that has to end
// before.
func (v *service) giveSnapshots() {
	d := v.svc.Deployment
	if d == nil || d.Phase != model.DeployProvisioning ||
		slices.ContainsFunc(v.servers(), func(srv *model.Server) bool { return v.stopsBefore(srv, v.target()) }) {
		return
	}
	for _, vol := range v.unsaved() {
		id := v.snapshotID()
		v.give(Action{
			Key: snapshotKey(v.svc.Name, vol.Name, id), Verb: Snapshot, Service: v.svc.Name, Volume: vol.Name,
			SnapshotID: id, Obsolete: v.obsolete(vol),
		})
	}
}

func (v *service) snapshotID() string {
	d := v.svc.Deployment
	return fmt.Sprintf("before-%d-%s", d.To, strings.TrimPrefix(string(d.ID), "d-"))
}

// obsolete returns the snapshots that go when one more is made before a
// deployment: the oldest such, beyond as many as releases are kept. Those that
// somebody asked for stay until somebody removes them.
func (v *service) obsolete(vol *model.Volume) []string {
	var own []string
	for _, s := range vol.Snapshots {
		if s.Deployment != "" {
			own = append(own, s.ID)
		}
	}
	keep := v.target().Policy.Retention.WithDefaults().Releases
	return own[:max(0, len(own)+1-keep)]
}

// noteSnapshot writes down that a snapshot exists, or why there is none. A
// deployment goes on without: what cannot be copied can still be served.
func (v *service) noteSnapshot(o Outcome) {
	d := v.svc.Deployment
	if d == nil || d.Phase != model.DeployProvisioning {
		return
	}
	for _, vol := range v.unsaved() {
		id := v.snapshotID()
		if o.Key != snapshotKey(v.svc.Name, vol.Name, id) {
			continue
		}
		made := model.VolumeSnapshotted{Service: v.svc.Name, Name: vol.Name, Snapshot: model.VolumeSnapshot{
			ID: id, At: v.now.Wall, Reason: fmt.Sprintf("before release %d", d.To), Deployment: d.ID, Quiesced: !v.inUse(vol.Name),
		}}
		if o.Err != nil {
			made.Missing = o.Err.Message
			v.emit(made)
			continue
		}
		v.emit(made)
		for _, old := range v.obsolete(vol) {
			v.emit(model.VolumeSnapshotRemoved{Service: v.svc.Name, Name: vol.Name, ID: old, Reason: "newer ones were made before deployments"})
		}
	}
}

// saveTime is how long the snapshots may take.
func (v *service) saveTime() time.Duration {
	if savesVolumes(v.svc, v.inService(), v.target()) {
		return snapshotTimeout
	}
	return 0
}

// inUse reports whether a living server has the volume.
func (v *service) inUse(volume string) bool {
	for _, srv := range v.svc.Servers {
		if srv.Phase.Alive() && slices.ContainsFunc(v.release(srv).Template.Volumes, func(m model.Mount) bool { return m.Volume == volume }) {
			return true
		}
	}
	return false
}

// savesVolumes reports whether a deployment from one release to the other has
// volumes that are there already.
func savesVolumes(svc *model.Service, from, to *model.Release) bool {
	if svc == nil || from != nil && from.TemplateHash == to.TemplateHash {
		return false
	}
	return slices.ContainsFunc(to.Template.Volumes, func(m model.Mount) bool { return svc.Volume(m.Volume) != nil })
}
