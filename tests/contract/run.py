"""Holds docs/openapi.yaml against the system that `cargo run` starts.

    cargo test
    python tests/contract/run.py

runs under the Python of tests/contract/requirements.txt. The document must be valid OpenAPI; schemathesis then calls each
operation with what the document takes and with what it does not, and holds every answer against it: what counts as a
failure is in schemathesis.toml, and what the operations are called with in hooks.py. That proves something only of
operations that let somebody in, so each must have been granted at least once. Further arguments are for schemathesis:
`--include-operation-id heartbeat`, for one.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import openapi_spec_validator
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "openapi.yaml"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
# Limits are documented answers, and one that is met would hide what is behind it.
LIMITS = {
    "RateLimitPerMinute": 6_000,
    "RegisterLimitPerIp": 60_000,
    "VerifyFailureLimitPerIp": 60_000,
    "ThrottleRate": 999_999_999,
    "ThrottleBurst": 999_999_999,
    "RegistrationThrottleRate": 999_999_999,
    "RegistrationThrottleBurst": 999_999_999,
}


@contextlib.contextmanager
def system(log):
    """The system in memory on a free port: its address and its first tokens, as it prints them."""
    command = [ROOT / "target" / "debug" / "rollcall-local", "--memory", "--port", "0", "--registration", "enrollment"]
    for name, value in LIMITS.items():
        command += ["--parameter", f"{name}={value}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        said = ""
        while "Ctrl-C stops it" not in said:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the system does not start: {log.name}")
            said += line
        yield {
            "ROLLCALL_URL": re.search(r"listens on (\S+)", said)[1],
            "ROLLCALL_OPERATOR_TOKEN": re.search(r"operator token +(\S+)", said)[1],
            "ROLLCALL_ENROLLMENT_TOKEN": re.search(r"enrollment token +(\S+)", said)[1],
        }
    finally:
        process.terminate()
        process.communicate(timeout=30)


def main():
    document = yaml.safe_load(DOCUMENT.read_text())
    openapi_spec_validator.validate(document)
    operations = {
        operation["operationId"]
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in METHODS
    }
    with tempfile.TemporaryDirectory() as folder, open(ROOT / "target" / "contract.log", "w+") as log:
        counted = pathlib.Path(folder) / "statuses.json"
        with system(log) as reached:
            command = [pathlib.Path(sys.executable).with_name("schemathesis")]
            command += ["--config-file", HERE / "schemathesis.toml"]
            command += ["run", DOCUMENT, "--url", reached["ROLLCALL_URL"], *sys.argv[1:]]
            environment = os.environ | reached | {"ROLLCALL_STATUSES": str(counted), "PYTHONPATH": str(HERE)}
            status = subprocess.run(command, cwd=folder, env=environment).returncode
        statuses = json.loads(counted.read_text()) if counted.exists() else {}
    operations = set(statuses) if sys.argv[1:] else operations
    refused = sorted(name for name in operations if not any(seen.startswith("2") for seen in statuses.get(name, ())))
    for name in refused:
        print(f"{name} was never granted: {statuses.get(name, 'never called')}")
    calls = sum(sum(seen.values()) for seen in statuses.values())
    print(f"{len(operations) - len(refused)} of {len(operations)} operations were granted, in {calls} calls")
    return status or bool(refused)


if __name__ == "__main__":
    sys.exit(main())
