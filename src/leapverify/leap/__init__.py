"""The live engine: `LeapVerify` in a training run that goes on.

A checkpoint goes this way: `driver` (is anything due?) -> `engine.checkpoint` -> `observer` (regime, schedule) ->
`policy/` (which leap?) -> `attempt` (predict, compare) -> `transaction` (put the weights back, or keep them) ->
`commit` (schedule and moments of an accepted leap) -> `event` and `loggers`.

`config` lists the options, `api` is what users call, `assemble` builds the engine, `state` saves and loads it. `ledger`
counts costs against the budget. `anneal/` averages weights in place of a decay phase.
"""
