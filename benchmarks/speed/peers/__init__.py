"""Other ways to tag images, one file each, as their own documentation shows them.

Each is a program: `python -m benchmarks.speed.peers.<name> TASK.json`. It reads the task, writes Parquet with the
columns of `peer_models.COLUMNS` under the task's `out`, and reports when its models were in memory and its last row was
written.
"""
