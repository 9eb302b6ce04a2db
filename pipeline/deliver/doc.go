// Package deliver is the last stage: it takes a message over the hop that route chose.
//
// Mailbox is the local half, the atomic move from the queue into a mailbox: the queue's entry goes and the mailbox's entry
// appears in one batch, so it happens exactly once, and no client is told of it before it is durable (RULES B1). It needs no
// sync of its own. What can fail: the store (the queue tries again), and the account, which may have gone after the 250
// (outcome Gone: postmaster's quarantine, RULES A7).
//
// Remote is the other half, a pipeline.Courier: it takes parcels to other servers by SMTP or LMTP. The protocol is package
// wire's, where the servers are is package mx's, how the connection has to be protected is package tlspolicy's; here is
// what becomes of a message:
//
//   - The servers are tried in order, each at its addresses, until one has an answer for every recipient (RFC 5321 section 5.1). A server
//     that cannot be reached, turns the connection away, ends it, or answers 4yz to MAIL leaves the recipients to the next
//     one. What a server says to a recipient or to the content is the answer. At most ten servers are tried at five addresses each,
//     in one attempt's time, and no connection has more than half of what is left of it until MAIL. Addresses that failed a minute ago come last.
//   - One Send is one transaction for which a server took the message: that has to be durable before the next (RULES B8). Recipients
//     for whom there was no room in it (max_recipients, RCPTMAX, 452) come back as Outcome.Again, and the queue sends to them at once.
//   - What Pace says holds for all mail to the same servers: trouble with the TLS policy of a domain, with a sender or with what one pipeline
//     is allowed says nothing about it.
//   - A message that a server cannot take as it is (8-bit content, SMTPUTF8, its size, REQUIRETLS) is not sent to it; none of its
//     octets is changed (RULES A6). Only domains of addresses are written in A-labels where they are in U-labels.
//   - TLS as tlspolicy asks. Where TLS is only tried, a handshake that fails leads to a second connection without, which is logged
//     and stands in the trace; where it is asked for, the message waits. A password never goes over a connection without TLS, but for
//     relays with tls = "none".
//   - Connections are kept for the next message to the same server under the same conditions, for a few seconds. One that turns out to be dead
//     is replaced without counting as a failure.
//   - AskRecipient goes the same way up to RCPT, with the null sender, and sends nothing: whether the next hop knows somebody.
//   - An answer that did not come after the end of the content leaves the message delayed: it may arrive twice (RFC 1047).
//
// Peers are strangers, and so is DNS. No connection is made to our own listeners, and none to loopback and private networks but
// where the configuration says so. Replies are clean before they leave wire.
package deliver
