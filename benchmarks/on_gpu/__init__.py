"""The rooms of `benchmarks.gpu`: images, the three ways to call a network, and what the device could do at best."""
