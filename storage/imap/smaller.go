package imap

import (
	"bytes"
	"strconv"
	"strings"
)

// rewriteSmaller replaces SMALLER n by NOT LARGER n-1 in the line of n octets
// that in begins with: the library forgets SMALLER when a date or LARGER follows
// (LIBRARIES 2.4, trap 5: SearchCriteria.And). Goes when the library is fixed or
// its wire is replaced. Quoted strings stay as they are.
func (g *guard) rewriteSmaller(n int) int {
	line := g.in[:n]
	if !bytes.Contains(bytes.ToUpper(line), []byte("SMALLER ")) {
		return n
	}
	var out []byte
	quoted := false
	for i := 0; i < n; i++ {
		c := line[i]
		switch {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < n:
			out = append(out, c)
			i++
			c = line[i]
		case !quoted && i > 0 && (line[i-1] == ' ' || line[i-1] == '(') && !isArgument(line[:i]):
			if key, used := notLarger(line[i:]); used > 0 {
				out = append(out, key...)
				i += used - 1
				continue
			}
		}
		out = append(out, c)
	}
	g.in = append(out, g.in[n:]...)
	return len(out)
}

// isArgument says whether what follows b is the argument of a search key.
func isArgument(b []byte) bool {
	words := bytes.Fields(bytes.ToUpper(b[max(0, len(b)-200):]))
	if n := len(words); n > 0 {
		switch strings.TrimLeft(string(words[n-1]), "(") {
		case "SUBJECT", "FROM", "TO", "CC", "BCC", "BODY", "TEXT", "KEYWORD", "UNKEYWORD", "HEADER":
			return true
		}
		return n > 1 && strings.TrimLeft(string(words[n-2]), "(") == "HEADER"
	}
	return false
}

// notLarger returns what stands for the SMALLER n that b begins with, and its
// length.
func notLarger(b []byte) (string, int) {
	const key = "SMALLER "
	if len(b) < len(key) || !bytes.EqualFold(b[:len(key)], []byte(key)) {
		return "", 0
	}
	end := len(key)
	for end < len(b) && b[end] >= '0' && b[end] <= '9' {
		end++
	}
	size, err := strconv.ParseUint(string(b[len(key):end]), 10, 62)
	switch {
	case err != nil:
		return "", 0
	case size == 0:
		return "NOT ALL", end
	}
	return "NOT LARGER " + strconv.FormatUint(size-1, 10), end
}
