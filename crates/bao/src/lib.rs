//! Prove and verify one span of one blob
