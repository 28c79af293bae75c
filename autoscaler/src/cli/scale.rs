//! `wake` and `sleep`: scale a resource manually.

use std::{net::SocketAddr, time::Duration};

use anyhow::bail;
use http::StatusCode;
use scaler_types::{ResourceId, duration};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    admin_client::{AdminClient, AutoscalerOptions},
    explain::array_field,
    output::{Format, display_value, print, print_json, progress},
    parse_id,
};

/// Wakes a resource as a request would, and waits until it is up
///
/// Sends the request to a DLX: one that the autoscaler knows, or that of --dlx-address where there is no autoscaler. Exit
/// status 0 when it is awake, else 1 with the reason.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler wake shop/web")]
pub(crate) struct Wake {
    #[command(flatten)]
    target: TargetOptions,

    /// A DLX's admin address; needs no autoscaler
    #[arg(long, value_name = "ADDRESS", value_parser = daemon::listen::parse_address)]
    dlx_address: Option<SocketAddr>,
}

/// Attempts to scale a resource to zero now, whatever its windows say, and waits for the outcome
///
/// The leader makes the same drain attempt as for an idle resource: every DLX must confirm that nothing is in flight. A
/// resource that its users keep awake stays awake. Exit status 0 when it is asleep, else 1 with the reason.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler sleep shop/web")]
pub(crate) struct Sleep {
    #[command(flatten)]
    target: TargetOptions,
}

#[derive(clap::Args, Clone, Debug)]
struct TargetOptions {
    /// The resource, as in shop/web; other kinds than Deployments as in shop/statefulset/db
    #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_id)]
    resource: ResourceId,

    /// The plugin's kind, if two plugins have a resource of that name
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// How long to wait for the outcome; after that the attempt continues
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    timeout: Duration,

    #[command(flatten)]
    options: AutoscalerOptions,
}

/// The default admin address of a DLX.
const DEFAULT_DLX_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8091);

/// Why it is not so: the error's code and the reason, as far as the answer has them.
fn why(answer: &Value) -> String {
    let parts = ["error", "reason"].into_iter().filter_map(|key| answer[key].as_str());
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

// === impl TargetOptions ===

impl TargetOptions {
    fn body(&self) -> Value {
        let ResourceId { namespace, name } = &self.resource;
        let mut body = json!({"namespace": namespace, "name": name});
        if let Some(kind) = &self.kind {
            body["kind"] = kind.as_str().into();
        }
        body
    }

    /// Prints the outcome; an error unless it is `done`.
    fn end(&self, done: bool, state: &str, answer: &Value, took: Duration) -> anyhow::Result<()> {
        if self.options.output == Format::Json {
            print_json(answer)?;
        }
        let id = &self.resource;
        if done {
            let took = duration::short(crate::telemetry::rounded(took));
            if self.options.output == Format::Text {
                print(&format!("{id} is {state} ({took})\n"));
            }
            return Ok(());
        }
        bail!("{id} is not {state}: {}", why(answer))
    }
}

// === impl Sleep ===

impl Sleep {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let target = &self.target;
        let client = target.options.autoscaler_client()?;
        progress(&format!("asking {} to scale {} to zero ...", client.url(), target.resource));
        let began = Instant::now();
        let (status, answer) = client.post("/api/v1/sleep", &target.body(), target.timeout).await?;
        target.end(status == StatusCode::OK, "scaled to zero", &answer, began.elapsed())
    }
}

// === impl Wake ===

impl Wake {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let target = &self.target;
        let began = Instant::now();
        let end = began + target.timeout;
        let mut failed = Vec::new();
        for client in self.dlxs().await? {
            progress(&format!("asking the DLX at {} to wake {} ...", client.url(), target.resource));
            match request_wake(&client, target, end).await {
                // Another one does not know better.
                Ok((status, answer)) => {
                    return target.end(status == StatusCode::OK, "awake", &answer, began.elapsed());
                }
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        bail!("{} is not awake: {}", target.resource, failed.join("; "))
    }

    /// The DLXs to ask, one after the other until one answers.
    async fn dlxs(&self) -> anyhow::Result<Vec<AdminClient>> {
        let options = &self.target.options;
        if let Some(address) = self.dlx_address {
            return Ok(vec![options.client_for(address)?]);
        }
        let known = match options.autoscaler_client()?.get("/api/v1/leader").await {
            Ok(leader) => leader.unwrap_or_default(),
            // A DLX at the default address would be another installation's.
            Err(error) if options.names_autoscaler() => {
                return Err(error.context("to ask a DLX without an autoscaler, name it with --dlx-address"));
            }
            Err(error) => {
                progress(&format!("{error:#}"));
                Value::Null
            }
        };
        // Those that answered the last time first.
        let mut members: Vec<_> = array_field(&known, "members").iter().collect();
        members.sort_by_key(|member| !member["unreachable"].is_null());
        let addresses = members.iter().filter_map(|member| member["admin_address"].as_str()?.parse().ok());
        let mut ports =
            addresses.map(|address| options.client_for(address)).collect::<Result<Vec<_>, _>>()?;
        if ports.is_empty() {
            ports.push(options.client_for(DEFAULT_DLX_ADDRESS)?);
        }
        Ok(ports)
    }
}

/// Asks until it is awake or cannot be: a DLX gives up its answer, not the wake, when it has held it for long enough.
async fn request_wake(
    client: &AdminClient,
    target: &TargetOptions,
    end: Instant,
) -> anyhow::Result<(StatusCode, Value)> {
    loop {
        // Longer than the wait here, whose end says more.
        let timeout = end.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        let response = timeout_at(end, client.post("/api/v1/wake", &target.body(), timeout)).await;
        let Ok(response) = response else {
            bail!("no answer within {}: the wake continues", duration::short(target.timeout));
        };
        let (status, answer) = response?;
        let goes_on = status == StatusCode::SERVICE_UNAVAILABLE && answer["error"] == "held_too_long";
        if !goes_on || Instant::now() >= end {
            return Ok((status, answer));
        }
        progress(&format!("{} ...", display_value(&answer["reason"])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_is_shown_as_it_is() {
        let reason = "demo/web-1 is kept awake: keep-awake until 2026-12-24";
        let answer = json!({"error": "not_idle", "reason": reason});
        assert_eq!(why(&answer), format!("not_idle: {reason}"));
        for (answer, expected) in [
            (json!({"reason": reason}), reason),
            (json!({"error": "not_idle", "reason": ""}), "not_idle"),
            (json!({"error": null}), ""),
        ] {
            assert_eq!(why(&answer), expected);
        }
    }
}
