// Package evidence keeps what ended servers leave for the root cause: one
// compressed archive each, named by the digest of its bytes, which the death
// record in the journal points to.
//
// Keeping evidence never holds up the end of a server. The archives have a
// quota of their own, in which the oldest make room for the newest. A reserve
// file is given up when the disk is full. What still cannot be kept is said in
// the death record.
package evidence
