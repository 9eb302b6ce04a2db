package authenticate

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// This file lets other people's programs judge what we sign, and judges what they sign: dkimpy (python3-dkim), OpenDKIM,
// and mailauth, an npm package. None of them shares code with us.

// lacking skips a test whose judge is not there, or fails it under INTEROP=require.
func lacking(t testing.TB, what, packages string) {
	t.Helper()
	const advice = "%s: apt-get install -y --no-install-recommends %s"
	if os.Getenv("INTEROP") == "require" {
		t.Fatalf(advice, what, packages)
	}
	t.Skipf(advice, what, packages)
}

// others begins a test that asks other people's programs: not where a quick run is wanted, and beside the others, since
// it mostly waits.
func others(t *testing.T) {
	t.Helper()
	if testing.Short() && os.Getenv("INTEROP") != "require" {
		t.Skip("-short: other people's programs are not asked")
	}
	t.Parallel()
}

// ask gives a program input and returns what it writes, in at most half a minute.
func ask(t testing.TB, dir string, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = dir, bytes.NewReader(input), time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", args[0], err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

const debianPython = "/usr/bin/python3"

// dkimpy runs testdata/judges/judge.py.
func dkimpy(t testing.TB, task map[string]any) []map[string]any {
	t.Helper()
	if err := exec.Command(debianPython, "-c", "import dkim, nacl").Run(); err != nil {
		lacking(t, "dkimpy is missing", "python3-dkim python3-nacl")
	}
	input, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/judges/judge.py")
	if err != nil {
		t.Fatal(err)
	}
	return answers(t, ask(t, t.TempDir(), input, debianPython, "-B", script))
}

func answers(t testing.TB, out []byte) (list []map[string]any) {
	t.Helper()
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var v map[string]any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		list = append(list, v)
	}
	return list
}

func encoded(messages []string) []string {
	out := make([]string, len(messages))
	for i, m := range messages {
		out[i] = base64.StdEncoding.EncodeToString([]byte(m))
	}
	return out
}

// keyTexts returns the key records that a test has published.
func (f *fixture) keyTexts(names ...string) map[string]string {
	f.t.Helper()
	texts := map[string]string{}
	for _, name := range names {
		list, err := f.stage.DNS.LookupTXT(f.t.Context(), name)
		if err != nil {
			f.t.Fatal(err)
		}
		texts[name] = list[0]
	}
	return texts
}

// shapes are messages whose form is where canonicalisers differ.
var shapes = []string{
	ours,
	"From: carol@sluice.test\nSubject: no body\n\n",
	"From: carol@sluice.test\nSubject: empty lines\n\n\n\n\n",
	"From: carol@sluice.test\nSubject: white space\n\n \t \n  x\t\ty  \n \n\t\n",
	"From: carol@sluice.test\nSubject:\nTo: \nX-Empty:  \n\nempty fields\n",
	"From: \tcarol@sluice.test  \nsUBJECT:  folded \n\t and\n  folded  \nTO: a@b.test,\n\tb@b.test\nTo: c@b.test\n\nx\n",
	"From: carol@sluice.test\nSubject: l\xc3\xa4nger\nContent-Type: text/plain; charset=utf-8\n\n\xc3\xa4\xc3\xb6\xc3\xbc\xff\n",
	"From: carol@sluice.test\nSubject: dots\n\n.\n..\n.x\n\n.\n",
	"From: carol@sluice.test\nSubject: long\n\n" + strings.Repeat("x", 5000) + " \n" + strings.Repeat("\n", 3000) + strings.Repeat("y \t", 3000) + "\n\n",
	"Received: x\nFrom: carol@sluice.test\nSubject: many\n" + strings.Repeat("Cc: d@b.test\n", 12) + "Sender: e@sluice.test\nList-Id: <x.sluice.test>\nList-Unsubscribe: <mailto:x@sluice.test>\n\nx\n",
}

// oddShapes are those that dkimpy or OpenDKIM do not read: without a last CRLF, which SMTP would add, and with white space
// before the colon (RFC 5322 section 4.5).
var oddShapes = []string{
	"From: carol@sluice.test\nSubject: no end of line\n\nx",
	"From: carol@sluice.test\nSubject: white space without end of line\n\nx\n  \t",
	"From : carol@sluice.test\nSubject\t: obsolete\n\nx\n",
}

// signed are our signatures of them, by RSA and Ed25519.
func (f *fixture) signed(messages []string) (signed []string) {
	sealer, _ := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
	for _, raw := range messages {
		m := f.message("carol@sluice.test", raw)
		m.Origin = sdk.Login
		leave(m)
		if err := sealer.Seal(f.t.Context(), m); err != nil {
			f.t.Fatal(err)
		}
		signed = append(signed, text(f.t, m))
	}
	return signed
}

// chains are messages with one, two and three ARC sets, and one that was spoilt.
func chains(f *fixture) []string {
	first := newForwarder(f, "one.test").forward(written(f), nil)
	second := newForwarder(f, "two.test").forward(first, tag)
	third := newForwarder(f, "three.test").forward(second, nil)
	return []string{first, second, third, strings.Replace(third, "Hello.", "Hallo.", 1)}
}

var chainKeys = []string{"s._domainkey.reject.test", "r1._domainkey.one.test", "r1._domainkey.two.test", "r1._domainkey.three.test"}

func TestDkimpyVerifies(t *testing.T) {
	others(t)
	f := newFixture(t, "")
	signed := f.signed(shapes)
	dns := f.keyTexts("r1._domainkey.sluice.test", "e1._domainkey.sluice.test")
	for i, got := range dkimpy(t, map[string]any{"do": "verify", "dns": dns, "messages": encoded(signed)}) {
		if fmt.Sprint(got["dkim"]) != "[true true]" {
			t.Errorf("%v\n%q", got, signed[i])
		}
	}
	sealed := chains(f)
	dns = f.keyTexts(chainKeys...)
	for i, got := range dkimpy(t, map[string]any{"do": "verify", "dns": dns, "messages": encoded(sealed)}) {
		if want := []string{"pass", "pass", "pass", "fail"}[i]; got["arc"] != want {
			t.Errorf("chain %d: %v, want %s\n%s", i, got, want, sealed[i])
		}
	}
}

// TestDkimpySigns: we verify what it signs, in all four canonical forms, and its ARC sets on top of ours and below.
func TestDkimpySigns(t *testing.T) {
	others(t)
	f := newFixture(t, "")
	f.keysFor("sluice.test")
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(testRSA())})
	var crlfShapes []string
	for _, raw := range shapes {
		crlfShapes = append(crlfShapes, strings.ReplaceAll(raw, "\n", "\r\n"))
	}
	for _, form := range []string{"simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"} {
		task := map[string]any{
			"do": "sign", "domain": "sluice.test", "selector": "r1", "algorithm": "rsa-sha256", "canonicalize": form,
			"key": base64.StdEncoding.EncodeToString(pkcs1), "messages": encoded(crlfShapes),
		}
		for i, got := range dkimpy(t, task) {
			m := f.message("a@evil.test", decode(t, got["message"]))
			f.process(m)
			if got := field(t, m); !strings.Contains(got, "dkim=pass") {
				t.Errorf("%s, %q: %s", form, shapes[i], got)
			}
		}
	}
	raw := "Authentication-Results: mx.sluice.test; arc=pass\r\n" + newForwarder(f, "one.test").forward(written(f), nil)
	got := dkimpy(t, map[string]any{
		"do": "arc", "domain": "sluice.test", "selector": "r1", "server": "mx.sluice.test",
		"key": base64.StdEncoding.EncodeToString(pkcs1), "messages": encoded([]string{raw}), "dns": f.keyTexts(chainKeys[:2]...),
	})
	second := decode(t, got[0]["message"])
	if got := arcOf(f, second); got != "pass (i=2 by sluice.test) header.oldest-pass=0" {
		t.Errorf("its set on ours: %s\n%s", got, second)
	}
	if got := arcOf(f, newForwarder(f, "three.test").forward(second, nil)); got != "pass (i=3 by three.test) header.oldest-pass=0" {
		t.Errorf("ours on its set: %s", got)
	}
}

func decode(t testing.TB, v any) string {
	t.Helper()
	out, err := base64.StdEncoding.DecodeString(fmt.Sprint(v))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestOpenDKIM verifies ours and signs for us, in its test mode, which needs no network.
func TestOpenDKIM(t *testing.T) {
	others(t)
	program, err := exec.LookPath("/usr/sbin/opendkim")
	if err != nil {
		lacking(t, "opendkim is missing", "opendkim")
	}
	f := newFixture(t, "")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(conf, message string) string {
		conf = write("conf", conf+"RequireSafeKeys no\nTemporaryDirectory "+dir+"\n")
		return string(ask(t, dir, nil, program, "-x", conf, "-v", "-v", "-t", write("message", message)))
	}
	signed := f.signed(shapes)
	dns := ""
	for name, text := range f.keyTexts("r1._domainkey.sluice.test", "e1._domainkey.sluice.test") {
		dns += name + " " + text + "\n"
	}
	for i, raw := range signed {
		out := run("TestDNSData file:"+write("dns", dns)+"\nOn-BadSignature reject\n", raw)
		if !strings.Contains(out, "verification (s=") || strings.Contains(out, "failed") || strings.Contains(out, "reject") {
			t.Errorf("%s\n%q", out, shapes[i])
		}
	}
	key := write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(testRSA())})))
	for _, form := range []string{"simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"} {
		for i, raw := range shapes {
			if strings.HasPrefix(form, "simple/") && strings.ContainsAny(headerOf(raw), "\t") || strings.Contains(raw, ":\n") {
				continue // the milter protocol does not say what stands between colon and value
			}
			raw = strings.ReplaceAll(raw, "\n", "\r\n")
			out := run("Mode s\nDomain sluice.test\nSelector r1\nSignatureAlgorithm rsa-sha256\nOversignHeaders From\nKeyFile "+key+"\nCanonicalization "+form+"\n", raw)
			_, found, _ := strings.Cut(out, "hname='DKIM-Signature' hvalue='")
			value, _, ok := strings.Cut(found, "'")
			m := f.message("a@evil.test", "DKIM-Signature: "+value+"\n"+raw)
			f.process(m)
			if got := field(t, m); !ok || !strings.Contains(got, "dkim=pass header.d=sluice.test") {
				t.Errorf("%s: %s: %q\n%s", form, got, shapes[i], out)
			}
		}
	}
}

func headerOf(raw string) string {
	header, _, _ := strings.Cut(raw, "\n\n")
	return header
}

// mailauth returns a directory with the judge and what package-lock.json lists, which is fetched where the judge has to be
// there and kept for later runs; elsewhere the test is skipped until somebody has fetched it.
func mailauth(t testing.TB) string {
	t.Helper()
	const from = "testdata/judges/mailauth"
	digest := sha256.New()
	for _, name := range []string{"judge.js", "package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		digest.Write(text)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "sluice-tests", fmt.Sprintf("mailauth-%x", digest.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if os.Getenv("INTEROP") != "require" {
		t.Skip("mailauth has not been fetched yet: INTEROP=require go test -run TestMailauth ./pipeline/authenticate")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(fresh) // after the rename there is none
	if err := os.CopyFS(fresh, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--omit=optional")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		lacking(t, fmt.Sprintf("npm ci failed: %.500s", out), "nodejs npm")
	}
	if err := os.Rename(fresh, dir); err != nil { // as a whole: a run that was ended leaves no half of it
		if _, there := os.Stat(dir); there != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestMailauth: the npm package's word on our signatures and chains, and on SPF and DMARC beside our own.
func TestMailauth(t *testing.T) {
	others(t)
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, program+" is missing", "nodejs npm")
		}
	}
	dir := mailauth(t)
	f := newFixture(t, "")
	signed := append(shapes[:len(shapes):len(shapes)], oddShapes...)
	messages := append(f.signed(signed), chains(f)...)
	dns := map[string][]string{}
	for name, text := range f.keyTexts(append(chainKeys, "r1._domainkey.sluice.test", "e1._domainkey.sluice.test", "_dmarc.reject.test", "evil.test")...) {
		dns[name] = []string{text}
	}
	input, err := json.Marshal(map[string]any{
		"dns": dns, "messages": encoded(messages), "ip": "192.0.2.10", "helo": "mail.evil.test", "sender": "a@evil.test",
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range answers(t, ask(t, dir, input, "node", "judge.js")) {
		want := "[pass sluice.test pass sluice.test] none pass none"
		if i >= len(signed) {
			want = []string{
				"[pass reject.test] pass pass pass", "[fail reject.test] pass pass fail", "[fail reject.test] pass pass fail", "[neutral reject.test] fail pass fail",
			}[i-len(signed)]
		}
		if text := fmt.Sprint(got["dkim"], " ", got["arc"], " ", got["spf"], " ", got["dmarc"]); text != want {
			t.Errorf("%d: %s, want %s\n%q", i, text, want, messages[i][:min(len(messages[i]), 3000)])
		}
	}
}
