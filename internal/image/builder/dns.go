package builder

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/executor/oci"
)

const (
	dnsDeadline = 5 * time.Second
	maxQuery    = 4096 // what resolvers announce at most over UDP
	dnsPort     = "53"
)

// nameserver is the address, inside the builder's namespace only, at which
// steps ask for names.
func nameserver() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 53}) }

// dns is what steps find in resolv.conf beside the host's search domains. The
// host's own servers would be out of their reach where they are addresses of
// the host, as a local resolver's is.
func (n *netns) dns() *oci.DNSConfig {
	return &oci.DNSConfig{Nameservers: []string{nameserver().String()}}
}

// dnsRelay passes queries on to the host's name servers, unread.
type dnsRelay struct {
	upstreams func() []string // IP:port, the first that answers is taken
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	log       *slog.Logger
}

// startDNS serves until stop is called, which waits for what is under way.
func (n *netns) startDNS() (stop func(), err error) {
	f := &dnsRelay{upstreams: hostNameservers, dial: n.dialLiteral, log: n.log}
	return f.start(net.JoinHostPort(nameserver().String(), dnsPort))
}

func (f *dnsRelay) start(address string) (stop func(), err error) {
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		_ = packets.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.servePackets(ctx, &running, packets) })
	running.Go(func() { f.serveStreams(ctx, &running, streams) })
	return func() {
		cancel()
		_ = packets.Close()
		streams.Close()
		running.Wait()
	}, nil
}

func (f *dnsRelay) servePackets(ctx context.Context, running *sync.WaitGroup, packets net.PacketConn) {
	for {
		query := make([]byte, maxQuery)
		n, from, err := packets.ReadFrom(query)
		if err != nil {
			return
		}
		running.Go(func() {
			answer, err := f.ask(ctx, query[:n])
			if err != nil {
				f.log.Warn("no name server answers", "error", err)
				return
			}
			_, _ = packets.WriteTo(answer, from) // one who does not wait asks again
		})
	}
}

// ask returns the answer of the first server that gives one.
func (f *dnsRelay) ask(ctx context.Context, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*dnsDeadline)
	defer cancel()
	err := error(&net.DNSError{Err: "the host has no name server"})
	for _, server := range f.upstreams() {
		var conn net.Conn
		if conn, err = f.dial(ctx, "udp", server); err != nil {
			continue
		}
		answer := make([]byte, 64<<10)
		var n int
		if err = conn.SetDeadline(time.Now().Add(dnsDeadline)); err == nil {
			if _, err = conn.Write(query); err == nil {
				n, err = conn.Read(answer)
			}
		}
		conn.Close()
		if err == nil {
			return answer[:n], nil
		}
	}
	return nil, err
}

func (f *dnsRelay) serveStreams(ctx context.Context, running *sync.WaitGroup, streams net.Listener) {
	for {
		conn, err := streams.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer conn.Close()
			f.relayStream(ctx, conn)
		})
	}
}

func (f *dnsRelay) relayStream(ctx context.Context, conn net.Conn) {
	for _, server := range f.upstreams() {
		up, err := f.dial(ctx, "tcp", server)
		if err != nil {
			continue
		}
		end := time.Now().Add(2 * dnsDeadline)
		_, _ = conn.SetDeadline(end), up.SetDeadline(end)
		relay(conn, up)
		return
	}
}

// hostNameservers reads the host's resolv.conf: it may change while builds run.
func hostNameservers() []string {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseNameservers(f)
}

func parseNameservers(r io.Reader) []string {
	var found []string
	for lines := bufio.NewScanner(r); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			found = append(found, net.JoinHostPort(a.String(), dnsPort))
		}
	}
	return found
}

// resolveInside makes the names that this process asks for go the same way as
// those of the steps: git and ADD are part of a build as well.
func resolveInside() {
	net.DefaultResolver = &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(nameserver().String(), dnsPort))
		},
	}
}
