//! What a request meets, in this order: who is it, is it counted, has a test ordered a fault, may he, what does he ask for.

use std::sync::Arc;

use http::{Request as HttpRequest, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::{
    access::{Tokens, User, rbac},
    api,
    custom_metrics::CustomMetrics,
    faults::{Faults, Ordered},
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
        query::Query,
        request::{Request, Target},
    },
    options::Options,
    registry::Registry,
    requests::Requests,
    store::Store,
};

/// What the real server takes at most (etcd's limit and some room).
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// The server's parts.
#[derive(Debug)]
pub struct Server {
    /// The objects.
    pub store: Store,
    /// Their kinds.
    pub registry: Registry,
    /// Who may come.
    pub tokens: Tokens,
    /// What a test has ordered to go wrong.
    pub faults: Arc<Faults>,
    /// What was asked so far.
    pub requests: Arc<Requests>,
    /// What the custom metrics API answers.
    pub custom_metrics: Arc<CustomMetrics>,
    /// As it was started.
    pub options: Options,
}

/// The path's first part where it is a token: kubectl sends no `Authorization` over plain HTTP, but keeps to the path of its server's URL.
#[derive(Debug)]
struct TokenInPath<'a>(&'a str);

// === impl TokenInPath ===

impl<'a> TokenInPath<'a> {
    /// `/token/TOKEN/api/v1` is the token and `/api/v1`.
    fn split(path: &'a str) -> (Option<Self>, &'a str) {
        let Some(rest) = path.strip_prefix("/token/") else { return (None, path) };
        match rest.find('/') {
            Some(end) => (Some(Self(&rest[..end])), &rest[end..]),
            None => (Some(Self(rest)), "/"),
        }
    }
}

// === impl Server ===

impl Server {
    /// Answers a request.
    pub async fn answer(self: Arc<Self>, request: HttpRequest<Incoming>) -> Answer {
        match self.handle(request).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::debug!(%failure, "refused");
                answer::failure(&failure)
            }
        }
    }

    async fn handle(self: Arc<Self>, request: HttpRequest<Incoming>) -> Result<Answer> {
        let (head, body) = request.into_parts();
        let bearer = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let (prefix, path) = TokenInPath::split(head.uri.path());
        let token = bearer.or(prefix.as_ref().map(|prefix| prefix.0));
        let mut user = token.and_then(|token| self.tokens.user(token)).ok_or_else(Failure::unauthorized)?;
        // `kubectl --as`: who may do everything may do it in another's name.
        if let Some(name) = head.headers.get("impersonate-user").and_then(|name| name.to_str().ok())
            && user == User::Admin
        {
            user = User::named(name);
        }
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let target = Target::parse(&head.method, path, &query);
        self.requests.count(&user, &target);
        self.ordered(&user, &target).await?;
        if !self.options.no_rbac {
            rbac::check(&self.store.lock(), &user, &target, path)
                .inspect_err(|_| self.requests.count_forbidden(&user, &target))?;
        }
        let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        // The version of a JSON text that a client would rather have, a table for instance, is its wish only.
        if !["json", "*/*", "application/*", "openapi"].iter().any(|known| accept.contains(known)) {
            return Err(Failure::not_acceptable());
        }
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::too_large_entity(&format!("limit is {BODY_LIMIT}")),
            false => Failure::bad_request(format!("reading the body: {error}")),
        });
        let body = body?.to_bytes();
        let request =
            Request::new(user, target, query, path.to_owned(), head.method.clone(), &head.headers, body);
        tracing::trace!(user = %request.user, method = %request.method, path = %request.path, "request");
        api::dispatch(&self, &request).await
    }

    /// What a test has ordered to go wrong with such requests.
    async fn ordered(&self, user: &User, target: &Target) -> Result<()> {
        match self.faults.meet(user, target).await {
            Ordered::Nothing => Ok(()),
            Ordered::Refuse(failure) => Err(failure),
        }
    }
}
