// Package probe looks at servers from outside and says what it saw: health
// checks again and again, validations once. It decides nothing; what follows
// from an observation is package reconcile's.
package probe
