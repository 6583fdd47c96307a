package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what is kept of the kernel's log.
const (
	kernelKept  = 500 // lines
	kernelBlock = 120 // lines that the report of one lack of memory may have
)

// kernelLine is a message of the kernel.
type kernelLine struct {
	at   time.Duration // of CLOCK_MONOTONIC, about
	text string
}

// naming is what names a server in the kernel's log.
type naming struct {
	id    string // as in the path of its control group
	link  string
	pids  []int     // as the host sees them
	since time.Time // numbers of processes before that were others'
}

// kernelLines returns the lines of the kernel's log that name the server.
func kernelLines(n naming) ([]string, error) {
	lines, err := readKernel()
	if err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	const slack = time.Second // the log's clock is not quite this one
	since := time.Duration(now.Nano()) - time.Since(n.since) - slack
	return n.among(lines, since), nil
}

// readKernel reads what the kernel still has of its log.
func readKernel() ([]kernelLine, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/kmsg", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var lines []kernelLine
	buf := make([]byte, 8<<10) // a message is never longer
	const most = 100_000
	for range most {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // overwritten while it was read: it goes on with the oldest
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return lines, nil
		case err != nil:
			return lines, os.NewSyscallError("read /dev/kmsg", err)
		}
		if l, ok := parseKernelLine(buf[:n]); ok {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// parseKernelLine reads "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT\n" with lines
// of keys after it.
func parseKernelLine(b []byte) (kernelLine, bool) {
	head, text, ok := bytes.Cut(b, []byte(";"))
	fields := bytes.Split(head, []byte(","))
	if !ok || len(fields) < 3 {
		return kernelLine{}, false
	}
	micros, err := strconv.ParseInt(string(fields[2]), 10, 64)
	text, _, _ = bytes.Cut(text, []byte("\n"))
	return kernelLine{at: time.Duration(micros) * time.Microsecond, text: string(text)}, err == nil
}

// among returns those of the lines that name the server, and whole the reports
// of a lack of memory that was its.
func (n naming) among(lines []kernelLine, since time.Duration) []string {
	names := n.pattern()
	wanted := map[int]bool{}
	began := -1 // the last report of a lack of memory
	for i, l := range lines {
		if strings.Contains(l.text, "invoked oom-killer") {
			began = i
		}
		if l.at < since || !names.MatchString(l.text) {
			continue
		}
		wanted[i] = true
		if strings.HasPrefix(l.text, "oom-kill:") && began >= 0 && i-began < kernelBlock {
			for j := began; j < i; j++ {
				wanted[j] = true
			}
			if i+1 < len(lines) && strings.Contains(lines[i+1].text, "Killed process") {
				wanted[i+1] = true
			}
		}
	}
	var found []string
	for i, l := range lines {
		if wanted[i] {
			found = append(found, fmt.Sprintf("[%5d.%06d] %s", l.at/time.Second, l.at%time.Second/time.Microsecond, l.text))
		}
	}
	return found[max(0, len(found)-kernelKept):]
}

// pattern matches the server's name, its link's, and the numbers of its
// processes where the kernel writes them: pid=7, PID: 7, process 7, app[7].
func (n naming) pattern() *regexp.Regexp {
	var numbers []string
	for _, pid := range n.pids {
		if pid > 1 {
			numbers = append(numbers, strconv.Itoa(pid))
		}
	}
	text := `(?:^|[^a-z0-9-])(?:` + regexp.QuoteMeta(n.id)
	if n.link != "" {
		text += "|" + regexp.QuoteMeta(n.link)
	}
	text += `)(?:[^a-z0-9-]|$)`
	if len(numbers) > 0 {
		slices.Sort(numbers)
		text += `|(?i:\bpid[=: ]+|\bprocess |\btask |[^\s\[]\[)(?:` + strings.Join(slices.Compact(numbers), "|") + `)\b`
	}
	return regexp.MustCompile(text)
}
