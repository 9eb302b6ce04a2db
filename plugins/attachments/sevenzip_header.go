package attachments

import "errors"

var errHeader7z = errors.New("the header is not as it should be, or names more than it can hold")

// checkCounts walks through the header of a 7z archive (7zFormat.txt, "Database") and compares every count with
// what the header can hold: the library makes room for as many files as are claimed, before it
// reads the first.
func checkCounts(header []byte) error {
	n := numbers{rest: header}
	id := n.octet()
	if id == 0x17 { // a packed header: streams alone
		n.streams(n.octet())
		return n.verdict()
	}
	if id != 0x01 {
		return errHeader7z
	}
	id = n.octet()
	if id == 0x02 { // archive properties
		for !n.bad && n.octet() != 0 {
			n.skip(n.next())
		}
		id = n.octet()
	}
	if id == 0x03 { // additional streams, which nobody writes
		return errHeader7z
	}
	if id == 0x04 {
		n.streams(n.octet())
		id = n.octet()
	}
	if id == 0x05 { // each file has a name of two octets at least
		n.count(2)
	}
	return n.verdict()
}

func (n *numbers) verdict() error {
	if n.bad {
		return errHeader7z
	}
	return nil
}

// count reads a number of things of which each takes so many octets of what is left.
func (n *numbers) count(each uint64) uint64 {
	v := n.next()
	if v > uint64(len(n.rest))/each {
		n.bad = true
		return 0
	}
	return v
}

func (n *numbers) skip(octets uint64) {
	if octets > uint64(len(n.rest)) {
		n.bad = true
		return
	}
	n.rest = n.rest[octets:]
}

// digests skips the sums of so many streams, and returns which of them have one.
func (n *numbers) digests(streams uint64) []bool {
	if n.bad || streams/8 > uint64(len(n.rest)) && len(n.rest) > 0 && n.rest[0] == 0 || streams > maxHeader7z {
		n.bad = true
		return nil
	}
	have, all := make([]bool, streams), n.octet() != 0
	defined, bits := uint64(0), byte(0)
	for i := range have {
		if i%8 == 0 && !all {
			bits = n.octet()
		}
		if have[i] = all || bits&0x80 != 0; have[i] {
			defined++
		}
		bits <<= 1
	}
	n.skip(4 * defined)
	return have
}

// streams skips StreamsInfo; id is the first of its properties.
func (n *numbers) streams(id byte) {
	var sums []bool
	if id == 0x06 { // PackInfo
		n.next()
		packed := n.count(1)
		for id = n.octet(); id != 0 && !n.bad; id = n.octet() {
			switch id {
			case 0x09:
				for range packed {
					n.next()
				}
			case 0x0a:
				n.digests(packed)
			default:
				n.bad = true
			}
		}
		id = n.octet()
	}
	if id == 0x07 { // UnpackInfo
		sums = n.folders()
		id = n.octet()
	}
	if id == 0x08 { // SubStreamsInfo
		n.substreams(sums)
		id = n.octet()
	}
	n.bad = n.bad || id != 0
}

// folders skips UnpackInfo and returns which of its folders have a sum.
func (n *numbers) folders() []bool {
	n.expect(0x0b)
	folders := n.count(1)
	n.expect(0) // not external
	outs := uint64(0)
	for i := uint64(0); i < folders && !n.bad; i++ {
		outs += n.folder()
	}
	n.expect(0x0c)
	if outs > uint64(len(n.rest)) {
		n.bad = true
	}
	for i := uint64(0); i < outs && !n.bad; i++ {
		n.next()
	}
	if n.bad {
		return nil
	}
	sums := make([]bool, folders)
	id := n.octet()
	if id == 0x0a {
		if have := n.digests(folders); have != nil {
			sums = have
		}
		id = n.octet()
	}
	n.bad = n.bad || id != 0
	return sums
}

// folder skips a folder and returns how many streams come out of its coders.
func (n *numbers) folder() uint64 {
	var ins, outs uint64
	coders := n.count(1)
	n.bad = n.bad || coders > 32
	for i := uint64(0); i < coders && !n.bad; i++ {
		flags := n.octet()
		n.skip(uint64(flags & 15))
		in, out := uint64(1), uint64(1)
		if flags&0x10 != 0 {
			in, out = n.next(), n.next()
		}
		if in > 32 || out > 32 { // what 7-Zip takes
			n.bad = true
		}
		ins, outs = ins+in, outs+out
		if flags&0x20 != 0 {
			n.skip(n.next())
		}
	}
	pairs := outs - min(outs, 1)
	for i := uint64(0); i < 2*pairs && !n.bad; i++ {
		n.next()
	}
	if packed := ins - min(ins, pairs); packed > 1 {
		for range packed {
			n.next()
		}
	}
	return outs
}

// substreams skips SubStreamsInfo; sums says which folders had a sum of their own.
func (n *numbers) substreams(sums []bool) {
	counts := make([]uint64, len(sums))
	for i := range counts {
		counts[i] = 1
	}
	id := n.octet()
	if id == 0x0d {
		for i := range counts {
			counts[i] = n.next()
			if counts[i] > uint64(len(n.rest)) {
				n.bad = true
				return
			}
		}
		id = n.octet()
	}
	var sizes, files, without uint64
	for i, c := range counts {
		sizes += c - min(c, 1)
		files += c
		if c != 1 || !sums[i] {
			without += c
		}
	}
	if n.bad = n.bad || files > uint64(len(n.rest))+uint64(len(sums)); n.bad {
		return
	}
	if id == 0x09 {
		for i := uint64(0); i < sizes && !n.bad; i++ {
			n.next()
		}
		id = n.octet()
	}
	if id == 0x0a {
		n.digests(without)
		id = n.octet()
	}
	n.bad = n.bad || id != 0
}
