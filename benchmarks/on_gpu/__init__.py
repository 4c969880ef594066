"""Parts of `benchmarks.gpu`: images, the three ways to call a network, and the limits of the device."""
