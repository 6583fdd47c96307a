package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// restore puts the journal back as it was at the backup; the world stays. A
// daemon takes over.
func (w *world) restore() {
	from := w.saved
	w.s = clone(from)
	w.s.Epoch += 1000
	w.append("kiln", model.JournalRestored{Seq: from.Seq})
	fmt.Fprintf(&w.out, "the journal ends with event %d\n", from.Seq)
	w.restart(w.now.BootID)
}
