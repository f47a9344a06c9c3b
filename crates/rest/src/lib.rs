//! The HTTP client the array backends share: pool, TLS, authentication, retry, budget, redaction.
