//! Operations on volumes: plans, intents, attachment records, recovery.
