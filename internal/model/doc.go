// Package model holds the nouns of kiln: immutable values, the events that
// change state, and the fold that turns events into state.
//
// Nothing in here decides, and nothing in here touches the world: there is no
// clock, goroutine, disk, network or randomness. Package reconcile decides
// from these values; package control carries the decisions out.
package model
