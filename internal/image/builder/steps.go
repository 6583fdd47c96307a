package builder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/sys/user"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"kiln/internal/image/recorder"
	"kiln/internal/model"
)

const (
	proxyAddress = "127.0.0.1:3128" // in a step's own namespace
	caDir        = "/.kiln"         // where a step finds by what it trusts the build's network
	caPattern    = "builder-ca-*"   // the same in the run directory
)

// networks are the recorders of the builds that run, by their tokens.
type networks struct {
	mu  sync.Mutex
	all map[string][]*buildNetwork
}

// buildNetwork is a build's, which is not open.
type buildNetwork struct {
	*recorder.Recorder
	ca    string // the directory that steps see at caDir
	users int    // the build, and the steps that run: with the last one the directory goes
}

func newNetworks() *networks { return &networks{all: map[string][]*buildNetwork{}} }

// open makes a network that is found by its token until it is closed. Two builds
// with one token have the same answers: either may answer for the other.
func (n *networks) open(token string, r *recorder.Recorder, runDir string) (*buildNetwork, func(), error) {
	dir, err := writeCA(runDir, r.Authority())
	if err != nil {
		return nil, nil, model.Errorf(model.Unavailable, "cannot make the network of a build: %w", err)
	}
	own := &buildNetwork{Recorder: r, ca: dir, users: 1}
	n.mu.Lock()
	n.all[token] = append(n.all[token], own)
	n.mu.Unlock()
	return own, func() {
		n.mu.Lock()
		n.all[token] = slices.DeleteFunc(n.all[token], func(other *buildNetwork) bool { return other == own })
		if len(n.all[token]) == 0 {
			delete(n.all, token)
		}
		n.mu.Unlock()
		n.leave(own)
	}, nil
}

// take finds a network for somebody who leaves it. nil: its build has ended.
func (n *networks) take(token string) *buildNetwork {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.all[token]
	if len(list) == 0 {
		return nil
	}
	list[0].users++
	return list[0]
}

func (n *networks) leave(own *buildNetwork) {
	n.mu.Lock()
	own.users--
	last := own.users == 0
	n.mu.Unlock()
	if last {
		_ = os.RemoveAll(own.ca) // else the next builder does
	}
}

// tell tells the other builds with the token, which have waited for the same step,
// what it did not get.
func (n *networks) tell(token string, own *buildNetwork, step *recorder.Step) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.all[token] {
		if other != own {
			step.Tell(other.Recorder)
		}
	}
}

// RoundTrip implements http.RoundTripper for ADD.
func (n *networks) RoundTrip(req *http.Request) (*http.Response, error) {
	token, ok := strings.CutPrefix(req.UserAgent(), agentPrefix)
	if !ok {
		return http.DefaultTransport.RoundTrip(req)
	}
	own := n.take(token)
	if own == nil {
		return nil, model.Errorf(model.Unavailable, "cannot fetch %s: its build has ended", req.URL.Redacted())
	}
	defer n.leave(own)
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "kiln")
	return own.Fetch(req)
}

// writeCA writes what a step needs to trust the network: the certificate, and
// the settings of those programs that read no environment for it.
func writeCA(runDir string, certificate []byte) (string, error) {
	dir, err := os.MkdirTemp(runDir, caPattern)
	if err != nil {
		return "", err
	}
	ca := caDir + "/ca.pem"
	for name, text := range map[string]string{
		"ca.pem":   string(certificate),
		"apt.conf": "Acquire::https::CaInfo \"" + ca + "\";\n",
		"wgetrc":   "ca_certificate = " + ca + "\n",
	} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) //nolint:gosec // any user of a step reads it
		}
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) //nolint:gosec // as above
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// removeTemporary removes the directories that a killed builder left.
func removeTemporary(dir, pattern string) {
	left, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is right
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}

// environment is what a step's programs find the network by.
func environment(env []string) []string {
	ca, proxy := caDir+"/ca.pem", "http://"+proxyAddress
	set := []string{
		"http_proxy=" + proxy, "https_proxy=" + proxy, "HTTP_PROXY=" + proxy, "HTTPS_PROXY=" + proxy,
		"no_proxy=localhost,127.0.0.1,::1", "NO_PROXY=localhost,127.0.0.1,::1",
		"SSL_CERT_FILE=" + ca, "CURL_CA_BUNDLE=" + ca, "REQUESTS_CA_BUNDLE=" + ca, "PIP_CERT=" + ca, "NODE_EXTRA_CA_CERTS=" + ca,
		"GIT_SSL_CAINFO=" + ca, "CARGO_HTTP_CAINFO=" + ca, "AWS_CA_BUNDLE=" + ca,
		"APT_CONFIG=" + caDir + "/apt.conf", "WGETRC=" + caDir + "/wgetrc",
	}
	ours := map[string]bool{"ftp_proxy": true, "FTP_PROXY": true, "all_proxy": true, "ALL_PROXY": true, "SSL_CERT_DIR": true}
	for _, v := range set {
		name, _, _ := strings.Cut(v, "=")
		ours[name] = true
	}
	var out []string
	for _, v := range env {
		if name, _, _ := strings.Cut(v, "="); !ours[name] {
			out = append(out, v)
		}
	}
	return append(out, set...)
}

// lockedExecutor runs the steps that have a build's network in a namespace in
// which there is nothing else.
type lockedExecutor struct {
	executor.Executor
	networks *networks
}

// stepKey is where a context carries the path of a step's namespace.
type stepKey struct{}

// Run implements executor.Executor.
func (e *lockedExecutor) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	token, env := cutToken(p.Meta.Env)
	if token == "" {
		return e.Executor.Run(ctx, id, root, mounts, p, started)
	}
	own := e.networks.take(token)
	if own == nil {
		return nil, model.Errorf(model.Unavailable, "cannot run a step: its build has ended")
	}
	defer e.networks.leave(own)
	step := own.Step(ctx, strings.Join(p.Meta.Args, " "))
	defer e.networks.tell(token, own, step)
	ns, err := openStep(step)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot make the network of a step: %w", err)
	}
	p.Meta.Env = environment(env)
	mounts = append(slices.Clip(mounts), executor.Mount{Src: hostDir(own.ca), Dest: caDir, Readonly: true})
	used, err := e.Executor.Run(context.WithValue(ctx, stepKey{}, ns.path), id, root, mounts, p, started)
	ns.close()
	if err == nil {
		step.Succeeded()
	}
	return used, err
}

// hostDir is a directory of the machine, to be mounted.
type hostDir string

// Mount implements executor.Mountable.
func (d hostDir) Mount(context.Context, bool) (executor.MountableRef, error) {
	return mountedDir(d), nil
}

type mountedDir string

// Mount implements executor.MountableRef.
func (d mountedDir) Mount() ([]mount.Mount, func() error, error) {
	return []mount.Mount{{Type: "bind", Source: string(d), Options: []string{"rbind", "ro", "nosuid", "nodev"}}}, func() error { return nil }, nil
}

// IdentityMapping implements executor.MountableRef.
func (d mountedDir) IdentityMapping() *user.IdentityMapping { return nil }

// stepNamespace is a network namespace in which every address is the build's
// network, and every name such an address.
type stepNamespace struct {
	path  string
	file  int
	proxy *recorder.Proxy
	ends  []func()
	done  sync.WaitGroup
}

// anywhere is the address that every name has in a step: it is in a range that
// belongs to nobody.
func anywhere() [4]byte { return [4]byte{192, 0, 2, 1} }

// openStep makes the namespace and serves it.
func openStep(step *recorder.Step) (*stepNamespace, error) {
	ns := &stepNamespace{proxy: step.NewProxy()}
	listeners := map[string]net.Listener{}
	var packets net.PacketConn
	err := inNewNamespace(func() error {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ns.file = fd
		ns.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
		if err := loopEverything(); err != nil {
			return err
		}
		for _, address := range []string{proxyAddress, "0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:22", "0.0.0.0:9418"} {
			ln, err := net.Listen("tcp4", address)
			if err != nil {
				return err
			}
			listeners[address] = ln
			ns.ends = append(ns.ends, func() { _ = ln.Close() })
		}
		packets, err = net.ListenPacket("udp4", net.JoinHostPort(nameserver().String(), dnsPort))
		return err
	})
	if err != nil {
		ns.close()
		return nil, err
	}
	ns.ends = append(ns.ends, func() { _ = packets.Close() })
	ns.proxy.Serve(listeners[proxyAddress])
	ns.proxy.Serve(listeners["0.0.0.0:80"])
	ns.proxy.ServeTLS(listeners["0.0.0.0:443"])
	asked := &lastName{}
	ns.done.Go(func() { answerNames(packets, asked) })
	ns.done.Go(func() { refuseOthers(listeners["0.0.0.0:22"], step, asked, "an SSH connection", "") })
	ns.done.Go(func() { refuseOthers(listeners["0.0.0.0:9418"], step, asked, "a Git connection", "ERR ") })
	return ns, nil
}

func (ns *stepNamespace) close() {
	for _, end := range ns.ends {
		end()
	}
	ns.proxy.Close()
	ns.done.Wait()
	if ns.file != 0 {
		_ = unix.Close(ns.file)
	}
}

// inNewNamespace runs do on a thread that is in a network namespace of its own.
func inNewNamespace(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- do()
	}()
	return <-done
}

// loopEverything makes every address this namespace's own.
func loopEverything() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	_, all, err := net.ParseCIDR("0.0.0.0/0")
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
	})
}

// lastName is the name that a step has asked for last: whom it wanted to reach,
// in words.
type lastName struct {
	mu   sync.Mutex
	name string
}

func (l *lastName) set(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name = name
}

func (l *lastName) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name == "" {
		return "an address"
	}
	return l.name
}

// answerNames gives every name an address, until the connection is closed.
func answerNames(packets net.PacketConn, asked *lastName) {
	for {
		query := make([]byte, maxQuery)
		n, from, err := packets.ReadFrom(query)
		if err != nil {
			return
		}
		if answer := nameAnswer(query[:n], asked); answer != nil {
			_, _ = packets.WriteTo(answer, from) // one who does not wait asks again
		}
	}
}

// nameAnswer answers a query: an address for A, nothing for all else. nil: it is
// no query.
func nameAnswer(query []byte, asked *lastName) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 || m.Response {
		return nil
	}
	q := m.Questions[0]
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
		Questions: m.Questions,
	}
	if q.Type == dnsmessage.TypeA {
		asked.set(strings.TrimSuffix(q.Name.String(), "."))
		answer.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: anywhere()},
		}}
	}
	text, err := answer.Pack()
	if err != nil {
		return nil
	}
	return text
}

// refuseOthers says no to what is not HTTP, in the protocol's own words where it
// has any.
func refuseOthers(ln net.Listener, step *recorder.Step, asked *lastName, what, prefix string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		refused := step.Refuse(what+" to "+asked.String(), "is refused: only HTTP and HTTPS can be locked")
		text := prefix + "kiln: " + refused.Error() + "; " + refused.Hint
		if prefix != "" { // a packet of Git's, with its length
			text = fmt.Sprintf("%04x%s", len(text)+4, text)
		} else {
			text += "\r\n"
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(text)) // the build says it, too
		_ = conn.Close()
	}
}
