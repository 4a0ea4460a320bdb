package compile_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

func TestDroppedKeys_Cases(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string
		want          []string
	}{
		"place":             {`{"place":{"roles":["db"],"labels":{"a":"b"}}}`, `{"place":{"replicas":2}}`, []string{"place.labels", "place.roles"}},
		"labels of place":   {`{"place":{"labels":{"a":"b"}}}`, `{"place":{"labels":{"c":"d"}}}`, []string{"place.labels.a"}},
		"limits":            {`{"service":{"limits":{"memory":"1Gi","cpu":"1"}}}`, `{"service":{"limits":{"cpu":"2"}}}`, []string{"service.limits.memory"}},
		"of a member":       {`{"group":{"web":{"service":{"stop":{"signal":"QUIT"}}}}}`, `{"group":{"web":{"service":{"stop":{"timeout":"1m"}}}}}`, []string{"group.web.service.stop.signal"}},
		"a member":          {`{"group":{"web":{},"job":{}}}`, `{"group":{"web":{}}}`, []string{"group.job"}},
		"mode of a file":    {`{"service":{"files":{"/x":{"text":"a","mode":"0555"}}}}`, `{"service":{"files":{"/x":{"text":"b"}}}}`, []string{"service.files./x.mode"}},
		"directives":        {`{"systemd":{"service":{"Nice":"5"}}}`, `{"systemd":{"service":{"IOWeight":"5"}}}`, []string{"systemd.service.Nice"}},
		"resource":          {`{"resource":{"type":"aws.s3","tags":{"a":"b"}}}`, `{"resource":{"type":"aws.s3"}}`, []string{"resource.tags"}},
		"the whole service": {`{"service":{"command":["a"],"env":{"A":"b"}}}`, `{"service":{"command":["b"]}}`, []string{"service.env"}},
		"kept":              {`{"place":{"roles":["db"]}}`, `{"place":{"roles":["web"],"replicas":2}}`, nil},
		"removed with null": {`{"place":{"roles":["db"]}}`, `{"place":{"roles":null,"replicas":2}}`, nil},
		"comment":           {`{"place":{"#":"why","roles":["db"]}}`, `{"place":{"roles":["web"]}}`, nil},
		"null before":       {`{"place":{"pool":null}}`, `{"place":{"roles":["web"]}}`, nil},
		"other type":        {`{"service":{"ports":{"http":{"port":80,"protocol":"tcp"}}}}`, `{"service":{"ports":{"http":81}}}`, nil},
		"replicas":          {`{"place":{"replicas":{"a":{},"b":{}}}}`, `{"place":{"replicas":{"a":{}}}}`, nil},
		"content of a file": {`{"service":{"files":{"/x":{"json":{"a":1}}}}}`, `{"service":{"files":{"/x":{"json":{"b":1}}}}}`, nil},
		"value of resource": {`{"resource":{"type":"aws.s3","tags":{"a":"b"}}}`, `{"resource":{"type":"aws.s3","tags":{"c":"d"}}}`, nil},
	} {
		if got := compile.DroppedKeys(c.before, c.after); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestDroppedKeys_EveryObject loses a key of each object that the types of the contract have.
func TestDroppedKeys_EveryObject(t *testing.T) {
	seen := map[string]bool{}
	checked := 0
	var visit func(ty reflect.Type, path []string)
	visit = func(ty reflect.Type, path []string) {
		for ty.Kind() == reflect.Pointer {
			ty = ty.Elem()
		}
		isText := ty == reflect.TypeFor[token.Text]() || ty == reflect.TypeFor[token.Doc]()
		if ty.Kind() != reflect.Struct && ty.Kind() != reflect.Map || isText || ty == reflect.TypeFor[graph.Replicas]() {
			return
		}
		if len(path) > 0 {
			checked++
			before, after := `{"lost":"x","kept":"y"}`, `{"kept":"z"}`
			for _, k := range slices.Backward(path) {
				before, after = `{"`+k+`":`+before+`}`, `{"`+k+`":`+after+`}`
			}
			want := strings.Join(path, ".") + ".lost"
			if got := compile.DroppedKeys(before, after); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %v", want, got)
			}
		}
		if ty.Kind() == reflect.Map {
			visit(ty.Elem(), append(slices.Clone(path), "key"))
			return
		}
		if seen[ty.String()] {
			return
		}
		seen[ty.String()] = true
		for i := range ty.NumField() {
			if name, _, _ := strings.Cut(ty.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
				visit(ty.Field(i).Type, append(slices.Clone(path), name))
			}
		}
	}
	visit(reflect.TypeFor[compile.Functionality](), nil)
	if checked < 40 {
		t.Errorf("only %d objects were checked", checked)
	}
}

func TestCompile_OverrideThatLosesKeysIsAnError(t *testing.T) {
	base := `{"place":{"roles":["db"]},"service":{"command":["/bin/x"]}}`
	res := &lang.Result{Environment: "dev", Deployment: json.RawMessage(`{"name":"n"}`), Overrides: []string{"l/db"}, Libraries: []lang.Library{{Name: "l", Functionalities: []lang.Functionality{
		{Name: "db", Base: json.RawMessage(base), Value: json.RawMessage(`{"place":{"replicas":2},"service":{"command":["/bin/x"]}}`)},
	}}}}
	_, err := compile.Compile(compile.Input{Result: res, Backends: []string{"systemd"}})
	want := "l/db: the override drops \"place.roles\", which the library sets\n    hint: write place+: to add keys, or roles: null to remove this one"
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}
