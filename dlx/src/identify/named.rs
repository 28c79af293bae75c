//! Headers that name a resource. Only a trusted peer's count: otherwise a client could get past the rules of an ingress.

use daemon::settings::MultiTargetStrategy;
use http::{HeaderMap, Uri, uri::PathAndQuery};

use super::Identified;
use crate::{
    answer::ErrorResponse,
    state::{HostTable, PathHeader},
};

/// Finds the resource that the headers name; `Ok(None)` if they name none.
///
/// # Errors
///
/// They name an unknown resource (404), or cannot be understood (400).
pub(crate) fn find_by_headers(
    table: &HostTable,
    headers: &HeaderMap,
    uri: &Uri,
    default_namespace: Option<&str>,
    draw: impl FnOnce() -> bool,
) -> Result<Option<Identified>, ErrorResponse> {
    let Some((by, value)) = table.name_headers.iter().find_map(|by| Some((by, headers.get(&by.name)?)))
    else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| ErrorResponse::malformed(format!("{} is not text", by.name)))?;
    let find = |name: &str| {
        table.by_name(name.trim(), default_namespace).cloned().ok_or_else(|| {
            ErrorResponse::unknown_host(format!(
                "{} names {:?}, and no resource has that name",
                by.name,
                name.trim()
            ))
        })
    };
    let names: Vec<_> = value.split(',').collect();
    let resource = match names.as_slice() {
        [name] => find(name)?,
        [primary, canary] => {
            let (primary, canary) = (find(primary)?, find(canary)?);
            let strategy = primary.snapshot.load().settings.multi_target_strategy;
            let first = match strategy {
                MultiTargetStrategy::Primary => true,
                MultiTargetStrategy::Canary => false,
                MultiTargetStrategy::Random => draw(),
            };
            if first { primary } else { canary }
        }
        _ => {
            return Err(ErrorResponse::malformed(format!(
                "{} names {} resources; one or two are possible",
                by.name,
                names.len()
            )));
        }
    };
    let path = match &by.path {
        None => None,
        Some(PathHeader::Whole(header)) => match headers.get(header) {
            Some(value) => Some(path(header, value.as_bytes().to_vec())?),
            None => None,
        },
        Some(PathHeader::Prefix(header)) => match headers.get(header) {
            Some(prefix) => {
                let own = uri.path_and_query().map_or("/", PathAndQuery::as_str);
                let mut whole = prefix.as_bytes().to_vec();
                if whole.ends_with(b"/") {
                    whole.pop();
                }
                whole.extend_from_slice(own.as_bytes());
                Some(self::path(header, whole)?)
            }
            None => None,
        },
    };
    Ok(Some(Identified { resource, path }))
}

fn path(header: &http::HeaderName, whole: Vec<u8>) -> Result<PathAndQuery, ErrorResponse> {
    let malformed = || ErrorResponse::malformed(format!("{header} is not a path"));
    if whole.first() != Some(&b'/') {
        return Err(malformed());
    }
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(whole)).map_err(|_| malformed())
}
