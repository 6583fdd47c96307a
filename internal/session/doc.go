// Package session runs the terminals that people open in servers: hotfixes, in
// which the server's root is writable for the session alone, and shells, in
// which it is not.
//
// A session is in the journal before it begins: from then on its server is
// tainted, and an identical one takes its place before the session's time is
// up. What is written to the terminal is recorded (asciicast v2). When the
// session ends, by its command, its client, its time or the daemon, the
// recording, what has changed in the server, and the lines of a Containerfile
// that would make that part of the next image are kept in one archive of the
// evidence, which the journal points to.
package session
