"""Side by side: batchtag and every way a user would otherwise tag a bucket, in one run, on the same images.

    python -m benchmarks.speed [--quick] [--only mobilenet_v3_large ...] [--rounds 3] [--out bench]

Every contender gets the same objects from the same S3 server on this machine, the same weights, and has to write the
same columns; each runs in a process of its own, in turn (A B C, A B C), and what they wrote is compared before how long
they took. Two limits are measured beside them: the bare forward pass, and libjpeg-turbo alone. What counts are ratios.

Two times are taken of each: while tagging (from the moment its models are in memory to its last row written, which
leaves out the start of Python, Ray and workers; of Ray Data and Daft, to the return of `write_parquet`, the first sign
of it that a user has) and from start to end, as a user waits.
"""
