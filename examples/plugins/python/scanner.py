#!/usr/bin/python3
"""python-scanner: a Sluice plugin in one file, with nothing of Sluice's but plugin.proto.

It refuses mail that has one of the words that the administrator lists, wherever it stands: in the
octets as they arrived, or in text that is hidden in base64 or quoted-printable. What it does is in
Scan and configure; the rest is sdk/PROTOCOL.md, and stays as it is in a plugin of yours.
"""
import os
import sys
import threading
from concurrent import futures

import grpc

import plugin_pb2 as pb  # made from sdk/wire/plugin.proto, see README.md

NAME, VERSION, LANES = "python-scanner", "1.0", 8


class Settings:
    """What stands in [plugin.NAME.config]."""

    words = ()  # bytes, small letters


class Scan:
    """The opinion about one message. feed and parsed return a verdict as soon as they are sure, or None."""

    def __init__(self, settings, ask):
        self.words = settings.words
        self.envelope = ask.envelope
        self.longest = max(map(len, self.words), default=1)
        self.tail = b""  # a word may lie across two chunks

    def feed(self, data):
        """Looks at the next octets of the message."""
        text = self.tail + data.lower()
        self.tail = text[max(0, len(text) - self.longest + 1) :]
        return self.search(text)

    def parsed(self, parsed):
        """Looks at the shared parse: the text of the parts as a reader sees it."""
        for part in parsed.parts:
            if verdict := self.search(part.text.lower().encode()):
                return verdict
        return None

    def search(self, text):
        for word in self.words:
            if word in text:
                return pb.Verdict(
                    action=pb.ACTION_REJECT,
                    reasons=[pb.Reason(symbol="WORD", text="it has the word " + word.decode())],
                    reply=pb.Reply(code=550, enhanced="5.7.1", text="We do not want that word here"),
                )
        return None

    def end(self):
        """The whole message was seen."""
        return pb.Verdict()  # no objection


def configure(config):
    """Reads the settings, and does nothing else: sluice check calls it too. Returns them and all complaints, each with its key."""
    settings, complaints = Settings(), []
    for key in config:
        if key != "words":
            complaints.append(pb.SettingError(key=key, problem="unknown key, expected words"))
    words = plain(config["words"]) if "words" in config else None
    if isinstance(words, list) and all(isinstance(word, str) and word for word in words):
        settings.words = tuple(word.lower().encode() for word in words)
    else:
        complaints.append(pb.SettingError(key="words", problem='expected a list of words: ["lottery"]'))
    return settings, complaints


# ---- From here on it is the protocol. ----


def plain(value):
    """Turns a Value of TOML into a value of Python; times stay text."""
    kind = value.WhichOneof("kind")
    if kind == "list":
        return [plain(item) for item in value.list.items]
    if kind == "table":
        return {key: plain(item) for key, item in value.table.items.items()}
    return getattr(value, kind) if kind else None


class Plugin:
    """The three calls of the service sluice.plugin.v1.Plugin."""

    def __init__(self):
        self.settings = Settings()
        self.slots = threading.Semaphore(LANES)

    def describe(self, request, context):
        return pb.DescribeResponse(
            name=NAME, version=VERSION, phases=[pb.PHASE_CONTENT], want=pb.WANT_ALL, parsed=True,
            max_lanes=LANES, overlap=True, check_only=True,
        )

    def configure(self, request, context):
        settings, complaints = configure(request.config)
        if not request.check_only:  # open, connect and start things here, never for a check
            self.settings = settings
        return pb.ConfigureResponse(errors=complaints)

    def lane(self, frames, context):
        if not self.slots.acquire(blocking=False):  # section 3, rule 8
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "all lanes are taken")
        try:
            context.send_initial_metadata(())  # rule 1: a worker serves this lane
            yield from self.questions(frames)
        finally:
            self.slots.release()

    def questions(self, frames):
        """One question after the other. id is 0 when the current one has been answered (rules 3 and 6)."""
        id, scan = 0, None
        for frame in frames:
            kind = frame.WhichOneof("frame")
            if kind == "ask":
                id, scan = frame.ask.id, Scan(self.settings, frame.ask)
                continue
            if kind is None or id == 0 or getattr(frame, kind).id != id:
                continue  # late, or newer than this program
            answer = None
            try:
                if kind == "chunk":
                    verdict = scan.feed(frame.chunk.data)
                elif kind == "parsed":
                    verdict = scan.parsed(frame.parsed)
                elif kind == "end":
                    verdict = scan.end()
                else:
                    verdict, answer = None, pb.Answer(id=id, error=pb.Error(text="cancelled"))
                if verdict is not None:
                    answer = pb.Answer(id=id, verdict=verdict)
            except Exception as e:  # no opinion: on_failure decides
                print(f"question {id}: {e!r}", file=sys.stderr, flush=True)
                answer = pb.Answer(id=id, error=pb.Error(text=repr(e)[:1000]))
            if answer is not None:
                id, scan = 0, None
                yield pb.PluginFrame(answer=answer)


def serve():
    """The handshake (section 1), and the server until the host is gone."""
    if os.environ.get("SLUICE_PLUGIN") != "b2c9e34d-the-question-comes-first":
        sys.exit(f"{NAME} is a plugin for the mail server Sluice, which starts it; see README.md")
    threading.Thread(target=exit_with_host, daemon=True).start()
    plugin, stop = Plugin(), threading.Event()

    def shutdown(request, context):
        stop.set()
        return b""

    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=LANES + 4),  # section 3, rule 10
        options=[("grpc.max_receive_message_length", 16 << 20)],
    )
    call, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    services = {
        "sluice.plugin.v1.Plugin": {
            "Describe": call(plugin.describe, pb.DescribeRequest.FromString, pb.DescribeResponse.SerializeToString),
            "Configure": call(plugin.configure, pb.ConfigureRequest.FromString, pb.ConfigureResponse.SerializeToString),
            "Lane": stream(plugin.lane, pb.HostFrame.FromString, pb.PluginFrame.SerializeToString),
        },
        "grpc.health.v1.Health": {"Check": call(lambda request, context: b"\x08\x01")},  # status: SERVING
        "plugin.GRPCController": {"Shutdown": call(shutdown)},
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*service) for service in services.items()])
    socket = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "plugin.sock")
    server.add_insecure_port("unix:" + socket)
    server.start()
    print(f"1|1|unix|{socket}|grpc|", flush=True)
    stop.wait()
    server.stop(grace=0.2).wait()  # the last question has been asked; the lanes are still open
    os._exit(0)


def exit_with_host():
    """Standard input ends when the host does; nothing is ever written on it."""
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    serve()
