package local

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// outside is another machine: a network namespace behind a link, with an
// address of the world and one of 169.254.0.0/16, and a port open on both.
type outside struct {
	world, linkLocal string
}

func newOutside(t *testing.T, w *world) outside {
	t.Helper()
	path := filepath.Join(w.RunDir, "outside")
	if err := makeNamespace(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "x" + string(w.Instance)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeLink(attrs.Name) })
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	run("ip", "addr", "add", "203.0.113.1/30", "dev", attrs.Name)
	run("ip", "link", "set", attrs.Name, "up")
	run("ip", "route", "add", "169.254.77.77/32", "dev", attrs.Name)
	inside := []string{"nsenter", "--net=" + path}
	run(append(inside, "ip", "addr", "add", "203.0.113.2/30", "dev", "eth0")...)
	run(append(inside, "ip", "addr", "add", "169.254.77.77/32", "dev", "eth0")...)
	run(append(inside, "ip", "link", "set", "eth0", "up")...)
	run(append(inside, "ip", "route", "add", "default", "via", "203.0.113.1")...)
	listenIn(t, path)
	return outside{world: "203.0.113.2:9000", linkLocal: "169.254.77.77:9000"}
}

// listenIn answers on port 9000 in the namespace, with the caller's address.
func listenIn(t *testing.T, path string) {
	t.Helper()
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread stays in there
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close()
		}
		if err != nil {
			t.Error(err)
			close(listening)
			return
		}
		l, err := net.Listen("tcp", ":9000")
		if err != nil {
			t.Error(err)
			close(listening)
			return
		}
		listening <- l
	}()
	l, ok := <-listening
	if !ok {
		t.FailNow()
	}
	serveAddresses(t, l)
}

func serveAddresses(t *testing.T, l net.Listener) {
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, conn.RemoteAddr())
			_ = conn.Close()
		}
	}()
}

// TestIsolation checks what a server reaches, and by what it is held back.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	out := newOutside(t, w)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	one, two := s.serving(nil), s.serving(nil)
	other := net.JoinHostPort(s.observe(two).Address, "8080")
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAddresses(t, l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	machine := []string{net.JoinHostPort(e.network.gateway.String(), port), net.JoinHostPort("203.0.113.1", port)}

	refused := append([]string{other, out.linkLocal}, machine...)
	for _, address := range refused {
		if said, code := s.run(one, "dial", address); code == 0 {
			t.Errorf("a server reaches %s: %s", address, said)
		}
	}
	if said, code := s.run(one, "dial", out.world); code != 0 || !strings.HasPrefix(said, "203.0.113.1:") {
		t.Errorf("a server reaches the world as %s, want the machine's address", said)
	}
	direct := exec.Command("nsenter", "--net="+filepath.Join(w.RunDir, "outside"), "timeout", "1", "bash", "-c", "echo > /dev/tcp/"+strings.Replace(other, ":", "/", 1))
	if err := direct.Run(); err == nil {
		t.Error("the world reaches a server directly")
	}

	// Without the filter all of it goes through: it is the filter that holds.
	if err := removeFirewall(e.Config); err != nil {
		t.Fatal(err)
	}
	for _, address := range refused {
		if said, code := s.run(one, "dial", address); code != 0 {
			t.Errorf("without the filter a server does not reach %s, so the test shows nothing: %s", address, said)
		}
	}
	// A table that is there, as after a restart, is replaced.
	for range 2 {
		if err := installFirewall(e.Config, nil); err != nil {
			t.Fatal(err)
		}
	}
	if said, code := s.run(one, "dial", other); code == 0 {
		t.Errorf("with the filter again, a server reaches %s: %s", other, said)
	}
}

// TestAddresses checks that two kilns on a machine give out no address twice,
// that they are given out in turn, and what happens when they are used up.
func TestAddresses(t *testing.T) {
	prefix := netip.MustParsePrefix("198.18.255.0/29") // five addresses for servers
	open := func() (*world, *servers) {
		w := newWorld(t)
		w.ServerNet = prefix
		return w, w.servers(t, w.open(t), w.addProgram(t, ocispec.ImageConfig{}))
	}
	_, one := open()
	_, two := open()
	addresses := map[string]bool{}
	var refs []engine.Ref
	for i := range 5 {
		s := []*servers{one, two}[i%2]
		ref := s.start(nil, "wait")
		address := s.observe(ref).Address
		if addresses[address] || !prefix.Contains(netip.MustParseAddr(address)) {
			t.Errorf("server %d got the address %s", i, address)
		}
		addresses[address] = true
		refs = append(refs, ref)
	}
	for _, s := range []*servers{one, two} {
		err := s.e.Provision(t.Context(), s.ref(), s.template("wait"))
		if model.CodeOf(err) != model.Unavailable {
			t.Errorf("without a free address it says %v (%s)", err, model.CodeOf(err))
		}
		snapshot, err := s.e.Observe(t.Context())
		if err == nil && snapshot.Capacity.Addresses != 0 { // the other kiln's count too
			t.Errorf("%d addresses are free", snapshot.Capacity.Addresses)
		}
		if err != nil || len(snapshot.Orphans) != 0 || len(snapshot.Servers) > 3 {
			t.Errorf("it left %+v (%v)", snapshot, err)
		}
	}
	// The one that was given back is the only one, and is found.
	was := one.observe(refs[2]).Address
	if err := one.e.Stop(t.Context(), refs[2], "", 0); err != nil {
		t.Fatal(err)
	}
	if err := one.e.Destroy(t.Context(), refs[2]); err != nil {
		t.Fatal(err)
	}
	if is := two.observe(two.start(nil, "wait")).Address; is != was {
		t.Errorf("the next server got %s, free was %s", is, was)
	}
}
