package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// SessionRequest asks for a terminal in a server.
type SessionRequest struct {
	Server        model.ServerID
	Kind          model.SessionKind
	By            string
	Reason        string         // a hotfix has to have one
	Command       []string       // empty: a shell
	OutOfRotation bool           // the server is replaced at once, and waits out of rotation until the session's time is up
	TTL           model.Duration // 0: sessionTime
}

// ExtendRequest asks for more time for a hotfix.
type ExtendRequest struct {
	Server model.ServerID
	By     string
	Reason string         // it has to have one
	For    model.Duration // 0: extensionTime
}

// The times of sessions.
const (
	sessionTime   = model.Duration(time.Hour)
	sessionMost   = model.Duration(24 * time.Hour) // of one session or one extension
	extensionTime = model.Duration(30 * time.Minute)
)

// sessionText is how long a session's command and reason may be together, in
// bytes: they are in the journal.
const sessionText = 16 << 10

// OpenSession taints the server and condemns it: an identical one takes its
// place before the session's time is up. The session that is returned is the
// one that the events open; its time may be shorter than was asked for, where
// the server was to be replaced sooner anyway.
func OpenSession(s *model.State, req SessionRequest, obs Observation, now model.Now) ([]model.Payload, model.Session, error) {
	svc, srv, err := sessionable(s, req, obs)
	if err != nil {
		return nil, model.Session{}, err
	}
	ttl := cmp.Or(req.TTL, sessionTime)
	if ttl < 0 || ttl > sessionMost {
		return nil, model.Session{}, model.Errorf(model.Invalid, "cannot open a %s in %s for %s: at most %s", req.Kind, srv.ID, ttl, sessionMost)
	}
	if n := len(strings.Join(req.Command, " ")) + len(req.Reason); n > sessionText {
		return nil, model.Session{}, model.Errorf(model.Invalid, "cannot open a %s in %s: its command and reason are %d bytes, at most %d are kept", req.Kind, srv.ID, n, sessionText).
			WithHint("kiln %s %s -- sh <script.sh, with what is long in a file", req.Kind, srv.ID)
	}
	until := sooner(svc, srv, now.Elapsed.Add(ttl.D()), now)
	x := model.Session{
		ID: model.SessionID("s-" + model.Sixes(s.Instance, s.NextID)), Server: srv.ID, Kind: req.Kind, By: cmp.Or(req.By, "somebody"),
		Reason: cmp.Or(strings.TrimSpace(req.Reason), "no reason given"), Command: req.Command, OutOfRotation: req.OutOfRotation || srv.Phase == model.PhaseParked,
		OpenedAt: now.Wall, Opened: now.Elapsed, Until: until,
	}
	from := now.Elapsed
	if !x.OutOfRotation {
		from = startBy(svc.Release(srv.Release), 1, now.Elapsed, until)
	}
	return []model.Payload{model.SessionOpened{Session: x, From: from}}, x, nil
}

// sessionable returns the server that a session may be opened in.
func sessionable(s *model.State, req SessionRequest, obs Observation) (*model.Service, *model.Server, error) {
	svc, srv := s.Services[req.Server.Service()], s.Server(req.Server)
	if srv == nil {
		return nil, nil, noServer(svc, "open a "+string(req.Kind)+" in", req.Server)
	}
	refuse := func(code model.Code, format string, args ...any) *model.Error {
		return model.Errorf(code, "cannot open a %s in %s: "+format, append([]any{req.Kind, srv.ID}, args...)...)
	}
	release := svc.Release(srv.Release)
	switch {
	case req.Kind != model.SessionHotfix && req.Kind != model.SessionShell:
		return nil, nil, refuse(model.Invalid, "there is no such kind of session")
	case req.Kind == model.SessionHotfix && strings.TrimSpace(req.Reason) == "":
		return nil, nil, refuse(model.Invalid, "a hotfix has a reason").WithHint("kiln hotfix %s --reason \"…\"", srv.ID)
	case shellRule(svc, release) == model.ShellDeny:
		return nil, nil, refuse(model.Denied, "the declaration of %s says shell = \"deny\"", svc.Name).
			WithHint("shell = \"allow\" in a new release, or: kiln logs %s", srv.ID)
	case svc.Destroying:
		return nil, nil, refuse(model.Precondition, "the service is being destroyed")
	case req.OutOfRotation && release.Template.SingleWriter():
		return nil, nil, refuse(model.Precondition, "it has a volume that one server at a time may have, so its successor cannot start while it waits out of rotation").
			WithHint("without --out-of-rotation")
	}
	switch srv.Phase {
	case model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm, model.PhaseParked:
	default:
		return nil, nil, refuse(model.Precondition, "it is %s", srv.Phase).WithHint("kiln servers %s shows those that run", svc.Name)
	}
	if obs.Snapshot != nil {
		if o := obs.Snapshot.Server(srv.ID); o == nil || o.State != model.Running {
			return nil, nil, refuse(model.Precondition, "its process does not run").WithHint("kiln evidence show %s, kiln logs %s", srv.ID, srv.ID)
		}
	}
	return svc, srv, nil
}

// shellRule is what is declared now: a change of it replaces no server.
func shellRule(svc *model.Service, own *model.Release) model.ShellRule {
	if now := svc.Release(svc.InService); now != nil {
		return now.Policy.Shell
	}
	return own.Policy.Shell
}

func noServer(svc *model.Service, verb string, id model.ServerID) error {
	if svc != nil && slices.ContainsFunc(svc.Dead, func(r *model.DeathRecord) bool { return r.Server == id }) {
		return model.Errorf(model.Precondition, "cannot %s %s: it has ended", verb, id).WithHint("kiln evidence show %s", id)
	}
	return model.Errorf(model.NotFound, "cannot %s %s: there is no such server", verb, id).WithHint("kiln servers lists them")
}

// sooner returns until, or when the server shall be gone anyway, if that is
// known and still to come.
func sooner(svc *model.Service, srv *model.Server, until model.Instant, now model.Now) model.Instant {
	for _, bound := range []model.Instant{condemnedUntil(srv), lifeEnds(srv, svc.Release(srv.Release).Policy.Lifetime)} {
		if bound > now.Elapsed {
			until = min(until, bound)
		}
	}
	return until
}

func condemnedUntil(srv *model.Server) model.Instant {
	if srv.Condemned == nil {
		return 0
	}
	return srv.Condemned.Until
}

// ExtendSession gives a hotfix more time: at most twice for a server, each time
// for a reason.
func ExtendSession(s *model.State, req ExtendRequest, now model.Now) ([]model.Payload, error) {
	svc, srv := s.Services[req.Server.Service()], s.Server(req.Server)
	if srv == nil {
		return nil, noServer(svc, "extend the hotfix of", req.Server)
	}
	refuse := func(code model.Code, format string, args ...any) *model.Error {
		return model.Errorf(code, "cannot extend the hotfix of %s: "+format, append([]any{srv.ID}, args...)...)
	}
	x, extended := hotfixOf(svc, srv)
	more := cmp.Or(req.For, extensionTime)
	switch c := srv.Condemned; {
	case x == nil:
		return nil, refuse(model.Precondition, "it has none").WithHint("kiln hotfix ls")
	case strings.TrimSpace(req.Reason) == "":
		return nil, refuse(model.Invalid, "an extension has a reason").WithHint("kiln hotfix extend %s --reason \"…\"", srv.ID)
	case more < 0 || more > sessionMost:
		return nil, refuse(model.Invalid, "%s is not between nothing and %s", more, sessionMost)
	case extended >= model.MaxExtensions:
		return nil, refuse(model.Precondition, "it was extended %d times already", extended).
			WithHint("make the change part of the next image: kiln hotfix show %s has the lines for it", x.ID)
	case c == nil || c.Cause != model.CondemnedBySession:
		return nil, refuse(model.Precondition, "it is to be replaced for another reason: %s", condemnedReason(srv))
	case srv.Phase != model.PhaseServing && srv.Phase != model.PhaseParked && srv.Phase != model.PhaseWarm:
		return nil, refuse(model.Precondition, "it is %s", srv.Phase)
	}
	until := x.Until.Add(more.D())
	if bound := lifeEnds(srv, svc.Release(srv.Release).Policy.Lifetime); bound > now.Elapsed {
		until = min(until, bound)
	}
	if until <= x.Until {
		return nil, refuse(model.Precondition, "its lifetime ends then, too")
	}
	from := startBy(svc.Release(srv.Release), 1, now.Elapsed, until)
	if srv.Aside != 0 {
		from = srv.Condemned.From
	}
	return []model.Payload{model.SessionExtended{
		ID: x.ID, Server: srv.ID, By: cmp.Or(req.By, "somebody"), Reason: strings.TrimSpace(req.Reason), From: from, Until: until,
	}}, nil
}

// ExtensionsLeft is how often the server's hotfix can be given more time yet.
func ExtensionsLeft(s *model.State, id model.ServerID, now model.Now) int {
	if _, err := ExtendSession(s, ExtendRequest{Server: id, Reason: "whether it can be"}, now); err != nil {
		return 0
	}
	_, extended := hotfixOf(s.Services[id.Service()], s.Server(id))
	return model.MaxExtensions - extended
}

func condemnedReason(srv *model.Server) string {
	if srv.Condemned == nil {
		return "nothing says when"
	}
	return srv.Condemned.Reason
}

// hotfixOf returns the hotfix of the server whose time is up last, and how often
// its hotfixes were extended; nil: it has none.
func hotfixOf(svc *model.Service, srv *model.Server) (latest *model.Session, extended int) {
	for _, x := range svc.Sessions {
		if x.Server != srv.ID || x.Kind != model.SessionHotfix {
			continue
		}
		extended += len(x.Extensions)
		if latest == nil || x.Until >= latest.Until {
			latest = x
		}
	}
	return latest, extended
}

// EndSession notes how a session ended. Its server stays tainted, and is
// replaced when its time comes.
func EndSession(s *model.State, id model.SessionID, server model.ServerID, end model.SessionEnd) ([]model.Payload, error) {
	svc := s.Services[server.Service()]
	if svc == nil || svc.Session(id) == nil || svc.Session(id).Server != server {
		return nil, model.Errorf(model.NotFound, "cannot end session %s: %s has no such session", id, server)
	}
	if svc.Session(id).Ended != nil {
		return nil, nil
	}
	return []model.Payload{model.SessionEnded{ID: id, Server: server, End: end}}, nil
}

// RecycleRequest asks that servers be replaced by identical ones.
type RecycleRequest struct {
	Service string
	Server  model.ServerID // "": every server of the service that serves
	By      string
	Reason  string
}

// Recycle condemns servers: one after the other is replaced by an identical
// one, as the disruption budget allows. Nothing is deployed. It returns which
// servers they are.
func Recycle(s *model.State, req RecycleRequest, now model.Now) ([]model.Payload, []model.ServerID, error) {
	name := cmp.Or(req.Service, req.Server.Service())
	svc := s.Services[name]
	if svc == nil || svc.Destroyed {
		return nil, nil, model.Errorf(model.NotFound, "cannot recycle %s: there is no such service", name).WithHint("kiln status lists them")
	}
	if svc.Destroying {
		return nil, nil, model.Errorf(model.Precondition, "cannot recycle %s: it is being destroyed", name)
	}
	servers, err := recyclable(svc, req)
	if err != nil {
		return nil, nil, err
	}
	reason := "recycled by " + cmp.Or(req.By, "somebody")
	if r := strings.TrimSpace(req.Reason); r != "" {
		reason += ": " + r
	}
	var events []model.Payload
	ids := make([]model.ServerID, len(servers))
	for i, srv := range servers {
		ids[i] = srv.ID
		if c := srv.Condemned; c != nil && c.Cause == model.CondemnedByRequest {
			continue
		}
		events = append(events, model.ServerCondemned{
			ID: srv.ID, Cause: model.CondemnedByRequest, Reason: reason, From: now.Elapsed, Until: inTurn(svc, srv, now),
		})
	}
	return events, ids, nil
}

func recyclable(svc *model.Service, req RecycleRequest) ([]*model.Server, error) {
	if req.Server == "" {
		var serving []*model.Server
		for _, srv := range serversOf(svc) {
			if srv.Phase == model.PhaseServing {
				serving = append(serving, srv)
			}
		}
		if len(serving) == 0 {
			return nil, model.Errorf(model.Precondition, "cannot recycle %s: none of its servers is in service", svc.Name).
				WithHint("kiln status %s shows what runs", svc.Name)
		}
		return serving, nil
	}
	srv := svc.Servers[req.Server]
	if srv == nil {
		return nil, noServer(svc, "recycle", req.Server)
	}
	switch srv.Phase {
	case model.PhaseServing, model.PhaseWarm, model.PhaseParked:
		return []*model.Server{srv}, nil
	default:
		return nil, model.Errorf(model.Precondition, "cannot recycle %s: it is %s", srv.ID, srv.Phase).
			WithHint("kiln servers %s shows those in service", svc.Name)
	}
}

// inTurn returns by when the server can be expected to be gone if all servers of
// its service are replaced before it, one after the other.
func inTurn(svc *model.Service, srv *model.Server, now model.Now) model.Instant {
	each := replaceTime(svc.Release(srv.Release))
	return now.Elapsed.Add(each * time.Duration(max(1, len(svc.Servers))))
}

// replaceTime is the longest that the replacement of a server may take: from
// the decision to its successor until it is gone.
func replaceTime(r *model.Release) time.Duration {
	return provisionTimeout + r.Policy.Health.Grace.D() + validationTime(r.Policy) + switchTimeout +
		r.Policy.Deploy.Drain.Longest().D() + inspectTimeout + r.Policy.StopGrace.D()
}

// startBy returns when the replacement of n servers, one after the other, has
// to begin so that the last is gone by the given time; never in the first three
// quarters of the time that they have.
func startBy(r *model.Release, n int, since, until model.Instant) model.Instant {
	return until.Add(-min(replaceTime(r)*time.Duration(n), until.Sub(since)/4))
}

// lifeEnds returns when the server reaches its own bound of the lifetime: within
// the jitter before max_age, by its id, so that servers made together do not
// end together; 0: never.
func lifeEnds(srv *model.Server, l model.Lifetime) model.Instant {
	if l.MaxAge <= 0 || srv.RanSince == 0 {
		return 0
	}
	early := l.MaxAge.D() / 100_000 * time.Duration(l.Jitter) * time.Duration(drawn("lifetime", string(srv.ID), 1000))
	return srv.RanSince.Add(l.MaxAge.D() - early)
}

// drawn returns a number below n that follows from what it is for and of whom.
func drawn(what, of string, n uint64) uint64 {
	sum := sha256.Sum256([]byte(what + "/" + of))
	return binary.BigEndian.Uint64(sum[:8]) % n
}
