//! The log's fuzz targets, with bytes that bolero draws.

#[allow(dead_code)]
#[path = "../../../tests/it/fuzz.rs"]
mod fuzz;
#[allow(dead_code)]
#[path = "../../../tests/it/world.rs"]
mod world;

#[test]
fn decoders() {
    bolero::check!().with_iterations(20_000).for_each(fuzz::decoders);
}

#[test]
fn directories() {
    bolero::check!().with_iterations(5_000).for_each(fuzz::directories);
}
