package apply

import (
	"errors"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

// maxReason limits the text of the reason of an outcome, in bytes.
const maxReason = 500

// oneLine returns the first line of an error, without what follows: hints and the end of a log.
func oneLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	text = strings.TrimSuffix(strings.Join(strings.Fields(text), " "), ":")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// outcomeOf returns the outcome of an action that failed; now is the record afterwards.
func outcomeOf(a *plan.Action, now *plan.Record, err error) state.Outcome {
	out := state.Outcome{Address: a.Address, Machine: a.Machine, Outcome: state.OutcomeFailed, Digest: wanted(a), Reason: oneLine(err)}
	if _, rolledBack := errors.AsType[*agent.RolledBack](err); rolledBack {
		out.Outcome = state.OutcomeRolledBack
	} else if now != nil && now.Digest == "" {
		out.Outcome = state.OutcomeInterrupted
	}
	return out
}

// wanted returns the digest of the unit that an action wants.
func wanted(a *plan.Action) digest.Digest {
	if a.Op == plan.Delete {
		return ""
	}
	return a.Digest
}

// reject records in a unit's record that a version was rolled back, or that one succeeded.
func (r *run) reject(a *plan.Action, now *plan.Record, err error) {
	if now == nil || now.Digest == "" {
		return
	}
	if _, rolledBack := errors.AsType[*agent.RolledBack](err); rolledBack && now.Digest != a.Digest {
		now.Rejected = &plan.Rejected{Digest: a.Digest, Reason: oneLine(err), Generation: r.generation}
	} else if err == nil && now.Digest == a.Digest {
		now.Rejected = nil
	}
}

// carriedOutcomes returns the outcomes of the generation before that an apply leaves as they are:
// one that only restarts, stops or starts units does not try the others again.
func (r *run) carriedOutcomes(before *state.Generation, cs *plan.ChangeSet) []state.Outcome {
	if before == nil || r.req.Restart == "" && len(r.req.Stop)+len(r.req.Start) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(before.Outcomes), func(o state.Outcome) bool {
		return slices.ContainsFunc(cs.Actions, func(a plan.Action) bool { return a.Address == o.Address })
	})
}

// sortOutcomes sorts outcomes by address.
func sortOutcomes(list []state.Outcome) []state.Outcome {
	slices.SortFunc(list, func(a, b state.Outcome) int { return strings.Compare(a.Address, b.Address) })
	return list
}
