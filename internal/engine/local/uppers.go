package local

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"kiln/internal/model"
)

const (
	howUpper      = "the server's own layer, which began empty (inotify)"
	maxFindings   = 1000 // of one detector for one server: more say nothing that these do not
	tooManyWhere  = "/"
	tooManyChange = "more changes than are listed"
)

// inspectUpper lists everything in the server's own layer: whatever it is, the
// server's image has it not.
func (e *Engine) inspectUpper(r *record) ([]model.Finding, error) {
	if r.Upper == "" {
		return nil, nil
	}
	var found []model.Finding
	add := func(what, where, detail string) {
		found = append(found, model.Finding{
			Server: r.ID, Detector: model.DetectFiles, What: what, Where: where, Detail: detail, How: howUpper,
		})
	}
	err := filepath.WalkDir(r.Upper, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != r.Upper {
			return nil // it has just gone
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		inside := "/" + strings.TrimPrefix(strings.TrimPrefix(path, r.Upper), "/")
		what, detail := otherThanImage(r, path, inside, info)
		if what != "" {
			add(what, inside, detail)
		}
		if len(found) >= maxFindings {
			add(tooManyChange, tooManyWhere, fmt.Sprintf("%d are", maxFindings))
			return errTooMany
		}
		return nil
	})
	if err != nil && !errors.Is(err, errTooMany) {
		return nil, fmt.Errorf("cannot look at the layer of %s: %w", r.ID, err)
	}
	// Only now: a session that has begun during the walk is written down before it
	// can write.
	sessions := e.writtenBy(r.ID)
	for i := range found {
		found[i].Session = explainedBy(sessions, filepath.Join(r.Upper, found[i].Where))
	}
	return found, nil
}

// What an entry of a server's own layer is to the image.
const (
	fileAdded         = "file added"
	fileChanged       = "file changed"
	fileRemoved       = "file removed"
	directoryChanged  = "directory changed"
	directoryReplaced = "directory replaced"
)

// otherThanImage says what an entry of the server's own layer is to the image, and how
// that shows; "" for a directory as the image has it, on the way to a change.
func otherThanImage(r *record, file, inside string, info fs.FileInfo) (what, detail string) {
	before, was := imageFile(r.Lowers, inside)
	switch {
	case isWhiteout(info):
		return fileRemoved, ""
	case was == nil:
		return fileAdded, described(info)
	case !info.IsDir() || !was.IsDir():
		return fileChanged, described(info)
	case opaque(file):
		return directoryReplaced, "nothing that the image has in it is to be seen"
	}
	why, err := otherRights(was, info, r.IDs), error(nil)
	if why == "" {
		why, err = otherAttributes(before, was, file, info, r.IDs)
	}
	if err != nil { // nobody but who has changed them makes them unreadable
		why = err.Error()
	}
	if why == "" {
		return "", ""
	}
	return directoryChanged, why
}

// otherRights says in what the rights of a directory differ from the image's;
// offset is what the server's ids are moved by.
func otherRights(below, now fs.FileInfo, offset uint32) string {
	if below.Mode() != now.Mode() {
		return fmt.Sprintf("wanted mode %s, seen %s", below.Mode(), now.Mode())
	}
	was, ok1 := below.Sys().(*syscall.Stat_t)
	is, ok2 := now.Sys().(*syscall.Stat_t)
	if ok1 && ok2 && (was.Uid+offset != is.Uid || was.Gid+offset != is.Gid) {
		return fmt.Sprintf("wanted owner %d:%d, seen %d:%d", was.Uid, was.Gid, is.Uid-offset, is.Gid-offset)
	}
	return ""
}

func described(info fs.FileInfo) string {
	return fmt.Sprintf("%s, %d bytes, written %s", info.Mode(), info.Size(), info.ModTime().UTC().Format("2006-01-02 15:04:05"))
}
