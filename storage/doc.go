// Package storage keeps accounts, mailboxes, messages and their content in one ordered key-value engine (storage/kv) and
// in content files beside it (storage/blob). IMAP, POP3, the queue and the command line all work through it.
//
// # Promises
//
// A change is made by [Store.Update], which gives a [Tx] under the account's lock and applies one atomic batch. The
// position that it returns becomes durable later: nothing that a change did may leave the process (a reply, an untagged
// line, a listing) before [Store.WaitDurable] of that position returned nil. What a [View] shows is under the same rule:
// wait for [View.Pos] first. A batch never waits for a sync by itself; a timer syncs a tail that nobody waits for.
//
// UIDs and modification sequences of a mailbox rise and UIDVALIDITY of a name never comes back, also after a crash and
// after an account was removed and made again.
//
// # Content
//
// The octets of a message are stored once ([Store.Prepare], [Prepared.Put]) and referred to by uses ([Store.AddRef],
// [Store.DropRef]); a collector removes what has had no use for ten minutes and no open reader.
//
// # Untrusted input
//
// The content of messages, mailbox names, keywords and passwords come from strangers. Their structure is computed by
// storage/mime within limits; a failure there stores the message as opaque. Names and keywords are bounded and checked
// here. The keys and values are described octet by octet in FORMAT.md; a store of a newer format is refused.
//
// # Failures
//
// Every method that reads or writes may fail with the engine's error, wrapped. After a failed Apply the account's cached
// state is dropped and read again, so memory never shows what the engine does not hold.
//
// RFC 3501 and 9051 (UID, UIDVALIDITY, flags), 7162 (MODSEQ, expunge log), 8474 (EMAILID, THREADID), 8514 (SAVEDATE),
// 6154 (special use), 9208 (quota).
package storage
