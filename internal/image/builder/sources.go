package builder

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/solver/pb"
	sourcegit "github.com/moby/buildkit/source/git"
	sourcehttp "github.com/moby/buildkit/source/http"
	"github.com/moby/buildkit/worker/base"

	"kiln/internal/image"
	"kiln/internal/image/recorder"
	"kiln/internal/lock"
	"kiln/internal/model"
)

const (
	bundleHost = "inputs.kiln.invalid" // a registry that nobody else is
	bundleName = "docker-image+blob://" + bundleHost + "/inputs@"
	bundleRef  = "refs/heads/main"

	bundlePattern = "bundle-*" // of directories below the builder's
)

// attachSources has the worker fetch what ADD names by way of the builds' networks.
func attachSources(w *base.Worker, nets *networks, store *image.Store) error {
	web, err := sourcehttp.NewSource(sourcehttp.Opt{CacheAccessor: w.CacheMgr, Transport: nets})
	if err != nil {
		return err
	}
	w.SourceManager.Register(web)
	w.HTTPSource = web
	if sourcegit.Supported() != nil {
		return nil //nolint:nilerr // the worker has warned
	}
	git, err := sourcegit.NewSource(sourcegit.Opt{CacheAccessor: w.CacheMgr, RegistryHosts: bundleHosts(store)})
	if err != nil {
		return err
	}
	w.SourceManager.Register(git)
	w.GitSource = git
	return nil
}

// bundleHosts is the registry in which Git's source finds bundles: the store.
func bundleHosts(store *image.Store) docker.RegistryHosts {
	return func(host string) ([]docker.RegistryHost, error) {
		if host != bundleHost {
			return nil, nil
		}
		return []docker.RegistryHost{{
			Client: &http.Client{Transport: blobs{store}}, Host: host, Scheme: "http", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}}, nil
	}
}

// blobs answers requests for blobs with those of the store.
type blobs struct{ store *image.Store }

// RoundTrip implements http.RoundTripper.
func (b blobs) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: req}
	dir, name := path.Split(req.URL.Path)
	if path.Base(dir) != "blobs" {
		name = "" // nothing else is here
	}
	in, err := b.store.OpenInput(req.Context(), model.Digest(name))
	if err != nil {
		resp.StatusCode, resp.Status = http.StatusNotFound, "404 Not Found"
		return resp, nil //nolint:nilerr // that is the answer
	}
	resp.StatusCode, resp.Status, resp.ContentLength = http.StatusOK, "200 OK", in.Size()
	resp.Header.Set("Content-Length", strconv.FormatInt(in.Size(), 10))
	resp.Header.Set("Content-Type", "application/octet-stream")
	resp.Header.Set("Docker-Content-Digest", path.Base(req.URL.Path))
	if req.Method == http.MethodHead {
		return resp, in.Close()
	}
	resp.Body = in
	return resp, nil
}

// repository pins a repository that ADD names to the commit of the lock, and has
// it read from the bundle that is kept; while recording it makes both.
func (s *surroundings) repository(ctx context.Context, op *pb.SourceOp) error {
	name, address, ref := repositoryOf(op)
	e, known := s.net.Entry(lock.Git, name)
	if !known && s.net.Mode() != recorder.Record {
		return s.net.Missing("ADD " + name)
	}
	if known && e.Digest != "" {
		here, err := s.inputs.Has(ctx, e.Digest)
		if err != nil {
			return err
		}
		if !here {
			e.Digest = ""
		}
	}
	if !known || e.Digest == "" {
		made, err := s.bundle(ctx, name, address, ref, e)
		if err != nil {
			return err
		}
		e = made
	}
	s.net.Note(e)
	if op.Attrs == nil {
		op.Attrs = map[string]string{}
	}
	if want := op.Attrs[pb.AttrGitChecksum]; want != "" && !strings.HasPrefix(e.Commit, want) {
		return s.net.Refuse(recorder.Refusal{What: "ADD " + name, Why: "is refused: its checksum is " + want + ", and the commit is " + e.Commit})
	}
	op.Attrs[pb.AttrGitChecksum] = e.Commit
	op.Attrs[pb.AttrGitBundle] = bundleName + string(e.Digest)
	return nil
}

// repositoryOf is what the lock calls a repository, which is without a login; where it
// is, and the branch, tag or commit that is wanted of it.
func repositoryOf(op *pb.SourceOp) (name, address, ref string) {
	address, fragment, _ := strings.Cut(op.Identifier, "#")
	if full := op.Attrs[pb.AttrFullRemoteURL]; full != "" {
		address, _, _ = strings.Cut(full, "#")
	}
	ref, _, _ = strings.Cut(fragment, ":")
	name = recorder.WithoutLogin(address)
	if ref == "" {
		return name, address, "HEAD"
	}
	return name + "#" + ref, address, ref
}

// bundle fetches a repository and keeps the commit with its history. before is
// what the lock says of it, whose commit it has to be.
func (s *surroundings) bundle(ctx context.Context, name, address, ref string, before lock.Entry) (lock.Entry, error) {
	if s.net.Mode() == recorder.Sealed {
		return before, s.net.Refuse(recorder.Refusal{What: "ADD " + name, Why: "is refused: its bytes are not here", Hint: "a build without --locked fetches them again"})
	}
	dir, err := os.MkdirTemp(s.dir, bundlePattern)
	if err != nil {
		return before, model.Errorf(model.Unavailable, "cannot keep the repository %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	commit, file, err := makeBundle(ctx, dir, address, ref, before.Commit)
	if err != nil {
		said := strings.ReplaceAll(err.Error(), address, recorder.WithoutLogin(address))
		return before, model.Errorf(model.Unavailable, "cannot fetch the repository %s: %s", name, said)
	}
	in, err := os.Open(file)
	if err != nil {
		return before, model.Errorf(model.Unavailable, "cannot keep the repository %s: %w", name, err)
	}
	defer in.Close()
	out, err := s.inputs.New(ctx)
	if err != nil {
		return before, err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return before, model.Errorf(model.Unavailable, "cannot keep the repository %s: %w", name, err)
	}
	kept, err := out.Keep("")
	return lock.Entry{Kind: lock.Git, Name: name, Commit: commit, Digest: kept.Digest, Size: kept.Size}, err
}

var commitName = regexp.MustCompile(`^[0-9a-f]{7,64}$`)

// makeBundle writes a bundle of a commit below dir. exact: the commit that it has
// to be; "": what ref is now.
func makeBundle(ctx context.Context, dir, address, ref, exact string) (commit, file string, err error) {
	repo, file := filepath.Join(dir, "repository"), filepath.Join(dir, "bundle")
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "pack.threads=1", "-c", "protocol.file.allow=never"}, args...)...)
		cmd.Dir, cmd.WaitDelay = dir, time.Second // what git has started may outlive it
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_DIR="+repo, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return "", errors.New(lastLine(errs.String(), err))
		}
		return strings.TrimSpace(string(out)), nil
	}
	if _, err := git("init", "--bare", "--quiet", repo); err != nil {
		return "", "", err
	}
	want := ref
	if exact != "" {
		want = exact
	}
	_, err = git("fetch", "--quiet", "--no-tags", "--", address, want)
	if err != nil && commitName.MatchString(want) { // the server does not give commits by name
		if _, err = git("fetch", "--quiet", "--", address, "+refs/*:refs/kiln/*"); err == nil {
			_, err = git("update-ref", "FETCH_HEAD", want+"^{commit}")
		}
	}
	if err != nil {
		return "", "", err
	}
	if commit, err = git("rev-parse", "FETCH_HEAD^{commit}"); err != nil {
		return "", "", err
	}
	if exact != "" && commit != exact {
		return "", "", errors.New("its commit is " + commit + ", and not " + exact)
	}
	if _, err = git("update-ref", bundleRef, commit); err == nil {
		_, err = git("bundle", "create", "--quiet", file, bundleRef)
	}
	return commit, file, err
}

// lastLine is what a program said last, or how it ended.
func lastLine(said string, err error) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return err.Error()
}
