package model

import (
	"crypto/sha256"
	"encoding/binary"
	"regexp"
	"strings"
)

// InstanceID is six characters of [a-z2-7]. It names one kiln on a machine and
// is part of every name that the machine sees: links, control groups, tables.
type InstanceID string

// ServerID is SERVICE-xxxxxx, six of [a-z2-7]; never used again in an instance.
type ServerID string

// DeploymentID is d-xxxxxx, six of [a-z2-7].
type DeploymentID string

// Digest is "sha256:" and 64 hexadecimal digits: the digest of an image manifest.
type Digest string

// Short returns the first twelve digits, for people.
func (d Digest) Short() string {
	s := strings.TrimPrefix(string(d), "sha256:")
	return s[:min(12, len(s))]
}

// ServiceOffset is where in the instance's network of service names the
// address of the service is: 1 to size−2, from the network's first address. It
// follows from the names alone, so that it is the same for ever and needs no
// counter; two services of an instance that share one are refused.
func ServiceOffset(instance InstanceID, service string, size int) int {
	sum := sha256.Sum256([]byte(string(instance) + "/" + service))
	return 1 + int(binary.BigEndian.Uint32(sum[:4])%uint32(size-2))
}

const alphabet = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648 base32, lower case

var (
	serviceName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)
	serverID    = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?-[a-z2-7]{6}$`)
	sixID       = regexp.MustCompile(`^[a-z2-7]{6}$`)
	digestForm  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ValidServiceName reports whether s is a DNS label of at most 40 characters.
func ValidServiceName(s string) bool { return serviceName.MatchString(s) }

// InEnvironment is what a declared service is called on the kiln where it runs in
// an environment.
func InEnvironment(service, environment string) string { return service + "-" + environment }

// ValidServerID reports whether s has the form of a server's id.
func ValidServerID(s string) bool { return serverID.MatchString(s) }

// ValidInstanceID reports whether s has the form of an instance's id.
func ValidInstanceID(s string) bool { return sixID.MatchString(s) }

// ValidDigest reports whether s is a sha256 digest.
func ValidDigest(s string) bool { return digestForm.MatchString(s) }

// Six returns the last six characters of the server's id: unique in the
// instance, so links and network namespaces are named by it.
func (s ServerID) Six() string { return string(s)[max(0, len(s)-6):] }

// Service returns the service part of the server's id.
func (s ServerID) Service() string { return string(s)[:max(0, len(s)-7)] }

// Sixes returns the n-th identifier of the instance, n below 1<<30. It is a
// permutation (a four-round Feistel network over two halves of 15 bits, keyed
// by the instance: Luby and Rackoff, 1988), so a counter in the journal yields
// identifiers that look random, need no randomness and never repeat.
func Sixes(instance InstanceID, n uint64) string {
	const half, mask = 15, 1<<15 - 1
	left, right := uint32(n>>half)&mask, uint32(n)&mask
	for round := range byte(4) {
		var block [5]byte
		block[0] = round
		binary.BigEndian.PutUint32(block[1:], right)
		sum := sha256.Sum256(append([]byte(instance), block[:]...))
		left, right = right, left^(binary.BigEndian.Uint32(sum[:4])&mask)
	}
	v := left<<half | right
	var out [6]byte
	for i := range out {
		out[i] = alphabet[v>>(25-5*i)&31]
	}
	return string(out[:])
}
