"""The rules, one function each: the first that returns a decision decides.

    lifecycle: deletion, suspend, limits, preparation, attempts     attempt_end: how an attempt ended
    source_run: the run that a model comes from     quota, kueue: whether an attempt may start

Their order is in `plan.RULES`. A rule depends on nothing but its situation.
"""
