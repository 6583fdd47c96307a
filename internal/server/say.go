package server

import "kiln/internal/model"

// InWords says what an event means in one sentence, and which service it is
// about ("" for none).
func InWords(e model.Event) (service, text string) { return inWords(e) }
