package receive

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// greetingName is how long the greeting waits for the client's name, where plugins are asked before it. They get the
// name later as well, with the sender.
const greetingName = time.Second

// connect asks the plugins about a client before it is greeted; where none wants to be, it does nothing. A client that is
// refused is told so in place of the greeting, and the connection is closed. RFC 5321 section 3.1 would have us wait for its
// QUIT; but who is refused here shall not hold a connection, and RFC 7504 section 4 lets us close.
func (g *gate) connect() {
	o := &g.server.options
	if g.dead || !o.Pipeline.Asks(sdk.PhaseConnect) {
		return
	}
	defer func() { // the library has no part in this yet
		if p := recover(); p != nil {
			o.Logger.Error("panic", "session", g.id, "stage", "receive", "why", fmt.Sprint(p), "stack", string(debug.Stack()))
			g.die("421 4.3.0 " + o.Hostname + " A temporary problem here, please try again later")
		}
	}()
	ctx, cancel := context.WithTimeout(g.server.base, lookupTime)
	defer cancel()
	talk := &pipeline.Session{Peer: *g.session.peer(), Origin: g.session.origin(), Opened: o.Clock()}
	if o.Protocol == Submission {
		talk.Origin = sdk.Login // nobody gets further without
	}
	g.session.startLookup()
	named, enough := context.WithTimeout(ctx, greetingName)
	talk.Peer.Reverse, talk.Peer.Name = g.session.clientName(named)
	enough()
	reply := o.Pipeline.Connect(ctx, talk)
	g.talk = talk
	if reply.OK() {
		return
	}
	g.server.counts.connections.Add(1)
	plugin, why := talk.Blame()
	reply = reply.Clean()
	g.log("connection refused", "action", actionOf(reply).String(), "plugin", plugin, "opinion", why, "why", reply.String())
	g.die(farewell(reply, o.Hostname))
}

// farewell is the one line of a connection that is refused; it has at most 512 octets with its end (RFC 5321 section
// 4.5.3.1.5).
func farewell(r pipeline.Reply, hostname string) string {
	const longest = 510
	code := smtpError(r)
	line := fmt.Sprintf("%d %d.%d.%d %s %s", code.Code, code.EnhancedCode[0], code.EnhancedCode[1], code.EnhancedCode[2], hostname, code.Message)
	return line[:min(len(line), longest)]
}
