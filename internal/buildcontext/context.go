// Package buildcontext is the client's side of a build: it finds the
// Containerfile and offers the files of the build context to the builder, which
// asks for what it has not seen yet.
//
// The connection is opaque to everybody between: it begins with one line of
// JSON (Preamble) from the client, after which the builder speaks to the client
// in HTTP/2. A relay copies bytes.
package buildcontext

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"kiln/internal/model"
	"kiln/internal/source"
)

// The names by which the builder asks for files.
const (
	ContextDir       = "context"    // the build context
	ContainerfileDir = "dockerfile" // the directory that holds the Containerfile
)

// Find returns the path of the Containerfile, relative to dir or absolute.
// named is what the user asked for; "" looks for Containerfile, then
// Dockerfile, in dir. A named file may lie outside of dir.
func Find(dir, named string) (string, error) {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		if err == nil {
			err = errors.New("it is not a directory")
		}
		return "", model.Errorf(model.Invalid, "cannot use %q as build context: %w", dir, cause(err))
	}
	candidates := []string{named}
	if named == "" {
		candidates = []string{"Containerfile", "Dockerfile"}
	}
	for _, name := range candidates {
		st, err := os.Stat(locate(dir, name))
		if err == nil && st.Mode().IsRegular() {
			return name, nil
		}
		if err == nil {
			return "", model.Errorf(model.Invalid, "cannot build: %s is not a file", locate(dir, name))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", model.Errorf(model.Invalid, "cannot read %s: %w", locate(dir, name), cause(err))
		}
	}
	if named == "" {
		return "", model.Errorf(model.Invalid, "cannot build: there is no Containerfile and no Dockerfile in %s", dir).
			WithHint("write one, or name it: containerfile = \"path\"")
	}
	return "", model.Errorf(model.Invalid, "cannot build: there is no file %s", locate(dir, named)).
		WithHint("the path of a Containerfile is relative to the build context")
}

// Serve offers the files of dir, and those beside the Containerfile (as Find
// returned it), over conn until the builder is done or ctx ends, and closes
// conn. What the .dockerignore files exclude is never sent, nor is a file that
// the builder holds from an earlier build. Owners are sent as 0:0, so that the
// same content is the same whoever has it.
func Serve(ctx context.Context, conn net.Conn, dir, containerfile string) error {
	defer conn.Close()
	name, err := Find(dir, containerfile)
	if err != nil {
		return err
	}
	sources, err := openSources(dir, filepath.Dir(locate(dir, name)))
	if err != nil {
		return err
	}
	s, err := session.NewSession(ctx, sharedKey(dir))
	if err != nil {
		return model.Errorf(model.Internal, "cannot offer the build context: %w", err)
	}
	s.Allow(filesync.NewFSSyncProvider(sources))
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = s.Run(ctx, func(_ context.Context, _ string, headers map[string][]string) (net.Conn, error) {
		return conn, writePreamble(conn, Preamble{Version: 1, Headers: headers})
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot offer the build context: %w", err)
	}
	return nil
}

// openSources opens the two directories that the builder may ask for.
func openSources(dir, containerfileDir string) (filesync.StaticDirSource, error) {
	sources := filesync.StaticDirSource{}
	for name, path := range map[string]string{ContextDir: dir, ContainerfileDir: containerfileDir} {
		tree, err := fsutil.NewFS(path)
		if err != nil {
			return nil, model.Errorf(model.Invalid, "cannot read the build context %s: %w", path, err)
		}
		tree, err = fsutil.NewFilterFS(tree, &fsutil.FilterOpt{Map: ownedByRoot})
		if err != nil {
			return nil, model.Errorf(model.Internal, "cannot read the build context %s: %w", path, err)
		}
		sources[name] = tree
	}
	return sources, nil
}

func ownedByRoot(_ string, st *fstypes.Stat) fsutil.MapResult {
	if filepath.Base(st.Path) == source.OriginFile { // what is built from it is the same wherever it comes from
		return fsutil.MapResultExclude
	}
	st.Uid, st.Gid = 0, 0
	return fsutil.MapResultKeep
}

// sharedKey tells the builder which earlier transfer to compare this one with:
// that of the same directory of the same machine.
func sharedKey(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		abs = dir // only slower: nothing to compare with
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // as above
	}
	sum := sha256.Sum256([]byte(host + "\x00" + abs))
	return hex.EncodeToString(sum[:])
}

func locate(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// cause drops the operation and path of a file error: the message has them.
func cause(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}
