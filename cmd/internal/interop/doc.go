// Package interop holds tests only: it builds the real program, starts it as an
// administrator would, and lets real mail programs talk to it.
//
// What the tests cover, a file each: senders (swaks, Python's smtplib, curl,
// Postfix's smtp-source), readers (curl, mbsync, mutt, fetchmail, Python's
// imaplib), kill -9 under load (crash_test.go), the order of system calls around
// the 250 (strace_test.go), and plugins that misbehave (mischief_test.go).
//
// The programs come from Debian's packages. One that is missing skips its test;
// with INTEROP=require in the environment it fails it, with the apt-get line to
// use. Everything runs on loopback, with ports that the kernel chooses and a DNS
// server of our own, below a temporary directory, and ends by process ID.
//
//	SLUICE_BIN       test this program instead of building one
//	INTEROP_ROUNDS   rounds of the crash test (default 20; 6 with -short)
//	INTEROP_KEEP     keep the directories of the servers, and print where they are
package interop
