package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// zalora is the example on three booted machines. Postgres and git are Debian's; gitolite
// and hydra are not installed, so their commands are replaced by ones that do the same to
// the database and to git.
const zalora = `local defx = import 'defx/v1.libsonnet';
local psql(sql) = ['/usr/bin/psql', '-v', 'ON_ERROR_STOP=1', '-qAt', '-h', defx.dep('db').host, '-p', defx.dep('db').port('sql'), '-U', 'hydra', '-c', sql, 'hydra'];
local again(words) = ['/bin/sh', '-c', 'while :; do "$@" || exit 1; sleep 1; done', 'again'] + words;
function(env='dev') (import 'zalora/defx.jsonnet')(env) + {
  machines: {
    sg1: { connect: 'ssh://root@ONE', pool: 'farm', roles: ['web', 'db'], location: 'singapore' },
    sg2: { connect: 'ssh://root@TWO', pool: 'farm', roles: ['web'], location: 'singapore' },
    de1: { connect: 'ssh://root@THREE', pool: 'farm', roles: ['build'], location: 'frankfurt' },
  },
  overrides: {
    'git/gitolite': { service+: { initializer: ['/usr/bin/git', 'init', '--bare', defx.me.dir('state') + '/repositories/testing.git'] } },
    'git/mirror': { service+: { schedule+: { every: '2s', jitter: null } } },
    'hydra/hydra-db': { service+: { files+: { '/etc/hydra-db/pg_hba.conf': 'host hydra hydra samenet trust\n' } } },
    'hydra/hydra-web': { service+: {
      package: defx.artifact('build/server'), command: ['server', '-listen', '0.0.0.0:' + defx.me.port('http')], ready+: { http: '/health' },
      migrate: psql('create table if not exists builds (who text, at timestamptz default now())') } },
    'hydra/build': { group+: {
      evaluator+: { service+: { command: again(psql("insert into builds values ('evaluator')")) } },
      'queue-runner'+: { service+: { command: again(psql("insert into builds values ('RUNNER')")) } },
    } },
  },
}
`

func TestZalora_ThreeMachines(t *testing.T) {
	s := newSite(t, 3)
	sg1, de1 := s.lab.Machines[0], s.lab.Machines[2]
	if _, err := os.Stat(filepath.Join(sg1.Root, "usr/bin/git")); err != nil {
		t.Fatal("the tree has no git: let .ci/run create it again")
	}
	if err := os.CopyFS(filepath.Join(s.dir, "zalora"), os.DirFS("../../examples/zalora")); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.lab.Machines {
		m.Exec("mkdir -p -m 700 /var/lib/defx/secrets && mkdir -p /var/lib/defx/secrets/dev/zalora && echo sesame > /var/lib/defx/secrets/dev/zalora/hydra_2fdb-password")
	}
	say := func(runner string) {
		t.Helper()
		s.file("defx.jsonnet", strings.NewReplacer("ONE", sg1.Address, "TWO", s.lab.Machines[1].Address, "THREE", de1.Address, "RUNNER", runner).Replace(zalora), 0o644)
	}
	sql := func(query string) string {
		t.Helper()
		return strings.TrimSpace(sg1.Exec(fmt.Sprintf("psql -qAt -h %s -U hydra -c %q hydra", sg1.Address, query)))
	}
	until := func(query, want string) {
		t.Helper()
		sg1.Exec(fmt.Sprintf("for i in $(seq 150); do [ \"$(psql -qAt -h %s -U hydra -c %q hydra)\" = %s ] && exit 0; sleep 0.2; done; exit 1", sg1.Address, query, want))
	}
	say("one")
	s.wants(0, "7 created", "next runs: ")
	out := s.says("hydra/build/evaluator", "status", "--refresh")
	for _, line := range []string{"hydra/build/evaluator", "hydra/build/queue-runner", "hydra/hydra-db", "hydra/hydra-web#0", "hydra/hydra-web#1", "git/gitolite", "git/mirror"} {
		if !strings.Contains(out, line) {
			t.Errorf("no %s", line)
		}
	}

	// The group works, and only its changed member restarts.
	until("select count(distinct who) > 1 from builds", "t")
	pid := func(member string) string {
		return de1.Exec("systemctl show -P MainPID defx-dev-zalora-hydra-build-" + member + ".0.service")
	}
	evaluator, runner := pid("evaluator"), pid("queue_runner")
	if got := de1.Exec("systemctl show -P Slice defx-dev-zalora-hydra-build-{evaluator,queue_runner}.0.service | sort -u"); strings.Count(got, "hydra-build.0.slice") != 1 || strings.Count(strings.TrimSpace(got), "\n") > 1 {
		t.Errorf("the members are not in one slice: %q", got)
	}
	say("two")
	s.wants(0, "1 updated; 6 unchanged")
	if pid("evaluator") != evaluator || pid("queue_runner") == runner {
		t.Error("another member than the changed one restarted")
	}
	until("select count(*) > 0 from builds where who = 'two'", "t")

	// The scheduled service fetches what was pushed.
	sg1.Exec(`git config --global --add safe.directory '*'; cd $(mktemp -d) && git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first && ` +
		`d=/var/lib/defx/dev/zalora/git-gitolite.0/gitolite3/repositories/testing.git; git push -q $d HEAD:refs/heads/main && chown -R gitolite3: $d`)
	if got := de1.Exec("git config --global --add safe.directory '*'; for i in $(seq 100); do git -C /var/lib/private/defx/dev/zalora/git-mirror.0/mirror/testing.git log --format=%s main 2>/dev/null && exit 0; sleep 0.2; done; exit 1"); got != "first\n" {
		t.Errorf("%q was fetched", got)
	}
	ran := false
	for i := 0; i < 20 && !ran; i++ { // it may be running now
		_, out := s.run("status", "--refresh")
		ran = strings.Contains(out, "succeeded")
	}
	if !ran {
		t.Error("status does not show that the scheduled service succeeded")
	}
	if sql("select count(*) > 3 from builds") != "t" {
		t.Error("little was built")
	}
	s.wants(0, "No changes")
}
