"""The client against servers that answer by a script. Its pauses are written down and take no time."""

import asyncio
import json
import logging
import os
import pathlib
import re
import socket
import sys
import tempfile
import threading
import unittest
import unittest.mock

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
    agent = {"status": "healthy", "heartbeat_config": {"interval_seconds": interval}}
    if directive:
        agent["directive"] = directive
    return answer(200, json.dumps(agent))


def refused(message):
    return answer(401, json.dumps({"detail": message, "request_id": "1"}))


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
        self.credentials = []
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
            headers = {}
            for line in iter(request.readline, b"\r\n"):
                name, value = line.decode().split(":", 1)
                headers[name.lower()] = value.strip()
            self.credentials.append(headers["x-agent-token"])
            self.asked.append((path, json.loads(request.read(int(headers["content-length"])))))
        reply = self._script.pop(0) if self._script else answer(500)
        if callable(reply):
            reply(connection)
        else:
            connection.sendall(reply)

    def statuses(self):
        return [body["status"] for _, body in self.asked]

    def reported(self, field):
        return [body["report"].get(field) for _, body in self.asked]

    def close(self):
        self._socket.close()


class Recorded(Heartbeat):
    """Stops in its n-th pause; its random numbers are all the same."""

    def __init__(self, url, pauses, chance=1.0, key=KEY, **named):
        super().__init__(url, key, **named)
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
        self.assertEqual({path for path, _ in server.asked}, {"/api/v1/agent/heartbeat"})
        self.assertEqual(set(server.credentials), {KEY})
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
        server = self.server(answer(307, Location=elsewhere.url + "/api/v1/agent/heartbeat"))
        Recorded(server.url, 1).run()
        self.assertEqual(elsewhere.asked, [])
        self.assertEqual(self.lines[0], "heartbeat failed: HTTP 307; next try in 2.0 s")

    def test_a_proxy_does_not_get_what_is_for_this_machine(self):
        proxy, server = self.server(accepted(30)), self.server(accepted(30))
        with unittest.mock.patch.dict(os.environ, http_proxy=proxy.url):
            Recorded(server.url, 1).run()
            Recorded("http://rollcall.example", 1).run()
        self.assertEqual([path for path, _ in server.asked][:1], ["/api/v1/agent/heartbeat"])
        self.assertEqual(proxy.asked[0][0], "http://rollcall.example/api/v1/agent/heartbeat")

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
    def test_after_a_fork_the_child_says_once_that_it_sends_no_heartbeats(self):
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


def until(is_so):
    """Waits for what another thread does."""
    for _ in range(PATIENCE * 100):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")


class Reports(unittest.TestCase):
    """What heartbeats say beside the status."""

    def heartbeat(self, *script, **named):
        server = Server(*script)
        self.addCleanup(server.close)
        return server, Recorded(server.url, 1, **named)

    def environment(self, **variables):
        for name, value in variables.items():
            self.addCleanup(os.environ.__setitem__, name, os.environ[name]) if name in os.environ else (
                self.addCleanup(os.environ.pop, name, None)
            )
            os.environ[name] = value

    def test_usage_is_reported_until_it_is_accepted_and_then_anew(self):
        server, heartbeat = self.heartbeat(answer(503), answer(200, HTML), *[accepted(1)] * 4)
        heartbeat.usage(tokens=100, cost_usd=0.1)
        heartbeat._send_one()
        heartbeat.usage(tokens=20, cost_usd=0.2)
        for _ in range(3):
            heartbeat._send_one()
        # Two of these are one millionth, and the rest waits.
        for _ in range(2):
            heartbeat.usage(cost_usd=0.0000007)
            heartbeat._send_one()
        both = {"tokens": 120, "cost_usd": 0.3}
        self.assertEqual(
            server.reported("usage"),
            [{"tokens": 100, "cost_usd": 0.1}, both, both, None, {"tokens": 0, "cost_usd": 0.000001}, None],
        )

    def test_usage_during_a_heartbeat_is_the_next_ones(self):
        heard, go_on = threading.Event(), threading.Event()

        def slow(connection):
            heard.set()
            go_on.wait(PATIENCE)
            connection.sendall(accepted(1))

        server, heartbeat = self.heartbeat(slow, accepted(1))
        heartbeat.usage(tokens=1)
        thread = threading.Thread(target=heartbeat._send_one)
        thread.start()
        self.assertTrue(heard.wait(PATIENCE))
        heartbeat.usage(tokens=2)
        go_on.set()
        thread.join()
        heartbeat._send_one()
        self.assertEqual([usage["tokens"] for usage in server.reported("usage")], [1, 2])

    def test_the_end_reports_what_was_used(self):
        server, heartbeat = self.heartbeat(accepted(1), accepted(1))
        heartbeat._pause = lambda _seconds: heartbeat.usage(tokens=5) or True
        heartbeat.run()
        self.assertEqual(server.reported("usage"), [None, {"tokens": 5, "cost_usd": 0}])

    def test_usage_that_is_no_number_is_a_line_and_no_more(self):
        _, heartbeat = self.heartbeat()
        for tokens, dollars in ((-1, 0), ("many", 0), (None, 0), (0, float("nan")), (float("inf"), 0), (0, -0.1)):
            with self.assertLogs("rollcall", "ERROR"):
                heartbeat.usage(tokens=tokens, cost_usd=dollars)
        self.assertFalse(heartbeat._unreported)

    def test_the_age_of_progress_is_reported_while_there_is_work(self):
        server, heartbeat = self.heartbeat(accepted(1), accepted(1), accepted(1))
        heartbeat._send_one()
        with heartbeat.working():
            heartbeat._progress_at -= 30
            heartbeat._send_one()
        heartbeat._send_one()
        before, during, after = server.reported("progress_age_seconds")
        self.assertEqual((before, int(during) >= 30, after), (None, True, None))

    def test_a_process_has_one_boot_id_and_a_deployment_may_choose_it(self):
        server, heartbeat = self.heartbeat(*[accepted(1)] * 3)
        heartbeat._send_one()
        Heartbeat(server.url, KEY)._send_one()
        self.environment(ROLLCALL_BOOT_ID="0123456789ABCDEF")
        heartbeat._send_one()
        first, second, given = server.reported("boot_id")
        self.assertRegex(first, "^[0-9a-f]{16}$")
        self.assertEqual((second, given), (first, "0123456789abcdef"))

    def test_a_sleep_promises_the_next_heartbeat_and_there_is_none_before(self):
        server = Server(accepted(1), accepted(1), accepted(1))
        self.addCleanup(server.close)
        heartbeat = Heartbeat(server.url, KEY)
        heartbeat._interval = 0
        until_when = rollcall_heartbeat.time.time() + 3
        with heartbeat, heartbeat.working():
            heartbeat._progress_at -= 1000
            heartbeat.sleep_until(until_when)
            self.assertGreaterEqual(rollcall_heartbeat.time.time(), until_when)
            self.assertLess(heartbeat.progress_age, 1000)
            until(lambda: len(server.asked) >= 2 and server.reported("next_beat_in_seconds")[-1] is None)
        promises = [promise for promise in server.reported("next_beat_in_seconds") if promise is not None]
        self.assertEqual(len(promises), 1)
        asleep = server.reported("next_beat_in_seconds").index(promises[0])
        self.assertIsNone(server.reported("progress_age_seconds")[asleep])

    def test_a_sleep_shorter_than_the_interval_is_not_worth_a_promise(self):
        server, heartbeat = self.heartbeat(accepted(60))
        heartbeat._send_one()
        heartbeat.sleep_until(rollcall_heartbeat.time.time() + 0.1)
        self.assertFalse(heartbeat._hurry)

    def test_the_end_wakes_a_sleeper_and_promises_nothing(self):
        server = Server(accepted(1), accepted(1), accepted(1))
        self.addCleanup(server.close)
        heartbeat = Heartbeat(server.url, KEY).start()
        sleeper = threading.Thread(target=heartbeat.sleep_until, args=(rollcall_heartbeat.time.time() + 7200,))
        sleeper.start()
        until(lambda: server.asked and server.reported("next_beat_in_seconds")[-1] is not None)
        heartbeat.stop()
        sleeper.join(PATIENCE)
        self.assertFalse(sleeper.is_alive())
        self.assertEqual((server.statuses()[-1], server.reported("next_beat_in_seconds")[-1]), ("offline", None))

    def test_after_a_failure_nobody_hurries(self):
        server, heartbeat = self.heartbeat(answer(429, Retry_After=1000))
        heartbeat._send_one()
        heartbeat._hurry = True
        early = []
        heartbeat._lock.wait_for = lambda ready, _seconds: early.append(ready())
        Heartbeat._pause(heartbeat, 1)
        self.assertEqual(early, [False])

    def test_a_name_and_a_token_create_the_agent_and_its_key_is_shown(self):
        new = json.loads(accepted(1).split(b"\r\n\r\n")[1])
        created = answer(200, json.dumps({**new, "agent_token": KEY}))
        server, heartbeat = self.heartbeat(created, accepted(1), accepted(1), key=None, name="n", token="rce_1")
        self.assertIsNone(heartbeat.key)
        heartbeat._send_one()
        self.assertEqual(heartbeat.key, KEY)
        heartbeat._send_one()
        heartbeat.key = "rotated"
        heartbeat._send_one()
        self.assertEqual(server.credentials, ["rce_1", "rce_1", "rotated"])
        asked = [(path, body.get("name")) for path, body in server.asked]
        self.assertEqual(asked, [("/api/v1/agents/heartbeat", "n")] * 2 + [("/api/v1/agent/heartbeat", None)])

    def test_the_environment_or_its_file_has_what_the_program_does_not_say(self):
        server, _ = self.heartbeat(accepted(1), accepted(1))
        self.environment(ROLLCALL_URL=server.url, ROLLCALL_KEY=KEY)
        Heartbeat()._send_one()
        del os.environ["ROLLCALL_KEY"]
        with tempfile.NamedTemporaryFile("w+") as file:
            print("rce_2", file=file, flush=True)
            self.environment(ROLLCALL_ENROLLMENT_TOKEN_FILE=file.name)
            Heartbeat(name="n")._send_one()
        self.assertEqual(server.credentials, [KEY, "rce_2"])

    def test_a_key_that_no_header_takes_is_not_repeated(self):
        with self.assertLogs("rollcall") as said:
            Heartbeat("http://127.0.0.1:1", "a secret\nof two lines")._send_one()
            Heartbeat("http://127.0.0.1:1")._send_one()
        first, second = said.output
        self.assertNotIn("secret", first)
        self.assertIn("there is no key", second)

    def test_what_was_not_understood_is_said_once(self):
        body = json.loads(accepted(1).split(b"\r\n\r\n")[1])
        odd = answer(200, json.dumps({**body, "report_errors": ["report.usage: must be an object"]}))
        _, heartbeat = self.heartbeat(odd, odd)
        with self.assertLogs("rollcall", "ERROR") as said:
            heartbeat._send_one()
            heartbeat._send_one()
        self.assertEqual(len(said.output), 1)


class UnderTheWrapper(unittest.TestCase):
    """`ROLLCALL_STATE`: the wrapper sends the heartbeats."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = pathlib.Path(folder.name) / "state"
        self.says(None)
        self.addCleanup(os.environ.pop, "ROLLCALL_STATE", None)
        os.environ["ROLLCALL_STATE"] = str(self.state)

    def says(self, directive):
        self.state.write_text(json.dumps({"directive": directive}))

    def reports(self):
        files = [path for path in self.state.parent.iterdir() if re.search(r"state\.[0-9a-f]{16}$", path.name)]
        return [json.loads(path.read_text()) for path in files]

    def test_nothing_is_sent_and_the_wrapper_reads_all_of_it(self):
        server = Server(accepted(1))
        self.addCleanup(server.close)
        with Heartbeat(server.url, KEY) as heartbeat:
            self.assertTrue(heartbeat.alive)
            heartbeat.status = "degraded"
            heartbeat.usage(tokens=7, cost_usd=0.5)
            with heartbeat.working():
                until(lambda: self.reports() and self.reports()[0]["progress_age_seconds"] is not None)
                until(lambda: self.reports()[0]["status"] == "degraded")
                [report] = self.reports()
                self.assertLess(report.pop("progress_age_seconds"), PATIENCE)
            expected = {"pid": os.getpid(), "status": "degraded", "ack_directive": None}
            self.assertEqual(report, {**expected, "usage": {"tokens": 7, "cost_usd": 0.5}})
            heartbeat.usage(tokens=1)
        [report] = self.reports()
        self.assertEqual((report["status"], report["usage"]["tokens"]), ("offline", 8))
        self.assertEqual(server.asked, [])

    def test_its_directive_is_obeyed_and_acknowledged(self):
        self.says({"version": 5, "action": "stop"})
        with Heartbeat() as heartbeat:
            until(lambda: heartbeat.directive is not None)
            with self.assertRaises(Stop):
                heartbeat.check()
        self.assertEqual([report["ack_directive"] for report in self.reports()], [5])

    def test_two_of_them_have_a_file_each(self):
        with Heartbeat(), Heartbeat():
            until(lambda: len(self.reports()) == 2)

    def test_a_file_without_news_stays_as_old_as_it_is(self):
        heartbeat = Heartbeat()
        with heartbeat.working():
            heartbeat._share("healthy")
            [file] = self.state.parent.glob("state.*")
            os.utime(file, (1, 1))
            heartbeat._share("healthy")
            self.assertEqual(file.stat().st_mtime, 1)
            heartbeat.progress()
            heartbeat._share("healthy")
            self.assertNotEqual(file.stat().st_mtime, 1)

    def test_a_wrapper_that_is_gone_is_one_line(self):
        self.state.unlink()
        heartbeat = Heartbeat()
        with self.assertLogs("rollcall") as said:
            heartbeat._share("healthy")
            heartbeat._share("healthy")
        self.assertEqual(len(said.output), 1)


class Directives(unittest.TestCase):
    """What an operator wants, in the answers."""

    PAUSE = {"version": 7, "action": "pause"}

    def beat(self, *script):
        server = Server(*script)
        self.addCleanup(server.close)
        heartbeat = Heartbeat(server.url, KEY)
        for _ in script:
            heartbeat._send_one()
        return server, heartbeat

    def acknowledged(self, server):
        return server.reported("ack_directive")

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
        passed, ages = threading.Event(), []

        def work():
            with heartbeat.working():
                heartbeat.check()
                ages.append(heartbeat.progress_age)
            passed.set()

        threading.Thread(target=work, daemon=True).start()
        until(lambda: heartbeat._obeyed is not None)
        heartbeat._progress_at -= 1000
        heartbeat._send_one()
        self.assertFalse(passed.is_set())
        heartbeat._send_one()
        self.assertTrue(passed.wait(PATIENCE))
        self.assertLess(ages[0], 1000, "a pause is no stall")
        heartbeat._send_one()
        self.assertEqual(self.acknowledged(server), [None, 7, 7, 8])

    def test_a_coroutine_waits_too(self):
        _, heartbeat = self.beat(accepted(1, **self.PAUSE))

        async def work():
            with heartbeat.working():
                waiting = asyncio.ensure_future(heartbeat.acheck())
                await asyncio.sleep(0)
                self.assertFalse(waiting.done())
                heartbeat._progress_at -= 1000
                heartbeat._directed(None)
                await asyncio.wait_for(waiting, PATIENCE)
                self.assertLess(heartbeat.progress_age, 1000)

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

    def test_a_handler_is_called_once_for_a_directive_and_its_return_acknowledges(self):
        server = Server(*[accepted(1, version=5, action="drain")] * 3, accepted(1))
        self.addCleanup(server.close)
        heartbeat = Heartbeat(server.url, KEY)
        heard = []

        @heartbeat.on("drain")
        def drain(directive):
            heard.append(directive)

        heartbeat._send_one()
        until(lambda: heartbeat._obeyed is not None)
        for _ in range(3):
            heartbeat._send_one()
        self.assertEqual(heard, [{"version": 5, "action": "drain"}])
        self.assertEqual(self.acknowledged(server), [None, 5, 5, 5])

    def test_a_handler_that_fails_acknowledges_nothing(self):
        heartbeat = Heartbeat("http://127.0.0.1", KEY)
        failed = threading.Event()

        @heartbeat.on("drain")
        def drain(_directive):
            failed.set()
            raise ValueError

        with self.assertLogs("rollcall", "ERROR") as said:
            heartbeat._directed({"version": 5, "action": "drain"})
            self.assertTrue(failed.wait(PATIENCE))
            until(lambda: said.output)
        self.assertIsNone(heartbeat._obeyed)

    def test_the_end_of_a_directive_is_a_run_for_handlers(self):
        heartbeat = Heartbeat("http://127.0.0.1", KEY)
        ran = threading.Event()
        heartbeat.on("run")(lambda _directive: ran.set())
        heartbeat._directed(None)
        self.assertFalse(ran.is_set())
        heartbeat._directed(self.PAUSE)
        heartbeat._directed(None)
        self.assertTrue(ran.wait(PATIENCE))

    def test_an_unreadable_directive_is_none(self):
        for directive in ({"version": "7", "action": "pause"}, {"version": 7}, {"action": "stop"}):
            _, heartbeat = self.beat(accepted(1, **directive))
            self.assertIsNone(heartbeat.directive)


if __name__ == "__main__":
    unittest.main()
