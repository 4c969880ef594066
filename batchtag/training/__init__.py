"""Training: images somebody labelled become a checkpoint that the line runs.

`spec` is what a job may say, `plan` what follows from it, `worker` what each process does epoch after epoch, and
`together` is Ray Train around them. The floor above (`train`) is the verb.
"""
