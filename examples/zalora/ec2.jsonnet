// The same two libraries, unchanged, on EC2 instances in two regions, with a VPC
// in each. The tunnel between the regions is not managed here.
local defx = import 'defx/v1.libsonnet';
local id(name) = defx.ref(name).output('id');
local site = import 'defx.jsonnet';
function(env='ec2', image='ami-0123456789abcdef0', keys=[], singapore='10.1.0.0', frankfurt='10.2.0.0', bits=[16, 24]) {
  local across = { ec2+: { allow: 'ipsec' } },
  local net(region, first) = {
    [region.name + '-vpc']: { type: 'aws.vpc', module: region.name, region: region.region, cidr: '%s/%d' % [first, bits[0]], enableDnsHostnames: true },
    [region.name + '-a']: { type: 'aws.subnet', module: region.name, region: region.region, vpc: id(region.name + '-vpc'), cidr: '%s/%d' % [first, bits[1]], zone: region.region + 'a' },
    [region.name + '-gate']: { type: 'aws.internetGateway', module: region.name, region: region.region, vpc: id(region.name + '-vpc') },
    [region.name + '-routes']: {
      type: 'aws.routeTable',
      module: region.name,
      region: region.region,
      vpc: id(region.name + '-vpc'),
      routes: [{ cidrBlock: '0.0.0.0/0', gatewayId: id(region.name + '-gate') }],
    },
    [region.name + '-routed']: { type: 'aws.routeTableAssociation', module: region.name, region: region.region, subnet: id(region.name + '-a'), routeTable: id(region.name + '-routes') },
  },
  name: 'zalora',
  environments: { ec2: {} },
  libs: site(env).libs,
  overrides: {
    'git/gitolite': across,
    'hydra/hydra-db': across,
    'hydra/hydra-web': across,
  },
  defaults: {
    backend: 'ec2',
    ec2: {
      region: 'ap-southeast-1',
      instanceType: 't3.medium',
      image: image,
      servicesPerInstance: 5,
      user: 'ops',
      authorizedKeys: keys,
      sshFrom: ['10.0.0.0/8'],
      subnet: id('singapore-a'),
      locations: {
        singapore: { region: 'ap-southeast-1', subnet: id('singapore-a') },
        frankfurt: { region: 'eu-central-1', subnet: id('frankfurt-a') },
      },
    },
  },
  resources: net({ name: 'singapore', region: 'ap-southeast-1' }, singapore) + net({ name: 'frankfurt', region: 'eu-central-1' }, frankfurt),
}
