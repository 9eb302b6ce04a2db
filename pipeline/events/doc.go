// Package events carries what happens to messages to those who want to know: to plugins, and to the administrator.
//
// Three parts, each with a goroutine or two of its own and none that a message waits for:
//
//   - Sink takes what the queue says (delivered, bounced, deferred, quarantined, released, discarded, refused) and tells the
//     plugins whose manifest lists it, at most once. It waits until the change is durable (RULES B1), holds at most 10,000
//     events, and drops the oldest when it has more; each plugin has a bounded queue of its own behind it (RULES C6).
//   - Teacher takes lessons (storage.Lesson: what users moved into Junk and out of it) to the plugins that learn, with the
//     content, at least once: a lesson goes when the plugin has answered. A plugin that does not run is waited for, a
//     lesson that fails is tried again ever more rarely; after a week, or when a plugin has more than 100,000, the oldest are dropped and counted.
//   - Alerter tells the administrator: a warning in the log, a number in the metrics, and a message to postmaster at most
//     once a day for each plugin and key, and at most 20 a day for one plugin. It remembers over restarts what it has written. Watch raises
//     alerts of the server's own: a plugin that fails all the time or does not run, a disk that fills up.
//
// Nothing is made while no plugin wants it. A plugin that has not said yet what it wants (it has not started since the
// server did) may want lessons, which therefore wait for it.
//
// It owns the keys "alert/" of the store; lessons belong to package storage. What can fail is the store (tried again) and
// the plugin. Untrusted input: the texts of alerts, which plugins write, perhaps about what strangers wrote; they are cut and cleaned.
//
// RFC 3834 (Auto-Submitted) and RULES A8 for the messages to postmaster.
package events
