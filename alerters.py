"""Post alerts to Slack, Discord or e-mail, and ask people for approval there. One file, nothing but Python.

    from alerters import ask, post

    post("Epoch 12 done", title="Training", metadata={"accuracy": 0.95})    # True once it is delivered
    if ask("Deploy model to production?", timeout="1h"):                    # True only if somebody approved
        deploy()

Without set-up both use the console. `python -m alerters setup slack` stores a real alerter in a JSON file,
`$ALERTERS_FLAVOR` with `$ALERTERS_<FIELD>` configures one with no file at all, and an alerter can be built
in code: `SlackAlerter(slack_token="xoxb-…", slack_channel_id="C012").post("Done")`.

A *message* goes out; a *question* is a message that waits; a *reply* comes in; a *decision* is what replies
mean; a *receipt* says where a message landed. A *flavor* is a kind of service, an *alerter* one configured
destination, a *stack* a named choice of alerters. Times are seconds. Errors are AlerterErrors: a mistake in
the set-up or the call is raised; what a service does, `post` and `ask` log, `send` and `decide` raise.

This is version 1.1.0 of https://pypi.org/project/alerters, under the MIT licence.
"""

from __future__ import annotations as _annotations

import _thread
import atexit
import contextlib
import contextvars
import copy
import dataclasses
import errno
import functools
import importlib
import io
import itertools
import operator
import os
import re
import reprlib
import sys
import time
import weakref

# Most programs use few of these modules, and some are slow to import. Type checkers, and tools that look for
# import statements (PyInstaller, cx_Freeze, Nuitka), read the first branch; a running program the second.
TYPE_CHECKING = not sys.modules  # that is False, but Nuitka does not know, and so leaves no import out
if TYPE_CHECKING:
    import argparse as _argparse
    import asyncio as _asyncio
    import base64 as _base64
    import datetime as _datetime
    import difflib as _difflib
    import email as _email
    import email.header as _email_header
    import email.message as _email_message
    import email.policy as _email_policy
    import email.utils as _email_utils
    import fcntl as _fcntl
    import getpass as _getpass
    import hashlib as _hashlib
    import html as _html
    import html.parser as _html_parser
    import http.client as _http_client
    import imaplib as _imaplib
    import inspect as _inspect
    import ipaddress as _ipaddress
    import json as _json
    import locale as _locale
    import logging as _logging
    import mimetypes as _mimetypes
    import msvcrt as _msvcrt
    import pathlib as _pathlib
    import select as _select
    import shlex as _shlex
    import shutil as _shutil
    import signal as _signal
    import smtplib as _smtplib
    import socket as _socket
    import ssl as _ssl
    import stat as _stat
    import subprocess as _subprocess
    import termios as _termios
    import threading as _threading
    import traceback as _traceback
    import typing as _typing
    import unicodedata as _unicodedata
    import urllib.parse as _urllib_parse
    import urllib.request as _urllib_request
    import warnings as _warnings
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from dataclasses import dataclass as _dataclass
    from typing import Any, Dict, Literal, NoReturn, Optional, TypeVar, Union
    from typing import overload as _overload

    _Dict = Dict[str, Any]
    _Mark = Callable[[str, str, str], str]  # of a span -> markup
    _Field = dataclasses.Field[Any]
    _Text = Union[str, "AlerterMessage", BaseException]  # what a message may be given as
    _Time = Union[float, str, _datetime.timedelta]
    _Words = Optional[Iterable[str]]
    _Facts = Optional[Mapping[str, Any]]
    _Params = Optional["AlerterParameters"]
    _Target = Union["BaseAlerter", str, None]
    _Level = Literal["info", "success", "warning", "error"]
    _Cure = Literal["again", "look", "later", "people"]  # see DeliveryError
    _Status = Literal["approved", "declined", "timeout"]
    _T = TypeVar("_T")
    _TLS = Union[bool, Literal["ssl", "starttls"]]
    _A = TypeVar("_A", bound="BaseAlerter")
    _F = TypeVar("_F", bound=Callable[..., Any])
    _Handler = _logging.Handler
else:
    class _Module:
        """A module that is imported when it is first used."""
        def __init__(self, name, alias):
            self.__name__, self._alias = name, alias

        def __getattr__(self, attribute):
            if attribute[:1] == "_":  # doctest and mock look at all that a module has; not each is there
                raise AttributeError(attribute)
            with _importing:
                module = globals()[self._alias] = importlib.import_module(self.__name__)  # in place of this
            return getattr(module, attribute)

    class _Importing:
        """A lock that is waited for 10 s at most: who holds it may itself wait for who wants it."""
        patience, lock = 10.0, _thread.RLock()

        def __enter__(self):
            self.lock.acquire(timeout=self.patience)

        def __exit__(self, *_):
            try:
                self.lock.release()
            except RuntimeError:  # it was not had in time, and in a forked child nobody would release it
                self.lock = _thread.RLock()

    _importing = _Importing()

    if hasattr(os, "register_at_fork"):
        # A process that is forked while another thread, as a handler's, imports would wait for that for ever.
        os.register_at_fork(before=_importing.__enter__, after_in_parent=_importing.__exit__,
                            after_in_child=_importing.__exit__)

    for _name in ("argparse asyncio base64 datetime difflib email email.header email.message email.policy "
                  "email.utils fcntl getpass hashlib html html.parser http.client imaplib inspect ipaddress "
                  "json locale logging mimetypes msvcrt pathlib select shlex shutil signal smtplib socket "
                  "ssl stat subprocess termios threading traceback unicodedata urllib.parse urllib.request "
                  "warnings").split():
        _alias = "_" + _name.replace(".", "_")
        globals()[_alias] = _Module(_name, _alias)
    _overload = staticmethod  # any decorator would do: the last definition counts
    _Handler = object  # `__getattr__` below adds the real base: importing this module imports no logging

    class _Init:
        """The __init__ of a dataclass, made when it is first wanted: all are half of what an import costs."""
        def __init__(self, cls):
            self.cls = cls

        def __get__(self, instance, owner):
            cls, about = self.cls, {"__doc__": "-"}  # else dataclasses would write one, by this very __init__
            heir = type(cls.__name__, (cls,), about)  # made twice, the class itself would lose its defaults
            made = dataclasses.dataclass(repr=False, eq=False)(heir).__init__
            cls.__init__ = _known_keywords(made, cls.__name__)  # from now on in place of this
            if instance is cls:  # as inspect.signature binds it, which in Python 3.13.5 then unwraps it
                return made.__get__(instance)
            return cls.__init__.__get__(instance, owner)

    def _dataclass(cls):
        cls = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
        cls.__init__ = _Init(cls)
        return cls


__version__ = "1.1.0"
__all__ = [
    "AlerterMessage", "AlerterParameters", "SlackAlerterParameters", "DiscordAlerterParameters",
    "SMTPEmailAlerterParameters", "BaseAlerter", "SlackAlerter", "DiscordAlerter", "SMTPEmailAlerter",
    "ConsoleAlerter", "Receipt", "Question", "Decision", "post", "ask", "decide", "alerter_post_step",
    "alerter_ask_step", "alerter_success_hook", "alerter_failure_hook", "watch", "AlertHandler",
    "slack_alerter_post_step", "slack_alerter_ask_step", "discord_alerter_post_step",
    "discord_alerter_ask_step", "smtp_email_alerter_post_step", "FLAVORS", "register_flavor", "StackStore",
    "AlerterError", "ConfigError", "StoreError", "AskNotSupported", "DeliveryError", "main"]

# === Words and limits ===
_APPROVE = ("approve", "LGTM", "ok", "yes")
_DECLINE = ("decline", "disapprove", "no", "reject")
_TAPS = ("✅", "❌")  # what the alerter puts on a question, so that one tap decides
_LEVELS = {"info": ("🔵", 0x3B82F6), "success": ("🟢", 0x16A34A), "warning": ("🟡", 0xD97706),
           "error": ("🔴", 0xDC2626)}
_ASK_TIMEOUT = 300.0  # s
_TEST = "A test of this alerter, by `check --post`."
_POLL_SHARE, _POLL_MIN, _POLL_MAX = 0.1, 1.0, 30.0  # of the question's age; s; s
_LATE = 2.0  # s by which a deadline may be missed: by the reading of a tap, or by a post with no time at all
_GRACE_SHARE, _GRACE_MIN, _GRACE_MAX = 0.1, 2.0, 30.0  # of the time-out; s; s: reading on after the deadline
_WARN_AGAIN = 3600.0  # s between two warnings that the answers cannot be read
_CLOSING = 3.0  # s that a stopped process takes to close its question
_CLAIM, _CLAIM_PAUSE = 200.0, 0.5  # s that a claim holds at most; s between looks at somebody else's
_REMEMBERED = 86400.0  # s for which the store knows how a question ended, for those who still wait for it
_UTC = "%Y-%m-%d %H:%M:%S UTC"  # how a deadline is shown
_NEAR_MISS = 60  # characters
_SEND_BUDGET, _UPLOAD_BUDGET, _SOCKET_TIMEOUT = 30.0, 120.0, 10.0  # s
_HEAD_CAP, _BODY_CAP = 256 * 1024, 8 * 1024 * 1024  # bytes of an answer's heads, and of its body
_MAILBOX_CAP = 64 * 1024 * 1024  # bytes of one answer of a mailbox
_MOST_PARTS = 10  # messages that one text may become; beyond that it goes as a file
_TEXT_FILE = "message.txt"
_BY_CURE = {"look": "it may have arrived: look before you send it again",  # what to do about a failure
            "again": "the service has trouble: try again later"}
_FOLD = 60.0  # s for which repeats of a log record wait, to be told together
_EMOJI = dict(entry.split(" ", 1) for entry in (  # named as in Slack and iamcal/emoji-data, first the usual
    "👍 +1 thumbsup|👎 -1 thumbsdown|✅ white_check_mark|✔ heavy_check_mark|❌ x|☑ ballot_box_with_check|"
    "✖ heavy_multiplication_x|❎ negative_squared_cross_mark|⛔ no_entry|🚫 no_entry_sign|🛑 octagonal_sign|"
    "✋ hand raised_hand|🆗 ok|👌 ok_hand|🚀 rocket|👀 eyes|🚨 rotating_light|🎉 tada|🔥 fire|🙏 pray|"
    "🎯 dart|💯 100|👏 clap|🙌 raised_hands|🤝 handshake|✨ sparkles|⚠ warning|❤ heart|⭐ star|💪 muscle|"
    "🟢 large_green_circle|🔴 red_circle|🟡 large_yellow_circle|💚 green_heart|❗ exclamation|❓ question|"
    "⏸ double_vertical_bar|▶ arrow_forward|⏩ fast_forward|⏹ black_square_for_stop|⏳ hourglass_flowing_sand|"
    "🔒 lock|🔓 unlock|🔑 key|🔔 bell|📦 package|🚢 ship|🏁 checkered_flag|🔁 repeat|➕ heavy_plus_sign|"
    "➖ heavy_minus_sign").split("|"))
_CHARACTERS = {name: char for char, names in _EMOJI.items() for name in names.split()}
_SHORTCODES = {key: names.split()[0] for char, names in _EMOJI.items() for key in [char, *names.split()]}


# === Errors ===
class AlerterError(Exception):
    """Base of every error that this module raises on purpose."""


class ConfigError(AlerterError, ValueError):
    """The set-up or the call is wrong: a bug to see, so it is raised and never logged away."""


class _KeywordError(ConfigError, TypeError):
    """There is no such keyword. Python's own error for that is a TypeError, so it is one, too."""


class StoreError(AlerterError):
    """The JSON file cannot be read, locked or written. What was there is still there."""


class AskNotSupported(AlerterError, NotImplementedError):
    """This alerter cannot be asked here. Nothing was posted."""


class DeliveryError(AlerterError):
    """A service refused a call or could not be reached.

    status: HTTP or SMTP code, None when nothing was answered. code: the service's word, as "not_in_channel".
    hint: what to do. retry_after: seconds the service asked for. outcome: "not_sent", "partial" (some of it
    arrived) or "unknown" (it may have arrived: look before you send it again).
    """
    # What helps: "again" (another try: it was certainly not accepted), "look" whether it has arrived,
    # "later" (a wait goes on), or "people", who alone can mend it: it ends a wait.
    _cure: _Cure = "later"
    _logged = False  # with its traceback, and so not once more
    _report: Sequence[str] = ()  # the lines of a failed check

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None,
                 hint: str | None = None, retry_after: float | None = None,
                 outcome: str = "not_sent") -> None:
        super().__init__(_one_line(message))
        self.status, self.code, self.hint = status, code, hint
        self.retry_after, self.outcome = retry_after, outcome
        if status in (401, 403, 404, 410):
            self._cure = "people"

    def __str__(self) -> str:
        if self.hint:
            return f"{self.args[0]}: {_one_line(self.hint, 1000)}"
        return str(self.args[0])


def _failure(who: str, what: object, *, status: int | None = None, code: object = None,
             retry_after: float | None = None, cure: _Cure | None = None, hint: str | None = None,
             hints: Mapping[str, str] = {}) -> DeliveryError:
    """Return a DeliveryError of one line that holds no secret and always has a hint.

    cure: as in DeliveryError; "look" makes the outcome unknown. None: what the status says.
    hints: what to do about a code, or a status without one, {pattern: hint}; hint: goes before them.
    """
    for codes, text in hints.items():
        if not hint and re.fullmatch(codes, str(code or status)):
            hint = text
    error = DeliveryError(f"{who}: {what}", status=status, hint=hint, retry_after=retry_after)
    if code:
        error.code = _hide(str(code))
    if cure:
        error._cure = cure
    if cure == "look":
        error.outcome = "unknown"
    if not hint:
        error.hint = _BY_CURE.get(error._cure, f"see what it says, and what `{_program()} check` says")
    return error


def _nearest(word: str, known: Iterable[str], likeness: float = 0.649) -> str:
    """Return the name that was meant, or "": channel is slack_channel_id, imap_user is imap_username."""
    meant, nearest = _dotted(word), ""
    for name in known:
        form = _dotted(name)
        if form == meant:
            return name
        like = _difflib.SequenceMatcher(None, name.lower(), word.lower()).ratio()
        if meant in form or form in meant:
            like = max(like, 0.89 + like / 100)  # channel is slack_channel_id; imp_password is not password
        if like > likeness:  # 0.6: --timeout is --title
            likeness, nearest = like, name
    return nearest


def _dotted(name: str) -> str:
    dotted = re.sub(r"[\W_]+", ".", name.strip("-").lower())
    return f".{dotted}.".replace(".host.", ".server.").replace(".user.", ".username.")  # our words for it


def _check_known(what: str, name: Any, known: Iterable[str], error: type[Exception] = ConfigError) -> None:
    if name not in list(known):  # a list also takes what has no hash
        raise error(f"{what} {name!r}; {_did_you_mean(str(name), known)}")


def _check_type(what: str, value: object, wanted: Any) -> None:
    """Raise ConfigError for a value of another type; None is the same as not given."""
    if not isinstance(value, (wanted, type(None))):
        raise ConfigError(f"{what}, not {_kind_of(value)}")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    meant = _nearest(word, known)
    if meant:
        return f"did you mean {meant!r}?"
    return f"there is: {', '.join(sorted(known)) or 'none'}"


def _known_keywords(function: _F, who: str = "") -> _F:
    """Let a wrong keyword be an error that says what was meant. who: what it calls itself."""
    known, who = dict(function.__annotations__), who or function.__name__
    known.pop("return", None)

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            for name in named:
                _check_known(f"{who}: no keyword", name, known, _KeywordError)
            return function(*given, **named)
        except ConfigError as error:
            given, named = (), {}  # a traceback may show locals, which of a constructor hold secrets
            raise error.with_traceback(None)  # noqa: B904  # amid what it was raised is told as ever

    return call  # type: ignore[return-value]


def _program() -> str:
    """Return how this is started, so that the commands in hints can be pasted."""
    python = os.path.basename(sys.executable or "python3")
    script = "".join(getattr(sys, "argv", ())[:1])
    if __spec__ is None:
        return f"{python} {_shlex.quote(script)}"
    if __name__ == "alerters" and os.path.basename(script) in ("alerters", "alerters.exe"):
        return "alerters"  # as it is called once installed
    return f"{python} -m {__spec__.name}"


def _log(level: str, what: str, *values: Any) -> None:
    with contextlib.suppress(Exception):  # a handler's own, or a closed stderr: it costs no alert
        getattr(_logging.getLogger("alerters"), level)(what, *values)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnicodeDecodeError):  # Windows PowerShell writes UTF-16
        return f"it is no text in {error.encoding}: save it as UTF-8"
    text = getattr(error, "strerror", None) or error
    return _clean(text) or type(error).__name__


# === Messages ===
class _Record:
    """Repr, comparison and hash of all dataclasses (see `_dataclass`)."""
    # Messages, parameters, receipts and decisions have annotations that pydantic and Prefect can evaluate.
    def _values(self: Any) -> _Dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __repr__(self) -> str:
        values = [f"{name}={value!r}" for name, value in self._values().items()]
        return f"{type(self).__name__}({', '.join(values)})"

    def __eq__(self, other: Any) -> bool:
        if type(other) is not type(self):
            return False
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(type(self))  # a value may be a list or a dict, which has none, and may change


@_dataclass
class AlerterMessage(_Record):
    """What to tell. Mistakes raise ConfigError at once.

    body: text in light Markdown: bold, italic, strike, code, code block, link, heading (# to ###), list,
    quote, pipe table; what is not clearly one of them stays as written. metadata: of any values, shown by
    str(). images: URLs, paths, bytes, open files, objects with savefig or save. files: of any kind, up to
    100 MB: paths, open files, or (name, bytes). level: info, success, warning, error.
    """
    title: str | None = None
    body: str | None = None
    metadata: _typing.Mapping[str, _typing.Any] = dataclasses.field(default_factory=dict)
    images: _typing.Iterable[_typing.Any] = dataclasses.field(default_factory=list)
    level: _typing.Literal["info", "success", "warning", "error"] = "info"
    files: _typing.Iterable[_typing.Any] = dataclasses.field(default_factory=list)
    _question = None  # type: Question | None
    _reply_to = None  # type: Receipt | None
    _loaded = None  # type: Sequence[_File] | None

    def __post_init__(self) -> None:
        _check_type("message: title must be text", self.title, str)
        _check_type("message: body must be text", self.body, str)
        if self.metadata is None:
            self.metadata = {}
        if not hasattr(self.metadata, "keys"):
            raise ConfigError(f"message: metadata must be a dict, not {_kind_of(self.metadata)}")
        self.metadata = dict(self.metadata)  # at once, for other threads may be changing it
        self.images, self.files = _listed(self.images, "images"), _listed(self.files, "files")
        _check_known("message: no level", self.level, _LEVELS)
        silent = re.fullmatch(fr"\s*(?:(?:{_TERMINAL})\s*)*", f"{self.title or ''}{self.body or ''}")
        if silent and not (self.metadata or self.images or self.files):
            raise ConfigError("message: there is nothing to say: give title, body, metadata, images or files")

    def _with(self, **changes: Any) -> AlerterMessage:
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed

    def _title_line(self) -> str:
        return " ".join(_clean(self.title or "").split())

    def _name(self) -> str:
        title = _bare(self._title_line())
        if title:
            return title
        text = _as_text(_body(_clean(self.body or "")[:2000]))
        return text.strip().partition("\n")[0]

    def _load(self) -> AlerterMessage:
        """Return it with pictures drawn and files read. Plotting libraries do not bear several threads."""
        if self._loaded is not None:
            return self
        loaded = []
        for kind, items in (("image", self.images), ("file", self.files)):
            for number, item in enumerate(items, 1):
                loaded.append(_load_file(item, f"{kind}-{number}", kind == "image"))
        return self._with(_loaded=loaded)

    def _files(self, who: str) -> list[_File]:
        """Return images and files, loaded; one that cannot be read is logged, and named in the alert."""
        files = []
        for file in self._load()._loaded or ():
            if file.problem and who:
                _log("warning", "%s: %s", who, file.label)
            files.append(copy.copy(file))  # each alerter notes its own refusals
            _masked(vars(files[-1]))
        return files

    def _repr_html_(self) -> str:
        """Return the HTML it would be mailed as; notebooks show it at the end of a cell."""
        return _mail_html(_lay_out(self, self._files("")), self.level, inline=True)


def _listed(items: Any, name: str) -> list[Any]:
    if items is None:
        return []
    if hasattr(items, "read") or getattr(items, "ndim", 1) != 1:  # one open file, or an array of numbers
        return [items]
    if isinstance(items, (str, bytes, bytearray, dict)) or not hasattr(items, "__iter__"):
        raise ConfigError(f"message: {name} must be a list; write {name}=[…]")
    return list(items)


@_dataclass
class AlerterParameters(_Record):
    """Choices for one call; None leaves them to the alerter, then to the defaults.

    approve_msg_options, disapprove_msg_options: the words (or emoji) that decide. approvers: user ids of the
    service. timeout: seconds, a timedelta, or a text such as "5m" or "1h30m". mention: whom to ping; on Slack
    `U…`, `S…`, here, channel, everyone; on Discord a user id, & and a role id, here, everyone.
    minimum_approvals: how many different people have to approve.
    """
    # A new one is also a keyword of all that asks, or posts, and maybe an option: see `_OPTIONS`.
    approve_msg_options: _typing.Iterable[str] | None = None
    disapprove_msg_options: _typing.Iterable[str] | None = None
    approvers: _typing.Iterable[str] | None = None
    timeout: float | str | _datetime.timedelta | None = None
    mention: _typing.Iterable[str] | None = None
    minimum_approvals: int | None = 1

    def __post_init__(self) -> None:
        """Raise ConfigError for what no service takes. Called again before each use: fields may change."""
        for name in ("approve_msg_options", "disapprove_msg_options", "approvers", "mention"):
            given = getattr(self, name)
            names = _names(given, name, commas=name == "approvers")
            # A generator gives its items once only, and an array of numpy cannot tell whether it is empty.
            if not isinstance(given, (str, tuple, list, set, frozenset, type(None))):
                setattr(self, name, names)
        if self.timeout is not None:
            _seconds(self.timeout, "timeout")
        if self.minimum_approvals is None:  # as the keyword of `ask` and the option of the command are
            self.minimum_approvals = 1
        needed = self.minimum_approvals
        if type(needed) is not int or needed < 1:  # True is no number of people
            raise ConfigError(f"minimum_approvals must be a whole number, 1 or more, not {needed!r}")


@_dataclass
class SlackAlerterParameters(AlerterParameters):
    """Choices for one call on Slack. thread_ts: `ts` of a message to post under. blocks: own Block Kit."""
    slack_channel_id: str | None = None
    thread_ts: str | None = None
    blocks: _typing.Sequence[dict[str, _typing.Any]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = self.blocks or []
        if not isinstance(blocks, (list, tuple)) or not all(map(_is_plain, blocks)):
            raise ConfigError("params: blocks must be a list of dicts for JSON, as Block Kit has them")
        _check_type("params: thread_ts must be a message's ts as str", self.thread_ts, str)


@_dataclass
class DiscordAlerterParameters(AlerterParameters):
    """Choices for one call on Discord."""
    discord_channel_id: str | None = None


@_dataclass
class SMTPEmailAlerterParameters(AlerterParameters):
    """Choices for one mail. html_body: own HTML; how to answer a question goes below it."""
    recipient_email: str | _typing.Iterable[str] | None = None
    subject: str | None = None
    subject_prefix: str | None = None
    include_html: bool | None = None
    html_body: str | None = None


@_dataclass
class Receipt(_Record):
    """Where a message landed. ref: the service's ids, plain JSON; of the first message if it was split.

    slack {"channel", "ts"}, discord {"channel_id", "message_id"}, smtp_email {"message_id"}.
    """
    alerter: str
    ref: dict[str, _typing.Any]
    url: str | None = None


@_dataclass
class Decision(_Record):
    """How a question ended. True only if approved, so compare with None to see whether there is one.

    status: approved, declined, timeout. by: the service's user id. text: as written. via: reply, reaction,
    channel, email, console. at: UNIX seconds. by, text and via are None when nobody decided. reason: what
    stood behind the word of a decline. approvals: the user ids of all who approved, in order.
    """
    status: _typing.Literal["approved", "declined", "timeout"]
    by: str | None = None
    text: str | None = None
    via: str | None = None
    at: float = 0.0
    reason: str | None = None
    approvals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status == "approved" and self.by and not self.approvals:
            self.approvals = (self.by,)

    def __bool__(self) -> bool:
        return self.status == "approved"


def _message(message: object, **fields: Any) -> AlerterMessage:
    if isinstance(message, AlerterMessage):
        checked = message._with(**fields)
        checked.__post_init__()  # its fields may have changed
        return checked
    if isinstance(message, str):
        return AlerterMessage(body=message, **fields)
    if isinstance(message, BaseException):
        told = {"title": _one_line(_exception_text(message), 300), "level": "error", **fields}
        return AlerterMessage(body=_fenced(_Trace(message).text), **told)
    raise ConfigError(f"a message is a str, an exception or an AlerterMessage, not {_kind_of(message)}")


def _kind_of(value: object) -> str:
    """Return what to call a value that is of no use here; two copies of this module are easily mixed up."""
    kind: type[Any] = type(value)
    said = kind.__name__
    if isinstance(value, type):
        kind, said = value, f"the class {value.__name__}"
    for cls in kind.__mro__:
        if cls.__name__ in __all__ and globals().get(cls.__name__) is not cls:
            place = getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__)
            return f"{kind.__name__} of a second copy of this module ({place}): import one of them only"
    return said


def _exception_text(error: BaseException) -> str:
    name, text = type(error).__qualname__, _clean(error)
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    return ": ".join(filter(None, [name, text]))


def _params(params: _Params) -> _Params:
    _check_type("params must be AlerterParameters", params, AlerterParameters)
    if params is not None:
        params.__post_init__()  # its fields may have changed
    return params


def _arguments(given: _Dict) -> tuple[AlerterMessage, _Params]:
    """Return the message and the parameters of a call. given: its locals(), where None is "not given"."""
    said, choices = {}, {}
    for name, value in given.items():
        if value is None:
            continue
        if name in AlerterMessage.__dataclass_fields__:
            said[name] = value
        if name in AlerterParameters.__dataclass_fields__:
            choices[name] = value
    message = _message(given.get("message", given.get("question")), **said)
    error, above, params = given.get("exception"), given["reply_to"], _params(given["params"])
    _check_type("exception must be an exception", error, BaseException)
    _check_type("reply_to must be the Receipt that send returned", above, Receipt)
    if error is not None:
        body = f"{message.body or ''}\n\n{_fenced(_Trace(error).headed)}"
        message = message._with(body=body.lstrip("\n"))
        if message.level == "info" and not given["level"]:
            message = message._with(level="error")
    if above is not None:
        message = message._with(_reply_to=above)
    if choices:
        params = dataclasses.replace(params or AlerterParameters(), **choices)
    return message, params


# === Posting and asking from anywhere ===
@functools.lru_cache(maxsize=None)  # so it is told once a process
def _warn_once(text: str) -> None:
    _log("warning", "%s", text)


def _targets(alerter: _Target = None, stack: str | None = None, warn: bool = True) -> list[BaseAlerter]:
    """Return the alerters to use: an object, a name, a stack, the environment's, or the active stack's."""
    if isinstance(alerter, BaseAlerter):
        return [alerter]
    _check_type("alerter must be a name or an alerter", alerter, str)
    store = StackStore()
    if alerter is not None and stack is not None:
        raise ConfigError("--alerter and --stack: give one of them")
    if alerter is not None or stack is not None:  # even if empty, by a variable of the shell that is not set
        return store._alerters_of(alerter, stack)
    if os.environ.get("ALERTERS_FLAVOR"):
        return [_from_environment()]
    found, active = store._alerters_of(), store.active_stack()
    stray = _stray_variable(store._load()["alerters"])
    if active == "default" and found == [ConsoleAlerter()]:  # nothing is set up
        if stray:
            raise ConfigError(stray)
        if warn and not _has_input_box() and not _is_terminal(sys.stderr):
            _warn_once(f"alerts only reach the console, as nothing else is in use in {store.path}: run "
                       f"`{_program()} setup slack` (or discord, smtp_email), or set $ALERTERS_FLAVOR")
    elif stray:
        _warn_once(f"{stray}; the stack {active} is used")
    return found


@_known_keywords
def post(message: _Text, params: _Params = None, *, title: str | None = None, metadata: _Facts = None,
         images: Iterable[Any] | None = None, files: Iterable[Any] | None = None, level: _Level | None = None,
         exception: BaseException | None = None, mention: _Words = None, reply_to: Receipt | None = None,
         alerter: _Target = None) -> bool:
    """Return True once every alerter of the active stack took the message, else False (logged at ERROR).

    message: text, an AlerterMessage, or an exception. exception: one whose traceback goes below the text.
    reply_to: the Receipt of what it belongs under. alerter: a name or an alerter in place of the active
    stack. Raises ConfigError for a wrong set-up or call, never for a service.
    """
    message, params = _arguments(locals())
    try:
        return _post_to(_targets(alerter), message, params)
    except OSError as error:  # no descriptor is left to read a module with, say
        _log("error", "not posted: %s", error)
    return False


def _post_to(targets: list[BaseAlerter], message: AlerterMessage, params: _Params) -> bool:
    """Post to all at the same time; whatever one of them raises, the others have it."""
    def posted(target: BaseAlerter) -> bool:
        own = _own_mentions(target, targets, params)
        return _worked(_own_code, target._who, target.post, message, own)  # it may be a flavor's own `post`

    if len(targets) == 1:
        return posted(targets[0])
    message = message._load()
    results: list[bool] = []
    errors: list[BaseException] = []

    def work(target: BaseAlerter) -> None:
        try:
            results.append(posted(target))
        except (Exception, KeyboardInterrupt) as error:  # raised below, once the others are done
            errors.append(error)
        except BaseException as error:  # in a thread it ends nothing, so it is a failure like any other
            results.append(False)
            _log("error", "%s: it raised %s", target._who, _one_line(repr(error)))

    for thread in [_in_thread(target._label, work, target) for target in targets]:
        if thread.is_alive():
            thread.join()
    for error in errors[1:]:
        _log("error", "%s", error)
    if errors:
        raise errors[0]
    return all(results)


def _in_thread(name: str, work: Callable[..., object], *given: Any, daemon: bool = True) -> _threading.Thread:
    """Do it in a thread; right here where none can be had, as in a subinterpreter, or while Python ends."""
    thread = _threading.Thread(target=work, args=given, name=f"alerters-{name}")
    try:
        thread.daemon = daemon
        if sys.is_finalizing():  # before Python 3.12, `start` would wait for ever
            raise RuntimeError
        thread.start()
    except RuntimeError:
        work(*given)
    return thread


def _own_mentions(target: BaseAlerter, targets: list[BaseAlerter], params: _Params) -> _Params:
    """Leave out the mentions that another alerter of the stack knows, and this one does not."""
    if not params or not params.mention:
        return params
    own = []
    callers = [each for each in targets if each._calls_people]
    for name in _names(params.mention, "mention"):
        knowing = [each for each in callers if not each._problem("mention", name)]
        if target in knowing or not knowing:  # nobody's: it is refused
            own.append(name)
    return dataclasses.replace(params, mention=own or None)


@_known_keywords
def ask(question: _Text, params: _Params = None, *, title: str | None = None, metadata: _Facts = None,
        images: Iterable[Any] | None = None, level: _Level | None = None, timeout: _Time | None = None,
        approvers: _Words = None, mention: _Words = None, approve_msg_options: _Words = None,
        disapprove_msg_options: _Words = None, minimum_approvals: int | None = None,
        reply_to: Receipt | None = None, alerter: _Target = None, key: str | None = None) -> bool:
    """Return True only if the question was approved: not if declined, unanswered in time, or failed (logged).

    timeout: seconds, a timedelta, or a text such as "1h30m". key: a name, such as "deploy-42", under which
    the question outlives this process: asked again with the same key and text, it is taken up with the
    answers and the time it has. Raises AskNotSupported where nobody can be asked, before anything is posted.
    """
    message, params = _arguments(locals())
    return _worked(_decide, _targets(alerter, warn=False), message, params, key)


@_known_keywords
def decide(question: _Text, params: _Params = None, *, title: str | None = None, metadata: _Facts = None,
           images: Iterable[Any] | None = None, level: _Level | None = None, timeout: _Time | None = None,
           approvers: _Words = None, mention: _Words = None, approve_msg_options: _Words = None,
           disapprove_msg_options: _Words = None, minimum_approvals: int | None = None,
           reply_to: Receipt | None = None, alerter: _Target = None, key: str | None = None) -> Decision:
    """Ask as `ask` does and return the Decision: who, when, with what words. Raises DeliveryError."""
    message, params = _arguments(locals())
    return _decide(_targets(alerter, warn=False), message, params, key)


def _decide(targets: list[BaseAlerter], message: AlerterMessage, params: _Params, key: str | None,
            opened: Callable[[Question], object] | None = None) -> Decision:
    """Ask the first alerter that can ask and takes the question, and tell `opened` once it is posted."""
    able, reasons = {}, []
    for target in targets:
        reason = target._cannot_ask()
        if reason and not target._overrides("ask"):
            reasons.append(f"{target._who}: {reason}")
        else:
            able[target._origin[0]] = target
    message = message._load()
    while able:
        target = next(iter(able.values()))
        if key:  # rather the one that asks it already, maybe for another process
            store = StackStore(target._origin[1])
            record = store._questions(store._load()).get(str(key))
            target = able.get(str(_mapping(record).get("alerter")), target)
        if target._overrides("ask"):
            return target.decide(message, params, key=key)
        try:
            question = target._try_to_open(message, _own_mentions(target, targets, params), key, able)
        except DeliveryError as error:
            if error.outcome != "not_sent" or len(able) == 1:
                raise
            _log("warning", "%s; the next alerter is asked", error)
            del able[target._origin[0]]
            continue
        if question:
            if opened:
                opened(question)
            return question.wait()
    raise AskNotSupported(f"nobody can be asked here: {'; '.join(reasons)}")


def alerter_post_step(message: _Text, params: _Params = None) -> bool:
    """Post to the active stack; True if posted."""
    return post(message, params)


def alerter_ask_step(message: _Text, params: _Params = None) -> bool:
    """Ask on the active stack; True only on approval."""
    return ask(message, params)


def _old_step(flavor: str, step: _F) -> _F:
    def old_step(message: _Text, params: _Params = None) -> bool:
        _warnings.warn(f"{old_step.__name__} is deprecated: use {step.__name__}", DeprecationWarning, 2)
        if flavor not in map(operator.attrgetter("flavor"), _targets()):
            raise ConfigError(f"no alerter of flavor {flavor} is active: use {step.__name__}")
        return bool(step(message, params))

    old_step.__name__ = old_step.__qualname__ = f"{flavor}_{step.__name__}"
    old_step.__doc__ = f"Deprecated: use {step.__name__}."
    return old_step  # type: ignore[return-value]


slack_alerter_post_step = _old_step("slack", alerter_post_step)
slack_alerter_ask_step = _old_step("slack", alerter_ask_step)
discord_alerter_post_step = _old_step("discord", alerter_post_step)
discord_alerter_ask_step = _old_step("discord", alerter_ask_step)
smtp_email_alerter_post_step = _old_step("smtp_email", alerter_post_step)


# === Alerters ===
_SECRET_NAME = "token|passw|passphrase|pwd|secret|credential|api_?key|private_?key|webhook(_url)?$"
_TYPES: dict[str, Any] = {"bool": bool, "int": int, "port": int, "float": (int, float), "tls": (bool, str),
                          "items": object, "": object}  # any other kind is a str
_UNFILLED = (r"[$'\"]?\{\{.*\}\}['\"]?|\$\{\w+\}|%[A-Z_]+%|\$[A-Z][A-Z0-9]*_[A-Z0-9_]+"
             r"|\$(?:TOKEN|PASSWORD|SECRET|CHANNEL)|\{+\s*(?:env|file)\s*[.:].*")  # the last: a brace short
_STILL = "is still a placeholder: put the real one there"
_NEVER_RIGHT = (  # what people paste: kinds of fields; a text that never works there; what is said of it
    ("token password url id host", _UNFILLED, "is a reference that nobody filled in: write the value itself; "
     "a secret may be {{env.NAME}} or {{file./path}}"),
    ("password", r"(?i)<[\w -]*(password|secret)>|your[-_ ](app[-_ ])?password|change-?me", _STILL),
    ("token url id host", r"(?ai)<[^@#!:]*>|.*(\.\.\.|…).*|(xox[a-z]-)?your[-_ ].*|change-?me|[cdgu]0?x{4,}"
     r"|xox[a-z]-[x-]*|https://.*/x{4,}", _STILL),  # C0XXXXXXX, xoxb-xxxx-xxxx
    ("token", r"https?://.*", "is an address: a webhook's belongs into the field …_webhook_url"),
    ("token", r"\W.*|.*[^!-~].*", "holds a space or a character that no token has: copy the token alone"),
    ("url id host", r"xox[a-z]-.*", "is a token: put it into slack_token"),
    ("tls", r"(?!(ssl|starttls)$).*", 'must be True, False, "ssl" or "starttls"'),
    ("listen", "(?!(thread|channel)?$).*", 'must be "thread" or "channel"'))
_TIMEOUT_HELP = "how long a question waits: seconds, or 90s, 5m, 1h30m, 2d; default 5m"
_LISTEN_HELP = "thread, or channel: plain messages in the channel answer the newest question above them, too"
_CASE_HELP = "whether capitals count in the words that decide"
_GOOD, _BAD, _NOTE = "ok    ", "FAIL  ", "note  "  # what a point of a check begins with


def _field(default: Any, about: str, kind: str) -> Any:
    """Return a field of a built-in flavor. about: what the help says of it; kind: see `_field_kind`."""
    return dataclasses.field(default=default, metadata={"about": about, "kind": kind})


def _field_kind(field: _Field) -> str:
    """Return what a field takes: bool, int, float, list (of words), items, time, text, or "" for anything."""
    if "kind" in field.metadata:  # a built-in flavor's, also token, password, url, id, host, port, tls …
        return str(field.metadata["kind"])
    named = {"timeout": "time", "approvers": "list"}
    # The letters of the annotation, without modules and None: "liststr" for Optional[typing.List[str]].
    noise = r"ForwardRef|, is_class.*?'>|<class '|\w+\.|Optional|Union|None(Type)?|\W"  # of a name not there
    letters = re.sub(noise, "", str(field.type)).lower()
    kinds = {"bool": "bool", "int": "int", "float": "float", "str": "text", "liststr": "list",
             "tuplestr": "list", "sequencestr": "list", "iterablestr": "list", "list": "items",
             "listint": "items", "tuple": "items", "set": "items", "setstr": "items"}
    return named.get(field.name, kinds.get(letters, ""))


@functools.lru_cache(maxsize=None)  # it is asked at every call
def _is_secret(field: _Field) -> bool:
    says_so = re.search(_SECRET_NAME, field.name.lower())
    return not field.repr or bool(says_so)


def _field_value(what: str, field: _Field, value: Any) -> Any:
    """Return the value of a flavor's field, checked for what can be told without asking the service."""
    kind, default = _field_kind(field), field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        default = None
    if value is None:  # as os.environ.get gives it
        value = default
    secret = isinstance(value, str) and _is_secret(field)
    if value == default and not (value and secret):
        return default
    if kind == "list":
        return _names(value, what, commas=field.name == "approvers")
    if kind == "time":
        return _seconds(value, what)
    wanted = _TYPES.get(kind, str)
    _check_type(f"{what} must be {getattr(wanted, '__name__', kind)}", value, wanted)
    if kind == "port" and not 0 < value < 65536:
        raise ConfigError(f"{what} must be a port from 1 to 65535")
    if not isinstance(value, str):
        return value
    value = value.strip()
    if secret:
        if re.fullmatch(_REFERENCE, value):
            return value
        value = _Secret(value)  # before it can be in the traceback of a refusal
    _check_text(what, kind, value)
    return value


def _check_text(what: str, kind: str, text: str) -> None:
    if re.search(r"[\x00-\x1f\x7f\u0085\u2028\u2029]", text):
        raise ConfigError(f"{what} holds a line break or another control character")
    for kinds, form, said in _NEVER_RIGHT:
        if kind in kinds.split() and re.fullmatch(form, text):
            raise ConfigError(f"{what} {said}")
    checks = {"url": _url_problem, "host": _server_problem}
    if text and kind in checks:
        problem = checks[kind](text)
        if problem:
            raise ConfigError(f"{what} {problem}")


def _url_problem(url: str) -> str:
    """Return what is wrong with an address, or "". It names the host alone: the rest may be secret."""
    host = ""
    with contextlib.suppress(ValueError):
        parts = _urllib_parse.urlsplit(url)
        # In http://[::1]evil.org older Pythons take ::1 for the host; a user or password belongs nowhere.
        if re.fullmatch(r"(\[[^\[\]@]+\]|[^\[\]@:]+)(:\d*)?", parts.netloc) and parts.port != 0:
            host = _host_of(parts)
    problem = _host_problem(host)
    if not host:
        problem = "write https://HOST/… or https://HOST:PORT/…"
    elif not re.fullmatch(r"[!-~]+", url):
        problem = problem or "it holds a space or another strange character"
    if problem:
        return f"is not a valid address: {problem}"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return ""
    return "must begin with https:// (http:// only for this machine)"


def _host_of(parts: _urllib_parse.SplitResult) -> str:
    """Return the host of an address; the scope of an IPv6 one is written %25 there (RFC 6874)."""
    return (parts.hostname or "").replace("%25", "%")


def _host_problem(host: str) -> str:
    if not host.isascii():
        return f"write its host as {_xn_form(host)}"
    with contextlib.suppress(ValueError):
        _ipaddress.ip_address(host.partition("%")[0])
        return ""
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    if re.fullmatch(rf"(?=.{{1,253}}\.?$)(?![\d.]+$)({label}\.)*{label}\.?", host):
        return ""
    return f"{_one_line(host, 60)!r} is no host's name"


def _xn_form(host: str) -> str:
    # Python's codec "idna" knows the rules of 2003, by which straße.de is strasse.de: somebody else's domain.
    labels = _unicodedata.normalize("NFC", host.lower()).split(".")
    for number, label in enumerate(labels):
        if not label.isascii():
            labels[number] = "xn--" + label.encode("punycode").decode()
    return ".".join(labels)


def _server_problem(text: str) -> str:
    pasted = re.fullmatch(r"(?:.*:.*@|.*//)?([\w.-]+)(?::\d+)?(?:[/?#].*)?", text)
    if pasted and pasted[1] != text:  # a password may stand before it
        return f"must be a host name alone: write {pasted[1]}; a port goes into the field …_port"
    problem = _host_problem(text)
    if problem:
        return f"must be a host name, such as mail.example.org: {problem}"
    return ""


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return _ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return False


def _documented(method: _F) -> _F:
    """Let what breaks over an answer of an undocumented form, or over our mistake, be a DeliveryError."""
    @functools.wraps(method)
    def careful(self: BaseAlerter, *given: Any, **named: Any) -> Any:
        try:
            return method(self, *given, **named)
        except ConfigError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError):
            error = _failure(self._who, "an answer of another form than documented", cure="look")
        raise error

    return careful  # type: ignore[return-value]


class _Clock:
    """The time and the waiting of an alerter. A subclass with another `clock` runs in virtual time."""
    now = staticmethod(time.time)
    sleep = staticmethod(time.sleep)

    @staticmethod
    def monotonic() -> float:
        # These go on while the machine sleeps, as a shown deadline does; macOS has the second one alone.
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a sandbox may not have it
                return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        return time.monotonic()


class BaseAlerter(_Record):
    """Base of all flavors. A flavor is a dataclass on it: its fields configure it, `flavor` is its name.

    Give it `send(message, params)` that returns a Receipt or raises DeliveryError, and, if it can ask,
    `replies(question)`; or override `post` and `ask` alone. Alerters are immutable and hashable.
    """
    # It has no fields: those that a flavor needs could not follow them (kw_only came with Python 3.10).
    flavor = ""
    clock = _Clock()
    _answer_by = "Answer"
    _gone = ()  # type: tuple[str, ...]  # codes of errors by which a question was deleted
    _has_reactions = _shows_questions = False  # the second: `send` itself writes how to answer
    _origin = ("", None)  # type: tuple[str, str | None]  # its name, and the store it came from
    _ref_forms = {}  # type: dict[str, str]  # of the ids that it takes to post below a message; {}: it cannot
    _example = {}  # type: dict[str, Any]  # fields that make a valid one, for `preview` and `setup`
    _setup_fields = ()  # type: Sequence[str]  # the fields that `setup` asks for, in this order
    _calls_people = True  # by mentions
    _most_people = sys.maxsize  # so many can answer one question
    _needs_emoji_names = False  # of emoji, to know them in an answer
    _api_field = ""  # that holds the service's address
    _channel_key = "channel"  # of a ref, if it names one
    _around_ids, _mention_form = "<@!>", "<@!?{}>"  # what is no part of a user id; how an answer names one
    _own_emoji = "(?!)"  # form of those of one server alone, (name) and (id); this one fits nothing

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for name in ("send", "post", "ask", "replies"):
            if _inspect.iscoroutinefunction(getattr(cls, name)):  # it would do nothing, and count as a yes
                raise ConfigError(f"flavor {cls.flavor}: {name} is async: write it without, with asyncio.run")
        if not hasattr(cls.send, "_takes_messages"):  # as an inherited one mostly does
            cls.send = _taking_messages(cls.send)  # type: ignore[method-assign]
        if "__post_init__" in vars(cls):
            cls.__post_init__ = functools.partialmethod(  # type: ignore[method-assign, assignment]
                BaseAlerter._check_first, cls.__post_init__)

    def _check_first(self, own: Callable[..., None], *given: Any) -> None:
        """Check the fields, then call a flavor's own __post_init__, which need not know of that."""
        BaseAlerter.__post_init__(self)
        own(self, *given)

    def __post_init__(self) -> None:
        import logging  # noqa: F401  # what tells of a failure: later no descriptor may be left to read it
        import socket  # noqa: F401
        cls = type(self)
        if cls.__hash__ is None:  # a plain @dataclass takes it away
            cls.__hash__ = BaseAlerter.__hash__
        fields = _fields_of(cls)
        for name, field in fields.items():
            self._set(name, _field_value(f"{self._who}: {name}", field, getattr(self, name)))
        for name in fields:
            self._refuse(name, getattr(self, name))
        self._check_together()

    def _refuse(self, name: str, value: Any) -> None:
        """Raise ConfigError for a field, or a parameter of that name, that can never work here."""
        if name in ("approvers", "mention") and value:
            value = _names(value, name, commas=name == "approvers")
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, (tuple, list)):
            return
        for text in filter(None, value):
            problem = self._problem(name, str(text))
            if problem:
                raise ConfigError(f"{self._who}: {name}: {problem}")

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__ or name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}: use dataclasses.replace")
        self._set(name, value)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @_known_keywords
    def post(self, message: _Text, params: _Params = None, *, title: str | None = None,
             metadata: _Facts = None, images: Iterable[Any] | None = None, files: Iterable[Any] | None = None,
             level: _Level | None = None, exception: BaseException | None = None, mention: _Words = None,
             reply_to: Receipt | None = None) -> bool:
        """Return True once the message is delivered. False: it was not (the reason is logged at ERROR)."""
        message, params = _arguments(locals())
        return _worked(self.send, message, params)

    @_known_keywords
    def ask(self, question: _Text, params: _Params = None, *, title: str | None = None,
            metadata: _Facts = None, images: Iterable[Any] | None = None, level: _Level | None = None,
            timeout: _Time | None = None, approvers: _Words = None, mention: _Words = None,
            approve_msg_options: _Words = None, disapprove_msg_options: _Words = None,
            minimum_approvals: int | None = None, reply_to: Receipt | None = None,
            key: str | None = None) -> bool:
        """Return True only if approved. False: declined, nobody answered, or it failed (logged at ERROR)."""
        message, params = _arguments(locals())
        return _worked(self._ask_and_wait, message, params, key)

    def send(self, message: Any, params: Any = None) -> Receipt:
        """Deliver the message and return where it landed. Raises DeliveryError. A flavor overrides it.

        It takes what `post` takes; the override gets an AlerterMessage, and AlerterParameters or None.
        """
        raise ConfigError(f"flavor {self.flavor} has no send(message, params)")

    @_known_keywords
    def decide(self, question: _Text, params: _Params = None, key: str | None = None, *,
               title: str | None = None, metadata: _Facts = None, images: Iterable[Any] | None = None,
               level: _Level | None = None, timeout: _Time | None = None, approvers: _Words = None,
               mention: _Words = None, approve_msg_options: _Words = None,
               disapprove_msg_options: _Words = None, minimum_approvals: int | None = None,
               reply_to: Receipt | None = None) -> Decision:
        """Ask, wait, and return who decided, when and with what words; key: as for the function `ask`.

        Raises DeliveryError if the service refuses for good, AskNotSupported before anything is posted.
        """
        message, params = _arguments(locals())
        if self._overrides("ask"):
            return _own_code(self._who, self._ask_own, message, params)
        return self._ask_and_wait(message, params, key)

    def _ask_and_wait(self, message: AlerterMessage, params: _Params, key: str | None) -> Decision:
        return self._open(message, params, key).wait()

    def _ask_own(self, message: AlerterMessage, params: _Params) -> Decision:
        status: _Status = "declined"
        answer = self.ask(message, params)
        if answer not in (True, False, None):  # "no" would count as a yes
            raise TypeError(f"its ask returned {_kind_of(answer)}, and not True or False")
        if answer:
            status = "approved"
        return Decision(status, at=self.clock.now())

    @_known_keywords
    def open_question(self, question: _Text, params: _Params = None, *, title: str | None = None,
                      metadata: _Facts = None, images: Iterable[Any] | None = None,
                      level: _Level | None = None, timeout: _Time | None = None, approvers: _Words = None,
                      mention: _Words = None, approve_msg_options: _Words = None,
                      disapprove_msg_options: _Words = None, minimum_approvals: int | None = None,
                      reply_to: Receipt | None = None, key: str | None = None) -> Question:
        """Post the question and return at once; its `check()` and `wait()` read the answers."""
        message, params = _arguments(locals())
        return self._open(message, params, key)

    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return people's answers so far, oldest first: {"by": user id, "text": as written, "via": "reply"}.

        Only those to this question, which `question.ref` tells: the ref of the Receipt that `send` returned.
        "at": UNIX seconds, if known. Matching, approvers, polling and timeout are the base's.
        """
        raise AskNotSupported(f"{self._who}: this flavor cannot be asked: it has no replies(question)")

    @_documented
    def check(self) -> str:
        """Try credentials, channel and permissions for real; return a line each. Raises if one fails."""
        return _report(self._who, self._points())

    def _try_post(self) -> str:
        """Post a test message; return a line for each thing that was tried. Raises DeliveryError."""
        message = AlerterMessage(body=_TEST)
        if not self._overrides("post"):
            self.send(message)
        elif not self.post(message):
            raise DeliveryError(f"{self._who}: its own post returned False")
        return f"{_GOOD}posting: a test message was posted"

    # What a flavor may have besides; here each does nothing, or the usual.
    def _points(self) -> Iterator[tuple[str, str]]:
        """Yield what `check` finds, as `_report` takes it."""
        yield _GOOD, f"the fields are valid; flavor {self.flavor} has no other check"

    @classmethod
    def _how_to_get(cls, name: str, fields: Mapping[str, Any]) -> str:
        """Return what `setup` says before it asks for a field. fields: those that are known."""
        return ""

    def _problem(self, name: str, text: str) -> str:
        """Return why a value of the field `name` can never work, and what to put there; "" if it may."""
        return ""

    def _check_together(self) -> None:
        """Raise ConfigError for fields that cannot go together."""

    def _can_follow(self, ref: _Dict) -> bool:
        """False if nothing can be posted here below the message that has this ref."""
        for name, form in self._ref_forms.items():
            if not re.fullmatch(form, str(ref.get(name))):
                return False
        return True

    def _can_reply(self, above: Receipt, params: _Params) -> bool:
        return self._can_follow(above.ref)

    def _ready_to_read(self, where: _Dict) -> str | None:
        """Return the user id it posts with, which never decides. Raise DeliveryError if it could not read."""
        return None

    def _where(self, message: AlerterMessage, params: _Params) -> _Dict:
        """Return where a question would go, as JSON: it binds a key to its place, and serves `_find`."""
        place = {}
        for name, field in _fields_of(type(self)).items():
            if not _is_secret(field) and name not in ("timeout", "approvers"):
                place[name] = _same_form(getattr(self, name))
        return place

    def _find(self, question: Question) -> _Dict | None:
        """Return the ref of a question that may have been posted; None: it was not."""
        return None

    def _offer_taps(self, question: Question) -> None:
        """Put the two reactions on it, so that one tap decides."""

    def _is_machine(self, user: str) -> bool | None:
        """True if a user id whose reaction would decide is a bot's, None if the service does not know it."""
        return False

    def _say(self, question: Question, text: str, to: _Reply | None, person: str = "") -> None:
        """Write under the question. to: the reply that it answers; person: whom to mention, of its text."""

    def _join(self, question: Question) -> None:
        """Begin to wait for a question: it may be read together with others from now on."""

    def _view_at(self, made: _View, *place: object) -> Any:
        """Return the view of all questions that wait at a place; `made` if there is none."""
        return _View.all.setdefault((os.getpid(), id(self.clock), *place), made)

    def _release(self, question: Question) -> None:
        """Stop reading it together with others."""
        with question._lock:
            view, question._shared = question._shared, None
            if view:
                view.leave(question)

    def _cannot_ask(self) -> str:
        """Return why it cannot be asked, or an empty string."""
        if self._overrides("replies"):
            return ""
        return "it has no replies(question)"

    def _person(self, name: str) -> str:
        """Return a user id in the form in which two are compared."""
        return name.strip().strip(self._around_ids).casefold()

    def _channel_of(self, ref: _Dict) -> str:
        return str(ref.get(self._channel_key, ""))

    def _pause(self, question: Question, seconds: float) -> None:
        self.clock.sleep(seconds)

    def _preview(self, message: AlerterMessage, params: _Params = None) -> str:
        """Return what `send` would send, for people to read."""
        return _as_text(_lay_out(message, message._files(self._who)))

    @property
    def _label(self) -> str:
        return self._origin[0] or self.flavor

    @property
    def _who(self) -> str:
        """What every error and warning about it begins with."""
        if self._origin[0]:
            return f"{self._origin[0]} ({self.flavor})"
        return self.flavor

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(BaseAlerter, method)

    def _until(self, seconds: float = _SOCKET_TIMEOUT) -> float:
        return self.clock.monotonic() + seconds

    def _checked(self, message: object, params: Any) -> tuple[AlerterMessage, _Params]:
        self._learn_secrets()
        choices = _params(params)
        if choices:
            for name, value in vars(choices).items():
                self._refuse(name, value)
            if choices.mention and not self._calls_people:
                _warn_once(f"{self._who}: mention: nobody can be called here, so it is left out")
                choices = dataclasses.replace(choices, mention=None)
        message = _message(message)
        texts = {"title": message.title, "body": message.body}  # which one's own flavor takes as they stand
        message = message._with(**_masked(texts), metadata=_masked(dict(message.metadata)))
        above = message._reply_to  # of an own flavor, say, whose ref may be anything
        if above and not (self._ref_forms and _is_plain(above.ref) and self._can_reply(above, choices)):
            _warn_once(f"{self._who}: reply_to: it cannot be followed here, so the message stands alone")
            message = message._with(_reply_to=None)
        return message, choices

    def _learn_secrets(self) -> None:
        """Look up the secrets that are references, so that they are masked from now on."""
        for name in _secrets_of(type(self)):
            with contextlib.suppress(ConfigError, TypeError):  # whoever needs it raises; or it is no text
                self._secret(name)

    def _secret(self, name: str) -> str:
        """Return a secret, read anew where it is a reference, and then checked as any other."""
        given, what = getattr(self, name), f"{self._who}: {name}"
        value = _reveal(given, what)
        if value is not given:
            _check_text(what, _field_kind(_fields_of(type(self))[name]), value)
            self._refuse(name, value)
        return value

    def _option(self, params: _Params, name: str, default: Any = None) -> Any:
        """Return the choice of this call, else the alerter's own field, else the default."""
        for value in getattr(params, name, None), getattr(self, name, None):
            is_empty = isinstance(value, (str, tuple, list, set)) and not value  # of an own flavor, say
            if value is not None and not is_empty:
                return value
        return default

    def _new_question(self, message: AlerterMessage, params: _Params, key: str | None) -> Question:
        now, fold = self.clock.now(), not getattr(self, "case_sensitive", True)
        approve, decline = self._word_lists(params, fold)
        approvers = list(_names(self._option(params, "approvers"), "approvers", commas=True)) or None
        where = self._where(message, params)
        people = set(map(self._person, approvers or where.get("people", ())))
        needed = getattr(params, "minimum_approvals", 1)
        may = min(len(people) or needed, self._most_people)
        if needed > may:
            raise ConfigError(f"{self._who}: minimum_approvals: {needed} have to approve, {may} may")
        timeout = _seconds(self._option(params, "timeout", _ASK_TIMEOUT), "timeout")
        text = _one_line(message.title or message.body or "(no text)", 80)
        record = _QuestionRecord({
            "token": os.urandom(8).hex(), "key": key, "alerter": self._origin[0], "flavor": self.flavor,
            "text": text, "where": where, "approve": approve, "decline": decline, "approvers": approvers,
            "case_sensitive": not fold, "minimum_approvals": needed, "asked": now, "deadline": now + timeout})
        if key:
            # The same in every process, whatever order sets have there, and at whatever address objects lie.
            same = [self.flavor, getattr(self, self._api_field, None), where, message.title, message.body,
                    _same_form(message.metadata), sorted(approve), sorted(decline), fold,
                    sorted(people), needed]
            same_text = _json.dumps(same, sort_keys=True, default=str)
            record.fingerprint = _hashlib.sha256(same_text.encode()).hexdigest()
        return Question(self, record)

    def _word_lists(self, params: _Params, fold: bool) -> list[list[str]]:
        """Return the words that approve, and those that decline, once each of them can decide."""
        approve = _names(getattr(params, "approve_msg_options", None), "approve_msg_options")
        decline = _names(getattr(params, "disapprove_msg_options", None), "disapprove_msg_options")
        lists = []
        taken = {_word(word, True) for word in approve + decline}
        for given, usual in (approve, _APPROVE), (decline, _DECLINE):
            free = [word for word in usual if _word(word, True) not in taken]
            lists.append(list(given or free or usual))  # the check below names those that are not free
        seen, meaning = set(), dict(zip(map(_tap_name, _TAPS), lists))
        for words in lists:
            for word in words:
                plain, problem = _word(word, True), ""
                if not plain:
                    problem = "must have a letter, a digit or an emoji in it"
                elif meaning.setdefault(plain, words) is not words:
                    problem = "means the opposite, too"
                elif _word(word, fold) in seen:
                    problem = "stands in its list twice"
                elif self._needs_emoji_names and _has_unknown_emoji(word):
                    problem = "holds an emoji whose name is not known here: write it as :name:"
                if problem:
                    raise ConfigError(f"{self._who}: the word {word!r} {problem}")
                seen.add(_word(word, fold))
        return lists

    def _open(self, message: AlerterMessage, params: _Params, key: str | None = None) -> Question:
        while True:
            question = self._try_to_open(message, params, key)
            if question:
                return question

    def _try_to_open(self, message: AlerterMessage, params: _Params, key: str | None,
                     stack: Iterable[str] = ()) -> Question | None:
        """Return the question, posted; None: its key is held, has just ended, or is another's of `stack`."""
        message, params = self._checked(message, params)
        problem = self._cannot_ask()
        if problem:
            raise AskNotSupported(f"{self._who}: nobody can be asked here: {problem}")
        if key is not None and not (isinstance(key, str) and key.strip()):
            raise ConfigError("key must be a name, such as \"deploy-42\"")
        asked = self._new_question(message, params, key)  # its time begins now
        with _one_operation():
            if key is not None:
                return self._claimed(asked, message, params, stack)
            self._publish(asked, message, params)
            return asked

    def _claimed(self, asked: Question, message: AlerterMessage, params: _Params,
                 stack: Iterable[str]) -> Question | None:
        record = asked._key.claim(asked._record, stack)
        if record is None:
            self.clock.sleep(_CLAIM_PAUSE)
            return None
        question = Question(self, record)
        with question._working():
            if record.fingerprint != asked._record.fingerprint:
                self._close_replaced(question)
                return None
            if record is not asked._record and not self._take_up(question):
                return None
            try:
                if record.ref is None and question._decision is None:
                    self._publish(question, message, params)
            except (ConfigError, DeliveryError) as error:
                if getattr(error, "outcome", "not_sent") == "not_sent":
                    question._key.drop()
                raise
            if question._decision is None:  # else who settled it holds the claim, until the end is told
                question._take_step(**{**vars(record), "claimed_until": 0.0})
        return question

    def _take_up(self, found: Question) -> bool:
        """True if a recorded question is open, is yet to be posted or was answered; else it has ended."""
        decision, expired = found._key.decision(), self.clock.now() >= found.deadline
        try:
            if decision is not None:  # who settled it died before the end was told
                found._finish(decision)
            elif self._locate(found) and expired:  # nobody has read the answers since its time was over
                found.wait()
        except DeliveryError as error:
            unreadable = error._cure == "people" or error.code == "unread"  # as by a missing scope
            if not (expired and unreadable):
                error.outcome = "unknown"  # no other alerter is asked: this one may have been answered
                raise
        if found._decision is not None:
            return found._decision.status != "timeout"
        if expired:  # it was never found, or nobody can read the answers any more
            self._close_replaced(found)
        return not expired

    def _close_replaced(self, found: Question) -> None:
        with contextlib.suppress(AlerterError):
            if found._record.alerter:
                found.alerter = StackStore(self._origin[1]).load_alerter(found._record.alerter)
            if found._record.flavor in ("", found.alerter.flavor) and found.alerter._locate(found):
                found._say("This question was replaced by another one and is closed.")
        found._key.drop()  # last: if this process is killed before, another one goes on

    def _locate(self, found: Question) -> bool:
        """True if it is known where a recorded question stands; else it is looked for."""
        record = found._record
        if record.ref is None and record.posted:
            record.ref = _retry(self, self._find, found, until=self._until(_SEND_BUDGET))
            if record.ref is not None:
                self._offer_taps(found)
                found._take_step(ref=record.ref, parts=record.parts)
        return record.ref is not None

    def _publish(self, question: Question, message: AlerterMessage, params: _Params) -> None:
        record, body = question._record, message.body
        record.author = self._ready_to_read(record.where)
        if self.clock.monotonic() > question._ends + _LATE:
            raise _failure(self._who, "its time ended before it was posted", hint="give it a longer timeout")
        record.posted = self.clock.now()
        if question._key:  # where that cannot be recorded, nothing is posted
            question._key.update({"posted": record.posted, "author": record.author})
        if not self._shows_questions:
            *how, closing = _how_to_answer(question).lines
            how.append(_in_markup(closing, _bare_words, {}))
            body = "\n".join([body or "", "", *how]).lstrip("\n")
        with question._closed_if_stopped():
            receipt = self.send(message._with(_question=question, body=body), params)
            if not _is_plain(receipt.ref):
                raise ConfigError(f"{self._who}: the Receipt's ref must be a dict of plain JSON")
            if not self._can_follow(receipt.ref):
                raise _failure(self._who, "an answer of another form than documented", cure="look")
            record.ref, record.url = receipt.ref, receipt.url
            self._offer_taps(question)


def _is_plain(ref: Any) -> bool:
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        _json.dumps(ref, allow_nan=False)
        return isinstance(ref, dict)
    return False


def _mapping(value: Any) -> _Dict:
    """Return a part of an answer that should be an object; {} for anything else."""
    if isinstance(value, dict):
        return value
    return {}


@reprlib.recursive_repr()  # a fact may hold itself
def _same_form(value: Any) -> Any:
    """Return a fact as JSON that is the same in every process."""
    if isinstance(value, dict):
        return sorted(map(_same_form, value.items()), key=_json.dumps)
    if isinstance(value, (set, frozenset)):
        return sorted(map(_same_form, value), key=_json.dumps)
    if isinstance(value, (list, tuple)):
        return list(map(_same_form, value))
    return re.sub(r" at 0x[0-9a-fA-F]+", "", _clean(value))


def _taking_messages(send: Callable[..., Receipt]) -> Callable[..., Receipt]:
    """Let a flavor's `send` take what a message may be given as, and return a Receipt in any case."""
    @functools.wraps(send)
    def checked(self: BaseAlerter, message: _Text, params: _Params = None) -> Receipt:
        with _one_operation():
            receipt: Any = _own_code(self._who, send, self, *self._checked(message, params))
        if receipt is False:
            raise DeliveryError(f"{self._who}: its own send returned False")
        if isinstance(receipt, Receipt):
            return receipt
        return Receipt(self._label, {})  # one's own may return nothing

    checked._takes_messages = True  # type: ignore[attr-defined]
    return checked


def _own_code(who: str, work: Callable[..., _T], *given: Any, reached: bool = True) -> _T:
    """Return work(…), where what a flavor's code raises is a DeliveryError. reached: it may have arrived."""
    try:
        return work(*given)
    except AlerterError as caught:
        if isinstance(caught, DeliveryError) and not str(caught).startswith(f"{who}: "):
            caught.args = (f"{who}: {caught.args[0]}",)
        raise
    except OSError as caught:
        error = _transport_failure(who, caught, reached)
    except Exception as caught:  # another's code may raise anything, and ours where no thread can be had
        error = _failure(who, _exception_text(caught), hint="its traceback is in the log", cure="people")
        _log("error", "%s: an exception in its code\n%s", who, _Trace(caught).text)
        error._logged = True
    raise error  # out here, so that what was raised does not travel with it: it may show secrets


def _worked(work: Callable[..., object], *given: Any) -> bool:
    """Return bool(work(…)); where a service refuses or cannot be reached, log why and return False."""
    try:
        return bool(work(*given))
    except DeliveryError as error:
        if not error._logged:
            _log("error", "%s", error)
        return False


def _report(who: str, points: Iterable[tuple[str, str]]) -> str:
    lines, failed = [], []
    for mark, text in points:
        text = _one_line(text).replace(f"{who}: ", "")
        lines.append(mark + text)
        if mark == _BAD:
            failed.append(text)
    if failed:
        error = _failure(who, "; ".join(failed), hint="mend this and run the check again")
        error._report = lines
        raise error
    return "\n".join(lines)


# === Asking ===
_WITH_REASON = r"((?::[\w+-]+:)+(?!:[\w+-]+:)|[^:]*[^:\s])(?::[*_`]*|\s:\s)\s*(\S.*)"  # or ":x:: why"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = r"(\d+(?:\.\d+)?)\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)"


def _canonical(text: str) -> str:
    """Return text with every emoji as its :shortcode:, however its letters and white space were typed."""
    text = re.sub("[\ufe0e\ufe0f🏻-🏿]|:skin-tone-[2-6]:", "", text)
    for name in _SHORTCODES.keys() & re.findall(r":([\w+-]+):", text):
        text = text.replace(f":{name}:", f":{_SHORTCODES[name]}:")
    text = re.sub(r"[^\S\n]+", " ", text)
    text = _unicodedata.normalize("NFC", re.sub("[\u2018\u2019\u02bc]", "'", text))
    named: dict[int, str] = {}
    for char in set(text):
        if char in _EMOJI:
            named[ord(char)] = f":{_SHORTCODES[char]}:"
        elif _unicodedata.category(char) == "So":
            named[ord(char)] = f":{_unicodedata.name(char, '').lower().replace(' ', '_')}:"
    return text.translate(named)


@functools.lru_cache(maxsize=128)  # the same few words are looked for at every poll
def _word(text: str, fold: bool) -> str:
    """Return a reply as the word it may be: no white space, markup or final . or ! around it."""
    text, ended = _canonical(text).strip(), False
    while True:
        wrapped = re.fullmatch(r"([*_`])(.+)\1", text, re.S)  # what is struck out or quoted is no answer
        if wrapped:
            text = wrapped[2].strip()
        elif text.endswith((".", "!")) and not ended:
            text, ended = text[:-1].rstrip(), True
        elif fold:
            return text.casefold().replace("i\u0307", "i").replace("ı", "i")  # of İ and I, in Turkish
        else:
            return text


def _tap_name(text: str, own_form: str = "(?!)") -> str:
    """Return the emoji that a reaction is, or that a word of the lists means: "ok" means :ok:, too."""
    own = re.fullmatch(own_form, text)
    if own:
        return own[2]
    if re.fullmatch(r"[\w+'-]+(::skin-tone-\d)?", text):  # or "thumbsup::skin-tone-3"
        text = f":{text}:"
    return _word(text, True)


def _has_unknown_emoji(word: str) -> bool:
    """True if it holds an emoji whose :name: is not known here."""
    chars = set(re.sub("[\ufe0e\ufe0f🏻-🏿]", "", word)) - set(_EMOJI)
    kinds = set(map(_unicodedata.category, chars))
    return "\u200d" in chars or not kinds.isdisjoint(("So", "Me", "Cn"))  # Cn: too new to know


def _names(value: Any, what: str, commas: bool = False) -> tuple[str, ...]:
    """Return names as a tuple; none at all is a mistake, but for None. commas: a text is split at them."""
    if value is None:
        return ()
    if commas and isinstance(value, str):
        value = value.split(",")
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__iter__"):
        value = [value]
    names = []
    for item in value:
        if isinstance(item, int):
            item = str(item)
        elif not isinstance(item, str):
            item = ""
        names.append(item.strip())  # of an enum of words this is the word
    if not names or "" in names:
        raise ConfigError(f"{what} must be a list of words, none of them empty; leave it out for the default")
    return tuple(names)


def _seconds(value: Any, what: str) -> float:
    seconds = value
    if hasattr(value, "total_seconds"):
        seconds = value.total_seconds()
    if isinstance(value, str):
        text = value.strip().lower()
        if re.fullmatch(r"[\d.]+", text):
            text += "s"
        if re.fullmatch(rf"(?:{_TIME}\s*)+", text):
            seconds = 0.0
            for number, unit in re.findall(_TIME, text):
                seconds += float(number) * _UNITS[unit[0]]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 1e9:
        raise ConfigError(f"{what} must be a number of seconds, 0 or more, or a time such as 90s, 5m, 1h30m "
                          f"or 2d, not {value!r}")
    return float(seconds)


def _among(words: Sequence[str]) -> str:
    """Return words as people list them: `a`, `b` or `c`. Emoji, and words with such marks, stand bare."""
    shown = [re.sub("^[ -_a-~]+$", r"`\g<0>`", _one_line(word, 100)) for word in words]
    shown[-2:] = [" or ".join(shown[-2:])]
    return ", ".join(shown)


class _QuestionRecord:
    """All that outlives a process about a question: `Question.to_dict`, and what the store keeps of a key.

    It is claimed (about to be posted), open (posted) or settled (with its decision); then it goes. Times are
    UNIX seconds by this machine's clock. What a record of an earlier version lacks has the value given here;
    what a later version adds is kept as it is. So a part keeps its type: what differs has a name of its own.
    """
    # Which question it is.
    token: str = ""  # 16 hex digits in the message, in the ids of mails: by these it is found again
    key: str | None = None  # the caller's name for it, if it is to survive the process
    fingerprint: str = ""  # of what it asks, where and whom: under one key another one is another question
    text: str = ""  # its title, or else its text, in one line of 80 characters at most
    # Where it stands.
    alerter: str = ""  # the alerter's name in the store; empty for one that was built in code
    flavor: str = ""
    where: dict[str, Any] = {}  # what the flavor's `_where` said before it was posted, for `_find`
    ref: dict[str, Any] | None = None  # the service's ids of it; None until it is known to be posted
    url: str | None = None  # where people see it, if that is known
    author: str | None = None  # the user id it was posted with, which never decides; None: not known
    parts: list[str] = []  # Discord: ids of further messages, a reply to which is one to the question
    recipients: list[str] = []  # mail: the addresses it was sent to
    subject: str = ""  # mail: of the first that was sent
    sent: list[str] = []  # mail: what was mailed of it, by which a quote is known: date, text, HTML as text
    # Who may answer, and how.
    approve: list[str] = []  # words: see `_word_lists`, `_verdict`, `_instructions` and `_help`
    decline: list[str] = []
    approvers: list[str] | None = None  # user ids; None: everybody
    case_sensitive: bool = False
    minimum_approvals: int = 1  # by so many different people
    # Its times.
    asked: float = -1.0  # when the process began to ask; without it nobody knows what came too late
    posted: float = 0.0  # when it was given to the service; 0: it was not
    deadline: float = 0.0  # as people were shown it; never moved, as other processes have it, too
    # How far it has come.
    helped: bool = False  # a near miss was answered, so no other is; the console, which answers all, sets it
    acknowledged: list[str] = []  # user ids of first approvals that were answered; see `_Key.update`
    claimed_by: str = ""  # who works on it, to post it or to take it up: see `_worker`
    claimed_until: float = 0.0

    def __init__(self, facts: Mapping[str, Any]) -> None:
        vars(self).update(copy.deepcopy({**_DEFAULTS, **facts}))

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(vars(self))

    def _is_sound(self) -> bool:
        """True if all parts have the form that the rest relies on, which stands above."""
        for name, kinds in _PART_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                return False
            if isinstance(value, list) and set(map(type, value)) - {str}:
                return False
            if float in kinds and not 0 <= getattr(self, name) < 1e10:  # a time, which NaN is not
                return False
        return all((self.token, self.deadline, self.approve, self.decline, self.approvers != [],
                    self.minimum_approvals > 0))


_JSON_TYPES = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float), "list[str]": (list,),
               "dict[str, Any]": (dict,), "None": (type(None),)}
_DEFAULTS: _Dict = {}  # of the parts of a record
_PART_TYPES: dict[str, tuple[type, ...]] = {}  # that their annotations allow
for _name, _form in _QuestionRecord.__annotations__.items():
    _DEFAULTS[_name] = getattr(_QuestionRecord, _name)
    _PART_TYPES[_name] = tuple(kind for part in _form.split(" | ") for kind in _JSON_TYPES[part])


def _recorded(key: str, given: Any) -> _QuestionRecord:
    """Return what the store holds of a key; one that cannot be read stops this key and nothing else."""
    record = _QuestionRecord({**_mapping(given), "key": key})
    if record._is_sound():
        return record
    raise StoreError(f"the record of the question {key!r} cannot be read: take it out of \"questions\" in "
                     "the store, or use another key")


def _known_ends(data: Mapping[str, Any], since: float = 0.0) -> _Dict:
    """Return how questions ended since a time, by token; what cannot be read is left out."""
    ends = {}
    for token, end in _mapping(data.get("ended")).items():
        when = _mapping(end).get("ended")
        if isinstance(when, (int, float)) and when > since and isinstance(end.get("status"), str):
            ends[token] = end
    return ends


def _decision_of(end: _Dict) -> Decision:
    decision = Decision(end["status"])
    vars(decision).update(end)
    decision.approvals = tuple(decision.approvals)
    return decision


def _worker(pid: object) -> str:
    """Return what names a process: number, when it was started (where Linux tells it), machine."""
    started = ""
    with contextlib.suppress(OSError):
        facts = _pathlib.Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        if facts[0] != "Z":  # dead, if nobody has asked how it ended
            started = facts[19]
    return f"{pid} {started} {_socket.gethostname()}"


def _is_held(record: _QuestionRecord | None, now: float) -> bool:
    """True while the one who claimed a record is alive, as far as can be told from here, and not overdue."""
    if not record or not now < record.claimed_until <= now + 2 * _CLAIM:  # later: a clock was set back
        return False
    if not record.claimed_by.endswith(f" {_socket.gethostname()}"):
        return True
    return record.claimed_by == _worker(record.claimed_by.split()[0])


class _Key:
    """The record of one key in the store. Each step of its life is one short locked change of the file.

    Between them a claim says who works on the record, so that another one waits, or takes over from a dead
    one. How a question ended stays known by its token for a day, for those who still wait.
    """
    def __init__(self, store: StackStore, name: str, token: str, clock: _Clock) -> None:
        self.store, self.name, self.token, self.clock = store, name, token, clock

    def _found(self, data: _Dict) -> _QuestionRecord | None:
        given = self.store._questions(data).get(self.name)
        if given is None:
            return None
        return _recorded(self.name, given)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[_Dict, _Dict, _QuestionRecord | None]]:
        """Yield the store's questions, by key, how some ended, by token, and the record of this key."""
        with self.store._changing() as data:
            data["ended"] = ends = _known_ends(data, self.clock.now() - _REMEMBERED)
            yield self.store._questions(data), ends, self._found(data)

    def _end(self, decision: Decision | None = None) -> _Dict:
        """Return how a question ends now, as the store keeps it. None: without a decision."""
        if decision is None:
            decision = Decision("timeout", at=self.clock.now())
        return {**dataclasses.asdict(decision), "ended": self.clock.now()}

    def claim(self, asked: _QuestionRecord, stack: Iterable[str]) -> _QuestionRecord | None:
        """Return the record to work on: `asked`, or the key's, of any question; None: another one does."""
        if _is_held(self._found(self.store._load()), self.clock.now()):  # who waits does not write
            return None
        with self._changing() as (questions, ends, found):
            if _is_held(found, self.clock.now()):
                return None
            if found and found.fingerprint != asked.fingerprint:
                if found.alerter != asked.alerter and found.alerter in stack:
                    return None
                ends.setdefault(found.token, self._end())  # from now on no answer to it counts
            record = found or asked
            self._hold(record, questions)
        return record

    def _hold(self, record: _QuestionRecord, questions: _Dict) -> None:
        record.claimed_by, record.claimed_until = _worker(os.getpid()), self.clock.now() + _CLAIM
        questions[self.name] = record.to_dict()

    def update(self, step: _Dict) -> bool:
        """Change the question's record; False if it was so already, or if the key is another's by now."""
        with self._changing() as (questions, _, found):
            if not found or found.token != self.token:
                return False
            for part in ("acknowledged", "parts"):  # another process may have added to them
                step[part] = list(dict.fromkeys(getattr(found, part) + step.get(part, [])))
            questions[self.name] = _recorded(self.name, {**vars(found), **step}).to_dict()
            return bool(questions[self.name] != vars(found))

    def settle(self, decision: Decision) -> tuple[Decision, bool]:
        """Record how the question ended, unless it is known; return how it did, and whether that is new."""
        with self._changing() as (questions, ends, found):
            if found and found.token != self.token:  # another question took the key
                ends.setdefault(self.token, self._end())
            is_new = self.token not in ends
            end = ends.setdefault(self.token, self._end(decision))
            if is_new and found:  # who asks from now on is not given this answer
                self._hold(found, questions)
        return _decision_of(end), is_new

    def drop(self) -> None:
        """Drop the question's record; how it ended, if it did, is known to those who still wait for it."""
        with self._changing() as (questions, _, found):
            if found and found.token == self.token:
                del questions[self.name]

    def decision(self) -> Decision | None:
        """Return how the question ended, as somebody has recorded it, or None while it is open."""
        end = _known_ends(self.store._load()).get(self.token)
        if end is None:
            return None
        return _decision_of(end)


class _Reply:
    """What a person wrote or tapped, made from one of the dicts that a flavor's `replies` returns."""
    by, text, via = "", "", "reply"  # the user id; as written, or the emoji; as in a Decision
    at: float | None = None  # when it was written or last edited, by the service's clock; None: not known
    posted: float | None = None  # when the question was, by that clock
    first_written: float = 0.0  # when, if it was edited or may have been moved since: it may have come first
    thread: Any = None  # where to answer it, if not at the question; a flavor's own
    means: Decision  # what an answer would decide; the look that reads it sets this and the next
    late = False

    def __init__(self, given: Mapping[str, Any]) -> None:
        vars(self).update(given)
        self.is_tap = self.via == "reaction"
        self.by, self.text = str(self.by or ""), str(given["text"] or "")
        if self.at is not None:
            self.at = float(self.at)


class _Reading:
    """What was read: the service's rows, or answers; and how much of all that is."""
    part_unread = False  # what is missing may hold a "no", so nothing is approved
    author: str | None = None  # the user id that the question was posted with, if that is told

    def __init__(self, rows: list[_Dict], missing: DeliveryError | None = None, once: bool = True) -> None:
        self.rows, self.missing = rows, missing  # the second: why not all was read; what was, counts
        self.looks_once = once  # else once more before it decides: not all was read at the same moment


class _View:
    """What is read of a channel, thread or mailbox for all the questions that wait there."""
    all: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()  # by process, clock and place
    read_for: Iterable[Question] = ()  # the last time
    found: _Reading  # by it
    error: DeliveryError | None = None

    def __init__(self, *questions: Question) -> None:
        self.lock = _threading.Lock()  # one reads, and the others take what it finds
        self.questions = set(questions)
        self.began = -_POLL_MAX  # on clock.monotonic: when the last reading began

    def leave(self, question: Question) -> None:
        self.questions.discard(question)


class Question:
    """A message that waits for a decision. `ref`: the service's ids of it; `deadline`: UNIX seconds."""
    def __init__(self, alerter: BaseAlerter, record: _QuestionRecord) -> None:
        self.alerter, self._record = alerter, record
        self.token = record.token  # the unguessable word that names it in its message
        self.deadline = record.deadline  # until when it may be answered, as people were shown it
        self._lock = _threading.Lock()  # one thread at a time works on it
        self._key: Any = None  # a _Key, if it is to survive the process
        if record.key:
            self._key = _Key(StackStore(alerter._origin[1]), record.key, self.token, alerter.clock)
        self._memo: _Dict = {}  # what a flavor keeps between polls: cursors, connections; never saved
        self._shared: Any = None  # while it is waited for: the _View of it and others
        self._part_unread = record.posted > 0  # a part that may hold a "no": it is taken up, say
        self._decision: Decision | None = None
        self._approvals: tuple[str, ...] = ()  # the user ids of who has approved by now
        self._was_decided = False  # by a look before, which the next one that reads all has to confirm
        self._fresh_from = 0.0  # what was read before may not serve any more, on clock.monotonic
        self._failing: DeliveryError | None = None  # why the last poll could not read everything
        now = alerter.clock.monotonic()  # by which the wait goes: the other clock may be set, or stand still
        self._ends = now + record.deadline - alerter.clock.now()
        self._began_late = now > self._ends + _LATE  # when no look tells whether a tap was given in time
        self._grace = min(max(_GRACE_SHARE * (record.deadline - record.asked), _GRACE_MIN), _GRACE_MAX)
        self._gives_up = max(now, self._ends) + self._grace  # if it cannot be read: how long that is tried
        self._wait_until = float("inf")  # when a wait that is shorter than the question ends
        self._next = 0.0  # when the next poll is due
        self._not_before = 0.0  # when the service allows one
        self._warn_from = 0.0  # when a failure to read is worth a warning again

    @property
    def ref(self) -> dict[str, Any]:
        """The service's ids of the message, as in the Receipt; empty until it is posted."""
        return self._record.ref or {}

    def __repr__(self) -> str:
        return f"Question({self._record.text!r}, alerter={self._record.alerter!r}, ref={self.ref!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return the question as plain JSON, without secrets, for `from_dict` in another process.

        Take it anew after each `check`: it holds who was answered, so that nobody is answered twice.
        """
        return self._record.to_dict()

    @classmethod
    def from_dict(cls, d: dict[str, Any], alerter: _Target = None) -> Question:
        """Return the question again. alerter: needed unless it was a named one of the store."""
        record = _QuestionRecord(_mapping(d))
        if not record._is_sound():
            raise ConfigError("question: pass the dict that to_dict gave; a part is missing or not as it was")
        if alerter is None and not record.alerter:
            raise ConfigError("question: its alerter had no name: pass it as alerter=")
        target = _targets(alerter or record.alerter)[0]
        if record.flavor not in ("", target.flavor):
            raise ConfigError(f"question: it was asked on {record.flavor}, not on {target.flavor}")
        if not target._can_follow(record.ref or {}):  # its ids go into addresses of requests
            raise ConfigError(f"question: its ref holds what is no id of {target.flavor}")
        return cls(target, record)

    def check(self) -> Decision | None:
        """Poll once: the decision, or None while there is none. Compare with None: a declined one is false.

        Raises DeliveryError when the service refuses for good, or could not be read when the time was over.
        """
        try:
            return self._poll()
        finally:
            self.alerter._release(self)

    def wait(self, timeout: _Time | None = None) -> Decision:
        """Wait for the decision. A `timeout` that ends before the deadline leaves the question open.

        Raises DeliveryError as `check` does. Ctrl-C, SIGTERM and SIGHUP close a question without a key.
        """
        clock, until = self.alerter.clock, float("inf")
        if timeout is not None:
            until = clock.monotonic() + _seconds(timeout, "timeout")
        if until >= self._ends:  # then it ends as the question does: no time-out where it cannot be read
            until = float("inf")
        self._wait_until, due = until, None
        try:
            with self._closed_if_stopped():
                self.alerter._join(self)
                while True:
                    decision, now = self._poll(due), clock.monotonic()
                    if decision is not None:
                        return decision
                    if now >= until:
                        return Decision("timeout", at=clock.now(), approvals=self._approvals)
                    due = self._next
                    if now < due:
                        self.alerter._pause(self, min(due, until) - now)
        finally:
            self.alerter._release(self)

    def _poll(self, due: float | None = None) -> Decision | None:
        """Return the decision after a look; none where another thread has taken the one that was due."""
        with self._lock, _one_operation():
            if self._decision is None and due in (None, self._next):
                self._poll_once(self.alerter.clock.monotonic())
                self._next = self._next_poll()
            return self._decision

    def _next_poll(self) -> float:
        """Return when the next poll is due: after a share of the question's age, and at the deadline."""
        now = self.alerter.clock.monotonic()
        if now < self._ends:
            return min(max(now + self._interval(now), self._not_before), self._ends)
        if self._failing:
            return min(max(now + _POLL_MIN, self._not_before), max(now, self._gives_up))
        return now  # the last look began before the deadline

    def _interval(self, now: float) -> float:
        age = abs(now - self._ends + self.deadline - self._record.asked)  # below 0: a clock was set back
        return min(max(_POLL_SHARE * age, _POLL_MIN), _POLL_MAX)

    def _poll_once(self, began: float) -> None:
        if began > max(self._next, self._gives_up) + _LATE:
            # This machine slept, say, and its network is not up yet: once it is as if it began only now.
            self._began_late, self._gives_up, self._grace = True, began + self._grace, 0.0
        try:
            if self._key:  # a thread or process may have settled or replaced it; nothing is written then
                self._decision = self._key.decision()
            if self._decision is not None:
                self._key.drop()  # else it would be used again, if who settled it died before it did this
        except StoreError as error:
            self._warn(error)
        if self._decision is not None:
            if self._decision.status == "timeout" and began < self._ends - _LATE:
                _log("warning", "%s: %r: closed, as its key was used for another question", self.alerter._who,
                     self._record.text)
            return
        decision = None
        if began >= self._not_before:
            try:
                decision = self._look(began)
                self._failing = self._reading.missing
            except (DeliveryError, _SecretAway) as error:
                self._failed(error)
        if decision is None and began >= self._ends and not self._failing:
            decision = Decision("timeout", at=self.alerter.clock.now(), approvals=self._approvals)
        if decision is not None:
            is_new = True
            if self._key:  # who was quicker has settled it, and told so
                decision, is_new = self._key.settle(decision)
            self._decision = decision  # Ctrl-C from here on does not close it once more
            if is_new:
                self._finish(decision)
            else:
                self._key.drop()  # as above
        elif self._failing and began >= self._gives_up:  # a look that hung till then is not the last one
            what = "the answers could not be read when the time was over"
            reason = self._failing.args[0].partition(": ")[2]
            raise _failure(self.alerter._who, f"{what}: {reason}", status=self._failing.status, cure="look",
                           code=self._failing.code, hint="look there, or ask again by its key if it has one")

    def _failed(self, error: Exception) -> None:
        """Note why it could not be read. What waiting cannot mend is raised, and closes the question."""
        if not isinstance(error, DeliveryError):
            error = DeliveryError(str(error))
        before, self._failing = self._failing, error
        self._part_unread = True
        if error._cure != "people":
            if error.retry_after:
                self._not_before = self.alerter.clock.monotonic() + error.retry_after
            self._warn(f"{error}; waiting for the answers goes on")
            return
        if error.code in self.alerter._gone:  # a note would stand alone
            if self._key:
                self._key.drop()
        elif not self._key and getattr(before, "_cure", "") != "people":  # else it was said before
            self._say("The answers cannot be read. This question is closed.")
        raise error

    def _warn(self, what: object) -> None:
        now = self.alerter.clock.monotonic()
        if now >= self._warn_from:
            self._warn_from = now + _WARN_AGAIN
            _log("warning", "%s", _one_line(what))

    def _look(self, began: float) -> Decision | None:
        """Return what the replies decide that are there now. began: when it was, by the monotonic clock."""
        answers, others = [], []
        replies = _own_code(self.alerter._who, self._read_replies, reached=False)
        reading = self._reading
        self._part_unread = reading.part_unread
        self._record.author = reading.author or self._record.author
        person, approvers = self.alerter._person, self._record.approvers
        if approvers is None:
            approvers = [reply.by for reply in replies]
        may_decide = set(map(person, approvers)) - {""}
        for reply in replies:
            if person(reply.by) not in may_decide or reply.by == self._record.author:
                continue
            answer, reply.late = self._meaning(reply), self._is_late(reply, began)
            if answer is not None:
                reply.means = answer
                answers.append(reply)
            elif not (reply.is_tap or reply.late or reply.via == "channel"):
                others.append(reply)
        decision = self._count(answers)
        if decision and reading.part_unread:  # it is an approval
            what = "what may decline it cannot be read"
            raise _failure(self.alerter._who, what, code="unread", cure="again")
        if decision is not None and not (self._was_decided or reading.looks_once):
            self._was_decided, self._fresh_from = True, self.alerter.clock.monotonic()
            again = self._look(began)  # one step may have missed what stood before that which decides
            if not self._reading.looks_once:  # else the service refused just now to be read twice
                return again
        elif not reading.missing:
            self._was_decided = False
        if decision is None:
            self._acknowledge()
            for reply in others:
                if reply.by not in self._approvals:
                    self._help(reply)
        return decision

    def _read_replies(self) -> list[_Reply]:
        self._reading = _Reading([])  # all; a flavor's `replies` may set what tells that it is not
        return list(map(_Reply, self.alerter.replies(self)))

    def _is_late(self, reply: _Reply, began: float) -> bool:
        """True for what came after the deadline. What is read before it was given before it."""
        if reply.at is None:  # a tap, of which only the look that finds it has a time
            until = max(self._ends, self._next) + _LATE  # the look before may have taken until `_next`
            if self._failing:  # nobody could look in time
                until = max(self._gives_up, until)
            return self._began_late or began > until
        if not reply.posted:  # then nobody knows how its clock differs from ours
            return self.alerter.clock.monotonic() > self._ends and reply.at > self.deadline
        # So much is the service's clock ahead of ours, at most: see `_try`.
        ahead = reply.posted - (self._record.posted or self._record.asked)
        return reply.at > self.deadline + ahead

    def _meaning(self, reply: _Reply) -> Decision | None:
        """Return what one reply means, as the decision that it would be; None: it is no answer."""
        us = self.alerter._mention_form.format(re.escape(str(self._record.author)))
        text = re.sub(us, " ", reply.text).strip()
        status, reason = self._verdict(text, reply.is_tap), None
        if status is None and not reply.is_tap:  # a decline may say why: "decline: too early"
            found = re.match(_WITH_REASON, text, re.S)
            if found and self._verdict(found[1].strip("*_`"), False) == "declined":
                status, reason = "declined", found[2]
        if status is None:
            return None
        at = reply.at
        if at is None:
            at = self.alerter.clock.now()
        return Decision(status, reply.by, reply.text, reply.via, at, reason)

    def _count(self, answers: list[_Reply]) -> Decision | None:
        """Return the decision: a decline, or the approval that completes them.

        First count words as they were written, then taps, of which no service tells the time. So a declining
        one wins, as does an edit; one that may have come too late stops an approval, and else is nothing.
        """
        record, latest = self._record, 0.0
        people: set[str] = set()  # who has approved
        given: dict[str, _Reply] = {}  # the first approval of each, by user id
        for reply in sorted(answers, key=operator.attrgetter("is_tap", "late")):
            user, declines, counts = reply.by, reply.means.status == "declined", not reply.late
            if len(given) >= record.minimum_approvals:
                counts = False
                if declines and (reply.is_tap or reply.first_written):  # nobody knows since when
                    counts = reply.first_written <= latest
            if not counts:
                continue
            machine = reply.is_tap and self.alerter._is_machine(user)
            if machine is None:  # it may be a person of another workspace, who may stop it, or is named
                machine = not (declines or record.approvers)
            if machine:
                continue
            if declines:
                return dataclasses.replace(reply.means, approvals=tuple(given))
            if self.alerter._person(user) not in people:
                people.add(self.alerter._person(user))
                given[user] = reply
                latest = max(latest, reply.means.at)
        # Those that were told of stand first, as nobody knows when a tap was given.
        users = [user for user in record.acknowledged if user in given]
        users += given
        users = list(dict.fromkeys(users))  # each of them once
        self._approvals = tuple(users)
        if len(users) >= record.minimum_approvals:
            return dataclasses.replace(given[users[-1]].means, approvals=self._approvals)
        return None

    def _acknowledge(self) -> None:
        """Answer each approval that did not decide, once."""
        record = self._record
        for number, user in enumerate(self._approvals, 1):
            if user not in record.acknowledged and self._take_step(acknowledged=record.acknowledged + [user]):
                self._say(f"Approved by {user}: {number} of {record.minimum_approvals} approvals.", user)

    def _take_step(self, **step: Any) -> bool:
        """Record parts; False if another process has done the same before, or the question has ended."""
        vars(self._record).update(step)
        try:
            return self._key is None or self._key.update(step)
        except StoreError as error:
            _log("warning", "%s", _one_line(error))
            return True

    def _verdict(self, text: str, tapped: bool) -> _Status | None:
        approve, decline, own_form = self._record.approve, self._record.decline, self.alerter._own_emoji
        meaning = functools.partial(_word, fold=not self._record.case_sensitive)
        if tapped:
            approving, declining = self._taps()
            approve, decline = [*approve, approving], [*decline, declining]
            meaning = functools.partial(_tap_name, own_form=own_form)
        meant, own = {meaning(text)}, re.fullmatch(own_form, text)
        if tapped and own:  # ":ship:" in a list means each one of that name
            meant.add(_tap_name(own[1]))
        if not meant.isdisjoint(map(meaning, decline)):
            return "declined"
        if not meant.isdisjoint(map(meaning, approve)):
            return "approved"
        return None

    def _taps(self) -> list[str]:
        """Return the two emoji to put on the question: the first of each list, or ✅ and ❌."""
        form, taps = rf":[^:\s]+:|{self.alerter._own_emoji}", []
        for words, usual in (self._record.approve, _TAPS[0]), (self._record.decline, _TAPS[1]):
            emoji = [word for word in words if re.fullmatch(form, _canonical(word))]
            taps.append([*emoji, usual][0])
        return taps

    def _help(self, reply: _Reply) -> None:
        """Answer a near miss, once per question."""
        if self._record.helped or len(reply.text) > _NEAR_MISS:
            return
        words = [re.escape(_word(word, True)) for word in self._record.approve + self._record.decline]
        near = re.search(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", _word(reply.text, True))
        if near and self._take_step(helped=True):
            self._say(f"That is not an answer yet. {self._instructions()[0]}", to=reply)

    def _instructions(self) -> list[str]:
        record = self._record
        how = f"{self.alerter._answer_by} {_among(record.approve)} to approve, or {_among(record.decline)} to"
        lines = [f"{how} decline, and nothing else."]
        if record.case_sensitive:
            lines = [f"{how} decline, written exactly so, and nothing else."]
        if self.alerter._has_reactions:
            lines[0] += f" Or tap {' or '.join(self._taps())}."
        plain = [word for word in record.decline if re.fullmatch(r"[\w -]+", word)]
        if plain:
            lines.append(f"A decline may say why: `{plain[0]}: the reason`.")
        if record.minimum_approvals > 1:
            lines.append(f"{record.minimum_approvals} different people have to approve; one decline ends it.")
        return lines

    def _finish(self, decision: Decision) -> None:
        """Say how it ended, and drop its record last: if we are killed before, another process goes on."""
        self._decision = decision
        how, said = "timeout, nobody decided", "Nobody decided in time. This question is closed."
        if decision.by:
            how = f"{decision.status} by {decision.by} ({decision.via})"
            people = [decision.by]
            if decision:  # of those that came since the look before no note has told
                people += decision.approvals[:-1]
            said = f"{decision.status.capitalize()} by {', '.join(people)}."
        _log("info", "%s: %r: %s", self.alerter._who, self._record.text, _one_line(how))
        with self._working():
            self._say(said, decision.by or "")
            if self._key:
                self._key.drop()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Give up this process's claim on the key if the work on it fails: whoever comes next goes on."""
        try:
            yield
        except BaseException:  # Ctrl-C, too; it goes on below
            self._take_step(claimed_until=0.0)
            raise

    @contextlib.contextmanager
    def _closed_if_stopped(self) -> Iterator[None]:
        """Close a question without a key when Ctrl-C, a signal or SystemExit ends what runs here."""
        taken, came = [], []  # type: list[Any], list[int]

        def stop(number: int, frame: object) -> None:
            came.append(number)
            if len(came) == 1:  # a terminal that goes, or a session that ends, sends several
                raise SystemExit(128 + number)

        if self._key:
            yield
            return
        try:
            with contextlib.suppress(ValueError):  # only the first thread of a program may take signals
                for number in _signal.Signals:
                    if number.name in ("SIGTERM", "SIGHUP") and _signal.getsignal(number) is _signal.SIG_DFL:
                        _signal.signal(number, stop)
                        taken.append(number)
            yield
        except Exception as error:  # no stop: it stays open and may be waited for again, if it stands whole
            if getattr(error, "outcome", "") == "partial":
                self._withdraw()
            raise
        except BaseException:  # what stops the wait, Ctrl-C or a framework's own; it goes on below
            if self._decision is None:
                self._withdraw()
            raise
        finally:
            for number in taken:
                _signal.signal(number, _signal.SIG_DFL)

    def _withdraw(self) -> None:
        """End it without a decision, within a few seconds even where the service does not answer."""
        def close() -> None:
            with contextlib.suppress(AlerterError, OSError):
                if self._record.ref is None:  # it may just have been posted
                    self._record.ref = self.alerter._find(self)
            self._say("Nobody waits for an answer any more. This question is closed.")

        self._decision = Decision("timeout", at=self.alerter.clock.now())
        with contextlib.suppress(RuntimeError):  # no new threads while the interpreter ends
            thread = _threading.Thread(target=close, name="alerters-close", daemon=True)
            thread.start()
            thread.join(_CLOSING)

    def _say(self, text: str, person: str = "", to: _Reply | None = None) -> None:
        try:
            if self._record.ref is not None:  # else it was never found
                _retry(self.alerter, self.alerter._say, self, text, to, person)  # few are taken at once
        except (AlerterError, OSError) as error:
            _log("warning", "%s: could not write under the question: %s", self.alerter._who, _one_line(error))


def _retry(alerter: BaseAlerter, call: Callable[..., _T], *given: Any, until: float | None = None,
           idempotent: bool = False, doubtful: bool = False,
           find: Callable[[], _T | None] | None = None) -> _T:
    """Return call(…), trying again what was certainly not accepted, until a moment of clock.monotonic.

    idempotent: once more does no harm, so what may have arrived is sent again, too. Else `find` looks for it
    first, and returns it or None; without both, the error is raised. doubtful: it may have arrived before.
    """
    clock, pause, end = alerter.clock, 1.0, until or alerter._until()
    while True:
        try:
            return call(*given)
        except DeliveryError as caught:
            error = caught
        unheard = error.outcome == "unknown"
        if doubtful and not unheard:
            error.outcome, error.hint = "unknown", f"{error.hint}; an earlier try may have arrived"
        doubtful = doubtful or unheard
        wait = max(error.retry_after or pause, 0.5)
        in_time = clock.monotonic() + wait < end
        if error.retry_after is None:
            pause = min(pause * 2, 8.0)
        elif not in_time:
            error.hint = f"it asks to wait for {error.retry_after:g} s: try again then"
        may_again = error._cure == "again"  # mail is sent once more where it may have arrived
        if unheard and (idempotent or find):
            may_again = True
        if not (in_time and may_again):
            raise error
        clock.sleep(wait)
        if unheard and find:
            try:
                found = _retry(alerter, find, until=end)
            except DeliveryError:
                raise error from None
            if found is not None:
                return found
            doubtful = False


# === Chat services ===
_MARKER = r'(?:"|\\n)Question ([0-9a-f]{16})\s*"'  # the last line of every question, in a row as JSON
_CALLED = 30  # approvers at most: they have to fit into one message with its text
_STYLES = {"code": "block", "ping": "mention", "title": "text", "note": "text"}  # of lines without spans
_UNFORMED = ("text", "plain", "code", "title", "facts")  # kinds whose lines stand as they are
_UNMARKED = r"(?![^a-zA-Z0-9]|\d+\.\s|.*://)[^@&<>`*_~|\\[\]\n]*"  # a line that is the same on each service
_LEFT_OUT = "… {:,} characters left out …"
_LOOK_BACK = 3600.0  # s before a question was asked, for a service whose clock is behind ours
_NO_FILES = "a webhook takes no files, only an image's URL"


class _Draft:
    """A message on its way to a chat service, or to a preview, for which the service is asked nothing."""
    why_plain = ""  # it goes without blocks or embeds
    in_forum = False  # where a message that is no reply is a thread of its own
    outcome = "not_sent"  # of an error from here on, whatever it says itself
    until = 0.0  # of clock.monotonic

    def __init__(self, alerter: _ChatAlerter, message: AlerterMessage, params: _Params) -> None:
        self.message, self.params = message, params
        self.where = alerter._where(message, params)
        self.ref: _Dict = {}  # of the first message, once it is posted
        self.limit, self.pages = alerter._limit, []  # type: int, list[_Page]
        self.reply_to: _Dict = getattr(message._reply_to, "ref", {})
        called = mention = _names(getattr(params, "mention", None), "mention")
        if message._question:
            called += tuple(message._question._record.approvers or ())[:_CALLED]
        self.called = [name.strip(alerter._around_ids) for name in called]
        files = message._files(alerter._who)
        for file in files:
            if file.data and not alerter._takes_files():
                file.problem = _NO_FILES
                _log("warning", "%s: %s", alerter._who, file.label)
        self.files = [file for file in files if not file.problem]
        self.whole = _File(_TEXT_FILE, problem=_NO_FILES)  # all the words, if they are too many
        pictures = [file for file in self.files if file.url or alerter._attaches]
        most = alerter._most_pictures
        self.pictures, self.later = pictures[:most], pictures[most:]  # in the first message, and in others
        self.blocks = list(map(_aligned, _lay_out(message, files)))
        if mention:
            self.blocks.insert(0, _Block("ping", self.called[:len(mention)]))


class _ChatAlerter(BaseAlerter):
    """What Slack and Discord share: pages, continuing, attaching, falling back to plain text.

    A chat flavor has its fields, `flavor`, `_ref_forms`, `_answer_by`, `_example`, `_setup_fields`, and what
    is declared here, in the order in which it is called: without a bot's token not `_tap` and what follows.
    """
    _shows_questions = _has_reactions = True
    # To be set up
    _token_field = _webhook_field = _channel_field = ""  # fields; without the first nobody can be asked
    # Field or parameter -> form of its ids, what is wrong with others ({}: if no secrets).
    _id_forms: Mapping[str, tuple[str, str]] = {}
    _person_id = "(?!)"  # form of the ids of people, who can be mentioned by them
    _thread_key = ""  # of a ref that names a thread in its channel, and the parameter for it
    _thread_of: Callable[[_Dict], str | None] = staticmethod(lambda ref: None)  # for what is below a message
    _mistakes = ()  # type: tuple[tuple[str, str, str], ...]  # (field, form of what can never work, advice)
    # To write
    # Kind of block (needed: title, fence) or style (bold, …) -> form of {words}, {indent}, {label}, {hashes}
    _forms: Mapping[str, str] = {}
    _bullet = "•"  # the label of an item that has no number
    # (style, text, url) -> markup. Styles: those of `_spans`, block (a line of code), and of people and times
    # mention, person (who may answer) and time (url: UNIX seconds). Unknown ones: as text.
    _mark: _Mark
    _measure: Callable[[str], int]  # how much of a limit a text takes
    _title_limit = 151  # with the end of the line
    _limit, _plain_limit = 2700, 2700  # of all words of one message, in its rich and its plain form
    # To post
    _most_pictures = 9
    _attaches = False  # files stand in the message itself, not below it
    _upload_right = "another flavor"  # what it takes to attach a file
    _refused_forms = ()  # type: tuple[str, ...]  # codes after which the plain form is tried
    _unfollowed = ()  # type: tuple[str, ...]  # codes after which a reply stands alone
    _payload: Callable[[_Draft, _Page], _Dict]  # the body of a request; the page's lines are by `_markup`
    _put: Callable[[_Draft, _Page], _Dict]  # posts that, with the page's files; -> ref, {} if not told
    _call: Callable[..., _Dict]  # sends a request, whatever it takes
    _link: Callable[[_Dict], str | None] = staticmethod(lambda ref: None)  # a message's address, if known
    _tap: Callable[[_Dict, str], None]  # (ref, emoji): puts it on a message
    _take_away: Callable[[_Dict], None]  # (ref): deletes a message
    # To ask, besides `_ready_to_read`, `_say` and `_find` of the base
    _view_type: type[_View] = _View
    _read_answers: Callable[[Question], _Reading]  # what people answered, and how much of it was read
    _read_view: Callable[[Question, list[_Dict]], _Reading]  # rows for all questions that have these refs
    _order: Callable[[_Dict], float]  # (row or ref): by which they stand in their channel
    _is_bot: Callable[[_Dict], bool]  # (row)
    _forwards: Callable[[_Dict], bool]  # (row): it shows another message, which those below may be about
    _answer: Callable[[Question, _Dict, str], _Dict | None]  # what a person's row answers, as in `_answers`

    def send(self, message: Any, params: Any = None) -> Receipt:
        """Post the message, in parts or as a file if it is long; return where its first part landed."""
        draft = _Draft(self, message, params)
        pages = self._cut(draft)
        question = draft.message._question
        draft.until = self._until(_SEND_BUDGET)
        if pages[0].files:
            draft.until = self._until(_UPLOAD_BUDGET - _SOCKET_TIMEOUT)  # the rest is for what is missing
        if question:  # once its time is over it is not posted any more
            draft.until = min(draft.until, max(question._ends, self._until(_LATE)))
        try:
            self._post(draft, pages[0])
            for page in self._fewer(draft, draft.pages)[1:]:
                self._post(draft, page)
        except DeliveryError as error:
            if draft.outcome != "not_sent":
                error.outcome = draft.outcome
                error.args = (f"{error.args[0]} ({error.outcome}: look there before you send it again)",)
            raise
        self._send_pictures(draft)
        missing = [f"[{file.label}]" for file in draft.files if file.problem]
        if missing:
            _log("warning", "%s: %s", self._who, "; ".join(missing))
            draft.until = self._until()
            with contextlib.suppress(DeliveryError):
                for page in _paged(self, [_Block("plain", missing)], self._limit, self._limit):
                    self._post(draft, page)
        if draft.why_plain:
            _log("warning", "%s; it went as plain text", draft.why_plain)
        return Receipt(self._label, draft.ref, self._link(draft.ref))

    def _post(self, draft: _Draft, page: _Page) -> None:
        """Post a page. Once a form is refused, this page and the later ones go as plain text."""
        try:
            if not draft.why_plain:
                return self._post_one(draft, page)
        except DeliveryError as error:
            if error.outcome != "not_sent" or error.code not in self._refused_forms:
                raise
            draft.why_plain, draft.limit = error.args[0], self._plain_limit
            if page.is_first:  # cut anew, as one takes less
                page = self._cut(draft)[0]
        written = [block.source for block in page.blocks]
        room = draft.limit + 100  # for a note of what is left out
        parts = _paged(self, written, room, room, 99)
        parts[0].is_first, parts[0].files = page.is_first, page.files
        for part in parts:
            self._post_one(draft, part)

    def _post_one(self, draft: _Draft, page: _Page) -> None:
        """Post a page by `_put`; alone, where nothing may stand below what it is to stand below."""
        try:
            ref = self._put(draft, page)
        except DeliveryError as error:
            if error.code not in self._unfollowed:
                raise
            if draft.where["thread"]:  # of a channel that is still there
                draft.where["thread"] = None
            elif draft.message._question:  # which others would answer elsewhere
                raise
            elif draft.reply_to:
                draft.reply_to, here = {}, draft.where["channel"]
                draft.where["channel"] = self._option(draft.params, self._channel_field, here)
            else:
                raise
            _log("warning", "%s; the message stands alone", error.args[0])
            ref = self._put(draft, page)
        draft.outcome = "partial"
        if ref and not draft.ref:  # the channel may have been given by a name; a webhook tells none
            draft.ref = ref
            draft.where = {"channel": self._channel_of(ref), "thread": self._thread_of(ref)}

    def _send_pictures(self, draft: _Draft) -> None:
        """Post, one by one, those that the first message had no room for, or could not take together."""
        again = []
        if len(draft.pages[0].files) > 1:
            for file in draft.pictures:
                if file.problem:
                    again.append(file)
        for file in again + draft.later:
            page, post = _Page(0), self._post
            if file.data:  # which a plain form would not help
                page.files, post = [file], self._post_one
            page.add(_Block("picture", [], file=file), file.url, "", 0)
            try:
                post(draft, page)
            except DeliveryError as error:  # the text has arrived, which counts
                file.problem = str(error)

    def _cut(self, draft: _Draft, most: int = _MOST_PARTS) -> list[_Page]:
        """Return the messages of a draft; of too many `most` and one more; the first has a file of all."""
        text, beside = self._shaped(draft)  # what is beside it stands in the first, however long it is
        frame = _Page(draft.limit)
        for block in beside:
            for line in block.lines:
                written = self._markup(block, line)
                frame.add(block, line, written, self._cost(written))
        room = max(frame.room, draft.limit // 4)  # many people, or long words, take more than there is
        pages = draft.pages = _paged(self, text, draft.limit, room, most)
        first = pages[0]
        first.blocks += frame.blocks
        first.blocks.sort(key=lambda block: block.kind not in ("ping", "title"))  # which stand above the text
        first.is_first = True
        first.files = [file for file in draft.files if file.data and file not in draft.later]
        if len(pages) > _MOST_PARTS and self._takes_files():
            draft.whole = _File(_TEXT_FILE, _whole_text(draft.message).encode("utf-8"))
            first.files.append(draft.whole)
        return pages

    def _fewer(self, draft: _Draft, pages: list[_Page]) -> list[_Page]:
        """Return the first of too many if the whole is attached; else five, what is left out, and five."""
        if len(pages) <= _MOST_PARTS:
            return pages
        if not draft.whole.problem:
            return pages[:1]
        _log("warning", "%s: the middle of the text is left out, for it cannot be attached: %s (it takes %s)",
             self._who, draft.whole.problem, self._upload_right)
        pages = self._cut(draft, sys.maxsize)
        half, left_out = _MOST_PARTS // 2, 0
        for page in pages[half:-half]:
            for block in page.blocks:
                left_out += len("\n".join(block.source.lines)) + 1
        note = _LEFT_OUT.format(left_out)
        pages[half - 1].add(_Block("plain", []), note, note, 0)
        return pages[:half] + pages[-half:]

    def _shaped(self, draft: _Draft) -> tuple[list[_Block], list[_Block]]:
        """Return running text, and the other blocks, as this service can show them."""
        text, beside = [], []
        for block in draft.blocks:
            if block.kind == "facts" and not self._takes_facts(block):
                block = _as_lines(block)
            elif block.kind == "title":
                line = _bare(block.lines[0])
                head, *_ = _fit(self, block, line, self._title_limit)
                if head != line:  # shortened, and whole as text
                    text.append(_Block("plain", [line]))
                    head = head[:-1] + "…"
                block = block.with_lines([head])
            if block.group == "text":
                text.append(block)
            elif block.kind != "picture" or block.file in draft.pictures:
                beside.append(block)
        return text, beside

    def _takes_facts(self, facts: _Block) -> bool:
        room = self._limit // 2
        for fact in facts.lines:
            name, value = self._markup(facts, fact)
            room -= self._cost((name, value))
            if self._measure(name) > 200 or self._measure(value) > 1000:
                return False
        return room >= 0

    def _markup(self, block: _Block, line: Any) -> Any:
        """Return one line of a block in the service's markup; of facts, name and value."""
        if isinstance(line, tuple):  # name and value of a fact; empty ones would be refused
            name, value = line
            return self._markup(block, name or "\u200b"), self._markup(block, value or "\u200b")
        if block.kind in _UNFORMED and re.fullmatch(_UNMARKED, line):  # for speed: most lines are so
            return line
        if block.kind in _STYLES:
            return self._mark(_STYLES[block.kind], line, "")
        return _marked(block, line, self._mark, self._forms, self._bullet)

    def _cost(self, written: Any) -> int:
        if isinstance(written, tuple):  # a fact, a field of its own: services take only so many
            return max(sum(map(self._measure, written)) + 8, 20)
        return self._measure(written) + 1

    def _said(self, kind: str, blocks: Sequence[_Block]) -> str:
        """Return written blocks of one kind as one text, code in fences."""
        lines = blocks[0].lines
        if kind == "ping":
            return " ".join(lines)
        if kind == "title":
            return self._forms["title"].format(words=lines[0])
        if kind == "facts":
            return "\n".join(_as_lines(blocks[0]).lines)
        lines = []
        for block in blocks:
            if block.kind == "code":
                head = [self._mark("block", line, "") for line in block.head]
                fence = self._forms["fence"].format(label=block.label)
                lines += [fence, *head, *block.lines, "```"]
            else:
                lines += block.lines
        return "\n".join(lines).strip("\n")

    def _in_words(self, page: _Page) -> str:
        """Return all that a page says, pictures by address, for what shows no blocks or embeds."""
        said = ""
        for kind, blocks in _grouped(page.blocks):
            words = self._said(kind, blocks)
            if words:
                if kind == "how":  # with room above it
                    said += "\n"
                said += f"\n{words}"
        return said.lstrip("\n")

    def _note(self, text: str, person: str) -> str:
        """Return a note in markup, with a mention of this person of its text; nobody else can be."""
        spans = list(_spans(text))
        if re.fullmatch(self._person_id, person):
            before, _, after = text.partition(person)
            spans = [("text", before, ""), ("mention", person, ""), ("text", after, "")]
        return _in_markup(spans, self._mark, self._forms)

    def _try(self, draft: _Draft, page: _Page, until: float, *request: Any, **how: Any) -> _Dict:
        """Post by `_call`. When we tried what asks is noted: the service's stamp then tells its clock."""
        def noted() -> _Dict:
            question = draft.message._question
            if question and page.is_first and not page.doubtful:  # else an earlier one may be it
                # It is recorded, as another process may have to take over, and to look for it there.
                posted = question.deadline - question._ends + self.clock.monotonic()
                question._take_step(posted=posted, where=dict(draft.where))
            try:
                return self._call(*request)
            except DeliveryError as error:
                if error.outcome == "unknown" and not how.get("find"):  # which finds it before the next try
                    page.doubtful = True
                raise

        return _retry(self, noted, until=until, doubtful=page.doubtful, **how)

    def _join(self, question: Question) -> None:
        ref, service = question.ref, getattr(self, self._api_field, "")
        place = self._channel_of(ref), ref.get(self._thread_key), getattr(self, "listen", "")
        token = getattr(self, self._token_field)
        view = question._shared = self._view_at(self._view_type(), service, token, place)
        view.questions.add(question)  # another thread may have set `_shared` to None by now

    @_documented
    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return answers to the question, and its reactions. Mostly one request."""
        question._reading = self._read_answers(question)
        return question._reading.rows

    def _view_of(self, question: Question) -> Any:
        return question._shared or question._memo.setdefault("view", self._view_type(question))

    def _read_shared(self, question: Question) -> _Reading:
        """Return what `_read_view` finds, or has found for all of the view in the last quarter of a pause."""
        view: _View = self._view_of(question)
        now = self.clock.monotonic()
        fresh_from = max(now - question._interval(now) / 4, question._fresh_from)
        if now >= question._ends:  # once more at the deadline
            fresh_from = max(fresh_from, now - _POLL_MIN / 4, question._ends)
        with view.lock:
            if question._shared is None or view.began < fresh_from or question not in view.read_for:
                began, view.error, view.read_for = self.clock.monotonic(), None, list(view.questions)
                refs = [each.ref for each in view.read_for]
                try:
                    view.found = self._read_view(question, refs)
                except DeliveryError as error:
                    view.error = error.with_traceback(None)  # its frames would keep the view
                view.began = began
            if view.error:
                raise copy.copy(view.error)
            return view.found

    def _answers(self, question: Question, rows: list[_Dict], counts_as: str) -> list[_Dict]:
        """Return what people wrote in reply; counts_as: the `via` of plain messages, or ""."""
        answers, below = [], f"below {counts_as}"  # names where the next question stands, or stood
        for row in sorted(rows, key=self._order):
            order = self._order(row)
            if order <= self._order(question.ref):
                continue
            if self._is_bot(row) or (counts_as == "channel" and self._forwards(row)):
                if set(re.findall(_MARKER, _json.dumps(row))) - {question.token}:
                    question._memo.setdefault(below, order)
                continue
            if order > question._memo.get(below, order):  # it belongs to that one, also once that is deleted
                counts_as = ""
            answer = self._answer(question, row, counts_as)
            if answer:
                answers.append(answer)
        return answers

    def _preview(self, message: AlerterMessage, params: _Params = None) -> str:
        draft = _Draft(self, message, params)
        shown: list[Any] = []
        for page in self._fewer(draft, self._cut(draft)):
            shown.append(self._payload(draft, page))
        for file in draft.files + [draft.whole]:
            if file.data:
                shown.append({"file": file.name, "bytes": len(file.data)})
        if len(shown) == 1:
            shown = shown[0]
        return _json.dumps(shown, indent=2, ensure_ascii=False)

    def _offer_taps(self, question: Question) -> None:
        for emoji in question._taps():
            try:
                self._tap(question.ref, emoji)
            except DeliveryError as error:  # a missing permission for it is no error: words still decide
                _log("info", "%s: no %s on the question: %s", self._who, emoji, error)

    def _try_post(self) -> str:
        if not self._by_bot():
            return super()._try_post()
        ref = self.send(AlerterMessage(body=f"{_TEST} It is taken away at once.")).ref
        points = [(_GOOD, "posting: a test message was posted")]
        for what, work in (("react", functools.partial(self._tap, ref, _TAPS[0])),
                           ("take the test message away", functools.partial(self._take_away, ref))):
            try:
                work()
                points.append((_GOOD, f"it could {what}"))
            except DeliveryError as error:
                points.append((_NOTE, f"it could not {what}: {error}"))
        return _report(self._who, points)

    def _by_bot(self) -> bool:
        """True if it posts as a bot, which can read answers as well; a webhook cannot."""
        return bool(getattr(self, self._token_field, None))

    def _takes_files(self) -> bool:
        return self._attaches or self._by_bot()

    def _check_together(self) -> None:
        if not self._by_bot() and not getattr(self, self._webhook_field):
            bot = ""
            if self._token_field:
                bot = f"{self._token_field} (posts and asks) or "
            raise ConfigError(f"{self._who}: give {bot}{self._webhook_field} (posts only)")

    def _cannot_ask(self) -> str:
        if self._by_bot():
            return ""
        return f"a webhook can only post; asking needs {self._token_field or 'another flavor'}"

    def _channel(self, params: _Params) -> str:
        name = self._channel_field
        channel = str(self._option(params, name, ""))
        self._refuse(name, channel)  # several, or what is no text, are none
        if not channel and self._by_bot():
            raise ConfigError(f"{self._who}: no channel: give {name} in the alerter or in the parameters")
        return channel

    def _problem(self, name: str, text: str) -> str:
        for field, form, advice in self._mistakes:
            if name == field and re.search(form, text):
                return advice
        form, problem = self._id_forms.get(name, ("(?s:.*)", ""))
        if re.fullmatch(form, text):
            return ""
        return problem.format(text)

    def _can_reply(self, above: Receipt, params: _Params) -> bool:
        if above.alerter != self._label and self._channel_of(above.ref) != self._channel(params):
            return False  # of several in a stack, another one sent it
        return self._can_follow(above.ref)

    def _where(self, message: AlerterMessage, params: _Params) -> _Dict:
        thread = getattr(params, self._thread_key, None)
        if message._reply_to and not thread:  # a reply stands where the message does
            ref = message._reply_to.ref
            return {"channel": self._channel_of(ref), "thread": self._thread_of(ref)}
        return {"channel": self._channel(params), "thread": thread}


def _row_with(rows: list[_Dict], key: str, ident: str) -> _Dict | None:
    for row in rows:
        if row.get(key) == ident:
            return row
    return None


# === Slack ===
_ON_SLACK = r"^https://([\w-]+\.)*slack(-gov)?\.com(?![^/])"  # the beginning of an address there
_ON_DISCORD = r"^https://([\w-]+\.)*discord(app)?\.com(?![^/])"  # which people take for one of Slack
_DISCORD_TOKEN = r"[\w-]{20,}\.[\w-]{5,}\.[\w-]{20,}"
_RATION = 60.0  # s between two readings of an app that Slack rations
_RATIONED_ROWS = 16  # that one of them gives at most: 15, and maybe the first of the thread
_SLACK_PAGE = "100"  # rows: at most 200 are advised, and an answer has to stay below _BODY_CAP
_AS_JSON = {"Content-Type": "application/json; charset=utf-8"}
_SCOPES = {"chat:write": (_BAD, "to post"), "reactions:write": (_NOTE, "to offer one tap"),
           "reactions:read": (_NOTE, "to read all taps"), "files:write": (_NOTE, "for images and long texts")}
_SLACK_WRITES = ("chat.", "files.complete")  # methods begin so of which once more would do harm
_MORE_SCOPES = ["channels:history", "groups:history", "channels:read", "groups:read", "users:read"]
_MISREAD = r"(?<![0-9A-Za-z])([*_~`])(?=\S).{0,500}(?<=\S)\1(?![0-9A-Za-z])"  # marks that nothing escapes
_SLACK_MARKS = {  # docs.slack.dev/messaging/formatting-message-text
    "code": "`{text}`", "link": "<{url}|{text}>", "url": "<{url}>",
    "time": "<!date^{url}^{{date_short_pretty}} {{time}}|{text}>",  # in the reader's zone
    "mention": "<@{text}>", "person": "<@{text}>", "group": "<!subteam^{text}>", "all": "<!{text}>"}
_SLACK_CALLS = {"S": "group", **dict.fromkeys(("here", "channel", "everyone"), "all")}  # who are no person
_SLACK_CURES: dict[str, _Cure] = {  # by the code of an error; of all others it is "people"
    "ratelimited": "again", "rate_limited": "again", "org_login_required": "again",
    "team_added_to_org": "again", "invalid_cursor": "again", "fatal_error": "look", "internal_error": "look",
    "request_timeout": "look", "service_unavailable": "look"}
_SLACK_HINTS = {  # docs.slack.dev/reference/methods
    "not_authed|invalid_auth|not_allowed_token_type|is_bot":
        "wrong token, or this address is not on the app's allow-list: copy the Bot User OAuth Token, xoxb-…",
    "token_revoked|token_expired|account_inactive": "the app was removed or its token expired: reinstall it",
    "missing_scope": "add the scope under OAuth & Permissions, then reinstall the app",
    "not_in_channel": "invite the bot with /invite in that channel",
    "channel_not_found": "give the channel's id (C…); a private channel needs the bot invited with /invite",
    ".*archived|is_inactive": "the channel is archived: choose another one",
    ".*restricted.*|.*access.*|no_permission|action_prohibited|posting_to_general.*|team_disabled":
        "a policy of the workspace forbids it: ask an admin, or choose another channel",
    "invalid_token|no_(service.*|team|active_hooks)": "the webhook was deleted or mistyped: make a new one",
    "(thread|message)_not_found|cannot_reply_to_message": "the message above was deleted: begin anew",
    "messages_tab_disabled": "turn on the Messages Tab under App Home, for direct messages to the app",
    "message_limit_exceeded": "the workspace's plan takes no more messages"}
_SLACK_CHANNEL = "id (C...), at the end of View channel details"  # input() fails if a terminal lacks a letter
_MEMBER_ID = "member ids (U...): in the profile, the three dots, Copy member ID"
_ACCOUNTS: dict[SlackAlerter, _Dict] = {}  # what auth.test has told, with "scopes" where the service does


class _SlackView(_View):
    """A view, with what is known of how much Slack lets the app read."""
    free_at = 0.0  # on clock.monotonic: when it may read again
    rationed = False  # whether it may read once a minute, as far as it is known
    widest = 0  # rows of the largest page that was read
    read_at: Mapping[str, float] = {}  # on clock.monotonic: when it was let read, by what


@_dataclass
class SlackAlerter(_ChatAlerter):
    """Slack, by a bot token (posts and asks) or by an incoming webhook (posts only).

    Scopes: chat:write; to ask also channels:history (groups:history in private channels), reactions:read and
    reactions:write; files:write for images and long texts. listen: "thread", or "channel" to take plain
    channel messages as answers too. Source: docs.slack.dev/reference/methods
    """
    slack_token: str = _field("", "bot token, xoxb-...: OAuth & Permissions of the app", "token")
    slack_channel_id: str = _field("", _SLACK_CHANNEL, "id")
    slack_webhook_url: str = _field("", "in place of the token, to post: Incoming Webhooks of the app", "url")
    slack_api_url: str = _field("https://slack.com/api", "of a compatible server", "url")
    timeout: _Time | None = _field(None, _TIMEOUT_HELP, "time")
    approvers: Iterable[str] | None = _field(None, f"who may decide: {_MEMBER_ID}; default everyone", "list")
    case_sensitive: bool = _field(False, _CASE_HELP, "bool")
    listen: Literal["thread", "channel"] = _field("thread", _LISTEN_HELP, "listen")

    flavor = "slack"
    # What is not explained here stands in BaseAlerter and, in the same order, in _ChatAlerter.
    _ref_forms = {"channel": "[A-Za-z0-9_.#@-]{1,80}", "ts": "[0-9.]{1,30}"}
    _example = {"slack_token": "{{env.PREVIEW}}", "slack_channel_id": "C0123456789"}
    _setup_fields = ("slack_token", "slack_channel_id")
    _token_field, _webhook_field, _channel_field = "slack_token", "slack_webhook_url", "slack_channel_id"
    _api_field, _thread_key = "slack_api_url", "thread_ts"
    _person_id = "(?!U0?X{4})[UW][A-Z0-9]+"
    _id_forms = {
        "slack_channel_id": (rf"(?!xox|xapp|{_DISCORD_TOKEN})[^\s@<>/,'\"“”‘’]+",
                             f"that is no channel; its {_SLACK_CHANNEL}"),
        "approvers": (f"[<@!]*{_person_id}>?", f"{{!r}} is no Slack id; {_MEMBER_ID}"),
        "mention": ("[<@!]*([UWS][A-Z0-9]+|here|channel|everyone)>?",
                    f"{{!r}} is no Slack id; {_MEMBER_ID}; groups S…; or here, channel, everyone")}
    _mistakes = (
        ("slack_token", "^xapp-", "an app-level token cannot post: copy the Bot User OAuth Token, xoxb-…"),
        ("slack_token", f"^{_DISCORD_TOKEN}$", "a token of Discord: use flavor discord, discord_token"),
        ("slack_webhook_url", rf"{_ON_DISCORD}(?!.*/slack/?(\?|$))",
         "that is a webhook of Discord: use flavor discord, discord_webhook_url"),
        ("slack_webhook_url", f"{_ON_SLACK}(?!.*/services/)",  # as Workflow Builder's, which take no text
         "that is no incoming webhook, https://hooks.slack.com/services/…: make one in the app"),
        ("slack_api_url", rf"{_ON_SLACK}(?!.*/api/?$)", "write https://slack.com/api"))
    _forms = {"title": "*{words}*", "heading": "*{words}*", "item": "{indent}{indent}{label} {words}",
              "quote": "> {words}", "fence": "```", "gap": "\u200b",  # for a mark within a word is none
              "bold": "*{words}*", "italic": "_{words}_", "strike": "~{words}~"}
    _upload_right = "a bot token with the scope files:write"
    _refused_forms = ("invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "invalid_payload")
    _unfollowed = ("thread_not_found", "cannot_reply_to_message", "restricted_action_thread_locked",
                   "restricted_action_non_threadable_channel")
    _answer_by = "Reply in this thread with"
    _needs_emoji_names = True
    _gone = ("message_not_found", "thread_not_found")
    _view_type = _SlackView

    @classmethod
    def _how_to_get(cls, name: str, fields: Mapping[str, Any]) -> str:
        if name == "slack_channel_id":
            return "Invite the app in the channel: /invite @alerters"
        app = {"display_information": {"name": "alerters"},
               "features": {"bot_user": {"display_name": "alerters"}},
               "oauth_config": {"scopes": {"bot": [*_SCOPES, *_MORE_SCOPES]}}}
        manifest = _urllib_parse.quote(_json.dumps(app, separators=(",", ":")))
        link = f"https://api.slack.com/apps?new_app=1&manifest_json={manifest}"
        return ("Open this link, choose the workspace and create the app; it has every scope:\n"
                f"{link}\nThen install it to the workspace, and copy the Bot User OAuth Token.")

    def _problem(self, name: str, text: str) -> str:
        if name in ("approvers", "mention") and re.fullmatch(r"[\w.-]+", text):
            if not re.match(_ON_SLACK, self.slack_webhook_url or self.slack_api_url):
                return ""  # other servers of its protocol have ids of other forms
        return super()._problem(name, text)

    def _points(self) -> Iterator[tuple[str, str]]:
        if not self.slack_token:
            yield _GOOD, "the webhook's form is right; only a post can tell more"
            return
        channel = self._channel(None)
        who = _ACCOUNTS[self] = self._call("auth.test", {})
        yield _GOOD, f"token: {who.get('user')} in {who.get('team')}"
        for scope, (mark, use) in _SCOPES.items():
            if scope not in who.get("scopes", _SCOPES):
                yield mark, f"scope {scope} is missing ({use}): add it, reinstall the app"
        if channel.startswith(("#", "U", "W")):  # a name or a person, which Slack takes to post alone
            yield _NOTE, f"channel {channel}: only an id (C…) can be tried without a post"
            return
        for method, what, mark in (("info", "channel {}", _NOTE), ("history", "may read replies", _BAD)):
            try:
                found = self._call(f"conversations.{method}", {"channel": channel, "limit": "1"})
                about = _mapping(found.get("channel"))
                yield _GOOD, what.format(about.get("name") or channel)
                if about.get("is_archived"):
                    yield _BAD, f"channel {channel} is archived: choose another one"
            except DeliveryError as error:
                yield mark, f"{what.format(channel)}: {error}"

    def _measure(self, text: str) -> int:
        return len(text.encode("utf-16")) // 2 - 1  # how it counts is not documented: the most it can be

    def _mark(self, style: str, text: str, url: str) -> str:
        safe = _unfenced(_defuse(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if style in ("link", "url"):
            url = url.replace("&", "&amp;").replace("|", "%7C")
            if safe == url:
                style = "url"
            safe = safe.replace("|", "¦")
        elif style == "mention":
            style = _SLACK_CALLS.get(text, _SLACK_CALLS.get(text[:1], style))
        elif style == "text":
            safe = re.sub("(?m)^&gt;", "\u200b&gt;", safe)  # which would begin a quote
        return _SLACK_MARKS.get(style, "{text}").format(text=safe, url=url)

    def _payload(self, draft: _Draft, page: _Page) -> _Dict:
        """Return the body of chat.postMessage: blocks, and all of it as `text`, for screen readers say."""
        blocks: list[_Dict] = []
        replaced: Sequence[str] = ()
        own = getattr(draft.params, "blocks", None)
        if own and page.is_first:
            blocks += _json.loads(_json.dumps(own), object_hook=_masked)
            replaced = ("title", "text", "facts")
        for kind, written in _grouped(page.blocks):
            if kind not in replaced:
                blocks += self._blocks(kind, written)
        for block in blocks:
            if "block_id" not in block:  # a doubtful post is looked for by it
                block["block_id"] = page.nonce
                break
        text = self._in_words(page) or self._named(draft.files)
        payload: _Dict = {"text": text, "unfurl_links": False, "unfurl_media": False}
        if blocks and not draft.why_plain:
            payload["blocks"] = blocks
        if self.slack_token:
            payload["channel"] = draft.where["channel"]
        if draft.where["thread"]:
            payload["thread_ts"] = draft.where["thread"]
        return payload

    def _named(self, files: Iterable[_File]) -> str:
        names = []
        for file in files:
            names.append(self._mark("text", file.name, ""))
        return "\n".join(names)

    def _blocks(self, kind: str, written: Sequence[_Block]) -> list[_Dict]:
        """Return written blocks of one kind as Block Kit: docs.slack.dev/reference/block-kit/blocks"""
        lines, source = written[0].lines, written[0].source.lines
        if kind == "title":
            return [{"type": "header", "text": _text_object("", source[0])}]
        if kind == "note":
            return [{"type": "context", "elements": list(map(_text_object, lines))}]
        blocks: list[_Dict] = []
        if kind == "facts":
            fields = []
            for (name, value), fact in zip(lines, source):
                fields.append(_text_object(f"*{name}*\n{value}", "\n".join(fact), kind))
            for start in range(0, len(fields), 10):
                blocks.append({"type": "section", "fields": fields[start:start + 10]})
        elif kind == "picture":
            for block in written:
                blocks.append({"type": "image", "image_url": block.file.url, "alt_text": block.file.name})
        else:
            words, plain = self._said(kind, written), ""
            if [block.kind for block in written] == ["text"]:
                plain = "\n".join(source).strip("\n")
            if words.strip():
                blocks.append({"type": "section", "text": _text_object(words, plain), "expand": True})
        return blocks

    def _put(self, draft: _Draft, page: _Page) -> _Dict:
        payload, started, until = self._payload(draft, page), self.clock.now(), draft.until
        if not self.slack_token:
            _retry(self, self._post_webhook, payload, until, until=until)
            return {}
        where, mark, find = draft.where, f"'{page.nonce}'", None
        # Slack knows no repeats: without a block to know it by, nobody can tell whether it was posted.
        if mark in str(payload):
            find = functools.partial(self._find_post, where, started, mark, until)
        ref = _slack_ref(where, self._try(draft, page, until, "chat.postMessage", payload, until, find=find))
        self._upload(page.files, ref, until)
        return ref

    def _post_webhook(self, payload: _Dict, until: float) -> None:
        url = self._secret("slack_webhook_url")
        answer = _http(self, "POST", url, until, [_json.dumps(payload, allow_nan=False).encode()], _AS_JSON)
        word = answer.text.strip()
        # Slack says ok, and calls it text/html; Mattermost and others say what they like, but no web page.
        kind = answer.headers.get("Content-Type", "").lower()
        must_be_ok = "://hooks.slack" in url or "text/html" in kind or word.startswith("<")
        code, what = None, f"HTTP {answer.status} from the webhook"
        if re.fullmatch(r"[a-z_]{3,50}", word):
            code = what = word
        if answer.status // 100 != 2 or (must_be_ok and word != "ok"):
            raise answer.refusal(self._who, what, code, hints=_SLACK_HINTS)

    def _upload(self, files: list[_File], ref: _Dict, until: float) -> None:
        """Share files in one reply, in three steps: docs.slack.dev/messaging/working-with-files"""
        shared: dict[_File, _Dict] = {}
        for file in files:
            try:
                shared[file] = {"id": self._upload_bytes(file, until), "title": file.name}
            except DeliveryError as error:
                file.problem = str(error)
        args = {"channel_id": ref["channel"], "thread_ts": self._thread_of(ref),
                "initial_comment": self._named(shared), "files": _json.dumps(list(shared.values()))}
        try:
            if shared:
                _retry(self, self._call, "files.completeUploadExternal", args, until, until=until)
        except DeliveryError as error:
            for file in shared:
                file.problem = str(error)

    def _upload_bytes(self, file: _File, until: float) -> str:
        """Upload the bytes of a file, which nobody sees yet; return its id."""
        about = {"filename": file.name, "length": str(len(file.data))}
        place = _retry(self, self._call, "files.getUploadURLExternal", about, until, until=until)
        url = str(place.get("upload_url"))
        if _url_problem(url):
            raise _failure(self._who, "no usable upload address in the answer")

        def send_bytes() -> None:  # without the token: the URL has its own
            kind = {"Content-Type": "application/octet-stream"}
            answer = _http(self, "POST", url, until, [file.data], kind)
            if answer.status != 200:
                raise answer.refusal(self._who, f"HTTP {answer.status} for the upload")

        _retry(self, send_bytes, until=until, idempotent=True)
        return str(place.get("file_id"))

    @_documented
    def _call(self, method: str, args: _Dict, until: float | None = None) -> _Dict:
        """Return the answer of a method: docs.slack.dev/reference/methods"""
        headers = {**_AS_JSON, "Authorization": _Secret("Bearer " + self._secret("slack_token"))}
        body = _json.dumps(args, allow_nan=False)
        if not method.startswith("chat."):  # the others are documented with forms first
            body = _urllib_parse.urlencode(args)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        url, harmless = f"{self.slack_api_url.rstrip('/')}/{method}", not method.startswith(_SLACK_WRITES)
        answer = _http(self, "POST", url, until or self._until(), [body.encode()], headers, harmless)
        data, scopes = _mapping(answer.json()), answer.headers.get("X-OAuth-Scopes")
        code = data.get("error")
        if scopes is not None:
            data["scopes"] = re.split(r"[,\s]+", scopes)
        done = data.get("ok") is True or code == "already_reacted"
        if answer.status == 200 and done:
            return data
        if answer.status != 200 or not isinstance(code, str):
            what = code or f"HTTP {answer.status}, no answer of Slack"
            raise answer.refusal(self._who, f"{what} ({method})", code, hints=_SLACK_HINTS)
        details = list(_mapping(data.get("response_metadata")).get("messages") or ())
        if data.get("needed"):
            details.insert(0, f"needs {data['needed']}, has {data.get('provided')}")
        what = code
        if details:
            what += f" ({'; '.join(details)})"
        cure = _SLACK_CURES.get(code, "people")
        if cure == "look" and harmless:
            cure = "again"
        raise _failure(self._who, what, status=200, code=code, hints=_SLACK_HINTS, cure=cure)

    def _link(self, ref: _Dict) -> str | None:
        # Its form: docs.slack.dev/reference/methods/chat.getPermalink; auth.test tells the rest.
        url, above = _ACCOUNTS.get(self, {}).get("url"), ref.get("thread_ts")
        if not url:
            return None
        link = f"{url}archives/{ref['channel']}/p{ref['ts'].replace('.', '')}"
        if above:
            link += f"?thread_ts={above}&cid={ref['channel']}"
        return link

    def _account(self, until: float | None = None) -> _Dict:
        token = self._secret("slack_token")  # a reference may hold another one by now, even of another app
        if _ACCOUNTS.get(self, {}).get("token") != token:
            told = _retry(self, self._call, "auth.test", {}, until, until=until)
            _ACCOUNTS[self] = {**told, "token": token}
        return _ACCOUNTS[self]

    def _me(self, until: float | None = None) -> str:
        return str(self._account(until).get("user_id"))

    def _tap(self, ref: _Dict, emoji: str) -> None:
        args = {"channel": ref["channel"], "timestamp": ref["ts"], "name": _canonical(emoji).strip(":")}
        _retry(self, self._call, "reactions.add", args)

    def _take_away(self, ref: _Dict) -> None:
        self._call("chat.delete", {"channel": ref["channel"], "ts": ref["ts"]})

    def _ready_to_read(self, where: _Dict) -> str:
        wanted = {"channels:history", "groups:history"}
        if where["channel"].startswith(("D", "U", "W")):
            wanted = {"im:history"}
        scopes = self._account().get("scopes", wanted)
        try:
            # Slack alone knows which scope the channel takes, and whether an app that may post is in it.
            if wanted.difference(scopes) or "chat:write.public" in scopes:
                self._call("conversations.history", {"channel": where["channel"], "limit": "1"})
        except DeliveryError as error:
            if error._cure == "people" and error.code != "channel_not_found":  # of a name the id is not known
                raise
        return self._me()

    def _say(self, question: Question, text: str, to: _Reply | None, person: str = "") -> None:
        ref, said = question.ref, self._note(text, person)
        payload = {"channel": ref["channel"], "thread_ts": self._thread_of(ref), "text": said}
        self._call("chat.postMessage", payload)

    def _find(self, question: Question) -> _Dict | None:
        record = question._record
        return self._find_post(record.where, record.asked, question.token, author=record.author)

    @_documented
    def _find_post(self, where: _Dict, since: float, needle: str, until: float | None = None,
                   author: str | None = None) -> _Dict | None:
        """Return the ref of our, or the author's, message with a text in it, if it was posted."""
        kind, args = "history", {"channel": where["channel"], "oldest": f"{since - _LOOK_BACK:.6f}"}
        if where["thread"]:
            kind, args["ts"] = "replies", where["thread"]
        author = author or self._me(until)
        try:
            for row in itertools.chain.from_iterable(self._pages(kind, args, until)):
                if row.get("user") == author and needle in str(row):
                    return _slack_ref(where, row)
        except DeliveryError as error:
            if error.code not in self._gone:  # a thread that is not there holds nothing
                raise
        return None

    def _read_answers(self, question: Question) -> _Reading:
        """Read the question's thread and its reactions, with one request when nothing has changed."""
        is_over = self.clock.monotonic() >= question._ends
        view, shared = self._view_of(question), _Reading([])
        listens = self.listen == "channel"  # in a thread that is read for all no message counts as plain
        if question.ref.get("thread_ts") or listens or len(view.questions) > 1:
            shared = self._read_shared(question)
        thread = self._thread(question, shared)
        row = self._with_all_taps(question, thread)
        answers = self._answers(question, thread.rows, "reply")
        parts = [thread]
        if listens:
            parts.append(shared)
            if not shared.missing:  # of a part nobody knows what stands above it
                answers += self._answers(question, shared.rows, "channel")
        answers.sort(key=operator.itemgetter("at"))
        taps = []
        for reaction in row.get("reactions") or ():
            for user in reaction.get("users") or ():
                if user not in (self._me(), "USLACKBOT"):
                    taps.append({"by": user, "text": reaction.get("name"), "via": "reaction"})
        if is_over:  # no tap tells its time: one that was not there at the first look came too late
            before = question._memo.setdefault("taps", taps)
            taps = list(filter(before.__contains__, taps))
        reading = _Reading(answers + taps, once=view.rationed)
        reading.author = row.get("user")
        for part in parts:
            if part.missing:
                reading.missing = part.missing
                # Of the other rows nobody knows what they decide. If there are none, taps decide meanwhile.
                if part.rows or question._part_unread or not view.rationed:
                    reading.part_unread = True
        return reading

    def _read_view(self, question: Question, refs: list[_Dict]) -> _Reading:
        refs.sort(key=self._order)
        args, in_thread = {"oldest": refs[0]["ts"], "inclusive": "true"}, question.ref.get("thread_ts")
        if in_thread:
            return self._read(question, "replies", {"ts": in_thread, **args})
        if self.listen == "channel":
            return self._read(question, "history", args)
        args["latest"] = refs[-1]["ts"]  # a page for ten: a question that stands in none is read for itself
        return self._read(question, "history", args, 1 + len(refs) // 10)

    def _thread(self, question: Question, shared: _Reading) -> _Reading:
        """Return what is in the question's thread, which begins with the question.

        shared: what one conversations.history tells of all: which have new replies, not where some are edited
        or deleted. So a thread is read again: of many one a second, at the deadline, where something decides.
        """
        ts, now = question.ref["ts"], self.clock.monotonic()
        latest, known, read_at = question._memo.get("thread", (None, [], -_POLL_MAX))
        row, thread = _row_with(shared.rows, "ts", ts), shared
        if not question.ref.get("thread_ts"):  # else that thread is what was read for all
            if row and not row.get("reply_count"):
                return _Reading([row])
            due = min(read_at + min(len(self._view_of(question).questions), _POLL_MAX), question._ends)
            is_fresh = question._fresh_from <= read_at and now < due
            if row and is_fresh and latest == row.get("latest_reply"):
                return _Reading([row, *known])
            thread = self._read(question, "replies", {"ts": ts})
        row = _row_with(thread.rows, "ts", ts)
        if not thread.missing:
            if row is None or row.get("subtype") == "tombstone":
                raise _failure(self._who, "the question was deleted", code="message_not_found", cure="people",
                               hint="begin anew")
            question._memo["thread"] = row.get("latest_reply"), thread.rows, now
        return thread

    def _read(self, question: Question, kind: str, args: _Dict, most: int | None = None) -> _Reading:
        """Return rows, which may not be all: some apps may read one page of 15 rows a minute.

        Of these nothing is read in the last minute before a deadline, so that it is allowed at the deadline.
        Source: docs.slack.dev/changelog/2025/05/29/rate-limit-changes-for-non-marketplace-apps
        """
        view: _SlackView = self._view_of(question)
        now, rows = self.clock.monotonic(), []
        ends_soon = now < question._ends < now + _RATION
        if now < view.free_at or (ends_soon and view.rationed):
            return _Reading([], _failure(self._who, "Slack rations the reading of answers", cure="again"))
        try:
            pages = self._pages(kind, {"channel": question.ref["channel"], **args})
            for page in itertools.islice(pages, most):
                rows += page
                view.widest = max(view.widest, len(page))
        except DeliveryError as error:
            if error.status != 429:  # what its body says is not documented
                raise
            wait = error.retry_after or _POLL_MIN
            view.free_at = now + wait
            # Another app has to wait so long only after many pages.
            if wait > _POLL_MAX and view.widest <= _RATIONED_ROWS:
                view.rationed = True
            return _Reading(rows, error.with_traceback(None))  # its frames would keep the view
        if now < view.read_at.get(kind, 0.0) + 0.8 * _RATION:  # which a rationed app may not
            view.rationed = False
        view.read_at = {**view.read_at, kind: now}
        return _Reading(rows)

    def _pages(self, kind: str, args: _Dict, until: float | None = None) -> Iterator[list[_Dict]]:
        asked = {**args, "limit": _SLACK_PAGE}
        for _ in range(50):
            page = self._call(f"conversations.{kind}", asked, until)
            yield page["messages"]
            asked["cursor"] = (page.get("response_metadata") or {}).get("next_cursor")
            if not asked["cursor"]:
                return
        raise _failure(self._who, f"more rows than one poll reads ({kind})", code="too_many",
                       retry_after=_RATION, hint="ask anew, where less is written")

    def _with_all_taps(self, question: Question, thread: _Reading) -> _Dict:
        """Return the question's row with all who reacted, whom only reactions.get is sure to list."""
        row = _mapping(_row_with(thread.rows, "ts", question.ref["ts"]))
        lists_all = not thread.missing
        for reaction in row.get("reactions") or ():
            users = reaction.get("users") or ()
            decides = question._verdict(str(reaction.get("name")), True)
            if decides and len(users) < reaction.get("count", 0):
                lists_all = False
        if lists_all:
            return row
        args = {"channel": question.ref["channel"], "timestamp": question.ref["ts"], "full": "true"}
        try:
            return _mapping(self._call("reactions.get", args)["message"])
        except DeliveryError as error:
            if error.code != "missing_scope":
                raise
        raise _failure(self._who, "not all reactions can be read", code="unread", cure="again")

    def _answer(self, question: Question, row: _Dict, counts_as: str) -> _Dict | None:
        # docs.slack.dev/reference/events/message: what people write has one of these subtypes, or none
        if row.get("subtype") not in (None, "thread_broadcast", "file_share", "me_message"):
            return None
        if not counts_as or row.get("user") in (None, "USLACKBOT"):  # no person
            return None
        if counts_as == "channel" and self._thread_of(row) != row["ts"]:  # it is in a thread
            return None
        # Slack's markup as it was typed: links first, entities last.
        text = re.sub(r"(<@\w+)\|[^>]*", r"\1", row.get("text") or "")
        text = re.sub(r"<(?=https?:|mailto:)(?:[^>|]*\|)?([^>]*)>", r"\1", text)
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        answer = {"by": row["user"], "text": text, "via": counts_as, "at": self._order(row),
                  "posted": self._order(question.ref)}
        if row.get("edited"):
            answer.update(first_written=answer["at"], at=self._order(row["edited"]))
        return answer

    def _order(self, row: _Dict) -> float:
        return float(row.get("ts") or 0)  # a time; the string itself stays the id

    def _thread_of(self, ref: _Dict) -> str | None:
        return ref.get("thread_ts") or ref.get("ts")  # it may begin one itself

    def _is_bot(self, row: _Dict) -> bool:
        return bool(row.get("bot_id"))

    def _forwards(self, row: _Dict) -> bool:
        return "'is_share': True" in str(row.get("attachments"))

    @functools.lru_cache(maxsize=None)  # noqa: B019  # nobody stops being a bot while this runs
    @_documented
    def _is_machine(self, user: str) -> bool | None:
        if "users:read" not in self._account().get("scopes", ()):
            return False
        try:
            return bool(self._call("users.info", {"user": user})["user"].get("is_bot"))
        except DeliveryError as error:
            if error.code not in ("user_not_found", "user_not_visible"):
                raise
            return None


def _text_object(words: str, source: str = "", kind: str = "text") -> _Dict:
    """Return a text object: of words in markup, or of their bare source where Slack would see more in it."""
    misread = False
    if re.search(_MISREAD, source):  # it has what Slack takes for marks; as one span alone it has none
        spans = list(_spans(source, _PATTERNS.get(kind, _INLINE)))
        misread = len(spans) == 1
    if words and not misread:
        return {"type": "mrkdwn", "text": words, "verbatim": True}
    safe = re.sub(r"<(?=[!@#])", "<\u200b", _defuse(source))  # another server may obey it even here
    return {"type": "plain_text", "text": safe, "emoji": True}


def _slack_ref(where: _Dict, row: _Dict) -> _Dict:
    ref = {"channel": row.get("channel", where["channel"]), "ts": str(row.get("ts"))}
    if where["thread"]:
        ref["thread_ts"] = where["thread"]
    return ref


# === Discord ===
_INTENT = ("the Message Content intent is off: only replies with the ping on, and reactions, can be read; "
           "turn it on under Bot in the developer portal")
_SNOWFLAKE = "[0-9]{1,20}"  # an id, which goes into addresses
_PATH = fr"(/(users|@me|channels|messages|threads|reactions/[^/?]+|{_SNOWFLAKE}))+(\?[\w=&]+)?"
_HAS_THREAD, _PLAIN, _REPLY = 1 << 5, 0, 19  # a flag, and two types, of messages
_CATEGORY, _FORUMS = 4, (15, 16)  # types of channels; in forums threads are written
_DISCORD_EPOCH = 1420070400.0  # s; the zero of snowflakes, which count ms above their lowest 22 bits
_EMBED = {"title": 0, "description": 1, "fields": 2, "image": 3, "footer": 4}  # as Discord orders its parts
_DISCORD_MARKS = {  # in {text} marks are escaped, in {bare} they are not; a time is in the reader's zone
    "code": "`{bare}`", "mention": "<@{bare}>", "person": "<@{bare}>",
    "url": "<{url}>",  # else what stands right behind it would count as part of it
    "time": "<t:{url}:t> (<t:{url}:R>)"}
_DISCORD_HINTS = {  # docs.discord.com/developers/topics/opcodes-and-status-codes
    "160005|50083": "the thread is archived or locked: choose another one",
    "10008": "the message was deleted: begin anew",
    "10015|50027": "the webhook was deleted or mistyped: make a new one",
    "401|40001|50014": "bad bot token: reset it under Bot in the developer portal",
    "10003|10013": "check that it still exists, its id (Developer Mode, Copy Channel ID), and the bot in it",
    "50001": "the bot cannot see the channel: add it, with View Channel and Read Message History",
    "50013|160002": "allow Send Messages, Embed Links, Attach Files, Add Reactions, Read Message History",
    "50008|50024|40058|22000[123]": "not a text channel: choose a text channel or a thread",
    "40067": "the forum demands a tag on each post: switch that off there, or choose another channel",
    "40005|50045": "it is too large for it: make it smaller, or post where it can be fetched",
    "200000|240000|20009": "a moderation rule of the server blocked the text"}
# React, view, send, embed links, attach, history, threads: docs.discord.com/developers/topics/permissions
_PERMISSIONS = 64 + 1024 + 2048 + 16384 + 32768 + 65536 + (1 << 38)
_DISCORD_CHANNEL = "a number: Developer Mode on, right-click the channel, Copy Channel ID"
_USER_ID = "user ids (digits): Developer Mode on, right-click the person, Copy User ID"


@_dataclass
class DiscordAlerter(_ChatAlerter):
    """Discord, by a bot token (posts and asks) or by a webhook (posts only).

    Permissions: View Channel, Send Messages, Embed Links, Attach Files; to ask also Read Message History and
    Add Reactions; in a forum, where each alert becomes a post, Send Messages in Threads. Without the Message
    Content intent only replies that ping are read. Source: docs.discord.com/developers/resources/message
    """
    discord_token: str = _field("", "bot token: Bot, Reset Token, in the developer portal", "token")
    discord_channel_id: str = _field("", _DISCORD_CHANNEL, "id")
    discord_webhook_url: str = _field("", "in place of the token, to post: Integrations of a channel", "url")
    discord_api_url: str = _field("https://discord.com/api/v10", "of a compatible server", "url")
    timeout: _Time | None = _field(None, _TIMEOUT_HELP, "time")
    approvers: Iterable[str] | None = _field(None, f"who may decide: {_USER_ID}; default everyone", "list")
    case_sensitive: bool = _field(True, _CASE_HELP, "bool")
    listen: Literal["thread", "channel"] = _field("thread", _LISTEN_HELP, "listen")
    default_discord_channel_id: str = _field("", "the older name of discord_channel_id", "id")

    flavor = "discord"
    # What is not explained here stands in BaseAlerter and, in the same order, in _ChatAlerter.
    _ref_forms = {"channel_id": _SNOWFLAKE, "message_id": _SNOWFLAKE}
    _example = {"discord_token": "{{env.PREVIEW}}", "discord_channel_id": "123456789012345678"}
    _setup_fields = ("discord_token", "discord_channel_id")
    _token_field, _webhook_field = "discord_token", "discord_webhook_url"
    _channel_field, _api_field = "discord_channel_id", "discord_api_url"
    _channel_key, _person_id = "channel_id", _SNOWFLAKE
    _channel_ids = (_SNOWFLAKE, f"that is no id: {_DISCORD_CHANNEL}")
    _id_forms = {
        "discord_channel_id": _channel_ids, "default_discord_channel_id": _channel_ids,
        "approvers": (f"[<@!]*{_person_id}>?", f"{{!r}} is no id of a person on Discord; {_USER_ID}"),
        "mention": (f"[<@!]*(&?{_SNOWFLAKE}|here|everyone)>?",
                    f"{{!r}} is no id of Discord; {_USER_ID}; & and a role id; or here, everyone")}
    _mistakes = (
        ("discord_token", "^xox[a-z]-|^xapp-", "that is a token of Slack: use flavor slack, slack_token"),
        ("discord_token", r"^\d+$", "that is an id, no token: Bot, Reset Token, in the developer portal"),
        ("discord_webhook_url", _ON_SLACK, "that is a webhook of Slack: use flavor slack, slack_webhook_url"),
        ("discord_webhook_url", rf"{_ON_DISCORD}(?!.*/webhooks/\d+/[\w-]+(\?|$))",
         "a webhook is …/webhooks/ID/TOKEN and nothing more: copy it under Integrations"),
        ("discord_api_url", rf"{_ON_DISCORD}(?!.*/api(/v\d+)?/?$)", "write https://discord.com/api/v10"))
    _forms = {"title": "**{words}**", "heading": "{hashes} {words}", "item": "{indent}{label} {words}",
              "quote": "> {words}", "fence": "```{label}",
              "bold": "**{words}**", "italic": "*{words}*", "strike": "~~{words}~~"}
    _bullet = "-"
    _measure = staticmethod(len)  # code points, says Discord's staff
    _title_limit, _limit, _plain_limit = 257, 3800, 1800
    _most_pictures = 6  # of ten embeds; what `_takes_facts` lets through takes four, 25 facts each
    _attaches = True
    _upload_right = "the permission Attach Files"
    _refused_forms = ("50035", "50013", "50006")  # a wrong form, no Embed Links, and an empty message
    _unfollowed = ("10003", "10008", "50083", "160005")  # it was deleted; it is archived or locked
    _answer_by = "Reply to this message, with the ping on, with"
    _own_emoji = r"<a?:(\w+):(\d+)>"
    _gone = ("10003", "10008")  # it, or its channel or post of a forum

    @classmethod
    def _how_to_get(cls, name: str, fields: Mapping[str, Any]) -> str:
        if name == "discord_token":
            return ("https://discord.com/developers/applications: New Application; under Bot, Reset Token,\n"
                    "and switch on the Message Content Intent.")
        client = cls(**{**cls._example, **fields})._me()
        return ("Open this link, and choose the server that the bot is to join:\nhttps://discord.com/oauth2/"
                f"authorize?client_id={client}&scope=bot&permissions={_PERMISSIONS}")

    def _check_together(self) -> None:
        self._set("discord_channel_id", self.discord_channel_id or self.default_discord_channel_id)
        self._set("default_discord_channel_id", "")
        super()._check_together()

    def _points(self) -> Iterator[tuple[str, str]]:
        if not self.discord_token:
            hook = self._call("GET", "")
            yield _GOOD, f"webhook {hook.get('name')} for channel {hook.get('channel_id')}"
            return
        user, path = self._call("GET", "/users/@me"), f"/channels/{self._channel(None)}"
        yield _GOOD, f"token: {user.get('username')}"
        try:
            channel = self._call("GET", path)
            name, kind = channel.get("name"), channel.get("type")
            if kind in _FORUMS:
                yield _GOOD, f"forum {name}: each alert becomes a post"
                return
            if kind == _CATEGORY:
                yield _BAD, f"{name} is a category, which takes no messages: choose a channel in it"
                return
            yield _GOOD, f"channel {name}"
            rows = self._latest(path, 50)
            yield _GOOD, "may read replies"
            if any(map(self._is_mute, rows)):
                yield _NOTE, _INTENT
        except DeliveryError as error:
            yield _BAD, str(error)

    def _can_follow(self, ref: _Dict) -> bool:
        if self._by_bot() or _forum_thread(ref):
            return super()._can_follow(ref)
        return False

    def _mark(self, style: str, text: str, url: str) -> str:
        bare = _defuse(text)
        if style == "block":
            return _unfenced(bare)
        if style == "link" and text == url:
            return url
        if style == "link":  # in its label a backslash is seen, so it stands only where a mark would act
            label = re.sub(r"([\\*`<]|[~|](?=[~|])|_(?![0-9A-Za-z]))", r"\\\1", bare)
            return f"[{label}]({url})"
        if style == "mention" and text in ("here", "everyone"):
            return f"@{text}"
        safe = re.sub(r"([\\*_~|`\[\]<]|(?<=])\(|:(?=//))", r"\\\1", bare)
        safe = re.sub(r"(?m)^([^\S\n]*)(?=[>#-])|^([^\S\n]*\d+)(?=\. )", r"\1\2\\", safe)
        return _DISCORD_MARKS.get(style, "{text}").format(text=safe, bare=bare, url=url)

    def _payload(self, draft: _Draft, page: _Page) -> _Dict:
        """Return the body of an alert or question: embeds in the rich form, content in the plain one."""
        _name_apart(page.files)
        embeds: list[_Dict] = []
        content, last = "", 0
        if draft.why_plain:
            content = self._in_words(page)
        elif page.is_first:  # what an embed mentions calls nobody
            ping = functools.partial(self._mark, "mention", url="")
            content = " ".join(map(ping, dict.fromkeys(draft.called)))
        if not draft.why_plain:
            for part, value in self._embed_parts(page):
                if not embeds or _EMBED[part] <= last:  # Discord would show it above the part before
                    embeds.append({"color": _LEVELS[draft.message.level][1]})
                last = _EMBED[part]
                embeds[-1][part] = value
        allowed: _Dict = {"parse": [], "users": [], "roles": []}  # without it Discord lets everything ping
        shown = set(re.findall(r"@(&?[0-9]+|here|everyone)\b", content))
        for name in sorted(shown.intersection(draft.called)):
            if name.startswith("&"):
                allowed["roles"].append(name[1:])
            elif name.isdigit():
                allowed["users"].append(name)
            else:
                allowed["parse"] = ["everyone"]
        payload: _Dict = {"content": content, "embeds": embeds, "allowed_mentions": allowed}
        if self.discord_token:
            payload["nonce"], payload["enforce_nonce"] = page.nonce, True
            above = (draft.ref or draft.reply_to).get("message_id")
            if above:
                payload["message_reference"] = {"message_id": above, "fail_if_not_exists": False}
        return {name: part for name, part in payload.items() if part}

    def _embed_parts(self, page: _Page) -> Iterator[tuple[str, Any]]:
        for kind, written in _grouped(page.blocks):
            lines = written[0].lines
            if kind == "title":
                yield "title", lines[0]
            elif kind == "facts":
                fields = []
                for name, value in lines:
                    fields.append({"name": name, "value": value, "inline": len(value) <= 40})
                for at in range(0, len(fields), 25):
                    yield "fields", fields[at:at + 25]
            elif kind == "picture":
                for block in written:
                    file = block.file
                    if file.url or (file.image and file in page.files):
                        yield "image", {"url": file.url or f"attachment://{file.sent_as}"}
            elif kind == "note":
                yield "footer", {"text": "\n".join(lines)}
            elif kind != "ping" and self._said(kind, written).strip():
                yield "description", self._said(kind, written)

    def _put(self, draft: _Draft, page: _Page) -> _Dict:
        problem = ""
        try:
            sent = self._post_message(draft, page)
        except DeliveryError as error:
            if not page.files or not page.says_something():
                raise
            refused = error.outcome == "not_sent" and error.status in (400, 403, 413)
            # Once more does no harm: a repeat is known by its nonce, which a thread of a forum does not have.
            doubtful = error.outcome == "unknown" and self._by_bot() and not draft.in_forum
            if not (refused or doubtful):
                raise
            bare = copy.copy(page)
            bare.files, bare.doubtful = [], doubtful
            if refused and draft.whole.data and page.files[1:]:  # one of the others may be to blame
                for file in page.files:
                    file.problem = str(error)
                bare.files = [draft.whole]
                return self._put(draft, bare)
            sent = self._post_message(draft, bare)
            if not sent.get("attachments"):
                problem = str(error)
        for file in page.files:
            file.problem = problem
        ident = str(sent["id"])
        if draft.message._question:  # a reply to any part of it counts
            draft.message._question._record.parts.append(ident)
        channel = sent.get("channel_id", draft.where["channel"])
        return {"channel_id": str(channel), "message_id": ident}

    def _post_message(self, draft: _Draft, page: _Page) -> _Dict:
        """Post a page with its files, in a forum as a thread of its own; return the message."""
        payload, channel = self._payload(draft, page), f"/channels/{draft.where['channel']}"
        path = f"{channel}/messages"
        if not self.discord_token:
            path = ""
        try:
            return self._send_page(draft, page, path, payload)
        except DeliveryError as error:
            if error.code not in ("50008", "40058", "220001"):
                raise
        draft.in_forum = True
        name = _one_line(_defuse(draft.message._name()), 100) or "Alert"
        if not self.discord_token:
            return self._send_page(draft, page, path, {**payload, "thread_name": name})
        # docs.discord.com/developers/resources/channel, start thread in forum: all but these go
        for key in ("nonce", "enforce_nonce", "message_reference"):
            payload.pop(key, None)
        opened = self._send_page(draft, page, f"{channel}/threads", {"name": name, "message": payload})
        return {**_mapping(opened.get("message")), "id": opened["id"], "channel_id": opened["id"]}

    def _send_page(self, draft: _Draft, page: _Page, path: str, payload: _Dict) -> _Dict:
        thread, until = _forum_thread(draft.ref) or _forum_thread(draft.reply_to), draft.until
        if thread and not path:
            path = f"&thread_id={thread}"
        if page.files:  # what is left is for the text alone; a question may have less time than that in all
            until -= min(_SOCKET_TIMEOUT, (until - self.clock.monotonic()) / 2)
        return self._try(draft, page, until, "POST", path, payload, page.files, until,
                         idempotent="nonce" in payload)

    def _call(self, method: str, path: str, payload: _Dict | None = None, files: Sequence[_File] = (),
              until: float | None = None) -> Any:
        """Return the decoded answer. path: of the API; for the webhook, the rest of its query."""
        body, headers = _multipart(payload, files)
        if path.startswith("/"):
            if not re.fullmatch(_PATH, path):  # by an id of a record, or of the service itself
                raise _failure(self._who, "what stands in place of an id is none of Discord's", cure="people")
            url = self.discord_api_url.rstrip("/") + path
            headers["Authorization"] = _Secret("Bot " + self._secret("discord_token"))
        else:
            url, more = self._secret("discord_webhook_url"), "?wait=true"
            if "?" in url:
                more = "&wait=true"
            url = url.replace("/api/webhooks/", "/api/v10/webhooks/")  # as it is copied it names no version
            url = _Secret(url + more + path)
        answer = _http(self, method, url, until or self._until(), body, headers, method == "GET")
        data = answer.json()
        if answer.status == 204 and method in ("PUT", "DELETE"):
            return {}
        known = _mapping(data)
        listed = method == "GET" and isinstance(data, list)
        has_id = re.fullmatch(_SNOWFLAKE, str(known.get("id")))
        if answer.status in (200, 201) and (listed or has_id):
            return data
        code = str(known.get("code") or "")
        if code == "160002" and payload and payload.pop("message_reference", None):
            return self._call(method, path, payload, files, until)  # a reply takes Read Message History
        what, hints = f"{code} {known.get('message')}".strip(), _DISCORD_HINTS
        if not known.get("message"):
            what, hints = f"HTTP {answer.status}, no answer of Discord", {}
        if known.get("errors"):  # which field is wrong, and why
            what += f" ({_json.dumps(known['errors'], ensure_ascii=False)})"
        error = answer.refusal(self._who, what, code, known.get("retry_after"), hints)
        if answer.status == 429 and "retry_after" not in known:  # Cloudflare's ban: more tries make it longer
            error._cure = "later"
        raise error

    def _tap(self, ref: _Dict, emoji: str) -> None:
        name = re.sub("<a?:(\\w+:[0-9]+)>|\ufe0f", r"\1", emoji)  # a server's own; no variation selectors
        path = f"{_reaction_path(ref, _CHARACTERS.get(emoji.strip(':'), name))}/@me"
        _retry(self, self._call, "PUT", path, idempotent=True)

    def _take_away(self, ref: _Dict) -> None:
        self._call("DELETE", f"/channels/{ref['channel_id']}/messages/{ref['message_id']}")

    def _ready_to_read(self, where: _Dict) -> str:
        try:
            self._latest(f"/channels/{where['channel']}", 1)
        except DeliveryError as error:
            if error._cure == "people":  # any other trouble may pass
                raise
        return self._me()

    @_documented
    def _latest(self, path: str, count: int) -> list[_Dict]:
        rows: list[_Dict] = self._call("GET", f"{path}/messages?limit={count}")
        if rows:
            return rows
        # Without Read Message History the list is empty, and only the reading of one message is refused.
        last = self._call("GET", path).get("last_message_id")
        try:
            if last:
                self._call("GET", f"{path}/messages/{last}")
        except DeliveryError as error:
            if error.code != "10008":  # that one was deleted
                raise
        return []

    @_documented
    def _me(self) -> str:
        return str(_retry(self, self._call, "GET", "/users/@me")["id"])

    def _say(self, question: Question, text: str, to: _Reply | None, person: str = "") -> None:
        place, said = question.ref, self._note(text, person)
        if to:
            place = to.thread or place
        called = re.findall("^[0-9]+$", person)
        payload = {"content": said[:2000], "allowed_mentions": {"parse": [], "users": called},
                   "message_reference": {"message_id": place["message_id"], "fail_if_not_exists": False}}
        sent = self._call("POST", f"/channels/{place['channel_id']}/messages", payload)
        if question._decision is None:  # people answer this, too, also after a restart
            question._take_step(parts=question._record.parts + [str(sent.get("id"))])

    @_documented
    def _find(self, question: Question) -> _Dict | None:
        record, ref = question._record, None
        channel, since = record.where["channel"], record.asked - _LOOK_BACK - _DISCORD_EPOCH
        # A forum, which answers 400, lists no messages of its threads.
        rows = self._rows(f"/channels/{channel}/messages", int(since * 1000) << 22, absent=400)
        for row in sorted(rows, key=self._order):
            if row["author"]["id"] != record.author:
                continue
            if question.token in str(row):
                ref = {"channel_id": channel, "message_id": row["id"]}
            elif ref and ref["message_id"] in str(row):  # it replies to it, so it is a part of it
                record.parts.append(row["id"])
        return ref

    def _read_answers(self, question: Question) -> _Reading:
        """Read replies to the question, answers in a thread on it, and reactions. Mostly one request."""
        channel, mid = question.ref["channel_id"], question.ref["message_id"]
        rows = self._read_shared(question).rows
        message = _row_with(rows, "id", mid)
        if message is None:  # it was deleted, or the channel can no longer be read: this tells
            message = self._call("GET", f"/channels/{channel}/messages/{mid}")
        counts_as = ""
        if self.listen == "channel":
            counts_as = "channel"
        if channel == mid:  # a forum's post: the question begins a thread of its own
            counts_as = "reply"
        answers = self._answers(question, rows, counts_as)
        ours = question._record.parts + [mid]
        for row in rows:
            ident, flags = row["id"], row.get("flags", 0)
            if ident in ours and flags & _HAS_THREAD:  # which is a channel with the id of the message
                thread = self._rows(f"/channels/{ident}/messages", int(ident), absent="10003")
                answers += self._answers(question, thread, "reply")
        answers.sort(key=operator.itemgetter("at"))
        return _Reading(answers + self._read_taps(question, message), once=False)

    def _read_view(self, question: Question, refs: list[_Dict]) -> _Reading:
        oldest = min(map(self._order, refs))
        return _Reading(self._rows(f"/channels/{question.ref['channel_id']}/messages", oldest - 1))

    def _rows(self, path: str, after: int, absent: object = "", more: str = "") -> list[_Dict]:
        """Return all rows after an id. absent: the status or code that means that there are none."""
        rows: dict[str, _Dict] = {}  # by id, for one may come twice
        for _ in range(1000):
            address = f"{path}?limit=100&after={after}{more}"
            try:
                if rows:  # of many pages Discord gives a few, and asks to wait for the next
                    page = _retry(self, self._call, "GET", address)
                else:
                    page = self._call("GET", address)
            except DeliveryError as error:
                if absent not in (error.status, error.code):
                    raise
                return []
            last = after
            for row in page:
                row.pop("referenced_message", None)  # a whole message, whose words are not this one's
                rows[row["id"]] = row
                after = max(after, int(row["id"]))
            if len(page) < 100 or after == last:  # the same page again and again would have no end
                return list(rows.values())
        raise _failure(self._who, "more rows than one poll reads", code="too_many")

    def _read_taps(self, question: Question, message: _Dict) -> list[_Dict]:
        """Return who gave the reactions that decide."""
        ends = min(question._ends, question._wait_until)
        taps, until = [], min(self._until(), max(ends, self._until(_LATE)))
        for reaction in message.get("reactions") or ():
            if reaction["count"] == 1 and reaction.get("me"):  # ours, as at most polls
                continue
            emoji = reaction["emoji"]
            shown = name = str(emoji["name"])
            if emoji.get("id"):
                name = f"{name}:{emoji['id']}"
                shown = f"<:{name}>"
            if not question._verdict(shown, True):
                continue
            path = _reaction_path(question.ref, name)
            # Of many lists Discord gives a few at once. 10014: it was taken back meanwhile.
            users = _retry(self, self._rows, path, 0, "10014", until=until)
            if _mapping(reaction.get("count_details")).get("burst"):  # super reactions are listed apart
                users += _retry(self, self._rows, path, 0, "10014", "&type=1", until=until)
            for user in users:
                if not user.get("bot"):
                    taps.append({"by": user["id"], "text": shown, "via": "reaction"})
        return taps

    def _answer(self, question: Question, row: _Dict, counts_as: str) -> _Dict | None:
        above, via = _mapping(row.get("message_reference")).get("message_id"), counts_as
        ours = question._record.parts + [question.ref["message_id"]]
        if row["type"] == _REPLY and above in ours:
            via = "reply"
        elif above or not counts_as or row["type"] != _PLAIN:
            return None
        if self._is_mute(row):
            _warn_once(f"{self._who}: a reply came without its text: {_INTENT}")
        answer = {"by": row["author"]["id"], "text": row.get("content"), "via": via,
                  "at": _snowflake_time(row["id"]), "posted": _snowflake_time(question.ref["message_id"])}
        if row.get("edited_timestamp"):
            edited = _datetime.datetime.fromisoformat(row["edited_timestamp"].replace("Z", "+00:00"))
            answer.update(first_written=answer["at"], at=edited.timestamp())
        if row.get("channel_id") not in (None, question.ref["channel_id"]):  # a thread: there it is answered
            answer["thread"] = {"channel_id": row["channel_id"], "message_id": row["id"]}
        return answer

    def _order(self, row: _Dict) -> int:
        return int(row.get("id") or row["message_id"])

    def _is_bot(self, row: _Dict) -> bool:
        author = _mapping(row.get("author"))
        return any((author.get("bot"), author.get("system"), row.get("webhook_id")))

    def _forwards(self, row: _Dict) -> bool:
        return "message_snapshots" in row

    def _is_mute(self, row: _Dict) -> bool:
        """True for a person's message that comes without its content: the Message Content intent is off."""
        parts = ("content", "attachments", "embeds", "sticker_items", "poll", "message_snapshots")
        if self._is_bot(row) or row.get("type") not in (_PLAIN, _REPLY):
            return False
        return not any(map(row.get, parts))


def _name_apart(files: Sequence[_File]) -> None:
    """Give each file of a message a name of its own; pictures one that attachment:// is sure to find."""
    taken: set[str] = set()
    for number, file in enumerate(files, 1):
        file.sent_as = file.name
        if file.image:  # Discord may change other letters
            file.sent_as = re.sub("[^A-Za-z0-9_.-]", "_", os.path.splitext(file.name)[0]) + file.ending
        while file.sent_as in taken:
            file.sent_as = f"{number}-{file.sent_as}"
        taken.add(file.sent_as)


def _forum_thread(ref: _Dict) -> str:
    """Return the thread that a message began in a forum, if it did: it has the id of the message."""
    if ref.get("message_id") == ref.get("channel_id"):
        return str(ref.get("channel_id", ""))
    return ""


def _reaction_path(ref: _Dict, name: str) -> str:
    """Return the address of a reaction; of an emoji of the server the name is name:id."""
    emoji = _urllib_parse.quote(name, safe="")
    return f"/channels/{ref['channel_id']}/messages/{ref['message_id']}/reactions/{emoji}"


def _snowflake_time(snowflake: str) -> float:
    return (int(snowflake) >> 22) / 1000 + _DISCORD_EPOCH


def _multipart(payload: _Dict | None, files: Sequence[_File]) -> tuple[list[bytes], dict[str, str]]:
    """Return body and header: nothing, JSON alone, or multipart/form-data with payload_json and files[0]…"""
    if payload is None:
        return [], {}
    data = _json.dumps(payload, allow_nan=False).encode()
    if not files:
        return [data], {"Content-Type": "application/json"}
    boundary, body = f"alerters-{os.urandom(16).hex()}", []
    parts = [('name="payload_json"', "application/json", data)]
    for number, file in enumerate(files):
        parts.append((f'name="files[{number}]"; filename="{file.sent_as}"', file.type, file.data))
    for what, kind, data in parts:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {what}\r\nContent-Type: {kind}\r\n\r\n"
        body += [head.encode(), data, b"\r\n"]
    body.append(f"--{boundary}--\r\n".encode())
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


# === E-mail ===
_ADDRESS = r"[^\s@<>()\[\],;:\\\"\x00-\x20\x7f-\U0010ffff]{1,64}@[^\s@<>()\[\],;:\\\"\x00-\x20]{1,255}"
_MAIL_MAX = 90_000  # characters shown in the mail: Gmail clips at about 100 KB; the rest goes as a file
_SMTP_HINTS = {"4..": "the server asks to try later", "530": "the server wants a log-in, or TLS first",
               "535": "user or password refused: Gmail and others want an app password",
               "552": "no room for it: link to what is large", "...": "its words say why"}
_ABSENT = r"(?i)out of office|\W?auto(.?reply)? ?[:\]]|abwesen|automati\w+ (reply|antw)|r[ei]?[és]p\w+ autom"
_AUTOMATIC = (r"(?im)^(?:auto-submitted:(?!\s*no\s*(?:;|$))|precedence:\s*(?:bulk|junk|list|auto_reply)\s*$"
              r"|return-path:\s*<>|list-id:|x-auto(?:reply|respond)|content-type:\s*multipart/report)")
_READ_MAX, _TEXT_MAX, _LINES_MAX = 25_000_000, 400_000, 5000  # bytes; those of its texts, as sent; lines
_SENT_MAX = 20_000  # characters of a mail that are kept, so that its quotes are known
_NO_LETTERS = r"(?:\[image:|[^\w\n?;(×\u061f\u203c-\u2049\u2190-\u2fff\u3001-\ufdff\uff01-\U0010ffff]|_)+"
# What gateways set behind a subject, and they and programs (Re: AW: 回复：), by these names alone, before it.
_BEHIND = r"(?i)\[(?:\S{,40}|[^]]{,40}(?:extern|spam|mail|sec=|offici|confid|classif|#\d)[^]]{,40})\]"
_BEFORE = (r"(?i)\[[^]]{,40}]|[({<*【]\S{,40}[*>})】]|\b(?:ext\w*|e?mail|spam)\b|\b(?:r[eéi]?[fps]?|rv|aw|ang"
           r"|antw(?:ort)?|sv|v[bls]|vedr|od[gp]|pd|ynt|ilt|vá(?:lasz)?|tl|trả lời|bls|hal?|at[bs]|sb|fwd?"
           r"|fs|fyi|i|tr|wg|enc|απ|на|отв|відп|σχετ|πρθ|תגובה|השב|رد|تجاوب|회신|답장|返信|回[复覆]|答[复覆]"
           r"|转发|轉寄)[\d.()[\]^]{,4}\s?[:：]")
_QUOTED = ">|"  # marks before a quoted line
_HTML_FIXES = {  # with them, one after the other, the parser sees what a browser shows
    r"(<pre\b[^<>]*>)-- ?\r?\n": r"\1--<br>", r"[\0-\x20]+": " ",  # a signature in <pre>; all other ends
    # Not all Pythons know all ends of a comment that browsers do, or take Outlook's <![if]> for one.
    "--!>": "-->", r"<!\[": "<!", "<!---?>": "<!---->",
    r"(</?)title\b": r"\1style", r"&#\w{9,};?": "\ufffd",  # nor that it holds no tags; many digits take long
    r"<(?=(s|del|strike|textarea|xmp|plaintext)\b|[^<>]*line.{1,6}through)": "✂<",
    r"<(?=/?(p|div|br|hr|tr|li|table|ul|ol|pre|center|section|h[1-6])\b)": "\x1d<",
    r"<(?=t[dh]\b)": " <", r"<(?=blockquote\b)": "\x1d\x1e<", r"<(?=/blockquote\b)": "\x1d\x1f<",
    r"<img\b[^<>]*\balt=[\"']?((?:&#\w+;|\u200d|[^\0-\u203b\w\s])+)(?=[\"'\s>])": r"\1\g<0>"}  # an emoji
_US = "\1"  # stands in a line for our name or address
# A day with its year or a time, in digits of any script; a whole date with its time.
_DATE = r".*(?:\d{4}\D{1,20}\d|\d\D{1,20}(?:\d{4}|\d\d?[:.h]\d\d)).*"
_TIMED = r"(?:\w\w? (?:\w{2,4},? )?)?\w+[ ./-]\w+[ ,./-]{1,2}\d{2,4},? (?:\w\w? )?\d\d?[:.h]\d\d[^,]{0,14},"
_UPPER, _END = "[A-ZÀ-ÞА-Я]", r"[^\w?!\u203c-\U0010ffff]*"  # no emoji
_NAME, _VERB = rf"(?: {_UPPER}[\w.-]+){{1,4}}", r"(?: \w)? [^\WA-ZÀ-ÞА-Я\d][^\W\d]{4,}"
_CITES = r"(?i:quoting|[zc][iy]t\w{2,}|цит\w+|siterer|lainaus|alıntı|引[用述])(?: \w{2,3})? "
_COLON, _LABEL = rf"[:\uff1a-]{_END}", r"[^\s\1:\uff1a]+(?: [^\s\1:\uff1a]+)? ?(?:[:\uff1a]| (?=[\"\1]|.+@))"
# A heading: our name and a date, behind three words at most; in small letters a day, in Danish with "den".
_HEADED = (rf"(?=.*{_US})(?!(?!\S+(?:dag|\.) den \d)[a-zß-ÿа-я]+\W+[^\W\d]{{2}}|.*(?<!W dniu): [^\W\d])"
           rf"{_END}(?:(?:В письме от|În \w+ de|Pada \w+|Ühel kenal päeval,?|Il giorno|W dniu:"
           rf"|[^\W\d][^\s\d{_US}]*)(?![^\s\d{_US}])[^\w{_US}]*){{,3}}(?=[\d{_US}]|{_NAME} ?<{_US}){_DATE}")
# Parts of "message" and "original" in many languages; of either or both in others: ---- Mensaje original ----
_MESSAGE = "m[ei][ns]s|es[ak]|chri|beri|eld|edd|vies|práv|iado|üze|let|oru|our|oro|mail"
_ORIGINAL = r"(?:\bor|r[iy])[gjx]+in|repli|rspr|prin[dn]|lkup|vodn|rede|zv[io]rn"
_BOTH = "- original -|gốc|ригинал|исход|почат|αρχικ|原[始件邮]|元のメ|원본|मूल स|מקורית|أصل"
# The lines of a mail are of these kinds, and what a person wrote is "said":
#     yes                                    said       -----Original Message-----      rule
#     Best regards                           closing    From: Bot <bot@example.org>     us
#     Ann                                    closing    Sent: 24.11.2026 10:12          dated
#     Head of Data | Example                 role       To: Ann                         label
#     Tel. +49 30 1234567                    contact    Subject: Re: Deploy? [#…]       subject
#     On 24.11.2026 10:12, Bot wrote:        wrote      Deploy model 7 to production?   bare: of our mail
#     > Deploy model 7 to production?        quoted: of our mail, behind a mark
_LINE_KINDS = {  # a line is of the first kind that it fits; those that are not here, `_Reader` knows
    "dash": "--",  # above a signature
    "subject": rf".*\[#[0-9a-f]{{16}}\]{_END}",  # Subject: Re: Deploy? [#…]
    "stamp": r"\w\w \w{3}, \d+ \w+ \d{4} [\d:]{8} (?:GMT|[+-]\d{4}),?",  # On Tue, 24 Nov 2026 10:12:00 GMT
    "says": rf"(?:{_CITES})?\W*{_US}\W*(?:\w\w? )?\w*\W*{_COLON}",  # Bot writes: or, of Horde, Quoting Bot:
    # On 24.11.2026, Bot wrote: On 24.11.2026 10:12, Whoever This Is wrote:
    "wrote": rf"{_HEADED}{_COLON}|{_CITES}{_US} \([\d :-]+\)|{_TIMED}(?:{_NAME}{_VERB}|{_VERB}{_NAME}) ?:",
    "began": _HEADED,  # On 24.11.2026, Bot has (in the next line: written:)
    "us": rf"{_LABEL}.*{_US}.*",  # From: Bot
    "role": r"[^a-z|][^|]{0,39}(?: \| [^a-z|][^|]{0,39})+",  # Head of Data | Example; not: dev | test
    "contact": r"(?i:(?:t[eé]?l(?!l)|тел|pho|fon|mob|m[oó]v|cel|fax|dir|off|gsm|handy|\w\b)\w*\W*)?"
               r"(?!0\d[/-])(?:0|[+(]\d)(?:[ ()/-]*\d){8,13}"
               r"|(?:https?:|www\.|\[cid:)\S+|(?i:e?-?(mail)?: ?)?[^\s:\uff1a@]+@\S+\.[^\s\d.]+",  # a date: 8
    "dated": rf"(?:{_LABEL}|\w+ (?=\d)){_DATE}",  # Date: 24.11.2026
    # -----Original Message----- with three words at most in other languages
    "rule": r"(?i)-+ ?original message ?-+|(?=-{4,} ?\S{1,20}(?: \S{1,20}){,2}\s*-{4,}$)"
            rf"(?:(?=.*(?:{_MESSAGE})).*(?:{_ORIGINAL})|.*(?:{_BOTH})).*",
    "colon": rf"(?!{_UPPER}\w)[^{_US}]{{,20}}{_COLON}",  # written: (below what has begun)
    "label": rf"{_LABEL}.*"}  # To: Ann
# What the writer did not write, as a pattern over lines that stand as kind=line; a word is a line of a kind.
# In turn: a quote with its heading, as `rule us dated label subject bare` or `wrote quoted`; a dash and
# what follows up to the next quote, as `dash said contact`; a quote by its marks alone; an ending, as
# `closing closing role contact`.
_NOT_OWN = "(?mx)^ (?:" + re.sub("[a-z]{2,}", r"(?:\g<0>=.*\\n)", r"""
    rule? ((us dated label* | us label{1,2} dated | dated us label* | label dated label) subject
           | subject dated us label | us label* subject (?=\w+=\w+:) dated
           | wrote | began colon | (stamp | began)? says) (quoted+ | bare+)
  | dash ((?!quoted|bare|wrote|began|says)\w+=(?![>|]|.*\[\#).*\n)* (subject (quoted+ | bare+))?
  | quoted+ | closing (closing | role? contact)*)""")
# A line that a program adds names it, says that it sent the mail, and no more.
_PROGRAMS = (r"(?<![a-z])(?:iphon[eu]|ipad|ios|apple|outlook|android|samsung|galaxy|huawei|xiaomi|redmi|tuta|"
             r"oppo|oneplus|pixel|nokia|motorola|sony|xperia|blackberry|yahoo|proton|gmail|gmx|web\.de|"
             r"t-online|mail\.ru|yandex|яндекс|qq|k-9|fairemail|thunderbird|bluemail|spark|canary|telekom|"
             r"windows|zoho|mailbird|em client|at&t|verizon|t-mobile|mobile device|mobiltelefon|smartphone|"
             r"handy|my (?:phone|mobile|watch)|libero|mac(?:book)?|superhuman|edison|aqua|missive|aol|orange|"
             r"mailspring|mobilen mail app|почты mail|手机|华为|荣耀|小米|网易邮箱大师)(?: \w?\d+\w?)?")
_SENT = set("""télécharger downloaden отправлено gönderildi geschickt descargar verzonden skickades lähetetty
    надіслано download gesendet beziehen odesláno odoslané stáhnout скачайте στάλθηκε obtenir enviado enviada
    obtener inviato scarica ottieni skickat wysłane wysłano pobierz скачать envoyé baixar küldve edinin trimis
    obter verstuurd hämta sendt hanki sent hent から送信 より送信 发自我的 發自我的 來自我的 נשלח get 送信
    发自 에서 보냄 보낸 holen 发送 傳送 ส่งจาก gửi elküldve dikirim dihantar enviat poslano أُرسلت भेजा получить
    získat skaffa obtenga herunterladen を入手 を取得 获取 取得 下载 다운로드 conquer få baixe
    obtenha 来自我的""".split())
_ADDED = _SENT.union("""PROGRAM from my the via with using for on an a message mail email app secure mobile de
    tablet phone please excuse brevity any typos and von vom meinem meiner mit aus diese nachricht wurde gerät
    für du pour mon depuis mi desde do meu para el la dal da per o mio dispositivo van vanaf mijn met voor fra
    från min med för til z ze mojego umdan dan den sta iz из с со для моего на з мого 나의 내 我的 的 メール l
    der application à partir pe ul u pro için από το μου sie sich watch ultra max plus posta aplikację dla của
    systemu 從我的 tôi từ đã ของฉัน מה שלי auf ista 从我的 来自 мобильной почты az omról môjho من الـ मेरे से
    गया dari daripada saya des del s mog vanuit courrier correo con su avec messagerie sécurisée program mail:
    programu telefonu cihazımdan device мобильного приложения google search organize nord mobilen""".split())
_CLOSINGS = set("""best kind warm regards wishes br cheers thanks thank you many and thx sincerely yours mit с
    freundlichen freundlichem freundliche besten beste viele liebe herzliche schöne grüssen grüsse gruss mfg з
    vg lg danke vielen dank cordialement bien à vous salutations merci bonne journée amicalement cdt cdlt kr
    saludos un cordiales atentamente gracias abrazo abraços um abraço atenciosamente att cumprimentos obrigado
    obrigada cordiali saluti distinti grazie met vriendelijke groet groeten groetjes mvg bedankt mvh med truly
    vänlig vänliga hälsning hälsningar venlig vennlig hilsen vh tack tak takk terveisin ystävällisin kiitos
    pozdrawiam serdecznie z poważaniem dziękuję dzięki s pozdravem děkuji díky üdvözlettel köszönöm cu stimă &
    mulțumesc уважением наилучшими пожеланиями спасибо повагою дякую saygılarımla i̇yi çalışmalar hartelijke
    teşekkürler よろしくお願いします よろしくお願いいたします 谢谢 祝好 此致 감사합니다 saludo iyi""".split())
# What gateways and programs set into a mail; a space is any gap, also with marks of a quote in it.
_NOTICES = "|".join((
    r"(?:(?:caution|warning|external email)\W{1,4})?this(?: e-?mail| message)? (?:is|came|originated)"
    r"(?: from| an)* (?:external (?:e-?mail|sender|source)|outside(?: of)? (?:the|your) organi[sz]ation)",
    r"do not click links or open attachments unless you recogni[sz]e the sender and know the content is safe",
    r"you don.t often get email from \S{1,99} learn why this is important(?:(?: at)? https?://aka.ms/\w+)?",
    r"(?:[*\[](?: )?|caution: )external e-?mail", r"zjqcmqryfpfptbanner\w+", "report suspicious", "\ufffc"
)).replace(" ", r"[\s>|]{1,9}")
_NOTICE_LINES = rf"(?im)^[>|*\t\x20\[]*(?:(?:{_NOTICES})[\s>|.!*\]<…]*){{1,9}}$"
_PLACEHOLDER = b"alerters-file-%x"  # in the place of a file until the mail is sent
_HEAD_FIELDS = "BODY.PEEK[HEADER.FIELDS (SUBJECT IN-REPLY-TO REFERENCES)]<0.30000>"


@_dataclass
class SMTPEmailAlerter(BaseAlerter):
    """E-mail over SMTP; with imap_server set it also asks, and reads the answers from that mailbox.

    use_tls: True (TLS at once on port 465, else STARTTLS, required), "ssl", "starttls", or False for a local
    relay. IMAP is always TLS, with SMTP's user and password by default. Who sees the mails can answer them.
    """
    smtp_server: str = _field("", "host name, such as smtp.gmail.com", "host")
    sender_email: str = _field("", "bot@example.org, or: Training Bot <bot@example.org>", "text")
    password: str = _field("", "of the sender; Gmail and others want an app password", "password")
    recipient_email: str | Iterable[str] = _field((), "one or several addresses", "list")
    smtp_port: int = _field(587, "587 (STARTTLS) or 465 (TLS at once); default 587", "port")
    username: str = _field("", "default: the sender's address", "id")
    use_tls: _TLS = _field(True, "true, ssl, starttls, or false for a local relay; default true", "tls")
    subject_prefix: str = _field("", "stands before each subject", "text")
    include_html: bool = _field(True, "default true", "bool")
    imap_server: str = _field("", "host name, such as imap.gmail.com; with it, it can ask", "host")
    imap_port: int = _field(993, "TLS at once; default 993", "port")
    imap_username: str = _field("", "default: the SMTP one", "id")
    imap_password: str = _field("", "default: the SMTP one", "password")
    timeout: _Time | None = _field(None, _TIMEOUT_HELP, "time")
    approvers: Iterable[str] | None = _field(None, "addresses that decide; default: the recipients", "list")
    case_sensitive: bool = _field(False, _CASE_HELP, "bool")

    flavor = "smtp_email"
    _sender = ""  # the address in sender_email, without the name that may stand before it
    _answer_by, _shows_questions, _calls_people = "Reply to this mail with", True, False
    _ref_forms = {"message_id": "<[!-~]{3,73}>"}
    _setup_fields = ("smtp_server", "sender_email", "password", "recipient_email")
    _example = {"smtp_server": "localhost", "sender_email": "a@x.example", "recipient_email": "b@x.example"}

    @classmethod
    def _how_to_get(cls, name: str, fields: Mapping[str, Any]) -> str:
        if name == "password":
            return ("Many servers want an app password, from the security page of the account (Gmail, with "
                    "2-step verification: https://myaccount.google.com/apppasswords). Enter for none.")
        return ""

    def _problem(self, name: str, text: str) -> str:
        if name == "approvers" and not self._person(text):
            return f"{text!r} is not a mail address"
        return ""

    def _check_together(self) -> None:
        if not (self.smtp_server and self.sender_email):
            raise ConfigError(f"{self._who}: smtp_server and sender_email are needed")
        name, address = _name_and_address(self.sender_email, f"{self._who}: sender_email")
        self._set("_sender", address)
        if name:
            address = re.sub(r'\\+"', '"', f'"{name}" <{address}>')  # a quote behind one would end no name
        self._set("sender_email", address)
        self._set("recipient_email", tuple(self._recipients(None)))
        if self.password and not self.use_tls and not _is_loopback(self.smtp_server):
            raise ConfigError(f"{self._who}: a password is not sent without TLS: leave use_tls=True")

    def _points(self) -> Iterator[tuple[str, str]]:
        login = "connected and logged in"
        if not self.password:
            login = "connected; no password is set, so no log-in"
        ways: list[Any] = [("SMTP", self._smtp, login)]
        if self.imap_server:
            ways.append(("IMAP", self._imap, "connected and logged in"))
        for name, connect, done in ways:
            try:
                connect(self._until(_SEND_BUDGET)).sock.close()
                yield _GOOD, f"{name}: {done}"
            except DeliveryError as error:
                yield _BAD, f"{name}: {error}"
        if not self.imap_server:
            yield _NOTE, "IMAP: imap_server is not set, so this alerter posts and cannot ask"
        if not self.recipient_email:
            yield _BAD, "recipient: none, so it cannot post: give recipient_email"

    def send(self, message: Any, params: _Params = None) -> Receipt:
        """Mail the message to all recipients at once; the error names those that the server refuses."""
        loaded, attach = message._files(self._who), True
        attached: list[_File] = []
        pictures: list[_File] = []
        for file in loaded:
            if file.image:
                pictures.append(file)
            elif file.data:
                attached.append(file)
        end = self._until(_UPLOAD_BUDGET - _SOCKET_TIMEOUT)  # the rest is for what is sent in its place
        while True:
            mail = self._compose(message, params, loaded, attach)
            try:
                self._deliver(mail, end)
                return Receipt(self._label, {"message_id": mail.ident})
            except DeliveryError as error:
                if error.outcome == "partial" and message._question:  # who has it is told of its end
                    record = message._question._record
                    record.ref = {"message_id": mail.ident}
                    record.recipients = sorted(set(record.recipients).difference(mail.refused))
                if not (mail.files and mail.unwanted and error.outcome == "not_sent"):
                    raise
                dropped = attached or pictures or mail.files  # the whole text last
                attach, names = dropped is not mail.files, []
                for file in dropped:
                    file.problem, file.data = _one_line(error.args[0], 200), b""
                    names.append(file.name)
                if attached:
                    attached = []
                else:
                    pictures = []
                end += _SOCKET_TIMEOUT / 3  # as often as that at most
                _log("warning", "%s; it goes without %s", error, ", ".join(names))

    def _recipients(self, params: _Params) -> list[str]:
        what, found = f"{self._who}: recipient_email", {}
        for names in _names(self._option(params, "recipient_email"), what):
            for name in re.split("[,;]", names):
                found[_name_and_address(name, what)[1]] = True
        return list(found)

    def _new_mail(self, subject: str, to: Iterable[str], above: _Dict, question: Question | None,
                  mark: str = "") -> _email_message.EmailMessage:
        """Return a mail without a body, below the one that has the ref `above`. mark: of its id."""
        subject = _one_line(subject, 180).replace("=?", "= ?")  # it could become a header: CVE-2024-6923
        ident = os.urandom(8).hex()
        if question:
            subject, ident = f"{subject} [#{question.token}]", question.token + mark
        # An id of 68 characters at most, with a mark: the email package encodes those of more than 75.
        domain = self._sender.rpartition("@")[2][-31:].strip(".-")
        # By itself it writes short text in 8 bits, which smtplib does not announce, encodes in lines of 78,
        # for which RFC 2045 and 2047 have no room, and loses blanks where it folds encoded words.
        mail = _email_message.EmailMessage(_email_policy.SMTP.clone(cte_type="7bit", max_line_length=76))
        folded = _email_header.Header(subject, maxlinelen=76, header_name="Subject").encode()
        mail["From"], mail["To"] = self.sender_email, f"<{'>, <'.join(to)}>"
        fixed = {"Subject": folded, "Date": _email_utils.formatdate(self.clock.now(), usegmt=True),
                 "Message-ID": f"<alerters.{ident}@{domain}>",
                 "Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "OOF, AutoReply"}
        if self._can_follow(above):
            fixed["In-Reply-To"] = fixed["References"] = above["message_id"]
        for name, value in fixed.items():  # as they are: parsing them would cost a tenth of the whole mail
            mail.set_raw(name, value)
        return mail

    def _compose(self, message: AlerterMessage, params: _Params, loaded: list[_File],
                 attach: bool = True) -> _Mail:
        people, question = self._recipients(params), message._question
        if not people:
            raise ConfigError(f"{self._who}: no recipient: give recipient_email in the alerter or the params")
        prefix, above = self._option(params, "subject_prefix", ""), getattr(message._reply_to, "ref", {})
        subject = self._option(params, "subject", message._name() or "Alert")
        mail = self._new_mail(f"{prefix} {subject}", people, above, question)
        files, shown = [file for file in loaded if file.data], []
        whole, most = _whole_text(message), _MAIL_MAX
        if question:
            most = _SENT_MAX - 4000  # with how to answer, all of it is known in a quote
        if len(whole) > most:
            half = most // 4
            note = _LEFT_OUT.format(len(whole) - 2 * half)
            short = f"{whole[:half]}\n\n{note}\n\n{whole[-half:]}"
            message = message._with(title=None, body=short, metadata={})
            if attach:
                files.append(_File(_TEXT_FILE, whole.encode("utf-8")))
        blocks = _lay_out(message, loaded)
        mail.set_content(_as_text(blocks))
        if self._option(params, "include_html", True):
            html = _clean(self._option(params, "html_body", ""))
            buttons = self._buttons(question, str(mail["Subject"]))
            if html and question:
                html += _mail_html([_how_to_answer(question)], message.level, buttons, inline=True)
            elif not html:
                html = _mail_html(blocks, message.level, buttons)
                shown = [file for file in files if file.image]
            mail.add_alternative(html, subtype="html")
        page: Any = mail.get_body(("html",))
        files.sort(key=shown.__contains__, reverse=True)  # as they follow each other in the mail
        for file in files:
            mark, (kind, subtype) = _PLACEHOLDER % id(file), file.type.split("/")
            if file in shown:
                label = f"<image{loaded.index(file)}>"  # as `_lay_out` has it
                page.add_related(mark, kind, subtype, filename=file.name, disposition="inline", cid=label)
            else:
                mail.add_attachment(mark, kind, subtype, filename=file.name)
        if question:  # the recipients are the ones who may decide
            question._take_step(recipients=people, subject=str(mail["Subject"]), sent=_as_sent(mail))
        return _Mail(mail, people, files)

    def _buttons(self, question: Question | None, subject: str) -> str:
        """Return two buttons as HTML: each opens the finished answer (RFC 6068)."""
        if question is None:
            return ""
        html, record = "", question._record
        for label, ground, words in (("Approve", "#15803d", record.approve),
                                     ("Decline", "#b91c1c", record.decline)):
            head = {"subject": f"Re: {subject}", "body": words[0]}
            query = _urllib_parse.urlencode(head, quote_via=_urllib_parse.quote, safe="")
            address = f"mailto:{_urllib_parse.quote(self._sender, safe='@')}?{query}"
            html += _BUTTON.format(_html.escape(address), ground, label)
        return html

    def _deliver(self, mail: _Mail, end: float) -> None:
        """Send the mail, to nobody twice. Raises DeliveryError, "partial" if only some have it."""
        until = min(end, self._until(_SEND_BUDGET))
        if mail.files:
            until = end
        refused, everybody = mail.refused, len(mail.left)
        try:
            return _retry(self, self._transact, mail, until, until=until)
        except DeliveryError as caught:
            if not refused:
                raise  # it is about the mail, not about one of them
            error = caught
        if error not in refused.values():  # it met those who might still get it, and not one of them alone
            refused.update(dict.fromkeys(mail.left, error))
        why = []
        for address, cause in refused.items():
            said = cause.args[0].partition(": ")[2]  # behind our own name
            why.append(f"{address} ({said})")
        error.args = (_one_line(f"{self._who}: refused: {', '.join(why)}"),)
        if len(refused) < everybody:
            error.outcome = "partial"
        raise error

    def _transact(self, mail: _Mail, until: float) -> None:
        """Send the mail to those who may still get it; note who has it, and why the others do not."""
        session, in_data, failure = self._smtp(until), False, None
        taken = []
        try:
            most = session.esmtp_features.get("size", "")  # RFC 1870
            if most.isdecimal() and 0 < int(most) < mail.size:  # OpenSMTPD reads it all, and says 554
                why = f"a mail of {mail.size} bytes, where the server takes {most}"
                raise _smtplib.SMTPResponseException(552, why.encode())
            _expect(session.mail(self._sender), 2)
            for address in list(mail.left):
                code, words = session.rcpt(address)
                answer = _smtplib.SMTPResponseException(code, words)
                if code // 100 == 2:
                    taken.append(address)
                elif code == 421:  # the server leaves
                    raise answer
                else:
                    mail.refused[address] = refusal = _mail_failure(self._who, answer)
                    if refusal._cure != "again":
                        mail.left.remove(address)
            if taken:
                _expect(session.docmd("DATA"), 3)
                in_data = True  # from now on nobody knows whether it arrived
                for piece in mail:
                    session.send(piece)
                _expect(session.getreply(), 2)
            for address in taken:
                mail.left.remove(address)
                mail.refused.pop(address, None)
            with contextlib.suppress(OSError):
                session.putcmd("QUIT")  # how the server says good-bye does not matter
        except (OSError, ValueError) as caught:
            failure = _mail_failure(self._who, caught, in_data)
            mail.unwanted = failure._cure == "people" and (in_data or failure.status == 552)
            if failure.outcome == "unknown" and not mail.unheard:
                # Once more and no more, as not all servers drop a second mail with the same Message-ID.
                mail.unheard, failure._cure = True, "again"
        finally:
            session.close()
        if failure:
            raise failure  # out here, as in `_own_code`
        if mail.refused:
            first = next(iter(mail.left or mail.refused))  # one to be tried again, if there is any
            raise mail.refused[first]

    def _smtp(self, until: float) -> Any:
        password, tls = self._secret("password"), self.use_tls
        if tls is True:
            tls = "starttls"
            if self.smtp_port == 465:
                tls = "ssl"

        def begin(wire: _Wire, trust: _Trust | None) -> Any:
            name = _socket.gethostname()  # for EHLO, without DNS; Google refuses localhost and 127.0.0.1
            if not re.fullmatch(r"(?!localhost\b)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z-]+", name):
                name = self._sender.rpartition("@")[2]
            session: Any = _smtplib.SMTP(local_hostname=name)
            session.sock, session._host = wire, self.smtp_server
            session.debuglevel = 0  # a program that sets it on smtplib's class would see the password printed
            try:
                greeting = session.getreply()
            except _smtplib.SMTPServerDisconnected as error:
                if tls == "ssl" or not isinstance(error.__context__, _socket.timeout):
                    raise
                hint = 'that port may speak TLS at once: use_tls="ssl"; else check host, port and network'
                raise _Unreachable(f"{wire.place}: no greeting in time", hint, cure="later") from None
            _expect(greeting, 2)
            wire.patience *= 2  # it may scan each mail, or slow down a log-in
            _expect(session.ehlo(), 2)  # smtplib's own EHLO does not tell a server's words against it
            if tls == "starttls":  # never without it where it is wanted: somebody can strip the offer
                session.starttls(context=trust)
                _expect(session.ehlo(), 2)
            if password:
                _smtp_login(session, self.username or self._sender, password)
            return session

        return self._session(self.smtp_server, self.smtp_port, tls, until, begin)

    def _imap(self, until: float) -> Any:
        user = self.imap_username or self.username or self._sender
        password = self._secret("imap_password") or self._secret("password")

        def begin(wire: _Wire, trust: object) -> Any:
            class Session(_imaplib.IMAP4):
                def _create_socket(self, *_: object) -> Any:  # imaplib has no timeout before 3.9
                    return wire

            session = Session()
            session.debug = 0  # a program that sets imaplib.Debug would see the password printed
            wire.patience *= 2  # Dovecot lets who mistyped a password wait for 17 s
            _imap_login(self._who, session, user, password)
            if "ID" in session.capabilities:  # NetEase (163.com, 126.com) opens no mailbox without a name
                session.xatom("ID", f'("name" "alerters" "version" "{__version__}")')
            _imap_said(session.select("INBOX", readonly=True))
            return session

        return self._session(self.imap_server, self.imap_port, "ssl", until, begin)

    def _session(self, host: str, port: int, tls: _TLS, until: float, begin: Callable[..., Any]) -> Any:
        """Return what `begin` makes of a connection. Its failures are DeliveryErrors."""
        deadline = _deadline(self.clock, until)
        connect = functools.partial(_connect, host, port, deadline, at_once=tls == "ssl", begin=begin)
        try:
            if tls:
                return _trusting(self._who, connect)
            return connect()
        except AlerterError:
            raise
        except Exception as caught:  # sockets, ssl, smtplib and imaplib raise many kinds
            error = _mail_failure(self._who, caught)
            proxies = {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}.intersection(os.environ)
            if proxies and isinstance(caught, _Unreachable) and not caught.code:
                error.hint = f"{error.hint}; mail does not go through the proxy of {max(proxies)}"
        except BaseException as caught:  # Ctrl-C: the libraries' frames know the password
            caught.__context__ = None
            raise caught.with_traceback(None) from None
        raise error

    def _preview(self, message: AlerterMessage, params: _Params = None) -> str:
        return self._compose(message, params, message._files(self._who)).flat.decode().replace("\r\n", "\n")

    def _where(self, message: AlerterMessage, params: _Params) -> _Dict:
        people = sorted(map(self._person, self._recipients(params)))
        mailbox = [self.imap_server, self.imap_username or self.username]
        return {"mailbox": mailbox, "sender": self.sender_email, "people": people}

    def _cannot_ask(self) -> str:
        if self.imap_server:
            return ""
        return "an e-mail alerter needs imap_server to read the answers"

    def _say(self, question: Question, text: str, to: _Reply | None, person: str = "") -> None:
        record = question._record
        people = record.recipients
        if to:
            people = [_name_and_address(to.by, "reply")[1]]
        subject = record.subject.replace(f" [#{record.token}]", "")
        mail = self._new_mail(f"Re: {subject}", people, question.ref, question, f".{os.urandom(4).hex()}")
        mail.set_content(_clean(text).replace("`", ""))
        question._take_step(sent=record.sent + _as_sent(mail))
        self._deliver(_Mail(mail, people), self._until(_SEND_BUDGET))

    def _box(self) -> Any:
        return self._view_at(_Mailbox(), self.imap_server, self.imap_port, self.imap_username, self.username,
                             self.sender_email, self.imap_password, self.password)

    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return what the recipients newly wrote in answer. Reads only: marks nothing as seen."""
        began = self.clock.monotonic()
        box = question._shared = self._box()  # after a fork another one
        box.questions.add(question)  # at once: else the one that ends meanwhile would close the session
        with box.lock:
            since = question._record.asked - 2 * 86400  # s, as SINCE knows days, of any zone
            if box.session is None:
                box.session = self._imap(self._until(_SEND_BUDGET))
            box.session.sock.deadline = _deadline(self.clock, self._until(_SEND_BUDGET))
            try:
                if box.began <= began or since < box.since:  # else another question has looked meanwhile
                    box.began, box.since = self.clock.monotonic(), min(since, box.since)
                    box.look()
                return self._answers(box, question)
            except Exception as caught:  # of many kinds: see `_session`
                box.close()
                error = _mail_failure(self._who, caught)
            raise error  # out here, as in `_own_code`

    def _answers(self, box: _Mailbox, question: Question) -> list[_Dict]:
        record, uids = question._record, box.naming(question.token)
        people = set(map(self._person, record.approvers or record.recipients or self.recipient_email))
        new = sorted(uids.difference(box.answers))
        for uid, arrived, data in box.fetch(new, f"BODY.PEEK[]<0.{_READ_MAX}>", 1):
            if box.named[uid] != question.token:
                continue  # under load Courier gives the head of another one before
            box.answers[uid] = None
            try:
                box.answers[uid] = _mail_answer(data, question, self.sender_email, people, arrived)
            except Exception as error:  # what a hostile mail makes the parsers raise costs that mail alone
                _log("debug", "%s: a mail that cannot be read: %s", self._who, _one_line(error))
        return list(filter(None, map(box.answers.get, sorted(uids))))

    def _ready_to_read(self, where: _Dict) -> None:
        until, box = self._until(_SEND_BUDGET), self._box()

        def look() -> None:
            with box.lock:  # one after the other: see `_Mailbox`
                if box.session is None and self.clock.monotonic() > box.known_until:
                    self._imap(until).sock.close()
                    box.known_until = self._until()

        _retry(self, look, until=until)

    def _person(self, name: str) -> str:
        with contextlib.suppress(ConfigError):
            label, address = _name_and_address(name, "address")
            if not label:
                return address.casefold()
        return ""


class _Mailbox(_View):
    """What is read of one mailbox, over one session: Dovecot allows ten of a user from one address."""
    known_until = float("-inf")  # till when nobody has to try once more whether it can be read
    since = float("inf")  # two days before the first was asked
    session: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.close()

    def leave(self, question: Question) -> None:
        with self.lock:
            super().leave(question)
            if not self.questions:
                self.close()

    def close(self) -> None:
        """End the session, and forget: only within one do UIDs surely stay the same (UIDVALIDITY)."""
        if self.session:
            self.session.sock.close()
        self.session = None
        self.began = 0.0  # when the last look began
        self.named: dict[int, str] = {}  # which question's token a mail names, by UID
        self.answers: dict[int, _Dict | None] = {}  # what the mails answer that were read whole, by UID

    def look(self) -> None:
        _imap_said(self.session.noop())  # after which the server tells what is new (RFC 3501, 6.1.2)
        day = _imaplib.Time2Internaldate(self.since)[1:12]
        self._unread = self._search(f"SINCE {day}").difference(self.named)  # UIDs

    def naming(self, token: str) -> set[int]:
        """Return the UIDs of mails that name a question. Of many new ones, the server finds them first."""
        new = set(self._unread)
        if len(new) > 300:  # the heads of fewer are soon read
            keys = f"OR SUBJECT {token} OR HEADER In-Reply-To {token} HEADER References {token}"
            new = self._search(keys) & new or new
        for uid, _, _ in self.fetch(sorted(new), _HEAD_FIELDS, 500):
            self._unread.discard(uid)
        return {uid for uid, named in self.named.items() if named == token}

    def _command(self, *command: str) -> list[Any]:
        sock = self.session.sock
        sock.room = _MAILBOX_CAP
        sock.deadline = max(sock.deadline, time.monotonic() + sock.patience)  # of many heads each piece anew
        return list(filter(None, _imap_said(self.session.uid(*command))))

    def _search(self, keys: str) -> set[int]:
        found = b" ".join(self._command("SEARCH", keys))
        return set(map(int, found.split()))

    def fetch(self, uids: list[int], what: str, step: int) -> Iterator[tuple[int, Any, bytes]]:
        """Yield (UID, time of arrival, bytes) of mails, `step` of them at a time."""
        for start in range(0, len(uids), step):
            some = ",".join(map(str, uids[start:start + step]))
            rows = self._command("FETCH", some, f"(UID INTERNALDATE {what})")
            for row, after in zip(rows, rows[1:]):
                if isinstance(row, tuple):  # (facts, the mail); facts may follow it, too
                    facts = row[0] + after
                    [uid], arrived = re.findall(rb"UID (\d+)", facts), _imaplib.Internaldate2tuple(facts)
                    head = row[1].partition(b"\r\n\r\n")[0]
                    self.named[int(uid)] = _question_of(_email.message_from_bytes(head))
                    yield int(uid), arrived and time.mktime(arrived), row[1]


def _name_and_address(text: str, what: str) -> tuple[str, str]:
    """Return the name, or "", and the address of `bot@example.org` or `Training Bot <bot@example.org>`."""
    name, address = "", text.strip()
    named = re.fullmatch(r'"?([^"<>@]*[^"<>@\s])"?\s*<([^<>]*)>', address)
    if named:
        name, address = named.groups()
    local, _, domain = address.rpartition("@")
    with contextlib.suppress(UnicodeError):
        if re.fullmatch(_ADDRESS, address) and "=?" not in text:  # see `_new_mail`
            ascii_form = domain.encode("idna").decode()
            if ascii_form.lower() != _xn_form(domain):  # the codec knows the rules of 2003 alone
                raise ConfigError(f"{what}: write {local}@{_xn_form(domain)}")
            return name, f"{local}@{ascii_form}"
    raise ConfigError(f"{what}: {_one_line(text, 60)!r} is not a mail address")


class _Mail:
    """A mail as it is sent after DATA, and what became of it."""
    # The email package would hold a picture seven times; here it stays as it is until it is sent.
    def __init__(self, mail: _email_message.EmailMessage, people: Iterable[str],
                 files: Sequence[_File] = ()) -> None:
        self.ident, self.flat, self.files = str(mail["Message-ID"]), mail.as_bytes(), files
        self.left = list(people)  # who may still get it
        self.refused: dict[str, DeliveryError] = {}  # who does not have it, and why; for now: in `left`, too
        self.unwanted = False  # it is refused for what is in it, as its size or a kind of file
        self.unheard = False  # a try after which nobody knows whether it arrived
        self.size = len(self.flat)
        for file in files:
            self.size += len(file.data) * 78 // 57  # in base64

    def __iter__(self) -> Iterator[bytes]:
        flat = re.sub(rb"(?m)^\.", b"..", self.flat)
        for file in self.files:
            before, _, flat = flat.partition(_base64.b64encode(_PLACEHOLDER % id(file)))
            yield before
            for start in range(0, len(file.data), 57 * 1024):
                piece = memoryview(file.data)[start:start + 57 * 1024]
                yield _base64.encodebytes(piece).replace(b"\n", b"\r\n")
        yield flat + b".\r\n"


def _expect(answer: tuple[int, bytes], digit: int) -> None:
    if answer[0] // 100 != digit:  # the first alone decides (RFC 5321, 4.2)
        raise _smtplib.SMTPResponseException(*answer)


def _smtp_login(session: Any, user: str, password: str) -> None:
    """Log in by PLAIN, which takes UTF-8 (RFC 4616), or by LOGIN."""
    # smtplib would try a password that is refused once more in each way, and CRAM-MD5 where MD5 is forbidden.
    ways = session.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in ways:
        _expect(session.docmd("AUTH", "PLAIN " + _coded(f"\0{user}\0{password}")), 2)
    elif "LOGIN" in ways:
        _expect(session.docmd("AUTH", f"LOGIN {_coded(user)}"), 3)
        _expect(session.docmd(_coded(password)), 2)
    else:
        raise _smtplib.SMTPNotSupportedError("the server offers no log-in by PLAIN or LOGIN")


def _coded(text: str) -> str:
    return _Secret(_base64.b64encode(text.encode()).decode())  # as a server may repeat it


def _imap_login(who: str, session: Any, user: str, password: str) -> None:
    """Log in by PLAIN, which takes UTF-8, or by IMAP's own LOGIN, which does not."""
    line = _Secret(f"\0{user}\0{password}")
    _coded(line)  # so that it is masked, too
    try:
        if "AUTH=PLAIN" in session.capabilities:
            session.authenticate("PLAIN", lambda _: line.encode())
        else:
            session.login(session._quote(user), password)  # which imaplib quotes itself
        return
    except _imaplib.IMAP4.abort:
        raise
    except UnicodeError:
        words = "user or password is not ASCII, which the server takes by AUTH=PLAIN alone"
    except _imaplib.IMAP4.error as error:
        words = _server_words(error.args[0])
        # RFC 5530, and the words of Gmail, which allows 15 sessions
        if re.search(r"\[(?:UNAVAILABLE|LIMIT|INUSE|SERVERBUG)\]|too many simultaneous", words, re.I):
            raise
    raise _failure(who, f"IMAP log-in refused: {words}", cure="people",
                   hint="check imap_username and imap_password; Gmail and others want an app password")


def _imap_said(answer: tuple[str, list[Any]]) -> list[Any]:
    status, said = answer
    if status != "OK":
        raise _imaplib.IMAP4.error(said[-1])
    return said


def _server_words(said: Any) -> str:
    if isinstance(said, bytes):  # else it is what the library says in the server's place
        said = said.decode("utf-8", "replace")
    return _clean(said)  # it may repeat a password, which no frame of a traceback is to hold


def _mail_failure(who: str, error: BaseException, in_data: bool = False) -> DeliveryError:
    """Return the DeliveryError for what smtplib or imaplib raised; in_data: the mail may have arrived."""
    status, words = getattr(error, "smtp_code", 0), getattr(error, "smtp_error", b"")
    least = 200
    if in_data:
        least = 400  # to go on, say, is no answer to a whole mail
    if least <= status < 600:
        cure: _Cure = "people"
        if status // 100 == 4:
            cure = "again"
        return _failure(who, f"{status} {_server_words(words)}", status=status, cure=cure, hints=_SMTP_HINTS)
    if isinstance(error, _imaplib.IMAP4.error):
        return _failure(who, _server_words(error.args[0]), cure="again", hint="try later, or check imap_port")
    if type(error).__name__ == "SMTPNotSupportedError":
        return _failure(who, _reason(error), cure="people", hint="check smtp_port, use_tls and the log-in")
    if status:  # no code of SMTP
        error = ValueError(words)
    return _transport_failure(who, error, in_data)


def _as_sent(mail: Any) -> list[str]:
    """Return date and text of a mail of ours, and its HTML as text, by which their quotes are known."""
    sent = [str(mail["Date"])]
    for part in filter(None, map(mail.get_body, [("plain",), ("html",)])):
        sent.append(_part_text(part)[:_SENT_MAX])
    return sent


def _mail_answer(data: bytes, question: Question, asker: str, people: set[str], at: Any) -> _Dict | None:
    """Return a mail as an answer, or None: an automatic mail, or of somebody else."""
    # The email package takes quadratic time for many parts, and for long heads of them.
    heads = b"".join(re.findall(rb"(?im)^content-[^\n]*(?:\n[ \t][^\n]*)*", data))
    if data.count(b"\n--") > 2000 or len(heads) > 40_000:
        raise ValueError("it has too many parts, or their heads are too long")
    mail = _email.message_from_bytes(data)
    head = "\n".join(itertools.starmap("{}:{}".format, mail.items()))
    is_absent = any(map(re.compile(_ABSENT).match, _header_values(mail, "Subject")))
    if is_absent or re.search(_AUTOMATIC, head):
        return None
    by, ident = _writer_of(mail), _last_id(mail, "Message-ID")
    writer, askers = by.casefold(), question._memo.setdefault("askers", {})
    askers[ident] = writer  # of a mail that decides nothing, and so may ask something of its own
    if writer not in people:
        return None
    reader = _Reader(question, asker, mail)
    text = reader.said_in(mail)
    answered = _last_id(mail, "Message-ID", "References", "In-Reply-To")  # itself, if it answers none
    status, asked_by = question._verdict(text, False), askers.get(answered, writer)
    if status == "approved" and asked_by not in (writer, reader.asker):  # a "yes" to what another one asked
        text += "\n(To somebody else.)"
    elif status:
        del askers[ident]
    return {"by": by, "text": text, "via": "email", "at": at, "first_written": at}  # it may have been moved


def _header_values(mail: Any, *names: str) -> Iterator[str]:
    """Yield the values of headers, of many the last, decoded, in a line each; cut: hostile ones take long."""
    for name in names:
        for value in mail.get_all(name, [])[-99:]:
            if not isinstance(value, str):  # but bytes: UTF-8 itself (RFC 6532)
                value = _email_header.decode_header(value)[0][0].decode("utf-8", "replace")
            text = re.sub(r"\s+", " ", value[-5000:])
            with contextlib.suppress(Exception):  # whatever a hostile head makes the parser raise
                text = str(_email_policy.default.header_factory("Subject", text))
            yield text


def _question_of(mail: Any) -> str:
    """Return the token of the question that a mail, folded anywhere, answers: the last that it names."""
    heads = re.sub(r"\s", "", "".join(_header_values(mail, "References", "In-Reply-To", "Subject")).lower())
    return "".join(re.findall(r"(?:\[#|<alerters\.)([0-9a-f]{16})[\].@]", heads)[-1:])


def _last_id(mail: Any, *names: str) -> str:
    """Return the last id of a mail that headers name, or nothing."""
    ids = re.findall("<[^<>]+>", "".join(_header_values(mail, *names)))
    return "".join(ids[-1:])


def _writer_of(mail: Any) -> str:
    """Return the address of the one who wrote it; nobody's if it names another one. Two are an error."""
    [value] = mail.get_all("From", [""])
    head = str(value)[:1000]  # not decoded: a name may hold anything then
    name = r"(?:[^<>,;:\"]*|\"(?:[^\"\\]|\\.)*\")"  # or behind the address, as old programs write it
    is_one = re.fullmatch(rf"({name}\s*<)?({_ADDRESS})(?(1)>)\s*(?:\([^()]*\)\s*)?", head)
    named = set(re.findall(_ADDRESS, head.replace("'", " ").casefold()))
    if is_one and len(named) == 1:
        return str(is_one[2])
    return ""


def _part_text(part: Any) -> str:
    data: bytes = part.get_payload(decode=True)
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(LookupError, ValueError):  # a charset that Python does not know
        text = data.decode(part.get_content_charset("utf-8"), "replace")
    if part.get_content_subtype() == "html":
        text = _html_text(text)
    return text


class _Reader:
    """Finds what the writer of a mail wrote: each line is of a kind, and `_NOT_OWN` tells which come off."""
    def __init__(self, question: Question, asker: str, mail: Any) -> None:
        self._decides, record = question._verdict, question._record
        name, address = _name_and_address(asker, "sender_email")
        self.asker = address.casefold()
        # The name of our own From, or the one that the writer's address book has for us.
        named = rf"([^<>,;:\"\s][^<>,;:\"]{{2,60}}?)\"? <(?i:{re.escape(address)})"
        called = re.findall(named, ", ".join(_header_values(mail, "To", "Cc")))
        called += filter(None, [name, address])
        names = "|".join(map(re.escape, called))
        sent = "\n\uffff\n".join(record.sent)
        # KMail names nobody, but minute and second of a mail of ours are the same in most time zones:
        # On Tuesday, 24 November 2026 10:12:07 CET you wrote:
        clocks = re.findall(r"(?m)^\w{3}, \d\d \w{3} \d{4} \d\d(?!:\d[05]:00)(:\d\d:\d\d)", sent)
        at = "|".join([*clocks, "(?!)"])
        self._us = (rf"(?i:(?<![\w.+-])(?:{names})(?!(?!이\(|님)[\w-])"
                    rf"|(?:{at})(?=(?: \w*[+-][\d:]+)?\W[^\d\n]*[:\uff1a]$))")  # -03 você escreveu:
        writer = re.sub(r"([@+(/|[{:–—·•]| - ).*", "", "".join(_header_values(mail, "From")).casefold())
        self._closings = _CLOSINGS.union(re.findall(r"[^\W\d_]+", writer))  # and names
        self._subject = re.escape(record.subject) or "(?!)"  # of an earlier version's record
        letters = re.sub(_NO_LETTERS, "", sent.casefold()).split("\n")
        self._mailed = "".join(letters)
        starts = list(itertools.accumulate(map(len, letters), initial=0))
        self._starts = set(starts)  # of its lines, and so their ends
        self._bare = self._starts.difference(itertools.compress(starts, re.findall("(?m)^[>|]?", sent)))

    def said_in(self, mail: Any) -> str:
        """Return what the writer of a mail newly wrote."""
        around, subject = "", "".join(_header_values(mail, "Subject"))
        for before, behind in re.findall(rf"^(?:(.*?){self._subject}|.*?\[#\w{{16}}\])(.*)", subject):
            around = re.sub(_BEFORE, "", before) + re.sub(_BEHIND, "", behind)
        said, room = {"around the subject": re.sub(_NO_LETTERS, " ", around)}, _TEXT_MAX
        attached = set()  # type: set[Any]
        for part in mail.walk():
            kind, types = part.get_content_type(), part.get_all("Content-Type", [])
            is_file = part.get_content_disposition() == "attachment" or part.get_filename()
            if is_file or kind.startswith("message/"):
                attached.update(part.walk())  # it may be the word of somebody else
            if re.match("text/(?!.*vcard)", kind):
                room -= len(part.get_payload())
                if room > 0:
                    text = _part_text(part)
                    if part in attached:
                        text = re.sub(r"(?m)^(?=.*\S)", "> ", text)
                    own = self._own(text)  # a signature ends with its part
                    said[re.sub(r"[\s*_]", "", own)] = own  # once, where text and HTML say the same
            if any(part.defects + types[1:] + [part.get_unixfrom(), room <= 0]):
                said["damaged"] = "(This mail is damaged or too long.)"
        return "\n".join(said.values()).strip()

    def _own(self, text: str) -> str:
        """Return what is neither quoted, with the block above it, nor a signature."""
        # Programs add the address of a link, and Gmail sets it on a line of its own.
        text = re.sub(r"(?:\r?\n>[> ]*)?<(?:https?:|mailto:|[^<>\s]+\?subject=)[^<>\s]*>", "<…>", text)
        text = re.sub(r"(?m)^\| (\S+) \| (.*) \|\r?$", r"\1: \2", text)  # NetEase's heading
        text = re.sub(_NOTICE_LINES, "", text)  # whole sentences: people begin conditions by CAUTION, too
        text = re.sub(r"<\r?\n|\r?\n[> ]*<(?=\S+@)", "<", text)  # and wrap a line there
        lines = [line.strip("\ufeff\u200b\u200e\u200f \t\r\xa0") for line in text.split("\n", _LINES_MAX)]
        lines = list(filter(re.compile(rf"[^-—–_=*\s{_QUOTED}]|^--$").search, lines))
        rows = "".join(map("{}={}\n".format, self._kinds(lines), lines))
        return re.sub("(?m)^[a-z]+=", "", re.sub(_NOT_OWN, "", rows))

    def _kinds(self, lines: list[str]) -> list[str]:
        """Return the kind of each line; whole lines of ours, in their order, are quoted or bare."""
        kinds = list(map(self._kind, lines))
        first, run, marked, reached = 0, "", False, set()  # type: int, str, bool, set[int]
        for end, line in enumerate(lines, 1):
            said, is_marked = re.sub(_NO_LETTERS, "", line.casefold()), line[0] in _QUOTED
            if is_marked != marked:
                reached -= self._bare  # but a quote in ours, or the rest of a line, may differ
            run += f" {said}"
            reached = self._follow(reached, said)  # where in our mails the lines so far may end
            if not reached:
                first, run, marked = end - 1, said, is_marked
                is_sure = marked and kinds[end - 2] == "quoted"  # right below a quote
                if said:
                    reached = self._follow(self._starts, said)
            if len(said) >= 12:  # by chance, anybody may say less
                is_sure = True
            if is_sure and said and reached & self._starts:
                kind = "bare"  # a part may be what an approval is for
                if marked or re.search("reply ?to ?this ?mail", run):  # to the end: see `_answer_by`
                    kind = "quoted"
                kinds[first:end] = [kind] * (end - first)
        return kinds

    def _follow(self, reached: set[int], said: str) -> set[int]:
        return {at + len(said) for at in reached if self._mailed.startswith(said, at)}

    def _kind(self, line: str) -> str:
        """Return what a line is if nobody wrote it, or "said"."""
        line = re.sub("(?s)^(.{300}).+", r"\1 (cut)", line)  # as the forms take quadratic time
        if self._decides(line, False):
            return "said"
        named = re.sub(_PROGRAMS, " PROGRAM ", line.casefold())
        words = set(re.findall(r"[^\s,.;!/'’<…>。！，\u2011-]+", named))
        if {"PROGRAM"} <= words <= _ADDED and words & _SENT:
            return "closing"
        if set() < words <= self._closings:
            return "closing"
        line = re.sub(self._us, _US, line.strip(f"{_QUOTED} \t\xa0"))
        for kind, pattern in _LINE_KINDS.items():
            if re.fullmatch(pattern, line):
                return kind
        return "said"


def _html_text(source: str) -> str:
    """Return an HTML mail as text: `> ` before what is in a blockquote, `✂` before what is struck out."""
    said: list[str] = []

    class Page(_html_parser.HTMLParser):
        def handle_data(self, data: str) -> None:
            if self.cdata_elem not in ("style", "script"):
                said.append(data)

    for pattern, shown in _HTML_FIXES.items():
        source = re.sub(f"(?i){pattern}", shown, source)
    page = Page()
    page.feed(source)
    # What it could not parse to the end counts as text; its close() would take quadratic time for that.
    said.append(page.rawdata)
    depth, lines = 0, []
    for line in re.split("(?:\x1d *)+", "".join(said)):  # not at \n, which is a space even as &#10;
        depth = max(depth + line.count("\x1e") - line.count("\x1f"), 0)  # a browser heeds no stray end
        lines.append("> " * min(depth, 1) + " ".join(line.split()))
    return "\n".join(lines)


_FONT = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
_MONO = "font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:#f3f4f6"
_HTML_MARKS = {"bold": "<strong>{words}</strong>", "italic": "<em>{words}</em>", "strike": "<s>{words}</s>"}
_HTML_SPANS = {**dict.fromkeys(("link", "url"), '<a href="{url}" style="color:#2563eb">{}</a>'),
               "code": f'<code style="{_MONO};padding:1px 4px;border-radius:4px">{{}}</code>'}
_HTML_FORMS = {  # h1 is the title
    "note": "", "title": '<h1 style="margin:8px 0 0;font-size:20px;line-height:1.3">{}</h1>',
    "heading": '<h{head} style="margin:16px 0 4px;font-size:{size}px;line-height:1.3">{}</h{head}>',
    "item": '<ul style="margin:2px 0 2px {level}em;padding-left:22px"><li>{}</li></ul>',
    "numbered": '<ol start="{start}" style="margin:2px 0 2px {level}em;padding-left:22px"><li>{}</li></ol>',
    "quote": '<blockquote style="margin:8px 0;padding-left:12px;border-left:3px solid #ddd">{}</blockquote>',
    "text": '<div style="margin:8px 0;white-space:pre-wrap">{}</div>',
    "code": f'<pre dir="ltr" style="{_MONO};padding:12px;border-radius:6px;white-space:pre-wrap">{{}}</pre>'}
_PICTURE = '<img src="{}" alt="{}" width="552" style="display:block;width:100%;max-width:552px;margin:8px 0">'
_BUTTON = ('<a class="al-button" href="{}" style="display:inline-block;margin:12px 12px 4px 0;padding:10px'
           ' 24px;border-radius:6px;background:{};color:#ffffff;font-weight:600;text-decoration:none">{}</a>')
# What is too wide for its window can be moved in it; names and numbers stay whole.
_TABLE = (f'<div style="overflow-x:auto;margin:8px 0"><table style="{_FONT};font-size:14px;'
          'border-collapse:collapse">{}</table></div>')
_CELL = "padding:6px 10px;border-bottom:1px solid #e5e7eb;vertical-align:top;text-align"
_CELLS = {"name": f'<th style="{_CELL}:{{}};color:#6b7280;font-weight:600;word-break:normal">{{}}</th>',
          "long": f'<th style="{_CELL}:{{}};color:#6b7280;font-weight:600">{{}}</th>',
          "cell": f'<td style="{_CELL}:{{}};word-break:normal">{{}}</td>',
          "fact": f'<td style="{_CELL}:{{}};white-space:pre-wrap">{{}}</td>'}
_CELL_SIDES = {"<": "left", ">": "right;white-space:nowrap"}
_ROW = ('<tr><td class="al-row" dir="auto" style="padding:8px 24px;color:#1f2937;word-break:break-word;'
        f'font-size:15px;line-height:1.55;{_FONT};{{}}">{{}}</td></tr>')
_WIDE = 'width="100%" cellpadding="0" cellspacing="0"'
_MAIL_CARD = (f'<table class="al-card" role="presentation" align="center" {_WIDE} style="max-width:600px;'
         'table-layout:fixed;margin:0 auto;background:#ffffff;border:1px solid #e5e7eb;border-top:0;'
         'border-radius:8px"><tr><td style="background:#{:06x};height:4px;line-height:4px;font-size:5px;'
         'border-radius:8px 8px 0 0">&nbsp;</td></tr>{}<tr><td style="height:16px">&nbsp;</td></tr></table>')
# Looks stand at each tag, as many mail programs drop <style>; those that keep it have dark mode and phones.
_PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}
@media (max-width:480px){.al-out{padding:12px 0!important}.al-card{border-radius:0!important}
.al-row{padding-left:16px!important;padding-right:16px!important}}
@media (prefers-color-scheme:dark){.al-page,.al-card pre,.al-card code{background:#111827!important}
.al-card{background:#1f2937!important}.al-card th{color:#9ca3af!important}
.al-card,.al-card *{color:#e5e7eb!important;border-color:#374151!important}.al-card a{color:#93c5fd!important}
.al-card .al-button{color:#ffffff!important}}
</style></head><body class="al-page" style="margin:0;padding:0;background:#f3f4f6"><table class="al-page"
role="presentation" %s style="background:#f3f4f6"><tr><td class="al-out" style="padding:24px 12px">%s</td>
</tr></table></body></html>"""


def _html_span(style: str, text: str, url: str) -> str:
    return _HTML_SPANS.get(style, "{}").format(_html.escape(text), url=_html.escape(url))


def _html_block(block: _Block, inline: bool) -> str:
    """Return one block as HTML. inline: pictures are in it, in place of an address of another part."""
    kind, level, file = block.kind, block.level, block.file
    if kind in ("table", "facts"):
        rows = ""
        for row in filter(None, [block.head, *block.lines]):
            looks = ["cell"] * len(row)
            if kind == "facts":
                looks = ["name", "fact"]
                if re.search(r"\S{25}", row[0]):  # whole, it would leave no room for the facts on a phone
                    looks = ["long", "fact"]
            if row is block.head:
                looks = ["name"] * len(row)
            cells = ""
            for cell, look, side in zip(row, looks, block.sides or "<<"):
                cells += _CELLS[look].format(_CELL_SIDES[side], _marked(block, cell, _html_span, _HTML_MARKS))
            rows += f"<tr>{cells}</tr>"
        return _TABLE.format(rows.replace("\n", "<br>"))  # between the lines of a fact
    if kind == "picture":
        source = file.url or f"cid:{block.label}"
        if inline and file.image:
            source = f"data:{file.type};base64,{_base64.b64encode(file.data).decode()}"
        if file.url or file.image:
            return _PICTURE.format(_html.escape(source), _html.escape(file.name))
        return _html.escape(f"[{file.label}]")
    if kind == "code":  # inside it nothing changes
        text = _html.escape("\n".join(block.lines))
    else:
        lines = [_marked(block, line, _html_span, _HTML_MARKS) for line in block.lines]
        text = "\n".join(lines).strip("\n").replace("\n", "<br>")
    if kind == "item" and block.label:
        kind = "numbered"
    if not text:
        return ""
    form = _HTML_FORMS.get(kind, _HTML_FORMS["text"])
    return form.format(text, level=level, head=level + 1, size=20 - 2 * level, start=block.label[:-1])


def _mail_html(blocks: Iterable[_Block], level: str, buttons: str = "", inline: bool = False) -> str:
    """Return a page for mail, with images by cid:, or (inline) a fragment for a notebook that holds them."""
    color, rows = _LEVELS[level][1], ""
    if level != "info":  # in words, too, as not everybody sees the colour
        look = "padding-bottom:0;font-size:12px;letter-spacing:.06em;text-transform:uppercase"
        rows = _ROW.format(look, f"<strong>{level}</strong>")
    for kind, group in _grouped(blocks):
        content = "\n".join([_html_block(block, inline) for block in group])
        look = ""
        if kind == "how":
            look = f"padding-top:14px;padding-bottom:14px;box-shadow:inset 3px 0 #{color:06x}"
            content += buttons
        if content.strip():
            rows += _ROW.format(look, content)
    card = _MAIL_CARD.format(color, rows)
    if inline:
        return card
    return _PAGE % (_WIDE, card)


# === Console ===
@_dataclass
class ConsoleAlerter(BaseAlerter):
    """The terminal this runs in: writes to stderr, asks whoever sits there; notebooks by input box."""
    flavor = "console"
    case_sensitive = False
    _answer_by = "Type"
    _most_people = 1
    _calls_people = False
    _shows_questions = True
    _shown = None  # type: Question | None  # the question shown last, which a typed line answers
    _typing = _thread.allocate_lock()  # held while a question is shown, or a line for it is read

    def send(self, message: Any, params: _Params = None) -> Receipt:
        """Write the message to stderr."""
        mark = {"info": "i", "success": "+", "warning": "!", "error": "!!"}[message.level]
        text = _as_text(_lay_out(message, message._files(self._who)), gap="\n").replace("\n", "\n    ")
        if message._question:
            with self._typing:
                self._show(message._question, text)
        else:
            self._write(f"[{mark}] {text}")
        return Receipt(self._label, {})

    def _points(self) -> Iterator[tuple[str, str]]:
        yield _GOOD, f"writes to stderr; {self._cannot_ask() or 'asks on this terminal'}"

    def replies(self, question: Question) -> list[dict[str, Any]]:
        """Return the lines typed since the last poll."""
        with self._typing:
            line = self._typed(question)
        if line == "":  # Ctrl-D, or the terminal is gone: nobody answers any more
            question._ends = 0.0
        if not line:
            return []
        question._record.helped = True  # what is no answer is told here, each time
        try:
            user = _getpass.getuser()
        except (KeyError, OSError, ImportError):  # in a container: no name for this number
            user = str(getattr(os, "getuid", os.getpid)())
        reply = {"by": user, "text": line.rstrip("\r\n"), "via": "console", "at": self.clock.now()}
        people = question._record.approvers
        if people and self._person(user) not in map(self._person, people):
            self._say(question, f"That does not count: you are {user} here, not {_among(people)}.", None)
        elif question._meaning(_Reply(reply)) is None:
            self._say(question, f"That is not an answer yet. {question._instructions()[0]}", None)
        return [reply]

    def _typed(self, question: Question) -> str | None:
        """Return the line that was typed, "" if there will be none any more, or None."""
        if not self._hold_terminal():
            ConsoleAlerter._shown = None  # so that it is shown again when its turn comes
            return None
        last, now = self._shown, self.clock.monotonic()
        if last is not question:  # of two at once the older one waits, and is shown again
            if last and last._decision is None and now < last._gives_up:
                return None
            self._show(question, question._record.text)
        if _has_input_box():
            return _typed_in_box(min(question._ends, question._wait_until) - now)
        if not self._ready():
            return None
        try:
            return sys.stdin.readline()
        except UnicodeDecodeError:  # a stray byte, which is no answer
            return "?\n"

    def _show(self, question: Question, text: str) -> None:
        """Write a question, and drop what was typed before: it cannot be an answer to it."""
        ConsoleAlerter._shown = question
        if not self._hold_terminal():  # what is being typed is for that one
            text += "\n    Another program asks here, too: its question comes first."
        elif sys.platform == "win32":
            while self._ready():
                _msvcrt.getwch()
        elif _is_terminal(sys.stdin):
            _termios.tcflush(sys.stdin, _termios.TCIFLUSH)
        self._write(f"[?] {text}")

    def _hold_terminal(self, hold: bool = True) -> bool:
        """Take this terminal, or free it. False: another process asks there, whose answers we would take."""
        if sys.platform != "win32" and _is_terminal(sys.stdin):
            how = _fcntl.LOCK_UN
            if hold:
                how = _fcntl.LOCK_EX | _fcntl.LOCK_NB
            for stream in filter(_is_terminal, (sys.stdin, sys.stdout, sys.stderr)):
                try:
                    if not os.path.samefile(stream.fileno(), "/dev/tty"):  # one file for all terminals
                        _fcntl.lockf(stream, how)
                except BlockingIOError:
                    return False
                except OSError:  # it was opened to be read alone, or this system locks no terminals
                    pass
        return True

    def _release(self, question: Question) -> None:
        super()._release(question)
        self._hold_terminal(False)

    def _locate(self, found: Question) -> bool:
        found._record.ref = None  # whoever sits here now has not seen it: it is shown again
        return False

    def _pause(self, question: Question, seconds: float) -> None:
        self.clock.sleep(min(seconds, 0.1))  # an answer is taken as soon as it is typed

    def _ready(self) -> bool:
        """True if a line was typed; on Windows, if a key was."""
        if sys.platform == "win32":
            return _msvcrt.kbhit()
        return bool(_select.select([sys.stdin], [], [], 0)[0])

    def _say(self, question: Question, text: str, to: _Reply | None, person: str = "") -> None:
        self._write("    " + _clean(text).replace("`", ""))

    def _write(self, text: str) -> None:
        try:
            _write_line(sys.stderr, text)
        except Exception as error:  # it may be closed, or anything that somebody put there
            raise _failure(self._who, _reason(error), hint="stderr is closed") from None

    def _cannot_ask(self) -> str:
        box = _has_input_box()
        if box is False:
            return "this notebook has no input box"
        if box or _is_terminal(sys.stdin):
            return ""
        return "standard input is no terminal, so there is nobody to answer; register an alerter that can ask"


def _is_terminal(stream: Any) -> bool:
    """True for a stream on a terminal; not for None, a closed one, or what a logger put there."""
    try:
        return os.isatty(stream.fileno())
    except Exception:  # who replaced the stream wrote it: it may lack anything, and raise anything
        return False


def _has_input_box() -> bool | None:
    """True in a notebook where somebody can type, as its front end says for each cell; None: no notebook."""
    kernel = getattr(input, "__self__", None)  # of ipykernel, which puts its own in place of input()
    return getattr(kernel, "_allow_stdin", None)


def _typed_in_box(seconds: float) -> str | None:
    """Return the line that is typed into a notebook's input box; None if nothing is in time."""
    if seconds <= 0:
        return None
    line = None
    turn = _threading.Lock()  # whoever takes it first ends the wait: the answer, or the time
    waiter = _thread.get_ident()

    def interrupt() -> None:  # nothing else ends the kernel's wait; a signal reaches the main thread alone
        if turn.acquire(blocking=False):
            import ctypes
            ended = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(waiter), ended)

    timer = _threading.Timer(seconds, interrupt)
    timer.daemon = True
    try:
        timer.start()
        line = input("Answer: ") + "\n"  # an empty one is no end of the input
        if not turn.acquire(blocking=False):
            time.sleep(1)  # until the interrupt comes, which is under way
    except KeyboardInterrupt:
        if not turn.locked():  # it is the person's own
            raise
    finally:
        timer.cancel()
    return line


# === Flavors ===
FLAVORS: dict[str, type[BaseAlerter]] = {  # named also in __all__, `_targets`, `_COMMANDS` and the README
    cls.flavor: cls for cls in (SlackAlerter, DiscordAlerter, SMTPEmailAlerter, ConsoleAlerter)}
_BUILT_IN = dict(FLAVORS)
_TRUTH = {"true": True, "yes": True, "on": True, "1": True,
          "false": False, "no": False, "off": False, "0": False}
_READERS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: _TRUTH[text.strip().lower()], "int": int, "port": int, "float": float,
    "tls": lambda text: _TRUTH.get(text.strip().lower(), text.strip().lower()),
    **dict.fromkeys(("list", "items"), lambda text: text.strip(" ,").split(","))}
_CHOOSING = ("flavor", "stack", "store")  # what $ALERTERS_… may name besides the fields of flavors
_OWN_PLACES: set[str] = set()  # searched for flavors alone: another module there may be anyone's


def register_flavor(cls_or_dotted_path: str | type[_A]) -> type[_A]:
    """Add a flavor to FLAVORS: as a class decorator, or by "package.module.Class". Returns the class."""
    flavor: Any = cls_or_dotted_path
    if isinstance(flavor, str):
        module, _, name = flavor.rpartition(".")
        sys.path += _OWN_PLACES.difference(sys.path)
        try:
            flavor = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:  # what is imported is another's code, and may raise anything
            raise ConfigError(f"flavor {flavor}: cannot import it ({_one_line(error)}): write "
                              "package.module.Class, and run where it can be imported") from None
    own = isinstance(flavor, type) and issubclass(flavor, BaseAlerter) and dataclasses.is_dataclass(flavor)
    if not (own and flavor.flavor and isinstance(flavor.flavor, str)):
        raise ConfigError(f"a flavor is a dataclass on BaseAlerter with a `flavor`, not {_kind_of(flavor)}")
    if _BUILT_IN.get(flavor.flavor, flavor) is not flavor:
        raise ConfigError(f"flavor {flavor.flavor!r} is built in: choose another name for {flavor.__name__}")
    FLAVORS[flavor.flavor] = flavor
    return flavor  # type: ignore[no-any-return]


def _flavor(given: object, data: _Dict | None = None, place: str = "") -> type[BaseAlerter]:
    """Return a flavor's class. The store, whose data may be given, knows where one's own are."""
    name = str(given)
    if name in FLAVORS:
        return FLAVORS[name]
    own = _usable(data or StackStore()._load(), "flavors")
    _check_known(f"{place}no flavor", name, {*FLAVORS, *own})
    return register_flavor(own[name])


def _fields_of(cls: type[BaseAlerter]) -> dict[str, _Field]:
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(f"flavor {cls.__name__}: write @dataclasses.dataclass above the class")
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _build(cls: type[BaseAlerter], fields: Mapping[str, Any], origin: Any = ("", None)) -> BaseAlerter:
    """Return the alerter that has these fields. origin: its name in a store, and the store's path."""
    alerter: Any = cls.__new__(cls)
    alerter._set("_origin", origin)  # first of all: what its constructor says begins with its name
    known, given = _fields_of(cls), _Hidden(fields)
    for name in fields:
        _check_known(f"{alerter._who}: it has no field", name, known)
        if isinstance(given[name], str) and _is_secret(known[name]):
            given[name] = _secret_or_reference(given[name])
    for name, field in known.items():
        if fields.get(name) is None and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{alerter._who}: {name} missing")
    alerter.__init__(**given)
    return alerter  # type: ignore[no-any-return]


def _parsed(field: _Field, text: str, what: str) -> Any:
    """Return the value of a field that was written as text, in the environment or on the command line."""
    kind = _field_kind(field)
    if not text and field.name != "approvers":  # an empty list of them is not everyone
        return None  # for the default
    try:
        return _READERS.get(kind, str)(text)
    except (KeyError, ValueError):
        wanted = {"bool": "true or false"}.get(kind, "a number")
        raise ConfigError(f"{what} must be {wanted}, not {text!r}") from None


def _from_environment() -> BaseAlerter:
    given, cls = _Hidden(), _flavor(os.environ["ALERTERS_FLAVOR"], place="$ALERTERS_FLAVOR: ")
    _stray_variable({}, _fields_of(cls))
    for name, field in _fields_of(cls).items():
        variable = f"ALERTERS_{name.upper()}"
        if variable in os.environ:
            given[name] = _parsed(field, os.environ[variable], f"${variable}")
    return _build(cls, given)


def _stray_variable(alerters: Mapping[str, Any], own: Mapping[str, _Field] | None = None) -> str:
    """Return what to say of a variable of ours, or nearly of ours, that configures nothing, or raise it."""
    places: dict[str, list[str]] = {}
    for flavor, cls in FLAVORS.items():
        for field in _fields_of(cls):
            places.setdefault(field, []).append(flavor)
    stray = ""
    for variable in sorted(os.environ):
        before, ours, name = variable.lower().partition("alerters_")
        if before or not ours or not os.environ[variable] or name in _CHOOSING:
            continue
        if f"env.{variable}" in _json.dumps(alerters):  # one of them refers to it
            continue
        said = ""
        if name not in places:
            meant = _nearest(name, [*(own or places), *_CHOOSING], 0.749)  # 0.65: TASK is STACK
            if meant:
                said = f"${variable}: did you mean $ALERTERS_{meant.upper()}?"
            if meant and (own is not None or meant in _CHOOSING):  # another field or place would be used
                raise ConfigError(said)
        elif own is None:
            said = f"${variable} is set, but not $ALERTERS_FLAVOR: set that to {' or '.join(places[name])}"
        stray = stray or said
    return stray


# === The store ===
_CONFIG_FOLDER = "APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME"  # the variable that names it
_BUSY = PermissionError if os.name == "nt" else BlockingIOError  # by which a file is another's just now
_FITS: dict[str, Callable[[Any], bool]] = {  # an entry of another shape is set aside, and kept
    "flavors": lambda entry: isinstance(entry, str),
    "alerters": lambda entry: isinstance(entry, dict) and isinstance(entry.get("flavor"), str),
    "stacks": lambda entry: isinstance(entry, list) and set(map(type, entry)) == {str}}
_USUAL_STORES: dict[str, str] = {}  # what $ALERTERS_STORE said, and which file that was when first used


class StackStore:
    """The alerters and stacks in one JSON file, readable by hand, written only under a lock.

    path: default `$ALERTERS_STORE`, else `alerters/stacks.json` in the user's configuration folder. Raises
    StoreError when the file cannot be used, ConfigError for a name that does not fit. Reading never writes.
    """
    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        usual = os.path.join(os.environ.get(_CONFIG_FOLDER) or "~/.config", "alerters", "stacks.json")
        full = os.fsdecode(path or os.environ.get("ALERTERS_STORE") or usual)
        if os.environ.get("HOME") != "":  # an empty one is no home
            full = os.path.expanduser(full)
        self.path = full
        with contextlib.suppress(OSError):  # the current folder may be gone
            if full[:1] != "~":  # else no home is known
                self.path = os.path.realpath(full)
        if not path and not os.path.isabs(full):  # the program may go elsewhere
            self.path = _USUAL_STORES.setdefault(full, self.path)

    def register_alerter(self, name: str, flavor: str, **fields: Any) -> BaseAlerter:
        """Add an alerter under a new name and return it."""
        fields = _Hidden({"flavor": flavor, **fields})
        return self._put_alerter(name, fields, new=True)

    def update_alerter(self, name: str, **fields: Any) -> BaseAlerter:
        """Change fields of an alerter and return it; a field given as None goes back to its default."""
        fields = _Hidden(fields)
        return self._put_alerter(name, fields, new=False)

    def _put_alerter(self, name: str, fields: _Dict, new: bool, use: bool = False) -> BaseAlerter:
        with self._changing() as data:
            entry = _Hidden()
            if new:
                _check_new("alerter", name, data["alerters"], "`update` changes it")
            else:
                entry.update(self._entry(data, "alerters", name))
            for field, value in fields.items():
                if hasattr(value, "total_seconds"):
                    value = value.total_seconds()
                elif hasattr(value, "__iter__") and not isinstance(value, (str, bytes, dict)):
                    value = list(value)  # whatever it is: JSON knows no other
                entry[field] = value
                if value is None:
                    del entry[field]
            value = None  # in no traceback that shows locals
            data["alerters"][name] = entry
            if use:  # in the same step: what is half done could not be done again
                stacks = data["stacks"]
                _check_new("stack", name, stacks, "choose another name")
                stacks[name], data["active_stack"] = [name], name
            return self._built(data, name, entry)

    def delete_alerter(self, name: str) -> None:
        """Remove an alerter that no stack names."""
        with self._changing() as data:
            self._entry(data, "alerters", name)
            for stack, members in _usable(data, "stacks").items():
                if name in members:
                    raise ConfigError(f"alerter {name!r} is in the stack {stack}: delete that first")
            del data["alerters"][name]

    def alerters(self) -> dict[str, dict[str, Any]]:
        """Return {name: fields}, "flavor" among them; the repr of a secret is masked."""
        data = self._load()
        found: dict[str, _Dict] = _usable(data, "alerters")
        for entry in found.values():
            secrets = [name for name in entry if re.search(_SECRET_NAME, name.lower())]
            with contextlib.suppress(ConfigError):  # one that cannot be imported is judged by its names
                secrets += _secrets_of(_flavor(entry["flavor"], data))
            for name in secrets:
                if entry.get(name) is not None:  # a number, too, which somebody wrote there by hand
                    entry[name] = _secret_or_reference(str(entry[name]))
        return dict(found)  # whose repr may be seen

    def register_stack(self, name: str, alerters: str | Iterable[str], activate: bool = False) -> None:
        """Add a stack of one or several alerters; the first one registered becomes active."""
        self._put_stack(name, alerters, True, activate)

    def _put_stack(self, name: str, alerters: str | Iterable[str], new: bool, activate: bool) -> None:
        members = _names(alerters or "", "a stack's alerters")  # none at all is a mistake, too
        with self._changing() as data:
            if new:
                _check_new("stack", name, data["stacks"], "`stack update` changes it")
            else:
                self._entry(data, "stacks", name)
            for member in members:
                self._entry(data, "alerters", member)
            if activate or list(data["stacks"]) == ["default"]:
                data["active_stack"] = name
            data["stacks"][name] = list(dict.fromkeys(members))

    def delete_stack(self, name: str) -> None:
        """Remove a stack that is not the active one."""
        with self._changing() as data:
            self._entry(data, "stacks", name)
            if name == data["active_stack"]:
                raise ConfigError(f"stack {name!r} is active: set another one first")
            del data["stacks"][name]

    def set_active_stack(self, name: str) -> None:
        """Make a stack the one that is used when none is named."""
        with self._changing() as data:
            self._entry(data, "stacks", name)
            data["active_stack"] = name

    def stacks(self) -> dict[str, list[str]]:
        """Return {name: [alerter, …]}."""
        return dict(_usable(self._load(), "stacks"))

    def active_stack(self) -> str:
        """Return the name of the stack in use; `$ALERTERS_STACK` chooses one for this process."""
        return os.environ.get("ALERTERS_STACK") or self._load()["active_stack"]

    def load_alerter(self, name: str | None = None) -> BaseAlerter:
        """Return an alerter by name, or the one in use: $ALERTERS_FLAVOR, or first of the active stack."""
        if name is None and os.environ.get("ALERTERS_FLAVOR"):
            return _from_environment()
        first = self._alerters_of(name)[0]
        if isinstance(first, _Broken):
            raise first.error
        return first

    def _alerters_of(self, name: str | None = None, stack: str | None = None) -> list[BaseAlerter]:
        data = self._load()  # once: another process may make another stack active meanwhile
        listed: list[Any] = [name]
        if stack is None:
            stack = os.environ.get("ALERTERS_STACK") or data["active_stack"]
        if name is None:
            listed = self._entry(data, "stacks", stack)
        alerters: list[BaseAlerter] = []
        for member in listed:
            try:
                alerters.append(self._built(data, member, _Hidden(self._entry(data, "alerters", member))))
            except Exception as error:  # what an own flavor's constructor raises, too
                if len(listed) == 1:
                    raise
                alerters.append(_build(_Broken, {"error": error}, (member, self.path)))
        return alerters

    def _built(self, data: _Dict, name: str, entry: _Dict) -> BaseAlerter:
        fields = _Hidden(entry)
        cls = _flavor(fields.pop("flavor", None), data, f"alerter {name} in {self.path}: ")
        return _build(cls, fields, (name, self.path))

    def _entry(self, data: _Dict, kind: str, name: Any) -> Any:
        one, entries = kind[:-1], data[kind]
        _check_known(f"{self.path}: no {one}", name, entries)
        if not _FITS[kind](entries[name]):
            raise ConfigError(f"{one} {name!r} has a wrong form in {self.path}: mend or remove it there")
        return entries[name]

    def _questions(self, data: _Dict) -> _Dict:
        """Return the records of the open questions, by key; what they are matters to no post."""
        questions = data.setdefault("questions", {})
        if isinstance(questions, dict):
            return questions
        raise StoreError(f'{self.path}: "questions" has a wrong form; it was left as it is: mend it')

    def _load(self) -> _Dict:
        data: Any = {}
        why = ""
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                with open(_when_free(2.0, _open_plain, self.path, os.O_RDONLY), "rb") as file:
                    data = _json.load(file)  # of UTF-8 or UTF-16, with a BOM or without, as editors write it
            if not isinstance(data, dict):
                raise ValueError("it is no store of alerters")
            if data.get("version", 1) != 1:
                raise ValueError("it is of another version: this alerters.py reads version 1 alone")
            parts = {"alerters": dict, "stacks": dict, "flavors": dict, "active_stack": str}
            for part, kind in parts.items():
                if not isinstance(data.get(part, kind()), kind):
                    raise ValueError(f"{part} has a wrong form")
        except (OSError, ValueError, RecursionError) as error:
            data, why = {}, _one_line(_reason(error), 120)
        if why:  # out here, as in `_http`: the text may hold secrets
            raise StoreError(f"{self.path}: cannot be read ({why}); it was left as it is: mend it, or choose "
                             "another with $ALERTERS_STORE")
        store = _Hidden({"version": 1, "alerters": {"console": {"flavor": "console"}},
                         "stacks": {"default": ["console"]}, "active_stack": "default", **data})
        store["alerters"] = _Hidden(store["alerters"])
        return store

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Dict]:
        """Read the file, let it be changed, write it, all under its lock; a failure leaves the old file."""
        with _locked(self.path):
            data = self._load()
            yield data
            draft, why = f"{self.path}.tmp", ""
            try:
                text = _json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)  # of a killed process; a link planted there may lead elsewhere
                with open(_open_plain(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                    _hand_over(file.fileno(), self.path)
                    file.write(f"{text}\n".encode("utf-8", "backslashreplace"))  # half a character, too
                    file.flush()
                    os.fsync(file.fileno())
                _when_free(2.0, os.replace, draft, self.path)
            except (OSError, TypeError, ValueError, RecursionError) as error:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
                text, why = "", _reason(error)
            if why:  # out here, as above
                raise StoreError(f"{self.path}: cannot be written ({why}); nothing was changed")


@_dataclass
class _Broken(BaseAlerter):
    """Stands for an alerter of a stack that cannot be built: it raises why once the others have the alert."""
    error: Any
    flavor = "broken"

    def _raise(self, *given: Any, **named: Any) -> Any:
        raise self.error

    post = send = check = _cannot_ask = _raise


def _open_plain(path: str, flags: int) -> int:
    """Open a file; a pipe or a device, which may never answer, is none."""
    if path[:1] == "~":  # no home is known, and a folder of this name may be anyone's
        raise FileNotFoundError(path)
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    if not _stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is no plain file")
    return file


def _hand_over(made: int | _pathlib.Path, model: str) -> None:
    """Give what root made to the owner of `model`, or of its folder: a user's store stays the user's."""
    if sys.platform != "win32" and hasattr(os, "geteuid") and os.geteuid() == 0:  # a browser's lacks it
        if not os.path.exists(model):
            model = os.path.dirname(model)
        owner = os.stat(model)
        os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(made, int))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of a store; a process that dies lets go of it."""
    lock = f"{path}.lock"
    with contextlib.ExitStack() as at_the_end:
        try:
            if path[:1] == "~":
                raise OSError("no home folder is known")
            for folder in reversed(_pathlib.Path(path).parents):
                if not folder.is_dir():
                    with contextlib.suppress(FileExistsError):
                        folder.mkdir(0o700)
                        _hand_over(folder, str(folder.parent))
            try:  # only what was made here is handed over: another file may be a link to somebody's own
                file = _open_plain(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                _hand_over(file, path)
            except FileExistsError:
                file = _open_plain(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            at_the_end.callback(os.closerange, file, file + 1)  # without errors: all is written by then
            _when_free(60.0, _lock, file)
            at_the_end.callback(_lock, file, False)  # a child that was forked meanwhile has it open, too
        except OSError as error:
            raise StoreError(f"{lock}: cannot be locked ({_reason(error)}): choose another store with "
                             "$ALERTERS_STORE; $ALERTERS_FLAVOR needs none, but a key does") from None
        yield


def _lock(file: int, hold: bool = True) -> None:
    if sys.platform == "win32":
        how = _msvcrt.LK_UNLCK
        if hold:
            how = _msvcrt.LK_NBLCK
        _msvcrt.locking(file, how, 1)
    elif hold:
        _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    else:
        with contextlib.suppress(OSError):  # on a network's disk: all is written, and closing lets go, too
            _fcntl.flock(file, _fcntl.LOCK_UN)


def _when_free(seconds: float, work: Callable[..., _T], *given: Any) -> _T:
    """Return work(…), tried again while another process holds the file: on Windows even one that reads it."""
    end = time.monotonic() + seconds
    while True:
        try:
            return work(*given)
        except _BUSY:
            if time.monotonic() > end:
                raise TimeoutError("another process holds it, or it may not be changed") from None
        time.sleep(0.01)


def _usable(data: Mapping[str, Any], kind: str) -> _Dict:
    found = _Hidden()
    for name, entry in data.get(kind, {}).items():
        if _FITS[kind](entry):
            found[name] = entry
    return found


def _check_new(kind: str, name: Any, known: Mapping[str, Any], instead: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"{kind} {name!r}: a name is letters, digits, _ . and -")
    if name in known:
        raise ConfigError(f"{kind} {name!r} exists already: {instead}")


# === Hooks and watch ===
_WILL_RETRY = "failed, will retry"
_ENDS: dict[str, _Level] = {"succeeded": "success", _WILL_RETRY: "warning"}  # all others are errors
_PREFECT_ENDINGS = {"Crashed": "crashed", "TimedOut": "timed out", "Cancelled": "cancelled"}
# Where the frameworks that call a job are installed; their frames in a traceback say nothing about the job.
_FRAMEWORKS = r"-packages[/\\](?:airflow|billiard|celery|dagster|prefect|zenml)[/\\]"


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """For a job that must not notice: whatever goes wrong inside is one line in the log."""
    try:
        yield
    except Exception as error:  # the wrapped job's own result matters more than any error of an alert
        _log("error", "the alert did not reach everybody: %s", _one_line(error))


class _Trace:
    """What to tell of an exception."""
    def __init__(self, error: BaseException) -> None:
        others = f"{re.escape(_clean.__code__.co_filename)}|{_FRAMEWORKS}"  # whose frames are left out
        line = text = said = _exception_text(error)
        lines: list[str] = []
        with contextlib.suppress(Exception):  # it has odd attributes, or hundreds of causes before 3.11
            whole = _traceback.TracebackException(type(error), error, error.__traceback__)
            parts: list[Any] = [whole]
            for part in filter(None, parts):  # causes, and members of a group, are added on the way
                kept = [frame for frame in part.stack if not re.search(others, frame.filename)]
                if kept:
                    part.stack[:] = kept
                lines += part.format_exception_only()
                parts += getattr(part, "exceptions", None) or ()
                if part.__suppress_context__:  # by `from None`, or by a cause
                    part.__context__ = None
                parts += part.__cause__, part.__context__
            line, text, said = "".join(whole.format_exception_only()), "".join(whole.format()), "".join(lines)
        self.said = _clean(said)  # the lines of it, its causes and members, without frames
        self.text = self.headed = _clean(text)  # the traceback, in which its own line comes last
        if text != line:
            self.headed = _clean(f"{line}\n{text}")  # with that line above it, too


def _ended(name: str, how: str, facts: _Dict) -> AlerterMessage:
    error, body = facts.pop("error", None), None
    if isinstance(error, BaseException):
        error = _Trace(error).headed
    if isinstance(error, str) and error and how != "succeeded":
        body = _fenced(error)
    return AlerterMessage(f"{name} {how}", body, facts, level=_ENDS.get(how, "error"))


def _facts(source: Any, **paths: str) -> _Dict:
    """Return what stands at dotted paths in a framework's object, and is not None."""
    facts = {}
    for label, path in paths.items():
        found = source
        with contextlib.suppress(Exception):  # a context may ask a database for it; the rest is told
            for name in path.split("."):
                if hasattr(found, "keys"):
                    found = found[name]
                else:
                    found = getattr(found, name)
            if found is not None:
                facts[label.replace("_", " ")] = found
    return facts


def _hook_message(failed: bool, named: Mapping[str, Any], first: Any = None, *more: Any) -> AlerterMessage:
    """Each framework calls it in a way of its own. Of what it hands over only what is named here goes out."""
    if first is None:
        first = named.get("context")  # Airflow's deadline callbacks get it by this name, and may hand it on
    facts: _Dict = {"error": first}
    kind, how = "step", "failed"
    if "sender" in named:  # docs.celeryq.dev/en/stable/userguide/signals.html
        kind = "task"
        facts.update(_facts(named, task="sender.name", task_id="task_id"))
    elif "state" in named:  # as Prefect's runner calls it, for a crash, and Prefect 2 for all
        work, run = named.get("flow", named.get("task")), named.get("flow_run", named.get("task_run"))
        kind, how, facts = _prefect_facts(failed, work, run, named["state"])
    elif first is None or isinstance(first, (BaseException, str)):
        with contextlib.suppress(Exception):  # there is no ZenML here, no step, or it has trouble of its own
            now = sys.modules["zenml"].get_step_context()
            facts.update(_facts(now, step="step_run.name", pipeline="pipeline.name", run="pipeline_run.name"))
    elif more:
        kind, how, facts = _prefect_facts(failed, first, more[0], more[-1])
    elif hasattr(first, "keys"):
        kind, how, facts = _airflow_facts(first)
    else:  # docs.dagster.io/guides/build/ops/op-hooks
        kind, facts = "op", _facts(first, error="op_exception", op="op.name", job="job_name", run="run_id")
    if not failed:
        how = "succeeded"
    return _ended(facts.get(kind, kind), how, facts)


def _airflow_facts(context: Any) -> tuple[str, str, _Dict]:
    """Airflow passes a mapping. Source: airflow.apache.org, Logging & Monitoring, Callbacks."""
    facts = _facts(context, dag="ti.dag_id", run="ti.run_id")  # in case the context has no more
    facts.update(_facts(context, error="exception", dag="dag.dag_id", run="run_id", reason="reason"))
    if "reason" in facts:  # of a whole DAG: the task instance in there is any one of its tasks
        return "dag", "failed", facts
    facts.update(_facts(context, task="ti.task_id", map_index="ti.map_index", host="ti.hostname",
                        log="ti.log_url"))
    if facts.get("map index") == -1:
        del facts["map index"]  # the task is not mapped
    tries = _facts(context, state="ti.state", number="ti.try_number", retries="ti.max_tries")
    state, how = tries.get("state"), "failed"
    with contextlib.suppress(KeyError, TypeError):  # a context that tells no tries
        number, last = tries["number"], tries["retries"] + 1
        facts["try"] = f"{number} of {last}"
        if number < last and state != "failed":  # it is that early where a task wants no more
            how = _WILL_RETRY
    if state == "up_for_retry":
        how = _WILL_RETRY
    return "task", how, facts


def _prefect_facts(failed: bool, work: Any, run: Any, state: Any) -> tuple[str, str, _Dict]:
    """Prefect passes flow (or task), run and state. Source: docs.prefect.io/v3/how-to-guides/workflows."""
    kind = "flow"
    if "task" in type(work).__name__.lower():
        kind = "task"
    facts = {**_facts(work, **{kind: "name"}), **_facts(run, run="name")}
    with contextlib.suppress(Exception):  # another Prefect, say: then there is no link
        link = sys.modules["prefect.utilities.urls"].url_for(run)
        if link:
            facts["link"] = link
    if failed:
        facts.update(_facts(state, state="name", error="message"))
        for each in (_state_result(state), *_facts(state, result="data.result", data="data").values()):
            if isinstance(each, BaseException):
                facts["error"] = each
    return kind, _PREFECT_ENDINGS.get(facts.get("state", ""), "failed"), facts


def _state_result(state: Any) -> Any:
    try:
        result = state.result(raise_on_failure=False)
        if _inspect.iscoroutine(result):  # of an async flow, and there is no waiting for it here
            result.send(None)
        return result
    except StopIteration as end:
        return end.value
    except Exception:  # it cannot be had: the state has a message, too
        return None


def alerter_success_hook(*context: Any, **named: Any) -> None:
    """Post that a step, task, flow or DAG succeeded; called as `alerter_failure_hook` is. Never raises."""
    with _telling():
        post(_hook_message(False, named, *context))


def alerter_failure_hook(exception: Any = None, *context: Any, **named: Any) -> None:
    """Post that a step, task, flow or DAG failed, called as ZenML, Airflow, Prefect, Dagster, Celery do.

    It has the exception, names what failed and its run, and holds nothing else of the context. Never raises.
    """
    with _telling():
        post(_hook_message(True, named, exception, *context))


alerter_success_hook.__annotations__ = {}  # ZenML reads these: it wants none here,
alerter_failure_hook.__annotations__ = {"exception": BaseException}  # and on the exception the class itself


class _Watch:
    """What `watch` returns: it decorates a function, and stands in `with` and `async with`."""
    def __init__(self, name: str | None, on_success: bool, longer_than: float, alerter: _Target) -> None:
        self.name, self.on_success, self.longer_than, self.alerter = name, on_success, longer_than, alerter
        self.began: list[float] = []  # one for each block it is in

    def __enter__(self) -> _Watch:
        self.began.append(time.monotonic())
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        seconds = time.monotonic() - self.began.pop()
        how = "failed"
        left = isinstance(error, SystemExit) and error.code in (None, 0)
        if left or kind in (None, GeneratorExit):
            how = "succeeded"
            if seconds < self.longer_than or not self.on_success:
                return
        with _telling():
            facts = {"duration": _duration(seconds), "host": _socket.gethostname(), "error": error}
            post(_ended(self.name or "Job", how, facts), alerter=self.alerter)

    async def __aenter__(self) -> _Watch:
        return self.__enter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # A thread, so that the event loop goes on; Python waits for it, even if this is cancelled meanwhile.
        worker = _in_thread("watch", self.__exit__, kind, error, trace, daemon=False)
        with contextlib.suppress(RuntimeError):  # this is no loop of asyncio
            while worker.is_alive() and not isinstance(error, GeneratorExit):  # which forbids to await
                await _asyncio.sleep(0.01)
        if worker.is_alive():
            worker.join()

    def __call__(self, function: _F) -> _F:
        if isinstance(function, (classmethod, staticmethod)):  # stay so, also called on an instance
            return type(function)(self(function.__func__))
        if not callable(function) or _inspect.isasyncgenfunction(function):
            raise ConfigError("watch: write it below @property; in async generators, `async with watch(…):`")
        name = self.name or getattr(function, "__qualname__", "Job")
        each = functools.partial(_Watch, name, self.on_success, self.longer_than, self.alerter)
        is_coroutine = _inspect.iscoroutine  # what follows goes to other machines (Ray, Dask) by its values

        async def awaited(work: Any) -> Any:
            async with each():
                return await work

        def plain(*args: Any, **kwargs: Any) -> Any:
            with each() as block:  # one for each call, since calls may overlap
                result = function(*args, **kwargs)
                if is_coroutine(result):  # it has done nothing yet: its own end is told
                    block.on_success = False
                    result = awaited(result)
                return result

        def generator(*args: Any, **kwargs: Any) -> Any:
            with each():
                return (yield from function(*args, **kwargs))

        async def coroutine(*args: Any, **kwargs: Any) -> Any:  # as others are to see that it is one
            return await plain(*args, **kwargs)

        wrapper: Any = plain
        if _inspect.iscoroutinefunction(function):
            wrapper = coroutine
        elif _inspect.isgeneratorfunction(function):
            wrapper = generator
        return functools.wraps(function)(wrapper)  # type: ignore[return-value]


def _duration(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{time.strftime('%M:%S', time.gmtime(seconds))}"


@_overload
def watch(name: _F) -> _F:
    """Return the function, watched: `@watch`."""


@_overload
def watch(name: str | None = None, *, on_success: bool = True, longer_than: _Time = 0,  # noqa: F811
          alerter: _Target = None) -> _Watch:
    """Return what decorates a function, `@watch("train")`, or a block, `with watch("nightly"):`."""


@_known_keywords
def watch(name: Any = None, *, on_success: bool = True, longer_than: _Time = 0,  # noqa: F811
          alerter: _Target = None) -> Any:
    """Tell how a piece of work ended, as `@watch`, `@watch("train")` or `with watch("nightly"):`.

    Failures are always told, with traceback; successes with on_success, from `longer_than` seconds on.
    Results, exceptions, generators and coroutines pass through untouched, and a failing alert never shows.
    """
    with contextlib.suppress(OSError):  # there may be no descriptor left to read them even now
        import logging  # noqa: F401  # what tells of a failure
        import socket  # noqa: F401
    least = _seconds(longer_than, "longer_than")
    if callable(name) or hasattr(name, "__get__"):  # a classmethod is not callable
        return _Watch(None, on_success, least, alerter)(name)
    return _Watch(name, on_success, least, alerter)


# === Logging ===
class _LogGroup:
    """Log records that repeat each other: the first one, and what is not told yet of all."""
    def __init__(self, record: _logging.LogRecord) -> None:
        text = _record_text(record)
        trace = said = _clean(record.exc_text or "")
        error: Any = record.exc_info or _mapping(record.msg).get("exc_info")  # the second: of structlog
        if error is True:
            error = sys.exc_info()
        if isinstance(error, tuple):
            error = error[1]
        if isinstance(error, BaseException):
            told = _Trace(error)
            trace, said = told.headed, told.said
        self.logger, self.level, self.level_name = record.name, record.levelno, record.levelname
        self.title = _one_line(text.split("\n")[0], 140)
        self.more = ""  # what to tell of the first besides its title
        if " ".join(text.split()) != self.title:
            self.more = text
        if "Traceback (most recent call last)" not in text or said.split("\n")[0] not in text:  # as Loguru's
            self.more = f"{self.more}\n{trace}".strip()
        shape = re.sub(r"0x[0-9a-f]+|\d+", "0", text)
        self.key = record.name, record.levelno, record.pathname, record.lineno, shape, type(error)
        self.text = f"{text}\n{said}".strip()
        self.texts = {self.text: 0}  # what is not told yet, each text once, and how many repeats say it
        self.due = 0.0  # when to tell it, on time.monotonic

    def take(self) -> _LogGroup:
        """Return it with what is to be told now, if anything; repeats wait from here on for later."""
        self.due = time.monotonic() + _FOLD  # first of all: what a signal's handler logs now takes nothing
        taken = _LogGroup.__new__(_LogGroup)  # copy.copy imports, and may be too late for that
        vars(taken).update(vars(self))
        taken.texts, self.texts, self.more = self.texts, {}, ""
        return taken

    def extract(self) -> str:
        lines = [f"{self.level_name} {self.logger}: {self.title}", self.more]
        repeats = sum(self.texts.values())
        if repeats == 1:
            lines.append("… 1 more time")
        elif repeats:
            lines.append(f"… {repeats:,} more times")
        lines += [text for text in self.texts if text != self.text]  # the title tells that one
        return "\n".join(filter(None, lines))


def _record_text(record: _logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as wrong:  # arguments that do not fit are the caller's mistake, and still an alert
        text = f"{_clean(record.msg)} {_clean(record.args)} ({_one_line(wrong)})"
    if record.stack_info:
        text += f"\n{record.stack_info}"
    return _clean(text).strip() or record.levelname


def _log_message(groups: Sequence[_LogGroup]) -> AlerterMessage:
    first = groups[0]
    title, facts = first.title, {"logger": first.logger, "level": first.level_name}
    news = "\n".join(map(_LogGroup.extract, groups))
    if len(groups) > 1:
        title, facts = f"{title} (and {len(groups) - 1:,} more)", {}
    else:
        _, _, news = news.partition("\n")  # the line above it says what title and facts say
    worst = max(group.level for group in groups)
    level: _Level = "info"
    if worst >= _logging.ERROR:
        level = "error"
    elif worst >= _logging.WARNING:
        level = "warning"
    facts["host"] = _socket.gethostname()
    body = None
    if news:
        body = _fenced(news)
    return AlerterMessage(title, body, facts, level=level)


class _AlertHandler(_Handler):
    """Logging handler that posts records from a thread of its own, so that logging never waits.

    The first record goes at once; what comes while a message is under way goes together as the next one.
    Repeats (logger, level, place, type of exception and text, numbers set aside, agree) are counted and told
    after a minute, with the texts that differ. What it or this module logs is never posted. `flush()` and the
    program's end post what is left, within 30 s; what cannot be goes to stderr, if no other handler wrote it.
    """
    def __init__(self, level: int | str = 40, alerter: _Target = None) -> None:
        import socket  # noqa: F401  # when something fails there may be no descriptor left to read it
        super().__init__(level)
        self.alerter = alerter
        self._begin()
        atexit.register(self.flush)  # logging forgets its handlers when it is configured anew
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)  # what waits is the parent's to tell

    def _begin(self) -> None:
        self._changed = _threading.Condition()  # held while the next three change
        self._groups: dict[Any, _LogGroup] = {}
        self._under_way: list[_LogGroup] = []
        self._worker = _threading.Thread()  # none yet
        self._speaker = 0  # the thread that writes to stderr just now

    def handle(self, record: _logging.LogRecord) -> bool:
        """Take a record, unless it is our own: that must not even wait for the lock of a flush."""
        if record.name != "alerters" and not str(record.threadName).startswith("alerters-"):
            return bool(super().handle(record))
        if record.levelno >= _logging.WARNING:
            group = _LogGroup(record)
            self._to_stderr(group, group.text)
        return False

    def emit(self, record: _logging.LogRecord) -> None:
        try:
            group = _LogGroup(record)
            with self._changed:
                known = self._groups.setdefault(group.key, group)
                if known is not group:
                    known.texts[group.text] = known.texts.get(group.text, 0) + 1
                if known.due < time.monotonic():  # else all the others are looked through for nothing
                    self._take_due()  # here, so that no other record gets into the first message
                self._start()
                self._changed.notify_all()
        except Exception as error:  # no thread starts, say; the program that logs must not notice
            self._give_up(_reason(error))

    def _start(self) -> None:
        """Have a worker, and all told when this process ends. RuntimeError where no thread can be had."""
        if sys.is_finalizing():  # none goes on, and before Python 3.12 `start` would wait for ever
            raise RuntimeError("Python ends")
        if self._worker.is_alive():
            return
        worker = self._worker = _threading.Thread(target=self._work, name="alerters-handler", daemon=True)
        worker.start()
        atexit.register(self.flush)  # again, for Airflow forgets what is to be done at the end of its tasks
        if "multiprocessing.util" in sys.modules:  # its child processes end without what atexit has
            sys.modules["multiprocessing.util"].Finalize(None, self.flush, exitpriority=0)
        if "celery.signals" in sys.modules:  # and so do its workers
            sys.modules["celery.signals"].worker_process_shutdown.connect(self.flush)

    def _work(self) -> None:
        """Tell what is under way, again and again; a flush that waits for it too long takes it away."""
        _WIRES.set(None)  # some Pythons give a thread the context of who starts it, with its connections
        groups: list[_LogGroup] = []
        while True:
            with self._changed:
                if self._worker is not _threading.current_thread():
                    return  # a signal came while this one started, and its handler logged
                if self._under_way is groups:  # it is told; else a flush took it away
                    self._under_way = []
                while not self._take_due():
                    self._changed.notify_all()  # a flush may wait for this
                    self._changed.wait(_FOLD / 10)  # repeats may be due then
                groups = self._under_way
            told = False
            with contextlib.suppress(BaseException), _telling():  # it survives whatever a flavor raises
                told = post(_log_message(groups), alerter=self.alerter)
            if not told and self._under_way is groups:  # else a flush has told of it
                self._not_told(groups, "see above")  # may wait for logging's lock, so it must hold no other

    def _take_due(self) -> list[_LogGroup]:
        """Return what is under way. If nothing was, that is what is new, and the repeats that have waited."""
        if not self._under_way:
            for group in list(self._groups.values()):
                if group.due > time.monotonic():
                    continue
                taken = group.take()
                if taken.texts:
                    self._under_way.append(taken)
                elif not group.texts:  # a signal's handler may log meanwhile
                    self._groups.pop(group.key, None)  # and then it may be gone
        return self._under_way

    def flush(self, **_: Any) -> None:  # Celery names what it is about
        """Wait until all is told, the counts of repeats too; after 30 s what is left goes to stderr."""
        with self._changed:
            for group in list(self._groups.values()):
                group.due = 0.0
            self._take_due()
            self._changed.notify_all()
            lock: Any = getattr(_logging, "_lock", None)
            if hasattr(lock, "_is_owned") and lock._is_owned():
                return  # logging is configured anew, and lets the worker log nothing before that is done
            told = self._changed.wait_for(lambda: not self._under_way, _SEND_BUDGET)
        if not told:
            self._give_up(f"it took more than {_SEND_BUDGET:g} s")

    def _give_up(self, why: str) -> None:
        with self._changed:
            under_way, self._under_way = self._under_way, []
            groups, self._groups = self._groups, {}
        self._not_told(under_way, why)
        self._not_told(map(_LogGroup.take, groups.values()), why)

    def _not_told(self, untold: Iterable[_LogGroup], why: str) -> None:
        for group in untold:
            if group.texts:
                self._to_stderr(group, f"alerters: not told ({why}): {group.extract()}")

    def _to_stderr(self, group: _LogGroup, text: str) -> None:
        """Write it to stderr, as logging does where there is no handler, if no other one writes it."""
        logger: Any = _logging.getLogger(group.logger)
        while logger:
            for handler in logger.handlers:
                if isinstance(handler, (_AlertHandler, _logging.NullHandler)):
                    continue
                if getattr(handler, "filters", ()) or hasattr(handler, "queue") or hasattr(handler, "target"):
                    continue  # it may have written nothing, or passed it on to us alone
                if group.level >= handler.level:
                    return
            logger = logger.propagate and logger.parent
        if self._speaker != _threading.get_ident():  # else stderr itself is logged
            self._speaker = _threading.get_ident()
            with contextlib.suppress(Exception):  # stderr may be closed, or anything that somebody put there
                _write_line(sys.stderr, _hide(text))  # secrets may be known only since it was tried
            self._speaker = 0


if TYPE_CHECKING:
    AlertHandler = _AlertHandler
else:  # not before the dataclasses are made: Python 3.15 looks for the type that an annotation names
    globals()["_typing"] = _Module("typing", "_typing")


def __getattr__(name: str) -> Any:
    """Make AlertHandler when it is first asked for: its base comes from logging, which is slow to import."""
    if name != "AlertHandler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    about = {"__doc__": _AlertHandler.__doc__, "__init__": _known_keywords(_AlertHandler.__init__, name)}
    return globals().setdefault(name, type(name, (_AlertHandler, _logging.Handler), about))


def __dir__() -> set[str]:
    return set(globals()).union(__all__)


# === run ===
_HOW_TO_RUN = "run: nothing was run: write the command behind --, as in: run --title Nightly -- make data"
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGUSR1", "SIGUSR2")
_STEP = 0.02  # s between two looks at whether the job has ended
_GROUP_TIME = 0.1  # s in which one who signals a whole group, process after process, has done so
_LAST_WORDS = 2.0  # s after a job's end in which what it printed is waited for, before it is told
_TAIL = 64 * 1024  # bytes kept of what it printed; far more than is shown, for colours and progress bars go
_SHOWN = 40  # lines of each of its streams
_FORKS = sys.platform != "win32"


def _cmd_run(options: Any) -> int:
    if options.words or not options.job:
        raise ConfigError(_HOW_TO_RUN)
    least = _seconds(options.longer_than, "--longer-than")
    targets: list[BaseAlerter] = []
    job = _Job(options.job)  # first of all: what is opened later may get the number of a closed stream
    try:
        targets = _chosen(options)
        for target in targets:
            target._learn_secrets()
    except Exception as error:  # the job matters more than its alert
        _complain(f"{error}; the command runs all the same")

    def tell() -> None:
        if job.code or job.got or job.seconds >= least:
            with _telling():
                _post_to(targets, job.message(options.title or _job_name(job.command)), None)
        for stream in job.copies:
            stream.settle(None)

    with _Signals() as signals:
        job.run(signals)
        telling = _in_thread("run", tell)
        while telling.is_alive() and not signals.came:  # one that comes ends us, wherever it hangs
            telling.join(_STEP)
    return job.code


def _job_name(command: list[str]) -> str:
    """Return the program, and the word after it if plain or a file's name: no other argument goes out."""
    name, word = os.path.basename(command[0]), "".join(command[1:2])  # or nothing
    if os.path.isfile(word):
        word = os.path.basename(word)
    elif not re.fullmatch(r"[a-z][a-z_:-]{0,19}", word):
        return name
    return f"{name} {word}"


class _Job:
    """A command that runs as if `run` were not there: with our streams, descriptors, group and terminal."""
    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.copies: list[_Copy] = []
        self.code = 0  # 128 + the signal that ended it, as shells have it
        self.problem = ""  # why it could not be run, or what it printed not be written
        self.got: list[str] = []  # the signals that ended it or asked it to end
        self.streams: list[list[int]] = []  # those that are no terminal; together if they are one file
        for number in (1, 2):
            with contextlib.suppress(OSError):  # it is closed, and so it is for the job
                os.fstat(number)
                if not os.isatty(number):
                    self.streams.append([number])
        if len(self.streams) == 2 and _FORKS and os.path.sameopenfile(1, 2):
            self.streams = [[1, 2]]

    def run(self, signals: _Signals) -> None:
        began = time.monotonic()
        try:
            self._wait(self._start(signals), signals)
        except (OSError, ValueError) as error:
            self.code = 126  # as shells have it
            if isinstance(error, FileNotFoundError):
                self.code = 127
            if not os.path.exists(self.command[0]):  # a variable, or all of it in quotes, with secrets
                self.command[0] = re.sub(r"(?s)(^\w+=|\s).*", r"\1…", self.command[0])
            self.problem = f"{self.command[0]}: {_reason(error)}"
        self.seconds = time.monotonic() - began
        for stream in self.copies:
            stream.settle(_LAST_WORDS)
            self.problem = self.problem or stream.problem
        if self.problem:
            self.code = self.code or 1  # the job could not be told of it
            _complain(self.problem)

    def _start(self, signals: _Signals) -> Any:
        for numbers in self.streams:
            with contextlib.suppress(OSError, RuntimeError):  # no more descriptors or threads: it prints
                self.copies.append(_Copy(numbers))
        ends = {number: stream.inlet for stream in self.copies for number in stream.numbers}
        start = functools.partial(_subprocess.Popen, close_fds=False, stdout=ends.get(1), stderr=ends.get(2))
        if _FORKS:
            start.keywords["preexec_fn"] = signals.catch_up
        try:
            return start(self.command)
        except OSError as error:
            script, first = _shutil.which(self.command[0]) or "", ""
            if script and not _FORKS:  # Windows itself looks for .exe alone, and npm is a .cmd
                return start([script] + self.command[1:])
            with contextlib.suppress(OSError), open(script, "rb") as file:
                first = file.readline(500).decode("utf-8", "replace")
            if first.startswith("#!") and isinstance(error, FileNotFoundError):
                interpreter = first[2:].strip(" \n")
                raise FileNotFoundError(f"its interpreter {interpreter!r} is missing") from None
            if error.errno != errno.ENOEXEC or "\0" in first:
                raise
            return start(["/bin/sh", script] + self.command[1:])  # as shells do: no first line says how
        finally:
            for stream in self.copies:
                os.close(stream.inlet)

    def _wait(self, child: _subprocess.Popen[bytes], signals: _Signals) -> None:
        """Pass on the signals that come for us alone, until it has ended."""
        code = None
        while code is None or signals.came:
            for number in signals.news():
                name = _signal.Signals(number).name
                if not name.startswith("SIGUSR"):
                    self.got.append(name)
                if _FORKS and number not in signals.heard:  # a console of Windows tells the job
                    with contextlib.suppress(PermissionError):  # it belongs to another, as by sudo
                        child.send_signal(number)
            code = child.poll()
            if code is None:
                time.sleep(_STEP)
            elif code:  # it failed, and the signal that ended it may be on its way to us
                time.sleep(_GROUP_TIME)
        if code < 0:
            with contextlib.suppress(ValueError):  # not all of those for real time have a name
                self.got.insert(0, _signal.Signals(-code).name)
            code = 128 - code
        self.code = code

    def message(self, name: str) -> AlerterMessage:
        """Return what to tell: the end of standard error; if it failed and that is short, of output too."""
        facts: _Dict = {"exit code": self.code}
        how = "succeeded"
        if self.got:
            facts["signal"] = ", ".join(dict.fromkeys(self.got))
            how = f"ended after {self.got[0]}"
        if self.code:
            how = "failed"
        facts.update(duration=_duration(self.seconds), host=_socket.gethostname())
        ends = {stream.number: stream.end() for stream in self.copies}
        errors = ends.get(2, [])
        if self.problem:
            errors.append(_hide(self.problem))
        parts = [errors]
        if how != "succeeded" and len(errors) < _SHOWN:
            parts.append(ends.get(1, []))
        texts = [_fenced("\n".join(part)) for part in parts if part]
        body = "\n\nStandard output:\n".join(texts) or None
        return AlerterMessage(f"{name} {how}", body, facts, level=_ENDS.get(how, "error"))


class _Copy:
    """Copies a stream of a job to our own, in a thread, and keeps its end."""
    def __init__(self, numbers: list[int]) -> None:
        self.numbers, self.number = numbers, numbers[-1]  # both, where output and errors go to one place
        self.tail, self.problem = b"", ""
        self.outlet, self.inlet = os.pipe()  # the job writes into the inlet
        self.job_ended = False
        self.thread = _threading.Thread(target=self._copy, name="alerters-copy", daemon=True)
        self.thread.start()

    def settle(self, seconds: float | None) -> None:
        """Wait so long (None: as long as it takes) until all is copied that the job itself has printed."""
        self.job_ended = True
        if not _FORKS:  # it copies to the end, and what the job has left may print for ever
            seconds = _LAST_WORDS
        self.thread.join(seconds)

    def _copy(self) -> None:
        if not _FORKS:
            return self._copy_to_the_end()
        poll: Any = _select.poll()  # type: ignore[attr-defined, unused-ignore]
        poll.register(self.outlet, 1)  # POLLIN
        kind = _stat.S_IFMT(os.fstat(self.number).st_mode)
        if kind in (_stat.S_IFIFO, _stat.S_IFSOCK):
            poll.register(self.number, 0)  # where nobody reads any more, the job is to hear of it at once
        going_on, last_look = True, False
        while going_on and not last_look:
            last_look = self.job_ended  # before the look, which so finds all that it has printed
            ready = dict(poll.poll(_STEP * 1000))
            if self.outlet in ready:
                going_on = self._copy_piece()
            elif ready:
                going_on = False
        if going_on:  # what the job has left may print on
            with contextlib.suppress(OSError):  # no more processes
                _fork(self._copy_to_the_end, self.outlet, self.number)
        os.close(self.outlet)  # a job that writes more hears of it

    def _copy_to_the_end(self) -> None:
        while self._copy_piece():
            pass
        os.close(self.outlet)

    def _copy_piece(self) -> bool:
        """Copy what is there now; return whether to go on."""
        piece = left = os.read(self.outlet, 65536)  # all that a pipe holds
        self.tail = (self.tail + piece)[-_TAIL:]
        while left:
            try:
                left = left[os.write(self.number, left):]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError as error:  # on a full disk the job goes on, as most do without us and all with tee
                if not isinstance(error, BrokenPipeError):
                    self.problem = f"what it printed could not be written: {_reason(error)}"
                return error.errno in (errno.ENOSPC, errno.EDQUOT)
        return bool(piece)

    def end(self) -> list[str]:
        tail = self.tail
        if len(tail) == _TAIL:  # it may begin within a secret, of which no rest may be shown; none is so long
            tail = tail[4096:]
        text = tail.decode("utf-8", "replace")
        if "\ufffd" in text[3:]:  # not of a letter that was cut: many programs of Windows write no UTF-8
            local = getattr(_locale, "getencoding", functools.partial(_locale.getpreferredencoding, False))
            text = tail.decode(local(), "replace")  # by Python 3.15 the other one is always UTF-8
        text = re.sub(_TERMINAL, "", text)
        text = re.sub(r"(?m)^[^\n]*\r(?=[^\r\n])", "", text).replace("\r", "")  # progress bars as they ended
        return _hide(text).rstrip().splitlines()[-_SHOWN:]


class _Signals:
    """The signals that come while `run` waits.

    A terminal, systemd and `kill -- -GROUP` signal the job as they do us; `kill PID` us alone, and only then
    is it passed on. No signal says which it was, so a second process of our group, the witness, hears them
    too: what it has not heard, the job has not got.
    """
    def __enter__(self) -> _Signals:
        self.came: list[int] = []
        self._handlers: dict[int, Any] = {}
        self._witness, self._witness_id = None, 0  # type: Any, int
        if _threading.current_thread() is _threading.main_thread():  # Python handles signals there only
            for number in _signal.Signals:  # what is ignored stays so, for the job as well
                if number.name in _PASSED_ON and _signal.getsignal(number) not in (_signal.SIG_IGN, None):
                    self._handlers[number] = _signal.signal(number, lambda came, _: self.came.append(came))
            if sys.platform != "win32":  # if it were ignored, nobody would hear of an exit code
                self._handlers[_signal.SIGCHLD] = _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
                with contextlib.suppress(OSError):  # no more descriptors or processes: each is passed on
                    self._witness, line = _socket.socketpair()
                    self._witness.settimeout(1)
                    with line:
                        self._witness_id = _fork(functools.partial(self._bear_witness, line), line.fileno())
        self._ask_witness()  # once it answers it hears; what came before, it forgets: no job has got it
        return self

    def __exit__(self, *_: object) -> None:
        if self._witness_id:
            with contextlib.suppress(OSError):  # somebody else has reaped it
                os.kill(self._witness_id, 9)  # it may be stopped
                os.waitpid(self._witness_id, 0)  # the first process of a container may never do that
            self._witness.close()
        for number, handler in self._handlers.items():
            _signal.signal(number, handler)

    def _bear_witness(self, line: _socket.socket) -> None:
        while line.recv(1):
            heard, self.came = self.came, []
            line.send(bytes(heard) + b"\0")

    def _ask_witness(self) -> None:
        """Learn what the whole group, and so the job, got since the last time."""
        self.heard = b""
        if self._witness:
            try:
                self._witness.send(b"?")
                self.heard = self._witness.recv(4096)
            except OSError:  # it was stopped or killed; late, its answer would be taken for the next one
                self._witness.close()

    def catch_up(self) -> None:
        """In the job's process, which is not yet the job: end by what the group got before it was there."""
        for number in self._handlers:
            _signal.signal(number, _signal.SIG_DFL)
        self._ask_witness()
        for number in self.heard:
            _signal.raise_signal(number)

    def news(self) -> bytes:
        """Return the signals that came since the last time; `heard` tells which of them the job has, too."""
        if not self.came:
            return b""
        time.sleep(_GROUP_TIME)
        self._ask_witness()
        came, self.came = self.came, []
        return bytes(came)


def _fork(work: Callable[[], object], *kept: int) -> int:
    """Do it in a process of its own, which has no other descriptors than `kept`; return its id."""
    with _warnings.catch_warnings():
        _warnings.simplefilter("ignore", DeprecationWarning)  # other threads' locks do not concern it
        child = sys.platform == "win32" or os.fork()
    if child:
        return child
    try:
        start = 0
        for number in sorted(kept) + [1024]:  # more than any shell or make opens
            os.closerange(start, number)
            start = number + 1
        work()
    finally:
        os._exit(0)


# === Secrets ===
_MASK = "***"
_KNOWN_SECRETS: set[str] = set()  # every secret this process has seen, for `_hide`
_REFERENCE = r"\{\{\s*(env|file)\.(.+?)\s*\}\}"


class _Secret(str):
    """A str whose repr is masked, so that no repr, dict or traceback with locals shows it."""
    def __new__(cls, value: str) -> _Secret:  # also when it is unpickled
        _remember_secret(value)
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return repr(_MASK)

    def __getitem__(self, index: Any) -> _Secret:  # tools cut a long text before they take its repr
        return str.__new__(_Secret, super().__getitem__(index))


class _Hidden(dict):  # type: ignore[type-arg]
    """A dict with secrets in it, which no repr and no traceback with locals shows."""
    def __repr__(self) -> str:
        return "{…}"

    __sentry_repr__ = __repr__  # Sentry looks into a dict, unless it has this


def _secrets_of(cls: type[BaseAlerter]) -> list[str]:
    names = []
    for name, field in _fields_of(cls).items():
        if _is_secret(field):
            names.append(name)
    return names


def _secret_or_reference(value: str) -> str:
    if re.fullmatch(_REFERENCE, value):
        return value
    return _Secret(value)


def _remember_secret(value: str) -> None:
    parts = [value]
    if re.match("https?://", value):
        # Of a webhook the path alone is enough to post, and so may be a part of it, or a signature.
        path = re.sub(r"^\w+://[^/?#]*|[?#].*", "", value).rstrip("/")
        if len(path) > 5:
            parts = [path]
        parts += re.findall("[^/]{16,}|[^/]+$", path)  # the long parts, and the last
        parts += re.findall(r"=(?!\d+(?:[&#]|$))([^&#]{8,})", value)  # but no number, as the id of a thread
    for part in parts:
        if len(part) >= 6:  # shorter ones are ordinary words, too
            _KNOWN_SECRETS.update([part, _json.dumps(part, ensure_ascii=False)[1:-1]])  # bare, and in JSON


def _hide(text: str) -> str:
    """Return `text` with every known secret masked, the longest first, and every password in an address."""
    for secret in sorted(_KNOWN_SECRETS, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return re.sub(r'(://[^\s/:"]*:)(?!PASSWORD@)[^\s/"]+(?=@)', _starred, text)  # no hint's


def _starred(found: re.Match[str]) -> str:  # a template takes an import, and so nothing while Python ends
    return f"{found[1]}*****"  # three are a mark


def _masked(part: _Dict) -> _Dict:
    for name, text in part.items():
        if isinstance(text, str) and _hide(text) != text:  # else an enum of texts keeps its own str()
            part[name] = _hide(text)
    return part


class _SecretAway(ConfigError):
    """A file with a secret cannot be read now: it may be there in a moment, when it is just replaced."""


def _reveal(value: str, what: str) -> str:
    reference = re.fullmatch(_REFERENCE, value)
    if not reference:
        return value
    source, name = reference.groups()
    raised, problem = ConfigError, "holds no usable secret: nothing, or several lines"
    if source == "file":
        raised, found = _SecretAway, ""
        try:
            found = _pathlib.Path(name).read_text("utf-8-sig")  # Windows' editors put a BOM
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {_reason(error)}"
    else:
        found = os.environ.get(name, "")
        if name not in os.environ:
            problem = "is not set"
    found = found.strip()
    if re.fullmatch(r"[^\x00-\x1f\x7f]+", found):
        return _Secret(found)
    found = ""  # in no traceback that shows locals
    raise raised(f"{what}: {source} {name} {problem}")


# === Text ===
# Control and bidi characters made visible or plain, none lost.
_HARMLESS = {**{c: chr(0x2400 + c) for c in range(32) if c not in (9, 10)}, 0x7F: "\u2421",
             **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")}
# What terminals take for orders (ECMA-48): colours and cursor; links and titles; and the short ones.
_TERMINAL = ("(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\\\)"
             "|\x1b[ -/][0-~]|\x1b[78=>DEHMNOZc\\\\]")
_IN_URL = r"[^\s<>\"'`|\\^{}\[\]()]"
_HREF = fr"https?://{_IN_URL}+(?:\({_IN_URL}*\){_IN_URL}*)*"  # with brackets if they are closed
_URL = _HREF + "(?<![.,;:!?*_~])"  # in running text, where these follow it
_URLS = fr"(?P<link>{_URL}(?<!\))(?=[.,;:)'\"]*(?:\s|\Z)))|(?P<url>{_URL})"  # url: with more behind
_INLINE = (r"(?=[`*_~[h])(?:(?<![`\\])`(?P<code>[^`]{1,500})`(?!`)"  # few letters begin one; 500 for speed
           r"|(?<![0-9A-Za-z_\\@`*)\]])(?P<stars>\*\*\*?)(?=\S)(?!/(?:\S{0,99}/)?\*)"  # not src/**/test/**
           r"(?P<bold>(?:(?!\*\*).){1,500})(?<=\S)(?P=stars)(?![0-9A-Za-z_`*])"  # headings drop the stars
           r"|(?<![\w\\.)\]}])(?P<slant>(?<!\*)\*|_)(?=[\"']?[\w(\[`]|[^\0-\xa0])"  # not count(*), ^.*x.*$
           r"(?P<italic>(?:(?!(?P=slant)).){1,500})(?<=\S)(?P=slant)(?!\w|(?P=slant))"
           r"|(?<![\w~\\])~~(?=[^\s~])(?P<strike>(?:(?!~~).){1,500})(?<=[^\s~])~~(?![\w~])"
           r"|(?<!\\)\[(?P<label>[^][]{1,500})\]\((?P<href>" + _HREF + r")\)|" + _URLS + ")")
_TOUCHING = r"[*_~`][0-9A-Za-z\x80-\U0010ffff]|[0-9A-Za-z\x80-\U0010ffff][*_~`]"  # a mark and a letter
_ADDRESS_LIKE = r"://|\w@\w|[\w-][.。][^\W\d_]{2}|(\d+\.){3}\d"
_INVISIBLE = "[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]"


def _clean(text: object) -> str:
    """Return str(text) without escape sequences, controls, lone surrogates and secrets; lines end in \\n."""
    try:
        clean = str(text).replace("\r\n", "\n").replace("\r", "\n")
    except Exception as error:  # a value that cannot be shown must not cost the alert
        clean = f"<{type(text).__name__}: {type(error).__name__}>"
    if not clean.isprintable():  # else it holds nothing of that, as most short texts
        clean = re.sub(_TERMINAL, "", clean)
        clean = clean.encode("utf-16", "surrogatepass").decode("utf-16", "replace").translate(_HARMLESS)
    return _hide(clean)


def _one_line(text: object, limit: int = 500) -> str:
    line = " ".join(_clean(text).split())
    if len(line) > limit:
        line = line[:limit - 1] + "…"
    return line


def _spans(line: str, pattern: str = _INLINE) -> Iterator[tuple[str, str, str]]:
    """Yield (style, text, url) of one line: text, bold, italic, strike, code; with a url, link (the text of
    a bare address is itself) or url (an address with more right behind it)."""
    end = 0
    for found in re.finditer(pattern, line):
        style = str(found.lastgroup)
        text = url = found[style]
        start, after = found.span()
        if style == "href":
            style, text = "link", _bare(found["label"])
            seen = re.sub(_INVISIBLE, "", _unicodedata.normalize("NFKC", text))
            if text != url and re.search(_ADDRESS_LIKE, seen):  # it may lead elsewhere: both are shown
                style, text = "url", url
                start, after = found.span("href")
        yield "text", line[end:start], ""
        yield style, text, url
        end = after
    yield "text", line[end:], ""


def _bare(line: str) -> str:
    """Return one line of light Markdown without its marks, unless it is nothing else; what they say stays."""
    return _in_markup(_spans(line), _bare_words, _TEXT_FORMS).strip() or line


def _bare_words(style: str, text: str, url: str) -> str:
    if url.startswith("http") and url != text:
        return f"{text} ({url})"
    return text


def _in_markup(spans: Iterable[tuple[str, str, str]], mark: _Mark, forms: Mapping[str, str]) -> str:
    """Return spans in some markup. In what is bold, italic or struck may stand others, but not itself."""
    words = ""
    for style, text, url in spans:
        if style in forms:
            part = forms[style].format(words=_in_markup(_spans(text), mark, {**forms, style: "{words}"}))
        else:
            part = mark(style, text, url)
        if re.fullmatch(_TOUCHING, words[-1:] + part[:1]):
            words += forms.get("gap", "")
        words += part
    return words


def _unfenced(text: str) -> str:
    return re.sub("`(?=``)", "`\u200b", text)  # a fence in it would end a block of code


def _fenced(text: str) -> str:
    return f"```\n{_unfenced(text.rstrip())}\n```"


def _defuse(text: str) -> str:
    """Return text in which @here and its like name nobody, even where a service reads them as words."""
    return re.sub(r"(?i)@(?=here|channel|everyone|all\b)", "@\u200b", text)


# === Layout ===
_PATTERNS = dict.fromkeys(("plain", "facts", "code"), _URLS)  # no marks, but addresses
_GROUPS = dict.fromkeys(("text", "plain", "heading", "item", "quote", "code"), "text")  # one running text
_COLUMN_WIDTH, _HEAD_WIDTH = 40, 150  # of a table: at most made even, and repeated on each page
_FENCE = r"(?:(?:`{4,5}|~~~)(?=[\w+#.-]*[ \t]*$)|```)"  # some close it right behind the last line
_BAR = fr"(?![ \t]*{_FENCE})(?=[^|\n]*\|)"  # where a line of a table begins
_DASHES = r"[^\S\n]*:?-+:?[^\S\n]*"  # below the head of a column, of 50: of more, short rows fill all memory
_RULE = fr"(?:[^\S\n]*\|)?{_DASHES}(?:\|{_DASHES}){{0,49}}(?:\|[^\S\n]*)?"
_MARKDOWN = (  # a block to its end, or one line. No list: a rule of dashes or stars, and a diff's lines.
    r"(?m)(?P<plain>\A[`~ \t\n]*)\n\Z"  # a lone fence, say, is shown as it is
    fr"|[ \t]*(?P<fence>{_FENCE})(?: ?(?P<language>[\w+#.-]{{0,20}})[ \t]*\n"
    r"(?!\s*(?:(?P=fence)[ \t]*$|\Z)))?(?P<code>(?s:.*?))(?:(?P=fence)[ \t]*$\n?|\Z)"
    fr"|(?P<table>{_BAR}.*\n{_BAR}{_RULE}\n{_BAR}(?s:.*?)\n(?!{_BAR}))"
    r"| {0,3}(?P<hashes>#{1,3}) +(?P<heading>\S.*)\n|>(?: |$)(?P<quote>.*)\n"
    r"|(?![ \t*-]*$)(?P<indent>[ \t]{0,20})(?:[-*]|(?P<number>\d{1,3}\.)) {1,3}(?P<item>\S.*)\n"
    r"|(?P<text>.*)\n")
_NUMBER = r"([-+−]?[\d.,_]*\d([eE][-+]?\d+)?[ \xa0]?%?|[-+]?(nan|NaN|inf))?"
_RIGHT = fr"-+(:|(\n{_NUMBER})*\Z)"  # a column's rule and cells, if it stands right
_TEXT_FORMS = {"item": "{indent}{indent}{label} {words}", "quote": "> {words}", "picture": "[{words}]",
               "bold": "{words}", "italic": "{words}", "strike": "~~{words}~~"}


class _Block:
    """One piece of a laid-out message: of one kind, with its lines.

    ping: ids of those to call. title. text: light Markdown. plain: not Markdown. heading: of `level` 1 to 3.
    item: of a list, `level` deep, its `label` "3." or none. quote. code: its `label` the language, its `head`
    lines to repeat on each page. table: lines and `head` are lists of cells, `sides` < or > for each column.
    facts: lines are (name, value). picture: `file`. how: how to answer.
    note: level and mark, in small letters. A line of `how` may be a list of spans.
    """
    def __init__(self, kind: str, lines: Iterable[Any], *, label: str = "", level: int = 0,
                 head: Sequence[Any] = (), sides: str = "", file: Any = None) -> None:
        self.kind, self.lines, self.label, self.level = kind, list(lines), label, level
        self.head, self.sides, self.file = head, sides, file
        self.source: Any = None  # of a block in a service's markup: the same as it was written
        self.group = _GROUPS.get(kind, kind)

    def with_lines(self, lines: Iterable[Any]) -> _Block:
        return _Block(self.kind, lines, label=self.label, level=self.level, head=self.head, sides=self.sides,
                      file=self.file)


def _grouped(blocks: Iterable[_Block]) -> Iterator[tuple[str, list[_Block]]]:
    """Yield neighbours of one kind together; all kinds in `_GROUPS` are the one kind "text" here."""
    for group, found in itertools.groupby(blocks, operator.attrgetter("group")):
        yield group, list(found)


def _lay_out(message: AlerterMessage, files: Sequence[_File]) -> list[_Block]:
    text = re.sub(r"\A\s*\n", "", _clean(message.body or "").rstrip())
    title, blocks, notes = message._title_line(), [], []
    if title:
        blocks.append(_Block("title", [title]))
    blocks += _body(text)
    if message.metadata:
        blocks.append(_facts_of(message))
    for number, file in enumerate(files):
        if file.problem:
            blocks.append(_Block("plain", [f"[{file.label}]"]))
        else:
            blocks.append(_Block("picture", [file.url or file.name], file=file, label=f"image{number}"))
    if message.level != "info":
        notes.append(f"{_LEVELS[message.level][0]} {message.level}")
    if message._question:
        blocks.append(_how_to_answer(message._question))
        notes.append(f"Question {message._question.token}")
    if notes:
        blocks.append(_Block("note", notes))
    return blocks


def _facts_of(message: AlerterMessage) -> _Block:
    facts = _Block("facts", [])
    for name, value in message.metadata.items():
        facts.lines.append((_clean(name).strip(), _clean(value).strip()))
    return facts


def _how_to_answer(question: Question) -> _Block:
    """Return the lines that say how to answer; the last one, until when and who, is a list of spans."""
    moment = time.strftime(_UTC, time.gmtime(question.deadline))
    closing = [("text", "Open until ", ""), ("time", moment, str(int(question.deadline)))]
    people = question._record.approvers or ()
    between = " for "
    for person in people[:_CALLED]:
        name = person.strip(question.alerter._around_ids)
        closing += [("text", between, ""), ("person", _one_line(name, 100), "")]
        between = ", "
    if len(people) > _CALLED:
        closing.append(("text", f" and {len(people) - _CALLED} more", ""))
    closing.append(("text", ".", ""))
    return _Block("how", [*question._instructions(), closing])


def _body(text: str) -> list[_Block]:
    """Return light Markdown as blocks."""
    blocks: list[_Block] = []
    columns: list[int] = []  # in which the items begin that hold the last one, and it itself
    for found in re.finditer(_MARKDOWN, text + "\n"):
        kind = str(found.lastgroup)
        words = found[kind]
        block = _Block(kind, [words])
        if kind == "table":
            block = _table(words)
        elif kind == "code":
            block = _Block(kind, words.rstrip().split("\n"), label=found["language"] or "")
        elif kind == "heading":
            block.level = len(found["hashes"])
        elif kind == "item":
            column = len(found["indent"].expandtabs(4))
            columns = [outer for outer in columns if outer < column] + [column]
            block.level, block.label = len(columns) - 1, found["number"] or ""
        if blocks and block.kind == blocks[-1].kind and block.kind in ("text", "quote"):
            blocks[-1].lines += block.lines
        elif kind != "code" or words.strip():  # an empty one is no block for Discord
            blocks.append(block)
    return blocks


def _table(text: str) -> _Block:
    """Return a pipe table, or text that is none. A bar that nothing escapes is left to the last cell."""
    lines = text.rstrip("\n").split("\n")
    head, rules = map(_cells, lines[:2])
    if len(rules) != len(head):
        return _Block("text", lines)
    table, last = _Block("table", [], head=head), len(head) - 1
    for cells in map(_cells, lines[2:]):
        cells += [""] * (len(head) - len(cells))
        rest = " | ".join(filter(None, cells[last:]))  # such as int | None
        table.lines.append(cells[:last] + [rest])
    for column in zip(rules, *table.lines):
        if re.match(_RIGHT, "\n".join(column)):
            table.sides += ">"
        else:
            table.sides += "<"
    return table


def _cells(line: str) -> list[str]:
    inside = re.sub(r"^\||(?<!\\)\|$", "", line.strip())
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inside)]


def _width(text: str) -> int:
    """Return how many columns of a fixed-width font a text takes."""
    width = 0
    for char in text:
        if _unicodedata.east_asian_width(char) in "WF":
            width += 2
        elif not _unicodedata.combining(char):
            width += 1
    return width


def _aligned(block: _Block) -> _Block:
    """Return a table as a block of code in which its columns stand below each other; else the block."""
    if block.kind != "table":
        return block
    columns, lines = [], []
    for side, *column in zip(block.sides, block.head, *block.lines):
        cells = list(map(_bare, column))
        width = min(max(map(_width, cells)), _COLUMN_WIDTH)
        cells.insert(1, "-" * width)
        for at, cell in enumerate(cells):
            room = max(width - _width(cell), 0) + len(cell)
            cells[at] = f"{cell:{side}{room}}"
        columns.append(cells)
    for row in zip(*columns):
        lines.append("  ".join(row).rstrip())
    if len(lines[0]) > _HEAD_WIDTH:
        return _Block("code", lines)
    return _Block("code", lines[2:], head=lines[:2])


def _as_lines(facts: _Block) -> _Block:
    text = "\n".join(map(": ".join, facts.lines))
    return _Block("plain", text.split("\n"))


def _as_text(blocks: Sequence[_Block], gap: str = "\n\n") -> str:
    parts = []
    for group, found in _grouped(map(_aligned, blocks)):
        lines: list[str] = []
        for block in found:
            if group == "facts":
                block = _as_lines(block)
            lines += block.head
            for line in block.lines:
                lines.append(_marked(block, line, _bare_words, _TEXT_FORMS))
        if group != "note":
            parts.append("\n".join(lines).strip("\n"))
    return gap.join(filter(str.strip, parts))


def _marked(block: _Block, line: Any, mark: _Mark, forms: Mapping[str, str], bullet: str = "-") -> str:
    """Return a line of a block, or its spans, in some markup; mark and forms are as in `_ChatAlerter`."""
    if isinstance(line, str):
        line = _spans(line, _PATTERNS.get(block.kind, _INLINE))
    if block.kind == "heading":  # it is bold already
        forms = {**forms, "bold": "{words}"}
    words = _in_markup(line, mark, forms)
    form = forms.get(block.kind, "{words}")
    return form.format(words=words, hashes="#" * block.level, indent="  " * block.level,  # Discord's
                       label=block.label or bullet)


def _whole_text(message: AlerterMessage) -> str:
    """Return all words of a message as they were written: what goes into a file."""
    facts = _as_lines(_facts_of(message)).lines
    parts = [message._title_line(), _clean(message.body or "").rstrip(), *facts]
    return "\n".join(filter(str.strip, parts))


# === Splitting ===
class _Page:
    """One message of a chat service: blocks with their lines in the service's markup."""
    def __init__(self, room: int) -> None:
        self.room = room  # what is left of the service's limit
        self.blocks: list[_Block] = []  # the `source` of each has its lines as they were written
        self.files: list[_File] = []  # to attach
        self.doubtful = False  # it may have arrived, with its files
        self.nonce = os.urandom(8).hex()  # by which a repeat of it is known
        self.is_first = False  # whether it is the one with title and facts
        self.last: _Block | None = None

    def add(self, block: _Block, line: Any, written: Any, cost: int) -> None:
        if self.last is not block:
            self.last, part = block, block.with_lines([])
            part.source = block.with_lines([])
            self.blocks.append(part)
        part = self.blocks[-1]
        part.lines.append(written)
        part.source.lines.append(line)
        self.room -= cost

    def says_something(self) -> bool:
        """False for blank lines alone, which services refuse."""
        for block in self.blocks:
            if "".join(map(str, block.lines)).strip():
                return True
        return False


def _fit(service: _ChatAlerter, block: _Block, line: Any, room: int) -> tuple[Any, Any, int]:
    """Return a start of a line that has room, in markup too, and its size."""
    if not isinstance(line, str):  # a fact, say, which cannot be cut
        written = service._markup(block, line)
        return line, written, service._cost(written)
    count = max(room, 1)  # with none the cutting would never end
    while True:
        head = line[:count]
        if head != line:  # no word and no address is cut, unless it is long
            head = re.sub(r"(?<=\s)\S{1,500}\Z", "", head)
        written = service._markup(block, head)
        taken = service._cost(written)
        if taken <= room or count == 1:
            return head, written, taken
        count = max(len(head) * room // taken, 1)


def _paged(service: _ChatAlerter, blocks: Iterable[_Block], limit: int, first: int,
           most: int = _MOST_PARTS) -> list[_Page]:
    """Return blocks on pages, the first of another limit: one page at least, `most` and one more at most."""
    # They are cut between lines; only a line that is too long for a page is cut itself.
    left = [(block, line) for block in blocks for line in block.lines]
    left.reverse()  # the next one stands last
    pages: list[_Page] = []
    page = _Page(first)
    while left and len(pages) <= most:
        block, line = left.pop()
        fences = 0
        if page.last is not block and block.kind == "code":  # with the head of a table
            fences = 8 + len(block.label) + sum(map(service._cost, block.head))
        head, written, cost = _fit(service, block, line, page.room - fences)
        cost += fences
        settled = head == line or len(line) > service._limit  # what no page could hold is cut anywhere
        if not page.blocks or (cost <= page.room and settled):
            page.add(block, head, written, cost)
            line = line[len(head):]
            if not line:
                continue
        left.append((block, line))
        if page.says_something():
            pages.append(page)
        page = _Page(limit)
    if page.says_something() or not pages:
        pages.append(page)
    return pages


# === Images and files ===
_IMAGE = rb"(?P<png>\x89PNG)|(?P<jpeg>\xff\xd8\xff)|(?P<gif>GIF8)|(?P<webp>RIFF.{4}WEBP)"
_FILE_MAX, _TOO_LARGE = 100_000_000, "it is larger than 100 MB"


class _File:
    """A picture to show, or a file to attach. A URL or a `problem` has no `data`."""
    def __init__(self, name: str, data: bytes = b"", *, url: str = "", problem: str = "",
                 shown: bool = True) -> None:
        self.name, self.data, self.url, self.problem = name, data, url, problem
        self.sent_as = name  # where a service takes not all letters
        found = re.match(_IMAGE, data, re.S)
        self.image = shown and bool(found)
        self.type, self.ending = "application/octet-stream", ".bin"
        if found:
            self.type, self.ending = f"image/{found.lastgroup}", f".{found.lastgroup}"
        elif data:  # else not asked for: the system's list of types is read for it
            kind, packed = _mimetypes.guess_type(name)
            if kind and not packed and not kind.startswith(("message/", "multipart/")):  # not in base64
                self.type = kind
            if self.type.startswith("text/"):
                self.type += "; charset=utf-8"

    @property
    def label(self) -> str:
        if not self.problem:
            return self.name
        return _clean(f"{self.url or self.name} could not be shown: {self.problem}")


def _load_file(item: Any, usual: str, shown: bool) -> _File:
    """Return an item of `images` (shown) or `files`, by its usual name if it has none. Never raises."""
    if isinstance(item, str) and re.match(r"(?i)(?!file:)[a-z][\w+.-]+://", item):
        if shown and re.fullmatch("(?i)https?://(?![^/]*@)[!-~]{1,2040}", item):  # Discord's limit
            return _File(usual, url=item)
        address = re.sub("(?s)(?<=://).*@|[?#].*", "", item)  # a password or a signature is told nobody
        return _File(usual, url=_one_line(address), problem="it is no file, and no address of a picture")
    name = ""
    try:
        given, source = "", item
        if isinstance(item, tuple):
            given, source = item
        elif isinstance(item, (str, os.PathLike)):
            path = os.fsdecode(item)
            if re.match("(?i)file://", path):
                path = _urllib_parse.unquote(re.sub(r"^.{7}[^/]*(/+(?=\w:))?", "", path))
            source = _pathlib.Path(path).expanduser()
            given = source.name
        elif hasattr(item, "read"):  # an open file; the `name` of a chart is no file's
            given = getattr(item, "name", "")
        if isinstance(given, (str, os.PathLike)):  # an open file may have a number
            last = re.sub(r".*[/\\]", "", _one_line(os.fsdecode(given), 10_000))[-100:]
            name = last.replace('"', "_").replace("=?", "=_")  # older Pythons decode "=?" into new headers
        data = _bytes_of(source)
        if not data:
            raise ValueError("it is empty")
        if len(data) > _FILE_MAX:
            raise ValueError(_TOO_LARGE)
    except Exception as error:  # whatever a plotting library raises must not cost the alert its text
        return _File(name or usual, problem=_one_line(_reason(error), 200))
    file = _File(name or usual, data, shown=shown)
    if not name:
        file.name += file.ending
    return file


def _bytes_of(source: Any) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, _pathlib.Path):
        _check_regular(source)  # before it is opened, for a FIFO would wait for its writer
        return source.read_bytes()
    if hasattr(source, "read"):
        with contextlib.suppress(AttributeError, OSError):  # one in memory has no number
            _check_regular(source.fileno())
        readable = getattr(source, "readable", None)
        if readable and not readable():
            raise ValueError("it is not open for reading")
        with contextlib.suppress(AttributeError, OSError):  # one that is unpacked, say, is read from here on
            source.seek(0)
        data = getattr(source, "buffer", source).read()
        if isinstance(data, str):
            data = data.encode("utf-8", "replace")
        return bytes(data)
    mode = str(getattr(source, "mode", "RGB"))  # of PIL, which has some that PNG lacks
    if mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA") and hasattr(source, "convert"):
        source = source.convert({"I": "I;16"}.get(mode, "RGBA"))  # I: greys beyond 255
    save = getattr(source, "savefig", None) or getattr(source, "save", None)
    if not save:
        raise TypeError(f"{type(source).__name__} is no URL, path, bytes, open file, figure or image")
    held = io.BytesIO()
    save(held, format="png")
    return held.getvalue()


def _check_regular(place: Any) -> None:
    status = os.stat(place)
    if not _stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > _FILE_MAX:
        raise ValueError(_TOO_LARGE)


# === HTTP and TLS ===
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_TRUST_VARIABLES = (*_CA_VARIABLES, "SSL_CERT_DIR")
_AGENT = f"DiscordBot (https://pypi.org/project/alerters, {__version__}) alerters"  # as Discord wants it
_PIECE = 16 * 1024  # bytes that are written at once: one TLS record
_SLOW_LINK = 32 * 1024  # bytes a second
# By _TRUST_VARIABLES. Kept is what has worked: a process with too many files open reads no CAs.
_TRUSTS: dict[tuple[str | None, ...], _Trust] = {}
_WIRES: contextvars.ContextVar[dict[object, _Wire] | None] = contextvars.ContextVar("_WIRES", default=None)
_ANOTHER = "something else than the service seems to answer there: check the address and the port"
_NETWORK_HINTS = (  # by the name of an exception, or of its errno
    ("gaierror|UnicodeError", "check the host's name and DNS; a chat may need a proxy (HTTPS_PROXY)"),
    ("[tT]imeout", "it is slow, or a firewall drops it: check host and port; a chat may need a proxy"),
    ("ConnectionRefused", "nothing listens there: check host and port"),
    ("ConnectionReset|BrokenPipe|RemoteDisconnected|IncompleteRead|ServerDisconnected|abort|SSL",
     "a proxy or firewall in between may have cut it off"),
    ("ENOENT|ENOTDIR|EISDIR|EROFS|ENOSPC", "check the path of its file, and the disk"),
    ("EMFILE|ENFILE", "this process has too many files open: close some, or raise `ulimit -n`"),
    ("EACCES|EPERM", "a sandbox or firewall of this machine forbids it"), ("EMSGSIZE", _ANOTHER))
_TLS_FAULTS = (  # what a handshake breaks on, by OpenSSL's words for it: what it means, and what to do
    ("WRONG_VERSION_NUMBER|HTTP_REQUEST|UNKNOWN_PROTOCOL|PACKET_LENGTH|RECORD_LAYER|RECORD_TYPE",
     "it does not speak TLS at once on that port",
     'check host and port; mail does on 465 (SMTP) and 993 (IMAP), and on 587 or 25 by use_tls="starttls"'),
    ("CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA", "it demands a certificate of its clients",
     "that is not supported: ask its admin for an address that needs none"),
    ("PROTOCOL|VERSION|TOO_SMALL|TOO_WEAK|LEGACY|CIPHER|SIGNATURE|INSUFFICIENT|HANDSHAKE_FAILURE",
     "no TLS could be agreed on", "ask its admin: it has to speak TLS 1.2 or later, with today's ciphers, "
     "and must not demand a certificate of its clients"))
_CERTIFICATE_HINTS = (  # by OpenSSL's words as well
    ("expired|not yet valid", "its owner has to renew it, unless this machine's date is wrong: {now}"),
    ("too weak|too small", "its owner has to replace it: RSA of 2,048 bits or more, SHA-256"),
    ("Identifier|critical|[Kk]ey usage|name empty|xtension|[Pp]ath ?len|purpose|invalid CA|subtree",
     "it breaks RFC 5280 (Python 3.13 and later are strict): its owner has to make certificate or CA anew"),
    ("(name|address) mismatch", "check the host's name; a proxy or a log-in page may answer in its place"))


class _Unreachable(OSError):
    """Why there is no connection, told by the place that knows. Nothing was delivered."""
    def __init__(self, what: str, hint: str, *, code: str | None = None, cure: _Cure = "again") -> None:
        super().__init__(what)
        self.hint, self.code, self.cure = hint, code, cure


def _deadline(clock: _Clock, until: float) -> float:
    """Return a moment of the alerter's clock as one of time.monotonic, by which connections end."""
    return time.monotonic() + until - clock.monotonic()


class _Wire:
    """A connection that ends in time, in the place of a socket.

    A socket's timeout is for each read and write, so bytes that drip could go on for ever. Here each has what
    is left until the deadline, `patience` seconds at most; and `room` bytes at most are read.
    """
    def __init__(self, sock: Any, place: str, deadline: float) -> None:
        self.sock, self.place, self.deadline, self.room = sock, place, deadline, _BODY_CAP
        self.patience = _SOCKET_TIMEOUT

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def _hurry(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _socket.timeout("timed out")
        self.sock.settimeout(min(left, self.patience))

    def sendall(self, data: Any) -> None:
        for start in range(0, len(data), _PIECE):
            self._hurry()
            self.sock.sendall(memoryview(data)[start:start + _PIECE])

    def recv_into(self, buffer: Any) -> int:
        self._hurry()
        count: int = self.sock.recv_into(buffer)
        self.room -= count
        if self.room < 0:
            raise OSError(errno.EMSGSIZE, "the answer is too large")
        return count

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[:self.recv_into(buffer)])

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        return io.BufferedReader(_socket.SocketIO(self, "r"))  # type: ignore[arg-type]

    def is_quiet(self) -> bool:
        """True if the peer has neither closed nor said what nobody asked for; else close it here too."""
        self.sock.settimeout(0)
        try:
            _socket.socket.recv(self.sock, 1, _socket.MSG_PEEK)  # below TLS, which has no peeking
        except BlockingIOError:
            return True
        except Exception:  # it is broken, or eventlet's, which cannot look there
            pass
        self.close()
        return False


class _Trust:
    """The CAs that connections trust, in the place of an SSLContext where a library starts TLS itself.

    The system's folder of hashed CAs costs 0.1 ms, its whole bundle 20 ms. So the folder comes first; but it
    need not hold them all.
    """
    def __init__(self, who: str, whole: bool = False) -> None:
        try:
            folder: str | None = _ssl.get_default_verify_paths().capath
        except ImportError:
            raise ConfigError(f"{who}: this Python was built without ssl: it reaches http:// addresses on "
                              "this machine, and mail servers with use_tls=False") from None
        named = list(filter(os.environ.get, _CA_VARIABLES))
        hashed = _is_hashed(folder)
        self.partial = hashed and not (named or whole)
        if not self.partial:
            folder = None
        self.context = _ssl.create_default_context(capath=folder)
        self.context._encode_hostname = str  # type: ignore[attr-defined]  # no codec; gevent takes no bytes
        self.advice = "if a proxy or an own CA is in use, name its PEM file in SSL_CERT_FILE"
        known: int | None = None
        with contextlib.suppress(NotImplementedError):  # truststore asks the system, and cannot tell
            known = self.context.cert_store_stats()["x509"]
        if known == 0 and not hashed:
            self.advice = "this machine has no CAs: install ca-certificates, or set SSL_CERT_FILE"
        for variable in named:
            path = os.environ[variable]
            # OpenSSL itself reads SSL_CERT_FILE, but passes over it in silence where it cannot.
            if variable != "SSL_CERT_FILE" or not known:
                _add_cas(f"{who}: {variable} ({path})", self.context, path)
            self.advice = f"no CA in {path} vouches for it: add the right one there ({variable})"

    def wrap_socket(self, wire: _Wire, server_hostname: str) -> _Wire:
        """Speak TLS from now on. What was read ahead before is dropped with the file that holds it."""
        wire._hurry()
        try:
            name = server_hostname.partition("%")[0]
            wire.sock = self.context.wrap_socket(wire.sock, False, False, server_hostname=name)
            wire.sock.do_handshake()
        except (OSError, ValueError) as error:
            raise _tls_trouble(error, wire.place, self) from None
        return wire


def _trusting(who: str, connect: Callable[[_Trust], _T]) -> _T:
    """Return connect(trust), which makes a connection over TLS, to SMTP and IMAP servers too."""
    key = tuple(map(os.environ.get, _TRUST_VARIABLES))
    trust = _TRUSTS.get(key) or _Trust(who)
    try:
        connection = connect(trust)
    except _Unreachable as error:
        if not trust.partial or error.code != "certificate":
            raise
        trust = _Trust(who, whole=True)
        connection = connect(trust)
    _TRUSTS[key] = trust
    return connection


def _is_hashed(folder: str | None) -> bool:
    """True for a folder in which OpenSSL finds CAs: by names like 5ed36f99.0."""
    with contextlib.suppress(OSError):
        return any(map(re.compile(r"[0-9a-f]{8}\.\d+$").match, os.listdir(folder or os.devnull)))
    return False


def _add_cas(what: str, context: _ssl.SSLContext, path: str) -> None:
    if os.path.isdir(path):
        if _is_hashed(path):
            return context.load_verify_locations(capath=path)
        raise ConfigError(f"{what} is a folder without hashed names: run openssl rehash {path}")
    try:
        return context.load_verify_locations(path)
    except _ssl.SSLError:
        why = f"holds no whole certificate in PEM form; openssl x509 -inform der -in {path} makes it of DER"
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        why = f"cannot be read: {_reason(error)}"
    raise ConfigError(f"{what} {why}")


def _tls_trouble(error: BaseException, place: str, trust: _Trust | None = None) -> _Unreachable:
    place = f"TLS with {place}"
    if trust and isinstance(error, _ssl.SSLCertVerificationError):
        hint = trust.advice
        for words, cure in _CERTIFICATE_HINTS:
            if re.search(words, error.verify_message):
                hint = cure.format(now=time.strftime("%Y-%m-%d"))
        what = f"{place}: the certificate is not trusted ({error.verify_message.rstrip('.')})"
        return _Unreachable(what, hint, code="certificate", cure="later")
    word = str(getattr(error, "reason", ""))
    for words, what, hint in _TLS_FAULTS:
        if re.search(words, word):
            return _Unreachable(f"{place}: {what} ({word})", hint, cure="later")
    return _Unreachable(f"{place}: the handshake broke off ({_told(error)[0]})", "a firewall in between may "
                        "forbid it, or that port does not speak TLS at once: check host, port and network")


class _Proxy:
    """A proxy of the environment, or of the system's settings; ValueError for one with TLS or SOCKS."""
    def __init__(self, variable: str, address: str) -> None:
        if "://" not in address:
            address = f"http://{address}"
        parts = _urllib_parse.urlsplit(address)
        self.host, self.port = _host_of(parts), parts.port or 80
        rest = f"{parts.path}{parts.query}{parts.fragment}"  # half of a password, if that has a / in it
        if parts.scheme != "http" or _host_problem(self.host) or re.search("[@:]", rest):
            raise ValueError
        self.variable, self.login = variable, ""
        self.place = f"the proxy {_netloc(self.host, self.port)} of {variable}"
        if parts.username is not None:
            user, password = map(_urllib_parse.unquote, (parts.username, parts.password or ""))
            _remember_secret(password)
            self.login = f"Proxy-Authorization: Basic {_coded(f'{user}:{password}')}\r\n"

    def open_tunnel(self, wire: _Wire, target: str) -> None:
        """target: host:port. A refused log-in is not tried again: that locks accounts."""
        try:
            head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self.login}\r\n"
            wire.sendall(head.encode("ascii"))
            with _head_of(wire, "CONNECT") as answer:
                status = answer.status
        except (OSError, _http_client.HTTPException, ValueError) as error:
            what, _ = _told(error)
            raise _Unreachable(f"{self.place}: {what}", "check that an HTTP proxy listens there") from None
        if 200 <= status < 300:
            return
        cure: _Cure = "people"
        hint = f"ask its admin to allow CONNECT to {target}"
        offers = ", ".join(answer.headers.get_all("Proxy-Authenticate") or ["Basic"])
        if status >= 500:  # tinyproxy says 500 of a target that it cannot reach
            cure, hint = "again", f"it cannot reach {target} now: try again later"
        elif status in (401, 407):  # and 401 of a wrong log-in
            hint = f"write the right log-in into {self.variable}: http://USER:PASSWORD@HOST:PORT"
            if "basic" not in offers.lower():
                hint = f"it takes {offers} alone, which is not supported: ask its admin"
        raise _Unreachable(f"{self.place}: HTTP {status} {answer.reason}", hint, code="proxy", cure=cure)


def _proxy_for(who: str, host: str, port: int) -> _Proxy | None:
    # Windows and macOS have settings for a proxy; elsewhere it takes a variable.
    asked = sys.platform in ("win32", "darwin") or "_proxy" in " ".join(os.environ).lower()
    if not asked or _is_loopback(host) or _urllib_request.proxy_bypass(_netloc(host, port)):
        return None
    found = _Hidden(_urllib_request.getproxies())
    for kind in ("https", "all"):
        variable = f"{kind}_proxy"
        if not os.environ.get(variable):  # the system's settings name none: the one that would win is named
            variable = variable.upper()
        if found.get(kind):
            with contextlib.suppress(ValueError):
                return _Proxy(variable, found[kind])
            wanted = "http://HOST:PORT, of a proxy without TLS or SOCKS; odd letters of a log-in as %XX"
            raise ConfigError(f"{who}: {variable} has to be {wanted}")
    return None


def _netloc(host: str, port: int) -> str:
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{port}"


def _dial(host: str, port: int, deadline: float, place: str) -> _Wire:
    """Return a connection to what errors call `place`. All addresses of a name share the time."""
    began = time.monotonic()
    if began >= deadline:
        raise _Unreachable(f"{place}: no time left", "what came before took it all")
    try:
        # In bytes: text takes a codec, and one that once could not be loaded is never tried again.
        found: Any = _socket.getaddrinfo(host.encode("ascii"), port, 0, _socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        _, hint = _told(error)
        trouble = _Unreachable(f"{place}: name look-up failed ({_reason(error)})", hint)
        if 2 * time.monotonic() - began > deadline:  # there is no time for one more, which nothing cuts short
            trouble.cure = "later"
        raise trouble from None
    left = min(deadline - time.monotonic(), _SOCKET_TIMEOUT)
    if left <= 0:
        raise _Unreachable(f"{place}: name look-up took too long", "check this machine's DNS")
    for _, _, _, _, address in found:  # there is one at least
        try:
            # As text with the scope of an IPv6 one, without which there is no way to it.
            text: Any = _socket.getnameinfo(address, _socket.NI_NUMERICHOST | _socket.NI_NUMERICSERV)
            sock = _socket.create_connection((text[0].encode("ascii"), text[1]), left / len(found))
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return _Wire(sock, place, deadline)
        except OSError as error:
            what, hint = _told(error)
            trouble = _Unreachable(f"{place}: no connection ({what})", hint)
    raise trouble


def _connect(host: str, port: int, deadline: float, trust: _Trust | None = None, *,
             proxy: _Proxy | None = None, at_once: bool = True, begin: Any = None) -> Any:
    """Return a new connection, or begin(it, trust), which starts TLS itself where that is not due at once."""
    target = _netloc(host, port)
    if proxy:
        wire = _dial(proxy.host, proxy.port, deadline, proxy.place)
    else:
        wire = _dial(host, port, deadline, target)
    try:
        if proxy:
            proxy.open_tunnel(wire, target)
            wire.place = f"{target} through {proxy.place}"
        if trust and at_once:
            trust.wrap_socket(wire, host)
        if begin:
            return begin(wire, trust)
        return wire
    except BaseException:  # whatever comes, Ctrl-C too, the socket is closed
        wire.close()
        raise


def _told(error: BaseException) -> tuple[str, str]:
    """Return what went wrong, without the words of what may hold a secret, and what to do about it."""
    what, usual = f"no sensible answer ({type(error).__name__})", _ANOTHER
    if isinstance(error, OSError):
        what, usual = _reason(error), "there is no way to it from here: check the network"
    words = f"{type(error).__name__} {errno.errorcode.get(getattr(error, 'errno', 0))}"
    for names, hint in _NETWORK_HINTS:
        if re.search(names, words):
            return what, hint
    return what, usual


class _Answer:
    """What an HTTP service answered, read to its end. stays: the connection does, for the next request."""
    def __init__(self, wire: _Wire, method: str, now: float, reads: bool) -> None:
        with _head_of(wire, method) as response:
            wire.room = _BODY_CAP
            # In pieces, as `read` takes at once the memory for what a server says is to come.
            self.body = b"".join(iter(functools.partial(response.read1, 65536), b""))
            if response.length:
                raise _http_client.IncompleteRead(b"")
        self.status, self.headers, self.now, self.reads = response.status, response.headers, now, reads
        self.stays = not response.will_close
        self.text = self.body.decode("utf-8", "replace").lstrip("\ufeff")

    def json(self) -> Any:  # None if it is not JSON
        with contextlib.suppress(ValueError, RecursionError):
            return _json.loads(self.body)

    def seconds(self, given: Any = None) -> float | None:
        """Return how long the service asks to wait, None if it says nothing sensible."""
        asked = str(given or self.headers.get("Retry-After"))
        with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
            if ":" in asked:  # RFC 9110 allows a date as well
                asked = str(_email_utils.parsedate_to_datetime(asked).timestamp() - self.now)
            seconds = float(asked)
            if seconds > 0:  # NaN is not
                return seconds
        return None

    def refusal(self, who: str, what: str, code: str | None = None, retry_after: Any = None,
                hints: Mapping[str, str] = {}) -> DeliveryError:
        status, wait = self.status, None
        cure: _Cure | None = "look"
        odd = "[34](?!29).."  # statuses that no word of the service explains; no redirect is followed
        if self.reads:
            cure, odd = "again", "[2-4](?!29).."
        if status in (429, 503):
            cure, wait = "again", self.seconds(retry_after)
        elif 300 <= status < 500:
            cure = None
            if not code and status not in (401, 403):  # it may be of something in between
                cure = "later"
        hints = {**hints, "413": "it is too large for it, or for a proxy in between", odd: _ANOTHER}
        return _failure(who, what, status=status, code=code, hints=hints, cure=cure, retry_after=wait)


@contextlib.contextmanager
def _one_operation() -> Iterator[None]:
    """Keep this thread's HTTP connections from one request to the next, and close them at the end."""
    if _WIRES.get() is not None:  # this is part of a larger one
        yield
        return
    kept: dict[object, _Wire] = {}
    before = _WIRES.set(kept)
    try:
        yield
    finally:
        _WIRES.reset(before)
        for wire in kept.values():
            wire.close()


def _http(alerter: BaseAlerter, method: str, url: str, until: float, body: Sequence[bytes] = (),
          headers: Mapping[str, str] = {}, reads: bool = False) -> _Answer:
    """Return the answer, whatever its status. The one place that speaks HTTP; it follows no redirect.

    body: pieces, sent one after the other and never joined. until: on clock.monotonic. Raises DeliveryError,
    outcome "unknown" once all of it was written, unless it only reads: then nothing can have arrived.
    """
    headers, size = {"User-Agent": _AGENT, **headers}, sum(map(len, body))
    if body:
        headers["Content-Length"] = str(size)
    kept, wire, whole = _WIRES.get(), None, False
    try:
        place = _urllib_parse.urlsplit(url)._replace(path="", query="", fragment="")  # which may be secret
        wire = _reach(alerter._who, place, _deadline(alerter.clock, until))
        # What was sent may still be on its way for long, in the buffers of this machine or of a proxy.
        wire.patience = _SOCKET_TIMEOUT + size / _SLOW_LINK
        # The scope of an IPv6 address is this machine's affair, and no port 443 stands in the Host header.
        link: Any = _http_client.HTTPConnection(_host_of(place).partition("%")[0], place.port or 443)
        link.default_port = 443
        link.sock, link.debuglevel = wire, 0  # a program that sets it on the class would see the token
        with contextlib.suppress(OSError):  # an answer may be there already, as a 413
            # The path may be secret and has no name, as a traceback may show locals.
            link.request(method, re.sub(r"^\w+://[^/?]*/?", "/", url), body or None, headers)
            whole = True
            if hasattr(_socket, "TCP_QUICKACK"):  # Linux; else a server with Nagle's algorithm waits 40 ms
                wire.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 1)
        answer = _Answer(wire, method, alerter.clock.now(), reads)
        if kept is not None and answer.stays and whole and place not in kept:  # one post within another, say
            kept[place], wire = wire, None
        return answer
    except AlerterError:
        raise
    except (OSError, _http_client.HTTPException, ValueError, OverflowError) as caught:
        error = _transport_failure(alerter._who, caught, whole and not reads)
    except BaseException as caught:  # Ctrl-C, a time limit: the library's frames know the token
        caught.__context__ = None
        raise caught.with_traceback(None) from None
    finally:
        if wire is not None:
            wire.close()
    raise error  # out here, so that what was raised, which knows URL and headers, does not travel with it


def _reach(who: str, place: _urllib_parse.SplitResult, deadline: float) -> Any:
    """Return a connection to a place: the one that is kept, if it is still open, or a new one."""
    kept = (_WIRES.get() or {}).pop(place, None)
    if kept and kept.is_quiet():
        kept.deadline = deadline
        return kept
    host, port = _host_of(place), place.port or 443
    if place.scheme == "http":  # on this machine
        return _connect(host, place.port or 80, deadline)
    proxy = _proxy_for(who, host, port)
    return _trusting(who, functools.partial(_connect, host, port, deadline, proxy=proxy))


def _head_of(wire: _Wire, method: str) -> _http_client.HTTPResponse:
    """Return an answer whose head is read. Those before it, as 103 Early Hints, are passed over."""
    wire.room = _HEAD_CAP
    answer: Any = _http_client.HTTPResponse(wire, method=method)  # type: ignore[arg-type]
    answer.begin()
    while 100 < answer.status < 200:  # the library itself passes over 100 alone
        answer.headers = None
        answer.begin()
    return answer  # type: ignore[no-any-return]


def _transport_failure(who: str, error: BaseException, reached: bool) -> DeliveryError:
    """Return the DeliveryError for what a socket or a library raised. reached: it may have arrived."""
    cause = error
    if type(error).__name__ == "SMTPServerDisconnected":  # in place of what the socket raised
        cause = error.__context__ or error
    if "CERTIFICATE_REQUIRED" in _reason(cause):  # TLS 1.3 says so after the handshake
        cause = _tls_trouble(cause, "the server")
    if isinstance(cause, _Unreachable):
        return _failure(who, cause, code=cause.code, hint=cause.hint, cure=cause.cure)
    parts = vars(error)  # of an own flavor: urllib's error has the status itself, requests' its answer has it
    status = parts.get("code", getattr(parts.get("response"), "status_code", None))
    if isinstance(status, int):
        cure: _Cure | None = None
        if reached and status >= 500:
            cure = "look"
        return _failure(who, _reason(error), status=status, cure=cure)
    what, hint = _told(cause)
    if not reached or getattr(error, "filename", None):  # a module that could not be opened, say
        return _failure(who, what, hint=hint, cure="again")
    hint += "; it may have arrived, so look before you send it again"
    return _failure(who, what, hint=hint, cure="look")


# === Command line ===
def _options(command: str, args: list[str], job: list[str]) -> Any:
    """Return the parsed options of a command, and in `command` the job that `run` is given."""
    class Parser(_argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            if message.endswith("required: text"):
                message += "; one that begins with - stands behind --"
            raise ConfigError(f"{message} (see: {self.prog} --help)")

        def _print_message(self, message: str, file: object = None) -> None:  # the help, for any encoding
            _print(message.rstrip())

    _, about, names = _COMMANDS[command]
    parser = Parser(prog=f"{_program()} {command}", description=about, allow_abbrev=False)
    for name in filter(None, names.split(", ")):
        if name == "FIELDS":
            _add_fields(parser)
        else:
            parser.add_argument(*name.strip("[]").split(), **_OPTIONS[name])
    parser.set_defaults(command=command, job=job, fields=[])
    found, unknown = parser.parse_known_args(args)
    for word in args:
        if "FIELDS" in names and not word.startswith("-"):  # FIELD=VALUE without its -- is taken for a name
            _remember_secret(word.partition("=")[2])
    if unknown:
        word = unknown[0].partition("=")[0]  # what follows may be a secret
        if not word.startswith("-"):  # and so may this
            raise ConfigError(f"{command}: a word too many: quote what holds a space; options begin with --")
        if "FIELDS" not in names or word[:2] != "--":
            known = re.findall(r"--[\w-]+", parser.format_usage())
            raise ConfigError(f"{command}: unknown {word!r}; {_did_you_mean(word, known)}")
        found.fields.append(f"{word[2:]}=")  # which no flavor has: `_given_fields` says which there are
        for option, after in zip(args, args[1:]):
            if option in unknown and "=" not in option:  # its value may have been taken for a name
                _remember_secret(after)
    return found


def _add_fields(parser: _argparse.ArgumentParser) -> None:
    """Take the fields of all flavors as options, and list as `fields` what is given, as NAME=VALUE."""
    data = StackStore()._load()
    for flavor in {**FLAVORS, **_usable(data, "flavors")}:
        with contextlib.suppress(ConfigError):  # one's own, which cannot be imported from here
            for name, field in _fields_of(_flavor(flavor, data)).items():
                about = field.metadata.get("about", "").replace("%", "%%")
                with contextlib.suppress(_argparse.ArgumentError):  # another flavor's, or it is --help, say
                    parser.add_argument(f"--{name}", dest="fields", action="append", metavar="VALUE",
                                        type=functools.partial("{}={}".format, name), help=about)


def _given_fields(options: Any, cls: type[BaseAlerter]) -> _Dict:
    known, fields = _fields_of(cls), _Hidden()
    for pair in options.fields:
        name, _, text = pair.partition("=")
        _check_known(f"{options.name or cls.flavor} ({cls.flavor}): it has no field", name, known)
        fields[name] = _parsed(known[name], text, f"--{name}")
    return fields


def _write_line(stream: Any, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    if hasattr(stream, "flush"):  # a program's own may not have it
        stream.flush()  # at once: at its end it would fail unseen


def _print(text: object) -> None:
    """Print what came from elsewhere, without secrets and control characters."""
    if sys.stdout is not None:
        _write_line(sys.stdout, _clean(text))


def _complain(text: object, code: int = 2) -> int:
    """Print one line on stderr, if there is one that takes it, and return the exit code."""
    with contextlib.suppress(Exception):  # stderr may be closed, or anything that somebody put there
        _write_line(sys.stderr, f"alerters: {_one_line(text, 2000)}")
    return code


def _typed_arguments(options: Any) -> tuple[AlerterMessage, _Params]:
    """Return the message and the parameters; options are called as the keywords of `post` and `ask` are."""
    text, facts = options.text, {}
    for key, sign, value in options.metadata or ():
        if not sign:
            raise ConfigError(f"--metadata {key}: write it as KEY=VALUE")
        facts[key] = value
    if text == "-":
        if sys.stdin is None:
            raise ConfigError("- reads standard input, which is closed")
        text = getattr(sys.stdin, "buffer", sys.stdin).read()
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig", "replace").replace("\r\n", "\n")  # as PowerShell writes it
    return _arguments({**vars(options), "message": text, "metadata": facts, "params": None, "reply_to": None})


def _chosen(options: Any, warn: bool = True) -> list[BaseAlerter]:
    names = dict.fromkeys(options.alerter or [None])
    return [target for name in names for target in _targets(name, options.stack, warn)]


def _cmd_post(options: Any) -> int:
    message, params = _typed_arguments(options)
    if _post_to(_chosen(options), message, params):
        return 0
    return 4


def _cmd_ask(options: Any) -> int:
    message, params = _typed_arguments(options)
    decision = _decide(_chosen(options, warn=False), message, params, options.key, _tell_asked)
    if options.json:
        _print(_json.dumps(dataclasses.asdict(decision)))
    elif decision.by:
        _print(f"{decision.status} by {decision.by} ({_one_line(decision.text)})")
    else:
        _print(decision.status)
    return {"approved": 0, "declined": 1}.get(decision.status, 3)


def _tell_asked(question: Question) -> None:
    """Say where it was asked, and until when the command waits; on a terminal the question says so itself."""
    if question.alerter.flavor != "console":
        record = question._record
        place = ", ".join(record.recipients) or record.url or question.alerter._channel_of(question.ref)
        who = f"{question.alerter._who} {place}".strip()
        _complain(f"asked {who}; waiting until {time.strftime(_UTC, time.gmtime(question.deadline))}")


def _passes(target: BaseAlerter, check: Callable[[], object]) -> bool:
    try:
        _print(_own_code(target._who, check, reached=False))
        return True
    except DeliveryError as error:
        _print("\n".join(error._report or [f"{_BAD}{error}"]))
        return False


def _cmd_check(options: Any) -> int:
    if options.name is not None:
        options.alerter = [options.name] + (options.alerter or [])
    failed, code = [], 4
    for target in _chosen(options):
        _print(target._who)
        try:
            works = _passes(target, target.check)
            if works and options.post:
                works = _passes(target, target._try_post)
            elif works and target.flavor != "console":
                _print(f"{_NOTE}posting: not tried; check --post tries it")
        except ConfigError as error:  # the others are checked all the same
            _print(f"{_BAD}{error}")
            works, code = False, 2
        if not works:
            failed.append(target._who)
    if not failed:
        return 0
    return _complain(f"check: {', '.join(failed)} failed: mend it and check again", code)


def _cmd_preview(options: Any) -> None:
    message, params = _typed_arguments(options)
    if options.html:
        html = _mail_html(_lay_out(message, message._files("preview")), message.level)
        _pathlib.Path(options.html).write_text(html, encoding="utf-8")
        return
    if not options.flavor:
        raise ConfigError("preview: give --flavor, or --html FILE")
    cls = _flavor(options.flavor)
    example: Any = ConsoleAlerter()  # what fields make one of somebody's own flavor nobody knows
    if cls._example:
        example = cls(**cls._example)
    message, params = example._checked(message, params)
    _print(example._preview(message, params))


def _cmd_pending(options: Any) -> None:
    store = StackStore()
    for key, given in store._questions(store._load()).items():
        try:
            record = _recorded(key, given)
        except StoreError as error:
            _complain(error)
            continue
        until = time.strftime(_UTC, time.gmtime(record.deadline))
        state, place = "open until", record.alerter or record.flavor
        if record.deadline < time.time():
            state = "expired"
        _print(f"{_one_line(key)}  {place}  {state} {until}  {record.text}  {record.url or ''}")


def _cmd_update(options: Any) -> None:
    store = StackStore()
    data = store._load()
    fields = _given_fields(options, _flavor(store._entry(data, "alerters", options.name)["flavor"], data))
    if not fields:
        raise ConfigError("update: there is nothing to change; give --FIELD=VALUE")
    store._put_alerter(options.name, fields, new=False)
    _print(f"alerter {options.name} is updated")


def _cmd_register(options: Any) -> None:
    """Store an alerter; `setup` asks for what is missing, tries it first, and puts it to use."""
    store, setup = StackStore(), options.command == "setup"
    use = setup or options.set
    # Nobody is to type a token for nothing, so what can be refused is refused before it is asked for.
    data, name = store._load(), options.name
    if name is None:  # of `setup` alone
        name = options.flavor
    cls = _flavor(options.flavor, data)
    fields = _given_fields(options, cls)
    _check_new("alerter", name, data["alerters"], "`update` changes it")
    if use:
        _check_new("stack", name, data["stacks"], "choose another name")
    if _is_terminal(sys.stdin) and _is_terminal(sys.stdout):
        if getattr(cls, "_webhook_field", "") not in fields:  # with a webhook no token is wanted
            asked = cls._setup_fields
            if not setup:
                asked = _secrets_of(cls)[:1]
            _ask_for(cls, fields, asked)
    elif setup:
        how = f"{_program()} register {name} --flavor={options.flavor} --FIELD=VALUE --set"
        raise ConfigError(f"setup asks on a terminal, and here is none; instead: {how}")
    alerter = _build(cls, fields, (name, store.path))
    if setup:
        works = _passes(alerter, alerter.check) and alerter.post(f"Hello! Alerts of `{name}` arrive here.")
        if not works:
            raise DeliveryError(f"{alerter._who}: it does not work yet, and nothing was stored",
                                hint="mend what is said above, and try again")
    store._put_alerter(name, {"flavor": options.flavor, **fields}, True, use)
    done = f"registered; put it to use by: {_program()} stack register {name} -al {name} --set"
    if use:
        done = f'registered, and stack {name} is active. Now try:\n{_program()} post "Hello"'
    _print(f"alerter {name} is {done}")


def _ask_for(cls: type[BaseAlerter], fields: _Dict, names: Iterable[str]) -> None:
    """Let what is not given be typed; what can never work is told at once, and typed again."""
    if cls._example:  # what is given has to be right, or no answer would do
        _build(cls, {**cls._example, **fields})
    for name in names:
        if name in fields:
            continue
        how, field = cls._how_to_get(name, fields), _fields_of(cls)[name]
        if how:
            _print(how)
        read: Callable[[str], str] = input
        if _is_secret(field):
            read = _getpass.getpass
        while name not in fields:
            try:
                text = read(f"{name} ({field.metadata.get('about', '')}): ").strip()
                if text or name == "password":  # a relay may want none
                    value = _parsed(field, text, name)
                    if cls._example:  # what else a flavor of one's own needs nobody knows
                        _build(cls, {**cls._example, **fields, name: value})
                    fields[name] = value
            except EOFError:
                print()  # below the prompt
                raise ConfigError(f"{name}: the input ended; nothing was stored") from None
            except ConfigError as error:
                _print(error)


def _changes(method: str, done: str) -> Callable[[Any], None]:
    def command(options: Any) -> None:
        getattr(StackStore(), method)(options.name)
        _print(done.format(options.name))

    return command


def _cmd_stack_register(options: Any) -> None:
    store, new = StackStore(), options.command == "stack register"
    store._put_stack(options.name, ",".join(options.alerters).split(","), new, new and options.set)
    active, done = store.active_stack(), f"stack {options.name} is stored"
    if active != options.name:
        done += f"; {active} stays active until: {_program()} stack set {options.name}"
    _print(done)


def _use_mark(name: str, used: Iterable[str]) -> str:
    """Return what stands before a name in a list. $ALERTERS_FLAVOR wins over every stack."""
    if name in used and not os.environ.get("ALERTERS_FLAVOR"):
        return "* "
    return "  "


def _cmd_list(options: Any) -> None:
    store, flavor = StackStore(), os.environ.get("ALERTERS_FLAVOR")
    used = store.stacks().get(store.active_stack(), [])
    if flavor:
        _print(f"* $ALERTERS_FLAVOR  ({flavor})")
    for name, entry in store.alerters().items():
        _print(f"{_use_mark(name, used)}{name}  ({entry['flavor']})")


def _cmd_describe(options: Any) -> None:
    data = {"alerters": StackStore().alerters()}
    for key, value in StackStore()._entry(data, "alerters", options.name).items():
        if isinstance(value, _Secret):
            value = _MASK
        _print(f"{key}: {value}")


def _cmd_stacks(options: Any) -> None:
    store = StackStore()
    stacks, active = store.stacks(), store.active_stack()
    if options.command == "stack describe":
        name = options.name or active
        stacks = {name: store._entry({"stacks": stacks}, "stacks", name)}
    for name, members in stacks.items():
        _print(f"{_use_mark(name, [active])}{name}: {', '.join(members)}")


def _cmd_flavors(options: Any) -> None:
    own = _usable(StackStore()._load(), "flavors")
    for name in {**FLAVORS, **own}:
        line = str(own.get(name) or FLAVORS[name].__doc__).partition("\n")[0]
        _print(f"{name:<12} {line.rstrip('.')}")


def _cmd_flavor_register(options: Any) -> None:
    cls = register_flavor(options.path)
    with StackStore()._changing() as data:
        data.setdefault("flavors", {})[cls.flavor] = options.path
    _print(f"flavor {cls.flavor} is registered")


_MANY = {"action": "append", "metavar": "VALUE"}
_IDS = {"action": "extend", "metavar": "VALUE", "type": functools.partial(re.split, r"\s*,\s*")}
_FLAG = {"action": "store_true", "default": None}  # where it is not given, an alerter's field may say so
_OPTIONS: dict[str, _Dict] = {  # an option or argument: the words for argparse
    "name": {}, "[name]": {"nargs": "?"}, "flavor": {}, "path": {"metavar": "package.module.Class"},
    "text": {"help": "in light Markdown; - reads standard input"}, "--title": {"help": "the heading"},
    "--metadata": {"help": "K=V, a fact (repeatable)", "type": lambda fact: fact.partition("="), **_MANY},
    "--image": {"help": "a path or URL (repeatable)", "dest": "images", **_MANY},
    "--file": {"help": "a path; attached as it is (repeatable)", "dest": "files", **_MANY},
    "--level": {"help": "info, success, warning or error; default info"},
    "--mention": {"help": "id of whom to ping, or here, everyone (repeatable)", **_IDS},
    "--alerter": {"help": "in place of those in use (repeatable)", **_IDS}, "--stack": {"help": "likewise"},
    "--timeout": {"help": "such as 90s or 1h30m; default 5m"},
    "--approve": {"help": "a word in place of yes, ok (repeatable)", "dest": "approve_msg_options", **_MANY},
    "--decline": {"help": "a word in place of no (repeatable)", "dest": "disapprove_msg_options", **_MANY},
    "--approver": {"help": "id of one who may decide (repeatable)", "dest": "approvers", **_IDS},
    "--approvals": {"help": "so many must approve", "dest": "minimum_approvals", "type": int, "metavar": "N"},
    "--key": {"help": "under which the question outlives this process"},
    "--json": {"help": "print the decision as JSON", **_FLAG}, "--flavor": {"help": "see: flavor list"},
    "--flavor -f": {"required": True}, "--html": {"help": "write the mail's HTML to it", "metavar": "FILE"},
    "--name": {"help": "of the alerter; default the flavor's"}, "--set": {"help": "use it now", **_FLAG},
    "-al --alerter": {"dest": "alerters", "nargs": "+", **_MANY, "action": "extend", "required": True},
    "words": {"metavar": "-- COMMAND", "nargs": "*"}, "--post": {"help": "post a test message, too", **_FLAG},
    "--longer-than": {"help": "least time of a success that is told", "default": 0, "metavar": "TIME"}}
_MESSAGE = "text, --title, --metadata, --image, --file, --level, --mention"
_WHERE = "--alerter, --stack"
_COMMANDS: dict[str, tuple[Callable[[Any], int | None], str, str]] = {  # what it does, in code and words
    "setup": (_cmd_register, "set up slack, discord or smtp_email on a terminal", "flavor, --name, FIELDS"),
    "check": (_cmd_check, "try credentials, channel and permissions for real", f"[name], {_WHERE}, --post"),
    "post": (_cmd_post, "post an alert; the text - reads standard input", f"{_MESSAGE}, {_WHERE}"),
    "ask": (_cmd_ask, 'ask for approval: alerters ask "Deploy?" && ./deploy.sh',
            f"{_MESSAGE}, {_WHERE}, --timeout, --approve, --decline, --approver, --approvals, --key, --json"),
    "pending": (_cmd_pending, "list the open questions of the store", ""),
    "run": (_cmd_run, "tell how a command ended: run -- COMMAND", f"words, --title, --longer-than, {_WHERE}"),
    "preview": (_cmd_preview, "show what would be sent; sends nothing", f"{_MESSAGE}, --flavor, --html"),
    "register": (_cmd_register, "add an alerter: register NAME --flavor=F --FIELD=VALUE",
                 "name, --set, --flavor -f, FIELDS"),
    "update": (_cmd_update, "change an alerter: update NAME --FIELD=VALUE", "name, FIELDS"),
    "list": (_cmd_list, "list the alerters, those in use with *", ""),
    "describe": (_cmd_describe, "show an alerter, secrets masked", "name"),
    "delete": (_changes("delete_alerter", "alerter {} is deleted"), "remove an unused alerter", "name"),
    "stack register": (_cmd_stack_register, "choose alerters: NAME -al A,B", "name, -al --alerter, --set"),
    "stack update": (_cmd_stack_register, "change the alerters of a stack", "name, -al --alerter"),
    "stack list": (_cmd_stacks, "list the stacks, the active one with *", ""),
    "stack describe": (_cmd_stacks, "show a stack, or the active one", "[name]"),
    "stack set": (_changes("set_active_stack", "stack {} is active"), "set the active stack", "name"),
    "stack delete": (_changes("delete_stack", "stack {} is deleted"), "remove an unused stack", "name"),
    "flavor list": (_cmd_flavors, "list the flavors", ""),
    "flavor register": (_cmd_flavor_register, "add a flavor of your own", "path"),
    "--version": (lambda _: _print(__version__), "tell the version", "")}
_HELP = {"-h", "--help"}


def _usage() -> str:
    text = f"usage: {_program()} COMMAND …     (the word `alerter` may stand before it)\n\n"
    for name, (_, about, _) in _COMMANDS.items():
        text += f"  {name:<16} {about}\n"
    return (f"{text}\n`{_program()} COMMAND --help` tells the options. Exit codes: 0 done or approved,\n"
            "1 declined, 2 usage or set-up, 3 nobody answered, 4 not delivered, 130 Ctrl-C.")


def _run_command(args: list[str]) -> int | None:
    name, args = "".join(args[:1]), args[1:]
    if name in ("flavor", "stack") and args:
        name = f"{name} {args.pop(0)}"
    if not name or name.endswith(("help", "-h")):
        _print(_usage())
        if name:
            return 0
        return 2
    if name not in _COMMANDS:
        word = name.partition("=")[0]  # what follows may be a secret
        raise ConfigError(f"no command {word!r}; {_did_you_mean(word, _COMMANDS)}")
    work = _COMMANDS[name][0]
    job: list[str] = []
    if work is _cmd_run:
        if "--" in args:
            end = args.index("--")
            args, job = args[:end], args[end + 1:]
        elif not _HELP & set(args):
            raise ConfigError(_HOW_TO_RUN)
    return work(_options(name, args, job))


def _flush(stream: Any) -> None:
    """Write what is left. What cannot be is dropped: Python would try again at exit, and end by 120."""
    with contextlib.suppress(Exception):  # it is None, closed, or somebody's own
        try:
            stream.flush()
        except OSError:  # nobody reads it, or its disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, which `--help` explains. Errors are one line on stderr."""
    if argv is None:
        argv = sys.argv[1:]
    args = list(argv)
    _OWN_PLACES.add("")  # the current folder, which may be gone
    if args[:1] == ["alerter"]:
        del args[0]
    try:
        return _run_command(args) or 0
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except SystemExit as stop:  # argparse's --help; whatever else calls sys.exit has approved nothing
        if stop.code in (129, 143):  # SIGHUP or SIGTERM, while an answer was waited for
            return int(stop.code)
        if _HELP & set(args) and args[0] != "ask":  # else a text of -h approves: `ask "$TEXT" && deploy`
            return 0
        return 2
    except BrokenPipeError:  # who reads has seen enough, as `head` has
        return 141
    except DeliveryError as error:
        return _complain(error, 4)
    except (AlerterError, OSError) as error:
        return _complain(error)
    except Exception as error:  # of a flavor of one's own; Python would end with 1, which means declined
        return _complain(f"{type(error).__name__}: {error}")
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


if __name__ == "__main__":
    for _name in ("alerters", __spec__.name if __spec__ else os.path.splitext(os.path.basename(__file__))[0]):
        sys.modules.setdefault(_name, sys.modules["__main__"])  # one module for all, whatever it is called
    sys.exit(main())
