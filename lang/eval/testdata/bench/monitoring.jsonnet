// In the style of monitoring stacks: mixins with configuration, rule groups,
// dashboards of builders, layered operators, and YAML at the end.
local k = {
  meta(name, ns):: { metadata+: { name: name, namespace: ns } },
  labels(l):: { metadata+: { labels+: l } },
  deployment(name, ns, containers):: {
    local dep = self,
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: name, namespace: ns, labels: { app: name } },
    spec: {
      replicas: 1,
      selector: { matchLabels: dep.metadata.labels },
      template: { metadata: { labels: dep.metadata.labels }, spec: { containers: containers } },
    },
  },
  service(dep):: {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: dep.metadata { labels+: { kind: 'svc' } },
    spec: {
      selector: dep.spec.selector.matchLabels,
      ports: std.flattenArrays([[{ name: p.name, port: p.containerPort } for p in c.ports] for c in dep.spec.template.spec.containers]),
    },
  },
};
local panel = {
  new(title):: {
    title: title,
    type: 'timeseries',
    targets: [],
    _next:: 0,
    addTarget(t):: local p = self; p { targets+: [t { refId: std.char(65 + p._next) }], _next:: p._next + 1 },
    addTargets(ts):: std.foldl(function(p, t) p.addTarget(t), ts, self),
    withUnit(u):: self { fieldConfig+: { defaults+: { unit: u } } },
    withGrid(x, y, w, h):: self { gridPos: { x: x, y: y, w: w, h: h } },
  },
  target(expr, legend):: { expr: expr, legendFormat: legend, intervalFactor: 2 },
};
local dashboard = {
  new(title, uid):: {
    title: title,
    uid: uid,
    rows:: [],
    addRow(r):: self { rows+:: [r] },
    panels: [
      p { id: i + 1 }
      for i in std.range(0, std.length(self._all) - 1)
      for p in [self._all[i]]
    ],
    _all:: std.flattenArrays([r.panels for r in self.rows]),
    templating: { list: [{ name: v, type: 'query', query: 'label_values(%s)' % v } for v in ['cluster', 'namespace', 'pod']] },
  },
  row(title):: { title: title, panels: [], addPanel(p):: self { panels+: [p] } },
};
local mixin(name) = {
  _config+:: {
    selector: 'job="%s"' % name,
    groups: 12,
    thresholds: { warning: 80, critical: 95 },
    namespace: 'monitoring',
    grafana: { prefix: 'Defx / ', tags: [name, 'mixin'] },
  },
  local config = self._config,
  prometheusRules+:: {
    groups+: [
      {
        name: '%s.rules.%d' % [name, g],
        rules: [
          {
            record: '%s:%s:rate%dm' % [name, m, w],
            expr: 'sum by (instance) (rate(%s_%s_total{%s}[%dm]))' % [name, m, config.selector, w],
          }
          for m in ['requests', 'errors', 'bytes', 'latency']
          for w in [1, 5, 30]
        ],
      }
      for g in std.range(1, config.groups)
    ],
  },
  prometheusAlerts+:: {
    groups+: [
      {
        name: '%s.alerts.%d' % [name, g],
        rules: [
          {
            alert: '%s%s%d' % [std.asciiUpper(name[0]), name[1:], g],
            expr: |||
              100 * %(name)s_used{%(selector)s} / %(name)s_limit{%(selector)s} > %(level)d
            ||| % { name: name, selector: config.selector, level: config.thresholds[severity] },
            'for': '%dm' % (5 * g),
            labels: { severity: severity } + (if severity == 'critical' then { page: 'true' } else {}),
            annotations: { summary: 'Usage of %s is above %d %%.' % [name, config.thresholds[severity]] },
          }
          for severity in std.objectFields(config.thresholds)
        ],
      }
      for g in std.range(1, config.groups)
    ],
  },
  grafanaDashboards+:: {
    ['%s-%d.json' % [name, d]]:
      std.foldl(
        function(dash, r) dash.addRow(
          std.foldl(
            function(row, p) row.addPanel(
              panel.new('Panel %d' % p)
              .addTargets([panel.target('rate(%s_%d{%s}[5m])' % [name, t, config.selector], '{{pod}} %d' % t) for t in std.range(1, 4)])
              .withUnit('short').withGrid(p * 6, r * 8, 6, 8)
            ),
            std.range(1, 4),
            dashboard.row('Row %d' % r)
          )
        ),
        std.range(1, 4),
        dashboard.new(config.grafana.prefix + name, std.md5(name + d)) { tags: config.grafana.tags }
      )
    for d in std.range(1, 4)
  },
};
local operator(name) = {
  _config+:: { version: 'v1.2.3', replicas: 3, resources: { requests: { cpu: '100m' }, limits: { memory: '1Gi' } } },
  [name]+: {
    deployment: k.deployment(name, $._config.namespace, [
      { name: c, image: 'quay.io/%s/%s:%s' % [name, c, $._config.version], ports: [{ name: 'http', containerPort: 9000 + p } for p in [1, 2]], resources: $._config.resources, env: [{ name: std.asciiUpper(e), value: e } for e in ['a', 'b', 'c']] }
      for c in ['main', 'proxy', 'reloader']
    ]) + k.labels({ version: $._config.version }) + { spec+: { replicas: $._config.replicas } },
    service: k.service(self.deployment),
    role: { kind: 'Role', rules: [{ apiGroups: [g], resources: ['pods', 'services'], verbs: std.set(['get', 'list', 'watch']) } for g in ['', 'apps', 'batch']] },
  },
};
local names = ['node', 'kube', 'etcd', 'loki', 'tempo'];
local stack = std.foldl(function(s, n) s + operator(n) + { _config+:: { ['x_' + n]: n } }, names, { _config:: { namespace: 'monitoring' } });
local mixins = { [n]: mixin(n) { _config+:: { groups: 3 } } for n in names };
{
  ['manifests/%s-%s.yaml' % [n, part]]: std.manifestYamlDoc(stack[n][part])
  for n in names
  for part in std.objectFields(stack[n])
} + {
  ['rules/%s.yaml' % n]: std.manifestYamlDoc({ groups: mixins[n].prometheusRules.groups + mixins[n].prometheusAlerts.groups })
  for n in names
} + {
  ['dashboards/%s/%s' % [n, d]]: mixins[n].grafanaDashboards[d]
  for n in names
  for d in std.objectFields(mixins[n].grafanaDashboards)
}
