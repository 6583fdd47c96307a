package contents

import (
	"bytes"
	"errors"
	"io"
	"os"

	"kiln/internal/model"
)

// spool keeps what has to be read out of order, in a file without a name: it is gone
// with the process, whatever becomes of that.
type spool struct {
	dir    string
	file   *os.File
	buffer []byte
	end    int64 // of what is kept; what comes after it is to be overwritten
}

// span is a part of a spool, or what one has had.
type span struct {
	from, size int64
	text       []byte // nil: it is in the spool
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "kiln-contents-")
	if err != nil {
		return nil, spoolError(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, spoolError(err)
	}
	return &spool{dir: dir, file: f, buffer: make([]byte, copyBuffer)}, nil
}

func (s *spool) close() { s.file.Close() }

// put copies r behind what is kept. It stays there until the next call, or for good
// after keep. The error is r's own, or says that the spool has no room.
func (s *spool) put(r io.Reader) (span, error) {
	w := spoolWriter{io.NewOffsetWriter(s.file, s.end)}
	n, err := io.CopyBuffer(w, onlyReader{r}, s.buffer)
	return span{from: s.end, size: n}, err
}

func (s *spool) keep(p span) { s.end = max(s.end, p.from+p.size) }

// open returns what a span has. It needs no closing.
func (s *spool) open(p span) *io.SectionReader {
	if p.text != nil {
		return io.NewSectionReader(bytes.NewReader(p.text), 0, p.size)
	}
	return io.NewSectionReader(s.file, p.from, p.size)
}

// spoolWriter tells the spool's errors from those of what is put into it.
type spoolWriter struct{ to *io.OffsetWriter }

func (w spoolWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		err = spoolError(err)
	}
	return n, err
}

func spoolError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return model.Errorf(model.Internal, "cannot look into the image: %w", err)
	}
	e := model.Errorf(model.Unavailable, "cannot look into the image: there is no place for a moment's file: %w", err)
	if hint := model.Exhausted(err); hint != "" {
		return e.WithHint("%s", hint)
	}
	return e
}
