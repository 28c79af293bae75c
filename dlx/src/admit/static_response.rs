//! Matches requests with `staticResponses`: requests of monitors, which neither wake nor count.

use daemon::settings::{Settings, StaticResponseWhen};
use http::{Request, StatusCode, header};

use crate::state::ResourceHandle;

/// The DLX's response to a request that a static response matches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StaticAnswer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Whether it also holds while the resource is awake.
    pub(crate) when: StaticResponseWhen,
}

/// The answer of the first static response that matches the request, if one does.
pub(crate) fn static_answer(settings: &Settings, agent: Option<&[u8]>, path: &str) -> Option<StaticAnswer> {
    let rule = settings.static_responses.iter().find(|rule| {
        let begins = |prefix: &String| agent.is_some_and(|own| own.starts_with(prefix.as_bytes()));
        let names = rule.user_agent.is_some() || rule.path.is_some();
        names
            && rule.user_agent.as_ref().is_none_or(begins)
            && rule.path.as_ref().is_none_or(|own| own == path)
    })?;
    Some(StaticAnswer { status: StatusCode::from_u16(rule.status).ok()?, when: rule.when })
}

/// The same for a request whose head was read as a whole.
pub(crate) fn static_answer_to<B>(resource: &ResourceHandle, request: &Request<B>) -> Option<StaticAnswer> {
    let agent = request.headers().get(header::USER_AGENT);
    static_answer(
        &resource.snapshot.load().settings,
        agent.map(|agent| agent.as_bytes()),
        request.uri().path(),
    )
}
