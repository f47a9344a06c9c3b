//! The only door to the operating system: trait Host, its system implementation and the helper pool.
