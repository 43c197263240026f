//! Plain blocking calls on a real directory.
