package engine

import (
	"context"
	"io"
	"io/fs"
	"time"

	"kiln/internal/model"
)

// Inspector is implemented by engines that can tell whether a server still is
// what its template says.
type Inspector interface {
	// Inspect compares a running server with its template and returns what
	// differs; nothing means that it is its template, as far as depth looks.
	// NotFound: the server is absent. Unavailable: part of it could not be
	// looked at, which says nothing.
	Inspect(ctx context.Context, id model.ServerID, depth Depth) ([]model.Finding, error)
	// InspectFleet looks at what belongs to no server: foreign tasks and
	// snapshots, the firewall, the links.
	InspectFleet(ctx context.Context) ([]model.Finding, error)
}

// Depth is how closely Inspect looks.
type Depth int

// The depths.
const (
	Glance  Depth = iota // what events have told, processes, configuration; the layers by stat
	Whole                // every byte of the layers as well
	Patient              // the same, read so slowly that nobody notices
)

// Sentinel is implemented by engines that hear of some drift at once. A value on
// the channel says that an inspection of the server ("": of the fleet) is worth
// while; it is never a fact. The channel is closed when ctx ends.
type Sentinel interface {
	Alarms(ctx context.Context) <-chan model.ServerID
}

// Mender is implemented by engines that can make what belongs to no server as
// it should be: the firewall, the links. It never touches a server.
type Mender interface {
	Mend(ctx context.Context) error
}

// Disturber is implemented by engines that can disturb a server on purpose.
type Disturber interface {
	// Disturb does it and returns when it is in force. Disturbances that last
	// end by themselves after d.Lasts, also when nobody asks any more.
	// Precondition: the server does not run. Invalid: the engine cannot do
	// this kind.
	Disturb(ctx context.Context, ref Ref, d model.Disturbance) error
	// Calm undoes whatever disturbs the server. None, or no server: no error.
	Calm(ctx context.Context, ref Ref) error
}

// Shells is implemented by engines that can give a person a terminal in a
// running server.
type Shells interface {
	// Runnable reports whether Shell could run the command now, by its errors.
	Runnable(ctx context.Context, id model.ServerID, command []string) error
	// Shell runs a command in the server, with its environment and limits, and
	// returns its exit status when it has ended or ctx has; it then leaves no
	// process of it behind. Nor does it where the engine's own process ends.
	// What it started is in a control group of its own, named after the session.
	// Precondition: the server does not run. Invalid: there is no such command.
	Shell(ctx context.Context, ref Ref, sh Shell) (code int, err error)
}

// Shell is a command on a terminal, or without one.
type Shell struct {
	Session  model.SessionID // what its processes are marked with
	Command  []string        // empty: the first of bash, sh that there is
	Writable bool            // it sees the server's root writable, in a mount namespace of its own
	Root     bool            // as the server's user 0; else as whom its own processes run
	TTY      bool
	Term     string // of the person's terminal: TERM
	Size     WindowSize
	Resize   <-chan WindowSize
	Signals  <-chan string // names without SIG, for commands without a terminal
	Stdin    io.Reader     // read until its end, or the command's
	Stdout   io.Writer
	Stderr   io.Writer // nil with TTY
}

// Differ is implemented by engines that can tell how a server's root differs
// from its image, down to what is in the files.
type Differ interface {
	// Differences lists them in the order of their paths, at most limit of them;
	// more says how many there are beyond. NotFound: the server is absent.
	Differences(ctx context.Context, id model.ServerID, limit int) (found []Difference, more int, err error)
}

// Difference is one path in a server that is not what it is in its image.
type Difference struct {
	Change
	Mode   fs.FileMode // with its type; 0: it was removed
	UID    uint32      // as the server sees it
	GID    uint32
	Target string // of a symbolic link
	// Stamp is another one whenever the path was changed again.
	Stamp string
	// Open reads what the file holds, Before what it holds in the image; nil
	// where it is no regular file there, or is not there at all.
	Open   func() (io.ReadCloser, error)
	Before func() (io.ReadCloser, error)
}

// WindowSize is that of a terminal, in characters.
type WindowSize struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// Meter is implemented by engines that measure what servers use.
type Meter interface {
	// Usage returns the present figures of every running server.
	Usage(ctx context.Context) (map[model.ServerID]Usage, error)
}

// Usage is what a server has used since its start, and uses now.
type Usage struct {
	At            time.Time
	CPU           time.Duration // user and system time
	Throttled     time.Duration // time it waited for its CPU limit
	Memory        int64         // bytes, page cache that could be dropped not counted
	MemoryLimit   int64         // bytes; 0: none
	OOMKills      int64         // processes killed at the memory limit
	PIDs          int64
	ReadBytes     int64 // from block devices
	WrittenBytes  int64
	ReceivedBytes int64 // over its link
	SentBytes     int64
}

// Inventory is implemented by whatever keeps objects that retention may remove.
type Inventory interface {
	// Objects lists all that is kept, whatever uses it.
	Objects(ctx context.Context) ([]model.Object, error)
	// Remove removes one. Absent is done. Precondition: something uses it now.
	Remove(ctx context.Context, o model.Object) error
}

// Volumes is implemented by engines whose servers can have volumes. A volume
// is made by Provision of the first server whose template names it.
type Volumes interface {
	// ObserveVolumes lists the volumes that exist and the snapshots of each.
	ObserveVolumes(ctx context.Context) ([]VolumeObserved, error)
	// SnapshotVolume makes a snapshot. Precondition: the file system cannot.
	SnapshotVolume(ctx context.Context, service, name, id string) error
	// RestoreVolume makes the volume what the snapshot is. Precondition: a
	// server has the volume.
	RestoreVolume(ctx context.Context, service, name, id string) error
	// RemoveVolume removes it with its snapshots, or with id just that one.
	// Precondition: a server has it.
	RemoveVolume(ctx context.Context, service, name, id string) error
	// ExportVolume writes the content as a tar archive, from a snapshot where
	// one can be made; ImportVolume makes the content what the archive says.
	ExportVolume(ctx context.Context, service, name string, w io.Writer) error
	ImportVolume(ctx context.Context, service, name string, r io.Reader) error
}

// VolumeObserved is a volume as the engine sees it.
type VolumeObserved struct {
	Service   string
	Name      string
	Path      string // on the host
	Used      int64  // bytes
	Free      int64  // bytes, of its bound or of the file system
	Servers   []model.ServerID
	Snapshots []string // ids
	CanCopy   bool     // snapshots can be made
	Bounded   bool     // its size is enforced
}
