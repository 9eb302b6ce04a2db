# Turns the SPF test suite (YAML, several documents) into JSON: a list of scenarios, each with zone lines, names that time
# out, and tests.
import json, sys
import yaml


def text(value):
    if isinstance(value, list):
        return "".join(text(v) for v in value)
    return str(value)


def quote(value):
    out = ""
    for octet in value.encode("latin-1", "replace") if all(ord(c) < 256 for c in value) else value.encode():
        out += chr(octet) if 32 <= octet < 127 and chr(octet) not in '"\\' else "\\%03d" % octet
    # Strings of at most 255 octets; an escape stays whole.
    strings, current, count, i = [], "", 0, 0
    while i < len(out):
        n = 4 if out[i] == "\\" else 1
        current, count, i = current + out[i:i + n], count + 1, i + n
        if count == 250:
            strings, current, count = strings + [current], "", 0
    return " ".join('"%s"' % s for s in strings + [current])


def name(value):
    out = ""
    for c in str(value).rstrip("."):
        out += "\\" + c if c in " '@;()\"" else c
    return out + "."


scenarios = []
for document in yaml.safe_load_all(open(sys.argv[1], encoding="utf-8")):
    if not document:
        continue
    lines, broken = [], []
    for owner, records in document["zonedata"].items():
        has_txt = any("TXT" in r for r in records if isinstance(r, dict))
        for r in records:
            if not isinstance(r, dict):
                broken.append(str(owner).rstrip("."))
                continue
            for kind, value in r.items():
                if kind in ("TIMEOUT", "SERVFAIL", "CNAMELOOP"):
                    broken.append(str(owner).rstrip("."))
                elif kind == "SPF" and not has_txt or kind == "TXT" and value != "NONE":
                    lines.append('%s TXT %s' % (name(owner), quote(text(value))))
                elif kind == "MX" and value[1] != "":
                    lines.append('%s MX %d %s' % (name(owner), value[0], name(value[1])))
                elif kind in ("PTR", "CNAME"):
                    lines.append('%s %s %s' % (name(owner), kind, name(value)))
                elif kind in ("A", "AAAA"):
                    lines += ['%s %s %s' % (name(owner), kind, v) for v in (value if isinstance(value, list) else [value])]
    tests = []
    for title, t in document["tests"].items():
        result = t["result"] if isinstance(t["result"], list) else [t["result"]]
        tests.append({"name": title, "helo": t.get("helo") or "", "host": str(t["host"]), "sender": t.get("mailfrom") or "",
                      "result": result, "skip": str(t.get("skip", ""))})
    scenarios.append({"name": document.get("description", ""), "zone": lines, "broken": broken, "tests": tests})
json.dump(scenarios, sys.stdout)
