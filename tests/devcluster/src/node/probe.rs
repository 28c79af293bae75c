//! Probes as the kubelet makes them.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::core::v1::{Container, GRPCAction, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{environment::Launch, process::Processes};
use crate::cache::rest;

/// The first pause of an eager probe, and the longest; each is half as long again as the one before.
const EAGER: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(25));

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

/// What a probe found, its thresholds counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub purpose: Purpose,
    pub passed: bool,
}

/// What is probed.
pub struct Target<'a> {
    pub container: &'a Container,
    pub address: &'a str,
    /// The container's surroundings, for probes that run a command; it is made anew for each.
    pub command: &'a (dyn Fn(&[String]) -> Launch + Sync),
    pub processes: &'a Processes,
}

/// Probes for ever and reports each change.
pub async fn watch(
    purpose: Purpose,
    probe: &Probe,
    target: &Target<'_>,
    eager: bool,
    findings: &mpsc::UnboundedSender<Finding>,
) {
    let seconds = |value: Option<i32>, default: i32| {
        Duration::from_secs(value.unwrap_or(default).try_into().unwrap_or_default())
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let needed = |value: Option<i32>, default: i32| value.unwrap_or(default).max(1);
    let (to_pass, to_fail) = (needed(probe.success_threshold, 1), needed(probe.failure_threshold, 3));
    // A kubelet's first probe comes somewhere within the first period. Here it is at once, but for the one that would end a process that is
    // not listening yet.
    let earliest = if purpose == Purpose::Liveness { period } else { Duration::ZERO };
    rest(seconds(probe.initial_delay_seconds, 0).max(earliest)).await;
    let (mut in_a_row, mut reported, mut last) = (0, None, None);
    let mut hurry = (eager && purpose != Purpose::Liveness).then_some(EAGER.0);
    let mut counted_until = tokio::time::Instant::now();
    loop {
        let result = timeout(limit, once(probe, target)).await;
        let passed = match result {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                tracing::debug!(?purpose, container = target.container.name, why, "a probe failed");
                false
            }
            Err(_) => false,
        };
        let now = tokio::time::Instant::now();
        // What fails in a hurry counts once per period, as it would for the kubelet.
        if passed || now >= counted_until {
            counted_until = now + period;
            in_a_row = if last == Some(passed) { in_a_row + 1 } else { 1 };
            last = Some(passed);
            let enough = if passed { to_pass } else { to_fail };
            // A container is not ready until a probe says so; so a first failure is nothing new.
            if in_a_row >= enough && reported != Some(passed) {
                reported = Some(passed);
                if findings.send(Finding { purpose, passed }).is_err() {
                    return;
                }
                if purpose == Purpose::Startup && passed {
                    return;
                }
            }
        }
        if reported == Some(true) {
            hurry = None;
        }
        let pause = hurry.filter(|_| !passed).map_or(period, |pause| pause.min(period));
        hurry = hurry.map(|pause| (pause * 3 / 2).min(EAGER.1));
        rest(pause).await;
    }
}

/// One probe; `Err` says why it failed.
async fn once(probe: &Probe, target: &Target<'_>) -> Result<(), String> {
    if let Some(http) = &probe.http_get {
        get(http, target).await
    } else if let Some(tcp) = &probe.tcp_socket {
        let address = (tcp.host.as_deref().unwrap_or(target.address), port(&tcp.port, target.container)?);
        TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
    } else if let Some(grpc) = &probe.grpc {
        health(grpc, target.address).await
    } else if let Some(exec) = &probe.exec {
        run(target.processes, &(target.command)(exec.command.as_deref().unwrap_or_default())).await
    } else {
        Ok(())
    }
}

/// A command's success.
pub async fn run(processes: &Processes, launch: &Launch) -> Result<(), String> {
    let started = processes.start(&launch.program, |command| {
        command.args(&launch.arguments).env_clear().envs(&launch.environment).current_dir(&launch.directory);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
    });
    let ended = started.await.map_err(|error| error.to_string())?.ended().await;
    match ended.map_err(|error| error.to_string())?.code {
        0 => Ok(()),
        code => Err(format!("command exited with {code}")),
    }
}

/// A GET that is answered by 200 to 399.
pub async fn get(action: &HTTPGetAction, target: &Target<'_>) -> Result<(), String> {
    if action.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
        return Err("this node probes by plain HTTP only".into());
    }
    let port = port(&action.port, target.container)?;
    let address = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.address);
    let status = status(action, address, port).await.map_err(|error| error.to_string())?;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

async fn status(action: &HTTPGetAction, address: &str, port: u16) -> io::Result<u16> {
    let mut stream = TcpStream::connect((address, port)).await?;
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let mut headers = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    let own = action.http_headers.iter().flatten();
    let mut named = [
        ("Host", format!("{address}:{port}")),
        ("User-Agent", "kube-probe/1.33".into()),
        ("Accept", "*/*".into()),
    ];
    for one in own {
        match named.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(&one.name)) {
            Some((_, value)) => value.clone_from(&one.value),
            None => headers.push_str(&format!("{}: {}\r\n", one.name, one.value)),
        }
    }
    for (name, value) in named {
        headers.push_str(&format!("{name}: {value}\r\n"));
    }
    headers.push_str("\r\n");
    stream.write_all(headers.as_bytes()).await?;
    // "HTTP/1.1 200"
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let digits = std::str::from_utf8(&line[9..]).ok().filter(|_| line.starts_with(b"HTTP/1."));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// grpc.health.v1.Health/Check answers SERVING.
async fn health(action: &GRPCAction, address: &str) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|_| "no such port".to_owned())?;
    let service = action.service.as_deref().unwrap_or_default().as_bytes();
    // HealthCheckRequest { string service = 1 }, in gRPC's five bytes of framing.
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, u8::try_from(service.len()).map_err(|_| "the service's name is too long")?]);
        message.extend(service);
    }
    let mut body = vec![0, 0, 0, 0, message.len() as u8];
    body.extend(message);
    let exchange = async {
        let stream = TcpStream::connect((address, port)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        let request = Request::post(format!("http://{address}:{port}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            answer.into_body().collect().await.map_err(|error| error.to_string())
        };
        // The connection is polled as long as the answer takes.
        let mut both = stream::select(
            stream::once(Box::pin(async { Some(answer.await) })),
            stream::once(Box::pin(async {
                let _ = connection.await;
                None
            })),
        );
        loop {
            match both.next().await {
                Some(Some(answer)) => break answer,
                Some(None) => {}
                None => break Err("the connection ended".into()),
            }
        }
    };
    let answer: http_body_util::Collected<Bytes> = exchange.await?;
    // HealthCheckResponse { ServingStatus status = 1 }: SERVING is 1.
    match answer.to_bytes().get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        _ => Err("service unhealthy".into()),
    }
}

/// A port by its number, or by its name in the container.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|number| number.try_into().ok()).ok_or_else(|| format!("no port {port:?}"))
}
