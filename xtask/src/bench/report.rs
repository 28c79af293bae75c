//! The table and the JSON.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::peers::Programs;

/// Everything one run measured.
#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    programs: Vec<(&'static str, String)>,
    /// In the order of the table.
    pub warm: Vec<Warm>,
    /// The look at a kept connection before it is used.
    pub check_of_kept_ns: Option<f64>,
    /// Held requests.
    pub held: Option<Held>,
    /// The burst.
    pub burst: Option<Burst>,
    /// Cold starts.
    pub cold: Option<Cold>,
    /// A cycle over many Deployments.
    pub cycle: Option<Cycle>,
    /// Many intercepted Services.
    pub interception: Option<Interception>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
}

/// Median, least and greatest of several measurements.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// One proxy, warm.
#[derive(Serialize)]
pub struct Warm {
    /// Which.
    pub proxy: &'static str,
    /// CPU of its process tree, user and kernel.
    pub cpu_us_per_request: Spread,
    /// Closed loop over the connections.
    pub requests_per_second: Spread,
}

/// Requests held while the resource starts.
#[derive(Serialize)]
pub struct Held {
    /// How many.
    pub requests: usize,
    /// Growth of the resident memory, divided.
    pub kib_per_request: f64,
    /// With one held request.
    pub rss_before_kib: u64,
    /// With all of them.
    pub rss_after_kib: u64,
    /// With one held request.
    pub threads_before: u64,
    /// With all of them.
    pub threads_after: u64,
    /// Voluntary context switches of all threads while nothing happens.
    pub wakeups_per_second: f64,
    /// CPU while nothing happens.
    pub cpu_us_per_second: f64,
}

/// Many requests at once to one sleeping resource.
#[derive(Serialize)]
pub struct Burst {
    /// How many.
    pub requests: usize,
    /// With 200.
    pub answered: usize,
    /// How long it took to open the connections and send.
    pub sent_in_seconds: f64,
    /// From the first connection to the last answer, the resource's start included.
    pub seconds: f64,
}

/// Cold starts.
#[derive(Serialize)]
pub struct Cold {
    /// How many.
    pub starts: usize,
    /// From the resource's readiness to the client's first byte, in milliseconds.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The same.
    pub max_ms: f64,
}

/// A cycle of the autoscaler over many Deployments, all of them awake.
#[derive(Serialize, Deserialize)]
pub struct Cycle {
    /// How many.
    pub deployments: usize,
    /// Over how many cycles it was measured.
    pub cycles: f64,
    /// CPU of the autoscaler, user and kernel, all that it did meanwhile.
    pub cpu_ms_per_cycle: f64,
    /// Its calls of the API, those for its Lease included.
    pub api_calls_per_cycle: f64,
}

/// Many intercepted Services.
#[derive(Serialize, Deserialize)]
pub struct Interception {
    /// How many.
    pub services: usize,
    /// By how many DLXs.
    pub dlxs: usize,
    /// What it took to intercept all of them.
    pub intercepting: Spent,
    /// What a cycle takes then.
    pub cycle: InterceptedCycle,
    /// In memory, in MiB, by process and moment.
    pub memory_mib: BTreeMap<String, f64>,
    /// How large the registry of ports is.
    pub registry_bytes: usize,
    /// What it took until all of them had another DLX in place of one that stopped.
    pub replaced_dlx: Spent,
}

/// What the autoscaler spent on something.
#[derive(Serialize, Deserialize)]
pub struct Spent {
    /// How long it took.
    pub seconds: f64,
    /// User and kernel.
    pub cpu_ms: f64,
    /// Of the API, as `VERB RESOURCE`.
    pub api_calls: BTreeMap<String, u64>,
}

/// A cycle of the autoscaler over intercepted Services.
#[derive(Serialize, Deserialize)]
pub struct InterceptedCycle {
    /// Over how many cycles it was measured.
    pub cycles: f64,
    /// User and kernel, all that it did meanwhile.
    pub cpu_ms: f64,
    /// Its calls of the API, those for its Lease included.
    pub api_calls: f64,
}

// === impl Spread ===

impl Spread {
    /// Of at least one measurement.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}

// === impl Interception ===

impl Interception {
    fn print(&self) {
        println!("\n  {} Services intercepted by {} DLXs", self.services, self.dlxs);
        for (what, Spent { seconds, cpu_ms, api_calls }) in
            [("until all are intercepted", &self.intercepting), ("a DLX replaced", &self.replaced_dlx)]
        {
            let calls: u64 = api_calls.values().sum();
            line(what, &format!("{seconds:.1} s, {cpu_ms:.0} ms of CPU, {calls} calls"), "");
        }
        let InterceptedCycle { cpu_ms, api_calls, .. } = self.cycle;
        line("a cycle then", &format!("{cpu_ms:.0} ms of CPU, {api_calls:.1} calls"), "");
        for (process, memory) in &self.memory_mib {
            line(&format!("memory, {}", process.replace('_', " ")), &format!("{memory:.0} MiB"), "");
        }
        line("the registry of ports", &format!("{} KiB", self.registry_bytes / 1024), "below 1 MiB");
    }
}

// === impl Report ===

impl Report {
    /// Nothing measured yet.
    pub fn new(programs: &Programs) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let machine = Machine {
            cpu: cpu.trim_start_matches(['\t', ' ', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
        };
        Self {
            machine,
            programs: programs.versions(),
            warm: Vec::new(),
            check_of_kept_ns: None,
            held: None,
            burst: None,
            cold: None,
            cycle: None,
            interception: None,
        }
    }

    /// Writes the JSON.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        fs::write(file, serde_json::to_vec_pretty(self)?)
    }

    /// Prints the tables.
    pub fn print(&self) {
        println!("\n  {} x {}, Linux {}", self.machine.cores, self.machine.cpu, self.machine.kernel);
        if !self.warm.is_empty() {
            self.print_warm();
        }
        if let Some(held) = &self.held {
            println!("\n  {} held requests", held.requests);
            line("memory per held request", &format!("{:.1} KiB", held.kib_per_request), "reach <= 14 KiB");
            line(
                "wake-ups per second while holding",
                &format!("{:.1}", held.wakeups_per_second),
                "reach about none",
            );
            line(
                "threads, with 1 and with all held",
                &format!("{} and {}", held.threads_before, held.threads_after),
                "the same",
            );
        }
        if let Some(burst) = &self.burst {
            println!("\n  One burst to one sleeping resource that starts in 2 s");
            line("requests, answered 200", &format!("{}, {}", burst.requests, burst.answered), "all of them");
            line(
                "sent in; all answered after",
                &format!("{:.1} s; {:.1} s", burst.sent_in_seconds, burst.seconds),
                "",
            );
        }
        if let Some(cold) = &self.cold {
            println!(
                "\n  {} cold starts: from the resource's readiness to the client's first byte",
                cold.starts
            );
            line(
                "p50, p99, greatest",
                &format!("{:.1} ms, {:.1} ms, {:.1} ms", cold.p50_ms, cold.p99_ms, cold.max_ms),
                "reach p99 <= 5 ms",
            );
        }
        if let Some(cycle) = &self.cycle {
            println!("\n  A cycle over {} Deployments, all awake", cycle.deployments);
            line("CPU of the autoscaler", &format!("{:.0} ms", cycle.cpu_ms_per_cycle), "reach <= 100 ms");
            line(
                "calls of the API",
                &format!("{:.1}", cycle.api_calls_per_cycle),
                "reach: no more than with few",
            );
        }
        if let Some(interception) = &self.interception {
            interception.print();
        }
    }

    fn print_warm(&self) {
        let haproxy =
            self.warm.iter().find(|warm| warm.proxy == "HAProxy").map(|warm| warm.cpu_us_per_request.median);
        println!("\n  Warm, 64 keep-alive connections: median [least .. greatest] of the rounds");
        println!("  {:<18}{:<34}{:<12}requests per second", "", "CPU per request, us", "x HAProxy");
        for Warm { proxy, cpu_us_per_request: cpu, requests_per_second: rate } in &self.warm {
            let spread = format!("{:6.1} [{:.1} .. {:.1}]", cpu.median, cpu.min, cpu.max);
            let ratio = haproxy.map_or_else(String::new, |haproxy| format!("{:.2}", cpu.median / haproxy));
            println!(
                "  {proxy:<18}{spread:<34}{ratio:<12}{:.0} [{:.0} .. {:.0}]",
                rate.median, rate.min, rate.max
            );
        }
        println!("  (reach: the DLX at 1.2 x HAProxy or less)");
        if let Some(check) = self.check_of_kept_ns {
            println!(
                "  of the DLX's, the check of a kept connection before it is used: {:.2} us",
                check / 1000.0
            );
        }
    }
}

fn line(what: &str, value: &str, reach: &str) {
    println!("  {what:<36}{value:<32}{reach}");
}
