package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang/lint"
	"github.com/spf13/cobra"
)

// linted is what lint prints as JSON.
type linted struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"` // "Lint"
	Findings   []lint.Finding `json:"findings"`
	Errors     int            `json:"errors"`
	Warnings   int            `json:"warnings"`
}

func lintCommand(o *options) *cobra.Command {
	var strict bool
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
  unused-variable, jsonnet   findings of go-jsonnet's own linter

Errors exit 1; with --strict warnings do too. The comment "// defx-lint: ignore RULE" on
the line above silences a rule at that place; without RULE, all rules.`,
		Example:           "  defx lint\n  defx lint --strict --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := o.open()
			if err != nil {
				return err
			}
			d, err := p.Evaluate(cmd.Context())
			if err != nil {
				return err
			}
			doc := linted{APIVersion: "defx/v1", Kind: "Lint", Findings: []lint.Finding{}}
			found, err := p.Lint(cmd.Context(), d)
			if err != nil {
				return err
			}
			doc.Findings = append(doc.Findings, found...)
			for _, f := range found {
				if f.Level == lint.Error {
					doc.Errors++
				} else {
					doc.Warnings++
				}
			}
			if o.json {
				if err := printJSON(os.Stdout, doc); err != nil {
					return err
				}
			} else {
				doc.print(d)
			}
			printHeld(d)
			switch {
			case doc.Errors > 0 || strict && doc.Warnings > 0:
				return &exit{code: exitError}
			case len(d.Held) > 0:
				return &exit{code: exitPartly}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "exit 1 for warnings too")
	return cmd
}

func (doc linted) print(d *project.Desired) {
	s := styleFor(os.Stdout, colorFlag)
	for _, f := range doc.Findings {
		level := s.yellow(f.Level)
		if f.Level == lint.Error {
			level = s.red(f.Level)
		}
		subject := ""
		if f.Subject != "" {
			subject = f.Subject + ": "
		}
		fmt.Println(clean(fmt.Sprintf("%s: ", f.Position)) + level + clean(fmt.Sprintf(": %s%s (%s)\n    hint: %s", subject, f.Message, f.Rule, f.Hint)))
	}
	if len(doc.Findings) == 0 {
		fmt.Println("No problems found.")
		return
	}
	var sum []string
	if doc.Errors > 0 {
		sum = append(sum, plural(doc.Errors, "error"))
	}
	if doc.Warnings > 0 {
		sum = append(sum, plural(doc.Warnings, "warning"))
	}
	fmt.Printf("\n%s.\n", strings.Join(sum, ", "))
}
