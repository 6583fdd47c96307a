// Package telemetry keeps what servers use and what goes through the router in
// a time series database that outlives them, and answers questions about it in
// PromQL.
//
// Every few seconds it reads the engine's meter, the routers' counters and the
// state, makes samples of them, and appends these to the database. Whoever asks
// /metrics gets the same samples, read anew. Metrics are observations: losing
// some of them changes no decision, and a database that is damaged or a disk
// that is full never holds up the daemon.
package telemetry
