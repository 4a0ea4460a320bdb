package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// colorFlag is where tell, outside of any verb, finds --color.
var colorFlag = "auto"

// options are the flags that all verbs share.
type options struct {
	dir, file, env, state string
	agents, cache         string
	json, verbose, verify bool
	jpath                 []string
	tlaStr, tlaCode       []string
}

const exitCodes = `Exit codes: 0 done or nothing to do; 1 error; 2 changes pending (only with --exit-code);
3 partly done (something is held or failed); 130 stopped by Ctrl-C.`

func rootCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "defx",
		Short: "Deploy services from functional descriptions in Jsonnet",
		Long: `defx evaluates libraries of functionalities in Jsonnet, plans them against what
stands, and changes only the services whose digest changed.

` + exitCodes,
		Example:       "  defx init shop && cd shop\n  defx plan\n  defx apply",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	f := root.PersistentFlags()
	f.StringVarP(&o.dir, "directory", "C", ".", "work as if started in `DIR`")
	f.StringVarP(&o.file, "file", "f", "defx.jsonnet", "entry `FILE` of the deployment")
	f.StringVarP(&o.env, "env", "e", "", "`NAME` of the environment; passed as the parameter env")
	f.StringVar(&o.state, "state", "", "`DIR` of the state (default .defx beside the entry file)")
	f.StringArrayVarP(&o.jpath, "jpath", "J", nil, "library `DIR`; may be given again, the right-most wins")
	f.StringArrayVarP(&o.tlaStr, "tla-str", "A", nil, "`NAME=VALUE` passed to the entry as a string")
	f.StringArrayVar(&o.tlaCode, "tla-code", nil, "`NAME=CODE` passed to the entry as Jsonnet")
	f.StringVar(&o.agents, "agent", "", "`DIR` of defx for machines of other architectures: defx-linux-ARCH")
	f.StringVar(&o.cache, "cache", "", "`DIR` that keeps what was evaluated, or off (default defx in the user's cache folder)")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&colorFlag, "color", "auto", "`WHEN` to use colour: auto, always or never")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "tell more")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\n    hint: %s --help lists the flags", err, cmd.CommandPath())
	})
	root.AddCommand(initCommand(o), evalCommand(o), graphCommand(o), planCommand(o), applyCommand(o), statusCommand(o), historyCommand(o),
		rollbackCommand(o), destroyCommand(o), explainCommand(o), fmtCommand(o), logsCommand(o), restartCommand(o), attachCommand(o), detachCommand(o), shellCommand(o), machineCommand(o), stateCommand(o), gcCommand(o), importCommand(o), schemaCommand(o), lintCommand(o), lockCommand(o), versionCommand(o), agentCommand())
	root.CompletionOptions.HiddenDefaultCmd = false
	completion(root)
	root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
	return root
}

// completion makes cobra's own verb speak like the others.
func completion(root *cobra.Command) {
	root.InitDefaultCompletionCmd("completion") // with no argument at all it would not be made
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Use, c.Short = "completion SHELL", "Print what makes a shell complete verbs, flags and addresses"
		c.Long = "Print a script for bash, zsh, fish or powershell. The help of each tells where it goes.\n\n" + exitCodes
		c.Example = "  defx completion bash > /etc/bash_completion.d/defx\n  defx completion zsh > \"${fpath[1]}/_defx\""
		c.RunE = func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("defx completion wants a shell\n    hint: bash, zsh, fish or powershell")
			}
			return fmt.Errorf("there is no completion for %q\n    hint: bash, zsh, fish or powershell", args[0])
		}
		c.Args = cobra.ArbitraryArgs
	}
}

// fromEnvironment gives flags that were not set the value of DEFX_NAME; an empty one counts as absent.
func fromEnvironment(f *pflag.FlagSet) error {
	var errs []error
	f.VisitAll(func(fl *pflag.Flag) {
		name := "DEFX_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		v := os.Getenv(name)
		if v == "" || fl.Changed || fl.Name == "help" {
			return
		}
		for _, v := range environmentValues(fl, v) {
			if err := f.Set(fl.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	if colorFlag != "auto" && colorFlag != "always" && colorFlag != "never" {
		errs = append(errs, fmt.Errorf("--color %q is not known\n    hint: auto, always or never", colorFlag))
	}
	return errors.Join(errs...)
}

// environmentValues is what a variable says for a flag: folders that may be
// given again stand in a list like PATH, other such values on lines of their own.
func environmentValues(f *pflag.Flag, v string) []string {
	switch {
	case f.Value.Type() != "stringArray":
		return []string{v}
	case v == "":
		return nil
	case f.Name == "jpath":
		return filepath.SplitList(v)
	}
	return strings.Split(strings.TrimSuffix(v, "\n"), "\n")
}

// usage gives cobra's own complaints the shape and the hint that all errors have.
func usage(root *cobra.Command, err error) error {
	text, _, suggested := strings.Cut(err.Error(), "\n\nDid you mean this?\n\t")
	word, ok := strings.CutPrefix(text, "unknown command ")
	if !ok {
		return err
	}
	word, path, _ := strings.Cut(word, " for ")
	hint := "defx --help lists the verbs"
	if path != `"`+root.Name()+`"` {
		return fmt.Errorf("%s takes no argument %s\n    hint: %s --help shows what it takes", strings.Trim(path, `"`), word, strings.Trim(path, `"`))
	}
	if _, names, found := strings.Cut(err.Error(), "\n\t"); suggested && found {
		hint = fmt.Sprintf("did you mean %q?", strings.Fields(names)[0])
	}
	return fmt.Errorf("there is no verb %s\n    hint: %s", word, hint)
}

// arguments takes from least to most of them.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := fmt.Sprintf("\n    hint: %s", cmd.UseLine())
		switch {
		case len(args) < least:
			return fmt.Errorf("%s wants an argument"+hint, cmd.CommandPath())
		case len(args) > most:
			return fmt.Errorf("%s takes no argument %q"+hint, cmd.CommandPath(), args[most])
		}
		return nil
	}
}

// pairs reads NAME=VALUE; without = the value comes from the environment, as go-jsonnet's command has it.
func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range list {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return nil, fmt.Errorf("--%s %s: no value, and no variable %s in the environment\n    hint: --%s %s=VALUE", flag, p, name, flag, name)
			}
		}
		out[name] = value
	}
	return out, nil
}

// config is what evaluation is told.
func (o *options) config() (lang.Config, error) {
	c := lang.Config{Env: o.env, VerifyCache: o.verify}
	switch o.cache {
	case "off":
	case "":
		if dir, err := os.UserCacheDir(); err == nil {
			c.Cache = filepath.Join(dir, "defx")
		}
	default:
		c.Cache = o.path(o.cache)
	}
	for _, j := range o.jpath {
		abs, err := filepath.Abs(filepath.Join(o.base(j), j))
		if err != nil {
			return c, err
		}
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return c, fmt.Errorf("-J %s: %w", j, err)
		}
		c.JPath = append(c.JPath, abs)
	}
	var err error
	if c.TLAStr, err = pairs("tla-str", o.tlaStr); err != nil {
		return c, err
	}
	c.TLACode, err = pairs("tla-code", o.tlaCode)
	return c, err
}

// path is a path on the command line, seen from -C.
func (o *options) path(p string) string { return filepath.Join(o.base(p), p) }

// base is the folder that a relative path on the command line starts from.
func (o *options) base(p string) string {
	if filepath.IsAbs(p) {
		return ""
	}
	return o.dir
}

// open finds the deployment.
func (o *options) open() (*project.Project, error) {
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	// The environment names the state and the units: an argument must not make another of it.
	_, str := c.TLAStr["env"]
	_, code := c.TLACode["env"]
	if str || code {
		return nil, errors.New("the environment is no ordinary argument\n    hint: -e NAME passes it as the parameter env")
	}
	state := o.state
	if state != "" {
		state = filepath.Join(o.base(state), state)
	}
	p, err := project.Open(o.dir, o.file, state, c, all)
	if err == nil && o.agents != "" {
		p.Builds = filepath.Join(o.base(o.agents), o.agents)
	}
	return p, err
}

// noFiles keeps shells from offering files where none is wanted.
func noFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}
