-- Heartbeats of many agents in turn, for wrk. Argument: a file with one API key per line.

dofile("figures.lua")

local keys = {}
local next_key = 0

function init(arguments)
  for key in io.lines(arguments[1]) do
    table.insert(keys, key)
  end
end

function request()
  next_key = next_key % #keys + 1
  local body = '{"apiKey": "' .. keys[next_key] .. '", "status": "healthy"}'
  return wrk.format("POST", nil, { ["content-type"] = "application/json" }, body)
end
