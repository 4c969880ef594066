"""The ways a user would otherwise do it, a file each, as their own documentation shows them.

Each is a program: `python -m benchmarks.speed.peers.<name> TASK.json`. It reads the task, writes Parquet with the
columns of `looking.COLUMNS` under its `out`, and says when its models were in memory and its last row was written.
"""
