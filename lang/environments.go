package lang

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/google/go-jsonnet"
)

// The entry declares its environments in the field environments, which is
// evaluated before everything else, because the name of the environment is an
// argument of the entry: the parameter env is then an error that names itself.
// Jsonnet is lazy, so the field may read everything that does not read env.
//
// Without the field there is one environment. A program whose fields as a whole
// depend on env, such as envs[env], cannot show whether it has the field; it is
// then asked with the name of that one environment.

// environmentsField is the field of the entry that declares environments.
const environmentsField = "environments"

// CodeEnvironment is the code of the error for an environment that is not
// declared, and for a choice that is missing.
const CodeEnvironment = "environment"

// Environments are the environments of a deployment.
type Environments struct {
	Names    []string // sorted; never empty
	Declared bool     // by the field environments; if not, there is one name
	Default  string   // the one without -e: the literal default of env, declared or not; "" if there is none
}

// ListEnvironments returns the environments of a deployment. It evaluates
// nothing else, and Config.Env plays no part.
func ListEnvironments(ctx context.Context, c Config) (*Environments, error) {
	c.Env = ""
	a, err := runChild(ctx, request{Config: c, Environments: true})
	if d, is := errors.AsType[*childLimitError](err); is {
		return nil, diag.List{d.errorAbout("").In(diag.Position{File: c.Entry, Line: 1, Col: 1})}
	}
	if err != nil {
		return nil, err
	}
	if len(a.Errors) > 0 {
		return nil, a.Errors
	}
	return a.Environments, nil
}

// answerEnvironments answers a request for the environments.
func answerEnvironments(c Config, a *response) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		a.Errors = diag.List{diag.From(err)}
		return
	}
	e, entry, bad := parseEntry(c, i, true)
	if bad == nil {
		a.Environments, bad = e.environments(c, entry)
	}
	if bad != nil {
		a.Errors = diag.List{bad}
	}
}

// envIsUnknown is the message of the error that the parameter env is while the
// environments are evaluated.
const envIsUnknown = "env is not known yet: the environments of the deployment are evaluated first"

// environments returns the environments that the entry declares.
func (e *evaluator) environments(c Config, entry *entryCall) (*Environments, *diag.Error) {
	only := entry.envDefault
	if only == "" {
		only = "default"
	}
	found, bad := e.declaredEnvironments(c, entry, "error "+quoteJSON(envIsUnknown))
	if bad != nil && bad.Msg == envIsUnknown {
		other, otherBad := e.declaredEnvironments(c, entry, quoteJSON(only))
		if otherBad == nil && other != nil {
			bad.Msg = "the field environments must not depend on env, which it declares"
			return nil, bad.WithHint("the environments are evaluated before env is known: read nothing in them that reads env")
		}
		found, bad = nil, nil // errors of the entry are reported when it is evaluated
	}
	switch {
	case bad != nil:
		if !bad.Pos.Known() {
			bad.Pos = diag.Position{File: c.Entry, Line: 1, Col: 1}
		}
		return nil, bad
	case found == nil:
		return &Environments{Names: []string{only}, Default: only}, nil
	}
	envs := &Environments{Names: found, Declared: true, Default: entry.envDefault}
	if envs.Default == "" && len(found) == 1 {
		envs.Default = found[0]
	}
	return envs, nil
}

// declaredEnvironments evaluates the field environments with an expression for
// the parameter env, and returns its names, or nil if there is no such field.
func (e *evaluator) declaredEnvironments(c Config, entry *entryCall, env string) ([]string, *diag.Error) {
	expr := "local d = (import " + quoteJSON(c.Entry) + ")" + entry.call(env) + ";\n" +
		"if !std.isObject(d) || !std.objectHasAll(d, '" + environmentsField + "') then null\n" +
		"else if std.isObject(d." + environmentsField + ") then { [k]: d." + environmentsField + "[k] for k in std.objectFields(d." + environmentsField + ") if !std.startsWith(k, '#') }\n" +
		"else " + jsonnetError("'environments: must be an object name -> environment, not a value of type ' + std.type(d."+environmentsField+")", "environments: { dev: {}, prod: { from: 'dev' } }")
	node, err := jsonnet.SnippetToAST(driver, expr)
	if err != nil {
		return nil, convertError(err)
	}
	raw, bad := e.evalNode(node)
	if bad != nil {
		if !bad.Pos.Known() {
			bad.Pos, _ = e.fieldPosition(c.Entry, environmentsField)
		}
		return nil, bad.At(environmentsField)
	}
	if string(raw) == "null" {
		return nil, nil
	}
	members, err := splitObject(raw)
	if err != nil {
		return nil, diag.Errorf("", "evaluation produced an unexpected form: %v", err)
	}
	names := []string{}
	for _, m := range members {
		if string(m.value) != "null" {
			names = append(names, m.name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		bad := diag.Errorf("", "environments: there is none").At(environmentsField).WithHint("environments: { dev: {}, prod: { from: 'dev' } }")
		bad.Pos, _ = e.fieldPosition(c.Entry, environmentsField)
		return nil, bad
	}
	return names, nil
}

// Choose returns the environment that -e names, or the one without -e if name is
// "". The error lists the environments.
func (envs *Environments) Choose(name string) (string, *diag.Error) {
	list, asked := strings.Join(envs.Names, ", "), name
	if name == "" {
		name = envs.Default
	}
	switch {
	case slices.Contains(envs.Names, name):
		return name, nil
	case name == "":
		return "", diag.Errorf("", "the deployment has several environments: %s", list).
			WithCode(CodeEnvironment).WithHint("choose one with -e, such as -e %s; function(env='%s') makes it the default", envs.Names[0], envs.Names[0])
	case asked == "":
		return "", diag.Errorf("", "the parameter env is %q by default, which is none of the environments %s", name, list).
			WithCode(CodeEnvironment).WithHint("choose one with -e, such as -e %s, or change the default", envs.Names[0])
	}
	msg := fmt.Sprintf("unknown environment %q: the environments are %s", name, list)
	if len(envs.Names) == 1 {
		msg = fmt.Sprintf("unknown environment %q: the only environment is %s", name, list)
	}
	hint := diag.Suggest(name, envs.Names)
	if hint == "" && envs.Declared {
		hint = "the field environments of the entry file declares them"
	} else if hint == "" {
		hint = fmt.Sprintf("declare it in the entry file: environments: { %s: {}, %s: {} }", fieldName(envs.Names[0]), fieldName(name))
	}
	return "", diag.Errorf("", "%s", msg).WithCode(CodeEnvironment).WithHint("%s", hint)
}

// identifierRE matches what Jsonnet accepts as a field name without quotes.
var identifierRE = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// fieldName returns a name as it is written before the colon of a field.
func fieldName(name string) string {
	if identifierRE.MatchString(name) {
		return name
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(name) + "'"
}
