package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
)

func evalCommand(o *options) *cobra.Command {
	var extStr, extCode []string
	var raw bool
	cmd := &cobra.Command{
		Use:   "eval [FILE]",
		Short: "Print what a Jsonnet file evaluates to",
		Long: `Print what go-jsonnet's own command would print for FILE, byte for byte; JSONNET_PATH is
honoured here, and only here. Without FILE print the deployment as its libraries give
it, each functionality with its overrides.

` + exitCodes,
		Example: "  defx eval\n  defx eval -S -A who=me greeting.jsonnet",
		Args:    arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.config()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return o.evalEntry(cmd)
			}
			e := lang.EvalConfig{File: filepath.Join(o.base(args[0]), args[0]), TLAStr: c.TLAStr, TLACode: c.TLACode, StringOutput: raw}
			// Of JSONNET_PATH the left-most wins, of -J the right-most, and -J wins over both.
			e.JPath = filepath.SplitList(os.Getenv("JSONNET_PATH"))
			slices.Reverse(e.JPath)
			e.JPath = append(e.JPath, c.JPath...)
			if e.ExtStr, err = pairs("ext-str", extStr); err != nil {
				return err
			}
			if e.ExtCode, err = pairs("ext-code", extCode); err != nil {
				return err
			}
			out, err := lang.EvalFile(cmd.Context(), e)
			if err != nil {
				return err
			}
			_, err = os.Stdout.WriteString(out)
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&extStr, "ext-str", "V", nil, "`NAME=VALUE` of an external variable, as a string")
	cmd.Flags().StringArrayVar(&extCode, "ext-code", nil, "`NAME=CODE` of an external variable, as Jsonnet")
	cmd.Flags().BoolVarP(&raw, "string", "S", false, "the value is a string: print it as it is")
	return cmd
}

// evalEntry prints the deployment with the values of all libraries that evaluate.
func (o *options) evalEntry(cmd *cobra.Command) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	res, err := lang.Evaluate(cmd.Context(), p.Config)
	if err != nil {
		return err
	}
	doc := map[string]any{}
	if err := json.Unmarshal(res.Deployment, &doc); err != nil {
		return err
	}
	libs := map[string]map[string]json.RawMessage{}
	held := 0
	s := styleFor(os.Stderr, colorFlag)
	for _, l := range res.Libraries {
		libs[l.Name] = map[string]json.RawMessage{}
		if l.Err != nil {
			held++
			fmt.Fprintln(os.Stderr, s.problem(l.Err))
		}
		for _, f := range l.Functionalities {
			if f.Err != nil {
				held++
				fmt.Fprintln(os.Stderr, s.problem(f.Err))
				continue
			}
			libs[l.Name][f.Name] = f.Value
		}
	}
	doc["libs"] = libs
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "   ")
	if err := e.Encode(doc); err != nil {
		return err
	}
	if held > 0 {
		return &exit{code: exitPartly}
	}
	return nil
}
