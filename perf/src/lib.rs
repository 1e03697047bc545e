//! penstock-perf
