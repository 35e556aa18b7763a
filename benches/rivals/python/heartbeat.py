"""The same heartbeat as a user would write it: Lambda's runtime interface client and boto3."""

import hashlib
import json
import os
import time

import boto3

table = os.environ["AGENTS_TABLE"]
limit = os.environ["RATE_LIMIT_PER_MINUTE"]
dynamodb = boto3.client("dynamodb")


def agent_id(key):
    digest = bytearray(hashlib.sha256(b"agent" + key[:8]).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def other_counters(slot):
    return ",".join(f"{kind}{other}" for kind in "bc" for other in range(13) if other != slot)


def handle(event, context):
    body = json.loads(event["body"])
    key = bytes.fromhex(body["apiKey"])
    now = int(time.time() * 1000)
    window = now // 60_000
    try:
        row = dynamodb.update_item(
            TableName=table,
            Key={"agent_id": {"S": agent_id(key)}},
            ConditionExpression="key_digest = :digest AND agent_state = :active"
            " AND attribute_not_exists(offline_since)"
            " AND (attribute_not_exists(#counter) OR #counter < :limit OR last_seen_at < :window_start)",
            UpdateExpression="SET last_seen_at = :now, lease_expires_at = tolerance_ms + :now, health = :health"
            " ADD #counter :one, requests_total :one REMOVE " + other_counters(window % 13),
            ExpressionAttributeNames={"#counter": f"b{window % 13}"},
            ExpressionAttributeValues={
                ":digest": {"B": hashlib.sha256(key).digest()},
                ":active": {"S": "active"},
                ":health": {"S": body["status"]},
                ":limit": {"N": limit},
                ":now": {"N": str(now)},
                ":one": {"N": "1"},
                ":window_start": {"N": str(window * 60_000)},
            },
            ReturnValues="ALL_NEW",
        )["Attributes"]
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return {"statusCode": 401, "body": json.dumps({"ok": False})}
    data = {"agentId": row["agent_id"]["S"], "leaseExpiresAt": row["lease_expires_at"]["N"]}
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"ok": True, "data": data}),
    }
