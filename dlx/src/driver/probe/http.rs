//! Probes by HTTP, as the kubelet does: any 2xx or 3xx is ready.

use http::{HeaderName, HeaderValue, header, uri::PathAndQuery};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::error::{InvalidProbe, ProbeError};

/// An answer's first line, and a little more.
const MAX_STATUS_LINE: usize = 256;

/// A request, ready to be sent.
pub(crate) struct HttpProbe {
    path: String,
    bytes: Vec<u8>,
}

// === impl HttpProbe ===

impl HttpProbe {
    /// Builds the request: `headers` take precedence over the default ones, and a `Host` among them over `address`.
    ///
    /// # Errors
    ///
    /// The path or a header is invalid.
    pub(crate) fn new(path: &str, headers: &[(String, String)], address: &str) -> Result<Self, InvalidProbe> {
        // Both types refuse line breaks.
        if !path.starts_with('/') || PathAndQuery::try_from(path).is_err() {
            return Err(InvalidProbe::Path(path.to_owned()));
        }
        let mut configured = Vec::new();
        for (name, value) in headers {
            let header = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()));
            let (Ok(name), Ok(value)) = header else {
                return Err(InvalidProbe::Header { name: name.clone(), value: value.clone() });
            };
            configured.push((name, value));
        }
        let usual = [(header::HOST, address), (header::USER_AGENT, "scaler-probe"), (header::ACCEPT, "*/*")];
        let mut bytes = format!("GET {path} HTTP/1.1\r\n").into_bytes();
        let mut line = |name: &HeaderName, value: &[u8]| {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        for (name, value) in usual {
            if !configured.iter().any(|(own, _)| *own == name) {
                line(&name, value.as_bytes());
            }
        }
        // One request per connection, whatever the headers say.
        for (name, value) in configured.iter().filter(|(name, _)| *name != header::CONNECTION) {
            line(name, value.as_bytes());
        }
        line(&header::CONNECTION, b"close");
        bytes.extend_from_slice(b"\r\n");
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Sends the request.
    ///
    /// # Errors
    ///
    /// It is not ready.
    pub(crate) async fn check(&self, mut stream: TcpStream) -> Result<(), ProbeError> {
        let path = &self.path;
        stream.write_all(&self.bytes).await?;
        let mut head = [0; MAX_STATUS_LINE];
        let mut len = 0;
        while len < head.len() && !head[..len].contains(&b'\n') {
            match stream.read(&mut head[len..]).await? {
                0 => break,
                n => len += n,
            }
        }
        // "HTTP/1.1 204 ..."
        let mut words = head[..len].split(|byte| *byte == b' ');
        match (words.next(), words.next()) {
            (Some(version), Some(status)) if version.starts_with(b"HTTP/1.") => {
                match status.trim_ascii_end() {
                    [b'2' | b'3', _, _] => Ok(()),
                    status => {
                        let status = String::from_utf8_lossy(status).into_owned();
                        Err(ProbeError::HttpStatus { path: path.clone(), status })
                    }
                }
            }
            _ => Err(ProbeError::NotHttp1(path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HttpProbe, InvalidProbe};

    fn request_text(path: &str, headers: &[(&str, &str)]) -> Result<String, InvalidProbe> {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let probe = HttpProbe::new(path, &headers, "10.0.0.1:80")?;
        Ok(String::from_utf8(probe.bytes).unwrap())
    }

    #[test]
    fn configured_headers_replace_the_defaults() {
        let usual = request_text("/ready?x=1", &[]).unwrap();
        assert_eq!(
            usual,
            "GET /ready?x=1 HTTP/1.1\r\nhost: 10.0.0.1:80\r\nuser-agent: scaler-probe\r\naccept: */*\r\nconnection: close\r\n\r\n"
        );
        let own = request_text("/", &[("Host", "shop.test"), ("X-Key", "a b"), ("Connection", "keep-alive")])
            .unwrap();
        assert_eq!(
            own,
            "GET / HTTP/1.1\r\nuser-agent: scaler-probe\r\naccept: */*\r\nhost: shop.test\r\nx-key: a b\r\nconnection: close\r\n\r\n"
        );
    }

    #[test]
    fn line_breaks_are_refused() {
        for (path, name, value) in [
            ("/\r\nX: y", "a", "b"),
            ("/ HTTP/1.0\r\n", "a", "b"),
            ("/a b", "a", "b"),
            ("ready", "a", "b"),
            ("/", "a\r\nb", "c"),
            ("/", "a b", "c"),
            ("/", "", "c"),
            ("/", "a", "b\r\nX: y"),
            ("/", "a", "b\nc"),
            ("/", "a", "b\0"),
        ] {
            assert!(request_text(path, &[(name, value)]).is_err(), "{path:?} {name:?} {value:?}");
        }
    }
}
