package systemd

import (
	"os"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// TestMachine_WellKnownServers runs well-known servers with the default hardening. The tree must have nginx-light, redis-server, postgresql and curl.
func TestMachine_WellKnownServers(t *testing.T) {
	m := newMachine(t)
	for _, p := range []string{"/usr/sbin/nginx", "/usr/bin/redis-server", "/usr/lib/postgresql/15/bin/postgres", "/usr/bin/curl"} {
		if _, err := os.Stat(m.root + p); err != nil {
			t.Skipf("the tree has no %s", p)
		}
	}
	conf := `user www-data;
pid /run/defx/dev/zalora/hydra-front.0/front/nginx.pid;
error_log stderr;
events {}
http {
	access_log /var/log/defx/dev/zalora/hydra-front.0/front/access.log;
	client_body_temp_path /var/cache/defx/dev/zalora/hydra-front.0/front/body;
	proxy_temp_path /var/cache/defx/dev/zalora/hydra-front.0/front/proxy;
	fastcgi_temp_path /var/cache/defx/dev/zalora/hydra-front.0/front/fastcgi;
	uwsgi_temp_path /var/cache/defx/dev/zalora/hydra-front.0/front/uwsgi;
	scgi_temp_path /var/cache/defx/dev/zalora/hydra-front.0/front/scgi;
	server { listen 80; location / { return 200 "WORD\n"; } }
}
`
	file := func(word string) map[string]graph.File {
		return map[string]graph.File{"/etc/front/nginx.conf": {Text: token.Lit(strings.Replace(conf, "WORD", word, 1))}}
	}
	nginx := m.deploy("", input("front", graph.Spec{User: "root", Files: file("one"), Reload: &graph.Reload{Signal: "HUP"},
		Command: lit("/usr/sbin/nginx", "-c", "/etc/front/nginx.conf", "-g", "daemon off;"),
		Ports:   map[string]graph.Port{"http": {Port: 80}}, Dirs: graph.Dirs{Runtime: graph.Dir{Name: "front"}, Logs: graph.Dir{Name: "front"}, Cache: graph.Dir{Name: "front"}}}))
	redis := m.deploy("", input("kv", graph.Spec{Command: lit("/usr/bin/redis-server", "--dir", "/var/lib/defx/dev/zalora/hydra-kv.0/kv", "--supervised", "systemd", "--appendonly", "yes"),
		Dirs: graph.Dirs{State: graph.Dir{Name: "kv"}}, Ready: &graph.Ready{Notify: true, Timeout: "20s"}}))
	db := m.deploy("", input("db", graph.Spec{User: "postgres", Dirs: graph.Dirs{State: graph.Dir{Name: "db"}, Runtime: graph.Dir{Name: "db"}},
		Initializer: lit("/usr/lib/postgresql/15/bin/initdb", "-D", "/var/lib/defx/dev/zalora/hydra-db.0/db/data"),
		Command:     lit("/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/defx/dev/zalora/hydra-db.0/db/data", "-k", "/run/defx/dev/zalora/hydra-db.0/db"),
		Stop:        &graph.Stop{Signal: "INT"}}))
	out := m.boot(strings.NewReplacer("NGINX", nginx.Name, "REDIS", redis.Name, "DB", db.Name, "COPY",
		unitsDir+"/"+strings.TrimSuffix(nginx.Name, ".service")+"/files/etc/front/nginx.conf").Replace(`
for i in $(seq 100); do [ -S /run/defx/dev/zalora/hydra-db.0/db/.s.PGSQL.5432 ] && break; sleep 0.1; done; sleep 0.5
curl -sS http://127.0.0.1/
sed 's/"one/"two/' COPY > /tmp/new; cat /tmp/new > COPY; systemctl reload NGINX; sleep 0.5
curl -sS http://127.0.0.1/
redis-cli set a redis-works >/dev/null; systemctl restart REDIS; redis-cli get a
su postgres -c "psql -h /run/defx/dev/zalora/hydra-db.0/db -tAc \"select 'postgres-' || 'works'\""
systemctl restart DB; sleep 1
su postgres -c "psql -h /run/defx/dev/zalora/hydra-db.0/db -tAc \"select 'postgres-' || 'again'\""
systemctl is-active NGINX REDIS DB | sort | uniq -c
`))
	t.Logf("%s", out)
	for _, want := range []string{"one\n", "two\n", "redis-works", "postgres-works", "postgres-again", "3 active"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
}
