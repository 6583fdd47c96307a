package spec

import "slices"

// Limits are the timers and bounds that no key of the declaration sets, as
// Defaults lists the others. A test holds each to the constant it names.
func Limits() []Default {
	return slices.Concat(deployLimits(), keptLimits(), routerLimits(), serverLimits())
}

func deployLimits() []Default {
	return []Default{
		{"image made present", "5m", "until a deployment gives up on verifying or fetching its image", "reconcile.prepareTimeout"},
		{"server provisioned", "1m", "from the decision until its process runs", "reconcile.provisionTimeout"},
		{"room for a batch", "20s", "rolling: what leaves the rotation may take to end, before more servers than count + max_surge run", "reconcile.roomTimeout"},
		{"room for the next deployment", "1m", "what the one before gives back may take to end, before the next in the queue is refused for want of room", "reconcile.queueRoom"},
		{"pause", "24h", "of a deployment, where nobody says how long; then it is aborted", "reconcile.pauseTime"},
		{"switch acknowledged", "30s", "from the publication of a table until every live router has acknowledged it; then the verdict is unknown", "reconcile.switchTimeout"},
		{"evidence collected", "10s", "from a server that is alive, before it is stopped", "reconcile.inspectTimeout"},
		{"death recorded", "1m", "then the journal says what evidence could not be had, and the server goes", "reconcile.recordTimeout"},
		{"session in a server that ended", "1m", "what it changed is taken down before the remains go", "reconcile.sessionSlack"},
		{"validations, slack", "10s", "over the sum of their own time-outs", "reconcile.validateSlack"},
		{"snapshot of a volume", "1m", "before a deployment makes servers; where none can be made it goes on without", "reconcile.snapshotTimeout"},
		{"drain, slack", "30s", "after the last drain deadline, until what is left is taken as cut", "reconcile.drainSlack"},
		{"early death", "10s", "a server that ends sooner (or within its grace) holds replacements back", "reconcile.earlyDeath"},
		{"replacement held back, first", "1s", "then twice as long each time", "reconcile.backOffFirst"},
		{"replacement held back, longest", "5m", "", "reconcile.backOffLongest"},
		{"meltdown", "1m", "losses within it are counted together; 20 % of the servers, at least 2, hold replacements back", "reconcile.meltWindow"},
		{"crash loop", "3", "early deaths in a row that are called one", "reconcile.crashLoopDeaths"},
		{"experiment", "10m", "from its start, or the end of its time, until the service must be whole again; and for a spare server to come before it", "reconcile.chaosPatience"},
		{"disturbance, beginning", "1m", "from when the server may be away until it is in force", "reconcile.chaosBegin"},
		{"disturbance, longest", "1h", "what `--lasts` may ask for", "reconcile.chaosLongest"},
		{"disturbance, end of a server", "5s", "beyond its stop grace, until a terminated server is seen to have ended", "reconcile.chaosSlack"},
		{"chaos after a jump of the wall clock", "1h", "until calendars are gone by again", "reconcile.chaosClockRest"},
		{"drift soon after a start", "5m", "or three intervals, if that is longer: it may come with the image, and is counted", "reconcile.driftSoon"},
		{"drift that comes back", "1h", "from one that was counted: that of a server made since is counted on", "reconcile.driftChain"},
		{"drift that comes back, replacements", "3", "of one template, until that is given up and told", "reconcile.driftReplacements"},
		{"extensions of a hotfix", "2", "of one server", "model.MaxExtensions"},
	}
}

func keptLimits() []Default {
	return []Default{
		{"death records", "1000", "the newest, of each service; the journal keeps all", "model.deadKept"},
		{"deployments in the history", "1000", "the newest, of each service; the journal keeps all", "model.deploymentsKept"},
		{"evidence", "256MiB", "of all ended servers; the oldest goes first", "evidence.DefaultQuota"},
		{"evidence, age", "90d", "older archives go", "evidence.DefaultMaxAge"},
		{"evidence, reserve", "2MiB", "so that a full disk still leaves a record", "evidence.DefaultReserve"},
		{"journal, reserve", "8MiB", "so that a full disk still lets deployments end", "journal.reserveSize"},
		{"journal heads signed", "1000", "every so many events", "journal.signEvery"},
		{"server log", "8MiB", "of one file; two are kept for each server", "engine/local/logfile.maxFile"},
		{"server log, line", "16KiB", "longer lines are split", "engine/local/logfile.MaxLine"},
		{"secret, configuration file of no release", "1h", "one that has it may be in the making", "reconcile.keepStray"},
		{"statement about an image", "64MiB", "larger ones are not read", "sign.MaxBundle"},
		{"statements about an image", "1000", "that are looked at in one repository", "sign.maxAttachments"},
		{"statements kept of an image", "500", "signatures aside; then no more are taken", "daemon.maxStatements"},
		{"SBOM", "32MiB", "larger ones are not attached to the image", "daemon.maxBill"},
		{"results of checks", "16", "that are remembered of an image, the newest; the journal keeps all", "model.checksKept"},
		{"build cache", "10GiB", "the least used goes first", "image/builder.defaultCacheLimit"},
		{"build cache, age", "60d", "what was not used for so long goes", "image/builder.cacheKept"},
		{"builder idle", "10m", "then its process ends; the next build starts it", "daemon.builderIdle"},
	}
}

func routerLimits() []Default {
	return []Default{
		{"header of the PROXY protocol, time", "5s", "from the connection to its end", "router.proxyTimeout"},
		{"header of the PROXY protocol, size", "4096", "bytes, of version 2; longer ones are closed", "router.proxyMost"},
		{"connections of clients", "20000", "at a time, or as many as the files that the router may have open allow; three quarters of it on one listener", "router.mostConnections"},
		{"TLS handshakes", "1024", "under way on a listener; the oldest gives way to one more", "router.Limits.Handshakes"},
		{"TLS handshake, time", "10s", "", "router.Limits.HandshakeTimeout"},
		{"head of a request, size", "64KiB", "longer ones are answered 431", "router.Limits.HeaderBytes"},
		{"head of a request, fields", "100", "more are answered 431", "router.maxRequestFields"},
		{"head of a request, time", "10s", "from its first byte to its end", "router.Limits.HeaderTimeout"},
		{"head of a request, time under pressure", "3s", "likewise, while connections are short", "router.pressedHeader"},
		{"body, idle", "1m", "without a byte moving either way; by HTTP/2 a piece of an answer (4 KiB) may take five times as long", "router.Limits.BodyIdle"},
		{"body, chunk extensions", "4KiB", "of all chunks together", "router.maxChunkExtension"},
		{"body, trailers", "8KiB", "of a chunked request", "router.maxTrailerBytes"},
		{"body, trailer fields", "32", "likewise", "router.maxTrailerFields"},
		{"streams of HTTP/2", "250", "open at once on one connection of a client", "router.Limits.Streams"},
		{"idle connection", "1m15s", "between two requests of a client", "router.Limits.IdleTimeout"},
		{"idle connection under pressure", "5s", "likewise, while connections are short", "router.pressedIdle"},
		{"stream", "30s", "a request that is open longer drains with the streams", "router.streamAfter"},
		{"closing a WebSocket", "5s", "for the client to answer the close", "router.closeWait"},
		{"dial", "2s", "to a server, for one attempt", "router.Limits.DialTimeout"},
		{"head of an answer, size", "256KiB", "of HTTP/1.1; longer ones are answered 502", "router.maxAnswerHead"},
		{"head of an answer, size otherwise", "1MiB", "of HTTP/2 to the server, and where a request does not take the short way", "router.maxResponseHead"},
		{"head of an answer, fields", "1000", "of HTTP/1.1; more are answered 502", "router.maxAnswerFields"},
		{"attempts", "4", "servers that are tried for what was not sent yet", "router.maxTries"},
		{"idle connection to a server", "30s", "", "router.Limits.UpstreamIdle"},
		{"server left out, first", "1s", "when no connection to it can be had; then twice as long each time", "router.firstEjection"},
		{"server left out, longest", "10s", "", "router.longestEjection"},
		{"hand-over", "10s", "silence, after which a client's connection to the router that leaves is closed", "router.Limits.Linger"},
		{"access log", "64MiB", "of one file; two are kept", "router.Limits.AccessLogBytes"},
	}
}

func serverLimits() []Default {
	return []Default{
		{"servers of a service", "1000", "at most", "model.MaxServers"},
		{"secret, configuration file", "1MiB", "each", "model.MaxValue"},
		{"secrets", "100", "of a service", "spec.maxSecrets"},
		{"configuration files", "100", "of a service", "spec.maxConfigs"},
		{"secret in the environment", "130816", "bytes", "daemon.maxVariable"},
		{"disposable server", "1m", "until it runs, beyond the time-outs of the validations that are asked of it", "daemon.trialStart"},
		{"/tmp", "64MiB", "of memory, in each server", "engine/local.tmpSize"},
		{"/run", "16MiB", "of memory, in each server", "engine/local.runSize"},
		{"/dev/shm", "16MiB", "of memory, in each server", "engine/local.shmSize"},
		{"first probe", "20ms", "after the start, then growing to the interval", "probe.firstPause"},
		{"first probe by a command", "200ms", "likewise", "probe.firstPauseExec"},
		{"body of a validation", "1MiB", "what is read of it", "probe.bodyLimit"},
		{"collected log", "1000", "lines, and 256 KiB, of an ended server", "engine/local.evidenceLines"},
		{"collected changes", "10000", "files that differ from the image", "engine/local.evidenceChanges"},
	}
}
