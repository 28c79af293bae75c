//! The resource behind all proxies: one nginx worker that never closes a connection.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::peers::Programs;
use crate::scene::Service;

/// What nginx writes to the file system goes under `folder`, so that it runs as anybody.
pub fn nginx_paths(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {folder}/{what};"));
    format!(
        "pid {folder}/{name}.pid; error_log stderr warn; events {{ worker_connections 4096; }}\nhttp {{ access_log off; {}\n",
        temporary.join(" ")
    )
}

/// The upstream on `port`: `/` answers 24 bytes, `/chunked` the same without a length, `/1MiB` a file, `/upload` 24 bytes
/// after it has read the body.
///
/// # Errors
///
/// Its files cannot be written to `folder`.
pub fn service(programs: &Programs, folder: &Path, port: u16) -> Result<Service> {
    let name = format!("upstream-{port}");
    let file = folder.join(format!("{name}.conf"));
    // `return` alone answers before it has read a body: a second request asks it when the first is read. Where SSI may
    // change the answer nginx does not know its length.
    let configuration = format!(
        "daemon off; worker_processes 1; {}\
         keepalive_requests 1000000000; keepalive_timeout 1h; default_type text/plain;\n\
         client_max_body_size 0; client_body_buffer_size 2m;\n\
         upstream itself {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port} backlog=4096;\n\
         location / {{ return 200 \"hello from the resource\\n\"; }}\n\
         location = /chunked {{ ssi on; ssi_types *; return 200 \"hello from the resource\\n\"; }}\n\
         location = /1MiB {{ root {}; }}\n\
         location = /upload {{ proxy_pass http://itself/; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_pass_request_body off; proxy_set_header Content-Length \"\"; }} }} }}\n",
        nginx_paths(folder, &name),
        folder.display(),
    );
    fs::write(&file, configuration).context("writing the upstream's configuration")?;
    fs::write(folder.join("1MiB"), vec![b'x'; 1 << 20]).context("writing what is downloaded")?;
    let program = programs.nginx.display().to_string();
    let arguments = ["-e".into(), "stderr".into(), "-c".into(), file.display().to_string()];
    let command = std::iter::once(program).chain(arguments).collect();
    Ok(Service { name: "upstream", command, port })
}
