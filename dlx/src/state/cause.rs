//! The cause of a wake: the first request that was held for the resource.

use std::fmt;

/// How many characters of a client's text are kept: a request's head may be long.
const MAX_LENGTH: usize = 256;

/// The reason of a wake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WakeCause {
    /// An HTTP request.
    Request {
        /// The client's address, as far as it is known.
        client: String,
        /// Its method.
        method: String,
        /// The host that it names.
        host: String,
        /// Its path, without the query.
        path: String,
    },
    /// A TCP connection.
    Connection {
        /// The client's address.
        client: String,
        /// The DLX's port.
        port: u16,
    },
    /// `POST /api/v1/wake` on the admin port.
    Command {
        /// The client's address.
        client: String,
    },
}

// === impl WakeCause ===

impl WakeCause {
    /// A request. The query of `target` is left out: it may hold secrets.
    pub(crate) fn request(client: String, method: &str, host: &str, target: &str) -> Self {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let [method, host, path] = [method, host, path].map(shortened);
        Self::Request { client, method, host, path }
    }

    /// In one word, for the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Request { .. } => "request",
            Self::Connection { .. } => "connection",
            Self::Command { .. } => "command",
        }
    }

    /// The client's address.
    pub(crate) fn client(&self) -> &str {
        match self {
            Self::Request { client, .. } | Self::Connection { client, .. } | Self::Command { client } => {
                client
            }
        }
    }
}

impl fmt::Display for WakeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { client, host, .. } => write!(f, "a request for host {host:?} from {client}"),
            Self::Connection { client, port } => write!(f, "a connection to port {port} from {client}"),
            Self::Command { client } => write!(f, "the command wake from {client}"),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_request_is_short_and_has_no_query() {
        let cause = WakeCause::request("10.0.0.9".to_owned(), "GET", "shop.example", "/cart?token=secret");
        let WakeCause::Request { path, .. } = &cause else { panic!("{cause:?}") };
        assert_eq!(path, "/cart");
        assert_eq!(cause.to_string(), "a request for host \"shop.example\" from 10.0.0.9");
        let long = "ä".repeat(300);
        let WakeCause::Request { path, .. } = WakeCause::request(String::new(), "GET", "a", &long) else {
            panic!()
        };
        assert_eq!(path, format!("{}..", "ä".repeat(256)));
    }
}
