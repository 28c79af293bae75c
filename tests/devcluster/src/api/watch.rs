//! Watches.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch::Receiver},
    time::{Instant, timeout_at},
};

use super::{
    Call,
    list::start,
    table::{self, Include},
};
use crate::{
    faults::Filter,
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
    },
    registry::Kind,
    selector::Selector,
    server::Server,
    store::{Change, Event, Object},
};

/// How long a watch lasts that does not say it: the real server takes something between this and twice as much.
const LASTS: Duration = Duration::from_secs(1800);
/// Events that are written between two looks at the faults.
const BATCH: usize = 256;

/// A watch at work.
struct Watch {
    server: Arc<Server>,
    kind: Arc<Kind>,
    namespace: String,
    selector: Selector,
    user: String,
    /// Everything up to this revision was looked at.
    seen: u64,
    bookmarks: bool,
    /// Whether objects are returned as tables.
    table: Option<Include>,
    pieces: mpsc::Sender<Bytes>,
}

/// What a watch begins with.
struct Begin {
    /// What there was, reported as if it were new.
    first: Vec<Arc<Object>>,
    /// Whether its end is reported.
    bookmark: bool,
}

/// Why a wait ended.
enum Woken {
    Changed,
    Quiet,
    Over,
}

pub(super) fn watch(call: &Call<'_>) -> Result<Answer> {
    let query = &call.request.query;
    let selector = call.selector()?;
    let asked = query.number("resourceVersion")?.unwrap_or_default();
    let initial = query.on("sendInitialEvents") && query.get("sendInitialEvents").is_some();
    let lasts =
        query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map_or(LASTS, Duration::from_secs);
    let bookmarks = query.on("allowWatchBookmarks") && query.get("allowWatchBookmarks").is_some();
    let (pieces, answer) = answer::stream();
    let mut watch = Watch {
        server: Arc::clone(call.server),
        kind: Arc::clone(&call.kind),
        namespace: call.key.namespace.clone(),
        selector,
        user: call.request.user.to_string(),
        seen: asked,
        bookmarks,
        table: table::wanted(call.request),
        pieces,
    };
    let (drops, stalls) = (call.server.faults.drops(), call.server.faults.stalls());
    let mut first = Vec::new();
    // Before the client sees that the watch is there, so that it misses nothing that it does from then on.
    let changed = {
        let mut tables = call.server.store.lock();
        let (table, revision) = (call.kind.table(), tables.revision());
        if asked > revision {
            return Err(Failure::too_large(asked, revision));
        }
        if asked == 0 || initial {
            let all = tables.table(&table).and_then(|all| all.at(revision, &start(&watch.namespace)));
            first = all.unwrap_or_default();
            first.retain(|object| watch.takes(object));
            watch.seen = revision;
        }
        tables.subscribe(&table)
    };
    let begin = Begin { first, bookmark: initial && bookmarks };
    let end = Instant::now() + lasts;
    tokio::spawn(async move {
        let _ = watch.run(begin, end, changed, drops, stalls).await;
    });
    Ok(answer)
}

// === impl Watch ===

impl Watch {
    /// Until its time is over, the client leaves, or a test has it dropped. `None`: the client has left.
    async fn run(
        &mut self,
        begin: Begin,
        end: Instant,
        mut changed: Receiver<u64>,
        mut drops: Receiver<(u64, Filter)>,
        mut stalls: Receiver<u64>,
    ) -> Option<()> {
        let mut begin = Some(begin);
        loop {
            stalls.borrow_and_update();
            if self.stalled() {
                if !self.stall(end, &mut stalls, &mut drops).await {
                    return None;
                }
                continue;
            }
            if let Some(begin) = begin.take() {
                for object in &begin.first {
                    self.send("ADDED", object).await?;
                }
                if begin.bookmark {
                    self.bookmark(true).await?;
                }
            }
            changed.borrow_and_update();
            if !self.catch_up().await? {
                continue;
            }
            match self.wait(end, &mut changed, &mut drops, &mut stalls).await {
                Woken::Changed => {}
                Woken::Quiet if self.bookmarks && !self.stalled() => self.bookmark(false).await?,
                Woken::Quiet => {}
                Woken::Over => {
                    if self.bookmarks && Instant::now() >= end && !self.stalled() {
                        self.bookmark(false).await?;
                    }
                    return None;
                }
            }
        }
    }

    /// Writes a batch of what happened since; whether that was all.
    async fn catch_up(&mut self) -> Option<bool> {
        let (events, floor, revision) = {
            let tables = self.server.store.lock();
            let table = tables.table(&self.kind.table())?;
            (table.since(self.seen, BATCH), table.floor(), tables.revision())
        };
        let Some(events) = events else {
            if self.server.options.no_gone {
                self.seen = revision;
                return Some(true);
            }
            let status = Failure::expired(self.seen, floor).status();
            let event = json!({"type": "ERROR", "object": status});
            self.pieces.send(Bytes::from(format!("{event}\n"))).await.ok()?;
            return None;
        };
        for event in &events {
            if let Some((change, object)) = self.seen_as(event) {
                self.send(change, &object).await?;
            }
            self.seen = event.object.revision;
        }
        if events.len() < BATCH {
            // Nothing else of this table happened up to here: what a bookmark may say.
            self.seen = self.seen.max(revision);
            return Some(true);
        }
        Some(false)
    }

    /// What a change is for one who sees only what the selector takes.
    fn seen_as(&self, event: &Event) -> Option<(&'static str, Arc<Object>)> {
        let before = event.before.as_ref().filter(|before| self.takes(before));
        let is = event.change != Change::Deleted && self.takes(&event.object);
        match (before, is) {
            (None, true) => Some(("ADDED", Arc::clone(&event.object))),
            (Some(_), true) => Some(("MODIFIED", Arc::clone(&event.object))),
            // As it was when the selector took it.
            (Some(before), false) => Some(("DELETED", Arc::new(before.at(event.object.revision)))),
            (None, false) => None,
        }
    }

    fn takes(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || object.metadata()["namespace"] == self.namespace.as_str())
            && self.selector.matches(object)
    }

    fn stalled(&self) -> bool {
        !self.server.options.no_stall && self.server.faults.stalled(&self.user, &self.kind.plural)
    }

    /// Silent until a test lets go; `false`: it ended meanwhile.
    async fn stall(
        &self,
        end: Instant,
        stalls: &mut Receiver<u64>,
        drops: &mut Receiver<(u64, Filter)>,
    ) -> bool {
        tokio::select! {
            _ = stalls.changed() => true,
            _ = self.dropped(drops) => false,
            () = self.pieces.closed() => false,
            () = until(end) => false,
        }
    }

    async fn wait(
        &self,
        end: Instant,
        changed: &mut Receiver<u64>,
        drops: &mut Receiver<(u64, Filter)>,
        stalls: &mut Receiver<u64>,
    ) -> Woken {
        let quiet = Instant::now() + self.server.options.bookmark_interval;
        tokio::select! {
            gone = changed.changed() => if gone.is_ok() { Woken::Changed } else { Woken::Over },
            _ = stalls.changed() => Woken::Changed,
            _ = self.dropped(drops) => Woken::Over,
            () = self.pieces.closed() => Woken::Over,
            () = until(end) => Woken::Over,
            () = until(quiet) => Woken::Quiet,
        }
    }

    /// Until a test drops such watches.
    async fn dropped(&self, drops: &mut Receiver<(u64, Filter)>) {
        loop {
            if drops.changed().await.is_err() {
                return;
            }
            if drops.borrow_and_update().1.fits(&self.user, "watch", &self.kind.plural) {
                return;
            }
        }
    }

    async fn send(&self, change: &str, object: &Object) -> Option<()> {
        let mut piece = BytesMut::new();
        piece.put_slice(b"{\"type\":\"");
        piece.put_slice(change.as_bytes());
        piece.put_slice(b"\",\"object\":");
        match self.table {
            Some(include) => {
                let metadata = json!({"resourceVersion": object.revision.to_string()});
                let table = table::table(include, &self.kind, std::iter::once(object), metadata);
                piece.put_slice(table.to_string().as_bytes());
            }
            None => object.write(&self.kind, &mut piece),
        }
        piece.put_slice(b"}\n");
        self.pieces.send(piece.freeze()).await.ok()
    }

    async fn bookmark(&self, initial: bool) -> Option<()> {
        let mut metadata = json!({"resourceVersion": self.seen.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let event = json!({"type": "BOOKMARK", "object": object});
        self.pieces.send(Bytes::from(format!("{event}\n"))).await.ok()
    }
}

/// Until that time.
async fn until(time: Instant) {
    let _ = timeout_at(time, std::future::pending::<()>()).await;
}
