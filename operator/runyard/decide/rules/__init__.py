"""The rules, one function each: the first that returns a decision decides.

    lifecycle: suspend, limits, attempts, the end of a run     preparation: the prepare Job     attempt_end: retries
    source_run: the run that a model comes from     quota, kueue: whether an attempt may start

Their order is in `plan.RULES`. A rule depends on nothing but its situation.
"""
