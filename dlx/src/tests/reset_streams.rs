//! HTTP/2 streams that are reset in the middle of a body, also with `NO_ERROR`: what came of the body is never taken for a
//! whole one.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, oneshot},
    time::timeout,
};

use crate::testing::{EVENT_TIMEOUT, Site, SiteOptions, plugin::Plugin, until, upstream};

const REASONS: [Reason; 2] = [Reason::NO_ERROR, Reason::CANCEL];

async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(EVENT_TIMEOUT, event).await.expect("the event")
}

fn call(site: &str) -> Request<()> {
    Request::post(format!("http://{site}/")).header("content-type", "application/grpc").body(()).unwrap()
}

/// To a resource of HTTP/1.1, before its answer has begun and after.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_reset_has_no_end_in_http1() {
    for (reason, answers) in REASONS.into_iter().flat_map(|reason| [(reason, false), (reason, true)]) {
        let received = Arc::new(Mutex::new(Vec::new()));
        let receives = received.clone();
        let (sender, closed) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        let address = upstream::raw(move |mut stream, _| {
            let (received, sender) = (receives.clone(), sender.clone());
            async move {
                // None: a probe.
                let Some(_) = upstream::read_head(&mut stream).await else { return };
                if answers {
                    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
                    stream.write_all(head).await.unwrap();
                }
                let mut part = [0; 1024];
                // An error: it is reset.
                while let Ok(len @ 1..) = stream.read(&mut part).await {
                    received.lock().unwrap().extend_from_slice(&part[..len]);
                }
                sender.lock().unwrap().take().unwrap().send(()).unwrap();
            }
        })
        .await;
        let site = Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await;
        let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
        tokio::spawn(connection);
        let post = Request::post("http://a.test/").body(()).unwrap();
        let (answer, mut to) = client.send_request(post, false).unwrap();
        to.send_data(Bytes::from_static(b"part"), false).unwrap();
        until("the part came", || received.lock().unwrap().ends_with(b"part\r\n")).await;
        let _answer = if answers { Some(within(answer).await.unwrap()) } else { None };
        to.send_reset(reason);
        within(closed).await.unwrap();
        assert_eq!(*received.lock().unwrap(), b"4\r\npart\r\n", "{reason:?}, answers: {answers}");
        until("it is in flight no more", || site.resource("a").counts.in_flight() == 0).await;
    }
}

/// A resource of HTTP/2, and what it does with each stream.
async fn http2_site<F>(serve: impl Fn(RecvStream, SendResponse<Bytes>) -> F + Send + Sync + 'static) -> Site
where
    F: Future<Output = ()> + Send + 'static,
{
    let serve = Arc::new(serve);
    let address = upstream::raw(move |stream, _| {
        let serve = serve.clone();
        async move {
            // An error: a probe.
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request.into_body(), respond));
            }
        }
    })
    .await;
    Site::start(Plugin::at(address).awake("a", address), SiteOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_reset_is_not_whole() {
    for reason in REASONS {
        let came = Arc::new(Notify::new());
        let comes = came.clone();
        let site = http2_site(move |_, mut respond| {
            let came = comes.clone();
            async move {
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                answer.send_data(Bytes::from_static(b"part"), false).unwrap();
                came.notified().await;
                answer.send_reset(reason);
            }
        })
        .await;
        let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
        tokio::spawn(connection);
        let (answer, _) = client.send_request(call("a.test"), true).unwrap();
        let mut body = within(answer).await.unwrap().into_body();
        assert_eq!(within(body.data()).await.unwrap().unwrap(), "part");
        came.notify_one();
        let end = within(body.data()).await.map(|end| end.map_err(|error| error.is_reset()));
        assert_eq!(end, Some(Err(true)), "{reason:?}");
    }
}

/// The resource takes no more of the request (RFC 9113 8.1).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_whole_before_its_reset_arrives() {
    let site = http2_site(|_, mut respond| async move {
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"all"), true).unwrap();
        // Sent when the handles of the stream are gone: a reset with NO_ERROR, behind the end.
    })
    .await;
    let (mut client, connection) = h2::client::handshake(site.connect().await).await.unwrap();
    tokio::spawn(connection);
    let (answer, to) = client.send_request(call("a.test"), false).unwrap();
    let mut body = within(answer).await.unwrap().into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "all");
    assert!(within(body.data()).await.is_none());
    drop(to);
}
