"""Post alerts to Slack, Discord or e-mail, and ask people for approval there. One file, nothing but Python.

    from alerters import ask, post

    post("Epoch 12 done", title="Training", metadata={"accuracy": 0.95})    # True once it is delivered
    if ask("Deploy model to production?", timeout=3600):                    # True only if somebody approved
        deploy()

Without set-up both use the console. `python -m alerters register …` and `stack register …` name real alerters in a
JSON file, `$ALERTERS_FLAVOR` with `$ALERTERS_<FIELD>` configures one with no file at all, and an alerter can be
built in code: `SlackAlerter(slack_token="xoxb-…", slack_channel_id="C012").post("Done")`.

A *message* goes out; a *question* is a message that waits; a *reply* comes in; a *decision* is what the replies mean;
a *receipt* says where a message landed. A *flavor* is a kind of service, an *alerter* one configured destination, a
*stack* a named choice of alerters. Times are seconds, as floats.

    AlerterError
    +-- ConfigError (ValueError)               a mistake in the set-up or the call; always raised
    +-- StoreError                             the JSON file cannot be read or written
    +-- AskNotSupported (NotImplementedError)  this alerter cannot be asked, and nothing was posted
    +-- DeliveryError                          the service refused or could not be reached

`post` and `ask` log a DeliveryError on the logger "alerters" and return False; `send` and `decide` raise it.
"""

from __future__ import annotations as _annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import itertools
import os
import re
import sys
import time

TYPE_CHECKING = False  # type checkers take it for true; the module itself never pays for importing typing
if TYPE_CHECKING:
    import argparse as _argparse
    import base64 as _base64
    import datetime as _datetime
    import email as _email
    import email.message as _email_message
    import email.policy as _email_policy
    import email.utils as _email_utils
    import getpass as _getpass
    import hashlib as _hashlib
    import html as _html
    import html.parser as _html_parser
    import http.client as _http_client
    import imaplib as _imaplib
    import inspect as _inspect
    import json as _json
    import logging as _logging
    import secrets as _secrets
    import signal as _signal
    import smtplib as _smtplib
    import socket as _socket
    import ssl as _ssl
    import subprocess as _subprocess
    import threading as _threading
    import traceback as _traceback
    import unicodedata as _unicodedata
    import urllib.parse as _parse
    import urllib.request as _urllib
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn, TypeVar
    from typing import overload as _overload

    _Dict = dict[str, Any]
    _Line = tuple[str, str]  # kind ("text", "plain" or "code") and one line without its end
    _Field = dataclasses.Field[Any]
    _T = TypeVar("_T")
    _F = TypeVar("_F", bound=Callable[..., Any])
else:
    class _Module:
        """A module that is imported when it is first used: most programs use few of these, and some are slow."""

        def __init__(self, name):
            self.__name__ = name

        def __getattr__(self, attribute):
            return getattr(importlib.import_module(self.__name__), attribute)

    (_argparse, _base64, _datetime, _email, _email_message, _email_policy, _email_utils, _getpass, _hashlib, _html, _html_parser,
     _http_client, _imaplib, _inspect, _json, _logging, _secrets, _signal, _smtplib, _socket, _ssl, _subprocess,
     _threading, _traceback, _unicodedata, _parse, _urllib) = map(_Module, (
         "argparse base64 datetime email email.message email.policy email.utils getpass hashlib html html.parser http.client "
         "imaplib inspect json logging secrets signal smtplib socket ssl subprocess threading traceback unicodedata "
         "urllib.parse urllib.request").split())

    def _overload(function):
        return function

__version__ = "1.0.0"
__all__ = [
    "AlerterMessage", "AlerterParameters", "SlackAlerterParameters", "DiscordAlerterParameters",
    "SMTPEmailAlerterParameters", "BaseAlerter", "SlackAlerter", "DiscordAlerter", "SMTPEmailAlerter",
    "ConsoleAlerter", "Receipt", "Question", "Decision", "post", "ask", "decide", "alerter_post_step",
    "alerter_ask_step", "alerter_success_hook", "alerter_failure_hook", "watch", "AlertHandler",
    "slack_alerter_post_step", "slack_alerter_ask_step", "discord_alerter_post_step", "discord_alerter_ask_step",
    "smtp_email_alerter_post_step", "FLAVORS", "register_flavor", "StackStore", "AlerterError", "ConfigError",
    "StoreError", "AskNotSupported", "DeliveryError", "main",
]

# === Words and limits ===
_APPROVE = ("approve", "LGTM", "ok", "yes")
_DECLINE = ("decline", "disapprove", "no", "reject")
_TAPS = ("✅", "❌")  # what the alerter puts on a question, so that one tap decides
_LEVELS = {"info": ("🔵", 0x3B82F6), "success": ("🟢", 0x16A34A), "warning": ("🟡", 0xD97706),
           "error": ("🔴", 0xDC2626)}
_ASK_TIMEOUT = 300.0  # s
_POLL_SHARE, _POLL_MIN, _POLL_MAX = 0.1, 1.0, 30.0  # of the question's age; s; s
_LATE = 2.0  # s after the deadline in which the last poll of a live wait still counts
_NEAR_MISS = 60  # characters
_SEND_BUDGET, _UPLOAD_BUDGET, _SOCKET_TIMEOUT = 30.0, 120.0, 10.0  # s
_ATTEMPTS = 5  # besides those that a Retry-After asked for
_BODY_CAP = 8 * 1024 * 1024  # bytes of any answer
_PARTS = 10  # messages that one text may become; beyond that it goes as a file
_TEXT_FILE = "message.txt"
_FOLD = 60.0  # s in which repeats of a log record become one message
# Names as Slack and iamcal/emoji-data have them; the first is the canonical one.
_EMOJI = {"👍": "+1 thumbsup", "👎": "-1 thumbsdown", "✅": "white_check_mark", "✔": "heavy_check_mark",
          "☑": "ballot_box_with_check", "❌": "x", "✖": "heavy_multiplication_x", "❎": "negative_squared_cross_mark",
          "⛔": "no_entry", "🚫": "no_entry_sign", "🛑": "octagonal_sign", "✋": "hand raised_hand", "👌": "ok_hand",
          "🆗": "ok", "🚀": "rocket", "👀": "eyes", "🚨": "rotating_light", "🎉": "tada", "🔥": "fire", "🙏": "pray"}
# What to do about a service's own words. Sources: docs.slack.dev/reference/methods, docs.discord.com (status codes).
_HINTS = {
    "not_authed invalid_auth": "the token is wrong (or this address is not on the app's allow-list): copy the Bot User "
                               "OAuth Token, xoxb-…",
    "token_revoked token_expired account_inactive": "the app was removed or its token expired: reinstall the app",
    "missing_scope": "add the scope under OAuth & Permissions, then reinstall the app",
    "not_allowed_token_type is_bot": "wrong kind of token: use the Bot User OAuth Token, xoxb-…",
    "not_in_channel": "invite the bot with /invite in that channel",
    "channel_not_found": "check the channel id; a private channel needs the bot invited with /invite",
    "is_archived is_inactive channel_is_archived": "the channel is archived: choose another one",
    "restricted_action restricted_action_read_only_channel restricted_action_thread_only_channel no_permission "
    "restricted_action_non_threadable_channel restricted_action_thread_locked access_denied app_access_restricted "
    "enterprise_is_restricted ekm_access_denied accesslimited team_access_not_granted action_prohibited "
    "posting_to_general_channel_denied team_disabled":
        "a policy of the workspace forbids it: ask an admin, or choose another channel",
    "thread_not_found message_not_found cannot_reply_to_message 10008": "that message was deleted or takes no replies",
    "message_limit_exceeded": "the free plan's message limit is reached",
    "messages_tab_disabled": "turn on the Messages tab under App Home to send direct messages",
    "invalid_token no_service no_service_id no_team no_active_hooks user_not_found 10015 50027":
        "the webhook was deleted or mistyped: make a new one",
    "storage_limit_reached file_uploads_disabled snippet_too_large 40005 50045": "the service does not take this file",
    "msg_too_long msg_blocks_too_long invalid_blocks invalid_blocks_format no_text invalid_payload 50006 50035 50109":
        "the service refused the form of the message; its words say why",
    "40001 50014": "bad bot token: reset it under Bot in the developer portal",
    "10003 10013": "unknown channel: check the id (Developer Mode, Copy Channel ID) and that the bot is in the server",
    "10014": "Discord does not know this emoji",
    "50001": "the bot cannot see the channel: add it to the server, with View Channel and Read Message History",
    "50013 160002": "give the bot Send Messages, Embed Links, Attach Files, Add Reactions, Read Message History there",
    "50007 50278": "this user takes no direct messages from the bot",
    "50008 40058 220001 220002 220003": "not a text channel: choose a text channel or a thread",
    "160005 50083": "the thread is locked or archived",
    "200000 240000 20009": "a moderation rule of the server blocked the text",
    "40002": "the bot's account must be verified",
    "40333 1010": "Cloudflare blocked the call: a proxy seems to change the User-Agent",
    "HTTP401": "check the token", "HTTP403": "check token and permissions", "HTTP404": "check the address and the ids",
    "HTTP407": "the proxy wants a log-in: put user and password into the proxy variable",
    "HTTP410": "it is gone: configure a new one", "HTTP413": "too large for the service",
    "HTTP429": "the service asks to slow down: post less often",
}

# === Errors ===


class AlerterError(Exception):
    """Base of every error that this module raises on purpose."""


class ConfigError(AlerterError, ValueError):
    """The set-up or the call is wrong: a bug to see, so it is raised and never logged away."""


class StoreError(AlerterError):
    """The JSON file cannot be read, locked or written. What was there is still there."""


class AskNotSupported(AlerterError, NotImplementedError):
    """This alerter cannot be asked here. Nothing was posted."""


class DeliveryError(AlerterError):
    """A service refused a call or could not be reached.

    status: HTTP or SMTP code, None when nothing was answered. code: the service's own word, such as "not_in_channel".
    hint: what to do. retry_after: seconds the service asked for. outcome: "not_sent", "partial" (some of it arrived)
    or "unknown" (it may have arrived: look before you send it again).
    """

    _again = False  # worth another try: it was certainly not accepted
    _final: bool | None = None  # ends a wait; None: the status tells
    _report: Sequence[str] = ()  # the lines of a failed check

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None, hint: str | None = None,
                 retry_after: float | None = None, outcome: str = "not_sent") -> None:
        super().__init__(message)
        self.status, self.code, self.hint = status, code, hint
        self.retry_after, self.outcome = retry_after, outcome

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.hint}" if self.hint else str(self.args[0])


def _failure(who: str, what: object, *, again: bool = False, final: bool | None = None, hint: str | None = None,
             **facts: Any) -> DeliveryError:
    """Return a DeliveryError of one line that holds no secret and always has a hint."""
    code, status = facts.get("code"), facts.get("status") or 0
    for word in (code, f"HTTP{status}"):
        hint = hint or next((text for words, text in _HINTS.items() if word in words.split()), None)
    if not hint:
        hint = ("it may have arrived: look before you send it again" if facts.get("outcome") == "unknown" else
                "the service has trouble: try again later" if status >= 500 or again else
                "`check` tells which part of the set-up works")
    error = DeliveryError(_one_line(f"{who}: {what}"), hint=hint, **{**facts, "code": code and _hide(str(code))})
    error._again, error._final = again, final
    return error


def _is_final(error: DeliveryError) -> bool:
    """True for a refusal that waiting cannot mend: a bad token, no permission, a channel that is gone."""
    return error.status in (401, 403, 404, 410) if error._final is None else error._final


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = importlib.import_module("difflib").get_close_matches(word, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there is: {', '.join(names) or 'none'}"


def _log() -> _logging.Logger:
    return _logging.getLogger("alerters")


def _reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


# === Secrets ===
_MASK = "***"
_KNOWN_SECRETS: set[str] = set()  # every secret this process has seen, for `_hide`


class _Secret(str):
    """A str whose repr is masked, so that no repr, dict or traceback with locals shows it."""

    __slots__ = ()

    def __new__(cls, value: str) -> _Secret:  # also when it is unpickled
        _remember_secret(value)
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return repr(_MASK)


def _remember_secret(value: str) -> None:
    parts = [value]
    if "://" in value:  # a webhook URL: its path alone is enough to post
        parts += ["/" + value.split("://", 1)[1].partition("/")[2], value.rstrip("/").rpartition("/")[2]]
    _KNOWN_SECRETS.update(p for p in parts if len(p) >= 6)  # shorter ones would blot out ordinary words


def _hide(text: str) -> str:
    """Return `text` with every known secret masked."""
    for secret in sorted(_KNOWN_SECRETS, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


def _reveal(value: str, where: str) -> str:
    """Return the value of a secret, resolving `{{env.NAME}}` and `{{file./path}}`."""
    reference = re.fullmatch(_REFERENCE, value)
    if not reference:
        return value
    source, name = reference.groups()
    try:
        if source == "env":
            value = os.environ[name].strip()
        else:
            with open(name, encoding="utf-8") as file:
                value = file.read().strip()
    except KeyError:
        raise ConfigError(f"{where}: the environment variable {name} is not set") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot read {name}: {_reason(error)}") from None
    if not value or re.search(r"[\x00-\x1f\x7f]", value) or "token" in where and not re.fullmatch(r"[!-~]+", value):
        raise ConfigError(f"{where}: {source} {name} holds no usable secret (empty, a space, or more than one line)")
    return _Secret(value)


_REFERENCE = r"\{\{\s*(env|file)\.(.+?)\s*\}\}"

# === Messages ===


class _Record:
    """Repr, comparison and hash of the dataclasses here: written once instead of generated for each at import."""

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in zip(names, self._values()))})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))


@dataclasses.dataclass(repr=False, eq=False)
class AlerterMessage(_Record):
    """What to tell. Mistakes raise ConfigError at once.

    body: text in light Markdown (bold, italic, code, code block, link). metadata: values may be anything, their `str()`
    is shown. images: URLs, paths, bytes, or objects with `savefig` or `save`. level: info, success, warning, error.
    """

    title: str | None = None
    body: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: Sequence[Any] = dataclasses.field(default_factory=list)
    level: str = "info"
    _question = None  # type: Question | None
    _reply_to = None  # type: Receipt | None

    def __post_init__(self) -> None:
        self.metadata = {} if self.metadata is None else self.metadata
        self.images = [] if self.images is None else self.images
        self._check()

    def _check(self) -> AlerterMessage:
        for name in ("title", "body"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ConfigError(f"message: {name} must be text, not {type(getattr(self, name)).__name__}")
        if not hasattr(self.metadata, "items"):
            raise ConfigError(f"message: metadata must be a dict, not {type(self.metadata).__name__}")
        if isinstance(self.images, (str, bytes)) or not hasattr(self.images, "__iter__"):
            raise ConfigError("message: images must be a list; write images=[…]")
        if self.level not in _LEVELS:
            raise ConfigError(f"message: no level {self.level!r}; {_did_you_mean(str(self.level), _LEVELS)}")
        if not ((self.title or "").strip() or (self.body or "").strip() or self.metadata or len(self.images)):
            raise ConfigError("message: there is nothing to say: give a title, body, metadata or images")
        return self

    def _with(self, **changes: Any) -> AlerterMessage:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed

    def _plain_title(self) -> str:
        return " ".join(_clean(self.title or "").split())

    def _files(self, who: str) -> list[_File]:
        """Return the images, loaded; what cannot be shown is logged, and named in the alert by its label."""
        files = [_load_image(image, n) for n, image in enumerate(self.images, 1)]
        for file in files:
            if file.problem and who:
                _log().warning("%s: %s", who, file.label)
        return files

    def _as_text(self, images: Sequence[_File], gap: str = "\n\n") -> str:
        """Return everything as plain text."""
        asks = self._question._instructions() if self._question else []
        fields = [f"{_clean(k)}: {_clean(v)}" for k, v in self.metadata.items()]
        parts = [self._plain_title(), _clean(self.body or "").rstrip(), "\n".join(asks).replace("`", ""),
                 "\n".join(fields), "\n".join(f"[{image.url or image.label}]" for image in images)]
        return gap.join(part for part in parts if part.strip())

    def _repr_html_(self) -> str:
        """Return the HTML it would be mailed as; notebooks show it at the end of a cell."""
        return _mail_html(self, self._files(""), inline=True)


@dataclasses.dataclass(repr=False, eq=False)
class AlerterParameters(_Record):
    """Choices for one call; None leaves them to the alerter, then to the defaults.

    approve_msg_options, disapprove_msg_options: the words (or emoji) that decide. approvers: the service's user ids that
    may. timeout: seconds. mention: whom to ping; on Slack `U…`, `S…`, here, channel, everyone; on Discord a user id,
    & and a role id, here, everyone.
    """

    approve_msg_options: Sequence[str] | None = None
    disapprove_msg_options: Sequence[str] | None = None
    approvers: Sequence[str] | None = None
    timeout: float | None = None
    mention: Sequence[str] | None = None


@dataclasses.dataclass(repr=False, eq=False)
class SlackAlerterParameters(AlerterParameters):
    """Choices for one call on Slack. thread_ts: a message's `ts`, to post into its thread. blocks: own Block Kit."""

    slack_channel_id: str | None = None
    thread_ts: str | None = None
    blocks: Sequence[dict[str, Any]] | None = None


@dataclasses.dataclass(repr=False, eq=False)
class DiscordAlerterParameters(AlerterParameters):
    """Choices for one call on Discord."""

    discord_channel_id: str | None = None


@dataclasses.dataclass(repr=False, eq=False)
class SMTPEmailAlerterParameters(AlerterParameters):
    """Choices for one mail. html_body: own HTML in place of the rendered one."""

    recipient_email: str | Sequence[str] | None = None
    subject: str | None = None
    subject_prefix: str | None = None
    include_html: bool | None = None
    html_body: str | None = None


@dataclasses.dataclass(repr=False, eq=False)
class Receipt(_Record):
    """Where a message landed. ref: the service's ids, plain JSON; of the first message if it was split.

    slack {"channel", "ts"}, discord {"channel_id", "message_id"}, smtp_email {"message_id"}.
    """

    alerter: str
    ref: dict[str, Any]
    url: str | None = None


@dataclasses.dataclass(repr=False, eq=False)
class Decision(_Record):
    """How a question ended. True only if approved, so compare with None to see whether there is one.

    status: approved, declined, timeout. by: the service's user id. text: as written. via: reply, reaction, channel,
    email, console. at: UNIX seconds. by, text and via are None when nobody decided.
    """

    status: str
    by: str | None = None
    text: str | None = None
    via: str | None = None
    at: float = 0.0

    def __bool__(self) -> bool:
        return self.status == "approved"


def _message(message: object) -> AlerterMessage:
    """Return `message`, a str or an AlerterMessage, as a checked AlerterMessage."""
    if isinstance(message, str):
        return AlerterMessage(body=message)
    if not isinstance(message, AlerterMessage):
        raise ConfigError(f"a message is a str or an AlerterMessage, not {type(message).__name__}")
    return message._check()


# === Text ===


@functools.lru_cache(maxsize=None)
def _harmless() -> dict[int, str]:
    """Return a translation that makes control and bidi characters visible or plain, and loses none."""
    table = {c: chr(0x2400 + c) for c in range(32) if c not in (9, 10)}
    table.update({c: "\ufffd" for c in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))})
    table[0x7F] = "\u2421"
    return table


def _clean(text: object) -> str:
    """Return str(text) without lone surrogates, controls, bidi overrides or known secrets; lines end in \\n."""
    try:
        clean = str(text).replace("\r\n", "\n").replace("\r", "\n")
    except Exception as error:  # a value that cannot be shown must not cost the alert
        clean = f"<{type(text).__name__}: {type(error).__name__}>"
    clean = clean.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _hide(clean.translate(_harmless()))


def _one_line(text: object, limit: int = 500) -> str:
    line = " ".join(_clean(text).split())
    return line if len(line) <= limit else line[:limit - 1] + "…"


_URL = r"https?://[^\s<>\"'`|\\^{}\[\]]*[^\s<>\"'`|\\^{}\[\].,;:!?)*_~]"
_INLINE = (r"`(?P<code>[^`]{1,500})`|\*\*(?=\S)(?P<bold>.{1,500}?)(?<=\S)\*\*"
           r"|(?<![\w*])\*(?=[^\s*])(?P<italic>[^*]{1,500}?)(?<=[^\s*])\*(?![\w*])"
           r"|(?<![\w_])_(?=[^\s_])(?P<italic2>[^_]{1,500}?)(?<=[^\s_])_(?![\w_])"
           r"|\[(?P<label>[^][]{1,500})\]\((?P<href>" + _URL + r"/?)\)|(?P<url>" + _URL + ")")


def _spans(kind: str, line: str) -> Iterator[tuple[str, str, str]]:
    """Yield (style, text, url) of one line: text, bold, italic, code or link. A plain line has only bare URLs."""
    end = 0
    for found in re.finditer(_INLINE if kind == "text" else f"(?P<url>{_URL})", line):
        part = found.groupdict()
        label, href = part.get("label"), part.get("href")
        if label and href and re.search(r"://|^\s*(?:www\.)?[\w-]+(\.[\w-]+)+(/|\s*$)", label):
            continue  # a label that looks like an address may lead elsewhere: it stays as written
        if found.start() > end:
            yield "text", line[end:found.start()], ""
        end = found.end()
        if href or part["url"]:
            yield "link", label or part["url"], href or part["url"]
        else:
            style, text = next((s, t) for s, t in part.items() if t is not None)
            yield style.rstrip("2"), text, ""
    if end < len(line):
        yield "text", line[end:], ""


def _lines(text: str) -> Iterator[_Line]:
    """Yield the lines of light Markdown as (kind, line), the fences of code blocks taken off."""
    fenced = False
    for line in text.split("\n"):
        bare = line.strip()
        if fenced:
            fenced = not bare.endswith("```")
            if fenced or bare != "```":
                yield "code", line if fenced else line.rstrip()[:-3]
        elif bare.startswith("```"):
            fenced = not (len(bare) > 5 and bare.endswith("```"))
            rest = bare[3:] if fenced else bare[3:-3]
            if rest and not (fenced and re.fullmatch(r"[\w+#.-]{1,20}", rest)):  # such a word names the language
                yield "code", rest
        else:
            yield "text", line


def _render(lines: Iterable[_Line], mark: Callable[[str, str, str], str],
            fence: tuple[str, str] = ("```\n", "\n```"), end: str = "\n") -> str:
    """Return lines in a service's markup. mark(style, text, url): one span; style "block" is a line of code."""
    blocks = []
    for kind, group in itertools.groupby(lines, key=lambda line: line[0]):
        if kind == "code":
            blocks.append(fence[0] + "\n".join(mark("block", text, "") for _, text in group) + fence[1])
        else:
            blocks.append(end.join("".join(mark(*span) for span in _spans(kind, text)) for _, text in group))
    return "\n".join(blocks)


def _fenced(text: str) -> str:
    return "```\n" + text.rstrip().replace("```", "`\u200b``") + "\n```"


def _defuse(text: str) -> str:
    """Return text in which @here and its like name nobody, even where a service reads them as words."""
    return re.sub(r"@(?=here|channel|everyone|all\b)", "@\u200b", text, flags=re.I)


# === Splitting ===


def _head(text: str, fits: Callable[[str], bool], limit: int) -> str:
    """Return the longest start of `text` that fits, cut at a space where one is near, never inside an emoji."""
    low, high = 1, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    if low == len(text):
        return text
    space = text.rfind(" ", low * 3 // 4, low) + 1
    cut = space or low
    while cut > max(low - 32, 1) and (_unicodedata.combining(text[cut]) or text[cut - 1] == "\u200d"
                                      or re.match("[\u200d\ufe00-\ufe0f🏻-🏿🇦-🇿]", text[cut])):
        cut -= 1
    return text[:cut]


def _chunks(lines: Iterable[_Line], size: Callable[[str, str], int], limit: int) -> Iterator[list[_Line]]:
    """Yield runs of lines whose rendered size stays within `limit`, in order; only a line too long alone is cut.

    size(kind, line): rendered size of one line. A code block that goes on is closed and reopened by `_render`.
    """
    chunk: list[_Line] = []
    used = 0
    for kind, text in lines:
        while True:
            fence = 8 if kind == "code" and not (chunk and chunk[-1][0] == "code") else 0
            cost = size(kind, text) + 1 + fence if len(text) <= 2 * limit else limit + 1
            if used + cost <= limit:
                chunk.append((kind, text))
                used += cost
                break
            if chunk:
                yield chunk
                chunk, used = [], 0
                continue
            head = _head(text, lambda start: size(kind, start) + 9 <= limit, limit)
            yield [(kind, head)]
            text = text[len(head):]
    if chunk:
        yield chunk


def _squeeze(lines: list[_Line], keep: int) -> list[_Line]:
    """Return the head and the tail of `lines`, `keep` characters in all, with a note of what is left out between."""
    def take(source: Iterable[_Line], back: bool) -> list[_Line]:
        taken, left = [], keep // 2
        for kind, text in source:
            taken.append((kind, text[-left:] if back else text[:left]))
            left -= len(text) + 1
            if left <= 0:
                break
        return taken

    total = sum(len(text) + 1 for _, text in lines)
    if total <= keep:
        return lines
    head, tail = take(lines, False), take(reversed(lines), True)[::-1]
    left_out = total - sum(len(text) + 1 for _, text in head + tail)
    return [*head, ("plain", f"… {left_out:,} characters left out …"), *tail]


# === Images ===


class _File:
    """Something to attach: an image, or a text too long for messages. `data` is empty for a URL or a `problem`."""

    def __init__(self, name: str, data: bytes = b"", *, url: str = "", problem: str = "") -> None:
        self.name, self.data, self.url, self.problem = name, data, url, problem
        start = bytes(data[:12])
        kind = next((kind for sign, kind in ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))
                     if start.startswith(sign)), "webp" if start[:4] + start[8:] == b"RIFFWEBP" else "")
        self.image = bool(kind)
        self.type = (f"image/{kind}" if kind else "text/plain; charset=utf-8" if name == _TEXT_FILE else
                     "application/octet-stream")
        if data and "." not in name:
            self.name += "." + (kind.replace("jpeg", "jpg") or "bin")

    @property
    def label(self) -> str:
        return f"{self.name} could not be shown: {self.problem}" if self.problem else self.name


def _load_image(image: Any, number: int) -> _File:
    """Return an image as bytes or URL. Never raises: what cannot be read has a `problem`."""
    name, data = f"image-{number}", b""
    try:
        if isinstance(image, str) and re.match(r"https?://", image, re.I):
            return _File(name, url=image) if re.fullmatch(r"[!-~]{1,3000}", image) else _File(name, problem="bad URL")
        if isinstance(image, (str, os.PathLike)):
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", _clean(os.path.basename(os.fspath(image))))[-80:] or name
            with open(image, "rb") as file:
                data = file.read()
        elif isinstance(image, (bytes, bytearray, memoryview)):
            data = bytes(image)
        elif hasattr(image, "savefig") or hasattr(image, "save"):
            buffer = importlib.import_module("io").BytesIO()
            image.savefig(buffer, format="png") if hasattr(image, "savefig") else image.save(buffer, format="PNG")
            data = buffer.getvalue()
        else:
            return _File(name, problem=f"{type(image).__name__} is no URL, path, bytes, figure or image")
    except Exception as error:  # whatever a plotting library raises must not cost the alert its text
        return _File(name, problem=_one_line(_reason(error), 200))
    return _File(name, data, problem="" if data else "it is empty")


# === Asking ===


@functools.lru_cache(maxsize=None)
def _shortcodes() -> dict[str, str]:
    """Return the canonical name of each emoji and alias."""
    return {key: names.split()[0] for char, names in _EMOJI.items() for key in (char, *names.split())}


def _canonical(text: str) -> str:
    """Return text with every emoji as its :shortcode:, without skin tones and variation selectors."""
    def shortcode(char: str) -> str:  # assumed: Slack's name of any other emoji is its Unicode name
        name = _shortcodes().get(char) or _unicodedata.name(char, "").lower().replace(" ", "_")
        return f":{name}:" if name and (char in _EMOJI or _unicodedata.category(char) == "So") else char

    text = re.sub("[\ufe0e\ufe0f🏻-🏿]|:skin-tone-[2-6]:", "", text)
    text = re.sub(r":([\w+-]+):", lambda found: f":{_shortcodes().get(found[1], found[1])}:", text)
    return text if text.isascii() else "".join(map(shortcode, text))


def _word(text: str, fold: bool) -> str:
    """Return a reply as the word it may be: no white space, markup or final . or ! around it.

    Strike-through and quotes are left on: a word struck out or quoted is not an answer.
    """
    text, ended = _canonical(text).strip(), False
    while True:
        wrapped = re.fullmatch(r"([*_`])(.+)\1", text, re.S)
        if wrapped:
            text = wrapped[2].strip()
        elif text[-1:] in (".", "!") and not ended:
            text, ended = text[:-1].rstrip(), True
        else:
            return text.casefold() if fold else text


def _names(value: Any, what: str) -> tuple[str, ...] | None:
    """Return one or several names as a tuple; None stays None, and an empty list is a mistake."""
    if value is None:
        return None
    items = (value,) if isinstance(value, (str, int)) else tuple(value) if hasattr(value, "__iter__") else ()
    names = tuple(str(item).strip() for item in items if isinstance(item, (str, int)))
    if not names or len(names) != len(items) or not all(names):
        raise ConfigError(f"{what} must be a list of words, none of them empty; leave it out for the default")
    return names


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
        raise ConfigError(f"{what} must be a number of seconds, 0 or more, not {value!r}")
    return float(value)


def _among(words: Sequence[str]) -> str:
    shown = [w if "`" in w or not w.isascii() else f"`{w}`" for w in words]
    return " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


class _Clock:
    """The time and the waiting of an alerter. A subclass with another `clock` runs in virtual time."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Question:
    """A message that waits for a decision. `ref`: the service's ids of it; `deadline`: UNIX seconds."""

    def __init__(self, alerter: BaseAlerter, state: dict[str, Any]) -> None:
        self.alerter, self._state = alerter, state
        self._memo: _Dict = {}  # what a flavor keeps between polls: cursors, connections; never saved
        self._decision: Decision | None = None
        self._not_before = 0.0
        self.ref: dict[str, Any] = state.get("ref") or {}
        self.token, self.deadline = str(state["token"]), float(state["deadline"])

    def __repr__(self) -> str:
        return f"Question({self._state['text']!r}, alerter={self._state['alerter']!r}, ref={self.ref!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return the question as plain JSON, without secrets, for `from_dict` in another process."""
        return copy.deepcopy(self._state)

    @classmethod
    def from_dict(cls, state: dict[str, Any], alerter: BaseAlerter | None = None) -> Question:
        """Return the question again. alerter: needed unless it was a named one of the store."""
        missing = {"token", "ref", "deadline", "approve", "decline", "asked", "text", "alerter"} - set(state)
        if missing:
            raise ConfigError(f"question: {', '.join(sorted(missing))} missing: pass what Question.to_dict gave")
        if alerter is None and not state["alerter"]:
            raise ConfigError("question: its alerter had no name: pass it as alerter=")
        return cls(alerter or StackStore().load_alerter(state["alerter"]), dict(state))

    def check(self) -> Decision | None:
        """Poll once. Returns the decision, or None while there is none; compare with None, a decline is false.

        Raises DeliveryError when the service refuses for good; hiccups count as no answer yet.
        """
        try:
            return self._poll()
        finally:
            self.alerter._release(self)

    def wait(self, timeout: float | None = None) -> Decision:
        """Wait for the decision. A `timeout` that ends before the deadline leaves the question open."""
        clock, until = self.alerter.clock, self.deadline
        if timeout is not None:
            until = min(until, clock.now() + _seconds(timeout, "timeout"))
        try:
            while True:
                decision, now = self._poll(), clock.now()
                if decision is not None:
                    return decision
                if now >= until:
                    return Decision("timeout", at=now)
                pause = min(_POLL_MAX, max(_POLL_MIN, _POLL_SHARE * (now - self._state["asked"])))
                self.alerter._pause(self, min(max(pause, self._not_before - now), until - now))
        finally:
            self.alerter._release(self)

    def _poll(self) -> Decision | None:
        now, decision = self.alerter.clock.now(), self._decision
        if decision is not None:
            return decision
        if now >= self._not_before:
            try:
                decision = self._look()
            except (DeliveryError, OSError) as error:
                if isinstance(error, DeliveryError) and _is_final(error):
                    raise
                self._not_before = now + (getattr(error, "retry_after", None) or 0)
                _log().debug("%s: waiting goes on: %s", self.alerter.flavor, _one_line(error))
        if decision is None and now >= self.deadline:
            decision = Decision("timeout", at=now)
        return None if decision is None else self._settle(decision)

    def _look(self) -> Decision | None:
        """Read the replies once and return what they decide. Raises whatever reading raises.

        Messages count in their order. When a reaction was given no service tells, so a declining one wins.
        """
        now = self.alerter.clock.now()
        late = now > self.deadline + _LATE
        words: list[Decision] = []
        taps: list[Decision] = []
        for reply in self.alerter.replies(self):
            tapped, at = reply["via"] == "reaction", reply.get("at")
            if (late if at is None else at > reply.get("until", self.deadline)) or not self._may_decide(reply):
                continue  # given after the deadline, or nobody can tell when, or by somebody else
            text = str(reply["text"])
            status = self._verdict(text, tapped)
            if status:
                (taps if tapped else words).append(
                    Decision(status, str(reply["by"]), text, reply["via"], now if at is None else at))
            elif not tapped and not words and not late:
                self._help(text, str(reply["by"]))
        found = words[:1] + taps
        return next((d for d in found if d.status == "declined"), found[0] if found else None)

    def _may_decide(self, reply: _Dict) -> bool:
        approvers = self._state.get("approvers")
        person = self.alerter._person
        by = person(str(reply.get("by") or ""))
        return bool(by) and (approvers is None or by in map(person, approvers))

    def _verdict(self, text: str, tapped: bool) -> str | None:
        """Return what one reply means. A reaction is matched against the lists and the two that the alerter added."""
        fold = tapped or not self._state.get("case_sensitive")
        word = _word(f":{text.split('::')[0]}:" if tapped and text.isascii() else text, fold)
        for status, options, tap in (("declined", "decline", 1), ("approved", "approve", 0)):
            words = {_word(option, fold) for option in self._state[options]}
            if tapped:
                words.add(_word(self._taps()[tap], fold))
                words |= {f":{_shortcodes().get(w, w)}:" for w in words if w.isascii() and w[:1] != ":"}
                words |= {re.sub(r"<a?(:\w+:)\d+>", r"\1", w) for w in words}  # Discord's own emoji
            if word in words:
                return status
        return None

    def _taps(self) -> list[str]:
        """Return the two emoji to put on the question: the first of each list, or ✅ and ❌."""
        return [next((o for o in self._state[name] if re.fullmatch(r":[^:\s]+:|<a?:\w+:\d+>", _canonical(o))), tap)
                for name, tap in zip(("approve", "decline"), _TAPS)]

    def _help(self, text: str, by: str) -> None:
        """Answer a near miss, once per question."""
        said = _canonical(text).casefold()
        words = [_word(w, True) for name in ("approve", "decline") for w in self._state[name]]
        if (not self._state.get("helped") and len(text.strip()) <= _NEAR_MISS
                and any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", said) for w in words)):
            self._state["helped"] = True
            self._save()
            self._say(f"That is not an answer yet. {self._how()}", by)

    def _how(self) -> str:
        """Return how to answer in one sentence of light Markdown."""
        exact = "written exactly so, " if self._state.get("case_sensitive") else ""
        return (f"{self.alerter._answer_by} {_among(self._state['approve'])} to approve, "
                f"or {_among(self._state['decline'])} to decline, {exact}and nothing else.")

    def _instructions(self) -> list[str]:
        """Return the lines that tell how to answer, who may, and until when."""
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.deadline))
        taps = f" Or tap {' or '.join(self._taps())}." if self.alerter._has_reactions else ""
        who = self._state.get("approvers")
        return [self._how() + taps, f"Open until {until}" + (f" for {_among(who)}." if who else ".")]

    def _settle(self, decision: Decision) -> Decision:
        """Write the end under the question and drop its record: last, so that a killed process asks again."""
        key = self._state.get("key")
        record = self.alerter._store()._load() if key else {}
        if self.token in record.get("closed", {}):  # another text took the key
            decision = Decision("timeout", at=self.alerter.clock.now())
        elif decision.status == "timeout":
            self._say("Nobody decided in time. This question is closed.")
        else:
            self._say(f"{decision.status.capitalize()} by {self.alerter._mention_of(str(decision.by))}.")
        if key and record.get("questions", {}).get(key, {}).get("token") == self.token:
            self.alerter._store()._save_question(key, None)
        self._decision = decision
        return decision

    def _say(self, text: str, to: str | None = None) -> None:
        if self._state["ref"] is None:
            return  # it was never found
        try:
            self.alerter._say(self, text, to)
        except (AlerterError, OSError) as error:
            _log().warning("%s: could not write under the question: %s", self.alerter.flavor, _one_line(error))

    def _save(self) -> None:
        if self._state.get("key"):
            self.alerter._store()._save_question(self._state["key"], self._state)


def _insist(call: Callable[[], _T], clock: _Clock, until: float, *, sure: bool = False, tries: int = _ATTEMPTS,
            find: Callable[[], _T | None] | None = None) -> _T:
    """Return call(), trying again what was certainly not accepted, within `until` (of clock.monotonic).

    sure: the service knows a repeat, so what may have arrived is sent again as well. Otherwise `find` looks for it
    first and returns what it found, or None; without either, the error is raised with outcome "unknown".
    """
    pause = 0.5
    while True:
        try:
            return call()
        except DeliveryError as caught:
            error = caught
        if error.code == "certificate" and _trust_all_installed():
            continue
        doubtful = error.outcome == "unknown"
        if not (error._again or doubtful and (sure or find)):
            raise error
        wait = max(error.retry_after or 0, pause)
        in_time = clock.monotonic() + wait <= until
        if error.retry_after is None:
            tries, pause = tries - 1, min(pause * 2, 8.0)
        elif not in_time and tries > 1:
            error.hint = f"it asks to wait {error.retry_after:g} s, longer than there is time for: post less often"
        if tries < 1 or not in_time:
            raise error
        clock.sleep(wait)
        if doubtful and find and not sure:
            with contextlib.suppress(DeliveryError):
                found = find()
                if found is not None:
                    return found
                continue
            raise error


# === Alerters ===


def _kind(field: _Field) -> str:
    """Return what a flavor's field takes, from its annotation: list, bool, float, int, str, or "" for anything."""
    text = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "") + str(field.type)
    return next((kind for kind, word in (("list", "equence"), ("list", "uple"), ("list", "ist"), ("bool", "bool"),
                                         ("float", "float"), ("int", "int"), ("str", "str")) if word in text), "")


_SECRET_NAME = r"token|password|secret|api_?key|webhook_url"


def _is_secret(field: _Field) -> bool:
    return not field.repr or bool(re.search(_SECRET_NAME, field.name, re.I))


def _checked(where: str, field: _Field, value: Any) -> Any:
    """Return the value of a flavor's field, checked for what can be told without asking the service."""
    kind, secret = _kind(field), _is_secret(field)
    if value is None or value is field.default or isinstance(value, str) and not value:
        return value
    if kind == "list":
        return _names(value, where)
    wanted = {"bool": bool, "int": int, "float": (int, float), "str": str}.get(kind, object)
    if not isinstance(value, wanted) and not (field.name == "use_tls" and value in ("ssl", "starttls")):  # type: ignore[arg-type]
        raise ConfigError(f"{where} must be {kind}, not {type(value).__name__}")
    if field.name == "timeout":
        return _seconds(value, where)
    if field.name.endswith("_port") and not 0 < value < 65536:
        raise ConfigError(f"{where} must be a port from 1 to 65535")
    if not isinstance(value, str):
        return value
    if re.search(r"[\x00-\x1f\x7f\u0085\u2028\u2029]", value):
        raise ConfigError(f"{where} holds a line break or another control character")
    value = value.strip()
    if secret and re.fullmatch(r"\{\{.*\}\}", value):
        if not re.fullmatch(_REFERENCE, value):
            raise ConfigError(f"{where}: a reference is written {{{{env.NAME}}}} or {{{{file./path}}}}")
        return value
    if secret and "token" in field.name and not re.fullmatch(r"[!-~]*", value):
        raise ConfigError(f"{where} holds a space or a character that no token has")
    if field.name.endswith("_url"):
        _check_url(where, value)
    return _Secret(value) if secret else value


def _check_url(where: str, url: str) -> None:
    try:
        parts = _parse.urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        host = ""
    if not host or parts.username or not re.fullmatch(r"[!-~]+", url):
        raise ConfigError(f"{where} is not a valid address: it needs https:// and a host")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ConfigError(f"{where} must begin with https:// (http:// only for this machine)")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "[::1]") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


class BaseAlerter(_Record):
    """Base of all flavors. A flavor is a dataclass on it: its fields are its configuration, `flavor` its name.

    Give it `send(message, params)` that returns a Receipt or raises DeliveryError, and, if it can ask,
    `replies(question)`; or override `post` and `ask` alone. Alerters are immutable and hashable.
    """

    flavor = ""
    clock = _Clock()
    _answer_by = "Answer"
    _has_reactions = False
    _shows_questions = False  # `send` itself writes how to answer
    _origin = ("", None)  # type: tuple[str, str | None]  # its name, and the store it came from
    _example = {}  # type: dict[str, Any]  # fields for `preview`

    def __post_init__(self) -> None:
        cls = type(self)
        if cls.__hash__ is None:  # a plain @dataclass takes the hash away
            cls.__hash__ = BaseAlerter.__hash__
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            self._set(field.name, _checked(f"{self.flavor}: {field.name}", field, getattr(self, field.name)))
        self._check_together()

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__ or name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}: use dataclasses.replace")
        self._set(name, value)

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete {name!r}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def post(self, message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
        """Return True once the message is delivered, False if it was not; then the reason is logged at ERROR."""
        try:
            self.send(*self._checked(message, params))
        except DeliveryError as error:
            _log().error("%s", error)
            return False
        return True

    def ask(self, question: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
        """Return True only if approved. False: declined, nobody answered, or it failed (logged at ERROR)."""
        try:
            return bool(self._open(question, params, None).wait())
        except DeliveryError as error:
            _log().error("%s", error)
            return False

    def send(self, message: str | AlerterMessage, params: AlerterParameters | None = None) -> Receipt:
        """Deliver the message and return where it landed. Raises DeliveryError."""
        raise ConfigError(f"flavor {self.flavor or type(self).__name__} has no send(message, params)")

    def decide(self, question: str | AlerterMessage, params: AlerterParameters | None = None,
               key: str | None = None) -> Decision:
        """Ask, wait, and return who decided, when and with what words.

        key: a name under which the question survives this process; see `ask`. Raises DeliveryError when the service
        refuses for good, AskNotSupported before anything is posted.
        """
        if self._overrides("ask"):
            return Decision("approved" if self.ask(question, params) else "declined", at=self.clock.now())
        return self._open(question, params, key).wait()

    def open_question(self, question: str | AlerterMessage, params: AlerterParameters | None = None) -> Question:
        """Post the question and return at once; its `check()` and `wait()` read the answers."""
        return self._open(question, params, None)

    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return people's answers so far, oldest first: {"by": user id, "text": as written, "via": "reply"}.

        "at": UNIX seconds, if known. Matching, approvers, polling and timeout are the base's.
        """
        raise AskNotSupported(f"{self.flavor}: this flavor cannot be asked: it has no replies(question)")

    def check(self) -> str:
        """Try credentials, channel and permissions for real; return a line each. Raises if one fails."""
        return f"ok    the fields are valid; flavor {self.flavor} has no other check"

    # What a built-in flavor overrides besides.

    def _check_together(self) -> None:
        """Raise ConfigError for fields that cannot go together."""

    def _cannot_ask(self) -> str:
        """Return why it cannot be asked, or an empty string."""
        return "" if self._overrides("replies") or self._overrides("ask") else "it has no replies(question)"

    def _where(self, message: AlerterMessage, params: AlerterParameters | None) -> _Dict:
        """Return where a question is about to be posted, for `_find`."""
        return {}

    def _find(self, question: Question) -> _Dict | None:
        """Return the ref of a question that may have been posted, or None."""
        return None

    def _offer_taps(self, question: Question) -> None:
        """Put the two reactions on a question, if the service has reactions."""

    def _say(self, question: Question, text: str, to: str | None) -> None:
        """Write `text` under the question; to: the person it is for, if it is for one."""

    def _mention_of(self, user: str) -> str:
        return user

    def _person(self, name: str) -> str:
        """Return a user id in the form in which two are compared."""
        return name.strip().strip("<@!>").casefold()

    def _pause(self, question: Question, seconds: float) -> None:
        self.clock.sleep(max(seconds, 0.0))

    def _release(self, question: Question) -> None:
        """Let go of what `_memo` holds open."""

    def _preview(self, message: AlerterMessage) -> str:
        """Return what `send` would send, for people to read."""
        return message._as_text(message._files(self.flavor))

    # Shared by all.

    @property
    def _label(self) -> str:
        return self._origin[0] or self.flavor

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(BaseAlerter, method)

    def _store(self) -> StackStore:
        return StackStore(self._origin[1])

    def _until(self, seconds: float = _SOCKET_TIMEOUT) -> float:
        return self.clock.monotonic() + seconds

    def _checked(self, message: object, params: object) -> tuple[AlerterMessage, AlerterParameters | None]:
        """Return both, checked; and learn the secrets that are references, so that no text can hold them."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if _is_secret(field):
                with contextlib.suppress(ConfigError):  # whoever needs it raises
                    _reveal(str(getattr(self, field.name) or ""), field.name)
        return _message(message), _params(params)

    def _option(self, params: AlerterParameters | None, name: str, default: Any = None) -> Any:
        """Return a choice: from the params, then the alerter's field, then the default."""
        values = (getattr(source, name, None) for source in (params, self))
        return next((value for value in values if value not in (None, "")), default)

    def _question(self, message: AlerterMessage, params: AlerterParameters | None, key: str | None) -> Question:
        given = {name: _names(getattr(params, f"{name}_msg_options", None), f"{name}_msg_options")
                 for name in ("approve", "disapprove")}
        taken = {_word(word, True) for words in given.values() for word in words or ()}
        lists = [list(given[name] or [w for w in usual if _word(w, True) not in taken])
                 for name, usual in (("approve", _APPROVE), ("disapprove", _DECLINE))]
        both = {_word(w, True) for w in lists[0]} & {_word(w, True) for w in lists[1]}
        if both:
            raise ConfigError(f"the same word both approves and declines: {', '.join(sorted(both))}")
        approvers, now = _names(self._option(params, "approvers"), "approvers"), self.clock.now()
        says = [message.title, message.body, [[str(k), str(v)] for k, v in message.metadata.items()], lists, approvers]
        return Question(self, {
            "alerter": self._origin[0], "flavor": self.flavor, "ref": None, "url": None, "key": key,
            "text": _one_line(message.title or message.body or "(no text)", 80), "token": _secrets.token_hex(8),
            "fingerprint": _hashlib.sha256(repr(says).encode("utf-8", "replace")).hexdigest(),
            "approve": lists[0], "decline": lists[1], "approvers": approvers and list(approvers),
            "case_sensitive": bool(getattr(self, "case_sensitive", True)), "asked": now,
            "deadline": now + _seconds(self._option(params, "timeout", _ASK_TIMEOUT), "timeout")})

    def _open(self, question: str | AlerterMessage, params: AlerterParameters | None, key: str | None) -> Question:
        message, params = self._checked(question, params)
        if self._cannot_ask():
            raise AskNotSupported(f"{self._label}: nobody can be asked here: {self._cannot_ask()}")
        asked = self._question(message, params, key)
        if key is None:
            self._post_question(asked, message, params)
            return asked
        if not isinstance(key, str) or not key.strip():
            raise ConfigError("key must be a name, such as \"deploy-42\"")
        store = self._store()
        with _locked(store.path + ".asking"):  # so that two processes with one key post one question
            old = store._questions().get(key)
            if old:
                found = Question(self, old)
                if any(old.get(part) != asked._state[part] for part in ("fingerprint", "flavor")):
                    with contextlib.suppress(DeliveryError):
                        self._locate(found)
                    found._say("This question was replaced by another one and is closed.")
                elif self._take_up(found):
                    return found
                elif not found.ref and self.clock.now() < found.deadline:
                    asked = found
            try:
                self._post_question(asked, message, params)
            except DeliveryError as error:
                if error.outcome == "not_sent":
                    store._save_question(key, None)
                raise
            asked._save()
        return asked

    def _take_up(self, found: Question) -> bool:
        """True if a recorded question can be waited for, or was answered in time though nobody read it."""
        open_still, decision = self.clock.now() < found.deadline, None
        try:
            if not self._locate(found):
                return False
            if open_still:
                return True
            decision = _insist(found._look, self.clock, self._until(_SEND_BUDGET), sure=True)
        except DeliveryError as error:
            if open_still or not _is_final(error):
                raise
        finally:
            self._release(found)
        found._settle(Decision("timeout", at=self.clock.now()) if decision is None else decision)
        return decision is not None

    def _locate(self, found: Question) -> bool:
        """True if it is known where a recorded question stands; one that may have been posted is looked for."""
        if found._state["ref"] is None:
            ref = _insist(lambda: self._find(found), self.clock, self._until(_SEND_BUDGET), sure=True)
            if ref is None:
                return False
            found.ref = found._state["ref"] = ref
            found._save()
            self._offer_taps(found)
        return True

    def _post_question(self, question: Question, message: AlerterMessage, params: AlerterParameters | None) -> None:
        question._state["where"] = self._where(message, params)
        question._save()
        message = message._with(_question=question)
        if not self._shows_questions:
            message.body = "\n\n".join([*filter(None, [message.body]), "\n".join(question._instructions())])
        receipt = self.send(message, params)
        if isinstance(receipt, Receipt):
            question.ref = question._state["ref"] = receipt.ref
            question._state["url"] = receipt.url


def _params(params: object) -> AlerterParameters | None:
    if params is not None and not isinstance(params, AlerterParameters):
        raise ConfigError(f"params must be AlerterParameters, not {type(params).__name__}")
    return params


# === HTTP and TLS ===
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_TRUST_ALL: list[bool] = []  # not empty once a certificate failed against the folder of CAs alone


def _tls() -> _ssl.SSLContext:
    """Return the one TLS context of this process; it verifies certificates and host names.

    Where the system keeps a hashed folder of CAs, that folder alone is used until a certificate fails against it: that
    costs 0.1 ms, while parsing the whole bundle takes 20 ms.
    """
    variables = tuple(os.environ.get(name) for name in _CA_VARIABLES)
    folder = None if any(variables) or _TRUST_ALL else _ssl.get_default_verify_paths().capath
    return _tls_context(variables, folder)


@functools.lru_cache(maxsize=8)
def _tls_context(variables: tuple[str | None, ...], folder: str | None) -> _ssl.SSLContext:
    with contextlib.suppress(OSError):
        if folder and any(re.fullmatch(r"[0-9a-f]{8}\.\d", name) for name in os.listdir(folder)):
            return _ssl.create_default_context(capath=folder)
    context = _ssl.create_default_context()  # SSL_CERT_FILE is OpenSSL's own; the others are added here
    for path in filter(None, variables[1:]):
        try:
            context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
        except OSError as error:
            raise ConfigError(f"cannot read the CA certificates in {path}: {_reason(error)}") from None
    return context


def _trust_all_installed() -> bool:
    """True if a certificate that failed is worth another try, now with the whole bundle of CAs."""
    if _TRUST_ALL or any(os.environ.get(name) for name in _CA_VARIABLES):
        return False
    _TRUST_ALL.append(True)
    return True


class _Answer:
    """What an HTTP service answered."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.text = body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the decoded body, None if it is not JSON."""
        try:
            return _json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def seconds(self, given: Any = None) -> float:
        """Return how long the service asks to wait; 1 s if it does not say."""
        try:
            wait = float(given or self.headers.get("Retry-After") or 1)
        except (TypeError, ValueError):
            wait = 1.0
        return min(max(wait, 0.25), 1e6) if wait == wait else 1.0  # NaN

    def refusal(self, who: str, what: str, code: str | None = None, retry_after: Any = None) -> DeliveryError:
        """Return the error for an answer that is no success."""
        status, hint = self.status, None
        if 300 <= status < 400:
            what, hint = f"HTTP {status}: it redirects elsewhere, which is not followed", "check the address"
        doubtful = status < 300 or status >= 500 and status != 503
        waits = status == 429 or status == 503 and "Retry-After" in self.headers
        return _failure(who, what, status=status, code=code, hint=hint, outcome="unknown" if doubtful else "not_sent",
                        again=status in (429, 503), final=None if code or status in (401, 403) else False,
                        retry_after=self.seconds(retry_after) if waits else None)


@contextlib.contextmanager
def _cut_off(seconds: float, socket_of: Callable[[], Any]) -> Iterator[None]:
    """Shut a connection down that goes on for longer: bytes that drip are always in time for a socket's timeout."""
    def shut() -> None:
        with contextlib.suppress(OSError, TypeError, IndexError):  # it is closed already, or not made yet
            _socket.socket.shutdown(socket_of(), _socket.SHUT_RDWR)

    timer = _threading.Timer(max(seconds, 0.0), shut)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no new threads while the interpreter ends
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@functools.lru_cache(maxsize=1)
def _wire() -> Any:
    """Return the urllib handler whose connections tell when they were made, so that doubt has a border.

    An opener made of it alone follows no redirect and raises for no status.
    """
    class Telling:
        def connect(self) -> None:
            super().connect()  # type: ignore[misc]
            self.made.append(self)  # type: ignore[attr-defined]

    class Http(Telling, _http_client.HTTPConnection):
        pass

    class Https(Telling, _http_client.HTTPSConnection):
        pass

    class Handler(_urllib.AbstractHTTPHandler):
        def __init__(self, made: list[Any]) -> None:
            super().__init__()
            self.made = made

        def new(self, kind: Any) -> Any:
            def connection(host: str, **options: Any) -> Any:
                made = kind(host, **options)
                made.made = self.made
                return made
            return connection

        def http_open(self, request: Any) -> Any:
            return self.do_open(self.new(Http), request)

        def https_open(self, request: Any) -> Any:
            return self.do_open(self.new(Https), request, context=_tls())

        http_request = https_request = _urllib.AbstractHTTPHandler.do_request_

    return Handler


def _http(who: str, method: str, url: str, *, clock: _Clock, until: float, body: Sequence[bytes] = (),
          headers: Mapping[str, str] = {}) -> _Answer:
    """Return the answer, whatever its status. The one place that speaks HTTP.

    body: pieces, sent one after the other and never joined. until: on clock.monotonic. Raises DeliveryError, with
    outcome "unknown" from the moment the connection was made.
    """
    left = until - clock.monotonic()
    stop = time.monotonic() + left
    made: list[Any] = []
    try:
        request = _urllib.Request(url, data=iter(body) if body else None, method=method, headers={
            "User-Agent": f"DiscordBot (https://pypi.org/project/alerters, {__version__}) alerters", **headers})
        if body:
            request.add_header("Content-Length", str(sum(map(len, body))))
        if left <= 0:
            raise TimeoutError("no time left")
        opener = _urllib.OpenerDirector()
        opener.add_handler(_wire()(made))
        if not _is_loopback(_parse.urlsplit(url).hostname or ""):
            opener.add_handler(_urllib.ProxyHandler())
        with _cut_off(left, lambda: made[-1].sock):
            response = opener.open(request, timeout=min(left, _SOCKET_TIMEOUT))
        with response:
            taken = bytearray()
            for piece in iter(lambda: response.read1(65536), b""):
                taken += piece
                if time.monotonic() > stop:
                    raise TimeoutError("the answer took too long")
                if len(taken) > _BODY_CAP:
                    raise ValueError("the answer is too large")
            if response.length:
                raise _http_client.IncompleteRead(b"")
            return _Answer(response.status, response.headers, bytes(taken))
    except ConfigError:  # the CA file that is configured cannot be read
        raise
    except (OSError, _http_client.HTTPException, ValueError, OverflowError) as caught:
        error = _transport_failure(who, caught, bool(made))
    raise error  # out here, so that what urllib raised, which knows URL and headers, does not travel with it


def _transport_failure(who: str, error: BaseException, reached: bool) -> DeliveryError:
    """Return the DeliveryError for what sockets, ssl, urllib, http.client, smtplib or imaplib raised."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, BaseException) else error
    code = "certificate" if isinstance(cause, _ssl.SSLCertVerificationError) else None
    hint = ("the certificate is not trusted: if a proxy or an own CA is in use, name its PEM file in SSL_CERT_FILE"
            if code else
            "TLS failed: check host and port, and whether that port speaks TLS at once"
            if isinstance(cause, _ssl.SSLError) else
            "the host was not found: check its name, DNS and the network" if isinstance(cause, _socket.gaierror) else
            "nothing listens there: check host and port" if isinstance(cause, ConnectionRefusedError) else
            "no answer in time: check network, firewall and proxy"
            if isinstance(cause, (_socket.timeout, TimeoutError)) else
            "the proxy refused: check HTTPS_PROXY and its user and password" if "Tunnel connection" in str(cause) else
            "the connection failed: check network and proxy")
    hint += "; it may have arrived, so look before you send it again" if reached else ""
    what = _reason(cause) if isinstance(cause, OSError) else f"no sensible answer ({type(cause).__name__})"
    return _failure(who, what, code=code, hint=hint, outcome="unknown" if reached else "not_sent", final=False,
                    again=not reached and not code)


# === Chat services ===
_IDENTITIES: dict[Any, str] = {}  # the bot's own user id, by alerter
_MARKER = r"(?:^|\n)Question ([0-9a-f]{16})\s*$"  # the last line of every question


class _Draft:
    """A message on its way to a chat service: cleaned, and laid out as title, lines, fields and images."""

    def __init__(self, alerter: _ChatAlerter, message: AlerterMessage, params: AlerterParameters | None) -> None:
        self.message, self.params, self.question = message, params, message._question
        self.reply_to = message._reply_to.ref if message._reply_to else {}
        self.nonce = self.question.token if self.question else _secrets.token_hex(8)
        self.mention = [m.strip("<@!>") for m in _names(getattr(params, "mention", None), "mention") or ()]
        images = message._files(alerter.flavor)
        self.images = [image for image in images if not image.problem]
        self.title, self.color = message._plain_title(), _LEVELS[message.level][1]
        self.text = message._as_text(images, "\n")
        self.notes = [f"{_LEVELS[message.level][0]} {message.level}"] if message.level != "info" else []
        self.notes += [f"Question {self.nonce}"] if self.question else []
        self.lines: list[_Line] = []

        def size(text: str) -> int:
            return alerter._measure(alerter._mark("text", text, "")) if len(text) < 1000 else 1000

        if size(self.title) > alerter._title_limit:
            self.lines.append(("plain", self.title))
            self.title = _head(self.title, lambda start: size(start) < alerter._title_limit, 1000) + "…"
        if (message.body or "").strip():
            lines = list(_lines(_clean(message.body).rstrip()))
            self.lines += lines if any(text.strip() for _, text in lines) else [("plain", _clean(message.body))]
        self.fields = [(_clean(k).strip(), _clean(v).strip()) for k, v in message.metadata.items()]
        if len(self.fields) > 10 or any(len(k) > 100 for k, _ in self.fields) or sum(
                size(k) + size(v) + 8 for k, v in self.fields) > 800:
            self.lines += [("plain", line) for k, v in self.fields for line in f"{k}: {v}".split("\n")]
            self.fields = []
        self.lines += [("plain", f"[{image.label}]") for image in images if image.problem]
        self.lines += [("plain", image.url) for image in [i for i in self.images if i.url][alerter._shown_images:]]
        self.asks = [("text", line) for line in self.question._instructions()] if self.question else []


class _ChatAlerter(BaseAlerter):
    """What Slack and Discord share: laying out, splitting, continuing, attaching, falling back to plain text."""

    _shows_questions = _has_reactions = True
    _title_limit = 150
    _limits = (2700, 2700)  # of the text of one message, in the rich and in the plain form
    _refused_forms = ()  # type: tuple[str, ...]  # codes after which the plain form is tried
    _shown_images = 9  # by their URL, in one message
    _batch = 1000  # files in one message
    if TYPE_CHECKING:  # a service's dialect: what each of the two has to have
        _mark: Callable[[str, str, str], str]  # (style, text, url) -> markup
        _measure: Callable[[str], int]  # how much of the limit a text takes
        _takes_files: Callable[[], bool]
        _payload: Callable[[_Draft, bool, list[_Line], int, list[_File], _Dict | None], _Dict]
        _put: Callable[..., tuple[_Dict, list[_File]]]  # posts one message: its ref, and the files that were refused
        _tap: Callable[[_Dict, str], None]  # puts a reaction on a message
        _identify: Callable[[], str]

    def send(self, message: str | AlerterMessage, params: AlerterParameters | None = None) -> Receipt:
        """Post the message, in parts or as a file if it is long; return where its first part landed."""
        draft = _Draft(self, *self._checked(message, params))
        try:
            return self._send(draft, True)
        except DeliveryError as error:
            if not self._form_refused(error):
                raise
            _log().warning("%s; it goes as plain text", error.args[0])
        return self._send(draft, False)

    def _form_refused(self, error: DeliveryError) -> bool:
        return error.outcome == "not_sent" and error.code in self._refused_forms

    def _send(self, draft: _Draft, rich: bool) -> Receipt:
        files = [image for image in draft.images if image.data]
        until = self._until(_UPLOAD_BUDGET if files else _SEND_BUDGET)
        parts, whole = self._parts(draft, rich)
        files += whole
        ref, refused = self._put(draft, rich, parts[0], 0, files[:self._batch], None, until)
        for start in range(self._batch, len(files), self._batch):
            refused += self._put(draft, rich, [], 1000 + start, files[start:start + self._batch], ref, until)[1]
        if whole and whole[0] not in refused:
            parts = parts[:1]
        for number, part in enumerate(parts[1:], 1):
            try:
                try:
                    self._put(draft, rich, part, number, [], ref, until)
                except DeliveryError as error:
                    if not rich or not self._form_refused(error):
                        raise
                    for n, piece in enumerate(self._split(part, self._limits[1])):
                        self._put(draft, False, piece, 100 * number + n, [], ref, until)
            except DeliveryError as error:
                error.outcome, error.args = "partial", (f"{error.args[0]} (part {number + 1} of {len(parts)})",)
                raise
        missing = [file.label for file in refused if file not in whole]
        if missing:
            _log().warning("%s: %s", self.flavor, "; ".join(missing))
            with contextlib.suppress(DeliveryError):  # the text has arrived, which counts
                self._put(draft, rich, [("plain", f"[{label}]") for label in missing], len(parts), [], ref,
                          self._until())
        return Receipt(self._label, ref)

    def _parts(self, draft: _Draft, rich: bool) -> tuple[list[list[_Line]], list[_File]]:
        """Return the lines of each message, and the whole text as a file if that is more than ten messages.

        With the file come the messages that take its place, cut in the middle, should the file be refused.
        """
        limit, lines = self._limits[0 if rich else 1], list(draft.lines)
        if not rich:
            lines[:0] = [("plain", draft.title)] if draft.title else []
            lines += [("plain", line) for k, v in draft.fields for line in f"{k}: {v}".split("\n")]
            lines += [("plain", image.url or image.name) for image in draft.images]
        short = (sum(len(text) + 1 for _, text in lines) <= limit
                 and sum(self._size(*line) + 9 for line in lines + draft.asks) < limit)
        lines = lines + draft.asks if short else draft.asks + lines  # how to answer belongs to the first message
        keep, chunks = limit * _PARTS, self._split(lines, limit)
        if len(chunks) <= _PARTS:
            return chunks or [[]], []
        while len(chunks) > _PARTS:
            chunks = self._split(_squeeze(lines, keep), limit)
            keep = keep * 4 // 5
        return chunks, [_File(_TEXT_FILE, draft.text.encode("utf-8"))] if self._takes_files() else []

    def _split(self, lines: list[_Line], limit: int) -> list[list[_Line]]:
        """Return the parts, one more than allowed at the most; one of blank lines alone would be refused."""
        parts = (part for part in _chunks(lines, self._size, limit) if any(text.strip() for _, text in part))
        return list(itertools.islice(parts, _PARTS + 1))

    def _size(self, kind: str, line: str) -> int:
        """Return how much of the service's limit one line takes."""
        spans = [("block", line, "")] if kind == "code" else _spans(kind, line)
        return self._measure("".join(self._mark(*span) for span in spans))

    def _text(self, lines: Iterable[_Line]) -> str:
        return _render(lines, self._mark).strip("\n")

    def _preview(self, message: AlerterMessage) -> str:
        draft = _Draft(self, message, None)
        parts, whole = self._parts(draft, True)
        shown = [self._payload(draft, True, part, n, [], None) for n, part in enumerate(parts[:1] if whole else parts)]
        shown += [{"file": file.name, "bytes": len(file.data)} for file in draft.images + whole if file.data]
        return _json.dumps(shown if len(shown) > 1 else shown[0], indent=2, ensure_ascii=False)

    def _post_question(self, question: Question, message: AlerterMessage, params: AlerterParameters | None) -> None:
        self._me()  # a token that cannot read is refused before anything is posted
        super()._post_question(question, message, params)
        self._offer_taps(question)

    def _offer_taps(self, question: Question) -> None:
        try:
            for emoji in question._taps():
                self._tap(question.ref, emoji)
        except DeliveryError as error:  # a missing permission for it is no error: words still decide
            _log().info("%s: no reactions on the question: %s", self.flavor, error)

    def _me(self) -> str:
        """Return the bot's own user id, asked for once a process."""
        if self not in _IDENTITIES:
            _IDENTITIES[self] = self._identify()
        return _IDENTITIES[self]

    def _check_together(self) -> None:
        token, webhook = (getattr(self, f"{self.flavor}_{name}") for name in ("token", "webhook_url"))
        if not token and not webhook:
            raise ConfigError(f"{self.flavor}: give {self.flavor}_token (posts and asks) or {self.flavor}_webhook_url "
                              "(posts only)")
        if getattr(self, "listen", "thread") not in ("thread", "channel"):
            raise ConfigError(f"{self.flavor}: listen must be \"thread\" or \"channel\"")

    def _channel(self, params: AlerterParameters | None) -> str:
        name = f"{self.flavor}_channel_id"
        channel = str(self._option(params, name, ""))
        if not channel and getattr(self, f"{self.flavor}_token"):
            raise ConfigError(f"{self.flavor}: no channel: give {name} in the alerter or in the parameters")
        return channel

    def _where(self, message: AlerterMessage, params: AlerterParameters | None) -> _Dict:
        reply_to = message._reply_to.ref if message._reply_to else {}
        thread = getattr(params, "thread_ts", None) or reply_to.get("thread_ts") or reply_to.get("ts")
        return {"channel": self._channel(params), "thread": thread}

    def _cannot_ask(self) -> str:
        token = f"{self.flavor}_token"
        return "" if getattr(self, token) else f"a webhook can only post; asking needs {token}"


@contextlib.contextmanager
def _documented(who: str) -> Iterator[None]:
    """Turn what goes wrong over an answer of another form than documented, by a proxy say, into a DeliveryError."""
    try:
        yield
    except ConfigError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        error = _failure(who, "an answer of another form than documented", final=False, outcome="unknown")
    else:
        return
    raise error


def _mapping(value: Any) -> _Dict:
    """Return a part of an answer that should be an object; {} for anything else."""
    return value if isinstance(value, dict) else {}


def _rows_of(value: Any, kind: type = dict) -> list[Any]:
    """Return a part of an answer that should be a list, without what should not be in it."""
    return [row for row in value if isinstance(row, kind)] if isinstance(value, list) else []


def _until_next_question(rows: Iterable[_T], token_of: Callable[[_T], str | None], token: str) -> Iterator[_T]:
    """Yield the rows that come before the bot's next question: those below it belong to that one."""
    return itertools.takewhile(lambda row: token_of(row) in (None, token), rows)


def _report(who: str, points: Sequence[tuple[bool, str]]) -> str:
    """Return one line per point of a check; raise if one failed."""
    lines = [("ok    " if good else "FAIL  ") + _one_line(text) for good, text in points]
    failed = [text for good, text in points if not good]
    if failed:
        error = _failure(who, "; ".join(failed), hint="mend this and run the check again")
        error._report = lines
        raise error
    return "\n".join(lines)


# === Slack ===


@dataclasses.dataclass(repr=False, eq=False)
class SlackAlerter(_ChatAlerter):
    """Slack, by a bot token (posts and asks) or by an incoming webhook (posts only).

    Scopes: chat:write; to ask also channels:history (groups:history for private channels), reactions:read and
    reactions:write; files:write for images and long texts. listen: "thread", or "channel" to take plain channel
    messages as answers too. Source: docs.slack.dev/reference/methods
    """

    slack_token: str = dataclasses.field(default="", repr=False)
    slack_channel_id: str = ""
    slack_webhook_url: str = dataclasses.field(default="", repr=False)
    slack_api_url: str = "https://slack.com/api"
    timeout: float | None = None
    approvers: Sequence[str] | None = None
    case_sensitive: bool = False
    listen: str = "thread"

    flavor = "slack"
    _answer_by = "Reply in this thread with"
    _refused_forms = ("invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "invalid_payload")
    _example = {"slack_token": "xoxb-preview", "slack_channel_id": "C0123456789"}

    def check(self) -> str:
        """Try the token, its scopes, the channel, and reading there."""
        if not self.slack_token:
            return "ok    the webhook's form is right; only a post can tell more"
        answer, who = self._raw("auth.test", {}, self._until())
        points = [(True, f"token: {who.get('user')} in {who.get('team')}")]
        scopes = answer.headers.get("X-OAuth-Scopes")
        for scope, use in (("chat:write", "to post"), ("reactions:write", "to offer one tap"),
                           ("reactions:read", "to read all taps"), ("files:write", "for images and long texts")):
            if scopes is not None and scope not in re.split(r"[,\s]+", scopes):
                points.append((scope != "chat:write", f"scope {scope} is missing ({use}): add it, reinstall the app"))
        for what, method in (("channel", "conversations.info"), ("may read replies", "conversations.history")):
            try:
                found = self._call(method, {"channel": self._channel(None), "limit": "1"})
                channel = _mapping(found.get("channel"))
                points.append((channel.get("is_member") is not False, f"{what} {channel.get('name') or ''}".strip() + (
                    ": the bot is not in it: invite it with /invite" if channel.get("is_member") is False else "")))
            except DeliveryError as error:
                points.append((error.code == "missing_scope" and what == "channel", f"{what}: {error}"))
        return _report(self.flavor, points)

    @_documented("slack")
    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return answers in the question's thread and reactions on it. One request when nothing has changed."""
        ref, memo, me = question.ref, question._memo, self._me()
        channel, now = {"channel": ref["channel"]}, self.clock.now()
        thread, history = memo.setdefault("thread", {}), memo.setdefault("history", {})
        found: list[_Dict] = []
        parent: _Dict = {}
        if now >= memo.get("thread_free", 0.0):
            rows: list[_Dict] = []
            try:
                rows = self._rows("conversations.replies", {**channel, "ts": ref.get("thread_ts") or ref["ts"]}, thread)
                if self.listen == "channel" and not ref.get("thread_ts"):
                    plain = self._rows("conversations.history", {**channel, "oldest": ref["ts"]}, history)
                    found += self._answers(question, plain, "channel", me)
            except DeliveryError as error:
                if error.retry_after is None:
                    raise
                memo["thread_free"] = now + error.retry_after  # rationed: reactions are read in between
                rows = rows or thread.get("rows", [])  # they come oldest first, so these count already
            parent = next((row for row in rows if row.get("ts") == ref["ts"]), {})
            found = sorted(found + self._answers(question, rows, "reply", me), key=lambda answer: answer["at"])
        reactions = parent.get("reactions") or []
        partial = not parent or any(len(r.get("users") or ()) < r.get("count", 0) for r in reactions)
        if partial and now >= memo.get("reactions_free", 0.0):
            try:
                row = self._call("reactions.get", {**channel, "timestamp": ref["ts"], "full": "true"})
                reactions = row["message"].get("reactions") or []
            except DeliveryError as error:
                if error.code != "missing_scope" and _is_final(error):
                    raise
                memo["reactions_free"] = now + (error.retry_after or 0)
        return found + [{"by": user, "text": r["name"], "via": "reaction"} for r in reactions
                        for user in r.get("users") or () if user not in (me, "USLACKBOT")]

    def _answers(self, question: Question, rows: list[_Dict], via: str, me: str) -> list[_Dict]:
        """Return what people wrote in `rows` below the question and above the bot's next one, oldest first."""
        asked = question.ref["ts"]
        until = _moment(asked) + question.deadline - question._state["asked"]  # by Slack's clock, which stamped both

        def token_of(row: _Dict) -> str | None:
            marked = row.get("bot_id") and re.search(_MARKER, str(row.get("text")))
            return marked[1] if marked else None

        answers = []
        below = sorted((row for row in rows if _moment(row.get("ts")) > _moment(asked)), key=lambda r: _moment(r["ts"]))
        for row in _until_next_question(below, token_of, question.token):
            human = (row.get("user") and row["user"] not in (me, "USLACKBOT") and not row.get("bot_id")
                     and row.get("subtype") in (None, "thread_broadcast", "file_share", "me_message"))
            if human and not (via == "channel" and row.get("thread_ts") not in (None, row["ts"])):
                at = _moment((row.get("edited") or {}).get("ts") or row["ts"])
                text = self._plain(str(row.get("text") or ""), me)
                answers.append({"by": row["user"], "text": text, "via": via, "at": at, "until": until})
        return sorted(answers, key=lambda answer: answer["at"])

    def _plain(self, text: str, me: str) -> str:
        """Return Slack's markup as typed: links first, entities last."""
        text = re.sub(rf"<@{re.escape(me)}(\|[^>]*)?>", " ", text)
        text = re.sub(r"<(?:https?|mailto)[^>|]*\|([^>]*)>|<((?:https?|mailto)[^>|]*)>", r"\1\2", text)
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

    def _rows(self, method: str, args: _Dict, memo: _Dict) -> list[_Dict]:
        """Return all rows of a paged method. Where a page is refused, memo keeps the rows, and the next call goes on."""
        for _ in range(50):
            cursor = {"cursor": memo["cursor"]} if memo.get("cursor") else {}
            page = self._call(method, {**args, "limit": "200", **cursor})
            memo.setdefault("rows", []).extend(page["messages"])
            memo["cursor"] = (page.get("response_metadata") or {}).get("next_cursor")
            if not memo["cursor"]:
                rows: list[_Dict] = memo["rows"]
                memo.clear()
                return rows
        raise _failure(self.flavor, f"more rows than one poll reads ({method})", final=False)

    @_documented("slack")
    def _find(self, question: Question) -> _Dict | None:
        where = question._state["where"]
        ref = self._find_post(where["channel"], where["thread"], question._state["asked"] - 60,
                              lambda row: question.token in str(row.get("text")))
        return {**ref, "thread_ts": where["thread"]} if ref and where["thread"] else ref

    def _find_post(self, channel: str, thread: str | None, since: float,
                   is_it: Callable[[_Dict], bool]) -> _Dict | None:
        """Return the ref of a message of ours that may or may not have been posted."""
        args = {"channel": channel, "ts": thread} if thread else {"channel": channel, "oldest": f"{since:.6f}"}
        rows = self._rows("conversations.replies" if thread else "conversations.history", args, {})
        found = sorted((row["ts"] for row in rows if row.get("user") == self._me() and is_it(row)), key=_moment)
        return {"channel": channel, "ts": found[0]} if found else None

    def _say(self, question: Question, text: str, to: str | None) -> None:
        text = re.sub(r"&lt;@(\w+)&gt;", r"<@\1>", self._text(_lines(_clean(text))), count=1)  # the one who decided
        self._call("chat.postMessage", {"channel": question.ref["channel"], "text": text, "unfurl_links": False,
                                        "thread_ts": question.ref.get("thread_ts") or question.ref["ts"]})

    def _mention_of(self, user: str) -> str:
        return f"<@{user}>" if re.fullmatch(r"[UW]\w+", user) else user

    def _tap(self, ref: _Dict, emoji: str) -> None:
        try:
            self._call("reactions.add", {"channel": ref["channel"], "timestamp": ref["ts"],
                                         "name": _canonical(emoji).strip(":")}, insist=True)
        except DeliveryError as error:
            if error.code != "already_reacted":
                raise

    def _identify(self) -> str:
        return str(self._call("auth.test", {}, insist=True).get("user_id"))

    def _takes_files(self) -> bool:
        return bool(self.slack_token)

    def _measure(self, text: str) -> int:
        return len(text.encode("utf-16-le")) // 2  # which units Slack counts is not documented; these are the most

    def _mark(self, style: str, text: str, url: str) -> str:
        safe = _defuse(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if style == "link":
            url = url.replace("&", "&amp;").replace("|", "%7C")
            return f"<{url}>" if safe == url else f"<{url}|{safe.replace('|', '¦')}>"
        safe = safe if style == "code" else safe.replace("```", "`\u200b`\u200b`")  # a fence would end the block
        return {"bold": f"*{safe}*", "italic": f"_{safe}_", "code": f"`{safe}`"}.get(style, safe)

    def _payload(self, draft: _Draft, rich: bool, lines: list[_Line], number: int, files: list[_File],
                 parent: _Dict | None) -> _Dict:
        """Return the body of chat.postMessage: blocks, and all of it as `text` for notifications and screen readers."""
        first, text = number == 0, self._text(lines)
        ping = " ".join(f"<!{m}>" if m in ("here", "channel", "everyone") else
                        f"<!subteam^{m}>" if m.startswith("S") else f"<@{m}>" for m in draft.mention) if first else ""
        title = self._mark("text", draft.title, "") if first and rich else ""
        fields = [(self._mark("text", k, ""), self._mark("text", v, "")) for k, v in draft.fields] if first and rich else []
        notes = draft.notes if first else []
        said = list(filter(None, [ping, title and f"*{title}*", text, *(f"{k}: {v}" for k, v in fields)]))
        payload: _Dict = {"channel": self._channel(draft.params), "unfurl_links": False, "unfurl_media": False,
                          "text": "\n".join((said or [image.name for image in draft.images]) + notes)}
        thread = (parent.get("thread_ts") or parent["ts"] if parent and self.slack_token else
                  self._where(draft.message, draft.params)["thread"])
        if thread:
            payload["thread_ts"] = thread
        if not rich:
            return payload

        def mrkdwn(words: str) -> _Dict:  # verbatim: Slack makes no mentions or links of its own
            return {"type": "mrkdwn", "text": words, "verbatim": True}

        blocks: list[_Dict] = [{"type": "section", "text": mrkdwn(ping)}] if ping else []
        custom = getattr(draft.params, "blocks", None) if first else None
        if custom:
            blocks += [dict(block) for block in custom]
            text, fields = self._text(draft.asks), []
        elif title:
            plain = re.sub(r"<(?=[!@#])", "<\u200b", _defuse(draft.title))
            blocks.append({"type": "header", "text": {"type": "plain_text", "text": plain, "emoji": True}})
        if text.strip():
            blocks.append({"type": "section", "text": mrkdwn(text), "expand": True})
        if fields:
            blocks.append({"type": "section", "fields": [mrkdwn(f"*{k or ' '}*\n{v or ' '}") for k, v in fields]})
        if first:
            shown = [image for image in draft.images if image.url][:self._shown_images]
            blocks += [{"type": "image", "image_url": image.url, "alt_text": image.name} for image in shown]
        if notes:
            blocks.append({"type": "context", "elements": [mrkdwn(note) for note in notes]})
        if blocks:
            blocks[0].setdefault("block_id", f"{draft.nonce}-{number}")  # by which a doubtful post is looked for
            payload["blocks"] = blocks
        return payload

    def _put(self, draft: _Draft, rich: bool, lines: list[_Line], number: int, files: list[_File],
             parent: _Dict | None, until: float) -> tuple[_Dict, list[_File]]:
        payload = self._payload(draft, rich, lines, number, files, parent)
        if not self.slack_token:
            payload.pop("channel", None)
            _insist(lambda: self._post_webhook(payload, until), self.clock, until)
            return {}, []
        thread, started = payload.get("thread_ts"), self.clock.now()

        def is_it(row: _Dict) -> bool:
            if row.get("blocks"):
                return any(block.get("block_id") == f"{draft.nonce}-{number}" for block in row["blocks"])
            sent, there = (_canonical(self._plain(str(t), "-")).split() for t in (payload["text"], row.get("text")))
            return _moment(row["ts"]) >= started - 5 and sent == there

        def post() -> _Dict:
            answer = self._call("chat.postMessage", payload, until)
            return {"channel": answer.get("channel") or payload["channel"], "ts": str(answer.get("ts"))}

        ref = _insist(post, self.clock, until,
                      find=lambda: self._find_post(payload["channel"], thread, started - 120, is_it))
        if thread and not parent:
            ref["thread_ts"] = thread
        refused = []
        for file in files:
            try:
                self._upload(file, ref, until)
            except DeliveryError as error:
                file.problem = str(error)
                refused.append(file)
        return ref, refused

    def _post_webhook(self, payload: _Dict, until: float) -> None:
        answer = _http(self.flavor, "POST", _reveal(self.slack_webhook_url, "slack: slack_webhook_url"), until=until,
                       clock=self.clock, body=[_json.dumps(payload, allow_nan=False).encode()],
                       headers={"Content-Type": "application/json; charset=utf-8"})
        word, official = answer.text.strip(), "://hooks.slack" in self.slack_webhook_url
        if not (200 <= answer.status < 300 and (word == "ok" or not official and word[:1] != "<")):
            code = word if re.fullmatch(r"[a-z_]{3,50}", word) else None
            raise answer.refusal(self.flavor, code or f"HTTP {answer.status} from the webhook", code)

    def _upload(self, file: _File, ref: _Dict, until: float) -> None:
        """Share a file in the message's thread, by the three steps of docs.slack.dev/messaging/working-with-files."""
        step = self._call("files.getUploadURLExternal", {"filename": file.name, "length": str(len(file.data))}, until, True)
        url, thread = str(step.get("upload_url")), ref.get("thread_ts") or ref["ts"]
        if not url.startswith(("https://", self.slack_api_url.partition("/api")[0] + "/")):
            raise _failure(self.flavor, "no usable upload address in the answer")

        def send_bytes() -> None:
            answer = _http(self.flavor, "POST", url, clock=self.clock, until=until, body=[file.data],
                           headers={"Content-Type": "application/octet-stream"})  # no token: the URL has its own
            if answer.status != 200:
                raise answer.refusal(self.flavor, f"HTTP {answer.status} for the upload")

        def find() -> _Dict | None:
            rows = self._rows("conversations.replies", {"channel": ref["channel"], "ts": thread}, {})
            return next((row for row in rows for f in row.get("files") or () if f.get("id") == step["file_id"]), None)

        _insist(send_bytes, self.clock, until, sure=True)  # nothing shows before the last step
        comment = f"The whole text, {len(file.data):,} bytes" if file.name == _TEXT_FILE else file.name
        share = {"files": _json.dumps([{"id": step.get("file_id"), "title": file.name}]), "channel_id": ref["channel"],
                 "thread_ts": thread, "initial_comment": comment}
        _insist(lambda: self._call("files.completeUploadExternal", share, until), self.clock, until, find=find)

    def _call(self, method: str, args: _Dict, until: float | None = None, insist: bool = False) -> _Dict:
        """Return the answer of a Web API method. Raises DeliveryError with Slack's word as `code`."""
        end = self._until() if until is None else until
        if insist:
            return _insist(lambda: self._raw(method, args, end)[1], self.clock, end, sure=True)
        return self._raw(method, args, end)[1]

    def _raw(self, method: str, args: _Dict, until: float) -> tuple[_Answer, _Dict]:
        if method.startswith("chat."):
            body, kind = _json.dumps(args, allow_nan=False), "application/json; charset=utf-8"
        else:  # the other methods are documented with forms first
            body, kind = _parse.urlencode(args), "application/x-www-form-urlencoded"
        token = str.__new__(_Secret, "Bearer " + _reveal(self.slack_token, "slack: slack_token"))
        answer = _http(self.flavor, "POST", f"{self.slack_api_url.rstrip('/')}/{method}", clock=self.clock, until=until,
                       body=[(body or " ").encode()], headers={"Authorization": token, "Content-Type": kind})
        data = _mapping(answer.json())
        if answer.status == 200 and data.get("ok") is True:
            return answer, data
        code = data.get("error") if isinstance(data.get("error"), str) else None
        if answer.status != 200 or not code:
            raise answer.refusal(self.flavor, f"{code or f'HTTP {answer.status}, no answer of Slack'} ({method})", code)
        details = [f"needs {data['needed']}, has {data.get('provided')}"] if data.get("needed") else []
        details += map(str, _rows_of(_mapping(data.get("response_metadata")).get("messages"), str)[:3])
        waits, doubtful = code in ("ratelimited", "rate_limited"), code in (
            "fatal_error", "internal_error", "service_unavailable", "request_timeout")  # part of it may have been done
        again = waits or code in ("org_login_required", "team_added_to_org")
        raise _failure(self.flavor, f"{code} ({'; '.join(details)})" if details else code, status=200, code=code,
                       again=again, final=not (again or doubtful), outcome="unknown" if doubtful else "not_sent",
                       retry_after=answer.seconds() if waits else None)


def _moment(ts: Any) -> float:
    """Return a Slack `ts` as a time, 0 if it is none; the string itself stays the id."""
    try:
        return float(ts)
    except (TypeError, ValueError):
        return 0.0


# === Discord ===


@dataclasses.dataclass(repr=False, eq=False)
class DiscordAlerter(_ChatAlerter):
    """Discord, by a bot token (posts and asks) or by a webhook (posts only).

    Permissions: View Channel, Send Messages, Embed Links, Attach Files; to ask also Read Message History and Add
    Reactions. Without the Message Content intent answers are read only from replies with the ping left on.
    Source: docs.discord.com/developers/resources/message
    """

    discord_token: str = dataclasses.field(default="", repr=False)
    discord_channel_id: str = ""
    discord_webhook_url: str = dataclasses.field(default="", repr=False)
    discord_api_url: str = "https://discord.com/api/v10"
    timeout: float | None = None
    approvers: Sequence[str] | None = None
    case_sensitive: bool = True
    listen: str = "thread"
    default_discord_channel_id: str = ""  # the older name of discord_channel_id

    flavor = "discord"
    _answer_by = "Reply to this message, with the ping on, with"
    _title_limit = 256
    _limits = (3800, 1800)
    _batch = 9
    _refused_forms = ("50035", "50013", "50006")
    _example = {"discord_token": "preview", "discord_channel_id": "123456789012345678"}

    def _check_together(self) -> None:
        super()._check_together()
        self._set("discord_channel_id", self.discord_channel_id or self.default_discord_channel_id)
        self._set("default_discord_channel_id", "")
        if not re.fullmatch(r"\d{0,20}", self.discord_channel_id):
            raise ConfigError("discord: discord_channel_id is a number: turn on Developer Mode, then Copy Channel ID")

    def check(self) -> str:
        """Try the token, the channel, and reading there; tell about the Message Content intent."""
        if not self.discord_token:
            hook = self._call("GET", "", base=self._webhook())
            return f"ok    webhook {hook.get('name')} for channel {hook.get('channel_id')}"
        points = [(True, f"token: {self._call('GET', '/users/@me').get('username')}")]
        try:
            path = f"/channels/{self._channel(None)}"
            channel = self._call("GET", path)
            good = channel.get("type") in (0, 1, 2, 3, 5, 10, 11, 12, 13)
            points.append((good, f"channel {channel.get('name')}" + ("" if good else " takes no messages: choose another")))
            rows = self._call("GET", f"{path}/messages?limit=50")
            points.append((bool(rows) or not channel.get("last_message_id"),
                           "may read replies" if rows else "sees no messages: give the bot Read Message History"))
            if any(map(_is_mute, rows)):
                points.append((True, "Message Content intent is off: only replies with the ping on, and reactions, can be "
                                     "read; turn it on under Bot in the developer portal"))
        except DeliveryError as error:
            points.append((False, str(error)))
        return _report(self.flavor, points)

    @_documented("discord")
    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return replies to the question, answers in a thread opened on it, and reactions. Two requests at least."""
        memo, me, mid = question._memo, self._me(), question.ref["message_id"]
        message = self._call("GET", f"/channels/{question.ref['channel_id']}/messages/{mid}")
        until = _snowflake_time(mid) + question.deadline - question._state["asked"]  # by Discord's clock

        def token_of(row: _Dict) -> str | None:
            texts = [row.get("content"), *((e.get("footer") or {}).get("text") for e in row.get("embeds") or ())]
            marks = [re.search(_MARKER, text or "") for text in texts] if _is_bot(row) else []
            return next((mark[1] for mark in marks if mark), None)

        rows = self._rows(question.ref["channel_id"], mid, memo.setdefault("channel", {}))
        found = [(row, "reply") for row in rows if row.get("type") == 19
                 and (row.get("message_reference") or {}).get("message_id") == mid]
        if self.listen == "channel":
            found += [(row, "channel") for row in _until_next_question(rows, token_of, question.token)
                      if row.get("type") == 0 and not row.get("message_reference")]
        if (message.get("flags") or 0) & 32 or message.get("thread"):  # a thread on it is a channel with its id
            with _unless_gone():
                rows = self._rows(mid, mid, memo.setdefault("thread", {}))
                found += [(row, "reply") for row in _until_next_question(rows, token_of, question.token)
                          if row.get("type") in (0, 19)]
        answers = []
        for row, via in found:
            if not (_is_bot(row) or _author(row).get("id") == me):
                if _is_mute(row) and not memo.get("warned"):
                    memo["warned"] = True
                    _log().warning("discord: a reply came without its text: turn on the Message Content intent under "
                                   "Bot in the developer portal, or let people reply with the ping on")
                text = re.sub(rf"<@!?{me}>", " ", row.get("content") or "")
                answers.append({"by": _author(row).get("id"), "text": text, "via": via, "until": until,
                                "at": _edited(row) or _snowflake_time(row["id"])})
        return sorted(answers, key=lambda answer: answer["at"]) + self._reactions(question, message, me)

    def _reactions(self, question: Question, message: _Dict, me: str) -> list[_Dict]:
        """Return who gave the reactions that mean something. Super reactions are listed apart, as type 1."""
        found = []
        for reaction in message.get("reactions") or ():
            emoji = reaction["emoji"]
            name = str(emoji.get("name"))
            if reaction["count"] <= bool(reaction.get("me")) or not question._verdict(name, True):
                continue
            path = "/channels/{channel_id}/messages/{message_id}/reactions/".format(**question.ref) + _parse.quote(
                f"{name}:{emoji['id']}" if emoji.get("id") else name, safe="")
            for kind in (0, 1) if (reaction.get("count_details") or {}).get("burst") else (0,):
                after = "0"
                while after:
                    try:
                        users = self._call("GET", f"{path}?limit=100&type={kind}&after={after}")
                    except DeliveryError as error:  # the words that people wrote count all the same
                        if _is_final(error):
                            raise
                        break
                    found += [{"by": user["id"], "text": name, "via": "reaction"} for user in users
                              if user["id"] != me and not user.get("bot")]
                    after = users[-1]["id"] if len(users) == 100 else ""
        return found

    def _rows(self, channel: str, after: str, memo: _Dict) -> list[_Dict]:
        """Return the messages after an id, oldest first. Full pages are kept, the last one is read again each time."""
        kept: dict[str, _Dict] = memo.setdefault("kept", {})
        while True:
            page = self._call("GET", f"/channels/{channel}/messages?after={memo.get('after', after)}&limit=100")
            rows = {row["id"]: row for row in page}
            if len(page) < 100:
                return sorted({**kept, **rows}.values(), key=lambda row: int(row["id"]))
            kept.update(rows)
            memo["after"] = max(rows, key=int)

    @_documented("discord")
    def _find(self, question: Question) -> _Dict | None:
        channel, me = question._state["where"]["channel"], self._me()
        since = max(int((question._state["asked"] - 60) * 1000 - 1420070400000), 0) << 22
        return next(({"channel_id": channel, "message_id": row["id"]} for row in self._rows(channel, str(since), {})
                     if _author(row).get("id") == me and question.token in str(row)), None)

    def _say(self, question: Question, text: str, to: str | None) -> None:
        user = re.search(r"<@(\d+)>", text)
        text = self._text(_lines(_clean(text))).replace("\\<@", "<@", 1)  # the one who decided
        self._call("POST", f"/channels/{question.ref['channel_id']}/messages", [{
            "content": text[:2000], "allowed_mentions": {"parse": [], "users": [user[1]] if user else []},
            "message_reference": {"message_id": question.ref["message_id"], "fail_if_not_exists": False}}])

    def _mention_of(self, user: str) -> str:
        return f"<@{user}>"

    def _tap(self, ref: _Dict, emoji: str) -> None:
        own = re.fullmatch(r"<a?:(\w+:\d+)>", emoji)
        chars = {f":{name}:": char for char, names in _EMOJI.items() for name in names.split()}
        name = _parse.quote(own[1] if own else chars.get(emoji, emoji).replace("\ufe0f", ""), safe="")
        path = f"/channels/{ref['channel_id']}/messages/{ref['message_id']}/reactions/{name}/@me"
        _insist(lambda: self._call("PUT", path), self.clock, self._until(), sure=True)

    def _identify(self) -> str:
        return str(_insist(lambda: self._call("GET", "/users/@me"), self.clock, self._until(), sure=True)["id"])

    def _takes_files(self) -> bool:
        return True

    def _measure(self, text: str) -> int:
        return len(text)  # code points, says Discord's staff

    def _mark(self, style: str, text: str, url: str) -> str:
        safe = _defuse(text)
        if style == "link":
            return url if text == url else f"[{self._mark('text', text, '')}]({url})"
        if style == "block":
            return safe.replace("```", "`\u200b``")
        if style == "code":
            return f"`{safe}`"
        safe = re.sub(r"([\\*_~|`\[\]<])", r"\\\1", safe)
        safe = re.sub(r"^(\s*)([>#-])|^(\s*\d+)(?=\. )", lambda m: m[3] + "\\" if m[3] else f"{m[1]}\\{m[2]}", safe)
        return {"bold": f"**{safe}**", "italic": f"*{safe}*"}.get(style, safe)

    def _payload(self, draft: _Draft, rich: bool, lines: list[_Line], number: int, files: list[_File],
                 parent: _Dict | None) -> _Dict:
        """Return the body of a message: embeds in the rich form, content in the plain one."""
        first, text = number == 0, self._text(lines)
        mention, notes = (draft.mention, draft.notes) if first else ([], [])
        ping = " ".join(f"@{m}" if m in ("here", "everyone") else f"<@{m}>" for m in mention)
        payload: _Dict = {"allowed_mentions": {  # without it Discord lets everything ping
            "parse": ["everyone"] if {"here", "everyone"} & set(mention) else [],
            "users": [m for m in mention if m.isdigit()], "roles": [m[1:] for m in mention if m.startswith("&")]}}
        if rich:
            embed: _Dict = {"color": draft.color}
            if first and draft.title:
                embed["title"] = self._mark("text", draft.title, "")
            if text.strip():
                embed["description"] = text
            if first and draft.fields:
                embed["fields"] = [{"name": self._mark("text", k, "") or "\u200b", "inline": len(v) <= 40,
                                    "value": self._mark("text", v, "") or "\u200b"} for k, v in draft.fields]
            if notes:
                embed["footer"] = {"text": "\n".join(notes)}
            sources = [image.url for image in draft.images if image.url] if first else []
            sources += [f"attachment://{file.name}" for file in files if file.image]
            payload["embeds"] = [embed] if len(embed) > 1 or not sources else []
            payload["embeds"] += [{"image": {"url": source}} for source in sources[:9]]
        content = ping if rich else "\n".join(filter(None, [ping, text, *notes])) or "\u200b"
        if content:
            payload["content"] = content
        if self.discord_token:
            payload.update(nonce=f"{draft.nonce}-{number}", enforce_nonce=True)
            reply_to = (parent or draft.reply_to).get("message_id")
            if reply_to:
                payload["message_reference"] = {"message_id": reply_to, "fail_if_not_exists": False}
        return payload

    def _put(self, draft: _Draft, rich: bool, lines: list[_Line], number: int, files: list[_File],
             parent: _Dict | None, until: float) -> tuple[_Dict, list[_File]]:
        base = None if self.discord_token else self._webhook()
        path = "" if base else f"/channels/{self._channel(draft.params)}/messages"
        refused: list[_File] = []
        for n, file in enumerate(files):  # attachments of one message are told apart by their names
            file.name = f"{n + 1}-{file.name}" if n and file.name in [other.name for other in files[:n]] else file.name
        while True:
            payload = self._payload(draft, rich, lines, number, files, parent)
            try:
                sent = _insist(lambda: self._call("POST", path, [payload, *files], until, base), self.clock, until,
                               sure=bool(self.discord_token))
                return {"channel_id": str(sent["channel_id"]), "message_id": str(sent["id"])}, refused
            except DeliveryError as error:
                if not files or error.outcome != "not_sent" or error.status not in (400, 403, 413):
                    raise
                for file in files:
                    file.problem = str(error)
                if number >= 1000:
                    return {}, files
                refused, files = files, []

    def _webhook(self) -> str:
        """Return the webhook's address with the API version, which copied ones lack, and with wait=true."""
        url = re.sub(r"/api/webhooks/", "/api/v10/webhooks/",
                     _reveal(self.discord_webhook_url, "discord: discord_webhook_url"))
        return _Secret(url + ("&" if "?" in url else "?") + "wait=true")

    def _call(self, method: str, path: str, parts: Sequence[Any] = (), until: float | None = None,
              base: str | None = None) -> Any:
        """Return the decoded answer. parts: the JSON body, then files. Raises DeliveryError."""
        headers: dict[str, str] = {} if base else {"Authorization": str.__new__(
            _Secret, "Bot " + _reveal(self.discord_token, "discord: discord_token"))}
        body: list[bytes] = []
        if parts:
            body, headers["Content-Type"] = _multipart(parts[0], parts[1:])
        elif method == "PUT":
            headers["Content-Length"] = "0"
        answer = _http(self.flavor, method, base or f"{self.discord_api_url.rstrip('/')}{path}", clock=self.clock,
                       until=self._until() if until is None else until, body=body, headers=headers)
        data = answer.json()
        if answer.status == 204:
            return {}
        known = _mapping(data)
        if answer.status in (200, 201) and (isinstance(data, list) if "?" in path and method == "GET" else known.get("id")):
            return data
        blocked = re.search(r"error code: (\d+)", answer.text[:500])
        code = str(known["code"]) if known.get("code") else blocked[1] if blocked else None
        details = "; ".join(_flat_errors(known.get("errors"), ""))
        what = " ".join(filter(None, [code, str(known.get("message") or ""), details and f"({details})"]))
        error = answer.refusal(self.flavor, what or f"HTTP {answer.status}", code, known.get("retry_after"))
        if answer.status == 429 and not known:  # Cloudflare's ban, which trying again makes longer
            error._again, error.retry_after = False, None
        raise error


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """Pass over a thread that was deleted or locked: the question itself is still there."""
    try:
        yield
    except DeliveryError as error:
        if error.status not in (403, 404):
            raise


def _author(row: _Dict) -> _Dict:
    return row.get("author") or {}


def _is_bot(row: _Dict) -> bool:
    return bool(_author(row).get("bot") or _author(row).get("system") or row.get("webhook_id"))


def _is_mute(row: _Dict) -> bool:
    """True for a person's message that comes without its content: the Message Content intent is off."""
    return not _is_bot(row) and row.get("type") in (0, 19) and not any(
        row.get(part) for part in ("content", "attachments", "embeds", "sticker_items", "poll", "message_snapshots"))


def _snowflake_time(snowflake: Any) -> float:
    return ((int(snowflake) >> 22) + 1420070400000) / 1000


def _edited(row: _Dict) -> float | None:
    """Return when a message was last edited, in UNIX seconds; None if it never was."""
    with contextlib.suppress(ValueError):
        return _datetime.datetime.fromisoformat(str(row.get("edited_timestamp")).replace("Z", "+00:00")).timestamp()
    return None


def _flat_errors(errors: Any, where: str) -> list[str]:
    """Return Discord's nested errors as "embeds.0.title: Must be 256 or fewer in length"."""
    if not isinstance(errors, dict):
        return []
    own = [f"{where}: {error.get('message')}" for error in _rows_of(errors.get("_errors"))]
    return own + [text for key, value in errors.items() if key != "_errors"
                  for text in _flat_errors(value, f"{where}.{key}".strip("."))]


def _multipart(payload: _Dict, files: Sequence[_File]) -> tuple[list[bytes], str]:
    """Return body and content type: JSON alone, or multipart/form-data with payload_json, files[0] and so on."""
    head = _json.dumps(payload, allow_nan=False).encode()
    if not files:
        return [head], "application/json"
    boundary = f"alerters-{_secrets.token_hex(16)}"
    parts = [('name="payload_json"', "application/json", head)]
    parts += [(f'name="files[{n}]"; filename="{f.name}"', f.type, f.data) for n, f in enumerate(files)]
    pieces = []
    for disposition, kind, data in parts:
        pieces += [f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {kind}\r\n\r\n"
                   .encode(), data, b"\r\n"]
    return [*pieces, f"--{boundary}--\r\n".encode()], f"multipart/form-data; boundary={boundary}"


# === E-mail ===
_ADDRESS = r"[^\s@<>()\[\],;:\\\"\x00-\x20\x7f-\U0010ffff]{1,64}@[^\s@<>()\[\],;:\\\"\x00-\x20]{1,255}"
_MAIL_MAX = 90_000  # characters shown in the mail itself: Gmail clips at about 100 KB; the rest goes as a file
_SMTP_HINTS = {535: "user or password refused: Gmail and others want an app password", 530: "the server wants a log-in",
               534: "the server wants an app password", 550: "the address or the sender is refused",
               552: "the mail is too large", 553: "the address is not allowed"}
_ABSENT = (r"(?i)(?:(?:re|aw|sv|antw)\s*:\s*)?(?:out of office|automatic reply|auto(?:reply)?\s*:|automatische antwort"
           r"|abwesen|réponse automatique|respuesta automática|risposta automatica|automatisch antwoord|resposta automática)")
# Outlook: a rule of dashes or underscores, in any language, then a header line; or three header lines alone.
_QUOTE_BEGINS = (r"(?m)^(?:-{4,}[^\n-]{3,40}-{4,}|_{10,})[ ]*\n\s*\*?[^\W\d][^\n:]{1,20}\*?[ \xa0]?:"
                 r"|^\*?(?:From|Von|De|Da|Van)\*?[ \xa0]?:[^\n]*\n(?:\*?[^\W\d][^\n:]{1,24}:[^\n]*\n){2}|^__________quoted$")
# The line or two directly above the quote: "On 23 Nov 2026, at 10:00, Bot wrote:" and its like.
_ATTRIBUTION = (r"(?m)^[ ]*(?:On|Am|Le|El|Il|Op|Em)\b(?=[^\n]*(?:\d{4}|\d[:./-]\d))[^\n]*(?:\n[^\n>]*)?\b(?:wrote|schrieb"
                r"|écrit|escribió|scritto|geschreven|schreef|escreveu)\b[^\n]{0,80}(?:\n?[^\n]*<[^\n]*>)?[ \xa0]*:\s*$(?=\s*>)")
_PHONE = (r"(?mi)^(?:(?:sent from (?:my|outlook|mail)|von meinem|gesendet von|envoyé de(?:puis)? mon|enviado (?:desde mi|do meu)"
          r"|inviato da(?:l mio)?|verzonden (?:vanaf|met|van) mijn)[\w' -]{2,25}(?: gesendet)?"
          r"|[\w ]{0,9}outlook (?:for|für|para|pour|per|voor) (?:ios|android)[\w ]{0,12}(?:<https?://aka\.ms/\w+>)?)$")


@dataclasses.dataclass(repr=False, eq=False)
class SMTPEmailAlerter(BaseAlerter):
    """E-mail over SMTP; with imap_server set it also asks, and reads the answers from that mailbox.

    use_tls: True (TLS at once on port 465, else STARTTLS, required), "ssl", "starttls", or False for a local relay.
    IMAP is always TLS; user and password are the SMTP ones unless given. Who can read the mails can answer them.
    """

    smtp_server: str = ""
    sender_email: str = ""
    password: str = dataclasses.field(default="", repr=False)
    recipient_email: str | Sequence[str] = ()
    smtp_port: int = 587
    username: str = ""
    use_tls: bool | str = True
    subject_prefix: str = ""
    include_html: bool = True
    imap_server: str = ""
    imap_port: int = 993
    imap_username: str = ""
    imap_password: str = dataclasses.field(default="", repr=False)
    timeout: float | None = None
    approvers: Sequence[str] | None = None
    case_sensitive: bool = False

    flavor = "smtp_email"
    _answer_by = "Reply to this mail with"
    _shows_questions = True
    _example = {"smtp_server": "localhost", "sender_email": "alerts@example.org", "recipient_email": "you@example.org"}

    def _check_together(self) -> None:
        for name in ("smtp_server", "sender_email"):
            if not getattr(self, name):
                raise ConfigError(f"smtp_email: {name} is missing")
        if re.search(r"[\s/@]", self.smtp_server + self.imap_server):
            raise ConfigError("smtp_email: smtp_server and imap_server are host names, without scheme and path")
        self._set("sender_email", _address(self.sender_email, "sender_email"))
        self._set("recipient_email", tuple(self._recipients(self.recipient_email)))
        if self.password and not self.use_tls and not _is_loopback(self.smtp_server):
            raise ConfigError("smtp_email: a password is not sent without TLS: leave use_tls=True")

    def check(self) -> str:
        """Log in over SMTP, and over IMAP if it is set."""
        points = [] if self.imap_server else [(True, "IMAP: not set, so this alerter posts and cannot ask")]
        for name, log_in in (("SMTP", self._smtp), ("IMAP", self._imap))[:2 if self.imap_server else 1]:
            until = self._until()
            try:
                session: Any = _insist(lambda: log_in(until), self.clock, until, tries=1)
                session.quit() if name == "SMTP" else session.logout()
                points.append((True, f"{name}: connected and logged in"))
            except DeliveryError as error:
                points.append((False, f"{name}: {error}"))
        return _report(self.flavor, points)

    def send(self, message: str | AlerterMessage, params: AlerterParameters | None = None) -> Receipt:
        """Mail the message to all recipients at once; those that the server refuses are named in the error."""
        message, params = self._checked(message, params)
        mail, recipients, files = self._compose(message, params)
        self._deliver(mail, recipients, files)
        if message._question:  # they are the ones who may decide
            message._question._state["recipients"] = recipients
        return Receipt(self._label, {"message_id": str(mail["Message-ID"])})

    def _recipients(self, given: Any) -> list[str]:
        names = _names(given or None, "recipient_email") or ()
        return list(dict.fromkeys(_address(address, "recipient_email") for address in names))

    def _new_mail(self, subject: str, to: Sequence[str], token: str, answers: str = "") -> _email_message.EmailMessage:
        domain = self.sender_email.rpartition("@")[2]
        domain = domain if len(domain) <= 40 else "alerters.invalid"  # ids beyond 77 characters break threading
        now = _datetime.datetime.fromtimestamp(self.clock.now(), _datetime.timezone.utc)
        mail = _email_message.EmailMessage(policy=_email_policy.SMTP.clone(cte_type="7bit"))
        mail["Subject"], mail["From"], mail["To"] = subject, self.sender_email, ", ".join(to)
        mail["Date"] = _email_utils.format_datetime(now)
        mail["Message-ID"] = f"<alerters.{token}@{domain}>"
        if re.fullmatch(r"<[!-~]{3,75}>", answers):
            mail["In-Reply-To"] = mail["References"] = answers
        mail["Auto-Submitted"], mail["X-Auto-Response-Suppress"] = "auto-generated", "OOF, AutoReply"  # RFC 3834
        return mail

    def _compose(self, message: AlerterMessage, params: AlerterParameters | None,
                 ) -> tuple[_email_message.EmailMessage, list[str], list[_File]]:
        """Return the mail, with a placeholder for each file, its recipients, and the files in their order."""
        recipients = self._recipients(getattr(params, "recipient_email", None) or self.recipient_email)
        if not recipients:
            raise ConfigError("smtp_email: no recipient: give recipient_email in the alerter or in the params")
        question, images = message._question, message._files(self.flavor)
        token = question.token if question else _secrets.token_hex(8)
        subject = (getattr(params, "subject", None) or message._plain_title()
                   or _clean(message.body or "Alert").strip().split("\n")[0])
        subject = _header(f"{self._option(params, 'subject_prefix', '')} {subject}".strip(), 180)
        mail = self._new_mail(subject + (f" [#{token}]" if question else ""), recipients, token,
                              str(message._reply_to.ref.get("message_id")) if message._reply_to else "")
        text, inline, attached = message._as_text(images) + "\n", [], [image for image in images if image.data]
        if len(text) > _MAIL_MAX:
            attached.append(_File(_TEXT_FILE, text.encode("utf-8")))
            message = _shortened(message)
            text = message._as_text(images) + "\n"
        mail.set_content(text)
        if self._option(params, "include_html", True):
            html_body = getattr(params, "html_body", None)
            mail.add_alternative(_clean(html_body) if html_body else _mail_html(message, images), subtype="html")
            inline = [image for image in attached if image.image and not html_body]
            for image in inline:
                mail.get_payload()[1].add_related(  # type: ignore[index, union-attr]
                    _placeholder(image), *image.type.split("/"), cid=f"<image{images.index(image)}>", cte="8bit",
                    filename=image.name, disposition="inline")
        attached = [file for file in attached if file not in inline]
        for file in attached:
            kind = file.type.partition(";")[0].split("/")
            mail.add_attachment(_placeholder(file), *kind, cte="8bit", filename=file.name)
        for part in mail.walk():
            if part.get("Content-Transfer-Encoding") == "8bit":
                part.replace_header("Content-Transfer-Encoding", "base64")
        return mail, recipients, inline + attached

    def _smtp(self, until: float) -> _smtplib.SMTP:
        """Return a connection that is encrypted and logged in as the fields say. Raises DeliveryError."""
        at_once = self.use_tls == "ssl" or self.use_tls is True and self.smtp_port == 465
        options: _Dict = {"timeout": _SOCKET_TIMEOUT, "local_hostname": "[127.0.0.1]"}  # else a slow look-up of our name
        user, password = self.username or self.sender_email, _reveal(self.password, "smtp_email: password")
        for told in (f"\0{user}\0{password}", password) if password else ():  # as a server may repeat them
            _remember_secret(_base64.b64encode(told.encode("utf-8", "replace")).decode())
        context = _tls()
        session = _smtplib.SMTP_SSL(context=context, **options) if at_once else _smtplib.SMTP(**options)
        session._host = self.smtp_server  # type: ignore[attr-defined]  # the name to verify; connect does not set it
        try:
            with _cut_off(until - self.clock.monotonic(), lambda: session.sock):
                _expect(session.connect(self.smtp_server, self.smtp_port), 220)
                if self.use_tls and not at_once:
                    session.ehlo_or_helo_if_needed()
                    if not session.has_extn("starttls"):
                        raise _smtplib.SMTPNotSupportedError("the server offers no STARTTLS, and TLS is wanted")
                    session.starttls(context=context)
                session.ehlo_or_helo_if_needed()
                if password:
                    session.login(user, password)
            return session
        except (OSError, ValueError) as caught:
            error = _smtp_failure(caught, False)
        session.close()
        raise error

    def _deliver(self, mail: _email_message.EmailMessage, recipients: Sequence[str], files: Sequence[_File]) -> None:
        """Send the mail; whoever has it is not sent it again. Raises DeliveryError, "partial" if some have it."""
        refused: dict[str, DeliveryError] = {}
        left, flat = list(recipients), mail.as_bytes()
        failed, until = None, self._until(_UPLOAD_BUDGET if files else _SEND_BUDGET)
        try:  # the Message-ID is the same each time
            _insist(lambda: self._transact(flat, files, left, refused, until), self.clock, until, sure=True)
        except DeliveryError as error:
            failed = error
            refused.update({address: error for address in left})
        if refused:
            worst = next((error for error in refused.values() if error._final), failed or next(iter(refused.values())))
            some = len(refused) < len(recipients)
            why = {address: error.args[0].partition(": ")[2] for address, error in refused.items()}
            what = "refused: " + ", ".join(f"{address} ({reason})" for address, reason in why.items())
            if failed and not some and set(refused.values()) == {failed}:
                what = why[recipients[0]]  # it is not about the recipients
            raise _failure(self.flavor, what, status=worst.status, code=worst.code, hint=worst.hint, final=worst._final,
                           outcome="partial" if some else worst.outcome)

    def _transact(self, flat: bytes, files: Sequence[_File], left: list[str], refused: dict[str, DeliveryError],
                  until: float) -> None:
        """Send to all in `left`: take out those who have it and, into `refused`, those who never will."""
        session, in_data, later = self._smtp(until), False, None
        timer = contextlib.ExitStack()
        timer.enter_context(_cut_off(until - self.clock.monotonic(), lambda: session.sock))
        try:
            _expect(session.mail(self.sender_email), 250)
            accepted = []
            for address in list(left):
                code, words = session.rcpt(address)
                if code in (250, 251):
                    accepted.append(address)
                elif 500 <= code < 600:
                    refused[address] = _smtp_failure(_smtplib.SMTPResponseException(code, words), False)
                    left.remove(address)
                else:
                    later = _smtp_failure(_smtplib.SMTPResponseException(code, words), False)
            if accepted:
                _expect(session.docmd("DATA"), 354)
                in_data = True
                for piece in _on_the_wire(flat, files):
                    session.send(piece)
                answer = session.getreply()
                in_data = not 200 <= answer[0] < 600
                _expect(answer, 250)
                left[:] = [address for address in left if address not in accepted]
            with contextlib.suppress(OSError):  # how the server says good-bye does not matter
                session.quit()
            error = later
        except (OSError, ValueError) as caught:
            error = _smtp_failure(caught, in_data)
        finally:
            timer.close()
            session.close()
        if error:
            raise error

    def _preview(self, message: AlerterMessage) -> str:
        return self._compose(message, None)[0].as_bytes().decode("ascii", "replace").replace("\r\n", "\n")

    def _cannot_ask(self) -> str:
        return "" if self.imap_server else "an e-mail alerter needs imap_server to read the answers"

    def _say(self, question: Question, text: str, to: str | None) -> None:
        people = [_address(to, "reply")] if to else question._state.get("recipients") or self._recipients(self.recipient_email)
        mail = self._new_mail(_header(f"Re: {question._state['text']}", 150) + f" [#{question.token}]", people,
                              f"{question.token}.{_secrets.token_hex(4)}", str(question.ref.get("message_id")))
        mail.set_content(_clean(text).replace("`", "") + "\n")
        self._deliver(mail, people, [])

    def _imap(self, until: float) -> _imaplib.IMAP4_SSL:
        class Connection(_imaplib.IMAP4_SSL):
            def _create_socket(self, *_: object) -> _socket.socket:  # imaplib has no timeout before 3.9
                made.append(_socket.create_connection((self.host, self.port), _SOCKET_TIMEOUT))
                made.append(context.wrap_socket(made[-1], server_hostname=self.host))
                return made[-1]

        made: list[_socket.socket] = []
        context = _tls()
        password = _reveal(self.imap_password or self.password, "smtp_email: imap_password")
        user = re.sub(r'(["\\])', r"\\\1", self.imap_username or self.username or self.sender_email)
        session: Connection | None = None
        try:
            with _cut_off(until - self.clock.monotonic(), lambda: made[-1]):
                session = Connection(self.imap_server, self.imap_port, ssl_context=context)
                session.login(f'"{user}"', password)
            return session
        except (OSError, ValueError, _imaplib.IMAP4.error) as caught:
            error = _transport_failure(self.flavor, caught, False)
            if session is not None and not isinstance(caught, (OSError, _imaplib.IMAP4.abort)):
                passing = "[UNAVAILABLE]" in str(caught).upper()
                error = _failure(self.flavor, f"IMAP log-in refused: {caught}", final=not passing, again=passing,
                                 hint="check imap_username and imap_password; Gmail and others want an app password")
        if session is not None:
            with contextlib.suppress(OSError):
                session.shutdown()
        for sock in made:
            sock.close()
        raise error

    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return what the recipients newly wrote in answer to the question. Reads only, and marks nothing as seen."""
        memo = question._memo
        try:
            if "imap" not in memo:
                until = self._until()
                memo["imap"] = _insist(lambda: self._imap(until), self.clock, until, tries=1)
            with _cut_off(_SEND_BUDGET, lambda: memo["imap"].sock):
                return self._read(memo["imap"], question)
        except ConfigError:
            raise
        except (OSError, ValueError, _imaplib.IMAP4.error) as caught:
            error = _transport_failure(self.flavor, caught, False)
        self._release(question)
        raise error

    def _read(self, session: _imaplib.IMAP4_SSL, question: Question) -> list[_Dict]:
        memo, token = question._memo, question.token
        if session.select("INBOX", readonly=True)[0] != "OK":
            raise ValueError("INBOX cannot be opened")
        validity = session.response("UIDVALIDITY")[1]
        if memo.get("validity") != validity:
            memo.update(validity=validity, seen={})
        since = time.gmtime(question._state["asked"] - 86400)  # SINCE knows days only, and not whose
        month = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()[since.tm_mon - 1]
        status, found = session.uid("SEARCH", "SINCE", f"{since.tm_mday}-{month}-{since.tm_year}")
        if status != "OK":
            raise ValueError("the mailbox cannot be searched")
        seen: dict[str, _Dict | None] = memo["seen"]
        new = [uid for row in found if row for uid in re.findall(r"(?<!\S)\d+(?!\S)", row.decode("ascii", "replace"))
               if uid not in seen]
        mine = []
        for start in range(0, len(new), 100):
            for uid, _, data in _fetched(session, new[start:start + 100], "BODY.PEEK[HEADER]"):
                seen[uid] = None
                if token.encode() in re.sub(rb"\s+", b"", data.lower()):  # long headers are folded anywhere
                    mine.append(uid)
        allowed = question._state.get("approvers") or question._state.get("recipients") or self.recipient_email
        allowed = [self._person(address) for address in allowed]
        for uid in mine:
            del seen[uid]  # until it is read, a broken connection must not lose it
        for uid, arrived, data in _fetched(session, mine, "BODY.PEEK[]"):
            try:
                seen[uid] = _mail_answer(data, token, allowed, arrived)
            except Exception as error:  # whatever a hostile mail makes the parsers raise costs that mail alone
                seen[uid] = None
                _log().debug("smtp_email: a mail that cannot be read: %s", _one_line(error))
        return [reply for _, reply in sorted(seen.items(), key=lambda item: int(item[0])) if reply]

    def _person(self, name: str) -> str:
        with contextlib.suppress(ConfigError):
            return _address(name, "address").casefold()
        return ""

    def _release(self, question: Question) -> None:
        session = question._memo.pop("imap", None)
        if session is not None:
            try:
                session.logout()
            except (OSError, _imaplib.IMAP4.error):
                with contextlib.suppress(OSError):
                    session.shutdown()


def _address(text: Any, what: str) -> str:
    """Return one mail address, its domain in ASCII."""
    local, _, domain = str(text).strip().rpartition("@")
    try:
        if re.fullmatch(_ADDRESS, f"{local}@{domain}"):
            return f"{local}@{domain.encode('idna').decode()}"
    except UnicodeError:
        pass
    raise ConfigError(f"smtp_email: {what}: {_one_line(text, 60)!r} is not a mail address")


def _shortened(message: AlerterMessage) -> AlerterMessage:
    """Return a message that a mail can show: the middle of the body and the end of long metadata left out visibly."""
    body = _squeeze([("text", line) for line in _clean(message.body or "").split("\n")], _MAIL_MAX // 2)
    fields = {_one_line(k, 200): _one_line(v, 1000) for k, v in itertools.islice(message.metadata.items(), 30)}
    more = len(message.metadata) - len(fields)
    fields.update({"…": f"{more:,} more in {_TEXT_FILE}"} if more > 0 else {})
    return message._with(title=_one_line(message.title or "", 300), metadata=fields,
                         body="\n".join(line for _, line in body))


def _header(text: str, limit: int) -> str:
    """Return text for a header: one line, and no encoded word, which older Pythons decode into new headers."""
    return _one_line(text.replace("=?", "= ?"), limit)


def _placeholder(file: _File) -> bytes:
    return b"alerters-file-%x" % id(file)


def _on_the_wire(flat: bytes, files: Sequence[_File]) -> Iterator[bytes]:
    """Yield the mail for DATA: dots doubled, each placeholder replaced by its file in base64, 57 KB at a time."""
    flat = re.sub(rb"(?m)^\.", b"..", flat)
    for file in files:
        before, _, flat = flat.partition(_placeholder(file))
        yield before
        for start in range(0, len(file.data), 57 * 1024):
            yield _base64.encodebytes(memoryview(file.data)[start:start + 57 * 1024]).replace(b"\n", b"\r\n")
    yield flat + (b"" if flat.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def _expect(answer: tuple[int, bytes], code: int) -> None:
    if answer[0] != code:
        raise _smtplib.SMTPResponseException(*answer)


def _smtp_failure(error: BaseException, in_data: bool) -> DeliveryError:
    """Return the DeliveryError for what smtplib raised; from DATA on nobody knows whether it arrived."""
    status, words = getattr(error, "smtp_code", 0), getattr(error, "smtp_error", b"")
    if 200 <= status < 600:
        again = 400 <= status < 500
        return _failure("smtp_email", f"{status} {words.decode('utf-8', 'replace')}", status=status, again=again,
                        final=not again, hint=_SMTP_HINTS.get(status) or (
                            "the server asks to try later" if again else "the server refused it; its words say why"))
    if type(error).__name__ in ("SMTPNotSupportedError", "SMTPException") or isinstance(error, UnicodeError):
        return _failure("smtp_email", _reason(error), final=True,
                        hint="check smtp_port, use_tls, and how the server wants you to log in")
    return _transport_failure("smtp_email", error, in_data)


def _fetched(session: _imaplib.IMAP4_SSL, uids: list[str], what: str) -> Iterator[tuple[str, float | None, bytes]]:
    """Yield (uid, time of arrival, bytes) of mails. UIDs are digits from the server, `what` is ours: no quoting."""
    status, rows = session.uid("FETCH", ",".join(uids), f"(UID INTERNALDATE {what})") if uids else ("OK", [])
    if status != "OK":
        raise ValueError("the mails cannot be fetched")
    for row, after in zip(rows, [*rows[1:], b""]):
        if isinstance(row, tuple):
            facts = row[0] + b" " + (after if isinstance(after, bytes) else b"")
            uid, arrived = re.search(rb"UID (\d+)", facts), _imaplib.Internaldate2tuple(facts)
            if uid:
                yield uid[1].decode(), time.mktime(arrived) if arrived else None, row[1]


def _mail_answer(data: bytes, token: str, allowed: Iterable[str], arrived: float | None) -> _Dict | None:
    """Return a mail as an answer, or None: an automatic mail, of somebody else, or without the token."""
    raw = _email.message_from_bytes(data)
    mail = _email.message_from_bytes(data, policy=_email_policy.default)

    def all_of(name: str) -> list[str]:
        return [" ".join(str(value).split()) for value in raw.get_all(name, [])]

    subject = "".join(all_of("Subject")).replace(" ", "").lower()  # long ones are folded anywhere
    if not any(token in value for value in [subject, *all_of("In-Reply-To"), *all_of("References")]):
        return None
    senders = all_of("From")  # one, of one person: a doubled one is nobody, and so is one that names another
    found = re.fullmatch(rf"([^<>,;:\"]*|\"(?:[^\"\\]|\\.)*\")\s*<({_ADDRESS})>|({_ADDRESS})", senders[0] if len(senders) == 1
                         else "")
    by = (found[2] or found[3]) if found else ""
    if found and found[1] and any(name.casefold() != by.casefold() for name in re.findall(_ADDRESS, found[1].strip("'\" "))):
        return None
    automatic = (any(value.split(";")[0].strip().lower() != "no" for value in all_of("Auto-Submitted"))
                 or any(value.lower() in ("bulk", "junk", "list", "auto_reply") for value in all_of("Precedence"))
                 or "<>" in all_of("Return-Path") or raw.get_content_type() == "multipart/report"
                 or any(name in raw for name in ("X-Autoreply", "X-Autorespond", "X-Autoreply-From", "List-Id"))
                 or re.match(_ABSENT, str(mail["Subject"]).strip()))
    if automatic or not by or _address(by, "From").casefold() not in allowed:
        return None
    text = next((part.get_content() for part in [mail.get_body(("plain",))] if part), "")
    text = text if text.strip() else next(
        (_html_text(part.get_content()) for part in [mail.get_body(("html",))] if part), "")
    return {"by": by, "text": _newly_written(text), "via": "email", "at": arrived}


def _newly_written(text: str) -> str:
    """Return what the writer added: quotes, attribution lines and signature taken off."""
    text = "\n".join("-- " if line.strip() == "--" else line.strip("\ufeff\u200b \t\r\xa0") for line in text.split("\n"))
    begin = re.search(_QUOTE_BEGINS, text)
    text = re.sub(_PHONE, "", re.sub(_ATTRIBUTION, "", text[:begin.start()] if begin else text))
    lines = [line for line in text.split("\n") if not line.startswith(">")]
    return "\n".join(lines[:lines.index("-- ")] if "-- " in lines else lines).strip()


def _html_text(source: str) -> str:
    """Return an HTML mail as text, a quoted part as a line `>`, all that Outlook quotes cut off by a line ____."""
    class Reader(_html_parser.HTMLParser):
        out: list[str] = []
        skipped: list[str] = []  # the open elements inside a quote or a script

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            marks = " ".join(str(value) for name, value in attrs if name in ("class", "id"))
            silent = tag in ("style", "script", "head", "title")
            if re.search("divRplyFwdMsg|appendonsend", marks):
                self.out.append("\n__________quoted\n")
            if tag in ("s", "del", "strike") or "line-through" in str(attrs):
                self.out.append("~~")  # struck out: not an answer
            if tag in ("br", "p", "div", "tr", "li", "hr"):
                self.out.append("\n")
            if tag not in ("br", "hr", "img", "meta", "link", "input", "wbr", "col") and (
                    self.skipped or silent or tag == "blockquote" or "gmail_quote" in marks):
                self.out.append("" if self.skipped or silent else "\n>\n")
                self.skipped.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag in self.skipped:
                while self.skipped.pop() != tag:
                    pass
            elif tag in ("p", "div", "tr", "li"):
                self.out.append("\n")

        def handle_data(self, data: str) -> None:
            self.out.append("" if self.skipped else re.sub(r"\s+", " ", data))

    reader = Reader()
    reader.out, reader.skipped = [], []
    reader.feed(re.sub(r"<!\[[^>]*>", "", source))  # Outlook's conditions, which older parsers stumble over
    reader.close()
    return "".join(reader.out)


_FONT = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px"
_DARK = ("<style>@media (prefers-color-scheme:dark){.al-page{background:#111827!important}.al-card{background:#1f2937"
         "!important}.al-card,.al-card td,.al-card h1,.al-card th{color:#e5e7eb!important}.al-card pre,.al-card code"
         "{background:#111827!important;color:#e5e7eb!important}.al-card a{color:#93c5fd!important}}</style>")


def _mail_html(message: AlerterMessage, images: list[_File], inline: bool = False) -> str:
    """Return the message as HTML: tables for layout, styles inline, nothing from outside but image URLs.

    inline: a fragment for a notebook, images as data: URLs; otherwise a whole page, images by cid:.
    """
    def mark(style: str, text: str, url: str) -> str:
        safe = _html.escape(text)
        if style == "link":
            return f'<a href="{_html.escape(url)}" style="color:#2563eb">{safe}</a>'
        if style == "code":
            return f'<code style="{_MONO};background:#f3f4f6;padding:1px 4px;border-radius:4px">{safe}</code>'
        tag = {"bold": "strong", "italic": "em"}.get(style)
        return f"<{tag}>{safe}</{tag}>" if tag else safe

    def row(content: str, style: str = "") -> None:
        rows.append(f'<tr><td style="padding:8px 24px;{_FONT};font-size:15px;line-height:1.55;color:#1f2937;'
                    f'word-break:break-word;{style}">{content}</td></tr>' if content.strip() else "")

    color = f"#{_LEVELS[message.level][1]:06x}"
    rows = [f'<tr><td style="height:4px;line-height:4px;font-size:0;background:{color};border-radius:8px 8px 0 0">'
            "&nbsp;</td></tr>"]
    row("" if message.level == "info" else message.level.capitalize(), "padding-top:16px;padding-bottom:0;font-size:12px;"
        f"font-weight:600;color:{color}!important;text-transform:uppercase;letter-spacing:.06em")
    title = _html.escape(message._plain_title())
    row(title and f'<h1 style="margin:8px 0 0;font-size:20px;line-height:1.3;color:#111827">{title}</h1>')
    pre = (f'<pre style="{_MONO};margin:8px 0;padding:12px;background:#f3f4f6;border-radius:6px;white-space:pre-wrap;'
           'word-break:break-word;line-height:1.45">')
    row(_render(_lines(_clean(message.body or "").rstrip()), mark, (pre, "</pre>"), "<br>\n"))
    cell = "padding:6px 12px 6px 0;border-bottom:1px solid #e5e7eb;font-size:14px;vertical-align:top;text-align:left"
    cells = "".join(f'<tr><th style="{cell};color:#6b7280;font-weight:500;width:34%">{_html.escape(_clean(k))}</th>'
                    f'<td style="{cell};word-break:break-word">{_html.escape(_clean(v))}</td></tr>'
                    for k, v in message.metadata.items())
    row(cells and f'<table role="presentation" width="100%" cellpadding="0" cellspacing="0" style="{_FONT}">{cells}</table>')
    asks = message._question._instructions() if message._question else []
    row(_render([("text", line) for line in asks], mark, end="<br>\n"), "font-size:14px")
    for number, image in enumerate(images):
        data = _base64.b64encode(image.data).decode() if inline else ""
        source = image.url or (f"data:{image.type};base64,{data}" if inline else f"cid:image{number}")
        row(f'<img src="{_html.escape(source)}" alt="{_html.escape(image.name)}" width="552" style="display:block;'
            'width:100%;max-width:552px;height:auto;border-radius:6px">' if image.url or image.image
            else _html.escape(f"[{image.label}]"))
    card = (f'<table class="al-card" role="presentation" width="600" align="center" cellpadding="0" cellspacing="0" style="'
            f'width:100%;max-width:600px;margin:0 auto;background:#ffffff;border-radius:8px">{"".join(rows)}'
            '<tr><td style="height:16px">&nbsp;</td></tr></table>')
    return card if inline else (
        '<!DOCTYPE html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark">{_DARK}</head><body class="al-page" style="margin:0;padding:0;'
        'background:#f3f4f6"><table class="al-page" role="presentation" width="100%" cellpadding="0" cellspacing="0" '
        f'style="background:#f3f4f6"><tr><td style="padding:24px 12px">{card}</td></tr></table></body></html>')


# === Console ===


@dataclasses.dataclass(repr=False, eq=False)
class ConsoleAlerter(BaseAlerter):
    """The terminal this runs in: writes to stderr, asks whoever sits there. In a notebook it uses the input box."""

    flavor = "console"
    case_sensitive = False
    _answer_by = "Type"
    _shows_questions = True

    def send(self, message: str | AlerterMessage, params: AlerterParameters | None = None) -> Receipt:
        """Write the message to stderr."""
        message, params = self._checked(message, params)
        mark = "?" if message._question else {"info": "i", "success": "+", "warning": "!", "error": "!!"}[message.level]
        text = message._as_text(message._files(self.flavor), "\n").replace("\n", "\n    ")
        self._write(f"[{mark}] {text}")
        return Receipt(self._label, {})

    def check(self) -> str:
        """Tell whether somebody can be asked here."""
        return f"ok    writes to stderr; {self._cannot_ask() or 'asks on this terminal'}"

    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return the lines typed since the last poll."""
        lines = []
        if _in_notebook():
            try:
                lines.append(input("Answer: "))
            except (NotImplementedError, EOFError) as error:
                raise AskNotSupported(f"console: this notebook has no input box: {_reason(error)}") from None
        else:
            while self._ready(0):
                lines.append(sys.stdin.readline())
                if not lines[-1]:
                    raise _failure("console", "the terminal was closed", final=True, hint="run it in a terminal")
        return [{"by": _getpass.getuser(), "text": line, "via": "console", "at": self.clock.now()} for line in lines]

    def _pause(self, question: Question, seconds: float) -> None:
        if not _in_notebook():
            self._ready(seconds)

    def _ready(self, seconds: float) -> bool:
        """Wait for a typed line, for so many seconds at most."""
        if sys.platform != "win32":
            return bool(importlib.import_module("select").select([sys.stdin], [], [], max(seconds, 0))[0])
        import msvcrt

        end = time.monotonic() + seconds
        while not msvcrt.kbhit() and time.monotonic() < end:
            time.sleep(0.05)
        return msvcrt.kbhit()

    def _say(self, question: Question, text: str, to: str | None) -> None:
        self._write("    " + _clean(text).replace("`", ""))

    def _write(self, text: str) -> None:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        try:
            sys.stderr.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError) as error:
            raise _failure(self.flavor, _reason(error), hint="stderr is closed") from None

    def _cannot_ask(self) -> str:
        if _in_notebook() or sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
            return ""
        return "standard input is not a terminal, so there is nobody to answer; register an alerter that can ask"


def _in_notebook() -> bool:
    """True where ipykernel has put its input box in place of input()."""
    return "ipykernel" in sys.modules and hasattr(getattr(input, "__self__", None), "_allow_stdin")


# === Flavors ===
FLAVORS: dict[str, type[BaseAlerter]] = {
    cls.flavor: cls for cls in (SlackAlerter, DiscordAlerter, SMTPEmailAlerter, ConsoleAlerter)}


def register_flavor(flavor: Any) -> Any:
    """Add a flavor to FLAVORS: as a class decorator, or by "package.module.Class". Returns the class."""
    path = flavor if isinstance(flavor, str) else ""
    if path:
        try:
            module, _, name = path.rpartition(".")
            flavor = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:  # a module of one's own may raise anything when it is imported
            raise ConfigError(f"flavor {path}: cannot import it ({_one_line(error)}): write package.module.Class, and run "
                              "where the package can be imported") from None
    if not (isinstance(flavor, type) and issubclass(flavor, BaseAlerter) and dataclasses.is_dataclass(flavor)
            and isinstance(flavor.flavor, str) and flavor.flavor):
        raise ConfigError(f"flavor {path or flavor!r}: it must be a dataclass on BaseAlerter with a name in `flavor`")
    FLAVORS[flavor.flavor] = flavor
    return flavor


def _flavor(name: Any, data: Mapping[str, Any] = {}) -> type[BaseAlerter]:
    """Return a flavor's class. data: a store, which may know where a flavor of one's own is."""
    if isinstance(name, str) and name not in FLAVORS and name in data.get("flavors", {}):
        register_flavor(data["flavors"][name])
    if not isinstance(name, str) or name not in FLAVORS:
        raise ConfigError(f"no flavor {name!r}; {_did_you_mean(str(name), {*FLAVORS, *data.get('flavors', {})})}")
    return FLAVORS[name]


def _build(cls: type[BaseAlerter], fields: Mapping[str, Any], where: str) -> BaseAlerter:
    """Return the alerter that has these fields; a wrong name says what was meant."""
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in set(fields) - set(known):
        raise ConfigError(f"{where}: flavor {cls.flavor} has no field {name!r}; {_did_you_mean(name, known)}")
    missing = [name for name, field in known.items() if name not in fields and field.init
               and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing")
    return cls(**fields)


def _parsed(field: _Field, text: str, where: str) -> Any:
    """Return the value of a field that was written as text, in the environment or on the command line."""
    kind, word = _kind(field), text.strip().lower()
    if kind == "list":
        return [item.strip() for item in text.split(",") if item.strip()]
    if kind == "bool" and word not in ("ssl", "starttls"):
        if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            raise ConfigError(f"{where} must be true or false, not {text!r}")
        return word in ("true", "yes", "on", "1")
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except ValueError:
        raise ConfigError(f"{where} must be a number, not {text!r}") from None


def _from_environment() -> BaseAlerter | None:
    """Return the alerter of $ALERTERS_FLAVOR and $ALERTERS_<FIELD>, or None."""
    name = os.environ.get("ALERTERS_FLAVOR")
    if not name:
        return None
    cls = _flavor(name, {} if name in FLAVORS else StackStore()._load())
    fields = {field.name: _parsed(field, os.environ[variable], f"${variable}")
              for field in dataclasses.fields(cls)  # type: ignore[arg-type]
              for variable in [f"ALERTERS_{field.name.upper()}"] if os.environ.get(variable)}
    return _build(cls, fields, "environment")


# === The store ===


class StackStore:
    """The alerters and stacks in one JSON file, readable by hand, written only under a lock.

    path: default `$ALERTERS_STORE`, else `alerters/stacks.json` in the user's configuration folder. Raises StoreError
    when the file cannot be used, ConfigError for a name that does not fit. Reading never writes.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        home = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME") or os.path.join("~", ".config")
        chosen = path or os.environ.get("ALERTERS_STORE") or os.path.join(home, "alerters", "stacks.json")
        self.path = os.path.realpath(os.path.expanduser(os.fspath(chosen)))

    def register_alerter(self, name: str, flavor: str, /, **fields: Any) -> BaseAlerter:
        """Add an alerter under a new name and return it."""
        with self._changing() as data:
            _check_new("alerter", name, data["alerters"], "update changes it")
            _build(_flavor(flavor, data), fields, f"alerter {name}")
            data["alerters"][name] = {"flavor": flavor, **_plain(fields)}
        return self.load_alerter(name)

    def update_alerter(self, name: str, /, **fields: Any) -> BaseAlerter:
        """Change fields of an alerter and return it; a field given as None goes back to its default."""
        with self._changing() as data:
            entry = {**_entry(data, "alerters", name), **_plain(fields)}
            entry = {key: value for key, value in entry.items() if value is not None}
            _from_entry(entry, data, name)
            data["alerters"][name] = entry
        return self.load_alerter(name)

    def delete_alerter(self, name: str) -> None:
        """Remove an alerter that no stack names."""
        with self._changing() as data:
            _entry(data, "alerters", name)
            users = [stack for stack, members in data["stacks"].items() if name in members]
            if users:
                raise ConfigError(f"alerter {name!r} is in the stack {', '.join(users)}: delete or change that first")
            del data["alerters"][name]

    def alerters(self) -> dict[str, dict[str, Any]]:
        """Return {name: fields}, "flavor" among them; the repr of a secret is masked."""
        data = self._load()
        found: dict[str, _Dict] = data["alerters"]
        for entry in found.values():
            names = {name for name in entry if re.search(_SECRET_NAME, name, re.I)}
            with contextlib.suppress(ConfigError):  # a flavor that cannot be imported here is judged by its names
                names |= {f.name for f in dataclasses.fields(_flavor(entry["flavor"], data)) if _is_secret(f)}  # type: ignore[arg-type]
            entry.update({name: _Secret(entry[name]) for name in names
                          if isinstance(entry.get(name), str) and not re.fullmatch(_REFERENCE, entry[name])})
        return found

    def register_stack(self, name: str, alerters: str | Sequence[str], activate: bool = False) -> None:
        """Add a stack of one or several alerters; the first one registered becomes active."""
        with self._changing() as data:
            _check_new("stack", name, data["stacks"], "delete it first, or choose another name")
            members = list(_names(alerters or None, "a stack's alerters") or ())
            if not members:
                raise ConfigError("a stack needs an alerter")
            for member in members:
                _entry(data, "alerters", member)
            if activate or list(data["stacks"]) == ["default"]:
                data["active_stack"] = name
            data["stacks"][name] = members

    def delete_stack(self, name: str) -> None:
        """Remove a stack that is not the active one."""
        with self._changing() as data:
            _entry(data, "stacks", name)
            if name == data["active_stack"]:
                raise ConfigError(f"stack {name!r} is active: set another one first")
            del data["stacks"][name]

    def set_active_stack(self, name: str) -> None:
        """Make a stack the one that is used when none is named."""
        with self._changing() as data:
            _entry(data, "stacks", name)
            data["active_stack"] = name

    def stacks(self) -> dict[str, list[str]]:
        """Return {name: [alerter, …]}."""
        return {name: list(members) for name, members in self._load()["stacks"].items()}

    def active_stack(self) -> str:
        """Return the name of the stack in use; `$ALERTERS_STACK` chooses one for this process."""
        return os.environ.get("ALERTERS_STACK") or str(self._load()["active_stack"])

    def load_alerter(self, name: str | None = None) -> BaseAlerter:
        """Return an alerter by its name, or the first of the active stack."""
        return self._alerters_of(name)[0]

    def _alerters_of(self, name: str | None = None, stack: str | None = None) -> list[BaseAlerter]:
        """Return one alerter by name, or all of a stack, the active one if none is named."""
        data = self._load()
        stack = stack or os.environ.get("ALERTERS_STACK") or data["active_stack"]
        found = []
        for member in [name] if name else _entry(data, "stacks", stack):
            alerter = _from_entry(_entry(data, "alerters", member), data, member)
            alerter._set("_origin", (member, self.path))
            found.append(alerter)
        return found

    def _questions(self) -> dict[str, _Dict]:
        return dict(self._load().get("questions", {}))

    def _save_question(self, key: str, state: _Dict | None) -> None:
        with self._changing() as data:
            questions = data.setdefault("questions", {})
            old = questions.pop(key, None)
            if state is not None:
                questions[key] = state
                if old and old["token"] != state["token"]:  # whoever still waits for it is not to be approved by it
                    closed = {**data.get("closed", {}), old["token"]: old["deadline"]}
                    data["closed"] = {token: end for token, end in closed.items() if end > old["asked"]}

    def _load(self) -> _Dict:
        try:
            with open(self.path, encoding="utf-8") as file:
                data = _json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            data = {}
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{self.path}: cannot be read ({_one_line(_reason(error), 120)}); it was left as it is: "
                             "mend it, or move it away to begin anew") from None
        shapes = (("alerters", lambda entry: isinstance(entry, dict) and isinstance(entry.get("flavor"), str)),
                  ("stacks", lambda members: isinstance(members, list) and members and all(
                      isinstance(member, str) for member in members)),
                  ("flavors", lambda path: isinstance(path, str)),
                  ("questions", lambda state: isinstance(state, dict) and {"token", "deadline", "text"} <= set(state)))
        if not isinstance(data, dict) or not isinstance(data.get("active_stack", ""), str) or not all(
                isinstance(data.get(part, {}), dict) and all(map(good, data.get(part, {}).values())) for part, good in shapes):
            raise StoreError(f"{self.path}: this is no store of alerters; it was left as it is: mend it, or move it away")
        if not isinstance(data.get("version", 1), int) or data.get("version", 1) > 1:
            raise StoreError(f"{self.path}: written by a later version ({data['version']}); it was left as it is: use a "
                             "newer alerters.py")
        return {"version": 1, "alerters": {"console": {"flavor": "console"}}, "stacks": {"default": ["console"]},
                "active_stack": "default", **data}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Dict]:
        """Read the file, let it be changed, and write it, all under its lock; a failure leaves the old file."""
        with _locked(self.path + ".lock"):
            data = self._load()
            yield data
            draft = self.path + ".tmp"
            try:
                text = (_json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)
                with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, self.path)
                if os.name != "nt":
                    folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
                    os.fsync(folder)
                    os.close(folder)
            except (OSError, TypeError, ValueError) as error:
                raise StoreError(f"{self.path}: cannot be written ({_reason(error)}); nothing was changed") from None


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock file; a process that dies lets go of it."""
    file, end = -1, time.monotonic() + 60
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        while not _lock(file):
            if time.monotonic() > end:
                raise TimeoutError("another process holds it")
            time.sleep(0.01)
    except OSError as error:
        if file >= 0:
            os.close(file)
        raise StoreError(f"{path}: cannot be locked ({_reason(error)}): choose another store with $ALERTERS_STORE, or use "
                         "$ALERTERS_FLAVOR, which needs no file") from None
    try:
        yield
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):
        return False


def _entry(data: _Dict, kind: str, name: Any) -> Any:
    if name not in data[kind]:
        raise ConfigError(f"no {kind[:-1]} {name!r}; {_did_you_mean(str(name), data[kind])}")
    return data[kind][name]


def _from_entry(entry: _Dict, data: _Dict, name: str) -> BaseAlerter:
    fields = {key: value for key, value in entry.items() if key != "flavor"}
    return _build(_flavor(entry.get("flavor"), data), fields, f"alerter {name}")


def _check_new(kind: str, name: Any, known: Mapping[str, Any], instead: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"{kind} {name!r}: a name is letters, digits, _ . and -")
    if name in known:
        raise ConfigError(f"{kind} {name!r} exists already: {instead}")


def _plain(fields: Mapping[str, Any]) -> _Dict:
    """Return fields for JSON: tuples as lists, secrets as plain text."""
    return {key: list(value) if isinstance(value, (tuple, set)) else str(value) if isinstance(value, str) else value
            for key, value in fields.items()}


# === Posting and asking from anywhere ===
_WARNED: list[bool] = []


def _targets(alerter: BaseAlerter | str | None = None, stack: str | None = None, warn: bool = True) -> list[BaseAlerter]:
    """Return the alerters to use: the object, the name, the stack, the environment's, or the active stack's."""
    if isinstance(alerter, BaseAlerter):
        return [alerter]
    if alerter is not None and not isinstance(alerter, str):
        raise ConfigError(f"alerter must be a name or an alerter, not {type(alerter).__name__}")
    if alerter or stack:
        return StackStore()._alerters_of(alerter, stack)
    configured = _from_environment()
    if configured:
        return [configured]
    store = StackStore()
    found = store._alerters_of()
    seen = _in_notebook() or sys.stderr and sys.stderr.isatty()
    if store.active_stack() == "default" and [a.flavor for a in found] == ["console"] and warn and not seen and not _WARNED:
        _WARNED.append(True)
        _log().warning("alerts only reach the console: register an alerter and a stack, or set $ALERTERS_FLAVOR")
    return found


_ASK_FIELDS = ("approve_msg_options", "disapprove_msg_options", "approvers", "timeout", "mention")


def _arguments(message: Any, params: AlerterParameters | None, fields: _Dict,
               allowed: Sequence[str]) -> tuple[AlerterMessage, AlerterParameters | None]:
    """Return message and params, with the keyword fields put where they belong."""
    own = {"title", "metadata", "images", "level"}
    for name in set(fields) - {*own, *allowed, "reply_to"}:
        raise ConfigError(f"no option {name!r}; {_did_you_mean(name, {*own, *allowed, 'reply_to'})}")
    said = {name: fields.pop(name) for name in own & set(fields)}
    if said and not isinstance(message, str):
        raise ConfigError(f"{', '.join(sorted(said))}: put it into the AlerterMessage, or pass the message as text")
    message = AlerterMessage(body=message, **said) if isinstance(message, str) else _message(message)
    reply_to = fields.pop("reply_to", None)
    if not isinstance(reply_to, (Receipt, type(None))):
        raise ConfigError("reply_to must be the Receipt that send returned")
    params = _params(params)
    return (message._with(_reply_to=reply_to) if reply_to else message,
            dataclasses.replace(params or AlerterParameters(), **fields) if fields else params)


def post(message: str | AlerterMessage, params: AlerterParameters | None = None, *,
         alerter: BaseAlerter | str | None = None, **fields: Any) -> bool:
    """Return True once every alerter of the active stack took the message, else False (reasons logged at ERROR).

    alerter: a name or an alerter in place of the active stack. fields: title, metadata, images, level, mention, and
    reply_to=receipt. Raises ConfigError for a mistake in the set-up or the call, and never for a service.
    """
    return _post_to(_targets(alerter), *_arguments(message, params, fields, ("mention",)))


def _post_to(targets: list[BaseAlerter], message: AlerterMessage, params: AlerterParameters | None) -> bool:
    """Post to all at the same time; one that fails does not hinder the others."""
    if len(targets) == 1:
        return targets[0].post(message, params)
    taken: list[bool] = []
    errors: list[Exception] = []

    def work(target: BaseAlerter) -> None:
        try:
            taken.append(target.post(message, params))
        except Exception as error:  # raised below, once the others are done
            errors.append(error)

    threads = [_threading.Thread(target=work, args=(target,), name=f"alerters-{target._label}", daemon=True)
               for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return all(taken)


def ask(question: str | AlerterMessage, params: AlerterParameters | None = None, *,
        alerter: BaseAlerter | str | None = None, key: str | None = None, **fields: Any) -> bool:
    """Return True only if the question was approved: False if declined, unanswered in time, or failed (logged).

    key: a name, such as "deploy-42", under which the question outlives this process: asked again with the same key
    and text, it is taken up with the answers and the time it has. fields: as for `post`, and those of
    AlerterParameters. Raises AskNotSupported where nobody can be asked, before anything is posted.
    """
    message, params = _arguments(question, params, fields, _ASK_FIELDS)
    try:
        return bool(_decide(_targets(alerter, warn=False), message, params, key))
    except DeliveryError as error:
        _log().error("%s", error)
        return False


def decide(question: str | AlerterMessage, params: AlerterParameters | None = None, *,
           alerter: BaseAlerter | str | None = None, key: str | None = None, **fields: Any) -> Decision:
    """Ask as `ask` does and return the Decision: who, when, with what words. Raises DeliveryError."""
    message, params = _arguments(question, params, fields, _ASK_FIELDS)
    return _decide(_targets(alerter, warn=False), message, params, key)


def _decide(targets: list[BaseAlerter], message: AlerterMessage, params: AlerterParameters | None,
            key: str | None) -> Decision:
    """Ask the first alerter that can ask and takes the question: one question, one place."""
    able = [target for target in targets if not target._cannot_ask()]
    for target in able:
        if target._overrides("ask"):
            return target.decide(message, params, key=key)
        try:
            question = target._open(message, params, key)
        except DeliveryError as error:
            if error.outcome != "not_sent" or target is able[-1]:
                raise
            _log().warning("%s; the next alerter is asked", error)
        else:
            return question.wait()
    raise AskNotSupported("nobody can be asked here: " + "; ".join(f"{t._label}: {t._cannot_ask()}" for t in targets))


def alerter_post_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Post to the active stack; True if posted."""
    return post(message, params)


def alerter_ask_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Ask on the active stack; True only on approval."""
    return ask(message, params)


def _old_step(flavor: str, call: Callable[..., bool], message: Any, params: Any) -> bool:
    new = f"alerter_{call.__name__}_step"
    importlib.import_module("warnings").warn(f"{flavor}_{new} is deprecated: use {new}", DeprecationWarning, stacklevel=3)
    targets = [target for target in _targets() if target.flavor == flavor]
    if not targets:
        raise ConfigError(f"no alerter of flavor {flavor} is active: use {new}, or set another stack")
    return call(message, params, alerter=targets[0])


def slack_alerter_post_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Deprecated: use alerter_post_step."""
    return _old_step("slack", post, message, params)


def slack_alerter_ask_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Deprecated: use alerter_ask_step."""
    return _old_step("slack", ask, message, params)


def discord_alerter_post_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Deprecated: use alerter_post_step."""
    return _old_step("discord", post, message, params)


def discord_alerter_ask_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Deprecated: use alerter_ask_step."""
    return _old_step("discord", ask, message, params)


def smtp_email_alerter_post_step(message: str | AlerterMessage, params: AlerterParameters | None = None) -> bool:
    """Deprecated: use alerter_post_step."""
    return _old_step("smtp_email", post, message, params)


# === Hooks and watch ===


def _tell(message_of: Callable[[], AlerterMessage], *targets: BaseAlerter | str | None) -> None:
    """Post for a job that must not notice: whatever goes wrong is one line in the log."""
    for target in targets or (None,):
        try:
            post(message_of(), alerter=target)
        except Exception as error:  # the wrapped job's own result matters more than any error of an alert
            _log().error("the alert was not sent: %s", _one_line(error))


def _exception_text(error: BaseException) -> str:
    """Return an exception for a message: its end, which says what happened, is seen first."""
    lines = "".join(_traceback.format_exception(type(error), error, error.__traceback__)).rstrip().split("\n")
    if len(lines) <= 20:
        return _fenced("\n".join(lines))
    return _fenced("\n".join(lines[-15:])) + "\n\nThe whole traceback:\n" + _fenced("\n".join(lines))


def _hook_message(what: str, context: Sequence[Any]) -> AlerterMessage:
    """Return the message of a hook. Of the context only the exception and the names of run, dag, flow and task go out.

    ZenML passes the exception; Airflow a dict; Prefect flow (or task), run and state.
    """
    error: Any = None
    names: dict[str, str] = {}
    objects = []
    for item in context:
        if isinstance(item, (BaseException, str)):
            error = item
        elif hasattr(item, "keys"):
            error = item.get("exception") or error
            task = item.get("task_instance") or item.get("ti") or item.get("task")
            named = {"dag": getattr(item.get("dag"), "dag_id", None), "run": item.get("run_id"),
                     "task": getattr(task, "task_id", None)}
            names.update({label: str(name) for label, name in named.items() if name})
        elif item is not None:
            objects.append(item)
    for label, item in zip(("flow", "run"), objects):
        if isinstance(getattr(item, "name", None), str):
            names["task" if label == "flow" and "task" in type(item).__name__.lower() else label] = item.name
    if len(objects) > 2 and error is None:
        error = _state_error(objects[2])
    name = names.get("task") or names.get("flow") or names.get("dag") or "Pipeline"
    body = _exception_text(error) if isinstance(error, BaseException) else _fenced(str(error)) if error else None
    return AlerterMessage(f"{name} {what}", body, names, level="error" if what == "failed" else "success")


def _state_error(state: Any) -> BaseException | None:
    """Return the exception in a Prefect state, or None."""
    found = getattr(state, "data", None)
    if not isinstance(found, BaseException) and callable(getattr(state, "result", None)):
        try:
            found = state.result(raise_on_failure=False)
        except Exception as error:  # a state whose result is missing still tells of the failure
            found = error
        if _inspect.iscoroutine(found):
            found.close()  # it cannot be awaited here
    return found if isinstance(found, BaseException) else None


def alerter_success_hook(*context: Any) -> None:
    """Post that a step, task or flow succeeded; the shape that ZenML, Airflow and Prefect call. Never raises."""
    _tell(lambda: _hook_message("succeeded", context))


def alerter_failure_hook(exception: Any = None, *context: Any) -> None:
    """Post that a step, task or flow failed, with the exception. Never raises."""
    _tell(lambda: _hook_message("failed", (exception, *context)))


# ZenML reads the annotations of hooks: it wants the class itself on the exception, and none on anything else.
alerter_success_hook.__annotations__, alerter_failure_hook.__annotations__ = {}, {"exception": BaseException}


class _Watch:
    """What `watch` returns: a decorator and a context manager."""

    def __init__(self, name: str | None, on_success: bool, longer_than: float, alerter: BaseAlerter | str | None) -> None:
        self.name, self.on_success, self.longer_than, self.alerter = name, on_success, longer_than, alerter
        self.began: list[float] = []  # one for each block it is in

    def __enter__(self) -> _Watch:
        self.began.append(time.monotonic())
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.tell(error, time.monotonic() - self.began.pop())

    async def __aenter__(self) -> _Watch:
        return self.__enter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Tell from a thread, so that the event loop goes on; without asyncio's loop, or when closed, right here."""
        seconds = time.monotonic() - self.began.pop()
        try:
            loop = importlib.import_module("asyncio").get_running_loop()
        except RuntimeError:
            return self.tell(error, seconds)
        if isinstance(error, GeneratorExit):
            return self.tell(error, seconds)
        await loop.run_in_executor(None, self.tell, error, seconds)

    def tell(self, error: BaseException | None, seconds: float) -> None:
        ended_well = error is None or isinstance(error, GeneratorExit) or (
            isinstance(error, SystemExit) and error.code in (None, 0))
        if not ended_well or self.on_success and seconds >= self.longer_than:
            _tell(lambda: AlerterMessage(
                f"{self.name or 'Job'} {'succeeded' if ended_well else 'failed'}",
                None if ended_well or error is None else _exception_text(error),
                {"duration": _duration(seconds), "host": _socket.gethostname()},
                level="success" if ended_well else "error"), self.alerter)

    def __call__(self, function: _F) -> _F:
        def fresh() -> _Watch:  # one for each call: calls may overlap
            name = self.name or getattr(function, "__qualname__", "Job")
            return _Watch(name, self.on_success, self.longer_than, self.alerter)

        def plain(*args: Any, **kwargs: Any) -> Any:
            with fresh():
                return function(*args, **kwargs)

        def generator(*args: Any, **kwargs: Any) -> Any:
            with fresh():
                return (yield from function(*args, **kwargs))

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            async with fresh():
                return await function(*args, **kwargs)

        async def async_generator(*args: Any, **kwargs: Any) -> Any:
            async with fresh():
                source, step = function(*args, **kwargs), None
                while True:
                    try:
                        item = await (source.__anext__() if step is None else step)
                    except StopAsyncIteration:
                        return
                    try:
                        step = source.asend((yield item))
                    except GeneratorExit:
                        await source.aclose()
                        raise
                    except BaseException as error:  # handed on to the generator, as if it were not wrapped
                        step = source.athrow(error)

        kind = (async_generator if _inspect.isasyncgenfunction(function) else
                coroutine if _inspect.iscoroutinefunction(function) else
                generator if _inspect.isgeneratorfunction(function) else plain)
        return functools.wraps(function)(kind)  # type: ignore[return-value]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return (f"{seconds:.1f} s" if seconds < 60 else f"{minutes} min {rest:02d} s" if minutes < 60 else
            f"{minutes // 60} h {minutes % 60:02d} min")


@_overload
def watch(name: _F) -> _F: ...
@_overload
def watch(name: str | None = None, *, on_success: bool = True, longer_than: float = 0,
          alerter: BaseAlerter | str | None = None) -> _Watch: ...
def watch(name: Any = None, *, on_success: bool = True, longer_than: float = 0,
          alerter: BaseAlerter | str | None = None) -> Any:
    """Tell how a piece of work ended, as `@watch`, `@watch("train")` or `with watch("nightly"):`.

    Failures are always told, with traceback; successes only with on_success and from `longer_than` seconds on.
    Results, exceptions, generators and coroutines pass through untouched, and a failing alert never shows.
    """
    watched = _Watch(None if callable(name) else name, on_success, longer_than, alerter)
    return watched(name) if callable(name) else watched


# === Logging ===
if TYPE_CHECKING:
    class AlertHandler(_logging.Handler):
        """Logging handler that posts records; see _alert_handler."""

        def __init__(self, level: int | str = 40, alerter: BaseAlerter | str | None = None) -> None: ...


def __getattr__(name: str) -> Any:
    if name == "AlertHandler":  # made on first use, so that importing this module does not import logging
        return globals().setdefault(name, _alert_handler())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _alert_handler() -> Any:
    import atexit
    import logging
    import queue

    class AlertHandler(logging.Handler):
        """Logging handler that posts records from a thread of its own, so that logging never waits.

        Repeats within a minute are folded into one "… 214 more times". What is logged while it posts, and what this
        module logs, is never posted. `flush()` and the end of the program post what is left.
        """

        def __init__(self, level: int | str = logging.ERROR, alerter: BaseAlerter | str | None = None) -> None:
            super().__init__(level)
            self.alerter = alerter
            self._begin()
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._begin)  # what waits is the parent's to tell
            atexit.register(self.close)

        def _begin(self) -> None:
            self._waiting: queue.Queue[Any] = queue.Queue()
            self._thread: _threading.Thread | None = None
            self._posting: set[int | None] = set()  # threads whose records are not posted
            self._seen: dict[Any, list[Any]] = {}  # what a record is: [time, repeats, what it said]

        def emit(self, record: logging.LogRecord) -> None:
            own = record.name == "alerters" or str(record.threadName).startswith("alerters-")
            if own or record.thread in self._posting:
                return
            kind, error, _ = record.exc_info or (None, None, None)
            try:
                said = record.getMessage()
            except Exception as wrong:  # arguments that do not fit are the caller's mistake, and still an alert
                said = f"{record.msg} ({_one_line(wrong)})"
            text = _exception_text(error) if error else _fenced(said)
            self._waiting.put(((record.name, record.levelno, str(record.msg), kind), record.levelname, said, text))
            self._ensure_thread()

        def _ensure_thread(self) -> None:
            if self._thread is None or not self._thread.is_alive():
                self._thread = _threading.Thread(target=self._work, name="alerters-handler", daemon=True)
                self._thread.start()

        def _work(self) -> None:
            item: Any = ()
            while item is not None:
                try:
                    item = self._waiting.get(timeout=1.0)
                except queue.Empty:
                    item = ()
                self._tell_repeats(time.monotonic() - _FOLD)
                if item:
                    self._take(*item)

        def _take(self, key: Any, level: str, said: str, text: str) -> None:
            if key in self._seen:
                self._seen[key][1] += 1
                return
            self._seen[key] = [time.monotonic(), 0, said]
            mood = "error" if key[1] >= logging.ERROR else "warning" if key[1] >= logging.WARNING else "info"
            _tell(lambda: AlerterMessage(_one_line(said, 140) or level, text, {
                "logger": key[0], "level": level, "host": _socket.gethostname()}, level=mood), self.alerter)

        def _tell_repeats(self, before: float) -> None:
            for key, (at, repeats, said) in list(self._seen.items()):
                if at <= before:
                    del self._seen[key]
                    message = AlerterMessage(_one_line(said, 140) or "…", f"… {repeats:,} more times", level="warning")
                    if repeats:
                        _tell(functools.partial(message._with), self.alerter)

        def flush(self) -> None:
            if self._thread is None or self._thread is _threading.current_thread():
                return
            end = time.monotonic() + _SEND_BUDGET + _SOCKET_TIMEOUT
            while time.monotonic() < end and (self._thread.is_alive() or not self._waiting.empty()):
                with contextlib.suppress(RuntimeError):  # no new threads while the interpreter ends
                    self._ensure_thread()
                self._waiting.put(None)
                self._thread.join(end - time.monotonic())
            self._posting.add(_threading.get_ident())
            self._tell_repeats(time.monotonic())
            self._posting.clear()

        def close(self) -> None:
            self.flush()
            atexit.unregister(self.close)
            super().close()

    AlertHandler.__qualname__, AlertHandler.__module__ = "AlertHandler", __name__
    return AlertHandler


# === Command line ===
_USAGE = """usage: alerters COMMAND …     (the word `alerter` may stand before it)

  post TEXT                 post an alert; - reads standard input
  ask TEXT                  ask for approval: alerters ask "Deploy?" && ./deploy.sh
  run -- COMMAND…           run a command and tell how it ended
  check [NAME]              try credentials, channel and permissions for real
  preview TEXT --flavor F   show what would be sent; sends nothing
  pending                   list the open questions of the store
  register NAME --flavor=F --FIELD=VALUE…, update NAME, list, describe NAME, delete NAME
  stack register NAME -al ALERTER [-al …] [--set], stack list, describe, set, delete
  flavor list, flavor register PACKAGE.MODULE.CLASS

`alerters COMMAND --help` tells the options. Exit codes: 0 done or approved, 1 declined, 2 usage or set-up,
3 nobody answered, 4 not delivered."""
# Options as (names, further words for argparse).
_MESSAGE: Sequence[tuple[str, _Dict]] = (
    ("text", {"metavar": "TEXT", "help": "the text in light Markdown; - reads standard input"}),
    ("--title", {}), ("--metadata", {"metavar": "K=V", "action": "append", "default": []}),
    ("--image", {"metavar": "PATH", "action": "append", "default": [], "help": "a file or a URL"}),
    ("--level", {"default": "info", "help": "info, success, warning or error"}))
_WHERE: Sequence[tuple[str, _Dict]] = (("--alerter", {"metavar": "NAME"}), ("--stack", {"metavar": "NAME"}))
_NAME: tuple[str, _Dict] = ("name", {"metavar": "NAME"})


def _options(command: str, about: str, args: list[str], *spec: tuple[str, _Dict], rest: list[str] | None = None) -> Any:
    """Return the parsed options. What is unknown goes into `rest`, or is an error that says what was meant."""
    class Parser(_argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{message} (see: alerters {command} --help)")

    parser = Parser(prog=f"alerters {command}", description=about, allow_abbrev=False)
    for names, words in spec:
        parser.add_argument(*names.split(), **words)
    found, unknown = parser.parse_known_args(args)
    if rest is not None:
        rest += unknown
    elif unknown:
        known = [name for names, _ in spec for name in names.split() if name.startswith("--")]
        raise ConfigError(f"{command}: unknown {unknown[0]!r}; {_did_you_mean(unknown[0].partition('=')[0], known)}")
    return found


def _typed_message(options: Any) -> AlerterMessage:
    for pair in options.metadata:
        if "=" not in pair:
            raise ConfigError(f"--metadata {pair}: write it as KEY=VALUE")
    if options.text == "-" and sys.stdin is None:
        raise ConfigError("- reads standard input, which is closed")
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if options.text == "-" else options.text
    facts = dict(pair.split("=", 1) for pair in options.metadata)
    return AlerterMessage(options.title, text, facts, options.image, options.level)


def _print(text: object) -> None:
    """Print what came from elsewhere: no secret, no control character, and no crash on a narrow encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(_clean(text).encode(encoding, "replace").decode(encoding))


def _cmd_post(args: list[str]) -> int:
    options = _options("post", "Post an alert.", args, *_MESSAGE, *_WHERE)
    message = _typed_message(options)
    return 0 if _post_to(_targets(options.alerter, options.stack), message, None) else 4


def _cmd_ask(args: list[str]) -> int:
    options = _options(
        "ask", "Ask for approval and wait for it. Exit code 0 only if approved.", args, *_MESSAGE, *_WHERE,
        ("--timeout", {"type": float, "metavar": "S", "help": "seconds to wait, default 300"}),
        ("--approve", {"metavar": "WORD", "action": "append", "help": "a word that approves, in place of the usual"}),
        ("--decline", {"metavar": "WORD", "action": "append"}),
        ("--approver", {"metavar": "ID", "action": "append", "help": "who may decide"}),
        ("--key", {"metavar": "K", "help": "under which the question outlives this process"}),
        ("--json", {"action": "store_true", "help": "print the decision as JSON"}))
    params = AlerterParameters(options.approve, options.decline, options.approver, options.timeout)
    message = _typed_message(options)
    decision = _decide(_targets(options.alerter, options.stack, warn=False), message, params, options.key)
    if options.json:
        print(_json.dumps(dataclasses.asdict(decision)))
    else:
        _print(decision.status + (f" by {decision.by} ({_one_line(decision.text)})" if decision.by else ""))
    return {"approved": 0, "declined": 1}.get(decision.status, 3)


def _cmd_run(args: list[str]) -> int:
    at = args.index("--") if "--" in args else len(args)
    options, command = _options(
        "run", "Run a command, keep its exit code and output, and tell how it ended: run -- COMMAND…", args[:at], *_WHERE,
        ("--title", {"help": "in place of the command"}),
        ("--longer-than", {"type": float, "default": 0.0, "metavar": "S", "help": "tell of success only from S on"}),
    ), args[at + 1:]
    if not command:
        raise ConfigError("run: write the command behind --, as in: alerters run -- python train.py")
    try:
        targets = _targets(options.alerter, options.stack)
    except AlerterError as error:  # the job matters more than its alert
        print(f"alerters: {_one_line(error)}; the command runs all the same", file=sys.stderr)
        targets = []
    began = time.monotonic()
    code, tail = _run_command(command)
    seconds = time.monotonic() - began
    if targets and (code or seconds >= options.longer_than):
        name = options.title or " ".join(map(importlib.import_module("shlex").quote, command))
        facts = {"exit code": code, "duration": _duration(seconds), "host": _socket.gethostname()}
        message = AlerterMessage(_one_line(f"{name} {'failed' if code else 'succeeded'}", 300), tail and _fenced(tail),
                                 facts, level="error" if code else "success")
        _tell(lambda: message, *targets)
    return code


def _run_command(command: list[str]) -> tuple[int, str]:
    """Run it with our streams; return its exit code (128 + signal) and the end of its stderr.

    stderr is copied through a pipe only where it is no terminal, so that colours and progress bars stay.
    """
    tail, caught = bytearray(), []  # type: bytearray, list[int]
    piped = not (sys.stderr and sys.stderr.isatty())

    def copy_stderr() -> None:
        for piece in iter(lambda: os.read(child.stderr.fileno(), 65536), b""):  # type: ignore[union-attr]
            tail.extend(piece)
            del tail[:-8000]
            with contextlib.suppress(OSError):  # nobody may read our stderr any more; the command goes on
                os.write(2, piece)

    def pass_on(number: int, _: object) -> None:
        caught.append(number)
        if child and not (number == _signal.SIGINT and sys.stdin and sys.stdin.isatty()):  # which has told it itself
            child.send_signal(number)

    child: _subprocess.Popen[bytes] | None = None
    old = {number: _signal.signal(number, pass_on) for number in (_signal.SIGINT, _signal.SIGTERM)}
    reader = _threading.Thread(target=copy_stderr, daemon=True)
    try:
        child = _subprocess.Popen(command, stderr=_subprocess.PIPE if piped else None)
        for number in caught:  # those that came before there was a child
            child.send_signal(number)
        if piped:
            reader.start()
        code = child.wait()
        if piped:
            reader.join(2)  # a grandchild may hold the pipe for longer
    except OSError as error:
        print(f"alerters: {command[0]}: {_reason(error)}", file=sys.stderr)
        return (127 if isinstance(error, FileNotFoundError) else 126), f"{command[0]}: {_reason(error)}"
    finally:
        for number, handler in old.items():
            _signal.signal(number, handler)
        if child and child.stderr and not reader.is_alive():
            child.stderr.close()
    code = 128 - code if code < 0 else 128 + caught[0] if caught and not code else code
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", bytes(tail).decode("utf-8", "replace"))
    return code, "\n".join(text.rstrip().split("\n")[-40:])


def _cmd_check(args: list[str]) -> int:
    options = _options("check", "Try credentials, channel and permissions for real.", args, *_WHERE,
                       ("name", {"metavar": "NAME", "nargs": "?"}))
    failed: DeliveryError | None = None
    for target in _targets(options.name or options.alerter, options.stack):
        _print(f"{target._label} ({target.flavor})")
        try:
            _print(target.check())
        except DeliveryError as error:
            _print("\n".join(error._report or [f"FAIL  {error}"]))
            failed = error
    if failed:
        raise failed
    return 0


def _cmd_preview(args: list[str]) -> int:
    options = _options("preview", "Show what would be sent. Sends nothing.", args, *_MESSAGE, (
        "--flavor", {"required": True}), ("--html", {"metavar": "FILE", "help": "write the HTML of the mail to a file"}))
    message = _typed_message(options)
    cls = _flavor(options.flavor, StackStore()._load())
    if options.html:
        try:
            with open(options.html, "w", encoding="utf-8") as file:
                file.write(_mail_html(message, message._files("preview")))
        except OSError as error:
            raise ConfigError(f"--html {options.html}: {_reason(error)}") from None
    else:
        _print(cls._preview(cls(**cls._example) if cls._example else ConsoleAlerter(), message))
    return 0


def _cmd_pending(args: list[str]) -> int:
    _options("pending", "List the open questions of the store.", args)
    for key, state in StackStore()._questions().items():
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state["deadline"]))
        over = "expired" if state["deadline"] < time.time() else "open until"
        _print(f"{key}  {state.get('alerter') or state.get('flavor')}  {over} {until}  {state['text']}")
    return 0


def _cmd_flavor_list(args: list[str]) -> int:
    if args:
        _options("flavor list", "List the flavors.", args)
    own = StackStore()._load().get("flavors", {})
    for name in {**FLAVORS, **own}:
        _print(f"{name:<12} {own.get(name) or (FLAVORS[name].__doc__ or '').partition('.')[0]}")
    return 0


def _cmd_flavor_register(args: list[str]) -> int:
    path = _options("flavor register", "Add a flavor of your own.", args, ("path", {"metavar": "PACKAGE.MODULE.CLASS"})).path
    cls = register_flavor(path)
    with StackStore()._changing() as data:
        data.setdefault("flavors", {})[cls.flavor] = path
    _print(f"flavor {cls.flavor} is registered")
    return 0


def _cmd_register(command: str, args: list[str]) -> int:
    rest: list[str] = []
    flavor_option = [("--flavor -f", {"required": True})] if command == "register" else []
    options = _options(command, "Configure an alerter: --FIELD=VALUE for each field of its flavor.", args, _NAME,
                       *flavor_option, rest=rest)
    store = StackStore()
    data = store._load()
    entry = {"flavor": options.flavor} if command == "register" else _entry(data, "alerters", options.name)
    cls = _flavor(entry.get("flavor"), data)
    known = {f"--{field.name}": field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    fields: _Dict = {}
    words = iter(rest)
    for word in words:
        name, equals, value = word.partition("=")
        field = known.get(name.replace("-", "_").replace("__", "--", 1))
        if field is None:
            raise ConfigError(f"unknown {name!r} for flavor {cls.flavor}; {_did_you_mean(name, known)}")
        value = value if equals else next(words, "--")
        if value.startswith("--"):
            raise ConfigError(f"{name} needs a value")
        fields[field.name] = _parsed(field, value, name)
    secrets = [field.name for field in known.values() if _is_secret(field)]
    if command == "update":
        store.update_alerter(options.name, **fields)
    else:
        if secrets and not any(map(fields.get, secrets)) and sys.stdin and sys.stdin.isatty():
            with contextlib.suppress(EOFError):
                fields[secrets[0]] = _getpass.getpass(f"{secrets[0]} (not shown, empty for none): ")
        store.register_alerter(options.name, options.flavor, **fields)
    _print(f"alerter {options.name} is {command.rstrip('e')}ed")
    return 0


def _cmd_alerters(command: str, args: list[str]) -> int:
    about = {"list": "List the alerters.", "describe": "Show an alerter, secrets masked.", "delete": "Remove an alerter."}
    options, store = _options(command, about[command], args, *[_NAME] * (command != "list")), StackStore()
    alerters = store.alerters()
    if command == "delete":
        store.delete_alerter(options.name)
        _print(f"alerter {options.name} is deleted")
    elif command == "describe":
        for key, value in _entry({"alerters": alerters}, "alerters", options.name).items():
            shown = _MASK if isinstance(value, _Secret) and value else value
            _print(f"{key}: {', '.join(shown) if isinstance(shown, list) else shown}")
    else:
        active = store.stacks().get(store.active_stack(), [])
        for name, entry in alerters.items():
            _print(f"{'*' if name in active else ' '} {name}  ({entry.get('flavor')})")
    return 0


def _cmd_stacks(command: str, args: list[str]) -> int:
    spec: list[tuple[str, _Dict]] = [] if command == "list" else [_NAME]
    if command == "describe":
        spec = [("name", {"metavar": "NAME", "nargs": "?"})]
    if command == "register":
        spec += [("-al --alerter", {"action": "append", "required": True, "metavar": "ALERTER"}),
                 ("--set", {"action": "store_true", "help": "make it the active one"})]
    options, store = _options(f"stack {command}", "Choose which alerters are in use.", args, *spec), StackStore()
    done = {"register": "registered", "delete": "deleted", "set": "active"}
    if command in done:
        if command == "register":
            store.register_stack(options.name, options.alerter, options.set)
        else:
            (store.delete_stack if command == "delete" else store.set_active_stack)(options.name)
        _print(f"stack {options.name} is {done[command]}")
        return 0
    stacks, active = store.stacks(), store.active_stack()
    for chosen in list(stacks) if command == "list" else [options.name or active]:
        _print(f"{'*' if chosen == active else ' '} {chosen}: {', '.join(_entry({'stacks': stacks}, 'stacks', chosen))}")
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "post": _cmd_post, "ask": _cmd_ask, "run": _cmd_run, "check": _cmd_check, "preview": _cmd_preview,
    "pending": _cmd_pending, "flavor list": _cmd_flavor_list, "flavor register": _cmd_flavor_register,
    **{name: functools.partial(_cmd_register, name) for name in ("register", "update")},
    **{name: functools.partial(_cmd_alerters, name) for name in ("list", "describe", "delete")},
    **{f"stack {name}": functools.partial(_cmd_stacks, name)
       for name in ("register", "list", "describe", "set", "delete")}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Errors are one line on stderr.

    0 done or approved, 1 declined, 2 usage or set-up, 3 nobody answered, 4 not delivered.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(OSError):  # the folder may be deleted
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # where flavors of one's own are
    args = args[1:] if args[:1] == ["alerter"] else args
    if not args or args[0] in ("-h", "--help", "help", "--version"):
        args = ["help" if args[:1] != ["--version"] else "version"] * bool(args) or ["nothing"]
    words = 2 if args[0] in ("flavor", "stack") else 1
    name = " ".join(args[:words])
    try:
        if name in ("help", "version", "nothing"):
            _print(__version__ if name == "version" else _USAGE)
            return 2 if name == "nothing" else 0
        if name not in _COMMANDS:
            raise ConfigError(f"no command {name!r}; {_did_you_mean(name, _COMMANDS)}")
        code = _COMMANDS[name](args[words:])
        if sys.stdout:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        return 141
    except SystemExit as end:  # argparse's --help
        return end.code if isinstance(end.code, int) else 2 if end.code else 0
    except OSError as error:  # the disk that takes our output is full, say
        print(f"alerters: {_reason(error)}", file=sys.stderr)
        return 2
    except AlerterError as error:
        print(f"alerters: {_one_line(error, 2000)}", file=sys.stderr)
        return 4 if isinstance(error, DeliveryError) else 2


if __name__ == "__main__":
    sys.modules.setdefault("alerters", sys.modules["__main__"])  # one module, whatever a flavor of one's own imports
    sys.exit(main())
