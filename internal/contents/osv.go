package contents

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"kiln/internal/model"
)

// maxListed is how large a file with entries of a list may be, in a directory or an
// archive.
const maxListed = 64 << 20 // bytes

// maxUnpacked bounds all files of a list together.
const maxUnpacked = 16 << 30 // bytes

// advisory is an entry of a list of vulnerabilities, as far as kiln reads it
// (https://ossf.github.io/osv-schema/, version 1.7).
type advisory struct {
	ID        string     `json:"id"`
	Aliases   []string   `json:"aliases"`
	Upstream  []string   `json:"upstream"`
	Summary   string     `json:"summary"`
	Details   string     `json:"details"`
	Withdrawn string     `json:"withdrawn"`
	Severity  []Severity `json:"severity"`
	Affected  []affected `json:"affected"`
	Database  specifics  `json:"database_specific"`
}

type affected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity []Severity     `json:"severity"`
	Ranges   []versionRange `json:"ranges"`
	Versions []string       `json:"versions"`
	System   specifics      `json:"ecosystem_specific"`
}

// eachAdvisory calls visit with the entries of a list: one entry, an array of them, or
// a zip archive of files with either. name is for messages.
func eachAdvisory(name string, list []byte, visit func(*advisory)) error {
	if zipped(list) {
		return eachAdvisoryZipped(name, bytes.NewReader(list), int64(len(list)), visit)
	}
	return eachEntry(name, list, visit)
}

// eachEntry is eachAdvisory for one entry, or an array of them.
func eachEntry(name string, list []byte, visit func(*advisory)) error {
	trimmed := bytes.TrimLeft(list, " \t\r\n")
	if len(trimmed) == 0 {
		return model.Errorf(model.Invalid, "cannot read the list of vulnerabilities %s: it is empty", name)
	}
	var entries []advisory
	var into any = &entries
	if trimmed[0] != '[' {
		entries = make([]advisory, 1)
		into = &entries[0]
	}
	if err := json.Unmarshal(list, into); err != nil {
		return position(name, list, err)
	}
	for i := range entries {
		if entries[i].ID == "" {
			return model.Errorf(model.Invalid, "cannot read the list of vulnerabilities %s: entry %d has no id", name, i+1).
				WithHint("a list has entries of the OSV format (https://ossf.github.io/osv-schema/): one, an array, or a directory or zip archive of them")
		}
		visit(&entries[i])
	}
	return nil
}

// eachAdvisoryAt is eachAdvisory for a list that need not fit into the memory: of an
// archive only one file at a time is.
func eachAdvisoryAt(name string, list io.ReaderAt, size int64, visit func(*advisory)) error {
	head := make([]byte, 4)
	if n, err := list.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return model.Errorf(model.Unavailable, "cannot read the list of vulnerabilities %s: %w", name, err)
	} else if zipped(head[:n]) {
		return eachAdvisoryZipped(name, list, size, visit)
	}
	if size > maxListed {
		return model.Errorf(model.Invalid, "cannot read the list of vulnerabilities %s: it is larger than %d MiB", name, maxListed>>20).
			WithHint("a list that is larger is given as a zip archive or a directory of files, as https://osv.dev offers them")
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(list, 0, size), text); err != nil {
		return model.Errorf(model.Unavailable, "cannot read the list of vulnerabilities %s: %w", name, err)
	}
	return eachAdvisory(name, text, visit)
}

// zipped reports whether a list begins as a zip archive does (APPNOTE.TXT, 4.3.7 and
// 4.3.16).
func zipped(list []byte) bool {
	return bytes.HasPrefix(list, []byte("PK\x03\x04")) || bytes.HasPrefix(list, []byte("PK\x05\x06"))
}

func eachAdvisoryZipped(name string, list io.ReaderAt, size int64, visit func(*advisory)) error {
	z, err := zip.NewReader(list, size)
	if err != nil {
		return model.Errorf(model.Invalid, "cannot read the list of vulnerabilities %s: %w", name, err)
	}
	return eachAdvisoryIn(z, name+": ", visit)
}

// eachAdvisoryIn reads the files of a list whose names end in .json, in the order of
// their names.
func eachAdvisoryIn(files fs.FS, prefix string, visit func(*advisory)) error {
	some, total := false, int64(0)
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || path.Ext(p) != ".json" {
			return nil
		}
		some = true
		f, err := files.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxListed+1))
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if len(text) > maxListed {
			return fmt.Errorf("%s: it is larger than %d MiB", p, maxListed>>20)
		}
		if total += int64(len(text)); total > maxUnpacked {
			return fmt.Errorf("its files have more than %d GiB", maxUnpacked>>30)
		}
		return eachEntry(prefix+p, text, visit) // an archive in an archive could go on for ever
	})
	if _, ok := errors.AsType[*model.Error](err); ok {
		return err
	}
	list := strings.TrimSuffix(prefix, ": ")
	switch {
	case err != nil:
		return model.Errorf(model.Invalid, "cannot read the list of vulnerabilities %s: %w", list, err)
	case !some:
		return model.Errorf(model.Invalid, "cannot read the list of vulnerabilities %s: there is no file in it whose name ends in .json", list)
	}
	return nil
}

// position says where in a list its JSON is wrong: NAME:LINE:COLUMN, both counted
// from 1, columns in bytes.
func position(name string, list []byte, err error) error {
	at := int64(len(list))
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = e.Offset
	} else if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at = e.Offset
		err = fmt.Errorf("%s is a %s, which it cannot be", e.Field, e.Value)
	}
	before := list[:min(max(at-1, 0), int64(len(list)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return model.Errorf(model.Invalid, "%s:%d:%d: cannot read the list of vulnerabilities: %w", name, line, column, err)
}
