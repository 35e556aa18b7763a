"""A stack as an older version left it: older.json has its resources, its tables, and rows that its own code wrote.

The oldest version that an upgrade is promised from (docs/operations.md) was built from git, deployed to the emulator and
used for a while; then older.json was taken from its template and its tables. To build it anew in each walk would double
what the walk costs, and so would the deployment of all of its functions. The walk's older stack has a few of them, in
today's build: what an upgrade risks is what CloudFormation does to the resources, and whether the rows of then can be
read.
"""

import json
import pathlib
import time

OLDER = json.loads(pathlib.Path(__file__).with_name("older.json").read_text())

# What the version told its callers: ids, keys and tokens of a stack that is gone.
KNOWN = OLDER["known"]

# Of its functions: two with routes, those that are scheduled, the one behind the stream, and the one that outputs name.
FUNCTIONS = {"HeartbeatFunction", "HealthFunction", "SweepFunction", "DeliverFunction", "MintTokenFunction"}


def template(built):
    """What `sam build` built, without what the older version had not, and with its tables."""
    resources = built["Resources"]
    functions = {name for name, one in resources.items() if one["Type"] == "AWS::Serverless::Function"}
    gone = set(resources) - set(OLDER["resources"]) | functions - FUNCTIONS
    for name in gone:
        del resources[name]
    for name, table in OLDER["tables"].items():
        resources[name]["Properties"] = table
    for name, output in list(built["Outputs"].items()):
        if any(f"'{one}'" in str(output) or f"'{one}." in str(output) for one in gone):
            del built["Outputs"][name]
    return built


def put_rows(database, outputs, receiver):
    """The rows, with their times moved as if they had been written just now, and the channel's receiver where it is."""
    for name, rows in OLDER["rows"].items():
        for row in rows:
            if "target_url" in row:
                row["target_url"]["S"] = receiver
            database.put_item(TableName=outputs[f"{name}TableName"], Item=_moved(row, time.time() - OLDER["taken_at"]))


def _moved(value, seconds):
    """DynamoDB's JSON: epoch milliseconds, and the seconds of `expires_at`."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"N"}:
        number = float(value["N"])
        shift = 1000 * seconds if number > 1e12 else seconds if number > 1e9 else 0
        return {"N": str(round(number + shift))} if shift else value
    return {name: bytes.fromhex(one) if name == "B" else _moved(one, seconds) for name, one in value.items()}


def beyond_one_update(tables):
    """What of today's tables, by logical id, CloudFormation would not make of the older ones in one update, on AWS: it
    replaces a table whose key changes, and DynamoDB makes or removes one index of a table at a time."""
    wrong = []
    for name, before in OLDER["tables"].items():
        after = tables.get(name, {})
        if before["KeySchema"] != after.get("KeySchema"):
            wrong.append(f"{name}: its key changed, or it is gone")
        kinds = [{one["AttributeName"]: one["AttributeType"] for one in table.get("AttributeDefinitions", [])} for table in (before, after)]
        if any(kinds[1].get(attribute, kind) != kind for attribute, kind in kinds[0].items()):
            wrong.append(f"{name}: an attribute's type changed")
        indexes = [{one["IndexName"]: (one["KeySchema"], one["Projection"]) for one in table.get("GlobalSecondaryIndexes", [])} for table in (before, after)]
        changed = {index for index in indexes[0].keys() | indexes[1].keys() if indexes[0].get(index) != indexes[1].get(index)}
        if len(changed) > 1 or any(index in indexes[0] and index in indexes[1] for index in changed):
            wrong.append(f"{name}: {sorted(changed)}")
    return wrong
