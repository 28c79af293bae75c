//! A [`MetricSource`](crate::MetricSource) behind the ABI.

use std::{future::Future, sync::Arc};

use abi_stable::std_types::RVec;
use tokio::runtime::Runtime;

use super::{
    Call, METRIC_SOURCE, MetricSourceDescription,
    glue::{Exported, NOTHING_CHANGED_AFTER, decode, encode, failed, start, unsupported},
    method,
};
use crate::{MetricSource, MetricSourceContext};

/// Makes this library the plugin of a [`MetricSource`](crate::MetricSource): once, in a crate of type `cdylib`.
///
/// ```text
/// export_metric_source!(MySource);
/// ```
///
/// A crate may forbid `unsafe` and use it. It does not compile when panics abort, for a kind that cannot be a key, nor for schemes
/// that cannot begin a URI:
///
/// ```compile_fail,E0080
/// # use scaler_types::*;
/// struct MySource;
/// impl MetricSource for MySource {
///     const KIND: &'static str = "my-source";
///     const SCHEMES: &'static [&'static str] = &["mine://"];
/// #   async fn new(_: MetricSourceContext) -> Result<Self> { Ok(Self) }
/// #   async fn read(&self, _: &[String]) -> Result<Vec<Result<QueueReading, QueueError>>> { Ok(Vec::new()) }
///     // ...
/// }
/// export_metric_source!(MySource);
/// ```
#[macro_export]
macro_rules! export_metric_source {
    ($source:ty) => {
        $crate::__export_plugin!($crate::v1::__private::ExportedMetricSource<$source>);

        const _: () = {
            assert!(
                $crate::v1::__private::valid_schemes(<$source as $crate::MetricSource>::SCHEMES),
                "a metric source's SCHEMES are one or more of lower-case letters, digits, +, - and ., and begin with a letter: \"redis\""
            );

            #[unsafe(export_name = "scaler_metric_source")]
            static METRIC_SOURCE: u8 = 1;
        };
    };
}

/// An author's metric source.
pub struct ExportedMetricSource<S>(pub(super) S);

/// Whether a URI can begin with `scheme` and a colon, in lower case.
pub const fn valid_scheme(scheme: &str) -> bool {
    let bytes = scheme.as_bytes();
    if bytes.is_empty() || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        if !matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.') {
            return false;
        }
        at += 1;
    }
    true
}

/// Whether there is one at least, and each is a [`valid_scheme`].
pub const fn valid_schemes(schemes: &[&str]) -> bool {
    let mut at = 0;
    while at < schemes.len() {
        if !valid_scheme(schemes[at]) {
            return false;
        }
        at += 1;
    }
    at > 0
}

// === impl ExportedMetricSource ===

impl<S: MetricSource> Exported for ExportedMetricSource<S> {
    const KIND: &'static str = S::KIND;
    const INTERFACE: &'static str = METRIC_SOURCE;

    type Context = MetricSourceContext;

    async fn new(context: MetricSourceContext) -> crate::Result<Self> {
        S::new(context).await.map(Self)
    }

    fn stop(&self) -> impl Future<Output = ()> + Send {
        self.0.stop()
    }

    fn call(self: Arc<Self>, runtime: &Runtime, method: &str, argument: RVec<u8>) -> Call<RVec<u8>> {
        match method {
            method::DESCRIBE => {
                let schemes = S::SCHEMES.iter().map(ToString::to_string).collect();
                start(runtime, async move { encode(MetricSourceDescription { schemes }) }, RVec::from)
            }
            method::READ => {
                let work = async move {
                    let queues: Vec<String> = decode(&argument)?;
                    encode(self.0.read(&queues).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::CHANGES => {
                let work = async move {
                    let queues: Vec<String> = decode(&argument)?;
                    let changes = tokio::time::timeout(NOTHING_CHANGED_AFTER, self.0.changes(&queues)).await;
                    encode(changes.unwrap_or_else(|_| Ok(Vec::new())).map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            unknown => unsupported(unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_begin_a_uri() {
        for scheme in ["redis", "a", "amqp+tls", "x-1.0"] {
            assert!(valid_schemes(&[scheme]), "{scheme}");
        }
        for scheme in ["", "Redis", "redis:", "redis://", "1st", "a b", "ä"] {
            assert!(!valid_schemes(&["redis", scheme]), "{scheme}");
        }
        assert!(!valid_schemes(&[]));
    }
}
