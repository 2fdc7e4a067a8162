"""The rules, one function each: the first that has something to say decides.

    lifecycle: deletion, suspend, limits, preparation, attempts     attempt_end: how an attempt ended
    source_run: the run that a model comes from     quota, kueue: whether an attempt may start

Order and meaning are in `plan.RULES`. Nothing here reads anything but its situation.
"""
