package server

import (
	"fmt"
	"strings"

	"kiln/internal/model"
)

// inWords says what an event means in one sentence, and which service it is
// about ("" for none).
func inWords(e model.Event) (service, text string) {
	switch p := e.Data.(type) {
	case model.InstanceCreated:
		return "", fmt.Sprintf("instance %s was created", p.Instance)
	case model.DaemonStarted:
		return "", fmt.Sprintf("a daemon (kiln %s) took over with epoch %d", p.Version, p.Epoch)
	case model.JournalUpgraded:
		return "", fmt.Sprintf("the journal is of format %d from here on: kiln %s or a newer one reads it", p.Format, p.Version)
	case model.JournalRestored:
		return "", fmt.Sprintf("the journal was restored from a backup of %s: what was written after event %d is lost",
			p.MadeAt.UTC().Format("2006-01-02 15:04:05"), p.Seq)
	case model.HostChanged:
		return "", fmt.Sprintf("changed the machine's %s from %s to %s", p.Setting, p.From, p.To)
	case model.ImageAdded:
		return "", imageInWords(p.Image)
	case model.ImageAttested:
		return "", fmt.Sprintf("%s of image %s is signed with key %s", statementInWords(p.Statement.Type), p.Digest.Short(), shortKey(p.Statement.Key))
	case model.ImagePublished:
		if p.Publication.Trouble != "" {
			return "", fmt.Sprintf("image %s could not be published to %s: %s", p.Digest.Short(), p.Publication.To, p.Publication.Trouble)
		}
		return "", fmt.Sprintf("image %s is published to %s, with %d %s", p.Digest.Short(), p.Publication.To, p.Publication.Statements, plural(p.Publication.Statements, "statement"))
	case model.KeyTrusted, model.KeyRotated, model.KeyRevoked, model.KeyDistrusted:
		return "", keyInWords(p)
	case model.ImageChecked:
		return "", checkedInWords(p)
	case model.ImageRejected:
		return "", rejectionInWords(p)
	case model.ImagePinned, model.ImageRemoved, model.ObjectsRemoved, model.DiskChanged:
		return "", retentionInWords(p)
	case model.VolumeCreated, model.VolumeSnapshotted, model.VolumeSnapshotRemoved, model.VolumeRestored, model.VolumeRemoved:
		return volumeInWords(p)
	case model.ReleaseCreated:
		return p.Release.Service, releaseInWords(p.Release)
	case model.TablePublished:
		return "", fmt.Sprintf("routing table %d was published", p.Generation)
	case model.TableAcknowledged:
		return "", fmt.Sprintf("routing table %d is acknowledged by every live router", p.Generation)
	case model.ServerCreated, model.ServerAdvanced, model.ServerValidated, model.ServerHealth, model.ServerDrained, model.ServerRecorded,
		model.StrangerRecorded:
		return serverInWords(p)
	default:
		if service, text, known := sessionInWords(p); known {
			return service, text
		}
		return serviceInWords(p)
	}
}

func imageInWords(img model.Image) string {
	text := fmt.Sprintf("image %s is known (%s", img.Digest.Short(), img.Source)
	if len(img.Names) > 0 {
		text += ", " + strings.Join(img.Names, ", ")
	}
	return text + ")"
}

// statementInWords names a type of statements of package sign's.
func statementInWords(kind string) string {
	switch kind {
	case model.SignatureType:
		return "the digest"
	case model.ProvenanceType:
		return "the provenance"
	case model.ApprovalType:
		return "an approval"
	case model.ServedType:
		return "the time in service"
	case model.RejectionType:
		return "what is said against it"
	case model.TestResultType:
		return "what came of checks"
	case model.SourceType:
		return "the source"
	case model.SPDXType:
		return "the SBOM (SPDX)"
	case model.CycloneDXType:
		return "the SBOM (CycloneDX)"
	default:
		return "a statement (" + kind + ")"
	}
}

func checkedInWords(p model.ImageChecked) string {
	text := fmt.Sprintf("image %s", p.Digest.Short())
	if len(p.Checked.Passed) > 0 {
		text += " passed " + strings.Join(p.Checked.Passed, ", ")
	}
	if len(p.Checked.Failed) > 0 {
		if len(p.Checked.Passed) > 0 {
			text += " and"
		}
		text += " did not pass " + strings.Join(p.Checked.Failed, ", ")
	}
	return text
}

func rejectionInWords(p model.ImageRejected) string {
	by, what := p.Rejection.By, "is rejected by"
	if p.Rejection.Lifted {
		what = "is not rejected any more, by"
	}
	if p.Rejection.From != "" {
		by += " on kiln " + p.Rejection.From
	}
	return because(fmt.Sprintf("image %s %s %s", p.Digest.Short(), what, by), p.Rejection.Reason)
}

// shortKey is enough of a key's id for people.
func shortKey(id string) string { return id[:min(len(id), 12)] }

// retentionInWords says what is kept, and what is not any more.
func retentionInWords(p model.Payload) string {
	switch p := p.(type) {
	case model.ImagePinned:
		if !p.Pinned {
			return fmt.Sprintf("image %s is not pinned any more, by %s", p.Digest.Short(), p.By)
		}
		return because(fmt.Sprintf("image %s is pinned by %s", p.Digest.Short(), p.By), p.Reason)
	case model.ImageRemoved:
		return because(fmt.Sprintf("image %s is removed, %s", p.Digest.Short(), model.SizeText(p.Bytes)), p.Reason)
	case model.ObjectsRemoved:
		return because(fmt.Sprintf("%d of %s are removed, %s", p.Count, p.Object, model.SizeText(p.Bytes)), p.Reason)
	case model.DiskChanged:
		return fmt.Sprintf("the disk at %s is %s: %s of %s are free", p.Disk.Path, p.Disk.State, model.SizeText(p.Disk.Free), model.SizeText(p.Disk.Total))
	default:
		return string(p.Kind())
	}
}

func because(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}

func releaseInWords(r model.Release) string {
	text := fmt.Sprintf("release %d: image %s, %d %s", r.Number, r.Template.Image.Short(), r.Policy.Servers, plural(r.Policy.Servers, "server"))
	if r.RollbackOf != 0 {
		text += fmt.Sprintf(", the template of release %d again", r.RollbackOf)
	}
	if r.Reason != "" {
		text += fmt.Sprintf(" (%s)", r.Reason)
	}
	return text
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func serverInWords(p model.Payload) (service, text string) {
	switch p := p.(type) {
	case model.ServerCreated:
		return p.Service, fmt.Sprintf("%s shall exist for release %d: %s", p.ID, p.Release, p.Cause)
	case model.ServerAdvanced:
		text = fmt.Sprintf("%s is %s", p.ID, p.Phase)
		if p.Address != "" {
			text += " at " + p.Address
		}
		if p.Exit != nil {
			text += " (" + p.Exit.String() + ")"
		}
		if p.Reason != "" {
			text += ": " + p.Reason
		}
		return p.ID.Service(), text
	case model.ServerHealth:
		text = fmt.Sprintf("%s is %s", p.ID, p.Status)
		if p.Detail != "" {
			text += ": " + p.Detail
		}
		return p.ID.Service(), text
	case model.ServerValidated:
		return p.ID.Service(), fmt.Sprintf("%s passed its validations", p.ID)
	case model.ServerDrained:
		return p.ID.Service(), fmt.Sprintf("%s is drained: %d finished, %d cut", p.ID, p.Finished, p.Cut)
	case model.ServerRecorded:
		return p.Record.Service, fmt.Sprintf("death record of %s: %s", p.Record.Server, p.Record.Reason)
	case model.StrangerRecorded:
		return p.Record.Service, fmt.Sprintf("%s was ended and recorded: %s", p.Record.Server, p.Record.Reason)
	default:
		return "", string(p.Kind())
	}
}

func serviceInWords(p model.Payload) (service, text string) {
	switch p := p.(type) {
	case model.ExperimentStarted, model.ExperimentAdvanced, model.ExperimentEnded:
		return chaosInWords(p)
	case model.DeploymentStarted:
		d := p.Deployment
		return d.Service, fmt.Sprintf("deployment %s of release %d began (%s)", d.ID, d.To, d.Strategy)
	case model.DeploymentAdvanced:
		text = fmt.Sprintf("deployment %s is %s", p.ID, p.Phase)
		if p.WaitingFor != "" {
			text += ", waiting for " + p.WaitingFor
		}
		return p.Service, text
	case model.DeploymentQueued:
		d := p.Deployment
		return d.Service, fmt.Sprintf("deployment %s of release %d waits (%s)", d.ID, d.To, d.Strategy)
	case model.DeploymentPaused:
		return p.Service, fmt.Sprintf("deployment %s is paused by %s", p.ID, p.By)
	case model.DeploymentResumed:
		return p.Service, fmt.Sprintf("deployment %s is resumed by %s", p.ID, p.By)
	case model.DeploymentFinishing:
		return p.Service, fmt.Sprintf("deployment %s passes over the stages that are left, asked by %s", p.ID, p.By)
	case model.DeploymentAborting:
		if strings.HasPrefix(p.By, "superseded by ") { // not a person, but another deployment
			return p.Service, fmt.Sprintf("deployment %s is %s", p.ID, p.By)
		}
		return p.Service, fmt.Sprintf("%s asked to abort deployment %s", p.By, p.ID)
	case model.DeploymentEnded:
		text = fmt.Sprintf("deployment %s %s", p.ID, p.Verdict)
		if p.Reason != "" {
			text += ": " + p.Reason
		}
		return p.Service, text
	case model.DeploymentSettled:
		return p.Service, fmt.Sprintf("what deployment %s took out of service is drained: %d requests finished, %d cut", p.ID, p.Finished, p.Cut)
	case model.ServiceSwitched:
		return p.Service, fmt.Sprintf("release %d is in service", p.Release)
	case model.SwitchAbandoned:
		return p.Service, fmt.Sprintf("the unacknowledged switch of deployment %s is abandoned: %s", p.Deployment, p.Reason)
	case model.ServiceBackedOff:
		if p.Failures == 0 {
			return p.Service, "servers hold again: replacements start at once"
		}
		return p.Service, p.Reason
	case model.ServiceMelting:
		return p.Service, "replacement is held back: " + p.Reason
	case model.ServiceRecovered:
		return p.Service, "replacement is not held back any more"
	case model.ServiceDestroying:
		return p.Service, "the service is being destroyed"
	case model.ServiceDestroyed:
		return p.Service, "the service is destroyed"
	default:
		return upkeepInWords(p)
	}
}
