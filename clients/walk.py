"""The clients as their users meet them: packed, installed into empty places, their examples run against the local system.

CI runs it, after `cargo test` has built the local system. What it makes is in target/clients and stays for the next run.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
MADE = ROOT / "target/clients"
LOCAL = os.environ.get("ROLLCALL_LOCAL", str(ROOT / "target/debug/rollcall-local"))
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("ROLLCALL_", "PYTHONPATH"))}


def run(*command, cwd=ROOT, **variables):
    """Runs a command to its good end; what it printed."""
    print("+", *command, flush=True)
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**CLEAN, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if ran.returncode != 0:
        sys.exit(f"{ran.stdout}\nended with {ran.returncode}")
    return ran.stdout


class Rollcall:
    """The local system."""

    def __init__(self):
        command = [LOCAL, "--memory", "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN)
        greeting = "".join(iter(self._process.stdout.readline, "Ctrl-C stops it.\n"))
        self.url = re.search(r"listens on (\S+)", greeting)[1]
        self._token = re.search(r"operator token +(\S+)", greeting)[1]

    def call(self, path, body=None):
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", body and json.dumps(body).encode())
        request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    @contextlib.contextmanager
    def agent(self, name):
        """An agent for an example: it must have been there, worked, and gone on purpose."""
        config = {"interval_seconds": 1, "missing_tolerance": 120}
        agent = self.call("agents", {"name": name, "heartbeat_config": config})
        yield {"ROLLCALL_URL": self.url, "ROLLCALL_KEY": agent["agent_token"]}
        [event] = self.call(f"agents/{agent['id']}/events?type=agent.offline")["items"]
        assert event["payload"]["reason"] == "reported", event

    def close(self):
        self._process.kill()
        self._process.wait()


def python(rollcall):
    venv = MADE / "python"
    shutil.rmtree(venv, ignore_errors=True)
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/pip", "install", "--quiet", ROOT / "clients/python")
    with rollcall.agent("python") as variables:
        example = ROOT / "clients/python/examples/agent.py"
        printed = run(venv / "bin/python", example, cwd=MADE, **variables)
    assert "heartbeats are accepted" in printed and printed.count("done: ") == 3, printed


def adapters():
    tests, venv = ROOT / "clients/python/tests/adapters", MADE / "adapters"
    wanted, installed = tests / "requirements.txt", venv / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        shutil.rmtree(venv, ignore_errors=True)
        run(sys.executable, "-m", "venv", venv)
        run(venv / "bin/pip", "install", "--quiet", "--no-compile", "--requirement", wanted)
        shutil.copy(wanted, installed)
    run(venv / "bin/python", "-m", "unittest", "discover", "-s", tests)


def typescript(rollcall):
    source, project = ROOT / "clients/typescript", MADE / "typescript"
    if not (source / "node_modules").exists():
        run("npm", "install", "--silent", "--no-package-lock", cwd=source)
    run("npm", "run", "build", cwd=source)
    run("npm", "test", cwd=source, ROLLCALL_LOCAL=LOCAL)
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    run("npm", "pack", "--silent", "--pack-destination", project, cwd=source)
    [package] = project.glob("*.tgz")
    (project / "package.json").write_text('{"private": true}')
    run("npm", "install", "--silent", package, cwd=project)
    example = shutil.copy(source / "examples/agent.mjs", project)
    # Its types are what the example needs.
    flags = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--module", "nodenext", "--lib", "es2022,dom"]
    run(source / "node_modules/.bin/tsc", *flags, example, cwd=project)
    with rollcall.agent("typescript") as variables:
        printed = run("node", example, cwd=project, **variables)
    assert printed.count("done: ") == 3, printed
    page = (ROOT / "docs/clients.md").read_text()
    for number, lines in enumerate(re.findall(r"```js\n(.*?)```", page, re.DOTALL)):
        with rollcall.agent(f"page-{number}") as variables:
            program = project / f"page-{number}.mjs"
            lines = lines.replace("http://127.0.0.1:3000", rollcall.url)
            program.write_text(lines.replace("the agent's API key", variables["ROLLCALL_KEY"]))
            run("node", program, cwd=project)


if __name__ == "__main__":
    MADE.mkdir(parents=True, exist_ok=True)
    system = Rollcall()
    try:
        python(system)
        adapters()
        typescript(system)
    finally:
        system.close()
