//! Who has a port that cannot be bound, as far as this process may see.

use std::{fs, path::Path};

/// Where the kernel lists the TCP sockets of this process's network.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A socket, as a line of such a table has it.
#[derive(Debug)]
struct Line {
    port: u16,
    listens: bool,
    inode: u64,
}

/// Who has it, for people.
pub fn holder(port: u16) -> String {
    let tables = TABLES.map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1).filter_map(Line::parse));
    let lines: Vec<_> = lines.filter(|line| line.port == port).collect();
    if let Some(listener) = lines.iter().find(|line| line.listens) {
        return match process(listener.inode) {
            Some((pid, name)) => format!("process {pid} ({name}) listens on it"),
            None => "a process that this one may not look into listens on it".to_owned(),
        };
    }
    match (lines.is_empty(), ephemeral()) {
        (false, Some((first, last))) if (first..=last).contains(&port) => format!(
            "a connection has it: net.ipv4.ip_local_port_range, {first}-{last}, gives it to outgoing ones; choose \
             ports outside, or reserve these in net.ipv4.ip_local_reserved_ports"
        ),
        (false, _) => "a connection has it".to_owned(),
        (true, _) => "nobody is seen who has it".to_owned(),
    }
}

/// The ports that the kernel gives to outgoing connections.
fn ephemeral() -> Option<(u16, u16)> {
    let text = fs::read_to_string(EPHEMERAL).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The process that has the socket, and its name.
fn process(inode: u64) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let has = |folder: &Path| {
        fs::read_dir(folder.join("fd")).is_ok_and(|fds| {
            fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
        })
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|folder| {
        let pid = folder.file_name().to_str()?.parse().ok()?;
        let name = || fs::read_to_string(folder.path().join("comm")).unwrap_or_default();
        has(&folder.path()).then(|| (pid, name().trim().to_owned()))
    })
}

// === impl Line ===

impl Line {
    /// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        Some(Self { port, listens: *fields.get(3)? == "0A", inode: fields.get(9)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::holder;

    #[test]
    fn whoever_listens_or_is_connected_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(holder(port).starts_with(&format!("process {} (", std::process::id())), "{}", holder(port));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = client.local_addr().unwrap().port();
        assert!(holder(own).contains("net.ipv4.ip_local_port_range"), "{}", holder(own));
    }
}
