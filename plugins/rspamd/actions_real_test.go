package rspamd

import (
	"fmt"
	"mime"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// realRules do what a field X-Case asks for; the symbol SEEN tells what rspamd knows of the envelope.
const realRules = `
rspamd_config:register_symbol({ name = 'SEEN', score = 0.1, type = 'prefilter', callback = function(task)
  local said = { (task:get_from('smtp') or {{}})[1].addr or 'nobody', task:get_helo() or '', task:get_hostname() or '' }
  for _, r in ipairs(task:get_recipients('smtp') or {}) do table.insert(said, r.addr) end
  task:insert_result('SEEN', 1.0, said)
  local case = task:get_header('X-Case')
  if case == 'soft' then task:set_pre_result('soft reject', 'Come\r\nlater, K\195\182ln') end
  if case == 'subject' then
    task:set_metric_subject('[spam] \195\156ber einen Betreff, der lang genug ist, um nicht mehr in eine Zeile zu passen: %s')
    task:set_pre_result('rewrite subject')
  end
  if case == 'reject' then task:set_pre_result('reject', 'no') end
  if case == 'fields' then
    task:set_milter_reply({ add_headers = { ['X-One'] = 'eins', ['X-Two'] = { value = 'zwei', order = 1 }, ['X-Three'] = { 'a', 'b' } },
      remove_headers = { ['X-Case'] = 0, ['X-Old'] = 2 } })
  end
end })
`

// TestRealActions: what a real rspamd says, and what it has understood, where names and texts are not ASCII.
func TestRealActions(t *testing.T) {
	dir, _ := startReal(t)
	p := sdktest.Start(t, New(), map[string]any{"url": "unix:" + dir + "/normal.sock", "rewrite_subject": true})
	for _, c := range []struct{ name, action, reply, changes string }{
		{"none", "accept", "", ""},
		{"soft", "defer", "Come  later, K?ln", ""},
		{"reject", "reject", "no", ""},
		{"subject", "junk", "", "remove field Subject; add field Subject [spam] Über einen Betreff, der lang genug ist, um nicht mehr in eine Zeile zu passen: Grüße"},
		{"fields", "accept", "", "remove field X-Case; remove field X-Old 2; add field X-One eins; add field X-Three a; add field X-Three b; add field X-Two zwei"},
	} {
		m := sdktest.Mail("From: a@example.org\nX-Case: " + c.name + "\nX-Old: 1\nX-Old: 2\nSubject: Grüße\n\nhello\n")
		m.Sender, m.Helo, m.SMTPUTF8 = "info@münchen.example", "münchen.example", true
		m.Recipients = []sdk.Recipient{{Address: "b@例子.test"}, {Address: "\"a b\"@example.test"}, {Address: "用户@例子.test"}}
		v, err := p.Ask(m)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var changes []string
		for _, x := range v.Changes {
			value, err := new(mime.WordDecoder).DecodeHeader(x.Value)
			if err != nil || strings.ContainsFunc(x.Value, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%s: the value %q", c.name, x.Value)
			}
			text := strings.TrimSpace(x.Kind.String() + " " + x.Name + " " + value)
			if x.Index != 0 {
				text += " " + string(rune('0'+x.Index))
			}
			changes = append(changes, text)
		}
		reply := ""
		if v.Reply != nil {
			reply = v.Reply.Text
		}
		if got := strings.Join(changes, "; "); v.Action.String() != c.action || reply != c.reply || got != c.changes {
			t.Errorf("%s: %s, %q, %s\nwant %+v", c.name, v.Action, reply, got, c)
		}
		seen := "[info@xn--mnchen-3ya.example, münchen.example, mail.example.org, b@xn--fsqu00a.test, a b@example.test]"
		if len(v.Reasons) != 2 || v.Reasons[1].Text != seen {
			t.Errorf("%s: %+v, want %s", c.name, v.Reasons, seen)
		}
	}
	m := sdktest.Mail("From: a@example.org\n\nhello\n")
	for i := range 1000 {
		m.Recipients = append(m.Recipients, sdk.Recipient{Address: fmt.Sprintf("%0300d@example.test", i)})
	}
	if v, err := p.Ask(m); err != nil || len(v.Reasons) != 2 {
		t.Errorf("many recipients: %+v %v", v, err)
	}
}
