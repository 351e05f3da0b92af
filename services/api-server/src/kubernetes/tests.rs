//! The HTTP API, over the real pipeline and the in-memory store.
