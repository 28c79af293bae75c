//! To zero and back, one workload at a time.

use devcluster::netns;
use e2e::kubernetes::{Shop, Workload};

#[test]
fn a_request_wakes_a_sleeping_deployment_and_idle_it_sleeps_again() {
    netns::run(async {
        let shop = Shop::open().await;
        let web = Workload::new(&shop, "web");
        shop.deploy(&web).await;
        shop.asleep(&web).await;
        let answer = shop.served(&web, "one").await;
        let timing = answer.header("server-timing").unwrap_or_default();
        assert!(timing.contains("hold;dur="), "it was not held: {answer:?}");
        shop.asleep(&web).await;
        shop.served(&web, "two").await;
        let journal = web.read();
        assert_eq!(journal.starts.len(), 3, "its first pod and one for each request");
        assert_eq!(journal.requests.keys().collect::<Vec<_>>(), ["one", "two"]);
    });
}
