"""Training: labelled images become a checkpoint that a run can use.

`driver` is the verb `train`, `plan` the arithmetic, `loop` the work of one training process, and `ray_train` the only
file that imports Ray. What a job file may contain is in `config.training`.
"""
