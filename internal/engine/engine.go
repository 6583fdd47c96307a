// Package engine is the port to whatever runs servers: a machine's containerd,
// a cluster, or memory. Everything above it knows servers only through it.
package engine

import (
	"context"
	"io"
	"net"
	"time"

	"kiln/internal/model"
)

// Engine runs servers. Its implementations pass package enginetest.
//
// # Identity and epochs
//
// A server is named by its id, chosen by the caller and never used again.
// Each mutation carries the epoch of the writer that asks for it (Ref). An
// engine remembers the highest epoch it has seen, durably, and refuses a
// mutation with a lower one with model.Conflict: a daemon that was replaced
// while it slept changes nothing any more.
//
// # Errors
//
// Errors carry a model.Code. Invalid: the template can never run (its command
// or user does not exist in the image); Precondition, Conflict and NotFound as
// the methods say; Unavailable: not now, perhaps later. A context that ended,
// and Internal, mean that it is unknown whether the mutation happened: only
// Observe tells.
//
// # Concurrency
//
// All methods may be called at once, for different servers and for the same.
// Mutations of one server are carried out one after the other.
type Engine interface {
	// Observe returns a complete snapshot of everything that bears the
	// instance's mark, orphans and capacity included. A partial answer is an
	// error. What is absent from it does not exist. Reading the capacity of
	// the machine and the state of a hundred servers takes milliseconds: it is
	// called after every hint and at least every second.
	Observe(ctx context.Context) (*model.Snapshot, error)

	// Prepare makes the image present, verified and pinned, so that Provision
	// needs nothing more than what is here. NotFound: the image is not to be
	// had. Precondition: its bytes are not those of its digest. The same again is
	// cheap, and notices what was changed meanwhile.
	Prepare(ctx context.Context, image model.Digest) error

	// Provision makes a server with its own address, host name and read-only
	// root, and starts it. It returns when the start was accepted; Observe
	// shows it Starting, then Running, then Exited. The same id with the same
	// template again is a no-op, also when it has exited; with a different
	// template it is a Conflict. The values that the template only names come
	// from the engine's Vault. Invalid: the image has no such user or command.
	// Precondition: the image was not prepared, or its bytes are not those of its
	// digest any more, or a value is not to be had. What fails leaves nothing
	// behind.
	Provision(ctx context.Context, ref Ref, t model.Template) error

	// Stop sends the signal ("" is the image's, else SIGTERM), waits for at
	// most grace, then kills. It returns when the server's main process has
	// ended; its remains are kept. One that has ended or is absent: no error.
	Stop(ctx context.Context, ref Ref, signal string, grace time.Duration) error

	// Collect returns evidence of a server, alive or dead: what of it can be
	// had, with words for what could not. NotFound: it is absent.
	Collect(ctx context.Context, ref Ref) (*Evidence, error)

	// Destroy removes everything of the server: process, file system, network,
	// control group, logs. Absent is done. Running is a Precondition failure:
	// it has to be stopped first.
	Destroy(ctx context.Context, ref Ref) error

	// Exec runs a command in a running server, with the server's user,
	// environment and limits, and returns when it has ended or ctx has; it
	// then leaves no process behind. Precondition: the server does not run.
	// Invalid: there is no such command.
	Exec(ctx context.Context, ref Ref, x Exec) (ExecResult, error)
}

// Ref names a server and the writer who speaks of it.
type Ref struct {
	Epoch uint64
	ID    model.ServerID
}

// Vault is where an engine has the values from that templates only name. They are
// asked for at each start, and kept by the engine as long as the server is
// there, in memory alone.
type Vault interface {
	// Secret returns the value of a service's secret. Precondition: it is not kept.
	Secret(ctx context.Context, service string, ref model.SecretRef) ([]byte, error)
	// Config returns the content of a configuration file, likewise.
	Config(ctx context.Context, ref model.ConfigRef) ([]byte, error)
}

// Exec is a command to run in a server.
type Exec struct {
	Command []string // its first word is looked up in the server's PATH
	Limit   int64    // bytes of output that are kept, the last ones; 0: 64 KiB
}

// ExecResult is how it ended.
type ExecResult struct {
	Code   int
	Output []byte // standard output and error, in the order they came
}

// Evidence is what a server leaves for the root cause.
type Evidence struct {
	Observed  model.Observed `json:"observed"`
	Log       []LogLine      `json:"log"`     // the last lines, at most 1,000 or 256 KiB
	Changes   []Change       `json:"changes"` // of its file system against the image
	Processes []Process      `json:"processes,omitempty"`
	Listening []Socket       `json:"listening,omitempty"`
	Sockets   []Socket       `json:"sockets,omitempty"` // all of its network namespace, the listening ones too, at most 1,000
	Kernel    []string       `json:"kernel,omitempty"`  // lines of the kernel's log that name it, oldest first
	Stats     *Stats         `json:"stats,omitempty"`   // the last sample that was taken
	// Environment is that of its processes, NAME=VALUE, secrets included: it is
	// for whoever redacts the rest, and is itself kept redacted only.
	Environment []string `json:"environment,omitempty"`
	// Secrets are the values that the server was given: they are to be found in
	// the rest, and are themselves kept nowhere.
	Secrets []string `json:"-"`
	Missing []string `json:"missing,omitempty"`
}

// Stats is a sample of what a server uses.
type Stats struct {
	At        time.Time `json:"at"`
	Memory    int64     `json:"memory"`     // bytes
	CPUMicros int64     `json:"cpu_micros"` // since its start
	PIDs      int64     `json:"pids"`
}

// StreamKiln is the stream of what kiln itself remarks in a server's log: what
// could not be kept, and at its beginning what is not kept any more.
const StreamKiln = "kiln"

// LogLine is a line that a server wrote, stamped when it was written.
type LogLine struct {
	At     time.Time `json:"at"`
	Stream string    `json:"stream"` // "stdout", "stderr", or StreamKiln
	Text   string    `json:"text"`
}

// Change is a path that differs from the image.
type Change struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // "added", "changed" or "removed"
	Size int64  `json:"size,omitempty"`
}

// Process is a process of a server.
type Process struct {
	PID     int       `json:"pid"` // as the server sees it
	Command string    `json:"command"`
	Parent  int       `json:"parent,omitempty"` // as the server sees it; 0: none that it sees
	User    uint32    `json:"user"`             // as the host sees it
	State   string    `json:"state,omitempty"`  // as the kernel has it: "S (sleeping)"
	Memory  int64     `json:"memory,omitempty"` // bytes in memory
	Threads int       `json:"threads,omitempty"`
	Started time.Time `json:"started,omitzero"`
}

// Socket is a socket inside a server.
type Socket struct {
	Network string `json:"network"`          // "tcp" or "udp"; of Evidence.Sockets also "unix"
	Address string `json:"address"`          // IP:port as bound: 127.0.0.1:80 is not reachable from outside
	Remote  string `json:"remote,omitempty"` // of a connection
	State   string `json:"state,omitempty"`  // "established", "listening", …
}

// Watcher is implemented by engines that can hint. A value on the channel says
// that an observation is worth while; it is never a fact. The channel is
// closed when ctx ends.
type Watcher interface {
	Watch(ctx context.Context) <-chan struct{}
}

// Dialer is implemented by engines whose servers can be reached over a
// network. All probes go through it. The address is one that Observe gave,
// with a port.
type Dialer interface {
	DialServer(ctx context.Context, id model.ServerID, address string) (net.Conn, error)
}

// Logger is implemented by engines that keep what their servers write.
type Logger interface {
	// Logs writes the server's lines since the given time (zero: all) that are
	// kept, oldest first, to sink until it returns an error. With follow it
	// goes on until ctx ends or the server is gone. tail > 0: only the last so
	// many of the kept lines.
	Logs(ctx context.Context, id model.ServerID, opts LogOptions, sink func(LogLine) error) error
}

// LogOptions choose what Logger.Logs gives.
type LogOptions struct {
	Since  time.Time
	Tail   int
	Follow bool
}

// Confidant is implemented by engines that know which secrets a server was
// given, so that they can be found in what is kept of it.
type Confidant interface {
	// Secrets returns the values, as far as they are to be had.
	Secrets(ctx context.Context, id model.ServerID) []string
}

// Closer is implemented by engines that hold something of the machine.
type Closer interface {
	io.Closer
	// Purge removes what the instance has on the machine beside its data
	// directory: firewall table, links, control groups, namespaces, mounts.
	// Images and logs stay. No server may be left.
	Purge(ctx context.Context) error
}
