package wire

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrNoMechanism says that the server offers no way to log in that we know.
var ErrNoMechanism = errors.New("the server offers none of SCRAM-SHA-256, PLAIN and LOGIN")

// LoginError says that the server refused to let us in. The connection can still be used without a login.
type LoginError struct {
	Mechanism string
	Reply     Reply
}

func (e *LoginError) Error() string { return "log in by " + e.Mechanism + ": " + e.Reply.String() }

// errProof says that the server does not know the password that it accepted (RFC 5802 section 5): it is somebody else.
var errProof = errors.New("the server did not prove that it knows the password")

// Login logs in (RFC 4954), by SCRAM-SHA-256 (RFC 7677), which does not show the password, else by PLAIN (RFC 4616) or LOGIN, which
// do: whether the connection is fit for that is for the caller to know. Nothing of it is ever logged.
func (c *Conn) Login(username, password string) error {
	if strings.ContainsAny(username+password, "\x00\r\n") {
		return errors.New("log in: the username or password has an octet that can't be sent")
	}
	x := &c.Extensions
	switch {
	case x.offers("SCRAM-SHA-256"):
		return c.loginScram(username, password)
	case x.offers("PLAIN"):
		secret := base64.StdEncoding.EncodeToString([]byte("\x00" + username + "\x00" + password))
		r, err := c.ask(c.times.Mail, "AUTH PLAIN "+secret)
		return c.loggedIn("PLAIN", r, err)
	case x.offers("LOGIN"):
		r, err := c.ask(c.times.Mail, "AUTH LOGIN")
		for _, word := range []string{username, password} {
			if err != nil || r.Code != 334 {
				return c.loggedIn("LOGIN", r, err)
			}
			r, err = c.ask(c.times.Mail, base64.StdEncoding.EncodeToString([]byte(word)))
		}
		return c.loggedIn("LOGIN", r, err)
	}
	return ErrNoMechanism
}

// loggedIn turns the last reply into the result.
func (c *Conn) loggedIn(mechanism string, r Reply, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("log in by %s: %w", mechanism, err)
	case r.Code == 235:
		return nil
	case r.Code/100 == 4 || r.Code/100 == 5:
		return &LoginError{mechanism, r}
	}
	return c.fail(fmt.Errorf("log in by %s: %w", mechanism, &ProtocolError{What: errClass, Got: strconv.Itoa(r.Code)}))
}

// maxRounds bounds what a server may have us compute; RFC 7677 section 4 asks for 4,096 at least.
const maxRounds = 1_000_000

func (c *Conn) loginScram(username, password string) error {
	const mechanism = "SCRAM-SHA-256"
	nonce := rand.Text()
	bare := "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(username) + ",r=" + nonce
	first, r, err := c.challenge("AUTH " + mechanism + " " + base64.StdEncoding.EncodeToString([]byte("n,,"+bare)))
	if err != nil || r.Code != 334 {
		return c.loggedIn(mechanism, r, err)
	}
	final, proof, err := answerScram(bare, nonce, first, password)
	if err != nil {
		c.ask(c.times.Mail, "*") // RFC 4954 section 4: the client cancels
		return fmt.Errorf("log in by %s: %w", mechanism, err)
	}
	last, r, err := c.challenge(base64.StdEncoding.EncodeToString([]byte(final)))
	if err == nil && r.Code == 334 { // the server's proof came as a challenge of its own
		if !hmac.Equal([]byte(last), []byte(proof)) {
			return c.fail(fmt.Errorf("log in by %s: %w", mechanism, errProof))
		}
		_, r, err = c.challenge("")
		return c.loggedIn(mechanism, r, err)
	}
	if err == nil && r.Code == 235 && !hmac.Equal([]byte(last), []byte(proof)) {
		return c.fail(fmt.Errorf("log in by %s: %w", mechanism, errProof))
	}
	return c.loggedIn(mechanism, r, err)
}

// challenge sends a line, and decodes the text of a 334 or 235.
func (c *Conn) challenge(line string) (text string, r Reply, err error) {
	c.queue(line, "\r\n")
	if err = c.flush(c.times.Mail); err != nil {
		return "", r, err
	}
	r, err = c.readReply(c.times.Mail, func(line []byte) {
		if b, bad := base64.StdEncoding.DecodeString(strings.TrimSpace(string(line))); bad == nil {
			text = string(b)
		} else if _, rest, found := strings.Cut(string(line), " "); found { // 235 2.7.0 <data>
			b, _ := base64.StdEncoding.DecodeString(rest)
			text = string(b)
		}
	})
	return text, r, err
}

// answerScram computes the client's last message and what the server has to say to it (RFC 5802 section 3).
func answerScram(bare, nonce, first, password string) (final, proof string, err error) {
	fields := strings.Split(first, ",")
	if len(fields) < 3 || !strings.HasPrefix(fields[0], "r="+nonce) || !strings.HasPrefix(fields[1], "s=") || !strings.HasPrefix(fields[2], "i=") {
		return "", "", errors.New("the server's challenge is not one of SCRAM")
	}
	salt, err := base64.StdEncoding.DecodeString(fields[1][2:])
	if err != nil || len(salt) == 0 || len(fields[0]) == len("r="+nonce) {
		return "", "", errors.New("the server's challenge is not one of SCRAM")
	}
	rounds, err := strconv.Atoi(fields[2][2:])
	if err != nil || rounds < 1 || rounds > maxRounds {
		return "", "", errors.New("the server's challenge asks for too many rounds, or none")
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		return "", "", err
	}
	final = "c=biws," + fields[0]
	all := bare + "," + first + "," + final
	key := mac(salted, "Client Key")
	stored := sha256.Sum256(key)
	signature := mac(stored[:], all)
	for i := range signature {
		signature[i] ^= key[i]
	}
	final += ",p=" + base64.StdEncoding.EncodeToString(signature)
	return final, "v=" + base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), all)), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return slices.Clip(h.Sum(nil))
}
