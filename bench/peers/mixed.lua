-- Mixed load for wrk: as load.lua, but the latencies are those of the lists alone.
--
--   wrk … -s mixed.lua URL -- EVERY LIST_FIRST LIST_LAST ADD_FIRST ADD_LAST
--
-- wrk does not tell which request a reply belongs to. The server sends back the
-- X-Request-Id that it was given, so each one carries the time at which it was sent.

local ffi = require("ffi")
ffi.cdef [[
  struct moment { long seconds, nanoseconds; };
  int clock_gettime(int clock, struct moment *moment);
]]
local CLOCK_MONOTONIC = 1
local moment = ffi.new("struct moment")

local function microseconds()
  ffi.C.clock_gettime(CLOCK_MONOTONIC, moment)
  return tonumber(moment.seconds) * 1e6 + math.floor(tonumber(moment.nanoseconds) / 1e3)
end

local BODY = '{"purchase_name": "Green tea, 100 g", "quantity": 4}'
local PATH = " /api/v1/purchase/%d HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: %s-%.0f\r\n"
local GET = "GET" .. PATH .. "\r\n"
local POST = "POST" .. PATH .. "Content-Type: application/json\r\n"
  .. "Content-Length: " .. #BODY .. "\r\n\r\n" .. BODY

local every, sent = 0, 0
local first, last, add_first, add_last
counts = {} -- how many lists took so many microseconds; wrk reads it by its name

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  every = tonumber(args[1])
  first, last = tonumber(args[2]), tonumber(args[3])
  add_first, add_last = tonumber(args[4]), tonumber(args[5])
  math.randomseed(os.time())
end

function request()
  sent = sent + 1
  if every > 0 and sent % every == 0 then
    return POST:format(math.random(add_first, add_last), "add", microseconds())
  end
  return GET:format(math.random(first, last), "list", microseconds())
end

function response(status, headers)
  local began = (headers["X-Request-Id"] or ""):match("^list%-(%d+)$")
  if began then
    local took = microseconds() - tonumber(began)
    counts[took] = (counts[took] or 0) + 1
  end
end

-- Return the least latency that `share` of the lists did not exceed.
local function percentile(latencies, all, lists, share)
  local seen = 0
  for _, latency in ipairs(latencies) do
    seen = seen + all[latency]
    if seen >= share * lists then return latency end
  end
  return 0
end

function done(summary)
  local all, latencies, lists = {}, {}, 0
  for _, thread in ipairs(threads) do
    for latency, count in pairs(thread:get("counts")) do
      if not all[latency] then latencies[#latencies + 1] = latency end
      all[latency] = (all[latency] or 0) + count
      lists = lists + count
    end
  end
  table.sort(latencies)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %d, "p99": %d, "refused": %d, "errors": %d, "lists": %d}',
    summary.requests, summary.duration / 1e6,
    percentile(latencies, all, lists, 0.5), percentile(latencies, all, lists, 0.99),
    errors.status, errors.connect + errors.read + errors.write + errors.status + errors.timeout, lists))
end
