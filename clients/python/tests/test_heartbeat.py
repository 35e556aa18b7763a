"""The client against servers that answer by a script. Its pauses are written down and take no time."""

import asyncio
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "src"))

import rollcall_heartbeat  # noqa: E402
from rollcall_heartbeat import Heartbeat, Stop  # noqa: E402

KEY = "000102030405060708090a0b0c0d0e0f1011121314151617"
HTML = "<html><h1>401 Authorization Required</h1></html>"
PATIENCE = 60  # before a test fails instead of hanging


def answer(code, body="", **headers):
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code} Scripted\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def accepted(interval, **directive):
    data = {"intervalSeconds": interval}
    if directive:
        data["directive"] = directive
    return answer(200, json.dumps({"ok": True, "data": data}))


def refused(message):
    return answer(401, json.dumps({"ok": False, "error": {"code": "UNAUTHORIZED", "message": message}}))


def dripping(connection):
    """A byte now and then, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"a")
        threading.Event().wait(0.02)


def endless(beginning):
    def send(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + beginning)
        while True:
            connection.sendall(b"X-Long: " + b"a" * 4096 + b"\r\n")

    return send


class Server:
    """Answers as its script says, then with 500, and keeps what it was asked."""

    def __init__(self, *script):
        self.asked = []
        self._script = list(script)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    self._answer(connection)
                except OSError:
                    pass

    def _answer(self, connection):
        with connection.makefile("rb") as request:
            path = request.readline().split()[1].decode()
            length = 0
            for line in iter(request.readline, b"\r\n"):
                name, value = line.decode().split(":", 1)
                length = int(value) if name.lower() == "content-length" else length
            self.asked.append((path, json.loads(request.read(length))))
        reply = self._script.pop(0) if self._script else answer(500)
        if callable(reply):
            reply(connection)
        else:
            connection.sendall(reply)

    def statuses(self):
        return [body["status"] for _, body in self.asked]

    def close(self):
        self._socket.close()


class Recorded(Heartbeat):
    """Stops in its n-th pause; its random numbers are all the same."""

    def __init__(self, url, pauses, chance=1.0, key=KEY):
        super().__init__(url, key)
        self.delays = []
        self._pauses = pauses
        self._chance = lambda: chance

    def _pause(self, seconds):
        self.delays.append(round(seconds, 6))
        return len(self.delays) >= self._pauses

    def run(self):
        self.start()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.delays


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


class HeartbeatTest(unittest.TestCase):
    def setUp(self):
        self.handler = Lines()
        log = logging.getLogger("rollcall")
        log.addHandler(self.handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        self.addCleanup(log.removeHandler, self.handler)

    def server(self, *script):
        server = Server(*script)
        self.addCleanup(server.close)
        return server

    def shrink(self, name, value):
        self.addCleanup(setattr, rollcall_heartbeat, name, getattr(rollcall_heartbeat, name))
        setattr(rollcall_heartbeat, name, value)

    @property
    def lines(self):
        return self.handler.lines

    def test_it_beats_at_the_answers_interval_and_says_offline_at_the_end(self):
        server = self.server(accepted(30), accepted(10), accepted(10))
        self.assertEqual(Recorded(server.url + "/", 2).run(), [30.0, 10.0])
        self.assertEqual(server.statuses(), ["healthy", "healthy", "offline"])
        self.assertEqual({path for path, _ in server.asked}, {"/api/agents/heartbeat"})
        self.assertEqual(self.lines, ["heartbeats are accepted"])

    def test_it_is_early_by_up_to_a_tenth_of_the_interval(self):
        self.assertEqual(Recorded(self.server(accepted(60), accepted(60)).url, 1, chance=0.0).run(), [54.0])

    def test_a_refusal_slows_it_down_and_the_first_yes_ends_that(self):
        no = refused("the agent is not verified")
        server = self.server(*[no] * 6, accepted(30), answer(403, HTML), accepted(30), accepted(30))
        delays = Recorded(server.url, 9).run()
        self.assertEqual(delays, [60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 30.0, 60.0, 30.0])
        self.assertEqual(
            [self.lines[0], self.lines[5], *self.lines[6:]],
            [
                "heartbeat refused: HTTP 401: the agent is not verified; next try in 60.0 s",
                "heartbeat refused: HTTP 401: the agent is not verified; next try in 600.0 s",
                "heartbeats are accepted",
                "heartbeat refused: HTTP 403, and not from Rollcall; next try in 60.0 s",
                "heartbeats are accepted again",
            ],
        )

    def test_a_lost_heartbeat_is_tried_again_within_the_interval_with_jitter(self):
        lost = [answer(500), lambda connection: None, answer(502), answer(200, HTML), answer(404)]
        server = self.server(accepted(10), *lost, accepted(10), answer(500), accepted(10))
        self.assertEqual(Recorded(server.url, 8).run(), [10.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 2.0])
        self.assertIn("heartbeat failed: an answer that is not Rollcall's; next try in 10.0 s", self.lines)
        self.assertEqual(Recorded(self.server(answer(500)).url, 1, chance=0.0).run(), [1.0])

    def test_retry_after_is_honoured_and_the_jitter_comes_on_top(self):
        server = self.server(answer(429, Retry_After=17), answer(503, Retry_After="2"))
        self.assertEqual(Recorded(server.url, 2).run(), [17 + 2.0, 2 + 4.0])

    def test_any_retry_after_is_borne(self):
        odd = ["soon", "-5", "1e9", "9" * 20, "9" * 5000, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct"]
        server = self.server(*[answer(429, Retry_After=value) for value in odd])
        delays = Recorded(server.url, len(odd)).run()
        self.assertEqual(delays[:4] + delays[5:], [2.0, 4.0, 8.0, 3600 + 16.0, 60.0, 60.0])

    def test_a_date_in_retry_after_is_read(self):
        self.assertEqual(rollcall_heartbeat._seconds("Thu, 01 Jan 2099 00:00:00 GMT"), 3600)

    def test_a_dripping_answer_ends_with_the_deadline(self):
        self.shrink("DEADLINE_SECONDS", 0.3)
        server = self.server(dripping, accepted(30))
        self.assertEqual(Recorded(server.url, 1).run(), [2.0])
        self.assertEqual(self.lines[0], "heartbeat failed: no whole answer within 0.3 s; next try in 2.0 s")

    def test_of_an_endless_answer_64_kib_are_read(self):
        server = self.server(endless(b""), endless(b"\r\n"))
        self.assertEqual(Recorded(server.url, 2).run(), [2.0, 4.0])
        for line in self.lines[:2]:
            self.assertIn("OSError: the answer is longer than 65536 bytes", line)

    def test_a_redirect_is_not_followed(self):
        elsewhere = self.server()
        server = self.server(answer(307, Location=elsewhere.url + "/api/agents/heartbeat"))
        Recorded(server.url, 1).run()
        self.assertEqual(elsewhere.asked, [])
        self.assertEqual(self.lines[0], "heartbeat failed: HTTP 307; next try in 2.0 s")

    def test_a_server_that_is_away_and_a_url_that_is_none_are_borne(self):
        gone = socket.create_server(("127.0.0.1", 0))
        url = "http://127.0.0.1:%d" % gone.getsockname()[1]
        gone.close()
        for url in [url, "nonsense", "", "file:///etc/passwd", f"http://me:{KEY}@127.0.0.1", "http://[::1"]:
            with self.subTest(url=url):
                self.assertEqual(Recorded(url, 2).run(), [2.0, 4.0])
        self.assertEqual(len(self.lines), 6 * 3)

    def test_neither_the_key_nor_a_control_character_reaches_the_log(self):
        server = self.server(refused(f"\x1b[2J no {KEY}\n"), lambda c: c.sendall(KEY.encode() + b"\x1b\r\n"))
        Recorded(server.url, 2).run()
        self.assertEqual(self.lines[0], "heartbeat refused: HTTP 401:  [2J no (the key) ; next try in 60.0 s")
        self.assertFalse([line for line in self.lines if KEY in line or "\x1b" in line])

    def test_the_status_is_what_the_next_heartbeats_say(self):
        server = self.server(accepted(30), accepted(30))
        heartbeat = Recorded(server.url, 1)
        heartbeat.status = "degraded"
        heartbeat.status = "offline"
        self.assertEqual(heartbeat.status, "degraded")
        heartbeat.run()
        self.assertEqual(server.statuses(), ["degraded", "offline"])
        self.assertIn("'offline' is not one of healthy, degraded, error", self.lines[0])

    def test_a_clean_end_says_offline_and_a_failure_says_error(self):
        def ends_with(error):
            first = threading.Event()
            server = self.server(lambda c: (c.sendall(accepted(30)), first.set()), accepted(30))
            try:
                with Heartbeat(server.url, KEY) as heartbeat:
                    self.assertTrue(first.wait(PATIENCE))
                    self.assertTrue(heartbeat.alive)
                    if error is not None:
                        raise error
            except BaseException as raised:
                self.assertIs(raised, error)
            self.assertFalse(heartbeat.alive)
            return server.statuses()[-1]

        for clean in (None, KeyboardInterrupt(), SystemExit(0), SystemExit()):
            self.assertEqual(ends_with(clean), "offline", clean)
        for failed in (ValueError(), SystemExit(3)):
            self.assertEqual(ends_with(failed), "error", failed)

    def test_progress_has_an_age_only_while_there_is_work(self):
        heartbeat = Heartbeat("http://127.0.0.1", KEY)
        self.assertIsNone(heartbeat.progress_age)
        with heartbeat.working():
            before = heartbeat.progress_age
            with heartbeat.working():
                heartbeat.progress()
            self.assertLessEqual(0, heartbeat.progress_age)
            self.assertLessEqual(0, before)
        self.assertIsNone(heartbeat.progress_age)

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork here")
    def test_after_a_fork_the_child_says_once_that_it_does_not_beat(self):
        first = threading.Event()
        server = self.server(lambda c: (c.sendall(accepted(30)), first.set()), accepted(30))
        with Heartbeat(server.url, KEY) as heartbeat:
            self.assertTrue(first.wait(PATIENCE))
            # As the thread might be holding it.
            with heartbeat._lock:
                child = os.fork()
                if child == 0:
                    said = [line for line in self.lines if "was forked" in line]
                    heartbeat.status = "degraded"
                    heartbeat.progress()
                    heartbeat.start()
                    heartbeat.stop()
                    os._exit(0 if len(said) == 1 and not heartbeat.alive else 1)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
            self.assertTrue(heartbeat.alive)
        self.assertEqual(server.statuses(), ["healthy", "offline"])

    def test_a_thread_that_cannot_start_is_one_line(self):
        heartbeat = Heartbeat("http://127.0.0.1", KEY)

        def no_more(_thread):
            raise RuntimeError("can't start new thread")

        start, threading.Thread.start = threading.Thread.start, no_more
        try:
            with heartbeat:
                self.assertFalse(heartbeat.alive)
        finally:
            threading.Thread.start = start
        self.assertEqual(self.lines, ["no heartbeats: can't start new thread"])


class Directives(unittest.TestCase):
    """What an operator wants, in the answers."""

    PAUSE = {"version": 7, "action": "pause"}

    def beat(self, *script):
        server = Server(*script)
        self.addCleanup(server.close)
        heartbeat = Heartbeat(server.url, KEY)
        for _ in script:
            heartbeat._beat()
        return server, heartbeat

    def acknowledged(self, server):
        return [body.get("report", {}).get("ackDirective") for _, body in server.asked]

    def test_the_last_accepted_heartbeat_says_it_and_nothing_else(self):
        _, heartbeat = self.beat(accepted(1, **self.PAUSE), answer(500), refused("revoked"))
        self.assertEqual(heartbeat.directive, self.PAUSE)
        _, heartbeat = self.beat(accepted(1, **self.PAUSE), accepted(1))
        self.assertIsNone(heartbeat.directive)

    def test_a_directive_that_nobody_looks_at_is_not_acknowledged(self):
        server, _ = self.beat(accepted(1, **self.PAUSE), accepted(1, **self.PAUSE))
        self.assertEqual(self.acknowledged(server), [None, None])

    def test_check_waits_for_the_end_of_a_pause_and_the_pause_is_acknowledged(self):
        server, heartbeat = self.beat(accepted(1, **self.PAUSE))
        server._script += [accepted(1, **self.PAUSE), accepted(1, version=8, action="run"), accepted(1)]
        passed = threading.Event()
        work = threading.Thread(target=lambda: (heartbeat.check(), passed.set()), daemon=True)
        work.start()
        for _ in range(PATIENCE * 100):
            if heartbeat._obeyed is not None:
                break
            threading.Event().wait(0.01)
        heartbeat._beat()
        self.assertFalse(passed.is_set())
        heartbeat._beat()
        self.assertTrue(passed.wait(PATIENCE))
        heartbeat._beat()
        self.assertEqual(self.acknowledged(server), [None, 7, 7, 8])

    def test_a_coroutine_waits_too(self):
        _, heartbeat = self.beat(accepted(1, **self.PAUSE))

        async def work():
            waiting = asyncio.ensure_future(heartbeat.acheck())
            await asyncio.sleep(0)
            self.assertFalse(waiting.done())
            heartbeat._directed(None)
            await asyncio.wait_for(waiting, PATIENCE)

        asyncio.run(work())

    def test_stop_passes_handlers_of_exceptions_and_is_acknowledged(self):
        server, heartbeat = self.beat(accepted(1, version=9, action="stop"))
        with self.assertRaises(Stop):
            try:
                heartbeat.check()
            except Exception:
                self.fail("a framework would have swallowed it")
        heartbeat._post("offline")
        self.assertEqual(self.acknowledged(server), [None, 9])

    def test_a_budgets_pause_is_obeyed_and_not_acknowledged(self):
        _, heartbeat = self.beat(accepted(1, version=0, action="pause"))
        self.assertFalse(heartbeat._may_go_on())
        self.assertIsNone(heartbeat._obeyed)

    def test_what_check_cannot_obey_is_the_programs_to_acknowledge(self):
        _, heartbeat = self.beat(accepted(1, version=5, action="drain"))
        heartbeat.check()
        self.assertIsNone(heartbeat._obeyed)
        heartbeat.acknowledge(heartbeat.directive)
        self.assertEqual(heartbeat._obeyed, 5)

    def test_an_unreadable_directive_is_none(self):
        for directive in ({"version": "7", "action": "pause"}, {"version": 7}, {"action": "stop"}):
            _, heartbeat = self.beat(accepted(1, **directive))
            self.assertIsNone(heartbeat.directive)


if __name__ == "__main__":
    unittest.main()
