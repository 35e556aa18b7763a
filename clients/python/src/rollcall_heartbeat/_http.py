"""One exchange over HTTP under one deadline, of at most 64 KiB."""

import functools
import http.client
import io
import ipaddress
import socket
import ssl
import time
import urllib.request

ANSWER_BYTES = 64 * 1024
"""What is read of an answer at most, its headers included."""


class Deadline:
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


def _is_this_machine(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def opener(host):
    """HTTP by way of the environment's proxies, but for this machine: they would have the key in the clear.

    No redirect is followed: the key is for this host alone.
    """
    opener = urllib.request.OpenerDirector()
    proxies = urllib.request.ProxyHandler({} if _is_this_machine(host) else None)
    for handler in (proxies, _HttpHandler(), _HttpsHandler()):
        opener.add_handler(handler)
    return opener
