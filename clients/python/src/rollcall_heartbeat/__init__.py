"""Heartbeats for Rollcall, from a daemon thread of any Python program.

    with Heartbeat("https://rollcall.example", key) as heartbeat:
        with heartbeat.working():
            for task in tasks:
                heartbeat.check()
                run(task)
                heartbeat.progress()

No failure reaches the program: everything is told to the logger `rollcall`, and no key or token is ever logged.
"""

import asyncio
import contextlib
import email.utils
import json
import logging
import math
import os
import random
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
import weakref

from ._http import ANSWER_BYTES, Deadline, opener
from ._state import SharedState

__all__ = ["Heartbeat", "Stop"]

log = logging.getLogger("rollcall")

DEADLINE_SECONDS = 10
"""What one heartbeat may take in all, from the connection to the last byte of the answer."""

FIRST_INTERVAL_SECONDS = 60
"""The interval until an answer names one."""

RETRY_SECONDS = 1
"""Half of the first pause after a lost heartbeat. It doubles up to the interval."""

REFUSED_SECONDS = 60
"""The first pause after a refusal (401 or 403). It doubles, too."""

REFUSED_MOST_SECONDS = 600
"""The longest pause after a refusal."""

RETRY_AFTER_MOST_SECONDS = 3600
"""The longest pause that an answer may ask for."""

PROMISE_MOST_SECONDS = 86400
"""The longest sleep that one heartbeat can announce."""

SLEEPER_SECONDS = 30
"""How often a sleeper looks at the clock on the wall: the one that waits stands still while the machine is suspended."""

ACHECK_SECONDS = 0.2
"""How often `acheck()` looks again during a pause."""

SHARE_SECONDS = 1
"""How often files are read and written under `rollcall run`."""

STOP_SECONDS = 5
"""How long the end of the program waits for the last word."""


class Stop(BaseException):
    """An operator asked this agent to stop. No `Exception`: frameworks swallow those."""


class Heartbeat:
    """Tells Rollcall that this process is alive, at the interval that its answers name.

    Without a `url` the environment's `ROLLCALL_URL` counts, and without a `key` its `ROLLCALL_KEY`. With a `name`, and
    a `token` or `ROLLCALL_ENROLLMENT_TOKEN`, the first heartbeat creates the agent. Each secret may also be in the file
    that the variable with `_FILE` at its end names.

    Under `rollcall run` the wrapper sends the heartbeats: this object then tells it what it would say itself.
    """

    def __init__(self, url=None, key=None, *, name=None, token=None, board_id=None):
        self._url = _text(url) or os.environ.get("ROLLCALL_URL", "").strip()
        self._key = _text(key)
        self._name, self._token, self._board_id = name, _text(token), board_id
        self._issued = ""  # the key that the answer showed that created the agent
        self._opener = None  # made by the thread: reading the machine's certificates takes a while
        self._chance = random.random
        state = os.environ.get("ROLLCALL_STATE")
        self._state = SharedState(state) if state else None
        # The one lock guards what the program and the thread share: the next eleven.
        self._lock = threading.Condition()
        self._status = "healthy"
        self._last_word = "offline"
        self._stopping = False
        self._workers = 0
        self._progress_at = None
        self._sleepers = []  # until when, in seconds of the epoch
        self._hurry = False  # something is to be said before the next heartbeat is due
        self._unreported = _Usage()
        self._directive = None
        self._obeyed = None  # the version that the next heartbeats acknowledge
        self._handlers = {}
        # The thread's own.
        self._interval = FIRST_INTERVAL_SECONDS
        self._accepted_before = False
        self._refusals = 0
        self._failures = 0
        self._complaint = None
        self._credential = ""  # what was sent last
        self._used = _Usage()  # what the heartbeat on its way reports
        self._running = False
        self._thread = None
        _all.add(self)

    # ---- For the program ----

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, _traceback):
        # Who ends on purpose says so. Who fails says `error` and no more: the silence that follows is announced.
        on_purpose = kind is None or issubclass(kind, (KeyboardInterrupt, GeneratorExit, Stop))
        if kind is not None and issubclass(kind, SystemExit):
            on_purpose = error.code in (None, 0)
        self.stop("offline" if on_purpose else "error")
        return False

    def start(self):
        """Starts the thread; `with` does it too. A second call does nothing."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="rollcall-heartbeat", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError as problem:
                log.error("no heartbeats: %s", problem)
        return self

    def stop(self, last_word="offline"):
        """Ends the heartbeats, and says `offline`, so that the absence is not taken for a death."""
        with self._lock:
            self._stopping, self._last_word = True, last_word
            self._lock.notify_all()
        if self.alive:
            self._thread.join(STOP_SECONDS)

    @property
    def alive(self):
        """Whether this object sends heartbeats: from its start to its end, and not in a forked child."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def key(self):
        """The agent's key; after the heartbeat that created the agent its new one, else None.

        After a rotation the new key is assigned here.
        """
        return self._key or self._issued or None

    @key.setter
    def key(self, key):
        self._key = _text(key)

    @property
    def status(self):
        """What the next heartbeats say: `healthy`, `degraded` or `error`."""
        with self._lock:
            return self._status

    @status.setter
    def status(self, status):
        if status not in ("healthy", "degraded", "error"):
            log.error("status: %.50r is not one of healthy, degraded, error; it stays as it is", status)
            return
        with self._lock:
            self._status = status

    @contextlib.contextmanager
    def working(self):
        """There is work to do in this block: `progress_age` counts from its start, or the last `progress()`."""
        with self._lock:
            self._workers += 1
            self._progress_at = time.monotonic()
        try:
            yield self
        finally:
            with self._lock:
                self._workers -= 1

    def progress(self):
        """Called by the loop that works, whenever it got further."""
        with self._lock:
            self._progress_at = time.monotonic()

    @property
    def progress_age(self):
        """Seconds since the work last got further; None while there is none, and during a `sleep_until()`."""
        with self._lock:
            return self._age()

    def usage(self, tokens=0, cost_usd=0):
        """Adds what was used since the last call: tokens, and dollars. The next accepted heartbeat reports it."""
        try:
            used = _Usage(int(tokens), float(cost_usd))
            if min(used.tokens, used.cost_usd) < 0 or not math.isfinite(used.cost_usd):
                raise ValueError("a negative or infinite number")
        except (TypeError, ValueError, OverflowError) as problem:
            log.error("usage: %s; it is not counted", self._clean(problem))
            return
        with self._lock:
            self._unreported += used

    def sleep_until(self, when):
        """Blocks until `when`, an aware datetime or seconds of the epoch, and says beforehand that it will.

        The heartbeat that promises the next one follows the one on its way, and until `when` there is no other. A sleep
        that is shorter than the interval needs no promise. `stop()` ends it early.
        """
        until = when.timestamp() if hasattr(when, "timestamp") else float(when)
        with self._lock:
            promised = until - time.time() > self._interval
            if promised:
                self._sleepers.append(until)
                self._hurry_up()
            while not self._stopping and until > time.time():
                self._lock.wait(min(until - time.time(), SLEEPER_SECONDS))
            if promised:
                self._sleepers.remove(until)
                # What was announced is no stall.
                self._progress_at = time.monotonic()
                self._hurry_up()

    @property
    def directive(self):
        """What an operator wants, by the last accepted heartbeat: `{"version", "action", "deadline"?}`; None: work."""
        with self._lock:
            return None if self._directive is None else dict(self._directive)

    def acknowledge(self, directive):
        """Tells Rollcall, with the next heartbeats, that this directive is obeyed. `check()` does it by itself."""
        with self._lock:
            self._obey(directive)

    def on(self, action):
        """Decorates a function that obeys an action, such as `drain`.

        It is called with each new directive of that action, by a thread of its own, and should return soon: its return
        acknowledges the directive, an exception does not.
        """

        def decorate(function):
            with self._lock:
                self._handlers[action] = function
            return function

        return decorate

    def check(self):
        """Called by the loop that works: blocks while an operator wants a pause, and raises `Stop` at `stop`."""
        with self._lock:
            if not self._may_go_on():
                self._lock.wait_for(self._may_go_on)
                self._resume()

    async def acheck(self):
        """`check()` for coroutines: it never blocks their loop."""
        paused = False
        while True:
            with self._lock:
                if self._may_go_on():
                    if paused:
                        self._resume()
                    return
            paused = True
            await asyncio.sleep(ACHECK_SECONDS)

    def _resume(self):
        """After a pause, which is no stall. With the lock held."""
        self._progress_at = time.monotonic()

    def _age(self):
        """With the lock held."""
        working = self._workers and not self._sleepers
        return time.monotonic() - self._progress_at if working else None

    def _hurry_up(self):
        """With the lock held."""
        self._hurry = True
        self._lock.notify_all()

    def _may_go_on(self):
        """Obeys what `check()` can obey. With the lock held."""
        action = self._directive["action"] if self._directive and not self._stopping else "run"
        if action in ("run", "pause", "stop"):
            self._obey(self._directive)
        if action == "stop":
            raise Stop("an operator asked this agent to stop")
        return action != "pause"

    def _obey(self, directive):
        # Version 0 is a budget's, and nobody waits for its acknowledgement.
        if directive and directive["version"] != 0:
            self._obeyed = directive["version"]

    def _directed(self, directive):
        """Each accepted heartbeat says whether there is a directive; nothing else does."""
        action = directive["action"] if directive else "run"
        with self._lock:
            before, self._directive = self._directive, directive
            if directive is None:
                self._obeyed = None
            new = (before or {}).get("version") != (directive or {}).get("version")
            if directive != before:
                self._lock.notify_all()
            handler = self._handlers.get(action) if new else None
        if new:
            log.info("directive: %s", self._clean(action) if directive else "none")
        if handler is not None:
            self._handle(handler, directive or {"version": 0, "action": "run"})

    def _handle(self, handler, directive):
        def handle():
            try:
                handler(dict(directive))
            except Exception:
                log.exception("what should obey %s failed, and it is not acknowledged", directive["action"])
            else:
                self.acknowledge(directive)

        try:
            threading.Thread(target=handle, name="rollcall-directive", daemon=True).start()
        except RuntimeError as problem:
            log.error("nothing obeys %s: %s", directive["action"], problem)

    # ---- The thread ----

    def _run(self):
        self._running = True
        try:
            if self._state is None:
                self._send_until_stopped()
                self._say_last_word()
            else:
                log.info("rollcall run sends the heartbeats of this process")
                self._share_until_stopped()
        finally:
            self._running = False

    def _send_until_stopped(self):
        while True:
            try:
                delay = self._send_one()
            except Exception:
                log.exception("a heartbeat failed in a way that nobody thought of")
                delay = self._interval
            if self._pause(delay):
                return

    def _say_last_word(self):
        with self._lock:
            last_word = self._last_word
        try:
            code, _, _ = self._post(last_word)
            problem = None if code == 200 else f"HTTP {code}"
        except Exception as error:
            problem = self._reason(error)
        if problem is not None:
            log.warning("could not say %s at the end: %s", last_word, problem)

    def _pause(self, seconds):
        """Waits; whether the end was asked for. Nothing shortens the pause after a failure."""
        steady = not self._failures and not self._refusals
        with self._lock:
            self._lock.wait_for(lambda: self._stopping or (self._hurry and steady), seconds)
            return self._stopping

    def _send_one(self):
        """Sends one heartbeat; how long to wait until the next."""
        try:
            code, retry_after, body = self._post(self.status)
        except Exception as error:
            return self._lost(self._reason(error))
        if code in (401, 403):
            return self._refused(code, body)
        if code != 200:
            return self._lost(f"HTTP {code}", retry_after)
        answer = _object(body)
        interval = _interval(answer)
        if interval is None:
            return self._lost("an answer that is not Rollcall's")
        with self._lock:
            # What came on top meanwhile is the next heartbeat's.
            self._unreported -= self._used
        self._directed(_directive(answer))
        self._issued = _text(answer.get("agent_token")) or self._issued
        complaint, self._complaint = self._complaint, answer.get("report_errors")
        if self._complaint and self._complaint != complaint:
            log.error("a part of the heartbeat was not understood: %s", self._clean(self._complaint))
        return self._accepted(interval)

    def _accepted(self, interval):
        if not self._accepted_before or self._refusals or self._failures:
            log.info("heartbeats are accepted%s", " again" if self._accepted_before else "")
        self._accepted_before = True
        self._interval, self._refusals, self._failures = interval, 0, 0
        asleep = self._asleep()
        if asleep is not None:
            # The sleeper wakes this thread in time, unless its sleep takes more than one promise.
            return min(asleep + SLEEPER_SECONDS, PROMISE_MOST_SECONDS)
        # A little early, at random: a fleet that started at once spreads out.
        return interval * (0.9 + 0.1 * self._chance())

    def _asleep(self):
        """For how many seconds nothing happens but sleep; None if there are not any."""
        with self._lock:
            left = min(self._sleepers, default=0) - time.time()
        return left if left > 0 else None

    def _refused(self, code, body):
        """An unknown key, an agent that is not verified or is revoked, or a proxy's own door: all may pass."""
        delay = min(REFUSED_SECONDS * 2 ** min(self._refusals, 20), REFUSED_MOST_SECONDS)
        delay *= 0.9 + 0.1 * self._chance()
        self._refusals += 1
        message = _message(_object(body))
        said = f"HTTP {code}: {self._clean(message)}" if message else f"HTTP {code}, and not from Rollcall"
        log.error("heartbeat refused: %s; next try in %.1f s", said, delay)
        return delay

    def _lost(self, problem, retry_after=0):
        self._failures += 1
        backoff = min(RETRY_SECONDS * 2 ** min(self._failures, 20), self._interval)
        delay = retry_after + backoff * (0.5 + 0.5 * self._chance())
        log.warning("heartbeat failed: %s; next try in %.1f s", problem, delay)
        return delay

    def _post(self, status):
        """One exchange: the answer's status, its Retry-After in seconds, and its body."""
        parts = urllib.parse.urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("the URL must begin with http:// or https:// and a host, without a user's name")
        if self._opener is None:
            self._opener = opener(parts.hostname)
        credential, path, said = self._whom()
        body = json.dumps({**said, "status": status, "report": self._report()}).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "rollcall-heartbeat/0.1.0",
            "X-Agent-Token": credential,
        }
        request = urllib.request.Request(self._url.rstrip("/") + path, body, headers)
        request.deadline = Deadline(DEADLINE_SECONDS)
        with self._opener.open(request, timeout=DEADLINE_SECONDS) as answer:
            return answer.status, _seconds(answer.headers.get("Retry-After")), answer.read(ANSWER_BYTES)

    def _whom(self):
        """The credential, the route that takes it, and what the route has to be told."""
        if self._key or not self._name:
            path, said = "/api/v1/agent/heartbeat", {}
            self._credential = self._key or _secret("ROLLCALL_KEY")
        else:
            path, said = "/api/v1/agents/heartbeat", {"name": self._name}
            self._credential = self._token or _secret("ROLLCALL_ENROLLMENT_TOKEN")
            if self._board_id is not None:
                said["board_id"] = str(self._board_id)
        # A library's error would repeat a header's value.
        if not re.fullmatch(r"[!-~]+", self._credential):
            raise ValueError("the key or token has letters that none has" if self._credential else "there is no key")
        return self._credential, path, said

    def _report(self):
        """What this heartbeat says beside the status."""
        report = {"boot_id": _boot_id()}
        asleep = self._asleep()
        with self._lock:
            self._hurry = False
            age, self._used = self._age(), self._unreported.reportable()
            if self._obeyed is not None:
                report["ack_directive"] = self._obeyed
        if age is not None:
            report["progress_age_seconds"] = round(age, 3)
        if asleep is not None and not self._stopping:
            report["next_beat_in_seconds"] = round(min(asleep, PROMISE_MOST_SECONDS), 3)
        if self._used:
            report["usage"] = self._used.said()
        return report

    def _reason(self, error):
        cause = getattr(error, "reason", None)
        cause = cause if isinstance(cause, Exception) else error
        if isinstance(cause, (TimeoutError, socket.timeout)):
            return f"no whole answer within {DEADLINE_SECONDS:g} s"
        return self._clean(f"{type(cause).__name__}: {cause}")

    def _clean(self, text):
        """Another's text, for a line of the log."""
        text = "".join(letter if letter.isprintable() else " " for letter in str(text)[:300])
        for secret in (self._credential, self._key, self._token, self._issued):
            text = text.replace(secret, "(the key)") if secret else text
        return text

    # ---- Under `rollcall run` ----

    def _share_until_stopped(self):
        self._share(self.status)
        while not self._pause(SHARE_SECONDS):
            self._share(self.status)
        self._share(self._last_word)

    def _share(self, status):
        """One look at what the wrapper says, and one word to it."""
        try:
            said = self._state.read()
            self._directed(_directive(said))
            with self._lock:
                self._hurry = False
                age, moved = self._age(), self._progress_at
                report = {
                    "pid": os.getpid(),
                    "status": status,
                    "progress_age_seconds": None if age is None else round(age, 3),
                    "usage": self._unreported.said(),
                    "ack_directive": self._obeyed,
                }
            self._state.write(report, None if age is None else moved)
            problem = None
        except (OSError, ValueError) as error:
            problem = self._reason(error)
        before, self._complaint = self._complaint, problem
        if problem is not None and problem != before:
            log.warning("rollcall run cannot be talked to: %s", problem)

    # ---- After a fork ----

    def _forked(self):
        """In the child: the thread is not here, and the lock may be held by it for ever."""
        sending, self._running = self._running, False
        self._lock = threading.Condition()
        self._stopping = True
        # Not None: the child's copy of a `with` must not start another sender of the parent's heartbeats.
        self._thread = threading.Thread() if self._thread is not None else None
        if sending:
            log.warning(
                "process %d was forked from the one that sends the heartbeats and sends none itself; "
                "its own Heartbeat would",
                os.getpid(),
            )


_all = weakref.WeakSet()


def _after_fork():
    global _own_boot_id
    _own_boot_id = os.urandom(8).hex()
    for heartbeat in list(_all):
        heartbeat._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---- What a heartbeat says ----

_own_boot_id = os.urandom(8).hex()


def _boot_id():
    """16 hexadecimal digits of this process; or of the deployment, which knows better what one agent is."""
    given = os.environ.get("ROLLCALL_BOOT_ID", "").lower()
    return given if re.fullmatch(r"[0-9a-f]{16}", given) else _own_boot_id


class _Usage:
    """Tokens, and dollars in whole millionths, as the server counts them; the rest waits for more."""

    def __init__(self, tokens=0, cost_usd=0.0):
        self.tokens, self.cost_usd = tokens, cost_usd

    def __add__(self, other):
        return _Usage(self.tokens + other.tokens, self.cost_usd + other.cost_usd)

    def __sub__(self, other):
        return _Usage(self.tokens - other.tokens, self.cost_usd - other.cost_usd)

    def __bool__(self):
        return self.tokens > 0 or self.cost_usd > 0

    def reportable(self):
        return _Usage(min(self.tokens, 10**12), max(min(round(self.cost_usd, 6), 1e12), 0))

    def said(self):
        return {"tokens": self.tokens, "cost_usd": round(self.cost_usd, 6)}


def _text(value):
    return "" if value is None else str(value).strip()


def _secret(name):
    """The environment's secret, or that of the file that it names."""
    value = os.environ.get(name, "").strip()
    file = os.environ.get(name + "_FILE")
    if not value and file:
        with open(file, encoding="utf-8") as opened:
            value = opened.read(4096).strip()
    return value


# ---- What an answer says ----


def _object(body):
    """The object that a body is; an empty one if it is not."""
    try:
        answer = json.loads(body)
    except (ValueError, TypeError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _interval(answer):
    """The interval that an accepted heartbeat names, or None."""
    try:
        return min(max(int(answer["heartbeat_config"]["interval_seconds"]), 1), 86400)
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


def _directive(answer):
    """The directive of an accepted heartbeat, or None."""
    try:
        directive = answer["directive"]
        known = type(directive["version"]) is int and isinstance(directive["action"], str)
    except (ValueError, TypeError, LookupError):
        return None
    return directive if known else None


def _message(answer):
    """What Rollcall says of a refusal, or None if it was not Rollcall."""
    detail = answer.get("detail")
    if isinstance(detail, list):
        detail = "; ".join(str(problem.get("msg")) for problem in detail if isinstance(problem, dict))
    return detail if isinstance(detail, str) else None


def _seconds(retry_after):
    """Retry-After, a number or a date, in seconds from now; 0 without one."""
    try:
        seconds = int(retry_after)
    except (TypeError, ValueError):
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError, IndexError, OverflowError):
            return 0
    return min(max(seconds, 0), RETRY_AFTER_MOST_SECONDS)
