package keeper

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"kiln/internal/model"
)

const (
	outputMax   = 16 << 20 // of keeper.log; as much again in keeper.log.1
	outputEvery = 5 * time.Second
)

// output is the file to which the children write, directly: a pipe through the
// keeper would break with it.
type output struct{ f *os.File }

func openOutput(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot open the children's log: %w", err)
	}
	return &output{f}, nil
}

func (o *output) file() *os.File { return o.f }

func (o *output) close() { _ = o.f.Close() }

// bound keeps the file small until ctx ends. The children have it open for
// appending, so it is copied and emptied, not renamed.
func (o *output) bound(ctx context.Context) {
	t := time.NewTicker(outputEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if st, err := o.f.Stat(); err == nil && st.Size() > outputMax {
			o.turn(st.Size())
		}
	}
}

// turn keeps the end of the file as the predecessor and empties it, also when
// the copy fails: a full disk is no reason to go on filling it.
func (o *output) turn(size int64) {
	old, err := os.OpenFile(o.f.Name()+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = io.Copy(old, io.NewSectionReader(o.f, max(0, size-outputMax), outputMax))
		err = errors.Join(err, old.Close())
	}
	if err != nil {
		_ = os.Remove(o.f.Name() + ".1")
	}
	_ = o.f.Truncate(0)
}
