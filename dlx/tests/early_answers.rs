//! Resources that answer before they have read the request, and close.

mod support;

use support::{Given, Site, body, plugin::Plugin, status, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Nothing of the upload is read: the close is a reset. The answer had come before it.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_the_client_also_when_the_upload_is_reset() {
    let address = upstream::raw(|mut stream, _| async move {
        if upstream::read_head(&mut stream).await.is_some() {
            // Something is there that is not read.
            stream.readable().await.unwrap();
            let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let site = Site::start(Plugin::at(address).awake("a", address), Given::default()).await;
    for round in 0..50 {
        let (mut from, mut to) = site.connect().await.into_split();
        let sending = tokio::spawn(async move {
            let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000000\r\n\r\n";
            to.write_all(head).await.unwrap();
            // An error: nobody takes it any more.
            let _ = to.write_all(&vec![b'x'; 20_000_000]).await;
            to
        });
        let mut answer = Vec::new();
        // What came counts, however it ended.
        let _ = from.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!((status(&answer), body(&answer)), (413, "large"), "round {round}: {answer}");
        drop(sending.await.unwrap());
    }
}
