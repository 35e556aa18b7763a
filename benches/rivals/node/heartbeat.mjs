// The same heartbeat as a user would write it: the AWS SDK v3, in a minimal loop over the Runtime API (the official
// runtime interface client has to be compiled, and would only be slower).

import { createHash } from "node:crypto";
import { request } from "node:http";
import { ConditionalCheckFailedException, DynamoDBClient, UpdateItemCommand } from "@aws-sdk/client-dynamodb";

const table = process.env.AGENTS_TABLE;
const limit = process.env.RATE_LIMIT_PER_MINUTE;
const dynamodb = new DynamoDBClient({});

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

function agentId(key) {
  const digest = sha256(Buffer.concat([Buffer.from("agent"), key.subarray(0, 8)])).subarray(0, 16);
  digest[6] = (digest[6] & 0x0f) | 0x80;
  digest[8] = (digest[8] & 0x3f) | 0x80;
  return digest.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function otherCounters(slot) {
  const others = [...Array(13).keys()].filter((other) => other !== slot);
  return ["b", "c"].flatMap((kind) => others.map((other) => kind + other)).join(",");
}

async function handle(event) {
  const body = JSON.parse(event.body);
  const key = Buffer.from(body.apiKey, "hex");
  const now = Date.now();
  const window = Math.floor(now / 60_000);
  try {
    const { Attributes: row } = await dynamodb.send(
      new UpdateItemCommand({
        TableName: table,
        Key: { agent_id: { S: agentId(key) } },
        ConditionExpression:
          "key_digest = :digest AND agent_state = :active AND attribute_not_exists(offline_since)" +
          " AND (attribute_not_exists(#counter) OR #counter < :limit OR last_seen_at < :window_start)",
        UpdateExpression:
          "SET last_seen_at = :now, lease_expires_at = tolerance_ms + :now, health = :health" +
          " ADD #counter :one, requests_total :one REMOVE " +
          otherCounters(window % 13),
        ExpressionAttributeNames: { "#counter": `b${window % 13}` },
        ExpressionAttributeValues: {
          ":digest": { B: sha256(key) },
          ":active": { S: "active" },
          ":health": { S: body.status },
          ":limit": { N: limit },
          ":now": { N: String(now) },
          ":one": { N: "1" },
          ":window_start": { N: String(window * 60_000) },
        },
        ReturnValues: "ALL_NEW",
      }),
    );
    const data = { agentId: row.agent_id.S, leaseExpiresAt: row.lease_expires_at.N };
    return { statusCode: 200, headers: { "content-type": "application/json" }, body: JSON.stringify({ ok: true, data }) };
  } catch (error) {
    if (!(error instanceof ConditionalCheckFailedException)) throw error;
    return { statusCode: 401, body: JSON.stringify({ ok: false }) };
  }
}

function call(method, path, body) {
  const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
  return new Promise((resolve, reject) => {
    const sent = request({ host, port, method, path: `/2018-06-01/runtime/invocation/${path}` }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => resolve({ headers: answer.headers, body: Buffer.concat(parts).toString() }));
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

for (;;) {
  const next = await call("GET", "next");
  const id = next.headers["lambda-runtime-aws-request-id"];
  await call("POST", `${id}/response`, JSON.stringify(await handle(JSON.parse(next.body))));
}
