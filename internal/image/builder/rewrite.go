package builder

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

const (
	// tokenEnv tells the executor, in a step's environment, which build's network the
	// step has. It is part of what the step is cached by, and the step never sees it.
	tokenEnv = "KILN_NETWORK"
	// agentPrefix tells the same to the transport of ADD, as the user agent.
	agentPrefix = "kiln-network/"
	agentAttr   = pb.AttrHTTPHeaderPrefix + "user-agent"
)

// rewriter gives the operations of a build its network.
type rewriter struct {
	token   string // of the recorder; "": there is none
	steps   stepNetwork
	source  func(*pb.SourceOp) error // looks at what ADD names, and may pin it
	located func(err error, where *pb.Location) error
}

// stepNetwork is what the steps of a build reach.
type stepNetwork int

const (
	stepsOpen stepNetwork = iota
	stepsLocked
	stepsNone
)

// rewrite returns the definition with its operations changed. What refers to
// operations by their digests is changed with them.
func (w *rewriter) rewrite(def *pb.Definition) (*pb.Definition, error) {
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: def.Source}
	if def.Source != nil {
		out.Source = &pb.Source{Infos: def.Source.Infos, Locations: map[string]*pb.Locations{}}
	}
	became := map[string]string{}
	for _, text := range def.Def { // inputs come before who takes them
		was := digest.FromBytes(text).String()
		var op pb.Op
		if err := op.Unmarshal(text); err != nil {
			return nil, model.Errorf(model.Internal, "cannot read a step of the build: %w", err)
		}
		for _, in := range op.Inputs {
			if now, ok := became[in.Digest]; ok {
				in.Digest = now
			}
		}
		if err := w.operation(&op); err != nil {
			return nil, w.located(err, whereIs(def, was))
		}
		text, err := op.Marshal()
		if err != nil {
			return nil, model.Errorf(model.Internal, "cannot write a step of the build: %w", err)
		}
		is := digest.FromBytes(text).String()
		became[was] = is
		out.Def = append(out.Def, text)
		if m, ok := def.Metadata[was]; ok {
			out.Metadata[is] = m
		}
		if l, ok := def.Source.GetLocations()[was]; ok {
			out.Source.Locations[is] = l
		}
	}
	return out, nil
}

// whereIs returns where the Containerfile has an operation, or what takes it in:
// that alone is said of what ADD fetches. nil: nowhere.
func whereIs(def *pb.Definition, op string) *pb.Location {
	if l := def.Source.GetLocations()[op]; l != nil && len(l.Locations) > 0 {
		return l.Locations[0]
	}
	for _, text := range def.Def {
		var taker pb.Op
		if taker.Unmarshal(text) != nil {
			continue
		}
		for _, in := range taker.Inputs {
			if in.Digest == op {
				return whereIs(def, digest.FromBytes(text).String())
			}
		}
	}
	return nil
}

// operation changes one operation.
func (w *rewriter) operation(op *pb.Op) error {
	if source := op.GetSource(); source != nil {
		return w.source(source)
	}
	exec := op.GetExec()
	if exec == nil {
		return nil
	}
	_, exec.Meta.Env = cutToken(exec.Meta.GetEnv()) // an ENV of this name is nobody's network
	if exec.Network != pb.NetMode_UNSET {
		return nil
	}
	switch w.steps {
	case stepsNone:
		exec.Network = pb.NetMode_NONE
	case stepsLocked:
		exec.Meta.Env = append(exec.Meta.Env, tokenEnv+"="+w.token)
		for _, m := range exec.Mounts {
			// What another build has left there would not be fetched, nor noted.
			if m.CacheOpt != nil {
				m.CacheOpt.ID = w.token + "/" + m.CacheOpt.ID
			}
		}
	case stepsOpen:
	}
	return nil
}

// isHTTP and isGit say what ADD names.
func isHTTP(identifier string) bool {
	return strings.HasPrefix(identifier, "http://") || strings.HasPrefix(identifier, "https://")
}

func isGit(identifier string) bool { return strings.HasPrefix(identifier, "git://") }

// cutToken takes the token out of a step's environment.
func cutToken(env []string) (token string, rest []string) {
	for _, v := range env {
		if t, ok := strings.CutPrefix(v, tokenEnv+"="); ok {
			token = t
			continue
		}
		rest = append(rest, v)
	}
	return token, rest
}

// locate says at which line of the Containerfile an error is.
func locate(err error, containerfile string, infos []*pb.SourceInfo, where *pb.Location) error {
	coded, ok := err.(*model.Error) //nolint:errorlint // the rewriter's own
	if !ok || where == nil || len(where.Ranges) == 0 || int(where.SourceIndex) >= len(infos) {
		return err
	}
	n := int(where.Ranges[0].Start.GetLine())
	lines := strings.Split(string(infos[where.SourceIndex].Data), "\n")
	if n < 1 || n > len(lines) {
		return err
	}
	e := *coded
	e.Message += fmt.Sprintf("\n%s:%d: %s", containerfile, n, strings.TrimSpace(lines[n-1]))
	return &e
}
