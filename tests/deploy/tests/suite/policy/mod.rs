//! The ValidatingAdmissionPolicies, evaluated: what each daemon's writes may change, and what not; and what may be deleted.

mod deletion;
mod interception;
mod pods;
mod selector_key;
mod workloads;

use std::collections::HashMap;

use cel::{Context, Program, Value as Cel};
use k8s_openapi::api::admissionregistration::v1::{
    NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::values::{of_kind, rendered};

/// A policy's validations, as the API server evaluates them: variables first, in their order.
pub struct Policy {
    rules: Vec<NamedRuleWithOperations>,
    condition: String,
    failure_policy: String,
    variables: Vec<(String, String)>,
    validations: Vec<(String, String)>,
}

/// The one of the release `scaler` that is called so.
pub fn policy(name: &str) -> Policy {
    let objects = rendered("autoscaler: {podDeletionCost: true}");
    let name = format!("scaler-scaler-{name}");
    let binding: ValidatingAdmissionPolicyBinding =
        named(&objects, "ValidatingAdmissionPolicyBinding", &name);
    assert_eq!(binding.spec.unwrap().validation_actions, Some(vec!["Deny".to_owned()]));
    policy_of(&objects, &name)
}

/// The same of objects that were rendered otherwise.
fn policy_of(objects: &[DynamicObject], name: &str) -> Policy {
    let policy: ValidatingAdmissionPolicy = named(objects, "ValidatingAdmissionPolicy", name);
    let binding: ValidatingAdmissionPolicyBinding = named(objects, "ValidatingAdmissionPolicyBinding", name);
    let binding = binding.spec.unwrap();
    assert_eq!(binding.policy_name.as_deref(), Some(name), "bound to itself");
    let spec = policy.spec.unwrap();
    let [condition] = &spec.match_conditions.unwrap()[..] else { panic!("{name}: one condition") };
    Policy {
        rules: spec.match_constraints.unwrap().resource_rules.unwrap(),
        condition: condition.expression.clone(),
        failure_policy: spec.failure_policy.unwrap(),
        variables: spec
            .variables
            .unwrap_or_default()
            .into_iter()
            .map(|one| (one.name, one.expression))
            .collect(),
        validations: spec
            .validations
            .unwrap()
            .into_iter()
            .map(|one| (one.expression, one.message.expect("a message")))
            .collect(),
    }
}

fn named<T: DeserializeOwned>(objects: &[DynamicObject], kind: &str, name: &str) -> T {
    let found =
        of_kind(objects, kind).into_iter().find(|object| object.metadata.name.as_deref() == Some(name));
    let found = found.unwrap_or_else(|| panic!("no {kind} {name}"));
    serde_json::to_value(found).and_then(serde_json::from_value).expect("an object of its kind")
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
    /// Whether the API server asks it about such a request.
    fn is_asked(&self, operation: &str, group: &str, resource: &str) -> bool {
        let lists = |list: &Option<Vec<String>>, one: &str| list.iter().flatten().any(|entry| entry == one);
        self.rules.iter().any(|rule| {
            lists(&rule.operations, operation)
                && lists(&rule.api_groups, group)
                && lists(&rule.resources, resource)
        })
    }

    /// The message of the first validation that does not hold. `null` is the old object of a CREATE, and the new one of a DELETE.
    pub fn refuses(&self, old: &Value, new: &Value) -> Option<&str> {
        self.refuses_with(&[("object", new), ("oldObject", old)])
    }

    /// The same with all that the expressions are given.
    fn refuses_with(&self, given: &[(&str, &Value)]) -> Option<&str> {
        let mut context = context(given);
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
        self.matches(&[("request", &json!({"userInfo": {"username": user}}))])
    }

    /// Whether its condition holds.
    fn matches(&self, given: &[(&str, &Value)]) -> bool {
        evaluate(&self.condition, &context(given)) == Cel::Bool(true)
    }
}

fn context(given: &[(&str, &Value)]) -> Context<'static, 'static> {
    let mut context = Context::default();
    for (name, value) in given {
        context.add_variable_from_value(*name, cel(value));
    }
    context
}

/// `object`, with `value` at `pointer`; `null` takes away what is there.
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

#[test]
fn a_policy_is_about_its_daemon_only() {
    for (name, daemon, other) in [
        ("dlx", "dlx", "autoscaler"),
        ("autoscaler", "autoscaler", "dlx"),
        ("autoscaler-services", "autoscaler", "dlx"),
        ("autoscaler-endpointslices", "autoscaler", "dlx"),
        ("autoscaler-configmaps", "autoscaler", "dlx"),
        ("autoscaler-pods", "autoscaler", "dlx"),
    ] {
        let policy = policy(name);
        assert_eq!(policy.failure_policy, "Fail", "{name}");
        assert!(policy.is_about(&format!("system:serviceaccount:scaler:scaler-{daemon}")), "{name}");
        assert!(!policy.is_about(&format!("system:serviceaccount:scaler:scaler-{other}")), "{name}");
        assert!(!policy.is_about("system:serviceaccount:shop:default"), "{name}");
        assert!(!policy.is_about("kubernetes-admin"), "{name}");
    }
}
