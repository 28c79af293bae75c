//! The cause of a wake: one line in the log for each wake, and the Event.

use std::{
    io,
    sync::{Mutex, OnceLock},
};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::testing::{Site, SiteOptions, plugin::Plugin, status, until, upstream};

/// This process's log, a JSON object per line.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that say that this resource is woken.
fn wakes(name: &str) -> Vec<Value> {
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of = |line: &Value| line["message"] == "waking" && line["resource"] == format!("demo/{name}");
    lines.filter(of).collect()
}

async fn site(trusted: &'static [&'static str], names: &[&str]) -> Site {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(|| Log).init();
    });
    let (address, _) = upstream::echo(async || ()).await;
    let mut plugin = Plugin::at(address);
    for name in names {
        plugin = plugin.asleep(name);
    }
    Site::start(plugin, SiteOptions { trusted, ..SiteOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_names_the_first_request_without_its_query() {
    let site = site(&[], &["shop", "blog"]).await;
    // The first request of a connection, which is held before anything is built for it; what it says of its client is not
    // believed.
    let request = "PUT /cart/7?token=secret HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                   Content-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&site.raw(request.as_bytes()).await), 200);
    let [line] = wakes("shop").try_into().unwrap();
    let values = ["cause", "client", "host", "method", "path"].map(|field| line[field].as_str().unwrap());
    assert_eq!(values, ["request", "127.0.0.1", "shop.test", "PUT", "/cart/7"], "{line}");
    assert!(!line.to_string().contains("secret"), "{line}");
    let reports = || site.plugin.reports.lock().unwrap().clone();
    until("the Event is reported", || !reports().is_empty()).await;
    let (reason, message) = reports()[0].clone();
    assert_eq!(reason, "WakeStarted");
    assert!(message.contains("host \"shop.test\" from 127.0.0.1"), "{message}");

    // A request in parts is held by the HTTP server.
    let mut client = site.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    client.write_all(b"st: blog.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200);
    assert_eq!(wakes("blog").len(), 1);
    assert_eq!(wakes("blog")[0]["host"], "blog.test");
    assert_eq!(site.get("blog.test", "/").await.split(' ').nth(1), Some("200"));
    assert_eq!(wakes("blog").len(), 1, "it is awake");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_names_the_client_of_a_wake() {
    let site = site(&["127.0.0.1"], &["cart"]).await;
    let request = "GET / HTTP/1.1\r\nHost: cart.test\r\nX-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n\
                   Connection: close\r\n\r\n";
    assert_eq!(status(&site.raw(request.as_bytes()).await), 200);
    assert_eq!(wakes("cart")[0]["client"], "198.51.100.7");
}
