//! What a request asks for: verb, resource, namespace, name, subresource, as RBAC and faults name them.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use super::{
    failure::{Failure, Result},
    protobuf,
    query::{Query, decoded},
};
use crate::access::User;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub user: User,
    /// What is asked for.
    pub target: Target,
    /// Its parameters.
    pub query: Query,
    /// Its path.
    pub path: String,
    /// Its `Accept` header.
    pub accept: String,
    /// Its method.
    pub method: Method,
    /// Its `Content-Type` without parameters.
    pub content_type: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// Its body.
    pub body: Bytes,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// API group.
    pub group: String,
    /// Version of it.
    pub version: String,
    /// Plural name; empty: no resource, such as discovery.
    pub resource: String,
    /// Namespace; empty: all, or the resource has none.
    pub namespace: String,
    /// Name; empty: the collection.
    pub name: String,
    /// `status` or `scale` for instance; empty: the object itself.
    pub subresource: String,
    /// The one name that a list or watch selects: for RBAC it is as if it were that object's.
    pub selected: String,
    /// By a dry run: nothing is to be written.
    pub dry: bool,
}

// === impl Target ===

impl Target {
    /// What a request to `path` asks for.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Self { verb: plain_verb(method), ..Self::default() },
        };
        let (namespace, rest) = match rest {
            // A namespace's own subresources; everything else below a namespace is in it.
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) =>
            {
                (*namespace, rest)
            }
            // RBAC asks with the namespace for the namespace itself, too.
            ["namespaces", namespace, ..] => (*namespace, rest),
            _ => ("", rest),
        };
        let at = |index: usize| rest.get(index).copied().unwrap_or_default();
        let (name, subresource) = (at(1), rest.get(2..).map(|rest| rest.join("/")).unwrap_or_default());
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ if !name.is_empty() => "get",
            _ if query.on("watch") => "watch",
            _ => "list",
        };
        let selected = match query
            .get("fieldSelector")
            .and_then(|fields| fields.strip_prefix("metadata.name="))
        {
            Some(selected) if name.is_empty() && !selected.contains(',') => selected.trim_start_matches('='),
            _ => "",
        };
        Self {
            verb,
            selected: selected.to_owned(),
            group: group.to_owned(),
            version: version.to_owned(),
            resource: at(0).to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource,
            dry: query.get("dryRun").is_some(),
        }
    }

    /// The verb as faults and counts have it: a dry run is one of its own.
    pub fn counted_verb(&self) -> &'static str {
        if self.dry { "dry-run" } else { self.verb }
    }

    /// The name that RBAC looks at.
    pub fn named(&self) -> &str {
        if self.name.is_empty() { &self.selected } else { &self.name }
    }

    /// `deployments/scale`: the resource with its subresource, as RBAC has it.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        _ => "get",
    }
}

// === impl Request ===

impl Request {
    /// A request with its body read.
    pub fn new(
        user: User,
        target: Target,
        query: Query,
        path: String,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = header(header::CONTENT_TYPE);
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let (accept, user_agent) = (header(header::ACCEPT).to_owned(), header(header::USER_AGENT).to_owned());
        Self { user, target, query, path, accept, method, content_type, user_agent, body }
    }

    /// Who owns what it writes: its `fieldManager`, else what the client calls itself, up to the slash.
    pub fn manager(&self) -> &str {
        let named = self.user_agent.split('/').next().filter(|name| !name.is_empty());
        self.query.get("fieldManager").or(named).unwrap_or("unknown")
    }

    /// Whether it is a server-side apply.
    pub fn applies(&self) -> bool {
        self.content_type == "application/apply-patch+yaml"
    }

    /// Its body as JSON; `Null` for none.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn json(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        if self.content_type.contains("yaml") {
            return serde_yaml::from_slice(&self.body)
                .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")));
        }
        if self.content_type == "application/vnd.kubernetes.protobuf" {
            return protobuf::decode(&self.body);
        }
        if self.content_type.contains("cbor") {
            return Err(Failure::unsupported_media_type("application/json, application/yaml"));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::bad_request(format!("the body of the request is no JSON: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_is_asked_for() {
        let parse = |method, path: &str| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let target = Target::parse(&method, path, &Query::parse(query));
            format!(
                "{} {}/{} {} {} {} {}",
                target.verb,
                target.group,
                target.version,
                target.resource,
                target.namespace,
                target.name,
                target.subresource
            )
        };
        assert_eq!(parse(Method::GET, "/api/v1/pods?watch=1"), "watch /v1 pods   ");
        assert_eq!(
            parse(Method::PATCH, "/apis/apps/v1/namespaces/shop/deployments/web/scale"),
            "patch apps/v1 deployments shop web scale"
        );
        assert_eq!(parse(Method::GET, "/api/v1/namespaces"), "list /v1 namespaces   ");
        assert_eq!(parse(Method::GET, "/api/v1/namespaces/shop"), "get /v1 namespaces shop shop ");
        assert_eq!(
            parse(Method::PUT, "/api/v1/namespaces/shop/finalize"),
            "update /v1 namespaces shop shop finalize"
        );
        assert_eq!(parse(Method::DELETE, "/api/v1/namespaces/shop/pods"), "deletecollection /v1 pods shop  ");
        assert_eq!(parse(Method::GET, "/apis/apps/v1"), "get /    ");
    }
}
