-- What both loads have in common: failures are counted, and the figures are one line of JSON.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

refused = 0

function response(status)
  if status ~= 200 then
    refused = refused + 1
  end
end

function done(summary, latency)
  local others = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do
    others = others + thread:get("refused")
  end
  io.write(string.format(
    '{"answers": %d, "failures": %d, "microseconds": %d, "p50": %d, "p99": %d}\n',
    summary.requests, others, summary.duration, latency:percentile(50), latency:percentile(99)))
end
