-- Requests as a small site gets them: many pages, some searches, an interface, and things that do not exist.
local agents = {
  "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
  "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15",
  "curl/7.88.1",
  "Examplebot/2.1 (+http://example.org/bot)",
}
local words = { "queue", "ring", "lease", "attempt", "worker", "payload", "segment", "r%C3%A9sum%C3%A9", "a+b" }

-- Each thread has its own Lua, in which `thread_number` becomes a global.
local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("thread_number", threads)
end

function init()
  math.randomseed(os.time() * 16 + thread_number)
end

local function path()
  local kind = math.random(100)
  if kind <= 55 then return "/page/" .. math.random(5000) end
  if kind <= 70 then return "/search?q=" .. words[math.random(#words)] .. "&from=" .. math.random(200) end
  if kind <= 85 then return "/api/v1/items/" .. math.random(100000) .. "?fields=name,price" end
  if kind <= 92 then return "/old/" .. math.random(300) end
  if kind <= 97 then return "/missing/" .. math.random(10000) .. ".php" end
  if kind <= 99 then return "/private/" .. math.random(50) end
  return "/"
end

function request()
  local headers = { ["User-Agent"] = agents[math.random(#agents)] }
  if math.random(3) == 1 then headers["Referer"] = "http://example.org" .. path() end
  return wrk.format(math.random(12) == 1 and "POST" or "GET", path(), headers)
end
