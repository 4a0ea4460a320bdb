package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
)

func evalCommand(o *options) *cobra.Command {
	var extStr, extCode []string
	var raw, explain, verify bool
	cmd := &cobra.Command{
		Use:   "eval [FILE]",
		Short: "Evaluate a Jsonnet file or the deployment",
		Long: `With FILE, print exactly what go-jsonnet's own command would print (this is the only
command that reads JSONNET_PATH). Without FILE, print the deployment as its libraries
define it, with the overrides applied. Results are cached in the folder of --cache and
reused until something that they depend on changes.`,
		Example: "  defx eval\n  defx eval --explain-cache\n  defx eval -S -A who=me greeting.jsonnet",
		Args:    arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return o.evalEntry(cmd, explain, verify)
			}
			// Folders stay as they were written: a file may show where it was found (std.thisFile).
			e := lang.EvalConfig{File: o.path(args[0]), StringOutput: raw}
			// Of JSONNET_PATH the left-most wins, of -J the right-most, and -J wins over both.
			e.JPath = filepath.SplitList(os.Getenv("JSONNET_PATH"))
			slices.Reverse(e.JPath)
			for _, j := range o.jpath {
				e.JPath = append(e.JPath, o.path(j))
			}
			var err error
			if e.TLAStr, err = pairs("tla-str", o.tlaStr); err != nil {
				return err
			}
			if e.TLACode, err = pairs("tla-code", o.tlaCode); err != nil {
				return err
			}
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
	cmd.Flags().BoolVar(&explain, "explain-cache", false, "print what was evaluated instead of read from the cache, and why")
	cmd.Flags().BoolVar(&verify, "verify-cache", false, "also evaluate without the cache, and fail if the results differ")
	cmd.Flags().BoolVarP(&raw, "string", "S", false, "print a string value without quotes")
	return cmd
}

// evalEntry prints the deployment with the values of all libraries that evaluate.
func (o *options) evalEntry(cmd *cobra.Command, explain, verify bool) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	p.Config.VerifyCache = verify
	res, err := lang.Evaluate(cmd.Context(), p.Config)
	if err != nil {
		return err
	}
	if explain {
		return o.explainCache(p.Config.Cache, res)
	}
	deployment, err := legible(res.Deployment)
	if err != nil {
		return err
	}
	doc, _ := deployment.(map[string]any)
	libs := map[string]map[string]any{}
	held := 0
	s := styleFor(os.Stderr, colorFlag)
	for _, l := range res.Libraries {
		libs[l.Name] = map[string]any{}
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
			v, err := legible(f.Value)
			if err != nil {
				return err
			}
			libs[l.Name][f.Name] = together(v)
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

// explainCache tells what came out of the cache.
func (o *options) explainCache(dir string, res *lang.Result) error {
	if o.json {
		return printJSON(os.Stdout, map[string]any{"apiVersion": "defx/v1", "kind": "CacheUse", "folder": dir, "parts": append([]lang.CacheUse{}, res.Cache...)})
	}
	if dir == "" {
		fmt.Println("The cache is off.")
		return nil
	}
	fmt.Printf("%d of %s read from the cache %s\n", printUses("evaluated", res.Cache), plural(len(res.Cache), "part"), dir)
	return nil
}

// printUses writes what was done anew, and counts the rest.
func printUses(done string, uses []lang.CacheUse) (hits int) {
	for _, u := range uses {
		if u.Hit {
			hits++
		} else {
			fmt.Printf("%-9s  %s: %s\n", done, u.Part, u.Why)
		}
	}
	return hits
}

// explainPlan tells what of a plan came out of the cache; nil is one that was
// not made, since nothing has changed.
func (o *options) explainPlan(dir string, d *project.Desired) error {
	if d == nil {
		d = &project.Desired{Uses: []lang.CacheUse{}}
		if !o.json {
			fmt.Println("Nothing changed since the last plan: nothing was evaluated or rendered.")
			return nil
		}
	}
	if o.json {
		return printJSON(os.Stdout, map[string]any{"apiVersion": "defx/v1", "kind": "CacheUse", "folder": dir, "parts": append([]lang.CacheUse{}, d.Cache...),
			"units": append([]lang.CacheUse{}, d.Uses...), "whole": d.FullPlanReason})
	}
	if dir == "" {
		fmt.Println("The cache is off.")
		return nil
	}
	parts := printUses("evaluated", d.Cache)
	if d.FullPlanReason != "" {
		fmt.Printf("rendered   all: %s\n", d.FullPlanReason)
	}
	known := printUses("rendered", d.Uses)
	fmt.Printf("%d of %s", parts, plural(len(d.Cache), "part"))
	if d.FullPlanReason == "" {
		fmt.Printf(" and %d of %s", known, plural(len(d.Uses), "functionality"))
	}
	fmt.Printf(" read from the cache %s\n", dir)
	return nil
}

// together puts the values of patched replicas, which evaluation gives beside
// that of their functionality, where the patches stood: whole, if they differ.
func together(v any) any {
	packed, _ := v.(map[string]any)
	value, _ := packed["$value"].(map[string]any)
	replicas, _ := packed["$replicas"].(map[string]any)
	place, _ := value["place"].(map[string]any)
	names, _ := place["replicas"].(map[string]any)
	if names == nil {
		return v
	}
	delete(place, "replicas")
	for name, r := range replicas {
		if of, ok := r.(map[string]any); ok {
			if p, ok := of["place"].(map[string]any); ok {
				delete(p, "replicas")
			}
			if !reflect.DeepEqual(of, value) {
				names[name] = of
			}
		}
	}
	place["replicas"] = names
	return value
}

// legible decodes a value; texts with tokens get the form that they have in all
// documents, {"$text": [...]}. A torn token stays the text that it is.
func legible(raw json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return withTexts(v), nil
}

func withTexts(v any) any {
	switch v := v.(type) {
	case string:
		if t, err := token.Split(v); err == nil && len(t.Tokens()) > 0 {
			return t
		}
	case []any:
		for i := range v {
			v[i] = withTexts(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = withTexts(v[k])
		}
	}
	return v
}
