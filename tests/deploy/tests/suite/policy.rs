//! The ValidatingAdmissionPolicies, evaluated: what each daemon's patches may change of a workload, and what not.

use std::collections::HashMap;

use cel::{Context, Program, Value as Cel};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::{Value, json};

use crate::values::{of_kind, rendered};

/// A policy's validations, as the API server evaluates them: variables first, in their order.
struct Policy {
    condition: String,
    variables: Vec<(String, String)>,
    validations: Vec<(String, String)>,
}

fn policy(daemon: &str) -> Policy {
    let objects = rendered("");
    let name = format!("scaler-scaler-{daemon}");
    let policies = of_kind(&objects, "ValidatingAdmissionPolicy");
    let object =
        policies.into_iter().find(|policy| policy.metadata.name.as_deref() == Some(&name)).expect("a policy");
    let policy: ValidatingAdmissionPolicy =
        serde_json::to_value(object).and_then(serde_json::from_value).expect("a policy's fields");
    let spec = policy.spec.unwrap();
    assert_eq!(spec.failure_policy.as_deref(), Some("Fail"));
    Policy {
        condition: spec.match_conditions.unwrap().remove(0).expression,
        variables: spec.variables.unwrap().into_iter().map(|one| (one.name, one.expression)).collect(),
        validations: spec
            .validations
            .unwrap()
            .into_iter()
            .map(|one| (one.expression, one.message.expect("a message")))
            .collect(),
    }
}

/// Numbers as the API server has them: int where JSON has no fraction.
fn cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap()), Cel::Int)
        }
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(cel).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.as_str(), cel(value))).collect::<HashMap<_, _>>().into()
        }
    }
}

fn evaluate(expression: &str, context: &Context<'_, '_>) -> Cel {
    let program = Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    program.execute(context).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

impl Policy {
    /// The message of the first validation that does not hold.
    fn refuses(&self, old: &Value, new: &Value) -> Option<&str> {
        let mut context = Context::default();
        context.add_variable_from_value("object", cel(new));
        context.add_variable_from_value("oldObject", cel(old));
        let mut variables = HashMap::new();
        for (name, expression) in &self.variables {
            let value = evaluate(expression, &context);
            variables.insert(name.as_str(), value);
            context.add_variable_from_value("variables", variables.clone());
        }
        let holds = |(expression, _): &&(String, String)| evaluate(expression, &context) != Cel::Bool(true);
        self.validations.iter().find(holds).map(|(_, message)| message.as_str())
    }

    fn is_about(&self, user: &str) -> bool {
        let mut context = Context::default();
        context.add_variable_from_value("request", cel(&json!({"userInfo": {"username": user}})));
        evaluate(&self.condition, &context) == Cel::Bool(true)
    }
}

fn asleep() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "7", "generation": 3,
            "labels": {"app": "web"},
            "annotations": {"scaler.dev/scale-to-zero": "10m", "scaler.dev/row": "{\"state\":\"asleep\"}"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}},
        },
        "status": {"observedGeneration": 3},
    })
}

/// `asleep`, with `value` at `pointer`; `null` takes away what is there.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).expect("a parent");
    let key = key.replace("~1", "/");
    if value.is_null() {
        parent.remove(&key)
    } else {
        parent.insert(key, value)
    };
    object
}

const ROW: &str = "/metadata/annotations/scaler.dev~1row";

#[test]
fn rows_and_wakes_pass() {
    let waking = with(with(asleep(), ROW, json!("{\"state\":\"waking\"}")), "/spec/replicas", json!(3));
    // What the API server writes itself.
    let waking = with(with(waking, "/metadata/generation", json!(4)), "/metadata/managedFields", json!([]));
    let awake = with(asleep(), "/spec/replicas", json!(3));
    let draining = with(awake.clone(), ROW, json!("{\"state\":\"draining\"}"));
    let untouched = with(awake.clone(), ROW, json!(null));
    let bare = with(untouched.clone(), "/metadata/annotations", json!(null));
    let first = with(bare.clone(), "/metadata/annotations", json!({"scaler.dev/row": "{}"}));
    for daemon in ["dlx", "autoscaler"] {
        let policy = policy(daemon);
        assert_eq!(policy.refuses(&asleep(), &waking), None, "{daemon}: a wake");
        assert_eq!(policy.refuses(&awake, &draining), None, "{daemon}: a row");
        assert_eq!(policy.refuses(&untouched, &awake), None, "{daemon}: a first row");
        assert_eq!(policy.refuses(&bare, &first), None, "{daemon}: a first annotation");
    }
    assert_eq!(policy("autoscaler").refuses(&awake, &asleep()), None, "to zero");
}

#[test]
fn a_dlx_puts_nothing_to_sleep() {
    let awake = with(asleep(), "/spec/replicas", json!(3));
    for fewer in [0, 1, 5] {
        let changed = with(awake.clone(), "/spec/replicas", json!(fewer));
        assert_eq!(
            policy("dlx").refuses(&awake, &changed),
            Some("A DLX changes a workload's replicas from zero up only."),
            "3 to {fewer}"
        );
    }
}

#[test]
fn nothing_else_of_a_workload_can_be_changed() {
    for daemon in ["dlx", "autoscaler"] {
        let policy = policy(daemon);
        for (pointer, value, message) in [
            ("/spec/template/spec/containers/0/image", json!("evil:1"), "spec"),
            ("/spec/template/spec/serviceAccountName", json!("admin"), "spec"),
            ("/spec/paused", json!(true), "spec"),
            ("/spec/selector", json!(null), "spec"),
            ("/metadata/labels/app", json!("other"), "metadata"),
            ("/metadata/labels", json!(null), "metadata"),
            ("/metadata/finalizers", json!(["keep"]), "metadata"),
            ("/metadata/ownerReferences", json!([{"uid": "2"}]), "metadata"),
            ("/metadata/annotations/scaler.dev~1scale-to-zero", json!("1s"), "annotation"),
            ("/metadata/annotations/scaler.dev~1scale-to-zero", json!(null), "annotation"),
            ("/metadata/annotations/example.com~1role", json!("admin"), "annotation"),
            ("/metadata/annotations", json!(null), "annotation"),
            ("/status/observedGeneration", json!(4), "beside"),
        ] {
            let changed = with(asleep(), pointer, value);
            let refused = policy.refuses(&asleep(), &changed);
            assert!(refused.is_some_and(|why| why.contains(message)), "{daemon}: {pointer}: {refused:?}");
        }
    }
}

#[test]
fn a_policy_is_about_its_daemon_only() {
    for (daemon, other) in [("dlx", "autoscaler"), ("autoscaler", "dlx")] {
        let policy = policy(daemon);
        assert!(policy.is_about(&format!("system:serviceaccount:scaler:scaler-{daemon}")));
        assert!(!policy.is_about(&format!("system:serviceaccount:scaler:scaler-{other}")));
        assert!(!policy.is_about("system:serviceaccount:shop:default"));
        assert!(!policy.is_about("kubernetes-admin"));
    }
}
