package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPluginDrills: every shipped plugin without a scanner behind it, and dnsbl and milter with theirs (DNS, clamav-milter, rspamd), each with
// on_failure = "accept" and with "defer": damaged from the start, slow, killed in the middle, down, its state locked or taken away, its disk
// full; and the same of those whom they ask. Each time the other plugins go on, the reasons are told, and what comes afterwards is looked at as
// before, by the same server. (The other scanners: drill.)
func TestPluginDrills(t *testing.T) {
	lists, dns := newListServer(t)
	entrance := newDoor(t, dns)
	clam, clamAt := newClamAVMilter(t, newClamd(t))
	rspamd, rspamdAt := newRspamdMilter(t)
	asked := []*scanner{lists, clam, rspamd}
	r := newDrill(newSite(t, drillConfig("DNS", entrance.address, "CLAM", clamAt, "RSPAMD", rspamdAt)))
	disk := r.smallDisk()
	r.damagedAtStart()
	defer func() { r.stop() }()

	pids := r.pids(drillTable...)
	if len(pids) != 2*len(drillTable) {
		t.Fatalf("processes: %v", pids)
	}
	signalAll(pids, syscall.SIGSTOP)
	r.demand("slow", "unscanned timeout", "deferred", drillTable...)
	signalAll(pids, syscall.SIGCONT)
	r.back("slow", 20*time.Second, drillTable...)

	r.killedInTheMiddle()
	r.down(asked, entrance)
	r.askedInVain(asked, entrance)
	if disk {
		r.diskFull()
	}
	r.counted()
}

// having are the drilled plugins that pick chooses.
func having(pick func(drilled) bool) (some []drilled) {
	for _, d := range drillTable {
		if pick(d) {
			some = append(some, d)
		}
	}
	return some
}

func withState(d drilled) bool    { return d.state != "" }
func withoutState(d drilled) bool { return d.state == "" }
func withDaemon(d drilled) bool   { return d.builtin == "dnsbl" || d.builtin == "milter" }
func isList(d drilled) bool       { return d.builtin == "dnsbl" }

// smallDisk gives the plugins' state a disk of its own, if we may.
func (r *drill) smallDisk() bool {
	r.t.Helper()
	dir := filepath.Join(r.dir, "data", "plugin")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=700"); err != nil {
		r.t.Logf("without the drill of a full disk, which needs the right to mount one: %v", err)
		return false
	}
	r.t.Cleanup(func() {
		r.kill()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			r.t.Error(err)
		}
	})
	return true
}

// damagedAtStart: what the plugins find at the start is no state of theirs. The server starts, the policy rules, and the log says which
// file it is. When that is gone they work, without a restart.
func (r *drill) damagedAtStart() {
	r.t.Helper()
	some := having(withState)
	var paths []string
	for n, d := range some {
		for _, policy := range []string{"open", "closed"} {
			path := r.stateFile(d, policy)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				r.t.Fatal(err)
			}
			r.spoil(path, []byte(strings.Repeat(fmt.Sprintf("this is no database %d\n", n), 1500)))
			paths = append(paths, path)
		}
	}
	r.start()
	r.demand("damaged", "unscanned crash", "deferred", some...)
	r.back("the start", 20*time.Second, having(withoutState)...)
	for _, path := range paths {
		r.inLog(5*time.Second, path+": the file is damaged (")
		if err := os.Remove(path); err != nil {
			r.t.Fatal(err)
		}
	}
	r.back("damaged", 30*time.Second, some...)
}

// killedInTheMiddle kills every process while it has a question. What was in it is asked about again if it is a whole message; a command is answered
// as the policy has it. On a machine that is busy some questions come too late, or run out of time when they are asked again, which the policy decides
// too: those are tried again.
func (r *drill) killedInTheMiddle() {
	r.t.Helper()
	left := drillTable
	for try := 1; len(left) > 0; try++ {
		if try > 8 {
			r.t.Fatalf("killed: never as it should be: %v", left)
		}
		pids := r.pids(left...)
		signalAll(pids, syscall.SIGSTOP)
		time.AfterFunc(500*time.Millisecond, func() { signalAll(pids, syscall.SIGKILL) })
		got := r.round(fmt.Sprintf("killed %d", try), left...)
		r.back("killed", 30*time.Second, left...)
		var again []drilled
		for _, d := range left {
			open, closed := "unscanned crash", "deferred"
			if d.again {
				open, closed = "scanned", "scanned"
			}
			if got[d.name+"open"] != open || got[d.name+"closed"] != closed {
				r.t.Logf("killed, try %d: %s: %s and %s", try, d.name, got[d.name+"open"], got[d.name+"closed"])
				again = append(again, d)
			}
			if have := got[d.name+"closed"]; have != "scanned" && have != "deferred" {
				r.t.Errorf("killed: %s-closed: %s", d.name, have)
			}
		}
		left = again
	}
}

// down: nothing works any more, for a reason of its own for each plugin: another process has the file, there is no file, half a file, the
// process dies as soon as it is there, the daemon is gone.
func (r *drill) down(asked []*scanner, entrance *door) {
	r.t.Helper()
	pids := r.pids(drillTable...)
	var mend []func()
	for _, d := range having(withState) {
		for _, policy := range []string{"open", "closed"} {
			path, pid := r.stateFile(d, policy), pids[d.name+"-"+policy]
			switch d.name {
			case "bayes":
				mend = append(mend, r.lock(path, pid))
				continue
			case "greylist":
				r.must(os.Rename(path, path+".whole"))
				r.must(os.Mkdir(path, 0o700))
				mend = append(mend, func() { r.must(os.Remove(path)) })
			case "ratelimit":
				whole, err := os.ReadFile(path)
				r.must(err)
				r.spoil(path+".half", whole[:len(whole)/2])
				r.must(os.Rename(path, path+".whole"))
				r.must(os.Rename(path+".half", path))
			}
			mend = append(mend, func() { r.must(os.Rename(path+".whole", path)) })
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	mend = append(mend, r.killAgain("attachments"))
	for _, d := range asked {
		d.kill()
	}
	entrance.shut()

	got := r.round("down", drillTable...)
	r.compare("down", got, "unscanned crash", "deferred", having(func(d drilled) bool { return !withDaemon(d) })...)
	r.compare("down", got, "unscanned error", "deferred", having(withDaemon)...)
	for _, do := range mend {
		do()
	}
	for _, d := range asked {
		d.start()
	}
	entrance.open()
	r.back("down", 40*time.Second, drillTable...)
	for id, words := range map[string]string{
		"down.bayesclosed": "bayes-closed", "down.greylistopen": "greylist-open", "down.linksopen": "no list answers: no answer: ", "down.clamopen": "ask the milter at tcp:127.0.0.1:",
	} {
		trace := r.sluice("", "trace", id+"@example.org")
		if !strings.Contains(trace, words) || !strings.Contains(trace, "FAILED_") {
			r.t.Errorf("%s: the trace does not say %q:\n%s", id, words, trace)
		}
	}
	r.inLog(5*time.Second, "greylist.db: is a directory", "buckets.db: the file is damaged")
}

func (r *drill) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// askedInVain: the daemons that are asked say nothing, say it late, are killed while they have a question, and end after the first of many
// answers.
func (r *drill) askedInVain(asked []*scanner, entrance *door) {
	r.t.Helper()
	some, all := having(withDaemon), func(sig syscall.Signal) {
		for _, d := range asked {
			d.signal(sig)
		}
	}
	all(syscall.SIGSTOP)
	got := r.round("silent", some...)
	r.compare("silent", got, "unscanned", "deferred", some...)
	all(syscall.SIGCONT)
	r.back("silent", 20*time.Second, some...)

	for n := range 3 { // a machine that is busy may need more than one try
		all(syscall.SIGSTOP)
		time.AfterFunc(300*time.Millisecond, func() { all(syscall.SIGCONT) })
		late := 0
		for _, have := range r.round(fmt.Sprintf("late %d", n), some...) {
			if have != "scanned" {
				late++
			}
		}
		if late == 0 {
			break
		}
		if n == 2 {
			r.t.Errorf("answers that were late, but in time, did not count: %v", r.text)
		}
	}

	all(syscall.SIGSTOP)
	killed := make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() {
		for _, d := range asked {
			d.kill()
		}
		close(killed)
	})
	r.demand("killed daemon", "unscanned", "deferred", some...)
	<-killed
	for _, d := range asked {
		d.start()
	}
	r.back("killed daemons", 20*time.Second, some...)

	entrance.shutAfter(2) // of the forty that two messages need
	r.demand("DNS ends", "unscanned", "deferred", having(func(d drilled) bool { return d.name == "links" })...)
	entrance.open()
	r.back("DNS ended", 10*time.Second, having(isList)...)
	c, _ := r.knock("linksclosed", 5000, letter("listed@example.org", "listed", 1000)+"http://listed.test/\r\n")
	if trace := r.sluice("", "trace", "listed@example.org"); c != 250 || !strings.Contains(trace, "DNSBL_BL_TEST") {
		r.t.Errorf("%d, and what is listed is not found:\n%s", c, trace)
	}
}

// diskFull: plugins that have their state go on, and say what they cannot do; those that have none yet do not start. When there is room again
// all do.
func (r *drill) diskFull() {
	r.t.Helper()
	bayes, fresh := drillTable[0], having(func(d drilled) bool { return d.name == "greylist" || d.name == "ratelimit" })
	lesson := filepath.Join(filepath.Dir(r.stateFile(bayes, "open")), "lesson")
	var words strings.Builder
	for i := range 400 {
		fmt.Fprintf(&words, "word%d other%d\r\n", i, i*7)
	}
	r.spoil(lesson, []byte("From: <a@example.org>\r\nSubject: x\r\n\r\n"+words.String()))
	var held []*os.File // what is removed keeps its room until the last who has it open lets go
	for _, d := range fresh {
		for _, policy := range []string{"open", "closed"} {
			f, err := os.Open(r.stateFile(d, policy))
			r.must(err)
			held = append(held, f)
			r.must(os.Remove(f.Name()))
		}
	}
	fill := filepath.Join(r.dir, "data", "plugin", "fill")
	f, err := os.Create(fill)
	r.must(err)
	for size := 64 << 10; size > 0; { // the last octets, too
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	r.must(f.Close())
	signalAll(r.pids(drillTable...), syscall.SIGKILL)
	r.back("a start without room", 20*time.Second, having(func(d drilled) bool { return d.name != "greylist" && d.name != "ratelimit" })...)
	r.demand("disk full", "unscanned crash", "deferred", fresh...)
	learn := func(want string) {
		eventually(r.t, 20*time.Second, "the answer to a lesson: "+want, func() bool {
			out, _ := r.trySluice("", "plugin", "tell", "bayes-open", "learn", "spam", "lesson")
			return strings.Contains(out, want)
		})
	}
	learn("no space left on device")
	r.back("a lesson without room", 10*time.Second, bayes)
	r.inLog(5*time.Second, "greylist.db: ", "buckets.db: ", "no space left on device")
	for _, f := range held {
		f.Close()
	}
	r.must(os.Remove(fill))
	r.back("disk full", 40*time.Second, drillTable...)
	learn("1 messages learned as spam")
}

// counted: the metrics tell of every failure.
func (r *drill) counted() {
	r.t.Helper()
	metrics := r.sluice("", "metrics")
	for _, d := range drillTable {
		name := d.name + "-open"
		n := metricOf(metrics, "sluice_unscanned_total", `plugin="`+name+`"`, "")
		if have := r.unscanned[name]; have == 0 || n < float64(have) { // one message counts in each phase
			r.t.Errorf("%s: %d messages say that it has not seen them, and the metrics say %v", name, have, n)
		}
		if n := metricOf(metrics, "sluice_unscanned_total", `plugin="`+d.name+`-closed"`, ""); n != 0 {
			r.t.Errorf("%s-closed: %v messages went by it", d.name, n)
		}
		for _, policy := range []string{"-open", "-closed"} {
			if metricOf(metrics, "sluice_plugin_failed_total", `plugin="`+d.name+policy+`"`, `kind="timeout"`) == 0 {
				r.t.Errorf("%s%s: no time-out is counted", d.name, policy)
			}
			if metricOf(metrics, "sluice_plugin_up", `plugin="`+d.name+policy+`"`, "") != 1 {
				r.t.Errorf("%s%s is not up", d.name, policy)
			}
		}
	}
}

// metricOf adds up the values of a metric that has both labels.
func metricOf(metrics, name, label, other string) (sum float64) {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, label) && strings.Contains(line, other) {
			var n float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' '):], &n); err == nil {
				sum += n
			}
		}
	}
	return sum
}
