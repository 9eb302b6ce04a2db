package attachments

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// magic is how the content of a type begins.
type magic struct {
	word string
	at   int
	head string
}

// magics are tried in order.
func magics() []magic {
	return []magic{
		{"executable", 0, "MZ"},
		{"executable", 0, "\x7fELF"},
		{"executable", 0, "\xfe\xed\xfa\xce"},
		{"executable", 0, "\xfe\xed\xfa\xcf"},
		{"executable", 0, "\xce\xfa\xed\xfe"},
		{"executable", 0, "\xcf\xfa\xed\xfe"},
		{"executable", 0, "\xca\xfe\xba\xbe"}, // Mach-O for several machines, and Java classes
		{"executable", 0, "dex\n03"},
		{"executable", 0, "\x00asm"},
		{"script", 0, "#!"},
		{"shortcut", 0, "L\x00\x00\x00\x01\x14\x02\x00"}, // Windows .lnk
		{"shortcut", 0, "[InternetShortcut]"},
		{"zip", 0, "PK\x03\x04"},
		{"zip", 0, "PK\x05\x06"},
		{"zip", 0, "PK\x07\x08"},
		{"rar", 0, "Rar!\x1a\x07"},
		{"7z", 0, "7z\xbc\xaf\x27\x1c"},
		{"gzip", 0, "\x1f\x8b\x08"},
		{"bzip2", 0, "BZh"},
		{"xz", 0, "\xfd7zXZ\x00"},
		{"zstd", 0, "\x28\xb5\x2f\xfd"},
		{"tar", 257, "ustar"},
		{"ole", 0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"},
		{"cab", 0, "MSCF"},
		{"ace", 7, "**ACE**"},
		{"arj", 0, "\x60\xea"},
		{"lzh", 2, "-lh"},
		{"wim", 0, "MSWIM\x00\x00\x00"},
		{"compress", 0, "\x1f\x9d"}, // .Z
		{"lzip", 0, "LZIP\x01"},
		{"lzma", 0, "\x5d\x00\x00"}, // of its own, as .lzma has it
		{"lz4", 0, "\x04\x22\x4d\x18"},
		{"cpio", 0, "07070"},
		{"xar", 0, "xar!\x00"},
		{"vhd", 0, "conectix"},
		{"vhd", 0, "vhdxfile"},
		{"tnef", 0, "\x78\x9f\x3e\x22"},
		{"iso", 0x8001, "CD001"},
		{"onenote", 0, "\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d"},
		{"pdf", 0, "%PDF-"},
		{"rtf", 0, "{\\rt"},
		{"png", 0, "\x89PNG"},
		{"jpeg", 0, "\xff\xd8\xff"},
		{"gif", 0, "GIF8"},
	}
}

// typeOf returns a word for what octets are, by how they begin, or "".
func typeOf(head []byte) string {
	for _, m := range magics() {
		if len(head) >= m.at+len(m.head) && string(head[m.at:m.at+len(m.head)]) == m.head {
			if !believed(m, head) {
				continue
			}
			return m.word
		}
	}
	if tarSum(head) {
		return "tar"
	}
	if i := bytes.Index(head[:min(len(head), 1024)], []byte("%PDF-")); i >= 0 { // readers take it anywhere near the front
		return "pdf"
	}
	return ""
}

// believed looks further where the beginning is short enough to stand in any file.
func believed(m magic, head []byte) bool {
	switch m.head {
	case "MZ":
		return looksLikeDOS(head)
	case "-lh":
		return len(head) > 6 && head[6] == '-'
	case "BZh":
		return len(head) > 3 && head[3] >= '1' && head[3] <= '9'
	case "\x1f\x9d": // its longest code has 9 to 16 bits
		return len(head) > 2 && head[2]&0x60 == 0 && head[2]&0x1f >= 9 && head[2]&0x1f <= 16
	case "\x5d\x00\x00": // a window of one or two bits, and how much it unpacks to, or that this is not known
		return len(head) >= 13 && bits.OnesCount16(binary.LittleEndian.Uint16(head[3:])) <= 2 &&
			binary.LittleEndian.Uint64(head[5:])+1 < 1<<40
	case "07070": // numbers follow, to the end of its first header
		return len(head) >= 76 && strings.Trim(string(head[:76]), "0123456789abcdefABCDEF") == ""
	case "\x60\xea": // the size of its first header
		return len(head) > 3 && head[3] < 0x0b && (head[2] >= 30 || head[3] > 0)
	}
	return true
}

// tarSum reports whether octets are the header of a tar archive older than its magic: by its checksum, of all octets with
// blanks in the place of the sum.
func tarSum(head []byte) bool {
	if len(head) < 512 || head[0] == 0 {
		return false
	}
	want, err := strconv.ParseUint(string(bytes.Trim(head[148:156], " \x00")), 8, 32)
	sum := uint64(8 * ' ')
	for i, c := range head[:512] {
		if i < 148 || i >= 156 {
			sum += uint64(c)
		}
	}
	return err == nil && want == sum
}

// typeFarIn finds types that do not say at their beginning what they are.
func typeFarIn(file *kept) string {
	b := make([]byte, 5)
	if n, _ := file.ReadAt(b, 0x8001); n == 5 && (string(b) == "CD001" || string(b) == "BEA01") { // ISO 9660, UDF
		return "iso"
	}
	return ""
}

// typeByName is what an archiver tries that is given a file of this name, whatever stands in front.
func typeByName(plain string) string {
	for ending, kind := range map[string]string{".zip": "zip", ".rar": "rar", ".7z": "7z", ".tar": "tar"} {
		if strings.HasSuffix(plain, ending) {
			return kind
		}
	}
	return ""
}

// closed reports whether nothing here looks into files of a type that holds others.
func closed(kind string) bool {
	switch kind {
	case "cab", "ace", "arj", "lzh", "iso", "onenote", "wim", "compress", "lzip", "lzma", "lz4", "cpio", "xar", "vhd":
		return true
	}
	return false
}

// looksLikeDOS tells a program from a text that begins with the letters MZ.
func looksLikeDOS(head []byte) bool {
	return len(head) >= 64 && bytes.ContainsFunc(head[2:64], func(r rune) bool { return r < 9 })
}

func typeWords() []string {
	var words []string
	for _, m := range magics() {
		if !slices.Contains(words, m.word) {
			words = append(words, m.word)
		}
	}
	return words
}

func knownType(word string) bool { return slices.Contains(typeWords(), word) }

// oleHasMacros looks for the storage of Visual Basic in an old Office document: its name stands in the
// directory as UTF-16.
func oleHasMacros(file *kept) bool {
	return contains(file, wide("_VBA_PROJECT")) || contains(file, wide("Macros")) && contains(file, wide("VBA")) || contains(file, wide("XL4_MACRO"))
}

func wide(s string) []byte {
	out := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		out = append(out, s[i], 0)
	}
	return out
}

func contains(file *kept, needle []byte) bool { return find(file, needle, file.size) >= 0 }

// find searches the first octets of a file in pieces, and returns where it found something, or -1.
func find(file *kept, needle []byte, limit int64) int64 {
	r := io.NewSectionReader(file, 0, min(file.size, limit))
	buf := make([]byte, 64<<10)
	have, from := 0, int64(0) // from is where buf begins
	for {
		n, err := r.Read(buf[have:])
		have += n
		if i := bytes.Index(buf[:have], needle); i >= 0 {
			return from + int64(i)
		}
		if err != nil {
			return -1
		}
		if have > len(needle) {
			from += int64(have - len(needle))
			have = copy(buf, buf[have-len(needle):have])
		}
	}
}
