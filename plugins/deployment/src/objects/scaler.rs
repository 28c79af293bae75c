//! Others that scale: HorizontalPodAutoscalers, KEDA's ScaledObjects.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::core::DynamicObject;
use serde_json::Value;

use super::Meta;

/// Another one that scales a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OtherAutoscaler {
    pub(crate) meta: Meta,
    pub(crate) kind: AutoscalerKind,
    /// Its target: kind and name.
    pub(crate) target: (String, String),
    /// Whether it takes its workload to zero itself.
    pub(crate) scales_to_zero: bool,
}

/// The kind of a scaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoscalerKind {
    Hpa,
    ScaledObject,
}

// === impl OtherAutoscaler ===

impl OtherAutoscaler {
    /// Why what it scales is to be left to it, if so.
    pub(crate) fn conflict(&self) -> Option<String> {
        let name = &self.meta.name;
        self.scales_to_zero.then(|| match self.kind {
            AutoscalerKind::Hpa => format!(
                "the HorizontalPodAutoscaler {name} also scales it to zero (minReplicas: 0): raise its \
                 minimum to 1"
            ),
            AutoscalerKind::ScaledObject => format!(
                "the ScaledObject {name} also scales it: pause it (autoscaling.keda.sh/paused: \
                 \"true\"), or opt the workload out of Scaler"
            ),
        })
    }

    /// Why the targets per replica of what it scales are ignored; none: it is paused.
    pub(crate) fn takes_precedence(&self) -> Option<String> {
        let name = &self.meta.name;
        let (object, way_out) = match self.kind {
            AutoscalerKind::Hpa => ("HorizontalPodAutoscaler", "delete it"),
            AutoscalerKind::ScaledObject if self.scales_to_zero => ("ScaledObject", "pause it"),
            AutoscalerKind::ScaledObject => return None,
        };
        Some(format!(
            "the {object} {name} decides how many replicas it has, and its targets per replica are ignored: {way_out}, \
             or remove the targets"
        ))
    }
}

impl From<HorizontalPodAutoscaler> for OtherAutoscaler {
    fn from(hpa: HorizontalPodAutoscaler) -> Self {
        let spec = hpa.spec.unwrap_or_default();
        let target = spec.scale_target_ref;
        Self {
            meta: Meta::from(&hpa.metadata),
            kind: AutoscalerKind::Hpa,
            target: (target.kind, target.name),
            scales_to_zero: spec.min_replicas == Some(0),
        }
    }
}

impl From<DynamicObject> for OtherAutoscaler {
    /// From a ScaledObject.
    fn from(object: DynamicObject) -> Self {
        let text = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let annotation = |name: &str| {
            object
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(&format!("autoscaling.keda.sh/{name}")))
        };
        let paused = annotation("paused").is_some_and(|value| value != "false")
            || annotation("paused-replicas").is_some();
        Self {
            kind: AutoscalerKind::ScaledObject,
            target: (
                text("/spec/scaleTargetRef/kind").unwrap_or_else(|| "Deployment".to_owned()),
                text("/spec/scaleTargetRef/name").unwrap_or_default(),
            ),
            scales_to_zero: !paused,
            meta: Meta::from(&object.metadata),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_autoscaler_that_scales_to_zero_conflicts() {
        let hpa = |minimum: Value| -> OtherAutoscaler {
            let object = json!({
                "metadata": {"name": "web"},
                "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": minimum, "maxReplicas": 5},
            });
            serde_json::from_value::<HorizontalPodAutoscaler>(object).unwrap().into()
        };
        assert!(hpa(json!(0)).conflict().unwrap().contains("HorizontalPodAutoscaler web"));
        assert_eq!(hpa(json!(1)).conflict(), None);
        assert_eq!(hpa(Value::Null).conflict(), None);
        assert!(hpa(json!(1)).takes_precedence().unwrap().contains("HorizontalPodAutoscaler web"));
        let keda = |annotations: Value, target: Value| -> OtherAutoscaler {
            let object = json!({"metadata": {"name": "q", "annotations": annotations}, "spec": {"scaleTargetRef": target}});
            serde_json::from_value::<DynamicObject>(object).unwrap().into()
        };
        let target = || json!({"name": "web"});
        assert!(keda(Value::Null, target()).conflict().is_some());
        assert!(keda(Value::Null, target()).takes_precedence().unwrap().contains("ScaledObject q"));
        assert_eq!(keda(json!({"autoscaling.keda.sh/paused": "true"}), target()).takes_precedence(), None);
        assert!(keda(json!({"autoscaling.keda.sh/paused": "false"}), target()).conflict().is_some());
        assert_eq!(keda(json!({"autoscaling.keda.sh/paused": "true"}), target()).conflict(), None);
        assert_eq!(keda(json!({"autoscaling.keda.sh/paused-replicas": "2"}), target()).conflict(), None);
        assert_eq!(keda(Value::Null, target()).target, ("Deployment".to_owned(), "web".to_owned()));
        let set = keda(Value::Null, json!({"kind": "StatefulSet", "name": "db"}));
        assert_eq!(set.target, ("StatefulSet".to_owned(), "db".to_owned()));
    }
}
