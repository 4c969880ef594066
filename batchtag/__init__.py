"""Tag every image under a prefix, from object storage to Parquet, resumable and provable."""

__version__ = "0.1.0"
