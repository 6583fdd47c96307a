package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/engine/local/disturb"
	"kiln/internal/model"
)

var _ engine.Disturber = (*Engine)(nil)

// disturbances are what is done to servers on purpose. Whatever lasts ends with
// this process, by its own time, or by calm, whichever comes first:
//
//	freeze, cpu, memory   a process whose input this one holds (package disturb)
//	network-loss          elements of a set in the kernel that time out
//	network-latency       a device of this process in the server's namespace
//	disk-full             files of this process that have no name
type disturbances struct {
	mu     sync.Mutex
	undoes map[model.ServerID]func()
	traces map[model.ServerID]int // of each, how many have or may have traces in the server: what they leave there is no drift
}

// trace notes that a server has, or will have, traces of a disturbance; untrace
// that those of one are gone.
func (d *disturbances) trace(id model.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.traces == nil {
		d.undoes, d.traces = map[model.ServerID]func(){}, map[model.ServerID]int{}
	}
	d.traces[id]++
}

func (d *disturbances) untrace(id model.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.traces[id]--; d.traces[id] == 0 {
		delete(d.traces, id)
	}
}

// of reports whether the server may have traces of a disturbance.
func (d *disturbances) of(id model.ServerID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.traces[id] > 0
}

// Disturb implements engine.Disturber.
func (e *Engine) Disturb(ctx context.Context, ref engine.Ref, d model.Disturbance) error {
	done, err := e.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	s, r := e.lookup(ref.ID)
	if r == nil || r.state() != model.Running || !r.Process.runs(e.boot) {
		return model.Errorf(model.Precondition, "cannot disturb %s: it does not run", ref.ID)
	}
	if !slices.Contains(model.ChaosKinds(), d.Kind) {
		return model.Errorf(model.Invalid, "cannot disturb %s: there is no kind %q", ref.ID, d.Kind)
	}
	if d.Kind.Lasting() && d.Lasts <= 0 {
		return model.Errorf(model.Invalid, "cannot disturb %s: for how long?", ref.ID)
	}
	if err := e.disturb(ctx, s, r, d); err != nil {
		return model.Errorf(model.CodeOf(err), "cannot disturb %s (%s): %w", ref.ID, d.Kind, err).WithHint("%s", model.HintOf(err))
	}
	return nil
}

func (e *Engine) disturb(ctx context.Context, s *server, r *record, d model.Disturbance) error {
	switch d.Kind {
	case model.ChaosKill:
		return e.signal(r, unix.SIGKILL)
	case model.ChaosTerminate:
		return e.terminate(s, r, d.Lasts.D())
	default: // it lasts
	}
	e.undisturb(r.ID)
	e.disturbances.trace(r.ID)
	var undo func()
	var err error
	switch d.Kind {
	case model.ChaosLoss:
		undo, err = e.lose(r, d.Lasts.D())
	case model.ChaosLatency:
		undo, err = e.delay(r)
	case model.ChaosDiskFull:
		undo, err = e.fillPlaces(r)
	default:
		undo, err = e.disturbByProcess(ctx, r, d)
	}
	if err != nil {
		e.disturbances.untrace(r.ID)
		return err
	}
	over := time.AfterFunc(d.Lasts.D(), func() { e.undisturb(r.ID) })
	e.disturbances.mu.Lock()
	e.disturbances.undoes[r.ID] = func() {
		over.Stop()
		undo()
		e.disturbances.untrace(r.ID)
	}
	e.disturbances.mu.Unlock()
	if !r.Process.runs(e.boot) { // it ended meanwhile, perhaps of this
		e.undisturb(r.ID)
	}
	return nil
}

// Calm implements engine.Disturber.
func (e *Engine) Calm(ctx context.Context, ref engine.Ref) error {
	done, err := e.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	e.undisturb(ref.ID)
	return nil
}

// undisturb undoes what disturbs the server, and returns when that is done.
func (e *Engine) undisturb(id model.ServerID) {
	e.disturbances.mu.Lock()
	undo := e.disturbances.undoes[id]
	delete(e.disturbances.undoes, id)
	e.disturbances.mu.Unlock()
	if undo != nil {
		undo()
	}
}

// undisturbAll undoes everything that this engine has done.
func (e *Engine) undisturbAll() {
	e.disturbances.mu.Lock()
	var ids []model.ServerID
	for id := range e.disturbances.undoes {
		ids = append(ids, id)
	}
	e.disturbances.mu.Unlock()
	for _, id := range ids {
		e.undisturb(id)
	}
}

// undisturbLeftovers undoes what an engine before this one was killed in the
// midst of. All that is not named here has ended with it.
func (e *Engine) undisturbLeftovers(records []*record) error {
	for _, r := range records {
		if err := disturb.Thaw(e.freezer(r.ID)); err != nil {
			e.Log.Warn("cannot thaw a server", "server", r.ID, "error", err)
		}
	}
	return removeLosses(e.Config)
}

// terminate sends the stop signal, and kills what has not ended after the grace.
func (e *Engine) terminate(s *server, r *record, grace time.Duration) error {
	number, err := parseSignal("", r.StopSignal)
	if err != nil {
		return err
	}
	if err := e.signal(r, number); err != nil {
		return err
	}
	e.watchers.Go(func() {
		if ended, err := await(e.lifetime, s.exited, grace); err == nil && !ended {
			_ = e.signal(r, unix.SIGKILL)
		}
	})
	return nil
}

// freezer is the directory of the control group that freezes the server.
func (c Config) freezer(id model.ServerID) string { return c.cgroupDir("freezer", id) }

// disturbByProcess starts the process that the disturbance needs, and returns
// when it says that it is in force.
func (e *Engine) disturbByProcess(ctx context.Context, r *record, d model.Disturbance) (undo func(), err error) {
	o := disturb.Order{Kind: string(d.Kind), Lasts: d.Lasts.D(), Limit: r.Template.Resources.Memory}
	switch d.Kind {
	case model.ChaosFreeze:
		o.Groups = []string{e.freezer(r.ID)}
	case model.ChaosMemory:
		if o.Limit == 0 {
			return nil, model.Errorf(model.Invalid, "it has no memory limit, and the machine's memory is not its own").
				WithHint("resources { memory = … }")
		}
		o.Groups = []string{e.cgroupDir("memory", r.ID)}
	default:
		o.Groups = []string{e.cgroupDir("cpu", r.ID)}
	}
	group := execGroup + "chaos-" + r.ID.Six()
	release, err := e.setApart(&o, group)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(e.binaries.logger, o.Arguments()...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	said := &tail{limit: 1 << 10}
	cmd.Stderr = said
	done, err := e.own.start(cmd, group)
	if err != nil {
		release()
		return nil, err
	}
	undo = func() {
		defer done()
		_ = input.Close()
		ended := time.AfterFunc(killLimit, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // however it ended
		ended.Stop()
		release()
		if d.Kind == model.ChaosFreeze {
			if err := disturb.Thaw(e.freezer(r.ID)); err != nil {
				e.Log.Warn("cannot thaw a server", "server", r.ID, "error", err)
			}
		}
	}
	defer context.AfterFunc(ctx, func() { _ = input.Close() })()
	if line, err := bufio.NewReader(output).ReadString('\n'); strings.TrimSpace(line) != disturb.Ready {
		undo()
		return nil, errors.Join(fmt.Errorf("it does not come into force: %s", strings.TrimSpace(string(said.bytes()))), ctx.Err(), err)
	}
	return undo, nil
}

// setApart has a process that joins the server's control group join one below
// it, where there is one for all: it is no process of the server's.
func (e *Engine) setApart(o *disturb.Order, name string) (release func(), err error) {
	o.Usage = o.Groups[0]
	if !unified() || o.Kind == string(model.ChaosFreeze) {
		return func() {}, nil
	}
	group := filepath.Join(o.Groups[0], name)
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	o.Groups = []string{group}
	return func() { _ = removeEmptyGroup(group) }, nil
}

// killLimit is how long a disturbing process may take to let go.
const killLimit = 8 * time.Second

// placesToFill are the places of a server that have a size.
func placesToFill(r *record) []string {
	places := []string{"/tmp", "/run", "/dev/shm"}
	for _, p := range r.Template.Ephemeral {
		if p.Size > 0 {
			places = append(places, filepath.Clean(p.Path))
		}
	}
	return places
}
