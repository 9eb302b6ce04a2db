// Package report is what mail servers tell each other about authentication and TLS: DMARC aggregate reports (RFC 7489
// section 7.2, RFC 9990) and SMTP TLS reports (RFC 8460), written, sent, and read.
//
//   - Collector takes what DMARC found (pipeline.DMARCObservation), adds up what is alike, and keeps it in the store.
//   - Sender sends, some time after a period has ended, one report for each domain that asked for it, as mail or, for TLS
//     reports, by https. Its documents are those of the packages dmarc and tlsreport below this one.
//   - Read finds the reports of others in a message or a file: XML and JSON, packed by gzip or zip or not at all.
//
// Promises. Observing never waits and never fails. What was observed is in the store half a minute later: a crash costs at most
// that. Memory and disk are bounded whatever strangers send: rows in memory, domains and rows of a period; what is
// left out is counted and told in the report. Nobody gets reports who did not ask for them: where the addressee is in
// another organisation than the domain, it has to say so in DNS (RFC 7489 section 7.1). Report mail has a null sender,
// so it is never bounced, and nothing is ever reported about reports (DRILLS E2.6).
//
// It owns the keys "system/report/" of the store (storage/FORMAT.md); the collector writes those of the present
// period, the sender removes those of periods that are over. What can fail is the store and DNS: tried again, and given up a day after the
// period's end.
//
// Untrusted input: domains and addresses in observations and DNS records, which are checked before they come near a key, a
// file name or a header field; and reports of others, which are unpacked within bounds on octets, ratio and number.
//
// RFCs: 7489 (6.2, 7.1, 7.2, appendix C), 9990, 8460, 8689 (TLS-Required), 6522 (multipart/report), 1952, 3834.
package report
