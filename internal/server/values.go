package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// maxDeploy bounds a request that may bring values, in bytes: they are 8 MiB at
// most, a third longer in JSON.
const maxDeploy = 16 << 20

// Values keeps what templates only name.
type Values interface {
	// Settle returns the template with the digests of the values that the request
	// brings. With keep they are kept, at least until release is called.
	Settle(ctx context.Context, in api.DeployRequest, keep bool) (t model.Template, release func(), err error)
	// Missing says which values of the template are not kept, in words.
	Missing(ctx context.Context, t model.Template) []string
}

func (s *Server) registerValues(h huma.API) {
	huma.Register(h, operation("secrets", http.MethodGet, api.PathSecrets, "The versions of secrets, never their values"), s.secrets)
}

// large has an operation take requests that bring values.
func large(o huma.Operation) huma.Operation {
	o.MaxBodyBytes = maxDeploy
	return o
}

// whole refuses to go back to a release whose values are not kept. 0 is where a
// rollback goes without a number; what is wrong with the number is not said here.
func (s *Server) whole(ctx context.Context, service string, number int) error {
	var t *model.Template
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if number == 0 {
			number, _ = reconcile.RollbackTarget(st, service)
		}
		if svc := st.Services[service]; svc != nil {
			if r := svc.Release(number); r != nil {
				copied := r.Template
				t = &copied
			}
		}
	})
	if t == nil || len(t.Values()) == 0 {
		return nil
	}
	if missing := s.cfg.Values.Missing(ctx, *t); len(missing) > 0 {
		return model.Errorf(model.Precondition, "cannot roll %s back to release %d: %s", service, number, missing[0]).
			WithHint("kiln deploy takes the values from their sources anew")
	}
	return nil
}

type secretsInput struct {
	Service string `query:"service" doc:"only this service's"`
}

func (s *Server) secrets(ctx context.Context, in *secretsInput) (*reply[api.Secrets], error) {
	out := &reply[api.Secrets]{api.Secrets{Secrets: []api.Secret{}}}
	var unknown error
	refs := map[*model.SecretRef]int{}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if in.Service != "" {
			if _, unknown = serviceNamed(st, in.Service); unknown != nil {
				return
			}
		}
		for name, svc := range st.Services {
			if in.Service == "" || in.Service == name {
				out.Body.Secrets = secretsOf(out.Body.Secrets, svc, refs)
			}
		}
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	for ref, i := range refs {
		x := &out.Body.Secrets[i]
		if missing := s.cfg.Values.Missing(ctx, model.Template{Service: x.Service, Secrets: []model.SecretRef{*ref}}); len(missing) > 0 {
			x.Kept, x.Missing = false, missing[0]
		}
	}
	slices.SortFunc(out.Body.Secrets, func(a, b api.Secret) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name), cmp.Compare(b.Version, a.Version))
	})
	return out, nil
}

// secretsOf adds the versions of a service's secrets, and which reference each
// is by.
func secretsOf(list []api.Secret, svc *model.Service, refs map[*model.SecretRef]int) []api.Secret {
	type version struct {
		name   string
		number int
	}
	at := map[version]int{}
	for _, r := range svc.Releases {
		servers := 0
		for _, srv := range svc.Servers {
			if srv.TemplateHash == r.TemplateHash && srv.Release == r.Number {
				servers++
			}
		}
		for _, ref := range r.Template.Secrets {
			key := version{ref.Name, ref.Version}
			i, known := at[key]
			if !known {
				i = len(list)
				at[key] = i
				list = append(list, api.Secret{Service: svc.Name, Name: ref.Name, Version: ref.Version, SetAt: r.CreatedAt, SetBy: r.Author, Kept: true, Releases: []int{}})
				refs[&ref] = i
			}
			x := &list[i]
			x.As, x.Releases = ref.As, append(x.Releases, r.Number)
			x.Servers += servers
			x.InService = x.InService || r.Number == svc.InService && !svc.Destroyed
		}
	}
	return list
}
