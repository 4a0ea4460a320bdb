package spec

import (
	"fmt"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Values returns the value of a ref, and whether it is known.
type Values = func(token.Token) (string, bool)

// A Codec converts between a backend's own form of a payload, P, and plan.Payload.
type Codec[P any] struct {
	Build  func(p P, version string, value Values) (backends.Layout, diag.List)
	Encode func(P) (plan.Payload, error)
	Decode func(plan.Payload) (P, error)
}

// Render encodes what the reader made. It also builds the layout with a placeholder for every ref,
// so that values that cannot be represented are refused now, while their field is known.
func (k Codec[P]) Render(r *Reader, p P) (plan.Payload, backends.Effects, diag.List) {
	var out backends.Effects
	if len(r.Errs) == 0 {
		l, errs := k.Build(p, "000000000000", func(token.Token) (string, bool) { return "0", true })
		r.Errs = append(r.Errs, errs...)
		for _, c := range l.Claims {
			if c.Field == nil {
				c.Field = At()
			}
			c.Field = r.Absolute(c.Field)
			out.Claims = append(out.Claims, c)
		}
		for _, n := range l.Needs {
			n.Field = r.Absolute(n.Field)
			out.Needs = append(out.Needs, n)
		}
		out.Needs = graph.SortNeeds(out.Needs)
	}
	if len(r.Errs) > 0 {
		for _, e := range r.Errs {
			e.Path = r.Absolute(e.Path)
		}
		return plan.Payload{}, backends.Effects{}, r.Errs.Sort()
	}
	payload, err := k.Encode(p)
	if err != nil {
		return plan.Payload{}, backends.Effects{}, diag.List{diag.Errorf(r.Subject, "%v", err).At(r.In.Service.SpecPath...)}
	}
	return payload, out, nil
}

// Realize builds the layout of a payload once the values of its refs are known.
func (k Codec[P]) Realize(pl plan.Payload, version string, value Values) (backends.Layout, error) {
	p, err := k.Decode(pl)
	if err != nil {
		return backends.Layout{}, err
	}
	if !VersionRE.MatchString(version) {
		return backends.Layout{}, fmt.Errorf("%q is not a version (12 hexadecimal digits)", version)
	}
	l, errs := k.Build(p, version, value)
	if err := errs.Err(); err != nil {
		return backends.Layout{}, err
	}
	return l, nil
}

// ReloadPart is the part of a payload that a running process takes over when it reloads.
type ReloadPart struct {
	Files     map[string]File `json:"files"`
	HostFiles map[string]File `json:"hostFiles,omitempty"`
}

// RestartKeys lists what needs a new process although the files can be reloaded: mounts, and owners,
// which are set before the start.
func RestartKeys(files, hostFiles map[string]File) []string {
	out := sets.Keys(files)
	for _, m := range []map[string]File{files, hostFiles} {
		for _, p := range sets.Keys(m) {
			if m[p].Owner != "" {
				out = append(out, p+" of "+m[p].Owner)
			}
		}
	}
	return out
}

// Encode encodes the parts of a payload. reload is nil if there is no such part.
func Encode[R, M, L any](run R, meta M, reload *L) (plan.Payload, error) {
	var out plan.Payload
	var err error
	if out.Run, err = digest.Canonical(run); err != nil {
		return out, err
	}
	if out.Meta, err = digest.Canonical(meta); err != nil {
		return out, err
	}
	if reload != nil {
		out.Reload, err = digest.Canonical(reload)
	}
	return out, err
}

// Decode decodes the parts of a backend's payload and refuses unknown fields.
func Decode[R, M, L any](backend string, p plan.Payload, run *R, meta *M, reload **L) error {
	if err := DecodeStrict(p.Run, run); err != nil {
		return fmt.Errorf("the run part of a %s payload: %w", backend, err)
	}
	if len(p.Meta) > 0 {
		if err := DecodeStrict(p.Meta, meta); err != nil {
			return fmt.Errorf("the meta part of a %s payload: %w", backend, err)
		}
	}
	if len(p.Reload) > 0 {
		*reload = new(L)
		if err := DecodeStrict(p.Reload, *reload); err != nil {
			return fmt.Errorf("the reload part of a %s payload: %w", backend, err)
		}
	}
	return nil
}
