//! The clients that put a proxy under load, and what they print.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use super::peers::Programs;
use crate::steps::line;

/// The name the DLX knows the upstream by.
pub const HOST: &str = "upstream.localhost";

/// What clients do, in a closed loop over their connections.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// HTTP/1.1.
    Wrk {
        connections: u32,
        path: &'static str,
        /// So many bytes are the body of each request, a POST; 0: a GET.
        upload: usize,
        /// One request for each connection.
        close: bool,
    },
    /// HTTP/2 without TLS.
    H2load { connections: u32, streams: u32 },
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// How many requests.
    pub requests: u64,
    /// The same, divided by the time as the client took it.
    pub per_second: f64,
}

// === impl Client ===

impl Client {
    /// Runs for `seconds`. What a client reads is written to `folder`.
    ///
    /// # Errors
    ///
    /// A request that failed: a figure over errors is none.
    pub fn run(&self, programs: &Programs, folder: &Path, address: SocketAddr, seconds: u32) -> Result<Load> {
        match *self {
            Self::Wrk { connections, path, upload, close } => {
                let mut wrk = Command::new(&programs.wrk);
                wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "10s"]);
                wrk.args(["-H", &format!("Host: {HOST}")]);
                if close {
                    wrk.args(["-H", "Connection: close"]);
                }
                if upload > 0 {
                    let script = folder.join(format!("upload-{upload}.lua"));
                    let text = format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {upload})\n");
                    fs::write(&script, text).context("writing the script of wrk")?;
                    wrk.arg("-s").arg(script);
                }
                Load::of_wrk(&output(wrk.arg(format!("http://{address}{path}")))?)
            }
            Self::H2load { connections, streams } => {
                let mut h2load = Command::new(&programs.h2load);
                h2load.args([format!("-c{connections}"), format!("-m{streams}"), format!("-D{seconds}")]);
                h2load.args(["-H", &format!(":authority: {HOST}"), &format!("http://{address}/")]);
                Load::of_h2load(&output(&mut h2load)?)
            }
        }
    }
}

/// What a client printed.
fn output(client: &mut Command) -> Result<String> {
    let line = line(client);
    let output = client.output().with_context(|| format!("starting `{line}`"))?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "`{line}` ended with {}: {errors}", output.status);
    Ok(text.into_owned())
}

// === impl Load ===

impl Load {
    fn of_wrk(text: &str) -> Result<Self> {
        ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "requests failed:\n{text}");
        let number = |line: &str| line.split_once(" requests in ")?.0.trim().parse().ok();
        let rate = |line: &str| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok();
        let read = text.lines().find_map(number).zip(text.lines().find_map(rate));
        let (requests, per_second) =
            read.with_context(|| format!("wrk printed something else than expected:\n{text}"))?;
        ensure!(requests > 0, "no request was answered:\n{text}");
        Ok(Self { requests, per_second })
    }

    fn of_h2load(text: &str) -> Result<Self> {
        // requests: 90 total, 99 started, 90 done, 90 succeeded, 0 failed, 0 errored, 0 timeout
        // status codes: 90 2xx, 0 3xx, 0 4xx, 0 5xx
        let count = |start: &str, word: &str| -> Option<u64> {
            let counts = text.lines().find_map(|line| line.strip_prefix(start))?;
            counts.split(',').find_map(|count| count.trim().strip_suffix(word)?.trim().parse().ok())
        };
        let rate = |line: &str| {
            let counts = line.strip_prefix("finished in ")?;
            counts.split(',').find_map(|count| count.trim().strip_suffix("req/s")?.trim().parse().ok())
        };
        let read =
            count("requests:", "done").zip(count("status codes:", "2xx")).zip(text.lines().find_map(rate));
        let Some(((done, ok), per_second)) = read else {
            bail!("h2load printed something else than expected:\n{text}");
        };
        let failed: u64 =
            ["failed", "errored", "timeout"].iter().filter_map(|word| count("requests:", word)).sum();
        ensure!(done > 0 && ok == done && failed == 0, "requests failed:\n{text}");
        Ok(Self { requests: done, per_second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 1s test @ http://127.0.0.1:8090/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.11ms  530.05us   9.89ms   88.30%
    Req/Sec    30.50k     1.33k   32.29k    80.00%
  33379 requests in 1.10s, 5.70MB read
Requests/sec:  30367.93
Transfer/sec:      5.18MB
";

    #[test]
    fn the_requests_and_the_rate_of_wrk_are_read() {
        let load = Load::of_wrk(WRK).unwrap();
        assert_eq!(load, Load { requests: 33_379, per_second: 30_367.93 });
    }

    #[test]
    fn failed_requests_of_wrk_are_an_error() {
        for line in
            ["  Non-2xx or 3xx responses: 1", "  Socket errors: connect 0, read 3, write 0, timeout 0"]
        {
            let failed = Load::of_wrk(&format!("{WRK}{line}\n")).unwrap_err();
            assert!(failed.to_string().starts_with("requests failed"), "{failed}");
        }
        assert!(Load::of_wrk(&WRK.replace("33379", "0")).is_err(), "no request was answered");
        assert!(Load::of_wrk("unable to connect to 127.0.0.1:8090 Connection refused").is_err());
    }

    const H2LOAD: &str = "Application protocol: h2c

finished in 1.00s, 88185.50 req/s, 7.65MB/s
requests: 88185 total, 88441 started, 88185 done, 88185 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 88185 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 7.65MB (8025227) total, 4.12MB (4321065) headers (space savings 50.51%), 2.02MB (2116440) data
                     min         max         mean         sd        +/- sd
req/s           :   10872.24    11324.30    11021.73      146.01    75.00%
";

    #[test]
    fn the_requests_and_the_rate_of_h2load_are_read() {
        let load = Load::of_h2load(H2LOAD).unwrap();
        assert_eq!(load, Load { requests: 88_185, per_second: 88_185.5 });
    }

    #[test]
    fn failed_requests_of_h2load_are_an_error() {
        for (from, to) in [
            ("0 failed", "1 failed"),
            ("0 errored", "2 errored"),
            ("0 timeout", "3 timeout"),
            ("88185 2xx, 0 3xx", "88184 2xx, 1 3xx"),
        ] {
            let failed = Load::of_h2load(&H2LOAD.replace(from, to)).unwrap_err();
            assert!(failed.to_string().starts_with("requests failed"), "{failed}");
        }
        assert!(Load::of_h2load("[ERROR] Could not connect to http://127.0.0.1:1").is_err());
    }
}
