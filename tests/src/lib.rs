//! What the stories share beyond the lab of `penstock-perf`: a look at the wire itself.
