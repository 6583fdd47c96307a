// Package alert tells receivers what the journal says: webhooks and commands,
// declared in a file of their own.
//
// Each receiver follows the journal by itself, in order, from a cursor on disk. It
// tries again until what is to be told is told, or too old; then that is written
// down in the journal, and the next is tried. A receiver hears of everything at
// least once: after a crash the last may come a second time, with the same key.
package alert
