package reconcile

import "time"

// The timers that no declaration sets.
const (
	prepareTimeout   = 5 * time.Minute  // an image made present and verified
	provisionTimeout = 60 * time.Second // a server decided on, until its process runs
	roomTimeout      = 20 * time.Second // of provisionTimeout: what leaves the rotation in a rolling deployment may take to end before more servers than count + max_surge run
	switchTimeout    = 30 * time.Second // a table published, until every router has acknowledged it
	inspectTimeout   = 10 * time.Second // evidence collected from a server that is alive
	recordTimeout    = 60 * time.Second // after it the journal says what evidence could not be had
	validateSlack    = 10 * time.Second // over the sum of the validations' own time-outs
	sessionSlack     = 1 * time.Minute  // after a server's record, for a session to take down what it changed in it
	drainSlack       = 30 * time.Second // after the last drain deadline, until what is left is taken as cut
	earlyDeath       = 10 * time.Second // a death sooner than this (or than the grace) holds replacements back
	backOffFirst     = 1 * time.Second
	backOffLongest   = 5 * time.Minute
	meltWindow       = 60 * time.Second // losses within it are counted together
	crashLoopDeaths  = 3                // early deaths in a row that are called a crash loop
	snapshotTimeout  = 1 * time.Minute  // of a volume, before a deployment makes servers
	queueRoom        = 1 * time.Minute  // after a deployment, for what it gives back, before the next one in the queue is refused for want of room
	chaosPatience    = 10 * time.Minute // an experiment's start and time, until the service must be whole again
	chaosBegin       = 1 * time.Minute  // a disturbance that may begin, until it is in force
	chaosLongest     = time.Hour        // a disturbance
	chaosSlack       = 5 * time.Second  // beyond its stop grace, until a terminated server is seen to have ended
	chaosClockRest   = time.Hour        // after a jump of the wall clock, until calendars are gone by again
	driftSoon        = 5 * time.Minute  // drift sooner after a start than this (or than three intervals) may come with the image
	driftChain       = time.Hour        // drift of a younger server within it is counted on

	driftReplacements = 3 // of one template for drift that comes back, until that is given up
)
