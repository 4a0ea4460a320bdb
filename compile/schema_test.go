package compile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/reference"
	"github.com/defx-dev/defx/internal/token"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

// schemaOf compiles the JSON Schema of one type.
func schemaOf(t testing.TB, def string) *jsonschema.Schema {
	t.Helper()
	raw, err := reference.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(reference.ID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(reference.ID + "#/$defs/" + def)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(s *jsonschema.Schema, raw string) error {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(raw))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func TestShape_MatchesCustomDecoding(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(ty reflect.Type) {
		if seen[ty] {
			return
		}
		seen[ty] = true
		hasForm := compile.Shape(ty, "") != nil
		if compile.DecodesItself(ty) != hasForm {
			t.Errorf("%s: a type has a schema form if and only if it has its own decoding", ty)
		}
		if hasForm {
			return
		}
		switch ty.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			visit(ty.Elem())
		case reflect.Struct:
			for i := range ty.NumField() {
				visit(ty.Field(i).Type)
			}
		}
	}
	visit(reflect.TypeFor[compile.Entry]())
	visit(reflect.TypeFor[compile.Functionality]())
}

// TestSchema_RefusesWhatDecoderRefuses checks both with the same mistakes.
func TestSchema_RefusesWhatDecoderRefuses(t *testing.T) {
	s := schemaOf(t, "functionality")
	for _, good := range []string{
		`{}`,
		`{"service":{"command":["/bin/x"],"env":{"A":"b","C":null},"#":"words"}}`,
		`{"service":{"files":{"/a":"text","/b":{"text":"x","mode":"0400"}},"ports":{"a":1,"b":{"port":2,"protocol":"udp"}}}}`,
		`{"requires":["a/b"],"connects":{"a":"b","#a":3},"after":null}`,
		`{"requires":{"a":null},"place":{"replicas":0}}`,
		`{"service":{"limits":{"cpu":"0.5","memory":"512Mi","tasks":3}}}`,
		`{"service":{"stop":{"timeout":"1m30s"},"schedule":{"every":"+1.5h"}}}`,
		`{"group":{"a":{"service":{}}},"systemd":{"anything":[1,{"x":null}]}}`,
		`{"connects":{"a":{"all":{"port":"metrics"}},"b":{"all":{"label":"x","port":null}},"c":"d"}}`,
		`{"resource":{"type":"aws.s3","name":"x","#":1,"deep":{"a":[1,{"b":null}]}}}`,
		`{"place":{"replicas":{"a":{},"b":{"service":{}},"c":null,"#":1}}}`,
		`{"host":{"packages":["nginx"],"sysctl":{"vm.swappiness":10,"a.b":"x y"},"users":{"deploy":{"uid":900}}}}`,
		`{"service":{"files":{"/a":{"json":{"a":[1,"x",true,{"b":null}]},"mode":null}},"hostFiles":{"/b":"text"}}}`,
		`{"external":{"host":"db.example.com","ports":{"sql":5432}},"exports":{"url":"x"}}`,
		`{"service":{"restart":"no","protect":false,"links":[{"rel":"a","href":"b"}]}}`,
	} {
		if err := compile.Decode(json.RawMessage(good), &compile.Functionality{}); err != nil {
			t.Errorf("%s: the decoder: %v", good, err)
		}
		if err := validate(s, good); err != nil {
			t.Errorf("%s: the schema: %v", good, err)
		}
	}
	for _, bad := range []string{
		`[]`, `"x"`, `3`,
		`{"servce":{}}`,
		`{"service":[]}`,
		`{"service":{"comand":["x"]}}`,
		`{"service":{"command":"x"}}`,
		`{"service":{"command":["x",null]}}`,
		`{"service":{"command":["x",3]}}`,
		`{"service":{"env":["A=b"]}}`,
		`{"service":{"env":{"A":1}}}`,
		`{"service":{"env":{"A":{"b":"c"}}}}`,
		`{"service":{"files":{"/a":7}}}`,
		`{"service":{"files":{"/a":{"txt":"x"}}}}`,
		`{"service":{"ports":{"a":"80"}}}`,
		`{"service":{"ports":{"a":0}}}`,
		`{"service":{"ports":{"a":65536}}}`,
		`{"service":{"ports":{"a":80.5}}}`,
		`{"service":{"ports":{"a":{"port":80,"protocol":"tpc"}}}}`,
		`{"service":{"restart":"never"}}`,
		`{"service":{"restart":""}}`,
		`{"service":{"protect":"yes"}}`,
		`{"service":{"limits":{"memory":"512MB"}}}`,
		`{"service":{"limits":{"memory":512}}}`,
		`{"service":{"limits":{"memory":"64"}}}`,
		`{"service":{"limits":{"memory":"64k"}}}`,
		`{"service":{"limits":{"cpu":"0"}}}`,
		`{"service":{"limits":{"cpu":"half"}}}`,
		`{"service":{"limits":{"tasks":0}}}`,
		`{"service":{"limits":{"tasks":9007199254740992}}}`,
		`{"service":{"stop":{"timeout":"30"}}}`,
		`{"service":{"stop":{"timeout":"0s"}}}`,
		`{"service":{"stop":{"timeout":"-1s"}}}`,
		`{"service":{"stop":{"timeout":"1.2.3s"}}}`,
		`{"service":{"ready":{"tcp":"true"}}}`,
		`{"service":{"ready":{"retries":-1}}}`,
		`{"service":{"links":[{"rel":"a"}]}}`,
		`{"service":{"links":[{"rel":"a","href":null}]}}`,
		`{"service":{"links":{"rel":"a","href":"b"}}}`,
		`{"requires":"db"}`,
		`{"requires":[3]}`,
		`{"requires":{"db":3}}`,
		`{"connects":[null]}`,
		`{"after":{"a":"b"}}`,
		`{"requires":{"a":{"all":{"port":"x"}}}}`,
		`{"connects":{"a":{"all":{}}}}`,
		`{"connects":{"a":{"all":{"port":"x","label":"y"}}}}`,
		`{"connects":{"a":{"all":{"prt":"x"}}}}`,
		`{"connects":{"a":{"al":{"port":"x"}}}}`,
		`{"connects":{"a":{"all":null}}}`,
		`{"resource":{"name":"x"}}`,
		`{"resource":{"type":null}}`,
		`{"resource":{"type":"x","list":[null]}}`,
		`{"resource":"x"}`,
		`{"place":{"replicas":"3"}}`,
		`{"place":{"replicas":1.5}}`,
		`{"place":{"every":"day"}}`,
		`{"host":{"sysctl":{"a":true}}}`,
		`{"host":{"sysctl":{"a":""}}}`,
		`{"host":{"sysctl":{"a":"x\ny"}}}`,
		`{"host":{"users":{"a":{"uid":0}}}}`,
		`{"host":{"packages":"nginx"}}`,
		`{"service":{"files":{"/a":{"json":[null]}}}}`,
		`{"service":{"files":{"/a":{"json":{"n":9007199254740993}}}}}`,
		`{"service":{"files":{"/a":{"yml":{}}}}}`,
		`{"external":{"ports":{"sql":5432}}}`,
		`{"exports":{"url":3}}`,
		`{"place":{"replicas":10001}}`,
		`{"place":{"replicas":-1}}`,
		`{"place":{"spread":"rack"}}`,
		`{"place":{"roles":"web"}}`,
		`{"place":{"labels":["a"]}}`,
		`{"group":{"a":{}}}`,
		`{"group":{"a":{"service":null}}}`,
		`{"group":{"a":{"service":{},"place":{}}}}`,
		`{"group":[]}`,
		`{"systemd":"x"}`,
		`{"fqdn":[]}`,
	} {
		if compile.Decode(json.RawMessage(bad), &compile.Functionality{}) == nil {
			t.Errorf("%s: the decoder accepts it", bad)
		}
		if validate(s, bad) == nil {
			t.Errorf("%s: the schema accepts it", bad)
		}
	}
}

// TestSchema_AgreesWithDecoder checks both with random values, some of which are wrong.
func TestSchema_AgreesWithDecoder(t *testing.T) {
	schemas := map[string]*jsonschema.Schema{"functionality": schemaOf(t, "functionality"), "machine": schemaOf(t, "machine"), "defaults": schemaOf(t, "defaults")}
	types := map[string]reflect.Type{"functionality": reflect.TypeFor[compile.Functionality](), "machine": reflect.TypeFor[compile.Machine](), "defaults": reflect.TypeFor[compile.Defaults]()}
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.SampledFrom([]string{"functionality", "functionality", "functionality", "machine", "defaults"}).Draw(r, "kind")
		raw, err := json.Marshal(value(r, types[name], ""))
		if err != nil {
			r.Fatal(err)
		}
		decodes := compile.Decode(raw, reflect.New(types[name]).Interface())
		validates := validate(schemas[name], string(raw))
		if (decodes == nil) != (validates == nil) {
			r.Fatalf("%s %s\nthe decoder: %v\nthe schema: %v", name, raw, decodes, validates)
		}
	})
}

// value returns a random value for a Go type of the contract, sometimes of a wrong type.
func value(r *rapid.T, t reflect.Type, tag reflect.StructTag) any {
	if rapid.IntRange(0, 39).Draw(r, "odd") == 0 {
		return rapid.SampledFrom([]any{nil, "", "x", 1, 1.5, -1, true, []any{}, []any{nil}, map[string]any{}, map[string]any{"x": 1}}).Draw(r, "other")
	}
	if t == reflect.TypeFor[compile.Aliases]() {
		return rapid.SampledFrom([]any{[]any{"a", "l/b"}, []any{}, map[string]any{"a": "b"}, map[string]any{"a": 3}, map[string]any{"#a": 3, "b": nil}, map[string]any{"a": map[string]any{"all": map[string]any{"port": "x"}}}}).Draw(r, "aliases")
	}
	switch t {
	case reflect.TypeFor[token.Doc]():
		return rapid.SampledFrom([]any{1, "x", true, []any{1, []any{}}, []any{nil}, map[string]any{"a": nil, "b": 1e300}, map[string]any{"a": 1.5}}).Draw(r, "doc")
	case reflect.TypeFor[graph.Replicas]():
		return rapid.SampledFrom([]any{0, 3, 10000, 10001, 0.5, map[string]any{}, map[string]any{"a": map[string]any{}, "b": nil}}).Draw(r, "replicas")
	case reflect.TypeFor[graph.Setting]():
		return rapid.SampledFrom([]any{0, 3, "x", "", "a\nb", 0.5}).Draw(r, "setting")
	case reflect.TypeFor[compile.Resource]():
		return rapid.SampledFrom([]any{map[string]any{"type": "x", "a": 1}, map[string]any{"type": nil}, map[string]any{"type": 3}, map[string]any{"type": "x", "a": []any{nil}}}).Draw(r, "resource")
	}
	switch t.Kind() {
	case reflect.Pointer:
		return value(r, t.Elem(), tag)
	case reflect.Struct:
		out := map[string]any{}
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Tag.Get("required") != "" || rapid.IntRange(0, 3).Draw(r, "has") == 0 {
				out[name] = value(r, f.Type, f.Tag)
			}
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for i := range rapid.IntRange(0, 2).Draw(r, "size") {
			out[rapid.SampledFrom([]string{"a", "b", "#", "#x"}).Draw(r, "key")+fmt.Sprint(i)] = value(r, t.Elem(), "")
		}
		return out
	case reflect.Slice:
		out := []any{}
		if t.Elem() == reflect.TypeFor[struct{}]() {
			return out
		}
		if t.Name() == "Text" {
			return rapid.SampledFrom([]string{"", "x", "two words"}).Draw(r, "text")
		}
		for range rapid.IntRange(0, 2).Draw(r, "length") {
			out = append(out, value(r, t.Elem(), ""))
		}
		return out
	case reflect.Bool:
		return rapid.Bool().Draw(r, "bool")
	case reflect.Int:
		return rapid.SampledFrom([]int{0, 1, 2, 80, 10000, 65535}).Draw(r, "int")
	case reflect.String:
		if e := tag.Get("enum"); e != "" {
			return rapid.SampledFrom(strings.Split(e+",x", ",")).Draw(r, "word")
		}
		switch tag.Get("format") {
		case "duration":
			return rapid.SampledFrom([]string{"1s", "1h2m3.5s", "5ms", "0s", "s", "1", ".5s", "1 s"}).Draw(r, "duration")
		case "memory":
			return rapid.SampledFrom([]string{"1", "5Mi", "5k", "Mi", "5MB", "2M", "1K", "0Mi", "1Gi"}).Draw(r, "memory")
		case "cpu":
			return rapid.SampledFrom([]string{"1", "0.5", "0.0001", "1."}).Draw(r, "cpu")
		}
		return rapid.SampledFrom([]string{"", "x", "a/b"}).Draw(r, "string")
	}
	return rapid.SampledFrom([]any{1, "x", []any{1}, map[string]any{"a": nil}}).Draw(r, "any")
}
