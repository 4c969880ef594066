"""Runs on a Ray cluster, as seen from a laptop: send a job there, find it again, watch it, end it.

What a run does is in its OUT, and its record there, a few seconds old, is what `status` shows: whoever can read the
bucket can watch, without reaching the cluster. Ray's Jobs API is asked for what only it knows: whether the driver
waits, runs or is gone, and what it said.
"""
