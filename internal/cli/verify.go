package cli

import (
	"context"
	"fmt"
	"io"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

// verifyBuild builds a service's image twice from nothing, and says where the two
// differ.
func (a *app) verifyBuild(ctx context.Context, s *spec.Service) (code int, err error) {
	name := declaredName(s)
	if s.Build == nil {
		return 0, invalid("cannot verify the build of %s: its image is not built, but referred to by %s", name, s.Ref)
	}
	first, err := a.make(ctx, s, how{fresh: true})
	if err != nil {
		return 0, err
	}
	again, err := a.make(ctx, s, how{fresh: true, same: first.digest})
	if err != nil {
		return 0, err
	}
	if again.digest != first.digest {
		code = exitFailed
	}
	if a.opts.json {
		out := struct {
			Service string            `json:"service"`
			Image   model.Digest      `json:"image"`
			Again   model.Digest      `json:"again"`
			Same    bool              `json:"same"`
			Places  []api.Discrepancy `json:"places"`
			More    int               `json:"more,omitempty"`
		}{name, first.digest, again.digest, again.digest == first.digest, []api.Discrepancy{}, 0}
		if again.differs != nil {
			out.Places, out.More = again.differs.Places, again.differs.More
		}
		return code, a.line(out)
	}
	if code == exitDone {
		a.printf("%s  %s  built twice from nothing, the same\n", name, first.digest)
		return code, nil
	}
	a.printf("%s  %s  and built again %s: not the same\n", name, first.digest, again.digest.Short())
	if again.differs != nil {
		a.showDiscrepancies(again.differs)
	}
	return code, nil
}

func (a *app) showDiscrepancies(d *api.Discrepancies) {
	a.table("", "LAYER\tWHERE\tWHAT\tFIRST\tSECOND", func(w io.Writer) {
		for _, p := range d.Places[:min(len(d.Places), filesShown)] {
			layer, where, what := fmt.Sprint(p.Layer), "/"+p.Path, p.Aspect
			if p.Layer == 0 {
				layer, where = "-", p.Path
			}
			if p.Aspect == "content" && p.Offset >= 0 {
				what = fmt.Sprintf("content, from byte %d on", p.Offset)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", layer, printable(where), printable(what), orDash(printable(p.First)), orDash(printable(p.Second)))
		}
	})
	if more := len(d.Places) - filesShown; more > 0 || d.More > 0 {
		a.printf("and %d more\n", max(0, more)+d.More)
	}
}
