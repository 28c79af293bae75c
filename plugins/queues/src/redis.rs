//! `redis://[host][:6379]/DB/KEY`, `rediss://`: the length of a list, or what a stream's group has before it (`?group=NAME`).

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::join_all;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use scaler_types::{QueueError, QueueReading};
use tokio::{
    io::{AsyncBufRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::{BrokerCredentials, QueuesSection},
    connection::{BrokerClient, BrokerClients, BrokerConnection, BrokerProtocol},
    kind::{QueueKind, Reading, group_by},
    rate::Rates,
    resp::{RedisValue, append_command, read_value},
    uri::{Broker, Uri, decode},
};

/// The largest file with a user's name or a password.
const MAX_SECRET: u64 = 64 * 1024;

/// A list, or a stream with a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RedisKey {
    broker: Broker,
    request: RedisRequest,
}

/// What is asked about one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RedisRequest {
    database: u32,
    key: String,
    group: Option<String>,
}

/// All keys that are read.
#[derive(Default)]
pub(crate) struct RedisKeys {
    clients: BrokerClients<Broker, Redis>,
    rates: Mutex<Rates<RedisKey>>,
    /// Streams of which it was logged that their lag is unknown.
    without_lag: Mutex<HashSet<RedisKey>>,
}

/// One Redis.
struct Redis {
    broker: Broker,
    credentials: BrokerCredentials,
}

/// What Redis says about one key: not more of an answer than is used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RedisAnswer {
    Length(u64),
    /// None: the stream has no such group.
    Group(Option<GroupInfo>),
    Refused(String),
    Unexpected,
}

/// What a stream says of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct GroupInfo {
    pending: Option<u64>,
    lag: Option<u64>,
    entries_read: Option<u64>,
}

// === impl RedisKeys ===

impl QueueKind for RedisKeys {
    const SCHEMES: &'static [&'static str] = &["redis", "rediss"];

    type Queue = RedisKey;

    fn parse(uri: &Uri, section: &QueuesSection) -> Result<RedisKey, QueueError> {
        let scheme = if uri.scheme == "rediss" { "rediss" } else { "redis" };
        let group = uri.parameter("group")?.map(str::to_owned);
        let (database, key) = uri.path.split_once('/').unwrap_or_default();
        let is_number =
            (1..=4).contains(&database.len()) && database.bytes().all(|byte| byte.is_ascii_digit());
        let key = decode(key).filter(|key| is_number && !key.is_empty());
        let (Ok(database), Some(key)) = (database.parse(), key) else {
            return Err(QueueError::Invalid(format!(
                "not a Redis key, expected {scheme}://HOST[:6379]/DB/KEY, where DB is the database's number, mostly 0, and for \
                 a stream ?group=NAME after it"
            )));
        };
        let mut broker = uri.broker(scheme);
        if broker.host.is_empty() {
            "localhost".clone_into(&mut broker.host);
        }
        section.allowed_hosts.check_broker(&broker)?;
        Ok(RedisKey { broker, request: RedisRequest { database, key, group } })
    }

    async fn read(&self, keys: Vec<RedisKey>, section: &QueuesSection) -> Vec<(RedisKey, Reading)> {
        let brokers = group_by(keys, |key| key.broker.clone());
        let reads = brokers.into_iter().map(|(broker, mut keys)| async move {
            // The database is chosen once for all its keys.
            keys.sort_by_key(|key| key.request.database);
            let client = self.clients.get(&broker, || {
                let protocol = Redis { broker: broker.clone(), credentials: section.credentials(&broker) };
                BrokerClient::new(broker.to_string(), protocol)
            });
            let answers = client.ask(keys.iter().map(|key| key.request.clone()).collect()).await;
            let now = Instant::now();
            let readings = keys.into_iter().zip(answers).map(|(key, answer)| {
                let reading = answer.and_then(|answer| self.reading(&key, answer, now));
                (key, reading)
            });
            readings.collect::<Vec<_>>()
        });
        join_all(reads).await.into_iter().flatten().collect()
    }
}

impl RedisKeys {
    fn reading(&self, key: &RedisKey, answer: RedisAnswer, now: Instant) -> Reading {
        let RedisRequest { key: name, group, .. } = &key.request;
        match answer {
            // Redis removes an empty list, and has none of the jobs that were taken.
            RedisAnswer::Length(length) => {
                Ok(QueueReading { waiting: Some(length), delayed: Some(0), ..QueueReading::default() })
            }
            RedisAnswer::Group(Some(info)) => {
                self.note_lag(key, &info);
                let total = info.entries_read.zip(info.lag).map(|(read, lag)| read.saturating_add(lag));
                let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(QueueReading {
                    waiting: info.lag,
                    in_flight: info.pending,
                    delayed: Some(0),
                    arriving_per_minute: total.and_then(|total| rates.note(key, total, now)),
                    ..QueueReading::default()
                })
            }
            RedisAnswer::Group(None) => Err(QueueError::NotFound(format!(
                "the stream {name:?} has no group {:?}; a worker makes it with XGROUP CREATE",
                group.as_deref().unwrap_or_default()
            ))),
            RedisAnswer::Refused(text) => Err(refusal(key, &text)),
            RedisAnswer::Unexpected => Err(QueueError::Unavailable(format!(
                "{} answered something else than was asked for",
                key.broker
            ))),
        }
    }

    /// Logs once that a stream's lag is unknown.
    fn note_lag(&self, key: &RedisKey, info: &GroupInfo) {
        let mut without_lag = self.without_lag.lock().unwrap_or_else(PoisonError::into_inner);
        if info.lag.is_some() {
            without_lag.remove(key);
        } else if without_lag.insert(key.clone()) {
            let RedisRequest { key: stream, group, .. } = &key.request;
            tracing::warn!(
                broker = %key.broker,
                stream,
                group = group.as_deref().unwrap_or_default(),
                "received no lag of the stream's group: how many messages wait is unknown, and its workers are neither woken nor \
                 scaled down; Redis has it since version 7, unless messages that were not read are deleted"
            );
        }
    }
}

/// Why Redis refuses to say something about a key.
fn refusal(key: &RedisKey, text: &str) -> QueueError {
    let RedisKey { broker, request: RedisRequest { key: name, database, group } } = key;
    match text.split(' ').next().unwrap_or_default() {
        "WRONGTYPE" if group.is_none() => QueueError::Invalid(format!(
            "{name:?} is no list in Redis; for a stream expected ?group=NAME after it"
        )),
        "WRONGTYPE" => {
            QueueError::Invalid(format!("{name:?} is no stream in Redis; for a list leave ?group= out"))
        }
        "NOPERM" | "NOAUTH" => denied(broker, &format!("it does not let this user read {name:?} ({text})")),
        "MOVED" | "ASK" => QueueError::Invalid(format!(
            "{name:?} is on another node of this Redis Cluster ({text}): name that node"
        )),
        _ if text.contains("no such key") => {
            QueueError::NotFound(format!("Redis has no stream {name:?} in database {database}"))
        }
        _ if text.contains("DB index") => QueueError::Invalid(format!("{broker} has no database {database}")),
        _ => QueueError::Unavailable(format!("{broker} answered: {text}")),
    }
}

fn denied(broker: &Broker, what: &str) -> QueueError {
    QueueError::Denied(format!(
        "{broker} refused the credentials: {what}; the operator sets them in the namespace file, as in \
         metricSources.queues.credentials: {{\"{broker}\": {{usernameFile: FILE, passwordFile: FILE}}}}"
    ))
}

// === impl RedisAnswer ===

impl RedisAnswer {
    fn parse(value: RedisValue, request: &RedisRequest) -> Self {
        match (value, &request.group) {
            (RedisValue::Error(text), _) => Self::Refused(text),
            (RedisValue::Integer(length), None) => {
                u64::try_from(length).map_or(Self::Unexpected, Self::Length)
            }
            (RedisValue::List(groups), Some(group)) => {
                Self::Group(groups.iter().find_map(|info| GroupInfo::parse(info, group)))
            }
            _ => Self::Unexpected,
        }
    }
}

// === impl GroupInfo ===

impl GroupInfo {
    /// Reads a list of names and values. None: it is another group.
    fn parse(value: &RedisValue, group: &str) -> Option<Self> {
        let RedisValue::List(parts) = value else { return None };
        let field = |name: &str| {
            let mut pairs = parts.chunks_exact(2);
            pairs
                .find(|pair| matches!(&pair[0], RedisValue::Text(text) if text == name.as_bytes()))
                .map(|pair| &pair[1])
        };
        let number = |name: &str| match field(name) {
            Some(RedisValue::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let is_it = matches!(field("name"), Some(RedisValue::Text(name)) if name == group.as_bytes());
        is_it.then(|| Self {
            pending: number("pending"),
            lag: number("lag"),
            entries_read: number("entries-read"),
        })
    }
}

// === impl Redis ===

impl BrokerProtocol for Redis {
    type Request = RedisRequest;
    type Answer = RedisAnswer;

    async fn open(&self) -> Result<BrokerConnection, QueueError> {
        let broker = &self.broker;
        let failed = |error: io::Error| QueueError::Unavailable(format!("connecting to {broker}: {error}"));
        let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut connection = if broker.scheme == "rediss" {
            let name = ServerName::try_from(broker.host.clone()).map_err(|_| {
                QueueError::Invalid(format!("{} is no name that a certificate can have", broker.host))
            })?;
            let stream = TlsConnector::from(self.tls().await?).connect(name, stream).await.map_err(failed)?;
            BrokerConnection::new(stream)
        } else {
            BrokerConnection::new(stream)
        };
        let mut login = Vec::new();
        if let Some(file) = &self.credentials.password_file {
            let password = read_secret(file).await?;
            match &self.credentials.username_file {
                Some(file) => append_command(&mut login, &[b"AUTH", &read_secret(file).await?, &password]),
                None => append_command(&mut login, &[b"AUTH", &password]),
            }
        }
        let has_password = !login.is_empty();
        append_command(&mut login, &[b"PING"]);
        connection.writer.write_all(&login).await.map_err(failed)?;
        connection.writer.flush().await.map_err(failed)?;
        if has_password
            && let RedisValue::Error(text) = read_value(&mut connection.reader).await.map_err(failed)?
        {
            // Its text might have the password in it.
            let what = if text.starts_with("WRONGPASS") {
                "wrong user or password"
            } else {
                "it did not take the password"
            };
            return Err(denied(broker, what));
        }
        match read_value(&mut connection.reader).await.map_err(failed)? {
            RedisValue::Error(text) if text.starts_with("NOAUTH") => {
                Err(denied(broker, "it requires a password"))
            }
            // A user may be allowed nothing but to read queues.
            RedisValue::Error(text) if !text.starts_with("NOPERM") => {
                Err(QueueError::Unavailable(format!("{broker} answered: {text}")))
            }
            RedisValue::Text(_) | RedisValue::Error(_) => Ok(connection),
            _ => Err(QueueError::Unavailable(format!(
                "{broker} is no Redis: it did not answer PING with PONG"
            ))),
        }
    }

    fn encode(requests: &[RedisRequest]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chosen = None;
        for request in requests {
            if chosen.replace(request.database) != Some(request.database) {
                append_command(&mut bytes, &[b"SELECT", request.database.to_string().as_bytes()]);
            }
            match request.group {
                Some(_) => append_command(&mut bytes, &[b"XINFO", b"GROUPS", request.key.as_bytes()]),
                None => append_command(&mut bytes, &[b"LLEN", request.key.as_bytes()]),
            }
        }
        bytes
    }

    async fn read_answers(
        reader: &mut (impl AsyncBufRead + Unpin + Send),
        requests: &[RedisRequest],
        answers: &mut Vec<Result<RedisAnswer, QueueError>>,
    ) -> io::Result<()> {
        let mut chosen = None;
        let mut refused = None;
        for request in requests {
            if chosen.replace(request.database) != Some(request.database) {
                refused = match read_value(reader).await? {
                    RedisValue::Error(text) => Some(RedisAnswer::Refused(text)),
                    _ => None,
                };
            }
            let answer = RedisAnswer::parse(read_value(reader).await?, request);
            // Without its database the answer is about a key of another one.
            answers.push(Ok(refused.clone().unwrap_or(answer)));
        }
        Ok(())
    }

    fn credentials_version(&self) -> u64 {
        self.credentials.version()
    }
}

impl Redis {
    /// Certificates are checked against `caFile`, else against the machine's.
    async fn tls(&self) -> Result<Arc<ClientConfig>, QueueError> {
        let file = self.credentials.ca_file.clone();
        let roots = tokio::task::spawn_blocking(move || {
            let mut roots = RootCertStore::empty();
            match file {
                Some(file) => {
                    let failed =
                        |what: &dyn std::fmt::Display| format!("reading caFile {}: {what}", file.display());
                    let certificates =
                        CertificateDer::pem_file_iter(&file).map_err(|error| failed(&error))?;
                    for certificate in certificates {
                        let certificate = certificate.map_err(|error| failed(&error))?;
                        roots.add(certificate).map_err(|error| failed(&error))?;
                    }
                }
                None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
            }
            Ok(roots)
        });
        let roots = match roots.await {
            Ok(roots) => roots.map_err(QueueError::Unavailable)?,
            Err(error) => return Err(QueueError::Unavailable(format!("reading certificates: {error}"))),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| QueueError::Unavailable(format!("setting up TLS: {error}")))?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// Reads a user's name or a password, without the line's end after it.
async fn read_secret(file: &std::path::Path) -> Result<Vec<u8>, QueueError> {
    let read = async {
        let mut secret = Vec::new();
        tokio::fs::File::open(file).await?.take(MAX_SECRET).read_to_end(&mut secret).await?;
        io::Result::Ok(secret)
    };
    let mut secret = read.await.map_err(|error| {
        QueueError::Unavailable(format!(
            "reading {} (metricSources.queues.credentials): {error}",
            file.display()
        ))
    })?;
    while secret.last().is_some_and(|last| b"\r\n".contains(last)) {
        secret.pop();
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn parse(uri: &str) -> Result<RedisKey, QueueError> {
        let section = serde_yaml::from_str("{allowedHosts: [broker, localhost]}").unwrap();
        RedisKeys::parse(&Uri::parse(uri).unwrap(), &section)
    }

    fn reading(key: &str, answer: &str) -> Reading {
        let value = read_value(&mut answer.as_bytes()).now_or_never().unwrap().unwrap();
        let key = parse(key).unwrap();
        RedisKeys::default().reading(&key, RedisAnswer::parse(value, &key.request), Instant::now())
    }

    #[test]
    fn a_uri_names_database_key_and_group() {
        let key = parse("redis:///3/a%20b/c?group=w").unwrap();
        assert_eq!(key.broker.to_string(), "localhost:6379");
        let request = RedisRequest { database: 3, key: "a b/c".to_owned(), group: Some("w".to_owned()) };
        assert_eq!(key.request, request);
        for uri in [
            "redis://broker",
            "redis://broker/jobs",
            "redis://broker/0/",
            "redis://broker/0",
            "redis://broker/x/jobs",
            "redis://broker/-1/jobs",
            "redis://broker/99999/jobs",
            "redis://broker/0/%ff",
            "redis://broker/0/jobs?group=",
            "redis://broker/0/jobs?groups=a",
            "redis://broker/0/jobs?group=a&group=b",
        ] {
            assert!(matches!(parse(uri), Err(QueueError::Invalid(_))), "{uri}");
        }
        assert!(matches!(parse("redis://other/0/jobs"), Err(QueueError::Denied(_))));
    }

    #[test]
    fn a_list_does_not_show_what_is_in_flight() {
        let expected = QueueReading { waiting: Some(7), delayed: Some(0), ..QueueReading::default() };
        assert_eq!(reading("redis://broker/0/jobs", ":7\r\n"), Ok(expected));
        assert!(reading("redis://broker/0/jobs", ":-7\r\n").is_err());
        assert!(reading("redis://broker/0/jobs", "$-1\r\n").is_err());
    }

    #[test]
    fn a_group_without_lag_is_unknown_not_idle() {
        let stream = "redis://broker/0/jobs?group=w";
        let group = |rest: &str, fields: u32| {
            format!(
                "*2\r\n*4\r\n+name\r\n$1\r\nv\r\n+pending\r\n:9\r\n*{fields}\r\n+name\r\n$1\r\nw\r\n+pending\r\n:2\r\n{rest}"
            )
        };
        let read = |rest, fields| reading(stream, &group(rest, fields)).unwrap();
        // Redis 6 has none, Redis 7 may not know it.
        for (rest, fields, waiting) in
            [("", 4, None), ("+lag\r\n$-1\r\n", 6, None), ("+lag\r\n:5\r\n", 6, Some(5))]
        {
            let reading = read(rest, fields);
            assert_eq!((reading.waiting, reading.in_flight), (waiting, Some(2)), "{rest:?}");
        }
        let error = reading("redis://broker/0/jobs?group=x", &group("", 4)).unwrap_err();
        assert!(matches!(error, QueueError::NotFound(_)), "{error}");
    }

    #[test]
    fn a_refusal_says_what_to_change() {
        for (answer, expected) in [
            (
                "-WRONGTYPE Operation\r\n",
                "\"jobs\" is no list in Redis; for a stream expected ?group=NAME after it",
            ),
            (
                "-MOVED 3999 127.0.0.1:6381\r\n",
                "\"jobs\" is on another node of this Redis Cluster (MOVED 3999 127.0.0.1:6381): name that node",
            ),
            ("-ERR DB index is out of range\r\n", "broker:6379 has no database 0"),
            ("-LOADING Redis is loading\r\n", "broker:6379 answered: LOADING Redis is loading"),
        ] {
            assert_eq!(reading("redis://broker/0/jobs", answer).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn without_its_database_no_key_is_read() {
        let request = |database| RedisRequest { database, key: "jobs".to_owned(), group: None };
        let requests = [request(0), request(0), request(99), request(99)];
        assert_eq!(String::from_utf8(Redis::encode(&requests)).unwrap().matches("SELECT").count(), 2);
        let mut answers = Vec::new();
        let mut bytes = "+OK\r\n:1\r\n:2\r\n-ERR DB index is out of range\r\n:3\r\n:4\r\n".as_bytes();
        Redis::read_answers(&mut bytes, &requests, &mut answers).now_or_never().unwrap().unwrap();
        let refused = Ok(RedisAnswer::Refused("ERR DB index is out of range".to_owned()));
        assert_eq!(
            answers,
            [Ok(RedisAnswer::Length(1)), Ok(RedisAnswer::Length(2)), refused.clone(), refused]
        );
    }
}
