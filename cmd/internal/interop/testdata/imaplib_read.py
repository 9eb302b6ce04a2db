"""What Thunderbird does, over Python's imaplib.

usage: imaplib_read.py SCENE IMAPS-PORT SMTP-PORT CA PASSWORD MESSAGE-IDS STATE-FILE
The INBOX of alice holds six messages with the given Message-IDs at the start of
the first scene; the scenes run in the order of the test.
"""
import imaplib
import json
import re
import smtplib
import ssl
import sys
import time

scene, port, smtp_port, ca, password, ids, state = sys.argv[1:8]
ids = ids.split(",")
ALICE = "alice@example.test"


def login():
    c = imaplib.IMAP4_SSL("localhost", int(port), ssl_context=ssl.create_default_context(cafile=ca), timeout=30)
    ok(c.login(ALICE, password))
    return c


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


def raw(c, line, tag=b"z1"):
    """Sends a line as it is and returns the untagged lines up to the tagged OK."""
    c.send(tag + b" " + line + b"\r\n")
    return until(c, tag)


def until(c, tag):
    lines = []
    while True:
        line = c.readline()
        assert line, "connection closed after %r" % lines
        if line.startswith(tag + b" "):
            assert line.startswith(tag + b" OK"), line
            return lines + [line]
        lines.append(line)


def folder(c, use):
    for line in ok(c.list()):
        m = re.match(rb'\(([^)]*)\) "?(.)"? "?([^"]*)"?$', line)
        if use.encode() in m.group(1).split():
            return m.group(3).decode()
    raise AssertionError("no folder with " + use)


def uids(c, box="INBOX", criterion="ALL"):
    ok(c.select(box))
    return [int(n) for n in ok(c.uid("SEARCH", None, criterion))[0].split()]


def first_look():
    c = login()
    capability = ok(c.capability())[0].upper().split()
    for word in (b"IMAP4REV1", b"IDLE", b"UIDPLUS", b"MOVE", b"SPECIAL-USE", b"NAMESPACE"):
        assert word in capability, (word, capability)
    raw(c, b"NAMESPACE")
    ok(c.lsub())
    listed = b"\n".join(ok(c.list()))
    for use in (rb"\Sent", rb"\Drafts", rb"\Junk", rb"\Trash", rb"\Archive"):
        assert use in listed, listed
    assert b"INBOX" in listed
    status = ok(c.status("INBOX", "(MESSAGES UNSEEN UIDNEXT UIDVALIDITY)"))[0]
    assert b"MESSAGES 6" in status and b"UNSEEN 6" in status, status
    assert ok(c.select("INBOX")) == [b"6"]
    assert c.response("UIDVALIDITY")[1][0] and c.response("UIDNEXT")[1][0]
    assert len(ok(c.uid("FETCH", "1:*", "(FLAGS)"))) == 6
    fields = "(UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID Priority References Newsgroups In-Reply-To Content-Type Reply-To)])"
    got = ok(c.uid("FETCH", "1:*", fields))
    for number, mid in enumerate(ids):
        size = int(re.search(rb"RFC822.SIZE (\d+)", got[2 * number][0]).group(1))
        assert size > 1500, got[2 * number]
        assert mid.encode() in got[2 * number][1], got[2 * number]
    assert b"\\Seen" not in b"".join(x[0] for x in got if isinstance(x, tuple)), "PEEK sets \\Seen"
    c.logout()


def read():
    c = login()
    ok(c.select("INBOX"))
    typ, data = c.fetch("1:6", "(UID ENVELOPE BODYSTRUCTURE INTERNALDATE RFC822.SIZE)")
    assert typ == "OK" and len(data) == 6, data
    for number, line in enumerate(data):
        assert b"<" + ids[number].encode() + b">" in line, line
        assert b'("A Stranger" NIL "stranger" "example.org")' in line, line
        assert re.search(rb'BODYSTRUCTURE \("text" "plain" ', line, re.I), line
    whole = ok(c.fetch("1", "(BODY.PEEK[])"))[0][1]
    size = int(re.search(rb"RFC822.SIZE (\d+)", ok(c.fetch("1", "(RFC822.SIZE)"))[0]).group(1))
    assert len(whole) == size, (len(whole), size)
    header = ok(c.fetch("1", "(BODY.PEEK[HEADER])"))[0][1]
    text = ok(c.fetch("1", "(BODY.PEEK[TEXT])"))[0][1]
    assert header + text == whole
    assert ok(c.fetch("1", "(BODY.PEEK[1])"))[0][1] == text
    assert ok(c.fetch("1", "(BODY.PEEK[]<10.20>)"))[0][1] == whole[10:30]
    ok(c.fetch("1", "(BODY[])"))
    assert b"\\Seen" in ok(c.fetch("1", "(FLAGS)"))[0], "BODY[] does not set \\Seen"
    assert uids(c, criterion="UNSEEN") == uids(c)[1:]
    for flag in (r"\Flagged", r"\Answered", "$Forwarded", "NonJunk"):
        ok(c.store("2", "+FLAGS", "(%s)" % flag))
        assert flag.encode() in ok(c.fetch("2", "(FLAGS)"))[0]
    ok(c.store("2", "-FLAGS.SILENT", r"(\Answered)"))
    assert b"Answered" not in ok(c.fetch("2", "(FLAGS)"))[0]
    c.logout()


def idle():
    a, b = login(), login()
    ok(a.select("INBOX"))
    ok(b.select("INBOX"))
    before = len(uids(b))
    a.send(b"i1 IDLE\r\n")
    assert a.readline().startswith(b"+")
    begin = time.time()
    with smtplib.SMTP("localhost", int(smtp_port), timeout=20) as s:
        s.sendmail("stranger@example.org", [ALICE], "From: stranger@example.org\r\nMessage-ID: <idle@example.org>\r\nSubject: ring\r\n\r\nring\r\n")
    while True:
        line = a.readline()
        assert line, "connection closed"
        if line == b"* %d EXISTS\r\n" % (before + 1):
            break
    assert time.time() - begin < 5, "EXISTS took %.1f s" % (time.time() - begin)
    ok(b.noop())
    assert b.uid("STORE", "%d" % uids(b)[-1], "+FLAGS", r"(\Flagged)")[0] == "OK"
    while True:
        line = a.readline()
        assert line, "connection closed"
        if b"FETCH" in line and b"\\Flagged" in line:
            break
    assert b.uid("STORE", "%d" % uids(b)[-1], "+FLAGS", r"(\Deleted)")[0] == "OK"
    ok(b.expunge())
    while b"EXPUNGE" not in a.readline():
        pass
    a.send(b"DONE\r\n")
    until(a, b"i1")
    assert len(uids(a)) == before
    a.logout()
    b.logout()


def sent():
    c = login()
    box = folder(c, r"\Sent")
    message = b"From: alice@example.test\r\nTo: bob@example.test\r\nMessage-ID: <sent@example.test>\r\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nTsch\xc3\xbcss\r\n"
    answer = ok(c.append(box, r"(\Seen)", '"21-Nov-2026 20:00:00 +0100"', message))
    assert re.search(rb"APPENDUID \d+ \d+", answer[0]), answer
    ok(c.select(box))
    assert ok(c.fetch("1", "(BODY.PEEK[])"))[0][1] == message
    line = ok(c.fetch("1", "(FLAGS INTERNALDATE)"))[0]
    assert b"\\Seen" in line and b'"21-Nov-2026 20:00:00 +0100"' in line, line
    c.literal = None
    typ, data = c.append('"No such folder"', None, None, message)
    assert typ == "NO" and b"TRYCREATE" in data[0], (typ, data)
    c.logout()


def trash():
    c = login()
    box = folder(c, r"\Trash")
    have = uids(c)
    # COPY, \Deleted, UID EXPUNGE: without MOVE.
    answer = c.uid("COPY", str(have[0]), box)
    assert answer[0] == "OK", answer
    copyuid = c.response("COPYUID")[1]
    assert copyuid and re.match(rb"\d+ %d \d+" % have[0], copyuid[0]), copyuid
    ok(c.uid("STORE", str(have[0]), "+FLAGS", r"(\Deleted)"))
    ok(c.uid("STORE", str(have[1]), "+FLAGS", r"(\Deleted)"))
    ok(c.uid("EXPUNGE", str(have[0])))
    assert uids(c) == have[1:], "UID EXPUNGE removed more than it was told"
    ok(c.uid("STORE", str(have[1]), "-FLAGS", r"(\Deleted)"))
    # MOVE.
    lines = raw(c, b"UID MOVE %d %s" % (have[1], box.encode()))
    assert any(b"COPYUID" in line for line in lines), lines
    assert uids(c) == have[2:]
    assert len(uids(c, box)) == 2
    # Empty the trash.
    ok(c.store("1:*", "+FLAGS", r"(\Deleted)"))
    ok(c.close())
    assert uids(c, box) == []
    assert uids(c) == have[2:]
    c.logout()


def search():
    c = login()
    have = uids(c)
    mids = ids[2:]
    for criterion, want in (
        ('HEADER Message-ID "<%s>"' % mids[0], have[:1]),
        ('SUBJECT "imaplib 3"', have[1:2]),
        ('FROM "stranger"', have),
        ('FROM "nobody"', []),
        ('BODY "something to say"', have),
        ('TEXT "X-Number: 4"', have[2:3]),
        ('OR SUBJECT "imaplib 2" SUBJECT "imaplib 5"', [have[0], have[3]]),
        ('NOT SUBJECT "imaplib 2"', have[1:]),
        ("UID %d:*" % have[2], have[2:]),
        ("LARGER 100 SMALLER 100000", have),
        ("SENTSINCE 20-Nov-2026 SENTBEFORE 22-Nov-2026", have),
        ("SINCE 1-Jan-2020", have),
        ("BEFORE 1-Jan-2020", []),
        ("UNSEEN UNFLAGGED UNDELETED", have),
        ('CHARSET UTF-8 SUBJECT "imaplib"', have),
    ):
        got = uids(c, criterion=criterion)
        assert got == want, (criterion, got, want)
    c.logout()


def folders():
    c = login()
    ok(c.create("Projects/2026/Sluice"))
    listed = b"\n".join(ok(c.list('""', "Projects*")))
    for name in (b"Projects/2026/Sluice", b"Projects/2026", b"Projects"):
        assert name in listed, listed
    ok(c.subscribe("Projects/2026/Sluice"))
    assert b"Projects/2026/Sluice" in b"".join(ok(c.lsub()))
    ok(c.append("Projects/2026/Sluice", None, None, b"Subject: x\r\nMessage-ID: <p@x>\r\n\r\nx\r\n"))
    ok(c.rename("Projects/2026", "Projects/Done"))
    assert len(uids(c, "Projects/Done/Sluice")) == 1
    ok(c.create('"B&APw-cher"'))  # modified UTF-7: Buecher with u umlaut
    assert b"B&APw-cher" in b"".join(ok(c.list('""', '"B*"')))
    assert c.create("INBOX")[0] == "NO"
    assert c.delete("INBOX")[0] == "NO"
    assert c.select("Nowhere")[0] == "NO"
    for name in ("Projects/Done/Sluice", "Projects/Done", "Projects", '"B&APw-cher"'):
        ok(c.select("INBOX"))
        ok(c.delete(name))
    assert ok(c.list('""', "Projects*")) == [None]
    # What the scene "restart" compares with.
    ok(c.select("INBOX"))
    validity = c.response("UIDVALIDITY")[1][0].decode()
    json.dump({"validity": validity, "uids": uids(c)}, open(state, "w"))
    c.logout()


def restart():
    c = login()
    before = json.load(open(state))
    ok(c.select("INBOX"))
    assert c.response("UIDVALIDITY")[1][0].decode() == before["validity"]
    assert uids(c) == before["uids"]
    c.logout()


{"first-look": first_look, "read": read, "idle": idle, "sent": sent, "trash": trash, "search": search, "folders": folders, "restart": restart}[scene]()
print("done", scene)
