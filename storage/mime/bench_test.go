package mime

import (
	"bytes"
	"strings"
	"testing"
)

const commonHeader = "Received: from mx.example.net (mx.example.net [192.0.2.1])\r\n\tby mx.example.test with ESMTPS id 4F2K\r\n\tfor <bob@example.test>; Sat, 21 Nov 2026 20:00:00 +0000\r\n" +
	"Date: Sat, 21 Nov 2026 20:00:00 +0000\r\nFrom: Alice Example <alice@example.net>\r\nTo: Bob <bob@example.test>, \"Carol, C.\" <carol@example.test>\r\n" +
	"Subject: Re: the numbers of last week\r\nMessage-ID: <20261121200000.4711@example.net>\r\nIn-Reply-To: <1@example.test>\r\nReferences: <0@example.test> <1@example.test>\r\n" +
	"MIME-Version: 1.0\r\n"

func bench(b *testing.B, msg []byte) {
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	r := bytes.NewReader(msg)
	for b.Loop() {
		Parse(r, int64(len(msg)), Limits{})
	}
}

var line = strings.Repeat("The quick brown fox jumps over it. ", 2) + "\r\n"

func textMail() []byte {
	m := commonHeader + "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
	return []byte(m + strings.Repeat(line, (4096-len(m))/len(line)))
}

func alternativeMail() []byte {
	m := commonHeader + "Content-Type: multipart/alternative; boundary=\"=_part_1\"\r\n\r\n--=_part_1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + strings.Repeat(line, 15) +
		"--=_part_1\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.Repeat(line, 25) + "--=_part_1--\r\n"
	return []byte(m)
}

func BenchmarkText4K(b *testing.B)        { bench(b, textMail()) }
func BenchmarkAlternative4K(b *testing.B) { bench(b, alternativeMail()) }
func BenchmarkBase64Attachment1M(b *testing.B) {
	bench(b, []byte(commonHeader+"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhi\r\n--x\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"+
		strings.Repeat(strings.Repeat("QUFB", 19)+"\r\n", 14000)+"--x--\r\n"))
}

func BenchmarkEncode(b *testing.B) {
	m := alternativeMail()
	s := Parse(bytes.NewReader(m), int64(len(m)), Limits{})
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf, _ = s.AppendBinary(buf[:0])
	}
	b.ReportMetric(float64(len(buf)), "octets")
}

func BenchmarkDecode(b *testing.B) {
	m := alternativeMail()
	buf, _ := Parse(bytes.NewReader(m), int64(len(m)), Limits{}).AppendBinary(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}
