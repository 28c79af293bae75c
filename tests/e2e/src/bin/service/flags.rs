//! What the service is started with.

use std::{net::IpAddr, path::PathBuf, time::Duration};

/// See the program's own words.
#[derive(Default)]
pub struct Flags {
    pub addresses: Vec<IpAddr>,
    pub port: Option<u16>,
    pub lines_port: Option<u16>,
    pub name: String,
    pub journal: Option<String>,
    pub start_after: Option<PathBuf>,
    pub exit: Option<i32>,
    pub collect: Option<u16>,
    pub drain: Option<Duration>,
}

// === impl Flags ===

impl Flags {
    /// Those that this process was given.
    pub fn read() -> anyhow::Result<Self> {
        let mut flags = Self { name: "service".into(), ..Self::default() };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{name} wants a value"))?;
            match name.as_str() {
                "--address" => {
                    flags.addresses = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--port" => flags.port = Some(value.parse()?),
                "--lines-port" => flags.lines_port = Some(value.parse()?),
                "--name" => flags.name = value,
                "--journal" => flags.journal = Some(value),
                "--start-after" => flags.start_after = Some(value.into()),
                "--collect" => flags.collect = Some(value.parse()?),
                "--exit" => flags.exit = Some(value.parse()?),
                "--drain" => flags.drain = Some(Duration::from_millis(value.parse()?)),
                _ => anyhow::bail!("unknown flag {name}"),
            }
        }
        Ok(flags)
    }
}
