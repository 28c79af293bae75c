//! Many at once.

use std::fs;

use e2e::{
    Namespace, Service, Site,
    journal::{Journal, Verdict},
    load::{Ids, Ledger, Outcome, get, once},
    until,
};

const BURST: usize = 10_000;

/// Ten thousand requests at one moment to a process that sleeps, through two DLXs: one start, ten thousand answers. The
/// process starts to listen only when all of them are held. Two DLXs, because one holds no more than it may have open
/// files: 20,000 of them, two for each connection, are too few for all.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_to_a_sleeping_process_start_it_once() {
    let site = Site::new("burst-");
    let open = site.folder().join("open");
    let service = Service::new(&site, "hello").arguments(&["--start-after", &open.display().to_string()]);
    site.configure(&Namespace::new("demo").window("1m").with(&service));
    let (first, second) = (site.dlx_beside().await, site.dlx_beside().await);
    let fronts = [first.1, second.1];

    let (ids, ledger) = (Ids::new("burst"), Ledger::default());
    let clients: Vec<_> = (0..BURST)
        .map(|number| {
            let (id, ledger, front) = (ids.next(), ledger.clone(), fronts[number % fronts.len()]);
            tokio::spawn(async move {
                let outcome = match once(front, &get("hello.localhost", "/", &id)).await {
                    Ok(response) => response.outcome(&id),
                    Err(lost) => Outcome::Lost(lost),
                };
                ledger.record(id, outcome);
            })
        })
        .collect();
    until("all of them to be held", || async {
        let resources = [first.0.resource("demo", "hello").await, second.0.resource("demo", "hello").await];
        let held: u64 = resources.iter().filter_map(|resource| resource["held"].as_u64()).sum();
        if held == BURST as u64 { Ok(()) } else { Err(format!("{} answered; {resources:?}", ledger.len())) }
    })
    .await;
    assert!(ledger.is_empty(), "answered before the process listened");
    fs::write(&open, "").unwrap();
    for client in clients {
        client.await.unwrap();
    }

    let verdict = Verdict::of(&ledger, [Journal::read(&service.journal)]);
    println!("{verdict}");
    verdict.assert_nothing_lost();
    assert_eq!(verdict.answered, BURST);
    assert_eq!(Journal::read(&service.journal).starts.len(), 1, "starts");
}
