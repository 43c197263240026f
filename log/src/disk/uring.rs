//! The io_uring disk driver.
