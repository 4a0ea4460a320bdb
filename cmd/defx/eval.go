package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type evalOptions struct {
	*globalOptions
	target                    string // "" = the deployment
	extStr, extCode           []string
	raw                       bool
	explainCache, verifyCache bool
}

func (o *evalOptions) addFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.extStr, "ext-str", "V", nil, "`NAME=VALUE` of an external variable, as a string")
	f.StringArrayVar(&o.extCode, "ext-code", nil, "`NAME=CODE` of an external variable, as Jsonnet")
	f.BoolVar(&o.explainCache, "explain-cache", false, "print what was evaluated instead of read from the cache, and why")
	f.BoolVar(&o.verifyCache, "verify-cache", false, "also evaluate without the cache, and fail if the results differ")
	f.BoolVarP(&o.raw, "string", "S", false, "print a string value without quotes")
}

func evalCommand(g *globalOptions) *cobra.Command {
	o := &evalOptions{globalOptions: g}
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
			if len(args) == 1 {
				o.target = args[0]
				return runEvalFile(cmd.Context(), o)
			}
			return runEval(cmd.Context(), o, g.view())
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// runEvalFile evaluates a file as go-jsonnet's own command does.
func runEvalFile(ctx context.Context, o *evalOptions) error {
	// Folders stay as they were written, because std.thisFile shows them.
	limits, err := o.limits()
	if err != nil {
		return err
	}
	c := lang.EvalConfig{File: o.path(o.target), StringOutput: o.raw, Limits: limits}
	// Of JSONNET_PATH the left-most folder wins, of -J the right-most, and -J wins over both.
	c.JPath = filepath.SplitList(os.Getenv("JSONNET_PATH"))
	slices.Reverse(c.JPath)
	for _, j := range o.jpath {
		c.JPath = append(c.JPath, o.path(j))
	}
	for _, f := range []struct {
		name string
		list []string
		to   *map[string]string
	}{{"tla-str", o.tlaStr, &c.TLAStr}, {"tla-code", o.tlaCode, &c.TLACode}, {"ext-str", o.extStr, &c.ExtStr}, {"ext-code", o.extCode, &c.ExtCode}} {
		var err error
		if *f.to, err = nameValues(f.name, f.list); err != nil {
			return err
		}
	}
	out, err := lang.EvalFile(ctx, c)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, out)
	return err
}

// runEval prints the deployment with the values of all libraries that evaluate.
func runEval(ctx context.Context, o *evalOptions, v view) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	p.Config.VerifyCache = o.verifyCache
	res, err := lang.Evaluate(ctx, p.Config)
	if err != nil {
		return err
	}
	if o.explainCache {
		return v.show(newCacheUse(p.Config.Cache, res.Cache))
	}
	doc, errs, err := inspect.Values(res)
	if err != nil {
		return err
	}
	e := json.NewEncoder(stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "   ")
	if err := e.Encode(doc); err != nil {
		return err
	}
	for _, err := range errs {
		v.warn(err)
	}
	if len(errs) > 0 {
		return &exitError{code: exitPartial}
	}
	return nil
}

// cacheUse is printed by eval --explain-cache.
type cacheUse struct {
	header
	Folder string          `json:"folder"` // "" = the cache is off
	Parts  []lang.CacheUse `json:"parts"`
}

func newCacheUse(folder string, parts []lang.CacheUse) cacheUse {
	return cacheUse{newHeader("CacheUse"), folder, append([]lang.CacheUse{}, parts...)}
}

func (c cacheUse) print(p *printer) {
	if c.Folder == "" {
		p.println("The cache is off.")
		return
	}
	hits := p.cacheUses("evaluated", c.Parts)
	p.printf("%d of %s read from the cache %s\n", hits, plural(len(c.Parts), "part"), c.Folder)
}

// cacheUses prints the parts that were not in the cache, and returns the number of the others.
func (p *printer) cacheUses(done string, uses []lang.CacheUse) (hits int) {
	for _, u := range uses {
		if u.Hit {
			hits++
		} else {
			p.printf("%-9s  %s: %s\n", done, u.Part, u.Why)
		}
	}
	return hits
}
