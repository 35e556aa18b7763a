-- One UpdateItem again and again, straight to the engine, for wrk. Argument: a file with its body.

dofile("figures.lua")

local body

function init(arguments)
  body = io.open(arguments[1]):read("*a")
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
