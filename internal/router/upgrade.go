package router

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// upgradeOf returns the protocol to change to that is offered to the server, or
// "". An offer may be ignored (RFC 9110, 7.8), and is where the request has a
// body: whether the server takes what follows the head for the body or for the
// other protocol must not be a guess. Of several protocols it is the first that
// may be passed on.
func upgradeOf(req *http.Request) string {
	if len(req.Header["Upgrade"]) == 0 || req.ContentLength != 0 || req.ProtoMajor != 1 || req.ProtoMinor < 1 ||
		!hasToken(req.Header["Connection"], "upgrade") {
		return ""
	}
	for _, line := range req.Header["Upgrade"] {
		for protocol := range splitList(line) {
			if mayChangeTo(protocol) {
				return protocol
			}
		}
	}
	return ""
}

// mayChangeTo reports whether a client may speak the protocol with a server
// through the router. One that carries requests may not: they would pass by the
// routing, the switch and the accounting.
func mayChangeTo(protocol string) bool {
	name, version, versioned := strings.Cut(protocol, "/")
	if !isToken(name) || (versioned && !isToken(version)) {
		return false
	}
	switch strings.ToLower(name) {
	case "h2c", "h2", "h3", "http", "https", "tls", "ssl":
		return false
	}
	return true
}

// tunnelTo joins client and server when the server has agreed to change the
// protocol, until one of them ends it.
func (c *call) tunnelTo(conn *h1Conn, res *http.Response, upgrade string) *failure {
	if upgrade == "" || !strings.EqualFold(res.Header.Get("Upgrade"), upgrade) {
		return &failure{err: errors.New("the server changed to a protocol that was not asked for")}
	}
	client, buffered, err := c.rc.Hijack()
	if err != nil {
		return &failure{err: err, client: true}
	}
	defer client.Close()
	c.status = http.StatusSwitchingProtocols
	c.breakable(&c.toClient, &breaker{trip: func() { _ = client.SetDeadline(past) }})
	defer c.toClient.Store(nil)
	c.tellPlace(res.Header)
	if _, err := client.Write(switchingHead(res)); err != nil {
		return nil // it left; there is nobody to tell
	}
	fromClient := io.Reader(client)
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ := buffered.Reader.Peek(n) // n bytes are there
		fromClient = io.MultiReader(strings.NewReader(string(ahead)), client)
	}
	if strings.EqualFold(upgrade, "websocket") {
		t := newWebSocket(client, fromClient, conn.Conn, conn.reader())
		c.becomeWebSocket(t)
		c.router.kickDrain()
		t.run()
		c.bytesIn.Add(t.toServer.passed.Load())
		c.bytesOut += t.toClient.passed.Load()
		return nil
	}
	c.become(classStream)
	in, out := join(client, fromClient, conn.Conn, conn.reader())
	c.bytesIn.Add(in)
	c.bytesOut += out
	return nil
}

// switchingHead returns the head of the answer as the client gets it.
func switchingHead(res *http.Response) []byte {
	b := []byte("HTTP/1.1 101 Switching Protocols\r\n")
	for key, values := range res.Header {
		if isHop(key) && key != "Upgrade" {
			continue
		}
		for _, v := range values {
			b = append(b, key+": "+v+"\r\n"...)
		}
	}
	return append(b, "Connection: Upgrade\r\n\r\n"...)
}

// join passes bytes both ways until both directions have ended; an end in one
// direction is passed on as such.
func join(client net.Conn, fromClient io.Reader, server net.Conn, fromServer io.Reader) (in, out int64) {
	var wg sync.WaitGroup
	wg.Go(func() { in = passAll(server, client, fromClient) })
	out = passAll(client, server, fromServer)
	wg.Wait()
	return in, out
}

func passAll(dst, from net.Conn, src io.Reader) int64 {
	n, err := io.Copy(dst, src)
	if err != nil {
		// A broken direction breaks the other; only an end leaves it alone.
		_ = dst.SetDeadline(past)
		_ = from.SetDeadline(past)
		return n
	}
	closeWrite(dst)
	return n
}
