package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dovecot is another store, behind LMTP: by a socket in the file system and by TCP.
type dovecot struct {
	t    testing.TB
	dir  string
	unix string // path
	tcp  string // address
}

// startDovecot runs a Dovecot that knows box@, second@ and full@ of whatever domain;
// full's quota is one octet.
func startDovecot(t testing.TB) *dovecot {
	t.Helper()
	program := peer(t, "dovecot", "dovecot-core dovecot-lmtpd")
	if _, err := os.Stat("/usr/lib/dovecot/lmtp"); err != nil {
		missing(t, "Dovecot's lmtp is missing", "dovecot-lmtpd")
	}
	dir, err := os.MkdirTemp("/tmp", "sluice-dovecot-")
	if err != nil {
		t.Fatal(err)
	}
	d := &dovecot{t: t, dir: dir, unix: filepath.Join(dir, "lmtp"), tcp: "127.0.1.24:24"}
	log := filepath.Join(dir, "log")
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("dovecot says:\n%s", text)
		}
		os.RemoveAll(dir)
	})
	os.Chmod(dir, 0o755)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "mail"), 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(dir, "mail"), 0o777)
	users := ""
	for _, u := range []struct{ name, quota string }{{"box", "1G"}, {"second", "1G"}, {"full", "1B"}} {
		users += fmt.Sprintf("%s:{PLAIN}x:%s:%s::%s/mail/%s::userdb_quota_rule=*:storage=%s\n", u.name, nobody, nobody, dir, u.name, u.quota)
	}
	passwd := write("users", users)
	config := write("dovecot.conf", fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = lmtp
listen = 127.0.1.24
ssl = no
auth_username_format = %%Ln
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
mail_plugins = quota
postmaster_address = postmaster@store.test
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
lmtp_rcpt_check_quota = no
quota_full_tempfail = yes
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_grace = 0
}
passdb {
  driver = passwd-file
  args = username_format=%%n %[2]s
}
userdb {
  driver = passwd-file
  args = username_format=%%n %[2]s
}
service lmtp {
  unix_listener %[1]s/lmtp {
    mode = 0666
  }
  inet_listener lmtp {
    address = 127.0.1.24
    port = 24
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
`, dir, passwd))
	cmd := exec.Command(program, "-F", "-c", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	awaitPort(t, d.tcp)
	return d
}

// await waits for a message with that Message-ID in a user's mailbox.
func (d *dovecot) await(user, id string) string {
	d.t.Helper()
	text := ""
	eventually(d.t, 20*time.Second, "the message "+id+" in Dovecot's mailbox of "+user, func() bool {
		files, _ := filepath.Glob(filepath.Join(d.dir, "mail", user, "Maildir", "new", "*"))
		for _, f := range files {
			if octets, err := os.ReadFile(f); err == nil && strings.Contains(string(octets), "<"+id+">") {
				text = string(octets)
				return true
			}
		}
		return false
	})
	return text
}

// TestLMTPOut: domains whose mail a Dovecot keeps, behind LMTP by a socket and by TCP. Each
// recipient has a result of its own (RFC 2033 section 4.2): one has the message, one is
// over quota and is tried again alone, one is unknown, and the sender hears of that one.
func TestLMTPOut(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	d := startDovecot(t)
	w := newWorld(t, quickRetry+`
[domain."unix.test"]
accept = "relay"
[domain."tcp.test"]
accept = "relay"
[relay."unix.test"]
protocol = "lmtp"
hosts = ["unix:`+d.unix+`"]
[relay."tcp.test"]
protocol = "lmtp"
hosts = ["`+d.tcp+`"]
`, "")
	w.start()
	defer w.stop()
	for _, domain := range []string{"unix.test", "tcp.test"} {
		// A stranger's, because the domain is accepted.
		id := "stranger." + domain + "@example.org"
		c, err := dialSMTP(w.addr("mx"), clientTime)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.send(stranger, []string{"box@" + domain, "second@" + domain}, letter(id, "for a store behind us", 3000)); err != nil {
			t.Fatal(err)
		}
		c.close()
		for _, user := range []string{"box", "second"} {
			if got := d.await(user, id); !strings.Contains(got, "Line 5 of a letter") || !strings.Contains(got, "Return-Path: <"+stranger+">") {
				t.Errorf("it arrived as\n%s", got)
			}
		}
		// Ours, to whom everything happens.
		id = "mixed." + domain + "@example.test"
		w.post([]string{"box@" + domain, "full@" + domain, "nobody@" + domain}, id, "mixed results", 3000)
		d.await("box", id)
		dsn := w.awaitInbox(alice, id, "Action: failed", "nobody@"+domain)
		if strings.Contains(dsn, "Final-Recipient: rfc822; box@") || strings.Contains(dsn, "Final-Recipient: rfc822; full@") || !strings.Contains(dsn, "Status: 5.1.1") {
			t.Errorf("the DSN is\n%s", dsn)
		}
		trace := w.awaitTrace(id, "Quota exceeded", "delayed", "User doesn't exist")
		if n := strings.Count(trace, "Saved"); n != 1 {
			t.Errorf("box has it %d times:\n%s", n, trace)
		}
		if out := w.sluice("", "queue", "list", "--json"); !strings.Contains(out, "full@"+domain) || strings.Contains(out, "nobody@"+domain) {
			t.Errorf("the queue has\n%s", out)
		}
	}
}
