//! The HTTP binary cache
