// Package local runs servers on this machine: containerd for images, snapshots
// and processes, netlink for their links, nftables for what they may reach.
//
// # Who does what
//
// containerd is compiled into the kiln binary (RunContainerd) and runs as a
// process of its own. Every server runs under a shim and has a logger beside
// it; these and runc are embedded and unpacked by digest. None of them is a
// child of the daemon: daemon and containerd may die and come back while servers
// go on.
//
// # What is true
//
// A server exists when its directory in D/servers holds a record. It runs when
// the process that the record names runs: that is read from /proc, so an
// observation needs no other process to be well. How it ended stands in its
// exit file, which the shim writes. containerd's containers, snapshots, links,
// network namespaces and control groups without a record are orphans: they are
// reported, and removed by Destroy of their id.
//
// # What a server may do
//
// Its root is read-only. It may write in /tmp (64 MiB), /run (16 MiB), /dev/shm
// (16 MiB) and in its ephemeral places; these lie in memory and count towards
// its limit. They belong to the server's user. A process of user 0 has the
// capabilities CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID and NET_BIND_SERVICE:
// the least with which a server that starts as root and gives its workers
// another user, as Debian's nginx does, starts and stops them. Another user has
// none. In a user namespace (Template.UserNamespace) these count for nothing but
// what is the server's: its users are, on the machine, a range of 65,536 ids from
// 2^31 up that nobody else has (userns.go). Nothing can gain more (no_new_privs), and system calls pass the default
// seccomp profile, those of 32-bit programs do not. Every port may be bound by
// every user.
//
// It reaches neither the machine nor other servers. Where its template connects
// to a service, /etc/hosts names the service's address, NAME.kiln; the address is
// the machine's as long as any server needs it, and what listens at it is
// reached over TCP by those servers alone (names.go).
package local
