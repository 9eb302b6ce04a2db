"""Sends mail with Python's smtplib.

usage: smtplib_send.py MODE PORT CA PASSWORD
Prints "sent MESSAGE-ID" for each message that the server took.
"""
import smtplib
import ssl
import sys
from email.message import EmailMessage

mode, port, ca, password = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
ALICE, STRANGER = "alice@example.test", "stranger@example.org"
tls = ssl.create_default_context(cafile=ca)


def letter(sender, number=0):
    m = EmailMessage()
    m["From"], m["To"] = sender, ALICE
    m["Subject"] = "from smtplib: %s" % mode
    m["Message-ID"] = "<smtplib.%s.%d@example.org>" % (mode, number)
    m["Date"] = "Sat, 21 Nov 2026 20:00:00 +0000"
    m.set_content("One line.\n.\n..two dots\n\nThe end\n")
    return m


def send(server, message, **options):
    refused = server.send_message(message, **options)
    assert not refused, refused
    print("sent", message["Message-ID"].strip("<>"))


if mode == "implicit":
    with smtplib.SMTP_SSL("localhost", port, timeout=20, context=tls) as s:
        s.login(ALICE, password)
        send(s, letter(ALICE))
    sys.exit(0)

with smtplib.SMTP("localhost", port, timeout=20, local_hostname="mx.example.org") as s:
    s.ehlo()
    if mode == "plain":
        for extension in ("size", "8bitmime", "pipelining", "starttls", "smtputf8", "chunking", "enhancedstatuscodes"):
            assert s.has_extn(extension), "no " + extension
        assert not s.has_extn("auth"), "AUTH without TLS on the smtp listener"
        send(s, letter(STRANGER))
    elif mode == "starttls":
        assert not s.has_extn("auth"), "AUTH without TLS"
        s.starttls(context=tls)
        s.ehlo()
        assert not s.has_extn("starttls"), "STARTTLS over TLS"
        for mechanism in ("PLAIN", "LOGIN"):
            assert mechanism in s.esmtp_features["auth"].split(), mechanism
        s.login(ALICE, password)
        send(s, letter(ALICE))
    elif mode == "utf8":
        m = letter(STRANGER)
        m.replace_header("Subject", "Grüße aus Köln")
        m.set_content("Zeile mit Umlauten: äöü ß €\n", cte="8bit")
        send(s, m, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    elif mode == "many":
        for i in range(20):
            send(s, letter(STRANGER, i))
    elif mode == "binary-attachment":
        m = letter(STRANGER)
        m.add_attachment(bytes(range(256)) * 4000, maintype="application", subtype="octet-stream", filename="a b.bin")
        send(s, m)
    elif mode == "refused":
        for rcpt, code in (("nobody@example.test", 550), ("someone@example.net", 550)):
            try:
                s.sendmail(STRANGER, [rcpt], letter(STRANGER).as_string())
            except smtplib.SMTPRecipientsRefused as e:
                assert e.recipients[rcpt][0] == code, e.recipients
            else:
                raise AssertionError(rcpt + " was accepted")
        # Commands out of order (RFC 5321 section 4.1.4).
        assert s.docmd("RCPT", "TO:<%s>" % ALICE)[0] == 503
        assert s.docmd("DATA")[0] == 503
        assert s.mail(STRANGER)[0] == 250
        assert s.docmd("MAIL", "FROM:<%s>" % STRANGER)[0] == 503
        assert s.rset()[0] == 250
        assert s.docmd("VRFY", ALICE)[0] in (252, 502)
        assert s.noop()[0] == 250
        try:
            s.login(ALICE, password)
        except smtplib.SMTPNotSupportedError:
            pass
        else:
            raise AssertionError("login without TLS")
    else:
        raise SystemExit("unknown mode " + mode)
