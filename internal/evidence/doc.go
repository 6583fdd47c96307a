// Package evidence keeps what ended servers, and sessions in them, leave for
// the root cause: one archive each (a tar, compressed with zstd), named by the
// digest of its bytes, which the journal points to.
//
// Keeping evidence never holds up the end of a server. The archives have a
// bound of their own, in which the oldest make room for the newest; what is
// removed is announced first. A reserve file is given up when the disk is full.
// What still cannot be kept is said in the death record.
//
// What is secret is taken out before it is written, as well as can be done
// (Redactor).
package evidence
