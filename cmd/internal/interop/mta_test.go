package interop

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mta is another mail server: one that people run, started by a test.
type mta struct {
	t      testing.TB
	name   string // "postfix"; its domain is postfix.test
	ip     string // where it listens, port 25
	dir    string
	inbox  string // maildir of box@NAME.test
	logs   []string
	utf8   bool // it has SMTPUTF8
	output string
}

func newMTA(t testing.TB, name, ip string) *mta {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sluice-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &mta{t: t, name: name, ip: ip, dir: dir, inbox: filepath.Join(dir, "store", "box")}
	m.output = m.file("output", "")
	m.logs = []string{m.output}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s says:\n%s", name, m.log())
		}
		os.RemoveAll(dir)
	})
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(dir, "store"), 0o777)
	if err := writeCertificateFor(dir, net.ParseIP(ip), "mx."+name+".test"); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mta) domain() string { return m.name + ".test" }

func (m *mta) file(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// allLogs returns what it has written into its logs, log the end of that.
func (m *mta) allLogs() string {
	var b strings.Builder
	for _, pattern := range m.logs {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, _ := os.ReadFile(f)
			b.Write(text)
		}
	}
	return b.String()
}

func (m *mta) log() string {
	lines := strings.Split(strings.TrimSpace(m.allLogs()), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// serve starts it in the foreground and waits for its greeting; it ends with the test.
func (m *mta) serve(args ...string) {
	m.t.Helper()
	out, err := os.OpenFile(m.output, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	m.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	awaitPort(m.t, m.ip+":25")
}

// received returns the messages in its mailbox.
func (m *mta) received() []string {
	var list []string
	files, _ := filepath.Glob(filepath.Join(m.inbox, "new", "*"))
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			list = append(list, strings.ReplaceAll(string(text), "\r\n", "\n"))
		}
	}
	return list
}

// await waits for a message with that Message-ID in its mailbox.
func (m *mta) await(id string) (message string) {
	m.t.Helper()
	eventually(m.t, 30*time.Second, "the message "+id+" at "+m.name, func() bool {
		for _, text := range m.received() {
			if strings.Contains(text, "<"+id+">") {
				message = text
				return true
			}
		}
		return false
	})
	return message
}

// startPostfix runs an instance of the installed Postfix.
func startPostfix(t testing.TB, ip string) *mta { return startPostfixWith(t, ip, "") }

// startPostfixWith is startPostfix with more lines of main.cf, which win.
func startPostfixWith(t testing.TB, ip, extra string) *mta {
	t.Helper()
	peer(t, "postfix", "postfix")
	m := newMTA(t, "postfix", ip)
	m.utf8 = true
	maillog := filepath.Join(m.dir, "maillog")
	m.logs = append(m.logs, maillog)
	m.file("etc/main.cf", fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.postfix.test
mydestination =
inet_interfaces = %[2]s
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
maillog_file_prefixes = %[1]s
maillog_file = %[3]s
virtual_mailbox_domains = postfix.test
virtual_mailbox_base = %[1]s/store
virtual_mailbox_maps = inline:{ { box@postfix.test = box/ } }
virtual_minimum_uid = 1
virtual_uid_maps = static:%[4]s
virtual_gid_maps = static:%[4]s
message_size_limit = 30000000
virtual_mailbox_limit = 0
smtpd_tls_security_level = may
smtpd_tls_cert_file = %[1]s/cert.pem
smtpd_tls_key_file = %[1]s/key.pem
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
smtp_tls_security_level = may
smtp_tls_loglevel = 1
smtp_host_lookup = dns
maximal_backoff_time = 2s
minimal_backoff_time = 1s
queue_run_delay = 1s
`, m.dir, ip, maillog, nobody)+extra)
	m.file("etc/master.cf", `smtp inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`)
	for _, dir := range []string{"spool", "data"} {
		if err := os.Mkdir(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(m.dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m.serve("postfix", "-c", filepath.Join(m.dir, "etc"), "start-fg")
	return m
}

const nobody = "65534" // the user ID of who owns nothing

// startExim runs an unpacked Exim.
func startExim(t testing.TB, ip string) *mta {
	t.Helper()
	overlay(t, "/usr", filepath.Join(unpacked(t, "exim"), "usr"))
	m := newMTA(t, "exim", ip)
	m.utf8 = true
	m.logs = append(m.logs, filepath.Join(m.dir, "log", "*"))
	for _, dir := range []string{"spool", "log", "store/box"} {
		path := filepath.Join(m.dir, dir)
		if err := os.MkdirAll(path, 0o777); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o777)
	}
	os.Chmod(filepath.Join(m.dir, "key.pem"), 0o644)
	os.Chmod(filepath.Join(m.dir, "cert.pem"), 0o644)
	config := m.file("exim.conf", fmt.Sprintf(`exim_user = mail
exim_group = mail
deliver_drop_privilege = true
spool_directory = %[1]s/spool
log_file_path = %[1]s/log/%%slog
pid_file_path = %[1]s/spool/exim.pid
log_selector = -queue_run
primary_hostname = mx.exim.test
local_interfaces = %[2]s
daemon_smtp_ports = 25
tls_advertise_hosts = *
tls_certificate = %[1]s/cert.pem
tls_privatekey = %[1]s/key.pem
message_size_limit = 30M
keep_environment =
never_users =
dsn_advertise_hosts = *
chunking_advertise_hosts = *
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = accept
begin acl
acl_rcpt:
  accept domains = exim.test
         local_parts = box
  deny   domains = exim.test
         message = 5.1.1 no such user here
  accept hosts = 127.0.0.0/8
begin routers
here:
  driver = accept
  domains = exim.test
  local_parts = box
  transport = box
out:
  driver = dnslookup
  domains = ! exim.test
  transport = remote
  self = fail
begin transports
remote:
  driver = smtp
box:
  driver = appendfile
  directory = %[1]s/store/box
  maildir_format
begin retry
* * F,2h,1s
`, m.dir, ip))
	m.serve("/usr/sbin/exim4", "-C", config, "-bdf", "-q1s")
	return m
}

// startOpenSMTPD runs an unpacked OpenSMTPD.
func startOpenSMTPD(t testing.TB, ip string) *mta {
	t.Helper()
	overlay(t, "/usr", filepath.Join(unpacked(t, "opensmtpd"), "usr"))
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	bind(t, "/etc/passwd", string(users)+"opensmtpd:x:61001:61001::/var/lib/opensmtpd/empty:/usr/sbin/nologin\nopensmtpq:x:61002:61002::/nonexistent:/usr/sbin/nologin\n", 0o644)
	bind(t, "/etc/group", string(groups)+"opensmtpd:x:61001:\nopensmtpq:x:61002:\n", 0o644)
	overlay(t, "/var/spool", "")
	overlay(t, "/var/lib", "")
	for _, dir := range []string{"/var/spool/smtpd", "/var/lib/opensmtpd/empty"} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	m := newMTA(t, "opensmtpd", ip)
	if err := os.Chown(filepath.Join(m.dir, "store"), 8, 8); err != nil { // mail
		t.Fatal(err)
	}
	config := m.file("smtpd.conf", fmt.Sprintf(`pki ours cert "%[1]s/cert.pem"
pki ours key "%[1]s/key.pem"
table boxes { "box@opensmtpd.test" = "mail" }
listen on %[2]s port 25 tls pki ours hostname mx.opensmtpd.test
smtp max-message-size "30M"
action "box" maildir "%[1]s/store/%%{rcpt.user}" virtual <boxes>
action "out" relay helo mx.opensmtpd.test
match from any for domain "opensmtpd.test" action "box"
match from any for any action "out"
`, m.dir, ip))
	m.serve("/usr/sbin/smtpd", "-d", "-f", config)
	return m
}
