package builder

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestDNSRelay asks a relay for a name, over UDP and TCP, whose first
// upstream is dead.
func TestDNSRelay(t *testing.T) {
	upstream := fakeNameserver(t)
	f := &dnsRelay{
		upstreams: func() []string { return []string{"127.0.0.1:1", upstream} },
		dial:      (&net.Dialer{}).DialContext,
		log:       slog.New(slog.DiscardHandler),
	}
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	_ = free.Close()
	stop, err := f.start(address)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		got, err := r.LookupHost(ctx, "a.example.")
		cancel()
		if err != nil || !slices.Equal(got, []string{"192.0.2.77"}) {
			t.Errorf("over %s the name is %v, %v", network, got, err)
		}
	}
}

// fakeNameserver answers every question for an address with 192.0.2.77.
func fakeNameserver(t *testing.T) string {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = packets.Close(); streams.Close() })
	go func() {
		for {
			b := make([]byte, maxQuery)
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(answerTo(b[:n]), from)
		}
	}()
	go func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				return
			}
			b := make([]byte, maxQuery)
			n, err := c.Read(b)
			if err == nil && n > 2 {
				a := answerTo(b[2:n])
				_, _ = c.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...))
			}
			c.Close()
		}
	}()
	return packets.LocalAddr().String()
}

func answerTo(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	m.Header.Response, m.Additionals = true, nil
	q := m.Questions[0]
	if q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 77}},
		}}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

func TestParseNameservers(t *testing.T) {
	got := parseNameservers(strings.NewReader("# nameserver 1.1.1.1\nnameserver 127.0.0.53\n nameserver  ::1 \nsearch x\nnameserver bad\nnameserver\n"))
	if want := []string{"127.0.0.53:53", "[::1]:53"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
