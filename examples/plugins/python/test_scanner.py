"""What the scanner says about messages, without a server: python3 -m unittest."""
import unittest

import plugin_pb2 as pb
import scanner


def text(word):
    return pb.Value(text=word)


def listed(*words):
    return pb.Value(list=pb.List(items=map(text, words)))


def verdict(words, *chunks, parts=()):
    settings, complaints = scanner.configure({"words": listed(*words)})
    assert not complaints, complaints
    scan = scanner.Scan(settings, pb.Ask(id=1))
    for chunk in chunks:
        if v := scan.feed(chunk):
            return v
    return scan.parsed(pb.Parsed(parts=[pb.Part(text=t) for t in parts])) or scan.end()


class Verdicts(unittest.TestCase):
    def test_words(self):
        for chunks, parts, action in [
            ([b"Subject: Hello\r\n\r\nHi\r\n"], [], pb.ACTION_ACCEPT),
            ([b"Subject: You won the LOTTERY\r\n\r\n"], [], pb.ACTION_REJECT),
            ([b"Subject: lot", b"tery\r\n\r\n"], [], pb.ACTION_REJECT),
            ([b"l", b"o", b"t", b"t", b"e", b"r", b"y"], [], pb.ACTION_REJECT),
            ([b"\r\n\r\nbG90dGVyeQ==\r\n"], ["lottery"], pb.ACTION_REJECT),
            ([b"\x00\xff\xfe\r\n"], ["\ufffd"], pb.ACTION_ACCEPT),
            ([], [], pb.ACTION_ACCEPT),
        ]:
            with self.subTest(chunks=chunks):
                self.assertEqual(verdict(["lottery", "prize"], *chunks, parts=parts).action, action)

    def test_reply(self):
        v = verdict(["Lottery"], b"lottery")
        self.assertEqual((v.reply.code, v.reasons[0].symbol), (550, "WORD"))


class Settings(unittest.TestCase):
    def complaints(self, config):
        return [c.key for c in scanner.configure(config)[1]]

    def test_complaints(self):
        self.assertEqual(self.complaints({}), ["words"])
        self.assertEqual(self.complaints({"words": text("lottery")}), ["words"])
        self.assertEqual(self.complaints({"words": listed("")}), ["words"])
        self.assertEqual(self.complaints({"words": listed("a"), "wrods": text("b")}), ["wrods"])
        self.assertEqual(self.complaints({"words": listed("a")}), [])

    def test_plain(self):
        table = pb.Value(table=pb.Table(items={"a": listed("b"), "c": pb.Value(integer=3)}))
        self.assertEqual(scanner.plain(table), {"a": ["b"], "c": 3})


if __name__ == "__main__":
    unittest.main()
