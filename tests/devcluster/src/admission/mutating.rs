//! MutatingAdmissionPolicies: what those of the cluster make of an update. Their expressions are evaluated, `JSONPatch{}` included.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use cel::{
    Context, Env, ExecutionError, Program, StructType, Value as Cel,
    common::{
        types::{CelStruct, Type},
        value::{CowVal, Val},
    },
    extensions,
};
use serde_json::{Value, json};

use crate::{
    http::{
        failure::{self, Failure},
        request::Request,
    },
    patch,
    registry::Kind,
    selector::LabelSelector,
    store::{Key, TableId, Tables, map, text},
};

const GROUP: &str = "admissionregistration.k8s.io";

/// One policy, and how it is bound.
struct Bound<'a> {
    name: &'a str,
    policy: &'a Value,
    binding: &'a Value,
}

/// The type of `JSONPatch{op: .., path: .., value: ..}`.
#[derive(Debug)]
struct JsonPatch(Type);

/// Expressions by their texts: policies are asked at each write.
static PROGRAMS: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let added = env.add_extension(extensions::strings);
    let added = added.and_then(|()| env.add_type(JsonPatch(Type::new_struct("JSONPatch".to_owned()))));
    added.expect("these names are free");
    Arc::new(env)
});

/// What the policies make of `value`, which is to be written in the place of `old`. Each is asked once, in the order of their
/// bindings' names.
///
/// # Errors
///
/// One that must not fail cannot be evaluated.
pub fn mutate(
    tables: &Tables,
    kind: &Kind,
    request: &Request,
    old: &Value,
    mut value: Value,
) -> failure::Result<Value> {
    let Some(bindings) = tables.table(&TableId::new(GROUP, "mutatingadmissionpolicybindings")) else {
        return Ok(value);
    };
    for (key, binding) in &bindings.objects {
        let policies = TableId::new(GROUP, "mutatingadmissionpolicies");
        let binding = &binding.value["spec"];
        let Some(policy) = tables.get(&policies, &Key::new("", text(&binding["policyName"]))) else {
            continue;
        };
        let bound = Bound { name: &key.name, policy: &policy.value["spec"], binding };
        match bound.apply(tables, kind, request, old, &value) {
            Ok(Some(changed)) => value = changed,
            Ok(None) => {}
            Err(why) if bound.policy["failurePolicy"] == "Ignore" => {
                tracing::warn!(policy = bound.name, why, "a mutating policy failed and is ignored");
            }
            Err(why) => {
                return Err(Failure::forbidden(
                    kind,
                    &request.target.name,
                    &format!("{}: {why}", bound.name),
                ));
            }
        }
    }
    Ok(value)
}

// === impl Bound ===

impl Bound<'_> {
    /// The changed object; `None`: it leaves it as it is.
    fn apply(
        &self,
        tables: &Tables,
        kind: &Kind,
        request: &Request,
        old: &Value,
        value: &Value,
    ) -> Result<Option<Value>, String> {
        if !self.is_about(tables, kind, request) {
            return Ok(None);
        }
        let Some(params) = self.params(tables)? else { return Ok(None) };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        let escaped = |text: Arc<String>| text.replace('~', "~0").replace('/', "~1");
        context.add_function("jsonpatch.escapeKey", escaped).map_err(|error| error.to_string())?;
        context.add_variable_from_value("object", cel(&served(kind, value)));
        context.add_variable_from_value("oldObject", cel(&served(kind, old)));
        context.add_variable_from_value("request", cel(&asked(request, kind)));
        context.add_variable_from_value("params", cel(&params));
        for condition in list(&self.policy["matchConditions"]) {
            if evaluate(text(&condition["expression"]), &context)? != Cel::Bool(true) {
                return Ok(None);
            }
        }
        let mut variables = HashMap::new();
        for variable in list(&self.policy["variables"]) {
            // One that cannot be evaluated fails where it is used.
            if let Ok(value) = evaluate(text(&variable["expression"]), &context) {
                variables.insert(text(&variable["name"]).to_owned(), value);
                context.add_variable_from_value("variables", variables.clone());
            }
        }
        let mut changed = value.clone();
        for mutation in list(&self.policy["mutations"]) {
            let expression = text(&mutation["jsonPatch"]["expression"]);
            if expression.is_empty() {
                return Err("only mutations by jsonPatch are known here".to_owned());
            }
            let operations = operations(&evaluate(expression, &context)?)?;
            changed = patch::json(&changed, &Value::from(operations).to_string(), false)
                .map_err(|why| format!("{why:?}"))?;
            context.add_variable_from_value("object", cel(&served(kind, &changed)));
        }
        Ok(Some(changed))
    }

    /// Whether its constraints are about such a request.
    fn is_about(&self, tables: &Tables, kind: &Kind, request: &Request) -> bool {
        let constraints = &self.policy["matchConstraints"];
        let has = |names: &Value, one: &str| list(names).any(|name| name == "*" || name == one);
        let rules = list(&constraints["resourceRules"]).any(|rule| {
            has(&rule["operations"], "UPDATE")
                && has(&rule["apiGroups"], &kind.group)
                && has(&rule["apiVersions"], &kind.version)
                && has(&rule["resources"], &kind.plural)
        });
        let namespace =
            tables.get(&TableId::new("", "namespaces"), &Key::new("", &*request.target.namespace));
        let labels = namespace.map(|namespace| namespace.metadata()["labels"].clone()).unwrap_or_default();
        rules && LabelSelector::of(&constraints["namespaceSelector"]).matches(&labels)
    }

    /// Its parameter; `Some(null)`: it takes none; `None`: it is not there, and nothing is to be done.
    fn params(&self, tables: &Tables) -> Result<Option<Value>, String> {
        let kind = &self.policy["paramKind"];
        if kind.is_null() {
            return Ok(Some(Value::Null));
        }
        if *kind != json!({"apiVersion": "v1", "kind": "ConfigMap"}) {
            return Err(format!("only ConfigMaps are known as parameters here, not {kind}"));
        }
        let reference = &self.binding["paramRef"];
        let key = Key::new(text(&reference["namespace"]), text(&reference["name"]));
        match tables.get(&TableId::new("", "configmaps"), &key) {
            Some(found) => Ok(Some(found.value.clone())),
            None if reference["parameterNotFoundAction"] == "Allow" => Ok(None),
            None => Err(format!("no ConfigMap {}/{} for its binding's paramRef", key.namespace, key.name)),
        }
    }
}

// === impl JsonPatch ===

impl StructType for JsonPatch {
    fn get_type(&self) -> &Type {
        &self.0
    }

    fn new_value<'b, 'v>(
        &self,
        fields: BTreeMap<String, CowVal<'b, 'v>>,
    ) -> Result<Box<dyn Val + 'v>, ExecutionError> {
        let mut made = CelStruct::new(self.0.name().to_owned());
        for (name, value) in fields {
            if !matches!(name.as_str(), "op" | "path" | "from" | "value") {
                return Err(ExecutionError::no_such_key(&name));
            }
            made.add_field_value(name, value);
        }
        Ok(Box::new(made))
    }
}

/// The operations of a JSON patch.
fn operations(list: &Cel) -> Result<Vec<Value>, String> {
    let Cel::List(all) = list else { return Err(format!("a list of JSONPatch was expected: {list:?}")) };
    let operation = |one: &Cel| {
        let Cel::Struct(one) = one else { return Err(format!("a JSONPatch was expected: {one:?}")) };
        let fields = one.field_values().into_iter().map(|(name, value)| {
            let value = Cel::try_from(&*value).map_err(|error| error.to_string())?;
            Ok((name, value.json().map_err(|error| error.to_string())?))
        });
        fields.collect::<Result<serde_json::Map<_, _>, String>>().map(Value::Object)
    };
    all.iter().map(operation).collect()
}

fn evaluate(expression: &str, context: &Context<'_, '_>) -> Result<Cel, String> {
    let known = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner).get(expression).cloned();
    let program = match known {
        Some(program) => program,
        None => {
            let program =
                ENVIRONMENT.compile(expression).map_err(|error| format!("{expression}: {error}"))?;
            let program = Arc::new(program);
            let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
            programs.insert(expression.to_owned(), Arc::clone(&program));
            program
        }
    };
    program.execute(context).map_err(|error| format!("{expression}: {error}"))
}

/// The `request` of expressions.
fn asked(request: &Request, kind: &Kind) -> Value {
    let target = &request.target;
    let mut options = json!({});
    if let Some(manager) = request.query.get("fieldManager") {
        options["fieldManager"] = manager.into();
    }
    json!({
        "kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "resource": {"group": kind.group, "version": kind.version, "resource": kind.plural},
        "name": target.name, "namespace": target.namespace, "operation": "UPDATE",
        "userInfo": {"username": request.user.to_string(), "groups": request.user.groups()},
        "dryRun": request.query.get("dryRun").is_some(), "options": options,
    })
}

/// An object with what distinguishes its kind.
fn served(kind: &Kind, value: &Value) -> Value {
    let mut value = value.clone();
    let fields = map(&mut value);
    fields.insert("apiVersion".into(), kind.api_version().into());
    fields.insert("kind".into(), kind.kind.as_str().into());
    value
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Numbers as the API server has them: int where JSON has no fraction.
fn cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(cel).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.as_str(), cel(value))).collect::<HashMap<_, _>>().into()
        }
    }
}
