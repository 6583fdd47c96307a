// Package api is what daemon and clients agree on: paths, wire types, and the
// client. It is HTTP with JSON over the daemon's unix socket; what streams is
// one JSON object per line (application/x-ndjson). The document at
// /openapi.json describes it.
package api

// The paths of the API. {service}, {server}, {deployment} and {image} stand
// for names; a list of services is a repeated query parameter.
const (
	PathVersion    = "/v1/version"                          // GET → Version
	PathStatus     = "/v1/status"                           // GET ?service= → Status
	PathDeploy     = "/v1/services/{service}/deploy"        // POST DeployRequest → DeployAccepted
	PathPlan       = "/v1/services/{service}/plan"          // POST DeployRequest → reconcile's plan as Plan
	PathRollback   = "/v1/services/{service}/rollback"      // POST RollbackRequest → DeployAccepted
	PathCheck      = "/v1/services/{service}/check"         // POST CheckRequest → ImageChecks
	PathScale      = "/v1/services/{service}/scale"         // POST ScaleRequest → DeployAccepted
	PathAbort      = "/v1/services/{service}/abort"         // POST AbortRequest → Accepted
	PathPause      = "/v1/services/{service}/canary/pause"  // POST StageRequest → StageAccepted
	PathResume     = "/v1/services/{service}/canary/resume" // POST StageRequest → StageAccepted
	PathFinish     = "/v1/services/{service}/canary/finish" // POST StageRequest → StageAccepted
	PathDestroy    = "/v1/services/{service}/destroy"       // POST DestroyRequest → Accepted
	PathRecycle    = "/v1/recycle"                          // POST RecycleRequest → Recycling
	PathReleases   = "/v1/services/{service}/releases"      // GET → Releases
	PathDeployment = "/v1/deployments/{deployment}"         // GET → Progress (its last)
	PathWatch      = "/v1/deployments/{deployment}/watch"   // GET → stream of Progress, ends after Done
	PathLogs       = "/v1/logs"                             // GET ?server=|service= &follow= &tail= &since= → stream of LogLine
	PathEvents     = "/v1/events"                           // GET ?after=SEQ &follow= &service= → stream of Event
	PathAudit      = "/v1/audit"                            // GET ?service= &after= → stream of Event with hash
	PathVerify     = "/v1/audit/verify"                     // GET → AuditReport
	PathAccount    = "/v1/audit/report"                     // GET ?service= &since= → the account of package audit
	PathBackup     = "/v1/backup"                           // GET ?images= &evidence= → the archive; a trailer says what went wrong
	PathDeath      = "/v1/servers/{server}/record"          // GET → DeathRecord with Evidence
	PathEvidence   = "/v1/evidence"                         // GET ?service= → EvidenceList
	PathArchive    = "/v1/evidence/{archive}"               // GET → the archive (tar.zst); of a server, a session, or with a digest
	PathImages     = "/v1/images"                           // GET → Images
	PathImage      = "/v1/images/{image}"                   // GET → Image; a digest, its beginning, or a name (escaped)
	PathImport     = "/v1/images/import"                    // POST ?name= body: archive → ImageResult
	PathPull       = "/v1/images/pull"                      // POST PullRequest → ImageResult
	PathBuild      = "/v1/builds"                           // POST BuildRequest → stream of BuildEvent; the last has Result or Error
	PathInputs     = "/v1/inputs"                           // POST InputsRequest → InputsReport
	PathOutdated   = "/v1/images/outdated"                  // GET → Outdated
	PathPin        = "/v1/images/{image}/pin"               // POST PinRequest → Image
	PathApprove    = "/v1/images/{image}/approve"           // POST ApproveRequest → Approval; an image, or what a service has in service
	PathApprovals  = "/v1/images/{image}/approvals"         // GET → Approvals
	PathServed     = "/v1/images/{image}/served"            // POST ServedRequest → Served
	PathReject     = "/v1/images/{image}/reject"            // POST RejectRequest → Rejected
	PathBill       = "/v1/images/{image}/sbom"              // GET ?form=spdx|cyclonedx → the document
	PathChecks     = "/v1/images/{image}/checks"            // GET ?service= → ImageChecks
	PathLists      = "/v1/vulnerabilities"                  // GET ?digest= → List; POST ?name= body: the list → List
	PathDiff       = "/v1/images/diff"                      // GET ?from= &to= → ImageDiff
	PathStatements = "/v1/images/{image}/statements"        // GET → Statements
	PathSource     = "/v1/images/{image}/source"            // GET → a line with Source, then the archive; POST body: a line with SourceHead, then the archive → Source
	PathKey        = "/v1/key"                              // GET → Key; POST RotateRequest → Key, the new one
	PathKeys       = "/v1/keys"                             // GET → Keys; POST TrustRequest → KnownKey
	PathRevoke     = "/v1/keys/{key}/revoke"                // POST RevokeRequest → KnownKey
	PathRetention  = "/v1/retention"                        // GET → Survey: what would be removed; POST SweepRequest → Survey: what was
	PathAlerts     = "/v1/alerts"                           // GET → Alerts
	PathAlertTest  = "/v1/alerts/test"                      // POST AlertTest → AlertsTested
	PathRegistry   = "/v2/"                                 // the OCI distribution API
	PathMetrics    = "/metrics"                             // GET → the present values, in the text format of Prometheus
	PathQueries    = "/api/v1/"                             // below it the API of Prometheus, for reading: query, query_range, labels, label/NAME/values, series, metadata
	PathQuery      = "/api/v1/query"                        // GET ?query= &time= → MetricsAnswer in an envelope
	PathQueryRange = "/api/v1/query_range"                  // GET ?query= &start= &end= &step= → the same
	PathSession    = "/v1/builds/{build}/session"           // POST with Upgrade: kiln-build → the connection becomes the build's session
)

// SessionProtocol is what a build's session connection is upgraded to: from
// then on it carries the client's side of a BuildKit session, byte for byte.
const SessionProtocol = "kiln-build"
