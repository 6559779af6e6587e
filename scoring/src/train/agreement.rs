//! The serving kernels against the graph that trains.
