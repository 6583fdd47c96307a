// Package keeper is the process that has no logic and therefore need not die:
// it holds the listening sockets beside the router, and starts router and
// containerd again when they end (Run).
//
// A socket lives as long as one process has it. Because keeper and router both
// do, either may be killed: connections wait in the backlog for the router that
// comes back and gets its sockets from the keeper (Sockets.Listen), and a new
// keeper gets them from the router (which hands over copies when it sees that
// there is a new one). The daemon has a third copy (Copies), so that any two of
// the three may be killed at once. Children outlive the keeper; a new one finds and adopts
// them instead of starting others.
//
// The socket RunDir/keeper.sock carries one JSON message per packet, listening
// sockets as SCM_RIGHTS beside it.
package keeper
