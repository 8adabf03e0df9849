//! Chores of the project. Nothing of the product lives here.

mod example;

fn main() -> anyhow::Result<()> {
    example::run(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(std::path::Path::new(".")))
}
