//! Which connections are closed when clients leave too much unread.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::advance,
};

use super::*;
use crate::{
    client::{Clients, ConnectionProgress, Socket, Timeouts, slots::ClientGuard},
    state::{HeldTotals, HoldLimits},
};

const MIB: usize = 1 << 20;

/// A client that takes nothing.
struct Client {
    stream: TcpStream,
    progress: Arc<ConnectionProgress>,
    answers: Arc<Stream>,
    chunks: Vec<UnreadChunk>,
    _known: ClientGuard,
}

impl Client {
    async fn connect(listener: &TcpListener, slots: &Arc<ConnectionSlots>, clients: &Arc<Clients>) -> Self {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(listener.accept().await.unwrap().0);
        let progress = ConnectionProgress::new(Timeouts::default(), slots.clone());
        let known = clients.add(socket, progress.clone());
        Self { stream, progress, answers: Arc::default(), chunks: Vec::new(), _known: known }
    }

    /// So much comes for it from a namespace.
    async fn leave(&mut self, share: &Arc<NamespaceShare>, bytes: usize) {
        // Each time the largest are searched for.
        advance(Duration::from_secs(1)).await;
        let chunk = self.progress.unread().count(&self.answers, Some(share), vec![0; bytes].into());
        self.chunks.push(chunk);
    }

    /// Whether its connection was closed, which frees what it left.
    async fn is_closed(&mut self) -> bool {
        let closed = self.progress.unread().is_closed();
        if closed {
            assert_eq!(self.stream.read(&mut [0; 1]).await.unwrap(), 0);
            self.chunks.clear();
        }
        closed
    }
}

/// How many of them are closed.
async fn closed(clients: &mut [Client]) -> usize {
    let mut count = 0;
    for client in clients {
        count += usize::from(client.is_closed().await);
    }
    count
}

#[tokio::test(start_paused = true)]
async fn connections_of_the_namespace_with_the_most_unread_are_closed() {
    let slots = ConnectionSlots::new(usize::MAX, 8 * MIB);
    let clients = slots.add();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let totals = HeldTotals::new(HoldLimits { requests: 1, bytes: 1 });
    let (shop, other) = (totals.share("shop"), totals.share("other"));
    // Of all connections this one has most.
    let mut single = Client::connect(&listener, &slots, &clients).await;
    single.leave(&other, 3 * MIB).await;
    let mut many = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(&listener, &slots, &clients).await;
        client.leave(&shop, MIB).await;
        many.push(client);
    }
    assert_eq!((closed(&mut many).await, single.is_closed().await), (0, false));
    let mut last = Client::connect(&listener, &slots, &clients).await;
    last.leave(&shop, MIB).await;
    many.push(last);
    assert_eq!((closed(&mut many).await, single.is_closed().await), (1, false));
    // Whichever adds to it: the other keeps as much as they have now, too.
    single.leave(&other, MIB).await;
    assert_eq!((closed(&mut many).await, single.is_closed().await), (2, false));
    single.leave(&other, MIB).await;
    assert_eq!((closed(&mut many).await, single.is_closed().await), (2, true));
    assert_eq!((slots.unread(), slots.closed_for_unread()), (4 * MIB, 3));
}
