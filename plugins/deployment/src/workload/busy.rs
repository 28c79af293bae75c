//! Whether a workload's pods have work: what each answers to its busy probe.

use std::time::Duration;

use scaler_types::{duration, scaling_options::BusyProbe};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long a pod may take to answer.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// `HTTP/1.1 200`: as much of an answer as is read.
const STATUS_LINE: usize = 12;

/// Whether a pod has work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodActivity {
    Idle,
    /// Or it is not known: why.
    Busy(String),
}

/// Asks the pod at an address.
pub(crate) async fn probe_pod(ip: &str, probe: &BusyProbe) -> PodActivity {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let address = format!("{host}:{}", probe.port);
    let status = match timeout(PROBE_TIMEOUT, status_of(&address, &probe.path)).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return PodActivity::Busy(format!("its busy probe failed: {error}")),
        Err(_) => {
            let limit = duration::short(PROBE_TIMEOUT);
            return PodActivity::Busy(format!("its busy probe was not answered within {limit}"));
        }
    };
    match status {
        204 | 404 => PodActivity::Idle,
        _ => PodActivity::Busy(format!("its busy probe answers {status}")),
    }
}

async fn status_of(address: &str, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: scaler\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; STATUS_LINE];
    stream.read_exact(&mut head).await?;
    let status = str::from_utf8(&head).ok().filter(|text| text.starts_with("HTTP/1."));
    let status = status.and_then(|text| text.get(9..)?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP/1"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn probe_answered(answer: &'static str) -> (PodActivity, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        });
        let probe = BusyProbe { port, path: "/busy?x=1".to_owned() };
        let activity = probe_pod("127.0.0.1", &probe).await;
        (activity, serve.await.unwrap())
    }

    #[tokio::test]
    async fn a_2xx_is_busy_and_204_and_404_are_idle_and_all_else_is_unknown() {
        for (answer, reason) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", None),
            ("HTTP/1.0 404 Not Found\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("its busy probe answers 200")),
            ("HTTP/1.1 202 Accepted\r\n\r\n", Some("its busy probe answers 202")),
            ("HTTP/1.1 302 Found\r\nLocation: /idle\r\n\r\n", Some("its busy probe answers 302")),
            ("HTTP/1.1 500 Oops\r\n\r\n", Some("its busy probe answers 500")),
            ("SSH-2.0-server\r\n", Some("its busy probe failed: the answer is not HTTP/1")),
            ("HTTP/1.1 2x4 \r\n\r\n", Some("its busy probe failed: the answer is not HTTP/1")),
            ("HTTP", Some("its busy probe failed: ")),
        ] {
            let (activity, request) = probe_answered(answer).await;
            match (activity, reason) {
                (PodActivity::Idle, None) => {}
                (PodActivity::Busy(why), Some(reason)) => assert!(why.starts_with(reason), "{answer}: {why}"),
                (activity, _) => panic!("{answer}: {activity:?}"),
            }
            assert!(request.starts_with("GET /busy?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_refuses_the_connection_is_unknown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = BusyProbe { port: listener.local_addr().unwrap().port(), path: "/".to_owned() };
        drop(listener);
        let PodActivity::Busy(why) = probe_pod("127.0.0.1", &probe).await else { panic!("it is not known") };
        assert!(why.contains("refused"), "{why}");
    }

    #[tokio::test]
    async fn a_pod_that_is_silent_is_unknown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = BusyProbe { port: listener.local_addr().unwrap().port(), path: "/".to_owned() };
        let activity = probe_pod("127.0.0.1", &probe).await;
        assert_eq!(activity, PodActivity::Busy("its busy probe was not answered within 500ms".to_owned()));
    }
}
