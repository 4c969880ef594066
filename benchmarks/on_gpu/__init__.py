"""The rooms of `benchmarks.gpu`: pictures, the three ways to call a network, and what the device could do at best."""
