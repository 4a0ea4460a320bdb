package main

import (
	"context"
	"fmt"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/pflag"
)

// confirmation is what a person is shown and asked.
type confirmation struct {
	title    string // of the changes
	question string
	word     string // the answer that confirms
}

// addConfirm adds the flag that confirms by the name of the environment.
func (f *applyFlags) addConfirm(fs *pflag.FlagSet) {
	fs.StringVar(&f.confirm, "confirm", "", "name of the `ENVIRONMENT`: confirms without being asked, whatever is deleted")
}

// yesUsage is the description of --yes for commands that have --confirm, too.
const yesUsage = "do not ask for confirmation, unless everything or most is deleted (see --confirm)"

// checkConfirm fails if --confirm names another environment.
func (f *applyFlags) checkConfirm(environment string) error {
	if f.confirm == "" || f.confirm == environment {
		return nil
	}
	return diag.Errorf("", "--confirm %s does not name the environment, which is %s", f.confirm, environment).WithHint("choose the environment with -e")
}

// ask asks a person to confirm changes, unless flags confirm them. A change set that deletes
// everything or most is confirmed by the name of the environment only. named are the units whose
// deletion was allowed one by one.
func (f *applyFlags) ask(ctx context.Context, v view, cs *plan.ChangeSet, named map[string]bool, c confirmation) error {
	if err := f.checkConfirm(cs.Environment); err != nil || f.confirm != "" {
		return err
	}
	most := mostDeleted(cs, named)
	if most != "" && c.word != cs.Environment {
		c.word = cs.Environment
		c.question = fmt.Sprintf("This deletes %s. Type the name of the environment, %s, to confirm: ", most, cs.Environment)
	}
	hint := yesHint
	if c.word != "y" {
		hint = "--confirm " + c.word + " confirms in advance"
	}
	switch {
	case !f.yes:
		return v.confirm(ctx, c.question, c.word, hint)
	case most != "":
		return diag.Errorf("", "nothing was changed: this deletes %s, which --yes does not confirm", most).WithHint("if it is intended: --confirm %s", cs.Environment)
	}
	return nil
}

// minMost is how many units must be deleted for more than half of them to count as most.
const minMost = 3

// mostDeleted says how much a change set deletes if it deletes everything, or more than half of
// what is deployed and at least minMost units; else it returns "". Units that are named one by one
// are meant to be deleted.
func mostDeleted(cs *plan.ChangeSet, named map[string]bool) string {
	deleted, unnamed, others, creates := 0, 0, cs.Summary.Unchanged+cs.Summary.Protected+cs.Summary.Held, 0
	for _, a := range cs.Actions {
		switch a.Op {
		case plan.Delete:
			deleted++
			if !named[a.Address] && !named[cs.Names.Text(a.Address)] {
				unnamed++
			}
		case plan.Create:
			creates++
		default:
			others++
		}
	}
	switch {
	case unnamed == 0:
		return ""
	case others+creates == 0:
		return "everything that is deployed (" + plural(deleted, "unit") + ")"
	case deleted >= minMost && deleted > others:
		return fmt.Sprintf("%d of %s", deleted, plural(deleted+others, "deployed unit"))
	}
	return ""
}
