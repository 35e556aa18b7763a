"""Deploys what `sam build` built to an emulator of AWS on loopback, and walks the deployed system.

    sam build --config-env x86
    python tests/deployed/walk.py

needs the tools of requirements.txt on the PATH, and runs under the Python of tests/deployed/requirements.txt. Every step
says what holds; the first that does not ends the walk with its name. What the emulator cannot do is in deviations.py.

`--break WHAT` breaks one thing of the template, to see that the walk notices: a policy, a route, the schedule or the
mapping. It then succeeds when the walk fails in the step that is about it.
"""

import argparse
import contextlib
import copy
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import yaml

import commands
import deviations
import older

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = ROOT / ".aws-sam" / "build"
STACK, ENVIRONMENT = "rollcall", "x86"
DOMAIN = "agents.rollcall.invalid"
KEPT = {"Agents", "Events", "Tokens", "Channels", "Secrets", "Alerts"}


class Failed(Exception):
    """A step's claim does not hold."""


def check(claim, *seen):
    if not claim:
        raise Failed(" ".join(str(part)[:2000] for part in seen))


def until(what, probe, seconds):
    """Waits for the clock of the emulated schedule, which is the machine's."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(1)
    raise Failed(f"{what}: not within {seconds} s")


class Emulator:
    """`ministack` on a free port of loopback, with policies enforced and nothing of this machine's account."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.account = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "walk",
            "AWS_SECRET_ACCESS_KEY": "walk",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
        }
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "AUTH": "true",
            "AWS_ENDPOINT_URL": self.url,  # it hands it on to the functions
            "AWS_ACCESS_KEY_ID": "walk",
            "AWS_SECRET_ACCESS_KEY": "walk",
        }
        self.log = folder / "emulator.log"
        command = [str(pathlib.Path(sys.executable).with_name("ministack"))]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT, start_new_session=True
        )
        until("the emulator answers", self._answers, 60)

    def _answers(self):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", self.port), timeout=1).close() is None

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="walk", aws_secret_access_key="walk"
        )

    def stop(self):
        # The functions' processes are children of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


class Receiver:
    """What a channel sends to."""

    def __init__(self):
        received = self.received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append({"headers": dict(self.headers), "body": json.loads(body)})
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def breakages():
    """What `--break` breaks of the template, and the step that must notice."""

    def policy(resources):
        for statement in resources["HeartbeatFunction"]["Properties"]["Policies"][0]["Statement"]:
            actions = statement["Action"]
            statement["Action"] = "dynamodb:DescribeTable" if "UpdateItem" in str(actions) else actions

    def route(resources):
        del resources["HeartbeatFunction"]["Properties"]["Events"]

    def schedule(resources):
        del resources["SweepFunction"]["Properties"]["Events"]

    def mapping(resources):
        del resources["DeliveryBell"]

    def table(resources):
        resources["AgentsTable"]["Properties"]["KeySchema"][0]["AttributeName"] = "listing"

    def domain(resources):
        del resources["DomainMapping"]

    return {
        "policy": (policy, "who was there before goes on: by key, by name and by token, with the same events and channel"),
        "route": (route, "who was there before goes on: by key, by name and by token, with the same events and channel"),
        "schedule": (schedule, "the schedule's sweep announces a silence"),
        "mapping": (mapping, "an alert reaches a receiver through the stream"),
        "table": (table, "the documents' pair upgrades it: tables stay, with their rows"),
        "domain": (domain, "the API moves to a domain of its own"),
    }


class Walk:
    """The steps, in their order; what one learns the next ones use."""

    def __init__(self, emulator, folder, broken=None):
        self.emulator, self.folder, self.broken = emulator, folder, broken
        self.receiver = Receiver()
        self.stack, self.asked = STACK, False

    def steps(self):
        return [
            ("a stack of an older version is there, with rows that its code wrote", self.deploy_older),
            ("the documents' pair upgrades it: tables stay, with their rows", self.upgrade),
            ("who was there before goes on: by key, by name and by token, with the same events and channel", self.go_on),
            ("mint-token, invoked as the documents say, makes the first tokens", self.mint),
            ("an agent registers under enrollment", self.register),
            ("agents send heartbeats by both contracts once an operator lets them in", self.heartbeats),
            ("what an agent posts can be read", self.events),
            ("an alert reaches a receiver through the stream", self.deliver),
            ("a key is rotated, and the old one ends", self.rotate),
            ("one number is changed as documented, and only that changes", self.change),
            ("the schedule's sweep announces a silence", self.silence),
            ("the API moves to a domain of its own", self.move),
            ("the commands of docs/operations.md do what they say", self.operate),
            ("a table's rows are restored from an hour ago", self.restore),
            ("a deletion leaves the protected tables, with their rows", self.delete),
            ("a new stack takes in the tables of the old one", self.adopt),
            ("the tables are deleted for good", self.end),
            ("no fenced command is outside of the walk and of the table of those that cannot be run", self.covered),
        ]

    # ---- Tools ----

    def run(self, *command, stdin=None):
        """A command of the documents; its output. Whatever else this machine knows of AWS is kept from it."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        own |= self.emulator.account | {"SAM_CLI_TELEMETRY": "0", "HOME": str(self.folder)}
        done = subprocess.run(command, cwd=ROOT, env=own, input=stdin, capture_output=True, text=True, timeout=900)
        check(done.returncode == 0, *command, "ended with", done.returncode, done.stdout[-1500:], done.stderr[-1500:])
        return done.stdout

    def shell(self, script):
        """Lines of the documents, in bash."""
        return self.run("bash", "-euo", "pipefail", "-c", script)

    def call(self, method, path, body=None, token=None, key=None):
        """A request to the deployed API: status and JSON. Its name is not in the machine's resolver: the address stands
        in for it, with the name in the header."""
        headers = {"host": self.host, "content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        if key:
            headers["x-agent-token"] = key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.emulator.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read().decode()
        return status, json.loads(text) if text.startswith(("{", "[")) else text

    def called(self, *arguments, expected=(200, 201), **named):
        status, body = self.call(*arguments, **named)
        check(status in expected, *arguments, status, body)
        return body

    # ---- Steps ----

    def deploy_older(self):
        built = yaml.safe_load((BUILT / "template.yaml").read_text())
        for resource in built["Resources"].values():
            if "CodeUri" in resource.get("Properties", {}):
                resource["Properties"]["CodeUri"] = str(BUILT / resource["Properties"]["CodeUri"])
        deviations.alarms_with_metric_math_are_left_out(built)
        if self.broken:
            self.broken(built["Resources"])
        # A file of one's own, as docs/deployment.md has it: the receiver of the walk is on loopback.
        own = self.folder / "samconfig.toml"
        shipped = (ROOT / "samconfig.toml").read_text()
        check(shipped.count('"Architecture=x86_64"]') == 1, "samconfig.toml has no environment x86")
        own.write_text(shipped.replace('"Architecture=x86_64"]', '"Architecture=x86_64", "WebhookTargets=any"]'))
        self.own = own
        self.cloudformation = self.emulator.client("cloudformation")
        check("sam deploy --config-env $env" in commands.block("docs/deployment.md", "env=default\nsam build"))
        self.emulated, self.routes = self.folder / "emulated.yaml", {}
        self.emulated.write_text(yaml.safe_dump(older.template(copy.deepcopy(built)), sort_keys=False))
        self.deploy()
        older.put_rows(self.emulator.client("dynamodb"), self.outputs, self.receiver.url)
        self.pack(built["Resources"])
        self.emulated.write_text(yaml.safe_dump(built, sort_keys=False))

    def pack(self, resources):
        """The older stack's functions were packed by SAM, which would pack all of them anew at each deployment: a third of
        the walk's processor time."""
        for resource in resources.values():
            if resource["Type"] == "AWS::Serverless::Function":
                code = pathlib.Path(resource["Properties"]["CodeUri"])
                with zipfile.ZipFile(self.folder / f"{code.name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
                    packed.write(code / "bootstrap", "bootstrap")
                resource["Properties"]["CodeUri"] = packed.filename

    def deploy(self):
        pair = ["sam", "deploy", "--config-env", ENVIRONMENT, "--config-file", str(self.own)]
        self.run(*pair, "--template-file", str(self.emulated))
        stack = self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0]
        check(stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), stack["StackStatus"])
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.host = re.sub("^https?://", "", self.outputs["ApiUrl"])
        self.make_routes()

    def upgrade(self):
        """The emulator says of a table that it is replaced, and replaces it, where AWS does."""
        block = commands.block("docs/operations.md", "--no-execute-changeset")
        of_the_walk = f"--config-file {self.own} --template-file {self.emulated} --config-env"
        said = self.shell(f"env={ENVIRONMENT}\n{block.replace('--config-env', of_the_walk)}")
        pages = self.cloudformation.get_paginator("describe_change_set")
        pages = pages.paginate(ChangeSetName=re.search(r"arn:\S+:changeSet/\S+", said.replace("\n", ""))[0])
        changes = {one["ResourceChange"]["LogicalResourceId"]: one["ResourceChange"] for page in pages for one in page["Changes"]}
        removed = [name for name, one in changes.items() if one["Action"] == "Remove"]
        check(not removed, "the upgrade removes", removed)
        tables = {name: one for name, one in changes.items() if one["ResourceType"] == "AWS::DynamoDB::Table"}
        replaced = {name: one["Replacement"] for name, one in tables.items() if one.get("Replacement") != "False"}
        check(not replaced, "tables are replaced", replaced)
        added = {name for name, one in changes.items() if one["Action"] == "Add"}
        check({"PostHeartbeatsFunction", "DirectAgentFunction"} <= added, "not added", added)
        before = self.rows()
        self.deploy()
        after = self.rows()
        kept = [after[name] >= before[name] >= len(rows) for name, rows in older.OLDER["rows"].items()]
        check(all(kept) and len(kept) == 5, before, after)
        check(len(self.routes[self.physical["Api"]]) > 30, self.routes)

    def go_on(self):
        """In routes that are new as well."""
        known = older.KNOWN
        agent = known["agent"]
        self.called("POST", "/api/agents/heartbeat", {"apiKey": agent["key"], "status": "healthy"})
        paused = f"/api/v1/agents/{agent['id']}/directive"
        self.called("POST", paused, {"action": "pause"}, token=known["operator"])
        answer = self.called("POST", "/api/v1/agent/heartbeat", {"status": "healthy"}, key=agent["key"])
        check(answer["directive"]["action"] == "pause", answer)
        batch = {"heartbeats": [{"agent_token": agent["key"]}, {"name": known["enrolled"]["name"]}]}
        answer = self.called("POST", "/api/v1/agents/heartbeats", batch, token=known["enrollment"])
        ids = [one.get("id") for one in answer["results"]]
        check(ids == [agent["id"], known["enrolled"]["id"]], answer)
        kinds = self.kinds_of_events(agent["id"], known["operator"])
        check(set(known["events"]) <= kinds, known["events"], kinds)
        listed = self.called("GET", "/api/v1/agents?cursor=", token=known["operator"])["items"]
        check({one["id"] for one in listed} >= set(known["agents"]), listed)
        self.called("POST", "/api/v1/agent/heartbeat", {"status": "healthy"}, key=known["absent"]["key"])
        kinds = self.kinds_of_events(known["absent"]["id"], known["operator"])
        check({"agent.offline", "agent.online"} <= kinds, kinds)
        status, body = self.call("POST", "/api/v1/agent/heartbeat", {}, key=known["revoked"]["key"])
        check(status == 403, "who was revoked is back", status, body)
        channels = self.called("GET", "/api/v1/channels", token=known["operator"])["items"]
        check([one["id"] for one in channels] == [known["channel"]], channels)

    def make_routes(self):
        processed = self.cloudformation.get_template(StackName=self.stack, TemplateStage="Processed")["TemplateBody"]
        processed = json.loads(processed) if isinstance(processed, str) else processed
        pages = self.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.stack)
        resources = [resource for page in pages for resource in page["StackResourceSummaries"]]
        self.physical = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
        functions = self.emulator.client("lambda")

        def resolved(node):
            if isinstance(node, dict) and "Fn::Sub" in node:
                name = re.search(r"\$\{(\w+)\.Arn\}", str(node["Fn::Sub"]))[1]
                return functions.get_function(FunctionName=self.physical[name])["Configuration"]["FunctionArn"]
            if isinstance(node, dict):
                return {key: resolved(value) for key, value in node.items() if key != "Fn::If"}
            return node

        body = resolved(processed["Resources"]["Api"]["Properties"]["Body"])
        gateway = self.emulator.client("apigatewayv2")
        made = self.routes.setdefault(self.physical["Api"], {})
        deviations.routes_are_made_one_by_one(gateway, self.physical["Api"], body, made)
        check(made, "no routes")

    def mint(self):
        block = commands.block("docs/deployment.md", "mint '{")
        lines = [line for line in block.splitlines() if not line.startswith("mint ")]
        output = self.shell("\n".join(lines))
        check(self.outputs["ApiUrl"] in output, output)
        minted = self.shell(block)
        self.operator = re.search("rco_[0-9a-f]{48}", minted)
        self.enrollment = re.search("rce_[0-9a-f]{48}", minted)
        check(self.operator and self.enrollment, minted)
        self.operator, self.enrollment = self.operator[0], self.enrollment[0]

    def register(self):
        status, body = self.call("POST", "/api/agents/register", {"name": "uninvited"})
        check(status in (401, 403), "the door is open", status, body)
        answer = self.called("POST", "/api/agents/register", {"name": "walker"}, token=self.enrollment)["data"]
        self.agent, self.key = answer["agentId"], answer["apiKey"]

    def heartbeats(self):
        status, body = self.call("POST", "/api/agents/heartbeat", {"apiKey": self.key, "status": "healthy"})
        check(status == 401, "a heartbeat is taken before the agent is let in", status, body)
        self.called("POST", f"/api/v1/agents/{self.agent}/approve", token=self.operator)
        self.called("POST", "/api/agents/heartbeat", {"apiKey": self.key, "status": "healthy"})
        self.called("POST", "/api/v1/agent/heartbeat", {"status": "healthy"}, key=self.key)
        self.called("POST", "/api/v1/agents/heartbeat", {"name": "fleet-1"}, token=self.enrollment)
        self.sleeper = self.called("POST", "/api/v1/agents/heartbeat", {"name": "sleeper"}, token=self.enrollment)["id"]
        config = {"heartbeat_config": {"interval_seconds": 1, "missing_tolerance": 3}}
        self.called("PATCH", f"/api/v1/agents/{self.sleeper}", config, token=self.operator)
        self.called("POST", "/api/v1/agents/heartbeat", {"name": "sleeper"}, token=self.enrollment)
        seen = self.called("GET", f"/api/v1/agents/{self.agent}", token=self.operator)
        check(seen["status"] == "healthy", seen)

    def events(self):
        self.called("POST", "/api/agents/events", {"event": "walked", "payload": {"step": 5}}, key=self.key)
        kinds = self.kinds_of_events()
        check({"walked", "agent.registered", "agent.approved"} <= kinds, kinds)

    def kinds_of_events(self, agent=None, token=None):
        page = self.called("GET", f"/api/v1/agents/{agent or self.agent}/events", token=token or self.operator)
        return {event["type"] for event in page["items"]}

    def deliver(self):
        """Twice within seconds, by a new channel and by one that was there before: the schedule, which delivers as well,
        comes once a minute."""
        new = {"kind": "webhook", "url": self.receiver.url, "label": "the walk"}
        self.channel = self.called("POST", "/api/v1/channels", new, token=self.operator)["id"]
        until("the greeting", lambda: "channel.hello" in self.told(), 12)
        path = f"/api/v1/channels/{older.KNOWN['channel']}/test"
        self.called("POST", path, {}, token=self.operator, expected=(200, 201, 202))
        until("the test", lambda: "channel.test" in self.told(), 12)

    def told(self):
        return {message["body"].get("type") for message in self.receiver.received}

    def rotate(self):
        path = f"/api/v1/agents/{self.agent}/rotate-key"
        new = self.called("POST", path, {"overlap_seconds": 0}, token=self.operator)
        new = re.search('"([0-9a-f]{48})"', json.dumps(new))
        check(new, "no new key is shown")
        status, body = self.call("POST", "/api/v1/agent/heartbeat", {"status": "healthy"}, key=self.key)
        check(status in (401, 403), "the old key is still good", status, body)
        self.key = new[1]
        self.called("POST", "/api/v1/agent/heartbeat", {"status": "healthy"}, key=self.key)

    def silence(self):
        """Of the sleeper, which promised a heartbeat a second: its deadline passed while the stack was changed. Another
        agent's heartbeats say that the API is there."""

        def announced():
            self.called("POST", "/api/v1/agents/heartbeat", {"name": "fleet-1"}, token=self.enrollment)
            time.sleep(2)
            return "agent.offline" in self.kinds_of_events(self.sleeper)

        until("agent.offline", announced, 240)

    def change(self):
        """Seen in the functions: the emulator's change set names besides whatever depends on what changes."""
        text = self.own.read_text()
        changed = text.replace('"Architecture=x86_64", ', '"Architecture=x86_64", "RateLimitPerMinute=120", ')
        check(changed != text, "samconfig.toml")
        before = self.functions()
        self.own.write_text(changed)
        self.deploy()
        after = self.functions()
        built = yaml.safe_load(self.emulated.read_text())["Resources"]
        using = {name for name, one in built.items() if "RateLimitPerMinute" in json.dumps(one, default=str)}
        check(len(using) > 2, using)
        for name, (code, variables) in before.items():
            expected = variables | ({"RATE_LIMIT_PER_MINUTE": "120"} if name in using else {})
            check(after[name] == (code, expected), name, after[name], "expected", (code, expected))
        check(after.keys() == before.keys(), after.keys() ^ before.keys())

    def move(self):
        """As docs/deployment.md has it, from the certificate on; the domain is in no DNS, which the emulator does not ask."""
        block = commands.block("docs/deployment.md", "request-certificate").replace("agents.example.com", DOMAIN)
        parameters = self.shell(block).strip().splitlines()[-1]
        certificate = re.search(r"CertificateArn=([^\"]+)", parameters)[1]
        text = self.own.read_text()
        changed = text.replace('"Architecture=x86_64", ', f'"Architecture=x86_64", {parameters}, ')
        check(changed != text, "samconfig.toml")
        self.own.write_text(changed)
        before, own_endpoint = self.functions(), self.host
        self.deploy()
        check(self.outputs["ApiUrl"] == f"https://{DOMAIN}", self.outputs)
        after = self.functions()
        for name, (code, variables) in before.items():
            moved = {key: f"https://{DOMAIN}" for key in ("API_URL", "CANARY_URL") if key in variables}
            check(after[name] == (code, variables | moved), name, after[name])

        gateway, api = self.emulator.client("apigatewayv2"), self.physical["Api"]
        (config,) = gateway.get_domain_name(DomainName=DOMAIN)["DomainNameConfigurations"]
        expected = {"CertificateArn": certificate, "EndpointType": "REGIONAL", "SecurityPolicy": "TLS_1_2"}
        check({key: config[key] for key in expected} == expected, config)
        (mapping,) = gateway.get_api_mappings(DomainName=DOMAIN)["Items"] or [None]
        check(mapping and (mapping["ApiId"], mapping["Stage"]) == (api, "$default"), "the mapping is", mapping)
        check(not mapping.get("ApiMappingKey"), mapping)
        body = self.cloudformation.get_template(StackName=self.stack, TemplateStage="Processed")["TemplateBody"]
        closed = '"disableExecuteApiEndpoint": {"Fn::If": ["HasDomain", true, false]}'
        check(closed in (body if isinstance(body, str) else json.dumps(body)), "nothing closes the API's own endpoint")
        first = commands.block("docs/deployment.md", "mint '{")
        tools = "\n".join(line for line in first.splitlines() if not re.match("(mint|aws|output) ", line))
        target = self.shell(f"{tools}\n{commands.block('docs/deployment.md', 'output DomainTarget')}").strip()
        check(target == config["ApiGatewayDomainName"], target, config)

        self.called("POST", "/api/v1/agent/heartbeat", {"status": "healthy"}, key=self.key)
        status, page = self.call("GET", "/")
        check(status == 200 and "page/app.js" in page, status, page)
        wanted = {"kind": "operator", "label": "by the domain"}
        minted = self.called("POST", "/api/v1/tokens", wanted, token=self.operator)
        check(f"//{DOMAIN}/#token=rco_" in minted["link"], minted["link"])
        self.host, here = own_endpoint, self.host
        deviations.the_apis_own_endpoint_stays_open(self.call("GET", "/health")[0])
        self.host = here

        shared = commands.block("docs/deployment.md", "create-api-mapping")
        made = json.loads(self.shell(f"stack={self.stack} domain={DOMAIN}\n{shared}"))
        self.called("POST", "/rollcall/api/v1/agent/heartbeat", {"status": "healthy"}, key=self.key)
        link = self.called("POST", "/rollcall/api/v1/tokens", wanted, token=self.operator)["link"].split("#")[0]
        deviations.a_mapping_is_not_in_the_path_of_its_event(link.split("//")[1], f"{DOMAIN}/rollcall/")
        gateway.delete_api_mapping(DomainName=DOMAIN, ApiMappingId=made["ApiMappingId"])

    def functions(self):
        """By logical id: the code's digest and the environment."""
        client, found = self.emulator.client("lambda"), {}
        for name in [name for name in self.physical if name.endswith("Function")]:
            one = client.get_function_configuration(FunctionName=self.physical[name])
            found[name] = one["CodeSha256"], one.get("Environment", {}).get("Variables", {})
        return found

    def operations(self, script, **variables):
        """Lines of docs/operations.md, after its own first block. The API's name is in no resolver: see `call`. What it is
        called is asked once: each command of the AWS CLI takes a second."""
        first = commands.block("docs/operations.md", "env=default stack=rollcall")
        asks = "api=$(output ApiUrl)\n"
        check(asks in first, first)
        first, self.asked = first.replace(asks, "") if self.asked else first, True
        first = first.replace("env=default stack=rollcall", f"env={ENVIRONMENT} stack={self.stack}")
        given = "\n".join(f"{name}='{value}'" for name, value in variables.items())
        api = f"api={self.emulator.url}; curl() {{ command curl -f -H 'host: {self.host}' \"$@\"; }}"
        lines = ["set -euo pipefail", first, api, given, script]
        return self.run("bash", "-c", "\n".join(lines), stdin=self.operator + "\n")

    def operate(self):
        """All at once would stop at the first that fails: each by itself, and all failures are said."""
        pending = self.called("POST", "/api/agents/register", {"name": "waits"}, token=self.enrollment)["data"]["agentId"]
        token = self.called("POST", "/api/v1/tokens", {"kind": "enrollment", "label": "leaks", "all_boards": True},
                            token=self.operator)["id"]
        asked = [
            "$.level = \"ERROR\" || ($.type", "get-account-settings", '"unavailable"', "for table in Agents",
            "readyz", "alerts?limit=5", '"swept"', "invoke SweepFunction", '"delivered"', "invoke DeliverFunction",
            "state=failed", "absent=true", "type=agent.offline", "agent_name = :name", "status=provisioning",
            "rotate-key", "/revoke", '"label": "ana"', "succeeds", "actor = :actor", "token#", "Stacks[0].Parameters[].[",
            "detect-stack-drift", "update-schedule",
        ]
        failed = []
        for text in asked:
            block = commands.block("docs/operations.md", text)
            block = re.sub("^(id|token_id)=.*$", "", block, flags=re.M).replace("the next of the page before", "")
            who = pending if "provisioning" in text else self.agent
            try:
                self.operations(block, id=who, token_id=token, channel_id=self.channel)
            except Failed as error:
                failed.append(f"{text}: {str(error)[-700:]}")
        check(not failed, "\n".join(failed))

    def rows(self):
        database = self.emulator.client("dynamodb")
        tables = {name: self.outputs[f"{name}TableName"] for name in KEPT}
        return {name: database.scan(TableName=table, Select="COUNT")["Count"] for name, table in tables.items()}

    def restore(self):
        before = self.rows()
        said = self.operations(commands.block("docs/operations.md", "restore-table-to-point-in-time"))
        check(f"{before['Agents']} rows copied" in said, before, said)
        check(self.rows() == before, before, self.rows())

    def delete(self):
        self.tables = {name: self.outputs[f"{name}TableName"] for name in KEPT}
        self.before = self.rows()
        check(self.before["Agents"] >= 2 and self.before["Events"] > 3, self.before)
        listed = self.remove()
        kept = {name for name in KEPT if self.tables[name] in listed}
        check(kept == KEPT and "WindowsTable" not in listed, listed)
        check(self.rows() == self.before, self.before, self.rows())

    def remove(self):
        """Deletes the stack by the documents' block; the names of the tables that it leaves."""
        block = commands.block("docs/operations.md", "sam delete --config-env")
        block = block.replace("--config-env", f"--config-file {self.own} --config-env")
        block = block.replace("tables.txt", f"{self.folder}/tables.txt")
        return self.shell(f"env={ENVIRONMENT} stack={self.stack}\n{block}")

    def remove_tables(self):
        block = commands.block("docs/operations.md", "--no-deletion-protection-enabled")
        self.shell(block.replace("tables.txt", f"{self.folder}/tables.txt"))

    def adopt(self):
        """Under another name: the emulator makes a stack's tables under the same names each time, over what is there."""
        listed = self.folder / "tables.txt"
        old, self.stack = listed.read_text(), f"{STACK}-next"
        text = self.own.read_text()
        named = re.sub(r'(\[x86\.global\.parameters\]\nstack_name = )"rollcall"', rf'\1"{self.stack}"', text)
        check(named != text, "samconfig.toml")
        self.own.write_text(named)
        self.deploy()
        # Its sweep may have written rows of its own: the canary's, and what it has heard.
        check(self.rows()["Events"] == 0 and self.rows()["Tokens"] == 0, "the tables are not new", self.rows())
        said = self.operations(commands.block("docs/operations.md", "old=rollcall"))
        after = self.rows()
        check(after == self.before, self.before, after, said)
        seen = self.called("GET", f"/api/v1/agents/{self.agent}", token=self.operator)
        check(seen["id"] == self.agent, seen)
        check(self.remove().count("Table-") == len(KEPT), "the next stack's tables")
        listed.write_text(listed.read_text() + old)

    def end(self):
        self.remove_tables()
        left = self.emulator.client("dynamodb").list_tables()["TableNames"]
        check(not left, "tables are left", left)

    def covered(self):
        check(not commands.outside(), "\n".join(commands.outside()))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--break", dest="broken", choices=sorted(breakages()))
    broken, about = breakages().get(arguments.parse_args().broken, (None, None))
    if not (BUILT / "template.yaml").exists():
        sys.exit("there is no build: sam build --config-env x86")
    with tempfile.TemporaryDirectory(prefix="rollcall-deployed-") as folder:
        emulator = Emulator(pathlib.Path(folder))
        walk = Walk(emulator, pathlib.Path(folder), broken)
        failed = None
        try:
            for name, step in walk.steps():
                began = time.monotonic()
                try:
                    step()
                except Exception as error:
                    failed = name
                    print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
                    break
                print(f"{time.monotonic() - began:6.1f} s  {name}", flush=True)
        finally:
            emulator.stop()
            if failed and not broken:
                print("".join(emulator.log.open(errors="replace").readlines()[-40:]))
        if broken:
            sys.exit(None if failed == about else f"it should fail in `{about}`, and failed in: {failed}")
        sys.exit(1 if failed else None)


if __name__ == "__main__":
    main()
