package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"kiln/internal/model"
)

// How long things stay that nothing holds, elapsed time where the journal knows
// of them. Low: while the disk is low.
const (
	keepBuilt    = 24 * time.Hour      // an image that was built and not deployed yet
	keepBuiltLow = time.Hour           // low
	keepBrought  = 30 * 24 * time.Hour // an imported or pulled image after its last use: kiln cannot make it again
	keepCache    = 14 * 24 * time.Hour // a record of the build cache after its last use
	keepCacheLow = time.Hour           // low
	keepUnknown  = 24 * time.Hour      // what the journal does not know: it may be in the making
	keepStray    = time.Hour           // snapshots and logs that belong to nothing
)

// jumpPause is how long nothing is removed after the wall clock has jumped.
const jumpPause = time.Hour

// Retain says of every object whether it stays, and why. It is mark and sweep:
// what runs or is about to run, what can be rolled back to, what somebody has
// pinned, and what all these stand on stays, and after that whatever is young
// enough. It never judges by size: a full disk makes nothing go that is held.
func Retain(s *model.State, objects []model.Object, now model.Now) []model.Kept {
	r := retention{s: s, now: now, images: map[model.Digest]held{}, values: map[string]held{}}
	r.markServing()
	r.markWindows()
	r.markPinned()
	r.markParents()
	r.markCache(objects)
	list := make([]model.Kept, 0, len(objects))
	for _, o := range objects {
		list = append(list, r.judge(o))
	}
	return list
}

// held is why an image stays.
type held struct {
	reason string
	serves bool // what runs, or is about to, needs it
}

// retention is one mark and sweep.
type retention struct {
	s      *model.State
	now    model.Now
	images map[model.Digest]held
	values map[string]held   // of secrets and configuration files
	cache  map[string]string // records of the build cache that stay, and why
}

// hold marks an image; the first reason is the strongest.
func (r *retention) hold(d model.Digest, serves bool, format string, args ...any) {
	if _, known := r.images[d]; !known {
		r.images[d] = held{reason: fmt.Sprintf(format, args...), serves: serves}
	}
}

// holdRelease marks what servers of the release stand on.
func (r *retention) holdRelease(rel *model.Release, serves bool, format string, args ...any) {
	r.hold(rel.Template.Image, serves, format, args...)
	for _, digest := range rel.Template.Values() {
		if _, known := r.values[digest]; !known {
			r.values[digest] = held{reason: fmt.Sprintf(format, args...), serves: serves}
		}
	}
}

// markServing holds what runs, is parked, or is about to run.
func (r *retention) markServing() {
	for _, name := range sortedNames(r.s) {
		svc := r.s.Services[name]
		about := func(number int, what string) {
			if rel := svc.Release(number); rel != nil {
				r.holdRelease(rel, true, "release %d of %s %s", number, name, what)
			}
		}
		about(svc.InService, "is in service")
		if svc.Pending != nil {
			about(svc.Pending.Release, "may be in service: its switch is not acknowledged yet")
		}
		if d := svc.Deployment; d != nil {
			about(d.To, "is being deployed")
			about(d.From, "is what the deployment goes back to if it fails")
		}
		for _, d := range svc.Queue {
			about(d.To, "waits to be deployed")
		}
		for _, srv := range serversOf(svc) {
			if rel := svc.Release(srv.Release); rel != nil {
				r.holdRelease(rel, true, "server %s is of it, and %s", srv.ID, srv.Phase)
			}
		}
	}
}

// markWindows holds what can be rolled back to.
func (r *retention) markWindows() {
	for _, name := range sortedNames(r.s) {
		for _, w := range rollbackWindow(r.s, r.s.Services[name], r.now) {
			if w.in {
				r.holdRelease(w.release, false, "%s can be rolled back to release %d: %s", name, w.release.Number, w.why)
			}
		}
	}
}

func (r *retention) markPinned() {
	for _, d := range sortedImages(r.s) {
		if pin := r.s.Images[d].Pinned; pin != nil && r.s.Images[d].RemovedAt.IsZero() {
			why := "pinned by " + pin.By
			if pin.Reason != "" {
				why += ": " + pin.Reason
			}
			r.hold(d, false, "%s", why)
		}
	}
}

// markParents holds the images that held ones were built on, and theirs.
func (r *retention) markParents() {
	todo := make([]model.Digest, 0, len(r.images))
	for d := range r.images {
		todo = append(todo, d)
	}
	slices.SortFunc(todo, func(a, b model.Digest) int { // what serves passes that on first
		return cmp.Or(compareBool(r.images[b].serves, r.images[a].serves), cmp.Compare(a, b))
	})
	for len(todo) > 0 {
		child := todo[0]
		todo = todo[1:]
		for _, p := range parentsOf(r.s, child) {
			if _, known := r.images[p.Digest]; known {
				continue
			}
			// A base serves nobody by itself: servers have its layers with their image's.
			r.hold(p.Digest, false, "image %s stands on it (%s)", child.Short(), p.Name)
			todo = append(todo, p.Digest)
		}
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// parentsOf returns what an image was built on, as far as the journal knows.
func parentsOf(s *model.State, d model.Digest) []model.Parent {
	var all []model.Parent
	if img := s.Images[d]; img != nil {
		all = append(all, img.Provenance.Parents...)
	}
	for _, name := range sortedNames(s) {
		for _, rel := range s.Services[name].Releases {
			if rel.Template.Image == d {
				all = append(all, rel.Provenance.Parents...)
			}
		}
	}
	return all
}

// markCache holds the records of the build cache that were used lately, and
// those that they stand on.
func (r *retention) markCache(objects []model.Object) {
	r.cache = map[string]string{}
	byID := map[string]model.Object{}
	var todo []string
	keep := keepCache
	if r.low() {
		keep = keepCacheLow
	}
	for _, o := range objects {
		if o.Kind != model.ObjectBuildCache {
			continue
		}
		byID[o.ID] = o
		if age := r.now.Wall.Sub(later(o.At, o.LastUse)); age < keep {
			r.cache[o.ID] = fmt.Sprintf("a build used it %s ago; the cache is kept for %s", span(age), span(keep))
			todo = append(todo, o.ID)
		}
	}
	for len(todo) > 0 {
		child := byID[todo[0]]
		todo = todo[1:]
		for _, p := range child.Parents {
			if _, known := r.cache[p]; !known {
				r.cache[p] = "record " + child.ID + " stands on it"
				todo = append(todo, p)
			}
		}
	}
}

// judge says what becomes of one object.
func (r *retention) judge(o model.Object) model.Kept {
	k := r.verdict(o)
	at := r.s.ClockJumped
	if r.s.ClockJump(r.now.Wall, r.now.Elapsed) != 0 { // it is not written down yet
		at = r.now.Elapsed
	}
	if !k.Keep && at != 0 && r.now.Elapsed < at.Add(jumpPause) {
		k.Keep = true
		k.Reason = fmt.Sprintf("the wall clock has jumped: nothing is removed for %s more (else: %s)",
			span(at.Add(jumpPause).Sub(r.now.Elapsed)), k.Reason)
	}
	return k
}

func (r *retention) verdict(o model.Object) model.Kept {
	stays := func(format string, args ...any) model.Kept {
		return model.Kept{Object: o, Keep: true, Reason: fmt.Sprintf(format, args...)}
	}
	goes := func(format string, args ...any) model.Kept {
		return model.Kept{Object: o, Reason: fmt.Sprintf(format, args...)}
	}
	switch o.Kind {
	case model.ObjectImage:
		return r.image(o)
	case model.ObjectBuildCache:
		if why, kept := r.cache[o.ID]; kept {
			return stays("%s", why)
		}
		return goes("no build has used it for %s", span(r.now.Wall.Sub(later(o.At, o.LastUse))))
	case model.ObjectSnapshot:
		if age := r.now.Wall.Sub(o.At); age < keepStray {
			return stays("it belongs to no image and no server, but was made %s ago: it may be in the making", span(age))
		}
		return goes("it belongs to no image and no server")
	case model.ObjectLog:
		if srv := r.s.Server(o.Server); srv != nil {
			k := stays("server %s is %s", o.Server, srv.Phase)
			k.Serves = srv.Phase.Alive()
			return k
		}
		if age := r.now.Wall.Sub(o.At); age < keepStray {
			return stays("server %s wrote it %s ago", o.Server, span(age))
		}
		return goes("server %s is gone; what it wrote last is in its death record", o.Server)
	case model.ObjectInputs:
		return r.inputs(o)
	case model.ObjectEvidence:
		return stays("evidence has a retention of its own, by age and by size")
	case model.ObjectSecret, model.ObjectConfig:
		return r.value(o)
	case model.ObjectVolumeCopy:
		return stays("only a person removes what a volume held")
	default:
		return stays("this kiln does not know what it is")
	}
}

// image says what becomes of an image.
func (r *retention) image(o model.Object) model.Kept {
	d := model.Digest(o.ID)
	img := r.s.Images[d]
	why, isHeld := r.images[d]
	k := model.Kept{Object: o, Keep: isHeld, Reason: why.reason, Serves: why.serves}
	switch {
	case isHeld && why.serves:
	case img != nil && !img.RemovedAt.IsZero():
		// That is in the journal, and people were told: a crash came between.
		k.Keep, k.Reason = false, fmt.Sprintf("it was removed on %s; this is what is left of it", stamp(img.RemovedAt))
	case isHeld:
	case img == nil:
		age := r.now.Wall.Sub(o.At)
		k.Keep = age < keepUnknown
		k.Reason = fmt.Sprintf("the journal does not know it; it came %s ago", span(age))
	default:
		k.Keep, k.Reason = r.unheld(d, img)
	}
	return k
}

// unheld says what becomes of an image that nothing holds.
func (r *retention) unheld(d model.Digest, img *model.Image) (keep bool, reason string) {
	used := r.lastUse(d, img)
	age := r.now.Elapsed.Sub(used)
	if past, left := r.past(d); past != "" && used <= left {
		return false, past
	}
	if img.Source != "build" {
		if age < keepBrought {
			return true, fmt.Sprintf("kiln cannot make it again: it stays for %s after its last use, %s ago", span(keepBrought), span(age))
		}
		return false, fmt.Sprintf("nothing that is kept stands on it, and its last use was %s ago", span(age))
	}
	keepFor := keepBuilt
	if r.low() {
		keepFor = keepBuiltLow
	}
	if age < keepFor {
		return true, fmt.Sprintf("its last use was %s ago: it stays for %s", span(age), span(keepFor))
	}
	return false, fmt.Sprintf("nothing was deployed from it, and its last use was %s ago", span(age))
}

// lastUse is when an image was last added, left service, or was built on.
func (r *retention) lastUse(d model.Digest, img *model.Image) model.Instant {
	used := cmp.Or(img.LastUse, r.s.DaemonSince) // older journals do not say
	for _, other := range r.s.Images {
		if slices.ContainsFunc(other.Provenance.Parents, func(p model.Parent) bool { return p.Digest == d }) {
			used = max(used, other.LastUse)
		}
	}
	return used
}

// past says which service left an image behind, and when; "": no service that
// still is there had it in service.
func (r *retention) past(d model.Digest) (reason string, left model.Instant) {
	for _, name := range sortedNames(r.s) {
		for _, w := range rollbackWindow(r.s, r.s.Services[name], r.now) {
			if w.release.Template.Image == d && !w.in && (reason == "" || w.left > left) {
				reason, left = fmt.Sprintf("%s could be rolled back to release %d until now: %s", name, w.release.Number, w.why), w.left
			}
		}
	}
	return reason, left
}

func (r *retention) low() bool { return r.s.Disk != nil && r.s.Disk.State != model.DiskWell }

// past is a template that was in service, by the newest release that has it.
type past struct {
	release *model.Release
	left    model.Instant // when it left service
	in      bool          // it stays possible to go back to
	why     string        // or why not any more
}

// rollbackWindow lists the templates that a service had before the present one,
// the newest first. What was removed already is none of them.
func rollbackWindow(s *model.State, svc *model.Service, now model.Now) []past {
	present := current(svc)
	if svc.Destroyed || present == nil {
		return nil
	}
	policy := present.Policy.Retention.WithDefaults()
	least, left := 0, leftAt(svc)
	if n, err := rollbackFrom(s, svc, present); err == nil {
		least = n
	}
	var list []past
	seen := map[string]int{present.TemplateHash: -1}
	for n := len(svc.Releases); n >= 1; n-- {
		rel := svc.Release(n)
		at, served := left[n]
		if img := s.Images[rel.Template.Image]; !served || img != nil && !img.RemovedAt.IsZero() {
			continue
		}
		i, known := seen[rel.TemplateHash]
		if !known {
			i = len(list)
			seen[rel.TemplateHash] = i
			list = append(list, past{release: rel})
		}
		if i >= 0 {
			list[i].left = max(list[i].left, at)
			list[i].in = list[i].in || n == least
		}
	}
	for i := range list {
		list[i].judge(i, policy, now)
	}
	return list
}

// judge says whether the template is within the window.
func (p *past) judge(i int, policy model.RetentionPolicy, now model.Now) {
	age := now.Elapsed.Sub(p.left)
	switch {
	case i < policy.Releases:
		p.in, p.why = true, fmt.Sprintf("it is one of the newest %d before the present one", policy.Releases)
	case age < policy.For.D():
		p.in, p.why = true, fmt.Sprintf("it left service %s ago, and is kept for %s", span(age), span(policy.For.D()))
	case p.in:
		p.why = "it is where a rollback goes"
	default:
		p.why = fmt.Sprintf("it left service %s ago and is kept for %s, and it is not one of the newest %d", span(age), span(policy.For.D()), policy.Releases)
	}
}

// leftAt returns the releases that ever came into service, and when each left
// it last.
func leftAt(svc *model.Service) map[int]model.Instant {
	left := map[int]model.Instant{}
	for _, d := range svc.Deployments { // what journals know that are older than Left
		if d.Switched || d.Verdict == model.Succeeded {
			left[d.To] = max(left[d.To], d.Since)
			if d.From != 0 {
				left[d.From] = max(left[d.From], d.Since)
			}
		}
	}
	maps.Copy(left, svc.Left)
	return left
}

func sortedImages(s *model.State) []model.Digest {
	list := make([]model.Digest, 0, len(s.Images))
	for d := range s.Images {
		list = append(list, d)
	}
	slices.Sort(list)
	return list
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// span writes a time for people, to two units.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Hour:
		return model.Duration(d.Truncate(time.Minute)).String()
	default:
		return model.Duration(d.Truncate(time.Second)).String()
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
