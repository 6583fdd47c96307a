package reconcile

import (
	"fmt"
	"slices"

	"kiln/internal/model"
)

// A disk is low, and short, when less than a share of it is free, or less than
// an amount that is enough on any disk.
const (
	lowShare, lowEnough     = 15, 10 << 30 // per cent, bytes
	shortShare, shortEnough = 5, 2 << 30
)

// DiskStateOf says how a disk stands.
func DiskStateOf(d model.Disk) model.DiskState {
	switch {
	case d.Total <= 0:
		return model.DiskWell
	case d.Free < reserveOf(d):
		return model.DiskShort
	case d.Free < bound(d, lowShare, lowEnough):
		return model.DiskLow
	default:
		return model.DiskWell
	}
}

func bound(d model.Disk, share, enough int64) int64 { return min(d.Total*share/100, enough) }

// reserveOf is what builds and deployments leave free: the journal, logs and
// records of what runs need it.
func reserveOf(d model.Disk) int64 { return bound(d, shortShare, shortEnough) }

// NoteDisk writes down how the disks stand where that has changed. rooms are
// those that kiln writes to; the worst one counts. A disk is better again only
// when there is a tenth more room than it takes, so that it does not flutter.
func NoteDisk(s *model.State, rooms []model.Disk) []model.Payload {
	if len(rooms) == 0 {
		return nil
	}
	worst := model.Disk{}
	for _, room := range rooms {
		room.State = DiskStateOf(room)
		if worst.State == "" || severity(room.State) > severity(worst.State) {
			worst = room
		}
	}
	before := model.DiskWell
	if s.Disk != nil {
		before = s.Disk.State
	}
	if severity(worst.State) < severity(before) {
		slack := worst
		slack.Free = worst.Free * 10 / 11
		if worst.State = DiskStateOf(slack); severity(worst.State) > severity(before) {
			worst.State = before
		}
	}
	if worst.State == before {
		return nil
	}
	return []model.Payload{model.DiskChanged{Disk: worst}}
}

func severity(d model.DiskState) int {
	switch d {
	case model.DiskShort:
		return 2
	case model.DiskLow:
		return 1
	default:
		return 0
	}
}

// FitsDisk refuses what would not leave the reserve free. rooms are the disks
// that kiln writes to, that of the images first; need is what comes to it.
func FitsDisk(rooms []model.Disk, what string, need int64) error {
	for i, room := range rooms {
		if i > 0 {
			need = 0
		}
		if room.Total <= 0 || room.Free-need >= reserveOf(room) {
			continue
		}
		words := fmt.Sprintf("cannot %s: no space left for it in %s: it needs about %s, beside %s that stay free for what runs, and %s of %s are free",
			what, room.Path, bytesText(need), bytesText(reserveOf(room)), bytesText(room.Free), bytesText(room.Total))
		if need == 0 {
			words = fmt.Sprintf("cannot %s: no space left for it in %s: %s of %s are free, and %s stay free for what runs",
				what, room.Path, bytesText(room.Free), bytesText(room.Total), bytesText(reserveOf(room)))
		}
		return model.Errorf(model.Precondition, "%s", words).
			WithHint("kiln gc --dry-run shows what takes the room and what can go; kiln gc removes it")
	}
	return nil
}

// Copies of an image's own layers, compressed: what the build makes, what that
// becomes when its times are settled, and unpacked about twice as much.
const (
	unpackedFactor = 2
	builtFactor    = 4
)

// BuildNeed is about how many bytes a build of the service takes, by what its
// newest image adds to what that stands on; 0: there is none yet.
func BuildNeed(s *model.State, service string) int64 {
	svc := s.Services[service]
	if svc == nil || len(svc.Releases) == 0 {
		return 0
	}
	img := s.Images[svc.Releases[len(svc.Releases)-1].Template.Image]
	if img == nil || img.Source != "build" {
		return 0
	}
	return ownSize(s, img) * builtFactor
}

// ownSize is what an image adds to what it was built on.
func ownSize(s *model.State, img *model.Image) int64 {
	own := img.Size
	for _, p := range img.Provenance.Parents {
		if base := s.Images[p.Digest]; base != nil {
			own -= base.Size
		}
	}
	return max(0, own)
}

// DeployNeed is about how many bytes it takes to start servers of an image:
// what it is unpacked, unless it was started here before.
func DeployNeed(s *model.State, snapshot *model.Snapshot, d model.Digest) int64 {
	if snapshot != nil {
		if slices.Contains(snapshot.Images, d) {
			return 0
		}
	}
	if img := s.Images[d]; img != nil {
		return ownSize(s, img) * unpackedFactor
	}
	return 0
}
