// Package backendtest holds the contract suite that every backend passes, and Fake, an in-memory
// backend with fault injection for tests of packages that apply plans.
//
// It knows the contract of package backends. It refuses to know any real backend.
package backendtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

const version = "0123456789ab"

// Run checks that b keeps the contract for a sample. Every call of sample returns an equal input
// that shares nothing with the others. The sample should read at least one ref and, if the backend
// supports them, one secret.
func Run(t *testing.T, b backends.Backend, sample func() backends.Input) {
	t.Run("backend", func(t *testing.T) { checkIdentity(t, b) })
	t.Run("pure", func(t *testing.T) { checkPure(t, b, sample) })
	t.Run("canonical", func(t *testing.T) { checkCanonical(t, b, sample) })
	t.Run("bindings", func(t *testing.T) { checkBindings(t, b, sample) })
	t.Run("layout", func(t *testing.T) { checkLayout(t, b, sample) })
	t.Run("errors", func(t *testing.T) { checkErrorPlaces(t, b, sample) })
}

// Value returns a value for every ref, made from its name and field.
func Value(t token.Token) (string, bool) {
	return "v-" + strings.NewReplacer("/", "-", "#", "-").Replace(t.Name) + "-" + t.Field, true
}

func render(t *testing.T, b backends.Backend, in backends.Input) plan.Payload {
	t.Helper()
	p, _, errs := b.Render(in)
	if len(errs) > 0 {
		t.Fatalf("the sample was refused: %v", errs)
	}
	return p
}

func realize(t *testing.T, b backends.Backend, p plan.Payload) backends.Layout {
	t.Helper()
	l, err := b.Realize(p, version, Value)
	if err != nil {
		t.Fatalf("the sample was refused: %v", err)
	}
	return l
}

// checkIdentity checks that name and encoding are valid and constant.
func checkIdentity(t *testing.T, b backends.Backend) {
	name, encoding := b.Name(), b.Encoding()
	if name == "" || b.Name() != name || encoding < 1 || b.Encoding() != encoding {
		t.Errorf("name %q and encoding %d must be constants", name, encoding)
	}
}

// checkPure checks that equal inputs give equal bytes in any map order and in parallel, and that
// Render does not change its input.
func checkPure(t *testing.T, b backends.Backend, sample func() backends.Input) {
	first := render(t, b, sample())
	want := realize(t, b, first)
	var wg sync.WaitGroup
	shared := sample()
	for i := range 32 {
		wg.Go(func() {
			in := shared
			if i%2 == 0 {
				in = sample()
			}
			p, _, errs := b.Render(in)
			if len(errs) > 0 || !reflect.DeepEqual(p, first) {
				t.Errorf("the same input gave another payload: %v", errs)
				return
			}
			if l, err := b.Realize(p, version, Value); err != nil || !reflect.DeepEqual(l, want) {
				t.Errorf("the same payload gave another layout: %v", err)
			}
		})
	}
	wg.Wait()
	if !reflect.DeepEqual(shared.Service, sample().Service) {
		t.Error("Render changed its input")
	}
}

// checkCanonical checks that the payload is RFC 8785 JSON and survives a round trip through JSON.
func checkCanonical(t *testing.T, b backends.Backend, sample func() backends.Input) {
	p := render(t, b, sample())
	if len(p.Run) == 0 {
		t.Error("the run part is empty")
	}
	for name, part := range map[string]json.RawMessage{"run": p.Run, "reload": p.Reload, "meta": p.Meta} {
		if part == nil {
			continue
		}
		c, err := digest.Canonical(part)
		if err != nil || !bytes.Equal(c, part) {
			t.Errorf("the %s part is not canonical: %v\n%s", name, err, part)
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again plan.Payload
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(realize(t, b, p), realize(t, b, again)) {
		t.Error("the layout differs after a round trip through JSON")
	}
}

// checkBindings checks that values are requested for refs only, that a missing value is an error
// that names the ref, and that other values give another layout.
func checkBindings(t *testing.T, b backends.Backend, sample func() backends.Input) {
	p := render(t, b, sample())
	requested := map[string]bool{}
	_, err := b.Realize(p, version, func(tok token.Token) (string, bool) {
		if tok.Kind != token.Ref {
			t.Errorf("the value of %s was requested", tok)
		}
		requested[tok.String()] = true
		return Value(tok)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(requested) == 0 {
		t.Fatal("the sample reads no ref")
	}
	for name := range requested {
		l, err := b.Realize(p, version, func(tok token.Token) (string, bool) {
			if tok.String() == name {
				return "", false
			}
			return Value(tok)
		})
		if err == nil {
			t.Errorf("%s has no value, but Realize returned a layout: %v", name, l)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("%s has no value, but the error does not name it: %v", name, err)
		}
	}
	other, err := b.Realize(p, version, func(tok token.Token) (string, bool) { return "9999", true })
	if err == nil && reflect.DeepEqual(other, realize(t, b, p)) {
		t.Error("other values gave the same layout")
	}
}

// checkLayout checks the layout of the sample.
func checkLayout(t *testing.T, b backends.Backend, sample func() backends.Input) {
	l := realize(t, b, render(t, b, sample()))
	if err := Check(l); err != nil {
		t.Error(err)
	}
}

// Check returns all faults of a layout, for any backend.
func Check(l backends.Layout) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.Name == "" || l.Unit == "" || len(l.Start) == 0 {
		fault("the layout lacks a name: %q, %q, %q", l.Name, l.Unit, l.Start)
	}
	names := map[string]bool{}
	for _, o := range l.Objects {
		if o.Digest != digest.Bytes(o.Content) {
			fault("the digest of object %s is not that of its content", o.Name)
		}
		if !strings.HasPrefix(o.Name, o.Digest.Hex()) || strings.Contains(o.Name, "/") {
			fault("the name of object %q does not begin with its digest", o.Name)
		}
		if names[o.Name] {
			fault("object %s is listed twice", o.Name)
		}
		if o.Mode == 0 || o.Mode != o.Mode.Perm() {
			fault("object %s has mode %v", o.Name, o.Mode)
		}
		names[o.Name] = true
	}
	at := map[string]int{}
	for i, f := range l.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			fault("%q is not an absolute, clean path", f.Path)
		}
		if _, twice := at[f.Path]; twice {
			fault("%s is listed twice", f.Path)
		}
		at[f.Path] = i
		switch {
		case f.Link != "" && (f.Content != nil || f.Mode != 0 || f.InPlace):
			fault("%s is both a link and a file", f.Path)
		case f.Link == "" && (f.Mode == 0 || f.Mode != f.Mode.Perm()):
			fault("%s has mode %v", f.Path, f.Mode)
		case f.InPlace && f.Shared:
			fault("%s is shared, so it must not be rewritten in place", f.Path)
		}
		if strings.HasPrefix(f.Path, backends.StorePath+"/") {
			fault("%s is in the store, so it must be an object", f.Path)
		}
	}
	for i, f := range l.Files {
		if f.Link == "" {
			continue
		}
		target := f.Link
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(f.Path), target)
		}
		if j, listed := at[target]; listed && j > i {
			fault("%s is written before its target %s", f.Path, target)
		}
	}
	for p := range at {
		for d := path.Dir(p); len(d) > 1; d = path.Dir(d) {
			if _, file := at[d]; file {
				fault("%s is below %s, which is a file", p, d)
			}
		}
	}
	return errors.Join(errs...)
}

// checkErrorPlaces checks that the errors of a refused service have the service as subject and a
// path below the service's, and that no payload is returned with them.
func checkErrorPlaces(t *testing.T, b backends.Backend, sample func() backends.Input) {
	in := sample()
	in.Service.Options = json.RawMessage(`{"no-such-option":1}`)
	p, _, errs := b.Render(in)
	if len(errs) == 0 {
		t.Fatal("an unknown option was accepted")
	}
	if len(p.Run) > 0 {
		t.Error("Render returned a payload together with errors")
	}
	for _, e := range errs {
		if e.Subject != in.Service.Address.String() || len(e.Path) < len(in.Service.Path) ||
			!slices.Equal(e.Path[:len(in.Service.Path)], in.Service.Path) {
			t.Errorf("%v has the wrong subject or path: %q", e, e.Path)
		}
	}
}
