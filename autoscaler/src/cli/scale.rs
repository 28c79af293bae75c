//! `wake` and `sleep`: by hand what requests and their absence do otherwise.

use std::{net::SocketAddr, time::Duration};

use anyhow::bail;
use http::StatusCode;
use scaler_types::{ResourceId, duration};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    admin_client::{Asking, Port},
    explain::list,
    output::{Format, plain, print, print_json, progress},
    parse_id,
};

/// Wakes a resource as a request would, and waits until it is up
///
/// Asks a DLX: one that the autoscaler knows, or that of --dlx-address where there is no autoscaler. Exit status 0 when it
/// is awake, else 1 with the reason.
#[derive(clap::Args, Clone, Debug)]
pub struct Wake {
    #[command(flatten)]
    whom: Whom,

    /// A DLX's admin address; needs no autoscaler
    #[arg(long, value_name = "ADDRESS", value_parser = daemon::listen::parse_address)]
    dlx_address: Option<SocketAddr>,
}

/// Tries to put a resource to zero now, whatever its windows say, and waits for the outcome
///
/// The leading autoscaler makes the very try it makes of itself: every DLX has to confirm that nothing is in flight. One
/// that its owner wants awake stays awake. Exit status 0 when it is at zero, else 1 with the reason.
#[derive(clap::Args, Clone, Debug)]
pub struct Sleep {
    #[command(flatten)]
    whom: Whom,
}

#[derive(clap::Args, Clone, Debug)]
struct Whom {
    /// The resource, as in shop/web; what is no Deployment has its kind in its name: shop/statefulset/db
    #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_id)]
    resource: ResourceId,

    /// The plugin's kind, where two kinds have a resource of that name
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// How long to wait for the outcome; what was begun goes on
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    timeout: Duration,

    #[command(flatten)]
    asking: Asking,
}

/// Where a DLX's admin port is if nobody says anything else.
const DLX: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8091);

// === impl Whom ===

impl Whom {
    fn body(&self) -> Value {
        let ResourceId { namespace, name } = &self.resource;
        let mut body = json!({"namespace": namespace, "name": name});
        if let Some(kind) = &self.kind {
            body["kind"] = kind.as_str().into();
        }
        body
    }

    /// Prints the outcome; an error unless it is as it was wanted.
    fn end(&self, done: bool, state: &str, answer: &Value, took: Duration) -> anyhow::Result<()> {
        if self.asking.output == Format::Json {
            print_json(answer)?;
        }
        let id = &self.resource;
        if done {
            let took = duration::short(crate::telemetry::rounded(took));
            if self.asking.output == Format::Text {
                print(&format!("{id} is {state} ({took})\n"));
            }
            return Ok(());
        }
        let why = [&answer["error"], &answer["reason"]].map(plain).map(|part| part.replace('-', " "));
        let why: Vec<_> = why.into_iter().filter(|part| !part.trim().is_empty()).collect();
        bail!("{id} is not {state}: {}", why.join(": "))
    }
}

// === impl Sleep ===

impl Sleep {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let whom = &self.whom;
        let port = whom.asking.autoscaler()?;
        progress(&format!("asking {} to put {} to zero ...", port.url(), whom.resource));
        let began = Instant::now();
        let (status, answer) = port.post("/api/v1/sleep", &whom.body(), whom.timeout).await?;
        whom.end(status == StatusCode::OK, "at zero", &answer, began.elapsed())
    }
}

// === impl Wake ===

impl Wake {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let whom = &self.whom;
        let began = Instant::now();
        let end = began + whom.timeout;
        let mut failed = Vec::new();
        for port in self.dlxs().await? {
            progress(&format!("asking the DLX at {} to wake {} ...", port.url(), whom.resource));
            match ask(&port, whom, end).await {
                // Another one does not know better.
                Ok((status, answer)) => {
                    return whom.end(status == StatusCode::OK, "awake", &answer, began.elapsed());
                }
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        bail!("no DLX could be asked to wake {}: {}", whom.resource, failed.join("; "))
    }

    /// The DLXs to be asked, one after the other until one answers.
    async fn dlxs(&self) -> anyhow::Result<Vec<Port>> {
        let asking = &self.whom.asking;
        if let Some(address) = self.dlx_address {
            return Ok(vec![asking.at(address)?]);
        }
        let known = match asking.autoscaler()?.get("/api/v1/leader").await {
            Ok(leader) => leader.unwrap_or_default(),
            Err(error) => {
                progress(&format!("{error:#}"));
                Value::Null
            }
        };
        // Those that answered the last time first.
        let mut members: Vec<_> = list(&known, "members").iter().collect();
        members.sort_by_key(|member| !member["silent"].is_null());
        let addresses = members.iter().filter_map(|member| member["admin"].as_str()?.parse().ok());
        let mut ports = addresses.map(|address| asking.at(address)).collect::<Result<Vec<_>, _>>()?;
        if ports.is_empty() {
            ports.push(asking.at(DLX)?);
        }
        Ok(ports)
    }
}

/// Asks until it is awake or cannot be: a DLX gives up its answer, not the wake, when it has held it for long enough.
async fn ask(port: &Port, whom: &Whom, end: Instant) -> anyhow::Result<(StatusCode, Value)> {
    loop {
        let patience = end.saturating_duration_since(Instant::now());
        let asked = timeout_at(end, port.post("/api/v1/wake", &whom.body(), patience)).await;
        let Ok(asked) = asked else {
            bail!("no answer within {}: the wake goes on", duration::short(whom.timeout));
        };
        let (status, answer) = asked?;
        let goes_on = status == StatusCode::SERVICE_UNAVAILABLE && answer["error"] == "held too long";
        if !goes_on || Instant::now() >= end {
            return Ok((status, answer));
        }
        progress(&format!("{} ...", plain(&answer["reason"])));
    }
}
