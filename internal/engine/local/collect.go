package local

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kiln/internal/engine"
	"kiln/internal/engine/local/logfile"
	"kiln/internal/model"
)

// Bounds of evidence.
const (
	evidenceLines   = 1000
	evidenceBytes   = 256 << 10
	evidenceChanges = 10000
)

// Collect implements engine.Engine.
func (e *Engine) Collect(ctx context.Context, ref engine.Ref) (*engine.Evidence, error) {
	s, r := e.lookup(ref.ID)
	if r == nil {
		return nil, model.Errorf(model.NotFound, "cannot collect evidence of %s: there is no such server", ref.ID)
	}
	if r.Exit != nil {
		// Its last lines are in the log when the logger has ended.
		_, _ = await(ctx, s.reaped, 2*time.Second)
	}
	evidence := &engine.Evidence{Observed: r.observed()}
	var err error
	if evidence.Log, err = e.lastLines(ctx, ref.ID); err != nil {
		evidence.Missing = append(evidence.Missing, fmt.Sprintf("log: %v", err))
	}
	if evidence.Changes, err = changes(r); err != nil {
		evidence.Missing = append(evidence.Missing, fmt.Sprintf("changes: %v", err))
	}
	if r.state() == model.Running {
		evidence.Processes = processes(e.cgroupDir(execController(), r.ID))
		if evidence.Listening, err = listening(r.Process.PID); err != nil {
			evidence.Missing = append(evidence.Missing, fmt.Sprintf("listening sockets: %v", err))
		}
		e.keepSample(s, r, time.Now())
	} else {
		evidence.Missing = append(evidence.Missing, "processes and listening sockets: the server had ended")
	}
	e.mu.Lock()
	evidence.Stats = s.stats
	e.mu.Unlock()
	return evidence, ctx.Err()
}

// lastLines returns the last lines of the log, within the bounds of evidence.
func (e *Engine) lastLines(ctx context.Context, id model.ServerID) ([]engine.LogLine, error) {
	var lines []engine.LogLine
	err := e.Logs(ctx, id, engine.LogOptions{Tail: evidenceLines}, func(l engine.LogLine) error {
		lines = append(lines, l)
		return nil
	})
	size := 0
	for i, l := range slices.Backward(lines) {
		if size += len(l.Text); size > evidenceBytes {
			return lines[i+1:], err
		}
	}
	return lines, err
}

// Logs implements engine.Logger.
func (e *Engine) Logs(ctx context.Context, id model.ServerID, o engine.LogOptions, sink func(engine.LogLine) error) error {
	if _, r := e.lookup(id); r == nil {
		return model.Errorf(model.NotFound, "cannot read the log of %s: there is no such server", id)
	}
	options := logfile.Options{Since: o.Since, Tail: o.Tail, Follow: o.Follow}
	return logfile.Read(ctx, e.logDir(id), options, func(l logfile.Line) error {
		return sink(engine.LogLine{At: l.At, Stream: l.Stream.String(), Text: l.Text})
	})
}

// changes lists what differs from the image: the server's own layer was empty
// when it started.
func changes(r *record) ([]engine.Change, error) {
	var found []engine.Change
	err := filepath.WalkDir(r.Upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := "/" + strings.TrimPrefix(strings.TrimPrefix(path, r.Upper), "/")
		if inside == "/" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		existed := inImage(r.Lowers, inside)
		change := engine.Change{Path: inside, Kind: "added"}
		switch {
		case isWhiteout(info):
			change.Kind = "removed"
		case d.IsDir() && existed:
			return nil // on the way to a change
		case existed:
			change.Kind = "changed"
		}
		if info.Mode().IsRegular() {
			change.Size = info.Size()
		}
		if found = append(found, change); len(found) >= evidenceChanges {
			return errTooMany
		}
		return nil
	})
	return found, err
}

var errTooMany = errors.New("there are more; these are the first")

// isWhiteout reports whether the overlay's entry says that something of the
// image was removed: it is a device with the number 0.
func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func inImage(lowers []string, path string) bool {
	return slices.ContainsFunc(lowers, func(lower string) bool {
		_, err := os.Lstat(filepath.Join(lower, path))
		return err == nil
	})
}

// processes lists the processes of a control group as the server sees them.
func processes(group string) []engine.Process {
	var found []engine.Process
	for _, pid := range processesIn(group) {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it has just ended
		}
		text := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		found = append(found, engine.Process{PID: insidePID(pid), Command: text})
	}
	slices.SortFunc(found, func(a, b engine.Process) int { return cmp.Compare(a.PID, b.PID) })
	return found
}

// insidePID returns the number that the process has in its innermost namespace.
func insidePID(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			words := strings.Fields(numbers)
			if len(words) == 0 {
				return 0
			}
			n, _ := strconv.Atoi(words[len(words)-1])
			return n
		}
	}
	return 0
}

// listening lists the sockets on which the network namespace of the process
// waits for others.
func listening(pid int) ([]engine.Socket, error) {
	// States as the kernel writes them: TCP_LISTEN, and for UDP not connected.
	tables := map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
	found := []engine.Socket{}
	for table, state := range tables {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(table, "6") {
			continue // a machine without IPv6
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if len(words) < 4 || words[3] != state {
				continue
			}
			if address, err := parseSocketAddress(words[1]); err == nil {
				found = append(found, engine.Socket{Network: strings.TrimSuffix(table, "6"), Address: address.String()})
			}
		}
	}
	slices.SortFunc(found, func(a, b engine.Socket) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Address, b.Address))
	})
	return slices.Compact(found), nil
}

// parseSocketAddress reads ADDRESS:PORT as in /proc/net/tcp: words of four bytes
// in the machine's order, in hexadecimal.
func parseSocketAddress(s string) (netip.AddrPort, error) {
	address, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("cannot understand %q", s)
	}
	b, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("cannot understand %q", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip, uint16(n)), err
}
