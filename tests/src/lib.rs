//! End-to-end, crash and model suites, the demo and the bench.
