//! Only tests live here: see `tests/it/main.rs`.
