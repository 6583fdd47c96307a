package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// How often all processes of the machine are looked at: what joins a server and
// runs no program there is told by no event.
const (
	walkEvery        = 2 * time.Second
	walkEveryBesides = 10 * time.Second // where the kernel tells of programs that begin
)

// surveyFresh is how old the list of servers may be that programs are judged by:
// a machine that builds starts hundreds a second.
const surveyFresh = 500 * time.Millisecond

// Alarms implements engine.Sentinel. What is told at once: a change in a server's
// own layer (inotify), and a process that begins to run a program in a
// server's control group or namespaces (the kernel's process events). Where the
// kernel does not tell of processes they are looked at every two seconds.
func (e *Engine) Alarms(ctx context.Context) <-chan model.ServerID {
	out := make(chan model.ServerID)
	a := &alarms{e: e, pending: map[model.ServerID]bool{}, some: make(chan struct{}, 1)}
	var running sync.WaitGroup
	running.Go(func() { a.give(ctx, out) })
	running.Go(func() { a.uppers(ctx) })
	running.Go(func() { a.processes(ctx) })
	running.Go(func() { a.network(ctx) })
	go func() {
		running.Wait()
		close(out)
	}()
	return out
}

// alarms are those that nobody has taken yet, each once.
type alarms struct {
	e    *Engine
	some chan struct{}

	mu      sync.Mutex
	pending map[model.ServerID]bool
}

func (a *alarms) raise(ids ...model.ServerID) {
	a.mu.Lock()
	for _, id := range ids {
		a.pending[id] = true
	}
	a.mu.Unlock()
	select {
	case a.some <- struct{}{}:
	default:
	}
}

func (a *alarms) take() []model.ServerID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []model.ServerID
	for id := range a.pending {
		all = append(all, id)
	}
	clear(a.pending)
	return all
}

func (a *alarms) give(ctx context.Context, out chan<- model.ServerID) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.some:
		}
		for _, id := range a.take() {
			select {
			case <-ctx.Done():
				return
			case out <- id:
			}
		}
	}
}

// processes looks at programs that begin, and at all processes in turn.
func (a *alarms) processes(ctx context.Context) {
	every := walkEveryBesides
	events, err := openProcessEvents()
	if err != nil {
		every = walkEvery
		a.e.Log.Info("the kernel does not tell of processes; they are looked at in turn", "every", every, "error", err)
	}
	var reading sync.WaitGroup
	if events != nil {
		reading.Go(func() { a.programs(events) })
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			a.walk()
		}
	}
	if events != nil {
		_ = events.Close() // ends the reading
	}
	reading.Wait()
}

// walk looks at all processes, and raises an alarm where that shows something.
func (a *alarms) walk() {
	news, err := a.e.walk(time.Now())
	if err != nil {
		a.e.Log.Warn("cannot look at the processes of servers", "error", err)
	}
	a.raise(news...)
}

// programs judges what begins to run a program.
func (a *alarms) programs(events *os.File) {
	buffer := make([]byte, 64<<10)
	var known *survey
	var since time.Time
	var changes uint64
	for {
		n, err := events.Read(buffer)
		if errors.Is(err, unix.ENOBUFS) {
			a.walk() // some were lost
			continue
		}
		if err != nil {
			return // closed
		}
		pids := execsIn(buffer[:n])
		if len(pids) == 0 {
			continue
		}
		if now := a.e.drift.changes.Load(); now != changes || time.Since(since) > surveyFresh {
			changes, since = now, time.Now()
			known = a.e.survey()
		}
		if len(known.servers) == 0 {
			continue
		}
		for _, pid := range pids {
			if found := known.look(pid); len(found) > 0 {
				a.raise(a.e.noteStrangers(found)...)
			}
		}
	}
}

// The kernel's process events: linux/connector.h and linux/cn_proc.h.
const (
	cnIdxProc, cnValProc = 1, 1
	procListen           = 1
	procEventExec        = 2
	cnHeader             = unix.SizeofNlMsghdr + 20
	eventHeader          = 16 // what, cpu, time
)

// openProcessEvents asks the kernel to tell of every program that begins. Older
// kernels tell of more; that is passed over.
func openProcessEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("cannot open the kernel's connector: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc})
	if err == nil {
		err = unix.Sendto(fd, listenMessage(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot be told of processes: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20) // what is lost is looked for
	return os.NewFile(uintptr(fd), "processes"), nil
}

// listenMessage asks for events; since Linux 6.6 for those only that are wanted.
func listenMessage() []byte {
	size := 4
	if kernelAtLeast(6, 6) {
		size = 8
	}
	message := make([]byte, cnHeader+size)
	order := binary.NativeEndian
	order.PutUint32(message[0:], uint32(len(message)))
	order.PutUint16(message[4:], unix.NLMSG_DONE)
	order.PutUint32(message[16:], cnIdxProc)
	order.PutUint32(message[20:], cnValProc)
	order.PutUint16(message[32:], uint16(size))
	order.PutUint32(message[36:], procListen)
	if size == 8 {
		order.PutUint32(message[40:], procEventExec)
	}
	return message
}

func kernelAtLeast(major, minor int) bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var x, y int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &x, &y); err != nil {
		return false
	}
	return x > major || (x == major && y >= minor)
}

// execsIn returns the processes that began to run a program.
func execsIn(message []byte) []int {
	var pids []int
	order := binary.NativeEndian
	for len(message) >= cnHeader+eventHeader+8 {
		size := int(order.Uint32(message))
		if size < cnHeader+eventHeader+8 || size > len(message) {
			break
		}
		event := message[cnHeader:]
		if order.Uint32(event) == procEventExec {
			const tgid = eventHeader + 4
			pids = append(pids, int(order.Uint32(event[tgid:])))
		}
		message = message[min(len(message), (size+3)&^3):]
	}
	return pids
}

// network hears of changes to the instance's firewall and links.
func (a *alarms) network(ctx context.Context) {
	var reading sync.WaitGroup
	for _, source := range []struct {
		protocol int
		groups   uint32
		mark     string // that every message of interest contains
	}{
		{unix.NETLINK_NETFILTER, 1 << (unix.NFNLGRP_NFTABLES - 1), a.e.table()},
		{unix.NETLINK_ROUTE, unix.RTMGRP_LINK, a.e.linkPrefix()},
	} {
		file, err := openNetlink(source.protocol, source.groups)
		if err != nil {
			a.e.Log.Warn("cannot be told of changes to firewall or links at once; they are looked for in turn", "error", err)
			continue
		}
		context.AfterFunc(ctx, func() { _ = file.Close() })
		reading.Go(func() {
			buffer := make([]byte, 64<<10)
			for {
				n, err := file.Read(buffer)
				if err != nil && !errors.Is(err, unix.ENOBUFS) {
					return // closed
				}
				if err != nil || bytes.Contains(buffer[:n], []byte(source.mark)) {
					a.raise("")
				}
			}
		})
	}
	reading.Wait()
	<-ctx.Done()
}

func openNetlink(protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("cannot open a socket to the kernel: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot listen to the kernel: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
