"""Tests of `alerters`; run them with `python -m pytest`. They need pytest and nothing else.

First come fakes of Slack, Discord, SMTP and IMAP, as unkind as the real services ("assumed" marks what no
source confirms), then the tests in the order of the module. Nothing leaves this machine, and time is virtual
wherever it can be. ALERTERS_TEST_MORE=1 in the environment runs the long forms: more messages, more kills.

To write one: the fixtures `slack`, `discord`, `smtp`, `imap` are fakes; `slack_alerter(slack)` and its like
build an alerter for one; `slack.posted`, `slack.calls` and `smtp.mails` are what it got, and `fail` plans
what goes wrong. `chats` has the four ways to a chat; in `room` and at the `desk` people answer questions, by
chat and mail; `boards` and `received` are flavors of one's own; `start_program` is a process.
"""
import asyncio
import base64
import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import datetime
import email
import email.message
import email.policy
import errno
import functools
import gc
import heapq
import html
import html.parser
import http.client
import imaplib
import inspect
import io
import itertools
import json
import logging
import logging.config
import math
import os
import pickle
import random
import re
import select
import shlex
import shutil
import signal
import smtplib
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import types
import typing
import unicodedata
import urllib.error
import urllib.parse
from types import SimpleNamespace
from urllib.parse import parse_qsl, unquote

import pytest

import alerters

from alerters import (  # isort: skip
    FLAVORS, AlerterError, AlerterMessage, AlerterParameters, AskNotSupported, BaseAlerter, ConfigError,
    ConsoleAlerter, Decision, DeliveryError, DiscordAlerter, DiscordAlerterParameters, Question, Receipt,
    SlackAlerter, SlackAlerterParameters, SMTPEmailAlerter, SMTPEmailAlerterParameters, StackStore,
    StoreError, alerter_ask_step, alerter_failure_hook, alerter_success_hook, ask, decide, main, post,
    register_flavor, watch)


# === The clock and the server ===
class FakeClock:
    """Virtual time: `sleep` advances it at once, notes the nap, and runs what `at` has planned on the way."""
    def __init__(self, start=1_700_000_000.0):
        self.start, self._passed, self.naps, self._plan = start, 0.0, [], []

    def now(self):
        return self.start + self._passed

    def monotonic(self):
        return self._passed

    def at(self, seconds_from_start, fn):
        heapq.heappush(self._plan, (seconds_from_start, next(NUMBERS), fn))  # one moment: in order

    def sleep(self, seconds):
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")  # as time.sleep says it
        self.naps.append(seconds)
        end = self._passed + seconds
        while self._plan and self._plan[0][0] <= end:
            moment, _, fn = heapq.heappop(self._plan)
            self._passed = max(self._passed, moment)
            fn()
        self._passed = max(self._passed, end)


class Fault:
    """What goes wrong with a call. Kinds: status, reset, close, each also as act_… (the service acts first);
    acting: truncate; not acting: garbage, html, redirect."""
    def __init__(self, kind="status", status=None, headers=None, body=b"", ctype="application/json", to="/"):
        self.kind = kind.replace("act_", "")
        self.acts = self.kind != kind or kind in ("", "truncate")
        usual = {"redirect": 302, "status": 500}.get(self.kind, 200)
        if kind == "html":
            body, ctype = b"<!DOCTYPE html><title>Hi</title>", "text/html"
        elif kind == "redirect":
            headers = {"Location": to}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = status or usual, data, {"Content-Type": ctype, **(headers or {})}

    @classmethod
    def discord_429(cls, seconds, scope="user"):
        """Without `Via` a 429 would be Cloudflare's ban, not Discord's limit."""
        said = {"message": "You are being rate limited.", "retry_after": seconds, "global": scope == "global"}
        return cls(status=429, body=said, headers={
            "Retry-After": str(math.ceil(seconds)), "X-RateLimit-Scope": scope, "Via": "1.1 google"})


class Refusal(Exception):
    """Raised anywhere in a fake to answer its status and body."""

class _Listener:
    """A port of this machine. Each of its threads serves one connection, then waits for another."""
    def __init__(self):
        self.socket, self.resting = socket.create_server((Fake.host, 0), backlog=128), 0
        self.port, self.lock, self.service = self.socket.getsockname()[1], threading.Lock(), None
        self._start_another()

    def _start_another(self):
        self.resting += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        while True:
            link, _ = self.socket.accept()
            with self.lock:
                self.resting -= 1
                if not self.resting:
                    self._start_another()
            service = self.service
            with link:
                if service:
                    service.serve(link)
            with self.lock:
                self.resting += 1


class Fake(contextlib.AbstractContextManager):
    """A server on a free port: `with FakeSlack() as slack`. A crash in the fake fails the test."""
    idle = []  # listeners with their threads, which stay for the next service: to start them takes its time
    host = "127.0.0.1"

    def __init__(self, clock=None):
        self.clock, self.now = clock, clock.now if clock else time.time
        self.sessions, self.crashes, self._open = 0, [], set()  # connections made so far; the open ones
        self.lock, self.gate, self._closing = threading.RLock(), threading.Event(), threading.Event()
        # The one that has rested longest: a connection that the test before gave up may still wait in it.
        self._listener = self.idle.pop(0) if len(self.idle) > 7 else _Listener()
        self._listener.service, self.port = self, self._listener.port

    def __exit__(self, kind, *_):
        self.close()
        if self.crashes and not kind:
            raise self.crashes[0]

    def close(self):
        if self._closing.is_set():
            return
        self._listener.service = None
        self._closing.set()
        self.gate.set()
        with self.lock:
            for link in self._open:
                with contextlib.suppress(OSError):  # SSLSocket.shutdown would take the TLS object away
                    socket.socket.shutdown(link, socket.SHUT_RDWR)
        self.idle.append(self._listener)

    def secure(self, link, context):
        wrapped = context.wrap_socket(link, server_side=True, do_handshake_on_connect=False)
        with self.lock:
            self._open ^= {link, wrapped}
        try:
            if not self._closing.is_set():  # else close() has missed the new one
                wrapped.do_handshake()
            return wrapped
        except OSError:
            wrapped.close()
            raise

    def serve(self, link):
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.sessions += 1
            self._open.add(link)
        try:
            self.talk(link)
        except OSError:  # the client went away, or distrusts the certificate
            pass
        except Exception as crash:
            self.crashes.append(crash)
        with self.lock:
            self._open = {one for one in self._open if one.fileno() >= 0}

    def reset(self, link):
        no_time = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)


class FakeService(Fake):
    """What Slack and Discord have in common: HTTP, or HTTPS."""
    def __init__(self, clock=None, ssl_context=None):
        super().__init__(clock)
        self.ssl_context, self.forgetful = ssl_context, False  # True: it closes each without saying so
        self.calls, self.statuses, self.warnings, self._faults = [], [], [], []
        self.rows, self.posted = [], []  # all stored; our own, even if deleted since, with `payload`
        self.url = f"http{'s' * bool(ssl_context)}://{self.host}:{self.port}"

    def fail(self, match, *faults, times=1):
        """Give each fault in turn to `times` calls (None: for ever) whose "VERB path" holds `match`."""
        with self.lock:
            self._faults += [[match, fault, math.inf if times is None else times] for fault in faults]

    def heal(self):
        with self.lock:
            self._faults.clear()

    def _find(self, number, channel=None, *error):
        for row in self.rows:
            if row[self.row_keys[0]] == number and channel in (None, row[self.row_keys[1]]):
                return row
        raise self._no(*error or self.no_message)

    def _refuse_if(self, wrong, *why, **more):
        if wrong:
            raise self._no(*why, **more)

    def _act(self, call):
        try:
            status, body, headers = self.answer(call)
        except Refusal as refusal:
            (status, body), headers = refusal.args, {}
        ctype = "text/plain" if isinstance(body, str) else "application/json; charset=utf-8"
        data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        return status, data, {"Content-Type": ctype, **call.reply_headers, **headers}

    def talk(self, link):
        with self.secure(link, self.ssl_context) if self.ssl_context else link as link:
            while not self._closing.is_set() and self._answer_next(link):
                pass

    def _answer_next(self, link):
        data = piece = link.recv(1 << 16)
        while piece and b"\r\n\r\n" not in data:
            piece = link.recv(1 << 16)
            data += piece
        if not piece:  # the client went away, killed in the middle of it perhaps
            return False
        head, _, data = data.partition(b"\r\n\r\n")
        request, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.title(): value for name, value in (field.split(": ", 1) for field in fields)}
        body, length = bytearray(data), int(headers.get("Content-Length", 0))
        while len(body) < length:
            piece = link.recv(1 << 18)
            if not piece:
                return False
            body += piece
        method, target, version = request.split(" ")
        assert version == "HTTP/1.1" and len(headers) == len(fields) and len(body) == length
        assert "Transfer-Encoding" not in headers  # assumed: chunked uploads are refused
        path, _, query = target.partition("?")
        ctype, query = headers.get("Content-Type", "").partition(";")[0], dict(parse_qsl(query, True))
        call = SimpleNamespace(method=method, path=path, query=query, headers=headers, body=bytes(body),
                               ctype=ctype, args={}, files={}, reply_headers={}, at=self.now())
        if ctype == "application/json":
            call.args = _strict_json(call.body)
        elif ctype == "application/x-www-form-urlencoded":
            call.args = dict(parse_qsl(call.body.decode("utf-8"), True))
        elif ctype == "multipart/form-data":
            call.args, call.files = _multipart(headers["Content-Type"], call.body)
        elif method == "GET":
            call.args = dict(query)
        return self.respond(link, call)

    def respond(self, link, call):
        """Answer a call, well or as a fault says; true if the connection stays open after it."""
        with self.lock:
            self.calls.append(call)
            line = f"{call.method} {call.path}"
            plan = next((plan for plan in self._faults if plan[2] > 0 and plan[0] in line), [0, None, 1])
            plan[2] -= 1
            fault = plan[1] or Fault("")  # None: all goes well
            status, body, headers = self._act(call) if fault.acts else fault.answer
        kind = fault.kind
        if kind == "reset":
            self.reset(link)
        elif kind == "garbage":
            link.sendall(b"\x00garbage")
        if kind in ("reset", "garbage", "close"):
            return False
        if kind == "status":
            status, body, headers = fault.answer
        stays = kind in ("", "status", "html", "redirect")
        head = {**headers, "Connection": "keep-alive" if stays else "close"}
        if status != 204:
            head["Content-Length"] = len(body) + 100 * (kind == "truncate")
        elif "Content-Type" in head:
            del head["Content-Type"]
        self.statuses.append(status)
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        link.sendall("\r\n".join(lines).encode("latin-1") + body)
        return stays and not self.forgetful


def _strict_json(data):
    value = json.loads(data.decode("utf-8"), parse_constant=int)  # raises at NaN, which json.dumps writes
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is refused; assumed
    return value


def _multipart(ctype, body):
    """Decode `payload_json` and {file name: bytes}; field names must be files[0], files[1] and so on."""
    boundary = re.search(r'boundary="?([^";]+)', ctype)[1].encode()
    _, *parts, end = (b"\r\n" + body).split(b"\r\n--" + boundary)
    args, files = {}, {}
    assert end.strip() == b"--"
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        field = dict(re.findall(r'[; ](name|filename)="([^"]*)"', head.decode("utf-8")))
        if field["name"] == "payload_json":
            args = _strict_json(data)
        else:
            assert field["name"] == f"files[{len(files)}]"
            # Odd characters become "_", which breaks attachment:// references; assumed.
            files[re.sub(r"[^A-Za-z0-9_.-]", "_", field["filename"])] = data
    return args, files


# === Fake Slack ===
EMOJI = dict(zip("👍👎✅✔☑❌✖❎⛔🚫🛑✋👌🆗🚀👀🚨⚠ℹ🎉❤💪⭐", """+1 -1 white_check_mark heavy_check_mark
    ballot_box_with_check x heavy_multiplication_x negative_squared_cross_mark no_entry no_entry_sign
    octagonal_sign hand ok_hand ok rocket eyes rotating_light warning information_source tada heart muscle
    star""".split()))
PICTURES = re.compile("[\U0001f300-\U0001faff" + "".join(EMOJI) + "]")
ALIASES = {"thumbsup": "+1", "thumbsdown": "-1", "raised_hand": "hand"}
SCOPES = {"auth.test": "", "conversations.info": ":read", "conversations.history": ":history",
          "conversations.replies": ":history", "chat.postMessage": "chat:write", "chat.delete": "chat:write",
          "reactions.add": "reactions:write", "reactions.get": "reactions:read", "users.info": "users:read",
          "files.getUploadURLExternal": "files:write", "files.completeUploadExternal": "files:write"}
CONTROL = re.compile(r"<(?:[!@#]|[a-z][a-z0-9+.-]*:)[^<>\n]*>", re.I)


def canonical(name):
    """The name of a reaction as it is stored: thumbsup becomes +1."""
    base, tone, shade = name.partition("::")
    return ALIASES.get(base, base) + tone + shade


def units(text):
    """Length in UTF-16 units of the text as sent: the strictest reading of Slack's limits; assumed."""
    return len(text.encode("utf-16-le")) // 2


def stored_text(text, human=True):
    """What Slack gives back for a text: entities, <url>, emoji in colon form."""
    def plain(part):
        part = re.sub(r"&" if human else r"&(?!(amp|lt|gt);)", "&amp;", part)
        part = part.replace("<", "&lt;").replace(">", "&gt;")
        part = re.sub(r"https?://[^\s|]+[^\s|.,;:!?)]|\b([\w-]+\.)+(com|org|net|io|it)\b",
                      lambda m: f"<{m[0]}>" if m[0][:4] == "http" else f"<http://{m[0]}|{m[0]}>", part)
        part = re.sub("[🏻-🏿]", lambda m: f":skin-tone-{ord(m[0]) - 0x1F3FB + 2}:", part)
        return PICTURES.sub(lambda m: ":{}:".format(
            EMOJI.get(m[0]) or unicodedata.name(m[0]).lower().replace(" ", "_")), part).replace("\ufe0f", "")
    parts = re.split(f"({CONTROL.pattern})", text, flags=re.I)
    parts[::2] = map(plain, parts[::2])
    return "".join(parts)


def block_errors(blocks, broken_images=()):
    """Slack's complaints about blocks, each with its json-pointer; what no test needs is refused."""
    errors, ids = [], [block["block_id"] for block in blocks if "block_id" in block]

    def expect(good, at):
        errors.extend([] if good else [f"[ERROR] invalid [json-pointer:/blocks{at}]"])

    def texts(nodes, at, most, limit, kinds=("mrkdwn", "plain_text")):
        expect(1 <= len(nodes) <= most, at)
        for node in nodes:
            expect(set(node) <= {"type", "text", "verbatim", "emoji"} and node["type"] in kinds, at)
            expect(0 < units(node["text"]) <= limit, at)
    for at, block in enumerate(blocks):
        parts = set(block) - {"type", "block_id"}
        form = " ".join([block["type"], *sorted(parts)])
        if form == "header text":
            texts([block["text"]], f"/{at}/text", 1, 150, ("plain_text",))
        elif form in ("section text", "section expand text"):
            texts([block["text"]], f"/{at}/text", 1, 3000)
        elif form in ("section fields", "context elements"):
            texts(block[max(parts)], f"/{at}/{max(parts)}", 10, 2000)
        elif form == "image alt_text image_url":
            expect(0 < units(block["alt_text"]) <= 2000 and units(block["image_url"]) <= 3000, f"/{at}")
            expect(re.match(r"https?://\S+$", block["image_url"]), f"/{at}/image_url")
            expect(block["image_url"] not in broken_images, f"/{at}/image_url")  # which Slack fetches
        else:
            expect(form == "divider", f"/{at}")
    expect(1 <= len(blocks) <= 50 and len(ids) == len(set(ids)) and max(map(units, ids), default=0) < 256, "")
    return errors


def _slack_nodes(node, where=""):
    """Yield (json-pointer, dict) for every dict that holds a text, in order."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if isinstance(node.get("text"), str):
            yield where, node
        for key, child in node.items():
            yield from _slack_nodes(child, f"{where}/{key}")


class FakeSlack(FakeService):
    """A workspace with the channel C0ALERTS, the bot UBOT in it, and one incoming webhook."""
    token, bot_user, bot_id, channel = "xoxb-1-secret", "UBOT", "BBOT", "C0ALERTS"
    row_keys, no_message = ("ts", "channel"), ("message_not_found",)

    def __init__(self, clock=None, ssl_context=None):
        super().__init__(clock, ssl_context)
        self.api_url, self.webhook_url = self.url + "/api", self.url + "/services/T000/B000/hooksecret"
        self.scopes = {"chat:write", "reactions:read", "reactions:write", "files:write", "users:read"} | {
            kind + what for kind in ("channels", "groups", "im") for what in (":read", ":history")}
        self.channels, self.files, self.custom_emoji = {}, {}, set()
        self.bots = {self.bot_user, "UOTHERBOT"}  # of all other users `users.info` says that they are people
        self.add_channel(self.channel, "alerts")
        self.reaction_users_max = None  # the most `users` shown of a reaction; `count` counts all
        self.broken_images, self._rations, self._last_ts = set(), {}, 0

    def add_channel(self, channel, name, **flags):
        usual = {"is_im": False, "is_member": True, "is_private": False, "is_archived": False}
        self.channels[channel] = {**usual, "id": channel, "name": name, **flags}

    def ration(self, method, seconds=60):
        """Let `method` through once per `seconds`, 15 rows at a time: an unlisted app since May 2025."""
        self._rations[method] = [seconds, None]

    # What people and other bots do. `channel` is the bot's unless given.
    def say(self, user, text, thread_ts=None, channel=None, **extra):
        with self.lock:
            fields = dict(extra, user=user, text=stored_text(text))
            return self._add(channel or self.channel, fields, thread_ts)["ts"]

    def bot_says(self, text, thread_ts=None, user="UOTHERBOT", **extra):
        return self.say(user, text, thread_ts, **{"bot_id": "BOTHER", **extra})

    def react(self, user, name, ts):
        with self.lock:
            users = self._find(ts)["reactions"].setdefault(canonical(name), [])
            users += [user] if user not in users else []

    def unreact(self, user, name, ts):
        self._find(ts)["reactions"][name].remove(user)

    def edit(self, ts, text):
        with self.lock:
            row = self._find(ts)
            row.update(text=stored_text(text), edited={"user": row.get("user"), "ts": self._new_ts()})

    def delete(self, ts):
        with self.lock:
            row = self._find(ts)
            at = self.rows.index(row)
            kept = {key: row[key] for key in ("type", "ts", "channel", "thread_ts") if key in row}
            stub = dict(kept, subtype="tombstone", user="USLACKBOT", text="Gone.", reactions={})
            self.rows[at:at + 1] = [stub] if self._replies(row) else []

    def _new_ts(self):
        self._last_ts = max(int(self.now() * 1_000_000), self._last_ts + 100)
        return "{}.{:06}".format(*divmod(self._last_ts, 1_000_000))

    def _add(self, channel, fields, thread_ts=None):
        row = dict(fields, type="message", ts=self._new_ts(), channel=channel, reactions={})
        if thread_ts:
            parent = self._find(thread_ts, channel, "thread_not_found")
            assert parent.get("thread_ts", thread_ts) == thread_ts, "no reply to a reply"  # assumed
            parent["thread_ts"] = row["thread_ts"] = thread_ts
        self.rows.append(row)
        self.posted += [row] if "payload" in row else []
        return row

    def _no(self, error, **more):
        return Refusal(200, dict(more, ok=False, error=error))  # refusals come with HTTP 200

    def _replies(self, row):
        rows = self.rows if row.get("thread_ts") == row["ts"] else []
        return [other for other in rows if other.get("thread_ts") == row["ts"] != other["ts"]]

    def _show(self, row, full=False):
        shown = {k: v for k, v in row.items() if k not in ("channel", "payload", "reactions")}
        replies = self._replies(row)
        if replies:
            shown.update(reply_count=len(replies), latest_reply=replies[-1]["ts"])
        reactions = []
        for name, users in row["reactions"].items():
            part = users if full else users[:self.reaction_users_max]
            part = part + [self.bot_user] if self.bot_user in users and self.bot_user not in part else part
            reactions += [{"name": name, "users": list(part), "count": len(users)}] if users else []
        return dict(shown, reactions=reactions) if reactions else shown

    def answer(self, call):
        if call.path.startswith("/services/"):
            return self._webhook(call)
        if call.path.startswith("/upload/"):
            return self._upload(call)
        api, method = call.path[:5], call.path[5:]
        assert api == "/api/" and method in SCOPES
        seconds, last = self._rations.get(method, (0, None))
        if last is not None and self.now() - last < seconds:
            return 429, "", {"Retry-After": str(math.ceil(last + seconds - self.now()))}
        args, is_json = call.args, call.ctype == "application/json"
        assert call.method == "POST" and not call.query and (args or not call.body) and not call.files
        if "token" in args or call.headers.get("Authorization") != "Bearer " + self.token:
            raise self._no("invalid_auth")
        if call.body and ("charset" in call.headers["Content-Type"]) != is_json:
            self.warnings.append("missing_charset" if is_json else "superfluous_charset")
        if "files" in args:
            args["files"] = _strict_json(args["files"].encode())
        call.args = args = {key: value for key, value in args.items() if value is not None}
        channel = self.channels.get(args.get("channel"), {})
        kind = "groups" if channel.get("is_private") else "channels"
        kind = "im" if channel.get("is_im") else "mpim" if channel.get("is_mpim") else kind
        scope = kind + SCOPES[method] if SCOPES[method][:1] == ":" else SCOPES[method]
        provided = call.reply_headers["X-OAuth-Scopes"] = ",".join(sorted(self.scopes))
        self._refuse_if(scope and scope not in self.scopes, "missing_scope", needed=scope, provided=provided)
        if method in self._rations:
            self._rations[method][1] = self.now()
        return 200, dict(getattr(self, "_" + method.replace(".", "_"))(args), ok=True), {}

    def _channel(self, args, key="channel", reads=True, writes=False):
        channel = self.channels.get(args.get(key))
        if not channel or channel["is_private"] and not channel["is_member"]:
            raise self._no("channel_not_found")
        self._refuse_if(reads and not channel["is_member"], "not_in_channel")
        self._refuse_if(writes and channel["is_archived"], "is_archived")
        return channel["id"]

    def _checked(self, args):
        text, blocks = args.get("text", ""), args.get("blocks", [])
        assert not set(args) - {"channel", "text", "blocks", "thread_ts", "unfurl_links", "unfurl_media"}
        assert text.strip()  # which with blocks Slack would not need, but screen readers read only this
        self.warnings += ["text over 4000"] if units(text) > 4000 else []
        errors = block_errors(blocks, self.broken_images) if "blocks" in args else []
        self._refuse_if(errors, "invalid_blocks", response_metadata={"messages": errors})
        size = sum(units(node["text"]) for _, node in _slack_nodes(blocks))
        self._refuse_if(size > 13_200, "msg_blocks_too_long")
        self.warnings += ["blocks over 10000"] if size > 10_000 else []
        fields = {"text": stored_text(text[:40_000], human=False), "payload": args}
        if blocks:
            fields["blocks"] = [{"block_id": f"b{i}", **block} for i, block in enumerate(blocks)]
        return fields

    def _auth_test(self, args):
        return {"url": "https://example.slack.com/", "team": "Example", "user": "alerts",
                "user_id": self.bot_user, "bot_id": self.bot_id}

    def _users_info(self, args):
        self._refuse_if(not re.match(r"(?!UNOBODY)[UW][A-Z0-9]+$", args["user"]), "user_not_found")
        return {"user": {"id": args["user"], "is_bot": args["user"] in self.bots}}

    def _conversations_info(self, args):
        return {"channel": self.channels[self._channel(args, reads=False)]}

    def _chat_postMessage(self, args):
        given, is_guest = args["channel"], "chat:write.public" in self.scopes
        named = [c["id"] for c in self.channels.values() if not c["is_im"] and c["name"] == given.lstrip("#")]
        channel = self._channel({"channel": (named or [given])[0]}, reads=not is_guest, writes=True)
        fields = dict(self._checked(args), user=self.bot_user, bot_id=self.bot_id)
        row = self._add(channel, fields, args.get("thread_ts"))
        return {"channel": channel, "ts": row["ts"], "message": self._show(row)}

    def _chat_delete(self, args):
        row = self._find(args.get("ts"), self._channel(args))
        assert row.get("user") == self.bot_user
        self.delete(row["ts"])
        return {"channel": row["channel"], "ts": row["ts"]}

    def _reactions_add(self, args):
        row = self._find(args.get("timestamp"), self._channel(args, writes=True))
        base, tone, shade = args["name"].partition("::")
        known = base in set(EMOJI.values()) | set(ALIASES) | self.custom_emoji
        self._refuse_if(not known or tone and not re.match("skin-tone-[2-6]$", shade), "invalid_name")
        self._refuse_if(self.bot_user in row["reactions"].get(canonical(args["name"]), ()), "already_reacted")
        self.react(self.bot_user, args["name"], row["ts"])
        return {}

    def _reactions_get(self, args):
        row = self._find(args.get("timestamp"), self._channel(args))
        return {"type": "message", "message": self._show(row, args.get("full") == "true")}

    def _page(self, method, args, rows, newest_first):
        """One page of rows between `oldest` and `latest`; the cursor remembers the last ts shown."""
        low, high = float(args.get("oldest", 0)), float(args.get("latest", 10**11))  # exact: 16 digits
        cursor = float(base64.b64decode(args["cursor"]).decode()) if "cursor" in args else None
        edge = args.get("inclusive") == "true"

        def wanted(row):
            ts, parent = float(row["ts"]), not newest_first and row is rows[0]
            if cursor and (parent or (ts >= cursor if newest_first else ts <= cursor)):
                return False  # the parent comes on the first page alone
            return low < ts < high or edge and ts in (low, high) or parent and low == 0
        found = sorted(filter(wanted, rows), key=lambda row: float(row["ts"]), reverse=newest_first)
        size = min(int(args["limit"]), 15 if method in self._rations else 200)
        page = {"messages": [self._show(row) for row in found[:size]], "has_more": len(found) > size}
        if page["has_more"]:
            cursor = base64.b64encode(found[size - 1]["ts"].encode()).decode()
            page["response_metadata"] = {"next_cursor": cursor}
        return page

    def _conversations_history(self, args):
        channel = self._channel(args)
        rows = [row for row in self.rows if row["channel"] == channel and (
            row.get("thread_ts", row["ts"]) == row["ts"] or row.get("subtype") == "thread_broadcast")]
        return self._page("conversations.history", args, rows, True)

    def _conversations_replies(self, args):
        given = self._find(args.get("ts"), self._channel(args), "thread_not_found")
        root = given.get("thread_ts", given["ts"])
        rows = [row for row in self.rows if root in (row["ts"], row.get("thread_ts"))]
        return self._page("conversations.replies", args, rows, False)

    def _files_getUploadURLExternal(self, args):
        assert args["filename"] and args["length"] != "0"
        file_id, size = f"F{len(self.files) + 1:03}", int(args["length"])
        self.files[file_id] = {"name": args["filename"], "length": size, "bytes": None, "shared_in": None}
        return {"upload_url": f"{self.url}/upload/v1/{file_id}", "file_id": file_id}

    def _upload(self, call):
        assert "Authorization" not in call.headers
        file = self.files[call.path.rpartition("/")[2]]
        assert call.method == "POST" and len(call.body) == file["length"]
        file["bytes"] = call.body
        return 200, f"OK - {len(call.body)}", {}

    def _files_completeUploadExternal(self, args):
        files = [self.files.get(file.get("id")) for file in args["files"]]
        self._refuse_if(any(not f or not f["bytes"] or f["shared_in"] for f in files), "file_not_found")
        where = self._channel(args, "channel_id", writes=True)
        shown = [dict(given, name=file["name"]) for given, file in zip(args["files"], files)]
        # Assumed: a bot's file row has no bot_id, its user must be enough. No ts is answered.
        self._add(where, {"user": self.bot_user, "text": stored_text(args["initial_comment"], human=False),
                          "files": shown, "payload": args}, args.get("thread_ts"))
        for file in files:
            file["shared_in"] = (where, args.get("thread_ts"))
        return {"files": [{"id": f["id"], "title": f.get("title")} for f in args["files"]]}

    def _webhook(self, call):
        if call.path != "/services/T000/B000/hooksecret":
            return 403, "invalid_token", {}
        assert (call.method, call.ctype) == ("POST", "application/json")
        try:
            fields = dict(self._checked(call.args), subtype="bot_message", bot_id="BHOOK")
            channel = self._channel({"channel": self.channel}, writes=True)
            self._add(channel, fields, call.args.get("thread_ts"))
        except Refusal as refusal:  # errors are plain text with a status of their own
            return 400, refusal.args[1]["error"], {}
        return 200, "ok", {}


def slack_active_mentions(payload):
    """(kind, raw, json-pointer) of all that pings or links in a payload; kinds: everyone, user, group,
    channel, date, link."""
    found, kinds = [], {"!subteam": "group", "!date": "date", "!": "everyone",
                        "@": "user", "#": "channel", "": "link"}
    texts = [("/text", {"type": "mrkdwn", "text": payload.get("text") or "", "verbatim": True})]
    for where, node in texts + list(_slack_nodes(payload.get("blocks") or [], "/blocks")):
        if node.get("type") != "plain_text":
            found += [(next(kind for mark, kind in kinds.items() if raw.startswith("<" + mark)), raw, where)
                      for raw in CONTROL.findall(node["text"])]
            pings = re.findall(r"(?<![<\w])@(?:here|channel|everyone)\b", node["text"])
            found += [("everyone", raw, where) for raw in pings if not node.get("verbatim")]
    return found


def slack_text(payload):
    """What people see of a payload: its blocks in order, else its text; no entities, fences or U+200B."""
    def mrkdwn(text):
        text = re.sub(r"<(?:[^<>|]*\|)?([^<>]*)>", r"\1", text.replace("```", ""))
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    nodes = [node for _, node in _slack_nodes(payload.get("blocks") or [])]
    texts = [mrkdwn(node["text"]) if node.get("type") == "mrkdwn" else node["text"] for node in nodes]
    return ("\n".join(texts) if nodes else mrkdwn(payload.get("text") or "")).replace("\u200b", "")


# === Fake Discord ===
EVERYTHING = {"VIEW_CHANNEL", "SEND_MESSAGES", "SEND_MESSAGES_IN_THREADS", "EMBED_LINKS", "ATTACH_FILES",
              "READ_MESSAGE_HISTORY", "ADD_REACTIONS"}
MIB = 1024 * 1024
CODE = re.compile(r"(?s)(```.*?```|(?<![\\`])`[^`\n]+`)")  # in Markdown; a backslashed backtick opens nothing


def embed_errors(embeds):
    """Return what Discord refuses in embeds; lengths are code points, trimmed."""
    bad, total = [], 0
    for embed in embeds:
        fields = embed.get("fields", [])
        texts = [(256, embed.get("title", "-")), (4096, embed.get("description", "-")),
                 (2048, embed.get("footer", {"text": "-"})["text"])]
        texts += [(256, field["name"]) for field in fields] + [(1024, field["value"]) for field in fields]
        bad += [text for limit, text in texts if not 0 < len(text.strip()) <= limit]
        total += sum(len(text.strip()) for _, text in texts)
        picture, color = embed.get("image", {}).get("url", "https://e.example"), embed.get("color")
        bad += [] if re.match(r"(https?|attachment)://\S{1,2040}$", picture) else [picture]
        bad += [] if type(color) is int and 0 <= color <= 0xFFFFFF and len(fields) <= 25 else [embed]
        bad += [] if embed.keys() & {"title", "description", "fields", "image", "footer"} else [embed]
    return bad + ([] if len(embeds) <= 10 and total <= 6000 else ["too much"])


class FakeDiscord(FakeService):
    """A server with one text channel, the bot in it with every permission, and a webhook of that channel."""
    token, bot_id, channel, guild = "MTIz.secret.discord", "200", "300", "100"
    webhook_id, webhook_token = "400", "hook-secret"
    row_keys, no_message = ("id", "channel_id"), (404, 10008, "Unknown Message")

    def __init__(self, clock=None, ssl_context=None):
        super().__init__(clock, ssl_context)
        self.api_url = self.url + "/api/v10"
        # As people copy it: without a version, which one has to put in.
        self.webhook_url = f"{self.url}/api/webhooks/{self.webhook_id}/{self.webhook_token}"
        self.channels, self.permissions, self.custom_emoji = {}, {}, set()
        self.message_content, self.webhook_deleted = True, False
        self._last_id, self._nonces = 0, {}
        self.add_channel(self.channel, "alerts")

    def add_channel(self, channel, name, type=0, **more):
        self.channels[channel] = dict(more, id=channel, type=type, name=name, guild_id=self.guild)
        # A thread shares its parent's set.
        self.permissions[channel] = self.permissions.get(more.get("parent_id"), set(EVERYTHING))

    def say(self, user, text, reply_to=None, channel=None, bot=False, webhook=False, type=None, ping=True):
        """reply_to with ping=False: the reply's "@ on" switched off, so the bot is not mentioned."""
        with self.lock:
            mentions, fields = set(re.findall(r"<@!?(\d+)>", text)), {"webhook_id": user} if webhook else {}
            if reply_to:
                target = self._find(reply_to)
                mentions |= {target["author"]["id"]} if ping else set()
                fields.update(type=19, **self._below(target))
            fields.update({} if type is None else {"type": type}, author=self._user(user, bot), content=text,
                          mentions=[{"id": user_id} for user_id in sorted(mentions)])
            return self._add(channel or self.channel, fields)["id"]

    def react(self, user, emoji, mid, burst=False, bot=False):
        self._find(mid)["reactions"].setdefault(emoji, {})[user] = (self._user(user, bot), burst)

    def unreact(self, user, emoji, mid):
        del self._find(mid)["reactions"][emoji][user]

    def open_thread(self, mid):
        """A thread opened on a message is a channel with the message's id; its first row is of type 21."""
        with self.lock:
            row = self._find(mid)
            row["flags"] |= 1 << 5
            self.add_channel(mid, "thread", 11, parent_id=row["channel_id"])
            self._add(mid, {"author": row["author"], "type": 21, **self._below(row)})
            return mid

    def say_in_thread(self, user, text, mid, **more):
        if mid not in self.channels:
            self.open_thread(mid)
        return self.say(user, text, channel=mid, **more)

    def edit(self, mid, text):
        self._find(mid).update(content=text, edited_timestamp=self._iso())

    def delete(self, mid):
        self.rows.remove(self._find(mid))

    def _no(self, status, code, message="refused"):
        return Refusal(status, {"code": code, "message": message})

    def _user(self, user, bot):
        return {"id": user, "username": "user" + user, **({"bot": True} if bot else {})}

    def _iso(self):
        return time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime(self.now()))

    def _below(self, row):
        shown = self._show({**row, "reactions": {}})  # nobody is told these of it here
        return {"message_reference": {"type": 0, "message_id": row["id"], "channel_id": row["channel_id"],
                                      "guild_id": self.guild}, "referenced_message": shown}

    def _next_id(self):
        return max(int(self.now() * 1000 - 1420070400000) << 22, self._last_id + 1)

    def _add(self, channel, fields):
        self._last_id = self._next_id()
        row = {"id": str(self._last_id), "channel_id": channel, "type": 0, "content": "", "flags": 0,
               "timestamp": self._iso(), "edited_timestamp": None, "embeds": [], "attachments": [],
               "mentions": [], "reactions": {}, **fields}
        self.rows.append(row)
        self.posted += [row] if "payload" in row else []
        self.channels[channel]["last_message_id"] = row["id"]
        return row

    def _show(self, row):
        shown = {k: v for k, v in row.items() if k not in ("payload", "files", "reactions")}
        mine = self.bot_id in [row["author"]["id"]] + [user["id"] for user in row["mentions"]]
        if not self.message_content and not mine and self.channels[row["channel_id"]]["type"] != 1:
            shown.update(content="", embeds=[], attachments=[])  # without the intent: blanks, and no error
        reactions = []
        for emoji, users in row["reactions"].items():
            burst, (name, _, emoji_id) = sum(burst for _, burst in users.values()), emoji.partition(":")
            shows = {"count": len(users), "count_details": {"burst": burst, "normal": len(users) - burst},
                     "me": self.bot_id in users, "emoji": {"id": emoji_id or None, "name": name}}
            reactions += [shows] if users else []
        return dict(shown, reactions=reactions) if reactions else shown

    def answer(self, call):
        # Cloudflare lets no other agent through; other versions differ, and v6 is what none means.
        assert re.match(r"DiscordBot \(\S+, \S+\)((?!Mozilla/).)*$", call.headers["User-Agent"])
        parts = [unquote(part) for part in re.match("/api/v10/(.*)", call.path)[1].split("/")]
        if parts[0] == "webhooks" and len(parts) == 3:
            return self._webhook(call, parts[1:])
        self._refuse_if(call.headers.get("Authorization") != "Bot " + self.token, 401, 0, "401: Unauthorized")
        if (call.method, parts) == ("GET", ["users", "@me"]):
            return 200, {"id": self.bot_id, "username": "alerts", "bot": True}, {}
        assert parts[0] == "channels" and all(part.isdigit() for part in parts[1:4:2])
        channel = self.channels.get(parts[1])
        self._refuse_if(not channel, 404, 10003, "Unknown Channel")
        self._need(channel, "VIEW_CHANNEL", 50001)
        names = {3: "id", 5: "emoji"}
        route = " ".join([call.method] + [names.get(i, part) for i, part in enumerate(parts) if i >= 2])
        if route == "GET":
            return 200, channel, {}
        if route == "POST threads":
            thread = self._new_thread(channel, call.args.get("name"))
            row = self._post(call, thread, call.args.get("message"))
            return 201, dict(thread, message=self._show(row)), {}
        if route == "POST messages":
            return 200, self._show(self._post(call, channel)), {}
        if route == "GET messages":
            return 200, [self._show(row) for row in self._list(call, channel)], {}
        return self._of_message(call, route, channel, *parts[3:6:2])

    def _of_message(self, call, route, channel, mid, emoji=""):
        row = self._find(mid, channel["id"])
        self._need(channel, "READ_MESSAGE_HISTORY", 50001)
        if route == "GET messages id":
            return 200, self._show(row), {}
        if route == "DELETE messages id":
            self.delete(row["id"])
            return 204, None, {}
        symbols = "[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
        if not re.match(f"({symbols}[\ufe0f\u200d\u20e3]*)+$", emoji) and emoji not in self.custom_emoji:
            raise self._no(400, 10014, "Unknown Emoji")
        users = row["reactions"].get(emoji, {})  # ✔ with and without U+FE0F are two reactions
        if route == "GET messages id reactions emoji":
            burst = call.query.get("type", "0") == "1"  # super reactions come only when asked for
            after = int(call.query.get("after", 0))
            found = [who for who, is_burst in users.values() if is_burst == burst and int(who["id"]) > after]
            return 200, sorted(found, key=lambda who: int(who["id"]))[:self._limit(call, 25)], {}
        assert route == "PUT messages id reactions emoji @me"
        if not users:
            self._need(channel, "ADD_REACTIONS")
        self.react(self.bot_id, emoji, row["id"], bot=True)
        return 204, None, {}

    def _need(self, channel, permission, code=50013):
        if permission not in self.permissions[channel["id"]]:
            raise self._no(403, code, "Missing Access" if code == 50001 else "Missing Permissions")

    def _limit(self, call, default):
        return {str(limit): limit for limit in range(1, 101)}[call.query.get("limit", str(default))]

    def _list(self, call, channel):
        self._refuse_if(channel["type"] in (15, 16), 400, 50008, "Not here")  # assumed: they stand in threads
        limit, after = self._limit(call, 50), call.query.get("after")
        if "READ_MESSAGE_HISTORY" not in self.permissions[channel["id"]]:
            return []  # no error
        rows = [row for row in self.rows if row["channel_id"] == channel["id"]]
        if after:  # the closest after it, still newest first
            return [row for row in rows if int(row["id"]) > int(after)][:limit][::-1]
        return rows[-limit:][::-1]

    def _checked(self, call, args):
        files = call.files
        self._refuse_if(len(call.body) > 25 * MIB, 413, 40005, "Request entity too large")
        self._refuse_if(any(len(data) > 10 * MIB for data in files.values()), 400, 50045, "Too large a file")
        assert call.ctype in ("application/json", "multipart/form-data")
        content, embeds = args.get("content") or "", args.get("embeds") or []
        allowed = args.get("allowed_mentions") or {}
        bad, parse = embed_errors(embeds), set(allowed.get("parse", ()))
        bad += [content] if len(content.strip()) > 2000 or len(files) > 10 else []
        bad += ["nonce"] if len(str(args.get("nonce", ""))) > 25 else []
        both = [key for key in ("users", "roles") if allowed.get(key, [])[0 if key in parse else 100:]]
        bad += both or sorted(parse - {"users", "roles", "everyone"})
        self._refuse_if(bad, 400, 50035, f"Invalid Form Body: {bad}")
        assert content.strip() or embeds or files
        shown = [embed.get("image", {}).get("url", "") for embed in embeds]
        for name in (url[13:] for url in shown if url.startswith("attachment://")):
            if name not in files or not re.search(r"\.(jpe?g|png|webp|gif)$", name, re.I):
                self.warnings.append("no image " + name)
        attachments = [{"id": str(i), "filename": name, "size": len(data)}
                       for i, (name, data) in enumerate(files.items())]
        return {"content": content.strip(), "embeds": embeds, "attachments": attachments, "payload": args,
                "files": files, "flags": int(args.get("flags") or 0)}

    def _new_thread(self, channel, name):
        """A thread of a forum; it has the id of its first message, which is added next."""
        self._refuse_if(channel["type"] not in (15, 16), 400, 50024, "Not on this type")  # code: assumed
        assert isinstance(name, str) and 1 <= len(name.strip()) <= 100
        self._need(channel, "SEND_MESSAGES")
        thread = str(self._next_id())
        self.add_channel(thread, name, 11, parent_id=channel["id"])
        return self.channels[thread]

    def _post(self, call, channel, args=None):
        kind = channel["type"]
        self._refuse_if(kind not in (0, 1, 2, 5, 10, 11, 12), 400, 50008, "Cannot send in a non-text channel")
        self._need(channel, "SEND_MESSAGES_IN_THREADS" if kind in (10, 11, 12) else "SEND_MESSAGES")
        args = call.args if args is None else args
        fields = self._checked(call, args)
        for permission, part in (("EMBED_LINKS", "embeds"), ("ATTACH_FILES", "files")):
            if fields[part]:
                self._need(channel, permission)
        key, now = str(args.get("nonce")), self.now()  # of one author, whatever the channel
        if args.get("enforce_nonce") is True and "nonce" in args:
            row, since = self._nonces.get(key, (None, 0))
            if row and now - since < 120:  # "a few minutes": the shortest reading; assumed
                return row
        fields["author"] = {"id": self.bot_id, "username": "alerts", "bot": True}
        fields.update({"nonce": args["nonce"]} if "nonce" in args else {})
        reference = args.get("message_reference")
        if reference:
            if "READ_MESSAGE_HISTORY" not in self.permissions[channel["id"]]:
                raise self._no(400, 160002, "Cannot reply without permission to read message history")
            wanted = reference.get("message_id"), channel["id"]
            target = [row for row in self.rows if (row["id"], row["channel_id"]) == wanted]
            if target and target[0]["type"] in (0, 19, 20, 23):
                fields.update(type=19, **self._below(target[0]))
            elif target or reference.get("fail_if_not_exists", True):
                raise self._no(400, 50035, "Invalid Form Body: message_reference")
        row = self._add(channel["id"], fields)
        self._nonces[key] = row, now
        return row

    def _webhook(self, call, parts):
        self._refuse_if(parts[0] != self.webhook_id or self.webhook_deleted, 404, 10015, "Unknown Webhook")
        self._refuse_if(parts[1] != self.webhook_token, 401, 50027, "Invalid Webhook Token")
        if call.method == "GET":
            return 200, {"id": self.webhook_id, "type": 1, "name": "hook", "channel_id": self.channel}, {}
        where = self.channels[call.query.get("thread_id", self.channel)]
        assert call.method == "POST" and self.channel in (where["id"], where.get("parent_id"))
        fields, name = self._checked(call, call.args), call.args.get("thread_name")
        if where["type"] in (15, 16):
            self._refuse_if(not name, 400, 220001, "Webhooks of forum channels must have a thread_name")
            where, name = self._new_thread(where, name), None
        assert not name  # else refused with 220003
        author = {"id": self.webhook_id, "username": "hook"}  # assumed: no `bot`, webhook_id must do
        row = self._add(where["id"], dict(fields, author=author, webhook_id=self.webhook_id))
        return (200, self._show(row), {}) if call.query.get("wait") == "true" else (204, None, {})


def _embed_texts(payload):
    for embed in payload.get("embeds") or []:
        yield from [("title", embed.get("title")), ("description", embed.get("description"))]
        yield from [(part, field[part]) for field in embed.get("fields", []) for part in ("name", "value")]
        yield "footer", embed.get("footer", {}).get("text")


def discord_active_mentions(payload):
    """(kind, raw, where) of what pings or links in a payload: everyone, user, role, channel, link.
    Without allowed_mentions everything pings. Mentions in embeds do not notify."""
    content, found = payload.get("content") or "", []
    allowed = payload.get("allowed_mentions") or {"parse": ["users", "roles", "everyone"]}
    kinds = {"@e": "everyone", "@h": "everyone", "<#": "channels", "<@&": "roles", "<@": "users"}
    for raw in re.findall(r"@everyone|@here|<@!?\d+>|<@&\d+>|<#\d+>", content):
        kind = next(kind for mark, kind in kinds.items() if raw.startswith(mark))
        listed = re.sub(r"\D", "", raw) in allowed.get(kind, [])
        if kind == "channels" or listed or kind in allowed.get("parse", []):
            found.append((kind.rstrip("s"), raw, "content"))
    rendered = [pair for pair in _embed_texts(payload) if pair[0] in ("description", "value")]
    for where, text in [("content", content)] + rendered:
        for prose in CODE.split(text or "")[::2]:
            prose = re.sub(r"\\[^\w\s]", "  ", prose)  # a backslashed mark is inert
            found += [("link", raw, where) for raw in re.findall(r"\[[^\[\]]+\]\(<?https?://[^)]*\)", prose)]
    return found


def discord_text(payload):
    """What people see of a payload: content, then embeds; no backslashes, fences or U+200B."""
    def seen(text):
        parts = CODE.split(text)
        marks = r"(\[[^\[\]\n]+\]\(http)|\\([!-/:-@\[-`{-~])"  # in a link's label backslashes are seen
        parts[::2] = [re.sub(marks, r"\1\2", prose) for prose in parts[::2]]
        parts[1::2] = [re.sub(r"^```(?:\w*\n)?|```$|^`|`$", "", code) for code in parts[1::2]]
        return "".join(parts)
    texts = [payload.get("content")] + [text for _, text in _embed_texts(payload)]
    return "\n".join(seen(text) for text in texts if text).replace("\u200b", "")


# === Fake SMTP ===
Command = collections.namedtuple("Command", "line tls session")
Stored = collections.namedtuple("Stored", "uid raw date")
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Mail(collections.namedtuple("Mail", "envelope_from rcpts data message_id tls user")):
    @functools.cached_property
    def message(self):
        return email.message_from_bytes(self.data, policy=email.policy.default)


class _Hangup(Exception):
    """The connection ends, after these last words if there are any."""

class _Instead(Exception):
    """What a planned fault answers in place of the right thing."""

class _Talk:
    """One connection, served by a thread of its own."""
    words = {"garbage": "\x15\x03\x01 <html>\xff\xfe", "BYE": "BYE system going down"}

    def __init__(self, server, sock):
        self.server, self.sock, self.number = server, sock, server.sessions
        self.buffer, self.tls, self.user = bytearray(), False, None

    def start_tls(self):
        self.sock, self.tls = self.server.secure(self.sock, tls_server_context(self.server.trusted)), True

    def until(self, mark):
        while mark not in self.buffer:
            data = self.sock.recv(1 << 16)
            if not data:
                raise _Hangup
            if len(data) > 9999 and hasattr(socket, "TCP_QUICKACK"):  # else the last bytes wait 40 ms
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self.buffer += data
        data, _, self.buffer = self.buffer.partition(mark)
        return bytes(data)

    def line(self, limit):
        """The next line. A client that waits for answers never sends two at once; one may be smuggled in."""
        line = self.until(b"\r\n")
        assert len(line) + 2 <= limit and line.isascii() and not re.search(b"[\r\n\0]", line), line
        assert not self.buffer, (line, self.buffer)
        self.server.commands.append(Command(line.decode(), self.tls, self.number))
        return line.decode()

    def send(self, data):
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def reply(self, text):
        self.send(text.replace("\n", "\r\n") + "\r\n")

    def fault(self, stage, last=False):
        """Do what ``fail`` planned for this visit of ``stage``."""
        with self.server.lock:
            fault, gate = next(self.server.faults[stage], None), self.server.gate
        while fault == "drip" and not gate.is_set():  # each byte in time, the answer never
            for byte in self.dripping:
                self.send(b"%c" % byte)
                gate.wait(self.server.drip)
        if fault == "stall":
            gate.wait()
        if fault == "reset":
            self.server.reset(self.sock)
        if fault in ("reset", "close") or self.server._closing.is_set():
            raise _Hangup
        if fault not in (None, "stall", "drip"):
            text = f"{fault} injected fault" if isinstance(fault, int) else self.words.get(fault, fault)
            raise (_Hangup if last or text.startswith(("421", "BYE")) else _Instead)(text)


class FakeServer(Fake):
    """SMTP or IMAP; ``commands`` has every line as it came. What no client may do is a crash."""
    drip = 0.01  # s between two bytes

    def __init__(self, trusted, clock=None):
        self.trusted, self.peak, self.commands = trusted, 0, []
        self.faults = {stage: iter(()) for stage in self.stages}
        super().__init__(clock)

    def fail(self, stage, *faults, times=1):
        """Plan the next visits of ``stage``, ``times`` over (None: for ever). A fault None: all goes well."""
        plan = itertools.cycle(faults) if times is None else iter(faults * times)
        with self.lock:
            self.faults[stage] = itertools.chain(self.faults[stage], plan)

    def talk(self, link):
        self.peak = max(self.peak, len(self._open))
        talk = self.protocol(self, link)
        try:
            talk.run()
        except _Hangup as end:
            for words in end.args:
                talk.reply(words)
        finally:
            talk.sock.close()


class _SMTPTalk(_Talk):
    dripping, hello, sender, rcpts = b"250-one moment\r\n", None, None, ()

    def run(self):
        if self.server.tls == "ssl":
            self.start_tls()
        self.fault("connect", last=True)
        self.reply("220 mx.example.test ESMTP")
        while True:
            verb, _, argument = self.line(512).partition(" ")
            try:
                reply = getattr(self, "do_" + verb.lower())(argument)
            except _Instead as fault:
                reply = str(fault)
            if reply:
                self.reply(reply)

    def forget(self, hello):
        self.sender, self.rcpts, self.hello = None, [], hello

    def do_ehlo(self, argument):
        assert re.fullmatch(r"[\w.-]+|\[[\w.:]+\]", argument, re.A), argument
        self.fault("ehlo")
        self.forget(argument)
        return "\n250-".join(["250-mx.example.test", *self.server.features(self.tls)]) + "\n250 DSN"

    def do_starttls(self, argument):
        assert not self.tls and self.server.tls == "starttls"
        self.fault("starttls")
        self.reply("220 2.0.0 ready to start TLS")
        self.start_tls()
        self.forget(None)  # RFC 3207: everything said in clear is forgotten

    def do_auth(self, argument):
        name, *answers = argument.split(" ")
        assert re.search(rf"\bAUTH .*\b{name}\b", "\n".join(self.server.features(self.tls)))
        assert self.hello and not self.user and self.sender is None
        for prompt in {"PLAIN": [""], "LOGIN": ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"]}[name][len(answers):]:
            self.reply("334 " + prompt)
            answers.append(self.line(12288))
        words = "\0".join(base64.b64decode(answer, validate=True).decode() for answer in answers).split("\0")
        self.fault("auth")
        if words[-2:] != [self.server.user, self.server.password]:  # two lines, as Gmail says it
            return ("535-5.7.8 Username and Password not accepted. For more information, go to\n"
                    "535 5.7.8  https://support.google.com/mail/?p=BadCredentials")
        self.user = self.server.user
        return "235 2.7.0 accepted"

    def address(self, keyword, argument):
        address = re.fullmatch(keyword + r":<([^<>]*)>", argument, re.I)[1]
        form = r"[^\s\x00-\x1f\x7f@]{1,64}@(?=.{1,255}$)[\w-]+(\.[\w-]+)*"
        assert re.fullmatch(form, address, re.A), argument
        return address

    def do_mail(self, argument):
        address = self.address("FROM", argument)
        assert self.hello and self.sender is None and self.user == self.server.user
        self.fault("mail")
        self.sender = address
        return "250 2.1.0 ok"

    def do_rcpt(self, argument):
        address = self.address("TO", argument)
        assert self.sender is not None
        if len(self.rcpts) >= 100:  # RFC 5321 wants so many
            return "452 4.5.3 too many recipients"
        self.fault("rcpt")
        plan = self.server.refuse.get(address)
        refusal = (plan.pop(0) if plan else None) if isinstance(plan, list) else plan
        if refusal is None:
            self.rcpts.append(address)
        return refusal or "250 2.1.5 ok"

    def do_data(self, argument):
        assert self.sender is not None and self.rcpts
        self.fault("data")
        self.reply("354 go ahead")
        self.buffer += self.sock.recv(1)
        self.fault("body", last=True)
        self.buffer[:0] = b"\r\n"  # so that the first line is a line like all others
        data = re.sub(rb"\r\n\.", b"\r\n", self.until(b"\r\n.\r\n"))[2:] + b"\r\n"
        ident = self.see(data)
        if self.server.rewrite_ids:  # as SES and Microsoft 365 do: replies name an id unknown here
            data = data.replace(b"Message-ID:", b"Message-ID: <0100%012x@eu-west-1.amazonses.test>\r\n"
                                b"X-Microsoft-Original-Message-ID:" % len(self.server.mails), 1)
        mail = Mail(self.sender, self.rcpts, data, ident, self.tls, self.user)
        self.forget(self.hello)
        self.fault("dot")
        self.server.mails.append(mail)
        self.fault("accepted")
        return "250 2.0.0 ok, queued"

    def see(self, data):
        """Return the id of a mail that has the form that RFC 5321 and 5322 ask for."""
        wrong = rb"(?<!\r)\n|\r(?!\n)|\0|[^\0-\x7f]|=\?[\w-]+\?.\?\S{64,}\?=|(?m:^.{76,}=\r)"  # RFC 2045f
        assert not re.search(wrong, data) and max(map(len, data.split(b"\r\n"))) <= 998
        message = email.message_from_bytes(data)
        counts = collections.Counter(name.lower() for name in message.keys())
        # assumed: RFC 5322 asks for From and Date only; big providers refuse the rest as well
        assert counts["from"] == counts["date"] == counts["message-id"] == 1 and not message.defects
        single = "to cc subject reply-to sender references in-reply-to mime-version content-type".split()
        assert max(counts[name] for name in single) == 1
        return message["Message-ID"].strip()

    def do_quit(self, argument):
        self.fault("quit", last=True)
        raise _Hangup("221 2.0.0 bye")


class FakeSMTP(FakeServer):
    """``tls``: "starttls" (offered), "ssl" (at once) or None. ``user`` None: nobody need log in."""

    protocol, stages = _SMTPTalk, "connect ehlo starttls auth mail rcpt data body dot accepted quit".split()

    def __init__(self, tls="starttls", trusted=True, user=None, password=None, clear_auth=False,
                 mechanisms=("PLAIN", "LOGIN"), announced=35882577, rewrite_ids=False):
        self.tls, self.user, self.password = tls, user, password
        self.clear_auth, self.mechanisms = clear_auth, mechanisms
        self.announced = announced  # the size that it takes; 0: no fixed one; None: it does not know SIZE
        self.rewrite_ids, self.mails, self.refuse = rewrite_ids, [], {}
        super().__init__(trusted)

    def features(self, secure):
        auth, upgrade = self.user and (secure or self.clear_auth), self.tls == "starttls" and not secure
        lines = {f"SIZE {self.announced}": self.announced is not None, "STARTTLS": upgrade,
                 "AUTH " + " ".join(self.mechanisms): auth}
        return ["8BITMIME", *[line for line, offered in lines.items() if offered]]


# === Fake IMAP ===
class _IMAPTalk(_Talk):
    dripping, inbox, tag = b"* OK one moment\r\n", None, "*"

    def reply(self, text):
        tag = "" if text == self.words["garbage"] else "* " if text.startswith("BYE") else self.tag + " "
        self.send(tag + text + "\r\n")

    def run(self):
        self.start_tls()
        self.fault("greeting", last=True)
        self.reply(f"OK [CAPABILITY {self.server.capabilities}] ready")
        while True:
            line = self.line(8192)
            self.tag, verb, argument = re.fullmatch(r"(\w+) ((?:UID )?\S+) ?(.*)", line, re.I | re.A).groups()
            verb = verb.lower().replace(" ", "_")
            assert self.user or verb in ("capability", "noop", "login", "authenticate"), line
            assert self.inbox is not None or not verb.startswith("uid_"), line
            try:
                self.reply(getattr(self, "do_" + verb)(self.tokens(argument)))
            except _Instead as fault:
                self.reply(str(fault))

    def tokens(self, text):
        """Atoms and parentheses, and strings without their quotes."""
        token = r'\s*(?:"((?:[^"\\]|\\["\\])*)"|([()]|(?:[^\s()"\[]|\[[^\]]*\])+))'
        assert re.fullmatch(f"(?:{token})*", text), text  # no unbalanced quotes
        return [atom or re.sub(r"\\(.)", r"\1", quoted) for quoted, atom in re.findall(token, text)]

    def do_capability(self, tokens):
        self.send(f"* CAPABILITY {self.server.capabilities}\r\n")
        return "OK done"

    def do_login(self, tokens):
        self.fault("login")
        if tokens != [self.server.user, self.server.password]:
            return "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)"
        self.user = self.server.user
        self.server.logins += 1
        return f"OK [CAPABILITY {self.server.capabilities}] logged in"

    def do_authenticate(self, tokens):
        assert f"AUTH={tokens[0]}" in self.server.capabilities
        said = ""
        while said.count("\0") < 2:  # PLAIN says all in one line
            self.send("+ \r\n")
            said += "\0" + base64.b64decode(self.line(8192)).decode()
        return self.do_login(said.split("\0")[-2:])

    def do_examine(self, tokens):
        self.inbox = None  # RFC 3501: after a failure nothing is selected
        self.fault("select")
        assert [token.upper() for token in tokens] == ["INBOX"]
        self.inbox = list(self.server.inbox)
        self.send(f"* FLAGS (\\Answered \\Flagged \\Draft \\Deleted \\Seen)\r\n* {len(self.inbox)} EXISTS\r\n"
                  "* 0 RECENT\r\n* OK [UIDVALIDITY 3857529045] UIDs valid\r\n"
                  f"* OK [UIDNEXT {self.server.next_uid}] predicted\r\n")
        return "OK [READ-ONLY] examined"

    def do_noop(self, tokens):
        self.fault("noop")
        if self.inbox is not None and self.inbox != self.server.inbox:
            self.inbox = list(self.server.inbox)
            self.send(f"* {len(self.inbox)} EXISTS\r\n")
        return "OK noop"
    do_id = do_noop

    def do_uid_search(self, tokens):
        test = self.test(tokens)
        assert not tokens, "more search keys than are known here"
        self.fault("search")
        found = [str(mail.uid) for mail in self.inbox if test(mail)]
        self.send(" ".join(["* SEARCH", *found]) + "\r\n")
        return "OK search completed"

    def test(self, tokens):
        """Take one search key off the front; return the test that it means. Others than these: refused."""
        key = tokens.pop(0).upper()
        if key == "SINCE":
            day, month, year = tokens.pop(0).title().split("-")
            date = datetime.datetime(int(year), MONTHS.index(month) + 1, int(day), tzinfo=self.server.zone)
            return lambda mail: date.timestamp() <= mail.date
        if key == "OR":
            one, other = self.test(tokens), self.test(tokens)
            return lambda mail: one(mail) or other(mail)
        assert key in ("SUBJECT", "HEADER"), key
        name, word = key if key == "SUBJECT" else tokens.pop(0), tokens.pop(0).lower()
        return lambda mail: word in str(self.parsed(mail.raw)[name]).lower()

    parsed = staticmethod(functools.lru_cache(99)(email.message_from_bytes))

    def do_uid_fetch(self, tokens):
        wanted = {int(number) for number in tokens.pop(0).split(",")}
        items = [token.upper() for token in tokens[1:-1]]
        assert tokens[0] + tokens[-1] == "()" and "UID" in items
        answers = []
        for number, mail in enumerate(self.inbox, 1):
            if mail.uid in wanted:  # of every second mail the facts come last, as Exchange has it
                order = items[::-1] if mail.uid % 2 else items
                said = b" ".join([self.item(mail, item) for item in order])
                answers.append(b"* %d FETCH (%s)\r\n" % (number, said))
        try:
            self.fault("fetch")
        except _Instead as fault:
            if str(fault) != "cut":
                raise
            self.send(b"".join(answers)[:-len(answers[-1]) // 2])  # breaks in the middle of a literal
            raise _Hangup from None
        self.send(b"".join(answers))
        return "OK fetch completed"

    def item(self, mail, item):
        if item == "UID":
            return b"UID %d" % mail.uid
        if item == "INTERNALDATE":  # the day is two columns wide, the zone the server's own
            when = datetime.datetime.fromtimestamp(mail.date, self.server.zone)
            rest = when.strftime("%Y %H:%M:%S %z")
            return f'INTERNALDATE "{when.day:2}-{MONTHS[when.month - 1]}-{rest}"'.encode()
        # without PEEK, reading would mark it as seen where the box is not only examined
        form = r"BODY\.PEEK\[((?:HEADER\.FIELDS \(([^)]+)\))?)\]<0\.([1-9]\d*)>"
        (section, names, size), data = re.fullmatch(form, item).groups(), mail.raw
        if names:
            data = self.server.mixed_up.pop(mail.uid, data)  # once another one's, as of Courier under load
            lines, names = re.split(rb"\r\n(?![ \t])", data.partition(b"\r\n\r\n")[0]), names.encode().split()
            data = b"".join(x + b"\r\n" for x in lines if x.split(b":")[0].upper() in names) + b"\r\n"
        data = data[:int(size)]
        return f"BODY[{section}]<0> {{{len(data)}}}\r\n".encode() + data


class FakeIMAP(FakeServer):
    """TLS at once, and only read. ``clock`` dates what comes in; SINCE counts days in ``zone``."""
    protocol, stages, mixed_up = _IMAPTalk, "greeting login select search fetch noop".split(), {}
    capabilities, zone = "IMAP4rev1 AUTH=PLAIN", datetime.timezone(datetime.timedelta(hours=-8))

    def __init__(self, user="bot@example.org", password="secret", trusted=True, clock=None):
        self.user, self.password, self.inbox, self.logins, self.next_uid = user, password, [], 0, 101
        super().__init__(trusted, clock)

    def deliver(self, mail, at=None):
        """Put bytes or a message into INBOX, return its UID. Sessions see it after NOOP or EXAMINE."""
        raw = re.sub(rb"\r?\n", b"\r\n", mail if isinstance(mail, bytes) else mail.as_bytes())
        with self.lock:
            uid, self.next_uid = self.next_uid, self.next_uid + 1
            self.inbox.append(Stored(uid, raw, self.now() if at is None else at))
        return uid


# === Replies as mail clients write them ===
# How programs lay out an answer. {A}: the answer; {Q}, {P}, {H}: what was mailed, quoted, bare or as HTML;
# {N}, {E}: the asker's name and address; {S}: the subject; {T}, {R}, {F}: the writer's address and names.
# First what is above a quote that is marked, above one that is not, and below the answer; then what stands
# beside it, so that it is none, or above a quote, where programs put a line of theirs.
ATTRIBUTIONS = re.split(" ¦ |\n", """\
On Tue, Nov 24, 2026 at 10:12 AM {N} <{E}> wrote: ¦ Vào Th 3, 24 thg 11, 2026 vào lúc 10:12 {N} <{E}>⏎đã viết:
בתאריך יום ג׳, 24 בנוב׳ 2026 ב-10:12 מאת \u202a{N}\u202c\u200f <\u202a{E}\u202c\u200f>:\u202c ¦ {E} writes:
--⏎Отправлено из Mail.ru для iOS⏎⏎⏎вторник, 24 ноября 2026 г., 10:12 +0300 от {E} <{E}>: ¦ {N} <{E}>のメール:
> Wiadomość napisana przez {N} <{E}> w dniu 24 lis 2026, o godz. 10:12: ¦ Le 24/11/2026 à 10:12, {N} a écrit :
> 2026/11/24 10:12、{N} <{E}>のメール: ¦ Στις Τρί 24 Νοε 2026 στις 10:12 π.μ., ο χρήστης {N} <{E}>⏎έγραψε:
{N} <{E}> 于2026年11月24日周二 10:12写道： ¦ On Tuesday, November 24th, 2026 at 10:12 AM, {N} <{E}> wrote:
wt., 24 lis 2026 o 10:12 {N} <{E}> napisał(a): ¦ ---- On Tue, 24 Nov 2026 10:12:00 +0000 {N} <{E}> wrote ----
tirsdag den 24. november 2026 10.12.00 skrev {E}: ¦ {N} <{E}> ezt írta (időpont: 2026. nov. 24.,⏎K, 10:12):
在 2023年11月14日星期二 CST 23:13:20，您写道： ¦ Am Di., 24. Nov. 2026 um 10:12 Uhr schrieb {N} <⏎{E}>:
út 24. 11. 2026 v 10:12 odesílatel {N} <{E}> napsal: ¦ El mar, 24 nov 2026 a las 10:12, {E}⏎(<{E}>) escribió:
On Tue, Nov 24, 2026 at 10:12:00AM +0000, {N} wrote: ¦ 2026년 11월 24일 (화) 오전 10:12, {N} <{E}>님이 작성:
در تاریخ سه\u200cشنبه ۲۴ نوامبر ۲۰۲۶ {N} <{E}> نوشت: ¦ في الثلاثاء، ٢٤ نوفمبر ٢٠٢٦ في ١٠:١٢ ص {N} <{E}> كتب:
On Tue, Nov 24, 2026 at 10:12 AM, {N} < {E} > wrote: ¦ เมื่อวันที่ อ. 24 พ.ย. 2569 เวลา 10:12 {E} เขียนว่า:
於 2026年11月24日 週二 上午10:12 {N} <{E}>⏎寫道： ¦ В письме от вторник, 24 ноября 2026 г. {E} написал:
> On Nov 24, 2026, 10:12 AM, {N}⏎> <{E}> wrote: ¦ În data de mar., 24-11-2026 la 10:12, {E} a scris:
On Tue, 24 Nov 2026 10:12:00 GMT⏎{E} wrote: ¦ 在 2026-11-24 10:12:00，"{N}" <{E}> 写道： ¦ {N} <{E}> writes:
On Tue, 24 Nov 2026, at 10:12, {N} wrote: ¦ вт, 24 нояб. 2026 г. в 10:12, {N} <{E}>: ¦ >>>>> {N} <{E}> writes:
On November 24, 2026, {E} wrote: ¦ W dniu: Wtorek, Listopad 24, 2026 10:12, {E} napisał(a): ¦ Zitat von {E}:
2026年11月24日(火) 10:12 {N} <{E}>: ¦ Quoting {E} (2026-11-24 10:12:00) ¦ Am 2026-11-24 10:12, schrieb {N}:
On 11/24/26 10:12 AM, {N} wrote: ¦ {E} schrieb am 24.11.2026 10:12: ¦ Em 14 nov 2023 19:13:20 -03, escreveu:
24. Nov. 2026, 10:12 von {E}: ¦ 2026-11-24 10:12에 {E}이(가) 쓴 내용: ¦ 24.11.2026, 10:12, "{N}" <{E}>:
{E} wrote:⏎> ZjQcmQRYFpfptBannerStart⏎> This Message Is From an External Sender⏎> ZjQcmQRYFpfptBannerEnd
{N} <{E}>, 24 Kas 2026 Sal, 10:12⏎tarihinde şunu yazdı: ¦ On Tue, 24 Nov 2026 10:12:00 +0000,⏎{E} wrote:
On Tue, 24 Nov 2026, {E} wrote: ¦ -------- Original Message --------⏎On 24/11/2026 10:12, {N} <{E}> wrote:""")
MAIL_HEADS = re.split(" ¦ |\n", """\
Von: {N} <{E}>⏎Gesendet: Dienstag, 24. November 2026 10:12⏎An: {T}⏎Betreff: {S}
________________________________⏎보낸 사람: {N} <{E}>⏎보낸 날짜: 2026년 11월 24일 화요일 오전 10:12⏎받는\
 사람: {T}⏎제목: {S}
------------------ 原始邮件 ------------------⏎发件人: "{N}" <{E}>;⏎发送时间: 2026年11月24日(星期二)\
 上午10:12⏎收件人: "{T}"<{T}>;⏎主题: {S}
From:\t"{N}" <{E}>⏎To:\t{T}⏎Date:\t24.11.2026 10:12⏎Subject:\t{S}⏎⏎[You don't often get email from {E}.\
 Learn why this is important at⏎https://aka.ms/L ]⏎Report Suspicious⏎CAUTION: This is from an⏎external sender.
-------- मूल संदेश --------⏎Von: {N} <{E}>⏎Datum: 24.11.26 10:12 (GMT+01:00)⏎An: {T}⏎Betreff: {S}
________________________________⏎差出人: {N} <{E}>⏎送信日時: 2026年11月24日 10:12⏎宛先: {T}⏎件名: {S}
*From:* {N} <{E}>⏎*Sent:* Tuesday, November 24, 2026 10:12 AM⏎*To:* {T}⏎*Cc:* Carl\
 <carl@example.org>⏎*Subject:* {S}
Von: {N}⏎Gesendet: Dienstag, 24. November 2026 10:12⏎An: {T}⏎Betreff: {S}
________________________________________⏎From: {N} <{E}> on behalf of {N} <{E}>⏎Sent: 24 November 2026\
 10:12⏎To: {T}⏎Subject: {S}
-------- Oprindelig besked \t--------⏎Från: {N} <{E}>⏎Till: {T}⏎Ämne: {S}⏎Datum: 24.11.2026 10:12
------ Original ------⏎From: {N} <{E}>⏎To: {T}⏎Cc: ⏎Sent: Tue, Nov 24, 2026 10:12 am⏎Subject: {S}
From: "{N}" <{E}>⏎To: "{T}" <{T}>⏎Sent: Tuesday, November 24, 2026 10:12:00 AM⏎Subject: {S}
------ Original Message ------⏎From "{N}" <{E}>⏎To {T}⏎Date 24/11/2026 10:12:00⏎Subject {S}
-----Original-Nachricht-----⏎Betreff: {S}⏎Datum: 2026-11-24T10:12:00+0100⏎Von: "{N}" <{E}>⏎An: "{T}" <{T}>
--- Original Message ---⏎From: {N} [mailto:{E}]⏎Sent: Tuesday, November 24, 2026 10:12 AM⏎To: {T}⏎Subject: {S}
Gesendet: Dienstag, 24. November 2026 um 10:12⏎Von: "{N}" <{E}>⏎An: {T}⏎Betreff: {S}
---- 回复的原邮件 ----⏎| 发件人 | {N}<{E}> |⏎| 日期 | 2026年11月24日 10:12 |⏎| 收件人 | <{T}> |⏎| 主题 | {S} |
发件人： {E}⏎发送时间： 2026-11-24 10:12⏎收件人：{T}⏎主题： {S}""")
MAIL_ENDS = re.split(" ¦ |\n", """\
-- ⏎{R}⏎Head of Data ¦ Sent from Yahoo Mail for iPhone<https://mail.onelink.me/107872968?pid=nativeplacement>
-- ⏎{F}⏎⏎Example GmbH⏎Musterstraße 5⏎⏎This e-mail is confidential and meant for its addressee alone. If you\
 are not the one, tell the sender and delete it. Thank you. ¦ Gesendet mit Tuta ¦ Trimis de pe iPhone‑ul meu
Kind regards,⏎⏎{R}⏎Head of Data | Example⏎T: +49 30 1234567⏎E: {T}⏎[cid:a.png@1.5B] ¦ Enviado desde mi iPhone
Yours sincerely,⏎⏎{R}⏎Tel.: 030 / 1234567⏎https://www.example.org/team⏎E-mail: {T} ¦ Verstuurd vanaf mijn iPad
Sent via the Samsung Galaxy S22, an AT&T 5G smartphone ¦ Sent from my mobile device. Please excuse my brevity.
Télécharger Outlook pour Android<https://aka.ms/x> ¦ Get Outlook for iOS<https://a.ms> ¦ Отправлено с iPhone
Yahoo Mail: Search, Organize, Conquer ¦ Cordiali saluti,⏎{R} ¦ ส่งจาก iPhone ของฉัน ¦ *** EXTERNAL EMAIL ***
Hartelijke groet,⏎{R} ¦ -- ⏎Sent from my iPhone ¦ Sent from Mail for Windows ¦ 나의 iPhone에서 보냄
CAUTION: This message originated outside of your organization. ¦ Mit freundlichen Grüßen⏎{R} ¦ Mvh⏎{F} ¦ /{F}
Diese Nachricht wurde von meinem Android-Gerät mit K-9 Mail gesendet. ¦ Sent with Proton Mail secure email.
Odesláno z iPhonu ¦ —⏎{R} ¦ \ufffc⏎{R} ¦ Pozdrawiam,⏎{R} ¦ 来自我的荣耀手机 ¦ 获取 Outlook for iOS""")
CONDITIONS = re.split(" ¦ |\n", """\
CAUTION: only for staging ¦ On Tue, Nov 24, 2026 at 10:12 AM we had said no: ¦ From: {N} <{E}> only Friday
Kind regards,⏎Alice⏎PS: only if tests pass ¦ sent to prod only with my iPhone ¦ Regards the staging one only
Best regards, but wait for Bob ¦ Not before Anna has looked. ¦ Sent too early, please wait ¦ if the tests pass
Cordialement, mais attendez ¦ I approve of {E} in general ¦ PS: decline the second one ¦ only the iPhone build
erst nach 24.11.2026 10:12 ¦ {E}: not before 01.12.2026 ¦ Thanks⏎Hold until Monday ¦ 5:00 pm at the earliest
24.11.2026 not earlier: ¦ Cheers when Bob agrees ¦ Thanks, but not today ¦ Deploy? ¦ On Monday, not today:
Model bert is at 0.95 ¦ Thanks to Bob, not me ¦ not before 24.11.2026 ¦ sauf vendredi ¦ > if the tests pass
not before 1.12.2026 22:13:20: ¦ Best wait for Bob ¦ Not Before Friday ¦ forget iOS ¦ ask {E} first ¦ no
Anna said no ¦ {E}: not yet ¦ pero no hoy ¦ > no ¦ 👎 ¦ Monday@18:00 ¦ after 01 12 2026 08 00 ¦ approve""")
OVER_A_QUOTE = re.split(" ¦ |\n", """\
On Tue, Nov 24, 2026 at 10:12 AM, Bob said no: ¦ From: Monday 24.11.2026 10:12⏎To: staging only⏎Subject: {S}
ask {E} on 24.11.2026⏎On 24/11/2026 10:12, Deploy Bot hat geschrieben: ¦ Ab 1.12.2026 18:00, nur Test Server:
not before 24.11.2026⏎From: {E}⏎To: {T}⏎Subject: {S} ¦ Only between 10:00 and 12:00, ask Anna Schmidt: ¦ ?
Not before 1.12.2026 1:00:00, says Anna Schmidt: ¦ ---- 18 時 ----⏎On 24/11/2026 10:12, {E} wrote: ¦ {S}: wait
not before 24.11.2026 10:12⏎Bot <{E}> writes: ¦ {E} wrote: 👎 ¦ after the 24.11.2026 run of {E}: ¦ ask {E}⏎{S}
until Tue, 1 Dec 2026 10:12:00 +0000⏎{E} wrote: ¦ ---- let merging ----⏎{E} wrote: ¦ On 24.11.2026 {E}: ask A:
only EU From: {E}⏎Date: 24.11.2026⏎Subject: {S} ¦ Not now On Tue, 24 Nov 2026, {E} wrote: ¦ Stop <{E}> now:
From: {E}⏎Date: 24.11.2026⏎Subject: {S} wait ¦ only staging: {S} ¦ From: {E}⏎Subject: {S}⏎on 1.12.2026 10:12
PS: ask {E}⏎⏎From: Robot⏎Sent: 24.11.2026 10:12⏎To: {T}⏎{S} ¦ I asked {E} on 24.11.2026⏎⏎Robot says:
----- Only the Original Mail -----⏎On Tue, 24 Nov 2026 10:12, {E} wrote: ¦ {E} wrote:⏎> CAUTION: no
----- Original only -----⏎{E} wrote: ¦ ---- Только тест ----⏎{E} wrote: ¦ LG⏎Call 0301234567⏎{E} wrote:""")
MAIL_PAGES = dict(re.findall("(?m)^([a-z_ ]+): (.*)", """\
outlook_web: <div>{A}</div><div></div><hr><div><b>From:</b> {N} &lt;{E}&gt;<br><b>Sent:</b> Tuesday, November\
 24, 2026 10:12 AM<br><b>To:</b> {T}<br><b>Subject:</b> {S}<div>&nbsp;</div></div>{H}
yandex: <div>{A}</div><div> </div><div>24.11.2026, 10:12, "{N}" &lt;{E}&gt;:</div><blockquote><div>{H}</div>\
</blockquote>
qq: <div>{A}</div><div><br></div><div><div>------------------&nbsp;原始邮件&nbsp;------------------</div>\
<div><div><b>发件人:</b> "{N}" &lt;{E}&gt;;</div><div><b>发送时间:</b> 2026年11月24日(星期二) 上午10:12</div>\
<div><b>收件人:</b> "{T}";</div><div><b>主题:</b> {S}</div></div>{H}</div>
samsung: <div>{A}</div><div><br></div><div><div>-------- Original message --------</div><div>From: {N} \
&lt;{E}&gt; </div><div>Date: 24/11/2026  10:12  (GMT+01:00) </div><div>To: {T} </div><div>Subject: {S} </div>\
<div><br></div></div>{H}
outlook_ios: <div>{A}</div><div><br></div><div><div><br></div>Get <a href="https://aka.ms/o0ukef">Outlook for\
 iOS</a></div><hr><div><b>From:</b> {N} &lt;{E}&gt;<br><b>Sent:</b> Tuesday, November 24, 2026 10:12:00 AM\
<br><b>To:</b> {T}<br><b>Subject:</b> {S}</div>{H}
lotus: <font>{A}</font><br><br><table><tr><td><font>From: </font><td><font>"{N}" &lt;{E}&gt;</font><tr>\
<td>To: <td>{T}<tr><td>Date: <td>24/11/2026 10:12<tr><td>Subject: <td>{S}</table><br><hr><br>{H}
apple: <html><head></head><body>{A}<br id="lineBreakAtBeginningOfMessage"><div><br><blockquote type="cite">\
<div>On 24 Nov 2026, at 10:12, {N} &lt;{E}&gt; wrote:</div><br><div>{H}</div></blockquote></div></body></html>
thunderbird: <p>{A}</p><div>On 24/11/2026 10:12, {N} wrote:<br></div><blockquote type="cite">{H}</blockquote>
gmail: <div dir="ltr">{A}</div><br><div class="gmail_quote"><div dir="ltr" class="gmail_attr">On Tue, Nov 24,\
 2026 at 10:12\u202fAM &lt;<a href="mailto:{E}">{E}</a>&gt; wrote:<br></div><blockquote>{H}</blockquote></div>
no quote: <html><head><style>p margin:0</style></head><body><!-- x --><P CLASS=x>{A}</P></body></html>"""))


@functools.lru_cache(8)
def quotable(asked):
    """Return the text and the HTML of a mail, as programs quote them."""
    text = part_text(asked.get_body(("plain",))).rstrip("\n")
    page = asked.get_body(("html",))
    return text, part_text(page).rstrip("\n") if page else f"<pre>{html.escape(text)}</pre>"


def laid_out(template, asked, answer, name="bot@example.org", writer=("Ann Doe", "ann@example.org")):
    """Return a template filled in; what it says in HTML is escaped."""
    text, page = quotable(asked)
    safe = html.escape if template[:1] == "<" else str
    quote = "\n".join(f"> {line}" for line in text.split("\n"))
    facts = {"A": safe(answer), "Q": quote, "P": text, "H": page, "N": safe(name), "E": "bot@example.org",
             "S": safe(f"Re: {asked['Subject']}"), "T": writer[1], "R": writer[0], "F": writer[0].split()[0]}
    return re.sub(r"\{([A-Z])\}", lambda found: facts[found[1]], template.replace("⏎", "\n"))


CLIENTS = {  # text and HTML of one mail
    "gmail": (f"{{A}}\n\n{ATTRIBUTIONS[0]}\n\n{{Q}}\n", MAIL_PAGES["gmail"]),
    "outlook": (f"{{A}}\n{'_' * 32}\n{MAIL_HEADS[0]}\n\n{{P}}\n", MAIL_PAGES["outlook_web"]),
    "phone": ("{A}\n\nSent from my iPhone\n\n> On Nov 24, 2026, at 10:12 AM, {N} <{E}> wrote:\n> \n{Q}\n",
              MAIL_PAGES["apple"].replace("{A}", "{A}<div>Sent from my iPhone</div>")),
    "plain": (f"{{A}}\n\n{ATTRIBUTIONS[0]}\n{{Q}}\n\n-- \n{{R}}\nTeam that may approve or reject\n", ""),
    "bottom": (f"{ATTRIBUTIONS[0]}\n{{Q}}\n\n{{A}}\n\n-- \n{{R}}\nTeam that may approve or reject\n", "")}
NUMBERS = itertools.count(1)  # of replies and of stores
HEADER_READ_ANEW = email.headerregistry.HeaderRegistry.__call__  # the tests keep what it returns
QUICK_CLOCK = SimpleNamespace(now=time.time, monotonic=time.monotonic, sleep=lambda s: time.sleep(s / 20))


def mail_reply(original, sender, text, client="gmail", keep_subject=True, keep_ids=True):
    """Return what arrives when `sender` answers `original` with `text` from one of CLIENTS."""
    # max_line_length: the default policy encodes a long message id, which breaks threading
    reply = email.message.EmailMessage(policy=email.policy.default.clone(max_line_length=900))
    subject = re.sub(r"\s+", " ", str(original["Subject"]))
    reply["From"], reply["To"], reply["Date"] = sender, str(original["From"]), original["Date"]
    reply["Subject"] = f"Re: {subject}" if keep_subject else "quick answer"
    reply["Message-ID"] = f"<CA+{next(NUMBERS):08x}@mail.gmail.com>"
    if keep_ids and original["Message-ID"]:
        reply["In-Reply-To"] = str(original["Message-ID"])
        reply["References"] = "{} {}".format(original["References"] or "", original["Message-ID"]).strip()
    plain, page = (laid_out(template, original, text) for template in CLIENTS[client])
    reply.set_content(plain, cte="quoted-printable")
    if page:
        reply.add_alternative(page.replace(text, text.replace("\n", "<br>")), subtype="html", cte="base64")
    return reply


# === Certificates ===
# Worth nothing outside these tests. Valid 2020 to 2099; the server is "localhost" and 127.0.0.1.
CA_PEM, SERVER_PEM, SERVER_KEY, ALERTS_TEST_PEM = map(ssl.DER_cert_to_PEM_cert, map(base64.b64decode, """\
MIIBfDCCASKgAwIBAgIUOo8d8AigJNjFYLSJszMO3f4qTlkwCgYIKoZIzj0EAwIwGzEZMBcGA1UEAwwQQWxlcnRlcnMgdGVzdCBDQTAgFw0yMD
AxMDEwMDAwMDBaGA8yMDk5MTIzMTIzNTk1OVowGzEZMBcGA1UEAwwQQWxlcnRlcnMgdGVzdCBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BP8UNUhdmE4CF04tkXpZxMid7ni+E3DzHd0T6pC+iVAsHWNWFPr3JJCUaAZtCWWbQXjnb4uZXEiiLydJwTpJAAijQjBAMA8GA1UdEwEB/wQFMA
MBAf8wDgYDVR0PAQH/BAQDAgEGMB0GA1UdDgQWBBQGerQ8uPi8E7JVpbY+mz3Zj0RN6TAKBggqhkjOPQQDAgNIADBFAiEA4+2dXY2t7HagrvfD
Sd5UI62yYoyQEUevKqDRmsw0sSACIF8hkUbvRGR/IlpgjAER5CtC89rluDmpzPbycK8PB/zT

MIIBxjCCAWygAwIBAgIUPuM/WTOF7O+yqBTHKmgUuLLjXmowCgYIKoZIzj0EAwIwGzEZMBcGA1UEAwwQQWxlcnRlcnMgdGVzdCBDQTAgFw0yMD
AxMDEwMDAwMDBaGA8yMDk5MTIzMTIzNTk1OVowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEcODPROOt
q1woL7O4bBrF0LewEI/1vpUhSgxcxQvJUXsazCfQdUT3mH9FYcYVonqBlrO/uu8X+om+pXiT/3ngqKOBkjCBjzAMBgNVHRMBAf8EAjAAMA4GA1
UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggrBgEFBQcDATAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwHQYDVR0OBBYEFLLMrJ8JjDhxI4Qu
x0sLZkLUPi/vMB8GA1UdIwQYMBaAFAZ6tDy4+LwTslWltj6bPdmPRE3pMAoGCCqGSM49BAMCA0gAMEUCIQCbN/pauxm9Zqh0m11EPqT1GZx7ij
uiom36beJMpneDngIgMXjuWtSHWLOQcwQcy2FBB4hY7XHX8YWNu5sMHBj7HZk=

MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4PSmyb4AblzcLXe3MKJwiJFHibbbiJm3SfSleSgWbOihRANCAARw4M9E462rXC
gvs7hsGsXQt7AQj/W+lSFKDFzFC8lRexrMJ9B1RPeYf0VhxhWieoGWs7+67xf6ib6leJP/eeCo

MIIBijCCAS+gAwIBAgIBATAKBggqhkjOPQQDAjAWMRQwEgYDVQQDDAthbGVydHMudGVzdDAgFw0yMDAxMDEwMDAwMDBaGA8yMDk5MTIzMTIzNT
k1OVowFjEUMBIGA1UEAwwLYWxlcnRzLnRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARw4M9E462rXCgvs7hsGsXQt7AQj/W+lSFKDFzF
C8lRexrMJ9B1RPeYf0VhxhWieoGWs7+67xf6ib6leJP/eeCoo2wwajAdBgNVHQ4EFgQUssysnwmMOHEjhC7HSwtmQtQ+L+8wFgYDVR0RBA8wDY
ILYWxlcnRzLnRlc3QwDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwEwYDVR0lBAwwCgYIKwYBBQUHAwEwCgYIKoZIzj0EAwIDSQAwRgIh
AMeOa4ieG9m4BjNJEhejjXNEwDlcx4dtW9L+d3uomWxGAiEA8y43SjZ34UaVEZ9NSSr0lhfzLBI3ZdTllvdjvwWX6Mc="""
    .split("\n\n")))
SERVER_KEY = SERVER_KEY.replace("CERTIFICATE", "PRIVATE KEY")


@functools.lru_cache(None)
def tls_server_context(trusted=True):
    """The context of a server whose certificate the test CA signed, or nobody did."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # load_cert_chain takes nothing but paths
        path = os.path.join(folder, "server.pem")
        with open(path, "w") as file:
            file.write((SERVER_PEM if trusted else ALERTS_TEST_PEM) + SERVER_KEY)
        context.load_cert_chain(path)
    return context


def ca_file(tmp_path):
    """Write the test CA as a bundle; return its path, one for all tests, so that they share a TLS context."""
    path = tmp_path.parent / "ca.pem"
    if not path.exists():
        path.write_text(CA_PEM)
    return str(path)


# === The set-up of all tests ===
MORE = os.environ.get("ALERTERS_TEST_MORE") == "1"  # the long forms as well
posix = pytest.mark.skipif(os.name == "nt", reason="signals, terminals and modes of POSIX")


@pytest.fixture(autouse=True, scope="session")
def _far_from_home(tmp_path_factory):
    """Keep all tests off the network and off this user's configuration."""
    others = "(ALERTERS_|PYTHON(UNB|DONT)).*|(https?|no|all)_proxy|ssl_cert_(file|dir)|(requests|curl)_ca.*"
    library = tmp_path_factory.mktemp("library")  # a copy for other processes, compiled once for all
    shutil.copy(alerters.__file__, str(library))
    gc.freeze()  # what pytest holds stays to the end: looking at it each time takes a tenth of the run
    gc.set_threshold(20_000)
    connect, headers = socket.socket.connect, email.headerregistry.HeaderRegistry
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk takes 1 to 3 ms for a rename
    stores = tempfile.mkdtemp(dir=memory)

    def loopback_only(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if re.fullmatch(others, name, re.I)]:
            patch.delenv(name)
        patch.chdir(library)
        patch.setenv("PYTHONPATH", str(library))
        patch.setenv("LANGUAGE", "C")  # argparse would look for a translation of each word on the disk
        for number in {1, 2, 3} & signal.valid_signals():  # hang-up, Ctrl-C, Ctrl-\: ignored with `nohup … &`
            signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
        patch.setattr(socket.socket, "connect", loopback_only)
        patch.setattr(os, "fsync", lambda number: None)  # the disk's time is not the store's
        patch.setattr(re, "_MAXCACHE", 9999)  # all tests together have more patterns than it keeps
        # email makes a new class for each header, and reads each anew: half of the time of a mail
        patch.setattr(headers, "__getitem__", functools.lru_cache(None)(headers.__getitem__))
        patch.setattr(headers, "__call__", functools.lru_cache(None)(HEADER_READ_ANEW))
        patch.setattr(alerters, "_CLOSING", 30.0)  # s by the wall clock, of a machine that may be busy
        yield stores
    shutil.rmtree(stores, ignore_errors=True)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, _far_from_home):
    """Give every test a store of its own, and keep other tests' leftovers off it."""
    monkeypatch.setenv("ALERTERS_STORE", os.path.join(_far_from_home, f"stacks-{next(NUMBERS)}.json"))
    alerters._KNOWN_SECRETS.clear()  # else what one test calls a secret would be hidden in all later ones
    alerters._warn_once.cache_clear()
    flavors = dict(FLAVORS)
    yield
    FLAVORS.clear()
    FLAVORS.update(flavors)


@pytest.fixture
def tmp_path(tmp_path_factory):
    """As pytest's own, which looks at the names of all folders for each new one."""
    path = tmp_path_factory.getbasetemp() / f"folder-{next(NUMBERS)}"
    path.mkdir()
    return path


clock = pytest.fixture(lambda: FakeClock())


@pytest.fixture
def slack(clock):
    with FakeSlack(clock=clock) as service:
        yield service


@pytest.fixture
def discord(clock):
    with FakeDiscord(clock=clock) as service:
        yield service


@pytest.fixture
def smtp(trusted):
    with FakeSMTP(user="bot@example.org", password="smtp-password-1") as service:
        yield service


@pytest.fixture
def imap(trusted, clock):
    with FakeIMAP(user="bot@example.org", password="smtp-password-1", clock=clock) as service:
        yield service


def in_time(cls, clock):
    """Return the flavor's class with another clock; `clock` is no field, so a subclass is all it takes."""
    return type(cls.__name__, (cls,), {"clock": clock})


def slack_alerter(service, **fields):
    fields = {"slack_token": service.token, "slack_channel_id": service.channel,
              "slack_api_url": service.api_url, **fields}
    return in_time(SlackAlerter, service.clock)(**fields)


def discord_alerter(service, **fields):
    fields = {"discord_token": service.token, "discord_channel_id": service.channel,
              "discord_api_url": service.api_url, **fields}
    return in_time(DiscordAlerter, service.clock)(**fields)


def mail_alerter(smtp, imap=None, clock=None, **fields):
    fields = {"smtp_server": smtp.host, "smtp_port": smtp.port, "sender_email": "bot@example.org",
              "password": "smtp-password-1", "recipient_email": [ANN, BOB], **fields}
    if imap:
        fields = {"imap_server": imap.host, "imap_port": imap.port, **fields}
    return (in_time(SMTPEmailAlerter, clock) if clock else SMTPEmailAlerter)(**fields)


# === Rendering and delivery on Slack, Discord and the console ===
CHAT_KINDS = ("slack", "slack webhook", "discord", "discord webhook")
RENDERED = CHAT_KINDS if MORE else ("slack webhook", "discord")  # a token and a webhook write alike
PNG, GIF = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3, b"GIF89a" + bytes(range(255, 0, -1)) * 2
SECRETS = ("xoxb-1-secret", "hooksecret", "MTIz.secret.discord", "hook-secret")


@pytest.fixture
def chats(slack, discord, clock):
    """Return {kind: (alerter, its service)} for the four ways to a chat."""
    slack_hook = in_time(SlackAlerter, clock)(slack_webhook_url=slack.webhook_url)
    discord_hook = in_time(DiscordAlerter, clock)(discord_webhook_url=discord.webhook_url + "?thread_id=300")
    return {"slack": (slack_alerter(slack), slack), "slack webhook": (slack_hook, slack),
            "discord": (discord_alerter(discord), discord), "discord webhook": (discord_hook, discord)}


def _sent_by(kind, payload):
    """Return the payload without the ids that no one can foresee, once they are seen to be there."""
    payload = copy.deepcopy(payload)
    if kind.startswith("slack"):
        for block in payload.get("blocks", [])[:1]:
            assert re.fullmatch(r"[0-9a-f]{16}", block.pop("block_id"))
    elif kind == "discord":
        assert re.fullmatch(r"[0-9a-f]{16}", payload.pop("nonce")) and payload.pop("enforce_nonce")
    return payload


def _posted(service):
    return [row["payload"] for row in service.posted]


def _forget(service):
    for kept in (service.posted, service.rows, service.calls, service.statuses, service.warnings,
                 alerters._ACCOUNTS):
        kept.clear()


def _trouble(service):
    """Return what a service warned of, and how many posts it refused; Slack refuses with HTTP 200."""
    posts = [call for call in service.calls
             if re.search("chat.postMessage|/services/|/messages$|/webhooks/", call.path)]
    refused = len(posts) - len([row for row in service.posted if "files" not in row["payload"]])
    return [*service.warnings, *sorted({*service.statuses} - {200}), *["refused"] * refused]


def _seen(kind, service):
    """Return what people see of all that was posted, without what this module puts around the text."""
    return "\n".join(map(slack_text if kind.startswith("slack") else discord_text, _posted(service)))


def _texts(kind, payload):
    """Return the marked-up texts of a payload, as the service gets them."""
    if kind.startswith("slack"):
        sections = [block for block in payload.get("blocks", []) if block["type"] == "section"]
        return [block["text"]["text"] for block in sections if "text" in block] or [payload["text"]]
    texts = [embed["description"] for embed in payload.get("embeds", []) if "description" in embed]
    return texts or [payload.get("content", "")]


def _found(kind, payload):
    return (slack_active_mentions if kind.startswith("slack") else discord_active_mentions)(payload)


def _pings(kind, payload):
    """Return what calls somebody; a time in the reader's zone, as a question has one, does not."""
    our_time = r"<!date\^\d+\^{date_short_pretty} {time}\|[-:\d ]+ UTC>"
    return [found for found in _found(kind, payload)
            if found[0] != "link" and not re.fullmatch(our_time, found[1])]


FULL = {"title": "Train & **test**", "level": "error", "images": ["https://x.example/a.png"],
        "metadata": {"globs": "*.c, *.*\n# *", "f1_score": "http://a/b_c"}, "body": """\
# Results of *run* 7
Loss is **low**, see `loss.csv`, [the log](https://e.example/l) & ~~old~~; *.py, a | b, -1, #42, my_var

- first
  - **nested**
3. three
> quoted

|    | model |   accuracy | 名前 |
|---:|:------|-----------:|------|
|  0 | a\\|b  |       0.95 | 完了 |
| 10 | **v** |        0.9 |      |
```python
x < 1  # **as it is**
```
\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07"""}
FULL_TABLE = ("    model  accuracy  名前\n--  -----  --------  ----\n 0  a|b        0.95  完了\n"
              "10  v           0.9\n")
SLACK_BODY = ("*Results of _run_ 7*\nLoss is *low*, see `loss.csv`, <https://e.example/l|the log> &amp; "
              "~old~; *.py, a | b, -1, #42, my_var\n\n• first\n    • *nested*\n3. three\n> quoted\n\n```\n" +
              FULL_TABLE + "```\n```\nx &lt; 1  # **as it is**\n```\nred link")


def _mrkdwn(text):
    return {"type": "mrkdwn", "verbatim": True, "text": text}


SLACK_FULL = {"text": f"*Train &amp; test*\n{SLACK_BODY}\nglobs: *.c, *.*\n# *\nf1_score: <http://a/b_c>\n"
            "<https://x.example/a.png>\n🔴 error",  # which Mattermost shows in place of blocks
    "unfurl_links": False, "unfurl_media": False, "blocks": [
        {"type": "header", "text": {"type": "plain_text", "text": "Train & test", "emoji": True}},
        {"type": "section", "expand": True, "text": _mrkdwn(SLACK_BODY)},
        {"type": "section", "fields": [{"type": "plain_text", "text": "globs\n*.c, *.*\n# *", "emoji": True},
                                       _mrkdwn("*f1_score*\n<http://a/b_c>")]},
        {"type": "image", "image_url": "https://x.example/a.png", "alt_text": "image-1"},
        {"type": "context", "elements": [_mrkdwn("🔴 error")]}]}
DISCORD_FULL = {"allowed_mentions": {"parse": [], "users": [], "roles": []}, "embeds": [
        {"color": 0xDC2626, "title": "Train & test", "description":
            "# Results of *run* 7\nLoss is **low**, see `loss.csv`, [the log](https://e.example/l) & "
            "~~old~~; \\*.py, a \\| b, -1, #42, my\\_var\n\n- first\n  - **nested**\n3. three\n> quoted"
            "\n\n```\n" + FULL_TABLE + "```\n```python\nx < 1  # **as it is**\n```\nred link",
         "fields": [{"name": "globs", "value": "\\*.c, \\*.\\*\n\\# \\*", "inline": True},
                    {"name": "f1\\_score", "value": "http://a/b_c", "inline": True}],
         "image": {"url": "https://x.example/a.png"}, "footer": {"text": "🔴 error"}}]}
SLACK_BARE = dict(SLACK_FULL, text="Done", blocks=[
    {"type": "section", "expand": True, "text": _mrkdwn("Done")}])
DISCORD_BARE = dict(DISCORD_FULL, embeds=[{"color": 0x3B82F6, "description": "Done"}])
CONSOLE_BODY = ("Results of run 7\nLoss is low, see loss.csv, the log (https://e.example/l) & ~~old~~; "
                "*.py, a | b, -1, #42, my_var\n\n- first\n    - nested\n3. three\n> quoted\n\n" + FULL_TABLE +
                "x < 1  # **as it is**\nred link")


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_a_full_message_and_a_bare_text_are_these_payloads(chats, kind, capsys):
    alerter, service = chats[kind]
    receipt = alerter.send(AlerterMessage(**FULL))
    assert alerter.post("Done") is True
    wanted, row = [DISCORD_FULL, DISCORD_BARE], service.posted[0]
    ref = {"channel_id": "300", "message_id": row.get("id")}
    if kind.startswith("slack"):
        place = {"channel": "C0ALERTS"} if kind == "slack" else {}
        wanted, ref = [{**SLACK_FULL, **place}, {**SLACK_BARE, **place}], place and {**place, "ts": row["ts"]}
    assert [_sent_by(kind, payload) for payload in _posted(service)] == wanted
    assert (_trouble(service), _pings(kind, row["payload"])) == ([], [])
    assert (receipt.alerter, receipt.ref) == (alerter.flavor, ref)
    if "webhook" not in kind:
        argv = [FULL["body"], "--flavor", kind, "--title", FULL["title"], "--level", "error", "--metadata",
                "globs=*.c, *.*\n# *", "--metadata", "f1_score=http://a/b_c", "--image", *FULL["images"]]
        assert (main(["preview", *argv]), len(service.calls)) == (0, 2)
        shown = json.dumps(wanted[0]).replace("C0ALERTS", "C0123456789")
        assert _sent_by(kind, json.loads(capsys.readouterr().out)) == json.loads(shown)


def test_the_console_writes_the_message_to_stderr(capsys):
    assert ConsoleAlerter().post(AlerterMessage(**FULL))
    assert capsys.readouterr() == ("", (
        f"[!!] Train & test\n{CONSOLE_BODY}\nglobs: *.c, *.*\n# *\nf1_score: http://a/b_c\n"
        "[https://x.example/a.png]").replace("\n", "\n    ") + "\n")


TICKS = "`\u200b`\u200b`\u200b``"  # five of them, which end no block of code
MARKDOWN = [  # source, on Slack, on Discord
    ("a **b c** d", "a *b c* d", "a **b c** d"), ("a *b* _c d_ *_e_*", "a _b_ _c d_ _e_", "a *b* *c d* *e*"),
    ("run `a_b*c <x>`", "run `a_b*c &lt;x&gt;`", "run `a_b*c <x>`"), ("a\r\nb\rc", *["a\nb\nc"] * 2),
    ("[`docs`](https://x.io/?b=1&c=2)", "<https://x.io/?b=1&amp;c=2|docs>", "[docs](https://x.io/?b=1&c=2)"),
    ("(http://x/(b)_c.) http://y']", "(<http://x/(b)_c>.) <http://y>']", "(http://x/(b)_c.) <http://y>'\\]"),
    ("[#1 a_b_](http://x.io/(b)_)(c)", "<http://x.io/(b)_|#1 a_b_>(c)", "[#1 a_b\\_](http://x.io/(b)_)(c)"),
    ("**a *b* `c` https://x.io/d!**", "*a _b_ `c` <https://x.io/d>!*", "**a *b* `c` <https://x.io/d>!**"),
    ("```python\n```", *["```\npython\n```"] * 2), ("```x = 1```", *["```\nx = 1\n```"] * 2),
    ("http://x.io/@here", "<http://x.io/@here|http://x.io/@\u200bhere>", "http://x.io/@here"),
    ("[a.io](http://x/_) [![c](http://x)](http://y)", "[a.io](<http://x/_>) [!<http://x|c>](<http://y>)",
     "\\[a.io\\]\\(<http://x/_>) \\[![c](http://x)\\]\\(http://y)"),
    ("**字**漢`c`s http://{h}/_", "*字*\u200b漢\u200b`c`\u200bs http://{h}/_", "**字**漢`c`s http\\://{h}/\\_"),
    ("__init__: a_b <!here>", "__init__: a_b <\u200b!here>", "\\_\\_init\\_\\_: a\\_b \\<!here>"),
    ("x**2 2 * 3*, f(**a, **b)", "x**2 2 * 3*, f(**a, **b)", "x\\*\\*2 2 \\* 3\\*, f(\\*\\*a, \\*\\*b)"),
    *[(x, x, x.replace("*", "\\*")) for x in ("count(*), sum(*)", "a/*/*.b **/c/**", "10.*.* ^.*x.*$")],
    ("***x***", "*x*", "**x**"), ("\\*x* \\`y`", "\\*x* \\`y`", "\\\\\\*x\\* \\\\\\`y\\`"),
    ("**a *b `c [d](e", "**a *b `c [d](e", "\\*\\*a \\*b \\`c \\[d\\]\\(e"), ("*'x'*", "_'x'_", "*'x'*"),
    ("a < b\t& c > d &amp;", "a &lt; b\t&amp; c &gt; d &amp;amp;", "a \\< b\t& c > d &amp;"),
    ("# a *b*\n### **c** `d`\n#### e\n#f", "*a _b_*\n*c `d`*\n#### e\n#f",
     "# a *b*\n### c `d`\n\\#### e\n\\#f"),
    ("> a **b**\n>\n> c\n>>> x\n>d\n>", "> a *b*\n> \n> c\n\u200b&gt;&gt;&gt; x\n\u200b&gt;d\n> ",
     "> a **b**\n> \n> c\n\\>>> x\n\\>d\n> "),
    ("- a\n  * b\n\t- c\n    * c\n1. d\n   12. e\n\t\t- f\n-f\n-    g\n1.5\n---\n* * *\n2)",
     "• a\n    • b\n        • c\n        • c\n1. d\n    12. e\n        • f\n-f\n-    g\n1.5\n---\n* * *\n2)",
     "- a\n  - b\n    - c\n    - c\n1. d\n  12. e\n    - f\n\\-f\n\\-    g\n1.5\n\\---\n\\* \\* \\*\n2)"),
    ("~~a b~~ ~~ c ~~ ||d||", "~a b~ ~~ c ~~ ||d||", "~~a b~~ \\~\\~ c \\~\\~ \\|\\|d\\|\\|"),
    ("a|n|t\n-|-|:-\ne\u0301|1|7\ny|-20.5 %\n|b|9|d| e|\nf",
     "```\na        n  t\n-  -------  -----\ne\u0301        1  7\ny  -20.5 %\nb        9  d | e\n```\nf",
     "```\na        n  t\n-  -------  -----\ne\u0301        1  7\ny  -20.5 %\nb        9  d | e\n```\nf"),
    ("a | b\n- | c\n|---|\n| a |\n|-|-|\n\n|a|\n|-|", "a | b\n- | c\n|---|\n| a |\n|-|-|\n\n|a|\n|-|",
     "a \\| b\n\\- \\| c\n\\|---\\|\n\\| a \\|\n\\|-\\|-\\|\n\n\\|a\\|\n\\|-\\|"),
    ("\x1b[1;31mred\x1b[0m \x1b[2K\x1b]0;title\x1b\\a\x9b31mb\x1b(Bc\x1b]8;;x\ny\a",
     "red abc␛]8;;x\ny␇", "red abc␛\\]8;;x\ny␇"),
    ("````\n# a ```\n  ````\n*b*", "```\n# a `\u200b``\n```\n_b_", "```\n# a `\u200b``\n```\n*b*"),
    ("```\n\n```\n~~~\n# a\n~~~\n~~~ b", "```\n# a\n```\n~~~ b", "```\n# a\n```\n\\~\\~\\~ b"),
    ("```\na ````` b\n`````c\n```", *[f"```\na {TICKS} b\n{TICKS}c\n```"] * 2)]


def test_light_markdown_becomes_each_services_markup(chats):
    def shown(kind, source):
        return _texts(kind, json.loads(chats[kind][0]._preview(AlerterMessage(body=source))))
    got = [(source, *shown("slack", source), *shown("discord", source)) for source, *_ in MARKDOWN]
    assert got == MARKDOWN


@pytest.mark.parametrize("kind", RENDERED)
def test_metadata_keeps_its_order_and_takes_any_value_of_any_size(chats, kind):
    odd_values = {"z": 1, "a": 0.1, "none": None, "list": [1, "x"], "dict": {"k": 2}, "bytes": b"\xff",
        "money": type("Money", (str,), {"__str__": lambda self: "12 <€>"})(), "nan": math.nan, "true": True,
        "empty": "", 7: "a number as name", "long": 10 ** 5000,
        "mute": type("Mute", (), {"__repr__": lambda self: 1 / 0})()}
    odd_values_seen = "1;0.1;None;[1, 'x'];{'k': 2};b'\\xff';12 <€>;nan;True;;a number as name".split(";")
    big_fields = [{"n" * 300: 1}, {"n" * 780: "v"}, {"k": "v" * 1100}, {"k": "v\n" * 900},
                  {"": "", " ": "\t"}, {"<&>_*" * 40: "[" * 300}, {f"k{i}": i for i in range(600)}]
    alerter, service = chats[kind]
    alerter.send(AlerterMessage("t", metadata=odd_values))
    payload = service.posted[0]["payload"]
    if kind.startswith("slack"):
        lines = [html.unescape(field["text"]).partition("\n")[2]
                 for block in payload["blocks"][1:] for field in block["fields"]]
    else:
        lines = [re.sub(r"\\([^x])", r"\1", field["value"]).replace("\\\\", "\\")
                 for embed in payload["embeds"] for field in embed["fields"]]
    assert [line.strip("\u200b ") for line in lines][:11] == odd_values_seen and len(lines) == 13
    for metadata in big_fields:
        _forget(service)
        alerter.send(AlerterMessage("t", metadata=metadata))
        seen = "".join(_seen(kind, service).split())
        words = ["".join(str(word).split()) for pair in metadata.items() for word in pair]
        places = [seen.find(str(name)) for name in metadata if str(name)[:1] == "k"]
        assert [word for word in words if word not in seen] == _trouble(service) == []
        assert places == sorted(places)


# === Long texts ===
@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_a_long_text_is_split_at_line_ends_with_code_closed_and_reopened(chats, kind):
    alerter, service = chats[kind]
    prose = [f"line {i} of the prose" for i in range(60)]
    code = [f"    code[{i}] = {i} < 9" for i in range(400)]
    body = "\n".join([*prose, "```python", *code, "```", *prose])
    receipt = alerter.send(AlerterMessage("Long", body, {f"m {n}.": n for n in range(60)}, level="warning"))
    first, *later = parts = _posted(service)
    texts = [_texts(kind, part) for part in parts]
    assert 2 < len(parts) <= 10 and all(len(text) == 1 and text[0].count("```") % 2 == 0 for text in texts)
    lines = "\n".join(text[0].replace("&lt;", "<") for text in texts).split("\n")
    assert [line for line in lines if "```" not in line] == [*prose, *code, *prose]
    titled = [bool(re.search('"header"|"title"', json.dumps(part))) for part in parts]
    assert titled == [True] + [False] * len(later) and _trouble(service) == []
    assert [len({*re.findall(r"m \d+\.", json.dumps(part))}) for part in parts] == [60] + [0] * len(later)
    if kind == "slack":
        assert {part["thread_ts"] for part in later} == {receipt.ref["ts"]} and "thread_ts" not in first
    if kind == "discord":
        reference = {"message_id": receipt.ref["message_id"], "fail_if_not_exists": False}
        assert [part.get("message_reference") for part in parts] == [None] + [reference] * len(later)
        assert not any(any(part["allowed_mentions"].values()) for part in parts)


def test_a_long_table_is_split_between_rows_and_has_its_head_on_each_message(chats):
    rows = [f"| step {n} | {n * 1.5} | {'名' * (n % 3)} |" for n in range(260)]
    wanted = [f"step {n:<3}  {n * 1.5:>5}  {'名' * (n % 3)}".rstrip() for n in range(260)]
    head = ["name       loss  名前", "--------  -----  ----"]
    for kind in RENDERED:
        alerter, service = chats[kind]
        _forget(service)  # a bot and a webhook post to the same one
        alerter.send("\n".join(["above", "| name | loss | 名前 |", "|------|------|------|", *rows, "below"]))
        texts = [_texts(kind, payload)[0] for payload in _posted(service)]
        lines = [line for text in texts for line in text.split("\n") if "```" not in line]
        assert [line for line in lines if line not in head] == ["above", *wanted, "below"], kind
        heads = [text.count(f"```\n{head[0]}\n{head[1]}\n") for text in texts]
        assert len(texts) > 1 and set(heads) == {1}, kind
        _forget(service)
        wide = "|".join(f"{n:040}" for n in range(50)) + "名" * 45  # its head would fill each message
        alerter.send("\n".join([wide, "|".join("-" * 50), *[wide] * 3]))
        assert len(re.findall("0{38}", _seen(kind, service))) == 200, kind
        assert _trouble(service) == [] and len(service.posted) <= 5


FILE_KINDS = ("slack", "discord", "discord webhook") if MORE else ("slack", "discord")
LONG_TRACE = "\n".join(f'  File "step_{i}.py", line {i}, in <module>' for i in range(1200))


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_more_than_ten_messages_become_one_with_the_whole_text_as_a_file(chats, kind):
    alerter, service = chats[kind]
    alerter.send(AlerterMessage("Nightly failed", LONG_TRACE, metadata={"host": "a1"}))
    seen = _seen(kind, service)
    assert len(service.posted) == 1 + (kind == "slack")  # that of the file
    assert "Nightly failed" in seen and "step_0.py" in seen and "a1" in seen and "left out" not in seen
    assert _files_at(kind, service) == [("message.txt", f"Nightly failed\n{LONG_TRACE}\nhost: a1".encode())]
    alerter.send("above\n" + "one line " * 5000)
    assert "line one line" in _seen(kind, service) and service.warnings == []


@pytest.mark.parametrize("kind, may", [("slack webhook", 0), ("discord", {"EMBED_LINKS"}), ("discord", {0})])
def test_where_no_file_is_taken_ten_messages_say_what_is_left_out(chats, kind, may, caplog):
    alerter, service = chats[kind]
    if kind == "discord":
        service.permissions[service.channel] -= {"ATTACH_FILES", "EMBED_LINKS"} - may
    assert alerter.post(AlerterMessage("Nightly failed", LONG_TRACE)) is True
    parts = ["\n".join(_texts(kind, payload)) for payload in _posted(service)]
    text = html.unescape("\n".join(parts)).replace("\\", "").replace("**Nightly failed**\n", "")
    cut = re.search(r"\n… ([\d,]+) characters left out …\n", text)
    assert LONG_TRACE.startswith(text[:cut.start()]) and LONG_TRACE.endswith(text[cut.end():])
    assert abs(len(LONG_TRACE) - (len(text) - len(cut[0])) - int(cut[1].replace(",", ""))) <= 2
    (where,) = [i for i, part in enumerate(parts) if "characters left out" in part]
    assert len(parts) in (10, 9) and 3 <= where <= 6 and service.warnings == []
    warning, *_ = errors_of(caplog, logging.WARNING)
    assert ("files:write" if kind.startswith("slack") else "Attach Files") in warning


@pytest.mark.parametrize("kind", RENDERED)
def test_blank_stretches_cost_no_part_of_the_message(chats, kind):
    alerter, service = chats[kind]
    for text in ("\n" * 4500 + "a z", "a" + "\n" * 4500 + "z", "a" + " " * 9_000 + "z",
                 "a\n```\n" + "\n" * 4500 + "\n```\nz", "http://x/abc " * 400 + "a z", "```\nx\n```\n" * 600):
        _forget(service)
        assert alerter.post(AlerterMessage("t", text, None, None)) is True
        seen = [word for word in re.sub("[`<>]", " ", _seen(kind, service)).split() if word != "t"]
        assert (seen, _trouble(service)) == (text.replace("`", "").split(), []), text


@pytest.mark.parametrize("part", [1, 2, 3] if MORE else [1, 2])
def test_a_refused_form_goes_out_plain_whichever_part_it_is(chats, part):
    lines, people = [f"line {i}" for i in range(600)], [str(10 ** 18 + n) for n in range(200 // part ** 2)]
    for kind, field, fault in (
            ("slack", "chat.postMessage", Fault(status=200, body={"ok": False, "error": "invalid_blocks"})),
            ("discord", "/messages", Fault(status=400, body={"code": 50035, "message": "Invalid Form"}))):
        alerter, service = chats[kind]
        service.fail(field, *[Fault("")] * (part - 1), fault)
        given = {"mention": people} if kind == "discord" else {"files": [("a.csv", b"x")]}
        assert alerter.post("\n".join(lines), **given) is True
        assert re.findall(r"line \d+", _seen(kind, service)) == lines and service.warnings == []
    assert _files_at("slack", chats["slack"][1]) == [("a.csv", b"x")]
    called = [found[1] for payload in _posted(service) for found in _pings("discord", payload)]
    assert called == [f"<@{person}>" for person in people]


@pytest.mark.parametrize("kind, why", [("slack", "json-pointer:/bl"), ("slack webhook", "invalid_blocks")])
def test_refused_blocks_fall_back_to_the_plain_form(chats, kind, why, caplog):
    alerter, service = chats[kind]
    service.broken_images.add("https://x.example/a.png")
    assert alerter.post(AlerterMessage(**FULL)) is True
    plain = {name: part for name, part in SLACK_FULL.items() if name != "blocks"}
    assert _posted(service) == [plain if "webhook" in kind else {"channel": "C0ALERTS", **plain}]
    assert [why in message for message in errors_of(caplog, logging.WARNING)] == [True]


# === Any text, a thousand times ===
ACTS = (r"<!channel>;<!here|x>;<@U1>;<@123>;<@&9>;@here;@everyone;@channel;<#C1>;<!subteam^S1>;`@here`;"
        r"[bank.example](https://evil.example);[x](javascript:alert(1));<https://evil.example|bank>;"
        "\\@everyone;@\u200beveryone;**@everyone**;<!date^1^{date}^https://evil.example|x>").split(";")
NOISE = (*"\x00\ud800\udfff\u202e\u2066\u200b\u200d\x85\u2028\xa0\ufeff*_~|`[])<>&\\#\t\u0301",
         "\x1b[31m", "``` ", "```\n", "](", "&amp;", "- ", "1. ", "> ", "\r\n", "~~", "\n|-|-|\n", "\x1b[2K",
         "\x1b]8;;https://e.example\x07", "https://", "https://e.example/a_b*c", "{{env.HOME}}", "👩‍👧", "🇩🇪")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789äßéøñжщ漢字かな𝔘"
TEXT_WORDS = ["".join(random.Random(n).choices(LETTERS, k=(3, 5, 8, 20)[n % 4])) for n in range(400)]


def _any_text(rng, size):
    """Return a random text of about `size` characters, built of words, marks, noise and what would act."""
    pieces, left = [], size
    while left > 0:
        pick = rng.random()
        if pick < .25:
            piece = rng.choice(ACTS if pick < .05 else NOISE)
        else:
            piece = " ".join(rng.sample(TEXT_WORDS, min(12, left // 8 + 1))) + rng.choice(" \n")
        if pick > .998:
            piece = "x" * rng.choice((500, 3000, 6000))
        elif pick > .98:
            piece = f"\n```{rng.choice(('', 'python'))}\n{piece}\n```\n"
        elif pick > .96:
            cells = [" ".join(rng.sample(TEXT_WORDS, rng.choice((1, 1, 2)))) for _ in range(9)]
            rows = [" | ".join(cells[at:at + 3]) for at in (0, 3, 6)]
            piece = "\n\n| {} |\n|:--|--:|---|\n| {} |\n{}\n\n".format(*rows)
        elif pick > .92:
            piece = f"\n{rng.choice(('# ', '## ', '- ', '  * ', '12. ', '> '))}{piece}"
        pieces.append(piece)
        left -= len(piece)
    return "".join(pieces)


def _missing(source, seen):
    """Return what stands around the first letter of `source` that `seen` lacks, in order; None if it has all.
    Only the address of a link may stand between two letters that follow each other; x makes them long."""
    want, end = [letter for letter in source if letter in LETTERS], -1
    for at, letter in enumerate(want):
        found = seen.find(letter, end + 1)
        if found < 0 or len(seen[end + 1:found].replace("x", "")) > 200:
            return "".join(want[max(0, at - 60):at + 20]), seen[max(0, end - 60):end + 40]
        end = found
    return None


def _written(body):
    """Return what light Markdown shows of a body made of these: no language of a block, no masked address."""
    body = re.sub(r"(\A|\n)```python\n", "\\1\n", re.sub("\x1b\\[(31m|2K)|\x1b\\]8[^\x07]*\x07", "", body))
    return re.sub(r"\]\(https://evil.example\)|https?://[^\s<>\"'`|\\\\^{}]*|bank.example", "]", body)


def _acts(kind, payload):
    """Return what calls somebody, and links whose text names another place than they lead to."""
    form = r"evil.*\|.*bank|^<java" if "slack" in kind else r"^\[.*bank.*evil|\(java"
    return _pings(kind, payload) + [found for found in _found(kind, payload) if re.search(form, found[1])]


def test_no_text_is_refused_cut_or_lets_anything_act(chats):
    rng, slack = random.Random(20240601), chats["slack"][1]
    for number in range(15_000 if MORE else 72):
        kind = CHAT_KINDS[number % 4]
        alerter, service = chats[kind]
        size = rng.choice((1, 5, 20, 40, 80, 200)) if number % 80 >= 4 else rng.choice((3000, 9000))
        body = "Ω" + _any_text(rng, 35_000 if MORE and number % 2000 in (5, 6) else size)
        title = _any_text(rng, rng.choice((5, 30, 400))) if rng.random() < .3 else None
        facts = {f"{i} {_any_text(rng, rng.choice((3, 10, 10, 300)))}": _any_text(
            rng, rng.choice((1, 20, 20, 1500))) for i in range(rng.choice((0, 0, 0, 0, 1, 3, 9)))}
        _forget(service)
        slack.files.clear()
        alerter.send(AlerterMessage(title, body, facts))
        assert _trouble(service) == [], number
        for payload in _posted(service):
            assert "files" in payload or _acts(kind, payload) == [], number
        files = [file["bytes"] for file in slack.files.values()]
        files += [data for row in service.posted if "embeds" in row for data in row["files"].values()]
        seen = "\n".join(data.decode() for data in files) or _seen(kind, service)
        if "characters left out" not in seen:
            assert _missing(_written(body), seen.partition("Ω")[2]) is None, number
            whole = seen[seen.find("…\n", 0, 300) + 1:]  # behind a title that was cut
            assert _missing(_written(title or ""), whole) is None, number


# === Hostile text ===
INVISIBLE = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\\\\u00[01]"  # or in JSON
HOSTILE_TEXTS = {
    "mentions": "<!channel> <!here> <!everyone> <@U1> <@W1|bob> <!subteam^S1> <#C1> @here @channel @everyone "
                "@Here <@123> <@!123> <@&9> <#9> **@everyone** *<!here>*",
    "escaped already": "&lt;!channel&gt; \\@everyone",
    "in code": "`<!channel>` `@everyone`\n```\n<@U1> @here\n```", "bidi": "\u202e@here\u2066<!here>\u2069",
    "in a link": "[@everyone](https://e.example) [<!here>](https://e.example/a|b)",
    "masked": "[https://bank.example](https://evil.example) [bank.example](https://evil.example)",
    "slack's masks": "<https://evil.example|bank.example> <!date^1392734382^{date}^https://evil.example|x>",
    "no web": "[x](javascript:alert(1)) <javascript:alert(1)|x>",
    "fence break": "```\n``` @everyone <!channel>\n````\n<@U1>",
    "after a URL": "https://e.example/a[bank.example](https://evil.example)",
    "joined": "@\u200beveryone @\u2060here <\u200b!channel> @**here** **@****here** ``**`x**",
    "controls": "\x00\x01\x1b[2J\x07\x9b31m<!here>\x7f", "surrogates": "\ud800 a \udfff <@U1> \ud83d",
    "lines": "a\u2028@everyone\u2029<!here>\x0b\x0c\x85b", "only invisible": "\u200b\u200b\ufeff",
    "ticks in a row": "a ``` [bank.example](https://evil.example) `b `",
    "empty code": "``` ```", "a lone fence": "```", "markdown only": "** __ ~~ || ``", "blank": "` `"}


def in_markdown(text):
    """Return a text as heading, item, quote and cell of a table."""
    line = " ".join(text.splitlines())
    return f"# {line}\n- {line}\n1. {line}\n> {line}\n\n| {line} | b |\n|---|--:|\n| a | {line} |\n"


@pytest.mark.parametrize("text", list(HOSTILE_TEXTS.values()), ids=list(HOSTILE_TEXTS))
def test_hostile_text_goes_out_and_does_nothing(chats, capsys, text):
    facts, gone = {f"{i} {text}": text for i in range(2)}, "/nowhere/" + text.replace("\x00", "") + ".png"
    messages = AlerterMessage(None, text, facts, [gone]), AlerterMessage(text, in_markdown(text))
    for kind in RENDERED:
        alerter, service = chats[kind]
        assert [alerter.post(message) for message in messages] == [True, True], kind
        payloads = _posted(service)
        assert [act for payload in payloads for act in _acts(kind, payload)] == _trouble(service) == [], kind
        assert not re.search(INVISIBLE + "|(?<!`)```x|@here", json.dumps(payloads, ensure_ascii=False)), kind
    for message in messages:
        ConsoleAlerter().send(message)
    assert not re.search(INVISIBLE, capsys.readouterr().err)


def test_words_and_people_of_a_question_do_nothing_either(chats, relay, imap, clock):
    odd_words = ["\x00\x07\x1b[31m", "\ud800x", "\u202eabc", "a\r\nX-Evil: 1", "a\x85b", "<!channel>",
                 "\u00e9<@U0VICTIM>", "\u00e9<@123456>", "@everyone"]
    for kind in ("slack", "discord"):
        room = Room(kind, chats[kind][1])
        question = room.ask(approve_msg_options=[*odd_words, "yes"], approvers=[room.ann])
        room.reply(question, room.ann, "yes please")
        assert question.check() is None
        asked, helped = _posted(room.service)
        assert {raw for _, raw, _ in _pings(kind, asked)} == {f"<@{room.ann}>"} and not _pings(kind, helped)
        assert not re.search(INVISIBLE, json.dumps([asked, helped], ensure_ascii=False))
        assert "not an answer yet" in json.dumps(helped)
    mail_asker(relay, imap, clock).open_question("Deploy?", AlerterParameters(approve_msg_options=odd_words))
    assert "X-Evil" not in relay.mails[0].message and b"\x1b" not in relay.mails[0].data


def test_a_label_that_looks_like_an_address_makes_no_link(chats):
    alerter, service = chats["slack"]
    labels = ["the report", "v1.2", "run 3.14.1 of today", "@ann's notes", "e.g. this", "https:bank"]
    disguises = ["bank.com:443", "bank.com?", "www.bank.com.", "user@bank.com", "login at bank.com/x",
                 "bank.com\u200b", "bank\u2024com", "b\xe4nk.com", "10.0.0.1", "https://bank"]
    alerter.send("\n".join(f"see [{label}](https://evil.example/x)" for label in labels + disguises))
    (text,) = _texts("slack", service.posted[-1]["payload"])
    assert re.findall(r"<https://evil.example/x\|(.*)>", text) == labels


@pytest.mark.parametrize("kind", RENDERED)
def test_mention_pings_on_purpose_and_once_and_thirty_approvers_at_most(chats, kind):
    alerter, service = chats[kind]
    people, ping = ["11", "&22", "here"], "<@11> <@&22> @here"
    if kind.startswith("slack"):
        people = ["U1", "S2", "here", "channel", "everyone"]
        ping = "<@U1> <!subteam^S2> <!here> <!channel> <!everyone>"
    assert alerter.post("\n".join(f"line {i} @everyone <@11> <@U1>" for i in range(250)), mention=people)
    first, *later = _posted(service)
    assert later and [_pings(kind, payload) for payload in later] == [[]] * len(later)
    if kind == "discord":  # of many approvers thirty are called
        alerter.open_question("Deploy?", approvers=[str(10**17 + n) for n in range(200)])
        payload = service.posted[-1]["payload"]
        assert len(payload["allowed_mentions"]["users"]) == 30 and "and 170 more" in discord_text(payload)
    if kind.startswith("slack"):
        assert first["blocks"][0]["text"]["text"] == ping and first["text"].startswith(ping + "\n")
    else:
        assert first["content"] == ping and ping not in str(first["embeds"])
        assert first["allowed_mentions"] == {"parse": ["everyone"], "users": ["11"], "roles": ["22"]}


@pytest.mark.parametrize("piece", [
    "**a ", "*a _b ", "[", "[a](http://x", "`", "*", "http://", "https://a.b/!", "```\n", "\n", "&<>",
    "a\n", "x", "\u200b", "|a|b|\n|-|-|\n", "|", "|-", "|1\n", "~~a ", "- a\n", "> ", "# a\n", "\x1b[",
    "\x1b]8;;", "1. ", " \t", "``` ", "a|¦-|¦|\n"])
def test_time_grows_with_a_text_and_not_with_its_square(piece):
    bots = [cls(**cls._example) for cls in (SlackAlerter, DiscordAlerter)]

    def cpu(size):
        text = "\n".join([part * (size // len(piece)) for part in piece.split("¦")])  # ¦: a line ends
        message, began = AlerterMessage(body=f"s{text}e"), time.process_time()
        [bot._preview(message) for bot in bots]
        alerters._as_text(alerters._lay_out(message, []))
        return time.process_time() - began
    took = cpu(2_500)
    assert took < 0.03 or took < 18 * cpu(400) + 0.03


# === Threads and replies ===
@pytest.mark.parametrize("kind", ["slack", "discord"])
def test_reply_to_and_thread_ts_post_under_an_earlier_message(chats, kind):
    alerter, service = chats[kind]
    service.add_channel("555", "other")
    elsewhere = {"slack": SlackAlerterParameters(slack_channel_id="other"),
                 "discord": DiscordAlerterParameters(discord_channel_id="555")}[kind]
    first = alerter.send("first", elsewhere)
    assert alerters.post("second", alerter=alerter, reply_to=first) is True
    parents = [payload.get("thread_ts") or payload.get("message_reference", {}).get("message_id")
               for payload in _posted(service)]
    assert parents == [None, first.ref["ts" if kind == "slack" else "message_id"]] and json.dumps(first.ref)
    if kind == "slack":
        under = alerter.send("third " * 900, dataclasses.replace(elsewhere, thread_ts=first.ref["ts"]))
        assert {payload["channel"] for payload in _posted(service)[3:]} == {"555"}  # no name any more
        assert len(service.posted) > 3 and {row["thread_ts"] for row in service.posted} == {first.ref["ts"]}
        assert under.ref == dict(first.ref, ts=service.posted[2]["ts"], thread_ts=first.ref["ts"])
        service.fail("postMessage", Fault("reset"), *[Fault("")] * 2, no("restricted_action_thread_locked"))
        there = SlackAlerterParameters(slack_channel_id="555", thread_ts="1.5")
        assert alerter.open_question("?" * 4000, there)._record.where == {"channel": "555", "thread": None}
    assert alerter.post("alone", reply_to=Receipt(kind, {**first.ref, "ts": "1.5", "message_id": "15"}))
    assert alerter.post("apart", reply_to=Receipt("another of the stack", first.ref))
    *below, apart = [row[service.row_keys[1]] for row in service.posted]
    assert (set(below), apart) == ({"555"}, service.channel)


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_a_receipt_has_the_address_of_its_message_where_it_costs_no_request(chats, capsys, kind):
    alerter, service = chats[kind]
    first = alerter.send("x")
    assert first.url is None and len(service.calls) == 1
    alerter.check(), service.calls.clear()
    later = [alerter.send("x"), alerter.send(AlerterMessage("x")._with(_reply_to=Receipt("x", first.ref)))]
    assert len(service.calls) == 2
    urls = [receipt.url for receipt in later]
    if kind != "slack":
        assert urls == [None, None]  # Discord's messages do not tell their server
    else:  # a question and those that are pending show it, too
        one, two = ["C0ALERTS/p" + receipt.ref["ts"].replace(".", "") for receipt in later]
        assert urls == [f"https://example.slack.com/archives/{place}" for place in (
            one, f"{two}?thread_ts={first.ref['ts']}&cid=C0ALERTS")]
        StackStore().register_alerter("team", alerter.flavor, **dataclasses.asdict(alerter))
        question = StackStore().load_alerter("team").open_question("Deploy?", key="k")
        assert f"  Deploy?  {question.to_dict()['url']}" in run_cli(capsys, "pending")[1]


@pytest.mark.parametrize("kind, channel_type", [("discord", 15), ("discord webhook", 16)])  # forum, media
def test_an_alert_in_a_forum_is_a_post_of_its_own(chats, kind, channel_type):
    alerter, service = chats[kind]
    service.add_channel("300", "alerts", channel_type)
    lines = [f"line {n}" for n in range(900)]
    first = alerter.send(AlerterMessage("**Nightly** @everyone " + "x" * 120, "\n".join(lines), images=[PNG]))
    thread = first.ref["message_id"]
    assert re.fullmatch("Nightly @\u200beveryone x{80}…", service.channels[thread]["name"])
    assert {first.ref["channel_id"], *(row["channel_id"] for row in service.posted)} == {thread} != {"300"}
    texts = [_texts(kind, payload.get("message", payload))[0] for payload in _posted(service)]
    assert re.findall(r"line \d+", "".join(texts)) == lines
    assert service.posted[0]["files"] == {"image-1.png": PNG} and service.warnings == []
    assert "nonce" not in service.posted[0]["payload"]  # no word of Discord's says that one is taken there
    assert alerter.post("\n".join(lines), reply_to=first) and alerter.post("apart")
    service.fail("POST", Fault(status=403, body={"code": {15: 10003, 16: 50083}[channel_type]}))  # gone
    assert alerter.post("late", reply_to=first) is True
    below, *apart = [row["channel_id"] for row in service.posted[-3:]]
    assert below == thread and [service.channels[each]["name"] for each in apart] == ["apart", "late"]


@pytest.mark.parametrize("kind", ["discord", "discord webhook"])
def test_a_post_in_a_forum_is_neither_lost_nor_doubled(chats, kind, caplog):
    alerter, service = chats[kind]
    service.add_channel("300", "alerts", 15)
    call, first = ("/threads", []) if kind == "discord" else ("/webhooks/", [Fault("")])
    service.fail(call, *first, Fault(status=503))
    assert alerter.post("one") is True and len(service.posted) == 1
    service.fail(call, *first, Fault("act_reset"))
    assert _outcome(alerter, AlerterMessage("two", images=[PNG]))[0] == "unknown" and len(service.posted) == 2
    service.heal()
    if kind == "discord":
        above, bare = alerter.send("above"), dataclasses.replace(alerter, discord_channel_id="")
        service.fail("POST", *[Fault(status=400, body={"code": 160005})] * 3)  # its thread is locked
        assert bare.post("x", reply_to=above) is alerter.ask("x", reply_to=above) is False
        service.permissions["300"].discard("ATTACH_FILES")
        assert alerter.post(AlerterMessage("three", "text", images=[PNG])) is True
        service.permissions["300"].discard("SEND_MESSAGES")
        service.fail("/threads", Fault(""), Fault(status=400, body={"code": 40067, "message": "A tag"}))
        assert alerter.post("four") is alerter.post("five") is False and "demands a tag" in caplog.text
        assert "50013" in caplog.text and "plain" not in caplog.text and len(service.posted) == 5


# === The fault matrix ===
WAITS = {"429": Fault(status=429, headers={"Retry-After": "2"}), "503": Fault(status=503)}
FINAL = {"401": Fault(status=401, body={"message": "401: Unauthorized", "code": 0}), "403": Fault(status=403),
         "404": Fault(status=404, body={"code": 10003, "message": "Unknown Channel"}),
         "400": Fault(status=400)}
DOUBT = {"502": Fault("html", status=502), "cut short": Fault("truncate"), "a page": Fault("html"),
         "empty": Fault(status=200, ctype="text/plain"), "reset": Fault("reset"), "500": Fault(status=500),
         "act 500": Fault("act_status", status=500), "act close": Fault("act_close"), "close": Fault("close"),
         "list": Fault(status=200, body=[1]), "act reset": Fault("act_reset"), "garbage": Fault("garbage"),
         "act fatal": Fault("act_status", status=200, body={"ok": False, "error": "fatal_error"})}
ACTED = ("act 500", "act close", "act fatal", "act reset", "cut short")  # the service has done it


def _fault(kind, name):
    waits = name == "429" and "discord" in kind
    return Fault.discord_429(2.0) if waits else {**WAITS, **FINAL, **DOUBT}[name]


def _outcome(alerter, message):
    try:
        alerter.send(message)
        return "sent", None
    except DeliveryError as error:
        assert error.hint and "\n" not in str(error) and str(error).startswith(f"{alerter.flavor}: ")
        return error.outcome, error


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_every_fault_of_a_post_loses_and_doubles_nothing(chats, clock, kind):
    """Once: it is there once, or the error says what may be. For ever: at most once, and within 30 s."""
    alerter, service = chats[kind]
    got, wanted, webhook = {}, {}, "webhook" in kind
    # A webhook's custom hosts answer anything with 2xx; and a page is none of theirs.
    unfit = ("empty", "list", "act fatal") if kind == "slack webhook" else ()
    for name in (*WAITS, *FINAL, *DOUBT):
        lasting = name in ("429", "503", "act reset", "a page") and not (webhook and name in DOUBT)
        for times in (1, None) if lasting or MORE else (1,):
            if name in unfit:
                continue
            _forget(service)
            began = clock.monotonic()
            service.fail("POST", _fault(kind, name), times=times)
            outcome, _ = _outcome(alerter, f"alert {name} {times}")
            service.heal()
            copies = len(service.posted)
            got[name, times] = outcome, copies, clock.monotonic() - began <= 30.0
            expected = "unknown", min(copies, 1) if kind == "slack" else int(name in ACTED)
            if name in FINAL or name in WAITS and not times:
                expected = "not_sent", 0
            elif name in WAITS or times and not webhook:
                expected = "sent", 1
            wanted[name, times] = *expected, True
    assert got == wanted
    gc.collect()  # under -W error an unclosed socket would surface here


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_nonsense_in_an_answer_raises_nothing_but_a_delivery_error(chats, kind):
    shapes = [[1], "x", 5, None, True, {}, {"ok": True}, {"ok": False, "error": ["a"]}, {"message": {"a": 1}},
        {"message": 5, "code": [1]}, {"code": {}, "errors": [1]}, {"errors": {"a": {"_errors": 5}}},
        {"ok": False, "error": "x", "response_metadata": ["a"]}, {"retry_after": [1], "message": "m"},
        {"ok": False, "error": "x", "response_metadata": {"messages": {"a": 1}}}, {"retry_after": "nan"},
        {"ok": False, "error": "missing_scope", "needed": 5, "provided": []}, [[[[]]]], {"id": {}, "ts": []}]
    alerter, service = chats[kind]
    cases = list(itertools.product(shapes, (200, 400, 200, 429, 200, 500)))
    asked = itertools.cycle([alerter.check, lambda: alerter.decide("Go?", AlerterParameters(timeout=1)),
                             lambda: alerter.send(AlerterMessage("t", images=[PNG]))])
    for (shape, status), call in zip(cases[CHAT_KINDS.index(kind)::7], asked):
        service.fail("", Fault(status=status, body=shape, headers={"Retry-After": "9"}), times=None)
        with contextlib.suppress(DeliveryError, AskNotSupported):
            call()
        service.heal()


def test_retry_after_is_obeyed_to_the_second_and_a_long_one_refused_at_once(chats, clock):
    alerter, service = chats["discord"]
    service.fail("/messages", Fault.discord_429(1.25), Fault.discord_429(0.65, "shared"))
    assert alerter.post("x") and clock.naps == [1.25, 0.65]
    for kind, fault in (("slack", Fault(status=429, headers={"Retry-After": "60"})),
                        ("slack webhook", Fault(status=429, headers={"Retry-After": "3600"})),
                        ("discord webhook", Fault.discord_429(31.5, "global")),
                        ("discord", Fault("html", status=429, headers={"Retry-After": "1"})),  # Cloudflare's
                        ("discord", Fault(status=429, body={"code": 0, "message": "You are blocked"}))):
        alerter, service = chats[kind]
        wanted = ["not_sent", 429, len(service.calls) + 1, clock.monotonic()]
        service.fail("POST", fault)
        outcome, error = _outcome(alerter, "x")
        assert [outcome, error.status, len(service.calls), clock.monotonic()] == wanted
        assert (error.retry_after or 0) < 30 or f"to wait for {error.retry_after:g} s" in error.hint


def test_a_retry_after_is_obeyed_if_it_makes_sense_and_counts_as_a_second_growing_if_not(slack):
    retry_after = {  # the header: the naps before the third try
        "-1": [1.0, 2.0], "0": [1.0, 2.0], "nan": [1.0, 2.0], "soon": [1.0, 2.0], "": [1.0, 2.0], "inf": None,
        "2": [2.0, 2.0], "2.5": [2.5, 2.5], "0.1": [0.5, 0.5], "Tue, 14 Nov 2023 22:13:27 GMT": [7.0, 1.0],
        "Tue, 14 Nov 2023 22:13:10 GMT": [1.0, 2.0]}  # the fake's time begins at 22:13:20
    for given, naps in retry_after.items():
        slack.clock = FakeClock()
        slack.fail("POST", Fault(status=429, headers={"Retry-After": given}), times=2)
        outcome, _ = _outcome(slack_alerter(slack), "x")
        slack.heal()
        assert (outcome, slack.clock.naps) == (("sent", naps) if naps else ("not_sent", [])), given


@pytest.mark.parametrize("kind", RENDERED)
def test_a_part_refused_in_the_end_is_told_as_partial(chats, kind):
    alerter, service = chats[kind]
    firsts = [[], [Fault(status=400, body={"code": 50035})]]  # then the first page goes as several plain ones
    for fault, first in itertools.product((Fault(status=403), Fault("close")), firsts[:1 + ("d" in kind)]):
        _forget(service)
        service.fail("POST", *first, Fault(""), *[fault] * 99)
        assert _outcome(alerter, "line\n" * 900)[0] == "partial" and len(service.posted) == 1
        service.heal()
    if kind in ("slack", "discord"):  # nobody waits for the answer to what stands there of a question
        service.fail("chat.post" if kind == "slack" else "POST", Fault(""), Fault(status=403))
        assert not alerter.ask("line\n" * 900) and "is closed" in str(service.posted[-1]["payload"])


@pytest.mark.parametrize("kind, call, faults", [("slack", "getUploadURLExternal", "429;403;close;cut short"),
    ("slack", "/upload/", "503;a page;list;act close"), ("discord", "/messages", "503;403;close;act close"),
    ("slack", "completeUploadExternal", "429;403;close;list;act close;cut short"),
    ("discord webhook", "/webhooks/", "429;list;cut short")])
def test_every_fault_of_an_upload_leaves_the_text_and_names_the_lost_image(
        chats, clock, caplog, kind, call, faults):
    alerter, service = chats[kind]
    problems = []
    for name in ("429;503;403;close;a page;list;act close;cut short" if MORE else faults).split(";"):
        for times in (1, None) if MORE or name in ("503", "close") else (1,):
            _forget(service)
            caplog.clear()
            began = clock.monotonic()
            service.fail(call, _fault(kind, name), times=times)
            sent = alerter.post(AlerterMessage("plot", images=[PNG]))
            service.heal()
            rows = [row for row in service.rows if "plot" in str(row.get("payload"))]
            named = any("image-1" in str(row["payload"]) for row in service.posted if not row.get("files"))
            warned = any(record.levelname == "WARNING" for record in caplog.records)
            if kind == "slack":
                shown = sum("files" in row.get("payload", row) for row in service.posted)
                good = sent and shown <= 1 and (shown == 1 or named and warned)
                page = call == "/upload/" and name in ("a page", "list")  # the status tells
                unknown = call == "completeUploadExternal" and name in DOUBT
                excused = times is None or name in FINAL or page or unknown
                good = good and (excused or shown == 1 and not named)
            else:  # one call holds text and file, so its fate is that of a post
                good = len(rows) <= 1 and (sent is bool(rows) or name in ACTED)
            if not good or clock.monotonic() - began > 120:
                problems.append((name, times, sent, len(rows), named, warned))
    assert problems == []


def test_files_that_are_refused_together_are_posted_one_by_one_the_text_first(discord):
    discord.fail("POST", Fault(status=413))
    assert discord_alerter(discord).post(AlerterMessage("plot", LONG_TRACE, images=[PNG, PNG])) is True
    assert [[*row["files"]] for row in discord.posted] == [["message.txt"], ["image-1.png"], ["image-2.png"]]


def test_an_upload_address_that_cannot_be_trusted_costs_the_image_only(chats, caplog):
    alerter, slack = chats["slack"]
    for address in ("file:///etc/passwd", "http://192.0.2.1/x", "", None, 5):
        slack.fail("getUploadURL", Fault(status=200, body={"ok": True, "upload_url": address}))
        assert alerter.post(AlerterMessage("plot", images=[PNG])) is True
        assert "image-1" in slack.posted[-1]["payload"]["text"]
    slack.fail("getUploadURL", Fault(status=503), times=None)
    assert alerter.post(AlerterMessage("plot", images=[PNG])) and alerter.clock.monotonic() < 110
    alerter, discord = chats["discord"]  # where nothing is heard of a file, for as long as one waits
    respond, wait = discord.respond, alerter.clock.sleep
    discord.respond = lambda link, call: wait(10) if call.files else respond(link, call)
    assert alerter.post(AlerterMessage("plot", images=[PNG])) and "image-1" in str(discord.posted)
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize("kind, call, faults", [
    ("slack", "auth.test", ("act fatal", "429")), ("slack", "chat.postMessage", ("cut short", "act close")),
    ("slack", "reactions.add", ("reset",)), ("slack", "conversations.replies", ("429", "reset")),
    ("discord", "/users/@me", ("reset",)), ("discord", "PUT", ("429", "reset")),
    ("discord", "POST /api/v10/channels/300/messages", ("429", "act close", "reset", "cut short")),
    ("discord", "GET /api/v10/channels/300/messages", ("429", "reset"))])
def test_every_passing_fault_of_an_ask_still_ends_in_the_approval(chats, clock, kind, call, faults):
    alerter, service = chats[kind]
    for name in ("429", "act close", "reset", "cut short") if MORE else faults:
        _forget(service)
        clock.at(clock.monotonic() + 4, lambda: service.say(
            "U7" if kind == "slack" else "7", "yes", service.posted[0]["ts" if kind == "slack" else "id"]))
        service.fail(call, _fault(kind, name))
        decision = alerter.decide("Deploy?", timeout=61)
        service.heal()
        asked = [payload for payload in _posted(service) if "Deploy?" in json.dumps(payload)]
        taps = service.posted[0]["reactions"]  # the lost answer to one is asked for once more
        assert (decision.status, len(asked), len(taps)) == ("approved", 1, 2), name


def test_a_refusal_after_a_doubt_is_no_certain_loss(chats, relay, clock):
    (alerter, service), refused = chats["discord"], Fault(status=403, body={"code": 50013})
    service.fail("/messages", *[Fault("act_reset"), Fault(status=503), refused] * 2, refused)
    relay.fail("accepted", "close")
    relay.fail("mail", None, "550 no more")
    picture = AlerterMessage("x", images=[PNG])  # and once more without it
    for sender, message, there in ((alerter, "x", service.posted), (alerter, picture, service.posted),
                                   (relay_alerter(relay, clock), "x", relay.mails)):
        outcome, error = _outcome(sender, message)
        assert (outcome, "arrived" in error.hint, len(there)) == ("unknown", True, 1)
        there.clear()


def test_a_doubtful_post_is_found_whatever_the_clocks(chats, clock):
    _, service = chats["slack"]
    service.clock = copy.copy(clock)
    service.clock.start += 300
    alerter = slack_alerter(service)  # whose clock is ahead
    own = SlackAlerterParameters(blocks=[{"type": "divider", "block_id": "mine"}])  # nothing to know it by
    for copies, (text, params, more, way, delivered) in enumerate([  # third, the level's block tells
            ("x", None, {}, "act_reset", True), ("y", None, {}, "reset", True),
            ("z", own, {"level": "error"}, "act_reset", True), ("z", own, {}, "act_reset", False)], 1):
        service.fail("POST", Fault(way), Fault(status=500))  # so is the first look for it
        assert (alerter.post(text, params, **more), len(service.posted)) == (delivered, copies)
    payload = service.posted[3]["payload"]  # with them in place of the text's
    assert (payload["text"], payload["blocks"]) == ("z", own.blocks)


def test_an_odd_answer_is_no_surprise(chats, caplog):
    odd_answers = [  # what answers which call -> what becomes of the post
        ("discord", "/messages", Fault(status=200, body={"id": "5"}), True),  # no channel
        ("discord", "/messages", Fault(status=204), False),
        ("discord", "/messages", Fault(status=429, headers={"Via": "1.1 google"},
                                       body=b'{"retry_after": 1%s}' % (b"0" * 400)), False),  # beyond floats
        ("discord", "/messages", Fault(status=400, body=b'{"code": 1, "errors": %s{}%s}' % (
            b'{"a": ' * 600, b"}" * 600)), False)]
    odd_answers += [("slack", "conversations.history", Fault(status=200, body={"ok": True, **body}), False)
                    for body in ({}, {"messages": [1, "x"]}, {"messages": [], "response_metadata": 5})]
    for kind, call, fault, delivered in odd_answers:
        alerter, service = chats[kind]
        service.fail(call, fault, times=None)
        service.fail("chat.postMessage", Fault("act_reset"))
        assert alerter.post("x") is delivered and (kind == "slack" or "its code" not in caplog.text)
        service.heal()
    for kind, call, body in (("slack", "chat.postMessage", {"ok": True, "channel": "\ud800", "ts": "1.2"}),
                             ("slack", "chat.postMessage", {"ok": True}),
                             ("discord", "POST", {"id": "5", "channel_id": "1/x"})):
        alerter, service = chats[kind]
        service.fail(call, Fault(status=200, body=body))
        pytest.raises(DeliveryError, alerter.open_question, "x").match("another form than documented")
    service.fail("GET", Fault(""), Fault(status=200, body=[1]))  # while it is tried what can be read
    question = alerter.open_question("x")
    mid = question.ref["message_id"]
    service.fail("/messages", Fault(status=200, body=[{"id": mid}, {"id": str(int(mid) + 1), "type": 19,
        "author": {"id": "5"}, "content": "yes", "message_reference": question.ref}]), times=2)
    assert question.check().by == "5"
    service.fail("/users/@me", Fault(status=200, body={"id": "("}))
    pytest.raises(DeliveryError, alerter.check).match(f"no answer of Discord: {ODD}")


@pytest.mark.parametrize("host", ["hooks.slack.com", "hooks.example.org"])
def test_a_webhook_that_answers_as_slacks_own_has_taken_what_it_says_ok_to(host, monkeypatch):
    alerter = SlackAlerter(slack_webhook_url=f"https://{host}/services/T000/B000/hooksecret")
    answer = object.__new__(alerters._Answer)
    answer.status, answer.headers, answer.reads = 200, {"Content-Type": "text/html"}, False
    monkeypatch.setattr(alerters, "_http", lambda *_: answer)
    for answer.text, outcome in (("ok", "sent"), ("", "unknown"), ('{"ok": true}', "unknown")):
        assert _outcome(alerter, "x")[0] == outcome


def test_check_and_replies_survive_odd_rows_and_pages_in_circles(chats):
    alerter, service = chats["discord"]
    question = alerter.open_question("Deploy?")
    page = [{"id": str(10 ** 18 + n), "type": 0, "author": {"id": "9"}, "content": "x"} for n in range(100)]
    for rows in ([1], [None], [[]], [{"id": float("inf")}], page):
        service.fail("GET /api/v10/channels/300/messages", Fault(status=200, body=rows), times=None)
        with contextlib.suppress(DeliveryError):
            alerter.check()
        assert question.check() is None and len(service.calls) < 50
        service.heal()
    alerter._set("_call", lambda _, path: [{"id": f"{path.rpartition('=')[2]}1"}] * 100)  # without an end
    pytest.raises(DeliveryError, alerter._rows, "/x", 1).match("more rows than one poll reads")


def test_images_that_a_later_message_cannot_take_do_not_take_the_text_back(chats, caplog):
    alerter, service = chats["discord"]
    service.fail("/messages", Fault(""), Fault.discord_429(400))
    assert alerter.post(AlerterMessage("t", "text", images=[PNG + bytes([n]) for n in range(12)])) is True
    assert "image-7.png could not be shown" in caplog.text and "image-6.png" not in caplog.text
    seen = discord_text(service.posted[-1]["payload"])
    assert "image-7.png" in seen and "image-8.png" not in seen and len(service.posted) == 7


# === The wire ===
@pytest.fixture
def peer():
    """Return what starts a server and gives its port; each connection gets the next talk, or the last."""
    listeners = []
    def start(*talks, tls=None, host="127.0.0.1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family)
        listeners.append(listener)

        def serve():
            with contextlib.suppress(OSError):  # the listener is closed
                for number in itertools.count():
                    with listener.accept()[0] as link, contextlib.suppress(OSError):  # the client leaves
                        with tls.wrap_socket(link, server_side=True) if tls else link as link:
                            talks[min(number, len(talks) - 1)](link)
        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]
    yield start
    for listener in listeners:
        with contextlib.suppress(OSError):  # so that accept ends
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def heard(link):
    """Return the head of a request that has come whole, as what is unread at the end makes a reset of it."""
    head = b""
    while b"\r\n\r\n" not in head and head[:1] != b"\x16":  # TLS where none is spoken
        piece = link.recv(65536)
        if not piece:
            return head
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    rest = int(length[1]) - len(body) if length else 0
    while rest > 0:
        rest -= len(link.recv(min(rest, 65536)))
    return head


def said(data, more=b"", times=1, heads=None):
    """A peer that reads a request, says this and closes; a mail server speaks first, and hears to the end."""
    def talk(link):
        mail = data.startswith(b"220")
        if not mail:
            head = heard(link)
            if heads is not None:
                heads.append(head.decode())
        link.sendall(data)
        for _ in range(times):
            link.sendall(more)
        while mail and link.recv(65536):
            pass
    return talk


def stalled(link):
    while link.recv(65536):
        pass


def dripping(link):
    link.recv(65536)
    for piece in itertools.chain([OK + b"\r\n"], itertools.repeat(b" ")):
        link.sendall(piece)
        time.sleep(0.01)


def answered(body, status=200):
    body = json.dumps(body).encode()
    return b"HTTP/1.1 %d x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


SLACK_OK = answered({"ok": True, "channel": "C1", "ts": "1"})


class _Hurried(FakeClock):
    """A clock on which all but a fraction of a call's time is gone, so that what never ends ends soon."""
    def __init__(self, gone=29.95):
        super().__init__()
        self.asked, self.gone = 0, gone

    def monotonic(self):
        self.asked += 1
        return self._passed if self.asked == 1 else self._passed + self.gone


def slack_at(port, scheme="https", host="127.0.0.1", clock=None):
    return in_time(SlackAlerter, clock or FakeClock())(
        slack_token="xoxb-1", slack_channel_id="C1", slack_api_url=f"{scheme}://{host}:{port}/api")


def test_a_large_file_on_a_slow_line_takes_its_time(peer, monkeypatch):
    """A socket's timeout is for one piece of the file, not for all of it, and longer for a large one."""
    took, send = [], socket.socket.sendall

    def slowly(self, data):  # as a system does it on a line that takes 20 KB in a second
        took.append(len(data) / 20_000)
        if took[-1] > (self.gettimeout() or 99):
            raise socket.timeout("timed out")
        send(self, data)
    monkeypatch.setattr(socket.socket, "sendall", slowly)
    monkeypatch.setattr(alerters, "_SOCKET_TIMEOUT", 0.05)  # and what waits in buffers counts as well
    port = peer(said(answered({"id": "5", "channel_id": "1", "attachments": [{}]})))
    alerter = in_time(DiscordAlerter, _Hurried(40))(  # a text alone would be given up by now
        discord_token="t" * 30, discord_channel_id="1", discord_api_url=f"http://127.0.0.1:{port}")
    assert alerter.post(AlerterMessage("t", images=[PNG + b"x" * 480_000])) is True
    assert sum(took) > 20
    for use, given in (("sendall", b"x"), ("recv", 9)):  # not once its time is gone, though
        pytest.raises(socket.timeout, getattr(alerters._Wire(None, "", 0), use), given)


@pytest.mark.parametrize("way", ["bot", "webhook", "TLS", "cut"])
def test_a_file_refused_before_it_is_read_costs_no_text(peer, way, monkeypatch, tmp_path, caplog):
    def early(link):
        link.recv(65536)
        own = {"code": 40005, "message": "Request entity too large"}  # a proxy says it, or Discord itself
        link.sendall({"TLS": answered("<html>", 413), "cut": b""}.get(way, answered(own, 413)))
        time.sleep(0.05)  # what is still sent meets a closed door
    monkeypatch.setenv("CURL_CA_BUNDLE", ca_file(tmp_path))
    port = peer(early, said(answered({"id": "5"})), tls=way == "TLS" and tls_server_context())
    url = f"http{'s' * (way == 'TLS')}://127.0.0.1:{port}"
    fields = {"discord_token": "t" * 30, "discord_channel_id": "1", "discord_api_url": url}
    if way in ("webhook", "cut"):
        fields = {"discord_webhook_url": f"{url}/api/webhooks/1/" + "t" * 30}
    alerter = in_time(DiscordAlerter, FakeClock())(**fields)
    assert alerter.post(AlerterMessage("t", images=[PNG + b"x" * 8_000_000])) is True
    assert way == "cut" or re.search("image-1.png could not be shown.*it is too large for it", caplog.text)


def test_neither_a_dead_address_nor_a_socket_that_cannot_peek_costs_an_alert(chats, monkeypatch):
    look = socket.getaddrinfo
    monkeypatch.setattr(socket, "MSG_PEEK", None)  # as eventlet's sockets cannot
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a: look("127.0.0.1", PORT_1, *a[2:]) + look(*a))
    assert chats["slack"][0].post("long\n" * 4000) is True
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(0.1) or look("x", None, 99))
    assert pytest.raises(OSError, alerters._dial, "x", 1, time.monotonic() + 0.15, "").value.cure == "later"
    assert CUT in str(alerters._transport_failure("x", ssl.SSLError(1, "bad record"), True))  # 1 is no EPERM


@pytest.mark.parametrize("kind", ["slack", "discord"])
def test_one_operation_takes_one_connection(chats, kind):
    alerter, service = chats[kind]
    questions, long = [], "\n".join(f"line {n} " + "x" * 90 for n in range(230))
    operations = {"ten parts": lambda: alerter.send(long), "a question": lambda: questions.append(
            alerter.open_question("Deploy?")), "one poll": lambda: questions[0].check(),
        "a file": lambda: alerter.send(AlerterMessage("t", files=[("log.txt", b"x" * 99)]))}
    for name, operation in operations.items():
        was, calls = service.sessions, len(service.calls)
        operation()
        assert service.sessions - was == 1 and (name != "ten parts" or len(service.calls) - calls >= 7), name
    assert alerters._WIRES.get() is None


@pytest.mark.parametrize("kind", ["slack", "discord"])
def test_a_kept_connection_that_is_lost_loses_and_doubles_nothing(chats, kind):
    """forgetful: closed after each answer, which is seen before the next use; else in place of an answer."""
    alerter, service = chats[kind]
    for way in ("forgetful", "close", "reset", "act_close"):
        _forget(service)
        service.forgetful = way == "forgetful"
        if way != "forgetful":
            service.fail("POST", None, Fault(way))  # the second post, over the connection of the first
        alerter.send("\n".join(f"line {n} " + "x" * 90 for n in range(60)))
        texts = [json.dumps(payload) for payload in _posted(service)]
        seen = collections.Counter(int(n) for text in texts for n in re.findall(r"line (\d+) ", text))
        assert len(set(seen.values())) == 1 and sorted(seen) == list(range(60)), way
        assert len(texts) == len(set(texts)) > 1, way


@pytest.mark.parametrize("page", [b"plain\r\n\r\n<html>Log in</html>", b"plain\r\n\r\n\xef\xbb\xbf <html>",
                                  b"html; charset=utf-8\r\n\r\nWelcome"])
def test_a_web_page_in_place_of_an_own_webhook_is_no_delivery(peer, page):
    port = peer(said(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/" + page))
    alerter = SlackAlerter(slack_webhook_url=f"http://127.0.0.1:{port}/hooks/" + "a" * 24)
    assert _outcome(alerter, "x")[0] == "unknown"


@pytest.mark.parametrize("kind", [*CHAT_KINDS, "SMTP", "IMAP"])
def test_an_interrupted_traceback_with_locals_shows_no_secret(kind, chats, monkeypatch, clock, smtp, imap):
    libraries = {"SMTP": (smtplib.SMTP, "docmd"), "IMAP": (imaplib.IMAP4, "_command")}
    cls, method = libraries.get(kind, (http.client.HTTPConnection, "send"))
    real = getattr(cls, method)

    def interrupt(self, *given):
        if given[0] in ("STARTTLS", "CAPABILITY"):  # which come before the log-in
            return real(self, *given)
        stop = SystemExit()  # as Ctrl-C or a time limit, anywhere in a library, and amid other trouble
        stop.__context__ = ValueError(given)
        raise stop
    monkeypatch.setattr(cls, method, interrupt)
    imap.capabilities = "IMAP4rev1"  # LOGIN, which hands the password over as it is
    alerter = chats[kind][0] if kind in chats else mail_alerter(smtp, imap, clock)
    with pytest.raises(SystemExit) as caught:
        alerter.ask("x") if kind == "IMAP" else alerter.post("x")
    assert _secrets_in(_all_of(caught.value, with_locals=True)) == []


def _secrets_in(text):
    coded = [base64.b64encode(secret.encode()).decode()
             for secret in (MAIL_PASSWORD, f"\0bot@example.org\0{MAIL_PASSWORD}")]
    return [secret for secret in (*SECRETS, MAIL_PASSWORD, *coded) if secret in text]


def test_the_librarys_debug_output_shows_no_secret(chats, monkeypatch, capfd, clock, smtp, imap):
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    monkeypatch.setattr("smtplib.SMTP.debuglevel", 2), monkeypatch.setattr("imaplib.Debug", 5)
    for alerter, _ in chats.values():
        assert alerter.post("x") is True
    imap.capabilities = "IMAP4rev1"  # LOGIN, which imaplib would print
    mail_alerter(smtp, imap, clock).open_question("Go?").check()
    told = "".join(capfd.readouterr())
    assert _secrets_in(told) == [] and "Authorization" not in told


def test_a_folder_of_cas_that_lacks_one_costs_nobody_an_alert(monkeypatch, tmp_path):
    (tmp_path / "0123abcd.0").write_text(CA_PEM)  # no name of it for OpenSSL, as where one's own CA is alone
    whole, paths = ssl.create_default_context, ssl.get_default_verify_paths()._replace(capath=str(tmp_path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(ssl, "create_default_context",
                        lambda capath=None: whole(capath=capath) if capath else whole(cadata=CA_PEM))
    monkeypatch.setattr(alerters, "_TRUSTS", {})
    with FakeSlack(FakeClock(), tls_server_context()) as service, FakeSMTP("ssl") as smtp:
        slack = slack_alerter(service)
        senders = [slack] * 4 + [mail_alerter(smtp, use_tls="ssl", password="")]
        done = all_at_once(lambda number: senders[number].post("x"), [(number,) for number in range(5)])
        assert done == {(number,): True for number in range(5)}
        made = service.sessions
        assert slack.post("x") is True and service.sessions == made + 1  # from now on the bundle alone


def test_a_context_without_cas_is_not_kept(monkeypatch, peer):
    paths = ssl.get_default_verify_paths()._replace(capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(alerters, "_TRUSTS", {})
    monkeypatch.setattr(ssl.SSLContext, "_encode_hostname", lambda _, name: name and name + "")  # as gevent
    monkeypatch.setattr(ssl.SSLContext, "cert_store_stats", asyncio.AbstractEventLoop.stop)  # as truststore
    whole, alerter = ssl.create_default_context, slack_at(peer(said(SLACK_OK), tls=tls_server_context()))
    for context, done in ((ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), False), (whole(cadata=CA_PEM), True)):
        monkeypatch.setattr(ssl, "create_default_context", lambda context=context, **_: context)
        assert alerter.post("x") is done


TIGHT = """
import resource, sys, alerters
sys.modules.update(dict.fromkeys(["ssl", "_ssl", "encodings.idna"]))  # none can be loaded
def tell(alerter):
    try:
        print(alerter.send("x").alerter)
    except alerters.AlerterError as error:
        print(type(error).__name__, getattr(error, "outcome", ""), error)
def slack(url):
    return alerters.SlackAlerter(slack_token="xoxb-1", slack_channel_id="C1", slack_api_url=url)
def mail(use_tls):
    sys.modules.pop("encodings.idna", None)  # an address takes it
    return alerters.SMTPEmailAlerter(smtp_server="127.0.0.1", smtp_port={smtp}, use_tls=use_tls,
                                     sender_email="bot@example.org", recipient_email="ann@example.org")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 12))
print(alerters.post("x"))
job = alerters.watch(lambda: None)  # what tells of a failure cannot be read even now
resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
alerter = slack("http://127.0.0.1:{port}/api")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 12))
print(job(), alerter.post("x"))
tell(alerter)
resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
tell(alerter), tell(mail(False)), tell(mail(True)), tell(slack("https://x.test/api"))
"""
BUILT_WITHOUT = ("this Python was built without ssl: it reaches http:// addresses on this machine, and mail "
                 "servers with use_tls=False")
TOO_MANY = "this process has too many files open: close some, or raise `ulimit -n`"


@posix
def test_a_process_without_files_or_ssl_is_told_and_posts_once_it_can(peer):
    with FakeSMTP() as smtp:
        program = TIGHT.format(smtp=smtp.port, port=peer(said(SLACK_OK)))
        flavor = {"ALERTERS_FLAVOR": "console"}
        done = end_of(start_program("-c", program, python=["-S", "-W", "error"], env=flavor))
    assert done.stdout == (
        f"False\nNone False\nDeliveryError not_sent slack: Too many open files: {TOO_MANY}\nslack\nsmtp_email"
        f"\nConfigError  smtp_email: {BUILT_WITHOUT}\nConfigError  slack: {BUILT_WITHOUT}\n"), done.stderr


@pytest.mark.parametrize("field", ["smtp_server", "imap_server"])
def test_a_host_that_is_none_is_refused_when_set(field):
    hosts = {  # a mail server's name: what is said of it, or "" where it may be
        **dict.fromkeys(["mail.example.org", "mail.example.org.", "localhost", "127.0.0.1", "::1", "my_relay",
                         "fe80::1%eth0", "xn--strae-oqa.de"], ""),
        **{host: f"{host!r} is no host's name" for host in (
            "smtp..example.org", "mail example.org", "-x.org", "127.999.1.1", "1.2", "::12345", "bot@x.org")},
        "a" * 64 + ".org": f"'{'a' * 59}…' is no host's name", "stra\u00dfe.de": "xn--strae-oqa.de",
        "B\u00dcCHER.example": "xn--bcher-kva.example"}
    for host, wanted in hosts.items():
        problem = ""
        try:
            SMTPEmailAlerter(**{"smtp_server": "h", "sender_email": "bot@example.org", field: host})
        except ConfigError as error:
            problem = str(error).rpartition(": ")[2].replace("write its host as ", "")
        assert problem == wanted, host


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_an_ipv6_address_may_have_a_scope(peer, monkeypatch):
    heads, scopes, connect = [], [], socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda s, at: scopes.append(at[3]) or connect(s, at))
    port = peer(said(SLACK_OK, heads=heads), host="::1")
    assert slack_at(port, "http", "[::1%251]").post("x") is True
    assert f"Host: [::1]:{port}" in heads[0].split("\r\n") and scopes == [1]


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_a_redirect_is_refused_and_the_token_goes_nowhere(chats, kind):
    alerter, service = chats[kind]
    with FakeSlack() as elsewhere:
        for status in (302, 307, 308):
            service.fail("POST", Fault("redirect", status=status, to=elsewhere.api_url + "/chat.postMessage"))
            outcome, error = _outcome(alerter, "x")
            assert (outcome, error.status, error.hint) == ("not_sent", status, ODD)
        assert (len(service.calls), elsewhere.calls) == (3, [])


@pytest.mark.parametrize("cls, fields, url", [
    (SlackAlerter, {"slack_token": "xoxb-1", "slack_channel_id": "C1"}, "slack_api_url"),
    (DiscordAlerter, {"discord_token": "t", "discord_channel_id": "1"}, "discord_api_url"),
    (SlackAlerter, {}, "slack_webhook_url"), (DiscordAlerter, {}, "discord_webhook_url")])
def test_only_https_and_http_to_this_machine_can_be_configured(cls, fields, url):
    good = """https://slack.example/api http://127.0.0.1:1/api http://localhost/api http://[::1]:1/api
        http://LOCALHOST:1/api HTTPS://slack.example/api http://127.8.9.1:5/ http://[::1%251]:5/""".split()
    bad = """http://slack.example/api ftp://slack.example file:///etc/passwd slack.example/api https://
        data:,x https://[::1 https://user:pw@slack.example https://slack.example:port
        http://127.0.0.1.evil.example http://localhost.evil.example http://127.evil.example
        http://127.999.999.999 http://127.1/x http://[::1]evil.test http://evil.test[::1]
        http://127.0.0.\u0661 https://smtp..example https://b\u00fccher.example/x https://slack.example:0
        https://slack.example:99999/x http://127.0.0.1@evil.example/ http://127.0.0.1\\@evil.test/""".split()
    for address in [*good, *bad, "https://a b.example", "https://x\nHost: y", f"https://{'a' * 70}.example"]:
        try:
            cls(**fields, **{url: address})
            built = True
        except ConfigError as error:
            built = False
            assert "\n" not in str(error) and url in str(error)
            assert "webhook" not in url or address not in str(error) or len(address) < 9  # a secret
        assert built is (address in good), address


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_from_the_environment_carries_tls_and_sees_no_token(monkeypatch, tmp_path, peer, variable):
    heads, context = [], tls_server_context(trusted=False)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + b"HTTP/1.1 100 Continue\r\n\r\n"

    def carry(link):  # it is the proxy, and then the service
        heads.append(heard(link).decode())
        link.sendall(b"HTTP/1.0 200 Connection established\r\n\r\n")
        with context.wrap_socket(link, server_side=True) as link:
            said(hints + SLACK_OK, heads=heads)(link)  # the first answers are passed over
    (tmp_path / "ca.pem").write_text(ALERTS_TEST_PEM)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv(variable, f"http://ann:proxy-password@127.0.0.1:{peer(carry)}")
    assert slack_at(443, host="alerts.test").post("x") is True
    to_proxy, to_slack = heads
    assert to_proxy.startswith("CONNECT alerts.test:443 ") and "Proxy-Authorization: Basic " in to_proxy
    assert "xoxb-1" not in to_proxy and "xoxb-1" in to_slack and "Proxy" not in to_slack
    assert "\r\nHost: alerts.test\r\n" in to_slack and alerters._hide("proxy-password") == "***"
    outcome, error = _outcome(slack_at(443, host="other.test"), "x")
    assert (outcome, error.code, len(heads)) == ("not_sent", "certificate", 3)  # not its name


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_is_never_reached_through_a_proxy(monkeypatch, slack, peer, host):
    heads = []
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{peer(said(b'', heads=heads))}")
    monkeypatch.setenv("no_proxy", "near.test")
    outcome, _ = _outcome(slack_alerter(slack, slack_api_url=f"http://{host}:{slack.port}/api"), "x")
    ways = [alerters._proxy_for("x", name, 443) for name in (host.strip("[]"), "near.test")]
    assert (outcome, heads, ways) == ("sent" if host != "[::1]" else "not_sent", [], [None, None])


class Workshop:
    """Makes certificates with the openssl of this machine, for "alerts.test" and 127.0.0.1, by one CA."""
    def __init__(self, folder):
        self.folder = folder
        (folder / "index").touch()
        (folder / "index.attr").write_text("unique_subject = no")
        (folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndir={folder}\ndatabase=$dir/index\nnew_certs_dir=$dir\nrand_serial=1\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n[req]\ndistinguished_name=n\n[n]\n")
        for kind, how in (("ec", "ec -pkeyopt ec_paramgen_curve:prime256v1"), ("rsa", "rsa:1024")):
            self.run(f"req -new -nodes -config ca.cnf -subj /CN=x -newkey {how} -keyout {kind}.key "
                     f"-out {kind}.csr")
        self.ca = self.make("ca", issuer=None, extensions="basicConstraints=critical,CA:TRUE\n"
                            "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash")
        self.expired = self.make("expired", end="200102000000Z")
        self.weak = self.make("weak", key="rsa")
        self.good = self.make("good")
        self.client = self.make("client", extensions="basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth")
        self.lax_ca = self.make("lax-ca", extensions="basicConstraints=CA:TRUE", issuer=None)
        self.lax = self.make("lax", issuer="lax-ca", extensions="subjectAltName=IP:127.0.0.1")
        self.run("rehash .")

    def make(self, name, end="490101000000Z", key="ec", issuer="ca",
             extensions="basicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid"):
        if "CA:FALSE" in extensions:
            extensions += "\nsubjectAltName=DNS:alerts.test,IP:127.0.0.1"
        (self.folder / f"{name}.ext").write_text(extensions + "\n")
        self.run(f"ca -batch -notext -config ca.cnf -in {key}.csr -out {name}.pem -extfile {name}.ext -subj "
                 f"/CN={name} -startdate 200101000000Z -enddate {end} -keyfile ec.key "
                 + (f"-cert {issuer}.pem" if issuer else "-selfsign"))
        return str(self.folder / f"{name}.pem")

    def run(self, command):
        subprocess.run(["openssl", *command.split()], cwd=str(self.folder), check=True, timeout=60,
                       stdin=subprocess.DEVNULL, capture_output=True)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here")
    return Workshop(tmp_path_factory.mktemp("certificates"))


class Scene:
    """What a row of CAUSES needs: peers to be met, the environment, and an alerter that fails there."""
    def __init__(self, monkeypatch, workshop, tmp_path, peer):
        self.patch, self.shop, self.tmp, self.peer = monkeypatch, workshop, tmp_path, peer
        monkeypatch.setattr(alerters, "_BODY_CAP", 500_000)

    def http(self, *said_so, talk=None, clock=None):
        return slack_at(self.peer(talk or said(*said_so)), "http", clock=clock)

    def tls(self, name, trusted=True, demands=False, version=None, host="127.0.0.1"):
        """A Slack whose certificate is this one, to a client that trusts the workshop's CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # for the weak one
        key = "rsa.key" if name == "weak" else "ec.key"
        context.load_cert_chain(getattr(self.shop, name), str(self.shop.folder / key))
        context.verify_mode = ssl.CERT_REQUIRED if demands else ssl.CERT_NONE
        context.maximum_version = version or context.maximum_version
        port = self.peer(said(SLACK_OK), tls=context)
        alerter = slack_at(port, host=host)
        if host != "127.0.0.1":
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
            self.patch.setattr(socket, "getaddrinfo", lambda *_: found)
        return self.having("SSL_CERT_FILE", self.shop.ca, alerter) if trusted else alerter

    def looking_up(self, found, clock=None):
        def look_up(*_):
            if isinstance(found, Exception):
                raise found
            time.sleep(0.06 if clock else 0)
            return found
        self.patch.setattr(socket, "getaddrinfo", look_up)
        return slack_at(443, host="alerts.test", clock=clock)

    def connecting(self, error):
        def connect(self, address):
            assert self.gettimeout() <= 10
            raise error
        self.patch.setattr(socket.socket, "connect", connect)
        return slack_at(PORT_1)

    def ca(self, variable, content):
        """A variable that names a file with this content, or a folder, or nothing."""
        self.patch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)  # which takes its time
        path = self.tmp / "ca.pem"
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        return self.having(variable, str(path), slack_at(PORT_1))

    def no_ca(self):
        paths = ssl.get_default_verify_paths()._replace(cafile=None, capath=None)
        self.patch.setattr(ssl, "get_default_verify_paths", lambda: paths)
        self.patch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
        self.patch.setattr(alerters, "_TRUSTS", {})
        return self.tls("good", trusted=False)

    def having(self, variable, value, alerter):
        self.patch.setenv(variable, value)
        return alerter

    def proxy(self, answer, login="", variable="HTTPS_PROXY", clock=None):
        """alerts.test behind a proxy that gives this answer to CONNECT, or at this address."""
        if isinstance(answer, bytes):
            answer = f"http://{login}127.0.0.1:{self.peer(said(answer) if answer else stalled)}"
        return self.having(variable, answer, slack_at(443, host="alerts.test", clock=clock))

    def mail(self, *said_so, port=None, **fields):
        return in_time(SMTPEmailAlerter, FakeClock())(**{
            "smtp_server": "127.0.0.1", "smtp_port": port or self.peer(said(*said_so)),
            "sender_email": "bot@example.org", "recipient_email": ANN, "use_tls": False, **fields})

MAYBE = "; it may have arrived, so look before you send it again"
OK, LOG_IN = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 407 Log in\r\nProxy-Authenticate: %b\r\n\r\n"
CHECK_NAME = "check the host's name and DNS; a chat may need a proxy (HTTPS_PROXY)"
SLOW = "it is slow, or a firewall drops it: check host and port; a chat may need a proxy"
ODD = "something else than the service seems to answer there: check the address and the port"
LATE, LARGE = f"timed out: {SLOW}{MAYBE}", f"the answer is too large: {ODD}{MAYBE}"
REFUSED = "TLS with 127.0.0.1:PORT: the certificate is not trusted"
UNKNOWN_CA = f"{REFUSED} (unable to get local issuer certificate)"
RULES = "it breaks RFC 5280 (Python 3.13 and later are strict): its owner has to make certificate or CA anew"
RENEW = "its owner has to renew it, unless this machine's date is wrong: DATE"
BROKE_OFF = ("TLS with 127.0.0.1:PORT: the handshake broke off (REASON): a firewall in between may forbid "
             "it, or that port does not speak TLS at once: check host, port and network")
NO_TLS = ("TLS with 127.0.0.1:PORT: it does not speak TLS at once on that port (REASON): check host and "
          'port; mail does on 465 (SMTP) and 993 (IMAP), and on 587 or 25 by use_tls="starttls"')
NOT_AGREED = ("TLS with 127.0.0.1:PORT: no TLS could be agreed on (REASON): ask its admin: it has to speak "
              "TLS 1.2 or later, with today's ciphers, and must not demand a certificate of its clients")
PORT_1, NOBODY = 1, "nothing listens there: check host and port"
PROXY, CUT = "the proxy 127.0.0.1:PORT of HTTPS_PROXY: ", "a proxy or firewall in between may have cut it off"
NO_PROXY = "has to be http://HOST:PORT, of a proxy without TLS or SOCKS; odd letters of a log-in as %XX"
NO_LINK = "127.0.0.1:PORT: no connection"
CAUSES = {  # what is done: who fails, and the whole message
    "no such host": (lambda s: s.looking_up(socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        f"alerts.test:443: name look-up failed (Name or service not known): {CHECK_NAME}"),
    "a slow resolver": (lambda s: s.looking_up([], _Hurried()),
        "alerts.test:443: name look-up took too long: check this machine's DNS"),
    "nobody listens": (lambda s: slack_at(PORT_1), f"{NO_LINK} (Connection refused): {NOBODY}"),
    "unheard": (lambda s: s.connecting(socket.timeout("timed out")), f"{NO_LINK} (timed out): {SLOW}"),
    "no way": (lambda s: s.connecting(OSError(errno.ENETUNREACH, "No way")),
        f"{NO_LINK} (No way): there is no way to it from here: check the network"),
    "a sandbox": (lambda s: s.connecting(OSError(errno.EACCES, "Permission denied")),
        f"{NO_LINK} (Permission denied): a sandbox or firewall of this machine forbids it"),
    "no TLS": (lambda s: slack_at(s.peer(said(b"HTTP/1.1 400\r\n\r\n"))), NO_TLS),
    "closed in the handshake": (lambda s: slack_at(s.peer(lambda link: link.recv(9999))), BROKE_OFF),
    "silent in the handshake": (lambda s: slack_at(s.peer(stalled), clock=_Hurried()), BROKE_OFF),
    "TLS 1.1": (lambda s: slack_at(s.peer(said(b"\x15\x03\x01\x00\x02\x02\x46"))), NOT_AGREED),
    "expired": (lambda s: s.having("REQUESTS_CA_BUNDLE", str(s.shop.folder), s.tls("expired", trusted=False)),
        f"{REFUSED} (certificate has expired): {RENEW}"),  # its CA is found in a folder with hashed names
    "another host": (lambda s: s.tls("good", host="critical"), "TLS with critical:PORT: the certificate "
        "is not trusted (REASON): check the host's name; a proxy or a log-in page may answer in its place"),
    "too weak": (lambda s: s.tls("weak"),
        f"{REFUSED} (REASON): its owner has to replace it: RSA of 2,048 bits or more, SHA-256"),
    "a client's own": (lambda s: s.tls("client"), f"{REFUSED} (REASON): {RULES}"),
    "an own CA not named": (lambda s: s.tls("good", trusted=False),
        f"{UNKNOWN_CA}: if a proxy or an own CA is in use, name its PEM file in SSL_CERT_FILE"),
    "another CA named": (lambda s: s.tls("lax_ca"),
        f"{REFUSED} (REASON): no CA in TMP/ca.pem vouches for it: add the right one there (SSL_CERT_FILE)"),
    "a client's certificate": (lambda s: s.tls("good", demands=True),
        "TLS with the server: it demands a certificate of its clients (REASON): that is not supported: ask "
        "its admin for an address that needs none"),
    "the same, TLS 1.2": (lambda s: s.tls("good", demands=True, version=ssl.TLSVersion.TLSv1_2), NOT_AGREED),
    "a CA file that is missing": (lambda s: s.ca("SSL_CERT_FILE", None),
        "SSL_CERT_FILE (TMP/ca.pem) cannot be read: No such file or directory"),
    "a CA file in DER": (lambda s: s.ca("CURL_CA_BUNDLE", ssl.PEM_cert_to_DER_cert(CA_PEM)),
        "CURL_CA_BUNDLE (TMP/ca.pem) holds no whole certificate in PEM form; openssl x509 -inform der -in "
        "TMP/ca.pem makes it of DER"),
    "a folder of CAs without hashes": (lambda s: s.ca("REQUESTS_CA_BUNDLE", "folder"),
        "REQUESTS_CA_BUNDLE (TMP/ca.pem) is a folder without hashed names: run openssl rehash TMP/ca.pem"),
    "no CA at all": (lambda s: s.no_ca(),
        f"{UNKNOWN_CA}: this machine has no CAs: install ca-certificates, or set SSL_CERT_FILE"),
    "a refused log-in": (lambda s: s.proxy(b"HTTP/1.1 401 Who?\r\n\r\n", "ann:geheim-123@", "https_proxy"),
        "the proxy 127.0.0.1:PORT of https_proxy: HTTP 401 Who?: write the right log-in into https_proxy: "
        "http://USER:PASSWORD@HOST:PORT"),
    "NTLM alone": (lambda s: s.proxy(LOG_IN % b"NTLM\r\nProxy-Authenticate: Negotiate", "ann:geheim-123@"),
        f"{PROXY}HTTP 407 Log in: it takes NTLM, Negotiate alone, which is not supported: ask its admin"),
    "a proxy forbids": (lambda s: s.proxy(b"HTTP/1.1 403 No\r\n\r\n", variable="ALL_PROXY"), "the proxy "
        "127.0.0.1:PORT of ALL_PROXY: HTTP 403 No: ask its admin to allow CONNECT to alerts.test:443"),
    "a proxy cannot reach it": (lambda s: s.proxy(b"HTTP/1.1 500 Unable\r\n\r\n"),  # as tinyproxy and squid
        f"{PROXY}HTTP 500 Unable: it cannot reach alerts.test:443 now: try again later"),
    "no proxy": (lambda s: s.proxy("127.0.0.1:1"), f"{PROXY}no connection (Connection refused): {NOBODY}"),
    "a proxy that is none": (lambda s: s.proxy(b"nonsense\r\n"),
        f"{PROXY}no sensible answer (BadStatusLine): check that an HTTP proxy listens there"),
    "a proxy says nothing": (lambda s: s.proxy(b"", clock=_Hurried(29.8)),
        f"{PROXY}timed out: check that an HTTP proxy listens there"),
    "a SOCKS one": (lambda s: s.proxy("socks5h://:geheim@x", variable="all_proxy"), f"all_proxy {NO_PROXY}"),
    "no proxy's address": (lambda s: s.proxy("http://a:80/geheim-123@x.test"), f"HTTPS_PROXY {NO_PROXY}"),
    "no word": (lambda s: s.http(b""), f"Remote end closed connection without response: {CUT}{MAYBE}"),
    "no time": (lambda s: s.http(b"", clock=_Hurried(31)),
        "127.0.0.1:PORT: no time left: what came before took it all"),
    "no answer": (lambda s: s.http(talk=stalled, clock=_Hurried()), LATE),
    "an answer that drips": (lambda s: s.http(talk=dripping, clock=_Hurried()), LATE),
    "a body without end": (lambda s: s.http(OK + b"\r\n", b"x" * 99_999, 9), LARGE),
    "endless 103": (lambda s: s.http(b"", b"HTTP/1.1 103 x\r\nX: " + b"x" * 9999 + b"\r\n\r\n", 99), LARGE),
    "an answer longer than any memory": (lambda s: s.http(OK + b"Content-Length: 99999999999999\r\n\r\n{"),
        f"no sensible answer (IncompleteRead): {CUT}{MAYBE}"),
    "mail behind a proxy": (lambda s: s.having("HTTPS_PROXY", "http://127.0.0.1:1", s.mail(port=PORT_1)),
        f"{NO_LINK} (Connection refused): {NOBODY}; mail does not go through the proxy of HTTPS_PROXY"),
    "SMTP that closes": (lambda s: s.mail(port=s.peer(repr)), f"Connection unexpectedly closed: {CUT}"),
    "SMTP that never ends its answer": (lambda s: s.mail(b"220-", (b"x" * 8000 + b"\r\n220-") * 99, 99),
        f"the answer is too large: {ODD}"),
    "what is no SMTP": (lambda s: s.mail(b"220 x\r\nno SMTP\r\n"), f"no sensible answer (ValueError): {ODD}"),
    "SMTP that speaks no TLS at once": (lambda s: s.mail(b"220 hello\r\n", use_tls="ssl"), NO_TLS)}
if sys.version_info >= (3, 13):
    CAUSES["an own CA that Python 3.13 refuses"] = (lambda s: s.having(
        "CURL_CA_BUNDLE", s.shop.lax_ca, s.tls("lax", trusted=False)), f"{REFUSED} (REASON): {RULES}")


@pytest.mark.parametrize("cause", CAUSES)
def test_what_is_wrong_on_the_way_is_said(cause, monkeypatch, workshop, tmp_path, peer):
    arrange, wanted = CAUSES[cause]
    alerter = arrange(Scene(monkeypatch, workshop, tmp_path, peer))
    with pytest.raises((DeliveryError, ConfigError)) as caught:
        alerter.send("x")
    message = str(caught.value)
    for words, name in ((f"{workshop.folder}|{tmp_path}", "TMP"), (r"(?<=[1l]:)\d+", "PORT"),
                        (r"\d{4}-\d\d-\d\d", "DATE")):
        message = re.sub(words, name, message)
    if "(REASON)" in wanted:  # OpenSSL's words, which change with its version
        message = re.sub(r"\(.+?\)(?=: )", "(REASON)", message, count=1)
    assert message == f"{alerter.flavor}: {wanted}"
    assert alerter.clock.naps == [] or not re.search(": HTTP [34]|certificate", message)  # locks accounts
    assert "geheim" not in _all_of(caught.value, with_locals=True)


# === Images ===
class _Figure:
    """A figure of matplotlib, or a chart with a name of its own; without a picture it cannot be drawn."""
    def __init__(self, png=PNG):
        self.png, self.name = png, "view_1"

    def savefig(self, file, format=None, **_):
        assert format == "png"
        if not self.png:
            raise ZeroDivisionError("nothing\nto plot for @everyone") if self.png == b"" else _Speechless
        file.write(self.png)


class _Speechless(Exception):
    __str__ = None  # which raises TypeError


class _Picture:
    """A picture of PIL; PNG lacks some of its modes."""
    def __init__(self, mode="RGB"):
        self.mode, self.convert = mode, _Picture

    def save(self, file, format=None, **_):
        if self.mode not in ("RGB", "RGBA", "I;16") or format.lower() != "png":
            raise OSError(f"cannot write mode {self.mode} as {format}")
        file.write(PNG + self.mode.encode())


def _files_at(kind, service):
    """Return (name, bytes) of what arrived, in order, where it is shown in the alert's place."""
    if kind == "slack":
        (place,) = {file["shared_in"] for file in service.files.values()}
        assert place == ("C0ALERTS", service.posted[0]["ts"])
        return [(file["name"], file["bytes"]) for file in service.files.values()]
    return [pair for row in service.posted for pair in row["files"].items()]


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_images_of_every_sort_arrive_byte_for_byte(chats, tmp_path, kind, caplog):
    alerter, service = chats[kind]
    (tmp_path / "löss 1.png").write_bytes(GIF)
    (tmp_path / "3-l_ss_1.gif").write_bytes(GIF)
    images = ["https://x.example/a.png?b=1&c=2", str(tmp_path / "3-l_ss_1.gif"), tmp_path / "löss 1.png",
              tmp_path / "löss 1.png", bytearray(GIF), memoryview(PNG), _Figure(), _Picture(),
              _Picture("CMYK"), _Picture("I"), PNG]
    assert alerter.post(AlerterMessage("Plots", images=images)) is True
    pages = _posted(service)
    names, data = zip(*_files_at(kind, service))
    assert data == (GIF, GIF, GIF, GIF, PNG, PNG, PNG + b"RGB", PNG + b"RGBA", PNG + b"I;16", PNG)
    assert json.dumps(pages[0]).count("https://x.example/a.png?b=1&c=2\"") == 1
    if kind == "slack":  # in one reply
        assert names[:6] == ("3-l_ss_1.gif", *["löss 1.png"] * 2, "image-5.gif", "image-6.png", "image-7.png")
        assert len([call for call in service.calls if "completeUpload" in call.path]) == 1
    else:  # under names that attachment:// is sure to find, the first one in the embed of the title
        assert names[:4] == ("3-l_ss_1.gif", "l_ss_1.gif", "3-3-l_ss_1.gif", "image-5.gif")
        shown = [embed["image"]["url"] for page in pages for embed in page["embeds"]]
        assert shown[1:] == ["attachment://" + name for name in names] and pages[0]["embeds"][0]["title"]
    assert (service.warnings, caplog.records) == ([], [])


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_images_that_cannot_be_read_are_named_and_the_text_goes_out(chats, tmp_path, caplog, kind):
    alerter, service = chats[kind]
    images = [tmp_path / "none.png", _Figure(b""), b"", 5, None, "", "https://u:geheim@x/y.png", "a\0b",
              "https://x.example/a b.png?geheim", ("a", "b", "c"), ("a.png", "text"), object, "s3://b/x.png",
              _Figure(None)]
    images += [PNG] * (kind == "slack webhook")  # which takes none
    assert alerter.post(AlerterMessage("Plots", "the text", images=images)) is True
    seen = _seen(kind, service)
    assert "the text" in seen and re.search(r"none.png could not be shown: .*[Ff]ile", seen)
    for address in "https://x/y.png", "https://x.example/a b.png", "s3://b/x.png":
        assert f"{address} could not be shown" in seen.replace("\\", "")
    assert seen.count("could not be shown") == len(images) == len(errors_of(caplog, logging.WARNING))
    assert _pings(kind, service.posted[0]["payload"]) == [] and "geheim" not in seen + caplog.text


@pytest.mark.parametrize("kind, why", [("slack", "missing_scope"), ("discord", "50013")])
def test_refused_images_are_named_under_the_alert(chats, caplog, kind, why):
    alerter, service = chats[kind]  # each is tried alone, which leaves no message of its name
    service.scopes, service.permissions = {"chat:write"}, {"300": {*EVERYTHING} - {"ATTACH_FILES"}}
    assert alerter.post(AlerterMessage("Plots", "the text", images=[PNG] * 3)) is True
    assert re.search(f"the text(.|\n)*image-3.png could not be shown: .*{why}", _seen(kind, service))
    levels = {record.levelname for record in caplog.records}
    assert (levels, len(service.posted), "plain" in caplog.text) == ({"WARNING"}, 2, False)
    service.fail("postMessage", None, Fault(status=403))  # the note alone
    assert alerter.post(AlerterMessage("Plots", "the text", images=[PNG])) is True


def test_files_of_any_kind_arrive_under_their_names_and_types(chats, relay, tmp_path, monkeypatch, caplog):
    binary, csv = "application/octet-stream", b"a;\xc3\xa4\r\n"
    for name in ("Umsätze 2026.csv", "売上.csv", "Dockerfile", "a.csv", "b.csv"):
        (tmp_path / name).write_bytes(csv)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    opened = open(tmp_path / "a.csv", "rb"), open(tmp_path / "b.csv", encoding="utf-8")
    cases = [  # how it is given: its name, type and content
        (tmp_path / "Umsätze 2026.csv", "Umsätze 2026.csv", "text/csv", csv),
        ((tmp_path / "売上.csv").as_uri().replace("///", "////"), "売上.csv", "text/csv", csv),
        ("~/Dockerfile", "Dockerfile", binary, csv), (("x.csv.gz", b"\x1f"), "x.csv.gz", binary, b"\x1f"),
        (("a/b\\x \"=?1.json", b"{}"), "x _=_1.json", "application/json", b"{}"),
        (("x.pdf", memoryview(b"%PDF")), "x.pdf", "application/pdf", b"%PDF"),
        (("x.eml", b"Subject: x\n\n"), "x.eml", binary, b"Subject: x\n\n"),
        (opened[0], "a.csv", "text/csv", csv), (opened[1], "b.csv", "text/csv", csv),
        (io.BytesIO(b"a\nb\nc"), "file-10.bin", binary, b"a\nb\nc"),
        (io.StringIO("ä\n"), "file-11.bin", binary, "ä\n".encode()),
        (SimpleNamespace(read=lambda: b"abc", seek=io.BufferedIOBase().seek),  # as a network's answer
         "file-12.bin", binary, b"abc"), (("plot", PNG), "plot", "image/png", PNG),
        (("ü" * 300 + ".json", b"x"), "ü" * 95 + ".json", "application/json", b"x")]
    given, wanted = [case[0] for case in cases], [case[1:] for case in cases]
    for file in given:
        with contextlib.suppress(AttributeError, OSError):
            file.seek(0, 2)  # as it stands after it was written
    (slack_bot, slack), (discord_bot, discord) = chats["slack"], chats["discord"]
    message, targets = AlerterMessage("t", files=given), [slack_bot, discord_bot, relay_alerter(relay)]
    assert (alerters._post_to(targets, message, None), caplog.records) == (True, [])
    assert [(file["name"], file["bytes"]) for file in slack.files.values()] == [
        (name, content) for name, _, content in wanted]
    got = []
    for call in discord.calls:
        heads = re.findall(rb'name="files\[\d\]"; filename="(.+)"\r\nContent-Type: ([^;\r]+)', call.body)
        got += [(*(word.decode() for word in head), data) for head, data in zip(heads, call.files.values())]
    assert got == wanted
    assert [(part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
            for part in relay.mails[0].message.iter_attachments()] == wanted
    [bare] = AlerterMessage("t", files=opened[0])._files("x")
    assert (bare.name, bare.data) == ("a.csv", csv)
    for file in opened:
        file.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_what_is_no_regular_file_or_too_large_is_refused_at_once(chats, tmp_path, caplog):
    alerter, service = chats["slack"]
    os.mkfifo(tmp_path / "pipe.log")
    with open(tmp_path / "huge.bin", "wb") as huge:
        huge.truncate(1 << 40)  # nobody has the memory to read it
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, open(tmp_path / "huge.bin", "rb") as opened, \
            open(tmp_path / "out.log", "w") as out:
        out.write("so far; ")
        files = [out, tmp_path / "pipe.log", "/dev/zero", tmp_path, tmp_path / "huge.bin", opened, pipe,
                 "https://x.example/a\n.csv", ("a.csv", "words"), ("zeros", bytes(100_000_001))]
        assert alerter.post("the text", files=files, images=io.BytesIO(b"")) is True
        out.write("and on")
    os.close(writer)
    assert (tmp_path / "out.log").read_text() == "so far; and on"
    odd, large = "could not be shown: it is no regular file", "could not be shown: it is larger than 100 MB"
    assert errors_of(caplog, logging.WARNING) == [f"slack: {line}" for line in (
        "image-1 could not be shown: it is empty",
        "out.log could not be shown: it is not open for reading", f"pipe.log {odd}", f"zero {odd}",
        f"{tmp_path.name} {odd}", f"huge.bin {large}", f"huge.bin {large}", f"file-7 {odd}",
        "https://x.example/a .csv could not be shown: it is no file, and no address of a picture",
        "a.csv could not be shown: str is no URL, path, bytes, open file, figure or image", f"zeros {large}")]
    assert service.posted[0]["payload"]["text"].count("could not be shown") == 11


def test_a_figure_is_drawn_once_for_all_alerters_and_outside_their_threads(chats, relay):
    drawn, figure, array = [], _Figure(), type("Array", (list,), {"ndim": 3})([[1], [2]])
    figure.savefig = lambda file, **_: (drawn.append(threading.current_thread()), file.write(PNG))
    targets = [alerter for alerter, _ in chats.values()] + [relay_alerter(relay)]
    assert alerters._post_to(targets, AlerterMessage("t", images=[figure]), None) is True
    assert drawn == [threading.main_thread()]
    assert [list(row["files"].values()) for row in chats["discord"][1].posted] == [[PNG]] * 2
    [named] = AlerterMessage("t", images=array)._files("x")  # one in place of pictures
    assert named.label.startswith("image-1 could not be shown: ")


SMALL_FILES = [(f"part {number}.log", b"x%d" % number) for number in range(10)]
MANY_FILES = {"pictures and files": {"images": [PNG] * 7, "files": SMALL_FILES[:4]},
    "addresses": {"images": [f"http://x/{n}" for n in range(40)], "metadata": dict.fromkeys(range(160), "")},
    "all": {"body": LONG_TRACE, "metadata": {n: n for n in range(60)}, "files": SMALL_FILES}}


@pytest.mark.parametrize("kind, case", [*itertools.product(FILE_KINDS, MANY_FILES)])
def test_no_file_is_lost_among_many(chats, caplog, kind, case):
    alerter, service = chats[kind]
    fields = MANY_FILES[case]
    images, files = fields.get("images", []), fields.get("files", [])
    assert alerter.post(AlerterMessage("Plots", **fields)) is True
    got = [data for name, data in _files_at(kind, service) if name != "message.txt"] if files else []
    assert sorted(got) == sorted([PNG] * images.count(PNG) + [data for _, data in files])
    assert kind == "slack" or all(len(row["files"]) <= 10 for row in service.posted)
    sent = json.dumps(_posted(service))
    assert [url for url in images if url != PNG and url + '"' not in sent] == []
    assert (_trouble(service), caplog.records) == ([], [])


# === check ===
def _without(what):
    return lambda s: (s.scopes if isinstance(s, FakeSlack) else s.permissions["300"]).discard(what)


def _now(**changed):
    return lambda service: service.channels[service.channel].update(changed)


def test_check_says_a_line_a_point(chats):
    assert {kind: alerter.check() for kind, (alerter, _) in chats.items()} == {
        "slack": "ok    token: alerts in Example\nok    channel alerts\nok    may read replies",
        "slack webhook": "ok    the webhook's form is right; only a post can tell more",
        "discord": "ok    token: alerts\nok    channel alerts\nok    may read replies",
        "discord webhook": "ok    webhook hook for channel 300"}
    assert ConsoleAlerter().check().startswith("ok    writes to stderr; ")
    said = slack_alerter(chats["slack"][1], slack_channel_id="#alerts").check()
    assert said.endswith("\nnote  channel #alerts: only an id (C…) can be tried without a post")
    assert not [row for _, service in chats.values() for row in service.rows]


@pytest.mark.parametrize("kind, change, words, fails", [
    ("slack", _without("chat:write"), "chat:write is missing .to post.: add it, reinstall the app", True),
    ("slack", _without("files:write"), "note  scope files:write is missing .for images", False),
    ("slack", _without("channels:read"), "note  channel C0ALERTS: missing_scope", False),
    ("slack", _without("channels:history"), "may read replies: .*missing_scope.*channels:history", True),
    ("slack", lambda s: s.channels.clear(), "replies: channel_not_found: give the channel's id", True),
    ("slack", _now(is_member=False, is_archived=True), "is archived.*: not_in_channel.*: invite", True),
    ("slack", lambda s: setattr(s, "token", "xoxb-new"), "invalid_auth", True),
    ("discord", lambda s: setattr(s, "token", "new"), "401: Unauthorized: bad bot token: reset it", True),
    ("discord", lambda s: s.fail("GET", Fault(status=400, body={"message": "?", "errors": 5})), "[(]5", True),
    ("discord", _without("VIEW_CHANNEL"), "50001 Missing Access: .*View Channel", True),
    ("discord", _now(type=4), "takes no messages", True), ("discord", _now(type=13), "ok +channel", False),
    ("discord", lambda s: s.delete(s.say("7", "hi")), "ok    may read replies", False),
    ("discord", lambda s: [s.say("7", "hi"), _without("READ_MESSAGE_HISTORY")(s)], "Message History", True),
    ("discord", lambda s: [s.say("7", "hi"), setattr(s, "message_content", False)], "is off", False),
    ("discord", lambda s: s.fail("GET", Fault("html", status=401)), "no answer of Discord: something", True),
    ("discord webhook", lambda s: setattr(s, "webhook_deleted", True), "10015 Unknown Webhook", True)])
def test_check_names_what_fails_and_what_to_do(chats, kind, change, words, fails):
    alerter, service = chats[kind]
    change(service)
    try:
        failed, said = False, alerter.check()
    except DeliveryError as error:
        failed, said = True, str(error) if error.hint else "no hint"
    assert re.search(words, said) and failed is fails and not service.posted


# === The hunt for secrets ===
def _all_of(error, with_locals=False):
    """Return everything an error can tell: texts, attributes, tracebacks, and its whole chain of causes."""
    seen, parts = set(), []
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        parts += [str(error), repr(error), repr(vars(error)), repr(error.args)]
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == __file__:  # our own frames hold the secrets
            trace = trace.tb_next
        parts += traceback.TracebackException(type(error), error, trace, capture_locals=with_locals).format()
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def secret_of(alerter):
    """Return the name of the field with the secret that it uses, and its value."""
    return next((name, str(value)) for name, value in vars(alerter).items()
                if name.endswith(("token", "webhook_url")) and value)


GIVEN_OR_NOT = [("slack", True), ("slack webhook", False), ("discord", False), ("discord webhook", True)]


@pytest.mark.parametrize("kind, referenced", GIVEN_OR_NOT)
def test_no_secret_is_in_any_output_error_or_traceback(chats, monkeypatch, caplog, capfd, kind, referenced):
    echoes = (  # what a service may say of the secret that it was given
        lambda c: Fault(status=403, body={"ok": False, "error": f"no {c}", "message": f"got {c}"}),
        lambda c: Fault(status=200, body={"ok": False, "error": "invalid_blocks",
                                          "response_metadata": {"messages": [c]}}),
        lambda c: Fault(status=400, body={"code": 50035, "message": c,
                                          "errors": {c: {"_errors": [{"message": c}]}}}),
        lambda c: Fault(status=404, body=c.encode(), ctype="text/plain"),
        lambda c: Fault("redirect", to="https://evil.example/" + c), lambda c: Fault("close"))
    alerter, service = chats[kind]
    name, secret = secret_of(alerter)
    if referenced:
        monkeypatch.setenv("HIDDEN", secret)
        alerter = dataclasses.replace(alerter, **{name: "{{env.HIDDEN}}"})
    caplog.set_level(logging.DEBUG)
    told = [repr(alerter), str(alerter), repr(vars(alerter)), repr([alerter])]
    for echo in echoes:
        echoed = echo({"slack": f"Bearer {secret}", "discord": f"Bot {secret}"}.get(kind, secret))
        service.fail("", echoed, times=None)
        for attempt in (lambda: alerter.send(AlerterMessage("t", images=[PNG])), alerter.check,
                        lambda: alerter.decide("Go?", timeout=1)):
            try:
                attempt()
            except AlerterError as error:
                told.append(_all_of(error, with_locals=echoed.kind == "close"))
        service.heal()
    if "webhook" not in kind:
        question = alerter.open_question("Go?")
        told += [json.dumps(question.to_dict()), repr(question), repr(vars(question))]
    told += [repr(record.__dict__) + record.getMessage() for record in caplog.records]
    told = "\n".join([*told, *capfd.readouterr()])
    assert [told[max(0, told.find(secret) - 150):][:210] for secret in SECRETS if secret in told] == []


@pytest.mark.parametrize("kind, referenced", GIVEN_OR_NOT)
def test_no_secret_goes_out_in_a_message_that_holds_it(chats, tmp_path, kind, referenced):
    alerter, service = chats[kind]
    name, secret = secret_of(alerter)
    if referenced:  # one that this process has never seen
        secret = service.token = re.sub("(hook-?|1-|MTIz.)secret", r"\1fresh", secret)
        (tmp_path / "secret").write_text(secret + "\n")
        alerter = dataclasses.replace(alerter, **{name: "{{file.%s}}" % (tmp_path / "secret")})
    text, ending = f"curl -H 'Authorization: Bearer {secret}' failed", secret.rpartition("/")[2]
    with contextlib.suppress(DeliveryError):  # the webhook's fresh secret is not the fake's
        images, files = ["/nowhere/" + ending, "https://x.example/" + ending], [(ending, b"x")]
        own = SlackAlerterParameters(blocks=[{"type": "section", "text": {"type": "mrkdwn", "text": text}}])
        alerter.send(AlerterMessage(text, text, metadata={text: text}, images=images, files=files), own)
    sent = "".join(call.body.decode("utf-8", "replace") for call in service.calls)
    assert sent and ending not in sent and ending.replace("_", "\\\\_") not in sent


def test_a_mistake_in_a_stored_alerter_shows_no_token_in_a_traceback_with_locals():
    write_store({"alerters": {"x": {"flavor": "slack", "chanel": "C1", "slack_token": "xoxb-stored"}}})
    caught = pytest.raises(ConfigError, post, "x", alerter="x")
    assert "xoxb-stored" not in _all_of(caught.value, with_locals=True)
    token, data = StackStore().alerters()["x"]["slack_token"], StackStore()._load()
    assert (repr(token[:9]), data.__sentry_repr__()) == ("'***'", "{…}")  # as rich and Sentry show them


def test_a_webhook_is_masked_with_and_without_what_follows_its_token(chats):
    (alerter, service), token = chats["slack"], "7-secret-" + "k" * 50
    for url in (f"https://example.org/api/webhooks/1/{token}?thread_id=5", f"https://x.example/?sig={token}",
                f"https://discord.com/api/webhooks/1/{token}/slack"):
        alerters._KNOWN_SECRETS.clear()
        SlackAlerter(slack_webhook_url=url)
        alerter.send(f"failed: {url} or https://discord.com/api/webhooks/1/{token} or {token}")
        assert token not in json.dumps(service.posted[-1]["payload"])
    alerter.send("proxy http://ann:geheim%40@proxy.test:80 of redis://:geheim@[::1]/0 http://a.test:80/@x "
                 'smtp://ann@b.test:ge@heim@c.test {"at":"http://a.test:80","to":"ann@b.test"}')
    assert slack_text(service.posted[-1]["payload"]) == (
        "proxy http://ann:*****@proxy.test:80 of redis://:*****@[::1]/0 http://a.test:80/@x "
        'smtp://ann@b.test:*****@c.test {"at":"http://a.test:80","to":"ann@b.test"}')


@pytest.mark.parametrize("given, field, said", [  # given: a file, or the value in the environment
    ("file./no/such\0file", "slack_token", "file /no/such.file cannot be read: embedded null .+"),
    (" ", "slack_token", "env OF_TEST holds no usable secret: nothing, or several lines"),
    ("a\nsecond-secret", "slack_token", "env OF_TEST holds no usable secret: .*"),
    (None, "slack_token", "env OF_TEST is not set"), ("xapp-1", "slack_token", "an app-level token .*"),
    ("https://a.b/c", "slack_token", "is an address.*"), ("xoxb-1", "discord_token", "that is a token of .*"),
    ("https://hooks.slack.com/triggers/1", "slack_webhook_url", "that is no incoming .*"),
    ("http://hooks.example.org/services/T0/B0/aaaaaaaa", "slack_webhook_url", ".*https://.*"),
    ("file:///etc/passwd", "discord_webhook_url", ".*https://.*")])
def test_a_reference_that_leads_to_no_secret_is_one_clear_line(monkeypatch, given, field, said):
    reference, flavor = "{{env.OF_TEST}}", field.partition("_")[0]
    if given and given.startswith("file."):
        reference = "{{" + given + "}}"
    elif given:
        monkeypatch.setenv("OF_TEST", given)
    fields = {field: reference} if "webhook" in field else {f"{flavor}_channel_id": "1", field: reference}
    caught = pytest.raises(ConfigError, FLAVORS[flavor](**fields).post, "x")  # resolved on use
    assert re.fullmatch(f"{flavor}: {field}:? {said}", str(caught.value))
    assert "second-secret" not in _all_of(caught.value)


def test_references_are_resolved_on_use_and_kept_as_they_are(slack, monkeypatch):
    store_alerter(slack, clock=slack.clock, slack_token="{{env.SLACK_TOKEN_OF_TEST}}")
    bot = StackStore().load_alerter("my_slack_alerter")
    monkeypatch.setenv("SLACK_TOKEN_OF_TEST", slack.token)
    assert bot.post("x") is True
    assert "{{env.SLACK_TOKEN_OF_TEST}}" in repr(bot) and slack.token.encode() not in read_store()
    slack.token = "xoxb-rotated"
    monkeypatch.setenv("SLACK_TOKEN_OF_TEST", slack.token)
    assert bot.post("x") is True


def test_a_mistake_shows_no_secret_though_the_traceback_shows_locals(monkeypatch, tmp_path):
    def store(version, secret):
        write_store({"version": version, "alerters": {"team": {"flavor": "slack", "slack_token": secret}},
                     "stacks": {"default": ["team"]}, "active_stack": "default"})

    def unwritable():
        with StackStore()._changing() as data:
            data["alerters"]["other"] = {"slack_token": "xoxb-hidden-6", "no JSON": object()}

    def environment():
        for name, value in ("FLAVOR", "slack"), ("SLACK_TOKEN", "xoxb-hidden-5"), ("TIMEOUT", "-1"):
            monkeypatch.setenv(f"ALERTERS_{name}", value)
        post("x")
    store(1, "xoxb-hidden-1"), (tmp_path / "blank").write_text("hidden 2 of a file")
    monkeypatch.setenv("HOOK", "https://example.org/hidden-3 x")
    reference = "{{file.%s}}" % (tmp_path / "blank")
    for mistake in (lambda: post("x", alerter="no"), lambda: StackStore().register_alerter("team", "console"),
                    lambda: SlackAlerter(slack_token=reference, slack_channel_id="C1").send("x"),
                    lambda: SlackAlerter(slack_webhook_url="{{env.HOOK}}").send("x"),
                    lambda: SlackAlerter(slack_token="xoxb-hidden-9", slack_channel_id="a b"),
                    lambda: SMTPEmailAlerter("h", "no", "hidden-10"), lambda: SlackAlerter(tokn="hidden-11"),
                    lambda: StackStore().register_alerter("x", "slack", timeout="x", slack_token="hidden-12"),
                    lambda: StackStore().update_alerter("team", listen="x", slack_token="hidden-13"),
                    lambda: post("x"), unwritable, lambda: [store(2, "xoxb-hidden-4"), post("x")],
                    lambda: [write_store('{"alerters": "xoxb-hidden-7"'), post("x")], environment,
                    lambda: [store(1, "hidden-8"), os.mkdir(store_file() + ".tmp"),
                             StackStore().set_active_stack("default")]):
        with pytest.raises(AlerterError) as caught:
            mistake()
        assert "hidden" not in _all_of(caught.value, with_locals=True)
    try:
        raise LookupError("what the job failed with")
    except LookupError as lost:  # which the mistake in telling of it does not hide
        mistake = pytest.raises(ConfigError, post, lost, alerter="no").value
        assert (mistake.__context__, mistake.__suppress_context__) == (lost, False)


# === Alerters as objects, and where they run ===
_MAIL = {"smtp_server": "localhost", "sender_email": "a@b.org", "password": "hush-hush"}
VALUES = {  # the fields of an alerter, and the same written otherwise
    "slack": ({"slack_token": "xoxb-1", "slack_channel_id": "C1", "approvers": ["U1", "U2"]},
              {"slack_token": " xoxb-1", "slack_channel_id": "C1", "approvers": "U1,U2", "listen": None}),
    "discord": ({"discord_token": "abc.def", "discord_channel_id": "1"},
                {"discord_token": "abc.def", "default_discord_channel_id": "1", "timeout": None}),
    "smtp_email": ({**_MAIL, "recipient_email": ["c@d.org"]},
                   {**_MAIL, "recipient_email": "c@d.org", "use_tls": None, "imap_server": None}),
    "console": ({}, {}), "recorder": ({"tag": "x"}, {"tag": "x", "trouble": None})}


@pytest.mark.parametrize("flavor", VALUES)
def test_alerters_are_values_that_nobody_changes_and_none_is_a_default(flavor, received):
    """None is what os.environ.get gives: a missing use_tls must not mean that the mail goes in the clear."""
    fields, otherwise = VALUES[flavor]
    alerter = FLAVORS[flavor](**fields)
    same = [FLAVORS[flavor](**otherwise), copy.deepcopy(alerter), copy.copy(alerter)]
    same.append(dataclasses.replace(alerter))
    if flavor != "recorder":  # a local class does not pickle
        pickled, known = pickle.dumps(alerter), set(alerters._KNOWN_SECRETS)
        alerters._KNOWN_SECRETS.clear()  # as in another process
        same.append(pickle.loads(pickled))
        assert alerters._KNOWN_SECRETS == known
    for other in same:
        assert other == alerter and hash(other) == hash(alerter) and {alerter: 1}[other] == 1
        told = repr(other) + str(other) + repr([dataclasses.asdict(other), vars(other)])
        assert not re.search("xoxb-1|abc.def|hush-hush", told)
    assert alerter != "x" and alerter != FLAVORS["slack"](slack_token="xoxb-2") and "x" != alerter
    for name in [*fields, "slack_chanel_id"]:
        pytest.raises(AttributeError, setattr, alerter, name, "other").match("use dataclasses.replace")
    assert alerter == same[0]


def test_it_posts_in_a_running_loop_and_depends_on_no_name_and_on_no_assert(slack):
    alerter = slack_alerter(slack)
    async def tell():
        loop = asyncio.get_running_loop()
        return [alerter.post("in the loop"), await loop.run_in_executor(None, alerter.post, "beside it")]
    assert asyncio.run(tell()) == [True, True] and len(slack.posted) == 2
    unsafe = r"(?m)^ *(?:assert|import alerters)\b.*|.*__debug__.*"  # as a copy, or with -O
    assert re.findall(unsafe, inspect.getsource(alerters)) == []


# === Asking: a room on Slack or Discord ===
class Room:
    """One channel, in which people do the same things whatever the service is."""
    def __init__(self, kind, service):
        self.kind, self.service, self.clock, self.usual = kind, service, service.clock, None
        self.is_slack, self.opened, self.plain = kind == "slack", {}, service.say
        if self.is_slack:
            self.ann, self.bob, self.eve, self.bot, self.own = "UANN", "UBOB", "UEVE", "UBOT", "ts"
            self.reads, self.posts = "conversations.replies", "chat.postMessage"
        else:
            self.ann, self.bob, self.eve, self.bot, self.own = "11", "12", "13", service.bot_id, "id"
            self.reads, self.posts = "GET /api/v10/channels/", "POST /api/v10/channels/"

    def alerter(self, **fields):
        return (slack_alerter if self.is_slack else discord_alerter)(self.service, **fields)

    def ask(self, text="Deploy?", alerter=None, **params):
        self.usual = self.usual or self.alerter()
        question = (alerter or self.usual).open_question(text, AlerterParameters(**params))
        self.opened[question.token] = copy.deepcopy((question.to_dict(), self.row(self.id(question)))), (
            len(self.service.rows), len(self.service.posted), dict(self.service.channels))
        return question

    def again(self, question, alerter=None):
        """The question as it was posted, and nothing after it: another one would cost many requests."""
        (record, asked), (rows, posted, channels) = self.opened[question.token]
        del self.service.rows[rows:], self.service.posted[posted:]
        self.service.channels = dict(channels)
        row = self.row(self.id(question))
        row.clear()
        row.update(copy.deepcopy(asked))
        return Question.from_dict(record, alerter or question.alerter)

    def id(self, question):
        return question.ref["ts" if self.is_slack else "message_id"]

    def row(self, row_id):
        return next(row for row in self.service.rows if row[self.own] == row_id)

    def time(self, row_id):
        return float(row_id) if self.is_slack else ((int(row_id) >> 22) + 1420070400000) / 1000

    def posted_questions(self):
        reply = "thread_ts" if self.is_slack else "message_reference"
        return [row for row in self.service.posted if reply not in row["payload"]]

    def asked(self):
        row_id = self.posted_questions()[-1][self.own]
        return SimpleNamespace(ref={"ts": row_id, "message_id": row_id})

    def reply(self, question, user, text, **more):
        return self.service.say(user, text, self.id(question), **more)

    def in_thread(self, question, user, text, **more):
        say = self.service.say if self.is_slack else self.service.say_in_thread
        return say(user, text, self.id(question), **more)

    def react(self, question, user, emoji, **more):
        if self.is_slack:
            base, tone = re.fullmatch("(.+?)([🏻-🏿]?)", emoji).groups()
            emoji = EMOJI.get(base, base) + (f"::skin-tone-{ord(tone) - 0x1F3F9}" if tone else "")
        return self.service.react(user, emoji, self.id(question), **more)

    def forward(self, it, comment):
        self.row(comment).update({"attachments": [{"is_share": True, "text": it}]} if self.is_slack else
                                 {"message_snapshots": [{"message": {"content": it}}]})

    def slow_down(self, seconds):
        def answer(call):
            result = type(self.service).answer(self.service, call)
            self.clock.sleep(seconds)
            return result
        self.service.answer = answer

    def text(self, payload):
        return (slack_text if self.is_slack else discord_text)(payload)

    def pings(self, payload):
        return [(kind, raw) for kind, raw, _ in _found(self.kind, payload)]

    def under(self, question):
        def parent(payload):
            return payload.get("thread_ts") or payload.get("message_reference", {}).get("message_id")
        return [payload for payload in _posted(self.service) if parent(payload) == self.id(question)]

    def notes(self, question):
        return [self.text(payload) for payload in self.under(question)]

    def taps(self, question):
        chars = {name: char for char, name in EMOJI.items()}
        reactions = self.row(self.id(question))["reactions"]
        return [chars.get(name, name) for name, users in reactions.items() if self.bot in users]

    def limited(self, seconds):
        if self.is_slack:
            return no("ratelimited", 429, {"Retry-After": str(int(seconds))})
        return Fault.discord_429(seconds)


@pytest.fixture(params=["slack", "discord"])
def room(request):
    return Room(request.param, request.getfixturevalue(request.param))


slack_room = pytest.fixture(lambda slack: Room("slack", slack))
discord_room = pytest.fixture(lambda discord: Room("discord", discord))


def no(error, status=200, headers=None):
    return Fault(status=status, headers=headers, body={"ok": False, "error": error})


YES, NO, UNREAD = "approved", "declined", "could not be read when the time was over"
STOPPED = "Nobody waits for an answer any more. This question is closed."


def outcome(question):
    """One poll: the status of the decision, or None. (A declined Decision is false.)"""
    return getattr(question.check(), "status", None)


# === Asking: what counts ===
ANSWERS = {  # what somebody writes or does -> status, the service it is about
    "with the bot's mention": (lambda r, q: r.reply(q, r.ann, f"<@{r.bot}> yes!"), YES, ""),
    "markup in markup": (lambda r, q: r.reply(q, r.ann, " \n\t **_`yes!`_** \n"), YES, ""),
    "a code block": (lambda r, q: r.reply(q, r.ann, "```\nno\n```"), NO, ""),
    "in the thread": (lambda r, q: r.in_thread(q, r.ann, "reject."), NO, ""),
    "below what is forwarded there": (lambda r, q: [r.forward("Question 0123456789abcdef", r.in_thread(
        q, r.eve, "look")), r.in_thread(q, r.ann, "no")][1], NO, ""),
    "a tap and then a no": (lambda r, q: [r.react(q, r.bob, "✅"), r.reply(q, r.ann, "no")][1], NO, ""),
    "sent to the channel": (lambda r, q: r.reply(q, r.ann, "yes", subtype="thread_broadcast"), YES, "slack"),
    "with a file": (lambda r, q: r.reply(q, r.ann, "yes", subtype="file_share"), YES, "slack"),
    "/me": (lambda r, q: r.reply(q, r.ann, "yes", subtype="me_message"), YES, "slack"),
    "with a nickname mention": (lambda r, q: r.reply(q, r.ann, "<@!200> ok"), YES, "discord"),
    "behind many": (lambda r, q: [r.reply(q, r.bob, str(i)) for i in range(210)] and r.reply(q, r.ann, "yes"),
                    YES, ""),
    "after a thread, deleted": (lambda r, q: [r.in_thread(q, r.bob, "hm"), outcome(q), r.service.channels.pop(
        r.id(q)), r.reply(q, r.ann, "yes")][3], YES, "discord")}
NEVER = {  # what nobody may decide with (and see below, "at random")
    "taken back": (lambda r, q: r.service.delete(r.reply(q, r.ann, "yes")), ""),
    "marks only": (lambda r, q: r.reply(q, r.ann, "*" * 4000), ""),
    "Slackbot": (lambda r, q: r.reply(q, "USLACKBOT", "ok"), "slack"),
    "Slackbot's tap": (lambda r, q: r.react(q, "USLACKBOT", "✅"), "slack"),
    "a topic": (lambda r, q: r.reply(q, r.ann, "ok", subtype="channel_topic"), "slack"),
    "Discord's bot": (lambda r, q: r.reply(q, "777", "ok", bot=True), "discord"),
    "a pin and a thread's name": (lambda r, q: [r.reply(q, r.ann, "ok", type=6),
                                                r.in_thread(q, r.ann, "ok", type=18)], "discord"),
    "a webhook": (lambda r, q: r.service.say("400", "ok", reply_to=r.id(q), webhook=True), "discord"),
    "a bot's tap": (lambda r, q: r.react(q, "777", "✅", bot=True), "discord"),
    "to Bob": (lambda r, q: r.in_thread(q, r.ann, "yes", reply_to=r.in_thread(q, r.bob, "hm")), "discord")}


def test_what_counts(room):
    got, wanted, asked = {}, {}, room.ask()
    for case, (act, status, only) in ANSWERS.items():
        if only in ("", room.kind):
            question = room.again(asked)
            row = room.row(act(room, question))
            by, text = (row["user"], row["text"]) if room.is_slack else (row["author"]["id"], row["content"])
            at, decision = pytest.approx(room.clock.now(), abs=0.1), question.check()
            wanted[case] = Decision(status, by, text, "reply", at), 1, True
            stays = question.check() == decision  # without another note
            got[case] = decision, sum("by" in note for note in room.notes(question)), stays
    assert {case: what for case, what in got.items() if what != wanted[case]} == {}


def test_what_never_counts(room):
    question = room.ask()
    for case, (act, only) in NEVER.items():
        if only in ("", room.kind):
            act(room, question)
            assert question.check() is None, case
    room.react(question, room.ann, "❌")
    assert outcome(question) == NO  # the question is still alive


@pytest.mark.parametrize("listen", ["thread", "channel"])
def test_an_answer_belongs_to_the_newest_question_above_it_in_a_thread(room, listen):
    alerter = room.alerter(listen=listen)
    above = room.ask("Deploy A?", alerter)
    thread = room.id(above)
    if room.is_slack:
        there, under = SlackAlerterParameters(thread_ts=thread), {"thread_ts": thread}
        above = alerter.open_question("Deploy B?", there)
    else:
        there, under = DiscordAlerterParameters(discord_channel_id=thread), {"channel": thread}
        room.service.open_thread(thread)
    newest = alerter.open_question("Deploy C?", there)
    if not room.is_slack and listen == "thread":
        under["reply_to"] = room.id(newest)
    room.service.say(room.ann, "yes", **under)
    assert (outcome(newest), outcome(above)) == (YES, None)


APPROVERS = {  # who may -> whether Ann may then
    "two": (lambda r: (r.bob, r.ann), True), "a str": (lambda r: r.ann, True),
    "a mention": (lambda r: [f"<@{r.ann}>"], True), "small letters": (lambda r: [r.ann.lower()], True),
    "others": (lambda r: [r.bob], False), "a part of the id": (lambda r: [r.ann[:-1]], False)}


def test_only_approvers_decide(room):
    got, eves = {}, room.alerter(approvers=[room.eve])
    for number, (case, (who, _)) in enumerate(APPROVERS.items()):
        if number // 2 % 2:  # params win over the field
            question = room.ask(alerter=eves, approvers=who(room))
        else:
            question = room.ask(alerter=room.alerter(approvers=who(room)))
        for user, word in ((room.eve, "no"), (room.ann, "yes")):
            assert question.check() is None, case
            room.react(question, user, "✅") if number % 2 else room.reply(question, user, word)
        decision = question.check()
        got[case] = decision is not None and (decision.status, decision.by) == (YES, room.ann)
    assert got == {case: may for case, (_, may) in APPROVERS.items()}


REASONS = {"decline: accuracy too low": "accuracy too low", "no : see #42\nand more": "see #42\nand more",
    "*Reject*:not today!": "not today!", "❌: too slow": "too slow", ":x::skin-tone-3:: why": "why",
    "decline:": None, "ok: good": None, "no way: never": None, "no :": None, "*no:* x": "x",
    "<@BOT> *no:* x": "x", "ok &lt;@BOT|later&gt;": None}


def test_a_decline_may_say_why_and_an_approval_may_not(room):
    got, wanted, alerter = {}, {}, room.alerter(case_sensitive=False)
    asked = room.ask(alerter=alerter, disapprove_msg_options=["decline", "no", "reject", "❌"])
    for text, reason in REASONS.items():
        question = room.again(asked)
        answer = room.reply(question, room.ann, text.replace("BOT", room.bot))
        got[text], written = question.check(), room.row(answer)["text" if room.is_slack else "content"]
        wanted[text] = reason and Decision(NO, room.ann, written, "reply", room.time(answer), reason)
        assert not reason or "not an answer" not in str(room.notes(question)), text
    assert got == wanted


COUNTED = {  # so many have to approve; what happens, in order -> status, who approved
    "one person twice": (2, "ann yes, ann ok", None, ""), "word and tap": (2, "ann yes, ann ✅", None, ""),
    "two people's": (2, "ann yes, bob ✅", YES, "ann bob"), "taps": (2, "ann ✅, bob ✅", YES, "ann bob"),
    "a decline after one": (2, "ann yes, bob no, eve yes", NO, "ann"),
    "a decline first": (2, "bob no, ann yes", NO, ""),
    "a decline too late": (2, "ann yes, bob yes, eve no", YES, "ann bob"),
    "a declining tap": (2, "ann yes, bob yes, eve ❌", NO, "ann bob"),
    "a declining tap after one": (2, "ann ✅, bob ❌", NO, "ann"),
    "own mind changed": (2, "ann yes, ann no", NO, "ann"),
    "a tap taken back": (2, "ann ✅, ann -✅, bob ✅", None, ""),
    "taps that differ": (1, "ann ✅, bob ❌", NO, "ann"), "another order": (1, "bob ❌, ann ✅", NO, "ann"),
    # Read long after the deadline: nobody knows when a tap was given.
    "perhaps declined in time": (1, "bob ❌, ann yes, wait 5000", NO, "ann"),
    "perhaps approved in time": (1, "bob ✅, ann yes, wait 5000", YES, "ann"),
    "perhaps declined alone": (1, "bob ❌, wait 5000", "timeout", ""),
    "approved too late": (1, "wait 5000, ann yes, bob ✅", "timeout", "")}


def test_answers_are_counted(room):
    got, wanted, asked = {}, {}, room.ask(minimum_approvals=2)
    for case, (needed, acts, status, approved) in COUNTED.items():
        if not room.is_slack and not re.search("[✅❌]", acts):
            continue  # its taps are read in another way, its words are not
        if needed != asked.to_dict()["minimum_approvals"] or "wait" in acts:
            asked = room.ask(minimum_approvals=needed, timeout=60)
        question = room.again(asked)
        for act in acts.split(", "):
            name, said = act.split()
            who = getattr(room, name, None)
            if name == "wait":
                room.clock.sleep(float(said))
            elif said == "-✅":
                assert question.check() is None
                room.service.unreact(who, EMOJI["✅"] if room.is_slack else "✅", room.id(question))
            else:
                (room.react if said in "✅❌" else room.reply)(question, who, said)
        if "alone" not in case:
            question = Question.from_dict(question.to_dict(), room.usual)
        decision = question.check()
        got[case] = None if decision is None else (decision.status, decision.approvals)
        wanted[case] = status and (status, tuple(getattr(room, name) for name in approved.split()))
        assert str(room.notes(question)).count("1 of 2") == (status is None) * (1 + ("back" in case)), case
        said = room.text(room.posted_questions()[-1]["payload"])
        assert ("2 different people have to approve" in said) == (needed == 2)
    assert got == wanted


def test_a_first_approval_is_acknowledged_once_by_all_who_wait(room):
    first, second = [room.alerter().open_question("?", minimum_approvals=3, key="deploy-42") for _ in "12"]
    for who, text in ((room.ann, "✅"), (room.bob, "yes please"), (room.bob, "yes")):
        (room.react if text == "✅" else room.reply)(first, who, text)
        room.service.fail(room.posts, room.limited(3))  # of many notes at once it takes few
        assert (first.check(), second.check()) == (None, None)
    said = [re.sub(r"^.*: (?=\d)|(?<=yet\.).*", "", note) for note in room.notes(first)]
    assert said == ["1 of 3 approvals.", "That is not an answer yet.", "2 of 3 approvals."]
    room.service.say(room.eve, "ok", room.id(first) if room.is_slack else room.service.posted[-1]["id"])
    assert first.check().approvals == second.check().approvals == (room.ann, room.bob, room.eve)
    assert (first.check().by, _records()) == (room.eve, {})  # not the tap, told of long before
    assert re.findall(r"\w+", room.notes(first)[-1]) == ["Approved", "by", room.eve, room.ann, room.bob]


# === Asking: listening to the channel ===
def test_a_plain_message_answers_the_newest_question_of_those_that_listen_to_the_channel(room):
    deaf, listening = room.ask(), room.alerter(listen="channel")
    room.plain(room.ann, "yes")
    first, second = room.ask("Deploy A?", listening), room.ask("Deploy B?", listening)
    room.reply(first, room.bob, "ok?"), room.plain(room.bob, "ok?")  # only the first is answered by the help
    assert (deaf.check(), first.check(), second.check()) == (None,) * 3  # what stands above it is older
    answer = room.plain(room.ann, "ok")
    assert (deaf.check(), first.check(), len(room.notes(first)), room.notes(second)) == (None, None, 1, [])
    assert second.check() == Decision(YES, room.ann, "ok", "channel", room.time(answer))
    room.service.delete(room.id(second))
    assert first.check() is None  # it was not asked that


def test_neither_replies_nor_bots_nor_what_is_below_another_question_count_as_plain_messages(room):
    old, talk = room.ask("Deploy A?"), room.plain(room.bob, "lunch?")
    asked = room.ask("Deploy B?", room.alerter(listen="channel"))
    more = [{}, {"subtype": "thread_broadcast"}][:1 + room.is_slack]
    for parent, fields in itertools.product((talk, room.id(old)), more):
        room.service.say(room.ann, "yes", parent, **fields)
    bot_says = room.service.bot_says if room.is_slack else functools.partial(room.plain, "777", bot=True)
    bot_says("yes")
    assert asked.check() is None
    text = "Drop it?\nQuestion 0123456789abcdef"  # as of another app with this module in the same channel
    for says, status in ((bot_says, None), (functools.partial(room.plain, room.eve), YES),
                         (lambda it: room.forward(it, room.plain(room.eve, "yes")), None)):
        question = room.again(asked)
        says(text)
        room.plain(room.ann, "yes")
        assert outcome(question) == status


def test_a_newer_question_keeps_its_plain_answers_in_a_busy_channel(room):
    alerter = room.alerter(listen="channel")
    first, second = room.ask("Deploy A?", alerter), room.ask("Deploy B?", alerter)
    for i in range(205):
        room.plain(room.bob, f"remark {i}")
    room.plain(room.ann, "yes")
    room.service.fail("conversations.history", Fault(""), Fault(status=500))  # the page with the newer one
    room.service.fail("/channels/300/messages", *[Fault(""), room.limited(5), Fault(""), Fault("")] * 9)
    assert (outcome(first), outcome(first), outcome(second)) == (None, None, YES)


# === Asking: words and emoji ===
LISTS = {  # approve, decline; what is written or tapped; status; the taps of the alerter
    "shortcode": ([":rocket:"], [":octagonal_sign:"], "🛑", NO, ["🚀", "🛑"]),
    "words and the other tap": (["ship it", "🚀"], ["stop"], "❌", NO, ["🚀", "❌"]),
    "the usual tap is replaced": (["🚀"], ["🛑"], "✅", None, ["🚀", "🛑"]),
    "only words": (["ship"], ["stop"], "✅", YES, ["✅", "❌"]),
    "an alias as a name": (["thumbsup"], ["thumbsdown"], "👎", NO, None),
    "with a variation selector": (["✔\ufe0f"], ["✖\ufe0f"], "✔", YES, ["✔", "✖"]),
    "the second of a list": (["🎉", "🚀"], None, "🚀", YES, ["🎉", "❌"]),
    "another skin tone": (["👍🏽"], ["👎"], "👍🏿", YES, ["👍", "👎"])}


def test_lists_with_emoji(room):
    got, wanted = {}, {}
    for case, (approve, decline, emoji, status, taps) in LISTS.items():
        question = room.ask(approve_msg_options=approve, disapprove_msg_options=decline)
        words = f"{' or '.join(approve)} to approve, or {(decline or ['reject'])[0]}"
        said = room.text(room.posted_questions()[-1]["payload"]).replace("`", "")
        assert words in said or not decline, said
        room.react(question, room.ann, emoji)
        tapped = [tap.strip("🏽") for tap in room.taps(question)]  # Discord knows a tone as another emoji
        got[case], wanted[case] = [tapped, outcome(question)], [taps or ["✅", "❌"], status]
        if taps and emoji not in "✅❌":  # written out, only what is in the lists counts
            question = room.again(question)
            room.reply(question, room.ann, emoji)
            assert outcome(question) == status, case
    assert {case: what for case, what in got.items() if what != wanted[case]} == {}


MATCHED = [  # where; approve, decline; the taps of the alerter; what is written, or with a + tapped
    ("slack", [":ship-it:"], [":stop_it:"], ["ship-it", "stop_it"], {"+stop_it": NO, ":ship-it:": YES}),
    ("discord", ["<a:go:1>"], ["<a:no:2>"], ["go:1", "no:2"], {"+no:2": NO, "<a:go:1>": YES, "+go:3": None}),
    ("discord", ["go"], [":no:"], ["✅"], {"+no:2": NO, "+:gone:5": None}),  # listing that is refused
    ("slack discord", ["R&D <go>", "approve.it"], ["a_b_c", "&amp;"], ["✅", "❌"], {
        "R&D <go>": YES, "approve.it": YES, "a_b_c": NO, "&amp;": NO, "R&amp;D <go>": None, "&": None})]


def test_own_emoji_and_words_with_markup_characters_are_matched_as_they_are(room):
    room.service.custom_emoji |= {"ship-it", "stop_it", "go:1", "no:2", "go:3"}
    for where, approve, decline, taps, meanings in MATCHED:
        if room.kind in where:
            asked, got = room.ask(approve_msg_options=approve, disapprove_msg_options=decline), {}
            assert room.taps(asked) == taps
            for what in meanings:
                question = room.again(asked)
                (room.react if what[0] == "+" else room.reply)(question, room.ann, what.lstrip("+"))
                got[what] = outcome(question)
            assert got == meanings


def test_the_approver_is_found_among_hundreds_who_tapped(room):
    boss, more = ("U900", {}) if room.is_slack else ("900", {"burst": True})  # by a super reaction
    question = room.ask(approvers=[boss])
    for i in range(101):
        room.react(question, f"U{i}" if room.is_slack else str(500 + i), "✅")
    assert question.check() is None
    room.react(question, boss, "✅", **more)
    name = EMOJI["✅"] if room.is_slack else "✅"
    assert question.check() == Decision(YES, boss, name, "reaction", room.clock.now())


def test_a_question_in_a_forum_is_answered_in_its_thread(discord_room):
    room, discord = discord_room, discord_room.service
    discord.add_channel("300", "alerts", 15)
    other, asked = room.ask("Roll back?"), room.ask("long text\n" * 600, approvers=[room.ann])
    thread, listening, last = asked.ref["channel_id"], room.alerter(listen="channel"), discord.rows[-1]
    assert asked.check() is None and other.ref["channel_id"] != thread == last["channel_id"]
    acts = {"plain": lambda: room.plain(room.ann, "yes", channel=thread),
            "reply": lambda: discord.say(room.ann, "yes", last["id"], channel=thread),
            "tap": lambda: room.react(asked, room.ann, "✅"),
            "other": lambda: room.plain(room.ann, "yes", channel=other.ref["channel_id"])}
    for way, alerter in [("plain", listening), ("other", listening), *((way, room.usual) for way in acts)]:
        question = room.again(asked, alerter)
        room.plain(room.bob, "yes", channel=thread)
        acts[way]()
        assert (outcome(question), discord.rows[-1]["channel_id"] == thread) == (
            (None, False) if way == "other" else (YES, True)), way
    assert outcome(other) == YES and "forum alerts" in room.usual.check()
    _lost(room)
    assert _decide(room, timeout=0).status == "timeout"  # there is no looking for it: it is asked once more


@pytest.mark.parametrize("in_thread", [False, True])
def test_an_answer_to_the_help_counts_after_a_restart_too(discord_room, discord, in_thread):
    question = discord_room.ask("line\n" * 999)
    part = discord.posted[-1]["id"]  # what is said to its end, or in a thread on that, is said to it
    near_miss = (discord.say_in_thread if in_thread else discord.say)(discord_room.ann, "yes please", part)
    assert question.check() is None
    row = discord.posted[-1]
    where = (part, near_miss) if in_thread else (discord.channel, discord_room.id(question))
    assert (row["channel_id"], row["message_reference"]["message_id"]) == where
    discord.say(discord_room.ann, "yes", row["id"], channel=row["channel_id"])
    assert outcome(Question.from_dict(question.to_dict(), discord_room.alerter())) == YES


def test_only_discord_itself_can_say_that_a_thread_or_a_tap_is_gone(discord_room):
    room, question = discord_room, discord_room.ask()
    room.in_thread(question, room.ann, "no"), room.clock.sleep(1), room.reply(question, room.bob, "yes")
    room.service.fail(f"{room.reads}{room.id(question)}/messages", Fault("html", status=404), times=2)
    assert [outcome(question) for _ in "123"] == [None, None, NO]  # a page of something in between
    question = room.ask()
    room.react(question, room.ann, "✅")
    room.service.fail("/reactions/", Fault(status=404, body={"code": 10014, "message": "Unknown Emoji"}))
    assert [outcome(question) for _ in "12"] == [None, YES]


def test_a_question_deleted_inside_a_thread_approves_nothing(slack_room):
    slack_room.service.scopes.discard("reactions:read")
    thread = slack_room.plain(slack_room.bob, "Release 7")
    question = slack_room.alerter().open_question("Deploy?", SlackAlerterParameters(thread_ts=thread))
    slack_room.service.say(slack_room.ann, "yes", thread), slack_room.service.delete(slack_room.id(question))
    pytest.raises(DeliveryError, question.check).match("the question was deleted")
    assert len(slack_room.service.posted) == 1  # a note would stand alone


@pytest.mark.parametrize("change", [{}, {"author": None}, {"author": "UOLD"}], ids=["known", "-", "stale"])
def test_the_author_never_decides_whoevers_token_reads(slack_room, change, monkeypatch):
    room = slack_room
    monkeypatch.setenv("BOT_TOKEN", room.service.token)
    question = room.ask(alerter=room.alerter(slack_token="{{env.BOT_TOKEN}}"))
    room.service.token, room.service.bot_user, room.service.bot_id = "xoxb-2-secret", "UBOT2", "BBOT2"
    monkeypatch.setenv("BOT_TOKEN", room.service.token)
    room.service.fail(room.posts, Fault("act_reset"))
    assert question.alerter.post("x") is True and len(room.service.posted) == 2  # it knows its posts still
    later = Question.from_dict({**question.to_dict(), **change}, room.alerter())
    room.reply(question, "UBOT", "yes")  # with no mark of a bot
    assert outcome(later) is None  # nor do its ✅ and ❌ decide, which are not ours any more
    room.react(question, room.ann, "✅")
    assert later.check().by == room.ann


def test_a_bots_tap_on_slack_is_none_where_the_app_may_look_users_up(slack_room):
    question = slack_room.ask(approve_msg_options=["yes", "🚀"])
    [slack_room.react(question, *tap) for tap in zip(("UOTHERBOT", "UOTHERBOT", "UNOBODY"), "🚀❌🚀")]
    assert [outcome(question) for _ in range(3)] == [None] * 3
    named, stopped = slack_room.ask(approvers=["UNOBODY"]), slack_room.ask()
    slack_room.react(named, "UNOBODY", "✅"), slack_room.react(stopped, "UNOBODY", "❌")
    assert [outcome(named), outcome(stopped)] == [YES, NO]
    slack_room.service.fail("users.info", Fault(status=500), times=None)
    slack_room.react(question, slack_room.ann, "🚀")
    assert outcome(question) is None  # who cannot be looked up now decides nothing yet
    slack_room.service.heal(), [slack_room.react(question, f"U{n}", "🚀") for n in range(100)]
    assert question.check().by == slack_room.ann
    looked_up = [call.args["user"] for call in slack_room.service.calls if call.path == "/api/users.info"]
    assert sorted({*looked_up}) == ["UANN", "UNOBODY", "UOTHERBOT"] and looked_up.count("UOTHERBOT") == 1
    slack_room.service.scopes.discard("users:read")
    blind = slack_room.ask(alerter=slack_room.alerter())
    slack_room.react(blind, "UOTHERBOT", "✅")
    assert blind.check().by == "UOTHERBOT"  # nobody can tell


def test_nothing_is_decided_while_reactions_cannot_be_read(room, caplog):
    asked, room.service.reaction_users_max = room.ask(), 0
    for tap, read in (("✅", YES), ("❌", NO)):
        question = room.again(asked)
        room.react(question, room.bob, tap)
        room.reply(question, room.ann, "yes")
        if room.is_slack:
            room.service.scopes.discard("reactions:read")
            assert outcome(question) is None
        else:
            began, _ = room.clock.now(), room.service.fail("/reactions/", room.limited(9), times=None)
            assert question.wait(1).status == "timeout" and room.clock.now() < began + 3
            room.service.heal(), room.service.fail("/reactions/", room.limited(1))  # which a look waits for
            waited = outcome(question), room.clock.sleep(9)  # it is not asked again before it allows that
            assert (*waited, outcome(question), "limited" in caplog.text) == (None, None, read, True)
    asked = room.ask(timeout=5)
    room.react(asked, room.bob, "✅")
    room.service.fail("/reactions/", Fault(status=503), times=None)
    assert pytest.raises(DeliveryError, asked.wait).match(UNREAD) and room.clock.now() > asked.deadline + 1


TYPED = [("ship it", "ship  it"), ("ship it", "ship\u00a0it."), ("ship\u2003it", "Ship it"),
         ("l\u2018ok", "l'ok"), ("don't", "don\u2019t"), ("caf\u00e9", "cafe\u0301"),
         ("iptal", "\u0130ptal"), ("hay\u0131r", "HAYIR"),  # the other case of these, as Turkish has it
         ("❤️", ":heart:"), ("💪", "💪🏽"), (":tada:", "🎉"), (":lizard:", "🦎"), ("x", "X"), ("a`b`", "A`b`")]


def test_a_word_is_known_however_it_is_typed(boards, clock):
    hall, got = in_time(FrozenBoard, clock)("hall"), {}
    for line, (word, written) in enumerate(TYPED):
        ANSWERS_ON_BOARDS["hall", line] = [{"by": "ann", "text": written, "via": "reply"}]
        got[word, written] = outcome(hall.open_question("Deploy?", approve_msg_options=[word]))
    assert set(got.values()) == {YES}, got


NO_WORDS = [  # approve, decline, why not
    (["go"], ["Go"], "means the opposite"), (["👍"], [":thumbsup:"], "means the opposite"),
    (["❌"], None, "means the opposite"), (None, [":white_check_mark:"], "means the opposite"),
    (["decline", "Disapprove", "no", "reject"], None, "means the opposite"), (["go", "go"], None, "twice"),
    (["👍", "👍🏽"], None, "twice"), ([], None, "approve_msg_options"), (b"go", None, "list of words"),
    (None, "", "disapprove_msg_options"), (["x", " "], None, "approve_msg_options"),
    ([b"go"], None, "list of words"), *(([word], None, "have a letter") for word in ("!", "🏻", "** **")),
    *(([word], None, "not known here: write it as :name:") for word in ("🫠", "🇩🇪", "1️⃣", "🧑‍🚀"))]


def test_words_that_cannot_decide_are_refused_before_anything_is_posted(room):
    alerter = room.alerter()
    for approve, decline, why in NO_WORDS:
        if room.is_slack or "known" not in why:
            with pytest.raises(ConfigError, match=why):
                alerter.decide("?", approve_msg_options=approve, disapprove_msg_options=decline)
    assert room.service.posted == []
    assert room.ask(alerter=room.alerter(case_sensitive=True), approve_msg_options=["go", "GO"]).ref
    assert room.ask(approve_msg_options=["No"]).to_dict()["decline"] == ["decline", "disapprove", "reject"]


def test_approvers_may_be_given_as_text_or_from_a_generator_but_are_never_none_or_too_few(room, desk):
    odd = {"__bool__": None, "__eq__": lambda *_: array}  # as numpy's: no array is true or false
    array, half = type("A", (collections.UserList,), odd)([room.ann, room.bob]), type("F", (float,), odd)(0.5)
    for given in (f"{room.ann}, {room.bob}", array, map(type("E", (str,), {"__str__": repr}), array.data)):
        params = AlerterParameters(approvers=given, timeout=half)
        asked = [room.alerter()._new_question(AlerterMessage("?"), params, None).to_dict() for _ in "12"]
        assert [state["approvers"] for state in asked] == [[room.ann, room.bob]] * 2
    for set_so, given in itertools.product((room.ask, room.alerter), ({"@ann"}, "", [""], [], "  ")):
        pytest.raises(ConfigError, set_so, approvers=given).match("@ann" if "@ann" in given else "approvers")
    two = room.alerter(approvers=[room.ann, room.bob])
    for alerter, given in [(desk.alerter, 3), (ConsoleAlerter(), 2), *((two, n) for n in (0, True, "2", 3))]:
        with pytest.raises(ConfigError, match="minimum_approvals"):
            alerter._new_question(AlerterMessage("?"), AlerterParameters(minimum_approvals=given), None)
    assert room.service.posted == [] and AlerterParameters(approvers={"U1"}).approvers == {"U1"}  # as given


# === Asking: the question, its help and its end ===
def test_a_question_is_this_payload(room):
    message = AlerterMessage("Deploy?", "v2 @here", {"accuracy": 0.9}, ["http://x.io/a"])
    question = room.ask(message, timeout=3600, approvers=[f"<@{room.ann}>", room.bob])
    end = int(room.clock.start + 3600)
    [row] = room.service.posted
    got, note = _sent_by(room.kind, row["payload"]), f"Question {question.token}"
    words = ("`approve`, `LGTM`, `ok` or `yes` to approve, or `decline`, `disapprove`, `no` or `reject` "
             "to decline")
    why = "A decline may say why: `decline: the reason`."
    if room.is_slack:
        how = (f"Reply in this thread with {words}, and nothing else. Or tap ✅ or ❌.\n{why}\nOpen until "
               f"<!date^{end}^{{date_short_pretty}} {{time}}|2023-11-14 23:13:20 UTC> for <@UANN>, <@UBOB>.")
        mrkdwn = functools.partial(dict, type="mrkdwn", verbatim=True)
        assert got == {"channel": "C0ALERTS", "unfurl_links": False, "unfurl_media": False,
            "text": f"*Deploy?*\nv2 @\u200bhere\naccuracy: 0.9\n<http://x.io/a>\n\n{how}\n{note}", "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": "Deploy?", "emoji": True}},
                {"type": "section", "expand": True, "text": mrkdwn(text="v2 @\u200bhere")},
                {"type": "section", "fields": [mrkdwn(text="*accuracy*\n0.9")]},
                {"type": "image", "image_url": "http://x.io/a", "alt_text": "image-1"},
                {"type": "section", "expand": True, "text": mrkdwn(text=how)},
                {"type": "context", "elements": [mrkdwn(text=note)]}]}
    else:
        how = (f"Reply to this message, with the ping on, with {words}, written exactly so, and nothing "
               f"else. Or tap ✅ or ❌.\n{why}\nOpen until <t:{end}:t> (<t:{end}:R>) for <@11>, <@12>.")
        assert got == {
            "content": "<@11> <@12>", "allowed_mentions": {"parse": [], "users": ["11", "12"], "roles": []},
            "embeds": [{"color": 0x3B82F6, "title": "Deploy?", "description": "v2 @\u200bhere", "fields": [
                {"name": "accuracy", "value": "0.9", "inline": True}], "image": {"url": "http://x.io/a"}},
                       {"color": 0x3B82F6, "description": how, "footer": {"text": note}}]}
    called = {raw for kind, raw in room.pings(row["payload"]) if kind not in ("date", "link")}
    assert (called, room.taps(question)) == ({f"<@{room.ann}>", f"<@{room.bob}>"}, ["✅", "❌"])


def test_a_long_question_calls_and_tells_how_to_answer_in_its_first_message(room):
    people = [f"U{n}" if room.is_slack else str(10 ** 18 + n) for n in range(60)]
    mention = [f"U1{n}" if room.is_slack else str(2 * 10 ** 18 + n) for n in range(50)]
    question = room.ask("line of the long text\n" * 300, approvers=people, mention=mention)
    payloads, last = _posted(room.service), room.service.rows[-1]  # people answer what they read last
    called = {raw for payload in payloads for _, raw in room.pings(payload) if "@" in raw}
    assert called == {f"<@{who}>" for who in people[:30] + mention}
    first = room.text(payloads[0])
    assert "and 30 more" in first and "to approve" in first and "✅" in first and len(payloads) > 1
    assert question.check() is None
    room.service.say(people[59], "yes", room.id(question) if room.is_slack else last["id"])
    assert outcome(question) == YES
    room.service.fail("/messages", Fault(status=400, body={"code": 50035, "message": "Invalid Form Body"}))
    room.service.fail("chat.postMessage", no("invalid_blocks"))
    room.ask("plain " * 900, approvers=people, mention=mention)
    assert "and 30 more" in "".join(map(room.text, _posted(room.service)[len(payloads):]))


def test_the_taps_and_the_notes_are_best_effort(room):
    for failure in (Fault(status=403), no("missing_scope", 403), Fault("reset"), room.limited(999)):
        room.service.fail("reactions.add" if room.is_slack else "PUT ", failure, times=None)
        question = room.ask(timeout=500)
        room.service.fail(room.posts, failure, times=None)
        answer = room.reply(question, room.ann, "yes")
        assert question.wait() == Decision(YES, room.ann, "yes", "reply", room.time(answer))
        assert (room.taps(question), room.notes(question)) == ([], [])
        room.service.heal()


NEAR = {"lgtm": "discord", "OK": "discord", "yes please": "", "Approve it": "", "not ok": "", "~yes~": "",
        "> yes": "", "yes?": "", "ok " + "x" * 57: ""}
FAR = ["hello", "nothing", "yesterday", "y", "", "yes " + "x" * 57, "подождите"]


def test_a_near_miss_is_helped_once(room):
    words = "approve, LGTM, ok or yes to approve, or decline, disapprove, no or reject to decline"
    asked = room.ask(approvers=[room.ann])
    for text in [*NEAR, *FAR] if room.is_slack or MORE else [*NEAR][:3]:
        if NEAR.get(text, "") in ("", room.kind):
            question = room.again(asked)
            for user, said in ((room.eve, "yes please"), (room.ann, text), (room.ann, "yes please")):
                room.reply(question, user, said)
                if user == room.ann and (said == text or text in NEAR):
                    assert question.check() is None, text
                    assert len(room.notes(question)) == (text in NEAR), text
            notes = [words in note.replace("`", "") for note in room.notes(question)]
            pings = [room.pings(payload) for payload in room.under(question)]
            assert (notes, pings) == ([True] * (text in NEAR), [[]] * (text in NEAR)), text


def test_the_end_is_written_under_the_question_and_mentions_only_who_decided(room, caplog):
    caplog.set_level(logging.INFO, "alerters")
    asked = room.ask("@everyone <!channel> <@UBOB> <@12>", timeout=5, approvers=[room.ann, room.bob])
    who = f"@{room.ann}" if room.is_slack else f"<@{room.ann}>"
    for text, status, said in (("yes", YES, f"Approved by {who}."), ("no", NO, f"Declined by {who}."), (
            "hm", "timeout", "Nobody decided in time. This question is closed.")):
        question = room.again(asked)
        room.reply(question, room.ann, text)
        room.service.calls.clear()
        assert question.wait().status == status and f"': {status}" in caplog.messages[-1]
        assert text != "hm" or len(room.service.calls) == 6 + 1  # one for each poll, and the note
        [payload] = room.under(question)
        assert room.text(payload) == said and len(room.pings(payload)) == (text != "hm")


def test_a_missing_message_content_intent_is_told_once(discord_room, caplog):
    discord_room.service.message_content = False
    question = discord_room.ask()
    discord_room.reply(question, discord_room.ann, "yes")  # it pings the bot, so that Discord gives its text
    assert (outcome(question), caplog.records) == (YES, [])
    question = discord_room.again(question)
    for _ in "12":
        discord_room.reply(question, discord_room.ann, "yes", ping=False)
    assert (question.check(), question.check()) == (None, None)
    assert [r.levelname for r in caplog.records if "Message Content" in r.getMessage()] == ["WARNING"]


# === Asking: staying alive ===
DEEP = b"[" * (200_000 if sys.version_info >= (3, 10) else 200)  # collecting in there, older ones may abort
HICCUPS = {  # by default the first two of each line
    "status": lambda r: [Fault(status=code) for code in (500, 503, 504, 408, 429)],
    "wait": lambda r: [r.limited(3), Fault(status=429, headers={"Retry-After": "nan"})],
    "page": lambda r: [Fault("html"), Fault("html", status=404), Fault("redirect")],
    "wire": lambda r: [Fault(kind) for kind in ("reset", "close", "truncate", "garbage")],
    "body": lambda r: [Fault(status=200, body=body) for body in (b"{", None, DEEP)],
    "JSON": lambda r: [Fault(status=200, body=body) for body in ([None], {"x": 1}, 7, ["x"], {"ok": False})],
    "rows": lambda r: [Fault(status=200, body={"ok": True, "messages": rows, "reactions": rows, "id": 1})
                       for rows in ([None], "odd", [[]])],
    "error": lambda r: [Fault(status=500, body={"ok": False, "error": ["x"], "code": {}, "errors": [1]})],
    "Slack's": lambda r: [no("internal_error"), no("invalid_cursor")]}


def test_hiccups_cost_time_and_never_the_answer(room):
    got, asked = {}, room.ask()
    wanted = Decision(NO, room.ann, "no", "reply", room.time(room.reply(asked, room.ann, "no")))
    for case, faults in HICCUPS.items():
        for number, fault in enumerate(faults(room)[:None if MORE else 2]):
            question = Question.from_dict(asked.to_dict(), room.usual)
            room.service.fail(room.reads, fault)
            got[case, number] = question.wait()
            room.service.heal()
    assert {case: decision for case, decision in got.items() if decision != wanted} == {}


REFUSALS = {  # what happens -> the error's status and code; the first word tells where
    "slack: token reset": (lambda r, q: setattr(r.service, "token", "another"), 200, "invalid_auth"),
    "slack: missing scope": (lambda r, q: r.service.scopes.discard("channels:history"), 200, "missing_scope"),
    "slack: channel gone": (lambda r, q: r.service.channels.clear(), 200, "channel_not_found"),
    "slack: question deleted": (lambda r, q: r.service.delete(r.id(q)), 200, "thread_not_found"),
    "slack: answered, then deleted": (  # docs.slack.dev: something is left of a message with replies
        lambda r, q: [r.reply(q, r.ann, "yes"), r.service.delete(r.id(q))], None, "message_not_found"),
    "slack: no tab": (lambda r, q: r.service.fail(r.reads, no("messages_tab_disabled")),
                      200, "messages_tab_disabled"),
    "discord: token reset": (lambda r, q: setattr(r.service, "token", "another"), 401, None),
    "discord: 403": (lambda r, q: r.service.fail(r.reads, Fault("html", status=403), times=None), 403, None),
    "discord: channel deleted": (lambda r, q: r.service.channels.clear(), 404, "10003"),
    "discord: question deleted": (lambda r, q: r.service.delete(r.id(q)), 404, "10008")}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_permanent_refusal_ends_the_wait_at_once_with_its_reason(request, case):
    kind = case.partition(":")[0]
    room = Room(kind, request.getfixturevalue(kind))
    token, (happens, status, code) = room.service.token, REFUSALS[case]
    question = room.alerter().open_question("Deploy?", timeout=3600, key="deploy-42")
    room.clock.at(2, lambda: happens(room, question))
    caught = pytest.raises(DeliveryError, question.wait)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "says" not in caught.value.hint and token not in str(caught.value)
    assert room.clock.monotonic() <= 3 and room.notes(question) == []  # whose key was given is not closed
    assert len(_records()) == ("deleted" not in case)  # one that is gone does not hold its key


class Gone(BaseException):
    """Stands for the end of a process: nothing of the module may catch it."""

# === Asking: when it polls ===
@pytest.mark.parametrize("skew, delay", [(-3000, 0), (20, 0), (0, 25)])
def test_an_answer_before_the_deadline_that_people_were_shown_counts_though_read_later(room, skew, delay):
    """By the service's own clock, which is not ours; a post that it lets wait moves no deadline."""
    room.service.now = lambda: room.clock.now() + skew
    for second, status in ((90, YES), (110, "timeout")):
        asked = room.clock.now()
        room.service.fail(room.posts, *[room.limited(delay)] * bool(delay))
        question = room.ask(timeout=100)
        assert room.clock.now() == asked + delay
        shown = time.strftime("%H:%M:%S", time.gmtime(asked + 100))
        assert not room.is_slack or shown in room.text(room.posted_questions()[-1]["payload"])
        room.clock.sleep(second - delay)
        room.reply(question, room.ann, "yes")
        room.clock.sleep(200 - second)
        room.clock.start -= 3600  # as on another machine, whose clock is behind
        assert outcome(Question.from_dict(question.to_dict(), question.alerter)) == {YES: YES}.get(status)
        room.clock.start += 3600
        assert outcome(question) == status


def test_retry_after_is_obeyed_and_the_wait_ends_with_the_grace(room):
    question = room.ask(timeout=300)
    before = len(room.service.calls)
    room.service.fail("/api", room.limited(50), times=2 if room.is_slack else 1)
    assert question.wait(timeout=49) == Decision("timeout", at=room.clock.start + 49)
    paths = [call.path for call in room.service.calls[before:]]
    assert len(paths) == len(set(paths))  # what was refused is not asked again
    room.reply(question, room.ann, "yes")
    assert question.wait().status == YES and room.clock.monotonic() <= 55
    began, question = room.clock.monotonic(), room.ask(timeout=100)  # now past the deadline
    room.service.fail("/api", room.limited(500), times=None)
    room.reply(question, room.ann, "yes")
    before = len(room.service.calls)
    caught = pytest.raises(DeliveryError, question.wait)
    assert caught.match(UNREAD) and caught.value.outcome == "unknown"
    assert room.clock.monotonic() == pytest.approx(began + 110)
    calls = [f"{call.method} {call.path}" for call in room.service.calls[before:]]
    assert max(collections.Counter(calls).values()) == 1  # each refused method once


@pytest.mark.parametrize("way, second, timeout, latest, every", [("reply", 30, 600, 70, 60),
    ("reply", 30, 600, 70, 20), ("reply", 119, 120, 120, 60), ("reply", 39, 40, 44, 60),
    ("react", 20, 300, 22.1, 60), ("react", 41, 40, 44, 60)])
def test_slack_reads_a_rationed_thread_when_it_may(slack_room, way, second, timeout, latest, every):
    room, said = slack_room, {"reply": "yes", "react": "✅"}
    room.service.ration("conversations.replies", every)  # taps are read always
    question = room.ask(timeout=timeout)
    room.clock.at(second, lambda: getattr(room, way)(question, room.ann, said[way]))
    if timeout > 60:
        assert question.wait().status == YES
    else:  # no time-out is said
        caught = pytest.raises(DeliveryError, question.wait)
        assert caught.match(UNREAD) and caught.value.outcome == "unknown"
    now, reads = room.clock.monotonic(), ["replies" in call.path for call in room.service.calls]
    assert now <= latest and sum(reads) <= 1 + (60 + now) / every
    endless = Fault(status=200, body={"ok": True, "messages": [], "response_metadata": {"next_cursor": "x"}})
    room.service.fail("conversations.replies", *[endless] * 50, *[room.limited(30)] * 9)
    pytest.raises(DeliveryError, room.ask(timeout=40).wait).match(f"{UNREAD}: more rows than one poll reads")


def test_one_429_does_not_slow_the_rest_of_the_wait(slack_room):
    room = slack_room
    for timeout, fault, second, latest in ((60, room.limited(2), 15, 17), (3600, room.limited(40), 130, 144),
                                           (40, Fault(status=503, headers={"Retry-After": "2"}), 15, 17)):
        question, began = room.ask(timeout=timeout), room.clock.monotonic()
        room.service.fail("conversations.replies", fault)
        room.clock.at(began + second, functools.partial(room.reply, question, room.ann, "yes"))
        assert question.wait().status == YES and room.clock.monotonic() - began <= latest
    for read_before, first, second in ((0, 0, 245), (16, 100, 105)):  # who may read on, or so much, is free
        question, began = room.ask(timeout=300), room.clock.monotonic()
        for _ in range(read_before):
            room.reply(question, room.eve, "hm")
        fail = functools.partial(room.service.fail, "conversations.replies", room.limited(40))
        for at, work in ((first, fail), (second, functools.partial(room.reply, question, room.ann, "no")),
                         (second + 1, functools.partial(room.react, question, room.bob, "✅"))):
            room.clock.at(began + at, work)
        assert question.wait().by == room.ann


def test_no_tap_approves_while_words_that_may_decline_cannot_be_read(slack_room):
    room = slack_room
    for read, say in (("replies", room.reply), ("history", lambda _, *said: room.plain(*said))):
        alerter = room.alerter(listen={"replies": "thread"}.get(read, "channel"))
        for tapped, limits in ((0, [2]), (1.5, [2, 40])):  # what cannot be read for some seconds may decline
            question, began = room.ask("Deploy?", alerter), room.clock.monotonic()
            say(question, room.ann, "no")
            room.clock.at(began + tapped, functools.partial(room.react, question, room.bob, "✅"))
            room.service.fail(f"conversations.{read}", *map(room.limited, limits))
            assert question.wait().by == room.ann
        room.service.ration(f"conversations.{read}")
        question, began = room.ask("Deploy?", alerter, timeout=900), room.clock.monotonic()
        for second, who, said in [(20, room.eve, "hm")] * 20 + [(130, room.bob, "no")]:
            room.clock.at(began + second, functools.partial(say, question, who, said))
        room.clock.at(began + 500, functools.partial(room.react, question, room.ann, "✅"))
        pytest.raises(DeliveryError, question.wait).match(UNREAD)  # no one page holds all
        question, other = [room.ask(text, alerter, timeout=900) for text in ("A?", "B?")]
        other.alerter._join(other)  # which mostly reads for both
        began = room.clock.monotonic()
        fail = functools.partial(room.service.fail, f"conversations.{read}", Fault(status=500), times=None)
        for second, work in [(20, lambda to=question: room.reply(to, room.eve, "hm")), (500, fail),
                             *[(second, other._poll) for second in range(501, 840)],
                             (650, lambda to=question: room.reply(to, room.bob, "no")),
                             (780, lambda to=question: room.react(to, room.ann, "✅")),
                             (842, room.service.heal)]:  # in the last minute, in which it does not read
            room.clock.at(began + second, work)
        assert question.wait().by == room.bob


def test_a_no_is_found_though_another_question_has_used_up_what_may_be_read(slack_room):
    room = slack_room
    room.service.ration("conversations.replies"), room.service.ration("conversations.history")
    question, other = room.ask(), room.ask()
    room.reply(question, room.ann, "no"), room.react(question, room.bob, "✅")
    room.reply(other, room.ann, "yes")
    room.clock.sleep(60)
    assert other.check().status == YES  # after which nothing may be read for a minute
    assert Question.from_dict(question.to_dict(), question.alerter).wait().by == room.ann
    room.slow_down(1)
    other, question = [room.ask(text, room.alerter(listen="channel")) for text in ("A?", "B?")]
    other.alerter._join(other)
    room.reply(question, room.eve, "hm")
    began = room.clock.monotonic()
    room.clock.at(began + 100, lambda: room.plain(room.ann, "no"))
    room.clock.at(began + 110, lambda: room.reply(question, room.bob, "yes"))
    assert question.wait().by == room.ann


# Flavors of one's own, as short as they can be; with them the base's polling is watched without a network.
@dataclasses.dataclass
class Board(BaseAlerter):
    flavor = "board"
    name: str = "kitchen"
    token: str = ""

    def send(self, message, params=None):
        BOARDS.setdefault(self.name, []).append(message.body)
        return Receipt(self.name, {"line": len(BOARDS[self.name]) - 1})

    def replies(self, question):
        POLLS.append(self.clock.now())
        given = ANSWERS_ON_BOARDS.get((self.name, question.ref["line"]), [])
        return [reply for reply in given if reply.get("at", 0) <= self.clock.now()]


@dataclasses.dataclass(frozen=True)
class FrozenBoard(BaseAlerter):
    flavor = "frozen_board"
    name: str  # without a default
    case_sensitive: bool = False
    approvers: tuple = ()
    timeout: float = None

    send, replies = Board.send, Board.replies


BOARDS, ANSWERS_ON_BOARDS, POLLS = {}, {}, []


@pytest.fixture
def boards():
    for left in (BOARDS, ANSWERS_ON_BOARDS, POLLS):
        left.clear()


def _board(clock, **methods):
    return type("OddBoard", (Board,), {"clock": clock, **methods})()


@pytest.mark.parametrize("timeout, polls", [(0.4, 2), (15, 16), (3600, 157)])
def test_the_poll_interval_is_a_tenth_of_the_age_from_1_to_30_s(boards, clock, timeout, polls):
    question = in_time(Board, clock)().open_question("Deploy?", AlerterParameters(timeout=timeout))
    assert question.wait() == Decision("timeout", at=pytest.approx(clock.start + timeout))
    ages = [0, *itertools.accumulate(clock.naps)]
    assert clock.naps == pytest.approx([min(30, max(1, age / 10), timeout - age) for age in ages[:-1]])
    assert len(POLLS) == len(ages) == polls
    clock.start -= 7200  # it was set back, as the next process cannot know
    Question.from_dict(question.to_dict(), question.alerter).wait()
    assert len(POLLS) <= 2 * polls + 400


def test_a_poll_that_ends_after_the_deadline_is_not_the_last_one(room):
    """Slow answers: nobody is told of a timeout while a "yes" in time is left for somebody to use later."""
    for latency, said in itertools.product((0.3, 1.7, 6), ("yes", "✅", "", "✅ taken back")):
        room.slow_down(0)
        question, asked = room.ask(timeout=10), room.clock.monotonic()
        if said:  # no service tells the time of a tap
            act = room.reply if said == "yes" else room.react
            room.clock.at(asked + 9.95, functools.partial(act, question, room.ann, said.partition(" ")[0]))
        if "back" in said:  # after the first look at the deadline has read it
            tap = room.ann, EMOJI["✅"] if room.is_slack else "✅", room.id(question)
            room.clock.at(asked + 10.15, functools.partial(room.service.unreact, *tap))
        room.clock.sleep(7)
        room.slow_down(latency)
        assert bool(question.wait()) == (said in ("yes", "✅")) and len(room.notes(question)) == 1, latency


def test_what_was_gone_at_the_second_look_has_to_be_found_twice_anew(boards, clock):
    def replies(self, question):
        question._reading.looks_once = False  # as where it is read in steps, or by another alerter
        question._reading.author = "BOT"
        return [{"by": "ann", "text": looks.pop(0)}]
    looks, question = ["yes", "", "yes", "<@BOT> no"], _board(clock, replies=replies).open_question("Deploy?")
    assert question.check() is None and question.check().status == NO


def test_failing_reads_are_told_at_the_first_and_each_hour(boards, clock, caplog):
    def replies(self, question):
        if 50 <= clock.monotonic() < 9000:
            raise ConnectionResetError(104, "reset")
        return []
    assert _board(clock, replies=replies).decide("Deploy?", timeout=9100).status == "timeout"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 3 and all("waiting for the answers goes on" in text for text in told)


def test_an_own_flavors_clock_may_be_ahead(boards, clock):
    reply = {"by": "ann", "text": "yes", "via": "reply", "at": clock.now() + 600}
    assert _board(clock, replies=lambda *_: [reply]).decide("Deploy?", timeout=60).status == YES
    reply["at"] = datetime.datetime.now()
    with pytest.raises(DeliveryError, match="TypeError: .*: its traceback is in the log"):
        _board(clock, replies=lambda *_: [reply]).decide("Deploy?")


# What happens to reading over the deadline (of 40 s, so that the grace is 4 s): at the service, or before it.
OUTAGES = {"5xx": lambda r: Fault(status=503), "429": lambda r: r.limited(2),
           "DNS": (socket, "getaddrinfo", socket.gaierror(-3, "Temporary failure in name resolution")),
           "204": lambda r: Fault(status=204), "stall": (http.client.HTTPResponse, "begin", TimeoutError())}


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_over_the_deadline_loses_no_answer_and_is_no_timeout(room, kind, caplog, monkeypatch):
    def fails(*_, **__):
        room.clock.sleep(hangs)
        raise outage[2]
    outage, hangs, reply, react = OUTAGES[kind], 9 * (kind == "stall"), room.reply, room.react
    if callable(outage):
        begin, end = functools.partial(room.service.fail, "/api", outage(room), times=None), room.service.heal
    else:
        begin, end = functools.partial(monkeypatch.setattr, *outage[:2], fails), monkeypatch.undo
    cases = [(reply, "yes", 42.5, YES), (reply, "yes", 500, None), (react, "✅", 42.5, YES),
             (react, "🎉", 42.5, "timeout"), (reply, "yes", 102, YES), (react, "✅", 102, "timeout")]
    for act, what, healed, status in cases[:6 if hangs or MORE or kind == "5xx" else 1 + room.is_slack]:
        start, question = room.clock.monotonic(), room.ask(timeout=40)
        answers = functools.partial(act, question, room.ann, what)
        sleep = functools.partial(room.clock.sleep, 64 * (healed == 102))  # it is closed till 100, say
        for second, happens in ((35, begin), (36, sleep), (37, answers), (healed, end)):
            room.clock.at(start + second, happens)
        room.clock.sleep(34), caplog.clear()
        if status:
            if kind == "5xx" and act == react and healed < 50:  # polled, as by a job of its own
                room.clock.sleep(4), question.check(), room.clock.sleep(5)
            assert question.wait().status == status, what
            assert healed <= room.clock.monotonic() - start <= healed + 2 * (1 + hangs)
            continue
        caught = pytest.raises(DeliveryError, question.wait, 7)  # longer than the question
        assert caught.value.outcome == "unknown" and 44 <= room.clock.monotonic() - start < 44.1 + 2 * hangs
        assert "waiting for the answers goes on" in caplog.text and caught.match(UNREAD)
        room.clock.sleep(500)


def test_a_refusal_is_noted_under_the_question_and_who_waits_again_reads_anew(room):
    question = room.ask(alerter=room.alerter(listen="channel"))
    room.clock.sleep(100)
    room.service.fail("conversations.history" if room.is_slack else room.reads,
                      no("access_denied") if room.is_slack else Fault(status=403), times=None)
    for look in question.wait, question.check:
        with pytest.raises(DeliveryError) as caught:  # whose traceback keeps what was read alive
            look()
        assert room.notes(question) == ["The answers cannot be read. This question is closed."]
    room.service.heal()
    room.reply(question, room.ann, "yes")
    assert Question.from_dict(question.to_dict(), question.alerter).wait(0).status == YES, caught


def test_a_key_that_could_not_be_read_in_time_keeps_its_record_and_its_answer(room):
    room.clock.at(7, lambda: room.service.fail("/api", Fault(status=500), times=None))
    for _ in range(2):
        pytest.raises(DeliveryError, _decide, room, timeout=10).match("ask again by its key")
    room.service.heal()
    room.service.now = lambda: room.clock.now() - 6  # as if it had been written in time
    answer = room.reply(room.asked(), room.ann, "yes")
    assert _decide(room, timeout=10) == Decision(YES, room.ann, "yes", "reply", room.time(answer))
    assert _records() == {} and len(room.posted_questions()) == 1


def test_a_question_that_would_be_born_dead_is_not_posted(room, boards):
    room.service.fail(room.posts, room.limited(25), times=None)
    caught = pytest.raises(DeliveryError, _decide, room, timeout=10)
    assert (caught.value.outcome, room.service.posted, _records()) == ("not_sent", [], {})
    assert room.clock.monotonic() < 10
    slow = _board(room.clock, _ready_to_read=lambda *_: room.clock.sleep(25))
    pytest.raises(DeliveryError, slow.decide, "Deploy?", timeout=10, key="deploy-42").match("its time ended")
    assert (BOARDS, _records()) == ({}, {})


@pytest.mark.parametrize("step", [-7200, 7200])
def test_a_clock_that_is_set_neither_ends_nor_prolongs_a_wait(room, step, monkeypatch):
    for second, status, asleep in ((4.5, YES, 0), (5.7, YES, 0), (500, "timeout", 0), (4.5, "timeout", 20)):
        room.service.fail(room.posts, *[Fault("act_close")] * (second == 5.7))  # it stands since this try
        start, question = room.clock.monotonic(), room.ask(AlerterMessage("Deploy?", images=[PNG]), timeout=6)
        question = Question.from_dict(question.to_dict(), question.alerter) if second == 5.7 else question
        room.service.now = lambda s=asleep: 1_700_000_000 + s + room.clock.monotonic()  # s: suspended so long
        room.clock.at(start + 2, lambda: setattr(room.clock, "start", room.clock.start + step))
        room.clock.at(start + second, lambda q=question: room.reply(q, room.ann, "yes"))
        assert question.wait().status == status
        assert room.clock.monotonic() - start == pytest.approx(second if status == YES else 6, abs=0.6)
        room.clock.start -= step
    monkeypatch.setattr(time, "clock_gettime", "clock {}".format, raising=False)
    if sys.platform == "linux":  # one that goes on while the machine is suspended
        assert alerters._Clock.monotonic() == f"clock {time.CLOCK_BOOTTIME}"


@pytest.mark.parametrize("stop, keyed", [(KeyboardInterrupt, False), (SystemExit, False), (Gone, True)])
def test_whoever_is_stopped_while_waiting_without_a_key_closes_the_question(room, stop, keyed, monkeypatch):
    def stopped():
        raise stop
    monkeypatch.setattr(signal, "signal", lambda *_: int(""))  # a ValueError, as in a subinterpreter
    room.clock.at(1.5, stopped)
    question = room.alerter().open_question("Deploy?", timeout=100, key="deploy-42" if keyed else None)
    pytest.raises(stop, question.wait)
    assert (room.notes(question), len(_records())) == ([] if keyed else [STOPPED], keyed)
    room.reply(question, room.ann, "yes")
    assert outcome(question) == (YES if keyed else "timeout")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a half-made HTTPResponse
def test_stopped_over_the_end_note_the_decision_stands_and_while_it_is_posted_it_is_closed(room):
    def stops(*_):
        question._say = say
        raise KeyboardInterrupt
    question = room.ask()
    say, question._say = question._say, stops
    room.reply(question, room.ann, "yes")
    with pytest.raises(KeyboardInterrupt):
        question.wait()
    assert (outcome(question), room.notes(question)) == (YES, [])
    real = room.service.answer

    def posted(call):
        answer = real(call)
        if room.posts in f"{call.method} {call.path}" and len(room.posted_questions()) == 2:
            room.service.answer = real
            signal.raise_signal(signal.SIGINT)  # it comes while the main thread reads the answer
        return answer
    room.service.answer = posted
    pytest.raises(KeyboardInterrupt, room.alerter().decide, "Deploy?", timeout=5)
    assert (room.notes(room.asked()), signal.getsignal(signal.SIGTERM)) == ([STOPPED], signal.SIG_DFL)


@posix
@pytest.mark.parametrize("first", ["SIGHUP", "SIGTERM"])  # a session that ends sends both
def test_a_terminated_process_closes_its_question_and_ends_as_it_would_have(first):
    with FakeSlack() as slack:
        room = Room("slack", slack)
        store_alerter(slack)
        process = start_program("ask", "Deploy?")
        wait_until(lambda: any("replies" in call.path for call in slack.calls), "the first poll")
        process.send_signal(signal.Signals[first])
        process.terminate()
        end = vars(end_of(process))
        assert (end["returncode"], room.notes(room.asked())) == (128 + signal.Signals[first], [STOPPED])


# === Asking: elsewhere and later ===
def test_a_shorter_wait_leaves_the_question_open_and_a_longer_one_ends_with_it(discord_room):
    room, question = discord_room, discord_room.ask(timeout=20, minimum_approvals=2)
    room.reply(question, room.ann, "yes")
    for timeout, end, notes in ((10, 10, 1), (0, 10, 1), ("1h", 20, 2)):
        assert question.wait(timeout) == Decision("timeout", at=room.clock.start + end, approvals=(room.ann,))
        assert len(room.notes(question)) == notes
    pytest.raises(ConfigError, question.wait, timeout="5 apples")
    leave = {"__bool__": lambda _: question.alerter._release(question) or True}  # as another thread's wait
    question._record.ref = type("Ref", (dict,), leave)(question.ref)
    question.alerter._join(question)


def test_a_question_is_plain_json_without_secrets(room):
    alerter = room.alerter(approvers=[room.ann])
    question = room.ask("Deploy? \U0001f600 \u00e9", alerter, timeout=60)
    state = question.to_dict()
    text = json.dumps(state, allow_nan=False)
    assert room.service.token not in text and room.service.url not in text
    state["approve"].clear()
    again = Question.from_dict(json.loads(text), alerter)
    assert question.to_dict() == again.to_dict() == json.loads(text)  # what is handed out is a copy
    assert (again.ref, again.token, again.deadline) == (question.ref, question.token, question.deadline)
    assert repr(again) == f"Question({state['text']!r}, alerter={state['alerter']!r}, ref={question.ref!r})"
    room.reply(question, room.bob, "no")
    room.reply(question, room.ann, "yes")
    assert again.check() == question.check()


def test_half_a_question_or_what_is_no_id_is_refused(room):
    alerter = room.alerter()
    state = room.ask(alerter=alerter).to_dict()
    halves = [{name: value for name, value in state.items() if name != part}
              for part in ("token", "asked", "deadline", "approve", "decline")]
    no_ids = {"slack": [{"channel": "C0\ud800"}, {"channel": "C0/.."}, {"ts": "("}, {"ts": None}],
              "discord": [{"channel_id": "1/webhooks?x="}, {"message_id": "١٢٣"}, {"message_id": "1" * 21}]}
    odd = [{**state, "ref": {**state["ref"], **ref}} for ref in no_ids[room.kind]]
    for given, its, why in (*((half, alerter, "to_dict gave") for half in (
                *halves, 5, {**state, "approve": []}, {**state, "deadline": math.nan})),
            *((other, alerter, "is no id of") for other in odd), ({**state, "ref": None}, alerter, "no id"),
            (state, None, "no name"), (state, Board(), "asked on")):
        pytest.raises(ConfigError, Question.from_dict, given, its).match(why)


# === Asking: many at once ===
class CrowdClock(FakeClock):
    """Virtual time for many threads: when all of them sleep, it goes on to where the first one wakes."""
    def __init__(self):
        super().__init__()
        self.turn, self.awake, self.sleepers = threading.Condition(), 0, {}

    def sleep(self, seconds):
        me = threading.get_ident()
        with self.turn:
            self.sleepers[me] = self._passed + seconds
            self._one_less()
            self.turn.wait_for(lambda: me not in self.sleepers)

    def _one_less(self):
        self.awake -= 1
        while not self.awake and self.sleepers:
            super().sleep(max(min(self.sleepers.values()) - self._passed, 0))
            still = {who: wakes for who, wakes in self.sleepers.items() if wakes > self._passed}
            self.awake += len(self.sleepers) - len(still)
            self.sleepers = still
            self.turn.notify_all()

    def run(self, work, cases):
        """Call work(case) for each in a thread of its own; return what they returned."""
        def one(case):
            try:
                return work(case)
            finally:
                with self.turn:
                    self._one_less()
        self.awake = len(cases)
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            return list(pool.map(one, cases))


@pytest.fixture(params=["slack", "discord"])
def crowd(request):
    with {"slack": FakeSlack, "discord": FakeDiscord}[request.param](CrowdClock()) as service:
        yield Room(request.param, service)


def test_a_hundred_questions_cost_what_one_costs_and_keep_their_answers(crowd, monkeypatch, caplog):
    monkeypatch.setattr(alerters, "_SLACK_PAGE", "50" if MORE else "5")  # they fill several
    room, clock, edited, slow, answer = crowd, crowd.clock, [], [], crowd.service.answer
    ann, bob, alerter = room.ann, room.bob, room.alerter(approvers=[room.ann, room.bob], timeout=120)
    questions = [room.ask(f"Deploy {n}?", alerter) for n in range(99 if MORE else 9)]
    questions += [room.plain(ann, "yes") and room.ask("Deploy?", alerter)]  # a word to which none listens
    for question in questions[::8]:  # somebody who may not decide
        room.reply(question, room.eve, "yes")
    for n, second, act, who, said in (
            (1, 7, room.reply, ann, "yes"), (2, 7, room.reply, ann, "no"), (3, 8, room.react, bob, "✅"),
            (8, 40, room.in_thread, ann, "yes"), (5, 70, room.react, ann, "❌"),
            (7, 119.5, room.reply, ann, "yes"), (9, 44.5, room.react, bob, "✅")):
        clock.at(second, functools.partial(act, questions[n], who, said))
    for n, second, said in ((6, 2, "yes"), (9, 26, "no")):  # it is edited, the second one just before a tap
        clock.at(second, functools.partial(lambda n: edited.append(room.reply(questions[n], ann, "hm")), n))
        clock.at(second + 18, functools.partial(lambda said: room.service.edit(edited[-1], said), said))

    def answer_slowly(call):
        """Each takes its time, and one reading that began before the deadline ends after it."""
        answered, clock._passed = answer(call), clock._passed + 0.002
        if clock.monotonic() >= 116 and not slow:
            slow.append(call)
            FakeClock.sleep(clock, 5)
        return answered
    room.service.answer, before = answer_slowly, len(room.service.calls)
    ends = clock.run(lambda question: (question.wait(), clock.monotonic()), questions)
    found = {n: (d.status, d.by) for n, (d, _) in enumerate(ends) if d.status != "timeout"}
    assert found == {1: (YES, ann), 2: (NO, ann), 3: (YES, bob), 5: (NO, ann), 6: (YES, ann),
                     7: (YES, ann), 8: (YES, ann), 9: (NO, ann)}
    reads = [call.at - clock.start for call in room.service.calls[before:] if call.path.find("post") < 0]

    def rate(start, end):
        return sum(start <= moment < end for moment in reads) / (end - start)
    assert rate(0, 10) <= (12 if MORE else 5.7) and rate(50, 100) <= (3 if MORE else 0.8)
    latest = {1: 8.1, 3: 9.1, 8: 44.1, 5: 77.1, 6: 51.1 if MORE else 33.1}
    assert [n for n in latest if ends[n][1] > latest[n]] + caplog.messages == []


def test_a_no_stands_before_a_later_yes_whatever_had_been_read_by_then(room):
    alerter, answer = room.alerter(listen="channel", approvers=[room.ann, room.bob]), room.service.answer
    ways = {"channel": lambda _, *said: room.plain(*said), "thread": room.in_thread,
            "tap": lambda q, who, said: room.react(q, who, {"no": "❌", "yes": "✅"}[said])}
    old = room.ask("Old?", alerter)
    ways["channel"](old, room.ann, "no")
    room.reply(old, room.bob, "yes")
    room.clock.sleep(90)
    other, asked = [room.ask(text, alerter, timeout=3000) for text in ("Other?", "Deploy?")]
    coming = []  # what is said after each answer of the service

    def answer_first(call):
        answered = answer(call)
        for way, who, said in coming.pop(0) if coming else ():
            room.clock.sleep(0.01)
            ways[way](asked, who, said)
        return answered
    room.service.answer = answer_first
    for number, no, yes in itertools.product(range(5), ways, ways):
        question = room.again(asked)
        room.in_thread(question, room.eve, "hm")
        room.react(question, room.eve, "✅")  # so that it is looked up who did
        alerter._join(question)
        coming[:] = [()] * number + [[(no, room.ann, "no"), (yes, room.bob, "yes")]]
        other.wait(0.5)
        assert (question.wait(5).by != room.bob, old.wait(0).status) == (True, NO), (number, no, yes)


def test_what_is_read_on_one_server_answers_nothing_on_another_and_serves_who_still_waits(crowd):
    with type(crowd.service)(crowd.clock) as other:  # of the same token and channel
        rooms = crowd, Room(crowd.kind, other)
        here, there = [room.ask("A?", room.alerter(listen="channel"), timeout=20) for room in rooms]
        waits = (here, 2), (Question.from_dict(here.to_dict(), here.alerter), 20), (there, 20)
        crowd.clock.at(3, lambda: crowd.plain(crowd.ann, "yes"))
        ends = crowd.clock.run(lambda given: given[0].wait(given[1]), waits)
        assert [decision.status for decision in ends] == ["timeout", YES, "timeout"]


@pytest.mark.parametrize("crowd", ["discord"], indirect=True)
def test_a_reading_before_the_deadline_does_not_count_at_the_deadline(crowd):
    questions = [crowd.ask("A?", timeout=30), crowd.ask("B?", timeout=29)]  # the second is read at 29 s
    crowd.clock.at(29.5, lambda: crowd.reply(questions[0], crowd.ann, "yes"))
    assert [each.status for each in crowd.clock.run(lambda q: q.wait(), questions)] == [YES, "timeout"]


def test_a_reading_that_fails_has_failed_for_all_who_wait(crowd):
    questions, before = [crowd.ask("A?", timeout=5) for _ in range(9)], len(crowd.service.calls)
    crowd.service.fail("conversations" if crowd.is_slack else "GET", Fault(status=500), times=None)
    crowd.clock.run(lambda question: pytest.raises(DeliveryError, question.wait), questions)
    assert len(crowd.service.calls) - before < 20  # and not 70


@pytest.mark.parametrize("crowd", ["slack"], indirect=True)
def test_many_questions_in_one_thread_of_slack_are_read_together(crowd):
    service, clock, alerter = crowd.service, crowd.clock, crowd.alerter()
    where = SlackAlerterParameters(thread_ts=crowd.plain(crowd.bob, "Release 7"), timeout=60)
    chat = [service.say(crowd.bob, "Step done.", where.thread_ts) for _ in range(250)]  # three pages of it
    questions = [alerter.open_question(f"Deploy {n}?", where) for n in range(len(chat) // 10 if MORE else 6)]
    clock.at(5, lambda: [crowd.react(questions[n], crowd.ann, tap) for n, tap in ((2, "✅"), (3, "❌"))])
    clock.at(6, lambda: service.say(crowd.ann, "yes", where.thread_ts))  # to the newest one above it
    before, ends = len(service.calls), clock.run(lambda question: question.wait(10), questions)
    assert [d.status for d in ends] == ["timeout", "timeout", YES, NO, *["timeout"] * (len(ends) - 5), YES]
    assert sum(call.path.endswith("conversations.replies") for call in service.calls[before:]) <= 18
    alerter._join(questions[0]), questions[1].wait(0)
    assert alerter.open_question("New?", where).wait(0).status == "timeout"  # what was read does not hold it


# === Asking: a key that outlives the process ===
def _gone(*_):
    raise Gone


def _die(clock, seconds=1):
    clock.at(clock.monotonic() + seconds, _gone)


def _records():
    return json.loads(read_store()).get("questions", {}) if os.path.exists(store_file()) else {}


def _decide(room, text="Deploy?", alerter=None, params=None, key="deploy-42", **fields):
    return (alerter or room.alerter()).decide(text, params or AlerterParameters(**fields), key=key)


def _ask_and_die(room, **given):
    _die(room.clock)
    with pytest.raises(Gone):
        _decide(room, **given)
    return room.asked()


def _open(room, *answers, text="Deploy?", **given):
    """An open question with a key, and Ann's answers."""
    question = room.alerter().open_question(text, **{"key": "deploy-42", **given})
    for answer in answers:
        room.reply(question, room.ann, answer)
    return question


REPLACED = ["This question was replaced by another one and is closed."]


def test_a_question_is_recorded_before_it_is_posted(discord_room, tmp_path, monkeypatch):
    room, service, seen, answer = discord_room, discord_room.service, [], discord_room.service.answer
    own = tmp_path / "own.json"
    StackStore(own).register_alerter("team", "discord", discord_token="{{env.TEAM_TOKEN}}",
                                     discord_api_url=service.api_url, discord_channel_id=service.channel)
    monkeypatch.setenv("TEAM_TOKEN", service.token)
    FLAVORS["discord"] = in_time(FLAVORS["discord"], room.clock)

    def looking(call):
        if room.posts in f"{call.method} {call.path}":
            seen.append(json.loads(own.read_text("utf-8"))["questions"])
            StackStore(own).register_stack(f"s{len(seen)}", "team")  # no lock is held meanwhile
        return answer(call)
    service.answer = looking
    question = _ask_and_die(room, alerter=StackStore(own).load_alerter("team"))
    assert list(seen[0]) == ["deploy-42"] and seen[0]["deploy-42"]["ref"] is None
    assert _records() == {} and sorted(os.listdir(tmp_path)) == ["own.json", "own.json.lock"]
    room.reply(question, room.ann, "yes")
    assert _decide(room, alerter=StackStore(own).load_alerter("team")).status == YES
    kept = own.read_text("utf-8")
    assert json.loads(kept)["questions"] == {} and service.token not in kept


ADOPTED = {  # what happens to a question of 60 s whose process died -> its end, whether it is asked anew
    "an answer": (lambda r, q: r.reply(q, r.ann, "yes"), YES, False),
    "nothing": (lambda r, q: r.clock.sleep(58), "timeout", False),
    "an answer, long ago": (lambda r, q: (r.reply(q, r.ann, "no"), r.clock.sleep(5000)), NO, False),
    "an answer too late": (lambda r, q: (r.clock.sleep(5000), r.reply(q, r.ann, "yes")), "timeout", True),
    "a tap too late": (lambda r, q: (r.clock.sleep(63), r.react(q, r.ann, "✅")), "timeout", True),
    "an edit too late": (lambda r, q: r.service.edit(
        (r.reply(q, r.ann, "hm"), r.clock.sleep(5000))[0], "yes"), "timeout", True),
    "a decline before a yes, edited later": (lambda r, q: [r.service.edit(edited, "no: not yet") for edited in
        [r.reply(q, r.ann, "no")] if r.reply(q, r.bob, "yes") and not r.clock.sleep(9)], NO, False),
    "a decline after a yes, edited later": (lambda r, q: [r.service.edit(edited, "no: not yet") for _ in [
        r.reply(q, r.bob, "yes")] for edited in [r.clock.sleep(1) or r.reply(q, r.ann, "no")]], YES, False),
    "a tap that can never be read": (lambda r, q: (
        r.react(q, r.bob, "❌"), r.reply(q, r.ann, "yes"), setattr(r.service, "reaction_users_max", 0),
        r.service.scopes.discard("reactions:read"), r.clock.sleep(5000)), "timeout", True),
    "a tap while a decline cannot be read": (lambda r, q: (
        r.reply(q, r.bob, "no"), r.react(q, r.ann, "✅"), r.service.fail(r.reads, r.limited(1))), NO, False),
    "deleted": (lambda r, q: (r.service.delete(r.id(q)), r.clock.sleep(500)), "timeout", True)}


@pytest.mark.parametrize("kind, case", [(kind, case) for kind in ("slack", "discord") for case in ADOPTED
                                        if kind == "slack" or "late" in case])
def test_a_question_of_the_same_key_is_adopted_with_its_answers_and_time(request, kind, case):
    room, (act, status, anew) = Room(kind, request.getfixturevalue(kind)), ADOPTED[case]
    question = _ask_and_die(room, timeout=60)
    act(room, question)
    if case.endswith(("ago", "late")):
        room.service.fail(room.reads, Fault(status=500))  # it has its grace from here
    began = room.clock.monotonic()
    assert _decide(room, timeout=3).status == status
    assert (room.notes(question) == REPLACED) == ("never" in case)  # which is no time-out
    assert room.clock.monotonic() - began <= (1 if status != "timeout" else 10 if anew else 2)
    assert (len(room.posted_questions()), _records()) == (1 + anew, {})


@pytest.mark.parametrize("known", [True, False])
def test_a_key_that_moves_to_another_alerter_closes_the_old_question(slack_room, known, boards):
    room, store = slack_room, StackStore()
    store_alerter(room.service, "old", clock=room.clock)
    old = _ask_and_die(room, alerter=store.load_alerter("old"))
    room.reply(old, room.ann, "yes")
    if not known:
        store.set_active_stack("default"), store.delete_stack("old_stack")
        store.delete_alerter("old")
    board = in_time(register_flavor(Board), room.clock)()
    assert _decide(room, alerter=board, timeout=5).status == "timeout"
    assert len(BOARDS["kitchen"]) == len(room.posted_questions()) == 1 and _records() == {}
    assert room.notes(old) == REPLACED * known


@pytest.mark.parametrize("waits", [0, 20])
def test_a_key_posted_late_has_its_deadline_by_the_time_of_the_post(discord_room, waits):
    discord_room.service.fail(discord_room.posts, *[discord_room.limited(waits)] * bool(waits))
    _lost(discord_room, acts=bool(waits), timeout=300)
    question = _ask_and_die(discord_room, timeout=300)
    discord_room.clock.sleep(310 - discord_room.clock.monotonic())  # past the deadline
    discord_room.reply(question, discord_room.ann, "yes")
    assert _decide(discord_room, timeout=5).status == "timeout"


def test_help_is_given_once_and_never_brings_a_replaced_or_decided_record_back(slack_room):
    room = slack_room
    first = _open(room, "yes please")
    also = Question.from_dict(first.to_dict(), room.alerter())
    assert (first.check(), also.check(), len(room.notes(first))) == (None, None, 1)
    second = _open(room, "yes", text="Deploy 2?")
    room.reply(first, room.bob, "ok then")
    assert (outcome(first), len(room.notes(first))) == ("timeout", 2)  # it was replaced
    with StackStore()._changing() as data:
        del data["ended"][first.token]  # nobody remembers that any more
    room.reply(first, room.ann, "yes")
    assert (outcome(also), _records()["deploy-42"]["token"]) == ("timeout", second.token)
    assert outcome(second) == YES
    again = Question.from_dict({**second.to_dict(), "helped": False}, room.alerter())
    room.reply(second, room.bob, "ok then")
    assert (again.check(), _records()) == (second.check(), {})
    third = _open(room, "yes please", key="deploy-43")
    os.unlink(store_file())
    os.mkdir(store_file())  # where the store cannot be written the wait goes on
    assert third.check() is None and len(room.notes(third)) == 1


def test_a_key_may_hold_anything_but_nothing(slack_room):
    for wrong in ("", "  ", 7, b"x"):
        pytest.raises(ConfigError, _decide, slack_room, key=wrong).match("key must be a name")
    assert slack_room.service.posted == []
    key = 'de/ploy "42" \u2603\n\U0001f600\udcff'
    slack_room.reply(_ask_and_die(slack_room, key=key), slack_room.ann, "yes")
    assert (_decide(slack_room, key=key).status, _records()) == (YES, {})


def _lost(room, acts=True, **given):
    """Nobody knows whether the question was posted: the record has no ref yet."""
    room.service.fail(room.posts, Fault("act_reset" if acts else "reset"), times=None)
    room.service.fail("conversations.history" if room.kind == "slack" else "GET /api/v10/channels",
                      Fault(status=500), times=None)
    with pytest.raises(DeliveryError) as caught:
        _decide(room, **given)
    room.service.heal()
    assert (caught.value.outcome, [record["ref"] for record in _records().values()]) == ("unknown", [None])
    room.clock.sleep(150)  # longer than Discord remembers a nonce


@pytest.mark.parametrize("acts, text", [(True, "Deploy?"), (True, "Deploy 2?"), (False, "Deploy?")])
def test_a_question_that_may_have_been_posted_is_looked_for(room, acts, text):
    assert room.alerter().post("No question") is True
    _lost(room, acts)
    assert len(room.posted_questions()) == 1 + acts
    old, end, other = room.asked(), room.asked(), text != "Deploy?"
    if acts:  # an archive bot copies it; what is under the copy, or under another post, counts nothing
        say = room.service.bot_says if room.is_slack else functools.partial(room.service.say, "777", bot=True)
        for row in (say(room.text(room.posted_questions()[1]["payload"])), room.plain(room.bot, "Another")):
            room.reply(SimpleNamespace(ref={"ts": row, "message_id": row}), room.eve, "no")
        end.ref["message_id"] = room.reply(old, room.bot, "its end")  # which comes with the whole beginning
    clock, said = room.clock, f"<@{room.bot}> yes"  # its own id is recorded before the post, too
    if acts and not other:  # the token is another app's by now
        room.service.token, room.bot = "MTIz.other.discord", "222"
        room.service.bot_user = room.service.bot_id = room.bot
    clock.at(clock.monotonic() + 2, lambda: room.reply(end if acts > other else room.asked(), room.ann, said))
    assert (_decide(room, text=text).status, len(room.posted_questions())) == (YES, 2 + other)
    assert room.taps(room.asked()) == ["✅", "❌"]  # one tap decides, also on a question that was found again
    assert not other or room.notes(old) == REPLACED


def _elsewhere(room):
    """Parameters for other places of the room: another channel and, on Slack, a thread."""
    if room.kind == "discord":
        room.service.add_channel("301", "other")
        return [DiscordAlerterParameters(discord_channel_id="301")]
    room.service.add_channel("C0OTHER", "other")
    return [SlackAlerterParameters(slack_channel_id="C0OTHER"),
            SlackAlerterParameters(thread_ts=room.plain(room.bob, "Release 7"))]


def test_a_doubtful_question_in_a_channel_or_thread_of_the_params_is_looked_for_there(room):
    for params in _elsewhere(room):
        before = len(room.service.posted)
        room.service.fail("conversations.replies", Fault(status=500), times=None)
        _lost(room, params=params)
        row = room.service.posted[-1]
        ref = {"ts": row["ts"]} if room.kind == "slack" else {"message_id": row["id"]}
        room.react(SimpleNamespace(ref=ref), room.ann, "✅")
        assert _decide(room, params=params).status == YES
        assert len(room.service.posted) == before + 2  # the question and the note


KNOT = eval("[" * 60 + "]" * 60)
KNOT.append(KNOT)  # a deep fact that holds itself
CHANGES = {  # what differs the second time -> whether it is another question
    "title": ({"title": "Now"}, True), "approvers": ({"approvers": ["bob"]}, True),
    "everybody": ({"approvers": None}, True), "words": ({"approve_msg_options": ["go"]}, True),
    "fact": ({"metadata": {"b": {3, 1, 2}, "a": 2}}, True), "number": ({"minimum_approvals": 2}, True),
    "order of approvers": ({"approvers": ["eve", "BOB", "ann", "eve"]}, False),
    "order of words": ({"disapprove_msg_options": ["stop", "no"]}, False), "time": ({"timeout": 9}, False),
    "order of facts": ({"metadata": {"b": {2, 3, 1}, "a": KNOT}}, False)}


def test_a_key_is_bound_to_what_it_asks_and_whom(boards, clock):
    board = in_time(Board, clock)()
    given = {"key": "k", "metadata": {"a": KNOT, "b": {1, 2, 3}}, "approvers": ["ann", "bob", "eve"],
             "disapprove_msg_options": ["no", "stop"], "timeout": 600}
    for case, (change, differs) in CHANGES.items():
        first = board.open_question("Deploy?", **given)
        second = board.open_question("Deploy?", **{**given, **change})
        assert (first.token != second.token) == differs, case
        assert (outcome(first), outcome(second)) == ("timeout" if differs else None, None), case


def test_a_key_is_bound_to_where_it_asks(room, caplog):
    with type(room.service)(room.clock) as other:
        there = room.alerter(**{f"{room.kind}_api_url": other.api_url})
        for alerter, params in [(there, None), *((room.alerter(), params) for params in _elsewhere(room))]:
            first = _open(room, "yes", key=f"drop {params}")
            second = alerter.open_question("Deploy?", params, key=f"drop {params}")
            assert (outcome(second), first.check().status) == (None, "timeout")
            assert "closed, as its key was used for another question" in caplog.messages[-1]
            assert room.notes(first) == (REPLACED if alerter is not there else [])


FINGERPRINT = """import alerters, enum
class Mute: __repr__ = items = None
stages = set(enum.Enum("Stage", "DEV TEST QA PROD"))  # without an order
f = {"s": {"x", "y", "z", "w"}, "o": object(), "e": stages, "m": [Mute()]}
alerter = alerters.SlackAlerter(slack_token="xoxb-1", slack_channel_id="C0")
asked = alerters.AlerterParameters(approvers={"U0ANNA", "U0BENS", "U0CARL"})
print(alerter._new_question(alerters.AlerterMessage("t", metadata=f), asked, "k").to_dict()["fingerprint"])
"""


def test_a_key_means_the_same_in_every_process(capsys):
    exec(FINGERPRINT, {})
    assert _in_a_fresh_process()[1] == capsys.readouterr().out.strip()


def test_with_a_stack_the_alerter_that_holds_the_question_is_asked_first(slack_room, boards, monkeypatch):
    room, service, store = slack_room, slack_room.service, StackStore()
    store_alerter(service, "chat", clock=room.clock)
    register_flavor(in_time(Board, room.clock))
    store.register_alerter("wall", "board")
    store.register_stack("both", ["chat", "wall"], activate=True)
    service.fail(room.posts, no("not_in_channel"), times=None)
    _die(room.clock)
    pytest.raises(Gone, decide, "Deploy?", key="deploy-42")
    service.heal()
    ANSWERS_ON_BOARDS.update({("kitchen", number): [{"by": "ann", "text": "yes"}] for number in range(3)})
    assert decide("Deploy?", key="deploy-42").by == "ann"
    assert (service.posted, len(BOARDS["kitchen"]), _records()) == ([], 1, {})
    _lost(room, alerter=store.load_alerter("chat"))  # while it cannot be looked for, nobody else is asked
    service.fail("history", Fault(status=503), times=None)
    pytest.raises(DeliveryError, decide, "Deploy?", key="deploy-42")
    service.channels.clear()
    with monkeypatch.context() as patch, pytest.raises(Gone):  # what was not posted is not looked for
        patch.setattr(SlackAlerter, "_ready_to_read", _gone)
        decide("Deploy 2?", key="deploy-42")
    assert decide("Deploy 2?", key="deploy-42").by == "ann" and len(BOARDS["kitchen"]) == 2
    alerters._ACCOUNTS.clear()
    service.fail("auth.test", Fault("act_close"), Fault(status=500), times=2)  # reading posts nothing
    assert decide("Deploy 3?").by == "ann" and len(BOARDS["kitchen"]) == 3


def test_who_asks_meanwhile_follows_the_first_one_to_the_next_alerter_of_the_stack(boards):
    def send(self, message, params=None):
        self.clock.sleep(5)
        raise DeliveryError("board: shut", status=503)
    clock, store = CrowdClock(), StackStore()
    for name, cls in (("shut", type("Shut", (Board,), {"flavor": "shut", "send": send})), ("board", Board)):
        register_flavor(in_time(cls, clock))
        store.register_alerter(name, name)
    store.register_stack("both", ["shut", "board"], activate=True)
    ANSWERS_ON_BOARDS["kitchen", 0] = [{"by": "ann", "text": "yes", "at": clock.start + 30}]
    decisions = clock.run(lambda _: decide("Deploy?", key="deploy-42"), range(3))
    assert ({decision.by for decision in decisions}, len(BOARDS["kitchen"])) == ({"ann"}, 1)


def test_who_settles_second_takes_the_decision_of_the_first_and_writes_nothing(discord_room):
    room, first = discord_room, _open(discord_room, "yes")
    second = Question.from_dict(first.to_dict(), room.alerter())
    look = second._look
    def slow_look(*given, **named):
        decision = look(*given, **named)
        room.react(first, room.bob, "❌")
        assert outcome(first) == NO
        return decision
    second._look = slow_look
    assert second.check() == first.check()
    assert (outcome(second), len(room.notes(first)), _records()) == (NO, 1, {})
    first = _open(room, "yes", minimum_approvals=3)
    second = Question.from_dict(first.to_dict(), room.alerter())
    room.reply(first, room.bob, "yes")
    assert (first.check(), second.check(), len(room.notes(first))) == (None, None, 2)  # one for each of them
    third, answer, end = _open(room, key="deploy-43", timeout=5), room.service.answer, Decision(NO, room.bob)
    fourth = _open(room, key="deploy-44")
    fourth._key.settle(end)
    room.service.answer = lambda call: (third._key.settle(end), answer(call))[1]
    room.clock.sleep(6)
    assert _decide(room, key="deploy-43").by == fourth.check().by == room.bob and room.notes(third) == []
    assert list(_records()) == ["deploy-42"]  # what they were given is given to nobody else
    room.service.delete(room.id(first))
    for question in first, second:  # neither could read it, so neither says that nobody decided
        assert pytest.raises(DeliveryError, question.check).value.code == "10008"


def test_who_died_over_a_note_is_succeeded_and_who_asks_meanwhile_waits(discord_room, monkeypatch):
    room, first = discord_room, _open(discord_room, "yes")
    say, first._say = first._say, _gone
    pytest.raises(Gone, first.check)
    first._say = say
    assert (_decide(room).by, len(room.notes(first)), _records()) == (room.ann, 1, {})
    second = _open(room, "yes")
    say = second._say
    def slow_say(*given):
        _ask_and_die(room)  # it is not given that answer
        say(*given)
    second._say = slow_say
    assert (outcome(second), len(room.notes(second)), _records()) == (YES, 1, {})
    assert _decide(room, timeout=2).status == "timeout" and len(room.posted_questions()) == 3
    third = _open(room)
    with monkeypatch.context() as patch, pytest.raises(Gone):  # over the note that it is replaced
        patch.setattr(Question, "_say", _gone)
        _open(room, text="Deploy 2?")
    assert third._key.decision().status == "timeout" and _open(room, text="Deploy 2?").ref
    assert (room.notes(third), third._key.update({"ref": {}})) == (REPLACED, False)  # the key is another's


@posix
def test_a_claim_holds_while_its_process_lives_and_no_longer(boards, clock, monkeypatch):
    child, killed = (subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2))
    living, us, zombie = map(alerters._worker, (child.pid, os.getppid(), killed.pid))
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(alerters, "_CLAIM_PAUSE", 5.0)
    board = in_time(Board, clock)()
    board.open_question("Deploy?", key="k", timeout=3600)
    for by, left, wait in (
            (living, 200, 20), (living, 200, 0), ("0" + us, 200, 0), ("odd", 30, 30), (us, 1e6, 0),
            (us, 30, 30), (us, -1, 0), ("ahead", 205, 205), (zombie, 200, 0)):
        began = clock.monotonic()
        with StackStore()._changing() as data:
            data["questions"]["k"].update(claimed_by=by, claimed_until=clock.now() + left)
        if wait == 20:
            board.open_question("Deploy?", key="other")
            assert clock.monotonic() == began
            clock.at(began + 20, child.communicate)
        board.open_question("Deploy?", key="k", timeout=3600)
        assert clock.monotonic() - began == pytest.approx(wait, abs=5), (by, left)
    killed.communicate()
    assert len(BOARDS["kitchen"]) == 2


def test_a_record_that_cannot_be_read_stops_its_own_key_and_nothing_else(boards, clock):
    board = in_time(register_flavor(Board), clock)()
    record = board.open_question("Deploy?", key="deploy-42").to_dict()
    for part, value in (("ref", 5), ("approve", []), ("approve", None), ("deadline", "soon"), ("asked", -1),
            ("asked", 1e11), ("asked", 10 ** 400), ("token", 7), ("parts", "x"), ("parts", [5]),
            ("approvers", []), ("minimum_approvals", 0), (None, [])):
        with StackStore()._changing() as data:
            data["questions"]["deploy-42"] = value if part is None else {**record, part: value}
        with pytest.raises(StoreError, match="'deploy-42' cannot be read"):
            board.open_question("Deploy?", key="deploy-42")
    StackStore().register_alerter("wall", "board")
    assert post("All the same", alerter="wall")
    assert board.open_question("Deploy?", key="deploy-43").check() is None


def test_records_of_a_later_version_stay_as_they_are_and_those_of_1_0_0_are_asked_anew(slack_room):
    """An old fingerprint does not say where it was asked and whom, so nobody's answer to it counts."""
    room, question = slack_room, _open(slack_room)
    with StackStore()._changing() as data:
        data["questions"]["deploy-42"].update(odd=[1], key=None)  # the key, which it stands under, may lack
        data["ended"] = {"1": 5, "2": {"at": "x"}, question.token: {  # nobody can read these, or wants it
            "ended": room.clock.now(), "status": 5}, "3": {"ended": room.clock.now() - 86401, "status": YES}}
    assert _open(room, "yes").token == question.token and _records()["deploy-42"]["odd"] == [1]
    assert _decide(room).status == YES
    old = _open(room, "yes")
    later = "where author recipients minimum_approvals acknowledged claimed_by claimed_until helped".split()
    with StackStore()._changing() as data:
        record = {n: v for n, v in data["questions"]["deploy-42"].items() if n not in later}
        data["questions"]["deploy-42"] = {**record, "fingerprint": "0" * 64, "url": None}
    assert _decide(room, timeout=5).status == "timeout" and room.notes(old) == REPLACED
    assert (len(room.posted_questions()), _records(), "3" in StackStore()._load()["ended"]) == (3, {}, False)


def test_a_secret_file_that_is_away_for_a_moment_costs_no_answer(slack_room, tmp_path, caplog):
    room, secret = slack_room, tmp_path / "token"
    secret.write_text(f"{room.service.token}\n", "utf-8-sig")  # as Notepad may save it
    alerter = room.alerter(slack_token=f"{{{{file.{secret}}}}}")
    for second, act in ((5, lambda: secret.write_text("")), (10, secret.unlink),
                        (8, lambda: room.reply(room.asked(), room.ann, "yes please"))):
        room.clock.at(second, act)
    for _ in range(2):
        _die(room.clock, 15)
        with pytest.raises(Gone):
            _decide(room, alerter=alerter)
    secret.write_text(room.service.token)
    room.reply(room.asked(), room.ann, "yes")
    assert _decide(room, alerter=alerter).status == YES and len(room.posted_questions()) == 1
    assert caplog.messages[0].startswith(f"slack: slack_token: file {secret} holds no usable secret")


def test_one_question_used_by_ten_threads(discord_room):
    room, question = discord_room, discord_room.ask(timeout=3600)
    room.clock.at(3, lambda: room.reply(question, room.ann, "yes"))
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        got = [decision.result() for decision in [pool.submit(question.wait) for _ in range(10)]]
    assert [(decision.status, decision.by) for decision in got] == [(YES, room.ann)] * 10
    assert len(room.notes(question)) == 1


KILLED = """
import email.parser, fcntl, http.client, json, os, select, socket, ssl, sys, urllib.request, alerters
for line in sys.stdin:
    kind, token, channel, url = line.split()
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        fields = {f"{kind}_token": token, f"{kind}_channel_id": channel, f"{kind}_api_url": url}
        try:
            decision = alerters.FLAVORS[kind](**fields).decide("Deploy?", timeout=60, key=url)
            said = f"{decision.status} {decision.by}"
        except BaseException as error:
            said = repr(error)
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    print(process, flush=True)
    with os.fdopen(ours) as said:
        print(said.read() or "killed", flush=True)
    os.waitpid(process, 0)
"""


def _killed_again_and_again(kind, service, chance, kills, forks):
    """Ask under one key, killed on the way, until the answer comes out; return kills, end, how it should be.
    forks: a process that has imported all there is and forks, which takes a fiftieth of starting one."""
    room, respond, plan = Room(kind, service), service.respond, {"calls": 0}
    who, word = "U9" if kind == "slack" else "99", chance.choice(["yes", "no"])
    answer_after, answered, killed, said = chance.randrange(kills + 1), False, 0, "killed"

    def kill():
        with contextlib.suppress(ProcessLookupError):
            os.kill(plan["process"], signal.SIGKILL)

    def killing(http, call):
        """kill -9 the process right before or right after the service acts on one of its requests."""
        with service.lock:
            plan["calls"] -= 1
            doomed = plan["calls"] == 0
            if doomed and plan["after"]:
                service._act(call)
        return kill() if doomed else respond(http, call)
    service.respond = killing
    while said == "killed":
        last, at_random = killed >= kills, chance.random() < 0.4
        calls = 0 if last or at_random else chance.randrange(1, 6)
        with service.lock:  # its first call waits until its number is known
            forks.stdin.write(f"{kind} {service.token} {service.channel} {service.api_url}\n")
            forks.stdin.flush()
            process = int(forks.stdout.readline())
            plan.update(process=process, calls=calls, after=chance.random() < 0.5)
        end = time.monotonic() + (60 if last else chance.uniform(0.001, 0.1) if at_random else 1)
        while not select.select([forks.stdout], [], [], 0.002)[0] and time.monotonic() < end:
            if killed >= answer_after and not answered and room.posted_questions():
                answered = True
                room.reply(room.asked(), who, word)
        kill()
        said = forks.stdout.readline().strip()
        killed += said == "killed"
    return killed, (said, len(room.posted_questions())), (f"{YES if word == 'yes' else NO} {who}", 1)


@posix
def test_no_answer_is_lost_and_no_question_doubled_when_the_process_is_killed():
    seed, n, killed = random.SystemRandom().randrange(10**6) if MORE else 9, 0, 0
    with start_program("-c", KILLED, stdin=subprocess.PIPE, stderr=None) as forks:
        while n % 2 or killed < (50 if MORE else 4):  # on both services
            kind, fake = [("slack", FakeSlack), ("discord", FakeDiscord)][n % 2]
            with fake() as service:
                kills, ended, wanted = _killed_again_and_again(
                    kind, service, random.Random(seed + n), 3, forks)
            assert (seed, n, ended) == (seed, n, wanted)
            killed, n = killed + kills, n + 1
        forks.stdin.close()
    assert _records() == {}


# === Asking: what is no answer, at random ===
def _no_answers(chance):
    """Texts that look like an answer and are none: by construction, whatever is drawn."""
    words = "approve LGTM ok yes decline disapprove no reject".split()
    others = ("oui да si hai ja nein igen \u044fes \u043ek k yep nope sure approved declined rejecting okay "
              "\u4e0d yess n o please not never don't if maybe yes? no? later wait both either \U0001f44d "
              "\U0001f197 :+1: 1 0 true").split()
    shapes = (
        "{w} {x}|{x} {w}|> {w}|>{w}|>>> {w}|~{w}~|~~{w}~~|*~{w}~*|\"{w}\"|\u201c{w}\u201d|'{w}'|({w})|[{w}]|"
        "{w}?|{w}!!|{w}!?|!{w}|/{w}|{w},|{w}: |:{w}:|not {w}|un{w}|{w}{w}|{w} {v}|{w}\n{v}|\u202e{w}|*{w}|"
        "{w}*|*{w}_|*{w}* *{v}*|&lt;{w}&gt;|<{w}>|<@999> {w}|- {w}|# {w}|1. {w}|Deploy?\n{w}|{w}\n> Deploy?|"
        "> Deploy?\n{w}|@ann {w}|{w}\0|{x}|http://{w}.com|{w[0]}\u200b{w}|{w[0]} {w}").split("|")
    texts = [shape.format(w=chance.choice(words), v=chance.choice(words), x=chance.choice(others))
             for shape in shapes]
    for word in words:
        texts += [word[::-1] + "x", word[:-1], word.replace("o", "\u043e").replace("e", "\u0435") + "\u0301"]
    return texts


def test_what_is_not_exactly_an_answer_never_decides(room):
    chance, wrong = random.Random(room.kind), []
    for _ in range(9 if MORE else 1):
        question = room.ask(alerter=room.alerter(case_sensitive=False))  # the looser of the two
        symbols = "".join(c for c in map(chr, range(0x2190, 0x1FC00)) if unicodedata.category(c) == "So")
        long = [" " * 30_000 + "no way", "".join(map(":{}:".format, range(40_000)))]
        for text in _no_answers(chance) + (long if room.is_slack else [symbols * 9]):  # one rule for both
            room.reply(question, room.ann, text)
        began = time.process_time()
        decision = question.check()
        assert time.process_time() - began < 3
        wrong += [] if decision is None else [decision.text]
        answer = room.reply(question, room.ann, chance.choice(["Yes", " *OK*. ", "approve!", "`lgtm`"]))
        assert wrong or question.check().at == room.time(answer)
    assert wrong == []


# === Asking: flavors of one's own, and what cannot be asked ===
def test_a_flavor_of_ones_own_asks_plain_or_frozen_with_a_key_or_without(boards, clock):
    got, late = [], clock.start + 5

    class Later(Board):
        def send(self, message, params=None):
            got.append(message)
            return super().send(message._with(title="later"))
    kitchen = in_time(type("Both", (type("Plain", (Board,), {}), Later), {}), clock)()
    answers = [{"by": "", "text": "no"}, {"by": "bob", "text": "Yes"}, {"by": "ann", "text": "ok!"}]
    clock.at(5, lambda: ANSWERS_ON_BOARDS.update({("kitchen", 0): answers, ("kitchen", 1): answers}))
    assert kitchen.decide("Deploy?") == Decision(YES, "ann", "ok!", "reply", late)  # case counts
    assert kitchen.ask("Deploy?", disapprove_msg_options=["ok"]) is False
    assert "Deploy?" in got[1].body and "`approve`, `LGTM` or `yes`" in got[1].body  # it says how to answer
    kitchen.send(message="text")
    assert got[2] == AlerterMessage(body="text") and kitchen.post("Done") is True and kitchen.check()
    assert BOARDS["kitchen"][2:] == ["text", "Done"]
    with pytest.raises(ConfigError, match="a message is a str, an exception or an AlerterMessage, not int"):
        kitchen.send(5)
    hall = in_time(register_flavor(FrozenBoard), clock)("hall", approvers=("@ann",), timeout=20)
    ANSWERS_ON_BOARDS["hall", 0] = [{"by": "bob", "text": "no"}, {"by": "ann", "text": "OK"}]
    assert hall.decide("Deploy?") == Decision(YES, "ann", "OK", "reply", late)
    assert hall.decide("Deploy?") == Decision("timeout", at=late + 20)
    assert hall.ask("Deploy?", timeout=5) is False and clock.now() == late + 25
    for alerter in (in_time(Board, clock)("attic"), in_time(FrozenBoard, clock)("cellar")):
        _ask_and_die(SimpleNamespace(clock=clock, asked=list), alerter=alerter)
        ANSWERS_ON_BOARDS[alerter.name, 0] = [{"by": "ann", "text": "yes"}]
        assert alerter.decide("Deploy?", key="deploy-42").status == YES
        assert (len(BOARDS[alerter.name]), _records()) == (1, {})
        question = alerter.open_question("Deploy?")
        again = Question.from_dict(json.loads(json.dumps(question.to_dict())), alerter)
        ANSWERS_ON_BOARDS[alerter.name, 1] = [{"by": "ann", "text": "no"}]
        assert (outcome(question), outcome(again)) == (NO, NO)


@pytest.mark.parametrize("error, wait", [(OSError("cable"), 9), (DeliveryError("board: 500", status=500), 9),
    (DeliveryError("board: slow down", status=429, retry_after=7.0), 27),
    (DeliveryError("board: shut", status=401), 2), (DeliveryError("board: shut", status=404), 2)])
def test_trouble_of_an_own_flavor_costs_time_and_never_the_answer(boards, clock, error, wait):
    troubles = [error] * 3  # unless it is final at once

    def replies(self, question):
        if troubles:
            clock.sleep(2)  # what it says is counted from its answer on
            raise troubles.pop()
        return [{"by": "ann", "text": "yes"}, {"by": "bob", "text": "no", "edited": "10:12"}]  # of its own
    board = in_time(type("Shaky", (Board,), {"replies": replies}), clock)()
    if wait > 2:
        assert board.decide("Deploy?").status == YES
    else:
        pytest.raises(DeliveryError, board.decide, "Deploy?").match("shut")
    assert clock.now() - clock.start == wait


def test_what_sockets_raise_and_odd_refs_of_an_own_flavor_are_no_surprise(caplog):
    refs = []
    def send(self, message, params=None):
        if not refs:
            raise ConnectionRefusedError(111, "Connection refused")
        if isinstance(refs[-1], Exception):
            raise refs.pop()
        return Receipt("torn", refs.pop()) if refs[-1] else refs.pop()
    torn = type("Torn", (Board,), {"flavor": "torn", "send": send})(token="torn-token")
    assert (torn.post("x"), post("x", alerter=torn), torn.ask("x"), ask("x", alerter=torn)) == (False,) * 4
    assert [r.getMessage()[:25] for r in caplog.records] == ["torn: Connection refused:"] * 4
    pytest.raises(DeliveryError, torn.decide, "x").match("it may have arrived")
    for status in (401, 504):  # as urllib and requests raise it
        doubt = "it may have arrived: look" if status > 500 else "see what it says"
        answered = OSError(f"{status} of requests")
        answered.response = SimpleNamespace(status_code=status)
        with urllib.error.HTTPError("https://a.test", status, "No", {}, io.BytesIO()) as of_urllib:
            for raised in (of_urllib, answered):
                refs[:] = [raised]
                refused = pytest.raises(DeliveryError, torn.send, "x")
                assert refused.match(f"{status}.*: {doubt}") and refused.value.status == status
                assert refused.value.outcome == ("unknown" if status > 500 else "not_sent")
    refs[:] = [FileNotFoundError(2, "No such file", "/a")]
    pytest.raises(DeliveryError, torn.send, "x").match("torn: No such file: check the path of its file")
    for said in ("torn by torn-token", "x\ny"):
        refs[:] = [DeliveryError(said, hint="ask\n\x1b[1mtorn-token")]
        pytest.raises(DeliveryError, torn.send, "x").match(r"^torn: (torn by \*\*\*|x y): ask \*\*\*$")
    refs[:] = None, 5, {"x": object()}
    for _ in range(2):
        pytest.raises(ConfigError, torn.decide, "Deploy?", key="deploy-42").match("a dict of plain JSON")
    assert torn.open_question("Deploy?").ref == {}  # nothing came back


@pytest.mark.parametrize("channel, scopes, asks", [("D0ANN", "channels:history groups:history", False),
    ("C0ALERTS", "", False), ("C0ALERTS", "im:history", False), ("C0ALERTS", "groups:history", False),
    ("G0MPIM", "mpim:history", True), ("D0ANN", "im:history", True), ("alerts", "im:history", False),
    ("C0OPEN", "channels:history groups:history chat:write.public", False)])
def test_what_slack_would_not_let_read_is_not_asked(slack, channel, scopes, asks):
    slack.add_channel("D0ANN", None, is_im=True), slack.add_channel("G0MPIM", None, is_mpim=True)
    slack.add_channel("C0OPEN", "open", is_member=False)
    slack.scopes = {"chat:write", "reactions:read", *scopes.split()}
    alerter = slack_alerter(slack, slack_channel_id=channel)
    if not asks:
        pytest.raises(DeliveryError, alerter.decide, "Deploy?", key="k").match("invite|:history.*reinstall")
        assert (slack.posted, _records()) == ([], {})
        slack.scopes.update(("channels:history", "im:history")), slack.add_channel("C0OPEN", "open")
    assert alerter.open_question("Deploy?").ref


@pytest.mark.parametrize("lacks, above, asks", [("ADD_REACTIONS", 0, True),
    ("READ_MESSAGE_HISTORY", 1, False), ("READ_MESSAGE_HISTORY", 0, True), ("VIEW_CHANNEL", 1, False)])
def test_what_discord_would_not_let_read_is_not_asked(discord, lacks, above, asks):
    for _ in range(above):
        discord.say("12", "hm")
    discord.permissions[discord.channel].discard(lacks)
    if asks:  # in an empty channel nobody can tell; the later parts of it are no replies then
        assert discord_alerter(discord).open_question("Deploy? " * 900).ref
    else:
        with pytest.raises(DeliveryError, match="Read Message History"):
            discord_alerter(discord).open_question("Deploy?")
    assert len(discord.posted) == 2 * asks


# === E-mail ===
ANN, BOB, EVE = "ann@example.org", "bob@example.org", "eve@evil.test"
ANN_FULL = "Ann Doe <ann@example.org>"
MAIL_PASSWORD = "smtp-password-1"
MAIL_PNG = b"\x89PNG\r\n\x1a\n.\r\n" + bytes(range(256)) * 30
MAIL_JPG, MAIL_GIF = b"\xff\xd8\xff\xe0" + b"\r\n.\r\n" * 99, b"GIF89a" + b"\0" * 60


@pytest.fixture
def relay():
    with FakeSMTP(tls=None) as service:
        yield service


@pytest.fixture
def trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", ca_file(tmp_path))


def relay_alerter(relay, clock=None, **fields):
    return mail_alerter(relay, clock=clock, **{"use_tls": False, "password": "", **fields})


def mail_asker(relay, imap, clock, **fields):
    fields = {"use_tls": False, "password": "", "imap_password": MAIL_PASSWORD, **fields}
    return mail_alerter(relay, imap, clock, **fields)


def refusal_of(alerter, message="the alert"):
    with pytest.raises(DeliveryError) as caught:
        alerter.send(message)
    return caught.value


def errors_of(caplog, level=logging.ERROR):
    return [r.getMessage() for r in caplog.records if (r.name, r.levelno) == ("alerters", level)]


def part_text(part):
    return part.get_content().replace("\r\n", "\n")


def mail_text(mail):
    return part_text(mail.message.get_body(("plain",)))


def mail_shape(part):
    """The structure of a mail as text: multipart/mixed(text/plain, image/png)."""
    inside = f"({', '.join(map(mail_shape, part.iter_parts()))})" if part.is_multipart() else ""
    return part.get_content_type() + inside


class MailPage(html.parser.HTMLParser):
    """What a reader of the HTML sees (`words`), and what could act."""
    def __init__(self, mail):
        super().__init__()
        self.tags, self.attributes, self.links, self.images, self.words = set(), set(), [], [], []
        self.source = part_text(mail.message.get_body(("html",)))
        self.feed(re.sub("(?s)<style>.*</style>", "", self.source))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value for name, value in attrs if tag == "a" and name == "href"]
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]

    def handle_data(self, data):
        self.words += [" ".join(data.split())] * bool(data.strip())


# === E-mail: the connection ===
@pytest.mark.parametrize("server, fields, tls, user", [
    ({}, {}, True, "bot@example.org"), ({"tls": "ssl"}, {"use_tls": "ssl"}, True, "bot@example.org"),
    ({"user": "relay-user"}, {"username": "relay-user", "use_tls": "starttls"}, True, "relay-user"),
    ({"mechanisms": ("CRAM-MD5", "LOGIN")}, {}, True, "bot@example.org"),
    ({"user": None}, {"password": ""}, True, None),
    ({"user": None, "tls": None, "announced": None}, {"password": "", "use_tls": False}, False, None),
    ({"tls": None, "clear_auth": True}, {"use_tls": False}, False, "bot@example.org"),
    ({"tls": "ssl"}, {"smtp_port": 465}, True, "bot@example.org")])
def test_mail_goes_the_way_its_fields_say(server, fields, tls, user, trusted, monkeypatch):
    with FakeSMTP(**{"user": "bot@example.org", "password": MAIL_PASSWORD, **server}) as service:
        look_up = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, _, *rest: look_up(host, service.port, *rest))
        receipt = mail_alerter(service, **fields).send("hello")
        [mail] = service.mails
        assert mail[:2] + mail[4:] == ("bot@example.org", [ANN, BOB], tls, user)
        assert (receipt, service.sessions) == (Receipt("smtp_email", {"message_id": mail.message_id}), 1)
        assert all(c.tls == tls for c in service.commands if c.line[:4] in ("mail", "rcpt", "data", "AUTH"))


@pytest.mark.parametrize("fault", [
    "not offered", "454 4.7.0 no TLS now", "502 5.5.1 what?", "garbage", "close", "starttls", "ssl"])
def test_without_tls_that_is_trusted_nothing_is_sent(fault, clock, trusted):
    way = {"not offered": None, "ssl": "ssl"}.get(fault, "starttls")
    with FakeSMTP(way, user="bot@example.org", password=MAIL_PASSWORD, clear_auth=True,
                  trusted=fault not in ("starttls", "ssl")) as service:
        if service.trusted and way:
            service.fail("starttls", fault, times=None)
        error = refusal_of(mail_alerter(service, clock=clock, use_tls=way or "starttls"))
        assert error.outcome == "not_sent" and error.hint and MAIL_PASSWORD not in str(error)
        assert service.trusted or error.code == "certificate" and "SSL_CERT_FILE" in error.hint
        assert {c.line.split()[0].upper() for c in service.commands} <= {"EHLO", "STARTTLS", "QUIT"}


BAD_ADDRESSES = [
    "", "ann", "@example.org", "ann@", "ann@@example.org", "ann example@example.org", "ann@exa mple.org",
    "ann@example.org\r\nRSET", "ann@example.org\nBcc: eve@evil.test", "ann\0@example.org", "änn@example.org",
    "ann@example.org, bob", "ann@example.org,", "ann@example.org>", "<ann@example.org>", '"ann"@example.org',
    "ann@example..org", "x" * 65 + "@example.org", "ann@" + "x" * 64 + ".org", "ann@" + "x." * 130 + "org",
    "ann@example.org]<eve@evil.test>", "ann@[127.0.0.1", "ann@example.org\u2028RSET", "a@b.org ORCPT=rfc;x"]


def test_what_cannot_be_right_is_a_config_error_before_anything_is_sent(relay):
    mistakes = [
        {"smtp_server": "mail.example.org", "use_tls": False}, {"use_tls": "banana"}, {"smtp_server": ""},
        {"smtp_server": "smtp://x.example"}, {"smtp_server": "x.example\r\nRSET"}, {"timeout": "soon"},
        {"sender_email": ""}, {"sender_email": "bot@example.org\r\nBcc: eve@evil.test"}, {"smtp_port": 0},
        {"sender_email": "=?utf-8?q?a=0AX:_1?= <b@x.org>"}, {"imap_port": 70000}, {"approvers": ["Ann"]},
        {"password": "abc\r\ndefgh"}, {"imap_password": "abc\ndefgh"}, {"username": "bot\r\nA1 DELETE INBOX"},
        {"subject_prefix": "[x]\r\nBcc: eve@evil.test"}, {"imap_server": "x.org/in"}, {"smtp_port": "587"}]
    for mistake in mistakes:
        with pytest.raises(ConfigError) as caught:
            relay_alerter(relay, **{"password": "geheim-123", **mistake})
        assert not re.search("geheim-123|abc|\n", str(caught.value)), mistake
    for address in BAD_ADDRESSES:
        for fields in {"recipient_email": [address]}, {"sender_email": address}:
            with pytest.raises(ConfigError):
                relay_alerter(relay, **fields)
        with pytest.raises(ConfigError):  # "" is none of its own
            relay_alerter(relay).post("x", SMTPEmailAlerterParameters(recipient_email=address or "ann"))
    for people, said in ("ann@straße.de", "email: write ann@xn--strae-oqa.de"), ((), "no recipient: give "):
        with pytest.raises(ConfigError, match=said):
            relay_alerter(relay, recipient_email=people).post("hi")
    assert not relay.commands


# === E-mail: the mail ===
def test_a_mail_is_text_and_html_with_the_headers_of_an_alert(relay, clock):
    message = AlerterMessage("Training done", "All **good**.", {"b < c": None}, level="success")
    relay_alerter(relay, clock).send(message)
    [mail], page = relay.mails, MailPage(relay.mails[0])
    headers = {name: str(value) for name, value in mail.message.items()}
    assert re.fullmatch(r"<alerters\.[0-9a-f]{16}@example\.org>", headers.pop("Message-ID"))
    assert headers.pop("Content-Type").startswith("multipart/alternative") and b"\nTo: <" in mail.data
    assert headers == {"Subject": "Training done", "From": "bot@example.org", "To": f"{ANN}, {BOB}",
        "Date": "Tue, 14 Nov 2023 22:13:20 +0000", "Auto-Submitted": "auto-generated", "MIME-Version": "1.0",
        "X-Auto-Response-Suppress": "OOF, AutoReply"}
    assert mail_text(mail) == "Training done\n\nAll good.\n\nb < c: None\n" and not page.images
    assert page.words == ["success", "Training done", "All", "good", ".", "b < c", "None"]
    relay_alerter(relay).send(AlerterMessage("T", "```\na\nb\n```", {"k": "d\n  e"}, [MAIL_PNG], "error"))
    page = MailPage(relay.mails[1])  # which needs nothing from outside, and knows dark mode
    assert not page.tags & {"script", "link", "iframe", "form", "object", "svg", "video"}
    assert not re.search(r"(?i)https?:|@import|url\(|expression|position:", page.source)
    assert re.match('(?s)<!DOCTYPE .*e:dark.* dir="auto".*<pre dir="ltr".*>a\nb<.*">d<br>  e<', page.source)
    assert page.images == ["cid:image0"] and not re.search("size:[0-4](px)?;", page.source)  # as spam


def test_the_structure_of_a_mail(relay):
    text, pictures = "multipart/alternative(text/plain, text/html)", "multipart/related(text/html, image/png"
    shapes = [  # fields, images, structure
        ({}, [], text), ({"include_html": False}, [MAIL_PNG], "multipart/mixed(text/plain, image/png)"),
        ({}, [MAIL_PNG, MAIL_JPG, MAIL_GIF],
         f"multipart/alternative(text/plain, {pictures}, image/jpeg, image/gif))"),
        ({}, [b"<svg/>"], f"multipart/mixed({text}, application/octet-stream)"), ({}, [b"<svg/>", MAIL_PNG],
         f"multipart/mixed(multipart/alternative(text/plain, {pictures})), application/octet-stream)")]
    for fields, images, shape in shapes:
        relay_alerter(relay, **fields).send(AlerterMessage(body="see", images=images))
        parts = list(relay.mails[-1].message.walk())
        files = [p.get_content() for p in parts if p.get_content_maintype() in ("image", "application")]
        assert mail_shape(parts[0]) == shape
        assert sorted(files) == sorted(image for image in images if isinstance(image, bytes))


def test_the_subject_is_one_short_line_and_a_long_title_is_whole_in_the_mail(relay):
    subjects = [  # message, alerter's fields, params: subject, or the start of one that is cut
        ({"title": "Done **now**"}, {}, {}, "Done now"), ({"body": "\n\n# *1st*\n2"}, {}, {}, "1st"),
        ({"metadata": {"a": 1}}, {"subject_prefix": "[ml]"}, {}, "[ml] Alert"),
        ({"title": "Done"}, {"subject_prefix": "[ml]"}, {"subject_prefix": "[x]", "subject": "A"}, "[x] A"),
        ({"title": "one\r\ntwo\n three\u2028four\x0bfive"}, {}, {}, "one two three four␋five"),
        ({"title": "Prüfung ✅ 完了 a\ud83d b"}, {}, {}, "Prüfung ✅ 完了 a\ufffd b"),
        *(({"title": bit * 99}, {}, {}, (bit * 99)[:179]) for bit in ("x", "wörd ", "🔥", "失敗 失敗 0.95 "))]
    for message, fields, params, subject in subjects:
        relay_alerter(relay, **fields).send(AlerterMessage(**message), SMTPEmailAlerterParameters(**params))
        got, title = str(relay.mails[-1].message["Subject"]), message.get("title", "")
        assert got[:179] == subject and len(got) <= 200
        assert len(title) < 90 or title.strip() in mail_text(relay.mails[-1])


def test_params_of_the_call_win_and_those_of_another_flavor_are_ignored(relay):
    alerter, carl = relay_alerter(relay, recipient_email=[ANN, ANN, BOB]), "carl@example.org"
    array = type("Array", (collections.UserList,), {"__bool__": None})([carl, EVE])  # as numpy's
    for params in (SMTPEmailAlerterParameters(recipient_email=carl, include_html=False),
                   SMTPEmailAlerterParameters(recipient_email=array, html_body="<p><b>own</b></p>"),
                   SlackAlerterParameters(slack_channel_id="C1", timeout=3)):
        alerter.send("x", params)
    assert [(mail.rcpts, mail_shape(mail.message).count("html")) for mail in relay.mails] == [
        ([carl], 0), ([carl, EVE], 1), ([ANN, BOB], 1)]


def test_domains_go_out_in_ascii_and_a_long_one_keeps_ids_short_enough_to_thread(relay):
    relay_alerter(relay, sender_email="bot@münchen.example", recipient_email="a@bücher.de,.a@b").send("hi")
    relay_alerter(relay, sender_email="bot@" + "a" * 60 + ".example.org").send("hi")
    [mail, long] = relay.mails
    assert (mail.envelope_from, mail.rcpts) == ("bot@xn--mnchen-3ya.example", ["a@xn--bcher-kva.de", ".a@b"])
    assert mail.message["To"] == ", ".join(mail.rcpts) and len(long.message_id) <= 59  # a note: 68


MAIL_EVIL = ["a\r\nBcc: eve@evil.test", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\r\n\r\n<html>", "a\x0bX-Evil: 1",
    "a\x0cX-Evil: 1", "a\x85X-Evil: 1", "a\u2028X-Evil: 1", "a\u2029X-Evil: 1", "a\x1c\x1d\x1eX-Evil: 1",
    "a\0b\x08\x1b[31mc", "=?utf-8?q?a=0AX-Evil:_1?=", "=?utf-8?q?a=0D=0ABcc:_eve=40evil.test?=",
    "=?utf-8?b?YQpYLUV2aWw6IDE=?=", "=?us-ascii?Q?=0D=0A=0D=0A<script>?=", "=\n?utf-8?q?a=0AX-Evil:_1?=",
    "=\u200b?utf-8?q?a=0AX-Evil:_1?=", "= ?utf-8?q?a=0A?=", "=\x1b[m?utf-8?q?a=0AX-Evil:_1?= " + "y" * 77,
    "==??utf-8?q?a=0AX-Evil:_1?=?=", "x" * 70 + " =?utf-8?q?a=0AX-Evil:_1?= " + "y" * 70,
    "<script>alert(1)</script>", "</td></table><img src=x onerror=alert(1)>", "\"'><svg/onload=alert(1)>",
    "[click](javascript:alert(1))", "[a](JaVaScRiPt:alert(1)) [b](data:text/html,<script>)",
    "javascript:alert(1)", "[x](https://ok.example/\"onmouseover=\"alert(1))",
    "https://ok.example/\"><script>", "[a](https://e.test/'x)", "[https://bank.example](https://evil.test/)",
    "`<b>`", "**<i>**", "```\n</pre><script>\n```", "<!--", "]]>", "--></style>", "\u202egnp.exe\u2066",
    "\udce4\ud83d", "&lt;script&gt;", "cid:image0", "\r\n.\r\nMAIL FROM:<eve@evil.test>\r\n", ".",
    "\n.\nRSET", "alerters-file-7f00", "%s {0} {title}", "=20=\n", "From bot", "\ufeff"]


def test_hostile_text_never_becomes_a_header_html_or_a_link_that_acts(relay):
    alerter = relay_alerter(relay)
    for number in range(0, len(MAIL_EVIL), 3):
        text, other, last = (MAIL_EVIL * 2)[number:number + 3]
        message = {"title": text, "body": "x" + other + "\n" + in_markdown(other), "metadata": {last: last},
                   "images": [f"/no/such/{text}.png", "http://" + text], "level": "error"}
        params = {"subject_prefix": "="}
        if number % 9 == 0:
            params = {"subject": text, "subject_prefix": other}
            message = {"body": "x" + last, "images": [f"{other}.png", "https://e.test/" + text]}
        alerter.send(AlerterMessage(**message), SMTPEmailAlerterParameters(**params))
        mail, page = relay.mails[-1], MailPage(relay.mails[-1])
        names = " ".join(sorted({name.lower() for name in mail.message} - {"content-transfer-encoding"}))
        assert names == ("auto-submitted content-type date from message-id mime-version subject to "
                         "x-auto-response-suppress") and mail.rcpts == [ANN, BOB], text
        assert mail.message["To"] == f"{ANN}, {BOB}" and not mail.message.defects, text
        assert not page.tags & {"script", "svg", "i", "b"}, text
        assert not {name for name in page.attributes if name.startswith("on")}, text
        assert all(urllib.parse.urlsplit(link).scheme in ("http", "https") for link in page.links), text
        assert all(link.startswith(("https://", "http://")) for link in page.images), text
        assert not re.search("[\0\x08\x1b\u202e\u2066]", page.source + mail_text(mail)), text
    assert len(relay.mails) == relay.sessions == number // 3 + 1
    alerter.send("[https://bank.example](https://evil.test/) [bank.example](https://evil.test/)")
    assert "https://evil.test/" in " ".join(MailPage(relay.mails[-1]).words)  # a label hides no address


def test_any_text_arrives_as_written(relay):
    bodies = [  # what is written, and what arrives if that is not the same
        ".\n..\n.hidden\n.\n\n. .\nend.", ".", "x" * 5000 + "\n" + "word " * 300 + "end",
        "y" * 998 + "\n" + "z" * 999, "Größe ✅ 完了 🔥\n" * 3 + "é", "From me\n>From you",
        ("a\r\nb\rc\nd\ud83d b \udc00", "a\nb\nc\nd\ufffd b \ufffd"), ("a\0b\x1b[0m\x1b\x7f", "a␀b␛␡"),
        "a=\nb=3D\n=20\n\n\n\nb\tb\n\tc\n--===============\n--\n--a--", ".ä\n.\n" + "é" * 1200]
    for body in bodies:
        given, arrives = body if isinstance(body, tuple) else (body, body)
        relay_alerter(relay).send(given)
        assert mail_text(relay.mails[-1]) == arrives + "\n"


@pytest.mark.parametrize("length", [95_000, 30])
def test_a_text_that_mail_programs_would_clip_is_whole_in_a_file(length, relay):
    lines = [f'  File "/app/módulo_{n}.py", line {n}, in <fn> {"-" * 450}' for n in range(length // 500)]
    text = "```\n" + "\n".join(lines) + "\n```\nValueError: the end"
    facts = {"host": "gpu-17", "log": "y" * (100_000 - length)}  # the one or the other is long
    relay_alerter(relay).send(AlerterMessage("Failed", text, facts, [MAIL_PNG, b"<svg/>"], level="error"))
    [mail] = relay.mails
    picture, attached = mail.message.iter_attachments()
    assert (attached.get_filename(), attached.get_content_charset()) == ("message.txt", "utf-8")
    assert attached.get_payload(decode=True).decode() == f"Failed\n{text}\nhost: gpu-17\nlog: {facts['log']}"
    assert attached.get_content_type() == "text/plain" and picture.get_content() == b"<svg/>"
    for shown in (mail_text(mail), " ".join(MailPage(mail).words)):
        assert "Failed" in shown and "yyyyyy" in shown and "[image-2.bin]" in shown
        assert re.search(r"… [\d,]+ characters left out …", shown) and "<fn>" in shown or length == 30
    assert len(MailPage(mail).source.encode()) < 102_400  # beyond, Gmail clips


def test_images_of_every_kind_arrive_byte_for_byte_where_the_html_shows_them(relay, tmp_path, caplog):
    path = tmp_path / ("loss curve ü.png" if os.name == "nt" else "loss curve ü\".png")
    path.write_bytes(MAIL_PNG * 9)  # more than is coded at once
    images = [path, str(path), MAIL_JPG, bytearray(MAIL_GIF), memoryview(MAIL_PNG), _Figure(), _Picture(),
              b"RIFF1234WEBPxx", tmp_path / "gone.png", b"", _Figure(b""), 42, "https://example.org/x.png"]
    assert relay_alerter(relay).post(AlerterMessage("T", "the text", images=images)) is True
    [mail], page = relay.mails, MailPage(relay.mails[0])
    parts = {part["Content-ID"]: part for part in mail.message.walk() if part["Content-ID"]}
    shown = [parts[f"<{urllib.parse.unquote(source[4:])}>"] for source in page.images[:-1]]
    assert [part.get_content() for part in shown] == [
        MAIL_PNG * 9, MAIL_PNG * 9, MAIL_JPG, MAIL_GIF, MAIL_PNG, PNG, PNG + b"RGB", b"RIFF1234WEBPxx"]
    assert [part.get_content_subtype() for part in shown] == "png png jpeg gif png png png webp".split()
    assert all(part.get_content_disposition() == "inline" for part in shown) and len(parts) == 8
    assert page.images[-1] == "https://example.org/x.png"
    for text in (mail_text(mail), " ".join(page.words)):
        assert "the text" in text and "gone.png could not be shown" in text and "nothing to plot" in text
        assert text.count("could not be shown") == 4
    assert len(errors_of(caplog, logging.WARNING)) == 4 and not errors_of(caplog)


# === E-mail: nothing lost, nothing doubled ===
@pytest.mark.parametrize("stage", FakeSMTP.stages)
def test_fault_matrix_of_smtp(stage, clock, trusted):
    plans = {"421": "421 4.3.2 going down", "451": "451 4.3.0 try later", "close": "close",
             "554": "554 5.7.1 refused", "reset": "reset", "garbage": "garbage"}
    for_ever = "421 421 554 451 close 421 554 reset 451 garbage close".split()  # by stage
    secure, place = stage in ("starttls", "auth"), FakeSMTP.stages.index(stage)
    ways = {"user": "bot@example.org", "password": MAIL_PASSWORD} if secure else {"tls": None}
    faults = [(name, 1) for name in list(plans)[place % 3::3]] + [(for_ever[place], None)]
    with FakeSMTP(**ways) as service:
        alerter = (mail_alerter if secure else relay_alerter)(service, clock=clock)
        for name, times in itertools.product(plans, (1, None)) if MORE else faults:
            where, start = (name, times), clock.monotonic()
            service.mails.clear()
            service.sessions, service.faults[stage] = 0, iter(())
            service.fail(stage, plans[name], times=2 if times and stage == "rcpt" else times)
            outcome, error = _outcome(alerter, "the alert")
            took, code = clock.monotonic() - start, int(name) if name.isdigit() else None
            assert len({mail.message_id for mail in service.mails}) <= 1 and took <= 30, where
            assert stage == "accepted" or len(service.mails) == (error is None), where
            final = name == "554" and stage != "quit"
            assert (error is None) == (stage == "quit" or not final and times == 1), (where, error)
            assert not final or service.sessions == 1, where
            if error is None:
                assert {rcpt for mail in service.mails for rcpt in mail.rcpts} == {ANN, BOB}, where
                continue
            doubtful = stage in ("body", "dot", "accepted") and not code
            assert outcome == ("unknown" if doubtful else "not_sent") and error.status == code, where
            assert not code or plans[name] in str(error), where  # a busy server's own words
            assert final or doubtful or took > 20, where  # it was tried over the whole time


def test_a_lost_answer_to_data_is_repeated_once_with_the_same_message_id(relay, clock):
    relay.fail("accepted", 451, "close", 200, 354, "garbage")  # of codes the first digit decides
    receipt = relay_alerter(relay, clock).send("the alert")
    assert [mail.message_id for mail in relay.mails] == [receipt.ref["message_id"]] * 3
    assert len({mail.data for mail in relay.mails}) == 1
    assert refusal_of(relay_alerter(relay, clock)).outcome == "unknown" and len(relay.mails) == 5
    relay.fail("accepted", "close")  # and then nobody is known any more
    relay.refuse = {ANN: [None, "550 5.1.1 no"], BOB: [None, "550 5.1.1 no"]}
    assert refusal_of(relay_alerter(relay, clock)).outcome == "unknown" and len(relay.mails) == 6


def test_the_name_in_ehlo_is_one_that_servers_take(relay, monkeypatch):
    for host in ("build7.corp.example", "laptop", "127.0.0.1", "mac book.local", "localhost.localdomain"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        relay_alerter(relay).send("x")
    assert {c.line[5:] for c in relay.commands if "ehlo" in c.line} == {"build7.corp.example", "example.org"}


def test_who_is_refused_is_named_and_the_others_have_it_once(clock, relay):
    rows = [  # refusals: who has it, who is named at ERROR, outcome
        ({BOB: "550 5.1.1 no such user"}, [ANN], [BOB], "partial"),
        ({ANN: ["450 4.2.0 later"], BOB: ["451 4.7.1 greylisted"] * 2}, [ANN, BOB], [], "sent"),
        ({BOB: "452 4.2.2 mailbox full"}, [ANN], [BOB], "partial"),
        ({ANN: "450 4.2.0 no", BOB: "452 4.2.2 full"}, [], [ANN, BOB], "not_sent"),
        ({ANN: ["550 5.1.1 no", None], BOB: ["421 4.7.0 bye"]}, [BOB], [ANN], "partial"),  # final is final
        ({ANN: ["421 4.7.0 bye"] * 2}, [ANN, BOB], [], "sent")]  # then BOB was not asked about
    for refusals, held, named, outcome in rows:
        relay.mails.clear()
        relay.refuse, start = copy.deepcopy(refusals), clock.monotonic()
        came, error = _outcome(relay_alerter(relay, clock), "the alert")
        assert came == outcome, refusals
        if error:
            plans = {who: refusals[who] for who in named}
            said = {who: plan[0] if isinstance(plan, list) else plan for who, plan in plans.items()}
            assert [who for who in (ANN, BOB) if who in str(error)] == named
            assert all(f"{who} ({words})" in str(error) for who, words in said.items())
            assert str(error.status) in str(said), refusals
        assert sorted(rcpt for mail in relay.mails for rcpt in mail.rcpts) == held, refusals
        assert len({mail.message_id for mail in relay.mails}) <= 1 and clock.monotonic() - start <= 30


def test_each_of_many_gets_one_mail_and_one_lost_after_a_part_is_told_as_partial(relay, clock):
    people = [f"user{n}@example.org" for n in range(102)]  # the server takes 100 at once
    assert relay_alerter(relay, clock, recipient_email=people).post("hi") is True
    assert sorted(rcpt for mail in relay.mails for rcpt in mail.rcpts) == sorted(people)
    relay.mails.clear()
    relay.refuse = {BOB: ["451 4.7.1 later"]}
    relay.fail("data", None, "552 5.2.2 full")
    error = refusal_of(relay_alerter(relay, clock), AlerterMessage("x", images=[MAIL_PNG]))
    assert (error.outcome, [mail.rcpts for mail in relay.mails]) == ("partial", [[ANN]])
    assert BOB in str(error) and ANN not in str(error)


def test_a_mail_refused_for_its_files_goes_once_more_without_them(clock, caplog):
    plans = r"552 a mail of \d+ bytes, where the server takes 16000", "552 5.3.4 big", "", "554 5.7.1 no"
    for times, size, many, refused in (0, 16_000, 0, None), (1, None, 49_000, None), (3, 0, 49_000, BOB):
        caplog.clear()
        with FakeSMTP(tls=None, announced=size) as service:
            service.refuse = {refused: "550 5.1.1 no such user"}
            service.fail("dot", *[plans[times]] * times)
            service.fail("connect", *["421 4.3.2 busy"] * 9)  # for longer than a mail without files may take
            body, given = "the text" + " x" * many, {"images": [MAIL_PNG * 2], "files": [("売上.csv", b"x")]}
            assert relay_alerter(service, clock).post(AlerterMessage("T", body, **given)) is (not refused)
        [mail] = service.mails
        text, words = mail_text(mail), plans[times]
        for name in ("売上.csv", "image-1.png")[:2 - (times == 1)]:  # pictures go last
            assert re.search(rf"\[{name} could not be shown: smtp_email: .*{words}.*\]", text)
        assert re.match("T\n+the text", text) and ("characters left out" in text) is (many > 0)
        assert re.findall(b'filename="(.*)"', mail.data) == [b"image-1.png", b"message.txt"] * (times == 1)
        warning, *last = errors_of(caplog, logging.WARNING)
        assert re.search(f"{words}.*: (no room .* is large|its words.*); it goes without .*.csv$", warning)
        assert [line.split()[-1] for line in last] == ["image-1.png", "message.txt"][:(1, 0, 0, 2)[times]]
        assert [BOB in line for line in errors_of(caplog)] == [True] * bool(refused)


def test_an_error_is_one_line_and_names_the_flavor_once(relay, smtp, clock):
    relay.fail("mail", "550 5.7.1 sender refused")
    relay.refuse, shown = {BOB: "550 5.1.1 no such user"}, AlerterMessage(body="x", images=[MAIL_PNG])
    assert [str(refusal_of(relay_alerter(relay, clock), shown)) for _ in range(2)] == [
        "smtp_email: 550 5.7.1 sender refused: its words say why",
        "smtp_email: refused: bob@example.org (550 5.1.1 no such user): its words say why"]
    relay.announced = 500  # which not even the text alone fits into
    assert "no room for it: link to" in refusal_of(relay_alerter(relay, clock), shown).hint
    said = str(refusal_of(mail_alerter(smtp, clock=clock, password="wrong-password-2")))
    assert re.fullmatch("smtp_email: 535 5.7.8 User.* to 5.7.8 https://.*: user or .* an app password", said)
    assert smtp.sessions == 1 and not clock.naps
    relay.announced = None
    relay.fail("dot", "554 5.7.1 banned")
    relay.fail("connect", *["421 4.3.2 busy"] * 15, None, *["421 4.3.2 busy"] * 40)
    assert refusal_of(relay_alerter(relay, clock), shown).status == 421 and clock.monotonic() <= 120  # in all
    smtp.fail("ehlo", None, "421 4.3.2 busy", times=None)  # over TLS
    assert ": 421 4.3.2 busy: the server asks to" in str(refusal_of(mail_alerter(smtp, clock=clock)))


def all_at_once(function, cases):
    """Return what came of each case; each waits its real time, in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        return dict(zip(cases, pool.map(lambda case: function(*case), cases)))


def test_who_stalls_or_drips_holds_nobody_and_costs_no_answer(trusted, monkeypatch):
    """All at once, in real time; that of connections passes 30 times as fast, and there is half of it."""
    stalls = {  # what comes of it, by stage and fault of a mail server or a mailbox
        ("connect", "drip"): "not_sent", ("mail", "stall"): "not_sent", ("accepted", "drip"): "unknown",
        ("quit", "stall"): "sent",  # the mail was taken
        ("connect", "tls"): "not_sent",  # it waits for TLS: told in one time-out
        ("greeting", "drip"): "approved", ("select", "stall"): "approved", ("fetch", "drip"): "approved"}
    hasty, speed, services = FakeClock(), 30, []
    hasty.monotonic = lambda: time.monotonic() * speed
    hasty.now = lambda: hasty.start + hasty.monotonic()
    hasty.sleep = lambda seconds: time.sleep(seconds / speed)
    monkeypatch.setattr(alerters, "_SEND_BUDGET", alerters._SEND_BUDGET / 2)
    monkeypatch.setattr(alerters, "_SOCKET_TIMEOUT", alerters._SOCKET_TIMEOUT / speed)
    monkeypatch.setattr(alerters, "_deadline", lambda clock, until: (
        time.monotonic() + (until - clock.monotonic()) / speed))

    def case(stage, fault):
        tls = "ssl" if fault == "tls" else None
        with FakeSMTP(tls=tls) as relay, FakeIMAP(password=MAIL_PASSWORD, clock=hasty) as imap:
            services.extend([relay, imap])
            if stage in FakeIMAP.stages:
                question = mail_asker(relay, imap, hasty).open_question("Deploy?")
                imap.deliver(mail_reply(relay.mails[0].message, ANN, "approve"))
                imap.fail(stage, fault)
                return question.wait(900).status
            if not tls:
                relay.fail(stage, fault, times=None)
            outcome, error = _outcome(relay_alerter(relay, hasty, use_tls=bool(tls)), "hi")
            assert len(relay.mails) == (stage in ("accepted", "quit")) and (not tls or relay.sessions == 1)
            assert not tls or 'greeting in time: that port may speak TLS at once: use_tls="ssl"' in str(error)
            return outcome
    start, watchdog = hasty.monotonic(), threading.Timer(6, lambda: [service.close() for service in services])
    watchdog.start()  # who waits for ever fails the test and does not hang it
    assert all_at_once(case, stalls) == stalls
    watchdog.cancel()
    assert hasty.monotonic() - start < 5 * speed


@pytest.mark.parametrize("user, password", [
    ("bot@example.org", "pässword-密码"), ("bot (user)", "a b) {5}"), ('b"ot', 'q"u\\ote')])
def test_any_user_and_password_log_in_where_the_server_takes_utf_8(user, password, clock, trusted):
    login = {"user": user, "password": password}
    with FakeSMTP(tls=None, clear_auth=True, **login) as smtp, FakeIMAP(**login) as imap:
        alerter = mail_alerter(smtp, imap, clock, username=user, password=password, use_tls=False)
        alerter.check()
        smtp.mechanisms, imap.capabilities = ["LOGIN"], "IMAP4rev1 ID"  # whose own LOGIN takes ASCII alone
        if password.isascii():
            assert alerter.check() and 'ID ("name" "alerters"' in imap.commands[-2].line  # for NetEase
        else:
            with pytest.raises(DeliveryError, match="not ASCII, which the server takes by AUTH=") as caught:
                alerter.check()
            assert "SMTP" not in str(caught.value) and password not in str(caught.value)
        smtp.mechanisms = ["XOAUTH2"]
        assert "no log-in by PLAIN or LOGIN" in str(refusal_of(alerter)) and not clock.naps


@pytest.mark.parametrize("coded", [MAIL_PASSWORD, f"\0bot@example.org\0{MAIL_PASSWORD}"])
def test_a_password_that_is_repeated_is_in_no_mail_error_or_log(coded, smtp, imap, clock, caplog):
    caplog.set_level(logging.DEBUG)
    word = base64.b64encode(coded.encode()).decode() if "\0" in coded else coded
    bot = mail_alerter(smtp, imap, clock)
    bot.send(AlerterMessage(f"t {MAIL_PASSWORD}", f"b {MAIL_PASSWORD}", {MAIL_PASSWORD: MAIL_PASSWORD}))
    told, asks = [repr(bot), *map(mail_text, smtp.mails)], bot.open_question("Go?")
    for server, failing, said, work in (
            (smtp, "data", "550 ", lambda: bot.send("x")), (imap, "search", "NO ", lambda: bot.replies(asks)),
            (imap, "login", "NO bad credentials: AUTH PLAIN ", lambda: bot.decide("Deploy?")),
            (smtp, "auth", "535 5.7.8 bad credentials: AUTH PLAIN ", bot.check)):
        server.fail(failing, said + word, times=None)
        caught = pytest.raises(DeliveryError, work)
        told += _all_of(caught.value, with_locals=True), caplog.text
    assert caught.match("SMTP: 535 5.7.8 bad .* IMAP log-in refused: bad ") and not _secrets_in("".join(told))


def test_many_that_ask_at_once_try_the_mailbox_once(relay, imap, clock):
    alerter, looked, count = mail_asker(relay, imap, clock), [], 20 if MORE else 5
    box = type(alerter)._box
    type(alerter)._box = lambda self: looked.append(1) or box(self)
    imap.fail("login", "stall")
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(alerter.open_question, f"Deploy {n}?") for n in range(count)]
        wait_until(lambda: len(looked) == count and imap.commands)
        imap.gate.set()
    first, second, *_ = questions = [job.result() for job in asked]
    assert len({question.token for question in questions}) == len(relay.mails) == count
    assert imap.sessions == 1 and alerter.replies(first) == alerter.replies(second) == []
    alerter._release(first)
    assert alerter.replies(second) == [] and imap.logins == 2  # to try it, and one for all, to the last
    alerter._release(second)
    with pytest.raises(DeliveryError, match="no time left: what came before"):
        alerter._imap(clock.monotonic() - 1)  # as where others have tried it for so long


def test_check_tells_what_works(smtp, imap, clock, monkeypatch):
    monkeypatch.setenv("MAIL_SECRET", MAIL_PASSWORD)
    alerter, good = mail_alerter(smtp, imap, clock, password="{{env.MAIL_SECRET}}"), "connected and logged in"
    assert alerter.check() == f"ok    SMTP: {good}\nok    IMAP: {good}" and MAIL_PASSWORD not in repr(alerter)
    assert mail_alerter(smtp).check() == (
        f"ok    SMTP: {good}\nnote  IMAP: imap_server is not set, so this alerter posts and cannot ask")
    imap.fail("select", "NO [NONEXISTENT] Unknown Mailbox", "BYE")
    for password, said in (("", r"IMAP: \[NONEXISTENT\] Unknown"), ("", "IMAP: .*going down: .* imap_port"),
                           ("wrong-password-2", "IMAP: .*: check imap_username and imap_pass")):
        with pytest.raises(DeliveryError, match=said) as caught:
            mail_alerter(smtp, imap, clock, imap_password=password).check()
        assert "wrong-password-2" not in str(caught.value) and not smtp.mails
    with pytest.raises(ConfigError, match="NO_SUCH_SECRET"):  # a mistake of the caller is no hiccup of theirs
        mail_alerter(smtp, imap, clock, imap_password="{{env.NO_SUCH_SECRET}}").decide("Deploy?", timeout=5)
    for session in alerter._smtp(clock.monotonic() + 30), alerter._imap(clock.monotonic() + 30):
        assert session.sock.gettimeout() > 17 and not session.sock.close()  # as Dovecot slows down log-ins


# === E-mail: asking ===
@pytest.fixture
def desk(relay, imap, clock):
    """A relay, a mailbox and an alerter that asks Ann and Bob by them, in virtual time."""

    class Desk:
        def __init__(self):
            self.relay, self.imap, self.clock = relay, imap, clock
            self.alerter = mail_asker(relay, imap, clock)
        asked = property(lambda self: relay.mails[0].message)
        fetched = property(lambda self: [c.line for c in imap.commands if " FETCH " in c.line])

        def open(self, text="Deploy?", **params):
            return self.alerter.open_question(text, SMTPEmailAlerterParameters(**params))

        def decide(self, text="Deploy?", timeout=300, **keywords):
            return self.alerter.decide(text, timeout=timeout, **keywords)

        def deliver(self, head, text="approve", at=None, subject=None):
            """Answer the newest question, or what `subject` says. head: other lines, or who writes."""
            if subject is None:
                subject = f"Re: [#{relay.mails[-1].message_id[10:26]}]"
            head = head if ":" in head else f"From: {head}"
            return imap.deliver(f"{head}\nSubject: {subject}\n\n{text}\n".encode(), at=at)

        def later(self, second, *answer):
            clock.at(clock.monotonic() + second, lambda: self.deliver(*answer))

        def fill(self, many, at=None):
            for n in range(imap.next_uid, imap.next_uid + many):
                imap.inbox.append(Stored(n, b"Subject: other\r\n\r\nok", at or clock.now()))
            imap.next_uid += many
    return Desk()


def test_a_reply_by_mail_decides(desk):
    for number, (text, status, approvals) in enumerate([("approve", YES, (ANN,)), ("No", NO, ())]):
        at, desk.relay.mails[:] = desk.clock.monotonic() + 40, []
        desk.later(40, ANN_FULL, text)
        assert desk.decide() == Decision(
            status, ANN, text, "email", desk.clock.start + int(at), approvals=approvals)
        question, note = desk.relay.mails
        assert note.rcpts == [ANN, BOB] and str(note.message["In-Reply-To"]) == question.message_id
        assert str(note.message["References"]) == question.message_id != note.message_id
        assert mail_text(note).strip() == f"{status.capitalize()} by ann@example.org."
        assert note.message["Auto-Submitted"] == "auto-generated" and desk.clock.monotonic() <= at + 5
        assert desk.imap.logins == 2 * number + 2  # whether it can be read, and reading it


def test_a_button_opens_the_finished_answer(desk):
    desk.alerter = mail_asker(desk.relay, desk.imap, desk.clock, sender_email="ML <bot+ml@example.org>",
                              imap_username="bot@example.org")
    params = {"approve_msg_options": ["ship it & go", "ok"], "timeout": 3600}
    for number, status in enumerate([YES, NO]):
        question = desk.open(AlerterMessage("Deploy **v2** + x?", "text"), **params)
        asked, page = desk.relay.mails[-1], MailPage(desk.relay.mails[-1])
        subject = f"Deploy v2 + x? [#{question.token}]"
        assert str(asked.message["Subject"]) == subject and page.words[-2:] == ["Approve", "Decline"]
        link = urllib.parse.urlsplit(page.links[number])
        assert (link.scheme, link.path, "+" in link.query) == ("mailto", "bot%2Bml@example.org", False)
        query = urllib.parse.parse_qs(link.query, strict_parsing=True)
        assert query == {"subject": [f"Re: {subject}"], "body": [["ship it & go", "decline"][number]]}
        desk.deliver(ANN, query["body"][0], subject=query["subject"][0])
        assert outcome(question) == status
    desk.open(html_body="<p>own HTML")
    page = MailPage(desk.relay.mails[-1])
    assert {"own HTML", "Reply to this mail with", "Decline"} < {*page.words} and "<html" not in page.source


def test_a_mail_shows_all_kinds_of_text(relay):
    relay_alerter(relay).send(AlerterMessage(**FULL))
    [mail], page = relay.mails, MailPage(relay.mails[0])
    assert str(mail.message["Subject"]) == "Train & test" and page.links[0] == "https://e.example/l"
    assert page.words == [
        "error", "Train &", "test", "Results of", "run", "7", "Loss is", "low", ", see", "loss.csv", ",",
        "the log", "&", "old", "; *.py, a | b, -1, #42, my_var", "first", "nested", "three",
        "quoted", "model", "accuracy", "名前", "0", "a|b", "0.95", "完了", "10", "v", "0.9",
        "x < 1 # **as it is**", "red link", "globs", "*.c, *.*", "# *", "f1_score", "http://a/b_c"]
    for piece in (r'<ol start="3" style="[^"]*"><li', r'<td style="[^"]*text-align:right;[^"]*">0.95</td>',
                  r'<th style="[^"]*text-align:left;[^"]*">model</th>', "<h1 [^>]*>Train", "<code [^>]*>loss",
                  r'<th style="[^"]*word-break:normal[^"]*">f1_score</th>', "<pre [^>]*>x", "<s>old</s>",
                  "<h2 [^>]*>Results of <em>run</em> 7</h2>", "<blockquote [^>]*>quoted</bl",
                  '<img src="https://x.example/a.png"', "<strong>v</strong></td>"):
        assert re.search(piece, page.source), piece
    assert mail_text(mail) == (f"Train & test\n\n{CONSOLE_BODY}\n\nglobs: *.c, *.*\n# *\n"
                               "f1_score: http://a/b_c\n\n[https://x.example/a.png]\n")
    assert AlerterMessage(**FULL)._repr_html_() in page.source.partition("<body")[2].replace("cid:image0", "")
    fragment = AlerterMessage(metadata={"v" * 25: 1}, images=[PNG])._repr_html_()  # a long name may break
    assert re.search("(?s)^(?!.*word-break:normal).*data:image/png;base64,iVBOR", fragment)


def read_at_once(question, mails, to="bot@example.org", verdict=True):
    """Return what each of these mails of Ann's is taken for, or says: text, HTML, or a whole mail."""
    taken, head = [], f"From: {ANN_FULL}\nSubject: Re: [#{question.token}]\nTo: {to}\nContent-Type: text/"
    for mail in mails:
        if not isinstance(mail, bytes):
            mail = f"{head}{'html' if mail[:1] == '<' else 'plain'}; charset=utf-8\n\n{mail}\n".encode()
        answer = None
        with contextlib.suppress(ValueError):  # what a poll cannot read is no answer
            answer = alerters._mail_answer(mail, question, "bot@example.org", {ANN, BOB}, 0)
        taken.append(answer and (question._verdict(answer["text"], False) if verdict else answer["text"]))
    return taken


PLAIN = AlerterMessage(body="Deploy model to production?")
RICH = AlerterMessage("Deploy?", "Model **bert** is at 0.95, if the tests pass. See [the log](https://a.org/)"
                      ".\n\n```\nloss 0.1\n```\n" + "A line that programs have to wrap. " * 5, {"size": 3000})
NAMED = [(PLAIN, "Deploy Bot", "Deploy Bot <bot@example.org>"), (RICH, "bot@example.org", "bot@example.org"),
         (PLAIN, "Robot", "bot@example.org")]


def test_an_answer_is_read_however_a_program_lays_it_out(desk):
    """Where our name stands nowhere else in the reply, it is not known without a date."""
    layouts = [f"{{A}}\n\n{line}\n\n{{Q}}\n" for line in ATTRIBUTIONS]
    layouts += [f"{{A}}\n\n> {line}\n> \n{{Q}}\n" for line in ATTRIBUTIONS if "⏎" not in line]
    layouts += [f"{line}\n{{Q}}\n\n{{A}}\n\n-- \n{{F}}\n" for line in ATTRIBUTIONS[::2]]
    layouts += [f"{{A}}\n\n{head}\n\n{{P}}\n" for head in MAIL_HEADS]
    layouts += [f"{{A}}\n____________\n{head}\n\n{{P}}\n" for head in MAIL_HEADS if head[0] not in "-_"]
    layouts += [f"{{A}}\n\n{end}\n" for end in MAIL_ENDS]
    layouts += [f"{{A}}\n\n{end}\n\n{ATTRIBUTIONS[0]}\n\n{{Q}}\n" for end in MAIL_ENDS[::2]]
    layouts += [f"{{A}}\n\n{MAIL_HEADS[0].replace('{T}', '{T}; ' * 30)}\n\n{{P}}", "\u200f{A}\u200f"]
    layouts += [*MAIL_PAGES.values(), "{A}\n\n{Q}", "{A}\n\n{P}", "{Q}\n\n{A}", "{A}\n{Q}", "{A}"]
    dateless = {layout for layout in layouts if re.search("(?m)^[> ]*{N}.{,6}(?: writes|のメール):", layout)}
    for number, (message, name, to) in enumerate(NAMED):
        question = desk.open(message)
        some = layouts if MORE else [*layouts[number::3], *sorted(dateless)]
        mails = [laid_out(layout, desk.relay.mails[-1].message, ("Approve!", "no")[n % 2], name)
                 for n, layout in enumerate(some)]
        missed = {some[n] for n, status in enumerate(read_at_once(question, mails, to))
                  if status != (YES, NO)[n % 2]}
        assert missed == (dateless if number == 2 else set())


def test_a_wrapped_quote_is_one_too(desk):
    body = RICH.body + "\n\n1. one\n\n> Bob: fine"  # the HTML of a list has no numbers in its text
    question = desk.open(AlerterMessage(RICH.title, body, RICH.metadata, [PNG]))
    lines = part_text(desk.asked.get_body(("plain",))).replace("[image", "[image: image").split("\n")  # Gmail
    bare, marks = f"--\n[#{question.token}]\n{lines[2]}", {"> ": 60, ">": 40, "> > ": 72, "| ": 50, "\t": 66}
    quotes = ["\n".join(mark + piece for line in lines for piece in textwrap.wrap(line, width) or [""])
              for mark, width in marks.items()]
    lines += ["Approve", "<mailto:bot@example.org?body=y>", "Decline", "<bot@example.org?subject=x>"]  # Gmail
    quotes += ["\n".join("> " + "\n".join(textwrap.wrap(line, 60)) for line in lines)]  # marks lost
    mails = [f"approve\n\nbot@example.org wrote:\n\n{quote}\n" for quote in quotes]
    mails += [*(f"bot@example.org wrote:\n{quote}\nok" for quote in quotes[:3]), f"ok\n{bare}"]
    cut = [f"> {lines[0]}\n{mark}\n> {lines[2]}" for mark in (">", "???", ":-(", "\u061f", "×")]
    cut += [lines[2], "\n".join(lines[:9]), f"> {lines[0]}\n> {lines[2]}\n{lines[4]}"]  # bare: whose?
    mails += [*(f"approve\n\n{quote}" for quote in cut), f"<p>approve<blockquote><s>{lines[2]}</s>"]
    assert read_at_once(question, mails) == [YES] * 11 + [None] * 8


def test_a_condition_never_approves_wherever_it_stands(desk):
    places = re.split(" ¦ |\n", """\
{A}⏎⏎%s⏎⏎{O}⏎⏎{Q} ¦ %s⏎⏎{A}⏎⏎{O}⏎⏎{Q} ¦ {A}⏎⏎%s⏎⏎{W}⏎⏎{P} ¦ {A}⏎⏎{O}⏎⏎{Q}⏎⏎%s ¦ {A}⏎⏎%s ¦ %s⏎{A} ¦ {A} %s
{A}⏎⏎%s⏎⏎{Q} ¦ {A}⏎⏎{Q}⏎%s ¦ {A}⏎⏎Best,⏎{R}⏎%s ¦ {A}⏎⏎Best,⏎{R}⏎⏎%s⏎⏎{O}⏎⏎{Q} ¦ {A}⏎> %s⏎⏎{Q}
{A}⏎-- ⏎{R}⏎⏎{O}⏎⏎{Q}⏎⏎%s ¦ {A}⏎⏎{O}⏎%s⏎⏎{Q} ¦ {A}⏎-- ⏎{F}⏎{W}⏎%s⏎⏎{P} ¦ {A}⏎⏎%s⏎⏎{P} ¦ {A}⏎%s⏎{O}⏎{Q}
{A}⏎%s⏎{W}⏎⏎{P} ¦ {A}⏎--⏎{E} wrote:⏎%s⏎{Q} ¦ {A}⏎⏎%s⏎On Tue, 24 Nov 2026 10:12:00 +0000⏎{E} wrote:⏎⏎{Q}
""".replace("{O}", ATTRIBUTIONS[0]).replace("{W}", MAIL_HEADS[0]).strip())
    places += ["<p>{A}</p><blockquote>I: %s</blockquote>{H}", "<p>{A}</p>{H}<p>%s</p>",
               *(page.replace("{A}", f) for page in MAIL_PAGES.values() for f in ("{A}<br>%s", "%s<p>{A}"))]
    layouts = []
    for row, place in enumerate(places):
        step = 1 if MORE else 9 if row < 20 else 20
        for shown in CONDITIONS[row % step::step]:
            if place[0] == "<":
                shown = html.escape(shown.replace("<{E}>", "{E}"))
            layouts.append(place.replace("%s", shown))
    above = [place.replace("%s", shown) for place in ("{A}\n\n%s\n\n{Q}", "{A}\n%s\n{P}", "%s\n{Q}\n\n{A}")
             for shown in OVER_A_QUOTE]
    assert len(layouts) > 120 and len(above) > 60
    for message, some in (RICH, layouts), (PLAIN, above):
        question, asked = desk.open(message), desk.relay.mails[-1].message
        statuses = read_at_once(question, [laid_out(layout, asked, "approve") for layout in some])
        assert {one for one, got in zip(some, statuses) if got == YES} <= {"{A}⏎> Deploy?⏎⏎{Q}"}  # our title


def test_no_machine_answers_for_a_person(desk):
    absent = ("Automatic reply:|Automatische Antwort|Réponse automatique|Out of Office|Auto:|[Auto-Reply]|"
              "Respuesta automática|Risposta automatica|Automatisch antwoord|Resposta automática").split("|")
    automatic = [  # further heads of a mail from Ann's address: only the last three are a person's
        *(f"Subject: {email.header.Header(f'{prefix} Deploy?', 'utf-8').encode()}" for prefix in absent),
        "Auto-Submitted: auto-replied (vacation)", "Precedence:\n bulk", "Precedence: auto_reply",
        "X-Autoreply: yes", "X-Autorespond: yes", "X-Autoreply-From: me", "Precedence: list",
        "List-Id: Team <team.example.org>", "Return-Path: <>", 'Content-Type: multipart/report; boundary="b"',
        "Auto-Submitted:\n no", "X-Auto-Response-Suppress: All", "Return-Path: <ann@example.org>"]
    question = desk.open()
    ids = f"References: {desk.relay.mails[0].message_id}"
    mails = [f"From: {ANN_FULL}\n{head}\n{ids}\n\napprove\n".encode() for head in automatic]
    assert read_at_once(question, mails) == [None] * (len(automatic) - 3) + [YES] * 3


def test_the_subject_alone_finds_the_question_however_it_is_encoded(desk):
    for title in ("デプロイしますか？本番", "🚀" * 20, "x" * 300, "Out of office?"):  # one has a long text
        question = desk.open(AlerterMessage(title, "Go? " * 18 * len(title)))
        data = f"Re: {desk.relay.mails[-1].message['Subject']}".encode()
        words = "b?" + base64.b64encode(data).decode(), "q?" + "".join(f"={byte:02X}" for byte in data)
        mails = [f"From: {ANN}\nSubject: =?utf-8?{word}?=\n\napprove\n".encode() for word in words]
        mails.append(mail_reply(desk.relay.mails[-1].message, ANN_FULL, "yes", keep_ids=False).as_bytes())
        assert read_at_once(question, mails) == [YES] * 3, title


def test_who_wrote_is_who_the_one_from_header_says(desk):
    ann = re.split(" ¦ |\n", r"""{A} ¦ <{A}> ¦ Ann <ANN@Example.ORG> ¦ "Doe, Ann" <{A}> ¦ Ann⏎ <{A}>
"{A}" <{A}> ¦ '{A}' <{A}> ¦ "Ann \"AD\" Doe" <{A}> ¦ Ann Doe (Ops) <{A}> ¦ {A} (Ann Doe)
=?utf-8?q?=C3=84nn?= <{A}> ¦ Änn <{A}>""")
    others = re.split(" ¦ |\n", """\
{A}⏎From: bob@example.org ¦ {A}⏎from: {A} ¦ {A}, bob@example.org ¦ {A}, {E} ¦ {A}]<{E}> ¦ {A} <{E}>
"{A}" <{E}> ¦ Ann <{A}> <{E}> ¦ {E} <{A}>  ¦ <{E}> {A} ¦ {E} ¦ Team: {A}; ¦ <{A}.evil.test> ¦ ann ¦  ¦ x{A}
"Ann⏎From: " <{A}> ¦ {E} ({A}) ¦ {A} ({E}) ¦ {A} () ()
=?utf-8?q?ann=40example=2Eorg?= <{E}> ¦ {A} (c) {E} ¦ {A}\0@evil.test ¦ {E}⏎Sender: {A} ¦ Ann <{A}>⏎ <{E}>
{E}⏎Reply-To: {A} ¦ =?utf-8?q?Ann_<ann=40example=2Eorg>?= ¦ ann@EXAMPLE.org@evil.test ¦ bot@example.org""")
    question, heads = desk.open(), [f"From: {head}\n" for head in ann + others] + ["X-From: {A}\n"]
    heads = [head.replace("⏎", "\n").replace("{A}", ANN).replace("{E}", EVE) for head in heads]
    mails = [f"{head}Subject: [#{question.token}]\n\napprove\n".encode() for head in heads]
    wanted = [YES if n < len(ann) else None for n in range(len(heads))]
    assert list(zip(heads, read_at_once(question, mails))) == list(zip(heads, wanted))


def test_only_who_may_decides_and_the_recipients_hear_it(desk):
    carl, munich = "carl@example.org", "ann@xn--mnchen-3ya.example"
    may_decide = [  # the alerter's recipients, those of the call, approvers: who may not and who may
        ([ANN, BOB], None, None, EVE, BOB), ([ANN, BOB], None, [BOB], ANN, BOB), ((), ANN, None, BOB, ANN),
        ([ANN, BOB], None, ["CARL@Example.org"], "bot@example.org", "carl@EXAMPLE.ORG"),
        ([ANN, BOB], carl, None, ANN, carl), ([ANN, BOB], None, ["ann@münchen.example"], ANN, munich)]
    for own, given, approvers, wrong, right in may_decide:
        desk.alerter = mail_asker(desk.relay, desk.imap, desk.clock, recipient_email=own)
        question = desk.open(approvers=approvers, **({"recipient_email": given} if given else {}))
        for who in (wrong, right):
            desk.deliver(who)
        decision = Question.from_dict(question.to_dict(), desk.alerter).check()  # as in another process
        assert (decision.status, decision.by) == (YES, right)
        assert [mail.rcpts for mail in desk.relay.mails[-2:]] == [[given] if given else own] * 2


def test_what_is_not_exactly_the_word_never_approves(desk):
    doubts = re.split(" ¦ |\n", """\
yes please ¦ approve it ¦ do not approve ¦ don't approve ¦ not ok ¦ approve? ¦ approve⏎⏎wait, no ¦ no⏎approve
approve if the tests pass ¦ I would approve ¦ approve⏎reject ¦ ok, but later ¦ approve⏎⏎Not! ¦ "approve"
'ok' ¦ ~~approve~~ ¦ (approve) ¦ approve / reject ¦ approuvé ¦ ja ¦ disapprove this ¦ approve approve
I cannot⏎approve ¦ yes and no ¦  ¦ ⏎⏎ ¦ approve :( ¦ > approve ¦ >approve ¦ approve⏎> quoted⏎wait, no
approve⏎⏎On reflection: wait ¦ ok⏎⏎Thanks,⏎only staging | not production ¦ approve⏎Sent too early, wait
approve⏎--- not yet, wait --- ¦ ok⏎Enviado demasiado pronto, espera ¦ ok⏎Envoyé de façon prématurée, attendez
approve⏎-- not before noon -- ¦ approve⏎Sent from my mistake, please wait ¦ approve⏎____________⏎PS: not today
approve⏎On 2026-12-01, not before ¦ approve⏎----- wait -----⏎Note: not before noon ¦ ok⏎> Reply⏎> approve
ok⏎Am 1.12.2026, nicht vorher ¦ approve⏎__________⏎wait, no ¦ approve⏎From: me⏎To: you⏎Note: not yet⏎
approve⏎From: my side⏎Date: not yet ¦ approve⏎when CI is green ¦ approve⏎⏎⏎⏎⏎⏎⏎⏎P.S. not today
approve⏎\tnot today ¦ y\u0435s ¦ \u0430pprove ¦ app\u200brove ¦ a p p r o v e ¦ approve⏎> Deploy?⏎no⏎> more⏎
-- ⏎approve ¦ approve\0d ¦ =?utf-8?q?approve?= ¦ ok <https://x/no> ¦ ok⏎<mailto:b@x.org> ¦ ok⏎Program sent
approve⏎> --⏎> Carl⏎not yet ¦ approve⏎!!! ¦ approve⏎17:00 ¦ approve⏎prod, best ¦ ok⏎Best,⏎(24 11 2026)
ok⏎Thanks,⏎Only Staging | Not Production ¦ ok⏎Best,⏎Note: https://x.y/no ¦ ok⏎Thanks <https://x⏎not yet⏎>
ok⏎Best,⏎01 12 2026 ¦ ok⏎Best,⏎not 0800-1200 ¦ ok⏎-- ⏎Ann⏎> only staging ¦ ok⏎-- ⏎| no ¦ ok⏎Get this on Spark
ok⏎-- ⏎24.11.2026, bot@example.org⏎wrote:⏎no⏎> A decline may say why: decline: the reason.""")
    question = desk.open("Deploy?\n\nReply\napprove\nor\nreject")
    layouts = ["{A}", f"{{A}}\n\n{ATTRIBUTIONS[0]}\n\n{{Q}}", f"{ATTRIBUTIONS[0]}\n{{Q}}\n\n{{A}}",
               f"{{A}}\n{'_' * 32}\n{MAIL_HEADS[0]}\n\n{{P}}", "{A}\n-- \nAnn\nTeam that may approve",
               "<div>{A}</div><blockquote>{H}</blockquote>"]
    mails = ["ok\nSent from my iPhone" + " " * 300 + "not yet"]
    for number, text in enumerate(doubts):
        for layout in layouts if MORE else [layouts[0], layouts[number % 5 + 1]][:number % 2 + 1]:
            mail = laid_out(layout, desk.asked, text.replace("⏎", "\n"))
            mails.append(mail.replace("\n", "<br>") if layout[0] == "<" else mail)
    assert [mail for mail, got in zip(mails, read_at_once(question, mails)) if got == YES] == []
    mails = [f"From: No Doe{mark} (Test) <{ANN}>\nSubject: [#{question.token}]\n\nok\n{end}".encode()
             for mark in ("|X", " - X") for end in ("Doe", "no", "ops")]
    assert read_at_once(question, mails) == [YES, None, None] * 2  # "No" is a name


def test_what_stands_around_the_subject_counts_but_for_marks_of_programs_and_gateways(desk):
    subjects = re.split(" ¦ |\n", """\
{S}! ¦ RE\xa0: {S} ¦ ΑΠ: {S} ¦ Odp: İLT: {S} ¦ Antwort: {S} ¦ Aw.: {S} ¦ Re[2]: {S} ¦ 回复：{S} ¦ Trả lời: {S}
[EXT] Re: {S} ¦ Re: [A Team] {S} ¦ *** SPAM *** Re: {S} ¦ 【社外】EXT: {S} ¦ External Email: {S} ¦ {Spam?} {S}
{S} [EXT]  [ops #12] ¦ {S} [SEC=OFFICIAL: Sensitive] ¦ {S} [External Email] ¦ {S} [Company Confidential]
Staging only Re: {S} ¦ Sent: never: Re: {S} ¦ nope: {S} ¦ not {S} ¦ Re: [EXT] only EU {S} ¦ 👎 Re: {S} ¦ ? {S}
不是今天 Re: {S} ¦ Re: {S} only EU ¦ Re: {S} [staging only] ¦ Re: {S} (×) ¦ Re: {S} [EXT] not yet""")
    for title in ("Deploy?", "Re: model: v2 (EU) [a b] 🟢 *x*", "ü" * 99):
        question = desk.open(AlerterMessage(title, "x"), subject_prefix="PROD only:")
        ours, mails = str(desk.relay.mails[-1].message["Subject"]), []
        for subject in subjects:
            subject = subject.replace("{S}", ours)
            for written in subject, email.header.Header(subject, "utf-8").encode():  # the first: RFC 6532
                mails.append(f"From: {ANN_FULL}\nSubject: {written}\n\nok\n".encode())
        assert read_at_once(question, mails) == [YES] * 38 + [None] * 24, title


HTML_ANSWERS = {  # the text that counts, or None for whatever is no approval: HTML of replies
    "approve": ["<p>approve</p>", "approve", "<p>approve</p><pre>-- \nAnn\nOps</pre>",
                '<div class="gmail_quote">approve</div>'], "yes": ["<b>yes</b>"],
    "Approve": ["<div>Approve<br></div>"], "no": ["<table><tr><td>no</td></tr></table>"],
    "ok": re.split(" ¦ |\n", """\
<p>&nbsp;</p><p>ok&nbsp;</p> ¦ <style>p{}</style><p>ok</p> ¦ <!-- no --><p>ok</p> ¦ <p>ok<!-- no -->
ok<a t='>no'> ¦ ok<title></x>no</title> ¦ ok</p no ¦ <!--[if mso]>x<![endif]--><p>ok ¦ ok<img alt=「a>"""),
    None: ["<pre>ok\nno</pre>", "ok<br>-- \nno", *re.split(" ¦ |\n", """\
<p>LGTM</p><blockquote>no</blockquote> ¦ ok<!--> no ¦ ok<textarea><!-- no --></textarea> ¦ <DEL>ok</DEL>
<s >ok ¦ <P STYLE='TEXT-DECORATION: LINE-THROUGH'>ok</P> ¦ <!--[if mso]>x<![endif]-->no<!-- a --> ok
<p style='text-decoration:line&#45;through'>ok ¦ ok<?a> no ¦ ok<![CDATA[> no]]> ¦ ok\5no\6
ok<a title='> no ¦ ok&#10;--&NewLine;no ¦ ok<style></title> no ¦ ok< ¦ ok<!-->no--> ¦ ok<!--a--!>no-->
<div>approve</div><div>if CI is green</div> ¦ <strike>approve</strike> ¦ <script>approve</script> ¦ <p>ok<p>no
<span style="text-decoration:line-through">approve</span> ¦ </blockquote><blockquote>approve ¦ <p title='ok'>
<p>approve</p><blockquote>x</blockquote><p>no</p> ¦ <p>not</p><p>ok</p> ¦ <ul><li>ok</li><li>no</li></ul>
<del>ok</del> ¦ ok<img alt=👎> ¦ <title>ok</title> ¦ <p>ok</p><table><tr><td>not</td><td>now</td></tr></table>
<div class="moz-cite-prefix">On x, y wrote:</div><blockquote type="cite">approve</blockquote>""")]}


def test_an_html_reply_counts_for_what_a_person_sees_in_it(desk):
    question, wrong = desk.open(), {}
    for text, pages in HTML_ANSWERS.items():
        mails = [f"<html><body>{page}</body></html>" for page in pages]
        for page, said in zip(pages, read_at_once(question, mails, verdict=False)):
            if said != text and (text or question._verdict(said, False) == YES):
                wrong[page] = said
    assert wrong == {}


PNG_PART = b"Content-Type: image/png\n\nx"
ALL_OF_IT = {  # the parts of a mail, each with a head of its own; only those of the first rows are approvals
    "text alone": (["yes"], YES), "text and the same as HTML": (["*yes*", "<b>yes</b>"], YES),
    "files around it": ([b"Content-Disposition: attachment\n\n", "yes", PNG_PART, "\n"], YES),
    **{f"charset {name}": ([f"Content-Type: text/plain; charset={name}\n\nyes".encode()], YES)
       for name in ("unknown-8bit", "x-mac-roman")}, "too long": (["yes" + " " * 400_000], None),
    "a second text": (["yes", PNG_PART, "not before Monday"], None),
    "HTML says otherwise": (["yes", "<p>yes, not today"], None), "a mark more": (["yes", "<p>yes?"], None),
    "text says otherwise": (["yes, but", "<p>yes"], None), "struck out": (["yes", "<DEL>yes</DEL>"], None),
    "a text attached": (["yes", b"Content-Disposition: attachment\n\nno"], None),
    "files": ([b"Content-Type: text/x; name=a\n\nyes", b"Content-Type: message/x\n\nFrom: x\n\nyes"], None),
    "an attached text alone": ([b"Content-Disposition: attachment\n\nyes"], None),
    "two types": ([b"Content-Type: text/plain\nContent-Type: text/html\n\nyes"], None),
    "rich text": (["yes", b"Content-Type: text/enriched\n\n<bold>not</bold> today"], None),
    "a base64 that breaks off": ([b"Content-Transfer-Encoding: base64\n\neWV"], None)}


def test_a_mail_is_read_whole(desk):
    question, mails = desk.open(), []
    head = b"From: %s\nSubject: Re: [#%s]\n" % (ANN_FULL.encode(), question.token.encode())

    def mail_of(kind, parts):
        texts = [part if isinstance(part, bytes) else b"Content-Type: text/%s; charset=utf-8\n\n%s" % (
            b"html" if part[0] == "<" else b"plain", part.encode()) for part in parts]
        body = b"".join(b"--b\n%s\n" % text for text in texts)
        return b'%sContent-Type: multipart/%s; boundary="b"\n\n%s--b--\n' % (head, kind, body)
    for parts, want in ALL_OF_IT.values():
        mails += [(mail_of(kind, parts), want) for kind in (b"mixed", b"alternative", b"related")]
    whole = mail_of(b"mixed", ["yes"])
    broken = {b"F": b" x\nF", b"Fr": b"From a\nFr", b'"b"': b'"c"', b"C": b"no head\nC", b"Co": b"From a\nCo"}
    mails += [(whole[:-6], None), *((whole.replace(old, broken[old], 1), None) for old in broken)]
    statuses = read_at_once(question, [mail for mail, _ in mails])
    assert [mail for (mail, want), got in zip(mails, statuses) if got != want] == []


def test_random_mails_never_approve_but_by_the_word_alone(desk):
    """Parts, charsets, codings and nesting by chance; a condition before, after or between, or none."""
    dice, question, mails, wants = random.Random(17), desk.open(RICH), [], []
    charsets = ["utf-8", "iso-8859-1", "windows-1252", "iso-2022-jp", "koi8-r", "utf-7", "us-ascii"]
    text, page = quotable(desk.asked)
    ends = ["", "\n\nbot@example.org wrote:\n> " + text.replace("\n", "\n> "), "\n-- \nAnn"]

    def leaf(text):
        part, charset = email.message.EmailMessage(), dice.choice(charsets)
        if dice.random() < 0.3:
            shown, below = html.escape(text).replace("\n", "<br>"), dice.choice(["", f"<blockquote>{page}"])
            part.set_content(f"<div>{shown}</div>{below}", subtype="html")
            return part
        text += dice.choice(ends)
        if text.encode(charset, "replace").decode(charset) != text:
            charset = "utf-8"
        codings = ["quoted-printable", "base64"] + ["8bit"] * (charset == "utf-8")
        part.set_content(text, charset=charset, cte=dice.choice(codings))
        return part
    for _ in range(2000 if MORE else 40):
        said = ["approve"] + dice.sample(CONDITIONS[:-1], dice.choice([0, 1, 1, 2]))
        wants.append(len(said) == 1)
        dice.shuffle(said)
        said = [text.format(N="Bot", E="bot@example.org").replace("⏎", "\n") for text in said]
        cut = dice.randrange(len(said)) if dice.random() < 0.5 else 0
        parts = [leaf("\n\n".join(group)) for group in (said[:cut], said[cut:]) if group]
        for _ in range(dice.randrange(1, 4) if len(parts) > 1 or dice.random() < 0.5 else 0):
            mail = email.message.EmailMessage()
            mail["Content-Type"] = f"multipart/{dice.choice(['mixed', 'related', 'alternative'])}"
            for part in parts:
                mail.attach(part)
            parts = [mail]
        parts[0]["From"], parts[0]["Subject"] = ANN_FULL, f"Re: [#{question.token}]"
        mails.append(parts[0].as_bytes(policy=email.policy.SMTP))
    statuses = read_at_once(question, mails)
    assert sum(wants) > 5
    assert [mail for mail, want, got in zip(mails, wants, statuses) if (got == YES) is not want] == []


def test_every_mail_is_read_in_time_that_grows_with_its_size(desk, monkeypatch):
    monkeypatch.setattr(email.headerregistry.HeaderRegistry, "__call__", HEADER_READ_ANEW)
    growing = {  # what a mail is made of; twice as much of it takes twice as long
        "text": ["On 1:00 ", "a\n", "> ", ">\n", "-- \n", "<http:", "| ", "bot@example.org\n", "****", ":",
                 "\n", "x: 1\n", "Reply to this mail with approve,\n", "\u0316\u0300", "Best,\n", "2026 12 "],
        "html": ["<a ", "<!--", "</", "<blockquote><p>", "<", "<!", "&#9", "&", "&#99999999999", "<style>",
                 "<pre>\n", "a<b>", "<!-->", "<br>", "<p>x", "</blockquote>x<br>", '<a href="'],
        "Subject: ": ["=? ", "=?utf-8?q?a?= ", "=?\n ", "[#"], "From: ": ["a ", '"\\', "("],
        "Cc: ": ["bot <"], "References: ": ["<alerters."], "X: y\n": ["X: y\n"],
        "Content-Type: text/plain": ["; a='\";", "\nContent-Type: text/plain"],
        "Content-Type: multipart/x; boundary=b\n\n": ["--b\n\nx\n", "--b\nContent-Type: message/rfc822\n\n"]}
    questions, size, wrong = [desk.open(), desk.open("a\n" * 100)], 300_000 if MORE else 6000, []

    def cpu(kind, many):
        question = questions[many[:2] == "a\n"]
        head = {"text": "\n", "html": "Content-Type: text/html\n\n"}.get(kind, kind)
        named = question.token * (kind != "References: ")  # else it is nobody's answer
        mail = f"From: {ANN_FULL}\nSubject: Re: [#{named}]\n{head}{many}\n\nok".encode()
        start = time.process_time()
        read_at_once(question, [mail], verdict=False)
        return time.process_time() - start
    for kind, unit in [(kind, unit) for kind, units in growing.items() for unit in units]:
        took, less = cpu(kind, unit * (size // len(unit))), unit * (size // 8 // len(unit))
        if took > 0.1:  # another thread, or a machine that is busy, may have taken it
            took = min(took, cpu(kind, unit * (size // len(unit))))
        if took > size / 3000 or took > 0.1 and took > 20 * cpu(kind, less):
            wrong.append((kind, unit, took))
    assert wrong == []


def test_no_mail_however_odd_stops_the_wait_or_holds_it_up(desk, monkeypatch):
    monkeypatch.setattr(email.headerregistry.HeaderRegistry, "__call__", HEADER_READ_ANEW)
    poison = [  # what follows the From header of a mail, and its text
        (b'Content-Type: text/plain; charset="nope"', b"approve\xff"), (b"Content-Type:", b"maybe"),
        (b"Content-Type: multipart/mixed", b"--x\n\napprove\n--x--"), (b"Content-Type: image/png", b"\x89"),
        (b"Content-Disposition: ; filename*=utf-8''%ff", b"maybe"),
        (b"Content-Type: text/plain; charset*0*=; x*=y''; =", b"maybe"),
        (b"Content-Type: text/plain\nContent-Transfer-Encoding: base64", b"\xff!!\0abc="),
        (b"Content-Transfer-Encoding: x-uuencode", b"begin 666\nxx"),
        (b"X-Junk: \xff\xfe\x80\0\nDate: \xe9", b"\xff\xfe"), (b"X: y", b"On x wrote:" + b"\n" * 1000 + b"x"),
        (b"X-A: =?utf-8?b?////?= =?x?y?z?=\nTo: =?utf-8?q?=0A?= <", b"maybe"),
        (b'Content-Type: multipart/mixed; boundary="b0"', b"\n".join(
            b'--b%d\nContent-Type: multipart/mixed; boundary="b%d"\n' % (n, n + 1) for n in range(50))),
        (b"Content-Type: message/rfc822", b"Content-Type: message/rfc822\n\n" * 80),
        (b"\n".join(b"X-%d: y" % n for n in range(1000)), b"maybe"), (b"Cc: " + b"a@b.c, " * 1000, b"maybe"),
        (b"Message-ID: <" + b"(" * 3000, b"maybe"),
        (b"X: y", b"-" * 9000 + b"\n" + b"- - " * 2000), (b"X: y", b"\n--b" * 2001),
        (b"Content-Type: text/html",
         b"<!DOCTYPE [<!ENTITY x><![if x]><?php <![ &#xffffffff; &#99999999999; <a b=c")]
    question = desk.open(timeout=300)
    for head, body in poison:
        desk.imap.deliver(b"From: ann@example.org\nSubject: Re: [#%s]\nMIME-Version: 1.0\n%s\n\n%s\n" % (
            question.token.encode(), head, body))
    start = time.process_time()
    assert question.check() is None and time.process_time() - start < 1
    desk.deliver(BOB)
    assert question.check().by == BOB


def test_nothing_from_a_mail_or_an_error_ever_goes_to_the_server(desk):
    desk.imap.fail("search", "NO 1:* A9 DELETE INBOX", "BAD (NO SUCH) \"", "NO [x] 7 8 9")
    desk.imap.fail("fetch", "NO 1:*", "BAD x")
    for n, text in enumerate(['"\r\nA9 DELETE INBOX', "{5}\r\nabcde", "hello\r\n.",
                              "* 1 FETCH (UID 1 BODY[] {3}"]):
        desk.later(5 * n, "From: ann@example.org\nX-Uid: 1:*\nMessage-ID: <\"\\) A9 LOGOUT>", text)
    assert desk.decide("Deploy? \" \\ {3}\r\nA9 DELETE INBOX", 60).status == "timeout"
    allowed = (r"[\w=]{8,99}|\w+ (CAPABILITY|AUTHENTICATE PLAIN|EXAMINE INBOX|NOOP"
               r"|UID SEARCH SINCE \d+-\w{3}-\d{4}|UID FETCH [\d,]+ \([A-Z0-9. \[\]<>()-]+\))")
    assert [c.line for c in desk.imap.commands if not re.fullmatch(allowed, c.line)] == []


def test_a_fault_of_the_mailbox_costs_time_and_not_the_answer(desk):
    for row in ("close ¦ reset ¦ NO try later ¦ BAD what ¦ cut",  # at each stage, in its order
                "garbage ¦ BYE ¦ close ¦ garbage ¦ NO try later"):
        faults = dict(zip(FakeIMAP.stages, row.split(" ¦ ")))
        start, question = desk.clock.monotonic(), desk.open(timeout=300)
        for stage, fault in faults.items():
            desk.imap.fail(stage, fault)
        desk.later(3, ANN)
        assert question.wait().status == YES and desk.clock.monotonic() - start < 20 * len(faults), faults
        assert [stage for stage in faults if next(desk.imap.faults[stage], None)] == []
    gc.collect()  # under -W error a socket that is still open fails here


@pytest.mark.parametrize("stage, fault, healed", [
    ("login", "NO [LIMIT]", 31), ("noop", "NO now", 31), ("greeting", "close", 500), ("fetch", "reset", 31)])
def test_an_outage_of_the_mailbox_over_the_deadline_loses_no_answer(stage, fault, healed, desk):
    question = desk.open(timeout=30)
    desk.clock.at(27, lambda: stage == "noop" or desk.imap.fail("search", "close"))
    desk.clock.at(27, lambda: desk.imap.fail(stage, fault, times=None))
    desk.later(28, ANN)
    desk.clock.at(healed, lambda: desk.imap.faults.update({stage: iter(())}))
    if healed == 31:
        assert question.wait().status == YES and 31 <= desk.clock.monotonic() <= 33
        return
    with pytest.raises(DeliveryError, match="could not be read when the time was over") as caught:
        question.wait()
    assert (caught.value.outcome, desk.clock.monotonic()) == ("unknown", 33)


def test_a_log_in_that_is_refused_ends_it_and_one_that_is_not_possible_now_does_not(desk, trusted):
    def refused(words, text, timeout=3600, imap=desk.imap, **fields):
        desk.alerter = mail_asker(desk.relay, imap, desk.clock, **fields)
        pytest.raises(DeliveryError, desk.decide, text, timeout).match(words)
    desk.imap.fail("login", "NO [UNAVAILABLE] backend down", "NO [LIMIT] full", None, "NO [INUSE] locked",
                   "NO [serverbug] oops", "NO [ALERT] Too many simultaneous connections. (Failure)", None)
    desk.later(20, ANN)
    assert desk.decide().status == YES and desk.clock.monotonic() < 40
    desk.imap.fail("login", None, None, "NO [AUTHENTICATIONFAILED] password changed")
    desk.imap.fail("search", None, "close")
    refused("password changed: check imap_username and imap_password", "Deploy it?")
    sent, other = len(desk.relay.mails), mail_asker(desk.relay, desk.imap, desk.clock)
    other._ready_to_read({})
    known = other._box()  # for this password
    refused("AUTHENTICATIONFAILED", "Deploy what?", imap_password="wrong")
    with FakeIMAP(trusted=False, password=MAIL_PASSWORD) as box:
        refused("SSL_CERT_FILE", "Deploy where?", imap=box)
        assert not box.commands
    assert len(desk.relay.mails) == sent and desk.clock.monotonic() < 120  # what cannot be read is not asked
    assert known is other._box()


def test_all_questions_of_a_process_share_one_connection_to_a_mailbox(desk):
    questions, wanted = [], [YES, NO, YES, NO]
    for number, status in enumerate(wanted):
        questions.append(desk.open(f"Deploy {number}?", timeout=900))
        desk.deliver(ANN, "approve" if status == YES else "no")
    desk.imap.mixed_up[102] = b"Subject: [#%s]\r\n\r\n" % questions[0].token.encode()
    wait_until(lambda: not desk.imap._open)  # each has tried whether it can be read
    desk.imap.fail("login", "stall")  # until all of them wait
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = pool.map(outcome, questions)
        wait_until(lambda: all(question._shared for question in questions))
        desk.clock.sleep(1)
        desk.imap.gate.set()
    assert list(got) == wanted and desk.imap.peak <= 2
    assert (desk.imap.logins, sum(" SEARCH " in c.line for c in desk.imap.commands)) == (5, 1)


@pytest.mark.parametrize("broken", (True, False))
def test_who_waits_while_another_looks_reads_what_is_his(broken, desk):
    """What another has looked for is not enough if that broke off, or began at a later day."""
    question = desk.open(timeout=86400 * 9)
    desk.deliver(ANN)
    desk.clock.sleep(86400 * (0 if broken else 5))
    other = desk.open("Another?", timeout=86400)
    assert desk.alerter.replies(other) == []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with other._shared.lock:
            got = pool.submit(desk.alerter.replies, question)
            wait_until(lambda: question._shared)
            desk.clock.sleep(1)
            other._shared.began = desk.clock.monotonic()
            if broken:
                other._shared.close()
        assert [reply["text"] for reply in got.result()] == ["approve"]
    for one in (question, other):
        desk.alerter._release(one)


def test_of_many_new_mails_the_server_finds_those_that_answer(desk, monkeypatch):
    """And where it finds none, as subject and ids are of no help, all heads are read: once a session."""
    class Slow(_IMAPTalk):
        def do_uid_fetch(self, tokens):  # as if each piece took so long
            desk.alerter._box().session.sock.deadline -= 16
            return super().do_uid_fetch(tokens)
    desk.imap.protocol = Slow
    monkeypatch.setattr(alerters, "_BODY_CAP", 9999)  # of one answer of HTTP, and of no mailbox
    desk.fill(30, at=desk.clock.now() - 86400 * 5)
    desk.fill(610)
    first = desk.open(timeout=3000)
    desk.deliver(ANN, "yes please")
    second = desk.open("Modèle 🚀?", timeout=3000)
    for question, second_of, said in ((first, 10, "ok"), (second, 10, "no")):  # after one that was found
        subject = base64.b64encode(f"Re: [#{question.token}]".encode()).decode()
        desk.clock.at(second_of, functools.partial(desk.deliver, ANN, said, subject=f"=?utf-8?b?{subject}?="))
    assert first.wait().status == YES and desk.clock.monotonic() < 15
    assert all(len(line) < 120 for line in desk.fetched[:2]) and len(desk.fetched) < 7
    assert second.wait().status == NO
    heads = [line.count(",") + 1 for line in desk.fetched if "HEADER" in line]
    polls = sum(" SEARCH " in c.line for c in desk.imap.commands)
    assert sum(heads) < 1240 and max(heads) == 500 and len(desk.imap.commands) <= 2 * polls + 25
    assert len(desk.fetched) - len(heads) == 3 and desk.imap.logins == 4


def test_uids_that_begin_anew_are_read_anew(desk):
    def begin_anew():
        desk.imap.fail("noop", "close")
        desk.imap.next_uid -= 1
        desk.imap.inbox.clear()
        desk.deliver(ANN)  # has the number of the mail that was read before
    for other in {"subject": ""}, {}:  # of nobody's question, and of this one
        question = desk.open(timeout=600)
        desk.deliver(EVE, "hello", **other)
        desk.clock.at(desk.clock.monotonic() + 20, begin_anew)
        assert question.wait().status == YES


def test_the_first_valid_answer_in_time_decides(desk):
    answers = [  # params, replies: what is decided after the last of them, and not before
        ({}, [(ANN, "what is that?"), (BOB, "reject")], ("declined", BOB, None)),
        ({}, [(EVE, "no"), (ANN, "decline: accuracy too low")], ("declined", ANN, "accuracy too low")),
        ({"approve_msg_options": ["Ship It"]}, [(ANN, "approve"), (ANN, "ship it!")], (YES, ANN, None)),
        ({"minimum_approvals": 2}, [(ANN, "approve"), (ANN, "yes"), (BOB, "ok")], ("approved", BOB, None))]
    for params, replies, wanted in answers:
        question = desk.open(**params)
        for who, text in replies:
            assert question.check() is None
            desk.deliver(who, text)
        desk.deliver(ANN, "no", at=desk.clock.now() + 1)
        decision = question.check()
        assert (decision.status, decision.by, decision.reason) == wanted and question.check() == decision
    desk.alerter = mail_asker(desk.relay, desk.imap, desk.clock, case_sensitive=True)
    for seconds, said in ((0, 3, 1, 2), "OK ok ok no"), ((3, 2, 0, 1), "OK no ok ok"):  # some were moved
        question = desk.open(minimum_approvals=2)
        for second, *answer in zip(seconds, [ANN, BOB] * 2, said.split()):
            desk.deliver(*answer, desk.clock.start + second)
        assert question.check().status == NO and question.check().approvals in ((BOB, ANN), ())
    for late, status in ((-1, YES), (5, "timeout")):
        question, start = desk.open(timeout=100), desk.clock.now()
        desk.clock.sleep(5000)  # nobody looked in the meantime
        desk.deliver(ANN, at=start + 100 + late)
        assert outcome(question) == status
        assert ("Nobody decided" in mail_text(desk.relay.mails[-1])) == (status == "timeout")


def test_a_near_miss_gets_one_mail_that_names_the_words(desk, caplog):
    question = desk.open(AlerterMessage("Deploy 7 to prod?", "x"), subject="prod?")
    for second, *answer in ((2, EVE, "ok then"), (5, ANN_FULL, "yes please"), (10, ANN_FULL, "Approve it")):
        desk.later(second, *answer)
    assert question.wait(20).status == "timeout"
    asked, hint = desk.relay.mails
    assert hint.rcpts == [ANN] and str(hint.message["In-Reply-To"]) == asked.message_id
    assert "approve" in mail_text(hint) and "decline" in mail_text(hint)
    assert str(hint.message["Subject"]) == f"Re: {asked.message['Subject']}"  # which threads, too
    # an answer to the help counts, in another process too; a refused note never changes the decision
    again = Question.from_dict(json.loads(json.dumps(question.to_dict())), desk.alerter)
    desk.imap.deliver(mail_reply(hint.message, ANN_FULL, "ok", "bottom", keep_ids=False))
    desk.relay.fail("mail", "550 5.7.1 no more mails")
    assert outcome(again) == YES
    [warning] = errors_of(caplog, logging.WARNING)
    assert "could not write under the question" in warning
    desk.relay.refuse = {BOB: "550 5.1.1 no such user"}  # who alone has it is told that nobody waits
    pytest.raises(DeliveryError, desk.decide)
    assert "Nobody waits" in mail_text(desk.relay.mails[-1]) and len(caplog.messages) == 1


def test_answers_go_to_their_own_question_by_subject_or_by_id(desk):
    dice, questions, answers = random.Random(3), [], []
    for n in range(12 if MORE else 4):  # or by the subject where the server gives new ids
        desk.relay.rewrite_ids = n % 3 == 1
        questions.append(desk.open(f"Deploy {n}?"))
        answers.append(dice.choice([YES, NO]))
    for token in ("", "0" * 16, questions[0].token[:15], questions[0].token[::-1]):
        desk.deliver(ANN, "ok", subject=f"Re: Deploy? [#{token}]")
    mails = [mail.message for mail in desk.relay.mails]
    assert [question.check() for question in questions] == [None] * len(mails)
    for n in dice.sample(range(len(mails)), len(mails)):
        who, client = dice.choice([ANN, BOB]), dice.choice(list(CLIENTS))
        said = "approve" if answers[n] == YES else "no"
        desk.imap.deliver(mail_reply(mails[n], who, said, client, keep_subject=n % 3 > 0, keep_ids=n % 3 < 2))
    assert [outcome(question) for question in questions] == answers
    first = desk.open()  # the second carries its id, too: of two, the last is answered
    second = desk.open(AlerterMessage("Deploy 2?")._with(_reply_to=Receipt("x", first.ref)))
    desk.imap.deliver(mail_reply(desk.relay.mails[-1].message, ANN, "approve", "gmail"))
    assert (outcome(first), outcome(second)) == (None, YES)
    thread = [(BOB, 1, 0, "?"), (ANN, 2, 1, "ok"), (ANN, 3, 1, "no"), (ANN, 4, 2, "yes"), (BOB, 5, 2, "ok"),
              (BOB, 6, 4, "ok"), ("bot@example.org", 7, 0, "Deploy?"), (ANN, 8, 7, "ok"),
              (f"{BOB}, x", 9, 0, ""), (ANN, 10, 9, "ok"), ("t@example.org", 11, 0, "?"), (ANN, 12, 11, "ok")]
    for named in ("References", "In-Reply-To"):  # some programs write one of them alone
        head = f"From: {{}}\nMessage-ID:\n <{{}}@x>y\n{named}: {first.ref['message_id']} <{{}}@x>\n\n{{}}"
        mails = [head.format(*mail).encode() for mail in thread]  # writer, id, the one it answers, text
        assert read_at_once(first, mails) == [None, None, NO, YES, None, YES, None, YES, *[None] * 4]


def test_a_key_adopts_the_question_and_its_answer(desk):
    """Also where the process died between DATA and the record: the repeat has the same ids."""
    def ask_of(who, ask):
        return ask("Drop?", SMTPEmailAlerterParameters(recipient_email=who), key="drop-42")
    desk.relay.fail("accepted", "close", times=2)
    with pytest.raises(DeliveryError) as caught:
        ask_of(ANN, desk.alerter.decide)
    assert caught.value.outcome == "unknown"
    intern, boss, again = (ask_of(who, desk.alerter.open_question) for who in (ANN, BOB, [BOB.upper()]))
    assert {mail.message_id for mail in desk.relay.mails[:3]} == {intern.ref["message_id"]}
    assert intern.token != boss.token == again.token  # a key is bound to the recipients
    desk.deliver(BOB)
    assert ask_of(BOB, desk.alerter.decide).status == YES and len(desk.relay.mails) == 6


# === The store, the functions and the command line ===
MODULE = os.path.abspath(alerters.__file__)


def run_cli(capsys, *args):
    """Run a command in this process; return (exit code, stdout, stderr)."""
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    return (code, *capsys.readouterr())


def environment_with(**changes):
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", **changes}
    return {name: value for name, value in env.items() if value is not None}


def start_program(*args, env=None, python=("-S",), **more):  # -S: none of site's .pth files
    """Start `python -m alerters …`, or python itself with -c, -m or a file, and do not wait for it."""
    itself = args[0] in ("-c", "-m", "tool/alerters.py")
    command = [sys.executable, *python, *([] if itself else ["-m", "alerters"]), *map(str, args)]
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(command, env=environment_with(**(env or {})), encoding="utf-8", **more)


def end_of(process, input=None):
    with process:
        try:
            out, err = process.communicate(input, timeout=30)
        finally:
            process.kill()
    return SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)


def wait_until(condition, what="it"):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited for {what} in vain"
        time.sleep(0.005)


def store_file():
    return os.environ["ALERTERS_STORE"]


def read_store():
    with open(store_file(), "rb") as file:
        return file.read()


def write_store(content):
    with open(store_file(), "wb") as file:
        file.write(content if isinstance(content, bytes) else json.dumps(content).encode())


def store_alerter(service, name="my_slack_alerter", flavor="slack", clock=None, **fields):
    """Register the alerter of a fake in the store, in virtual time if a clock is given."""
    if clock:
        FLAVORS[flavor] = in_time(FLAVORS[flavor], clock)
    if flavor == "smtp_email":
        own = {"smtp_server": service.host, "smtp_port": service.port, "sender_email": "bot@example.org",
               "password": "smtp-password-1", "recipient_email": ["ann@example.org"]}
    else:
        own = {f"{flavor}_token": service.token, f"{flavor}_channel_id": service.channel,
               f"{flavor}_api_url": service.api_url}
    StackStore().register_alerter(name, flavor, **{**own, **fields})
    StackStore().register_stack(f"{name}_stack", [name], activate=True)


class Received(list):
    """What recorder alerters were told: (alerter's tag, message), in order."""
    titles = property(lambda self: [message.title for _, message in self])
    last = property(lambda self: self[-1][1])
    before = staticmethod(lambda alerter, message: None)  # what a recorder calls before it tells


@pytest.fixture
def received(monkeypatch):
    """A flavor of our own, `recorder`, in use through the environment; the list of what it was told."""
    told = Received()

    @register_flavor
    @dataclasses.dataclass
    class Recorder(BaseAlerter):
        flavor = "recorder"
        tag: str = "env"
        trouble: str = ""

        def send(self, message, params=None):
            told.before(self, message)
            if self.trouble == "bug":
                raise RuntimeError("a bug of the flavor")
            if self.trouble:
                raise DeliveryError(self.trouble, hint="wait")
            told.append((self.tag, message))
            return Receipt(self.tag, {})
    told.alerter = Recorder
    monkeypatch.setenv("ALERTERS_FLAVOR", "recorder")
    return told


# === The public surface ===
SAID_WORDS = "*title=None *metadata=None *images=None "
POST_WORDS = f"{SAID_WORDS}*files=None *level=None *exception=None *mention=None *reply_to=None"
ASK_WORDS = (f"{SAID_WORDS}*level=None *timeout=None *approvers=None *mention=None *approve_msg_options=None "
             "*disapprove_msg_options=None *minimum_approvals=None *reply_to=None")
PARAMETERS = ("approve_msg_options=None disapprove_msg_options=None approvers=None timeout=None "
              "mention=None minimum_approvals=1")
STEPS = ("alerter_post_step alerter_ask_step slack_alerter_post_step slack_alerter_ask_step "
         "discord_alerter_post_step discord_alerter_ask_step smtp_email_alerter_post_step").split()
SIGNATURES = {  # each public name: its parameters, None for what has none; {method: its parameters}
    "AlerterMessage": "title=None body=None metadata images level='info' files",
    "AlerterParameters": PARAMETERS,
    "SlackAlerterParameters": f"{PARAMETERS} slack_channel_id=None thread_ts=None blocks=None",
    "DiscordAlerterParameters": f"{PARAMETERS} discord_channel_id=None",
    "SMTPEmailAlerterParameters": f"{PARAMETERS} recipient_email=None subject=None subject_prefix=None "
                                  "include_html=None html_body=None",
    "BaseAlerter": {
        "post": f"self message params=None {POST_WORDS}", "send": "self message params=None", "check": "self",
        "ask": f"self question params=None {ASK_WORDS} *key=None",
        "decide": f"self question params=None key=None {ASK_WORDS}",
        "open_question": f"self question params=None {ASK_WORDS} *key=None", "replies": "self question"},
    **dict.fromkeys(("SlackAlerter", "DiscordAlerter", "SMTPEmailAlerter"),
                    {"send": "self message params=None"}),
    "ConsoleAlerter": "", "Receipt": "alerter ref url=None",
    "Question": {"check": "self", "wait": "self timeout=None", "to_dict": "self",
                 "from_dict": "d alerter=None"},
    "Decision": "status by=None text=None via=None at=0.0 reason=None approvals=()",
    "post": f"message params=None {POST_WORDS} *alerter=None",
    "ask": f"question params=None {ASK_WORDS} *alerter=None *key=None",
    "decide": f"question params=None {ASK_WORDS} *alerter=None *key=None",
    "alerter_success_hook": "context named", "alerter_failure_hook": "exception=None context named",
    "watch": "name=None *on_success=True *longer_than=0 *alerter=None",
    "AlertHandler": "level=40 alerter=None", **dict.fromkeys(STEPS, "message params=None"),
    "FLAVORS": None, "register_flavor": "cls_or_dotted_path",
    "StackStore": {"__init__": "self path=None", "register_alerter": "self name flavor fields",
        "update_alerter": "self name fields", "delete_alerter": "self name", "alerters": "self",
        "register_stack": "self name alerters activate=False", "delete_stack": "self name", "stacks": "self",
        "set_active_stack": "self name", "active_stack": "self", "load_alerter": "self name=None"},
    "AlerterError": None, "ConfigError": None, "StoreError": None, "AskNotSupported": None,
    "DeliveryError": "message *status=None *code=None *hint=None *retry_after=None *outcome='not_sent'",
    "main": "argv=None"}


def _signature(target):
    said = []
    for parameter in inspect.signature(target).parameters.values():
        text = ("*" if parameter.kind is inspect.Parameter.KEYWORD_ONLY else "") + parameter.name
        plain = parameter.default is inspect.Parameter.empty or "factory" in repr(parameter.default)
        said.append(text if plain else f"{text}={parameter.default!r}")
    return " ".join(said)


def test_the_public_surface_is_exactly_that_of_the_contract_and_documented():
    found, named = {}, {name: getattr(alerters, name) for name in alerters.__all__}
    for name, value in named.items():
        wanted = SIGNATURES.get(name, "")
        if isinstance(wanted, dict):
            found[name] = {method: _signature(getattr(value, method)) for method in wanted}
        else:
            found[name] = wanted if wanted is None else _signature(value)
    assert found == SIGNATURES and isinstance(alerters.__version__, str)
    errors = (AlerterError, ConfigError, StoreError, AskNotSupported, DeliveryError)
    assert [cls.__bases__ for cls in errors] == [(Exception,), (AlerterError, ValueError), (AlerterError,),
                                                 (AlerterError, NotImplementedError), (AlerterError,)]
    others = {name for name, value in vars(alerters).items()
              if not name.startswith("_") and not isinstance(value, types.ModuleType)}
    assert others - set(SIGNATURES) == {"TYPE_CHECKING"}
    with pytest.raises(AttributeError, match="no attribute 'Alert_Handler'"):
        alerters.Alert_Handler  # noqa: B018
    methods = {f"{name}.{key}": getattr(cls, key) for name, cls in named.items() for key in dir(BaseAlerter)
               if key[0] != "_" and callable(getattr(cls, key, None))}
    assert [name for name, value in {**named, **methods}.items()
            if name != "FLAVORS" and not inspect.getdoc(value)] == []
    kept = (AlerterMessage, SlackAlerterParameters, SMTPEmailAlerterParameters, Receipt, Decision)
    assert sys.version_info < (3, 10) or all(map(typing.get_type_hints, kept))  # as pydantic and Prefect do


FRESH = """
import dataclasses, sys
before = set(sys.modules)
import alerters
loaded = {"typing", "logging", "urllib.request", "ssl", "email", "argparse", "subprocess", "asyncio"} & (
    set(sys.modules) - before)
import concurrent.futures, inspect
made = [cls for cls in map(vars(alerters).get, alerters.__all__) if dataclasses.is_dataclass(cls)]
late = [c for c in made if not (inspect.isfunction(vars(c)["__init__"]) or c.__dataclass_params__.init)]
class Own(alerters.SlackAlerter):
    def __init__(self, channel):
        super().__init__("xoxb-1", slack_channel_id=channel)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    own = set(pool.map(Own, ["C1"] * 8))
names = [[field.name for field in dataclasses.fields(cls)] for cls in made]
same = names == [list(inspect.signature(cls).parameters) for cls in made]
print(loaded, len(made), late == made, same, own.pop().slack_channel_id, own)
"""


@functools.lru_cache(maxsize=None)
def _in_a_fresh_process():
    """What one process shows for two tests, line by line."""
    done = end_of(start_program("-c", FRESH + FINGERPRINT))
    return (*done.stdout.splitlines(), done.stderr)


def test_import_costs_little_and_an_init_is_made_when_it_is_first_wanted():
    assert _in_a_fresh_process()[::2] == ("set() 11 True True C1 set()", "")
    # Dataclasses of Python 3.15 make a docstring late, where -OO has taken it.
    late = type("Late", (), {"__get__": lambda self, instance, cls: str(inspect.signature(cls))})
    assert alerters._dataclass(type("Odd", (), {"__doc__": late()}))()


def test_every_module_is_named_in_an_import_statement():
    """PyInstaller, cx_Freeze and Nuitka find a module only there: elsewhere a frozen program dies of it."""
    source = inspect.getsource(alerters)
    named = re.findall(r"^    import (\S+) as (_\w+)$", source, re.M)
    lazy = [(vars(module)["__name__"], name) for name, module in vars(alerters).items()
            if isinstance(module, (alerters._Module, type(sys))) and re.match("_(?!thread$)", name)]
    assert sorted(named) == sorted(lazy) and lazy and not hasattr(alerters._msvcrt, "_is_coroutine")
    assert not re.findall(r"""(?:import_module|__import__)\(["'].*""", source)


# === The store ===
@posix
def test_where_the_store_is(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ALERTERS_STORE"), monkeypatch.delenv("XDG_CONFIG_HOME", False)
    monkeypatch.chdir(tmp_path), monkeypatch.delattr(os, "geteuid", raising=False)  # as in a browser
    for name, value, place in (("HOME", "{}/other", "other/.config/alerters/stacks.json"),
                               ("XDG_CONFIG_HOME", "{}/xdg", "xdg/alerters/stacks.json"),
                               ("ALERTERS_STORE", "{}/a/b.json", "a/b.json"),
                               ("ALERTERS_STORE", "~/c.json", "other/c.json"),
                               ("ALERTERS_STORE", "mine.json", "mine.json")):
        monkeypatch.setenv(name, value.format(tmp_path))
        StackStore().register_alerter("me", "console")
        assert (tmp_path / place).is_file()
        assert StackStore(tmp_path / place).load_alerter("me") == ConsoleAlerter()  # a path given wins
    monkeypatch.chdir(tmp_path / "xdg")  # it is where it was when first used
    assert "me" in StackStore().alerters() and "me" not in StackStore("mine.json").alerters()
    monkeypatch.delenv("ALERTERS_STORE"), monkeypatch.delenv("XDG_CONFIG_HOME")
    shutil.copytree("alerters", "~/.config/alerters")  # in a folder of anyone's
    for home, why in ((os.devnull, "Not a directory"), ("", "no home folder is known")):
        monkeypatch.setenv("HOME", home)
        place = f"{home or '~'}/.config/alerters/stacks.json.lock"
        assert run_cli(capsys, "register", "a", "--flavor=console") == (2, "", (
            f"alerters: {place}: cannot be locked ({why}): choose another store with $ALERTERS_STORE; "
            "$ALERTERS_FLAVOR needs none, but a key does\n"))
        assert post("still told") is True and "me" not in StackStore().alerters()


def test_what_the_file_looks_like():
    store = StackStore()
    store.register_alerter("team", "slack", slack_token="{{env.TEAM_TOKEN}}", slack_channel_id="C1",
                           approvers=iter(("U1", "U2")))
    store.register_stack("prod", ["team", "console"])
    team = {"flavor": "slack", "slack_token": "{{env.TEAM_TOKEN}}", "slack_channel_id": "C1",
            "approvers": ["U1", "U2"]}
    wanted = {"version": 1, "alerters": {"console": {"flavor": "console"}, "team": team},
              "stacks": {"default": ["console"], "prod": ["team", "console"]}, "active_stack": "prod"}
    assert json.loads(read_store()) == wanted
    assert read_store().endswith(b"}\n") and read_store().count(b"\n") > 10  # readable by hand
    folder, name = os.path.split(store_file())
    assert {other for other in os.listdir(folder) if other.startswith(name)} == {name, f"{name}.lock"}
    pytest.raises(ConfigError, store.register_stack, "x", []).match("^a stack's alerters must be a list of w")
    pytest.raises(ConfigError, store._put_alerter, "default", {"flavor": "console"}, True, True).match("ex")
    wanted.update(owner="Ann", later={"x": [1, None, "é"]})
    write_store(json.dumps(wanted).encode("utf-16"))  # as PowerShell saves it
    store.update_alerter("team", slack_channel_id="C2", timeout=datetime.timedelta(seconds=5))
    store.update_alerter("team", approvers=None)
    assert store.load_alerter("team").timeout == 5
    del team["approvers"]
    team.update(slack_channel_id="C2", timeout=5)
    assert json.loads(read_store()) == wanted


@posix
@pytest.mark.parametrize("mask", [0, 0o77])
def test_folders_and_files_are_the_owners_alone_from_their_first_byte(mask, monkeypatch, tmp_path):
    def mode(status):
        return oct(stat.S_IMODE(status.st_mode))
    path, modes = tmp_path / "a" / "b" / "stacks.json", []
    monkeypatch.setattr(os, "fsync", lambda number: modes.append(mode(os.fstat(number))))
    old = os.umask(mask)
    try:
        StackStore(path).register_alerter("a", "slack", slack_token="xoxb-1", slack_channel_id="C1")
        os.chmod(str(path), 0o644)
        StackStore(path).update_alerter("a", slack_channel_id="C2")
    finally:
        os.umask(old)
    assert modes == ["0o600"] * 2 and {made.name: mode(made.stat()) for made in tmp_path.rglob("*")} == {
        "a": "0o700", "b": "0o700", "stacks.json": "0o600", "stacks.json.lock": "0o600"}


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_what_root_changes_stays_its_owners(tmp_path):
    home, old = tmp_path / "home", tmp_path / "stacks.json"
    home.mkdir(), old.write_text("{}")
    for path, store in ((home, home / ".config" / "alerters" / "stacks.json"), (old, old)):
        os.chown(str(path), 12345, 12346)
        StackStore(store).register_alerter("a", "console"), StackStore(store).update_alerter("a")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.rglob("*")] == [(12345, 12346)] * 7


def two_alerters():
    store = StackStore()
    store.register_alerter("team", "slack", slack_token="xoxb-1-hidden", slack_channel_id="C1")
    store.register_stack("prod", ["team"])
    return store


NO_TIME = " must be a number of seconds, 0 or more, or a time such as 90s, 5m, 1h30m or 2d, not "
NO_STORES = [  # empty, cut off, of another shape, of bytes, deep, of a later version
    b"", b'{"version": 1, "alerters": {"console": {"fl', b"[]", bytes(range(256)), DEEP,
    b'{"version": 2, "stacks": {}}', b'{"version": "1.0"}', b'{"alerters": []}', b'{"active_stack": null}']
ODD_STORES = [  # of an unknown flavor, field, alerter or stack
    b'{"alerters": {"console": {"flavor": "x"}}}', b'{"stacks": {"default": []}}', b'{"active_stack": "a"}',
    b'{"alerters": {"console": {"flavor": "console", "a": "b"}}}', b'{"stacks": {"default": ["team"]}}']


def test_a_broken_store_is_named_and_left_as_it_is(capsys):
    said = (rf"alerters: {re.escape(os.path.realpath(store_file()))}: cannot be read \(.+\); it was left as "
            r"it is: mend it, or choose another with \$ALERTERS_STORE\n")
    for content in (*NO_STORES, *ODD_STORES):
        write_store(content)
        for line in ("post x", "stack set prod", "ask x"):
            code, out, err = run_cli(capsys, *line.split())
            assert (code, out, err.count("\n")) == (2, "", 1), (content, line)
            assert content in ODD_STORES or re.fullmatch(said, err)
        for line in ("list", "stack list", "flavor list", "describe nobody"):  # some of it may still be shown
            code, out, err = run_cli(capsys, *line.split())
            assert code in (0, 2) and err.count("\n") == (code == 2), (content, line, err)
        assert read_store() == content
    write_store(b'{\n"x": "\xe9"}')
    assert "read (it is no text in utf-8: save it as UTF-8);" in run_cli(capsys, "list")[2]


def test_an_entry_of_another_shape_is_set_aside_and_kept(capsys, received, monkeypatch, caplog):
    monkeypatch.delenv("ALERTERS_FLAVOR")
    odd = {"alerters": {"good": {"flavor": "recorder"}, "number": 5, "none": 0, "list": ["slack"], "no": {},
                        "old": {"flavor": "recordr"}, "token": {"flavor": "slack", "slack_token": {}}},
           "stacks": {"default": ["good"], "both": ["none", "no", "good"], "number": 5, "empty": [],
                      "deep": [["good"]], "dict": {}}, "active_stack": "default",
           "flavors": {"odd": {}}, "questions": {"k": {}, "l": 5, "m": {"deadline": "soon"}}}
    write_store(odd)
    assert post("x") is True and len(received) == 1
    assert [*StackStore().alerters(), *StackStore().stacks()] == ["good", "old", "token", "default", "both"]
    StackStore().register_alerter("new", "recorder")
    assert json.loads(read_store()) == {**odd, "version": 1, "alerters": {
        **odd["alerters"], "new": {"flavor": "recorder"}}}
    for call, said in (
            (lambda: post("x", alerter="number"), f"'number' has a wrong form in {re.escape(store_file())}"),
            (lambda: post("x", alerter="old"), "^alerter old in .+: no flavor 'recordr'; did you mean 'reco"),
            (lambda: StackStore().load_alerter("token"), r"token \(slack\): slack_token must be str, not")):
        pytest.raises(ConfigError, call).match(said)
    with monkeypatch.context() as here, pytest.raises(ConfigError, match="alerter 'no(ne)?' has a wrong f"):
        here.setenv("ALERTERS_STACK", "both")
        post("the others have it")
    assert received.last.body == "the others have it" and re.findall("'no.+ has a wrong form", caplog.text)
    code, out, _ = run_cli(capsys, "check", "--stack", "both")
    assert code == 2 and re.search("none .+\nFAIL .+ has a wrong form .+\n(.+\n){2}good", out)
    assert re.findall(r"(\w+)  \(", run_cli(capsys, "list")[1]) == ["good", "old", "token", "new"]
    code, out, err = run_cli(capsys, "pending")
    assert (code, out, err.count("\n")) == (0, "", 3)
    assert err.startswith("alerters: the record of the question 'k' cannot be read: ")
    write_store({**odd, "questions": [{}]})
    monkeypatch.setattr(received.alerter, "replies", lambda self, question: [], raising=False)
    assert post("x") is True
    for command in ("pending", "ask x --key k --timeout 0"):
        assert run_cli(capsys, *command.split()) == (2, "", (
            f'alerters: {store_file()}: "questions" has a wrong form; it was left as it is: mend it\n'))
    assert json.loads(read_store())["questions"] == [{}] and len(received) == 3


@posix
def test_a_place_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys):
    victim, gone = tmp_path / "victim", tmp_path / "gone" / "x"
    places = {  # what is made there; the store; the exit code
        "file": (lambda path: victim.with_name("file").write_text("mine"), "file/stacks.json", 2),
        "a.lock": (os.mkfifo, "a", 2), "b.lock": (functools.partial(os.symlink, str(victim)), "b", 2),
        "pipe": (os.mkfifo, "pipe", 2), "c.tmp": (functools.partial(os.symlink, str(victim)), "c", 0),
        "folder": (os.mkdir, "folder", 2), "link": (functools.partial(os.symlink, str(gone)), "link", 0)}
    for name, (make, store, want) in places.items():
        make(str(tmp_path / name))
        path = tmp_path / store
        monkeypatch.setenv("ALERTERS_STORE", str(path))
        code, out, err = run_cli(capsys, "register", "a", "--flavor=console")
        assert (code, err.count("\n")) == (want, want // 2), name
        assert want == 0 or err.startswith(f"alerters: {path}"), name
        code, out, err = run_cli(capsys, "post", "still told")
        assert code in (0, 2) and "Traceback" not in err and not victim.exists(), name  # no secret goes there
        assert want == 2 or "a" in StackStore().alerters(), name
    assert gone.is_file() and (tmp_path / "link").is_symlink()  # what it points to is made, and it stays
    for path in (str(tmp_path / "folder"), str(tmp_path / "pipe"), "/dev/zero"):
        pytest.raises(StoreError, StackStore(path).alerters).match(path)


def test_a_failure_in_mid_write_keeps_the_old_file(monkeypatch, received):
    def full(*_, **__):
        raise OSError(28, "No space left on device")
    store, before = two_alerters(), read_store()
    for function in ("fsync", "replace", "open"):
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="No space left") as caught:
            patch.setattr(os, function, full)
            store.update_alerter("team", slack_channel_id="C2")
        assert read_store() == before and "hidden" not in str(caught.value)
    assert not os.path.exists(store_file() + ".tmp")
    turns = [full, os.replace]
    monkeypatch.setattr(os, "replace", lambda *paths: turns.pop()(*paths))
    assert main("register n --flavor=console --set".split()) == 0 and "n" in StackStore().stacks()


@posix
def test_many_writers_and_kills_in_mid_write_lose_and_break_nothing():
    each, kills = (50, 30) if MORE else (4, 1)
    program = ("import itertools, sys, alerters\nfor n in itertools.count():\n    print("
               "alerters.StackStore().register_alerter(f'{sys.argv[1]}-{n}', 'console'), flush=True)")
    writers = {f"k{n}": start_program("-c", program, f"k{n}") for n in range(kills)}

    def work(name):
        for n in range(each):
            StackStore().register_alerter(f"{name}-{n}", "console")
    done = {"t0": each, "t1": each}  # entries that each has said to be written
    for process in writers.values():
        process.stdout.readline()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        threads = pool.map(work, done)
        for number, (name, process) in enumerate(writers.items()):
            time.sleep(0.0007 * (number % 17))
            process.kill()
            done[name] = 1 + process.stdout.read().count("\n")
            end_of(process)
        assert list(threads) == [None, None]
    promised = {f"{name}-{n}" for name in done for n in range(done[name])} | {"console"}
    found = set(json.loads(read_store())["alerters"])
    assert promised - found == set(), "an entry was lost"
    assert len(found - promised) <= kills  # written, and killed before it could say so


@posix
def test_reading_does_not_wait_for_a_writer_and_writing_does_not_wait_for_ever(monkeypatch, clock):
    import fcntl
    two_alerters()
    with open(store_file() + ".lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert StackStore().active_stack() == "prod" and StackStore().load_alerter().flavor == "slack"
        monkeypatch.setattr(alerters, "time", clock)
        pytest.raises(StoreError, StackStore().set_active_stack, "default").match("another process holds it")
    with monkeypatch.context() as patch:  # as if a child that was forked meanwhile had it open, too
        patch.setattr(os, "closerange", lambda *_: None)
        StackStore().set_active_stack("prod"), StackStore().set_active_stack("prod")
    assert 60 <= clock.monotonic() < 61
    monkeypatch.setattr(fcntl, "flock", lambda f, how: how == fcntl.LOCK_UN and (os.close(f) or os.close(f)))
    monkeypatch.setattr(alerters, "_BUSY", TypeError)  # in place of Windows' PermissionError
    turns = [os.replace, len, len]  # len raises one: it takes no two paths
    monkeypatch.setattr(os, "replace", lambda *paths: turns.pop()(*paths))
    StackStore().set_active_stack("default")
    reads, load = [], StackStore._load
    monkeypatch.setattr(StackStore, "_load", lambda self: reads.append(self) or load(self))
    assert (StackStore().load_alerter().flavor, turns) == ("console", []) and len(reads) == 1  # of one moment


# === Configuration from the environment ===
def set_variables(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"ALERTERS_{name}", value)


SLACK_SET = {"FLAVOR": "slack", "SLACK_TOKEN": "xoxb-1", "SLACK_CHANNEL_ID": "C1"}
MAIL_SET, LONELY = {"FLAVOR": "smtp_email"}, ", but not $ALERTERS_FLAVOR: set that to"
WRONG_VARIABLES = [  # what is set, what is said
    ({"FLAVOR": "slak"}, "$ALERTERS_FLAVOR: no flavor 'slak'; did you mean 'slack'?"),
    (MAIL_SET, "smtp_email: smtp_server and sender_email are needed"),
    ({**MAIL_SET, "USE_TLS": "maybe"}, 'smtp_email: use_tls must be True, False, "ssl" or "starttls"'),
    ({**MAIL_SET, "INCLUDE_HTML": "maybe"}, "$ALERTERS_INCLUDE_HTML must be true or false, not 'maybe'"),
    ({**MAIL_SET, "SMTP_PORT": "smtp"}, "$ALERTERS_SMTP_PORT must be a number, not 'smtp'"),
    ({**SLACK_SET, "SLACK_TOKEN": "{{env.NOT_SET}}"}, "slack: slack_token: env NOT_SET is not set"),
    ({**SLACK_SET, "APPROVERS": ""}, "slack: approvers must be a list of words, none of them empty; "
     "leave it out for the default"),
    ({"LISTEN": "channel", "FLAVOR": ""}, f"$ALERTERS_LISTEN is set{LONELY} slack or discord"),
    ({"STACK": "defalt"}, "{store}: no stack 'defalt'; did you mean 'default'?"),
    *[({**more, name: "xoxb-1"}, f"$ALERTERS_{name}: did you mean $ALERTERS_{meant}?")
      for more, name, meant in (
        ({"SLACK_TOKEN": "xoxb-1"}, "FLAVOUR", "FLAVOR"), (SLACK_SET, "SLACK_CHANEL_ID", "SLACK_CHANNEL_ID"),
        ({"FLAVOR": "discord"}, "TOKEN", "DISCORD_TOKEN"), (MAIL_SET, "SMTP_HOST", "SMTP_SERVER"),
        ({}, "STACKS", "STACK"), ({}, "SMTP_PASSWORD", "PASSWORD"), (MAIL_SET, "USER", "USERNAME"))]]


def test_a_wrong_variable_is_one_clear_line(monkeypatch, capsys):
    for variables, said in WRONG_VARIABLES:
        with monkeypatch.context() as patch:
            said = said.replace("{store}", StackStore().path)
            set_variables(patch, **variables)
            assert run_cli(capsys, "post", "x") == (2, "", f"alerters: {said}\n")
            pytest.raises(ConfigError, ask, "x").match(f"^{re.escape(said)}$")
    for number, word in enumerate("true YES on 1 false No OFF 0".split()):  # these are right
        set_variables(monkeypatch, CASE_SENSITIVE=word, **SLACK_SET)
        assert alerters._from_environment().case_sensitive is (number < 4)


def test_fields_in_the_environment_do_not_stop_a_stack_and_a_flavor_wins_over_it(slack, monkeypatch, caplog):
    store_alerter(slack, slack_token="{{env.ALERTERS_SLACK_TOKEN}}")
    set_variables(monkeypatch, SLACK_TOKEN=slack.token, DEBUG="1", COLOUR="red", TEST_MORE="1")
    assert post("x") and caplog.messages == []
    set_variables(monkeypatch, DISCORD_TOKEN="ab.cd.ef")
    assert post("x") and post("x")
    assert caplog.messages == [f"$ALERTERS_DISCORD_TOKEN is set{LONELY} discord; "
                               "the stack my_slack_alerter_stack is used"]
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="did you mean .ALERTERS_STACK?"):
        set_variables(patch, STACKS="default")  # the people of another stack would be asked
        ask("x", timeout=0)
    set_variables(monkeypatch, FLAVOR="console", STACK="my_slack_alerter_stack")
    write_store(b"broken")  # it is not read
    assert post("x") and len(slack.posted) == 3 and StackStore().load_alerter() == ConsoleAlerter()


def test_what_is_of_a_second_copy_of_the_module_is_told_so(monkeypatch):
    other = types.ModuleType("second_copy")
    monkeypatch.setitem(sys.modules, "second_copy", other)
    other.__file__ = "/copy.py"
    alerter, message, params, receipt = (type(name, (), {"__module__": "second_copy"}) for name in (
        "BaseAlerter", "AlerterMessage", "SlackAlerterParameters", "Receipt"))
    for call in (lambda: post("x", alerter=alerter()), lambda: post(message()), lambda: post("x", params()),
                 lambda: register_flavor(type("Own", (alerter,), {})), lambda: post("x", reply_to=receipt())):
        pytest.raises(ConfigError, call).match(r"of a second copy of this module \(/copy.py\): import one")


# === Flavors of one's own ===
PAGER = """import dataclasses
from alerters import BaseAlerter, Receipt, register_flavor
@register_flavor
@dataclasses.dataclass(frozen=True)
class PagerAlerter(BaseAlerter):
    flavor = "pager"
    pager_pin: str = dataclasses.field(repr=False)
    file: str = "pages.txt"
    set: str = ""  # no `--set`
    def send(self, message, params=None):
        with open(self.file, "a") as out:
            out.write(f"{message.title}|{message.metadata}|{message.body}\\n")
        return Receipt("pager", {"n": 1})
    def replies(self, question):
        return [{"by": "ann", "text": "yes"}]
"""


def test_an_own_flavor_works_everywhere_by_its_path(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_flavor.py").write_text(PAGER)
    monkeypatch.chdir(tmp_path), monkeypatch.setattr(sys, "path", sys.path[:])
    pages, path, shown = tmp_path / "pages.txt", "my_package.my_flavor.PagerAlerter", ""
    for line, wanted in ((f"flavor register {path}", 0), ("flavor list", 0),
            (f"register p --flavor=pager --pager_pin=pager-hidden --file={pages} --set", 0),
            ("post A-pager-hidden --title T-pager-hidden --metadata k=pager-hidden", 0),
            ("ask Deploy?", 0), ("describe p", 0), ("register q -f pager", 2), ("register q -f pagr", 2)):
        code, *said = run_cli(capsys, *line.split())
        assert code == wanted, said
        shown += "".join(said)
        FLAVORS.pop("pager", None), alerters._KNOWN_SECRETS.clear()  # the next process knows the store alone
        for name in ("my_package", "my_package.my_flavor"):
            sys.modules.pop(name, None)
    assert shown.startswith("flavor pager is registered\n") and "\npager " in shown
    assert json.loads(read_store())["flavors"] == {"pager": path}
    assert shown.endswith("alerters: q (pager): pager_pin missing\n"
                          "alerters: no flavor 'pagr'; did you mean 'pager'?\n") and "-hidden" not in shown
    assert pages.read_text().startswith("T-***|{'k': '***'}|A-***\nNone|{}|Deploy?\n")


def test_a_bug_of_an_own_flavor_is_logged_and_breaks_nothing(boards, caplog):
    def fail(self, *given, **named):
        raise KeyError("token-of-buggy")
    said = r"^board: KeyError: '\*\*\*': its traceback is in the log$"
    for parts, functions, methods in (
            ({"send": fail}, (post, ask, decide), "post ask decide send open_question"),
            ({"replies": fail}, (ask, decide), "ask decide"),
            ({"post": fail, "ask": fail}, (post, ask, decide), "")):
        later = type("Later", (Board,), {})
        for name in parts:  # a class may get its methods only after it was made
            setattr(later, name, fail)
        alerter = type("Buggy", (later,), {})(token="token-of-buggy")
        calls = [functools.partial(function, alerter=alerter) for function in functions]
        for call in [*calls, *(getattr(alerter, method) for method in methods.split())]:
            caplog.clear()
            if getattr(call, "func", call).__name__ in ("post", "ask"):
                assert call("x") is False
            else:
                with pytest.raises(DeliveryError, match=said) as caught:
                    call("x")
                assert "token-of-buggy" not in _all_of(caught.value)  # what was raised is not chained to it
            [record] = [record for record in caplog.records if record.levelname == "ERROR"]
            assert re.match(r"board: an exception in its code\nTrace(?s:.*) in fail", record.getMessage())
            assert "token-of-buggy" not in caplog.text
    silent = type("Silent", (Board,), {"send": lambda self, *given: False})()
    assert silent.post("x") is False and caplog.messages[-1] == "board: its own send returned False"
    pytest.raises(DeliveryError, silent.open_question, "x")  # nobody would see it


def test_an_own_flavor_has_fields_of_any_type():
    @register_flavor
    @dataclasses.dataclass
    class Wide(BaseAlerter):
        flavor = "wide"
        headers: typing.Dict[str, str] = dataclasses.field(default_factory=dict)
        names: "Optional[ForwardRef('List[str]', is_class=True, owner=<class 'B'>)]" = ()  # noqa: F722 3.14
        port: typing.Union[int, str] = 0
        called: typing.Optional[typing.Callable[[int], None]] = None
        tokens: typing.Tuple[int, int] = (1, 2)  # a secret's name
        level: typing.Optional[int] = None
        verify: "bool | str" = True
        name: str = "x"  # as StackStore.register_alerter calls its own
        ratio: "float | None" = None
        mention: str = ""
        approvers: typing.List[str] = dataclasses.field(default_factory=list)
        groups: set = frozenset()
        passwd: str = "usual-hidden"
        shout: str = dataclasses.field(init=False)

        def __post_init__(self):
            self.shout = f"{self.name}!"

        def send(self, message, params=None):
            return None
    given = {"headers": {"a": "b"}, "port": "a", "called": print, "tokens": (3, 4), "verify": "ca.pem"}
    wide = Wide(names=["x", "y"], groups={"b", "a"}, passwd="wide-hidden", **given)
    assert dataclasses.asdict(wide) == {**given, "names": ("x", "y"), "groups": {"a", "b"}, "approvers": [],
        "level": None, "name": "x", "ratio": None, "mention": "", "passwd": "wide-hidden", "shout": "x!"}
    assert wide.post("x") and wide.send("x") == Receipt("wide", {})
    assert {wide} == {copy.copy(wide)} and "hidden" not in repr([wide, Wide(["x"])])
    assert "passwd" not in wide._where(None, None) and wide._where(None, None)["groups"] == ["a", "b"]
    for wrong in ({"names": ["x", ""]}, {"level": "5"}, {"names": [None]}, {"name": 5}, {"name": "a\nb"},
                  {"ratio": "1"}):
        pytest.raises(ConfigError, Wide, **wrong).match("^wide: ")
    line = "register n --flavor=wide --name=Ann --names=a,b --level=5 --ratio=.5 --groups=c,d"
    assert main(line.split()) == main(["update", "n", "--name=Bob"]) == 0
    assert StackStore().load_alerter("n") == Wide(
        name="Bob", names=["a", "b"], level=5, ratio=0.5, groups=["c", "d"])


HOOK, OF_DISCORD = "https://hooks.slack.com/services/T1/B1/abc", "https://discord.com/api/webhooks/1/abc"
TOKEN, BOT = {"slack_token": "xoxb-1"}, {"discord_token": "ab.cd.ef"}
MAIL = {"smtp_server": "smtp.example.org", "sender_email": "bot@example.org"}
NO_REFERENCE = (" is a reference that nobody filled in: write the value itself; "
                "a secret may be {{env.NAME}} or {{file./path}}")
STILL_OPEN = " is still a placeholder: put the real one there"
AN_ADDRESS = " is an address: a webhook's belongs into the field …_webhook_url"
NO_LINE = " holds a line break or another control character"
NO_TOKEN = " holds a space or a character that no token has: copy the token alone"
NO_URL = " is not a valid address: "
NO_TLS, NO_PORT = ' must be True, False, "ssl" or "starttls"', " must be a port from 1 to 65535"
NOT_SLACK = "is no Slack id; member ids (U...): in the profile, the three dots, Copy member ID"
NO_DISCORD_CHANNEL = ": that is no id: a number: Developer Mode on, right-click the channel, Copy Channel ID"
NOT_DISCORD = ("is no id of a person on Discord; "
               "user ids (digits): Developer Mode on, right-click the person, Copy User ID")
AT_SLACK, AT_HOOKS = "https://acme.slack.com", "https://hooks.slack.com"
NEVER_WORKS = {  # flavor: fields that it needs, {field: {what can never work: what is said after its name}}
    "slack": (TOKEN, {"approvers": {
            **{who: f": {who!r} {NOT_SLACK}" for who in ("@ann", "Ann Lee", "here", "U0XXXXXXX", AT_SLACK)},
            ("U1", "S012"): f": 'S012' {NOT_SLACK}",
            5.5: " must be a list of words, none of them empty; leave it out for the default"},
        "slack_token": {
            "xapp-1-A-2": ": an app-level token cannot post: copy the Bot User OAuth Token, xoxb-…",
            **dict.fromkeys(("xoxb-...", "xoxb-xxxx", "<token>", "xoxb-your-token"), STILL_OPEN),
            **dict.fromkeys(("$SLACK_TOKEN", "${SLACK}", "{{ secrets.SLACK_TOKEN }}",
                             "'{{env.SLACK_TOKEN}}'", "{{env:SLACK_TOKEN}}", "{env.TOKEN}"), NO_REFERENCE),
            **dict.fromkeys(("Bearer xoxb-1", "xoxb-é", "'xoxb-1'"), NO_TOKEN),
            HOOK: AN_ADDRESS, 5: " must be str, not int", "xoxb-1\nX: y": NO_LINE,
            f"{'a' * 24}.Gabc12.{'b' * 27}": ": a token of Discord: use flavor discord, discord_token"},
        "slack_webhook_url": {"xoxb-1": " is a token: put it into slack_token",
            OF_DISCORD: ": that is a webhook of Discord: use flavor discord, discord_webhook_url",
            **dict.fromkeys((f"{AT_HOOKS}/workflows/T1/A1/2/abc", f"{AT_HOOKS}/triggers/T1/2/abc",
                             "https://app.slack.com/client/T1/C1"),
                            f": that is no incoming webhook, {AT_HOOKS}/services/…: make one in the app"),
            f"{AT_HOOKS}/services/...": STILL_OPEN}, "slack_channel_id": {
            **dict.fromkeys((f"{AT_SLACK}/archives/C012AB", "<#C012AB|ml>", "ml alerts", HOOK, "xapp-1-a",
                             "'C1'", '"C1"', "“C1”", ".".join(["a" * 20] * 3)),
                            ": that is no channel; its id (C...), at the end of View channel details"),
            "${CHANNEL}": NO_REFERENCE, "{{env.CHANNEL}}": NO_REFERENCE, "C0XXXXXXX": STILL_OPEN,
            "C1\u2028C": NO_LINE, "xoxb-1": " is a token: put it into slack_token"},
        "slack_api_url": {**dict.fromkeys(("https://slack.com", HOOK), ": write https://slack.com/api"),
            **dict.fromkeys(("slack.com/api", "https://a:b@slack.com/api"),
                            f"{NO_URL}write https://HOST/… or https://HOST:PORT/…"),
            "http://slack.com/api": " must begin with https:// (http:// only for this machine)",
            "https://slack..com/api": f"{NO_URL}'slack..com' is no host's name",
            "https://slack.com/a b": f"{NO_URL}it holds a space or another strange character",
            "https://stra\u00dfe.de/api": f"{NO_URL}write its host as xn--strae-oqa.de"},
        "listen": {"thraed": ' must be "thread" or "channel"'},
        "timeout": {-1: f"{NO_TIME}-1", math.nan: f"{NO_TIME}nan", "5 apples": f"{NO_TIME}'5 apples'"}}),
    "discord": (BOT, {"approvers": {
            **{who: f": {who!r} {NOT_DISCORD}" for who in ("ann#1234", "U012", "&12", "١٢", "https://a/1")}},
        "discord_channel_id": {
            **dict.fromkeys(("#ml", OF_DISCORD, f"{'a' * 24}.Gabc12.{'b' * 27}",
                             "https://discord.com/channels/12/345"), NO_DISCORD_CHANNEL),
            123: " must be str, not int"}, "default_discord_channel_id": {"<#345>": NO_DISCORD_CHANNEL},
        "discord_token": {
            "xoxb-1": ": that is a token of Slack: use flavor slack, slack_token", OF_DISCORD: AN_ADDRESS,
            "123456789012345678": ": that is an id, no token: Bot, Reset Token, in the developer portal"},
        "discord_webhook_url": {HOOK: ": that is a webhook of Slack: use flavor slack, slack_webhook_url",
            f"{OF_DISCORD}/slack":
            ": a webhook is …/webhooks/ID/TOKEN and nothing more: copy it under Integrations"},
        "discord_api_url": {"https://discord.com": ": write https://discord.com/api/v10"},
        "case_sensitive": {"maybe": " must be bool, not str", "": " must be bool, not str"}}),
    "smtp_email": (MAIL, {
        "smtp_server": dict.fromkeys(("mx.t:587", "smtps://bot:12/hush@mx.t?x"), " must be a host name "
                                     "alone: write mx.t; a port goes into the field …_port"),
        "recipient_email": {"Ann": ": 'Ann' is not a mail address"},
        "approvers": {who: f": {who!r} is not a mail address" for who in ("Ann", "Ann <ann@x.org>")},
        "sender_email": {"$SENDER": ": '$SENDER' is not a mail address"},
        "password": {"<app password>": STILL_OPEN, "{{file./run/smtp}": NO_REFERENCE},
        "use_tls": {"tls": NO_TLS, "": NO_TLS}, "smtp_port": {0: NO_PORT, 65536: NO_PORT}})}


@pytest.mark.parametrize("flavor", NEVER_WORKS)
def test_a_field_that_can_never_work_is_refused_when_it_is_set(flavor):
    needed, fields = NEVER_WORKS[flavor]
    for field, value, said in ((field, *row) for field, rows in fields.items() for row in rows.items()):
        with pytest.raises(ConfigError) as caught:
            FLAVORS[flavor](**{**needed, field: value})
        assert str(caught.value) == f"{flavor}: {field}{said}"


@pytest.mark.parametrize("kind, field, values", [
    ("slack", "mention", ["@ann"]), ("slack", "approvers", [["@ann"]]), ("discord", "mention", [["ann#1"]]),
    ("slack", "slack_channel_id", [f"{AT_SLACK}/archives/C1"]),
    ("discord", "discord_channel_id", ["#ml", "{{env.CHANNEL}}", "1/webhooks?x=", "١٢٣", "1" * 21, "300?a=b",
                                       "../300", ["300", "400"]])])
def test_a_person_or_channel_that_cannot_be_is_refused_before_anything_is_sent(chats, kind, field, values):
    alerter, service = chats[kind]
    for value in values:
        params = (SlackAlerterParameters if kind == "slack" else DiscordAlerterParameters)(**{field: value})
        for call in (alerter.post, alerter.ask, alerter.send, alerter.open_question):
            pytest.raises(ConfigError, call, "x", params).match(f"^{kind}: {field}")
    assert service.calls == []


ODD_BUT_RIGHT = {SlackAlerter: [{"slack_token": "xoxp-1"}, {"slack_token": "xoxe.xoxb-1-abc"},
        *({**TOKEN, "slack_channel_id": place} for place in ("#ml", "U012", "GABC")),
        {**TOKEN, "approvers": ("W01", "<@U02>")}, {"slack_webhook_url": "{{file./run/secrets/hook}}"},
        *({"slack_webhook_url": url} for url in (f"{OF_DISCORD}/slack", "https://chat.example.org/hooks/4xp9",
                                                 "https://hooks.slack-gov.com/services/T1/B1/abc")),
        *({**TOKEN, "slack_api_url": url} for url in ("https://slack-gov.com/api/", "http://[::1]:9/api")),
        {"slack_token": "4xp9fdt77", "slack_api_url": "https://chat.example.org/api",
         "slack_channel_id": "k3wq8hbc1", "approvers": ["4xp9fdt77pncbef59f4k1qe83o"]}],
    DiscordAlerter: [{"discord_webhook_url": "https://ptb.discord.com/api/webhooks/1/a-b_c?thread_id=5"},
        {"discord_webhook_url": "https://discordapp.com/api/v10/webhooks/1/abc"},
        {**BOT, "discord_api_url": "https://discord.com/api", "approvers": [12345678901]}],
    SMTPEmailAlerter: [
        {**MAIL, "password": "$ecret…", "smtp_server": "localhost", "subject_prefix": "[${TEAM}] ..."},
        {**MAIL, "password": "abcd efgh ijkl mnop", "smtp_port": 465, "use_tls": "starttls"},
        {**MAIL, "smtp_server": "::1", "recipient_email": "a@x.org, Bob Lee <b@y.org>; c@z.org"},
        {**MAIL, "sender_email": "Bot, Training <bot@bücher.example>", "timeout": "2d"}]}


def test_what_is_unusual_but_right_stays_accepted():
    for number, (cls, fields) in enumerate((cls, row) for cls, rows in ODD_BUT_RIGHT.items() for row in rows):
        alerter = cls(**fields)
        assert cls(**dataclasses.asdict(alerter)) == alerter
        StackStore().register_alerter(f"red{number}", cls.flavor, **fields)
        assert StackStore().load_alerter(f"red{number}") == alerter


def test_people_are_written_with_their_names_in_mail(smtp):
    alerter = mail_alerter(smtp, sender_email="Bot, Training\\ <bot@example.org>",
                           recipient_email="ann@example.org, Bob Lee <bob@example.org>")
    assert alerter.recipient_email == ("ann@example.org", "bob@example.org") and alerter.post("x") is True
    [mail] = smtp.mails
    sender = email.message_from_bytes(mail.data, policy=email.policy.default)["From"]
    assert (sender, mail.envelope_from) == ('"Bot, Training" <bot@example.org>', "bot@example.org")


def test_a_flavor_that_only_overrides_post_and_ask_works(monkeypatch, clock):
    @dataclasses.dataclass(frozen=True)
    class Old(BaseAlerter):
        flavor = "old"
        answer: bool = True

        def post(self, message, params=None):
            return self.answer

        def ask(self, question, params=None):
            return self.answer and getattr(params, "minimum_approvals", 1) == 1
    register_flavor(in_time(Old, clock))
    monkeypatch.setenv("ALERTERS_FLAVOR", "old")
    assert (post("x"), main(["ask", "y"]), decide("z")) == (True, 0, Decision(YES, at=clock.start))
    monkeypatch.setenv("ALERTERS_ANSWER", "no")
    assert (post("x"), ask("y"), decide("z")) == (False, False, Decision(NO, at=clock.start))
    assert main(["post", "x"]) == main(["check", "--post"]) == 4 and main(["ask", "x"]) == 1
    for odd in ("no", Decision(NO), [False], print):  # each counts as true
        monkeypatch.setattr(Old, "ask", lambda *given, odd=odd: odd)
        assert ask("y") is False
    monkeypatch.setattr(Old, "check", lambda self: {}.popitem())
    assert main(["check"]) == 4
    for name in ("send", "post", "ask", "replies"):
        with pytest.raises(ConfigError, match=f"flavor soon: {name} is async"):
            type("Soon", (BaseAlerter,), {"flavor": "soon", name: asyncio.sleep})


def test_a_flavor_that_cannot_ask_or_send_says_so(received):
    @dataclasses.dataclass
    class Teams(alerters._ChatAlerter):
        teams_webhook_url: str = ""
        flavor, _webhook_field = "teams", "teams_webhook_url"
        _put, _measure = staticmethod(lambda draft, page: {}), staticmethod(len)
    pytest.raises(ConfigError, Teams).match(r"^teams: give teams_webhook_url \(posts only\)$")
    assert register_flavor(Teams)("https://example.org/hook").send("x") == Receipt("teams", {})
    assert main(["preview", "x", "--flavor=teams"]) == 0
    for alerter, why in (
            (SlackAlerter(slack_webhook_url=HOOK), "a webhook"), (received.alerter(), "recorder.*replies"),
            (DiscordAlerter(discord_webhook_url=OF_DISCORD), "a webhook"),
            (SMTPEmailAlerter(**_MAIL), "e-mail alerter needs imap_server"),
            (Teams("https://example.org/hook"), "a webhook can only post; asking needs another flavor")):
        for way in (alerter.ask, alerter.decide, alerter.open_question):
            pytest.raises(AskNotSupported, way, "Deploy?", key="k").match(why)
    alone = type("Alone", (received.alerter,), {"ask": lambda self, *given, **named: True})()
    assert alone.decide("Deploy?") and decide("Deploy?", alerter=alone)
    pytest.raises(AskNotSupported, alone.open_question, "Deploy?").match("recorder.*replies")
    assert (received, _records()) == ([], {})  # refused before anything was posted
    with pytest.raises(ConfigError, match="flavor nothing has no send"):
        dataclasses.dataclass(type("Nothing", (BaseAlerter,), {"flavor": "nothing"}))().post("x")
    with pytest.raises(ConfigError, match="flavor Bare: write @dataclasses.dataclass above the class"):
        type("Bare", (BaseAlerter,), {"send": print})().post("x")


def test_what_is_no_flavor_is_one_clear_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "module_raises.py").write_text("raise RuntimeError('of the module')")
    (tmp_path / "module_exits.py").write_text("import sys; sys.exit('of the module')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in ("nowhere.to.Be", "json.Flavor", "json.JSONDecoder", "Pager", "", "json.dumps", "..x.Y",
                 "alerters.BaseAlerter", "module_raises.Flavor", "module_exits.Flavor"):
        code, out, err = run_cli(capsys, "flavor", "register", path)
        assert (code, out, err.count("\n")) == (2, "", 1) and "flavor" in err
    bare, nameless = type("X", (BaseAlerter,), {"flavor": "x"}), type("X", (BaseAlerter,), {})
    for wrong in (None, 5, object, ConsoleAlerter(), "json.Flavor", bare, dataclasses.dataclass(nameless)):
        with pytest.raises(ConfigError):
            register_flavor(wrong)
    assert not os.path.exists(store_file())
    with pytest.raises(ConfigError, match="^flavor 'slack' is built in: choose another name for Mine$"):
        register_flavor(dataclasses.dataclass(type("Mine", (SlackAlerter,), {"__module__": __name__})))
    assert register_flavor(SlackAlerter) is SlackAlerter is FLAVORS["slack"]
    for _ in range(2):  # as a notebook's cell may
        cell = register_flavor(dataclasses.dataclass(type("Mine", (BaseAlerter,), {"flavor": "mine"})))
    assert FLAVORS["mine"] is cell
    cell.__post_init__ = lambda self: {}["mine"]  # what another's code raises ends with 2, never with 0
    assert run_cli(capsys, "register", "m", "--flavor=mine") == (2, "", "alerters: KeyError: 'mine'\n")


# === Posting and asking from anywhere ===
ASKED = SlackAlerter(slack_token="xoxb-1", slack_channel_id="C1", slack_api_url="http://127.0.0.1:9/api")
CHANGED = AlerterMessage("x")
CHANGED.level = "huge"
WRONG_CALLS = [  # a call, and what is said of it
    (lambda: post("\x1b[m"), "message: there is nothing to say: give title, body, metadata, images or files"),
    (lambda: post(5), "a message is a str, an exception or an AlerterMessage, not int"),
    (lambda: post("x", level="warn"), "message: no level 'warn'; did you mean 'warning'?"),
    (lambda: post("x", level=["info"]), "message: no level ['info']; did you mean 'info'?"),
    (lambda: AlerterMessage(body=["x"]), "message: body must be text, not list"),
    (lambda: post("x", metadata=[1]), "message: metadata must be a dict, not list"),
    (lambda: post("x", images="a.png"), "message: images must be a list; write images=[…]"),
    (lambda: post("x", files={"a.csv": b"x"}), "message: files must be a list; write files=[…]"),
    (lambda: post(CHANGED), "message: no level 'huge'; there is: error, info, success, warning"),
    (lambda: post("x", {"timeout": 5}), "params must be AlerterParameters, not dict"),
    (lambda: post("x", alerter=Decision), "alerter must be a name or an alerter, not the class Decision"),
    (lambda: post("x", reply_to="1"), "reply_to must be the Receipt that send returned, not str"),
    (lambda: post("x", exception="E"), "exception must be an exception, not str"),
    *((lambda wrong=wrong: SlackAlerterParameters(blocks=wrong), "params: blocks must be a list of dicts for "
       "JSON, as Block Kit has them") for wrong in (5, {"type": "x"}, [{"type": {1}}])),
    (lambda: SlackAlerterParameters(thread_ts=1), "params: thread_ts must be a message's ts as str, not int"),
    (lambda: ask("x", minimum_approvals=True),
     "minimum_approvals must be a whole number, 1 or more, not True"),
    *((lambda wrong=wrong: watch("x", longer_than=wrong), f"longer_than{NO_TIME}{wrong!r}")
      for wrong in ("60 apples", None, -1, math.nan, True)), *((functools.partial(call, **{wrong: 1}),
       f"{call.__name__}: no keyword {wrong!r}; did you mean {right!r}?") for call, wrong, right in (
        (ASKED.post, "titel", "title"), (ask, "approve", "approve_msg_options"), (watch, "alrter", "alerter"),
        (ASKED.open_question, "mentio", "mention"), (AlerterParameters, "timout", "timeout"),
        (alerters.AlertHandler, "levle", "level"), (SMTPEmailAlerter, "imap_user", "imap_username"),
        (SMTPEmailAlerter, "imp_password", "imap_password"))),
    (lambda: SlackAlerter(slack_token="xoxb-1").post("x"),
     "slack: no channel: give slack_channel_id in the alerter or in the parameters")]


def test_a_wrong_call_is_a_config_error_and_posts_nothing(received, monkeypatch):
    monkeypatch.setattr(received.alerter, "replies", lambda self, question: [], raising=False)
    for call, said in WRONG_CALLS:
        error = pytest.raises(ConfigError, call).value
        assert str(error) == said and received == []
        assert isinstance(error, TypeError) == ("no keyword" in said)  # as Python's own error is


def test_text_and_fields_make_a_message(received):
    class Series(dict):  # as of pandas
        def __bool__(self):
            raise ValueError("The truth value of a Series is ambiguous.")
    facts = {"accuracy": 0.95, 3: None, "a": Series(b=1)}
    message = AlerterMessage(metadata=facts)
    assert post("Done", title="Train", metadata=facts, level="success", images=[]) and post(message)
    assert post(AlerterMessage("t", "B", images=(image for image in ["a.png"])), title="T") is True
    assert post("x", metadata=Series(loss=0.5))
    facts["late"] = message.metadata["late"] = 1  # changes nothing that was sent
    facts = {"accuracy": 0.95, 3: None, "a": {"b": 1}}
    assert [message for _, message in received] == [
        AlerterMessage("Train", "Done", facts, [], "success"), AlerterMessage(metadata=facts),
        AlerterMessage("T", "B", images=["a.png"]), AlerterMessage(body="x", metadata={"loss": 0.5})]
    file = io.BytesIO(b"one\ntwo")  # it has lines, and is one file all the same
    assert AlerterMessage(files=file).files == [file]


def test_a_time_is_written_as_people_write_it(slack, clock):
    alerter = slack_alerter(slack)
    for written, seconds in {
            0.5: 0.5, "90": 90, "90s": 90, "5m": 300, "2d": 172800, "1.5 h": 5400, " 1H 30 Min ": 5400,
            "10 seconds": 10, "1 day 2 hours": 93600, datetime.timedelta(hours=2): 7200}.items():
        assert dataclasses.replace(alerter, timeout=written).timeout == pytest.approx(seconds), written
    for field, given in ((None, "1h30m"), ("1h30m", None)):
        question = dataclasses.replace(alerter, timeout=field).open_question("Deploy?", timeout=given)
        assert question.deadline - clock.now() == pytest.approx(5400)


def test_an_exception_is_a_message(received):
    with pytest.raises(ValueError) as caught:
        raise ValueError("no such column: \n price")
    error = caught.value
    assert post(error) and post("Job failed", exception=error) and post(error, level="warning", title="Oh")
    assert post("", title="Nightly", exception=KeyError(), level="info", metadata={"try": 2}) is True
    assert post(error, exception=KeyError(), level="warning")
    trace, title = received[0][1].body, "ValueError: no such column: price"
    assert "in test_an_exception_is_a_message" in trace and trace.count("Traceback") == 1
    line_first = f"Job failed\n\n```\nValueError: no such column: \n price\n\n{trace[4:]}"
    assert [(message.title, message.level, message.body) for _, message in received] == [
        (title, "error", trace), (None, "error", line_first), ("Oh", "warning", trace),
        ("Nightly", "info", "```\nKeyError\n```"), (title, "warning", f"{trace}\n\n```\nKeyError\n```")]
    odd = type("Odd", (Exception,), {"__str__": lambda self: 1 / 0})
    for error, title in ((odd(), "test_alerters.Odd: <"), (
            SyntaxError("bad", ("a.py", 1, 2, "x y")), "SyntaxError: bad")):
        assert post(error) and received.last.title.startswith(title)


def test_a_stack_of_several_services_mentions_each_its_own(slack, discord, smtp, caplog):
    store_alerter(slack, "red"), store_alerter(discord, "blue", "discord")
    store_alerter(smtp, "mail", "smtp_email")
    StackStore().register_stack("all", ["red", "blue", "mail"], activate=True)
    assert post("x", mention=["U01", "&12", "here"]) is True and caplog.messages == []
    assert all(part in slack.posted[-1]["payload"]["text"] for part in ("<@U01>", "<!here>"))
    assert discord.posted[-1]["payload"]["content"] == "<@&12> @here" and "&12" not in str(slack.posted)
    assert ask("x", mention=["U01", "&12"], timeout=0) is False and "<@U01>" in str(slack.posted[-2])
    pytest.raises(ConfigError, post, "x", mention=["ann lee"]).match("mention: 'ann lee' is no .*id")


def test_what_cannot_be_followed_or_called_is_said_once(chats, smtp, caplog):
    mail, of_mail = mail_alerter(smtp), Receipt("mail", {"message_id": "<a@b.org>"})
    alone = "reply_to: it cannot be followed here, so the message stands alone"
    for name, foreign in (("slack", of_mail), ("discord", Receipt("own", None)),
                          ("discord webhook", Receipt("discord", {"channel_id": "300", "message_id": "1"}))):
        alerter, service = chats[name]
        alerters._warn_once.cache_clear()
        assert alerter.post("x", reply_to=foreign) and alerter.post("x", reply_to=foreign)  # said once
        assert not {"thread_ts", "message_reference"} & set(service.posted[-1]["payload"])
    assert mail.post("x", mention=["U01"], reply_to=Receipt("slack", {"channel": "C1", "ts": "1.2"}))
    assert mail.post("x", reply_to=of_mail) and ConsoleAlerter().post("x", reply_to=of_mail)
    said = [f"{flavor}: {alone}" for flavor in ("slack", "discord", "discord", "smtp_email", "console")]
    assert caplog.messages == [*said[:3], "smtp_email: mention: nobody can be called here, so it is left out",
                               *said[3:]]
    told, own = [], {"send": lambda self, message, params: told.append(params.mention)}
    assert type("Own", (ConsoleAlerter,), own)().post("x", mention=["U01"]) and told == [None]


def three_recorders(received, monkeypatch, **fields):
    """A stack of three recorders; fields: of the second."""
    monkeypatch.delenv("ALERTERS_FLAVOR")
    for name in "abc":
        StackStore().register_alerter(name, "recorder", tag=name, **(fields if name == "b" else {}))
    StackStore().register_stack("all", list("abc"), activate=True)


def no_thread(self, wanted=True):
    if wanted:
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("threads", [True, False])
def test_whatever_one_alerter_raises_the_others_have_it(threads, received, monkeypatch, caplog):
    three_recorders(received, monkeypatch, trouble="yes")
    meet = threading.Barrier(3 if threads else 1, timeout=5)  # breaks unless all are in `send` at once

    def before(alerter, message):
        meet.wait()
        if alerter.trouble:
            raise error
    received.before = before
    if not threads:  # of those that end with the program, as in a subinterpreter
        monkeypatch.setattr(threading.Thread, "_daemonic", property(lambda _: 0, no_thread), raising=False)
    for error in (KeyboardInterrupt(), ConfigError("wrong")):
        with pytest.raises(type(error)):
            post("x")
    for error in (SystemExit(3), asyncio.CancelledError()):
        assert post("x") is False and caplog.messages[-1] == f"b (recorder): it raised {error!r}"
    assert sorted(name for name, _ in received) == [*"aaaacccc"]


ODD_STREAMS = {  # what services, loggers and pythonw put in place of sys.stderr and sys.stdin
    "None": None, "closed": io.StringIO(), "bare": object(), "a logger's": SimpleNamespace(write=[].append),
    "no number": SimpleNamespace(fileno=lambda: "x", isatty=lambda: True)}
ODD_STREAMS["closed"].close()


def test_odd_streams_cost_no_alert(slack, clock, monkeypatch):
    store_alerter(slack, clock=clock)
    StackStore().register_stack("console", ["console"])
    for case, stream in ODD_STREAMS.items():
        alerters._warn_once.cache_clear()
        slack.posted.clear()
        with monkeypatch.context() as patch:  # pytest itself needs them
            patch.setattr(logging.getLogger("alerters"), "propagate", False)  # no handler: it goes to stderr
            for name in ("stdin", "stdout", "stderr"):
                patch.setattr(sys, name, stream)
            told = [post("from a service"), main(["run"])]
            with pytest.raises(ValueError, match="a failure"), watch("job"):
                raise ValueError("a failure")
            for stack in ("console", "default"):
                patch.setenv("ALERTERS_STACK", stack)
                told += [post("to the console"), main(["ask", "x"])]
        heard = case == "a logger's"  # what can be written to is told
        assert told == [True, 2, heard, 2, heard, 2], case
        assert len(slack.posted) == 2 and "a failure" in slack_text(slack.posted[1]["payload"])


@pytest.mark.parametrize("refused", [False, True])
def test_a_question_goes_to_the_first_that_can_ask_and_takes_it(refused, slack, discord, clock, received,
                                                                monkeypatch):
    monkeypatch.delenv("ALERTERS_FLAVOR")
    store_alerter(slack, "slack", clock=clock)
    store_alerter(discord, "discord", "discord", clock=clock)
    StackStore().register_alerter("quiet", "recorder")  # it cannot ask
    StackStore().register_stack("mixed", ["quiet", "slack", "discord"], activate=True)
    slack.channels[slack.channel]["is_member"] = not refused  # not_in_channel: certainly not asked there
    clock.at(2, lambda: discord.say("1", "yes", discord.posted[-1]["id"]) if refused else
             slack.say("U1", "yes", slack.posted[-1]["ts"]))
    assert ask("Deploy?") is True and received == []
    took, other = (discord, slack) if refused else (slack, discord)
    assert "Deploy?" in json.dumps(took.posted[0]["payload"]) and other.posted == []


def test_one_warning_says_that_alerts_only_reach_the_console(capsys, caplog, monkeypatch):
    assert post("a") and post("b") and capsys.readouterr().err == "[i] a\n[i] b\n"
    wanted = f"alerts only reach the console, as nothing else is in use in {StackStore().path}"
    assert [text.partition(":")[0] for text in caplog.messages] == [wanted]
    alerters._warn_once.cache_clear()
    pytest.raises(AskNotSupported, ask, "c")  # which says it by itself
    write_store({"alerters": {"m": {"flavor": "console"}}, "stacks": {"mine": ["m"]}, "active_stack": "mine"})
    assert post("a") and len(caplog.messages) == 1


# === Steps ===
@pytest.mark.parametrize("flavor", ["slack", "discord", "smtp_email"])
def test_the_same_steps_and_those_of_old_work_whatever_the_stack_holds(flavor, slack, discord, smtp, clock):
    service, chat = {"slack": slack, "discord": discord, "smtp_email": smtp}[flavor], flavor != "smtp_email"
    store_alerter(service, clock=clock if chat else None, flavor=flavor)
    message = AlerterMessage("Hello from my pipeline!", "All checks passed.", {"accuracy": 0.95})
    place, user = {"slack": ("ts", "U1"), "discord": ("id", "1")}.get(flavor, ("", "ann@example.org"))
    params = SlackAlerterParameters(approve_msg_options=["ship it", "✅"], disapprove_msg_options={"cancel"},
                                    approvers=(each for each in [user]))
    for kind, answer in (("post", ""), ("ask", "ship it"), ("ask", "cancel"))[:3 if chat else 1]:
        def answered(step, answer=answer):
            """Call a step, and answer what it asks."""
            clock.at(clock.monotonic() + 0.5, lambda: service.say(user, answer, service.posted[-1][place]))
            return step(message, params)
        name = f"{flavor}_alerter_{kind}_step"
        old, new = getattr(alerters, name), getattr(alerters, f"alerter_{kind}_step")
        assert answered(new) is (answer != "cancel")
        with pytest.warns(DeprecationWarning) as caught:
            line = inspect.currentframe().f_lineno + 1
            assert answered(lambda *given: old(*given)) is (answer != "cancel")  # noqa: B023
        told = (caught[0].filename, caught[0].lineno, str(caught[0].message))
        assert told == (__file__, line, f"{name} is deprecated: use {new.__name__}")
        StackStore().set_active_stack("default")
        with pytest.warns(DeprecationWarning), pytest.raises(ConfigError) as refused:
            old("x")
        assert str(refused.value) == f"no alerter of flavor {flavor} is active: use {new.__name__}"
        StackStore().set_active_stack("my_slack_alerter_stack")
    told = service.posted[0]["payload"] if chat else smtp.mails[0].data
    assert all(words in str(told) for words in (message.title, message.body, "accuracy", "0.95"))
    if not chat:
        pytest.raises(NotImplementedError, alerter_ask_step, "Deploy?")


# === Hooks ===
try:
    raise ValueError("the data are gone")
except ValueError as error:
    GONE = error
PRIVATE = {"params": {"password": "private"}, "conf": "private", "args": ["private"], "kwargs": "private"}


def airflow_context(error=None, **ti):
    """What a task callback of Airflow 2 and 3 gets."""
    ti = SimpleNamespace(task_id="train", dag_id="nightly", hostname="worker-1", map_index=-1, max_tries=3,
                         log_url="https://airflow.example.org/log", xcom="private", **ti)
    return {**PRIVATE, "dag": SimpleNamespace(dag_id="nightly", params="private"), "run_id": "scheduled__1",
            "ti": ti, "task_instance": ti, "exception": error}


def state(name="Failed", message="private", data=None, result=None, later=False):
    """A state of Prefect. data: the exception itself or a record of it. later: of an asynchronous flow."""
    async def result_later(raise_on_failure=True):
        return result
    return SimpleNamespace(name=name, message=message, data=data, result=result_later if later else (
        lambda raise_on_failure=True: raise_on_failure or result))


AirflowContext = type("AirflowContext", (collections.UserDict,), {"__missing__": lambda _, key: int(key)})
Flow = type("Flow", (), {"name": "nightly", "parameters": {"password": "private"}})
Task = type("Task", (), {"name": "train", "parameters": {"password": "private"}})
RUN = SimpleNamespace(name="jolly-otter", id="1", parameters={"password": "private"})
RECORD = SimpleNamespace(result=GONE, metadata="private")
DAGSTER = SimpleNamespace(op_exception=GONE, op=SimpleNamespace(name="train"), job_name="nightly",
                          run_id="1ca59c4a", op_config={"password": "private"}, resources="private")
CELERY = {**PRIVATE, "sender": SimpleNamespace(name="jobs.train", request="private"), "task_id": "07d2",
          "signal": "private", "traceback": "private", "einfo": "private", "state": "private"}
DAG_FACTS = {"dag": "nightly", "run": "scheduled__1"}
DAG = {**airflow_context(), "ti": SimpleNamespace(task_id="good_task")}
TRAIN = {**DAG_FACTS, "task": "train", "host": "worker-1", "log": "https://airflow.example.org/log"}
OTTER = {"flow": "nightly", "run": "jolly-otter", "link": "https://prefect.example.org/runs/1"}
OP, JOB = {"op": "train", "job": "nightly", "run": "1ca59c4a"}, {"task": "jobs.train", "task id": "07d2"}
# How a framework calls the hook: arguments, or a dict of keywords; title; exception or text; facts.
FAILURES = [((), "step failed", None, {}), ((GONE, RUN), "step failed", GONE, {}),
    ({"exception": GONE, "context": {}}, "step failed", GONE, {}),
    ((DAGSTER,), "train failed", GONE, OP), ({**CELERY, "exception": GONE}, "jobs.train failed", GONE, JOB),
    *[((airflow_context(GONE, state=state, try_number=tries),), f"train failed{more}", GONE,
       {**TRAIN, "try": f"{tries} of 4"}) for state, tries, more in (
       ("failed", 4, ""), ("failed", 2, ""), ("up_for_retry", 4, ", will retry"), (None, 3, ", will retry"))],
    ({"context": AirflowContext(airflow_context(GONE))}, "train failed", GONE, TRAIN),  # no dict; may fail
    ((airflow_context("killed <SIGKILL>"),), "train failed", "killed <SIGKILL>", TRAIN),
    (({**DAG, "reason": "task_failure"},), "nightly failed", None, {**DAG_FACTS, "reason": "task_failure"}),
    *[((Flow(), RUN, given), f"nightly {how}", error, {**OTTER, "state": given.name})
      for given, how, error in (
        (state(data=RECORD), "failed", GONE), (state(data=RECORD, later=True), "failed", GONE),
        (state("Crashed", ""), "crashed", None), (state("TimedOut", data=GONE), "timed out", GONE),
        (state("Failed", "too low"), "failed", "too low"), (state(result=GONE), "failed", GONE),
        (state(result=GONE, later=True), "failed", GONE))],
    ({"task": Task(), "task_run": RUN, "state": state(data=RECORD)}, "train failed", GONE,  # by its runner
     {"task": "train", "run": "jolly-otter", "link": OTTER["link"], "state": "Failed"})]
SUCCESSES = [((), "step succeeded", None, {}), ((DAGSTER,), "train succeeded", None, OP),
    ((airflow_context(state="success", try_number=4),), "train succeeded", None, {**TRAIN, "try": "4 of 4"}),
    (({"ti": SimpleNamespace(map_index=0, dag_id="d", run_id="r")},), "task succeeded", None,
     {"dag": "d", "run": "r", "map index": 0}),
    ((Flow(), RUN, state("Completed", data="private")), "nightly succeeded", None, OTTER),
    ({"result": "private", "sender": CELERY["sender"]}, "jobs.train succeeded", None, {"task": "jobs.train"})]


def test_an_end_is_told_as_the_framework_calls_it(received, monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect.utilities.urls", SimpleNamespace(
        url_for=lambda run: f"https://prefect.example.org/runs/{run.id}"))
    trace = ["```", "ValueError: the data are gone", "", "Traceback (most recent call last):"]

    def tell(hook, given, title, error, facts):
        assert (hook(**given) if isinstance(given, dict) else hook(*given)) is None
        message = received.last
        level = "success" if hook is alerter_success_hook else "warning" if "retry" in title else "error"
        assert (message.title, message.level, dict(message.metadata)) == (title, level, facts)
        if error is GONE:
            lines = message.body.split("\n")
            assert [lines[:4], lines.count(trace[3]), len(lines)] == [trace, 1, 8], title
        else:
            assert message.body == (error and f"```\n{error}\n```"), title
    for hook, cases in ((alerter_failure_hook, FAILURES), (alerter_success_hook, SUCCESSES)):
        for case in cases:
            tell(hook, *case)
    now = SimpleNamespace(pipeline=SimpleNamespace(name="nightly"), pipeline_run=SimpleNamespace(
        name="nightly-2026", config="private"), step_run=SimpleNamespace(name="trainer", config="private"))
    monkeypatch.setitem(sys.modules, "zenml", SimpleNamespace(get_step_context=lambda: now))
    facts = {"step": "trainer", "pipeline": "nightly", "run": "nightly-2026"}
    tell(alerter_failure_hook, {"exception": GONE}, "trainer failed", GONE, facts)
    tell(alerter_success_hook, (), "trainer succeeded", None, facts)
    assert "private" not in repr(received), "more of the context went out than what tells of the end"
    # ZenML wants each argument annotated with BaseException itself, and gives it by name
    for hook, wanted in ((alerter_failure_hook, {"exception": BaseException}), (alerter_success_hook, {})):
        spec = inspect.getfullargspec(inspect.unwrap(hook))
        assert (spec.annotations, spec.args) == (wanted, list(wanted))


CALLS = {  # the files of a program: the framework calls the job, and the job a library
    "site-packages/airflow/run.py": "def run(job):\n    return job()\n",
    "site-packages/library.py": "def read():\n    raise KeyError('rows')\n",
    "dags/airflow_job.py": "import library\nfrom alerters import watch\n\n@watch('train')\ndef train():\n"
                           "    try:\n        library.read()\n    except KeyError as error:\n"
                           "        raise ValueError('the data are gone') from error\n"}


def test_a_traceback_shows_the_job_and_not_who_called_it(received, monkeypatch):
    for path, text in CALLS.items():
        name = os.path.basename(path)[:-3]
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__name__=name))
        exec(compile(text, path, "exec"), vars(sys.modules[name]))
    try:
        sys.modules["run"].run(sys.modules["airflow_job"].train)
    except ValueError as error:
        alerter_failure_hook(error.with_traceback(error.__traceback__.tb_next))  # without this frame
    body, own = received.last.body, "ValueError: the data are gone\n"
    assert re.findall(r'File ".*/(\w+)\.py", line (\d+)', body) == [
        ("airflow_job", "7"), ("library", "2"), ("airflow_job", "9")]
    assert body.startswith(f"```\n{own}\nTraceback (most recent call last):\n") and body.endswith(f"{own}```")
    assert "\nKeyError: 'rows'\n\nThe above exception was the direct cause of the following" in body


class Hostile:
    """Raises whatever is read of it."""
    def __str__(self, *name):
        raise RuntimeError("hostile")

    __getattr__ = __repr__ = __bool__ = __str__


BadError = type("BadError", (Exception,), {"__str__": Hostile.__str__})
HOSTILE = [  # the first two may be told as nothing
    (Hostile(),), (Hostile(),) * 3, tuple(range(50)), (None,) * 3, (BadError(),), (ValueError,),
    ({"exception": BadError(), "dag": Hostile()},), (KeyboardInterrupt(),),
    (ValueError("x" * 10**6),), (ValueError("\ud800\x00"),), (Flow(), RUN, None)]


def test_hooks_never_raise_whatever_they_are_given(received):
    for number, given in enumerate(HOSTILE):
        del received[:]
        alerter_failure_hook(*given)
        alerter_success_hook(*given)
        assert len(received) == 2 or number < 2, number


TROUBLE = {"no such stack": {"STACK": "gone"}, "no such flavor": {"FLAVOR": "gone"}, "broken store": {},
           "refused": {"FLAVOR": "recorder", "TROUBLE": "line busy"},
           "bug": {"FLAVOR": "recorder", "TROUBLE": "bug"}}


@posix
@pytest.mark.parametrize("case", TROUBLE)
def test_hooks_watch_and_run_never_show_a_broken_set_up(case, received, run_here, monkeypatch, caplog):
    monkeypatch.delenv("ALERTERS_FLAVOR")
    set_variables(monkeypatch, **TROUBLE[case])
    if case == "broken store":
        write_store(b"broken")
    assert (alerter_failure_hook(GONE), alerter_success_hook(), watch(lambda: 5)()) == (None, None, 5)
    with pytest.raises(ValueError, match="^mine$"), watch("job"):
        raise ValueError("mine")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 4
    caplog.clear()
    code, out, err = run_here("--", "sh", "-c", "echo done; exit 5")
    assert (code, out) == (5, "done\n") and "Traceback" not in err and err + caplog.text


# === watch ===
def test_watch_tells_how_a_function_or_a_block_ended(received):
    class Model:
        @watch("method", alerter=received.alerter(tag="own"))
        def train(self, a, b=2):
            """Train."""
            return self, a + b

        @watch
        @classmethod
        def fail(cls):
            raise KeyError("gone")

    @watch("fib")
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)
    model, train = Model(), Model.train
    assert (model.train(1, b=3), train.__name__, train.__doc__) == ((model, 4), "train", "Train.")
    pytest.raises(KeyError, model.fail).match("gone")
    with watch("block") as block, block:
        assert fib(4) == 3
    first, failure = received[0][1], received[1][1]
    assert [(tag, message.title, message.level) for tag, message in received] == [
        ("own", "method succeeded", "success"), ("env", f"{Model.__qualname__}.fail failed", "error"),
        *[("env", "fib succeeded", "success")] * 9, *[("env", "block succeeded", "success")] * 2]
    assert list(first.metadata) == list(failure.metadata) == ["duration", "host"]
    assert first.metadata == {"duration": "0:00:00", "host": socket.gethostname()} and first.body is None
    assert failure.body.startswith("```\nKeyError: 'gone'\n") and 'raise KeyError("gone")' in failure.body


def test_watch_passes_every_exception_through_untouched(received):
    @watch("job")
    def job(error):
        raise error
    for error in (KeyboardInterrupt(), SystemExit(3), SystemExit(""), SystemExit(0), SystemExit(),
                  BadError(), StopIteration(5), SyntaxError("no", ("a.py", 1, 1, b"text"))):
        with pytest.raises(BaseException) as caught:
            job(error)
        how = "succeeded" if error.args in ((0,), ()) and isinstance(error, SystemExit) else "failed"
        assert caught.value is error and error.__cause__ is None and error.__context__ is None
        assert received.titles.pop() == f"job {how}"


def test_watch_can_be_quiet_about_successes_only(received, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for options, seconds, wanted in (
            ({}, 0, "0:00:00"), ({"longer_than": "1m"}, 59.9, None), ({"longer_than": 9e4}, 9e4, "25:00:00"),
            ({"on_success": False}, 9e4, None), ({"longer_than": 9, "on_success": False}, 1, "failed")):
        del received[:]
        with contextlib.suppress(ValueError), watch("job", **options):
            now[0] += seconds
            if wanted == "failed":
                raise ValueError
        told = [message.metadata["duration"] for _, message in received]
        assert told == (["0:00:01"] if wanted == "failed" else [wanted] if wanted else []), options


def test_watch_leaves_generators_as_they_are(received):
    closed = []

    @watch("gen")
    def numbers():
        try:
            got = yield 1
            with contextlib.suppress(KeyError):
                yield got
            return "returned"
        finally:
            closed.append(True)
    assert inspect.isgeneratorfunction(numbers)
    gen = numbers()
    assert received == [] and [next(gen), gen.send("a")] == [1, "a"]
    pytest.raises(StopIteration, gen.throw, KeyError("k")).match("returned")
    assert received.titles == ["gen succeeded"] and closed == [True]
    for error in (GeneratorExit(), ZeroDivisionError()):
        gen = numbers()
        next(gen)
        with pytest.raises(type(error)):
            gen.throw(error)
    assert closed == [True] * 3 and received.titles[1:] == ["gen succeeded", "gen failed"]


def test_watch_leaves_coroutines_as_they_are(received):
    @watch("co")
    async def job(error=None, seconds=0):
        await asyncio.sleep(seconds)
        if error:
            raise error
        return 5
    async def use():
        for work in (job, watch("co")(lambda error: job.__wrapped__(error))):  # as a flow of Prefect
            with pytest.raises(ValueError, match="^mine$"):
                await work(ValueError("mine"))
        assert await asyncio.gather(job(), job()) == [5, 5]
        task = asyncio.ensure_future(job(seconds=100))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        coroutine = job(seconds=100)
        coroutine.send(None)
        coroutine.close()  # unwatched, this says nothing
    async def numbers():
        yield 5
    for wrong in (numbers, property(len)):
        pytest.raises(ConfigError, watch, wrong).match("below @property; .* `async with watch")
    taken = {*watch(len).__code__.co_names, *job.__code__.co_names}  # by cloudpickle, as on Ray and Dask
    assert inspect.iscoroutinefunction(job) and not taken & vars(alerters).keys()
    asyncio.run(use())
    assert received.titles == [f"co {how}ed" for how in "fail fail succeed succeed fail succeed".split()]


@pytest.mark.parametrize("threads", [True, False])
def test_an_alert_holds_the_loop_up_only_where_there_is_no_thread(threads, received, monkeypatch):
    let_go = threading.Event()
    received.before = lambda *_: let_go.wait(5) or pytest.fail("the loop was held up")
    async def job():
        asyncio.get_running_loop().call_soon(let_go.set)
        async with watch("job"):
            if not threads:
                let_go.set(), monkeypatch.setattr(sys, "is_finalizing", lambda: True)  # the program ends
                monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("it waits for ever"))
    asyncio.run(job())
    assert received.titles == ["job succeeded"]


# === AlertHandler ===
@pytest.fixture
def logger(received):
    """A logger of its own with an AlertHandler for the recorder; where it propagates pytest has a handler."""
    logger, handler = logging.getLogger("home.app"), alerters.AlertHandler()
    logger.handlers, logger.handler = [handler], handler
    yield logger
    logger.handlers, logger.propagate = [], True
    handler.flush()


@pytest.fixture
def gate(received):
    """While it is closed the recorder does not come to an end."""
    gate = threading.Event()
    received.before = lambda *_: gate.wait(10)
    yield gate
    gate.set()


def log_record(text="row 1", logger="home.app", level=40, line=1, args=(), error=None):
    info = error and (type(error), error, error.__traceback__)
    return logging.LogRecord(logger, level, __file__, line, text, args, info)


def test_what_comes_while_a_message_is_under_way_goes_together(logger, received, gate, monkeypatch):
    words = [f"table {chr(97 + n // 26)}{chr(97 + n % 26)} is locked" for n in range(300)]
    for word in words:  # one template, 300 texts
        logger.handler.handle(log_record("Task %s raised unexpected: %r", args=(word, 5)))
    logger.warning("not this")
    for n in range(215):
        logger.critical("disk %d of 3 is full", n % 3)
    assert received == []
    gate.set()
    logger.handler.flush()
    texts = [f"Task {word} raised unexpected: 5" for word in words]
    assert received.titles == [texts[0], f"{texts[1]} (and 299 more)"]
    extract = [f"ERROR home.app: {text}" for text in texts[1:]]
    extract += ["CRITICAL home.app: disk 0 of 3 is full", "… 214 more times", "disk 1 of 3 is full",
                "disk 2 of 3 is full"]
    assert received.last.body == "\n".join(["```", *extract, "```"])
    assert [*received.last.metadata] == ["host"] and received.last.level == "error"
    assert {**received[0][1].metadata, "host": ""} == {"logger": "home.app", "level": "ERROR", "host": ""}
    looks, now = [], time.monotonic  # a repeat that has to wait looks at no other record
    monkeypatch.setattr(time, "monotonic", lambda: looks.append(1) or now())
    logger.handler.handle(log_record("Task %s raised unexpected: %r", args=(words[7], 5)))
    assert len(looks) < 50


TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: gone'
RECORDS = [  # text, arguments, exception, exc_text, stack: title, body
    ("disk is full", (), None, None, None, "disk is full", None), ("", (), None, None, None, "ERROR", None),
    ("12:00 | ERROR    | plain", (), None, None, None, "12:00 | ERROR | plain", None),
    ("first\nsecond", (), None, None, None, "first", "first\nsecond"),
    ("where", (), None, None, "Stack: here", "where", "where\nStack: here"),
    ("x" * 200, (), None, None, None, "x" * 139 + "…", "x" * 200),
    ("job %s failed", ("a",), ValueError("gone"), None, None, "job a failed", "ValueError: gone"),
    ("job failed", (), GONE, None, None, "job failed", "ValueError: the data are gone\n\n" + "".join(
        traceback.format_exception(None, GONE, GONE.__traceback__))),
    (f"12:00 | job failed\n{TRACE}", (), ValueError("gone"), "\n", None,  # formatted, as by loguru
     "12:00 | job failed", f"12:00 | job failed\n{TRACE}"),
    (f"job failed\n{TRACE}", (), KeyError(1), None, None, "job failed", f"job failed\n{TRACE}\nKeyError: 1"),
    ("job failed", (), None, f"{TRACE} hidden-record-1", None, "job failed", f"{TRACE} ***"),  # of a process
    ("x", (), KeyError("hidden-record-1"), None, None, "x", "KeyError: '***'"),
    ({"exc_info": OSError(1)}, (), None, None, None, "{'exc_info': OSError(1)}", "OSError: 1"),  # structlog's
    ("%s rows", (BadError(),), None, None, None, "%s rows (BadError(),) (hostile)", None),
    ("x", (), type("E", (OSError,), {"__cause__": property(len)})(1), None, None, "x", f"{__name__}.E: 1"),
    (Hostile(), (), None, None, None, "<Hostile: RuntimeError> () (hostile)", None)]


def test_a_record_is_told_whole_and_once(logger, received):
    alerters._Secret("hidden-record-1")
    for text, args, error, formatted, stack, title, body in RECORDS:
        record = log_record(text, args=args, error=error)
        record.exc_text, record.stack_info = formatted, stack
        handler = alerters.AlertHandler()
        handler.handle(record)
        handler.flush()
        assert (received.last.title, received.last.body) == (title, body and f"```\n{body.rstrip()}\n```")
    assert len(received) == len(RECORDS)
    try:
        raise KeyError("mine")
    except KeyError:
        handler.handle(log_record({"exc_info": True}))
    handler.flush()
    assert (received.last.title, received.last.body.count("KeyError: 'mine'")) == ("{'exc_info': True}", 2)


def test_repeats_are_of_one_logger_level_place_exception_and_text(logger, received, gate):
    repeats, by_cause = [{"text": "row 27 at 0x1c"}] * 3, [KeyError("a") for _ in range(3)]
    by_cause[0].__cause__ = by_cause[1].__context__ = OSError("gone")
    by_cause[2].__context__, by_cause[2].__suppress_context__ = OSError("unseen"), True
    others = [{"logger": "home.other"}, {"level": 50}, {"line": 2}, {"text": "column 1 at 0xff"},
              *[{"error": error} for error in (KeyError("a"), KeyError("b"), *by_cause)]]
    for given in ({"text": "first"}, {}, *repeats, *others):
        logger.handler.handle(log_record(**{"text": "row 1 at 0xff", **given}))
    gate.set()
    logger.handler.flush()
    assert received.last.body.split("\n")[1:-1] == ["ERROR home.app: row 1 at 0xff", "… 3 more times",
        "row 27 at 0x1c", "ERROR home.other: row 1 at 0xff", "CRITICAL home.app: row 1 at 0xff",
        "ERROR home.app: row 1 at 0xff", "ERROR home.app: column 1 at 0xff", "ERROR home.app: row 1 at 0xff",
        "KeyError: 'a'", "… 4 more times", "row 1 at 0xff", "KeyError: 'b'", "row 1 at 0xff", "KeyError: 'a'",
        "OSError: gone"]


def test_repeats_are_told_after_a_while(logger, received, monkeypatch):
    for n in range(3):
        logger.error("job %d failed\nsee its log", n)
        n and logger.handlers[0].flush()
    assert [told.body for _, told in received[1:]] == [  # what was told is not told again
        f"```\n… 1 more time\njob {n} failed\nsee its log\n```" for n in (1, 2)]
    del received[:]
    monkeypatch.setattr(alerters, "_FOLD", alerters._FOLD / 300)
    logger.error("disk 0 is full"), logger.error("disk 1 is full")
    wait_until(lambda: len(received) == 2, "what has waited")
    assert (received.last.title, received.last.body) == (
        "disk 0 is full", "```\n… 1 more time\ndisk 1 is full\n```")


def test_what_could_not_be_told_is_on_stderr_once(logger, received, monkeypatch, capsys):
    monkeypatch.setenv("ALERTERS_TROUBLE", "line busy")
    other = logging.StreamHandler(io.StringIO())
    logger.propagate = False
    monkeypatch.setattr(logging.getLogger("alerters"), "propagate", False)
    said = "careful\nrecorder: line busy: wait\nalerters: not told (see above): ERROR home.app: x ***\n"
    received.before = lambda *_: alerters._remember_secret("hidden")  # as it is known once it is used
    never, on = logging.StreamHandler(io.StringIO()), logging.handlers
    never.addFilter(lambda record: False)
    later = on.QueueHandler(SimpleNamespace(put_nowait=str)), on.MemoryHandler(9, target=never)
    silent = [logging.NullHandler(), never, *later, SimpleNamespace(level=60)]  # logging asks for no more
    for others, level, wanted in (([], 0, said), (silent, 0, said), ([other], 60, said), ([other], 0, "")):
        other.setLevel(level)
        handler = alerters.AlertHandler()
        logger.handlers = [handler, *others]
        monkeypatch.setattr(logging.getLogger("alerters"), "handlers", logger.handlers)
        for kind, text in ((20, "for your information"), (30, "careful")):
            handler.handle(log_record(text, "alerters", kind))
        logger.error("x hidden")
        handler.flush()
        assert capsys.readouterr().err == wanted, (others, level)


def test_what_no_thread_or_a_dead_service_left_is_written_and_the_next_is_told(
        logger, received, gate, monkeypatch, capsys):
    logger.propagate = False
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        logger.error("lost")
        logger.handler.flush()
    assert capsys.readouterr().err == "alerters: not told (can't start new thread): ERROR home.app: lost\n"
    for word in "xyy":
        logger.handler.handle(log_record(word))
    said = "alerters: not told (it took more than 0.05 s): ERROR home.app: "
    with open("e", "w+", 1, "ascii") as err, contextlib.redirect_stderr(err), monkeypatch.context() as patch:
        patch.setattr(alerters, "_SEND_BUDGET", 0.05)
        logger.handler.flush()
        assert err.seek(0) == 0 and err.read() == f"{said}x\n{said}y\n\\u2026 1 more time\n"
    gate.set()
    for _ in "12":  # what was given up is new again; the flush tells it, and forgets it then
        logger.handler.handle(log_record("y")), logger.handler.flush()
    assert (received.titles, logger.handler._groups, capsys.readouterr().err) == (["x", "y", "y"], {}, "")
    assert not any(message.body for _, message in received)


@pytest.mark.parametrize("trouble", ["line busy", "bug", ""])
def test_what_is_logged_while_posting_is_never_posted(trouble, received, monkeypatch, capsys):
    monkeypatch.setenv("ALERTERS_TROUBLE", trouble)
    titles, root = [], logging.getLogger()

    def chatty(alerter, message):
        titles.append(message.title)
        root.error("logged while posting", 5)
        thread = threading.Thread(target=root.error, args=("from a thread",), name="alerters-x")
        thread.start()
        thread.join()
    received.before = chatty
    handler = alerters.AlertHandler()
    monkeypatch.setattr(root, "handlers", [handler])
    logging.getLogger("home.app").error("once")
    handler.flush()
    assert re.match(r"logged while posting \(5,\) \(not .*\nfrom a thread\n", capsys.readouterr().err)
    del received.before
    post("by hand", alerter=received.alerter(trouble="line busy"))  # our own errors are no alerts either
    handler.flush()
    assert titles == ["once"] and len(received) == (not trouble)


def test_the_handler_is_an_ordinary_name(received, monkeypatch):
    at_end, kept = [], []  # what Celery calls when a worker process ends, which runs nothing of atexit
    received.before = lambda *_: kept.append(alerters._WIRES.get())
    monkeypatch.setitem(sys.modules, "celery.signals", SimpleNamespace(
        worker_process_shutdown=SimpleNamespace(connect=at_end.append)))
    assert "AlertHandler" in dir(alerters) and "from a thread" in alerters.AlertHandler.__doc__
    configuration = logging.config.DictConfigurator({"version": 1})
    handler = configuration.configure_handler({"class": "alerters.AlertHandler", "level": "WARNING"})
    with alerters._one_operation():  # whose context free-threaded Python 3.14 hands on to a new thread
        kept.append(alerters._WIRES.get())
        handler._work = functools.partial(alerters.contextvars.copy_context().run, handler._work)
        handler.handle(log_record(level=30))
    at_end[0](pid=1, exitcode=0)
    assert kept[0] is not kept[1] and repr(type(handler)) == "<class 'alerters.AlertHandler'>"
    assert [(told.title, told.level, handler.level) for _, told in received] == [("row 1", "warning", 30)]


LOGGING = """
    import asyncio, dataclasses, io, logging, os, re, sys, threading, time, warnings, alerters

    @dataclasses.dataclass
    class File(alerters.BaseAlerter):
        flavor = "file"

        def send(self, message, params=None):
            while os.path.exists("wait"):
                time.sleep(0.005)
            if os.path.exists("busy"):
                raise alerters.DeliveryError("the line is busy")
            with open("told.txt", "a") as out:
                out.write(f"{message.title}\\n")
            return alerters.Receipt("file", {})

    handler, log = alerters.AlertHandler(alerter=File()), logging.getLogger()
    log.addHandler(handler), warnings.simplefilter("ignore", DeprecationWarning)  # of fork
    """
MANY = f"file: Too many open files: {TOO_MANY}\n"
ENDINGS = {  # how the program goes on; what is told, sorted; its stderr
    # The end holds the handler's lock while the post fails and logs, and root has this very handler.
    "stderr is logged": ("open('busy', 'w'); sys.stderr = type('L', (), {'flush': sys.stderr.flush, 'write':"
                         "lambda _, t: (sys.__stderr__.write(t), log.error(t))})(); log.error('x')", [],
                         "file: the line is busy\nalerters: not told (see above): ERROR root: x\n"),
    "forks": ("""
        import logging.config, multiprocessing
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # by another library
        open("wait", "w").close(), log.error("taken by the thread"), log.error("waits")
        sys.meta_path.insert(0, type("Slow", (), {"find_spec": lambda *_: time.sleep(0.02)}))
        threading.Thread(target=lambda: alerters._imaplib.IMAP4).start()  # still imports when it forks
        def tell():
            os.unlink("wait"), __import__("imaplib"), log.error("of the child")  # and nothing else
        child = multiprocessing.get_context("fork").Process(target=tell)
        child.start(), child.join(), handler.flush(), log.error("of the parent")
        """, ["of the child", "of the parent", "taken by the thread", "waits"], ""),
    "what is to be done at the end is forgotten, as by Airflow": ("""
        if not os.fork():
            alerters.atexit._clear(), log.error("of the child"), alerters.atexit._run_exitfuncs(), os._exit(0)
        os.wait()
        """, ["of the child"], ""),
    "a signal's handler logs at any moment, where threads start and where they do not": ("""
        sys.stderr, said = io.StringIO(), iter(range(10000, 20000))
        File.send = lambda _, message, params: sys.stderr.write(message.body) and alerters.Receipt("", {})
        def tell(line=1):
            own.handle(logging.LogRecord("x", 40, "", line, f"row\\nlog {next(said)}", (), None))
        def interrupt(frame, event, _):
            if event == "line" and next(steps) == moment:
                tell(), tell(moment)
            if frame.f_code.co_name in "emit flush take _give_up _start _take_due".split():
                return interrupt
        for threading.Thread.start in threading.Thread.start, lambda _: int("no thread"):
            for moment in range(2, 99):
                own, steps = alerters.AlertHandler(alerter=File()), iter(range(999))
                sys.settrace(interrupt), tell(), tell(0), own.flush(), tell(), sys.settrace(None), own.flush()
        numbers = sorted(re.findall("log (.*)", sys.stderr.getvalue()))
        print(numbers == list(map(str, range(10000, next(said)))), file=sys.__stderr__, flush=True)
        """, [], "True\n"),
    "an import's hook forks and alerts while a thread waits for that import": ("""
        def hook(name, *_):
            if name == "imaplib" and threading.current_thread() is threading.main_thread():
                threading.Thread(target=lambda: alerters._imaplib.IMAP4).start(), time.sleep(0.1)
                os.fork() or os._exit(len(alerters._html.escape("x")))
                os.wait(), alerters._shlex.quote("x"), log.error("told")
        alerters._importing.patience = 0.1
        sys.meta_path.insert(0, type("Hook", (), {"find_spec": hook}))
        import imaplib
        """, ["told"], ""),
    **{f"a task goes while its end is told: {code}": (f"""
        os.system("touch wait; (sleep 0.5; rm wait) &")
        loop = asyncio.new_event_loop()
        task = loop.create_task(alerters.watch("job", alerter=File())(asyncio.sleep)(0))
        task._log_destroy_pending = loop.run_until_complete(asyncio.sleep(0.1))
        {code}; loop.run_until_complete(asyncio.sleep(0)); loop.close()
        del task, loop; import gc; gc.collect()
        """, ["job succeeded"], "") for code in ("pass", "task.cancel()")},
    "nothing can be imported any more": (
        "import builtins; builtins.kept = type('D', (), {'__del__': lambda _, log=log:log.error('x')})()", [],
        "alerters: not told (Python ends): ERROR root: x\n"),
    # Whoever configures logging has its lock, then those of the handlers; while one writes it needs that.
    "is configured anew": ("from concurrent.futures import *; from logging.config import *;"
                           "pool, real, anew = ThreadPoolExecutor(), sys.stderr, {'version': 1}; sys.stderr ="
                           "type('L', (), {'flush': real.flush, 'write': lambda _, t: ('not told' in t and "
                           "pool.submit(dictConfig, anew).result(3), real.write(t))})(); open('busy', 'w');"
                           "log.error('x'); handler.flush()", [],
                           "file: the line is busy\nalerters: not told (see above): ERROR root: x\n"),
    "no descriptors": ("""
        import resource
        job, taken = alerters.watch("job", alerter=File())(lambda: 5), []
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        try:
            while True:
                taken.append(open(os.devnull))
        except OSError:
            log.error("x"), handler.flush()
            log.error("%d %s", job(), handler._worker.is_alive()), handler.flush()
        taken.clear(), log.error("y")
        """, ["y"], f"{MANY}alerters: not told (see above): ERROR root: x\n{MANY}{MANY}"
                    "alerters: not told (see above): ERROR root: 5 True\n")}


@posix
def test_how_programs_with_the_handler_end(tmp_path):
    started = {}
    for case, (program, *_) in ENDINGS.items():
        (tmp_path / case).mkdir()
        text = textwrap.dedent(LOGGING) + textwrap.dedent(program)
        started[case] = start_program("-c", text, cwd=str(tmp_path / case))
    for case, process in started.items():
        done, told = end_of(process), tmp_path / case / "told.txt"
        lines = sorted(told.read_text().splitlines()) if told.exists() else []
        assert (done.returncode, lines, done.stderr) == (0, *ENDINGS[case][1:]), case


# === The command line ===
def test_the_documented_commands_of_the_model(slack, capsys, clock):
    FLAVORS["slack"] = in_time(SlackAlerter, clock)
    program, address = alerters._program(), f"slack_api_url: {slack.api_url}\n"
    table = {f"alerter register my_slack_alerter --flavor=slack --slack_token={slack.token} "
        f"--slack_channel_id={slack.channel} --slack_api_url={slack.api_url}":
            f"alerter my_slack_alerter is registered; put it to use by: {program} stack register "
            "my_slack_alerter -al my_slack_alerter --set\n",
        "stack register my_stack -al my_slack_alerter": "stack my_stack is stored\n",
        "stack register both -al console my_slack_alerter":
            f"stack both is stored; my_stack stays active until: {program} stack set both\n",
        "stack register all -al console,my_slack_alerter --set": "stack all is stored\n",
        "stack set my_stack": "stack my_stack is active\n", "stack update all -al console":
            f"stack all is stored; my_stack stays active until: {program} stack set all\n",
        "stack describe": "* my_stack: my_slack_alerter\n", "stack describe default": "  default: console\n",
        "stack list": "  default: console\n* my_stack: my_slack_alerter\n"
                      "  both: console, my_slack_alerter\n  all: console\n",
        "stack delete all": "stack all is deleted\n", "stack delete both": "stack both is deleted\n",
        "alerter list": "  console  (console)\n* my_slack_alerter  (slack)\n",
        "post Hello --title T --metadata a=b=c --metadata d= --level error --mention U01 --mention here": "",
        "alerter post to --alerter my_slack_alerter": "", "post nowhere-else --stack default": "",
        "post nowhere-else --alerter console --alerter console": "",
        "alerter update my_slack_alerter --slack_channel_id C0OTHER --approvers=U1,U2 --timeout 1h30m":
            "alerter my_slack_alerter is updated\n",
        "update my_slack_alerter --timeout=": "alerter my_slack_alerter is updated\n",
        "update --slack_token {{env.TEAM_TOKEN}} my_slack_alerter":  # any order
            "alerter my_slack_alerter is updated\n",
        "describe my_slack_alerter": "flavor: slack\nslack_token: {{env.TEAM_TOKEN}}\n"
                                     f"slack_channel_id: C0OTHER\n{address}approvers: ['U1', 'U2']\n",
        "stack set default": "stack default is active\n",
        "stack delete my_stack": "stack my_stack is deleted\n",
        "alerter delete my_slack_alerter": "alerter my_slack_alerter is deleted\n",
        "register new --flavor=slack --slack_token=xoxb-1 --set": "alerter new is registered, and stack new "
            f"is active. Now try:\n{program} post \"Hello\"\n",
        "list": "  console  (console)\n* new  (slack)\n", "pending": ""}
    for line, said in table.items():
        err = "[i] nowhere-else\n" if "nowhere" in line else ""
        assert run_cli(capsys, *line.split()) == (0, said, err), line
    texts = [slack_text(row["payload"]) for row in slack.posted]
    assert len(texts) == 2 and all(words in texts[0] for words in ("T", "Hello", "a", "b=c", "d"))
    assert "<@U01> <!here>" in slack.posted[0]["payload"]["text"]


MISTAKES = {  # {}: the program, …: anything
    "preview x": "preview: give --flavor, or --html FILE", "aks": "no command 'aks'; did you mean 'ask'?",
    "register --token=1 a-name -f discord --t hidden": "a-name (discord): it…mean 'discord_token'?",
    "post x --alerter=": "…stacks-…: no alerter ''; there is: console, team", "check ": "…: no alerter ''…",
    "register x --flavor=console --slack_token=xoxb-2-hidden": "x (console): it has no field…there is: none",
    "register prod --flavor=console --set": "stack 'prod' exists already: choose another name",
    "register team --flavor=console": "alerter 'team' exists already: `update` changes it",
    "stack register prod -al team": "stack 'prod' exists already: `stack update` changes it",
    "register a/../b --flavor=console": "alerter 'a/../b': a name is letters, digits, _ . and -",
    "update team --approvers=@ann": f"team…: '@ann' {NOT_SLACK}", "register  -f slack": "alerter ''…",
    "update team": "update: there is nothing to…VALUE", "delete team": "alerter 'team' is in…: delete…first",
    "post x --stack=training_eu": "…'TRAINING-eu'?", "post x --metadata accuracy": "--meta…write…KEY=VALUE",
    "stack delete prod": "stack 'prod' is active: set another one first", "post a b": "post: a word…with --",
    "stack update prod -al teem": "…: no alerter 'teem'; …'team'?", "ask x --stack=": "…: no stack ''…prod…",
    "post x --TITEL T": "…'--TITEL'; did…'--title'?", "post x --alerter team --stack prod": "…: give one…",
    "post -x%": "the following arguments are required: text; one that begins with - stands behind -- (…)",
    **dict.fromkeys(("run", "run touch made", "run touch -- touch made", "run --", "run --title T touch made",
                     "run --title T touch made -- touch made"), alerters._HOW_TO_RUN),
    "setup slack --slack_token=xoxb-1-hidden": "setup asks on a…: {} register slack --flavor=slack…--set",
    "ask x --alerter console": "nobody can be asked here: console (console): standard input is no terminal…"}


def test_a_mistake_is_one_line_that_says_what_was_meant(capsys):
    team = {"flavor": "slack", "slack_token": "xoxb-1-hidden", "slack_channel_id": "C1",
            "slack_api_url": "http://127.0.0.1:9/api"}  # nobody is there: what it tried would end with 4
    places = {**dict.fromkeys(("default", "training_us", "TRAINING-eu"), ["console"]), "prod": ["team"]}
    write_store({"version": 1, "active_stack": "prod", "stacks": places,
                 "alerters": {"console": {"flavor": "console"}, "team": team}})
    before = read_store()
    for line, said in MISTAKES.items():
        code, out, err = run_cli(capsys, *line.split(" "))
        want = re.escape(f"alerters: {said}\n".replace("{}", alerters._program())).replace("…", ".*")
        assert (code, out) == (2, "") and re.fullmatch(want, err), (line, err)
        assert "hidden" not in err and read_store() == before and not os.path.exists("made")


def test_help_version_and_flavors(capsys, monkeypatch):
    code, out, err = run_cli(capsys, "flavor", "list")
    assert (code, err, re.findall(r"(?m)^(\w+)(?: +\S+){4}", out)) == (0, "", list(FLAVORS))
    code, out, err = run_cli(capsys, "--help")
    assert (code, err) == (0, "") and "register NAME --flavor=F" in out and run_cli(capsys) == (2, out, "")
    assert run_cli(capsys, "stack", "--help") == run_cli(capsys, "flavor", "help") == (0, out, "")
    assert run_cli(capsys, "--version") == (0, alerters.__version__ + "\n", "")
    assert [command for command in alerters._COMMANDS if f"  {command} " not in out] == []
    monkeypatch.setattr(sys, "executable", "/opt/pythön")  # what an output cannot take is escaped
    helps = {command: rf"usage: pyth\xf6n -m alerters {command}" for command in alerters._COMMANDS}
    for line, wanted in {**helps, "register x": "--listen", "run touch made": "--longer-than"}.items():
        with open("help", "w+", encoding="ascii") as narrow, contextlib.redirect_stdout(narrow):
            assert run_cli(capsys, *line.split(), "-h") == (2 * (line == "ask"), "", "")  # `ask -h && deploy`
            assert narrow.seek(0) == 0 and wanted in narrow.read() and not os.path.exists("made")


def test_post_reads_standard_input_and_odd_texts_and_needs_no_output(received, monkeypatch, capsys):
    def typed(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    typed(b"\xef\xbb\xbf" + "körper\r\nzwei\r\n".encode() + b"\xff")  # as from PowerShell
    assert run_cli(capsys, "post", "-", "--title", "T") == (0, "", "")
    assert (received.last.body, received.last.title) == ("körper\nzwei\n\ufffd", "T")
    assert run_cli(capsys, "post", "--title=T", "--", "--dashes") == (0, "", "")
    assert received.last.body == "--dashes"
    monkeypatch.setattr(sys, "stdin", None)
    assert run_cli(capsys, "post", "-") == (2, "", "alerters: - reads standard input, which is closed\n")

    def broken(*_):
        raise BrokenPipeError
    for own, code in (SimpleNamespace(write=broken, flush=broken), 141), (SimpleNamespace(write=len), 0):
        monkeypatch.setattr(sys, "stdout", own)
        assert [main(["post", "x"]), main(["flavor", "list"])] == [0, code] and received.last.body == "x"


ANSWERED = [  # what is said under the question; options; exit code, what is printed
    ("no", "", 1, "declined by U1 (no)\n"), ("yes", "--approver U2 --timeout=2", 3, "timeout\n"),
    ("ship it", "--approve 'ship it' --approve go --decline stop --mention S01,U2 --approver 'U2, U1'", 0,
     "approved by U1 (ship it)\n"), ("yes", "--approvals 2 --timeout=2", 3, "timeout\n"),
    ("yes", "--json", 0, Decision("approved", "U1", "yes", "reply", approvals=["U1"])),
    ("no: so", "--json", 1, Decision("declined", "U1", "no: so", "reply", reason="so", approvals=[])),
    (None, "--json --timeout=2", 3, Decision("timeout", approvals=[]))]


def test_ask_on_the_command_line(slack, clock, capsys):
    store_alerter(slack, clock=clock)
    for text, options, want, said in ANSWERED:
        slack.posted.clear()
        at = clock.monotonic() + 0.5
        clock.at(at, lambda text=text: text and slack.say("U1", text, slack.posted[-1]["ts"]))
        code, out, err = run_cli(capsys, "ask", "Deploy?", *shlex.split(options))
        asked = r"alerters: asked my_slack_alerter \(slack\) \S+/p\d{16}; waiting until [\d-]+ [\d:]+ UTC\n"
        assert code == want and re.fullmatch(asked, err), err
        if isinstance(said, Decision):
            assert clock.now() - 5 <= json.loads(out)["at"] <= clock.now()
            said = json.dumps({**dataclasses.asdict(said), "at": json.loads(out)["at"]}) + "\n"
        assert out == said
        assert ("<!subteam^S01>" in slack.posted[0]["payload"]["text"]) is ("S01" in options)
    slack.channels[slack.channel]["is_archived"] = True
    code, out, err = run_cli(capsys, "ask", "Refused?")
    assert (code, out, err.count("\n")) == (4, "", 1) and "Refused" not in str(slack.posted)
    assert err.startswith("alerters: my_slack_alerter (slack): is_archived: ")


def test_pending_lists_the_open_questions(slack, clock, capsys):
    store_alerter(slack, clock=clock)
    question = "Deploy the *model*\x1b[31m?"
    clock.at(5, {}.popitem)  # a crash
    with pytest.raises(KeyError):
        ask(question, key="deploy\n42", timeout=3600)
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(clock.start + 3600))
    line = ("deploy 42  my_slack_alerter  {}  Deploy the *model*?  "
            "https://example.slack.com/archives/C0ALERTS/p1700000000000000\n")
    assert run_cli(capsys, "pending") == (0, line.format(f"expired {until}"), "")  # by now, which is later
    data = json.loads(read_store())
    data["questions"]["deploy\n42"]["deadline"] = 4e9
    write_store(data)
    assert run_cli(capsys, "pending") == (0, line.format("open until 2096-10-02 07:06:40 UTC"), "")
    clock.at(clock.monotonic() + 1, lambda: slack.say("U1", "yes", slack.posted[0]["ts"]))
    assert run_cli(capsys, "ask", question, "--key", "deploy\n42", "--timeout=3600")[0] == 0
    assert run_cli(capsys, "pending") == (0, "", "") and _records() == {}


def test_check_says_each_thing_once_and_tries_to_post_if_told(slack, discord, smtp, clock, capsys):
    store_alerter(slack, "red")
    store_alerter(discord, "blue", "discord", clock=clock)
    store_alerter(smtp, "mail", "smtp_email", password=None)
    StackStore().register_alerter("hook", "slack", slack_webhook_url=slack.webhook_url)
    StackStore().register_stack("all", ["red", "blue", "hook", "mail"], activate=True)
    smtp.user = None  # a relay
    code, out, err = run_cli(capsys, "check")
    assert (code, err, out.count("note  posting: not tried; check --post tries it\n")) == (0, "", 4)
    assert "SMTP: connected; no password is set, so no log-in\n" in out and "FAIL" not in out
    assert slack.posted == discord.posted == [] and smtp.mails == []
    both = "check --alerter red --alerter blue".split()
    assert run_cli(capsys, "check", "red", "--alerter", "blue") == run_cli(capsys, *both)
    code, out, err = run_cli(capsys, "check", "--post")
    tried = "ok    posting: a test message was posted\n"
    whole = f"{tried}ok    it could react\nok    it could take the test message away\n"
    assert (code, err, out.count(whole), out.count(tried), "not tried" in out) == (0, "", 2, 4, False)
    assert len(slack.posted) == 2 and len(discord.posted) == len(smtp.mails) == 1
    assert len(slack.rows) == 1 and discord.rows == []  # the webhook's stays
    discord.fail("PUT ", Fault(status=403), times=None)
    slack.scopes = {"chat:write"}
    StackStore().update_alerter("hook", slack_webhook_url=slack.webhook_url + "gone")
    StackStore().update_alerter("mail", recipient_email=None)
    code, out, err = run_cli(capsys, "check", "--stack", "all", "--post")  # each is checked all the same
    assert (code, err[:68]) == (4, "alerters: check: red (slack), hook (slack), mail (smtp_email) failed")
    assert out.count("channels:read") == 1 and out.count("needs channels:history") == 1
    assert "note  it could not react" in out
    assert "FAIL  hook (slack): invalid_token: the webhook was deleted or mistyped: make a new one\n" in out
    assert "FAIL  recipient: none, so it cannot post: give recipient_email\n" in out


def test_preview_shows_what_would_be_sent_and_sends_nothing(capsys, received, tmp_path):
    for flavor in FLAVORS:
        line = f"preview **good** --flavor {flavor} --title T --metadata a=9"
        code, out, err = run_cli(capsys, *line.split())
        assert (code, err, received) == (0, "", []) and re.search("(?s)T.*good.*a.*9", out), flavor
    options = "--flavor=slack", "--mention=here", f"--file={__file__}", "--image=https://e"
    assert re.search('(?s)<!here>.*"https://e".*"file": "test', run_cli(capsys, "preview", "x", *options)[1])
    page = tmp_path / "page.html"
    assert run_cli(capsys, "preview", "**x** <script>", "--html", page) == (0, "", "")
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>") and "x</b> &lt;script&gt;" in html.replace("strong", "b")
    assert "<script>" not in html and not os.path.exists(store_file())


def test_lists_mark_what_the_environment_chooses(slack, capsys, monkeypatch):
    store_alerter(slack, "red")
    set_variables(monkeypatch, STACK="default")
    for own, mark in (("", "*"), ("* $ALERTERS_FLAVOR  (discord)\n", " ")):
        assert run_cli(capsys, "list")[1] == f"{own}{mark} console  (console)\n  red  (slack)\n"
        assert run_cli(capsys, "stack", "list")[1] == f"{mark} default: console\n  red_stack: red\n"
        set_variables(monkeypatch, FLAVOR="discord")


def test_secrets_are_masked_wherever_they_could_be_shown(capsys):
    mail = ("--smtp_server=localhost --sender_email=a@b.org --password=!hid --recipient_email=c@d.org "
            "--imap_server=localhost --imap_password=hidden-2")
    hook = "--flavor=slack --slack_webhook_url=https://hooks.slack.com/services/T/B/hidden"
    lines = [f"register smtp_email --flavor=smtp_email {mail}", f"register hook {hook}"] * 2 + [
        "describe smtp_email", "describe hook", "update hook --timeout=x", "update --a=b --t x!hid-3 hook",
        "update hook --slack_webhook_url=ftp://slack.com/hidden", "update slack_token=x!hid-4"]
    shown = str([run_cli(capsys, *line.split())[1:] for line in lines])
    shown += repr([StackStore().load_alerter(name) for name in StackStore().alerters()])
    data = json.loads(read_store())
    data["flavors"] = {"pager": "my_package.gone.PagerAlerter"}  # one that cannot be imported here
    data["alerters"]["p"] = {"flavor": "pager", "pager_token": ["hidden"], "webhook_url": "http://hidden"}
    write_store(data)
    for line, code in (("describe p", 0), ("list", 0), ("flavor list", 0), ("post x --alerter p", 2)):
        ended, out, err = run_cli(capsys, *line.split())
        shown += out + err
        assert ended == code and "Traceback" not in err
    shown += repr(StackStore().alerters())
    assert not re.search("hidden|!hid", shown) and shown.count("***") >= 9


# === The command line as a process ===
BELL = """
import dataclasses
from vendored.alerts import BaseAlerter, Receipt
@dataclasses.dataclass
class Bell(BaseAlerter):
    flavor = "bell"
    def send(self, message, params=None):
        print("ding", message.body)
        return Receipt("bell", {})
"""


def test_as_a_file_and_vendored(tmp_path):
    for name in ("tool/alerters.py", "vendored/alerts.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(MODULE, str(tmp_path / name))
    (tmp_path / "winreg.py").write_text("raise SystemExit('of the folder')")  # what mimetypes looks for
    (tmp_path / "bell.py").write_text(BELL)
    write_store({"version": 1, "flavors": {"bell": "bell.Bell"},
                 "stacks": {"plain": ["console"], "default": ["console", "b"]},
                 "alerters": {"b": {"flavor": "bell"}, "console": {"flavor": "console"}}})
    started = [start_program(*args, "post", "-", "--title=Füße", "--metadata=a=1", *more, python=[
        "-S", "-OO", "-W", "error"], env={"PYTHONPATH": None}, cwd=str(tmp_path), stdin=subprocess.PIPE)
               for args, *more in ((["tool/alerters.py"], "--stack=plain", "--file=bell.py"),
                                   (["-m", "vendored.alerts"], "--stack=default"))]
    for process, rings, file in zip(started, ("", "ding piped ✅\n\n"), ("    [bell.py]\n", "")):
        done = end_of(process, "piped ✅\n")
        assert tuple(vars(done).values()) == (0, rings, f"[i] Füße\n    piped ✅\n    a: 1\n{file}")
    for argv, shown in ({"argv": ["a b.py"]}, "py 'a b.py'"), ({}, "py ''"):  # as a file; as C may embed it
        here = {**vars(alerters), "__spec__": None, "sys": SimpleNamespace(executable="/bin/py", **argv)}
        assert types.FunctionType(alerters._program.__code__, here)() == shown


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it needs one")
def test_odd_streams_in_a_folder_that_is_gone_give_no_traceback_and_the_right_code():
    reader, writer = os.pipe()
    os.close(reader)
    lines = {"register a --flavor=console": 2, "flavor list >/dev/full": 2, "flavor list": 141,
             "run --alerter none -- false 2>/dev/full": 1}
    started = {line: subprocess.Popen(
        ["sh", "-c", f'cd "$(mktemp -d)" && rmdir "$PWD"; "$0" -S -m alerters {line}', sys.executable],
        encoding="utf-8", env=environment_with(ALERTERS_STORE="nowhere.json"), stdin=subprocess.DEVNULL,
        stdout=writer, stderr=subprocess.PIPE) for line in lines}
    os.close(writer)
    for line, process in started.items():
        done = end_of(process)
        assert done.returncode == lines[line], (line, done.stderr)
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr, (line, done.stderr)


# === The console ===
class Terminal:
    """A command whose controlling terminal is a pty; what it shows is in `seen`."""
    ALERTERS = ("import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
                "import alerters; sys.exit(alerters.main())")

    def __init__(self, words, shell=False):
        """Start `alerters` with these words, or any command in a shell, which opens the terminal for it."""
        import pty
        self.seen = ""
        self.master, slave = pty.openpty()
        start = [sys.executable, "-S", "-c", self.ALERTERS]
        if shell:
            start = ["sh", "-c", 'exec <"$0"; exec "$@"', os.ttyname(slave)]
        self.process = subprocess.Popen([*start, *words], env=environment_with(), stdin=slave, stdout=slave,
                                        stderr=slave, start_new_session=True)
        os.close(slave)

    def read(self):
        """Read what it shows next; False: it has ended, or shows nothing for long."""
        before = len(self.seen)
        with contextlib.suppress(OSError):  # Linux: nobody has the other side open any more
            if select.select([self.master], [], [], 30)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
        return len(self.seen) > before

    def answer(self, prompt, text):
        while prompt not in self.seen:
            assert self.read(), f"{prompt!r} did not come: {self.seen}"
        os.write(self.master, text.encode())

    def end(self):
        while self.read():
            pass
        os.close(self.master)
        return self.process.wait(10)


@posix
def test_from_nothing_to_an_approval_on_slack_and_what_ctrl_c_ends(
        slack, tmp_path, clock, monkeypatch, capsys):
    """As a new user in an empty folder, with no more than `setup` tells."""
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(["setup", "slack", f"--slack_api_url={slack.api_url}"])
    interrupted = Terminal("ask Deploy? --key deploy-42 --alerter console".split())
    interrupted.answer("Open until", "\x03")
    terminal.answer("slack_token (", slack.token + "\n")
    terminal.answer("slack_channel_id (", slack.channel + "\n")
    assert (terminal.end(), interrupted.end()) == (0, 130), terminal.seen
    assert "alerters: interrupted" in interrupted.seen and slack.token not in terminal.seen  # no echo
    assert "Traceback" not in terminal.seen + interrupted.seen and list(_records()) == ["deploy-42"]
    command = re.search(r'Now try:\s+(.* -m alerters) post "Hello"\r?\n', terminal.seen)[1] + ' ask "Deploy?"'
    FLAVORS["slack"] = in_time(SlackAlerter, clock)
    clock.at(3, lambda: slack.say("U1", "yes", slack.posted[-1]["ts"]))
    assert run_cli(capsys, *shlex.split(command)[3:])[:2] == (0, "approved by U1 (yes)\n")


@pytest.fixture
def terminal_here(monkeypatch, capsys):
    """Commands on a terminal of this process: `terminal_here(line, *answers)` -> (code, what it shows)."""
    import pty
    master, slave = pty.openpty()
    terminal = os.fdopen(slave, "r")

    def run(line, *answers):
        shown, left = [], list(answers)

        def read(prompt, kind=""):
            shown.extend([*capsys.readouterr(), kind, prompt])
            if not left:
                raise EOFError
            return left.pop(0)
        output = io.StringIO()
        output.fileno, output.write = terminal.fileno, shown.append
        with monkeypatch.context() as patch:
            patch.setattr("builtins.input", lambda prompt: read(prompt.encode("ascii").decode()))
            patch.setattr("getpass.getpass", lambda prompt: read(prompt, "secret "))
            patch.setattr(sys, "stdin", terminal), patch.setattr(sys, "stdout", output)
            code = main(shlex.split(line))
        return code, "".join([*shown, *capsys.readouterr()])
    run.master, run.terminal = master, terminal
    yield run
    terminal.close(), os.close(master)


SETUP_TYPED = {  # flavor: the answers, and what is shown on the way
    "slack": (["xapp-1", "{token}", "{channel}"],
              "…reactions%3Aread…\nsecret slack_token (…): …app-level token…"
              "\nsecret slack_token (…): Invite the app in the channel: /invite @alerters\n"
              "slack_channel_id (…): …"),
    "discord": (["{token}", "#ml", "", "{channel}"],
                "…Message Content Intent…\nsecret discord_token (…): …?client_id=200&scope=bot&permissions="
                "274878024768…\ndiscord_channel_id (…): …that is no id…\ndiscord_channel_id (…): …"),
    "smtp_email": (["{host}", "bot@example.org", "smtp-password-1", "ann@example.org, bob@example.org"],
                   "smtp_server (…): sender_email (…): …app password…\nsecret password (…): "
                   "recipient_email (…): …")}


@posix
@pytest.mark.parametrize("flavor", SETUP_TYPED)
def test_setup_leads_to_an_alerter_that_works(flavor, slack, discord, smtp, terminal_here):
    service = {"slack": slack, "discord": discord, "smtp_email": smtp}[flavor]
    facts = {name: getattr(service, name, "") for name in ("token", "channel", "host")}
    answers, shown = SETUP_TYPED[flavor]
    where = f"--smtp_port={smtp.port}" if flavor == "smtp_email" else f"--{flavor}_api_url={service.api_url}"
    typed = [text.format(**facts) for text in answers]
    code, seen = terminal_here(f"setup {flavor} --name=red {where}", *typed)
    done = ("alerter red is registered, and stack red is active. Now try:\n"
            f'{alerters._program()} post "Hello"\n')
    assert code == 0 and re.fullmatch(re.escape(shown + done).replace("…", "(?s:.*)"), seen), seen
    assert facts["token"] not in seen or flavor == "smtp_email"
    store = StackStore()
    assert (store.active_stack(), store.stacks()["red"]) == ("red", ["red"])
    told = smtp.mails[-1].data.decode() if flavor == "smtp_email" else str(service.posted[-1]["payload"])
    assert "arrive here." in told.replace("=\r\n", "")


@posix
def test_setup_stores_nothing_that_does_not_work(slack, terminal_here, caplog):
    line = f"setup slack --slack_token={slack.token} --slack_api_url={slack.api_url} --name=red"
    refused = "it does not work yet, and nothing was stored: mend what is said above, and try again\n"
    code, seen = terminal_here(line, "C0NOWHERE")
    assert code == 4 and "FAIL  " in seen and seen.endswith(refused)
    slack.fail("chat.postMessage", no("restricted_action"), times=None)  # which no check can tell
    code, seen = terminal_here(line, slack.channel)
    assert code == 4 and "FAIL" not in seen and "restricted_action" in caplog.text and seen.endswith(refused)
    code, seen = terminal_here(line)  # Ctrl-D
    assert code == 2 and seen.endswith("\nalerters: slack_channel_id: the input ended; nothing was stored\n")
    assert "red" not in StackStore().alerters() and slack.posted == []
    code, seen = terminal_here("register team --flavor slack", "xoxb typed", "xoxb-typed-hidden")
    assert code == 0 and seen.count("secret slack_token (") == 2 and "hidden" not in seen
    assert json.loads(read_store())["alerters"]["team"]["slack_token"] == "xoxb-typed-hidden"
    for line in (f"register hook --flavor slack --slack_webhook_url {HOOK}", "setup discord --slack_token=x"):
        code, seen = terminal_here(line, "xoxb-typed", "xoxb-typed")
        assert "secret" not in seen and code == 2 * ("hook " not in line), seen


@posix
def test_the_console_asks_on_a_terminal(monkeypatch, capsys, terminal_here):
    shown, answers = ConsoleAlerter._write, []

    def write(self, text):  # people type once the question is there
        shown(self, text)
        os.write(terminal_here.master, answers.pop().encode("utf-8", "surrogateescape") if answers else b"")

    def said(*lines, **given):
        os.write(terminal_here.master, b"yes\n")  # before the question: no answer to it
        answers[:] = lines[::-1]
        decision = decide("Deploy?", title="Production", **{"timeout": 5, **given})
        err = capsys.readouterr().err
        assert err.startswith("[?] Production\n    Deploy?\n")
        return decision, err
    monkeypatch.setattr(ConsoleAlerter, "_write", write)
    monkeypatch.setattr(ConsoleAlerter, "clock", QUICK_CLOCK)
    monkeypatch.setattr(sys, "stdin", terminal_here.terminal)
    for lines, status in ((["LgTm!\n"], "approved"), ([" *ok*. \n"], "approved"), (["no\n"], "declined"),
                          (["yes please\n", "\udcff\n", "yes\n"], "approved"),
                          (["\x1b[31m\nwhat is this?\nreject\n"], "declined")):
        decision, err = said(*lines)
        assert (decision.status, decision.text) == (status, lines[-1].split("\n")[-2])
        assert decision.by and decision.via == "console" and abs(decision.at - time.time()) < 60
        assert err.count("    That is not an answer yet. ") == "".join(lines).count("\n") - 1
    with monkeypatch.context() as nobody:  # a container whose user number has no name
        nobody.setattr("getpass.getuser", {}.popitem)
        assert said("yes\n")[0].by == str(os.getuid())
    decision, err = said("deploy\n", approve_msg_options=["deploy"], approvers=[decision.by])
    assert decision and "does not count" not in err
    for line, given in (("", {"timeout": 0.02}), ("\x04", {}),  # Ctrl-D: nobody
                        ("yes\n", {"approvers": ["nobody-of-that-name"], "timeout": 0.02})):
        began = time.monotonic()
        decision, err = said(line, **given)
        assert decision.status == "timeout" and ("not nobody-of-that-name." in err) is ("approvers" in given)
        assert "Nobody decided in time" in err and time.monotonic() - began < 1
    with monkeypatch.context() as crash:
        crash.setattr(ConsoleAlerter, "_pause", lambda self, question, seconds: {}.popitem())
        pytest.raises(KeyError, said, key="deploy-42")
    assert said("yes\n", key="deploy-42")[0] and _records() == {}  # it was shown again
    ConsoleAlerter().open_question("Shown, and not yet waited for?")
    with start_program("ask", "Its?", "--timeout=0.1s", stdin=terminal_here.terminal) as other:
        assert "Another program" in other.stderr.read()  # else a "yes" to the last one shown is taken for it
    name = os.ttyname(terminal_here.terminal.fileno())
    with open(name) as to_read, open(name, "w") as to_write:  # the lock is then that of stderr
        other = start_program("ask", "Its?", "--timeout=20", stdin=to_read, stderr=to_write)
    while "Another program asks here, too" not in err and other.poll() is None:  # until it waits
        time.sleep(0.1), decide("Mine?", timeout=0.02)
        err = capsys.readouterr().err
    other.send_signal(signal.SIGSTOP), os.write(terminal_here.master, b"yes\n")  # for the one there first
    assert decide("Deploy?", timeout=0.02).status == "timeout"
    monkeypatch.setattr("os.path.samefile", lambda *_: True)  # as of /dev/tty, one file for all terminals
    assert ConsoleAlerter()._hold_terminal()
    assert other.send_signal(signal.SIGCONT) is None and end_of(other).returncode == 0
    first, second = map(ConsoleAlerter().open_question, ("First?", "Second?"))
    os.write(terminal_here.master, b"yes\n")
    assert (first.check(), second.check().status) == (None, "approved")  # what is typed is for the newer one
    answers[:] = ["no\n"]
    assert first.check().status == "declined"
    assert capsys.readouterr().err.partition("Approved by")[2].count("[?] First?") == 1


# === run ===
QUIET = """
import dataclasses, json, os, alerters

@dataclasses.dataclass
class Quiet(alerters.BaseAlerter):
    flavor = "quiet"
    quiet_token: str = ""

    def send(self, message, params=None):
        if os.environ.get("QUIET_WAIT"):
            os.write(1, b"posting\\n")
            alerters.time.sleep(60)
        with open(os.environ["QUIET_FILE"], "a") as file:
            file.write(json.dumps(vars(message)) + "\\n")
        return alerters.Receipt("quiet", {})
"""
RUN_COMMAND = [sys.executable, "-S", "-m", "alerters", "run", "--"]


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """A flavor of one's own, in use, which writes down what `run` tells; a function that returns it."""
    with open("quiet.py", "w") as file:
        file.write(QUIET)
    write_store({"flavors": {"quiet": "quiet.Quiet"}, "stacks": {"default": ["quiet"]},
                 "alerters": {"quiet": {"flavor": "quiet", "quiet_token": "{{env.QUIET_TOKEN}}"}}})
    told = tmp_path / "told"
    monkeypatch.setenv("QUIET_FILE", str(told))
    monkeypatch.setenv("QUIET_TOKEN", "hidden-secret-1")
    told.touch()
    return lambda: [SimpleNamespace(**json.loads(line)) for line in told.read_text().splitlines()]


SURROUNDINGS = ('test "$P" = "$(cut -d" " -f5-8 /proc/$$/stat)" && echo same group; for n in 0 1 2; do '
                'test -t $n && echo terminal $n; done; ls /proc/$$/fd; grep Sig[BCI] /proc/self/status; '
                'env | grep -v "^[P_]=" | sort; umask; pwd; ')
ALIKE = {  # a shell's line, in which "$@" is the job with or without `run`; the job;
    # on a terminal, what is typed once it says that it is ready
    "words, bytes, killed": ('"$@" "a  b" "" "--" "$(printf "x\\ny")" $\'\\xff\' ✅', 'printf "<%s>" "$@"; '
        "printf '\\377\\0\\33[31mred\\r\\n'; printf '\\376' >&2; kill -9 $$"),
    "surroundings, signals ignored, lock held, more input and output": (
        'P=$(cut -d" " -f5-8 /proc/$$/stat); export P; exec 9>"$(mktemp)"; flock 9; '
        'trap "" HUP INT USR1 CHLD; LC_ALL=C.UTF-8 "$@" <(echo hidden) 3>&2 5<.; echo $?; '
        'flock -n /proc/$$/fd/9 echo free',
        f'{SURROUNDINGS} cat "$1"; echo three >&3; flock -n /proc/$$/fd/9 echo free; exit 3'),
    "to one file": ('cd "$(mktemp -d)"; echo 0 >a; "$@" >>a 2>&1; echo $?; cat a',
                    "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; exit 1"),
    "input, much, errors to a file": (
        'cd "$(mktemp -d)"; (echo one; echo two) | { "$@" 2>a; echo $?; cat; } | cksum; cat a',
        "read -r line; echo got $line; echo err >&2; head -c 3000000 /dev/zero; exit 255"),
    "all closed": ('"$@" <&- >&- 2>&-', "echo out || exit 5"),
    "full, stdin and stderr closed": ('"$@" <&- >/dev/full 2>&-; echo $?', "echo err >&2 && exit 6; "
                                      "cat && exit 7; echo out || exit 1; sleep 0.3; echo on"),
    "nobody reads any more": ('set -o pipefail; "$@" | head -1', "echo a; sleep 0.3; echo b; echo c >&2"),
    "on a terminal": (
        'P=$(cut -d" " -f5-8 /proc/$$/stat) "$@"', f"{SURROUNDINGS} stty size; echo err >&2; echo ready; "
        "read -r line; echo got $line; cat; exit 7", "hello\n\x04"),
    "Ctrl-C, input from a pipe": ('trap : INT; sleep 9 | "$@"; exit $?',  # or bash itself may end by it
        "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done", "\x03"),
    "Ctrl-C ignored, output to a pipe": (
        'trap "" INT; "$@" | cat', "echo ready; read -r line; echo $line >&2", "\x03on\n"),
    "Ctrl-\\": ('ulimit -c 0; "$@"', "echo ready; sleep 9", "\x1c")}


@posix
def test_run_is_as_if_it_were_not_there(quiet):
    def start(line, job, typed=""):
        """Start a job by itself and under `run`; return both."""
        both = [["bash", "-c", line, "bash", *run, "sh", "-c", job, "sh"] for run in ([], RUN_COMMAND)]
        if typed:
            return [Terminal(words, shell=True) for words in both]
        return [subprocess.Popen(words, -1, None, subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE,
                                 env=environment_with(), start_new_session=True) for words in both]

    def end(process):
        """Return what it printed and its exit code as a shell has it."""
        if isinstance(process, Terminal):
            code, shown = process.end(), process.seen
        else:
            shown, code = process.communicate(timeout=60), process.returncode
        return shown, code if code >= 0 else 128 - code
    hung_up = Terminal([*RUN_COMMAND, "sh", "-c", "trap 'exit 5' HUP; echo ready; sleep 9& wait"], shell=True)
    started = {case: start(*row) for case, row in ALIKE.items()}
    hung_up.answer("ready", "")
    os.close(hung_up.master)
    for case, (_, _, *typed) in ALIKE.items():
        for terminal, text in itertools.product(started[case], typed):
            terminal.answer("ready\r\n", text)  # Ctrl-C drops what it has not shown yet
    found = {case: [end(process) for process in pair] for case, pair in started.items()}
    assert {case: pair for case, pair in found.items() if pair[0] != pair[1]} == {}
    assert hung_up.process.wait(10) == 5
    told = quiet()  # each was told, and where both streams are one, in its order
    assert len(told) == len(ALIKE) + 1
    assert fenced(*(f"out {n}\nerr {n}" for n in range(1, 6))) in [message.body for message in told]
    ends = [message for message in told if message.metadata.get("signal") == "SIGHUP"]
    assert [(message.title, message.level) for message in ends] == [("sh failed", "error")]


# To us alone, as `kill` does; to the group, as a terminal and `timeout`; to each one, as systemd.
SIGNALS = {"SIGINT": "group", "SIGUSR1": "group", "SIGUSR2": "each", "SIGQUIT": "alone", "SIGHUP": "alone",
           "SIGTERM": "alone"}
COUNTS = """
import signal, sys, time
got = []
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, _: got.append(signal.Signals(number).name))
signal.alarm(60)
print("ready", flush=True)
while "SIGTERM" not in got:  # the last to come: whatever came twice is here by then
    time.sleep(0.005)
print(*sorted(got))
sys.exit(9)
"""


@posix
def test_a_signal_reaches_the_job_once_whoever_it_is_sent_to(quiet):
    counts = [sys.executable, "-S", "-c", COUNTS, *SIGNALS]
    deaf = ["sh", "-c", "ulimit -c 0; echo ready; exec sleep 9"]
    cases = [(counts, SIGNALS), (deaf, {"SIGHUP": "alone"}), (deaf, {"SIGUSR1": "group"})]
    started = [start_program("run", "--", *job, start_new_session=True) for job, _ in cases]

    def members(process):
        return list(map(int, subprocess.check_output(["pgrep", "-g", str(process.pid)]).split()))
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process, (_, ways) in zip(started, cases):
        for name, way in ways.items():
            for pid in {"alone": [process.pid], "group": [-process.pid], "each": members(process)}[way]:
                os.kill(pid, getattr(signal, name))
    ends = [(done.stdout, done.returncode) for done in map(end_of, started)]
    assert ends == [(" ".join(sorted(SIGNALS)) + "\n", 9), ("", 129), ("", 128 + signal.SIGUSR1)]
    told = [(sorted(m.metadata["signal"].split(", ")), m.metadata["exit code"]) for m in quiet()]
    assert sorted(told) == [(["SIGHUP"], 129), (["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"], 9),
                            (["SIGUSR1"], 128 + signal.SIGUSR1)]


@pytest.fixture
def run_here(capfd, monkeypatch):
    """`run` in this process, which waits less for a group: its words -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(alerters, "_GROUP_TIME", 0.002), monkeypatch.setattr(alerters, "_STEP", 0.002)
    return functools.partial(run_cli, capfd, "run")


def fenced(*lines):
    return "\n".join(["```", *map(str, lines), "```"])


TOLD = {  # the job's script: title, body and level of what is told
    "success": (r"echo; printf 'Gr\366\337e hidden-secret-1' >&2", "sh succeeded", fenced("Größe ***"),
                "success"),
    "few errors": ("seq 1 60; seq 2 40 >&2; exit 1", "sh failed",
                   f"{fenced(*range(2, 41))}\n\nStandard output:\n{fenced(*range(21, 61))}", "error"),
    "many errors": ("echo out; seq 1 3000 >&2; exit 1", "sh failed", fenced(*range(2961, 3001)), "error"),
    "progress": (r"printf '\r 1%%\r 50%%\r\033[32m100%%\033[0m\ndone\r\n\033]0;title\007\033[2K\r90%%' >&2;"
                 "exit 1", "sh failed", fenced("100%", "done", "90%"), "error"),
    "a signal without a name": ("kill -50 $$ 2>&-; exit 178", "sh failed", None, "error"),
    "a secret over the cut": ("head -c 4000 /dev/zero | tr '\\0' x >&2; echo hidden-secret-1 >&2; "
                              "yes é | tr -d '\\n' | head -c 65520 >&2; echo ends >&2; exit 1",
                              "sh failed", fenced("\ufffd" + "é" * 30717 + "ends"), "error"),
    "usr1": ("trap exit USR1; kill -USR1 $PPID; while sleep .1; do :; done", "sh succeeded", None, "success"),
    "stopped": ("trap 'exit 0' TERM; kill -TERM $PPID; while :; do sleep 0.01; done",
                "sh ended after SIGTERM", None, "error")}


@posix
def test_what_run_tells(quiet, run_here, monkeypatch):
    monkeypatch.setattr("locale.getencoding", lambda: "cp1252", raising=False)
    monkeypatch.setattr("locale.getpreferredencoding", lambda _: "utf-8")  # as Python 3.15 has it
    for case, (script, *want) in TOLD.items():
        code = 178 if "178" in script else "exit 1" in script
        assert run_here("--", "sh", "-c", script)[0] == code, case
        told = quiet()[-1]
        facts = ["exit code", *["signal"] * want[0].endswith("TERM"), "duration", "host"]
        assert [told.title, told.body, told.level, [*told.metadata]] == [*want, facts], case


def test_no_argument_but_a_plain_word_or_a_file_is_in_the_title(monkeypatch):
    titles = {"python data/train.py": "python train.py", "/usr/bin/make deploy": "make deploy", "sh": "sh",
              "mysql Hunter2Secret": "mysql", "./train.py --key=x": "train.py", "npm a:b": "npm a:b"}
    monkeypatch.setattr(os.path, "isfile", lambda path: path in ("./train.py", "train.py", "data/train.py"))
    assert {line: alerters._job_name(line.split()) for line in titles} == titles


@posix
def test_run_tells_the_alerters_that_are_named_and_no_short_success(slack, discord, run_here):
    store_alerter(slack, "one"), store_alerter(discord, "two", "discord")
    StackStore().register_stack("both", ["one", "two"], activate=True)
    assert run_here("--longer-than", "60", "--", "true") == (0, "", "") and discord.posted == []
    assert run_here("--longer-than", "60", "--", "sh", "-c", "exit 9")[:2] == (9, "")
    assert run_here("--alerter", "two", "--title", "Nightly", "--", "true") == (0, "", "")
    failed, succeeded = (discord_text(row["payload"]) for row in discord.posted)
    assert "sh failed" in failed and "exit 9" not in failed and "Nightly succeeded" in succeeded


@posix
def test_what_the_job_left_behind_prints_on_after_run_has_ended(quiet, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(str(go))
    program = "import sys, alerters; alerters._GROUP_TIME = 0.01; sys.exit(alerters.main(sys.argv[1:]))"
    script = f"(read -r word <{go}; echo $word; seq 100000 >&2) & echo now; exit 3"
    process = start_program("-c", program, "run", "--", "sh", "-c", script, start_new_session=True)
    assert process.wait(20) == 3 and quiet()[0].body == fenced("now")
    go.write_text("late\n")
    done = end_of(process)
    assert end_of(start_program("run", "--", "sh", "-c", "kill -9 $PPID")).returncode == -9  # leaves nothing
    assert done.stdout == "now\nlate\n" and done.stderr.split() == [str(n) for n in range(1, 100001)]


@posix
def test_a_full_stderr_does_not_hold_the_alert_and_gets_every_byte(quiet):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = ("import sys, alerters; alerters._LAST_WORDS = alerters._GROUP_TIME = 0.05\n"
               "sys.exit(alerters.main(['run', '--', 'sh', '-c', 'seq 15000 >&2; exit 3']))")
    with start_program("-c", program, stderr=writer) as process, open(reader) as stream:
        os.close(writer)  # 64 KB of 83 find room there; the job does not know
        wait_until(quiet, "the alert")
        assert quiet()[0].title == "sh failed" and process.poll() is None  # the job, too, would wait
        assert stream.read().split() == [str(n) for n in range(1, 15001)] and process.wait(20) == 3
    with start_program("-c", program) as process:  # nobody reads: a signal ends it all the same
        wait_until(lambda: len(quiet()) == 2, "another alert")
        process.terminate()
        assert process.wait(20) == 3


POOR = {  # what a machine lacks: how it is taken away
    "forks, as Windows": ("alerters._FORKS", False), "threads": ("threading.Thread.start", RuntimeError),
    "processes": ("os.fork", BlockingIOError), "descriptors": ("socket.socketpair", BlockingIOError),
    "time": ("os.read", lambda *given, read=os.read: time.sleep(0.03) or read(*given))}


@posix
def test_run_keeps_what_the_job_prints_and_returns_where_something_lacks(received, run_here, monkeypatch):
    body = f"{fenced('err')}\n\nStandard output:\n{fenced(*range(29961, 30001))}"
    for lacks, (name, way) in POOR.items():
        def refuse(*_, way=way, **__):
            raise way
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse if isinstance(way, type) else way)
            code, out, err = run_here("--", "sh", "-c", "sleep 0.1 & seq 30000; echo err >&2; exit 3")
        assert (code, out == "".join(f"{n}\n" for n in range(1, 30001)), err) == (3, True, "err\n"), lacks
        told = received.pop()[1]  # no copy without a thread
        assert (told.body, told.metadata["exit code"]) == (None if lacks == "threads" else body, 3), lacks
    monkeypatch.setattr(alerters, "_FORKS", False)  # Windows runs no npm.cmd by the word npm
    monkeypatch.setattr(shutil, "which", {"a-cmd": "/bin/sh"}.get)
    began = time.thread_time()  # it waits without work
    assert run_here("--", "a-cmd", "-c", "sleep 0.3; exit 5")[0] == 5 and time.thread_time() - began < 0.08


JOBS = [  # a command, or a script's bytes; exit code, stdout, and what stderr says
    (b'echo "script $0 $1"; exit 4', 4, "script {} A1\n", ""), ("/", 126, "", "{}: Permission denied"),
    (b"#!/no/such/python -u\nprint()", 127, "", "{}: its interpreter '/no/such/python -u' is missing"),
    (b"#!/bin/sh\r\nexit 1\r\n", 127, "", r"{}: its interpreter '/bin/sh\r' is missing"), (b"", 0, "", ""),
    (b"MZ\0\1", 126, "", "{}: Exec format error"), ("a\0b", 126, "", "{}: embedded null byte"),
    ("/nowhere/command", 127, "", "{}: No such file or directory"), (None, 126, "", "{}: Permission denied"),
    ("A=p", 127, "", "A=…: No such file or directory"), ("a p", 127, "", "a …: No such file or directory"),
    (b"#!/a/hidden-secret", 127, "", "{}: its interpreter '/a/***' is missing")]


@posix
def test_run_runs_words_and_scripts_as_a_shell_does_and_in_a_thread_too(received, run_here, tmp_path):
    pool, _ = concurrent.futures.ThreadPoolExecutor(), alerters._Secret("hidden-secret")
    for number, (command, code, out, err) in enumerate(JOBS):
        if not isinstance(command, str):
            script = tmp_path / f"job {number}"
            script.write_bytes(command or b"")
            script.chmod(0o600 if command is None else 0o700)
            command = str(script)
        err, how = err.format(command), "failed" if code else "succeeded"
        said = f"alerters: {err}\n".replace("\0", "␀") if err else ""
        run = [run_here, lambda *words: pool.submit(run_here, *words).result(20)][number % 2]
        assert run("--", command, "A1") == (code, out.format(command), said)
        assert received.last.title == f"{os.path.basename(err.partition(': ')[0] or command)} {how}"
        assert received.last.metadata["exit code"] == code
        assert received.last.body == (fenced((err or out.strip()).format(command)) if err or out else None)
    pool.shutdown()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@posix
def test_a_signal_while_the_alert_is_posted_ends_run_with_the_jobs_code(quiet, monkeypatch):
    monkeypatch.setenv("QUIET_WAIT", "yes")
    started = {number: start_program("run", "--", "sh", "-c", f"exit {number % 2 * 7}") for number in (2, 15)}
    for number, process in started.items():
        assert process.stdout.readline() == "posting\n"
        process.send_signal(number)
    for number, process in started.items():
        assert vars(end_of(process)) == {"stdout": "", "stderr": "", "returncode": number % 2 * 7}


@posix
def test_a_signal_around_the_start_of_a_job_reaches_it_once(received, run_here, monkeypatch):
    pids, fork, start = [], os.fork, subprocess.Popen
    monkeypatch.setattr(os, "fork", lambda: pids.append(fork()) or pids[-1])
    with alerters._Signals() as signals:
        signals._witness.settimeout(0.05)
        for number in (signal.SIGSTOP, signal.SIGUSR1, signal.SIGCONT):  # it answers late, of what is past
            os.kill(pids[0], number)
            signals.came.append(signal.SIGUSR1)
            assert (signals.news(), signals.heard) == (bytes([signal.SIGUSR1]), b"")
    with pytest.raises(ChildProcessError):  # no zombie is left
        os.waitpid(pids[0], os.WNOHANG)

    def start_signalled(late, *given, **named):
        jobs = [start(*given, **named)] if late else []
        while late and not os.path.exists("ready"):
            time.sleep(0.005)
        for pid in (pids[-1], os.getpid(), *[job.pid for job in jobs]):  # to the whole group
            os.kill(pid, signal.SIGUSR1)
        return jobs[0] if late else start(*given, **named)
    script = "trap 'echo once' USR1; : >ready; sleep 0.3 & wait; wait; exit 4"
    for late, end in ((False, (128 + signal.SIGUSR1, "")), (True, (4, "once\n"))):
        monkeypatch.setattr(subprocess, "Popen", functools.partial(start_signalled, late))
        assert run_here("--", "sh", "-c", script)[:2] == end


@posix
def test_a_signal_that_may_not_be_sent_to_the_job_does_not_end_run(received, run_here, monkeypatch):
    def refuse(self, number):
        os.kill(self.pid, signal.SIGUSR1)  # it may end now
        raise PermissionError  # the job is another user's, as under sudo
    monkeypatch.setattr(subprocess.Popen, "send_signal", refuse)
    script = "trap 'exit 4' USR1; kill -TERM $PPID; while :; do sleep 0.01; done"
    assert run_here("--", "sh", "-c", script)[0] == 4 and received.last.metadata["signal"] == "SIGTERM"


# === The notebook ===
class InputBox:
    """ipykernel's: it waits for an answer, and nothing but an interrupt ends that."""
    def __init__(self, monkeypatch, *answers, box=True):
        self._allow_stdin, self.answers, self.shown = box, list(answers), 0
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
        monkeypatch.setattr("builtins.input", self.raw_input)

    def raw_input(self, prompt=""):
        self.shown += 1
        while not self.answers:
            time.sleep(0.005)
        if isinstance(self.answers[0], BaseException):
            raise self.answers[0]
        return self.answers.pop(0)


def test_a_question_in_a_notebook_ends_at_its_deadline(monkeypatch, capsys):
    console = in_time(ConsoleAlerter, QUICK_CLOCK)()
    with open(os.devnull) as stdin:  # a kernel's own input is no terminal
        monkeypatch.setattr(sys, "stdin", stdin)
        assert InputBox(monkeypatch, "yes") and console.ask("Deploy?") is True
    box = InputBox(monkeypatch, "", "what?", "no: too early")
    assert console.decide("Deploy?").reason == "too early" and box.shown == 3
    assert capsys.readouterr().err.count("not an answer yet") == 2
    with concurrent.futures.ThreadPoolExecutor() as pool:  # as asyncio.to_thread
        late = pool.submit(InputBox(monkeypatch) and console.decide, "Deploy?", timeout=0.02)
    assert late.result().status == "timeout"
    box = InputBox(monkeypatch)
    console.decide("Deploy?", timeout=0.05)
    question = console.open_question("Deploy?", timeout=60)
    assert question.wait(0.05).status == "timeout"
    box.answers.append("yes")
    assert question.wait(9).status == "approved" and box.shown == 3
    InputBox(monkeypatch, KeyboardInterrupt("Interrupted by user"))
    pytest.raises(KeyboardInterrupt, console.ask, "Deploy?").match("by user")


def test_a_notebook_without_an_input_box_is_warned_and_not_asked(monkeypatch, caplog):
    box = InputBox(monkeypatch, box=False)
    assert post("Hello") and "alerts only reach the console" in caplog.text
    pytest.raises(AskNotSupported, ask, "Deploy?").match("no input box")
    assert box.shown == 0


# === The README ===
README = os.path.join(os.path.dirname(MODULE), "README.md")


class AnsweringClock(FakeClock):
    """A clock in whose sleep somebody says yes to every question that is open on `service`, a fake Slack."""
    def sleep(self, seconds):
        super().sleep(seconds)
        for row in list(self.service.posted):
            if re.search(r"\nQuestion [0-9a-f]{16}$", row.get("text", "")):
                word = "Ship it!" if "ship it" in row["text"] else "LGTM"
                self.service.say("UANN", word, thread_ts=row["ts"], channel=row["channel"])


def readme_text():
    with open(README, encoding="utf-8") as file:
        return file.read()


def readme_blocks(language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", readme_text())


@pytest.fixture
def readme(monkeypatch, tmp_path):
    """An empty folder, and a Slack on which somebody approves whatever is asked."""
    clock = AnsweringClock()
    with FakeSlack(clock=clock) as service:
        clock.service = service
        service.add_channel("C0123456789", "general", is_member=True)
        FLAVORS["slack"] = in_time(SlackAlerter, clock)
        monkeypatch.setenv("SLACK_TOKEN", service.token)
        monkeypatch.chdir(tmp_path)
        yield service


def test_the_python_of_the_readme_runs_as_it_stands(readme, monkeypatch, capsys):
    set_variables(monkeypatch, FLAVOR="slack", SLACK_TOKEN=readme.token, SLACK_CHANNEL_ID="C0123456789",
                  SLACK_API_URL=readme.api_url)
    monkeypatch.setattr(logging.getLogger(), "handlers", [*logging.getLogger().handlers])
    names = {}
    for block in readme_blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.splitlines() == ["deploying", "approved UANN LGTM reply"]
    titles = [row["payload"]["blocks"][0]["text"]["text"] for row in readme.posted
              if row["payload"].get("blocks", [{}])[0].get("type") == "header"]
    assert titles == ["Epoch 12 done", "Hello from my pipeline!", "Deployment Approval",
                      "nightly ETL succeeded"]
    alerter = names["FileAlerter"]()
    alerter.send(AlerterMessage("Title", "text"))
    with open("alerts.log", "a", encoding="utf-8", buffering=1) as file:
        file.write("answer: approve\n")
        question = alerter.open_question("Go?", AlerterParameters(timeout=60))
        assert question.check() is None and "file" in FLAVORS  # that was the answer to an older one
        file.write("answer: approve\n")
        assert question.check().status == "approved" and names["approved"] is True
    alerters._tell_asked(question)
    assert "alerters: asked file; waiting until " in capsys.readouterr().err


def test_the_commands_of_the_readme_run_as_they_stand(readme, capsys):
    codes = []
    for block in readme_blocks("sh"):
        parts = [] if "pytest" in block else re.split("\n| && ", block.strip())  # that runs this
        for words in map(shlex.split, parts):
            if words[0] == "python3":
                name = "alerters.py" if "alerters.py" in words else "alerters"
                codes.append(main(words[words.index(name) + 1:]))
                with contextlib.suppress(ConfigError):
                    StackStore().update_alerter("my_slack_alerter", slack_api_url=readme.api_url)
    err = capsys.readouterr().err
    assert codes == [0, 2, 2, 0, 0, 0, 0, 0 if shutil.which("true") else 127, 0]  # nobody to ask, no terminal
    assert "accuracy: 0.95" in err and "be asked here" in err and '!"' not in str(readme_blocks("sh"))  # zsh
    posted = [row["payload"] for row in readme.posted if "thread_ts" not in row["payload"]]
    assert [row["text"].splitlines()[0] for row in posted[:2]] == ["Hello from my pipeline.", "Deploy?"]


def readme_rows(heading):
    """The rows of the first table under a heading of the README, as lists of cells."""
    lines = readme_text().partition(f"# {heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[first + 1:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_readme_is_short_and_quotes_words_and_errors_as_they_are():
    lines = readme_text().splitlines()
    assert len(lines) <= 300 and lines.index("```python") < 8 and lines.count("<!-- test command -->") == 1
    assert f"### {alerters.__version__}" in lines
    for word in (alerters.__version__, "https://pypi.org/project/alerters", "MIT"):
        assert word in alerters.__doc__.partition("\nThis is version ")[2]
    how = "\n".join(lines).partition("A reply counts")[2].partition("\n")[0]
    assert re.findall("`(\\w+)`", how) == [*alerters._APPROVE, *alerters._DECLINE]
    source = inspect.getsource(alerters)
    assert alerters._usage().partition("Exit codes: ")[2].partition(",\n")[0] in readme_text()
    quotes = re.findall("`(.*?)`", " ".join(row[0] for row in readme_rows("Trouble")))
    assert len(quotes) > 5 and [quote for quote in quotes if quote.strip("… ") not in source] == []
    errors = {cls.__name__ for cls in alerters.AlerterError.__subclasses__()} & set(alerters.__all__)
    assert errors == {row[0].strip("`") for row in readme_rows("Errors")}


def test_the_tables_of_the_readme_name_every_field_and_option():
    fields = set(re.findall(r"`(\w+)`", " ".join(row[0] for row in readme_rows("Fields"))))
    known = {"default_discord_channel_id"}  # of another tool
    for cls in FLAVORS.values():
        known |= {field.name for field in dataclasses.fields(cls)}
    assert fields | {"default_discord_channel_id"} == known
    rows = readme_rows("Options of one call")
    keywords, options = (set(re.findall(r"`([\w-]+)", " ".join(column))) for column in list(zip(*rows))[:2])
    given = {*inspect.signature(alerters.post).parameters, *inspect.signature(alerters.ask).parameters}
    assert keywords == given - {"message", "question", "params"}
    for name in ("post", "ask"):
        assert set(alerters._COMMANDS[name][2].split(", ")) - {"text", "--json"} < options


def test_the_lines_of_the_readme_for_pipelines_run(monkeypatch):
    told, failed, succeeded = [], alerters.alerter_failure_hook, alerters.alerter_success_hook

    def framework(*given, **named):
        told.append((given, named))
        return lambda function: function
    signals = SimpleNamespace(task_failure=SimpleNamespace(connect=framework))
    monkeypatch.setitem(sys.modules, "celery.signals", signals)  # `import celery` alone does not have it
    names = {"alerter_failure_hook": failed, "alerter_success_hook": succeeded, "step": framework,
             "flow": framework, "DAG": framework, "failure_hook": lambda function: function}
    for _, cell in readme_rows("Pipelines"):
        code = "\n".join(re.findall("`(.*?)`", cell.partition(";")[0]))
        exec(code if "def" in code or code[0] != "@" else f"{code}\ndef job(): pass", names)
    assert told == [((), {"on_failure": failed, "on_success": succeeded}),
                    (("etl",), {"default_args": {"on_failure_callback": failed}}),
                    ((), {"on_failure": [failed], "on_crashed": [failed]}), ((failed,), {})]
    assert list(inspect.signature(names["tell"]).parameters) == ["context"]
