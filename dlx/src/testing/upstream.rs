//! Servers of resources.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server that answers with the request, one line per header, then the body's length.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) requests: AtomicUsize,
    pub(crate) serving: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
    /// `x-id` of each request, in the order of arrival.
    pub(crate) ids: Mutex<Vec<String>>,
}

/// Starts an [`Echo`]; each request takes as long as `work`.
pub(crate) async fn echo<W>(work: impl Fn() -> W + Clone + Send + Sync + 'static) -> (SocketAddr, Arc<Echo>)
where
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = Arc::new(Echo::default());
    let served = echo.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (served, work) = (served.clone(), work.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (served, work) = (served.clone(), work.clone());
                async move { Ok::<_, Infallible>(answer(served, work(), request).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, echo)
}

async fn answer(
    echo: Arc<Echo>,
    work: impl Future<Output = ()>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    echo.requests.fetch_add(1, Ordering::SeqCst);
    let now = echo.serving.fetch_add(1, Ordering::SeqCst) + 1;
    echo.most_at_once.fetch_max(now, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    if let Some(id) = parts.headers.get("x-id") {
        echo.ids.lock().unwrap().push(id.to_str().unwrap().to_owned());
    }
    work.await;
    let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let body = body.collect().await.map(|body| body.to_bytes().len());
    text += &format!("body {body:?}\n");
    echo.serving.fetch_sub(1, Ordering::SeqCst);
    Response::new(Full::new(Bytes::from(text)))
}

/// A server that does what the test says with each connection.
pub(crate) async fn raw<F>(serve: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, number));
            number += 1;
        }
    });
    address
}

/// Reads one head without a body; `None` when the connection ended before it.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A port that sends back what it gets.
pub(crate) async fn tcp_echo() -> SocketAddr {
    raw(|mut stream, _| async move {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..len]).await.is_err() {
                return;
            }
        }
    })
    .await
}
