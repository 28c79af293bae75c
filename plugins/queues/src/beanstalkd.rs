//! `beanstalkd://host[:11300]/tube`: what `stats-tube` says. A job is never reserved.

use std::{io, sync::Mutex};

use futures_util::future::join_all;
use scaler_types::{QueueError, QueueReading};
use tokio::{
    io::{AsyncBufRead, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    config::QueuesSection,
    connection::{
        BrokerClient, BrokerClients, BrokerConnection, BrokerProtocol, invalid_data, quote, read_body,
        read_line,
    },
    kind::{QueueKind, Reading, group_by},
    rate::Rates,
    uri::{Broker, Uri, decode},
};

/// beanstalkd's own limit of a tube's name.
const MAX_TUBE: usize = 200;
/// The longest line that it answers with: `USING` and a tube's name.
const MAX_LINE: usize = 256;
/// The statistics of a tube have about 400 bytes.
const MAX_BODY: usize = 16 * 1024;

/// A tube of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tube {
    broker: Broker,
    name: String,
}

/// All tubes that are read.
#[derive(Default)]
pub(crate) struct Tubes {
    clients: BrokerClients<Broker, Beanstalkd>,
    rates: Mutex<Rates<Tube>>,
}

/// One beanstalkd.
struct Beanstalkd(Broker);

/// What the statistics of a tube have; a value that is missing is none.
#[derive(Debug, Default, PartialEq, Eq)]
struct TubeStats {
    ready: Option<u64>,
    reserved: Option<u64>,
    delayed: Option<u64>,
    /// Connections that wait in `reserve`.
    waiting: Option<u64>,
    total: Option<u64>,
}

// === impl Tubes ===

impl QueueKind for Tubes {
    const SCHEMES: &'static [&'static str] = &["beanstalkd", "beanstalk"];

    type Queue = Tube;

    fn parse(uri: &Uri, section: &QueuesSection) -> Result<Tube, QueueError> {
        uri.no_parameters()?;
        let name = decode(&uri.path).unwrap_or_default();
        let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-+/;.$_()".contains(&byte);
        if uri.host.is_empty()
            || !(1..=MAX_TUBE).contains(&name.len())
            || name.starts_with('-')
            || !name.bytes().all(is_usable)
        {
            return Err(QueueError::Invalid(
                "not a beanstalkd tube, expected beanstalkd://HOST[:11300]/TUBE, where TUBE has 1 to 200 of the characters \
                 A-Z a-z 0-9 - + / ; . $ _ ( ) and does not begin with -"
                    .to_owned(),
            ));
        }
        let broker = uri.broker("beanstalkd");
        section.allowed_hosts.check_broker(&broker)?;
        Ok(Tube { broker, name })
    }

    async fn read(&self, tubes: Vec<Tube>, _: &QueuesSection) -> Vec<(Tube, Reading)> {
        let brokers = group_by(tubes, |tube| tube.broker.clone());
        let reads = brokers.into_iter().map(|(broker, tubes)| async move {
            let create = || BrokerClient::new(broker.to_string(), Beanstalkd(broker.clone()));
            let client = self.clients.get(&broker, create);
            let answers = client.ask(tubes.iter().map(|tube| tube.name.clone()).collect()).await;
            let now = Instant::now();
            tubes
                .into_iter()
                .zip(answers)
                .map(|(tube, answer)| self.reading(tube, answer, now))
                .collect::<Vec<_>>()
        });
        join_all(reads).await.into_iter().flatten().collect()
    }
}

impl Tubes {
    fn reading(
        &self,
        tube: Tube,
        answer: Result<Option<TubeStats>, QueueError>,
        now: Instant,
    ) -> (Tube, Reading) {
        let mut rates = self.rates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reading = answer.map(|stats| match stats {
            Some(stats) => QueueReading {
                waiting: stats.ready,
                in_flight: stats.reserved,
                delayed: stats.delayed,
                arriving_per_minute: stats.total.and_then(|total| rates.note(&tube, total, now)),
                idle_consumers: stats.waiting,
                oldest_age: None,
            },
            // It makes a tube on demand, and removes it when it is empty and not used.
            None => {
                rates.forget(&tube);
                QueueReading {
                    waiting: Some(0),
                    in_flight: Some(0),
                    delayed: Some(0),
                    idle_consumers: Some(0),
                    ..QueueReading::default()
                }
            }
        });
        (tube, reading)
    }
}

// === impl Beanstalkd ===

impl BrokerProtocol for Beanstalkd {
    type Request = String;
    /// None: there is no such tube.
    type Answer = Option<TubeStats>;

    async fn open(&self) -> Result<BrokerConnection, QueueError> {
        let Self(broker) = self;
        let open = async {
            let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
            stream.set_nodelay(true)?;
            let mut connection = BrokerConnection::new(stream);
            // Something that accepts connections is no broker yet.
            connection.writer.write_all(b"list-tube-used\r\n").await?;
            let answer = read_line(&mut connection.reader, MAX_LINE).await?;
            if answer != b"USING default" {
                return Err(invalid_data(format!("it is no beanstalkd: it answered {:?}", quote(&answer))));
            }
            Ok(connection)
        };
        open.await
            .map_err(|error: io::Error| QueueError::Unavailable(format!("connecting to {broker}: {error}")))
    }

    fn encode(requests: &[String]) -> Vec<u8> {
        requests.iter().flat_map(|tube| format!("stats-tube {tube}\r\n").into_bytes()).collect()
    }

    async fn read_answers(
        reader: &mut (impl AsyncBufRead + Unpin + Send),
        requests: &[String],
        answers: &mut Vec<Result<Option<TubeStats>, QueueError>>,
    ) -> io::Result<()> {
        for _ in requests {
            answers.push(read_answer(reader).await?);
        }
        Ok(())
    }
}

async fn read_answer(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Result<Option<TubeStats>, QueueError>> {
    let line = read_line(reader, MAX_LINE).await?;
    match line.as_slice() {
        b"NOT_FOUND" => return Ok(Ok(None)),
        b"OUT_OF_MEMORY" | b"INTERNAL_ERROR" | b"DRAINING" => {
            return Ok(Err(QueueError::Unavailable(format!("beanstalkd answered {}", quote(&line)))));
        }
        _ => {}
    }
    let length =
        line.strip_prefix(b"OK ").and_then(|length| str::from_utf8(length).ok()?.parse::<usize>().ok());
    let Some(length) = length.filter(|length| *length <= MAX_BODY) else {
        return Err(invalid_data(format!("it answered {:?} to stats-tube", quote(&line))));
    };
    Ok(Ok(Some(TubeStats::parse(&read_body(reader, length).await?))))
}

// === impl TubeStats ===

impl TubeStats {
    /// Reads lines of `name: value`, and leaves out what it does not know.
    fn parse(text: &[u8]) -> Self {
        let mut stats = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let place = match name.trim() {
                "current-jobs-ready" => &mut stats.ready,
                "current-jobs-reserved" => &mut stats.reserved,
                "current-jobs-delayed" => &mut stats.delayed,
                "current-waiting" => &mut stats.waiting,
                "total-jobs" => &mut stats.total,
                _ => continue,
            };
            *place = value.trim().parse().ok();
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn read(mut bytes: &[u8]) -> io::Result<Result<Option<TubeStats>, QueueError>> {
        read_answer(&mut bytes).now_or_never().expect("the bytes are there")
    }

    #[test]
    fn answers_are_read() {
        let stats = "---\nname: \"a\"\ncurrent-jobs-urgent: 9\ncurrent-jobs-ready: 3\ncurrent-jobs-reserved: 2\ncurrent-jobs-delayed: 1\ntotal-jobs: 7\ncurrent-waiting: 4\n";
        let answer = format!("OK {}\r\n{stats}\r\n", stats.len());
        let expected = TubeStats {
            ready: Some(3),
            reserved: Some(2),
            delayed: Some(1),
            waiting: Some(4),
            total: Some(7),
        };
        assert_eq!(read(answer.as_bytes()).unwrap(), Ok(Some(expected)));
        assert_eq!(read(b"NOT_FOUND\r\n").unwrap(), Ok(None));
        assert!(read(b"OUT_OF_MEMORY\r\n").unwrap().is_err());
        assert_eq!(
            read(b"OK 0\r\n\r\n").unwrap(),
            Ok(Some(TubeStats::default())),
            "what is missing is unknown"
        );
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bytes in [
            "",
            "NOT_FOUND",
            "NOT_FOUND\n",
            "OK\r\n\r\n",
            "OK -1\r\n\r\n",
            "OK 3\r\nab\r\n",
            "OK 1\r\nab\r\n",
            "OK 99999999999\r\n",
            "OK 1000000\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(read(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        let error = read(&[b'x'; 1_000_000]).unwrap_err().to_string();
        assert_eq!(error, "it sent a line of more than 256 bytes");
    }

    #[test]
    fn a_tube_is_part_of_no_other_command() {
        let section = serde_yaml::from_str("{allowedHosts: [broker]}").unwrap();
        let parse = |uri: &str| Tubes::parse(&Uri::parse(uri).unwrap(), &section);
        assert_eq!(parse("beanstalkd://broker/a.b%2Fc/d").unwrap().name, "a.b/c/d");
        for uri in [
            "beanstalkd://broker/a%0D%0Adelete%201",
            "beanstalkd://broker/a%20b",
            "beanstalkd://broker/-a",
            "beanstalkd://broker/",
            "beanstalkd://broker",
            "beanstalkd:///a",
            "beanstalkd://broker/a?b=c",
            "beanstalkd://broker/%ff",
        ] {
            assert!(matches!(parse(uri), Err(QueueError::Invalid(_))), "{uri}");
        }
        assert!(parse(&format!("beanstalkd://broker/{}", "a".repeat(201))).is_err());
        assert!(matches!(parse("beanstalkd://other/a"), Err(QueueError::Denied(_))));
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_almost_right_answer_panics(text in "(OK [0-9]{1,9}\r\n)?([a-z-]{0,9}: ?-?[0-9]{0,25}\n?){0,5}(\r\n)?") {
            let _ = read(text.as_bytes());
        }
    }
}
