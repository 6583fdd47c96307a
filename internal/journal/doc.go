// Package journal keeps the event log that is the truth of a kiln: append-only,
// hash-chained, durable before it is acknowledged. State is its fold.
//
// # What is on disk
//
// A journal is a directory that belongs to one process at a time (file lock):
//
//	journal.db    events (seq, hash, raw) and snapshots of the fold; SQLite, WAL, synchronous=FULL
//	journal.head  the last acknowledged {seq, hash}, written after the events and before the acknowledgement
//	heads.log     every thousandth head, signed
//	key, key.pub  the Ed25519 key that signs them, made when the journal is
//	reserve       room that is given up when the disk is full
//	lock          the lock, with the process id of its holder
//
// raw is the stored JSON of an event, and hash is SHA-256(previous hash ‖ raw);
// the hash before the first event is 32 zero bytes.
//
// # Why a second file holds the head
//
// SQLite drops a damaged tail of its write-ahead log without a word, and a
// chain alone shows neither a cut tail nor a full rewrite. journal.head shows
// the first, the signed heads (which also go to whoever listens, usually
// standard error) show the second.
//
// # The order of an append
//
// Check and fold in memory; commit to SQLite (durable); signed head, if one is
// due (durable); journal.head (durable); acknowledge. A crash in between leaves
// a journal that is longer than its head: events that were never acknowledged,
// and yet happened. They are kept. A journal that is shorter than its head, or
// different, is refused.
package journal
