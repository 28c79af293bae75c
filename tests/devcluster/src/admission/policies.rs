//! Admission policies: which are bound, whether a write is one that they are about, and the evaluation of their expressions.

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
    http::request::Request,
    registry::Kind,
    selector::LabelSelector,
    store::{Key, TableId, Tables, map, text},
};

const GROUP: &str = "admissionregistration.k8s.io";

/// A write that policies are asked about.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub tables: &'a Tables,
    pub kind: &'a Kind,
    pub request: &'a Request,
    /// What is written over; null: a new object is created.
    pub old: &'a Value,
}

/// One policy, and how it is bound.
pub(super) struct Bound<'a> {
    pub(super) name: &'a str,
    pub(super) policy: &'a Value,
    pub(super) binding: &'a Value,
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

/// The policies of a kind (`validatingadmissionpolicies`), in the order of their bindings' names.
pub(super) fn bound<'a>(tables: &'a Tables, policies: &str) -> impl Iterator<Item = Bound<'a>> {
    let policies = TableId::new(GROUP, policies);
    let bindings = TableId::new(GROUP, &policies.plural.replace("policies", "policybindings"));
    let bindings = tables.table(&bindings).into_iter().flat_map(|table| &table.objects);
    bindings.filter_map(move |(key, binding)| {
        let binding = &binding.value["spec"];
        let policy = tables.table(&policies)?.objects.get(&Key::new("", text(&binding["policyName"])))?;
        Some(Bound { name: &key.name, policy: &policy.value["spec"], binding })
    })
}

// === impl Write ===

impl Write<'_> {
    fn operation(&self) -> &'static str {
        if self.old.is_null() { "CREATE" } else { "UPDATE" }
    }
}

// === impl Bound ===

impl Bound<'_> {
    /// Whether a failure of the policy itself lets the write pass.
    pub(super) fn ignores_failures(&self) -> bool {
        self.policy["failurePolicy"] == "Ignore"
    }

    /// The variables of its expressions for a write of `value`; `None`: the policy does not match the write.
    ///
    /// # Errors
    ///
    /// A condition cannot be evaluated, or the binding's parameter is missing.
    pub(super) fn context(
        &self,
        write: &Write<'_>,
        value: &Value,
    ) -> Result<Option<Context<'static, 'static>>, String> {
        if !self.is_about(write) {
            return Ok(None);
        }
        let Some(params) = self.params(write.tables)? else { return Ok(None) };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        let escaped = |text: Arc<String>| text.replace('~', "~0").replace('/', "~1");
        context.add_function("jsonpatch.escapeKey", escaped).map_err(|error| error.to_string())?;
        context.add_variable_from_value("object", cel(&served(write.kind, value)));
        context.add_variable_from_value("oldObject", cel(&served(write.kind, write.old)));
        context.add_variable_from_value("request", cel(&asked(write)));
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
        Ok(Some(context))
    }

    /// Whether its constraints are about such a write.
    fn is_about(&self, write: &Write<'_>) -> bool {
        let Write { tables, kind, request, .. } = write;
        let constraints = &self.policy["matchConstraints"];
        let has = |names: &Value, one: &str| list(names).any(|name| name == "*" || name == one);
        let rules = list(&constraints["resourceRules"]).any(|rule| {
            has(&rule["operations"], write.operation())
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

/// Evaluates an expression.
pub(super) fn evaluate(expression: &str, context: &Context<'_, '_>) -> Result<Cel, String> {
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
fn asked(write: &Write<'_>) -> Value {
    let Write { kind, request, .. } = write;
    let target = &request.target;
    let mut options = json!({});
    if let Some(manager) = request.query.get("fieldManager") {
        options["fieldManager"] = manager.into();
    }
    json!({
        "kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "resource": {"group": kind.group, "version": kind.version, "resource": kind.plural},
        "name": target.name, "namespace": target.namespace, "operation": write.operation(),
        "userInfo": {"username": request.user.to_string(), "groups": request.user.groups()},
        "dryRun": request.query.get("dryRun").is_some(), "options": options,
    })
}

/// An object with what distinguishes its kind; null stays null.
pub(super) fn served(kind: &Kind, value: &Value) -> Value {
    if value.is_null() {
        return Value::Null;
    }
    let mut value = value.clone();
    let fields = map(&mut value);
    fields.insert("apiVersion".into(), kind.api_version().into());
    fields.insert("kind".into(), kind.kind.as_str().into());
    value
}

/// A list's entries; none of what is no list.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Numbers as the API server has them: int where JSON has no fraction.
pub(super) fn cel(value: &Value) -> Cel {
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
