// Package cli is the command line: it reads arguments and the declaration,
// calls the daemon through the API's client, and prints. It decides nothing
// that the daemon could decide, and what it starts goes on without it.
//
// Results go to standard output, progress and errors to standard error. Exit
// codes are part of the interface: see the constants.
package cli
