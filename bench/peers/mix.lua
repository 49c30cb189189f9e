-- Load for wrk: what clients send in a day, mixed, for customers drawn at random.
--
--   wrk … -s mix.lua URL -- EVERY LIST_FIRST LIST_LAST ADD_FIRST ADD_LAST
--
-- Of EVERY requests one adds a purchase, one reads a page of all purchases, two read a
-- customer that they know at its version, and the others list. Prints its figures as
-- load.lua does.

local BODY = '{"purchase_name": "Green tea, 100 g", "quantity": 4}'
local HEAD = " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
local LIST = "GET /api/v1/purchase/%d" .. HEAD .. "\r\n"
local PAGE = "GET /api/v1/customer?limit=20&after=%d" .. HEAD .. "\r\n"
local READ = "GET /api/v1/customer/%d" .. HEAD .. 'If-None-Match: "1"\r\n\r\n'
local POST = "POST /api/v1/purchase/%d" .. HEAD .. "Content-Type: application/json\r\n"
  .. "Content-Length: " .. #BODY .. "\r\n\r\n" .. BODY

local every, sent = 0, 0
local first, last, add_first, add_last

function init(args)
  every = tonumber(args[1])
  first, last = tonumber(args[2]), tonumber(args[3])
  add_first, add_last = tonumber(args[4]), tonumber(args[5])
  math.randomseed(os.time())
end

function request()
  sent = sent + 1
  local place = sent % every
  if place == 0 then return POST:format(math.random(add_first, add_last)) end
  if place == 3 then return PAGE:format(math.random(first, last)) end
  if place == 6 or place == 9 then return READ:format(math.random(first, last)) end
  return LIST:format(math.random(first, last))
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "figures.lua")
