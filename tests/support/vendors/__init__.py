"""Played vendors: a server of four dialects, as strict with a request as the real ones; it keeps each request.

What it does is chosen by the model's name, parts joined by "-": first what is played, then its numbers and flags.

    plain (or any other)   "Hello there."             usage-P-C[-K-R-W]  P prompt, C completion, K cached, R reasoning,
    tools[-N]              calls the first N tools                       W cache-write tokens
    parallel-N             calls the first tool N times                  (then: quotes the results)
    agent                  reads the file and runs the command that the prompt names in backticks, one a turn, by the
                           tools that the request offers, then quotes both results
    refusal | length | stopped | pause | filter        ends so
    overflow               the prompt is too long      status-CODE[-S]    an error (Retry-After: S)
    slow-MS                silence before the headers  silent             no answer at all
    stream-N-MS            N words, MS apart           pings-N            N pings (comments) before the content
    cut-N | cleancut-N | silentmid-N | errorevent-N    a broken connection, a clean end without the terminal event,
                           silence, an error event: after N pieces of content. cutbytes-N: broken after N bytes

Flags: `think` (reasoning before the answer, signed: the signature has to come back unchanged), `doneonly` (tool
arguments only at the call's end), `nousage`, and of the ids of tool calls `kimi` (functions.Bash:0), `long` (200
characters), `emoji`, `twice` (the same for each call), `noid` (empty).

`Vendors.bill(model, {"usage": {…}})` makes a model report exactly that usage, in its dialect's own words.
"""
