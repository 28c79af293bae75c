use tokio::task::JoinHandle;

use super::*;
use crate::testing::Broker;

struct Site {
    broker: Arc<Broker>,
    wanted: watch::Sender<Arc<BTreeSet<String>>>,
    readings: mpsc::Receiver<QueueReadings>,
    _task: JoinHandle<()>,
}

fn names(queues: &[&str]) -> Arc<BTreeSet<String>> {
    Arc::new(queues.iter().map(|queue| (*queue).to_owned()).collect())
}

impl Site {
    fn start(queues: &[&str]) -> Self {
        let broker = Arc::new(Broker::default());
        let (wanted, receiver) = watch::channel(names(queues));
        let (sender, readings) = mpsc::channel(8);
        let task = tokio::spawn(QueueReader::new(broker.sources(), receiver, sender).run());
        Self { broker, wanted, readings, _task: task }
    }

    async fn next(&mut self) -> QueueReadings {
        self.readings.recv().await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn all_queues_of_a_source_are_read_in_one_call_every_few_seconds() {
    let mut site = Site::start(&["test://a", "test://b"]);
    site.broker.state().waiting.insert("test://a".to_owned(), 7);
    for _ in 0..10 {
        let readings = site.next().await;
        assert_eq!(readings.readings.len(), 2);
        assert_eq!(readings.readings[0].1.as_ref().unwrap().waiting, Some(7));
    }
    site.wanted.send_replace(names(&["test://b"]));
    site.next().await;
    let reads = site.broker.state().reads.clone();
    assert_eq!(reads.last().unwrap().1, ["test://b"]);
    for pair in reads[..10].windows(2) {
        let apart = pair[1].0 - pair[0].0;
        assert!((Duration::from_secs(4)..=Duration::from_millis(5001)).contains(&apart), "{apart:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_fails_is_read_less_often_and_holds_up_no_other() {
    let mut site = Site::start(&["test://a", "test://gone", "nothing://c"]);
    site.broker.state().refused.insert("test://gone".to_owned());
    let mut unroutable = Vec::new();
    let of = |reads: &[(Instant, Vec<String>)], queue: &str| -> Vec<Instant> {
        reads.iter().filter(|(_, read)| read.iter().any(|name| name == queue)).map(|(at, _)| *at).collect()
    };
    // Until it has failed eight times.
    while of(&site.broker.state().reads, "test://gone").len() < 8 {
        let QueueReadings { at, readings } = site.next().await;
        for (queue, reading) in readings {
            match &*queue {
                "test://gone" => assert_eq!(reading, Err("connection refused".into())),
                "nothing://c" => {
                    unroutable.push(at);
                    assert!(reading.unwrap_err().starts_with("no metric source reads nothing://"));
                }
                _ => drop(reading.unwrap()),
            }
        }
    }
    let reads = site.broker.state().reads.clone();
    let pauses = |times: &[Instant]| -> Vec<f64> {
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    };
    // Each up to a fifth less.
    let expected = [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0];
    for times in [of(&reads, "test://gone"), unroutable] {
        let pauses = pauses(&times);
        assert!(pauses.len() >= 6, "{pauses:?}");
        for (pause, longest) in pauses.iter().zip(expected) {
            assert!((longest * 0.79..=longest + 0.01).contains(pause), "{pauses:?}");
        }
    }
    let others = pauses(&of(&reads, "test://a"));
    assert!(others.iter().all(|pause| *pause <= 5.01), "{others:?}");
    let together = reads.iter().filter(|(_, read)| read.len() == 2).count();
    assert_eq!(together, 1, "one that failed has calls of its own, which may take long");
    site.broker.state().refused.clear();
    while site.broker.state().reads.iter().filter(|(_, read)| read.len() == 2).count() < 3 {
        site.next().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_is_read_as_soon_as_its_source_says_that_it_has_a_message() {
    let mut site = Site::start(&["test://a", "test://b", "test://full"]);
    site.broker.state().waiting.insert("test://full".to_owned(), 3);
    site.next().await;
    let began = Instant::now();
    site.broker.state().waiting.insert("test://a".to_owned(), 1);
    site.broker.tell(Ok(vec!["test://a".to_owned()]));
    let readings = site.next().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(readings.readings[0].0, "test://a");
    assert_eq!(site.broker.state().watches[0].iter().collect::<BTreeSet<_>>().len(), 2, "not the full one");
    // It fails, pauses, and is asked again.
    site.next().await;
    let before = site.broker.state().watches.len();
    for _ in 0..6 {
        site.broker.tell(Err(CallError::Plugin("no".to_owned())));
    }
    site.next().await;
    let calls = site.broker.state().watches.len() - before;
    assert!((1..=3).contains(&calls), "{calls} in five seconds: the pauses grow");
    while site.broker.state().watches.len() < before + 6 {
        site.next().await;
    }
    // A queue that becomes empty is watched, too.
    site.broker.state().waiting.clear();
    while site.broker.state().watches.last().unwrap().len() < 3 {
        site.next().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_with_its_first_message_is_read_again_a_second_later() {
    let mut site = Site::start(&["test://a"]);
    site.next().await;
    site.broker.put("test://a", 1);
    site.next().await;
    let noticed = Instant::now();
    // The rest of a burst.
    site.broker.state().waiting.insert("test://a".to_owned(), 100);
    assert_eq!(site.next().await.readings[0].1.as_ref().unwrap().waiting, Some(100));
    assert_eq!(noticed.elapsed(), FOLLOW_UP_INTERVAL);
    site.next().await;
    assert!(noticed.elapsed() >= Duration::from_secs(5), "{:?}", noticed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_queue_with_its_first_message_is_read_alone() {
    let mut site = Site::start(&["test://a", "test://full"]);
    site.broker.state().waiting.insert("test://full".to_owned(), 3);
    site.next().await;
    // The other is to be read within a second.
    tokio::time::advance(Duration::from_millis(3900)).await;
    site.broker.put("test://a", 1);
    let QueueReadings { readings, .. } = site.next().await;
    assert_eq!(readings.iter().map(|(queue, _)| queue).collect::<Vec<_>>(), ["test://a"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_reading_that_panicked_its_queues_are_read_again() {
    let mut site = Site::start(&["test://a"]);
    site.broker.state().panics = true;
    assert_eq!(site.next().await.readings[0].0, "test://a");
    assert_eq!(site.broker.state().reads.len(), 2);
}
