//! Questions about access, and tokens.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::Call;
use crate::{
    access::{User, rbac},
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
        request::{Request, Target},
    },
    identity,
    server::Server,
    store::text,
};

/// Groups whose resources are questions: nothing of them is stored. Group, kind, plural, whether in a namespace.
pub(super) const REVIEWS: [(&str, &str, &str, bool); 4] = [
    ("authentication.k8s.io", "TokenReview", "tokenreviews", false),
    ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", false),
    ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    ("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
];

pub(super) fn is(target: &Target) -> bool {
    target.version == "v1"
        && REVIEWS.iter().any(|(group, _, plural, _)| target.group == *group && target.resource == *plural)
}

pub(super) fn answer(server: &Arc<Server>, request: &Request) -> Result<Answer> {
    if request.target.verb != "create" {
        return Err(Failure::method_not_allowed());
    }
    let mut review = request.json()?;
    let spec = review["spec"].clone();
    review["status"] = match request.target.resource.as_str() {
        "tokenreviews" => match server.tokens.user(text(&spec["token"])) {
            Some(user) => {
                json!({"authenticated": true, "user": {"username": user.to_string(), "groups": user.groups()}})
            }
            None => json!({"authenticated": false, "error": "[invalid bearer token]"}),
        },
        "selfsubjectaccessreviews" => access(server, &request.user, &spec),
        _ => access(server, &User::named(text(&spec["user"])), &spec),
    };
    review["metadata"] = json!({});
    Ok(answer::json_with(StatusCode::CREATED, review.to_string().into()))
}

fn access(server: &Server, user: &User, spec: &Value) -> Value {
    let asked = &spec["resourceAttributes"];
    let verbs =
        ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "use", "bind"];
    let wanted = text(&asked["verb"]);
    let verb = verbs.into_iter().find(|verb| *verb == wanted).unwrap_or("*");
    let target = Target {
        verb,
        group: text(&asked["group"]).to_owned(),
        version: text(&asked["version"]).to_owned(),
        resource: text(&asked["resource"]).to_owned(),
        namespace: text(&asked["namespace"]).to_owned(),
        name: text(&asked["name"]).to_owned(),
        subresource: text(&asked["subresource"]).to_owned(),
        ..Target::default()
    };
    let path = text(&spec["nonResourceAttributes"]["path"]);
    json!({"allowed": rbac::allowed(&server.store.lock(), user, &target, path)})
}

/// `serviceaccounts/token`: a token for the account.
pub(super) fn token(call: &Call<'_>) -> Result<Answer> {
    let mut review = call.request.json()?;
    let account = call.server.store.lock().get(&call.kind.table(), &call.key);
    account.ok_or_else(|| Failure::not_found(&call.kind, &call.key.name))?;
    let token = call.server.tokens.token(&User::service_account(&call.key.namespace, &call.key.name));
    if !review.is_object() {
        review = json!({});
    }
    review["kind"] = "TokenRequest".into();
    review["apiVersion"] = "authentication.k8s.io/v1".into();
    review["status"] = json!({"token": token, "expirationTimestamp": identity::after(3600)});
    Ok(answer::json_with(StatusCode::CREATED, review.to_string().into()))
}
