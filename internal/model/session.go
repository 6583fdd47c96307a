package model

import "time"

// SessionID is s-xxxxxx, six of [a-z2-7].
type SessionID string

// SessionKind says what a session may do.
type SessionKind string

// The kinds of sessions. Both taint their server.
const (
	SessionHotfix SessionKind = "hotfix" // the server's root is writable, for the session alone
	SessionShell  SessionKind = "shell"  // nothing is writable that was not before
)

// MaxExtensions is how often the time of a hotfix can be extended.
const MaxExtensions = 2

// Session is a terminal that somebody opened in a server.
type Session struct {
	ID            SessionID   `json:"id"`
	Server        ServerID    `json:"server"`
	Kind          SessionKind `json:"kind"`
	By            string      `json:"by"`
	Reason        string      `json:"reason"`
	Command       []string    `json:"command,omitempty"` // empty: a shell
	OutOfRotation bool        `json:"out_of_rotation,omitempty"`
	OpenedAt      time.Time   `json:"opened_at"`
	Opened        Instant     `json:"opened"`
	Until         Instant     `json:"until"` // the server is gone by then
	Extensions    []Extension `json:"extensions,omitempty"`
	Ended         *SessionEnd `json:"ended,omitempty"` // nil: it is open
}

// Extension is more time for a hotfix.
type Extension struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Until  Instant   `json:"until"`
}

// SessionEnd is how a session ended, and what it leaves. The recording and the
// changes are in one archive of the evidence, named by its digest.
type SessionEnd struct {
	At       time.Time `json:"at"`
	How      string    `json:"how"`            // "exit status 0", "the client vanished", "the daemon ended", …
	Exit     *int      `json:"exit,omitempty"` // of the command
	Evidence string    `json:"evidence,omitempty"`
	Added    int       `json:"added"` // files
	Changed  int       `json:"changed"`
	Removed  int       `json:"removed"`
	Missing  []string  `json:"missing,omitempty"` // what could not be had, in words
}

// Taint says that somebody had a terminal in the server. It never goes away.
type Taint struct {
	Since    Instant     `json:"since"`
	Kind     SessionKind `json:"kind"` // hotfix, if any of its sessions was one
	Sessions int         `json:"sessions"`
	Session  SessionID   `json:"session"` // the latest
	By       string      `json:"by"`
	Reason   string      `json:"reason"`
}
