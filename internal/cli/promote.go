package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

func (a *app) promoteCommand() *cobra.Command {
	var from, to string
	var turn turn
	cmd := &cobra.Command{
		Use:   "promote SERVICE --from ENVIRONMENT --to ENVIRONMENT",
		Short: "Bring the image that serves in one environment into service in another",
		Long: `Takes the very image that is in service in one environment, by its digest, and deploys it in
another, with what kiln.hcl declares for that one. Nothing is built. What the other
environment's policy requires of an image (policy { require { … } }) has to be so, else
nothing happens, and all that is missing is said. How long the image served on another
kiln, that one signs; the kiln of the other environment has to believe its key (kiln key trust).

Standard output gets one JSON line.`,
		Example: "  kiln promote shop --from staging --to production\n  kiln promote shop --from staging --to production -m \"release 14\" --queue",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			mode, err := turn.mode()
			if err != nil {
				return err
			}
			switch {
			case from == "" || to == "":
				return usagef("--from and --to name the environments: where the image serves, and where it is to serve")
			case from == to:
				return usagef("--from and --to are the same environment, %q", from)
			}
			return a.promote(ctx, args[0], from, to, mode)
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "the environment where it serves")
	cmd.Flags().StringVar(&to, "to", "", "the environment where it is to serve")
	turn.flags(cmd)
	return cmd
}

func (a *app) promote(ctx context.Context, name, from, to string, mode api.Mode) error {
	file, err := a.declaration()
	if err != nil {
		return err
	}
	there, err := a.in(file, from)
	if err != nil {
		return err
	}
	source, at := a.api(), a.socket()
	a.client, a.kiln = nil, ""
	here, err := a.in(file, to)
	if err != nil {
		return err
	}
	services, err := a.named(there, []string{name})
	if err != nil {
		return err
	}
	targets, err := a.named(here, []string{services[0].Declared})
	if err != nil {
		return err
	}
	s := targets[0]
	code := a.follow(ctx, s.Name, func() (*api.DeployAccepted, error) {
		req, img, err := a.promotion(ctx, source, services[0], s, mode)
		if err == nil && at != a.socket() {
			err = a.bring(ctx, img, s)
		}
		if err == nil {
			err = a.witness(ctx, file, img.Digest, s)
		}
		if err != nil {
			return nil, err
		}
		return a.submit(ctx, s.Name, func() (*api.DeployAccepted, error) { return a.api().Deploy(ctx, s.Name, *req) })
	})
	return exit(code)
}

// bring has another kiln take an image from the registry that the two share, with what
// is attached to it.
func (a *app) bring(ctx context.Context, img *api.Image, to *spec.Service) error {
	said := img.Published
	switch {
	case said == nil || len(img.Services) == 0:
		return model.Errorf(model.Precondition, "cannot promote %s to %s: that is on the kiln at %s, and image %s is in no registry that it could be taken from",
			to.Declared, to.Environment, a.socket(), img.Digest.Short()).
			WithHint("start the daemon where it serves with --publish HOST/PATH, a registry that both reach")
	case said.Trouble != "":
		return model.Errorf(model.Precondition, "cannot promote %s to %s: image %s could not be published to %s: %s", to.Declared, to.Environment, img.Digest.Short(), said.To, said.Trouble).
			WithHint("the daemon tries it again; kiln images shows whether it is there")
	}
	// Also where it is there already: more may have been said of it since, or other
	// keys be believed.
	var brought *api.ImageResult
	err := a.steady(ctx, func() (err error) {
		brought, err = a.api().Pull(ctx, api.PullRequest{Ref: said.To + "/" + img.Services[0] + "@" + string(img.Digest), Author: a.author(ctx), Reason: a.opts.message})
		return err
	})
	if err != nil {
		return err
	}
	if brought.Image != img.Digest {
		return model.Errorf(model.Internal, "cannot promote %s to %s: %s gave image %s for %s", to.Declared, to.Environment, said.To, brought.Image.Short(), img.Digest.Short())
	}
	return nil
}

// witness has the other kilns where an image has to have served sign how long it did,
// and gives that to the kiln that it is promoted to. Whether it is enough that one
// says, with all else that is missing: what cannot be had is only told.
func (a *app) witness(ctx context.Context, file *spec.File, img model.Digest, to *spec.Service) error {
	if to.Policy.Image == nil || to.Policy.Image.Require == nil {
		return nil
	}
	for _, need := range to.Policy.Image.Require.Served {
		service := model.InEnvironment(to.Declared, need.Environment)
		at, err := a.socketOf(file, need.Environment)
		if err == nil && at == a.socket() {
			continue // that kiln knows it itself
		}
		var word *api.Served
		if err == nil {
			word, err = a.carry(ctx, at, img, api.ServedRequest{Environment: need.Environment, Service: service, Author: a.author(ctx), Least: need.For})
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err == nil {
			a.progressf("%s: it served as %s for %s", to.Name, service, word.For)
			continue
		}
		why := ""
		if api.Unreachable(err) || word == nil && model.CodeOf(err) == model.Invalid {
			why = "how long it served as " + service + " is not known: "
		}
		a.progressf("%s: %s%v", to.Name, why, err)
		if hint := model.HintOf(err); hint != "" {
			a.progressf("  %s", hint)
		}
	}
	return nil
}

// carry has the kiln at a socket sign how long an image served there, and gives that to
// the one that it is promoted to.
func (a *app) carry(ctx context.Context, at string, img model.Digest, req api.ServedRequest) (*api.Served, error) {
	elsewhere := api.NewClient(at)
	defer elsewhere.Close()
	word, err := elsewhere.Served(ctx, string(img), req)
	if err != nil {
		return nil, err
	}
	req.Least, req.Bundle = 0, word.Bundle
	_, err = a.api().Served(ctx, string(img), req)
	return word, err
}

// socketOf is where the kiln of an environment listens.
func (a *app) socketOf(file *spec.File, environment string) (string, error) {
	client, kiln := a.client, a.kiln
	defer func() { a.client, a.kiln = client, kiln }()
	a.kiln = ""
	_, err := a.in(file, environment)
	return a.socket(), err
}

// promotion is what the daemon is asked, what serves as from for to, and the image.
func (a *app) promotion(ctx context.Context, source *api.Client, from, to *spec.Service, mode api.Mode) (*api.DeployRequest, *api.Image, error) {
	var status *api.Status
	err := a.steady(ctx, func() (err error) {
		status, err = source.Status(ctx, from.Name)
		return err
	})
	if model.CodeOf(err) == model.NotFound {
		status, err = &api.Status{}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(status.Services, func(s api.ServiceStatus) bool { return s.Name == from.Name })
	if i < 0 || status.Services[i].Release == 0 {
		return nil, nil, model.Errorf(model.Precondition, "cannot promote %s from %s: nothing of it serves there", from.Declared, from.Environment).
			WithHint("kiln deploy %s -e %s", from.Declared, from.Environment)
	}
	serving := status.Services[i]
	if d := serving.Deployment; d != nil {
		return nil, nil, model.Errorf(model.Precondition, "cannot promote %s from %s: deployment %s is under way there, and what serves is about to change", from.Declared, from.Environment, d.ID).
			WithHint("wait for it: kiln status %s", from.Name)
	}
	version, err := source.Version(ctx)
	if err != nil {
		return nil, nil, err
	}
	img, err := source.Image(ctx, string(serving.Image))
	if err != nil {
		return nil, nil, err
	}
	a.progressf("%s: %s serves as release %d of %s", to.Name, serving.Image.Short(), serving.Release, from.Name)
	values, err := a.values(ctx, to)
	if err != nil {
		return nil, nil, err
	}
	req := a.complete(ctx, to, &made{digest: serving.Image, provenance: img.Provenance}, values)
	req.Mode = mode
	req.Promoted = &model.Promotion{Instance: version.Instance, Environment: from.Environment, Service: from.Name, Release: serving.Release}
	return req, img, nil
}

// keyIDs puts the ids of public keys in the place of files that a policy names them
// by: what has a slash in it, or ends like such a file.
func (a *app) keyIDs(p model.Policy) (model.Policy, error) {
	if p.Image == nil || p.Image.Require == nil {
		return p, nil
	}
	img, require := *p.Image, *p.Image.Require
	require.Signed = slices.Clone(require.Signed)
	for i, key := range require.Signed {
		if !strings.Contains(key, "/") && !strings.HasSuffix(key, ".pub") && !strings.HasSuffix(key, ".pem") {
			continue
		}
		if !filepath.IsAbs(key) {
			key = filepath.Join(filepath.Dir(a.opts.file), key)
		}
		text, err := os.ReadFile(key)
		if err != nil {
			return p, invalid("cannot read the public key %s, which the policy names: %w", key, readFailure(err))
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" {
			return p, invalid("%s, which the policy names, is no public key in PEM", key).WithHint("kiln key prints this kiln's")
		}
		sum := sha256.Sum256(block.Bytes)
		require.Signed[i] = hex.EncodeToString(sum[:])
	}
	img.Require = &require
	p.Image = &img
	return p, nil
}
