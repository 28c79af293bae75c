//! Says whether a job is being worked on: what a busy probe asks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// Accepts connections, and answers one request on each.
pub async fn serve(listener: TcpListener, is_busy: Arc<AtomicBool>) {
    loop {
        // An error is that connection's own.
        if let Ok((stream, _)) = listener.accept().await {
            let is_busy = Arc::clone(&is_busy);
            tokio::spawn(async move {
                // The client closed the connection.
                let _ = answer(stream, &is_busy).await;
            });
        }
    }
}

/// Answers one request, whatever it asks for, once its head is there.
async fn answer(stream: TcpStream, is_busy: &AtomicBool) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let status =
        if is_busy.load(Ordering::Relaxed) { "200 OK\r\nContent-Length: 0" } else { "204 No Content" };
    stream.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n").as_bytes()).await
}
