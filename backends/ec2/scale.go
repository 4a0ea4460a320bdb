package ec2

import (
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// scale adds an autoscaling group for a service. Its instances boot from a launch template that
// contains the service, and AWS decides their number.
func (p *packer) scale(s *graph.Service, w serviceOptions) {
	a, path := s.Address, append(slices.Clone(s.Path), "ec2")
	before := len(p.errs)
	switch {
	case w.Run != "systemd":
		p.fail(s, append(path, "run"), "class autoscale supports only run: 'systemd'").WithHint("remove run")
	case a.Member != "" || s.Place.Replicas != nil || s.Place.Every != "":
		p.fail(s, append(slices.Clone(s.Path), "place"), "class autoscale cannot be used with replicas or groups, because AWS decides the number of instances").WithHint("use ec2: { min: 1, max: 4 } instead of replicas")
	case w.Min < 0 || w.Max < 1 || w.Min > w.Max:
		p.fail(s, path, "min %d and max %d are not a valid range", w.Min, w.Max).WithHint("ec2: { class: 'autoscale', min: 1, max: 4 }")
	case s.Spec.Dirs.State.Own():
		p.fail(s, append(slices.Clone(s.SpecPath), "dirs", "state"), "class autoscale cannot have dirs.state, because AWS deletes instances with their data").WithHint("store the data elsewhere, or use class: 'exclusive'")
	}
	loc := p.graph.EC2.Locations[s.Place.Location]
	if len(loc.Subnet) == 0 {
		loc.Subnet = p.graph.EC2.Subnet
	}
	if loc.Region == "" {
		loc.Region = p.graph.EC2.Region
	}
	if len(loc.Subnet) == 0 {
		p.fail(s, s.Path, "no subnet is set").WithHint("set defaults: { ec2: { subnet: defx.ref('a').output('id') } }")
	}
	if len(p.errs) > before {
		return
	}
	name := namePrefix(a)
	add := func(suffix, kind string, f map[string]any) {
		f["module"], f["region"] = token.Lit(name), token.Lit(loc.Region)
		p.graph.Resources = append(p.graph.Resources, &graph.Resource{Address: graph.Address{Name: name + suffix}, Type: kind, Fields: f, Path: s.Path})
	}
	template := map[string]any{"image": token.Lit(w.Image), "instanceType": token.Lit(w.InstanceType), "userData": token.Lit(""),
		"metadataOptions": map[string]any{"httpTokens": token.Lit("required"), "httpPutResponseHopLimit": 1.0}}
	if w.Profile != "" {
		template["iamInstanceProfile"] = map[string]any{"name": token.Lit(w.Profile)}
	}
	if len(p.graph.EC2.KeyName) > 0 {
		template["keyName"] = p.graph.EC2.KeyName
	}
	add("-boot", "aws.launchTemplate", template)
	add("-group", "aws.autoscalingGroup", map[string]any{"min": float64(w.Min), "max": float64(w.Max), "subnets": []any{loc.Subnet},
		"launchTemplate": map[string]any{"id": outputOf(name+"-boot", "id"), "version": token.Lit("$Latest")}})
	if w.CPU > 0 {
		add("-pace", "aws.autoscalingPolicy", map[string]any{"name": token.Lit(p.graph.Environment + "-" + p.graph.Name + "-" + name), "group": outputOf(name+"-group", "name"),
			"policyType": token.Lit("TargetTrackingScaling"), "targetTrackingConfiguration": map[string]any{"targetValue": float64(w.CPU),
				"predefinedMetricSpecification": map[string]any{"predefinedMetricType": token.Lit("ASGAverageCPUUtilization")}}})
	}
	p.graph.Scaled = append(p.graph.Scaled, s)
}
