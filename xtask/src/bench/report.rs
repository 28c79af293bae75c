//! The table and the JSON.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    peers::Programs,
    warm::{COMPARED, Figures, Row},
};

/// Everything one run measured.
#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    programs: Vec<(&'static str, String)>,
    /// In the order of the table.
    pub warm: Vec<Row>,
    /// Held requests.
    pub held: Vec<Named<Held>>,
    /// The burst.
    pub burst: Vec<Named<Burst>>,
    /// What bursts leave in memory.
    pub bursts: Vec<Named<Bursts>>,
    /// Many processes.
    pub wakes: Vec<Named<Wakes>>,
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

/// The figures of one DLX.
#[derive(Serialize)]
pub struct Named<T> {
    /// Which.
    pub dlx: &'static str,
    /// What was measured.
    #[serde(flatten)]
    pub figures: T,
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

/// Resident memory over several bursts.
#[derive(Serialize)]
pub struct Bursts {
    /// Of each burst.
    pub requests: usize,
    /// Before the first.
    pub start_kib: u64,
    /// When the last request of each burst is answered and every connection is open.
    pub full_kib: Vec<u64>,
    /// Five seconds after that, with no connection.
    pub after_kib: Vec<u64>,
}

/// Many processes woken at once, by one request each.
#[derive(Serialize)]
pub struct Wakes {
    /// How many.
    pub processes: usize,
    /// From a request to the first byte of its answer.
    pub p50_seconds: Spread,
    /// The same.
    pub p99_seconds: Spread,
    /// CPU of the DLX alone, both kinds.
    pub cpu_ms_per_wake: Spread,
    /// The median in user mode.
    pub user_ms_per_wake: f64,
    /// The median in the kernel.
    pub system_ms_per_wake: f64,
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

/// The value that a share of all is not above; `sorted`: by size.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

// === impl Spread ===

impl Spread {
    /// Of at least one measurement.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(values.len() / 2)), min: at(0), max: at(last) }
    }
}

impl fmt::Display for Spread {
    /// `0.67 [0.65 .. 0.70]`; large values have fewer digits.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.median {
            large if large >= 1000.0 => 0,
            middle if middle >= 5.0 => 1,
            _ => 2,
        };
        let Self { median, min, max } = self;
        let text = format!("{median:.digits$} [{min:.digits$} .. {max:.digits$}]");
        formatter.pad(&text)
    }
}

// === impl Row ===

impl Row {
    fn print(&self) {
        let per = if self.unit == "us" { "us per request" } else { "ms per GiB" };
        let reach = self.reach.map(|reach| format!(" (reach: {reach} x HAProxy)")).unwrap_or_default();
        println!("\n  {}: CPU in {per}{reach}", self.name);
        let others: Vec<&str> = COMPARED
            .into_iter()
            .filter(|other| self.proxies.iter().any(|figures| figures.proxy == *other))
            .collect();
        let rate = if self.unit == "us" { "requests per second" } else { "MiB per second" };
        let mut heading = format!("  {:<18}{:<26}{:>8}{:>8}  ", "", "all", "user", "system");
        for other in &others {
            let _ = write!(heading, "{:<24}", format!("x {other}"));
        }
        println!("{heading}{rate}");
        for Figures { proxy, cpu, user, system, per_second, ratios } in &self.proxies {
            let mut line = format!("  {proxy:<18}{cpu:<26}{user:>8.1}{system:>8.1}  ");
            for other in &others {
                let ratio = ratios.get(other).map(ToString::to_string).unwrap_or_default();
                let _ = write!(line, "{ratio:<24}");
            }
            println!("{line}{per_second}");
        }
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
            held: Vec::new(),
            burst: Vec::new(),
            bursts: Vec::new(),
            wakes: Vec::new(),
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
        for (program, version) in &self.programs {
            println!("  {program:<10}{version}");
        }
        if !self.warm.is_empty() {
            println!(
                "\n  Medians [least .. greatest] of the rounds; x: the median of the ratios within a round"
            );
        }
        for row in &self.warm {
            row.print();
        }
        for Named { dlx, figures: held } in &self.held {
            println!("\n  {dlx}: {} held requests", held.requests);
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
        for Named { dlx, figures: burst } in &self.burst {
            println!("\n  {dlx}: one burst to one sleeping resource that starts in 2 s");
            line("requests, answered 200", &format!("{}, {}", burst.requests, burst.answered), "all of them");
            line(
                "sent in; all answered after",
                &format!("{:.1} s; {:.1} s", burst.sent_in_seconds, burst.seconds),
                "",
            );
        }
        for Named { dlx, figures: bursts } in &self.bursts {
            println!("\n  {dlx}: memory over {} bursts of {}", bursts.after_kib.len(), bursts.requests);
            line("at the start", &mib(&[bursts.start_kib]), "");
            line("all answered, all connected", &mib(&bursts.full_kib), "");
            line("5 s after the end", &mib(&bursts.after_kib), "reach <= 64 MiB for 9,500");
        }
        for Named { dlx, figures: wakes } in &self.wakes {
            println!("\n  {dlx}: {} processes woken at once, one request to each", wakes.processes);
            let Wakes { p50_seconds, p99_seconds, cpu_ms_per_wake, .. } = wakes;
            let Wakes { user_ms_per_wake: user, system_ms_per_wake: system, .. } = wakes;
            line("answered after, p50", &format!("{p50_seconds} s"), "reach <= 2.5 s for 1,000");
            line("answered after, p99", &format!("{p99_seconds} s"), "");
            line("CPU of the DLX per wake", &format!("{cpu_ms_per_wake} ms"), "reach <= 1.5 ms");
            line("of it user, system", &format!("{user:.2} ms, {system:.2} ms"), "");
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
}

/// `37, 41 MiB`
fn mib(kib: &[u64]) -> String {
    let mib: Vec<String> = kib.iter().map(|kib| (kib / 1024).to_string()).collect();
    format!("{} MiB", mib.join(", "))
}

fn line(what: &str, value: &str, reach: &str) {
    println!("  {what:<36}{value:<42}{reach}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = |values: &[f64]| {
            let Spread { median, min, max } = Spread::of(values.iter().copied());
            (min, median, max)
        };
        assert_eq!(spread(&[3.0]), (3.0, 3.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0]), (1.0, 2.0, 4.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), (1.0, 3.0, 9.0));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [100.0, 198.0, 200.0]);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
    }

    #[test]
    fn a_spread_has_as_many_digits_as_its_size_needs() {
        let spread = |median| Spread { median, min: median / 2.0, max: median * 2.0 }.to_string();
        assert_eq!(spread(0.67), "0.67 [0.34 .. 1.34]");
        assert_eq!(spread(15.3), "15.3 [7.7 .. 30.6]");
        assert_eq!(spread(30_000.0), "30000 [15000 .. 60000]");
    }
}
