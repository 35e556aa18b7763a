"""Holds what the transformed template is in both modes of Capacity, that cfn-lint finds nothing in either, what watches, and
that a stack of an older version becomes it in one update.

    python tests/deployed/transformed.py

needs the tools of requirements.txt on the PATH, and runs under the Python of tests/deployed/requirements.txt.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

import older

TEMPLATE = pathlib.Path(__file__).resolve().parents[2] / "template.yaml"
NO_VALUE = {"Ref": "AWS::NoValue"}
CHOICES = {"Registration": "enrollment", "Approval": "operator"}
INDEXES = ["by_age", "by_name", "by_absence"]


def transformed(choices):
    """The template that CloudFormation executes with these parameters: what its conditions leave out is gone."""
    template = yaml_parse(TEMPLATE.read_text())
    for resource in template["Resources"].values():
        resource.get("Metadata", {}).pop("BuildMethod", None)
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/code"
    session = boto3.session.Session(region_name="us-east-1")
    template = Translator({}, Parser(), boto_session=session).translate(template, dict(choices))
    values = {name: choices.get(name, declared.get("Default")) for name, declared in template["Parameters"].items()}

    def decided(condition):
        ((function, of),) = condition.items()
        if function == "Condition":
            return decided(template["Conditions"][of])
        if function == "Fn::Not":
            return not decided(of[0])
        assert function == "Fn::Equals", function
        left, right = (values[side["Ref"]] if isinstance(side, dict) else side for side in of)
        return str(left) == str(right)

    def settled(node):
        if isinstance(node, dict) and "Fn::If" in node:
            condition, yes, no = node["Fn::If"]
            return settled(yes if decided(template["Conditions"][condition]) else no)
        if isinstance(node, dict):
            pairs = ((key, settled(value)) for key, value in node.items())
            return {key: value for key, value in pairs if value != NO_VALUE}
        return [settled(item) for item in node] if isinstance(node, list) else node

    for part in ("Resources", "Outputs"):
        for name, one in list(template[part].items()):
            condition = one.pop("Condition", None)
            if condition and not decided(template["Conditions"][condition]):
                del template[part][name]
            else:
                template[part][name] = settled(one)
    del template["Conditions"]
    # Of what is decided only the linter would complain, that nobody asks for it any more.
    return template


def lint(template):
    unused = ["W2001", "W8001"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(template, file)
        file.flush()
        command = ["cfn-lint", "--regions", "us-east-1", "--ignore-checks", *unused, "--", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def of_type(template, kind):
    return {name: one["Properties"] for name, one in template["Resources"].items() if one["Type"] == kind}


def on_demand():
    template = transformed(CHOICES)
    for name, table in of_type(template, "AWS::DynamoDB::Table").items():
        assert table["BillingMode"] == "PAY_PER_REQUEST", name
        assert "ProvisionedThroughput" not in json.dumps(table), name
    assert not [one for one in template["Resources"].values() if "AutoScaling" in one["Type"]]
    lint(template)


def provisioned():
    template = transformed(CHOICES | {"Capacity": "provisioned"})
    tables = of_type(template, "AWS::DynamoDB::Table")
    agents = tables.pop("AgentsTable")
    assert agents["BillingMode"] == "PROVISIONED"
    assert all(table["BillingMode"] == "PAY_PER_REQUEST" for table in tables.values())
    least, read, rest = ({"Ref": name} for name in ("CapacityMin", "ReadCapacityMin", "IndexCapacityMin"))
    assert agents["ProvisionedThroughput"] == {"ReadCapacityUnits": read, "WriteCapacityUnits": least}
    indexes = agents["GlobalSecondaryIndexes"]
    assert [index["IndexName"] for index in indexes] == INDEXES
    for index in indexes:
        assert index["ProvisionedThroughput"] == {"ReadCapacityUnits": rest, "WriteCapacityUnits": rest}, index

    # Each of the table and its indexes has a target and a policy, for reads and for writes, with the minimum that the
    # table begins with: else the first scaling would throw away what the table was made with.
    targets = of_type(template, "AWS::ApplicationAutoScaling::ScalableTarget")
    policies = of_type(template, "AWS::ApplicationAutoScaling::ScalingPolicy")
    expected = {("table/${AgentsTable}", "dynamodb:table:WriteCapacityUnits"): least}
    expected["table/${AgentsTable}", "dynamodb:table:ReadCapacityUnits"] = read
    for index in INDEXES:
        for kind in ("Read", "Write"):
            expected[f"table/${{AgentsTable}}/index/{index}", f"dynamodb:index:{kind}CapacityUnits"] = rest
    found = {(one["ResourceId"]["Fn::Sub"], one["ScalableDimension"]): one["MinCapacity"] for one in targets.values()}
    assert found == expected, found
    scaled = {policy["ScalingTargetId"]["Ref"]: policy for policy in policies.values()}
    assert scaled.keys() == targets.keys() and len(scaled) == len(policies), scaled.keys()
    for name, target in targets.items():
        assert target["MaxCapacity"] == {"Ref": "CapacityMax"} and target["ServiceNamespace"] == "dynamodb", name
        policy = scaled[name]["TargetTrackingScalingPolicyConfiguration"]
        metric = policy["PredefinedMetricSpecification"]["PredefinedMetricType"]
        kind = "Read" if "Read" in target["ScalableDimension"] else "Write"
        assert metric == f"DynamoDB{kind}CapacityUtilization", name
        assert policy["TargetValue"] == {"Ref": "CapacityTarget"}, name
    lint(template)


def watched():
    """What is paid for feeds an alarm, an alarm that is over says so, and the bill counts as many."""
    template = transformed(CHOICES | {"AlarmOnAgentsRaised": "yes"})
    alarms, made = of_type(template, "AWS::CloudWatch::Alarm"), set()
    for name, one in of_type(template, "AWS::Logs::MetricFilter").items():
        made |= {(str(of["MetricNamespace"]), of["MetricName"]) for of in one["MetricTransformations"]}
    heard = {(str(alarm.get("Namespace")), alarm.get("MetricName")) for alarm in alarms.values()}
    assert made <= heard, made - heard
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"], name
        # What people were told is no state that could end.
        assert name == "AgentsRaisedAlarm" or alarm["OKActions"] == alarm["AlarmActions"], name

    template = transformed(CHOICES)
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    metrics = [len([one for one in alarm.get("Metrics", [{"MetricStat": 1}]) if "MetricStat" in one]) for alarm in alarms]
    assert max(metrics) <= 10, metrics
    bill = (TEMPLATE.parent / "docs/operations.md").read_text()
    said = int(re.search(r"(\d+) alarm metrics", bill)[1]), int(re.search(r"(\d+) custom metrics", bill)[1])
    assert said == (sum(metrics), len(made) - 1), (said, sum(metrics), len(made) - 1)

    # One request has an id in the API's log, in the function's, and in its answer.
    log = of_type(template, "AWS::ApiGatewayV2::Stage")
    log = json.dumps([stage.get("AccessLogSettings") for stage in log.values()])
    assert "$context.integration.requestId" in log and "$context.requestId" in log, log


def upgraded():
    tables = of_type(transformed(CHOICES), "AWS::DynamoDB::Table")
    wrong = older.beyond_one_update(tables)
    assert not wrong, wrong


if __name__ == "__main__":
    for mode in (on_demand, provisioned, watched, upgraded):
        mode()
        print(f"holds: {mode.__name__}", file=sys.stderr)
