// Package interop holds tests only: it builds the real program, starts it as an
// administrator would, and lets real mail programs talk to it.
//
// What the tests cover, a file each: senders (swaks, Python's smtplib, curl,
// Postfix's smtp-source), readers (curl, mbsync, mutt, fetchmail, Python's
// imaplib), kill -9 under load (crash_test.go), the order of system calls around
// the 250 (strace_test.go), and plugins that misbehave (mischief_test.go).
//
// Faults of plugins (DRILLS E6) and who holds them; all are run by go test, paths from the module's root:
//
//	E6.1  crash, loop, hang, slow, half a question read, late, twice, invalid, unknown:
//	      mischief_test.go TestMischief, TestMischiefBesideOthers; burden_hurt_test.go TestDeadlySender;
//	      pipeline/pluginhost drill_test.go TestPoison, TestCrashLoop, TestTimeout, TestRaw, phases_test.go TestPartial
//	E6.2  every policy, every failure, every stage; the scanner that always fails, told within a minute:
//	      pipeline/matrix_test.go TestFailureMatrix; events_test.go TestAlwaysFailingScanner. A policy that is not
//	      written is the stage's default, which check prints (RULES D1): cmd/sluice/cli_test.go TestCheck
//	E6.3  the scanner is down: burden_hurt_test.go TestScannerDown, plugin_clamav_test.go TestClamAV
//	E6.4  a failure is no accept, an accept hides nobody: pipeline/matrix_test.go TestFirstAcceptHidesNobody; TestMischief
//	E6.5  changes: plugin_change_test.go TestPluginChanges, TestPluginChangesRefused; pipeline/changes_model_test.go
//	      FuzzChanges, changes_test.go TestSecondBody, TestSizeAfterNewBody; recipients_test.go TestTooManyRecipients;
//	      circles: burden_hurt_test.go TestCircle, pipeline/hostile_test.go TestReceivedStays
//	E6.6  the program and its handshake: pipeline/pluginhost host_test.go TestDigest, TestStarts, TestOutput, TestEnvironment,
//	      versions_test.go TestOffered, end_test.go TestKilledHost, TestFamily. After an upgrade plugins are started
//	      again, never attached to: plugin_process_test.go TestPluginProcess
//	E6.7  resources: pipeline/pluginhost/identity_test.go TestBomb, TestGreed, cgroup_linux_test.go; privilege_test.go
//	      TestMaliciousPlugin; TestMischief "memory". The network is free by decision (sdk/PROTOCOL.md, section 9)
//	E6.8  reload under mail: burden_test.go TestReloadHundredInFlight, reload_test.go TestReloadInFlight
//	E6.9  no shell: burden_hurt_test.go TestNoShell; cmd/internal/house "programs are started in three places"
//	E6.10 nobody else reads it, released as it came: burden_hurt_test.go TestQuarantineKeepsToItself;
//	      pipeline/queue/hand_test.go TestQuarantineByHand
//
// Mail that leaves (DRILLS E2, E5), in a network of the test's own (netns_test.go) with real servers (mta_test.go) and odd
// ones (scripted_test.go):
//
//	E2.1  open relay: relay_test.go
//	E2.2  backscatter, E2.3 null sender, E2.4 loops: relay_world_test.go
//	E2.8  DSNs, and notices of success by the peers: relay_peers_test.go, relay_dsn_test.go
//	E5.1  MTA-STS, and what is kept for TLS reports: relay_sts_test.go TestMTASTS
//	E5.2  DANE behind unbound, to Postfix: relay_dane_test.go TestDANE
//	E5.3  addresses that only we can reach: relay_forbidden_test.go TestForbiddenAddresses
//	E5.4  DNS fails for a domain, a server, or says nothing: relay_dns_test.go TestDNSFails
//	E5.6  busy, greylisting and slow servers: relay_pace_test.go; the hostile ones: pipeline/deliver chaos_test.go
//
// Outbound smuggling: relay_smuggle_test.go, to each real server. Extensions that a peer lacks: relay_dsn_test.go
// TestPeerWithout. Another store, another way out: relay_lmtp_test.go (Dovecot), relay_login_test.go. kill -9 while
// mail is relayed: relay_crash_test.go.
//
// RULES C2 (overload): burden_test.go TestOverload, TestOverloadAtConnect. Bounds: burden_hurt_test.go
// TestBurdenOfLargeMail, TestEventsNobodyTakes, TestLoudPlugin. kill -9: TestCrashWithPlugins, TestLessonsSurviveKills.
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
