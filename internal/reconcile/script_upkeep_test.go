package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// upkeep carries out the commands about servers that serve: recycle, hotfix,
// shell, extend, session; and what inspections find: drift, fleet, clock.
func (w *world) upkeep(verb string, plain []string, args map[string]string) error {
	var events []model.Payload
	var err error
	span := func(key string) model.Duration {
		d, _ := time.ParseDuration(args[key])
		return model.Duration(d)
	}
	words := func(key string) string { return strings.ReplaceAll(args[key], "_", " ") }
	switch verb {
	case "recycle": // recycle shop · recycle shop 0
		req := RecycleRequest{Service: plain[0], By: "ann", Reason: words("reason")}
		if len(plain) > 1 {
			req.Server = w.nth(plain)
		}
		events, _, err = Recycle(w.s, req, w.now)
	case "hotfix", "shell": // hotfix shop 0 reason=why ttl=10m aside=true
		events, _, err = OpenSession(w.s, SessionRequest{
			Server: w.nth(plain), Kind: model.SessionKind(verb), By: "ann", Reason: words("reason"),
			OutOfRotation: args["aside"] == "true", TTL: span("ttl"),
		}, w.observe(), w.now)
	case "reject", "unreject": // reject image=1 reason=why
		digest := model.Digest("sha256:" + strings.Repeat(args["image"], 64)[:64])
		if w.s.Images[digest] == nil {
			w.append("ann", model.ImageAdded{Image: model.Image{Digest: digest, Source: "build"}})
		}
		events, err = Reject(w.s, RejectRequest{Image: digest, Rejection: model.Rejection{Lifted: verb == "unreject", By: "ann", Reason: words("reason")}}, w.now)
	case "extend": // extend shop 0 reason=why by=30m
		events, err = ExtendSession(w.s, ExtendRequest{Server: w.nth(plain), By: "ann", Reason: words("reason"), For: span("by")}, w.now)
	case "leave": // leave shop: the latest session ends
		x := w.s.Services[plain[0]].Sessions[len(w.s.Services[plain[0]].Sessions)-1]
		events, err = EndSession(w.s, x.ID, x.Server, model.SessionEnd{At: w.now.Wall, How: "exit status 0"})
	case "drift": // drift shop 0 file_added:/etc/x … (nothing: what was found is gone)
		w.drifts(w.nth(plain), plain[2:])
		return nil
	case "fleet": // fleet firewall_changed:table …
		w.fleet = &FleetObserved{Findings: findings("", plain)}
		return nil
	case "clock": // clock +24h: the wall clock is set
		d, err := time.ParseDuration(plain[0])
		w.now.Wall = w.now.Wall.Add(d)
		return err
	default:
		return fmt.Errorf("no command %q", verb)
	}
	if err != nil {
		return err
	}
	w.append("ann", events...)
	if verb == "extend" {
		fmt.Fprintf(&w.out, "extensions left: %d\n", ExtensionsLeft(w.s, w.nth(plain), w.now))
	}
	return nil
}

// drifts sets what inspections of a server find; "all" stands for any that the
// service will ever have.
func (w *world) drifts(id model.ServerID, what []string) {
	w.drift[id] = findings(id, what)
}

func findings(id model.ServerID, what []string) []model.Finding {
	list := []model.Finding{}
	for _, text := range what {
		what, where, _ := strings.Cut(strings.ReplaceAll(text, "_", " "), ":")
		list = append(list, model.Finding{Server: id, Detector: model.DetectFiles, What: what, Where: where, How: "told"})
	}
	return list
}

// inspect adds what inspections find now. What the image "drifting" starts
// changes a file a second after it has become healthy.
func (w *world) inspect(obs *Observation) {
	obs.Fleet, obs.Drift = w.fleet, map[model.ServerID][]model.Finding{}
	maps.Copy(obs.Drift, w.drift)
	for _, name := range sortedNames(w.s) {
		for _, srv := range serversOf(w.s.Services[name]) {
			o := w.servers[srv.ID]
			image := w.s.Services[name].Release(srv.Release).Template.Image
			if o != nil && o.State == model.Running && w.behaves[image] == "drifting" && w.now.Elapsed >= w.started[srv.ID].Add(3*time.Second) {
				obs.Drift[srv.ID] = append(slices.Clone(obs.Drift[srv.ID]), findings(srv.ID, []string{"file_added:/run.pid"})...)
			}
		}
	}
}

// describeUpkeep says the events of upkeep in words.
func describeUpkeep(p model.Payload) string {
	switch p := p.(type) {
	case model.ImageAdded:
		return fmt.Sprintf("image %s is known", p.Image.Digest.Short())
	case model.ImageRejected:
		return fmt.Sprintf("image %s rejected: %t", p.Digest.Short(), !p.Rejection.Lifted)
	case model.ServerCondemned:
		return fmt.Sprintf("  %s condemned (%s), from %s until %s: %s", p.ID, p.Cause, since(p.From), since(p.Until), p.Reason)
	case model.ServerOverdue:
		return fmt.Sprintf("  %s OVERDUE: %s", p.ID, p.Reason)
	case model.ServerDrifted:
		return fmt.Sprintf("  %s DRIFTED: %s%s; %s", p.ID, findingsText(p.Findings), moreText(p.More), p.Done)
	case model.ServerUndrifted:
		return fmt.Sprintf("  %s: %d findings are gone", p.ID, len(p.Keys))
	case model.DriftRecurred:
		return fmt.Sprintf("%s drift recurs (%d, halted: %t): %s", p.Service, p.Count, p.Halted, p.Reason)
	case model.FleetDrifted:
		return fmt.Sprintf("fleet DRIFTED: %s%s; %s", findingsText(p.Findings), moreText(p.More), p.Done)
	case model.FleetMended:
		return fmt.Sprintf("fleet mended: %d findings are gone", len(p.Keys))
	case model.SessionOpened:
		x := p.Session
		return fmt.Sprintf("  %s %s %s by %s until %s, replaced from %s: %s", x.Server, x.Kind, x.ID, x.By, since(x.Until), since(p.From), x.Reason)
	case model.SessionExtended:
		return fmt.Sprintf("  %s session %s extended until %s, replaced from %s: %s", p.Server, p.ID, since(p.Until), since(p.From), p.Reason)
	case model.SessionEnded:
		return fmt.Sprintf("  %s session %s ended: %s", p.Server, p.ID, p.End.How)
	case model.ClockJumped:
		return "wall clock jumped by " + p.By.String()
	default:
		return string(p.Kind())
	}
}

func since(i model.Instant) string {
	if i == 0 {
		return "never"
	}
	return i.Sub(model.Instant(time.Hour)).Round(time.Millisecond).String()
}

func findingsText(list []model.Finding) string {
	var words []string
	for _, f := range list {
		words = append(words, f.What+" "+f.Where)
	}
	return strings.Join(words, ", ")
}

func moreText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}
