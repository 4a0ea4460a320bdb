package terraform

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// Terraform has a lock file of its own in each module's directory, and refuses providers that
// differ from it. The versions and hashes of defx.providers.lock.json are written there before
// Terraform runs, and compared with what it has chosen before a provider runs.

var (
	// providerBlockRE matches the part of one provider in Terraform's lock file.
	providerBlockRE = regexp.MustCompile(`(?ms)^provider "([^"\n]+)" \{\n(.*?)^\}\n?`)
	lockVersionRE   = regexp.MustCompile(`(?m)^\s*version\s*=\s*"([^"\n]*)"`)
	lockHashRE      = regexp.MustCompile(`"((?:h1|zh):[^"\n]+)"`)
)

// isAddressOf reports whether the address of a provider, which begins with a host, is that of a
// source.
func isAddressOf(address, source string) bool {
	return address == source || strings.HasSuffix(address, "/"+source)
}

// lockedIn returns what Terraform's lock file has of a provider.
func lockedIn(deps []byte, source string) (lock.TerraformProvider, bool) {
	for _, b := range providerBlockRE.FindAllSubmatch(deps, -1) {
		version := lockVersionRE.FindSubmatch(b[2])
		if !isAddressOf(string(b[1]), source) || version == nil {
			continue
		}
		p := lock.TerraformProvider{Address: string(b[1]), Version: string(version[1])}
		for _, h := range lockHashRE.FindAllSubmatch(b[2], -1) {
			p.Hashes = append(p.Hashes, string(h[1]))
		}
		slices.Sort(p.Hashes)
		return p, len(p.Hashes) > 0
	}
	return lock.TerraformProvider{}, false
}

// withLocked returns Terraform's lock file with the given providers.
func withLocked(deps []byte, locked map[string]lock.TerraformProvider) []byte {
	out := providerBlockRE.ReplaceAllFunc(deps, func(block []byte) []byte {
		address := string(providerBlockRE.FindSubmatch(block)[1])
		if slices.ContainsFunc(sets.Keys(locked), func(source string) bool { return isAddressOf(address, source) }) {
			return nil
		}
		return block
	})
	b := bytes.NewBuffer(bytes.TrimSpace(out))
	for _, source := range sets.Keys(locked) { // their values are checked when they are read
		p := locked[source]
		fmt.Fprintf(b, "\n\nprovider %q {\n  version = %q\n  hashes = [\n", p.Address, p.Version)
		for _, h := range p.Hashes {
			fmt.Fprintf(b, "    %q,\n", h)
		}
		b.WriteString("  ]\n}\n")
	}
	return append(bytes.TrimSpace(b.Bytes()), '\n')
}

// checkLocked returns an error unless Terraform's lock file has the locked version of each source,
// with one of the locked hashes.
func checkLocked(deps []byte, sources []string, locked map[string]lock.TerraformProvider) error {
	for _, source := range sources {
		want, ok := locked[source]
		if !ok {
			continue
		}
		got, _ := lockedIn(deps, source)
		same := slices.ContainsFunc(got.Hashes, func(h string) bool { return slices.Contains(want.Hashes, h) })
		if got.Version != want.Version || !same {
			return diag.Errorf("", "Terraform chose another version of provider %s (%s) than %s has (%s)", source, orNone(got.Version), lock.ProvidersName, want.Version).
				WithHint("if that is intended: defx providers lock --upgrade")
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// unlocked returns an error if one of the sources is not locked.
func unlocked(sources []string, locked map[string]lock.TerraformProvider) error {
	for _, source := range sources {
		if _, ok := locked[source]; !ok {
			return diag.Errorf("", "provider %s is not locked, and only locked providers run before an apply", source).WithHint("run defx providers lock")
		}
	}
	return nil
}
