package lang_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang"
)

func TestEvaluate_ChoosesEnvironment(t *testing.T) {
	const envs = "environments: { dev: {}, staging: { from: 'dev' }, prod: { from: 'staging' } }"
	for name, c := range map[string]struct {
		entry, env string
		want       string // the environment, or a part of the error
		hint       string
		pos        string
	}{
		"literal default":               {"function(env='dev') { name: env, " + envs + " }", "", "dev", "", ""},
		"declared":                      {"function(env='dev') { name: env, " + envs + " }", "prod", "prod", "", ""},
		"no default":                    {"function(env) { name: env, " + envs + " }", "prod", "prod", "", ""},
		"no parameter":                  {"{ name: 'a', " + envs + " }", "prod", "prod", "", ""},
		"single without default":        {"function(env) { name: env, environments: { live: {} } }", "", "live", "", ""},
		"computed default":              {"function(env=std.toString('x')) { name: env, environments: { live: {} } }", "", "live", "", ""},
		"made by a comprehension":       {"local all = { dev: 1, prod: 2 }; function(env) { name: env, size:: all[env], environments: { [e]: {} for e in std.objectFields(all) } }", "prod", "prod", "", ""},
		"hidden":                        {"function(env='dev') { name: env, environments:: { dev: {}, prod: {} } }", "prod", "prod", "", ""},
		"null and comments":             {"function(env='dev') { name: env, environments: { dev: {}, prod: null, '#dev':: 1, '#x': 1 } }", "prod", "the only environment is dev", "", "defx.jsonnet:1:34"},
		"typing error":                  {"function(env='dev') { name: env, " + envs + " }", "prdo", `unknown environment "prdo": the environments are dev, prod, staging`, `did you mean "prod"?`, "defx.jsonnet:1:34"},
		"other name":                    {"function(env='dev') { name: env, " + envs + " }", "test", "the environments are dev, prod, staging", "the field environments of the entry file declares them", "defx.jsonnet:1:34"},
		"several, none chosen":          {"function(env) { name: env, " + envs + " }", "", "the deployment has several environments: dev, prod, staging", "choose one with -e, such as -e dev; function(env='dev') makes it the default", "defx.jsonnet:1:28"},
		"several, no parameter":         {"{ name: 'a', " + envs + " }", "", "the deployment has several environments", "", "defx.jsonnet:1:14"},
		"undeclared default":            {"function(env='test') { name: env, " + envs + " }", "", `the parameter env is "test" by default, which is none of the environments dev, prod, staging`, "choose one with -e, such as -e dev, or change the default", ""},
		"undeclared default, with -e":   {"function(env='test') { name: env, " + envs + " }", "dev", "dev", "", ""},
		"none declared, default":        {"function(env='dev') { name: env }", "", "dev", "", ""},
		"none declared, same name":      {"function(env='dev') { name: env }", "dev", "dev", "", ""},
		"none declared, other name":     {"function(env='dev') { name: env }", "prod", `unknown environment "prod": the only environment is dev`, "declare it in the entry file: environments: { dev: {}, prod: {} }", "defx.jsonnet:1:1"},
		"none declared, quoted name":    {"function(env='dev') { name: env }", "eu-prod", "", "declare it in the entry file: environments: { dev: {}, 'eu-prod': {} }", ""},
		"none declared, no function":    {"{ name: 'a' }", "prod", "the only environment is default", "declare it in the entry file: environments: { default: {}, prod: {} }", ""},
		"none declared, default name":   {"{ name: 'a' }", "default", "default", "", ""},
		"none declared, no default":     {"function(env) { name: env }", "", "default", "", ""},
		"fields depend on env":          {"local envs = { dev: { name: 'a' } }; function(env='dev') envs[env] { libs: {} }", "", "dev", "", ""},
		"fields depend on env, other":   {"local envs = { dev: { name: 'a' } }; function(env='dev') envs[env] { libs: {} }", "dve", "the only environment is dev", `did you mean "dev"?`, ""},
		"environments depends on env":   {"function(env='dev') {\n  name: env,\n  environments: { [env]: {} },\n}", "dev", "the field environments must not depend on env", "read nothing in them that reads env", "defx.jsonnet:3:20"},
		"an environment depends on it":  {"function(env='dev') { name: env, environments: { dev: { from: env } } }", "dev", "the field environments must not depend on env", "", ""},
		"declared below a field of env": {"local envs = { dev: { environments: { dev: {} } } }; function(env='dev') envs[env]", "dev", "the field environments must not depend on env", "", ""},
		"no object":                     {"{ name: 'a', environments: ['dev'] }", "dev", "environments: must be an object name -> environment, not a value of type array", "environments: { dev: {}, prod: { from: 'dev' } }", "defx.jsonnet:1:14"},
		"empty":                         {"{ name: 'a', environments: {} }", "", "environments: there is none", "", "defx.jsonnet:1:14"},
		"with an error":                 {"{ name: 'a', environments: { dev: error 'no' } }", "dev", "no", "", "defx.jsonnet:1:35"},
		"other error first":             {"function(env, size) { name: env }", "prod", "missing argument: size", "", "defx.jsonnet:1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeTree(t, "-- defx.jsonnet --\n"+c.entry+"\n")
			for _, cacheDir := range []string{"", t.TempDir()} {
				res, err := lang.Evaluate(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet", Env: c.env, Cache: cacheDir})
				if err == nil {
					if res.Environment != c.want {
						t.Errorf("environment %q, want %q", res.Environment, c.want)
					}
					if strings.Contains(c.entry, "name: env") && !strings.Contains(string(res.Deployment), `"name":"`+c.want+`"`) {
						t.Errorf("the entry has another env: %s", res.Deployment)
					}
					continue
				}
				var list diag.List
				if !errors.As(err, &list) || len(list) != 1 || !strings.Contains(list[0].Msg, c.want) || !strings.Contains(list[0].Hint, c.hint) || !strings.HasPrefix(list[0].Pos.String(), c.pos) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

// Every request for an undeclared environment fails, not only that for its values.
func TestUnknownEnvironment_FailsEverywhere(t *testing.T) {
	dir := writeTree(t, "-- defx.jsonnet --\nfunction(env='dev') { name: env, libs: {}, transforms: [], environments: { dev: {} } }\n")
	c := lang.Config{Root: dir, Entry: "defx.jsonnet", Env: "dve"}
	_, err := lang.Lint(context.Background(), c)
	if !diag.HasCode(err, lang.CodeEnvironment) {
		t.Errorf("Lint: %v", err)
	}
	if _, err = lang.Transform(context.Background(), c, nil); !diag.HasCode(err, lang.CodeEnvironment) {
		t.Errorf("Transform: %v", err)
	}
}

func TestListEnvironments(t *testing.T) {
	dir := writeTree(t, "-- defx.jsonnet --\nfunction(env, size) { name: env, size: size, libs: error 'not read', environments: { dev: {}, prod: {} } }\n")
	envs, err := lang.ListEnvironments(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet", Env: "dve", TLACode: map[string]string{"size": "1"}})
	if err != nil || !slices.Equal(envs.Names, []string{"dev", "prod"}) || !envs.Declared || envs.Default != "" {
		t.Errorf("%+v, %v", envs, err)
	}
	if _, bad := envs.Choose("prdo"); bad == nil || bad.Hint != `did you mean "prod"?` {
		t.Errorf("%v", bad)
	}
	dir = writeTree(t, "-- defx.jsonnet --\n{ name: 'a' }\n")
	if envs, err = lang.ListEnvironments(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet"}); err != nil || envs.Declared || envs.Default != "default" {
		t.Errorf("%+v, %v", envs, err)
	}
}
