package transport

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/diag"
)

// bootstrap is all that a shell ever gets to see. It becomes root, tells the
// architecture, takes name, size and sum of the program from its input, and the
// program itself if it is not there, and then becomes that program. What it
// says are lines "arch SYSTEM MACHINE", "have", "need", "sudo REASON" and
// "failed REASON". It stands in single quotes on one line without "!" and
// "\", so that any login shell passes it on.
const bootstrap = `exec /bin/sh -c 'set -f; LC_ALL=C; export LC_ALL; umask 022; r=; ` +
	`if [ "$(id -u)" -ne 0 ]; then r="sudo -n"; e=$($r true 2>&1) || { echo sudo $e; exit 0; }; fi; ` +
	`echo arch $(uname -s) $(uname -m); ` +
	`read -r name size sum || exit 0; d=/var/lib/defx/bin; f=$d/$name; ` +
	`if [ "$($r stat -c %s "$f" 2>/dev/null)" = "$size" ]; then echo have; else ` +
	`e=$($r mkdir -p "$d" 2>&1) || { echo failed $e; exit 0; }; ` +
	`t=$f.$$; echo need; e=$(head -c "$size" | $r tee "$t" 2>&1 >/dev/null); ` +
	`if echo "$sum  $t" | $r sha256sum -c >/dev/null 2>&1 && $r chmod 755 "$t" && $r sync "$t" && $r mv -f "$t" "$f"; then echo have; ` +
	`else $r rm -f "$t"; echo failed $e; exit 0; fi; fi; ` +
	`exec $r "$f" agent'`

var (
	hopRE     = regexp.MustCompile(`^(ssh://)?([A-Za-z0-9_][A-Za-z0-9_.-]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(:[0-9]{1,5})?$`)
	hostRE    = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]+)$`)
	userRE    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	serverRE  = regexp.MustCompile(`(?m)^debug1: Server host key: (\S+) (\S+)`)
	offendRE  = regexp.MustCompile(`(?m)^Offending \S+ key in (.+):([0-9]+)\r?$`)
	digestLen = 12
)

// target is where an ssh:// leads.
type target struct{ user, host, port string }

func parseSSH(connect string) (target, error) {
	u, err := url.Parse(connect)
	if err != nil {
		return target{}, errors.New("it is not a URL")
	}
	t := target{host: u.Hostname(), port: u.Port()}
	if u.User != nil {
		t.user = u.User.Username()
		if _, has := u.User.Password(); has {
			return t, errors.New("a password cannot be in it: ssh asks nobody here")
		}
		if !userRE.MatchString(t.user) {
			return t, fmt.Errorf("%q is not the name of a user", t.user)
		}
	}
	switch {
	case !hostRE.MatchString(t.host):
		return t, fmt.Errorf("%q is not the name of a host", t.host)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return t, errors.New("nothing may follow the host")
	}
	return t, nil
}

// parsePin reads a host key as the deployment states it.
func parsePin(hostKey string) (kind, blob string, err error) {
	f := strings.Fields(hostKey)
	if len(f) < 2 || strings.ContainsAny(hostKey, "\n\r") {
		return "", "", errors.New("it is not a public key")
	}
	if _, err := base64.StdEncoding.DecodeString(f[1]); err != nil || strings.HasPrefix(f[0], "-") || strings.HasPrefix(f[0], "@") {
		return "", "", errors.New("it is not a public key")
	}
	return f[0], f[1], nil
}

// fingerprint is how ssh shows a key.
func fingerprint(blob string) string {
	raw, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		return "unreadable"
	}
	sum := sha256.Sum256(raw)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func (d Dialer) dialSSH(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
	fail := func(field, format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, field)
	}
	to, err := parseSSH(m.Connect)
	if err != nil {
		return nil, fail("connect", "connect %q leads nowhere: %v", m.Connect, err).WithHint("ssh://user@host:port; user and port may be left out")
	}
	for hop := range strings.SplitSeq(m.Via, ",") {
		if m.Via != "" && !hopRE.MatchString(hop) {
			return nil, fail("via", "via %q is not user@host:port", m.Via)
		}
	}
	known, err := pin(m)
	if err != nil {
		return nil, err
	}
	defer os.Remove(known)
	p, err := start("ssh", append([]string{"-T", "-o", "LogLevel=DEBUG1"}, append(d.sshArgs(m, to, known), bootstrap)...)...) // DEBUG1 tells which key the machine has
	if err != nil {
		return nil, fail("connect", "ssh cannot be run: %v", err).WithHint("defx reaches machines through OpenSSH's client: install it")
	}
	c, err := d.bootstrap(ctx, m, p)
	if err != nil {
		p.kill()
		p.wait()
		return nil, d.explain(m, to, p, err)
	}
	return c, nil
}

// pin writes the private known_hosts of a machine whose key is pinned; "" if it is not.
func pin(m *graph.Machine) (string, error) {
	if m.HostKey == "" {
		return "", nil
	}
	kind, blob, err := parsePin(m.HostKey)
	if err != nil {
		return "", diag.Errorf("machine "+m.Name, "hostKey cannot be used: %v", err).At("machines", m.Name, "hostKey").
			WithHint("the line that the machine has in /etc/ssh/ssh_host_ed25519_key.pub")
	}
	f, err := os.CreateTemp("", "defx-known-hosts-")
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "%s %s %s\n", pinned, kind, blob)
	return f.Name(), errors.Join(err, f.Close())
}

// pinned is the name that a pinned key has in the private known_hosts.
const pinned = "defx-pinned"

func (d Dialer) sshArgs(m *graph.Machine, to target, known string) []string {
	args := []string{"-x", "-a"}
	o := func(name, value string) { args = append(args, "-o", name+"="+value) }
	o("BatchMode", "yes")
	o("ConnectTimeout", fmt.Sprint(max(1, int(d.connecting()/time.Second))))
	o("ServerAliveInterval", "5")
	o("ServerAliveCountMax", "3")
	o("StrictHostKeyChecking", "yes")
	o("UpdateHostKeys", "no")
	o("RemoteCommand", "none")
	o("PermitLocalCommand", "no")
	o("ClearAllForwardings", "yes")
	if known != "" {
		o("UserKnownHostsFile", known)
		o("GlobalKnownHostsFile", "/dev/null")
		o("HostKeyAlias", pinned)
		o("VerifyHostKeyDNS", "no")
		o("KnownHostsCommand", "none")
	}
	if m.Via != "" {
		o("ProxyJump", m.Via)
	}
	if dir := socketDir(); dir != "" {
		// Another key, another way: another connection.
		sum := sha256.Sum256([]byte(m.Connect + "\n" + m.HostKey + "\n" + m.Via))
		o("ControlMaster", "auto")
		o("ControlPersist", "60")
		o("ControlPath", filepath.Join(dir, hex.EncodeToString(sum[:8])))
	}
	if to.user != "" {
		args = append(args, "-l", to.user)
	}
	if to.port != "" {
		args = append(args, "-p", to.port)
	}
	return append(args, "--", to.host)
}

// socketDir is a folder of ours with a short name; "" if there is none.
func socketDir() string {
	dir := ""
	if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) && len(run) < 60 {
		dir = filepath.Join(run, "defx")
	} else {
		dir = fmt.Sprintf("/tmp/defx-%d", os.Getuid())
	}
	os.Mkdir(dir, 0o700)
	if info, err := os.Lstat(dir); err != nil || !ours(info) {
		return ""
	}
	return dir
}

// trouble is what the bootstrap found.
type trouble struct{ kind, text string }

func (t *trouble) Error() string { return t.kind + ": " + t.text }

// bootstrap talks with the script until the agent itself is at the other end.
func (d Dialer) bootstrap(ctx context.Context, m *graph.Machine, p *process) (*agent.Client, error) {
	sending := d.Sending
	if sending == 0 {
		sending = 10 * time.Minute
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	limit := time.AfterFunc(2*d.connecting(), p.kill) // ssh has limits of its own: this one is for what they leave out
	defer limit.Stop()
	says := func(words ...string) (string, error) {
		l, err := p.line()
		if err != nil {
			return "", err
		}
		word, rest, _ := strings.Cut(l, " ")
		for _, w := range words {
			if word == w {
				return l, nil
			}
		}
		if word == "sudo" || word == "failed" {
			return "", &trouble{word, rest}
		}
		return "", &trouble{"strange", l}
	}
	l, err := says("arch")
	if err != nil {
		return nil, err
	}
	f := strings.Fields(l)
	if len(f) != 3 {
		return nil, &trouble{"strange", l}
	}
	b, err := d.build(m, f[1], f[2])
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(p, "defx-%s %d %s\n", b.sum[:digestLen], b.size, b.sum); err != nil {
		return nil, err
	}
	l, err = says("have", "need")
	if err != nil {
		return nil, err
	}
	if l == "need" {
		limit.Reset(sending)
		if err := b.send(p); err != nil {
			return nil, err
		}
		if _, err = says("have"); err != nil {
			return nil, err
		}
	}
	limit.Reset(2 * d.connecting())
	c, err := agent.NewClient(ctx, p)
	return c, err
}

// send writes the program, unless what reads it has gone.
func (b *build) send(w io.Writer) error {
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, io.LimitReader(f, b.size))
	return err
}

// explain makes of a connection that did not come about what a person can act on.
func (d Dialer) explain(m *graph.Machine, to target, p *process, err error) error {
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	if e, ok := errors.AsType[*diag.Error](err); ok {
		return e
	}
	who := to.host
	if to.user != "" {
		who = to.user + "@" + to.host
	}
	if t, ok := errors.AsType[*trouble](err); ok {
		switch {
		case t.kind == "sudo":
			return fail("%s may not become root: %s", who, t.text).WithHint("connect as root, or let sudo allow it without a password: '%s ALL=(ALL) NOPASSWD: ALL'", userOr(to.user))
		case t.kind == "failed" && strings.Contains(t.text, "No space left"):
			return fail("its disk is full: %s", t.text).WithHint("make room below /var/lib/defx on %s", to.host)
		case t.kind == "failed" && strings.Contains(t.text, "Read-only file system"):
			return fail("/var/lib/defx cannot be written: %s", t.text).WithHint("defx keeps what it needs below /var/lib/defx: it must be writable")
		case t.kind == "failed":
			return fail("defx could not be put there: %s", orElse(t.text, "what arrived is not what was sent"))
		}
		return fail("the login shell of %s says %q where nothing was expected", who, t.text).
			WithHint("it must say nothing when it is not interactive: look at its startup files")
	}
	all, said := p.errors.String(), p.said()
	switch {
	case strings.Contains(all, "Host key verification failed") || strings.Contains(all, "REMOTE HOST IDENTIFICATION HAS CHANGED"):
		return d.explainKey(m, to, all, fail)
	case strings.Contains(all, "Permission denied ("):
		return fail("%s does not let %s in: %s", to.host, userOr(to.user), said).WithHint("'ssh %s true' must work without a question", who)
	case strings.Contains(all, "Connection refused"):
		return fail("%s refuses the connection: %s", to.host, said).WithHint("does sshd run there, on this port?")
	case strings.Contains(all, "Could not resolve hostname"):
		return fail("there is no host %s: %s", to.host, said)
	case strings.Contains(all, "timed out") || strings.Contains(all, "No route to host") || strings.Contains(all, "not responding") || said == "":
		return fail("%s does not answer: %s", to.host, orElse(said, "nothing came back in "+d.connecting().String())).
			WithHint("is it up, and does the network lead there? 'ssh %s true' shows it", who)
	}
	return fail("%s cannot be reached: %s", to.host, said)
}

// explainKey shows the key that was known and the one that the machine has.
func (d Dialer) explainKey(m *graph.Machine, to target, all string, fail func(string, ...any) *diag.Error) error {
	has := "one that ssh does not show"
	if f := serverRE.FindAllStringSubmatch(all, -1); f != nil {
		has = f[len(f)-1][1] + " " + f[len(f)-1][2]
	}
	compare := "compare it with what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' says on the machine itself"
	if m.HostKey != "" {
		kind, blob, _ := parsePin(m.HostKey)
		e := fail("it has another host key: %s, and hostKey pins %s %s", has, kind, fingerprint(blob))
		e.Path = []string{"machines", m.Name, "hostKey"}
		return e.WithHint("somebody may be listening in; if the machine is new, %s, and change hostKey", compare)
	}
	if f := offendRE.FindStringSubmatch(all); f != nil {
		return fail("it has another host key: %s, and %s line %s knows %s", has, f[1], f[2], keyAt(f[1], f[2])).
			WithHint("somebody may be listening in; if the machine is new, %s, and remove that line", compare)
	}
	return fail("its host key is not known: %s", has).
		WithHint("%s, and write the key into hostKey: 'ssh-ed25519 AAAA…', or into known_hosts", compare)
}

// keyAt is the fingerprint of a key in a known_hosts file.
func keyAt(file, line string) string {
	raw, err := os.ReadFile(file)
	n := 0
	fmt.Sscan(line, &n)
	lines := strings.Split(string(raw), "\n")
	if err != nil || n < 1 || n > len(lines) {
		return "another"
	}
	f := strings.Fields(lines[n-1])
	if len(f) > 0 && strings.HasPrefix(f[0], "@") {
		f = f[1:]
	}
	if len(f) < 3 {
		return "another"
	}
	return f[1] + " " + fingerprint(f[2])
}

func userOr(user string) string { return orElse(user, "the user") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
