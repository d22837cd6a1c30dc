//! The local store: sync traits, in memory and on disk
