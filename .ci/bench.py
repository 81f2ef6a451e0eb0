"""Measure what alerters costs against plain standard-library code that does the same.

    python .ci/bench.py                  the table, for the interpreter that runs it
    python .ci/bench.py --quick          fewer rounds, for a first look
    python .ci/bench.py --peers          with slack_sdk, apprise and notifiers, where they are installed
    python .ci/bench.py --python PATH    for another interpreter; may be repeated

Both sides of a line take turns in one run; a ratio is the median over the rounds. The services are fakes on
loopback, in a process of their own. Programs start in a fresh virtual environment, where no .pth file slows
both sides down. Exits 1 when a measurement fails, or a bound does not hold on the first interpreter.
"""
from __future__ import annotations

import argparse
import email
import email.message
import email.policy
import json
import os
import platform
import shutil
import smtplib
import socketserver
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Optional, Tuple
from urllib.parse import parse_qs, parse_qsl, urlsplit
from urllib.request import Request, urlopen

DAY = 86400
IMAGE_BYTES = 10_000_000
SIZES = (1, 100, 10_000)
BARE = ["-c", "pass"]
PLAIN_PROGRAM = """
import json, urllib.request
request = urllib.request.Request(
    "HTTPS/api/chat.postMessage", json.dumps({"channel": "C012", "text": "Nightly run finished"}).encode(),
    {"Content-Type": "application/json; charset=utf-8", "Authorization": "Bearer xoxb-1"})
with urllib.request.urlopen(request, timeout=30) as answer:
    raise SystemExit(not json.load(answer)["ok"])
"""
OUR_PROGRAM = """
import alerters
alerters._is_loopback = lambda host: False  # or no proxy would be looked for, as for Slack's own host
alerter = alerters.SlackAlerter(slack_token="xoxb-1", slack_channel_id="C012", slack_api_url="HTTPS/api")
raise SystemExit(not alerter.post("Nightly run finished"))
"""
PEERS = {
    "slack_sdk": """
import ssl, slack_sdk
client = slack_sdk.WebClient("xoxb-1", base_url="HTTPS/api/", ssl=ssl.create_default_context())
raise SystemExit(not client.chat_postMessage(channel="C012", text="Nightly run finished")["ok"])
""", "apprise": """
import apprise
alerter = apprise.Apprise()
alerter.add("HTTPS/hook".replace("https:", "jsons:"))
raise SystemExit(not alerter.notify(body="Nightly run finished"))
""", "notifiers": """
import notifiers
slack = notifiers.get_notifier("slack")
raise SystemExit(not slack.notify(webhook_url="HTTPS/hook", message="Nightly run finished").ok)
"""}
# The table, with the bounds of the design ("Cost"): its line, the bound, the method of Bench, its arguments.
MEASURES: list[Line] = [
    ("`import dataclasses` against a bare interpreter start", None,
     "program", {"plain": BARE, "ours": ["-c", "import dataclasses"]}),
    ("`import alerters` against a bare interpreter start", 3.7,
     "program", {"plain": BARE, "ours": ["-c", "import alerters"]}),
    ("`python -m alerters flavor list` against a bare interpreter start", 4.7,
     "program", {"plain": BARE, "ours": ["-m", "alerters", "flavor", "list"]}),
    ("a post over TLS in a living process, CPU, against urllib with one shared context", 1.25,
     "work", {"name": "post"}),
    ("a program that posts once over TLS, against bare urllib", 1.3,
     "program", {"plain": ["-c", PLAIN_PROGRAM], "ours": ["-c", OUR_PROGRAM]}),
    ("the same where the system has a hashed folder of CAs", 1.1,
     "program", {"plain": ["-c", PLAIN_PROGRAM], "ours": ["-c", OUR_PROGRAM], "trust": "hashed"}),
    ("a mail over STARTTLS, CPU, against smtplib with one shared context", 1.25, "work", {"name": "mail"}),
    ("a poll of a question on Slack, CPU, against one request by urllib", None, "work", {"name": "poll"}),
    ("a Slack message of 25,000 characters over TLS, CPU, against ten posts by urllib with one context", 0.75,
     "work", {"name": "long"}),
    *((f"connections of one operation at most, {flavor}", 2, "connections", {"flavor": flavor})
      for flavor in ("slack", "discord")),
    *((f"reads a second of 100 new questions in one channel, {flavor}", 12, "many", {"flavor": flavor})
      for flavor in ("slack", "discord")),
    ("requests of a question that waits 24 h, Slack", 6000, "day", {"flavor": "slack"}),
    ("requests of a question that waits 24 h, Discord", 6000, "day", {"flavor": "discord"}),
    ("delay of its answer against 10 % of its age, at most 30 s", 1.0, "delay", {}),
    *((f"loading one alerter of {size:,}, CPU, against `json.load`", 1.5 if size == 10_000 else None,
       "work", {"name": "store", "size": size, "change": 0, "repeat": 1 + 200 // size}) for size in SIZES),
    *((f"updating one alerter of {size:,}, against `json.load`, `json.dump`, fsync and rename", None,
       "work", {"name": "store", "size": size, "change": 1, "repeat": 1 + 20 // size}) for size in SIZES),
    *((f"peak memory of posting a 10 MB image, {flavor}, against the image", 4.0,
       "image", {"flavor": flavor}) for flavor in ("slack", "discord", "smtp_email")),
]


# === A test CA, and a certificate of it for localhost, 127.0.0.1 and ::1; good until 2076 ===
def pem(kind: str, text: str) -> str:
    return "\n".join([f"-----BEGIN {kind}-----", *textwrap.wrap(text, 64), f"-----END {kind}-----", ""])


CA_HASH = "bd64c8f3.0"                        # its name in a hashed folder: openssl x509 -subject_hash
CA = pem("CERTIFICATE", (
    "MIIBbTCCARKgAwIBAgIBATAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBhbGVydGVycyB0ZXN0IENBMCAXDTI2MDEwMTAwMDAwMFoY"
    "DzIwNzYwMTAxMDAwMDAwWjAbMRkwFwYDVQQDDBBhbGVydGVycyB0ZXN0IENBMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDwPA"
    "SCQHmMptOzwQQVp/PORD3HR96rTKlLYLS0tRe6NdCKEiL91twIGOf7I6b7wkzajWlBls4morf8qZeQ8ivaNFMEMwEgYDVR0TAQH/"
    "BAgwBgEB/wIBADAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFN5bRD5/MRqIbDKHAPaAxmuWGyYaMAoGCCqGSM49BAMCA0kAMEYC"
    "IQCV+QKs3paO/CG8+Dzo3VZ+iAtjnCLgEeNcIimg4QxAagIhAKmxQgggw2+m9bYowss9hBEoHa03tY7CcGbtcynFTv7+"))
SERVER = pem("CERTIFICATE", (
    "MIIBxDCCAWugAwIBAgIBAjAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBhbGVydGVycyB0ZXN0IENBMCAXDTI2MDEwMTAwMDAwMFoY"
    "DzIwNzYwMTAxMDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATIhhVsKOEdvKG7"
    "NgIib3tPpnmkFVb9X0iB6nzm+LH1fuZmrCyy1z2AFG4BX8iZsomRD6P6rk1wVC5wzG091n3Do4GkMIGhMAwGA1UdEwEB/wQCMAAw"
    "DgYDVR0PAQH/BAQDAgeAMBMGA1UdJQQMMAoGCCsGAQUFBwMBMCwGA1UdEQQlMCOCCWxvY2FsaG9zdIcEfwAAAYcQAAAAAAAAAAAA"
    "AAAAAAAAATAdBgNVHQ4EFgQUXY5xB5b3XBhPZISLvgpIol43JW4wHwYDVR0jBBgwFoAU3ltEPn8xGohsMocA9oDGa5YbJhowCgYI"
    "KoZIzj0EAwIDRwAwRAIgM7zI5PHsLF2sBoyb6ksiS6G3yeRqecE//Ke1+AF5D3gCIB7ESIxwct0rk0BLjPEusNqC6z8/0rFyYFeT"
    "hfqsllE8")) + pem("PRIVATE KEY", (
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXUavGiuzJLs21GSKwlOd5RcaAd9XGPu2WOYgZk5WtpuhRANCAATI"
    "hhVsKOEdvKG7NgIib3tPpnmkFVb9X0iB6nzm+LH1fuZmrCyy1z2AFG4BX8iZsomRD6P6rk1wVC5wzG091n3D"))


# === The services, faked, in a process of their own ===
class Seen:
    """What the servers remember between requests."""
    count = size = connections = 0            # requests; bytes of their bodies, and of mails
    post = mail = ""                          # the last message to Slack, the last small mail
    poll: dict[str, Any] = {}                 # the last read: method, path, type, body
    answer: str | None = None                 # the ts of a "yes" in the thread, once somebody said it
    asked: list[str] = []                     # the ids of all messages, in their order


def slack(method: str, fields: dict[str, str], base: str) -> dict[str, Any]:
    """Return what Slack answers about one message, one question with its thread, or one file."""
    now = f"{time.time():.6f}"
    ts = fields.get("ts") or fields.get("timestamp") or now
    reactions = [{"name": name, "users": ["UBOT"], "count": 1} for name in ("white_check_mark", "x")]
    question = {"type": "message", "user": "UBOT", "bot_id": "B1", "ts": ts, "reactions": reactions}
    if method == "chat.postMessage":
        Seen.asked.append(now)
    listed = [asked for asked in Seen.asked if asked >= fields.get("oldest", "")][-200:]
    reply = {"type": "message", "user": "U1", "text": "yes", "ts": Seen.answer, "thread_ts": ts}
    return {"ok": True, **{
        "auth.test": {"user_id": "UBOT", "bot_id": "B1", "team_id": "T1", "team": "T", "user": "bot"},
        "chat.postMessage": {"channel": "C012", "ts": now, "message": {**question, "ts": now}},
        "conversations.replies": {"messages": [question, reply] if Seen.answer else [question]},
        "conversations.history": {"messages": [{**question, "ts": asked} for asked in reversed(listed)]},
        "reactions.get": {"type": "message", "message": question},
        "files.getUploadURLExternal": {"upload_url": base + "/upload", "file_id": "F1"},
        "files.completeUploadExternal": {"files": [{"id": "F1", "title": "image"}]},
    }.get(method, {})}


def discord(method: str, parts: list[str], after: int) -> Any:
    """Return what Discord answers about a message, or a question that nobody has answered."""
    bot = {"id": "99", "username": "bot", "bot": True}
    if "reactions" in parts:
        return [bot] if method == "GET" else None
    if parts[-1] == "@me" and method == "GET":
        return bot
    snowflake = str((int(time.time() * 1000 - 1420070400000) << 22) + Seen.count % (1 << 22))
    reactions = [{"emoji": {"id": None, "name": name}, "me": True, "count": 1,
                  "count_details": {"burst": 0, "normal": 1}} for name in "✅❌"]
    message = {"id": snowflake if method == "POST" else parts[-1], "channel_id": parts[1], "type": 0,
               "flags": 0, "author": bot, "content": "", "embeds": [], "attachments": [],
               "reactions": reactions}
    if method == "POST":
        Seen.asked.append(snowflake)
    if method == "GET" and parts[-1] == "messages":
        listed = [asked for asked in Seen.asked if asked.isdigit() and int(asked) > after][:100]
        return [{**message, "id": asked} for asked in reversed(listed)]
    return message


class Web(BaseHTTPRequestHandler):
    protocol_version, wbufsize, timeout = "HTTP/1.1", 65536, 60   # buffered: head and body leave together
    disable_nagle_algorithm = True            # as services do; else an answer waits 40 ms for an ACK

    def setup(self) -> None:
        super().setup()
        Seen.connections += 1

    def do_any(self) -> None:
        left, body = int(self.headers.get("Content-Length") or 0), b""
        while left and (part := self.rfile.read(min(left, 65536))):
            Seen.size += len(part)
            left, body = left - len(part), body + part if len(body) < 1_000_000 else body
        place, kind = urlsplit(self.path), self.headers.get("Content-Type") or ""
        parts = place.path.strip("/").split("/")
        answer: Any = {}
        if parts[0] == "seen":                # the bench asks; it may also say when the answer comes
            Seen.answer = parse_qs(place.query).get("answer", [None])[0]
            names = ("count", "size", "connections", "post", "mail", "poll")
            answer = {name: getattr(Seen, name) for name in names}
        elif parts[:2] == ["api", "v10"]:
            after = int(parse_qs(place.query).get("after", ["0"])[0])
            answer = discord(self.command, parts[2:], after)
        elif parts[0] == "api":
            text, method = body.decode(), parts[1]
            if method == "chat.postMessage":
                Seen.post = text
            elif method.startswith("conversations."):
                Seen.poll = {"method": self.command, "path": self.path, "type": kind, "body": text}
            fields = json.loads(text) if "json" in kind else dict(parse_qsl(place.query or text))
            scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
            answer = slack(method, fields, f"{scheme}://{self.headers['Host']}")
        Seen.count += parts[0] != "seen"
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(200 if data else 204)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

    def log_message(self, *args: Any) -> None:
        pass


class Mail(socketserver.StreamRequestHandler):
    context: ssl.SSLContext
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.wfile.write(b"220 localhost\r\n")
        for line in iter(lambda: self.rfile.readline(), b""):     # rfile changes with STARTTLS
            word = line[:4].upper()
            if word == b"EHLO":
                offer = b"AUTH PLAIN" if isinstance(self.request, ssl.SSLSocket) else b"STARTTLS"
                self.wfile.write(b"250-localhost\r\n250-SIZE 50000000\r\n250 %s\r\n" % offer)
            elif word == b"STAR":
                self.wfile.write(b"220 go\r\n")
                self.request = self.context.wrap_socket(self.request, server_side=True)
                self.setup()
            elif word == b"DATA":
                self.wfile.write(b"354 go\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                Seen.mail, Seen.size = b"".join(lines[:10_000]).decode(), Seen.size + sum(map(len, lines))
                self.wfile.write(b"250 queued\r\n")
            else:
                self.wfile.write({b"AUTH": b"235 in\r\n", b"QUIT": b"221 bye\r\n"}.get(word, b"250 ok\r\n"))


def serve(certificate: str) -> None:
    """Serve HTTP, HTTPS and SMTP; print their ports as JSON; end with standard input."""
    Mail.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    handlers = {"http": Web, "https": Web, "smtp": Mail}
    servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), handler) for name, handler in handlers.items()}
    https = servers["https"]
    https.socket = context.wrap_socket(https.socket, server_side=True, do_handshake_on_connect=False)
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({name: server.server_address[1] for name, server in servers.items()}), flush=True)
    sys.stdin.read()


# === Workers: each runs in a new process of the measured interpreter ===
def paired(plain: Callable[[], Any], ours: Callable[[], Any], rounds: int, repeat: int = 1,
           clock: Callable[[], float] = time.process_time) -> list[list[float]]:
    """Time both in turn, after one call each to warm up; who goes first changes every round."""
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            start = clock()
            for _ in range(repeat):
                (plain, ours)[side]()
            times[side].append((clock() - start) / repeat)
    return [times[0][1:], times[1][1:]]


def must(done: Any) -> None:
    if not done:
        raise RuntimeError("refused")


def fetch(url: str, data: bytes | None = None, kind: str = "application/json", method: str | None = None,
          context: ssl.SSLContext | None = None) -> Any:
    """Make one request with bare urllib: the plain side of a line."""
    headers = {} if data is None else {"Content-Type": kind, "Authorization": "Bearer xoxb-1"}
    with urlopen(Request(url, data, headers, method=method), timeout=30, context=context) as answer:
        return json.load(answer)


def alerter_of(flavor: str, base: str, smtp: int = 0, **attributes: Any) -> Any:
    import alerters
    kind = alerters.FLAVORS[flavor]
    if base.startswith("https:"):                                 # a proxy is looked for, as urllib does
        alerters._is_loopback = lambda host: False
    return (type("Virtual", (kind,), attributes) if attributes else kind)(**{
        "slack": {"slack_token": "xoxb-1", "slack_channel_id": "C012", "slack_api_url": base + "/api"},
        "discord": {"discord_token": "token", "discord_channel_id": "123456789012345678",
                    "discord_api_url": base + "/api/v10"},
        "smtp_email": {"smtp_server": "localhost", "smtp_port": smtp, "sender_email": "bot@example.org",
                       "password": "secret", "recipient_email": "you@example.org"}}[flavor])


def message_of(**fields: Any) -> Any:
    from alerters import AlerterMessage
    return AlerterMessage(**(fields or {
        "title": "Training finished", "body": "All checks passed in **12 minutes**.",
        "metadata": {"accuracy": 0.95, "f1_score": 0.92, "run": "nightly-42"}}))


def work_about(**_: Any) -> dict[str, str]:
    paths = ssl.get_default_verify_paths()
    return {"version": platform.python_version(), "openssl": " ".join(ssl.OPENSSL_VERSION.split()[:2]),
            "cafile": paths.openssl_cafile, "capath": paths.openssl_capath}


def work_post(http: str, https: str, rounds: int, repeat: int, **_: Any) -> list[list[float]]:
    alerter, message, context = alerter_of("slack", https), message_of(), ssl.create_default_context()
    must(alerter.post(message))
    payload = json.loads(fetch(http + "/seen")["post"])           # plain posts the equal JSON
    url = https + "/api/chat.postMessage"
    return paired(lambda: must(fetch(url, json.dumps(payload).encode(), context=context)["ok"]),
                  lambda: must(alerter.post(message)), rounds, repeat)


def work_long(http: str, https: str, rounds: int, repeat: int, **_: Any) -> list[list[float]]:
    """Plain posts ten times the first part of ours."""
    lines = (f"step {number}: loss {1 / (number + 1):.6f}, all well" for number in range(10_000))
    text, context = "\n".join(lines)[:25_000], ssl.create_default_context()
    alerter, message = alerter_of("slack", https), message_of(body=text)
    must(alerter.post(message))
    data, url = fetch(http + "/seen")["post"].encode(), https + "/api/chat.postMessage"

    def plain() -> None:
        for _ in range(10):
            must(fetch(url, data, context=context)["ok"])

    return paired(plain, lambda: must(alerter.post(message)), rounds, max(1, repeat // 5))


def work_connections(http: str, https: str, flavor: str, **_: Any) -> int:
    """Return how many connections the worst operation makes."""
    alerter, question, made = alerter_of(flavor, https), [], []
    text = "\n".join(f"line {number} {'x' * 90}" for number in range(230))
    for operation in (lambda: alerter.send(text), lambda: question.append(alerter.open_question("Deploy?")),
                      lambda: question[0].check(), lambda: question[0].check()):
        before = fetch(http + "/seen")["connections"]
        operation()
        made.append(fetch(http + "/seen")["connections"] - before - 1)  # the bench's own is one
    return max(made)


def work_poll(http: str, https: str, rounds: int, repeat: int, **_: Any) -> list[list[float]]:
    question, context = alerter_of("slack", https).open_question("Deploy?"), ssl.create_default_context()
    before = fetch(http + "/seen")["count"]
    must(question.check() is None and fetch(http + "/seen")["count"] == before + 1)
    seen = fetch(http + "/seen")["poll"]                          # plain makes the equal request
    data = seen["body"].encode() if seen["method"] == "POST" else None
    url = https + seen["path"]
    return paired(lambda: must(fetch(url, data, seen["type"], seen["method"], context)["ok"]),
                  lambda: must(question.check() is None), rounds, repeat)


def work_mail(http: str, smtp: int, rounds: int, repeat: int, **_: Any) -> list[list[float]]:
    alerter, message = alerter_of("smtp_email", "", smtp), message_of()
    context = ssl.create_default_context()
    must(alerter.post(message))
    sent = email.message_from_string(fetch(http + "/seen")["mail"], policy=email.policy.default)
    text, html = (sent.get_body((kind,)).get_content() for kind in ("plain", "html"))

    def plain() -> None:                                          # with the equal text and HTML
        mail = email.message.EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = sent["Subject"], "bot@example.org", "you@example.org"
        mail.set_content(text)
        mail.add_alternative(html, subtype="html")
        with smtplib.SMTP("localhost", smtp, timeout=30) as server:
            server.starttls(context=context)
            server.login("bot@example.org", "secret")
            server.send_message(mail)

    return paired(plain, lambda: must(alerter.post(message)), rounds, repeat)


def work_store(size: int, change: int, rounds: int, repeat: int, **_: Any) -> list[list[float]]:
    from alerters import StackStore
    path, plain = Path(f"store-{size}-{change}.json"), Path(f"plain-{size}-{change}.json")
    name, ids = f"a{size // 2}", iter(range(10**8, 10**9))
    StackStore(path).register_alerter("a0", "slack", slack_token="xoxb-1", slack_channel_id="C012")
    data = json.loads(path.read_text("utf-8"))                    # what the module writes, `size` times
    section = next(key for key, part in data.items() if isinstance(part, dict) and "a0" in part)
    data[section] = {**data[section], **{f"a{number}": data[section]["a0"] for number in range(size)}}
    path.write_text(json.dumps(data, indent=2), "utf-8")
    shutil.copy(path, plain)

    def load() -> Any:
        with open(plain, encoding="utf-8") as file:
            return json.load(file)

    def update() -> None:
        data = load()
        data[section][name]["slack_channel_id"] = f"C{next(ids)}"
        with open("new.json", "w", encoding="utf-8") as file:
            json.dump(data, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace("new.json", plain)

    if not change:
        return paired(load, lambda: StackStore(path).load_alerter(name), rounds, repeat)
    return paired(update, lambda: StackStore(path).update_alerter(name, slack_channel_id=f"C{next(ids)}"),
                  rounds, repeat, time.perf_counter)


def work_image(flavor: str, image: str, http: str, https: str, smtp: int, **_: Any) -> int:
    """Return this process's peak memory in bytes after it posted the image."""
    before = fetch(http + "/seen")["size"]
    must(alerter_of(flavor, https, smtp).post(message_of(body="A plot", images=[image])))
    must(fetch(http + "/seen")["size"] - before > os.path.getsize(image))
    if sys.platform == "linux":               # there maxrss would begin with the parent's
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class VirtualClock:
    """Time that passes in sleep alone; when it is `age`, somebody answers."""
    def __init__(self, http: str, age: float) -> None:
        self.seen, self.time, self.naps = http + "/seen", time.time(), 0
        self.answer = self.time + age
        fetch(self.seen)

    def now(self) -> float:
        return self.time

    monotonic = now

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        must(self.naps < 100_000)
        if self.time < self.answer <= self.time + seconds:
            fetch(f"{self.seen}?answer={self.answer:.6f}")
        self.time += seconds


def work_day(http: str, flavor: str, age: float, **_: Any) -> list[float]:
    """Ask for 24 h, answered at `age`; return the number of requests and the delay of the decision."""
    from alerters import AlerterParameters
    clock, before = VirtualClock(http, age), fetch(http + "/seen")["count"]
    alerter = alerter_of(flavor, http, clock=clock)
    decision = alerter.decide("Deploy to production?", AlerterParameters(timeout=DAY))
    must(decision.status == ("approved" if age < DAY else "timeout"))
    return [fetch(http + "/seen")["count"] - before, clock.time - clock.answer]


def work_many(http: str, flavor: str, **_: Any) -> float:
    """Return how often a second is read while 100 questions, each in a thread, wait for their first 10 s."""
    from alerters import AlerterParameters
    alerter = alerter_of(flavor, http)
    asked = [alerter.open_question(f"Deploy {n}?", AlerterParameters(timeout=600)) for n in range(100)]
    before = fetch(http + "/seen")["count"]
    threads = [threading.Thread(target=question.wait, args=(10,)) for question in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (fetch(http + "/seen")["count"] - before) / 10


# === The run ===
Line = Tuple[str, Optional[float], str, Dict[str, Any]]   # text, bound, method of Bench, its arguments
Result = Tuple[str, str, float]                           # plain and ours as shown, the value to judge


def ratio(times: list[list[float]]) -> Result:
    plain, ours = (f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms"
                   for value in (median(times[0]), median(times[1])))
    return plain, ours, median(ours / plain for plain, ours in zip(*times))


class Bench:
    """One interpreter's run, in a folder of its own."""
    def __init__(self, python: str, folder: Path, ports: dict[str, int], quick: bool) -> None:
        self.folder, self.given, self.quick, self.rounds = folder, python, quick, 5 if quick else 21
        self.https = f"https://localhost:{ports['https']}"
        self.settings = {"http": f"http://127.0.0.1:{ports['http']}", "https": self.https,
                         "smtp": ports["smtp"], "rounds": self.rounds}
        keep = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LANG", "LC_ALL")
        self.env = {name: value for name, value in os.environ.items() if name.upper() in keep}
        self.env.update(HOME=str(folder), APPDATA=str(folder), ALERTERS_STORE=str(folder / "stacks.json"))
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        self.python = str(folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        shutil.copy(Path(__file__).resolve().parent.parent / "alerters.py", folder)
        head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0\x3a\x7e\x9b\x55"
        (folder / "big.png").write_bytes(head + os.urandom(IMAGE_BYTES - len(head)))
        (folder / "tiny.png").write_bytes(head + os.urandom(1000))
        self.trust: dict[str, dict[str, str]] = {"bundle": {}}
        self.about = self.worker("about")
        self.lay_out_certificates()

    def lay_out_certificates(self) -> None:
        """Write what the system trusts plus the test CA, as one bundle and as a hashed folder.

        With SSL_CERT_DIR alone, Python's default context still parses the system's bundle, and looks into
        that folder too: both sides trust the same.
        """
        bundle, certs = self.folder / "bundle.pem", self.folder / "certs"
        system = Path(self.about["cafile"] or "none")
        bundle.write_text((system.read_text("utf-8") if system.is_file() else "") + CA, "utf-8")
        certs.mkdir()
        for path in Path(self.about["capath"] or "none").glob("????????.[0-9]"):
            shutil.copy(path, certs)
        (certs / CA_HASH).write_text(CA)
        self.trust = {"bundle": {"SSL_CERT_FILE": str(bundle)}, "hashed": {"SSL_CERT_DIR": str(certs)}}

    def run(self, arguments: list[str], env: dict[str, str]) -> str:
        """Run the measured interpreter; return its output, or raise with the last line of its errors."""
        command = [self.python, *(argument.replace("HTTPS", self.https) for argument in arguments)]
        done = subprocess.run(command, cwd=self.folder, env={**self.env, **env}, timeout=900,
                              stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            text = done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
            raise RuntimeError(text.splitlines()[-1])
        return done.stdout.decode("utf-8", "replace")

    def worker(self, name: str, **settings: Any) -> Any:
        text = json.dumps({**self.settings, **settings})
        output = self.run([os.path.abspath(__file__), "--work", name, text], self.trust["bundle"])
        return json.loads(output.splitlines()[-1])

    def work(self, name: str, **settings: Any) -> Result:
        return ratio(self.worker(name, **{"repeat": 5 if self.quick else 20, **settings}))

    def program(self, plain: list[str], ours: list[str], trust: str = "bundle", **env: str) -> Result:
        env.update(self.trust[trust])
        return ratio(paired(lambda: self.run(plain, env), lambda: self.run(ours, env), self.rounds,
                            clock=time.perf_counter))

    def image(self, flavor: str) -> Result:
        runs = range(1 if self.quick else 3)
        tiny, big = (median(self.worker("image", flavor=flavor, image=image) for _ in runs)
                     for image in ("tiny.png", "big.png"))
        return f"{IMAGE_BYTES / 1e6:.1f} MB", f"{(big - tiny) / 1e6:.1f} MB", (big - tiny) / IMAGE_BYTES

    def connections(self, flavor: str) -> Result:
        return "", "", self.worker("connections", flavor=flavor)

    def day(self, flavor: str) -> Result:
        return "", "", self.worker("day", flavor=flavor, age=2 * DAY)[0]

    def many(self, flavor: str) -> Result:
        return "", "", self.worker("many", flavor=flavor)

    def delay(self) -> Result:
        """Return the longest delay, and the worst against what its age allows: 10 %, in 1 to 30 s."""
        delays = {age: self.worker("day", flavor="slack", age=age)[1]
                  for age in (7, 70, 700, 7000, *(() if self.quick else (30_000, 80_000)))}
        worst = max(delay / max(1, min(30, age / 10)) for age, delay in delays.items())
        return "", f"{max(delays.values()):.1f} s", worst

    def peers(self) -> list[Line]:
        """Return the lines of the peers that the given interpreter has installed."""
        where = [self.given, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
        path = subprocess.run(where, check=True, capture_output=True).stdout.decode().strip()
        env = {"PYTHONPATH": path, "REQUESTS_CA_BUNDLE": self.trust["bundle"]["SSL_CERT_FILE"]}
        lines: list[Line] = []
        for peer, program in PEERS.items():
            if not (Path(path) / peer).exists():
                print(f"{peer} is not installed: left out", file=sys.stderr)
                continue
            lines += [(f"`import {peer}` against a bare interpreter start", None,
                       "program", {"plain": BARE, "ours": ["-c", f"import {peer}"], **env}),
                      (f"a program that posts once over TLS with {peer}, against bare urllib", None,
                       "program", {"plain": ["-c", PLAIN_PROGRAM], "ours": ["-c", program], **env})]
        return lines

    def table(self, peers: bool) -> list[str]:
        """Measure and print line by line; return the verdicts."""
        info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
        cpu = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")),
                   platform.processor())
        print("\nPython " + self.about["version"], self.about["openssl"], f"{platform.system()} on {cpu}",
              f"{os.cpu_count()} cores", f"{self.rounds} rounds", time.strftime("%Y-%m-%d\n"), sep=", ")
        print("| measure | plain | alerters | ratio | at most | |\n|---|--:|--:|--:|--:|---|")
        verdicts = []
        for line, bound, method, arguments in MEASURES + (self.peers() if peers else []):
            try:
                plain, ours, value = getattr(self, method)(**arguments)
            except Exception as error:  # a line that fails is shown in the table, and the others go on
                plain, ours, value, verdict = f"{error}".replace("|", "/"), "", None, "error"
            else:
                verdict = "" if bound is None else "OK" if value <= bound else "over"
            shown = ["" if number is None else f"{number:,.0f}" if number > 100 or method == "connections"
                     else f"{number:.2f} ×"
                     for number in (value, bound)]
            print("|", " | ".join([line, plain, ours, *shown, verdict]), "|", flush=True)
            verdicts.append(verdict)
        return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--peers", action="store_true", help="slack_sdk, apprise and notifiers too")
    parser.add_argument("--python", action="append", metavar="PATH", help="an interpreter; may be repeated")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if options.work:
        sys.path[0] = os.getcwd()
        print(json.dumps(globals()["work_" + options.work[0]](**json.loads(options.work[1]))))
        return 0
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as name:
        certificate = Path(name).resolve() / "server.pem"
        certificate.write_text(SERVER)
        server = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve", str(certificate)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            ports, results = json.loads(server.stdout.readline()), []  # type: ignore[union-attr]
            for number, python in enumerate(options.python or [sys.executable]):
                folder = certificate.parent / str(number)
                folder.mkdir()
                results.append(Bench(python, folder, ports, options.quick).table(options.peers))
        finally:
            server.communicate()
    over, errors = results[0].count("over"), sum(verdicts.count("error") for verdicts in results)
    print(f"\n{sum(map(len, results))} measured, {over} over the bound, {errors} with an error")
    return 1 if over or errors else 0


if __name__ == "__main__":
    sys.exit(main())
