package logfile

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// writer appends whole lines to the files of a directory and keeps them within
// their bounds. What it cannot write it drops and counts, and says so in the log
// as soon as that can be written. It is not safe for concurrent use.
type writer struct {
	dir     string
	file    *os.File
	size    int64 // of the file
	past    int64 // bytes of the files before it
	dropped struct {
		lines, bytes int
		why          error
	}
}

// write appends encoded lines. It never fails: see writer.
func (w *writer) write(lines []byte) {
	if w.dropped.lines > 0 {
		note := fmt.Sprintf("kiln: %d lines (%d bytes) could not be kept: %v", w.dropped.lines, w.dropped.bytes, w.dropped.why)
		if err := w.append(appendLine(nil, time.Now(), Kiln, []byte(note))); err != nil {
			w.lose(bytes.Count(lines, []byte("\n")), len(lines), err)
			return
		}
		w.dropped.lines, w.dropped.bytes, w.dropped.why = 0, 0, nil
	}
	if err := w.append(lines); err != nil {
		w.lose(bytes.Count(lines, []byte("\n")), len(lines), err)
	}
}

// lose counts lines that are not kept.
func (w *writer) lose(lines, bytes int, why error) {
	if lines == 0 {
		return
	}
	w.dropped.lines += lines
	w.dropped.bytes += bytes
	w.dropped.why = why
}

// append writes all of the lines or nothing.
func (w *writer) append(lines []byte) error {
	if err := w.open(); err != nil {
		return err
	}
	if w.size == 0 && w.past > 0 {
		note := fmt.Sprintf("kiln: %d bytes were written before this line and are not kept", w.past)
		lines = append(appendLine(nil, time.Now(), before, []byte(note)), lines...)
	}
	n, err := w.file.Write(lines)
	if err != nil {
		if n > 0 { // half a line would spoil the next
			_ = w.file.Truncate(w.size)
		}
		return err
	}
	w.size += int64(n)
	return nil
}

// open makes w.file the file to append to, a fresh one when the last is full.
func (w *writer) open() error {
	if w.file != nil && w.size < maxFile {
		return nil
	}
	if w.file != nil {
		if err := os.Rename(current(w.dir), previous(w.dir)); err != nil && !os.IsNotExist(err) {
			return err
		}
		_ = w.file.Close()
		w.file, w.past = nil, w.past+w.size
	}
	f, err := os.OpenFile(current(w.dir), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	w.file, w.size = f, info.Size()
	return nil
}
