package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
)

// maxPassword bounds what is read as a password; storage/account has its own, smaller bound.
const maxPassword = 4096

type userRequest struct {
	Address    string `json:"address"`
	Password   string `json:"password,omitempty"`
	Quota      int64  `json:"quota,omitempty"`
	DeleteMail bool   `json:"delete_mail,omitempty"`
}

// userItem is one account as `sluice user list` shows it.
type userItem struct {
	Address  string    `json:"address"`
	Created  time.Time `json:"created"`
	Messages int64     `json:"messages"`
	Size     int64     `json:"size"`  // octets
	Quota    int64     `json:"quota"` // octets; 0: none
}

// userOperations are what the subcommands of `sluice user` ask of the store.
func userOperations() []operation {
	return []operation{userAddOperation(), userListOperation(), userPasswordOperation(), userRemoveOperation()}
}

func userAddOperation() operation {
	return operation{"user/add", typed(func(ctx context.Context, s *storage.Store, r userRequest, emit func(any) error) error {
		a, err := s.CreateAccount(ctx, r.Address, r.Password, storage.AccountOptions{Quota: r.Quota})
		if errors.Is(err, account.ErrExists) {
			return fmt.Errorf("there is an account %s already; sluice user password %s changes its password", r.Address, r.Address)
		}
		if err != nil {
			return err
		}
		return emit(userItem{Address: a.Address, Created: a.Created, Quota: a.Quota})
	})}
}

func userListOperation() operation {
	return operation{"user/list", typed(func(ctx context.Context, s *storage.Store, _ struct{}, emit func(any) error) error {
		return s.Accounts().List(ctx, func(a account.Account) (bool, error) {
			q, err := s.Quota(ctx, a.ID)
			if err != nil {
				return false, err
			}
			return true, emit(userItem{Address: a.Address, Created: a.Created, Messages: q.Count, Size: q.Used, Quota: q.Limit})
		})
	})}
}

func userPasswordOperation() operation {
	return operation{"user/password", typed(func(ctx context.Context, s *storage.Store, r userRequest, emit func(any) error) error {
		if err := s.Accounts().SetPassword(ctx, r.Address, r.Password); err != nil {
			return explainUser(err, r.Address)
		}
		return emit(userItem{Address: r.Address})
	})}
}

func userRemoveOperation() operation {
	return operation{"user/remove", typed(func(ctx context.Context, s *storage.Store, r userRequest, emit func(any) error) error {
		if err := s.RemoveAccount(ctx, r.Address, r.DeleteMail); err != nil {
			return explainUser(err, r.Address)
		}
		return emit(userItem{Address: r.Address})
	})}
}

// explainUser says what to do about an error.
func explainUser(err error, address string) error {
	switch {
	case errors.Is(err, account.ErrUnknown):
		return fmt.Errorf("there is no account %s; sluice user list shows them", address)
	case errors.Is(err, storage.ErrAccountHasMail):
		return fmt.Errorf("%s has mail; --delete-mail removes it with the account, for good", address)
	}
	return err
}

func (a *app) userCommand() *cobra.Command {
	return group("user", "add, list and remove accounts, and change their passwords",
		a.userAddCommand(), a.userListCommand(), a.userPasswordCommand(), a.userRemoveCommand())
}

func (a *app) userAddCommand() *cobra.Command {
	var fromStdin bool
	var quota string
	cmd := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "make an account with INBOX, Sent, Drafts, Junk, Trash and Archive",
		Args:  exactArgs("an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := units.ParseSize(quota)
			if err != nil {
				return usagef("--quota: %v, expected a size such as 2GB", err)
			}
			return a.changeUser(cmd.Context(), userAddOperation(), userRequest{Address: args[0], Quota: size.Int64()},
				&fromStdin, "added %s\n")
		},
	}
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().StringVar(&quota, "quota", "0", "how much mail it may keep, such as 2GB; 0: no limit")
	return cmd
}

func (a *app) userPasswordCommand() *cobra.Command {
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "password ADDRESS",
		Short: "change an account's password",
		Args:  exactArgs("an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeUser(cmd.Context(), userPasswordOperation(), userRequest{Address: args[0]}, &fromStdin,
				"the password of %s is changed\n")
		},
	}
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func (a *app) userRemoveCommand() *cobra.Command {
	var deleteMail bool
	cmd := &cobra.Command{
		Use:   "remove ADDRESS",
		Short: "remove an account",
		Args:  exactArgs("an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeUser(cmd.Context(), userRemoveOperation(), userRequest{Address: args[0], DeleteMail: deleteMail},
				nil, "removed %s\n")
		},
	}
	cmd.Flags().BoolVar(&deleteMail, "delete-mail", false, "remove its mail too; nothing brings it back")
	return cmd
}

func (a *app) userListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the accounts and how much mail they have",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			n := 0
			err := show(cmd.Context(), a, userListOperation(), struct{}{}, func(_ io.Writer, u userItem) {
				if n++; n == 1 {
					fmt.Fprintln(table, "ADDRESS\tMESSAGES\tSIZE\tQUOTA\tCREATED")
				}
				fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", u.Address, u.Messages, octets(u.Size), quotaText(u.Quota),
					u.Created.Format(time.DateOnly))
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(table, "there are no accounts; sluice user add ADDRESS makes one")
			}
			return errors.Join(err, table.Flush())
		},
	}
}

func quotaText(n int64) string {
	if n == 0 {
		return "none"
	}
	return octets(n)
}

// octets writes a size for a person, with a fraction where that is shorter.
func octets(n int64) string {
	unit, name := units.Size(1), "B"
	for _, u := range []struct {
		size units.Size
		name string
	}{{units.GB, "GB"}, {units.MB, "MB"}, {units.KB, "KB"}} {
		if units.Size(n) >= u.size {
			unit, name = u.size, u.name
			break
		}
	}
	if unit == 1 {
		return fmt.Sprintf("%d %s", n, name)
	}
	return fmt.Sprintf("%.1f %s", float64(n)/float64(unit), name)
}

// changeUser performs an operation on one account, and says done, which has the address in it. fromStdin is nil where no
// password is asked for.
func (a *app) changeUser(ctx context.Context, op operation, r userRequest, fromStdin *bool, done string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if r.Address, err = a.userAddress(c.Address, op, r.Address); err != nil {
		return err
	}
	if fromStdin != nil {
		if r.Password, err = a.readPassword(ctx, *fromStdin); err != nil {
			return err
		}
	}
	if err := a.performOn(ctx, c, op, r, done); err != nil {
		return err
	}
	if local, domain, _ := strings.Cut(r.Address, "@"); op.name == "user/add" && len(c.Domain[domain].Aliases[local]) > 0 && !listsItself(r.Address, c.Domain[domain].Aliases[local]) {
		fmt.Fprintf(a.stderr, "warning: the alias %s in %s is used no more: accounts come first\n", r.Address, a.configPath)
	}
	return nil
}

// performOn performs an operation that answers with one account.
func (a *app) performOn(ctx context.Context, c *config.Config, op operation, r userRequest, done string) error {
	return a.perform(ctx, c, op, r, func(raw json.RawMessage) error {
		var item userItem
		if err := json.Unmarshal(raw, &item); err != nil {
			return fmt.Errorf("read the answer to %s: %w", op.name, err)
		}
		if a.json {
			return json.NewEncoder(a.stdout).Encode(struct {
				Address string `json:"address"`
			}{item.Address})
		}
		_, err := fmt.Fprintf(a.stdout, done, item.Address)
		return err
	})
}

// userAddress brings an address into the form that accounts have. Only a new one has to be in a domain that is hosted: an
// account whose domain went away can still be removed.
func (a *app) userAddress(hosted func(string) (string, error), op operation, text string) (string, error) {
	if op.name == "user/add" {
		return hosted(text)
	}
	return account.Canonical(text)
}

// readPassword reads a password: the whole of standard input without its last line break, or twice from the terminal,
// unseen.
func (a *app) readPassword(ctx context.Context, fromStdin bool) (string, error) {
	if fromStdin {
		text, err := io.ReadAll(io.LimitReader(&input{ctx, a.stdin}, maxPassword+1))
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
		if password == "" || len(text) > maxPassword || strings.ContainsAny(password, "\r\n") {
			return "", usagef("--password-stdin: expected one line with the password")
		}
		return password, nil
	}
	terminal, ok := a.stdin.(*os.File)
	if !ok || !isTerminal(terminal) {
		return "", usagef("there is no terminal to ask for the password; give it on standard input with --password-stdin")
	}
	in := bufio.NewReaderSize(&input{ctx, terminal}, maxPassword)
	first, err := a.ask(terminal, in, "password: ")
	if err != nil {
		return "", err
	}
	second, err := a.ask(terminal, in, "again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return first, nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// ask reads a line from the terminal without showing it.
func (a *app) ask(terminal *os.File, in *bufio.Reader, prompt string) (string, error) {
	fmt.Fprint(a.stderr, prompt)
	defer fmt.Fprintln(a.stderr)
	fd := int(terminal.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	quiet := *was
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	defer unix.IoctlSetTermios(fd, unix.TCSETS, was)
	line, err := in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
