//! Tests of package margay through its public interface.

mod machine;
mod resource;
