package transport

import (
	"cmp"
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
	"sync/atomic"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/diag"
)

// bootstrap is the only script that a shell on the machine sees. It becomes root, reports
// the architecture, reads name, size and checksum of the program from its input, and the
// program itself if that is not installed yet, and then becomes that program. The checksum of an
// installed one is verified each time, and its folders must be writable by root alone. It writes
// lines "arch SYSTEM MACHINE", "have", "need", "sudo REASON" and "failed REASON". It is one
// line in single quotes without "!" and "\", so that every login shell passes it on
// unchanged.
const bootstrap = `exec /bin/sh -c 'set -f; LC_ALL=C; export LC_ALL; umask 022; r=; ` +
	`if [ "$(id -u)" -ne 0 ]; then r="sudo -n"; e=$($r true 2>&1) || { echo sudo $e; exit 0; }; fi; ` +
	`echo arch $(uname -s) $(uname -m); ` +
	`read -r name size sum || exit 0; d=/var/lib/defx; u=0; ` +
	`closed() { case $(echo $($r stat -L -c %u.%A $d $d/bin 2>/dev/null)) in $u.d????-??-?" "$u.d????-??-?|$u.d????????[tT]" "$u.d????-??-?) true;; *) false; esac; }; ` +
	`closed || { e=$($r mkdir -p $d/bin 2>&1) || { echo failed $e; exit 0; }; closed || { echo failed others than root can change $d or $d/bin; exit 0; }; }; ` +
	`f=$d/bin/$name; if case $($r stat -c %u.%A "$f" 2>/dev/null) in $u.-????-??-?) echo "$sum  $f" | $r sha256sum -c >/dev/null 2>&1;; *) false; esac; then echo have; else ` +
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

// target is the parsed form of an ssh:// address.
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
			return t, errors.New("it must not have a password: use keys")
		}
		if !userRE.MatchString(t.user) {
			return t, fmt.Errorf("%q is not the name of a user", t.user)
		}
	}
	switch {
	case !hostRE.MatchString(t.host):
		return t, fmt.Errorf("%q is not the name of a host", t.host)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return t, errors.New("there must be nothing after the host")
	}
	return t, nil
}

// parsePin parses a host key of the deployment.
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

// fingerprint returns the fingerprint that ssh shows for a key.
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
		return nil, fail("connect", "connect %q is not a valid address: %v", m.Connect, err).WithHint("use ssh://user@host:port; user and port are optional")
	}
	for hop := range strings.SplitSeq(m.Via, ",") {
		if m.Via != "" && !hopRE.MatchString(hop) {
			return nil, fail("via", "via %q is not user@host:port", m.Via)
		}
	}
	knownHosts, err := pin(m)
	if err != nil {
		return nil, err
	}
	defer os.Remove(knownHosts)
	p, err := start("ssh", append([]string{"-T", "-o", "LogLevel=DEBUG1"}, append(d.sshArgs(m, to, knownHosts), bootstrap)...)...) // DEBUG1 prints the machine's host key
	if err != nil {
		return nil, fail("connect", "cannot run ssh: %v", err).WithHint("defx connects through OpenSSH's client: install it")
	}
	c, err := d.bootstrap(ctx, m, p)
	if err != nil {
		p.kill()
		p.wait()
		return nil, d.explain(m, to, p, err)
	}
	return c, nil
}

// pin writes a private known_hosts for a machine with a pinned key, and returns its path; ""
// without one.
func pin(m *graph.Machine) (string, error) {
	if m.HostKey == "" {
		return "", nil
	}
	kind, blob, err := parsePin(m.HostKey)
	if err != nil {
		return "", diag.Errorf("machine "+m.Name, "invalid hostKey: %v", err).At("machines", m.Name, "hostKey").
			WithHint("use the line in the machine's /etc/ssh/ssh_host_ed25519_key.pub")
	}
	f, err := os.CreateTemp("", "defx-known-hosts-")
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "%s %s %s\n", pinned, kind, blob)
	return f.Name(), errors.Join(err, f.Close())
}

// pinned is the host name of the pinned key in the private known_hosts.
const pinned = "defx-pinned"

func (d Dialer) sshArgs(m *graph.Machine, to target, knownHosts string) []string {
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
	if knownHosts != "" {
		o("UserKnownHostsFile", knownHosts)
		o("GlobalKnownHostsFile", "/dev/null")
		o("HostKeyAlias", pinned)
		o("VerifyHostKeyDNS", "no")
		o("KnownHostsCommand", "none")
	}
	if m.Via != "" {
		o("ProxyJump", m.Via)
	}
	if dir := socketDir(); dir != "" {
		// The connection is shared only with the same address, key and jump hosts.
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

// socketDir returns a private folder with a short path for ssh's control sockets; "" if
// there is none.
func socketDir() string {
	dir := ""
	if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) && len(run) < 60 {
		dir = filepath.Join(run, "defx")
	} else {
		dir = fmt.Sprintf("/tmp/defx-%d", os.Getuid())
	}
	os.Mkdir(dir, 0o700)
	if info, err := os.Lstat(dir); err != nil || !isPrivate(info) {
		return ""
	}
	return dir
}

// sshFailure is a problem that the bootstrap script reported.
type sshFailure struct{ kind, text string }

func (t *sshFailure) Error() string { return t.kind + ": " + t.text }

// bootstrap runs the script's protocol until the agent itself is at the other end.
func (d Dialer) bootstrap(ctx context.Context, m *graph.Machine, p *process) (*agent.Client, error) {
	sending := d.Sending
	if sending == 0 {
		sending = 10 * time.Minute
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	limit := time.AfterFunc(2*d.connecting(), p.kill) // for stalls that ssh's own timeouts do not cover
	defer limit.Stop()
	expect := func(words ...string) (string, error) {
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
			return "", &sshFailure{word, rest}
		}
		return "", &sshFailure{"unexpected", l}
	}
	l, err := expect("arch")
	if err != nil {
		return nil, err
	}
	f := strings.Fields(l)
	if len(f) != 3 {
		return nil, &sshFailure{"unexpected", l}
	}
	b, err := d.build(m, f[1], f[2])
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(p, "defx-%s %d %s\n", b.sum[:digestLen], b.size, b.sum); err != nil {
		return nil, err
	}
	l, err = expect("have", "need")
	if err != nil {
		return nil, err
	}
	if l == "need" {
		limit.Reset(sending)
		if err := b.send(p, p.kill); err != nil {
			return nil, err
		}
		if _, err = expect("have"); err != nil {
			return nil, err
		}
	}
	limit.Reset(2 * d.connecting())
	c, err := agent.NewClient(ctx, p)
	return c, err
}

// send writes the program to the machine. If that accepts nothing for
// stallTimeout, it calls kill and fails.
func (b *build) send(w io.Writer, kill func()) error {
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var stalled atomic.Bool
	timer := time.AfterFunc(stallTimeout, func() { stalled.Store(true); kill() })
	defer timer.Stop()
	_, err = io.Copy(w, &sentReader{io.LimitReader(f, b.size), timer})
	if stalled.Load() {
		return &sshFailure{"stalled", fmt.Sprintf("the machine accepted nothing for %s", stallTimeout)}
	}
	return err
}

// stallTimeout is how long the transfer of the program may make no progress.
var stallTimeout = time.Minute

// sentReader restarts the timer for each piece that is read, because then the
// piece before has been accepted.
type sentReader struct {
	r     io.Reader
	timer *time.Timer
}

func (s *sentReader) Read(b []byte) (int, error) {
	s.timer.Reset(stallTimeout)
	return s.r.Read(b)
}

// explain turns a failed connection into an error with a hint.
func (d Dialer) explain(m *graph.Machine, to target, p *process, err error) error {
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	if e, ok := errors.AsType[*diag.Error](err); ok {
		return e
	}
	account := to.host
	if to.user != "" {
		account = to.user + "@" + to.host
	}
	if t, ok := errors.AsType[*sshFailure](err); ok {
		switch {
		case t.kind == "sudo":
			return fail("%s cannot become root: %s", account, t.text).WithHint("connect as root, or let sudo allow it without a password: '%s ALL=(ALL) NOPASSWD: ALL'", userOr(to.user))
		case t.kind == "failed" && strings.Contains(t.text, "No space left"):
			return fail("its disk is full: %s", t.text).WithHint("free some space below /var/lib/defx on %s", to.host)
		case t.kind == "failed" && strings.Contains(t.text, "Read-only file system"):
			return fail("/var/lib/defx is not writable: %s", t.text).WithHint("defx keeps its files below /var/lib/defx: it must be writable")
		case t.kind == "failed" && strings.HasPrefix(t.text, "others than root can change "):
			return fail("defx is not installed there: %s", t.text).WithHint("look at what is there, then: chown root /var/lib/defx /var/lib/defx/bin; chmod go-w /var/lib/defx /var/lib/defx/bin")
		case t.kind == "stalled":
			return fail("cannot send defx there: %s", t.text).WithHint("check the network; the next attempt starts again")
		case t.kind == "failed":
			return fail("cannot install defx there: %s", cmp.Or(t.text, "the checksum does not match"))
		}
		return fail("the login shell of %s prints %q", account, t.text).
			WithHint("a non-interactive shell must print nothing: check its startup files")
	}
	all, messages := p.stderr.String(), p.messages()
	switch {
	case m.Via != "" && jumpFailedRE.MatchString(all):
		return explainJump(m, all, messages)
	case strings.Contains(all, "Host key verification failed") || strings.Contains(all, "REMOTE HOST IDENTIFICATION HAS CHANGED"):
		return d.explainKey(m, to, all, fail)
	case strings.Contains(all, "Permission denied ("):
		return fail("%s refuses the login of %s: %s", to.host, userOr(to.user), messages).WithHint("'ssh %s true' must work without a prompt", account)
	case strings.Contains(all, "Connection refused"):
		return fail("%s refuses the connection: %s", to.host, messages).WithHint("does sshd run there, on this port?")
	case strings.Contains(all, "Could not resolve hostname"):
		return fail("cannot resolve host %s: %s", to.host, messages)
	case strings.Contains(all, "timed out") || strings.Contains(all, "No route to host") || strings.Contains(all, "not responding") || messages == "":
		return fail("%s does not answer: %s", to.host, cmp.Or(messages, "no response within "+d.connecting().String())).
			WithHint("check that it is up and reachable: ssh %s true", account)
	}
	return fail("cannot connect to %s: %s", to.host, messages)
}

// jumpFailedRE matches what ssh prints if the connection through a jump host ended before it began.
var jumpFailedRE = regexp.MustCompile(`(?m)(closed|reset) by UNKNOWN port 65535|^kex_exchange_identification: Connection closed by remote host`)

// explainJump returns the error of a connection that a jump host did not make. The ssh process of
// the jump host reads the user's own configuration and known_hosts: hostKey is that of the machine.
func explainJump(m *graph.Machine, all, messages string) error {
	var lines []string
	for l := range strings.Lines(messages) {
		if l = strings.TrimSpace(l); !jumpFailedRE.MatchString(l) {
			lines = append(lines, l)
		}
	}
	e := diag.Errorf("machine "+m.Name, "cannot connect through the jump host %s: %s", m.Via, cmp.Or(strings.Join(lines, "\n"), "it closed the connection")).At("machines", m.Name, "via")
	first, _, _ := strings.Cut(m.Via, ",")
	switch first = strings.TrimPrefix(first, "ssh://"); {
	case strings.Contains(all, "REMOTE HOST IDENTIFICATION HAS CHANGED"):
		e.Msg = fmt.Sprintf("the host key of the jump host %s has changed", m.Via)
		e.WithHint("this may be an attack; if the jump host is new, verify its key on it and replace the old line in ~/.ssh/known_hosts")
	case strings.Contains(all, "Host key verification failed"):
		e.Msg = fmt.Sprintf("the host key of the jump host %s is not known", m.Via)
		e.WithHint("hostKey pins the machine's key, not that of a jump host, which must be in ~/.ssh/known_hosts: 'ssh %s true' asks for it once", sshWords(first))
	default:
		e.WithHint("'ssh %s true' must work without a prompt", sshWords(first))
	}
	return e
}

// sshWords returns the arguments of ssh for user@host:port.
func sshWords(hop string) string {
	if i := strings.LastIndex(hop, ":"); i >= 0 && !strings.HasSuffix(hop, "]") {
		return "-p " + hop[i+1:] + " " + hop[:i]
	}
	return hop
}

// explainKey returns the error of an unexpected host key; it shows the expected key and the
// machine's.
func (d Dialer) explainKey(m *graph.Machine, to target, all string, fail func(string, ...any) *diag.Error) error {
	has := "unknown"
	if f := serverRE.FindAllStringSubmatch(all, -1); f != nil {
		has = f[len(f)-1][1] + " " + f[len(f)-1][2]
	}
	scan := fmt.Sprintf("defx machine scan %s prints the line for hostKey; compare it with the key on the machine itself first", m.Name)
	if m.HostKey != "" {
		kind, blob, _ := parsePin(m.HostKey)
		e := fail("its host key has changed: it is %s, but hostKey pins %s %s", has, kind, fingerprint(blob))
		e.Path = []string{"machines", m.Name, "hostKey"}
		return e.WithHint("this may be an attack; if the machine is new: %s", scan)
	}
	if f := offendRE.FindStringSubmatch(all); f != nil {
		return fail("its host key has changed: it is %s, but %s line %s has %s", has, f[1], f[2], keyAt(f[1], f[2])).
			WithHint("this may be an attack; if the machine is new, remove that line, or pin the key: %s", scan)
	}
	return fail("its host key is not known: %s", has).
		WithHint("%s", scan)
}

// keyAt returns the fingerprint of the key at a line of a known_hosts file.
func keyAt(file, line string) string {
	raw, err := os.ReadFile(file)
	n := 0
	fmt.Sscan(line, &n)
	lines := strings.Split(string(raw), "\n")
	if err != nil || n < 1 || n > len(lines) {
		return "an unreadable one"
	}
	f := strings.Fields(lines[n-1])
	if len(f) > 0 && strings.HasPrefix(f[0], "@") {
		f = f[1:]
	}
	if len(f) < 3 {
		return "an unreadable one"
	}
	return f[1] + " " + fingerprint(f[2])
}

func userOr(user string) string { return cmp.Or(user, "the user") }
