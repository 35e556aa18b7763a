"""Types into a shell of a terminal of its own: a wrapped child that reads, is stopped, goes on, and is interrupted."""

import os
import pty
import select
import sys
import time

rollcall = sys.argv[1]
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(PS1="ready> ", TERM="dumb", HISTFILE="")
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

seen = ""


def until(part):
    """Reads until `part` was seen, and forgets what was before it."""
    global seen
    ends = time.monotonic() + 30
    while part not in seen:
        if not select.select([terminal], [], [], max(0, ends - time.monotonic()))[0]:
            sys.exit(f"waited in vain for {part!r} after {seen!r}")
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            sys.exit(f"the terminal ended before {part!r}: {seen!r}")
    seen = seen.split(part, 1)[1]


def types(text):
    os.write(terminal, text.encode())


until("ready> ")
types("stty -echo\n")
until("ready> ")
reader = "while read line; do echo got-$line; done; echo closed"
types(f"{rollcall} run -- sh -c '{reader}' 2>/dev/null\n")
types("one\n")
until("got-one")
types("\x1a")
until("Stopped")
types("echo state-$(ps -o stat= -p $(jobs -p) $(ps -o pid= --ppid $(jobs -p)) | cut -c1 | tr -d '\\n')\n")
until("state-TT")
types("fg\n")
types("two\n")
until("got-two")
types("\x04")
until("closed")
types("echo code-$?\n")
until("code-0")
# A child that stops itself alone, as editors do: the shell gets its terminal back.
types(f"{rollcall} run -- sh -c 'kill -TSTP $$; echo went-on' 2>/dev/null\n")
until("Stopped")
types("fg\n")
until("went-on")
# The terminal interrupts both: the child is told once.
types(f"{rollcall} run -- sh -c 'n=0; trap \"n=\\$((n+1))\" INT; echo up; sleep 1; sleep 1; echo told-$n' 2>/dev/null\n")
until("up")
types("\x03")
time.sleep(0.2)
until("told-")
until("1")
types("exit\n")
