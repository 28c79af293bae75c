//! Which way requests for a resource take, where its plugin can lead them, and how the leading autoscaler has that changed.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ResourceId, duration};

/// Where requests for a resource go that come by a name its plugin can lead elsewhere (a Service of a cluster), as the
/// plugin sees it now.
///
/// A plugin tells one for as long as its owners ask for that or anything of it is still there: what was led is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Its owners ask for it: on path [`Always`](crate::Path::Always) to lead to the DLXs all the while, on path
    /// [`Direct`](crate::Path::Direct) while it sleeps. Without it whatever is led is given back.
    pub asked: bool,
    /// Why it cannot be led, whatever its owners ask; told to them. Empty: it can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub refused: String,
    /// Where requests go now.
    pub leads: Leads,
    /// Everything is as the last [`RouteRequest`] of what it `leads` to would write it again: no name was added meanwhile, and
    /// nobody else took a part of it away.
    pub complete: bool,
    /// How long every new connection has certainly gone to a DLX, as far as this process saw: what the DLXs counted of it
    /// before that is not all there was. Zero while it does not lead there.
    #[serde(with = "duration::go")]
    pub led_for: Duration,
    /// Endpoints of the resource's own take requests by these names as soon as nothing is in their way.
    pub own_ready: bool,
    /// The DLXs that are named by it, by [`Dlx::name`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dlxs: Vec<String>,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leads {
    /// To the resource itself; nothing is there that leads elsewhere.
    #[default]
    Own,
    /// To the DLXs, and to the resource as soon as it has endpoints.
    Both,
    /// To the DLXs alone.
    Dlx,
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

/// A route to be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRequest {
    /// Whose.
    #[serde(flatten)]
    pub id: ResourceId,
    /// Where its requests are to go. [`Leads::Both`] is also the way back from [`Leads::Dlx`] to [`Leads::Own`]: the DLXs go on
    /// taking requests until the resource's own endpoints are known to everybody. [`Leads::Own`] is asked for from there alone, and
    /// a plugin that finds the route elsewhere by then answers [`Conflict`](crate::ScaleError::Conflict).
    pub to: Leads,
    /// The DLXs that take requests; not empty but for [`Leads::Own`], and for [`Leads::Both`] where no DLX has taken any for so long
    /// that nobody waits for one: then nobody, or whoever is named already, stays named until it leads to itself.
    pub dlxs: Vec<Dlx>,
    /// How long the call may take, from when it is made.
    #[serde(with = "duration::go")]
    pub deadline: Duration,
}

/// A resource to be given back: as it was before, with nothing of ours on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Which one.
    #[serde(flatten)]
    pub id: ResourceId,
    /// How long whoever connects may take to follow a change of the route.
    #[serde(with = "duration::go")]
    pub grace: Duration,
    /// How long the call may take, from when it is made: a resource that sleeps comes up in it.
    #[serde(with = "duration::go")]
    pub deadline: Duration,
}

/// Ports of a DLX that are given to led names, one to each port of theirs: from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePorts {
    /// The first.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
}

// === impl ServicePorts ===

impl ServicePorts {
    /// Whether `port` is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_more_is_ignored() {
        let route = Route {
            asked: true,
            leads: Leads::Both,
            led_for: Duration::from_millis(1500),
            dlxs: vec!["dlx-1".to_owned()],
            ..Route::default()
        };
        let mut json = serde_json::to_value(&route).unwrap();
        json["of_a_later_version"] = serde_json::json!([1]);
        assert_eq!((&json["leads"], &json["led_for"]), (&"both".into(), &"1.5s".into()));
        assert_eq!(serde_json::from_value::<Route>(json).unwrap(), route);
        assert_eq!(serde_json::from_str::<Route>("{}").unwrap(), Route::default());
        let dlx: Dlx =
            serde_json::from_str(r#"{"name": "a", "addresses": ["10.0.0.1", "fd00::1"]}"#).unwrap();
        assert_eq!((dlx.addresses.len(), dlx.node), (2, None));
    }
}
