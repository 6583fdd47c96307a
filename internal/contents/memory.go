package contents

import (
	"archive/tar"
	"io"
	"maps"
	"strings"
	"sync"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// Memory keeps what was learned of layers: most images that are built have most of
// them from a base, which then is not read again for each. What it keeps is bounded,
// and what was not asked for the longest goes first. It may be used by several
// goroutines.
type Memory struct {
	mu     sync.Mutex
	layers map[model.Digest]*memories
	asked  uint64 // how often
	room   int    // that is taken
}

// The bounds of a Memory: some seven Debians, and less than 30 MiB.
const (
	maxMemory = 60_000 // entries, and one for every 256 bytes of text
	maxLayer  = 40_000 // the same, of one layer
	textUnit  = 256    // bytes
)

// memories are what was learned of a layer.
type memories struct {
	entries []memory
	size    int64 // that it unpacks to, in bytes
	room    int
	asked   uint64
}

// memory is an entry of a layer, and what was learned of its contents.
type memory struct {
	entry layers.Entry
	found *found
}

// add remembers an entry. It stops once there is more than is kept of a layer.
func (m *memories) add(from *spool, e *layers.Entry, f *found) error {
	if m.room > maxLayer {
		m.entries = nil
		return nil
	}
	m.room += 1 + (len(e.Path)+len(e.Linkname))/textUnit
	h := &tar.Header{
		Typeflag: e.Typeflag, Linkname: strings.Clone(e.Linkname), Size: e.Size, Mode: e.Mode, Uid: e.Uid, Gid: e.Gid,
		Devmajor: e.Devmajor, Devminor: e.Devminor,
	}
	for key, value := range e.PAXRecords {
		if strings.HasPrefix(key, attributePrefix) {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[key] = value
			m.room += (len(key) + len(value)) / textUnit
		}
	}
	if f != nil {
		own := *f
		for _, at := range own.spans() {
			m.room += int(at.size / textUnit)
			if m.room > maxLayer {
				return nil
			}
			text := make([]byte, at.size)
			if _, err := io.ReadFull(from.open(*at), text); err != nil {
				return spoolError(err)
			}
			at.text = text
		}
		m.room += len(own.packages)
		f = &own
	}
	m.entries = append(m.entries, memory{layers.Entry{Header: h, Path: strings.Clone(e.Path), Whiteout: e.Whiteout}, f})
	return nil
}

// spans are what a found has in the spool, to be changed: they become its own.
func (f *found) spans() (all []*span) {
	if f.release != nil {
		own := *f.release
		f.release = &own
		all = append(all, f.release)
	}
	if f.database != nil {
		own := *f.database
		f.database = &own
		all = append(all, &f.database.span)
	}
	return all
}

// replay applies the layer's entries as when they were read.
func (m *memories) replay(to *tree, l layers.Layer) error {
	for _, known := range m.entries {
		e := known.entry
		e.Layer = l
		if err := to.add(&e, func(*layers.Entry, io.Reader) (*found, error) { return known.found, nil }); err != nil {
			return model.Errorf(model.Invalid, "cannot read %s: entry %q: %w", l, known.entry.Path, err)
		}
	}
	return nil
}

// recall returns what is known of a layer, or nil.
func (m *Memory) recall(l layers.Layer) *memories {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.layers[l.Digest]
	if known != nil {
		m.asked++
		known.asked = m.asked
	}
	return known
}

// keep remembers a layer that was read to its end.
func (m *Memory) keep(l layers.Layer, learned *memories) {
	if m == nil || learned.room > maxLayer {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.layers == nil {
		m.layers = map[model.Digest]*memories{}
	}
	if m.layers[l.Digest] != nil {
		return
	}
	m.asked++
	learned.asked = m.asked
	m.layers[l.Digest] = learned
	for m.room += learned.room; m.room > maxMemory; {
		oldest := l.Digest
		for d := range maps.Keys(m.layers) {
			if m.layers[d].asked < m.layers[oldest].asked {
				oldest = d
			}
		}
		m.room -= m.layers[oldest].room
		delete(m.layers, oldest)
	}
}
