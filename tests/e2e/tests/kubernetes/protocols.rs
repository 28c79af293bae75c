//! Workloads of any protocol are scaled to zero behind their Services, and woken by their own clients.

use std::net::SocketAddr;

use e2e::{
    kubernetes::{
        Setting, Shop, Workload, needs_devcluster,
        protocols::{Database, postgres, psql, redis},
        run,
        shop::is_dlx,
    },
    load::{self, Outcome, WebSocket, get},
};

/// A workload whose Service is intercepted; where its port is on each node.
async fn intercepted(shop: &Shop, workload: &Workload, port: u16) -> Vec<SocketAddr> {
    shop.deploy(workload).await;
    shop.until_seen(workload, "its Service to be intercepted", |seen| {
        seen.backend() == scaler_types::Backend::Dlx
    })
    .await;
    shop.until_port_sends(workload, port, |known| !known.is_empty() && known.iter().all(is_dlx)).await;
    shop.service(workload, port).await
}

#[test]
fn http_grpc_and_websocket_clients_wake_it() {
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let web = Workload::new(&shop, "web").annotation("intercept", "always");
        let addresses = intercepted(&shop, &web, 80).await;
        let host = web.host();

        shop.asleep(&web).await;
        let answer = load::once(addresses[0], &get("anything.at.all", "/", "http")).await.expect("an answer");
        assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("http")), "{}", answer.text());

        shop.asleep(&web).await;
        let outcome = load::call(addresses[1], &host, "grpc").await;
        assert!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");

        shop.asleep(&web).await;
        let mut socket = WebSocket::open(addresses[0], &host, "socket").await.expect("a WebSocket");
        socket.echo("hello").await.unwrap();
        // Open, it is in flight: nothing sleeps under it.
        for _ in 0..10 {
            e2e::wait::pause(e2e::traffic::WINDOW / 4).await;
            socket.ping().await.unwrap();
        }
        assert_eq!(shop.state("web"), "active");
        socket.close().await.unwrap();
        shop.asleep(&web).await;
        let journal = web.read();
        assert_eq!(journal.requests.values().copied().collect::<Vec<_>>(), [1, 1, 1], "{journal:?}");
        assert_eq!(journal.starts.len(), 4, "{journal:?}");
    });
}

#[test]
fn a_redis_client_wakes_it() {
    if needs_devcluster("runs programs of this machine as pods") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let cache = Database::redis(&shop, "cache").with(|redis| redis.annotation("intercept", "always"));
        let addresses = intercepted(&shop, &cache.workload, 6379).await;
        assert_eq!(redis(addresses[0], &["SET", "colour", "blue"]).await.as_deref(), Ok("OK"));
        for address in &addresses {
            shop.asleep(&cache.workload).await;
            assert_eq!(redis(*address, &["GET", "colour"]).await.as_deref(), Ok("blue"));
        }
    });
}

#[test]
fn a_postgresql_client_wakes_it() {
    if needs_devcluster("runs programs of this machine as pods") {
        return;
    }
    run(async {
        if let Err(why) = postgres() {
            println!("not proved: {why}");
            return;
        }
        let shop = Shop::open_with(Setting::intercepting()).await;
        let database =
            Database::postgres(&shop, "db").with(|postgres| postgres.annotation("intercept", "always"));
        let addresses = intercepted(&shop, &database.workload, 5432).await;
        let made =
            psql(addresses[0], "CREATE TABLE colours (name text); INSERT INTO colours VALUES ('blue')").await;
        assert_eq!(made.as_deref(), Ok(""));
        for address in &addresses {
            shop.asleep(&database.workload).await;
            assert_eq!(psql(*address, "SELECT name FROM colours").await.as_deref(), Ok("blue"));
        }
    });
}
