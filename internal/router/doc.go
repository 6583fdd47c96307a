// Package router is kiln's data plane: it takes what arrives at the listeners
// of a routing table to the servers of that table, counts what is in flight to
// each server, and ends what is left when a server's drain deadline comes.
//
// It runs as a process of its own (Run), so that the daemon's death takes no
// traffic down. The daemon speaks to it through a control socket (Client): it
// hands over a whole table, and the answer to that is the acknowledgement on
// which everything else rests: from then on not one new request reaches a
// server that the table does not have.
//
// The parts: table.go and match.go are the routing table as it is looked up;
// dispatch.go and server.go are the accounting, which knows nothing of HTTP;
// split.go shares requests between two releases, eject.go leaves out servers that
// cannot be reached; names.go is how services reach each other;
// proxyproto.go reads and writes PROXY headers;
// handover.go and succession.go put a new router in the place of an old one;
// conn1.go serves a client's HTTP/1 connection: head.go and chunked.go read it
// strictly, lane.go and relay.go are the short way of a plain request to a server
// and back, longway.go and reply.go the way of all others. That way, and the one
// of HTTP/2, which net/http serves, is proxy.go: it carries an exchange, through
// h1.go or h2.go to a server and through respond.go back; downgrade.go holds what
// net/http has read to the rules of head.go. clients.go bounds and looks after the
// connections, clientconn.go how long one may stay unread; drain.go ends what outlives its deadline.
package router
