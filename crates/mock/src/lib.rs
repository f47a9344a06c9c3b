//! Mocks of the three traits, for embedders' tests.
