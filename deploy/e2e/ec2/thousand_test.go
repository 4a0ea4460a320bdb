package ec2

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestModules_ThousandResources measures one change among a thousand resources in fifty
// modules, compared to Terraform with all in one. Parameters have overwrite, because the
// provider repeats requests that moto answers too late. The figures are in
// docs/performance.md.
func TestModules_ThousandResources(t *testing.T) {
	if os.Getenv("DEFX_TEST_EC2_BENCH") != "1" {
		t.Skip("a measurement: DEFX_TEST_EC2_BENCH=1 runs it")
	}
	c := newCloud(t)
	entry := func(value string) {
		c.write("defx.jsonnet", fmt.Sprintf(`function(env='dev') {
  name: 'shop',
  libs: {},
  defaults: { ec2: { region: '%s' } },
  resources: {
    ['p%%d-%%d' %% [m, i]]: { type: 'aws.parameter', module: 'm%%d' %% m, name: '/shop/%%d/%%d' %% [m, i], kind: 'String', overwrite: true, value: if m == 7 && i == 7 then '%s' else 'x' }
    for m in std.range(1, 50) for i in std.range(1, 20)
  },
}
`, region, value), 0o644)
	}
	timed := func(what string, f func()) {
		begun := time.Now()
		f()
		t.Logf("FIGURE %s: %.1f s", what, time.Since(begun).Seconds())
	}
	entry("one")
	timed("defx, first apply", func() { c.must("apply", "--yes") })
	c.starts()
	timed("defx, plan without a change", func() { c.must("plan") })
	timed("defx, apply without a change", func() { c.must("apply", "--yes") })
	for _, v := range []string{"two", "three", "four"} {
		entry(v)
		timed("defx, plan of one change", func() { c.must("plan") })
		timed("defx, apply of one change", func() { c.must("apply", "--yes") })
		t.Logf("FIGURE starts of Terraform for one change: %d", len(c.starts()))
	}

	plain := filepath.Join(c.home, "plain")
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(value string) {
		all := map[string]any{}
		for m := 1; m <= 50; m++ {
			for i := 1; i <= 20; i++ {
				v := "x"
				if m == 7 && i == 7 {
					v = value
				}
				all[fmt.Sprintf("p%d-%d", m, i)] = map[string]any{"name": fmt.Sprintf("/plain/%d/%d", m, i), "type": "String", "overwrite": true, "value": v}
			}
		}
		raw, err := json.Marshal(map[string]any{"terraform": map[string]any{"required_providers": map[string]any{"aws": map[string]any{"source": "hashicorp/aws"}}},
			"provider": map[string]any{"aws": map[string]any{"region": region}}, "resource": map[string]any{"aws_ssm_parameter": all}})
		if err != nil {
			t.Fatal(err)
		}
		c.write(filepath.Join(plain, "main.tf.json"), string(raw), 0o644)
	}
	write("one")
	timed("terraform, init and first apply", func() {
		c.terraform(plain, "init", "-no-color")
		c.terraform(plain, "apply", "-no-color", "-auto-approve")
	})
	timed("terraform, plan without a change", func() { c.terraform(plain, "plan", "-no-color") })
	for _, v := range []string{"two", "three", "four"} {
		write(v)
		timed("terraform, plan of one change", func() { c.terraform(plain, "plan", "-no-color") })
		timed("terraform, apply of one change", func() { c.terraform(plain, "apply", "-no-color", "-auto-approve") })
	}
}
