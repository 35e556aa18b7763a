"""Heartbeats for Rollcall, from a daemon thread of any Python program.

    with Heartbeat("https://rollcall.example", key) as heartbeat:
        with heartbeat.working():
            for task in tasks:
                run(task)
                heartbeat.progress()

No failure reaches the program: everything is told to the logger `rollcall`, and the key is never logged.
"""

import asyncio
import contextlib
import email.utils
import functools
import http.client
import io
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
import weakref

__all__ = ["Heartbeat", "Stop"]

log = logging.getLogger("rollcall")

DEADLINE_SECONDS = 10
"""What one heartbeat may take in all, from the connection to the last byte of the answer."""

ANSWER_BYTES = 64 * 1024
"""What is read of an answer at most, its headers included."""

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

ACHECK_SECONDS = 0.2
"""How often `acheck()` looks again during a pause."""

STOP_SECONDS = 5
"""How long the end of the program waits for the last word."""


class Stop(BaseException):
    """An operator asked this agent to stop. No `Exception`: frameworks swallow those."""


class Heartbeat:
    """Tells Rollcall that this process is alive, at the interval that its answers name."""

    def __init__(self, url, key):
        self._url = str(url).rstrip("/") + "/api/agents/heartbeat"
        self._key = str(key).strip()
        self._opener = None  # made by the thread: reading the machine's certificates takes a while
        self._chance = random.random
        # The one lock guards what the program and the thread share: the next seven.
        self._lock = threading.Condition()
        self._status = "healthy"
        self._last_word = "offline"
        self._stopping = False
        self._workers = 0
        self._progress_at = None
        self._directive = None
        self._obeyed = None  # the version that the next heartbeats acknowledge
        # The thread's own.
        self._interval = FIRST_INTERVAL_SECONDS
        self._accepted_before = False
        self._refusals = 0
        self._failures = 0
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
        """Seconds since the work last got further; None while there is none."""
        with self._lock:
            return time.monotonic() - self._progress_at if self._workers else None

    @property
    def directive(self):
        """What an operator wants, by the last accepted heartbeat: `{"version", "action", "deadline"?}`; None: work."""
        with self._lock:
            return None if self._directive is None else dict(self._directive)

    def acknowledge(self, directive):
        """Tells Rollcall, with the next heartbeats, that this directive is obeyed. `check()` does it by itself."""
        with self._lock:
            self._obey(directive)

    def check(self):
        """Called by the loop that works: blocks while an operator wants a pause, and raises `Stop` at `stop`."""
        with self._lock:
            self._lock.wait_for(self._may_go_on)

    async def acheck(self):
        """`check()` for coroutines: it never blocks their loop."""
        while True:
            with self._lock:
                if self._may_go_on():
                    return
            await asyncio.sleep(ACHECK_SECONDS)

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
        with self._lock:
            before, self._directive = self._directive, directive
            if directive is None:
                self._obeyed = None
            if directive != before:
                self._lock.notify_all()
        if directive != before:
            log.info("directive: %s", self._clean(directive["action"]) if directive else "none")

    # ---- The thread ----

    def _run(self):
        self._running = True
        try:
            self._beat_until_stopped()
            self._say_last_word()
        finally:
            self._running = False

    def _beat_until_stopped(self):
        while True:
            try:
                delay = self._beat()
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
        """Waits; whether the end was asked for."""
        with self._lock:
            return self._lock.wait_for(lambda: self._stopping, seconds)

    def _beat(self):
        """Sends one heartbeat; how long to wait until the next."""
        try:
            code, retry_after, body = self._post(self.status)
        except Exception as error:
            return self._lost(self._reason(error))
        if code in (401, 403):
            return self._refused(code, body)
        if code != 200:
            return self._lost(f"HTTP {code}", retry_after)
        interval = _interval(body)
        if interval is None:
            return self._lost("an answer that is not Rollcall's")
        self._directed(_directive(body))
        return self._accepted(interval)

    def _accepted(self, interval):
        if not self._accepted_before or self._refusals or self._failures:
            log.info("heartbeats are accepted%s", " again" if self._accepted_before else "")
        self._accepted_before = True
        self._interval, self._refusals, self._failures = interval, 0, 0
        # A little early, at random: a fleet that started at once spreads out.
        return interval * (0.9 + 0.1 * self._chance())

    def _refused(self, code, body):
        """An unknown key, an agent that is not verified or is revoked, or a proxy's own door: all may pass."""
        delay = min(REFUSED_SECONDS * 2 ** min(self._refusals, 20), REFUSED_MOST_SECONDS)
        delay *= 0.9 + 0.1 * self._chance()
        self._refusals += 1
        message = _message(body)
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
            self._opener = _opener()
        said = {"apiKey": self._key, "status": status}
        with self._lock:
            if self._obeyed is not None:
                said["report"] = {"ackDirective": self._obeyed}
        body = json.dumps(said).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "rollcall-heartbeat/0.1.0"}
        request = urllib.request.Request(self._url, body, headers)
        request.deadline = _Deadline(DEADLINE_SECONDS)
        with self._opener.open(request, timeout=DEADLINE_SECONDS) as answer:
            return answer.status, _seconds(answer.headers.get("Retry-After")), answer.read(ANSWER_BYTES)

    def _reason(self, error):
        cause = getattr(error, "reason", None)
        cause = cause if isinstance(cause, Exception) else error
        if isinstance(cause, (TimeoutError, socket.timeout)):
            return f"no whole answer within {DEADLINE_SECONDS:g} s"
        return self._clean(f"{type(cause).__name__}: {cause}")

    def _clean(self, text):
        """Another's text, for a line of the log."""
        text = "".join(letter if letter.isprintable() else " " for letter in str(text)[:300])
        return text.replace(self._key, "(the key)") if self._key else text

    # ---- After a fork ----

    def _forked(self):
        """In the child: the thread is not here, and the lock may be held by it for ever."""
        beating, self._running = self._running, False
        self._lock = threading.Condition()
        self._stopping = True
        # Not None: the child's copy of a `with` must not start another sender of the parent's heartbeats.
        self._thread = threading.Thread() if self._thread is not None else None
        if beating:
            log.warning(
                "process %d was forked from the one that sends the heartbeats and sends none itself; "
                "its own Heartbeat would",
                os.getpid(),
            )


_all = weakref.WeakSet()


def _after_fork():
    for heartbeat in list(_all):
        heartbeat._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---- What an answer says ----


def _interval(body):
    """The interval that an accepted heartbeat names, or None."""
    try:
        return min(max(int(json.loads(body)["data"]["intervalSeconds"]), 1), 86400)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None


def _directive(body):
    """The directive of an accepted heartbeat, or None."""
    try:
        directive = json.loads(body)["data"]["directive"]
        known = type(directive["version"]) is int and isinstance(directive["action"], str)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return directive if known else None


def _message(body):
    """What Rollcall says of a refusal, or None if it was not Rollcall."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return message if isinstance(message, str) else None


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


# ---- One exchange under one deadline ----


class _Deadline:
    def __init__(self, seconds):
        self._at = time.monotonic() + seconds

    def left(self):
        """The seconds that are left."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline is over")
        return left


class _Reader(io.RawIOBase):
    """Reads a socket until the deadline, and not too much: a timeout of the socket's own is for each read alone."""

    def __init__(self, connection, deadline):
        super().__init__()
        self._connection, self._deadline, self._left = connection, deadline, ANSWER_BYTES
        self._raw = connection.makefile("rb", buffering=0)

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._left <= 0:
            raise OSError(f"the answer is longer than {ANSWER_BYTES} bytes")
        self._connection.settimeout(self._deadline.left())
        read = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= read or 0
        return read

    def close(self):
        self._raw.close()
        super().close()


class _Bounded:
    """A socket, as far as an HTTP response wants one."""

    def __init__(self, connection, deadline):
        self._connection, self._deadline = connection, deadline

    def makefile(self, *_arguments, **_named):
        return io.BufferedReader(_Reader(self._connection, self._deadline))


def _response(deadline, connection, *arguments, **named):
    return http.client.HTTPResponse(_Bounded(connection, deadline), *arguments, **named)


class _BoundedConnection:
    """The parts of a connection that could take longer than they should."""

    def __init__(self, *arguments, deadline, **named):
        super().__init__(*arguments, **named)
        self._deadline = deadline
        self.response_class = functools.partial(_response, deadline)
        self._create_connection = self._reach

    def _reach(self, address, *_arguments, **_named):
        """Connects to one of the host's addresses; each gets its share of the time, so that a dead one is passed by."""
        host, port = address
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        problem = OSError("the host has no address")
        for index, (family, kind, protocol, _, place) in enumerate(places):
            connection = None
            try:
                connection = socket.socket(family, kind, protocol)
                connection.settimeout(self._deadline.left() / (len(places) - index))
                connection.connect(place)
                connection.settimeout(self._deadline.left())
                return connection
            except OSError as error:
                problem = error
                if connection is not None:
                    connection.close()
        raise problem

    def send(self, data):
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self._deadline.left())
        super().send(data)


class _Http(_BoundedConnection, http.client.HTTPConnection):
    pass


class _Https(_BoundedConnection, http.client.HTTPSConnection):
    pass


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(functools.partial(_Http, deadline=request.deadline), request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self):
        self._trust = ssl.create_default_context()
        super().__init__(context=self._trust)

    def https_open(self, request):
        connection = functools.partial(_Https, deadline=request.deadline)
        return self.do_open(connection, request, context=self._trust)


def _opener():
    """HTTP by way of the environment's proxies. No redirect is followed: the key is for this host alone."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _HttpHandler(), _HttpsHandler()):
        opener.add_handler(handler)
    return opener
