package pipeline

// LenientName returns the name of a field as a lenient reader understands it, also of a line that is none (RFC 5322 section
// 2.2): without white space or a fold before the colon, however much there is, and without invisible octets; "" if it has
// no name. Of a proper field it is Name.
func (f Field) LenientName() string {
	const longest = 64
	var name [longest]byte
	n := 0
	for _, c := range f.Raw {
		switch {
		case c == ':':
			return string(name[:n])
		case c <= ' ' || c > '~':
		case n == longest:
			return ""
		default:
			name[n] = c
			n++
		}
	}
	return ""
}

// Proper reports whether a field begins as RFC 5322 section 2.2 has it, with its name and a colon right behind: what everybody
// reads alike. White space before the colon is obsolete syntax (section 4.5), which must not be made any more.
func (f Field) Proper() bool {
	return f.Name != "" && len(f.Raw) > len(f.Name) && f.Raw[len(f.Name)] == ':'
}
