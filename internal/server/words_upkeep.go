package server

import (
	"fmt"

	"kiln/internal/model"
)

// upkeepInWords says what becomes of servers that serve.
func upkeepInWords(p model.Payload) (service, text string) {
	switch p := p.(type) {
	case model.ServerCondemned:
		return p.ID.Service(), fmt.Sprintf("%s is to be replaced by an identical one: %s", p.ID, p.Reason)
	case model.ServerOverdue:
		return p.ID.Service(), fmt.Sprintf("%s should be replaced by now and is still there: %s", p.ID, p.Reason)
	case model.ServerDrifted:
		return p.ID.Service(), fmt.Sprintf("%s is not its template any more: %s; %s", p.ID, findingsInWords(p.Findings, p.More), p.Done)
	case model.ServerUndrifted:
		return p.ID.Service(), fmt.Sprintf("%d of the things that had drifted in %s are not to be seen any more", len(p.Keys), p.ID)
	case model.FleetDrifted:
		return "", fmt.Sprintf("what is kiln's on the machine was changed: %s; %s", findingsInWords(p.Findings, p.More), p.Done)
	case model.FleetMended:
		return "", fmt.Sprintf("%d of the things that were changed on the machine are as they should be", len(p.Keys))
	case model.DriftRecurred:
		return p.Service, p.Reason
	case model.ClockJumped:
		if p.By < 0 {
			return "", fmt.Sprintf("the wall clock was set back by %s", -p.By)
		}
		return "", fmt.Sprintf("the wall clock was set forward by %s", p.By)
	case model.AlertFailed:
		return "", fmt.Sprintf("receiver %s could not be told of event %d: %s", p.Name, p.Seq, p.Reason)
	default:
		return "", string(p.Kind())
	}
}

// findingsInWords names the first of what was found, and counts the rest.
func findingsInWords(found []model.Finding, more int) string {
	if len(found) == 0 {
		return fmt.Sprintf("%d findings", more)
	}
	text := found[0].What + " " + found[0].Where
	if rest := len(found) - 1 + more; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}
