# Reads a task in JSON and answers in JSON lines, by means of dkimpy.
#   {"do": "verify", "dns": {NAME: TEXT}, "messages": [BASE64, ...]}
#   {"do": "sign", "domain", "selector", "algorithm", "key": BASE64, "canonicalize": "relaxed/simple", "messages": [...]}
#   {"do": "arc", "domain", "selector", "server", "key": BASE64, "messages": [...]}: each with a further ARC set
import base64, json, sys
import dkim

task = json.load(sys.stdin)
dns = {name.lower(): text.encode() for name, text in task.get("dns", {}).items()}


def lookup(name, timeout=5):
    return dns.get(name.decode().lower().rstrip("."))


def say(value):
    print(json.dumps(value), flush=True)


for message in task["messages"]:
    message = base64.b64decode(message)
    if task["do"] == "verify":
        checker = dkim.DKIM(message)
        signatures = [value for name, value in checker.headers if name.lower() == b"dkim-signature"]
        results = []
        for i in range(len(signatures)):
            try:
                results.append(bool(dkim.DKIM(message).verify(idx=i, dnsfunc=lookup)))
            except dkim.DKIMException as err:
                results.append(str(err))
        cv, _, reason = dkim.arc_verify(message, dnsfunc=lookup)
        say({"dkim": results, "arc": (cv or b"fail").decode(), "why": str(reason)})
        continue
    key = base64.b64decode(task["key"])
    selector, domain = task["selector"].encode(), task["domain"].encode()
    if task["do"] == "sign":
        header, body = task["canonicalize"].encode().split(b"/")
        field = dkim.sign(message, selector, domain, key, canonicalize=(header, body),
                          signature_algorithm=task["algorithm"].encode())
    else:
        field = b"".join(dkim.arc_sign(message, selector, domain, key, task["server"].encode()))
    say({"message": base64.b64encode(field + message).decode()})
