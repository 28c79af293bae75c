//! The interception of a resource's requests: whether they go to the DLXs or to the resource, and how the leading autoscaler
//! changes that.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{ResourceId, duration, tolerant};

/// Where the requests of a resource go, where its plugin can intercept them (at a Service of a cluster), as the plugin observes it
/// now.
///
/// A plugin reports one as long as the resource's users request interception or anything of it is left to restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interception {
    /// The resource's users request it: in traffic mode [`Always`](crate::TrafficMode::Always) all the time, in
    /// [`WhenAsleep`](crate::TrafficMode::WhenAsleep) while the resource is asleep. If not, an intercepted resource is restored.
    pub requested: bool,
    /// Why it cannot be intercepted, whatever its users request; shown to them. Empty: it can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub refusal: String,
    /// Where requests go now.
    #[serde(deserialize_with = "Backend::deserialize_any")]
    pub backend: Backend,
    /// Everything is as the last [`InterceptionRequest`] for this `backend` would write it again: no name was added since, and
    /// no other writer removed a part of it.
    pub in_sync: bool,
    /// For how long every new connection has certainly gone to a DLX, as far as this process observed: what the DLXs counted
    /// before that is not everything. Zero while the backend is not [`Backend::Dlx`].
    #[serde(with = "duration::go")]
    pub intercepted_for: Duration,
    /// The workload has ready endpoints, which take requests as soon as interception ends.
    pub workload_ready: bool,
    /// The DLXs that receive its requests, by [`Dlx::name`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dlxs: Vec<String>,
    /// What else the plugin says about it; shown to people. Empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The receiver of a resource's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The workload; nothing of the interception is left.
    #[default]
    Workload,
    /// The DLXs, and the workload as soon as it has endpoints.
    Both,
    /// The DLXs alone.
    Dlx,
    /// A value of a later version. Nothing is changed, and the resource is not scaled to zero.
    #[serde(other)]
    Unknown,
}

/// A DLX that takes requests: it has registered, listed, bound its ports, and is not about to stop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dlx {
    /// The incarnation's name, as it registered.
    pub name: String,
    /// Where it is reached: an address of each family it has.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone of that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A change of where a resource's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptionRequest {
    /// The resource.
    #[serde(flatten)]
    pub id: ResourceId,
    /// What is to receive its requests. [`Backend::Both`] is also the way back from [`Backend::Dlx`] to [`Backend::Workload`]: the
    /// DLXs go on taking requests until the workload's endpoints have propagated. [`Backend::Workload`] is requested from there
    /// alone; a plugin that finds another backend by then answers [`Conflict`](crate::ScaleError::Conflict).
    pub backend: Backend,
    /// The DLXs that take requests. Empty for [`Backend::Workload`], and for [`Backend::Both`] where no DLX has taken any for the
    /// DLX-unavailable timeout: then the DLXs that are named already, if any, stay named until the backend is the workload.
    pub dlxs: Vec<Dlx>,
    /// How long the call may take, from when it is made.
    #[serde(with = "duration::go")]
    pub deadline: Duration,
}

/// A resource to be restored: as it was before, with nothing of Scaler's on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The resource.
    #[serde(flatten)]
    pub id: ResourceId,
    /// How long a change of endpoints takes to reach every client.
    #[serde(with = "duration::go")]
    pub propagation_delay: Duration,
    /// How long the call may take, from when it is made: a sleeping resource is woken in it.
    #[serde(with = "duration::go")]
    pub deadline: Duration,
}

/// A range of a DLX's ports, one for each port of an intercepted Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePorts {
    /// The first.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
}

// === impl Backend ===

impl Backend {
    fn deserialize_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(tolerant::option(deserializer)?.unwrap_or(Self::Unknown))
    }
}

// === impl ServicePorts ===

impl ServicePorts {
    /// Whether the range contains `port`.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Every port of the range.
    pub fn all(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_more_is_ignored() {
        let interception = Interception {
            requested: true,
            backend: Backend::Both,
            intercepted_for: Duration::from_millis(1500),
            dlxs: vec!["dlx-1".to_owned()],
            ..Interception::default()
        };
        let mut json = serde_json::to_value(&interception).unwrap();
        json["of_a_later_version"] = serde_json::json!([1]);
        assert_eq!((&json["backend"], &json["intercepted_for"]), (&"both".into(), &"1.5s".into()));
        assert_eq!(serde_json::from_value::<Interception>(json).unwrap(), interception);
        assert_eq!(serde_json::from_str::<Interception>("{}").unwrap(), Interception::default());
        let dlx: Dlx =
            serde_json::from_str(r#"{"name": "a", "addresses": ["10.0.0.1", "fd00::1"]}"#).unwrap();
        assert_eq!((dlx.addresses.len(), dlx.node), (2, None));
    }

    #[test]
    fn a_backend_of_a_later_version_is_unknown() {
        let read: Interception = serde_json::from_str(r#"{"backend": "gateway"}"#).unwrap();
        assert_eq!(read.backend, Backend::Unknown);
    }
}
