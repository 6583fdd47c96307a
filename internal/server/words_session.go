package server

import (
	"fmt"
	"time"

	"kiln/internal/model"
)

// sessionInWords says what an event about a terminal in a server means; false
// for other events.
func sessionInWords(p model.Payload) (service, text string, known bool) {
	switch p := p.(type) {
	case model.SessionOpened:
		x := p.Session
		text = fmt.Sprintf("%s %s in %s by %s, which is tainted and replaced within %s", x.Kind, x.ID, x.Server, x.By, x.Until.Sub(x.Opened).Round(time.Second))
		if x.OutOfRotation {
			text += ", out of rotation until then"
		}
		return x.Server.Service(), because(text, x.Reason), true
	case model.SessionExtended:
		return p.Server.Service(), because(fmt.Sprintf("%s gives session %s in %s more time", p.By, p.ID, p.Server), p.Reason), true
	case model.SessionEnded:
		e := p.End
		text = fmt.Sprintf("session %s in %s has ended: %s; %d files added, %d changed, %d removed", p.ID, p.Server, e.How, e.Added, e.Changed, e.Removed)
		return p.Server.Service(), text, true
	default:
		return "", "", false
	}
}
