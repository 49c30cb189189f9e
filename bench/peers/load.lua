-- Load for wrk: lists, adds, or both, for customers drawn at random.
--
--   wrk … -s load.lua URL -- EVERY LIST_FIRST LIST_LAST [ADD_FIRST ADD_LAST]
--
-- Every EVERYth request adds a purchase: 0 never, 1 always, 5 one in five. Prints its
-- figures by figures.lua.

local BODY = '{"purchase_name": "Green tea, 100 g", "quantity": 4}'
local every, sent = 0, 0
local lists, adds = {}, {}

function init(args)
  local number = {}
  for i = 1, 5 do number[i] = tonumber(args[i]) end
  every = number[1]
  math.randomseed(os.time())
  local path = "/api/v1/purchase/"
  local headers = { ["Content-Type"] = "application/json" }
  if every ~= 1 then
    for id = number[2], number[3] do
      lists[#lists + 1] = wrk.format("GET", path .. id)
    end
  end
  if every > 0 then
    for id = number[4], number[5] do
      adds[#adds + 1] = wrk.format("POST", path .. id, headers, BODY)
    end
  end
end

function request()
  sent = sent + 1
  if every > 0 and sent % every == 0 then
    return adds[math.random(#adds)]
  end
  return lists[math.random(#lists)]
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "figures.lua")
