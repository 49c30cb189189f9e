-- Load for wrk: adds with idempotency keys, each with its own, for customers drawn at
-- random.
--
--   wrk … -s keyed.lua URL -- 1 LIST_FIRST LIST_LAST ADD_FIRST ADD_LAST
--
-- Prints its figures as load.lua does.

local BODY = '{"purchase_name": "Green tea, 100 g", "quantity": 4}'
local POST = "POST /api/v1/purchase/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n"
  .. "Content-Type: application/json\r\nContent-Length: " .. #BODY .. "\r\n"
  .. "Idempotency-Key: %08x-%04x-4%03x-8%03x-%012x\r\n\r\n" .. BODY

local sent = 0
local first, last, run

function init(args)
  first, last = tonumber(args[4]), tonumber(args[5])
  math.randomseed(os.time())
  run = math.random(0xffff)
end

function request()
  sent = sent + 1
  local key = { math.random(0, 0x7fffffff), run, math.random(0, 0xfff), math.random(0, 0xfff) }
  return POST:format(math.random(first, last), key[1], key[2], key[3], key[4], sent)
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "figures.lua")
