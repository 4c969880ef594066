"""batchtag compared with other ways to tag a bucket, in one run, on the same images.

    python -m benchmarks.speed [--quick] [--only mobilenet_v3_large ...] [--rounds 3] [--out bench]

Every contender gets the same objects from the same S3 server on this machine and the same weights, and must write the
same columns. Each runs in a process of its own, in turn (A B C, A B C). Their answers are compared before their times.
Two limits are measured too: the forward pass alone, and libjpeg-turbo alone. The ratios are what counts.

Two times are measured for each contender. The time of tagging is from the moment when its models are in memory to its
last row written, without the start of Python, Ray and workers; for Ray Data and Daft it ends when `write_parquet`
returns, because a user sees nothing of it before. The whole time is from start to end, as a user waits.
"""
