//! The end of `run`: awake resources are scaled to zero.

use std::{ffi::OsString, time::Duration};

use clap::Parser as _;
use daemon::{flags::CommonFlags, plugin_manager::PluginManager, settings::SettingsLayer};
use plugin_host::RunningPlugin;
use scaler_types::{
    Nonce, Phase, Record, Resource, ResourceId, Role, ScaleRequest, Target,
    protocol::{Step, transition},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::output::{print, progress, warn},
    plugin::protocol_seen,
};

/// The flags of the daemons, which this process reads as one of them.
#[derive(clap::Parser)]
struct DaemonFlags {
    #[command(flatten)]
    common: CommonFlags,
}

/// How long one may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Scales everything to zero that the daemons with these flags left awake; whether nothing keeps running. No DLX runs any more, so
/// nothing is in flight.
pub(super) async fn scale_to_zero(common: &[OsString]) -> bool {
    let flags = std::iter::once("autoscaler".into()).chain(common.iter().cloned());
    let flags = match DaemonFlags::try_parse_from(flags) {
        Ok(flags) => flags.common,
        Err(error) => {
            warn(&format!("nothing was scaled to zero: {error}"));
            return false;
        }
    };
    let begin = PluginManager::start_whole(
        &flags,
        SettingsLayer::default(),
        Role::Autoscaler,
        CancellationToken::new(),
    );
    let plugins = match begin.await {
        Ok((plugins, _)) => plugins,
        Err(error) => {
            warn(&format!("awake resources keep running: {error:#}"));
            return false;
        }
    };
    let (mut scales, mut all) = (JoinSet::new(), true);
    for served in plugins.served().borrow().iter() {
        let plugin = served.instance.clone();
        match plugin.get_resources().await {
            Ok(listed) => {
                for resource in listed.readable.into_iter().filter(|resource| resource.replicas > 0) {
                    progress(&format!("stopping {} ...", resource.id));
                    let plugin = plugin.clone();
                    scales.spawn(async move {
                        let scaled = scale_one(&*plugin, &resource).await;
                        (resource.id, scaled)
                    });
                }
            }
            Err(error) => {
                all = false;
                warn(&format!("plugin {}: awake resources keep running: {error}", plugin.kind()));
            }
        }
    }
    let mut scaled: Vec<ResourceId> = Vec::new();
    while let Some(done) = scales.join_next().await {
        match done {
            Ok((id, Ok(()))) => scaled.push(id),
            Ok((id, Err(why))) => {
                all = false;
                warn(&format!("{id} keeps running: {why}"));
            }
            Err(error) => {
                all = false;
                warn(&format!("a resource keeps running: {error}"));
            }
        }
    }
    plugins.stop().await;
    scaled.sort();
    let names = scaled.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match scaled.len() {
        0 => {}
        1..=10 => print(&format!("scaled to zero: {names}\n")),
        count => print(&format!("scaled to zero: {count} resources\n")),
    }
    all
}

async fn scale_one(plugin: &dyn RunningPlugin, resource: &Resource) -> Result<(), String> {
    let record = asleep(resource).ok_or("its record has a format of a later version")?;
    let request = ScaleRequest {
        id: resource.id.clone(),
        target: Target::Zero,
        version: resource.version.clone(),
        record,
        deadline: STOP_TIMEOUT,
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    };
    plugin.set_scale(&request).await.map_err(|error| error.to_string())
}

/// The record of a resource that is scaled to zero, whatever it was before.
fn asleep(resource: &Resource) -> Option<Record> {
    let mut seen = protocol_seen(resource);
    for step in [Step::Revert, Step::Finish, Step::Drain, Step::Commit] {
        if let Some(record) = transition(&seen, step, Nonce::fresh(), "autoscaler run was stopped") {
            seen.record = record;
        }
    }
    (seen.record.phase == Phase::Asleep).then_some(seen.record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_every_phase_it_is_asleep() {
        let mut resource = Resource::new(ResourceId::new("shop", "web"));
        resource.replicas = 1;
        for phase in [Phase::Active, Phase::Draining, Phase::Asleep, Phase::Waking, Phase::Failed] {
            resource.record.phase = phase;
            assert_eq!(asleep(&resource).map(|record| record.phase), Some(Phase::Asleep), "{phase}");
        }
        resource.record.format = u32::MAX;
        assert_eq!(asleep(&resource), None);
    }
}
