package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

const followInterval = 100 * time.Millisecond

// Options choose what Read gives.
type Options struct {
	Since  time.Time // zero: everything that is kept
	Tail   int       // > 0: only the last so many lines of that
	Follow bool      // go on until the context ends or the directory is gone
}

// Read passes the kept lines of dir to sink, oldest first, until sink returns
// an error, which it returns. A directory without a log has no lines.
func Read(ctx context.Context, dir string, o Options, sink func(Line) error) error {
	r := &reader{dir: dir}
	defer r.close()
	if err := r.openFirst(); err != nil {
		return err
	}
	var last []Line
	emit := func(l Line) error {
		if l.At.Before(o.Since) {
			return nil
		}
		if o.Tail <= 0 {
			return sink(l)
		}
		if last = append(last, l); len(last) >= 2*o.Tail {
			last = append(last[:0], last[len(last)-o.Tail:]...)
		}
		return nil
	}
	if err := r.readAll(ctx, emit); err != nil {
		return err
	}
	for _, l := range last[max(0, len(last)-o.Tail):] {
		if err := sink(l); err != nil {
			return err
		}
	}
	if !o.Follow {
		return nil
	}
	return r.follow(ctx, func(l Line) error {
		if l.At.Before(o.Since) {
			return nil
		}
		return sink(l)
	})
}

// reader reads the two files of a directory as one, also while they are
// exchanged.
type reader struct {
	dir  string
	file *os.File      // nil: there is no log yet
	buf  *bufio.Reader // over file
	rest []byte        // of a line whose end is not there yet
	any  bool          // a line was read
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// openFirst opens the oldest file there is.
func (r *reader) openFirst() error {
	for _, path := range []string{previous(r.dir), current(r.dir)} {
		if err := r.open(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *reader) open(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	r.close()
	r.file, r.rest = f, nil
	if r.buf == nil {
		r.buf = bufio.NewReaderSize(f, 64<<10)
	} else {
		r.buf.Reset(f)
	}
	return nil
}

// readAll reads what is there now, through both files.
func (r *reader) readAll(ctx context.Context, emit func(Line) error) error {
	for {
		if r.file == nil {
			if err := r.open(current(r.dir)); err != nil {
				return ignoreAbsent(err)
			}
		}
		// Whether the file has a successor is asked before its end is read:
		// nothing is added to it once it has one.
		next := r.superseded()
		if err := r.readLines(ctx, emit); err != nil {
			return err
		}
		if !next {
			return nil
		}
		if err := r.open(current(r.dir)); err != nil {
			return ignoreAbsent(err)
		}
	}
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// superseded reports whether another file than the one being read is current.
func (r *reader) superseded() bool {
	mine, err := r.file.Stat()
	if err != nil {
		return false
	}
	theirs, err := os.Stat(current(r.dir))
	return err == nil && !os.SameFile(mine, theirs)
}

func (r *reader) readLines(ctx context.Context, emit func(Line) error) error {
	for {
		b, err := r.buf.ReadSlice('\n')
		switch {
		case err == nil:
			if r.rest != nil {
				b = append(r.rest, b...)
				r.rest = nil
			}
			if l, ok := r.line(b); ok {
				if err := emit(l); err != nil {
					return err
				}
			}
		case errors.Is(err, io.EOF):
			r.rest = append(r.rest, b...)
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			r.rest = append(r.rest, b...)
		default:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// line parses a line as it was written. The remark that a second file begins
// with is told where nothing before it was there to read.
func (r *reader) line(b []byte) (Line, bool) {
	l, ok := parseLine(bytes.TrimSuffix(b, []byte("\n")))
	if ok && l.Stream == before {
		l.Stream, ok = Kiln, !r.any
	}
	r.any = r.any || ok
	return l, ok
}

// follow goes on with what is written from now on.
func (r *reader) follow(ctx context.Context, emit func(Line) error) error {
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		gone := false
		if _, err := os.Stat(r.dir); errors.Is(err, fs.ErrNotExist) {
			gone = true
		}
		if err := r.readAll(ctx, emit); err != nil {
			return err
		}
		if gone {
			return nil
		}
	}
}
