package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

// linted is what lint prints as JSON.
type linted struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"` // "Lint"
	Findings   []finding `json:"findings"`
	Errors     int       `json:"errors"`
	Warnings   int       `json:"warnings"`
}

// finding is one diagnostic in the JSON form of lint.
type finding struct {
	Rule     string        `json:"rule"`
	Level    string        `json:"level"` // "error" or "warning"
	Position diag.Position `json:"position"`
	Subject  string        `json:"subject,omitempty"` // lib/name, if it is about one
	Path     []string      `json:"path,omitempty"`    // path of the value in the entry's value, if known
	Message  string        `json:"message"`
	Hint     string        `json:"hint,omitempty"`
}

func lintCommand(o *options) *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Tell what is legal and wrong",
		Long: `Look at the deployment's own files and at what they evaluate to. Errors:
  token-compared   a value that is only known later is compared
  token-measured   such a value is measured, hashed, cut or encoded
  secret-in-clear  a secret stands in env, command or files
  unknown-machine  place.except names a machine that is not there
Warnings:
  image-by-tag     an image may change without a change here
  no-readiness     nothing tells when a service serves
  idle-override    an override gives what the library has already
  unused-variable, jsonnet   what go-jsonnet's own linter says

Errors exit 1; warnings do so with --strict. "// defx-lint: ignore RULE" on the line
above a place silences it; without RULE, all that is found there.

` + exitCodes,
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
			doc := linted{APIVersion: "defx/v1", Kind: "Lint", Findings: []finding{}}
			found, err := p.Lint(cmd.Context(), d)
			if err != nil {
				return err
			}
			for _, f := range found {
				doc.Findings = append(doc.Findings, finding{f.Code, f.Severity.String(), f.Pos, f.Subject, f.Path, f.Msg, f.Hint})
				if f.Severity == diag.SeverityError {
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
		if f.Level == diag.SeverityError.String() {
			level = s.red(f.Level)
		}
		subject := ""
		if f.Subject != "" {
			subject = f.Subject + ": "
		}
		fmt.Println(clean(fmt.Sprintf("%s: ", f.Position)) + level + clean(fmt.Sprintf(": %s%s (%s)\n    hint: %s", subject, f.Message, f.Rule, f.Hint)))
	}
	if len(doc.Findings) == 0 {
		fmt.Println("Nothing found.")
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
