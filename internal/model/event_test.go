package model

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files of this package")

// examples has one event of each kind, with every field set, so that a field
// whose name or form changes changes its golden file.
func examples() []Payload {
	at := time.Date(2026, 11, 21, 3, 4, 5, 600, time.UTC)
	template, policy := exampleTemplate(), examplePolicy()
	provenance := Provenance{Commit: "c0ffee", Dirty: true, Parents: []Parent{{Name: "base/debian:12", Digest: "sha256:bb"}}, Inputs: "sha256:ee"}
	exit := &Exit{Known: true, Code: 137, Signal: "SIGKILL", OOM: true, At: at}
	return []Payload{
		InstanceCreated{Instance: "abcdef"},
		DaemonStarted{Epoch: 2, Version: "1.0.0", BootID: "boot", BootOffset: 7},
		HostChanged{Setting: "net.ipv4.ip_forward", From: "0", To: "1"},
		JournalRestored{Seq: 6, Hash: "h", MadeAt: at, Version: "1.0.0"},
		JournalUpgraded{Format: 2, Version: "1.0.0"},
		ImageAdded{Image: Image{
			Digest: "sha256:aa", Names: []string{"docker.io/library/shop:1"}, Services: []string{"shop"}, CreatedAt: at, Author: "ann", Reason: "faster",
			Source: "build", Provenance: provenance, Size: 1000, Pinned: &Pin{By: "ann", Reason: "audit", At: at}, RemovedAt: at, LastUse: 3,
			Rejection:  &Rejection{Lifted: true, By: "ann", Reason: "a mistake", From: "ghijkl", At: at},
			Statements: []Statement{{Bundle: "sha256:cc", Type: "https://slsa.dev/provenance/v1", Key: "d00d", At: at}},
			Checked:    []CheckedImage{{Suite: "policy", Config: "c", Passed: []string{"policy/root"}, Failed: []string{"policy/size"}, At: at}},
			Made: []Making{{
				Service: "shop", At: at, Author: "ann", Reason: "faster", Commit: "c0ffee", Dirty: true, From: "sha256:dd", How: ByCommit,
			}},
			Published: &Publication{To: "registry.example.com/team", Statements: 2, Trouble: "it answered 500", At: at},
		}},
		ReleaseCreated{Release: Release{
			Service: "shop", Number: 2, Template: template, TemplateHash: "t", ChecksHash: "c", Policy: policy,
			CreatedAt: at, Author: "ann", Reason: "faster", Provenance: provenance, RollbackOf: 1,
			Environment: "staging", Declared: "shop",
			Promoted: &Promotion{Instance: "ghijkl", Environment: "staging", Service: "shop-staging", Release: 3},
		}},
		DeploymentStarted{Deployment: exampleDeployment()},
		DeploymentAdvanced{ID: "d-abcdef", Service: "shop", Phase: DeployChecking, WaitingFor: "health", Until: 9, Generation: 3, Stage: 1},
		DeploymentQueued{Deployment: exampleDeployment()},
		DeploymentPaused{ID: "d-abcdef", Service: "shop", By: "ann: look", Until: 9},
		DeploymentResumed{ID: "d-abcdef", Service: "shop", By: "ann", Until: 9, Deadline: 10},
		DeploymentFinishing{ID: "d-abcdef", Service: "shop", By: "ann", Until: 9, Deadline: 10},
		DeploymentAborting{ID: "d-abcdef", Service: "shop", By: "ann: mistake"},
		DeploymentEnded{ID: "d-abcdef", Service: "shop", Verdict: Succeeded, Reason: "in service", TookMS: 1200},
		DeploymentSettled{ID: "d-abcdef", Service: "shop", Finished: 12, Cut: 1},
		ServerCreated{ID: "shop-abcdef", Service: "shop", Release: 2, TemplateHash: "t", Cause: "deployment", Until: 4},
		ServerAdvanced{
			ID: "shop-abcdef", Phase: PhaseRunning, Reason: "runs", Until: 5, Address: "198.18.0.2:8080", StartedAt: at, Release: 2,
			Exit: exit, Retired: "d-abcdef", DrainGen: 6, InFlight: 7, CutBefore: 8, Inspected: true,
		},
		ServerValidated{ID: "shop-abcdef", Checks: "c"},
		ServerHealth{ID: "shop-abcdef", Status: Healthy, Detail: "200"},
		ServerDrained{ID: "shop-abcdef", Finished: 12, Cut: 1},
		ServerRecorded{Record: DeathRecord{
			Server: "shop-abcdef", Service: "shop", Release: 2, Image: "sha256:aa", Reason: "replaced", Exit: exit, EndedAt: at,
			Evidence: "sha256:ee", Missing: []string{"its log"},
		}},
		StrangerRecorded{Record: DeathRecord{
			Server: "shop-abcdef", Service: "shop", Release: 2, Image: "sha256:aa", Reason: "the journal does not know it", Exit: exit, EndedAt: at,
			Evidence: "sha256:ee", Missing: []string{"its log"},
		}},
		TablePublished{Generation: 3, Hash: "h"},
		TableAcknowledged{Generation: 3},
		ServiceSwitched{Service: "shop", Release: 2, Deployment: "d-abcdef"},
		SwitchAbandoned{Service: "shop", Deployment: "d-abcdef", Reason: "its servers were lost"},
		ServiceBackedOff{Service: "shop", Failures: 3, Until: 9, Reason: "crash loop"},
		ServiceMelting{Service: "shop", Reason: "2 of 3 servers failed within 1m"},
		ServiceRecovered{Service: "shop"},
		ServiceDestroying{Service: "shop"},
		ServiceDestroyed{Service: "shop"},
	}
}

// upkeepExamples has one event of each kind of event_upkeep.go.
func upkeepExamples() []Payload {
	at := time.Date(2026, 11, 21, 3, 4, 5, 600, time.UTC)
	code := 1
	finding := Finding{
		Server: "shop-abcdef", Detector: DetectFiles, What: "file added", Where: "/etc/x", Detail: "4 bytes", How: "inotify", At: at, Session: "s-abcdef",
	}
	session := Session{
		ID: "s-abcdef", Server: "shop-abcdef", Kind: SessionHotfix, By: "ann", Reason: "urgent", Command: []string{"sh"}, OutOfRotation: true,
		OpenedAt: at, Opened: 1, Until: 2, Extensions: []Extension{{By: "ann", Reason: "more", At: at, Until: 3}},
		Ended: &SessionEnd{At: at, How: "exit status 1", Exit: &code, Evidence: "sha256:ee", Added: 1, Changed: 2, Removed: 3, Missing: []string{"m"}},
	}
	snapshot := VolumeSnapshot{ID: "1", At: at, Reason: "before release 2", Deployment: "d-abcdef", Quiesced: true}
	key := SigningKey{
		Name: "ci", ID: "d00d", Algorithm: "ECDSA P-256", PEM: "pem", Own: true, Added: at, NotBefore: at, NotAfter: at, Ended: "rotated",
		Revoked: &Revoked{Since: at, Reason: "lost", By: "ann", At: at},
	}
	return []Payload{
		KeyTrusted{Key: key, Reason: "it signs our bases"},
		KeyRotated{Key: key, Reason: "it was rotated"},
		KeyRevoked{Name: "ci", Revoked: *key.Revoked},
		KeyDistrusted{Name: "ci", ID: "d00d", Reason: "not needed any more"},
		ServerCondemned{ID: "shop-abcdef", Cause: CondemnedByDrift, Reason: "file added", From: 1, Until: 2},
		ServerOverdue{ID: "shop-abcdef", Reason: "it is the last healthy one"},
		ServerDrifted{ID: "shop-abcdef", Findings: []Finding{finding}, More: 3, Response: DriftReplace, Done: "it is being replaced"},
		ServerUndrifted{ID: "shop-abcdef", Keys: []string{"k"}},
		FleetDrifted{Findings: []Finding{finding}, More: 3, Done: "it was made as it should be"},
		FleetMended{Keys: []string{"k"}},
		DriftRecurred{Service: "shop", TemplateHash: "t", Count: 3, Halted: true, Reason: "it is in the image's start-up"},
		SessionOpened{Session: session, From: 4},
		SessionExtended{ID: "s-abcdef", Server: "shop-abcdef", By: "ann", Reason: "more", From: 4, Until: 5},
		SessionEnded{ID: "s-abcdef", Server: "shop-abcdef", End: *session.Ended},
		ExperimentStarted{Experiment: Experiment{
			ID: "x-abcdef", Service: "shop", Server: "shop-abcdef", Kind: ChaosKill, Lasts: 1, By: "kiln", StartedAt: at, Started: 1, Armed: 8, Applied: 2, Detected: 3,
			Replaced: 4, Failed: 5, Before: 7, Ending: ChaosRecovered, Outcome: ChaosRecovered, Reason: "r", EndedAt: at, Ended: 6,
		}},
		ExperimentAdvanced{ID: "x-abcdef", Service: "shop", Armed: 1, Applied: 1, Detected: 2, Replaced: 3, Ending: ChaosStopped, Reason: "r"},
		ExperimentEnded{ID: "x-abcdef", Service: "shop", Outcome: ChaosRecovered, Reason: "r", Failed: 2},
		ImageChecked{Digest: "sha256:aa", Checked: CheckedImage{Suite: "policy", Config: "c", Passed: []string{"policy/root"}, Failed: []string{"policy/size"}, At: at}},
		ImageRejected{Digest: "sha256:aa", Rejection: Rejection{Lifted: true, By: "ann", Reason: "a mistake", From: "ghijkl", At: at}},
		ImagePinned{Digest: "sha256:aa", Pinned: true, By: "ann", Reason: "audit"},
		ImageAttested{Digest: "sha256:aa", Statement: Statement{Bundle: "sha256:cc", Type: "https://slsa.dev/provenance/v1", Key: "d00d", At: at}},
		ImagePublished{Digest: "sha256:aa", Publication: Publication{To: "registry.example.com/team", Statements: 2, Trouble: "it answered 500", At: at}},
		ImageRemoved{Digest: "sha256:aa", Bytes: 7, Reason: "no release needs it"},
		ObjectsRemoved{Object: ObjectBuildCache, Count: 2, Bytes: 9, Reason: "unused for 7 days", IDs: []string{"a"}},
		VolumeCreated{Volume: Volume{Service: "shop", Name: "data", Access: SingleWriter, Size: 9, CreatedAt: at, Created: 3, Snapshots: []VolumeSnapshot{snapshot}, RemovedAt: at, Missed: "d-aaaaaa"}},
		VolumeSnapshotted{Service: "shop", Name: "data", Snapshot: snapshot, Missing: "ext4 makes none"},
		VolumeSnapshotRemoved{Service: "shop", Name: "data", ID: "1", Reason: "too old"},
		VolumeRestored{Service: "shop", Name: "data", From: "snapshot 1"},
		VolumeRemoved{Service: "shop", Name: "data", At: at},
		ClockJumped{By: Duration(time.Hour)},
		DiskChanged{Disk: Disk{State: DiskLow, Path: "/var/lib/kiln", Free: 1, Total: 2, Since: 3}},
		AlertFailed{Name: "ops", Seq: 7, Reason: "it answered 500"},
	}
}

func exampleTemplate() Template {
	return Template{
		Service: "shop", Image: "sha256:aa", Entrypoint: []string{"/app"}, Command: []string{"serve"}, User: "app",
		Env: map[string]string{"LOG_LEVEL": "info"}, Port: 8080, Protocol: HTTP,
		Resources: Resources{Memory: 1 << 28, CPU: 500, PIDs: 64}, Ephemeral: []Ephemeral{{Path: "/var/cache", Size: 1 << 20}},
		Connects: []string{"db"}, ProxyProtocol: 2, UserNamespace: true, Environment: "staging",
		Volumes: []Mount{{Volume: "data", Path: "/var/lib/x", Access: SingleWriter, Size: 1 << 30}},
		Secrets: []SecretRef{{Name: "DB_PASSWORD", As: SecretFile, Version: 2, Digest: "d1"}},
		Config:  []ConfigRef{{Path: "/etc/shop.toml", Digest: "sha256:dd", Size: 12}},
	}
}

func exampleDeployment() Deployment {
	at := time.Date(2026, 11, 21, 3, 4, 5, 600, time.UTC)
	return Deployment{
		ID: "d-abcdef", Service: "shop", From: 1, To: 2, Strategy: BlueGreen, Phase: DeployPreparing, WaitingFor: "image",
		Actor: "ann", StartedAt: at, Started: 1, Since: 2, Until: 3, Deadline: 4, Abort: "ann", Generation: 5, Switched: true,
		Stages: []Stage{{New: 1, Old: 2, Away: 1, Weight: 10, Hold: Duration(time.Second)}, {New: 3}}, Stage: 1,
		Pause: &Pause{By: "ann", Since: 1, Until: 2}, Finish: "ann", Held: 1, Scales: 3,
		Verdict: Failed, Reason: "r", EndedAt: at, TookMS: 6, Settled: true, Finished: 7, Cut: 8,
	}
}

func examplePolicy() Policy {
	second := Duration(time.Second)
	return Policy{
		Servers: 3, Routes: []Route{{
			Listen: ":443", Host: "shop.example.com", Path: "/a", Redirect: "https", ProxyProtocol: true,
			TLS: TLS{Cert: "/etc/c.pem", Key: "/etc/k.pem", ACME: ACME{Directory: "https://ca", Email: "a@b", Roots: "/etc/r.pem"}},
		}},
		Health: Health{
			Kind: CheckHTTP, Path: "/healthz", Port: 8081, Command: []string{"/check"}, Interval: second, Timeout: second,
			Passes: 2, Fails: 3, Grace: 30 * second,
		},
		Validations: []Validation{{
			Name: "home", Kind: CheckHTTP, Path: "/", Port: 8080, Headers: map[string]string{"Server": "shop"}, Status: 200,
			Contains: "Shop", Matches: "S.op", Command: []string{"/app", "selftest"}, Timeout: 30 * second,
		}},
		Deploy: Deploy{
			Strategy: BlueGreen, Deadline: 600 * second, KeepWarm: 600 * second, MaxUnavailable: Amount{N: 10, Percent: true}, MaxSurge: Amount{N: 25, Percent: true},
			Overlap: true, Canary: CanaryPolicy{Steps: []CanaryStep{{Weight: 10, Hold: 15 * second}}, Cookie: "kiln-canary", Header: "X-Canary"},
			Drain: Drain{Requests: 30 * second, Streams: 120 * second, WebSockets: 300 * second},
		},
		StopSignal: "SIGQUIT", StopGrace: 10 * second,
		Image: &ImagePolicy{
			Validations: []Validation{{
				Name: "self-test", Kind: CheckExec, Path: "/", Port: 8080, Headers: map[string]string{"Server": "shop"}, Status: 200,
				Contains: "Shop", Matches: "S.op", Command: []string{"/app", "selftest"}, Timeout: 30 * second,
			}},
			Require: &Requirement{
				Signed: []string{"ci"}, Checks: []string{"policy/root"}, Served: []Served{{Environment: "staging", For: 3600 * second}},
				Approvals: []string{"ann"}, Approvers: 1,
			},
			NotRoot: true, Exposed: true, NoSetuid: true, SetuidAllowed: []string{"/usr/bin/sudo"}, NoWorldWritable: true, NoDevices: true,
			Size: 1000, UnpackedSize: 2000, Labels: map[string]string{"org.example.team": "[a-z]+"}, ForbiddenPaths: []string{"/etc/ssh/**"},
			ForbiddenPackages: []string{"telnetd"}, Vulnerabilities: &VulnerabilityPolicy{
				Lists: []VulnerabilityList{{Name: "osv/", Digest: "sha256:dd"}}, Severity: "high", Ignore: []string{"CVE-2026-1"},
			},
		},
		Upkeep: Upkeep{
			Drift: DriftPolicy{Response: DriftReplace, Interval: 30 * second}, Lifetime: Lifetime{MaxAge: 3600 * second, Jitter: 10},
			Chaos: ChaosPolicy{
				MeanBetween: 3600 * second, Hours: "09:00-15:00", Days: []time.Weekday{time.Monday}, TimeZone: "Europe/Berlin",
				Kinds: []ChaosKind{ChaosKill}, Lasts: 30 * second,
			},
			Retention: RetentionPolicy{Releases: 5, For: 3600 * second}, Shell: ShellDeny, Park: 900 * second,
		},
	}
}

// TestEventFormat holds the stored form of each kind to its golden file, and
// reads it back. A golden file is only ever added: what is stored stays readable.
func TestEventFormat(t *testing.T) {
	seen := map[Kind]bool{}
	for _, p := range append(examples(), upkeepExamples()...) {
		seen[p.Kind()] = true
		event := Event{Seq: 7, Epoch: 2, At: time.Date(2026, 11, 21, 3, 4, 5, 0, time.UTC), Elapsed: 99, Actor: "ann", Data: p}
		t.Run(string(p.Kind()), func(t *testing.T) {
			requireFull(t, reflect.ValueOf(p), string(p.Kind()))
			got := indented(t, event)
			file := filepath.Join("testdata", "event", string(p.Kind())+".v1.json")
			if *rewrite {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("the stored form has changed (-want +got):\n%s", diff)
			}
			var read Event
			if err := json.Unmarshal(want, &read); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(event, read); diff != "" {
				t.Errorf("read back differently (-want +got):\n%s", diff)
			}
		})
	}
	for kind := range payloads {
		if !seen[kind] {
			t.Errorf("kind %s has no example and no golden file", kind)
		}
	}
}

func indented(t *testing.T, e Event) []byte {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// requireFull fails for a field that the example leaves unset: its form would
// not be held.
func requireFull(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	if v.Type() == reflect.TypeFor[time.Time]() {
		if v.IsZero() {
			t.Errorf("the example leaves %s unset", path)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			requireFull(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Pointer:
		if v.IsNil() {
			t.Errorf("the example leaves %s unset", path)
			return
		}
		requireFull(t, v.Elem(), path)
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			t.Errorf("the example leaves %s unset", path)
		}
		if v.Kind() == reflect.Slice && v.Len() > 0 {
			requireFull(t, v.Index(0), path+"[0]")
		}
	default:
		if v.IsZero() {
			t.Errorf("the example leaves %s unset", path)
		}
	}
}

// TestUnknownEventsAreRefused: a state that misses an event would be a guess.
func TestUnknownEventsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, event, want string }{
		{"kind", `{"seq":9,"epoch":1,"kind":"server.promoted","v":1,"at":"2026-01-01T00:00:00Z","elapsed":1,"data":{}}`, `kind "server.promoted" version 1`},
		{"version", `{"seq":9,"epoch":1,"kind":"table.published","v":2,"at":"2026-01-01T00:00:00Z","elapsed":1,"data":{}}`, `kind "table.published" version 2`},
		{"data", `{"seq":9,"epoch":1,"kind":"table.published","v":1,"at":"2026-01-01T00:00:00Z","elapsed":1,"data":{"generation":"x"}}`, "event 9 (table.published)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var e Event
			err := json.Unmarshal([]byte(c.event), &e)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
