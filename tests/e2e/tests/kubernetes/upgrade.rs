//! From an earlier version to this one and back: the first that exchanges and stores what this one does.

use e2e::kubernetes::{
    Setting, Shop, Workload,
    cycles::{Disturbance, Plan},
    run,
    shop::{Part, Version, Versions, earlier},
};

/// All orders in which the daemons can be replaced, each state of them long enough for cycles.
#[test]
fn cycles_lose_nothing_while_daemons_are_upgraded_and_downgraded() {
    if let Err(why) = earlier() {
        println!("not proved: {why}");
        return;
    }
    run(async {
        let plan = Plan { disturbance: Disturbance::Versions, ..Plan::new() };
        let report = plan.run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        report.assert_done();
        // Both daemons up and down, in both orders.
        assert!(report.replaced >= 8, "{} daemons replaced", report.replaced);
    });
}

/// Everything restored by this version, then the earlier one, then this one again. The annotations stay where they are all the while.
#[test]
fn intercepted_services_are_restored_before_a_downgrade() {
    let earlier = match earlier() {
        Ok(earlier) => earlier,
        Err(why) => return println!("not proved: {why}"),
    };
    run(async move {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let versions = Versions::new(&shop, earlier).await;
        let web = Workload::new(&shop, "web").annotation("intercept", "always");
        shop.deploy(&web).await;
        let addresses = shop.service(&web, 80).await;
        let served = async |id: &str| {
            for (node, address) in addresses.iter().enumerate() {
                shop.served_at(*address, &web, &format!("{id}-{node}")).await;
            }
        };
        shop.until_intercepted(&web).await;
        shop.asleep(&web).await;
        let autoscaler = format!("--stop-deployment={}/scaler-autoscaler", shop.names().namespace);
        println!("{}", shop.restore(&[&autoscaler]).await);
        assert_eq!(shop.pods(Part::Autoscaler).await.len(), 0);
        shop.until_restored(&web).await;
        for part in [Part::Dlx, Part::Autoscaler] {
            versions.roll(&shop, part, Version::Earlier).await;
            served(&format!("given-back-{}", part.name())).await;
        }
        shop.scale(Part::Autoscaler, 2).await;
        shop.asleep(&web).await;
        shop.served(&web, "by-a-dlx").await;
        for part in [Part::Autoscaler, Part::Dlx] {
            versions.roll(&shop, part, Version::Ours).await;
        }
        shop.until_intercepted(&web).await;
        shop.asleep(&web).await;
        served("intercepted-again").await;
    });
}
