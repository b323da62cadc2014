-- For wrk: the support assistant's POST with the key in PENSTOCK_KEY. See docs/performance.md, "Load test".
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("PENSTOCK_KEY")
wrk.body = assert(io.open("test_message.json")):read("*a")
