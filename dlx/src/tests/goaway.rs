//! HTTP/2 connections that are closed because they are idle: their clients get GOAWAY, and nothing is lost.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use h2::{
    Reason,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, duplex, split},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    client::Timeouts,
    testing::{EVENT_TIMEOUT, Site, SiteOptions, plugin::Plugin, until, upstream},
};

type Connection = JoinHandle<Result<(), h2::Error>>;

async fn site(address: SocketAddr, options: SiteOptions) -> Site {
    Site::start(Plugin::at(address).awake("a", address), options).await
}

async fn connect(site: &Site) -> (SendRequest<Bytes>, Connection) {
    let (client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    (client, tokio::spawn(connection))
}

fn get(client: &mut SendRequest<Bytes>) -> ResponseFuture {
    client.send_request(Request::get("http://a.test/").body(()).unwrap(), true).unwrap().0
}

async fn status(answer: ResponseFuture) -> u16 {
    let answer = timeout(EVENT_TIMEOUT, answer).await.expect("an answer").unwrap();
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    status
}

/// Waits for the connection's end, which GOAWAY with NO_ERROR has to precede.
async fn ends_with_goaway(client: SendRequest<Bytes>, connection: Connection) {
    timeout(EVENT_TIMEOUT, connection).await.expect("an end").unwrap().unwrap();
    let error = client.ready().await.unwrap_err();
    assert!(error.is_go_away() && error.is_remote(), "{error:?}");
    assert_eq!(error.reason(), Some(Reason::NO_ERROR));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_an_idle_connection_gets_goaway() {
    let (address, _) = upstream::echo(async || ()).await;
    let timeouts = Timeouts { idle: Duration::from_secs(3), ..Timeouts::default() };
    let site = site(address, SiteOptions { timeouts, ..SiteOptions::default() }).await;
    let (silent, silent_connection) = connect(&site).await;
    let (mut used, used_connection) = connect(&site).await;
    assert_eq!(status(get(&mut used)).await, 200);
    ends_with_goaway(silent, silent_connection).await;
    ends_with_goaway(used, used_connection).await;
}

/// What the DLX sends reaches the client only while this has its permit.
static HEARS: Semaphore = Semaphore::const_new(1);

/// A connection whose client can be kept from receiving.
async fn connect_with_delay(site: &Site) -> (SendRequest<Bytes>, Connection) {
    let (near, far) = duplex(64 * 1024);
    let (mut from_client, mut to_client) = split(far);
    let (mut from_dlx, mut to_dlx) = site.connect().await.into_split();
    tokio::spawn(async move { copy(&mut from_client, &mut to_dlx).await });
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = from_dlx.read(&mut bytes).await {
            drop(HEARS.acquire().await.unwrap());
            to_client.write_all(&bytes[..len]).await.unwrap();
        }
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    (client, tokio::spawn(connection))
}

/// A request crosses with the close: it is sent before its client receives GOAWAY, and is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crosses_with_the_close_is_answered() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let (address, echo) = upstream::echo(async || MAY.acquire().await.unwrap().forget()).await;
    let site = site(address, SiteOptions::default()).await;
    let (mut client, connection) = connect_with_delay(&site).await;
    MAY.add_permits(1);
    assert_eq!(status(get(&mut client)).await, 200);
    let deaf = HEARS.acquire().await.unwrap();
    until("it is closed for others", || site.dlx.server.slots.close_longest_idle() == 1).await;
    let crossing = get(&mut client);
    until("it is asked for", || echo.serving.load(Ordering::SeqCst) == 1).await;
    // Nor is it closed once more.
    assert_eq!(site.dlx.server.slots.close_longest_idle(), 0);
    drop(deaf);
    MAY.add_permits(1);
    assert_eq!(status(crossing).await, 200);
    ends_with_goaway(client, connection).await;
}
