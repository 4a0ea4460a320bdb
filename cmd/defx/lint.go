package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

type lintOptions struct {
	*globalOptions
	strict bool
}

func lintCommand(g *globalOptions) *cobra.Command {
	o := &lintOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Find likely mistakes in a deployment",
		Long: `Check the deployment's files and values for mistakes that are valid but probably
unintended. Errors:
  token-compared   a value that is only known later is compared
  token-measured   such a value is measured, hashed, cut or encoded
  secret-in-clear  env, command or files contain a secret
  unknown-machine  place.except names a machine that does not exist
Warnings:
  image-by-tag     the image may change without a change here
  no-readiness     nothing defines when a service is ready
  idle-override    an override repeats what the library sets
  private-path     a command writes where systemd's hardening hides or forbids it
  needs            a unit asks for rights, or affects others, without allow in the entry file
  line-ends        a file has CRLF line ends
  unused-variable, jsonnet   findings of go-jsonnet's own linter

Errors exit 1; with --strict warnings do too. The comment "// defx-lint: ignore RULE" on
the line above silences a rule at that place; without RULE, all rules.`,
		Example:           "  defx lint\n  defx lint --strict --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runLint(cmd.Context(), o, g.view()) },
	}
	cmd.Flags().BoolVar(&o.strict, "strict", false, "exit 1 for warnings too")
	return cmd
}

func runLint(ctx context.Context, o *lintOptions, v view) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	d, err := p.Evaluate(ctx)
	if err != nil {
		return err
	}
	defer v.held(d)
	found, err := p.Lint(ctx, d)
	if err != nil {
		return err
	}
	doc := linted{header: newHeader("Lint"), Findings: []finding{}, held: len(d.Held)}
	for _, f := range found {
		doc.Findings = append(doc.Findings, finding{f.Code, f.Severity.String(), f.Pos, f.Subject, f.Path, f.Msg, copyable(f.Hint)})
		if f.Severity == diag.SeverityError {
			doc.Errors++
		} else {
			doc.Warnings++
		}
	}
	if err := v.show(doc); err != nil {
		return err
	}
	if doc.Errors > 0 || o.strict && doc.Warnings > 0 {
		return &exitError{code: exitFailure}
	}
	return heldError(d)
}

// linted is printed by lint.
type linted struct {
	header
	Findings []finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`

	held int // functionalities and libraries that were not checked, because they have errors
}

// finding is one diagnostic as lint prints it.
type finding struct {
	Rule     string        `json:"rule"`
	Level    string        `json:"level"` // "error" or "warning"
	Position diag.Position `json:"position"`
	Subject  string        `json:"subject,omitempty"` // lib/name, if it is about one
	Path     []string      `json:"path,omitempty"`    // path of the value in the entry's value, if known
	Message  string        `json:"message"`
	Hint     string        `json:"hint,omitempty"`
}

func (l linted) print(p *printer) {
	for _, f := range l.Findings {
		level := p.yellow(f.Level)
		if f.Level == diag.SeverityError.String() {
			level = p.red(f.Level)
		}
		subject := ""
		if f.Subject != "" {
			subject = f.Subject + ": "
		}
		p.println(clean(fmt.Sprintf("%s: ", f.Position)) + level + clean(fmt.Sprintf(": %s%s (%s)\n    hint: %s", subject, f.Message, f.Rule, f.Hint)))
	}
	switch {
	case len(l.Findings) == 0 && l.held > 0:
		p.printf("No problems found in what evaluates; %d held.\n", l.held)
		return
	case len(l.Findings) == 0:
		p.println("No problems found.")
		return
	}
	var sum []string
	if l.Errors > 0 {
		sum = append(sum, plural(l.Errors, "error"))
	}
	if l.Warnings > 0 {
		sum = append(sum, plural(l.Warnings, "warning"))
	}
	p.printf("\n%s.\n", strings.Join(sum, ", "))
}
