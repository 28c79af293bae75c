//! The service over real sockets.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

struct Hello {
    child: Child,
    port: u16,
    tcp_port: u16,
    journal: PathBuf,
    _folder: tempfile::TempDir,
}

impl Hello {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let [port, tcp_port] =
            [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let child = Command::new(env!("CARGO_BIN_EXE_hello"))
            .args([
                "--port",
                &port.to_string(),
                "--tcp-port",
                &tcp_port.to_string(),
                "--start-delay",
                "10ms",
                "--journal",
            ])
            .arg(&journal)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut hello = Self { child, port, tcp_port, journal, _folder: folder };
        // Both ports are bound before the second accepts.
        while TcpStream::connect(("127.0.0.1", tcp_port)).is_err() {
            assert!(hello.child.try_wait().unwrap().is_none(), "it ended");
            std::thread::yield_now();
        }
        hello
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// One exchange on a connection of its own.
    fn ask(&self, head: &str, body: &str) -> String {
        let head =
            format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut answer = String::new();
        self.send(&head).read_to_string(&mut answer).unwrap();
        answer
    }

    fn terminate(&mut self) -> ExitStatus {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap()
    }

    fn journal(&self) -> String {
        fs::read_to_string(&self.journal).unwrap()
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_path_answers_and_what_has_an_id_is_journalled_once() {
    let hello = Hello::start();
    let pid = hello.child.id();
    let greeting = hello.ask("GET / HTTP/1.1\r\nx-request-id: a1", "");
    assert!(
        greeting.starts_with("HTTP/1.1 200") && greeting.contains(&format!("hello from process {pid}, ")),
        "{greeting}"
    );
    assert!(hello.ask("POST /echo HTTP/1.1\r\nx-request-id: a2", "to and fro").ends_with("to and fro"));
    assert!(hello.ask("POST /upload HTTP/1.1", &"x".repeat(100_000)).ends_with("100000 bytes\n"));
    let stream = hello.ask("GET /stream?chunks=3&ms=1&bytes=2 HTTP/1.1", "");
    assert_eq!(stream.matches("2\r\n..\r\n").count(), 3, "{stream}");
    assert!(hello.ask("GET /slow?ms=5 HTTP/1.1\r\nx-request-id: a3", "").contains("request 5"));
    assert_eq!(hello.journal(), format!("start {pid}\nrequest a1\nrequest a2\nrequest a3\n"));
}

#[test]
fn upgrades_tcp_and_http2() {
    let hello = Hello::start();
    let mut upgraded = BufReader::new(
        hello.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    );
    let mut line = String::new();
    upgraded.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 101"), "{line}");
    while line != "\r\n" {
        line.clear();
        upgraded.read_line(&mut line).unwrap();
    }
    upgraded.get_mut().write_all(b"there").unwrap();
    let mut back = [0; 5];
    upgraded.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there");

    let mut tcp = BufReader::new(TcpStream::connect(("127.0.0.1", hello.tcp_port)).unwrap());
    for line in ["t1\n", "t2\n"] {
        tcp.get_mut().write_all(line.as_bytes()).unwrap();
        let mut back = String::new();
        tcp.read_line(&mut back).unwrap();
        assert_eq!(back, line);
    }
    assert!(hello.journal().ends_with("request t1\nrequest t2\n"));

    // The preface and empty settings; the server's own settings (frame type 4) answer.
    let mut http2 = hello.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0");
    let mut frame = [0; 9];
    http2.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4);
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let mut hello = Hello::start();
    // Its first chunk says that it is in flight; the last one comes after the signal.
    let mut stream =
        hello.send("GET /stream?chunks=2&ms=300&bytes=3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    assert!(hello.terminate().success());
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("3\r\n...\r\n3\r\n...\r\n0\r\n\r\n"), "{rest}");
    let mut said = String::new();
    hello.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello: drained: 1 requests were in flight, 1 in all\n");
}

#[test]
fn it_exits_with_the_status_asked_for() {
    let mut hello = Hello::start();
    hello.ask("GET /exit?status=7 HTTP/1.1", "");
    assert_eq!(hello.child.wait().unwrap().code(), Some(7));
}
