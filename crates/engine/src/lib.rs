//! The async driver of Fetch and the use cases above it
