"""Talking to Ray: starting a private one, joining a cluster, and sending jobs to a cluster from a laptop.

What a run does is in its OUT. The record there is a few seconds old and is what `batchtag status` shows, so everybody
who can read the bucket can watch a run without reaching the cluster. Ray's Jobs API is asked only for what no record
holds: whether the driver waits, runs or has ended, and its log.
"""
