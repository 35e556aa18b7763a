"""Under `rollcall run`: the wrapper sends the heartbeats, and this process talks to it by files.

docs/clients.md says what is in them.
"""

import json
import os


class SharedState:
    """What the wrapper says, and what this process has to say."""

    def __init__(self, path):
        self._theirs = path
        self._ours = f"{path}.{os.urandom(8).hex()}"
        self._written = None

    def read(self):
        """What the wrapper's file holds, as an object.

        Raises OSError or ValueError if it cannot be read.
        """
        with open(self._theirs, "rb") as file:
            return json.loads(file.read(65536))

    def write(self, report, moved):
        """Replaces this process's file if anything is new in it; `moved` is when its progress was made."""
        if self._written == (report["status"], report["usage"], report["ack_directive"], moved):
            return
        beside = self._ours + ".new"
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(report, file)
        os.replace(beside, self._ours)
        self._written = (report["status"], report["usage"], report["ack_directive"], moved)
