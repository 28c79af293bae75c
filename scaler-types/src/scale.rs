//! A request to scale a resource, and a plugin's answers.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Record, ResourceId, Version, duration};

/// One resource to be scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleRequest {
    /// The resource.
    #[serde(flatten)]
    pub id: ResourceId,
    /// The scale to reach.
    pub target: Target,
    /// The version the decision was made on. If the resource has another version by now, nothing is changed
    /// and the answer is [`ScaleError::Conflict`].
    pub version: Version,
    /// Written together with the scale, in one step: a reader sees both or neither.
    pub record: Record,
    /// How long the call may take, from when it is made. Its future is dropped then.
    #[serde(with = "duration::go")]
    pub deadline: Duration,
    /// For an intercepted resource that is scaled to zero: the least that
    /// [`Interception::intercepted_for`](crate::Interception::intercepted_for) must be at that moment. If it is less, nothing is changed
    /// and the answer is [`ScaleError::Conflict`]: the DLXs did not count all of its requests.
    #[serde(with = "duration::go", default)]
    pub intercepted_for: Duration,
    /// The [`Endpoint::incarnation`](crate::Endpoint::incarnation)s at which requests are in flight. A step down removes none of them while
    /// it can remove another replica; anything else ignores them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub busy: Vec<String>,
}

/// The scale to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// No replicas.
    Zero,
    /// A wake: this many replicas or more. A resource with more keeps them; one that was asleep gets the replicas it had before.
    AtLeast(u32),
    /// This many replicas. None are [`Zero`](Self::Zero), which a drain attempt precedes.
    Exactly(NonZeroU32),
}

/// Why a scale or a write did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleError {
    /// Another writer changed the resource: read it and decide again.
    #[error("the resource was changed meanwhile")]
    Conflict,
    /// It did not work this time (an API error, a quota that may free up).
    #[error("{reason}; retry in {}", duration::short(*after))]
    Retry {
        /// How long to wait before another attempt.
        #[serde(with = "duration::go")]
        after: Duration,
        /// What went wrong.
        reason: String,
    },
    /// The replicas that could be removed have work: nothing changed, and nothing is wrong.
    #[error("{reason}; retry in {}", duration::short(*after))]
    Busy {
        /// How long to wait before another attempt.
        #[serde(with = "duration::go")]
        after: Duration,
        /// Which have work, and how that is known.
        reason: String,
    },
    /// It cannot start without a change by the user: a missing program, a crash at start, an image that does not exist.
    #[error("{reason}")]
    Terminal {
        /// The cause; the DLX answers the held requests with it.
        reason: String,
    },
    /// The plugin cannot do this.
    #[error("not supported by this plugin")]
    Unsupported,
}

/// An event in a resource's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScaleEvent {
    /// Its specification changed.
    ResourceUpdated,
    /// A wake began.
    ScaleFromZeroStarted,
    /// A wake ended well.
    ScaleFromZeroCompleted,
    /// It was scaled to zero.
    ScaleToZeroCompleted,
}

// === impl ScaleError ===

impl From<anyhow::Error> for ScaleError {
    /// An error of the plugin's own does not say whether it may pass: it is a [`Retry`](Self::Retry).
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<ScaleError>() {
            Ok(error) => error,
            Err(error) => ScaleError::Retry { after: Duration::from_secs(1), reason: format!("{error:#}") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind_across_the_seam() {
        let after = Duration::from_secs(5);
        for error in [
            ScaleError::Conflict,
            ScaleError::Retry { after, reason: "no answer".to_owned() },
            ScaleError::Busy { after, reason: "it works".to_owned() },
            ScaleError::Terminal { reason: "no such program".to_owned() },
            ScaleError::Unsupported,
        ] {
            let json = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<ScaleError>(&json).unwrap(), error, "{json}");
        }
    }

    #[test]
    fn an_authors_own_error_is_to_be_tried_again_and_a_verdict_is_kept() {
        let own = anyhow::anyhow!("connection refused").context("asking the API");
        let ScaleError::Retry { reason, .. } = own.into() else { panic!("it says nothing more") };
        assert_eq!(reason, "asking the API: connection refused");
        assert_eq!(ScaleError::from(anyhow::Error::from(ScaleError::Conflict)), ScaleError::Conflict);
    }

    #[test]
    fn targets_and_events_have_their_names() {
        for (target, json) in [
            (Target::Zero, r#""zero""#),
            (Target::AtLeast(1), r#"{"at_least":1}"#),
            (Target::Exactly(NonZeroU32::MIN), r#"{"exactly":1}"#),
        ] {
            assert_eq!(serde_json::to_string(&target).unwrap(), json);
            assert_eq!(serde_json::from_str::<Target>(json).unwrap(), target);
        }
        assert!(serde_json::from_str::<Target>(r#"{"exactly":0}"#).is_err(), "zero is a target of its own");
        for (event, name) in [
            (ScaleEvent::ResourceUpdated, "resourceUpdated"),
            (ScaleEvent::ScaleFromZeroStarted, "scaleFromZeroStarted"),
            (ScaleEvent::ScaleFromZeroCompleted, "scaleFromZeroCompleted"),
            (ScaleEvent::ScaleToZeroCompleted, "scaleToZeroCompleted"),
        ] {
            assert_eq!(serde_json::to_value(event).unwrap(), name);
        }
    }
}
