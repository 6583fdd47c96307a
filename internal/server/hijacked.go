package server

import (
	"bufio"
	"net"
)

// hijacked is a connection whose first bytes may have been read already.
type hijacked struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (h *hijacked) Read(p []byte) (int, error) { return h.r.Read(p) }
