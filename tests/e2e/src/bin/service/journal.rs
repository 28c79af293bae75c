//! Where what was asked is written down, before it is answered.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::TcpStream,
};

/// Where it is written down.
pub enum Journal {
    /// Nowhere.
    None,
    /// At the end of a file.
    File(File),
    /// By a process that says back what it has written down.
    Collector(TcpStream),
}

// === impl Journal ===

impl Journal {
    /// Opens a file, or connects to `tcp:ADDRESS` in the name of this service.
    pub fn open(to: Option<&str>, name: &str) -> anyhow::Result<Self> {
        Ok(match to.map(|to| to.strip_prefix("tcp:").ok_or(to)) {
            None => Self::None,
            Some(Err(path)) => Self::File(OpenOptions::new().create(true).append(true).open(path)?),
            Some(Ok(address)) => {
                let mut collector = TcpStream::connect(address)?;
                collector.set_nodelay(true)?;
                collector.write_all(format!("{name}\n").as_bytes())?;
                Self::Collector(collector)
            }
        })
    }

    /// Writes a whole line, its end included.
    pub fn write(&self, line: &str) -> std::io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::File(file) => (&*file).write_all(line.as_bytes()),
            Self::Collector(collector) => {
                let mut collector = collector;
                collector.write_all(line.as_bytes())?;
                collector.read_exact(&mut [0])
            }
        }
    }
}
