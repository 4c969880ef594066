"""The demonstration: drawn shelves through a whole run, and the results beside the ground truth.

`run` is the verb `demo`, `scenes` draws the shelves, `models` has the two trained checkpoints, `tables` and `drawing`
show what was found.
"""
