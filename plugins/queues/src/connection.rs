//! One connection to a broker, on which all its queues are read: many requests, then their answers in the same order.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use scaler_types::{QueueError, backoff::Backoff};
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
        ReadHalf, WriteHalf,
    },
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

/// How long connecting and all answers of one exchange may take together.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read waits for a broker that has failed before: the other queues of that read wait with it.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// The pauses between attempts while a broker fails.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// A broker of which no queue was read for so long is forgotten, with its connection.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// What differs between brokers.
pub(crate) trait BrokerProtocol: Send + Sync + 'static {
    /// Asks for one queue.
    type Request: Send + Sync + 'static;
    /// What the broker says about it.
    type Answer: Send + 'static;

    /// Connects, logs in, and has the broker answer once.
    fn open(&self) -> impl Future<Output = Result<BrokerConnection, QueueError>> + Send;

    /// The bytes of these requests.
    fn encode(requests: &[Self::Request]) -> Vec<u8>;

    /// Reads their answers, and appends each as soon as it is there.
    fn read_answers(
        reader: &mut (impl AsyncBufRead + Unpin + Send),
        requests: &[Self::Request],
        answers: &mut Vec<Result<Self::Answer, QueueError>>,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// A number that is another one once the files with the credentials were changed: they are read again then.
    fn credentials_version(&self) -> u64 {
        0
    }
}

/// A stream to a broker, with or without TLS.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// An open connection.
pub(crate) struct BrokerConnection {
    pub(crate) reader: BufReader<ReadHalf<Box<dyn ByteStream>>>,
    pub(crate) writer: WriteHalf<Box<dyn ByteStream>>,
}

/// A broker that is asked over one connection.
pub(crate) struct BrokerClient<P> {
    protocol: P,
    /// `redis.shop:6379`
    name: String,
    /// Taken out during an exchange: what was cut off is not used again.
    connection: Arc<tokio::sync::Mutex<Option<BrokerConnection>>>,
    health: Mutex<Health>,
}

/// How the last attempts went.
struct Health {
    backoff: Backoff,
    failed: Option<Failed>,
    /// Of the credentials that the connection was opened with.
    credentials: u64,
}

#[derive(Clone)]
struct Failed {
    error: QueueError,
    next_attempt: Instant,
}

type UsedClient<P> = (Arc<BrokerClient<P>>, Instant);

/// The clients of all brokers of one protocol.
pub(crate) struct BrokerClients<K, P> {
    /// Each with when it was used last.
    clients: Mutex<HashMap<K, UsedClient<P>>>,
}

/// Reads a line that ends with CR LF, without these, of at most `limit` bytes.
pub(crate) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let read = reader.take(limit as u64).read_until(b'\n', &mut line).await?;
    if line.ends_with(b"\r\n") {
        line.truncate(read - 2);
        return Ok(line);
    }
    Err(if read >= limit {
        invalid_data(format!("it sent a line of more than {limit} bytes"))
    } else if line.ends_with(b"\n") {
        invalid_data("it sent a line that does not end with CR LF".to_owned())
    } else {
        closed()
    })
}

/// Reads so many bytes and the CR LF after them. The caller limits `length`.
pub(crate) async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    length: usize,
) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length + 2];
    reader
        .read_exact(&mut body)
        .await
        .map_err(|error| if error.kind() == io::ErrorKind::UnexpectedEof { closed() } else { error })?;
    if !body.ends_with(b"\r\n") {
        return Err(invalid_data("it sent more or less than it announced".to_owned()));
    }
    body.truncate(length);
    Ok(body)
}

/// The broker's answer breaks the protocol.
pub(crate) fn invalid_data(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")
}

/// Text of a broker for a message: short, and without control characters.
pub(crate) fn quote(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(100)]).escape_debug().to_string()
}

// === impl BrokerConnection ===

impl BrokerConnection {
    pub(crate) fn new(stream: impl ByteStream + 'static) -> Self {
        let (reader, writer) = tokio::io::split(Box::new(stream) as Box<dyn ByteStream>);
        Self { reader: BufReader::new(reader), writer }
    }

    /// Sends the requests while it reads the answers: a broker that waits for its answers to be read reads no requests.
    async fn exchange<P: BrokerProtocol>(
        &mut self,
        requests: &[P::Request],
        answers: &mut Vec<Result<P::Answer, QueueError>>,
    ) -> io::Result<()> {
        let send = async {
            self.writer.write_all(&P::encode(requests)).await?;
            self.writer.flush().await
        };
        tokio::try_join!(send, P::read_answers(&mut self.reader, requests, answers))?;
        if !self.reader.buffer().is_empty() {
            return Err(invalid_data("it sent more than was asked for".to_owned()));
        }
        Ok(())
    }
}

// === impl BrokerClient ===

impl<P: BrokerProtocol> BrokerClient<P> {
    pub(crate) fn new(name: String, protocol: P) -> Arc<Self> {
        let health = Mutex::new(Health { backoff: PAUSES, failed: None, credentials: 0 });
        Arc::new(Self { protocol, name, connection: Arc::default(), health })
    }

    /// Asks all, and answers for each in order. A broker that has failed is asked again only after a pause, or with other credentials.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        requests: Vec<P::Request>,
    ) -> Vec<Result<P::Answer, QueueError>> {
        let count = requests.len();
        let failed = self.failed();
        let turn = match &failed {
            None => Arc::clone(&self.connection).lock_owned().await,
            Some(failed) if !self.may_attempt(failed) => return refuse(&failed.error, count),
            Some(failed) => match Arc::clone(&self.connection).try_lock_owned() {
                Ok(turn) => turn,
                // An attempt is being made.
                Err(_) => return refuse(&failed.error, count),
            },
        };
        // While this one waited, another may have failed.
        if let Some(failed) = self.failed().filter(|failed| !self.may_attempt(failed)) {
            return refuse(&failed.error, count);
        }
        // A task: an attempt goes on when its caller no longer waits, and the next read has its result.
        let client = Arc::clone(self);
        let attempt = tokio::spawn(async move { client.attempt(turn, requests).await });
        let answers = match &failed {
            None => attempt.await,
            Some(failed) => match timeout(RECOVERY_TIMEOUT, attempt).await {
                Ok(answers) => answers,
                Err(_) => return refuse(&failed.error, count),
            },
        };
        answers.unwrap_or_else(|error| {
            refuse(&QueueError::Unavailable(format!("reading {} failed: {error}", self.name)), count)
        })
    }

    async fn attempt(
        &self,
        mut turn: OwnedMutexGuard<Option<BrokerConnection>>,
        requests: Vec<P::Request>,
    ) -> Vec<Result<P::Answer, QueueError>> {
        let mut answers = Vec::with_capacity(requests.len());
        let result = timeout(TIMEOUT, self.exchange(&mut turn, &requests, &mut answers)).await;
        let result = result.unwrap_or_else(|_| {
            Err(QueueError::Unavailable(format!(
                "{} did not answer within {} s",
                self.name,
                TIMEOUT.as_secs()
            )))
        });
        match result {
            Ok(()) => self.succeeded(),
            Err(error) => {
                self.note_failure(&error);
                answers.truncate(requests.len());
                answers.resize_with(requests.len(), || Err(error.clone()));
            }
        }
        answers
    }

    async fn exchange(
        &self,
        connection: &mut Option<BrokerConnection>,
        requests: &[P::Request],
        answers: &mut Vec<Result<P::Answer, QueueError>>,
    ) -> Result<(), QueueError> {
        let failed = |error: io::Error| QueueError::Unavailable(format!("reading {}: {error}", self.name));
        let credentials = self.protocol.credentials_version();
        let is_current = std::mem::replace(&mut self.health().credentials, credentials) == credentials;
        if let Some(mut open) = connection.take().filter(|_| is_current) {
            match open.exchange::<P>(requests, answers).await {
                Ok(()) => {
                    *connection = Some(open);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(failed(error)),
                // The broker was restarted, or closed a connection that was not used: asked again on a new one.
                Err(_) => answers.clear(),
            }
        }
        let mut open = self.protocol.open().await?;
        open.exchange::<P>(requests, answers).await.map_err(failed)?;
        *connection = Some(open);
        Ok(())
    }

    fn failed(&self) -> Option<Failed> {
        self.health().failed.clone()
    }

    fn may_attempt(&self, failed: &Failed) -> bool {
        Instant::now() >= failed.next_attempt
            || self.health().credentials != self.protocol.credentials_version()
    }

    fn succeeded(&self) {
        let mut health = self.health();
        health.backoff.reset();
        if health.failed.take().is_some() {
            tracing::info!(broker = self.name, "reached the broker again");
        }
    }

    fn note_failure(&self, error: &QueueError) {
        let mut health = self.health();
        let next_attempt = Instant::now() + health.backoff.next_pause();
        if health.failed.replace(Failed { error: error.clone(), next_attempt }).is_none() {
            tracing::warn!(broker = self.name, %error, "failed to read the broker's queues: they count as unknown until it answers");
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse<A>(error: &QueueError, count: usize) -> Vec<Result<A, QueueError>> {
    std::iter::repeat_with(|| Err(error.clone())).take(count).collect()
}

// === impl BrokerClients ===

impl<K, P> Default for BrokerClients<K, P> {
    fn default() -> Self {
        Self { clients: Mutex::default() }
    }
}

impl<K: Eq + std::hash::Hash + Clone, P: BrokerProtocol> BrokerClients<K, P> {
    /// The broker's client, made by `create` where there is none.
    pub(crate) fn get(
        &self,
        broker: &K,
        create: impl FnOnce() -> Arc<BrokerClient<P>>,
    ) -> Arc<BrokerClient<P>> {
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|other, (_, used)| other == broker || now.duration_since(*used) < FORGOTTEN_AFTER);
        let (client, used) = clients.entry(broker.clone()).or_insert_with(|| (create(), now));
        *used = now;
        Arc::clone(client)
    }
}
