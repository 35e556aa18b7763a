-- A heartbeat's write straight to the engine, for wrk: what the local system cannot be faster than. Argument: an agent's
-- id.

dofile("figures.lua")

local body

function init(arguments)
  local removed = {}
  for slot = 1, 12 do
    table.insert(removed, "b" .. slot .. ",c" .. slot)
  end
  body = '{"TableName": "rollcall-AgentsTable", "Key": {"agent_id": {"S": "' .. arguments[1] .. '"}}, '
    .. '"ConditionExpression": "agent_state = :active AND attribute_not_exists(offline_since) '
    .. 'AND (attribute_not_exists(b0) OR b0 < :limit OR last_seen_at < :window_start)", '
    .. '"UpdateExpression": "SET last_seen_at = :now, lease_expires_at = tolerance_ms + :now, health = :health '
    .. 'ADD b0 :one, requests_total :one REMOVE c0,' .. table.concat(removed, ",") .. '", '
    .. '"ExpressionAttributeValues": {":active": {"S": "active"}, ":limit": {"N": "1000000000"}, ":one": {"N": "1"}, '
    .. '":window_start": {"N": "1"}, ":now": {"N": "1"}, ":health": {"S": "healthy"}}, "ReturnValues": "ALL_NEW"}'
end

function request()
  return wrk.format("POST", "/", {
    ["content-type"] = "application/x-amz-json-1.0",
    ["x-amz-target"] = "DynamoDB_20120810.UpdateItem",
    ["x-amz-date"] = "20260101T000000Z",
    ["authorization"] = "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/dynamodb/aws4_request, "
      .. "SignedHeaders=host, Signature=any",
  }, body)
end
