//! The verbs.

mod create;
pub mod delete;
mod discovery;
mod list;
mod openapi;
mod options;
mod patch;
mod read;
mod review;
mod scale;
mod table;
mod update;
mod watch;

use std::sync::Arc;

use crate::{
    custom_metrics,
    fields::Writer,
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
        request::Request,
    },
    registry::Kind,
    selector::{FieldSelector, LabelSelector, Selector},
    server::Server,
    store::Key,
};

/// What a request is about, found.
struct Call<'a> {
    server: &'a Arc<Server>,
    request: &'a Request,
    kind: Arc<Kind>,
    key: Key,
}

/// Answers a request that may be made.
pub async fn dispatch(server: &Arc<Server>, request: &Request) -> Result<Answer> {
    let target = &request.target;
    if target.resource.is_empty() {
        return discovery::answer(server, request);
    }
    let kinds = server.registry.kinds();
    if target.group == custom_metrics::GROUP
        && server.options.custom_metrics
        && custom_metrics::VERSIONS.contains(&target.version.as_str())
    {
        return server
            .custom_metrics
            .answer(request, &kinds, &server.store.lock())
            .map(|list| answer::json(&list));
    }
    if review::is(target) {
        return review::answer(server, request);
    }
    let kind = kinds.get(&target.group, &target.version, &target.resource).ok_or_else(|| {
        match kinds.is_built_in(&target.group, &target.version) {
            true => Failure::no_such_resource(),
            false => Failure::no_such_path(),
        }
    })?;
    let namespace = if kind.namespaced { target.namespace.clone() } else { String::new() };
    if kind.namespaced && namespace.is_empty() && !matches!(target.verb, "list" | "watch") {
        return Err(if target.name.is_empty() {
            Failure::method_not_allowed()
        } else {
            Failure::no_such_path()
        });
    }
    let key = Key::new(namespace, target.name.as_str());
    let call = Call { server, request, kind, key };
    options::check(&call)?;
    match (target.subresource.as_str(), target.verb) {
        ("", "get") => read::get(&call),
        ("", "list") => list::list(&call),
        ("", "watch") => watch::watch(&call),
        ("", "create") if target.name.is_empty() => create::create(&call),
        ("", "update") => update::replace(&call, update::Part::Main),
        ("", "patch") => patch::patch(&call, update::Part::Main),
        ("", "delete") => delete::delete(&call),
        ("", "deletecollection") => delete::delete_collection(&call),
        ("status", "get") if call.kind.status => read::get(&call),
        ("status", "update") if call.kind.status => update::replace(&call, update::Part::Status),
        ("status", "patch") if call.kind.status => patch::patch(&call, update::Part::Status),
        ("scale", "get") => scale::get(&call),
        ("scale", "update") => scale::replace(&call),
        ("scale", "patch") => scale::patch(&call),
        ("binding", "create") if call.kind.is("", "pods") => update::bind(&call),
        ("token", "create") if call.kind.is("", "serviceaccounts") => review::token(&call),
        ("" | "status" | "scale" | "binding" | "token", _) => Err(Failure::method_not_allowed()),
        _ if call.kind.custom => Err(Failure::no_such_path()),
        _ => Err(Failure::no_such_resource()),
    }
}

// === impl Call ===

impl Call<'_> {
    /// What a list or watch takes.
    fn selector(&self) -> Result<Selector> {
        let query = &self.request.query;
        Ok(Selector {
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default(), &self.kind)?,
        })
    }

    /// Who writes.
    fn writer(&self) -> Writer<'_> {
        Writer {
            manager: self.request.manager(),
            version: self.kind.api_version(),
            subresource: &self.request.target.subresource,
            applies: self.request.applies(),
        }
    }

    /// Whether nothing is to be written.
    fn dry(&self) -> bool {
        self.request.query.get("dryRun").is_some()
    }
}
