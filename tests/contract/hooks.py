"""With which credential each operation is called, and on what; loaded by schemathesis. See run.py."""

import atexit
import json
import os
import pathlib
from collections import Counter, defaultdict

import requests
import schemathesis
from requests.adapters import HTTPAdapter
from schemathesis.core.parameters import ParameterLocation
from urllib3.util import Retry

URL = os.environ["ROLLCALL_URL"]
OPERATOR = {"Authorization": f"Bearer {os.environ['ROLLCALL_OPERATOR_TOKEN']}"}
ENROLLMENT = {"X-Agent-Token": os.environ["ROLLCALL_ENROLLMENT_TOKEN"]}
RECEIVER = "https://receiver.example/hook"  # resolves nowhere: nothing that is tested leaves this machine

# What a call needs is made by a patient client: the call itself is not, and no 503 is excused.
session = requests.Session()
patience = Retry(total=5, allowed_methods=None, status_forcelist=[503])
session.mount("http://", HTTPAdapter(max_retries=patience))


def ask(method, path, body=None, headers=OPERATOR):
    answer = session.request(method, URL + path, json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json()


# Each makes something new, so that no call depends on what another one left: the credential, and what the path names.


def operator():
    return OPERATOR, None


def enrollment():
    return ENROLLMENT, None


def agent():
    made = ask("POST", "/api/v1/agents", {"name": "called"})
    return {"X-Agent-Token": made["agent_token"]}, made["id"]


def active_agent():
    return OPERATOR, agent()[1]


def revoked_agent():
    _, id = agent()
    ask("POST", f"/api/v1/agents/{id}/revoke")
    return OPERATOR, id


def registered_agent():
    made = ask("POST", "/api/agents/register", {"name": "called"}, ENROLLMENT)["data"]
    return {"X-Agent-Token": made["apiKey"]}, made["agentId"]


def pending_agent():
    return OPERATOR, registered_agent()[1]


def token():
    return OPERATOR, ask("POST", "/api/v1/tokens", {"kind": "enrollment", "all_boards": True})["id"]


def room_for(things):
    """There may be no more than 50 channels and 200 silences."""
    for old in ask("GET", f"/api/v1/{things}")["items"]:
        ask("DELETE", f"/api/v1/{things}/{old['id']}")
    return OPERATOR, None


def room_for_a_silence():
    return room_for("silences")


def room_for_a_channel():
    return room_for("channels")


def silence():
    room_for_a_silence()
    return OPERATOR, ask("POST", "/api/v1/silences", {"all": True, "for_seconds": 60})["id"]


def channel():
    room_for_a_channel()
    return OPERATOR, ask("POST", "/api/v1/channels", {"kind": "webhook", "url": RECEIVER})["id"]


CALLED_WITH = {
    "register": enrollment,
    "verify": registered_agent,
    "heartbeat": agent,
    "post-events": agent,
    "rotate-key": agent,
    "heartbeat-agent": agent,
    "agent-healthz": agent,
    "enroll": enrollment,
    "heartbeat-by-id": agent,
    "approve-agent": pending_agent,
    "restore-agent": revoked_agent,
    "delete-token": token,
    "create-silence": room_for_a_silence,
    "delete-silence": silence,
    "create-channel": room_for_a_channel,
    "update-channel": channel,
    "delete-channel": channel,
    "test-channel": channel,
    "redeliver": channel,
    "list-deliveries": channel,
}


def takes_a_credential(operation):
    return bool(operation.definition.raw.get("security"))


@schemathesis.auth(refresh_interval=None)
class Credential:
    """Says that a good credential comes with the call: `prepare` has it. Cases are made up long before they are sent."""

    def get(self, case, context):
        return takes_a_credential(context.operation) or None

    def set(self, case, data, context):
        pass


@schemathesis.hook("before_call")
def prepare(context, case, kwargs):
    # No address that a generator made up is ever called.
    if isinstance(case.body, dict) and isinstance(case.body.get("url"), str):
        case.body["url"] = RECEIVER
    if not takes_a_credential(case.operation):
        return
    default = active_agent if "{agent_id}" in case.path else operator
    credential, id = CALLED_WITH.get(case.operation.definition.raw["operationId"], default)()
    case.headers.update(credential)
    name = "agent_id" if "{agent_id}" in case.path else "id"
    is_about_the_path = case.meta is not None and case.meta.is_negative_at(ParameterLocation.PATH)
    if id is not None and f"{{{name}}}" in case.path and not is_about_the_path:
        case.path_parameters[name] = id


statuses = defaultdict(Counter)


@schemathesis.hook("after_call")
def count(context, case, response):
    statuses[case.operation.definition.raw["operationId"]][response.status_code] += 1


@atexit.register
def write():
    pathlib.Path(os.environ["ROLLCALL_STATUSES"]).write_text(json.dumps(statuses))
