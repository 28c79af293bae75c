//! Asking a plugin to scale, and what it may answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Record, ResourceId, Version, duration};

/// One resource to be scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleRequest {
    /// Which one.
    #[serde(flatten)]
    pub id: ResourceId,
    /// To what.
    pub target: Target,
    /// The version the decision was made on. If the resource's is another by now, nothing is changed and the
    /// answer is [`ScaleError::Conflict`].
    pub version: Version,
    /// Written together with the scale, in one step: whoever sees the one sees the other.
    pub record: Record,
    /// How long the call may take, from when it is made. Its future is dropped then.
    #[serde(with = "duration::go")]
    pub deadline: Duration,
    /// To zero, of a resource that is intercepted: for how long it has been, at least, by what
    /// [`Interception::intercepted_for`](crate::Interception::intercepted_for) counts when it is scaled. If they have not, nothing is changed and the answer is
    /// [`ScaleError::Conflict`]: what the DLXs counted of it is not all there was.
    #[serde(with = "duration::go", default)]
    pub intercepted_for: Duration,
}

/// The scale that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// None.
    Zero,
    /// A wake: this many or more. What has more keeps them; what slept comes back with what it had.
    AtLeast(u32),
    /// This many.
    Exactly(u32),
}

/// Why a scale or a write did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleError {
    /// Somebody else changed the resource: look again, decide again.
    #[error("the resource was changed meanwhile")]
    Conflict,
    /// It did not work this time (an API error, a quota that may free up).
    #[error("{reason}; to be tried again after {}", duration::short(*after))]
    Retry {
        /// When another try makes sense.
        #[serde(with = "duration::go")]
        after: Duration,
        /// What went wrong.
        reason: String,
    },
    /// It cannot come up as things are: a missing program, a crash at start, an image that does not exist.
    #[error("{reason}")]
    Terminal {
        /// The cause, told to the clients that wait.
        reason: String,
    },
    /// The plugin does not offer this.
    #[error("not supported by this plugin")]
    Unsupported,
}

/// What happened to a resource's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScaleEvent {
    /// Its specification changed.
    ResourceUpdated,
    /// A wake began.
    ScaleFromZeroStarted,
    /// A wake ended well.
    ScaleFromZeroCompleted,
    /// It is at zero.
    ScaleToZeroCompleted,
}

// === impl ScaleError ===

impl From<anyhow::Error> for ScaleError {
    /// An error of the author's own, which says nothing about whether it may pass: to be tried again.
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
            ScaleError::Retry { after, reason: "busy".to_owned() },
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
            (Target::Exactly(3), r#"{"exactly":3}"#),
        ] {
            assert_eq!(serde_json::to_string(&target).unwrap(), json);
            assert_eq!(serde_json::from_str::<Target>(json).unwrap(), target);
        }
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
