//! Something to scrape: one target for each path.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A server of targets.
pub(crate) struct Exporter {
    pub(crate) address: SocketAddr,
    targets: Arc<Mutex<BTreeMap<String, Target>>>,
}

/// What a target says.
#[derive(Clone, Copy)]
pub(crate) enum Serves {
    /// That it is there, and no more.
    Nothing,
    /// Status 500.
    Broken,
    /// A counter that stands.
    Counter(f64),
    /// A counter that grows by this with each scrape.
    Growing(f64),
    /// A gauge.
    Gauge(f64),
}

struct Target {
    serves: Serves,
    /// Since it serves that.
    scrapes: u64,
}

impl Exporter {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets: Arc<Mutex<BTreeMap<String, Target>>> = Arc::default();
        let all = targets.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let all = all.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer(&all, request.uri().path().trim_start_matches('/'));
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, targets }
    }

    /// What a target says from now on.
    pub(crate) fn serve(&self, name: &str, serves: Serves) {
        self.targets.lock().unwrap().insert(name.to_owned(), Target { serves, scrapes: 0 });
    }

    /// How often each was scraped since it says what it says.
    pub(crate) fn scrapes(&self) -> BTreeMap<String, u64> {
        self.targets.lock().unwrap().iter().map(|(name, target)| (name.clone(), target.scrapes)).collect()
    }
}

fn answer(targets: &Mutex<BTreeMap<String, Target>>, name: &str) -> Response<Full<Bytes>> {
    let mut targets = targets.lock().unwrap();
    let target = targets.get_mut(name).expect("a target that is served");
    target.scrapes += 1;
    let scrapes = target.scrapes;
    let (status, body) = match target.serves {
        Serves::Nothing => (StatusCode::OK, "here 1\n".to_owned()),
        Serves::Broken => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        Serves::Counter(value) => (StatusCode::OK, format!("requests_total {value}\n")),
        #[expect(clippy::cast_precision_loss, reason = "a few scrapes")]
        Serves::Growing(by) => (StatusCode::OK, format!("requests_total {}\n", by * scrapes as f64)),
        Serves::Gauge(value) => (StatusCode::OK, format!("load {value}\n")),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "text/plain; version=0.0.4".parse().unwrap());
    response
}
