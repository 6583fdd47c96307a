package builder

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"kiln/internal/image/recorder"
	"kiln/internal/model"
)

// chain is a definition of operations of which each takes the one before it in.
func chain(t *testing.T, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: &pb.Source{
		Infos: []*pb.SourceInfo{{Data: []byte("FROM scratch\nADD http://a/b /\nRUN true\n")}}, Locations: map[string]*pb.Locations{},
	}}
	before := ""
	for i, op := range ops {
		if before != "" {
			op.Inputs = []*pb.Input{{Digest: before}}
		}
		text, err := op.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		before = digest.FromBytes(text).String()
		def.Def = append(def.Def, text)
		def.Metadata[before] = &pb.OpMetadata{Description: map[string]string{"n": string(rune('0' + i))}}
		if i > 0 { // what ADD fetches has no place of its own
			def.Source.Locations[before] = &pb.Locations{Locations: []*pb.Location{{Ranges: []*pb.Range{{Start: &pb.Position{Line: int32(i + 1)}}}}}}
		}
	}
	return def
}

func added(identifier string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: identifier}}}
}

func ran(network pb.NetMode, env ...string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{
		Meta: &pb.Meta{Args: []string{"true"}, Env: env}, Network: network,
		Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/cache", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "c"}}},
	}}}
}

func TestRewritingKeepsTheGraph(t *testing.T) {
	w := &rewriter{token: "tok", steps: stepsLocked, source: func(op *pb.SourceOp) error {
		op.Attrs = map[string]string{"pinned": "yes"}
		return nil
	}}
	before := chain(t, added("http://a/b"), ran(pb.NetMode_UNSET, "A=1"), ran(pb.NetMode_NONE))
	after, err := w.rewrite(before)
	if err != nil {
		t.Fatal(err)
	}
	was := ""
	for i, text := range after.Def {
		var op pb.Op
		if err := op.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		if i > 0 && op.Inputs[0].Digest != was {
			t.Errorf("operation %d takes %s in, and the one before it is %s", i, op.Inputs[0].Digest, was)
		}
		was = digest.FromBytes(text).String()
		if slices.ContainsFunc(before.Def, func(b []byte) bool { return digest.FromBytes(b).String() == was }) {
			t.Errorf("operation %d was not changed", i)
		}
		if n := after.Metadata[was].GetDescription()["n"]; n != string(rune('0'+i)) {
			t.Errorf("operation %d has the metadata of %q", i, n)
		}
		if i > 0 && after.Source.Locations[was] == nil {
			t.Errorf("operation %d has lost its line", i)
		}
	}
}

func TestStepsGetTheirNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		steps  stepNetwork
		asked  pb.NetMode
		mode   pb.NetMode
		env    []string
		shared string
	}{
		"open":                   {stepsOpen, pb.NetMode_UNSET, pb.NetMode_UNSET, []string{"A=1"}, "c"},
		"none":                   {stepsNone, pb.NetMode_UNSET, pb.NetMode_NONE, []string{"A=1"}, "c"},
		"locked":                 {stepsLocked, pb.NetMode_UNSET, pb.NetMode_UNSET, []string{"A=1", "KILN_NETWORK=tok"}, "tok/c"},
		"locked, and none asked": {stepsLocked, pb.NetMode_NONE, pb.NetMode_NONE, []string{"A=1"}, "c"},
	} {
		op := ran(test.asked, "A=1", tokenEnv+"=of somebody else")
		if err := (&rewriter{token: "tok", steps: test.steps}).operation(op); err != nil {
			t.Fatal(err)
		}
		got := op.GetExec()
		if got.Network != test.mode || !slices.Equal(got.Meta.Env, test.env) || got.Mounts[1].CacheOpt.ID != test.shared {
			t.Errorf("%s: %v %v %s", name, got.Network, got.Meta.Env, got.Mounts[1].CacheOpt.ID)
		}
	}
}

func TestRefusalsNameTheLine(t *testing.T) {
	def := chain(t, added("http://me:word@a/b"), ran(pb.NetMode_UNSET))
	s := &surroundings{steps: stepsNone, containerfile: "Containerfile"}
	w := &rewriter{source: func(op *pb.SourceOp) error { return s.source(t.Context(), op) }, located: func(err error, where *pb.Location) error {
		return locate(err, "Containerfile", def.Source.Infos, where)
	}}
	_, err := w.rewrite(def)
	if model.CodeOf(err) != model.Denied || !strings.Contains(err.Error(), "Containerfile:2: ADD http://a/b /") || strings.Contains(err.Error(), "word") {
		t.Errorf("got %v", err)
	}
}

func TestRepositoriesAreNamedWithoutLogin(t *testing.T) {
	for _, test := range [][4]string{ // what ADD names, and its name in the lock, its address, and what is wanted
		{"https://me:word@host.test/a.git", "https://host.test/a.git", "https://me:word@host.test/a.git", "HEAD"},
		{"https://word@host.test/a.git#v1:dir", "https://host.test/a.git#v1", "https://word@host.test/a.git", "v1"},
		{"git@host.test:a.git#v1", "git@host.test:a.git#v1", "git@host.test:a.git", "v1"},
	} {
		address, fragment, _ := strings.Cut(test[0], "#")
		op := &pb.SourceOp{Identifier: "git://host.test/a.git#" + fragment, Attrs: map[string]string{pb.AttrFullRemoteURL: address}}
		name, from, ref := repositoryOf(op)
		if got := [4]string{test[0], name, from, ref}; got != test {
			t.Errorf("got %v, want %v", got, test)
		}
	}
}

func TestANetworkStaysWhileAStepHasIt(t *testing.T) {
	open := func() *recorder.Recorder {
		r, err := recorder.New(recorder.Config{Mode: recorder.Replay, Name: "shop", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	nets, dir := newNetworks(), t.TempDir()
	one, closeOne, err := nets.open("tok", open(), dir)
	if err != nil {
		t.Fatal(err)
	}
	two, closeTwo, err := nets.open("tok", open(), dir)
	if err != nil {
		t.Fatal(err)
	}
	taken := nets.take("tok")
	step := taken.Step(t.Context(), "curl")
	_ = step.Refuse("an SSH connection", "is refused")
	closeOne() // the build has ended; the other one still waits for the step
	if _, err := os.Stat(taken.ca); err != nil {
		t.Errorf("the step has lost what it trusts: %v", err)
	}
	nets.tell("tok", taken, step)
	nets.leave(taken)
	if _, err := os.Stat(one.ca); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a network has left its directory: %v", err)
	}
	if taken != one || len(two.Refusals()) != 1 {
		t.Errorf("the other build was told %v", two.Refusals())
	}
	closeTwo()
	if nets.take("tok") != nil {
		t.Error("a network is still found after its builds")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
