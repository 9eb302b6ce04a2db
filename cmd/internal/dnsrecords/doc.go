// Package dnsrecords knows which DNS records a mail domain needs, writes them as the text of a zone file that a person
// understands, and says whether DNS has them.
//
// Plan makes the list: where mail for the domain goes (MX, A, AAAA, PTR), who may send in its name (SPF, DKIM, DMARC),
// that mail shall come encrypted (MTA-STS) and who is told when that fails (TLSRPT), and where clients find their servers (SRV). Check
// compares by meaning, not by text: an SPF record is evaluated for our addresses, of a DKIM record the key counts.
//
// What DNS says is untrusted: it is cut, and the caller cleans what goes to a terminal. Nothing here changes anything. Look-ups
// are bounded by the context.
//
// RFCs: 1035 (5), 5321 (5.1), 6186 and 8314 (SRV), 6376, 7208, 7489, 8460, 8461, 7505.
package dnsrecords
