package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// journal.head has two slots, written in turn, so that a write torn by a crash
// leaves the other one. Each has a page of its own: no device tears both.
const (
	headName  = "journal.head"
	slotSize  = 4096
	slotCount = 2
)

// slotText is what a slot holds, as JSON, filled up with spaces.
type slotText struct {
	Head
	Sum string `json:"sum"`
}

func slotSum(h Head) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "kiln journal.head %d %s", h.Seq, h.Hash))
	return hex.EncodeToString(sum[:8])
}

func encodeSlot(h Head) []byte {
	b, err := json.Marshal(slotText{Head: h, Sum: slotSum(h)})
	if err != nil { // a number and two strings
		panic(err)
	}
	slot := bytes.Repeat([]byte{' '}, slotSize)
	copy(slot, b)
	slot[slotSize-1] = '\n'
	return slot
}

// decodeSlot is strict: any changed byte of a slot makes it invalid.
func decodeSlot(b []byte) (Head, bool) {
	var t slotText
	if err := json.Unmarshal(b, &t); err != nil {
		return Head{}, false
	}
	return t.Head, bytes.Equal(b, encodeSlot(t.Head))
}

func blankSlot() []byte {
	slot := bytes.Repeat([]byte{' '}, slotSize)
	slot[slotSize-1] = '\n'
	return slot
}

// headFile is journal.head as it was read.
type headFile struct {
	head    Head // the newest valid one
	slot    int  // that holds it
	missing bool // the file
	damaged bool // one slot, or both
	lost    bool // both slots are damaged, so that head means nothing
}

func readHead(dir string) (headFile, error) {
	b, err := os.ReadFile(filepath.Join(dir, headName))
	if errors.Is(err, fs.ErrNotExist) {
		return headFile{missing: true}, nil
	}
	if err != nil {
		return headFile{}, err
	}
	f := headFile{lost: true, damaged: len(b) != slotSize*slotCount}
	for i := range slotCount {
		slot := b[min(len(b), i*slotSize):min(len(b), (i+1)*slotSize)]
		head, ok := decodeSlot(slot)
		switch {
		case ok && (f.lost || head.Seq > f.head.Seq):
			f.head, f.slot, f.lost = head, i, false
		case !ok && !bytes.Equal(slot, blankSlot()):
			f.damaged = true
		}
	}
	return f, nil
}

// headWriter writes journal.head.
type headWriter struct {
	file *os.File
	next int // the slot that does not hold the newest head
}

// createHead makes journal.head of an empty journal.
func createHead(dir string) error {
	return writeFile(filepath.Join(dir, headName), append(encodeSlot(Head{}), blankSlot()...), 0o600)
}

func openHead(dir string, read headFile) (*headWriter, error) {
	f, err := os.OpenFile(filepath.Join(dir, headName), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &headWriter{file: f, next: (read.slot + 1) % slotCount}, nil
}

// write makes h the head, durably.
func (w *headWriter) write(h Head) error {
	if _, err := w.file.WriteAt(encodeSlot(h), int64(w.next*slotSize)); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(w.file.Fd())); err != nil {
		return err
	}
	w.next = (w.next + 1) % slotCount
	return nil
}

// writeFile makes a whole file appear at once and durably.
func writeFile(path string, content []byte, mode os.FileMode) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
