//! Measures.
use anyhow::Result;
/// Measures the DLX beside other proxies
#[derive(clap::Args)]
pub struct Bench {}
impl Bench {
    #[allow(missing_docs)]
    pub fn run(&self) -> Result<()> {
        Ok(())
    }
}
