package storage

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/kv"
)

var errNotBuilt = errors.New("not built yet")

// Config is the table [storage].
type Config struct {
	CacheAccounts int        `toml:"cache_accounts"` // accounts whose state is kept in memory
	CacheSize     units.Size `toml:"cache_size"`     // octets that this state may take
	MaxMailboxes  int        `toml:"max_mailboxes"`  // per account
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{CacheAccounts: 4096, CacheSize: 64 << 20, MaxMailboxes: 5000}
}

// FieldError is a problem with one key of a Config.
type FieldError struct {
	Key     string // below the room's table, dotted
	Problem string
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Problem }

// Validate returns every problem as a joined *FieldError, or nil.
func (c *Config) Validate() error { return errNotBuilt }

// Options says how to open a store.
type Options struct {
	Dir    string           // data_dir: the engine is in Dir/store, content files in Dir/blob
	FS     vfs.FS           // nil: the operating system's
	Engine kv.Engine        // nil: Pebble in Dir/store
	Config Config           // the zero value: DefaultConfig
	Logger *slog.Logger     // nil: nothing is logged
	Clock  func() time.Time // nil: time.Now
	Login  account.Config   // how logins are verified; the zero value: account.DefaultConfig

	CollectAfter time.Duration // how long content without uses is kept; 0: ten minutes
}

// Store is an open store. Its methods may be called from any goroutine.
type Store struct{}

// Open opens the store in o.Dir, making it when there is none. It fails when the store has a newer format.
func Open(ctx context.Context, o Options) (*Store, error) { return nil, errNotBuilt }

// Close waits for running updates, makes everything durable and closes the engine if Open opened it.
func (s *Store) Close(ctx context.Context) error { return errNotBuilt }

// KV returns the engine, for rooms that keep keys of their own (the queue). Applied batches count for the tail syncer.
func (s *Store) KV() kv.Engine { return nil }

// Accounts returns the directory of accounts.
func (s *Store) Accounts() *account.Directory { return nil }

// NewID returns an ID that is larger than every one before in this process.
func (s *Store) NewID() ID { return ID{} }

// WaitDurable returns nil when everything up to pos is on stable storage.
func (s *Store) WaitDurable(ctx context.Context, pos kv.Pos) error { return errNotBuilt }

// Update runs fn under the account's lock and applies what it did as one atomic batch. It returns the batch's position,
// or the account's last one if fn changed nothing. When fn returns an error, nothing is changed and that error comes back.
// fn must not wait for anything outside the store. A Tx is valid during fn only.
func (s *Store) Update(ctx context.Context, account AccountID, fn func(*Tx) error) (kv.Pos, error) {
	return 0, errNotBuilt
}

// View runs fn over a consistent state of the account. Before anything from it is shown to anybody outside, the caller
// waits: WaitDurable(ctx, view.Pos()). fn should end within 30 s and may not keep the View.
func (s *Store) View(ctx context.Context, account AccountID, fn func(*View) error) error {
	return errNotBuilt
}

// Quota returns what the account uses and may use, without reading the engine when the account is warm.
func (s *Store) Quota(ctx context.Context, account AccountID) (Quota, error) {
	return Quota{}, errNotBuilt
}

// Watch tells of changes in an account, after they are durable.
type Watch struct {
	C <-chan struct{} // holds at most one signal: "something changed since you last looked"
}

// Watch starts telling of changes in account. Close must be called.
func (s *Store) Watch(account AccountID) *Watch { return nil }

// Close ends the watch; C is not closed.
func (w *Watch) Close() {}

// AccountOptions are the choices at the making of an account.
type AccountOptions struct {
	Quota int64 // octets; 0: none
}

// CreateAccount makes an account with INBOX, Sent, Drafts, Junk, Trash and Archive, durable when it returns.
func (s *Store) CreateAccount(ctx context.Context, address, password string, o AccountOptions) (account.Account, error) {
	return account.Account{}, errNotBuilt
}

// RemoveAccount removes an account, durable when it returns; mail goes in the background. Without deleteMail an account
// that has mail is refused with ErrAccountHasMail.
func (s *Store) RemoveAccount(ctx context.Context, address string, deleteMail bool) error {
	return errNotBuilt
}

// Tx changes one account. It is valid during the function given to Update, on its goroutine.
type Tx struct{}

// Account returns the account that is changed.
func (tx *Tx) Account() AccountID { return AccountID{} }

// Batch returns the batch that will be applied, so that the caller can add keys of its own to the atomic change.
func (tx *Tx) Batch() *kv.Batch { return nil }

// Mailboxes returns all mailboxes by name, INBOX first.
func (tx *Tx) Mailboxes() []Mailbox { return nil }

// Mailbox returns the mailbox called name (INBOX in any case), or ErrNoMailbox.
func (tx *Tx) Mailbox(name string) (Mailbox, error) { return Mailbox{}, errNotBuilt }

// MailboxByID returns a mailbox, or ErrNoMailbox.
func (tx *Tx) MailboxByID(id MailboxID) (Mailbox, error) { return Mailbox{}, errNotBuilt }

// EnsureUse returns the mailbox with a special use and makes it when there is none: the delivery into Junk relies on it.
func (tx *Tx) EnsureUse(use SpecialUse) (Mailbox, error) { return Mailbox{}, errNotBuilt }

// CreateMailbox makes a mailbox and those above it that do not exist.
func (tx *Tx) CreateMailbox(name string, use SpecialUse) (Mailbox, error) {
	return Mailbox{}, errNotBuilt
}

// RenameMailbox gives a mailbox and those below it a new name. Renaming INBOX moves its messages to a new mailbox and
// leaves an empty INBOX with a new UIDVALIDITY (RFC 9051 section 6.3.6).
func (tx *Tx) RenameMailbox(from, to string) error { return errNotBuilt }

// DeleteMailbox removes a mailbox with its messages; mailboxes below it stay.
func (tx *Tx) DeleteMailbox(name string) error { return errNotBuilt }

// Subscribe adds or removes a subscription; the mailbox need not exist.
func (tx *Tx) Subscribe(name string, on bool) error { return errNotBuilt }

// Delivery is a message that comes into a mailbox.
type Delivery struct {
	Info         ContentInfo
	Front        []byte    // fields in front of the variant, ending in CRLF: Return-Path, Delivered-To
	InternalDate time.Time // zero: now
	Flags        Flags
	Use          string // a use of the content that goes in the same batch (the queue's), or ""
}

// Deliver puts a message into a mailbox whatever the quota says: after the 250 delivery does not fail for quota.
func (tx *Tx) Deliver(mailbox MailboxID, d Delivery) (UID, error) { return 0, errNotBuilt }

// Append is Deliver for a client: over the quota it fails with ErrOverQuota.
func (tx *Tx) Append(mailbox MailboxID, d Delivery) (UID, error) { return 0, errNotBuilt }

// Message returns one message as this Tx sees it, or ErrNoMessage.
func (tx *Tx) Message(mailbox MailboxID, uid UID) (*Message, error) { return nil, errNotBuilt }

// FlagMode says what StoreFlags does with the flags it is given.
type FlagMode uint8

// The modes of STORE: FLAGS, +FLAGS, -FLAGS.
const (
	FlagsSet FlagMode = iota
	FlagsAdd
	FlagsRemove
)

// FlagResult says what StoreFlags did.
type FlagResult struct {
	ModSeq   ModSeq // of the messages that changed; zero if none did
	Changed  []UID  // whose flags are different now
	Modified []UID  // left alone because they changed after unchangedSince (RFC 7162 section 3.1.3)
}

// StoreFlags changes flags of messages; UIDs (ascending) that do not exist are passed over. unchangedSince is ^0 for no
// condition.
func (tx *Tx) StoreFlags(mailbox MailboxID, uids []UID, mode FlagMode, flags Flags, unchangedSince ModSeq) (FlagResult, error) {
	return FlagResult{}, errNotBuilt
}

// CopyResult is what COPYUID says (RFC 4315).
type CopyResult struct {
	UIDValidity uint32 // of the destination
	Source      []UID
	Dest        []UID // in the order of Source
}

// Copy copies messages (ascending UIDs; those that do not exist are passed over), all or none. ErrOverQuota.
func (tx *Tx) Copy(from, to MailboxID, uids []UID) (CopyResult, error) {
	return CopyResult{}, errNotBuilt
}

// Move moves messages; from and to may be the same mailbox, then they get new UIDs (RFC 6851).
func (tx *Tx) Move(from, to MailboxID, uids []UID) (CopyResult, error) {
	return CopyResult{}, errNotBuilt
}

// Expunge removes the messages among uids (nil: all) that exist and, if onlyDeleted, have \Deleted. It returns their UIDs.
func (tx *Tx) Expunge(mailbox MailboxID, uids []UID, onlyDeleted bool) ([]UID, error) {
	return nil, errNotBuilt
}

// View reads one account. It is valid during the function given to Store.View.
type View struct{}

// Pos is the position that must be durable before what this View shows may be told to anybody.
func (v *View) Pos() kv.Pos { return 0 }

// Mailboxes returns all mailboxes by name, INBOX first.
func (v *View) Mailboxes() []Mailbox { return nil }

// Subscriptions returns the subscribed names, sorted; they need not exist.
func (v *View) Subscriptions() []string { return nil }

// Mailbox returns the mailbox called name (INBOX in any case), or ErrNoMailbox.
func (v *View) Mailbox(name string) (Mailbox, error) { return Mailbox{}, errNotBuilt }

// MailboxByID returns a mailbox, or ErrNoMailbox.
func (v *View) MailboxByID(id MailboxID) (Mailbox, error) { return Mailbox{}, errNotBuilt }

// UIDs returns the shared sequence of the mailbox's UIDs.
func (v *View) UIDs(mailbox MailboxID) (*UIDSequence, error) { return nil, errNotBuilt }

// Messages visits the messages with UIDs in [first, last] in ascending order until visit returns false or an error. The
// message is valid during the visit only; Clone keeps it.
func (v *View) Messages(mailbox MailboxID, first, last UID, visit func(*Message) (more bool, err error)) error {
	return errNotBuilt
}

// MessagesOf visits the messages with the given ascending UIDs that exist.
func (v *View) MessagesOf(mailbox MailboxID, uids []UID, visit func(*Message) (more bool, err error)) error {
	return errNotBuilt
}

// Message returns one message, or ErrNoMessage.
func (v *View) Message(mailbox MailboxID, uid UID) (*Message, error) { return nil, errNotBuilt }

// Changes says what happened in a mailbox after a modification sequence.
type Changes struct {
	Changed  []UID      // exist now, and came or changed after since; ascending
	Expunged []UIDRange // went after since; ascending, may name UIDs that never existed between those that went
	Now      ModSeq     // HIGHESTMODSEQ at this moment
	Complete bool       // false: since is before what the log remembers, Expunged is not all
}

// Changes returns what happened in mailbox after since.
func (v *View) Changes(mailbox MailboxID, since ModSeq) (Changes, error) {
	return Changes{}, errNotBuilt
}

// Quota returns what the account uses and may use.
func (v *View) Quota() Quota { return Quota{} }

// ContentInfo is what a mailbox needs to know of one variant of a content.
type ContentInfo struct {
	ID      ContentID
	Variant int
	Size    int64
	thread  []uint64 // hashes of Message-ID and of what it refers to
}

// EmailID returns the EMAILID of the variant.
func (i ContentInfo) EmailID() EmailID { return EmailID{i.ID, uint8(i.Variant)} }

// AddRef notes in b that use needs the content; b's owner must hold a use of it already.
func (s *Store) AddRef(b *kv.Batch, content ContentID, use string) {}

// DropRef removes a use of a content in b; what has no use left is collected later.
func (s *Store) DropRef(b *kv.Batch, content ContentID, use string) {}
