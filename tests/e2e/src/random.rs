//! Random numbers from a printed seed, so that a run's load can be had again.

pub use devcluster::random::Random;

/// The run's seed: `SCALER_SEED`, else of the clock. Printed, so that a failed run shows it.
pub fn seed() -> u64 {
    let seed = std::env::var("SCALER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as u64
    });
    println!("SCALER_SEED={seed}");
    seed
}
