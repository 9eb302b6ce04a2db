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
//	E6.3  the scanner is down: burden_hurt_test.go TestScannerDown. Every shipped plugin with what it asks down, slow and killed, or
//	      its state damaged, held, without room: plugin_drills_test.go TestPluginDrills; plugin_rspamd_test.go, drill
//	E6.4  a failure is no accept, an accept hides nobody: pipeline/matrix_test.go TestFirstAcceptHidesNobody; TestMischief
//	E6.5  changes: plugin_change_test.go TestPluginChanges, TestPluginChangesRefused; pipeline/changes_model_test.go
//	      FuzzChanges, changes_test.go TestSecondBody, TestSizeAfterNewBody; recipients_test.go TestTooManyRecipients;
//	      circles: burden_hurt_test.go TestCircle, pipeline/hostile_test.go TestReceivedStays
//	E6.6  the program and its handshake: pipeline/pluginhost host_test.go TestDigest, TestStarts, TestOutput, TestEnvironment,
//	      versions_test.go TestOffered, end_test.go TestKilledHost, TestFamily, socket_test.go (modes of the sockets, links to
//	      those of others, handshakes that never end). After an upgrade plugins are started
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
// What needs no program is held by the package that owns the rule, and the tests there name the drill (grep -r 'DRILLS E5.5'):
//
//	E2.1  who is trusted: pipeline/listen TestValidate; every trick: pipeline/route TestRelayControl; what check refuses:
//	      cmd/internal/config/testdata/bad/open-relay.toml
//	E2.2  pipeline/queue notice_test.go, settle_test.go, pipeline fold_test.go; E2.3: pipeline/queue bounce_test.go,
//	      pipeline/dsn TestNobodyIsTold
//	E2.4  pipeline/route forward_test.go, table_test.go, pipeline/deliver/mx TestSelfByAddress
//	E2.5  nothing here answers by itself but with notices, reports and alerts, all Auto-Submitted and
//	      from the null sender: pipeline/dsn, pipeline/events TestLetter, pipeline/report TestDMARC
//	E2.6  pipeline/report find_test.go, target_test.go, dmarc TestHostile; pipeline/deliver unreported_test.go
//	E4.1  pipeline/authenticate spfcost_test.go, spfsuite_test.go, authenticate_test.go
//	E4.2  pipeline/authenticate dkim_test.go, review_test.go, dkim/signature_test.go; E4.3: replay_test.go
//	E4.4  pipeline/authenticate dmarc_test.go, discover_test.go; E4.5: chain_test.go, arc/arc_test.go
//	E4.6  pipeline/receive/testdata/dialogue/submission.txt, storage/account account_test.go; E4.7: scoped_test.go. SMTP offers
//	      PLAIN and LOGIN below TLS alone, so there is no SCRAM to be talked out of
//	E5.1  pipeline/deliver/tlspolicy/mtasts; E5.2: pipeline/deliver/tlspolicy/dane, unbound_test.go, cmd/sluice dane_test.go
//	E5.3  pipeline/deliver/mx TestForbidden, TestDialLooksAgain; E5.4: pipeline/resolver hostile_test.go, mx TestManyMX
//	E5.5  pipeline/receive quirks_test.go, pipeline/deliver/tlspolicy expired_test.go, pipeline/deliver/testdata/dialogue/tls.txt
//	E5.6  pipeline/deliver/wire endless_test.go, pipeline/deliver/testdata/dialogue/hostile.txt, pipeline/dsn FuzzReport
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
