package buildcontext

import (
	"bufio"
	"encoding/json"
	"io"
	"net"

	"kiln/internal/model"
)

// maxPreamble bounds what is read before a connection has said what it is.
const maxPreamble = 16 << 10

// Preamble is the first line of the connection, from the client.
type Preamble struct {
	Version int                 `json:"kiln_context"` // 1
	Headers map[string][]string `json:"headers"`      // the session's id, key and methods
}

func writePreamble(w io.Writer, p Preamble) error {
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// Accept reads the preamble of a connection that a client serves and returns
// the rest of it.
func Accept(conn net.Conn) (Preamble, net.Conn, error) {
	r := bufio.NewReaderSize(conn, maxPreamble)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return Preamble{}, nil, model.Errorf(model.Invalid, "cannot read the build context: its connection ended before it said what it is: %w", err)
	}
	var p Preamble
	if err := json.Unmarshal(line, &p); err != nil || p.Version != 1 {
		return Preamble{}, nil, model.Errorf(model.Invalid, "cannot read the build context: its connection does not begin as it should").
			WithHint("client and daemon may be of different versions: compare `kiln version`")
	}
	return p, &buffered{Conn: conn, r: r}, nil
}

// buffered is a connection of which some bytes were read ahead.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
