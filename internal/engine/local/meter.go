package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Usage implements engine.Meter. It reads a few files of each server's control
// groups and, once for all of them, what went over the machine's links: no
// process is started and containerd is not asked.
func (e *Engine) Usage(ctx context.Context) (map[model.ServerID]engine.Usage, error) {
	// Not of the process: its first thread may have been left in the network
	// namespace of a server, where no goroutine uses it any more.
	links, err := readLinks("/proc/thread-self/net/dev")
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot measure the servers: %w", err)
	}
	e.mu.Lock()
	var running []model.ServerID
	for id, s := range e.servers {
		if s.record.state() == model.Running && !s.record.Trial {
			running = append(running, id)
		}
	}
	e.mu.Unlock()
	usage := make(map[model.ServerID]engine.Usage, len(running))
	for _, id := range running {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		u, ok := e.usage(id)
		if !ok {
			continue // it has just ended
		}
		// What the machine's end of the link receives is what the server sends.
		l := links[e.link(id)]
		u.SentBytes, u.ReceivedBytes = l.received, l.sent
		usage[id] = u
	}
	return usage, nil
}

// usage reads the server's control groups; false when they are gone.
func (c Config) usage(id model.ServerID) (engine.Usage, bool) {
	if unified() {
		return usageUnified(c.cgroupDir("", id))
	}
	return usageSplit(func(controller string) string { return c.cgroupDir(controller, id) })
}

// usageUnified reads a control group of version 2.
func usageUnified(dir string) (engine.Usage, bool) {
	u := engine.Usage{At: time.Now().UTC()}
	current, ok := readCount(filepath.Join(dir, "memory.current"))
	if !ok {
		return u, false
	}
	u.Memory = max(0, current-readKeyed(filepath.Join(dir, "memory.stat"), "inactive_file"))
	u.MemoryLimit, _ = readCount(filepath.Join(dir, "memory.max")) // "max" is no number: no limit
	u.OOMKills = readKeyed(filepath.Join(dir, "memory.events"), "oom_kill")
	cpu := readAll(filepath.Join(dir, "cpu.stat"))
	u.CPU = time.Duration(keyed(cpu, "usage_usec")) * time.Microsecond
	u.Throttled = time.Duration(keyed(cpu, "throttled_usec")) * time.Microsecond
	u.PIDs, _ = readCount(filepath.Join(dir, "pids.current"))
	for word := range bytes.FieldsSeq(readAll(filepath.Join(dir, "io.stat"))) {
		key, value, _ := strings.Cut(string(word), "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "rbytes":
			u.ReadBytes += n
		case "wbytes":
			u.WrittenBytes += n
		}
	}
	return u, true
}

// noLimit is from where on a limit of version 1 is none: the largest number of
// pages that there can be.
const noLimit = 1 << 62

// usageSplit reads control groups of version 1, a directory for each controller.
func usageSplit(dir func(controller string) string) (engine.Usage, bool) {
	u := engine.Usage{At: time.Now().UTC()}
	memory := dir("memory")
	current, ok := readCount(filepath.Join(memory, "memory.usage_in_bytes"))
	if !ok {
		return u, false
	}
	u.Memory = max(0, current-readKeyed(filepath.Join(memory, "memory.stat"), "total_inactive_file"))
	if limit, _ := readCount(filepath.Join(memory, "memory.limit_in_bytes")); limit < noLimit {
		u.MemoryLimit = limit
	}
	u.OOMKills = readKeyed(filepath.Join(memory, "memory.oom_control"), "oom_kill")
	nanos, _ := readCount(filepath.Join(dir("cpuacct"), "cpuacct.usage"))
	u.CPU = time.Duration(nanos)
	u.Throttled = time.Duration(readKeyed(filepath.Join(dir("cpu"), "cpu.stat"), "throttled_time"))
	u.PIDs, _ = readCount(filepath.Join(dir("pids"), "pids.current"))
	u.ReadBytes, u.WrittenBytes = blockBytes(readAll(filepath.Join(dir("blkio"), "blkio.throttle.io_service_bytes")))
	return u, true
}

// blockBytes sums the lines "8:0 Read 4096" of a control group of version 1.
func blockBytes(text []byte) (read, written int64) {
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue // the total
		}
		n, _ := strconv.ParseInt(words[2], 10, 64)
		switch words[1] {
		case "Read":
			read += n
		case "Write":
			written += n
		}
	}
	return read, written
}

// linkBytes is what went over a link, seen from the machine.
type linkBytes struct{ received, sent int64 }

// readLinks reads the kernel's table of links.
func readLinks(path string) (map[string]linkBytes, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	links := map[string]linkBytes{}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if !ok || len(words) < 9 {
			continue // the head of the table
		}
		received, err := strconv.ParseInt(words[0], 10, 64)
		sent, err2 := strconv.ParseInt(words[8], 10, 64)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("cannot understand %s: %w", path, err)
		}
		links[strings.TrimSpace(name)] = linkBytes{received, sent}
	}
	return links, nil
}

// readAll returns what the file holds; nothing when it cannot be read: not every
// kernel has every controller.
func readAll(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return b
}
