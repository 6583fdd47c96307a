package reconcile

import (
	"fmt"
	"strings"

	"kiln/internal/model"
)

// describe says an event in words, for the scripts.
func describe(p model.Payload) string {
	switch p := p.(type) {
	case model.DaemonStarted, model.InstanceCreated, model.JournalRestored, model.JournalUpgraded:
		return ""
	case model.ReleaseCreated:
		text := fmt.Sprintf("%s release %d: %d servers", p.Release.Service, p.Release.Number, p.Release.Policy.Servers)
		if p.Release.RollbackOf != 0 {
			text += fmt.Sprintf(", rollback of %d", p.Release.RollbackOf)
		}
		return text
	case model.DeploymentStarted:
		text := fmt.Sprintf("%s deployment %s of release %d", p.Deployment.Service, p.Deployment.ID, p.Deployment.To)
		if len(p.Deployment.Stages) > 1 {
			text += fmt.Sprintf(" in %d stages", len(p.Deployment.Stages))
		}
		return text
	case model.DeploymentAdvanced:
		return fmt.Sprintf("%s %s: waits for %s", p.Service, p.Phase, p.WaitingFor)
	case model.DeploymentAborting:
		return fmt.Sprintf("%s aborting: %s", p.Service, p.By)
	case model.DeploymentEnded:
		return fmt.Sprintf("%s %s: %s", p.Service, strings.ToUpper(string(p.Verdict)), p.Reason)
	case model.DeploymentSettled:
		return fmt.Sprintf("%s settled: %d requests finished, %d cut", p.Service, p.Finished, p.Cut)
	case model.ServerCreated:
		return fmt.Sprintf("  %s created: %s", p.ID, p.Cause)
	case model.ServerAdvanced:
		if p.Inspected {
			return fmt.Sprintf("  %s inspected", p.ID)
		}
		return strings.TrimSuffix(fmt.Sprintf("  %s %s: %s", p.ID, p.Phase, p.Reason), ": ")
	case model.ServerHealth:
		return fmt.Sprintf("  %s is %s: %s", p.ID, p.Status, p.Detail)
	case model.ServerValidated:
		return ""
	case model.ServerDrained:
		return fmt.Sprintf("  %s drained: %d finished, %d cut", p.ID, p.Finished, p.Cut)
	case model.ServerRecorded:
		return fmt.Sprintf("  %s recorded: %s", p.Record.Server, p.Record.Exit)
	case model.StrangerRecorded:
		return fmt.Sprintf("  %s recorded: %s", p.Record.Server, p.Record.Reason)
	case model.TablePublished:
		return fmt.Sprintf("table %d published", p.Generation)
	case model.TableAcknowledged:
		return fmt.Sprintf("table %d acknowledged", p.Generation)
	case model.ServiceSwitched:
		return fmt.Sprintf("%s SWITCHED to release %d", p.Service, p.Release)
	case model.SwitchAbandoned:
		return fmt.Sprintf("%s switch abandoned: %s", p.Service, p.Reason)
	case model.ServiceBackedOff:
		return fmt.Sprintf("%s back-off %d: %s", p.Service, p.Failures, p.Reason)
	case model.ExperimentStarted, model.ExperimentAdvanced, model.ExperimentEnded:
		return describeExperiment(p)
	case model.VolumeCreated:
		return fmt.Sprintf("%s volume %s is made", p.Volume.Service, p.Volume.Name)
	case model.VolumeSnapshotted:
		if p.Missing != "" {
			return fmt.Sprintf("%s volume %s: no snapshot %s: %s", p.Service, p.Name, p.Snapshot.Reason, p.Missing)
		}
		return fmt.Sprintf("%s volume %s: snapshot %s, quiesced %t", p.Service, p.Name, p.Snapshot.Reason, p.Snapshot.Quiesced)
	case model.VolumeSnapshotRemoved:
		return fmt.Sprintf("%s volume %s: a snapshot goes: %s", p.Service, p.Name, p.Reason)
	case model.DeploymentQueued:
		return fmt.Sprintf("%s deployment %s of release %d waits for %s", p.Deployment.Service, p.Deployment.ID, p.Deployment.To, p.Deployment.WaitingFor)
	case model.DeploymentPaused:
		return fmt.Sprintf("%s paused by %s", p.Service, p.By)
	case model.DeploymentResumed:
		return fmt.Sprintf("%s resumed by %s", p.Service, p.By)
	case model.DeploymentFinishing:
		return fmt.Sprintf("%s finishing: %s", p.Service, p.By)
	case model.ServiceMelting:
		return fmt.Sprintf("%s MELTING: %s", p.Service, p.Reason)
	case model.ServiceRecovered:
		return p.Service + " recovered"
	case model.ServiceDestroying:
		return p.Service + " destroying"
	case model.ServiceDestroyed:
		return p.Service + " destroyed"
	default:
		return describeUpkeep(p)
	}
}
