package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
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

func rootCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "defx",
		Short: "Deploy services described in Jsonnet",
		Long: `defx evaluates Jsonnet libraries, compares the result with what is deployed, and
changes only the services whose digest changed.`,
		Example:       "  defx init shop && cd shop\n  defx plan\n  defx apply",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	f := root.PersistentFlags()
	f.StringVarP(&o.dir, "directory", "C", ".", "change to `DIR` first")
	f.StringVarP(&o.file, "file", "f", "defx.jsonnet", "entry `FILE` of the deployment")
	f.StringVarP(&o.env, "env", "e", "", "`NAME` of the environment, passed to the entry as parameter env")
	f.StringVar(&o.state, "state", "", "`DIR` of the state (default .defx next to the entry file)")
	f.StringArrayVarP(&o.jpath, "jpath", "J", nil, "library search `DIR`; repeatable, the right-most wins")
	f.StringArrayVarP(&o.tlaStr, "tla-str", "A", nil, "`NAME=VALUE` passed to the entry as a string")
	f.StringArrayVar(&o.tlaCode, "tla-code", nil, "`NAME=CODE` passed to the entry as Jsonnet")
	f.StringVar(&o.agents, "agent", "", "`DIR` with defx programs for other architectures, named defx-linux-ARCH")
	f.StringVar(&o.cache, "cache", "", "`DIR` of the cache, or off (default defx in the user's cache folder)")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&colorFlag, "color", "auto", "`WHEN` to use colour: auto, always or never")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print every action and field in full")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
			err = flagError(err, "--"+invalid.GetFlag().Name)
		}
		if e, ok := errors.AsType[*diag.Error](err); ok && e.Hint != "" {
			return e
		}
		return diag.Errorf("", "%v", err).WithHint("%s --help lists the flags", cmd.CommandPath())
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), helpText(cmd)) })
	root.SetHelpCommand(helpCommand(root))
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.DisableSuggestions = true
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
		c.Use, c.Short = "completion SHELL", "Print a shell completion script"
		c.Long = "Print a completion script for bash, zsh, fish or powershell. The help of each shell says where to put it."
		c.Example = "  defx completion bash > /etc/bash_completion.d/defx\n  defx completion zsh > \"${fpath[1]}/_defx\""
		c.RunE = func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("defx completion: missing shell\n    hint: bash, zsh, fish or powershell")
			}
			return fmt.Errorf("unknown shell %q\n    hint: bash, zsh, fish or powershell", args[0])
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
		if v == "" || fl.Changed || fl.Name == "help" || fl.Name == "version" {
			return
		}
		for _, v := range environmentValues(fl, v) {
			if err := f.Set(fl.Name, v); err != nil {
				errs = append(errs, flagError(err, name))
			}
		}
	})
	if colorFlag != "auto" && colorFlag != "always" && colorFlag != "never" {
		errs = append(errs, unknownValue("color", colorFlag, "auto", "always", "never"))
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

// arguments takes from least to most of them.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := fmt.Sprintf("\n    hint: usage: %s", cmd.UseLine())
		switch {
		case len(args) < least:
			return fmt.Errorf("%s: missing argument"+hint, cmd.CommandPath())
		case len(args) > most:
			return fmt.Errorf("%s: unexpected argument %q"+hint, cmd.CommandPath(), args[most])
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
				return nil, fmt.Errorf("--%s %s: no value, and no environment variable %s\n    hint: --%s %s=VALUE", flag, p, name, flag, name)
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
		return nil, errors.New("the parameter env cannot be set with -A or --tla-code\n    hint: use -e NAME")
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
