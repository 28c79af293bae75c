//! Jobs while the number of workers grows and shrinks: none is cut off. `SCALER_CYCLES` says how many.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use e2e::{
    Namespace, Workers, binaries,
    brokers::{Queue, put_job},
    random::{self, Random},
    until,
    wait::pause,
};

use super::{NAMESPACE, allowed_hosts, site, until_empty};

/// What the workers wrote down.
#[derive(Debug, Default)]
struct Journal {
    /// How often each job was taken, and how often it was done.
    jobs: BTreeMap<String, (u32, u32)>,
    /// The jobs that were done after SIGTERM.
    after_sigterm: usize,
    /// The workers that were started, and those that were asked to end.
    started: usize,
    terminated: Vec<String>,
}

impl Journal {
    fn read(path: &Path) -> Self {
        let mut journal = Self::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                [_, "start"] => journal.started += 1,
                [pid, "terminate"] => journal.terminated.push(pid.to_owned()),
                [_, "take", job] => journal.jobs.entry(job.to_owned()).or_default().0 += 1,
                [pid, "done", job] => {
                    journal.jobs.entry(job.to_owned()).or_default().1 += 1;
                    journal.after_sigterm += usize::from(journal.terminated.iter().any(|ended| ended == pid));
                }
                _ => panic!("no journal's line: {line:?}"),
            }
        }
        journal
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_cut_off_while_workers_are_added_and_removed() {
    let count: u32 = std::env::var("SCALER_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(50);
    // A few jobs of 2 s, or very many of 20 s.
    let (longest, replicas) = if count > 100 { (20_000_u64, 40_u64) } else { (2_000, 6) };
    let mut random = Random::new(random::seed(), 0);
    let site = site("jobs-");
    let queue = Queue::folder(&site, "jobs");
    let Queue::Folder(folder) = &queue else { panic!("{queue:?}") };
    let journal = site.folder().join("journal");
    let program = binaries::own("worker");
    let command =
        [&program, folder, Path::new("--journal"), &journal].map(|word: &Path| word.display().to_string());
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let workers = Workers::new("mailer", &queue.uri())
        .command(&command)
        .set(&format!("maxReplicas: {replicas}"))
        .set("scaleDownDelay: 1s")
        .set("stopGracePeriod: 60s");
    let hosts = allowed_hosts(&site, &[]);
    site.configure(&Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}")).workers(&workers));
    let (dlx, autoscaler) = (site.dlx().await, site.autoscaler().await);
    until_empty(&autoscaler, "mailer").await;

    let mut put = 0;
    while put < count {
        // As many as keep all workers busy for a while, or a few.
        let burst = 1 + random.below(replicas * 4);
        for _ in 0..burst.min(u64::from(count - put)) {
            let takes = 100 + random.below(longest - 100);
            put_job(folder, &format!("job-{put}"), &format!("{takes}ms"));
            put += 1;
        }
        pause(Duration::from_millis(random.below(longest * 3))).await;
    }
    let done = || Journal::read(&journal).jobs.values().filter(|(_, done)| *done > 0).count();
    let mut before = 0;
    loop {
        // Each worker may take one of the longest after the other.
        let more = until("a further job to be done", || async {
            let now = done();
            if now > before || now == put as usize {
                Ok(now)
            } else {
                Err(format!("{now} of {put} are done"))
            }
        })
        .await;
        if more == put as usize {
            break;
        }
        before = more;
    }
    site.state_is(NAMESPACE, "mailer", "asleep").await;
    for daemon in [&dlx, &autoscaler] {
        let log = daemon.log();
        assert!(!log.contains("ended by itself"), "{} takes a step down for a crash: {log}", daemon.name());
    }
    autoscaler.stop().await;
    dlx.stop().await;
    site.nothing_runs().await;

    let Journal { jobs, after_sigterm, started, terminated } = Journal::read(&journal);
    let cut: Vec<_> = jobs.iter().filter(|(_, times)| **times != (1, 1)).collect();
    assert!(cut.is_empty(), "taken and done so often: {cut:?}");
    assert_eq!(jobs.len(), put as usize);
    assert_eq!(terminated.len(), started, "each worker ended because it was asked to");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    println!(
        "{put} jobs of 0.1 to {} s: none was cut off, {after_sigterm} were finished after SIGTERM; {started} workers were started",
        longest / 1000
    );
}
