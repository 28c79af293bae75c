//! A resource that records the bytes of each connection and answers as the case says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::case::{Answer, cut};
use crate::testing::message::{Message, Parsed};

/// Lets the other end read what was sent so far by itself. A message that is read in one piece nevertheless is no failure.
pub(super) async fn pause() {
    #[expect(clippy::disallowed_methods, reason = "nothing signals that the other end has read")]
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The resource.
pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    recording: Mutex<Recording>,
    /// Changes with every byte, answer and end.
    activity: watch::Sender<u64>,
}

#[derive(Default)]
struct Recording {
    /// The number of the case.
    case: u64,
    answers: Vec<Answer>,
    /// How many requests were answered.
    answered: usize,
    /// How many answers are being written.
    writing: usize,
    connections: JoinSet<()>,
    recorded: Recorded,
}

/// What came during a case.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// Whole requests, in the order of arrival.
    pub(super) requests: Vec<Message>,
    /// Requests that ended before their end.
    pub(super) partial: Vec<Message>,
    /// What must not have come.
    pub(super) faults: Vec<String>,
}

// === impl Recorder ===

impl Recorder {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let mut recording = serving.recording.lock().unwrap();
                let connection = serve(serving.clone(), recording.case, stream);
                recording.connections.spawn(connection);
            }
        });
        Self { address, shared }
    }

    /// Closes all connections, and begins a case with these answers.
    pub(super) fn begin(&self, answers: Vec<Answer>) {
        let mut recording = self.shared.recording.lock().unwrap();
        let case = recording.case + 1;
        *recording = Recording { case, answers, ..Recording::default() };
    }

    /// What came.
    pub(super) fn end(&self) -> Recorded {
        self.shared.recording.lock().unwrap().recorded.clone()
    }

    /// Whether the request of this number is HEAD.
    pub(super) fn is_head(&self, number: usize) -> bool {
        let recording = self.shared.recording.lock().unwrap();
        recording.recorded.requests.get(number).is_some_and(|request| request.start.starts_with(b"HEAD "))
    }

    /// Changes with whatever happens here.
    pub(super) fn activity(&self) -> u64 {
        *self.shared.activity.borrow()
    }

    /// Returns when no answer is being written.
    pub(super) async fn wait_until_written(&self) {
        let mut activity = self.shared.activity.subscribe();
        // The sender is this one's own.
        let _ = activity.wait_for(|_| self.shared.recording.lock().unwrap().writing == 0).await;
    }
}

// === impl Shared ===

impl Shared {
    /// Records something of a case, unless the case is over.
    fn record<T>(&self, case: u64, what: impl FnOnce(&mut Recording) -> T) -> Option<T> {
        let mut recording = self.recording.lock().unwrap();
        let result = (recording.case == case).then(|| what(&mut recording));
        drop(recording);
        self.activity.send_modify(|count| *count += 1);
        result
    }
}

async fn serve(shared: Arc<Shared>, case: u64, mut stream: TcpStream) {
    let mut bytes = Vec::new();
    // Bytes followed an answer, or it had no end: the next request must not come here.
    let mut spoiled = None;
    // Whether the request had its answer before its body came.
    let mut early = false;
    loop {
        if let (Some(why), false) = (spoiled, bytes.is_empty()) {
            let fault =
                format!("a connection was used again after an answer {why}: {}", bytes.escape_ascii());
            shared.record(case, |recording| recording.recorded.faults.push(fault));
            return;
        }
        let ended = match Message::parse(&bytes, false, false) {
            Ok(Parsed::Whole(len, message)) => {
                let first: Vec<_> = bytes.drain(..len).collect();
                let answer = shared
                    .record(case, |recording| recording.arrived(message.clone(), std::mem::take(&mut early)));
                let Some(answer) = answer else { return };
                if let Some(answer) = answer {
                    let mut answer = answer;
                    spoiled = why_spoiled(&answer, first.starts_with(b"HEAD "));
                    if spoiled.is_some() {
                        // What follows comes with the end: a request that has gone before it came is no fault.
                        answer.pieces = None;
                    }
                    if !write(&shared, case, &mut stream, &answer).await {
                        return;
                    }
                }
                continue;
            }
            Ok(Parsed::Head(_)) if !early => {
                let answer = shared.record(case, Recording::early).flatten();
                if let Some(answer) = answer {
                    early = true;
                    if !write(&shared, case, &mut stream, &answer).await {
                        return;
                    }
                }
                read(&shared, case, &mut stream, &mut bytes).await
            }
            Ok(_) => read(&shared, case, &mut stream, &mut bytes).await,
            Err(why) => {
                let fault = format!(
                    "the resource got bytes that two parsers could read differently ({why}): {}",
                    bytes.escape_ascii()
                );
                shared.record(case, |recording| recording.recorded.faults.push(fault));
                return;
            }
        };
        if ended {
            if let Ok(Parsed::Head(message)) = Message::parse(&bytes, false, false) {
                shared.record(case, |recording| recording.recorded.partial.push(message));
            }
            return;
        }
    }
}

/// Reads more. Whether the connection has ended.
async fn read(shared: &Shared, case: u64, stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let ended = stream.read_buf(bytes).await.unwrap_or(0) == 0;
    shared.record(case, |_| ());
    ended
}

/// Writes an answer. Whether the connection goes on.
async fn write(shared: &Shared, case: u64, stream: &mut TcpStream, answer: &Answer) -> bool {
    let first = match answer.late {
        true => answer.bytes(),
        false => [answer.bytes(), answer.after.clone()].concat(),
    };
    let mut pieces = cut(&first, answer.pieces);
    if answer.late {
        pieces.push(&answer.after);
    }
    for (number, piece) in pieces.into_iter().enumerate() {
        if number > 0 {
            pause().await;
        }
        // An error: the other end wants no more of it.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    if answer.closes {
        let _ = stream.shutdown().await;
        // A close with unread bytes would be a reset, which may take the answer away.
        let mut scrap = Vec::new();
        shared.record(case, |recording| recording.writing -= 1);
        let _ = stream.read_to_end(&mut scrap).await;
        return false;
    }
    shared.record(case, |recording| recording.writing -= 1);
    true
}

/// Why a connection cannot be used again after an answer. An answer that is ambiguous is no reason: it may be refused, or
/// read in the one way that the other end knows.
fn why_spoiled(answer: &Answer, is_head: bool) -> Option<&'static str> {
    let bytes = answer.bytes();
    match Message::parse(&bytes, is_head, false) {
        Ok(Parsed::Whole(len, _)) if len < bytes.len() || !answer.after.is_empty() => {
            Some("with bytes behind it")
        }
        Ok(Parsed::Head(_)) if !answer.closes => Some("without an end"),
        _ => None,
    }
}

// === impl Recording ===

impl Recording {
    /// A whole request has come. Its answer, unless it had that before.
    fn arrived(&mut self, message: Message, early: bool) -> Option<Answer> {
        let is_head = message.start.starts_with(b"HEAD ");
        let number = self.answered;
        let answer = self.answers.get(number).map(|answer| answer.to(number));
        let answer = answer.unwrap_or_else(|| Answer::plain(number, is_head, &message.start));
        self.recorded.requests.push(message);
        if early {
            return None;
        }
        self.answered += 1;
        self.writing += 1;
        Some(answer)
    }

    /// The head of a request has come. Its answer, if that does not wait for the body.
    fn early(&mut self) -> Option<Answer> {
        let answer = self.answers.get(self.answered).filter(|answer| answer.early)?.to(self.answered);
        self.answered += 1;
        self.writing += 1;
        Some(answer)
    }
}
