package keeper

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// request is what is asked of the keeper. At most one descriptor goes with it.
type request struct {
	Op        string   `json:"op"`
	Address   string   `json:"address,omitempty"`   // listen, adopt, offer, copy, release
	Addresses []string `json:"addresses,omitempty"` // retain
	Free      bool     `json:"free,omitempty"`      // listen: also where the machine does not have the address yet
	Name      string   `json:"name,omitempty"`      // renew: a child; stop: a child, or all if empty
}

// The operations.
const (
	opListen   = "listen"   // → a listening socket
	opAdopt    = "adopt"    // a listening socket →
	opOffer    = "offer"    // like adopt, unless the router needs it no more
	opCopy     = "copy"     // → the listening socket of the address, if it is held
	opRelease  = "release"  // close the socket of the address
	opRetain   = "retain"   // close all sockets but those of the addresses
	opStatus   = "status"   // → Status
	opRenew    = "renew"    // start a child once more; the process before goes on until it ends by itself
	opStop     = "stop"     // end a child for good
	opShutdown = "shutdown" // end all children, close all sockets, end
)

// reply is the keeper's answer. At most one descriptor goes with it.
type reply struct {
	Code    model.Code `json:"code,omitempty"` // empty: done
	Message string     `json:"message,omitempty"`
	Hint    string     `json:"hint,omitempty"`
	Status  *Status    `json:"status,omitempty"`
}

func (r *reply) err() error {
	if r.Code == "" {
		return nil
	}
	e := model.Errorf(r.Code, "%s", r.Message)
	if r.Hint != "" {
		return e.WithHint("%s", r.Hint)
	}
	return e
}

func failed(err error) *reply {
	return &reply{Code: model.CodeOf(err), Message: err.Error(), Hint: model.HintOf(err)}
}

// maxPacket bounds a message; the longest is retain with some thousand addresses.
const maxPacket = 128 << 10

func socketPath(runDir string) string { return filepath.Join(runDir, "keeper.sock") }

// send writes one message with at most one descriptor, which stays the caller's.
func send(c *net.UnixConn, v any, f *os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var werr error
		err = raw.Control(func(fd uintptr) {
			_, _, werr = c.WriteMsgUnix(data, unix.UnixRights(int(fd)), nil)
		})
		return errors.Join(err, werr)
	}
	_, _, err = c.WriteMsgUnix(data, oob, nil)
	return err
}

// receive reads one message; the descriptor that came with it, if any, is the
// caller's to close.
func receive(c *net.UnixConn, v any) (*os.File, error) {
	data := make([]byte, maxPacket)
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, err
	}
	f, err := descriptor(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if n == 0 && f == nil {
		return nil, io.EOF
	}
	if flags&unix.MSG_TRUNC != 0 {
		err = errors.New("message too long")
	} else {
		err = json.Unmarshal(data[:n], v)
	}
	if err != nil && f != nil {
		_ = f.Close()
		f = nil
	}
	return f, err
}

// descriptor returns the first descriptor of the control message and closes
// any others.
func descriptor(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var first *os.File
	for i := range msgs {
		fds, err := syscall.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			if first != nil {
				_ = syscall.Close(fd)
				continue
			}
			unix.CloseOnExec(fd)
			first = os.NewFile(uintptr(fd), "socket")
		}
	}
	return first, nil
}
