//! The daemons' command lines, statuses and signals.

use std::{fs, process::Command};

use e2e::{Namespace, Service, Site, binaries, load::get};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

const BOTH: [&str; 2] = ["autoscaler", "dlx"];
const COMMON: [&str; 9] = [
    "--namespace",
    "--kubeconfig-path",
    "--plugins-dir",
    "--config",
    "--strict",
    "--admin-token-file",
    "--state-dir",
    "--log-format",
    "--admin-address",
];

fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binaries::folder().join(program));
    command.args(arguments).env_remove("LISTEN_FDS");
    if program == "dlx" && arguments.iter().any(|argument| argument.starts_with("--state-dir")) {
        // Its usual port may be in use.
        command.arg("--listen-address=127.0.0.1:0");
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_names_every_flag() {
    let own: [&[&str]; 2] = [
        &["--scale-interval", "--metrics-resource-kind", "--metrics-resource-group"],
        &[
            "--listen-address",
            "--target-name-header",
            "--target-path-header",
            "--target-port",
            "--resource-readiness-timeout",
            "--multi-target-strategy",
            "--trusted-proxies",
            "--max-held-requests",
            "--max-held-bytes",
        ],
    ];
    for (program, own) in BOTH.into_iter().zip(own) {
        let (status, help, _) = run(program, &["--help"]);
        assert_eq!(status, Some(0));
        for flag in COMMON.iter().chain(own) {
            assert!(help.contains(flag), "{program} --help does not name {flag}:\n{help}");
        }
        assert!(help.contains("78"), "{program} --help does not tell its exit statuses");
        assert_eq!(run(program, &["--version"]).0, Some(0));
    }
}

#[test]
fn help_of_each_command_has_an_example() {
    let commands = |program: &str| {
        let (_, help, _) = run(program, &["--help"]);
        let list = help.split_once("Commands:\n").expect(&help).1;
        let names = list.lines().take_while(|line| !line.is_empty() && !line.starts_with("Options"));
        // A description may go on in the next line.
        let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect::<Vec<_>>()
    };
    for program in BOTH {
        let commands = commands(program);
        assert!(commands.contains(&"completion".to_owned()), "{commands:?}");
        let helps = commands.iter().filter(|command| *command != "help");
        for command in helps.map(String::as_str).chain([""]) {
            let arguments: Vec<_> = [command, "--help"].into_iter().filter(|part| !part.is_empty()).collect();
            let (_, help, _) = run(program, &arguments);
            let example = format!("Example:\n  {program} {command}");
            assert!(help.contains(example.trim_end()), "{program} {command} --help has no example:\n{help}");
        }
    }
}

/// The shell itself takes the script, and completes a command and a flag by it.
#[test]
fn a_shell_completes_commands_and_flags() {
    let complete = |program: &str, words: &str| {
        let (status, script, error) = run(program, &["completion", "bash"]);
        assert_eq!(status, Some(0), "{error}");
        let words: Vec<_> = words.split(' ').collect();
        let last = words.len() - 1;
        let line = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={last}\n_{program} {program} '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            words.join(" "),
            words[last],
            words[last - 1]
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().expect("starting bash");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("autoscaler", "autoscaler expl"), ["explain"]);
    assert_eq!(complete("autoscaler", "autoscaler check --str"), ["--strict"]);
    assert_eq!(complete("dlx", "dlx --trusted"), ["--trusted-proxies"]);
    for shell in ["zsh", "fish"] {
        for program in BOTH {
            let (status, script, _) = run(program, &["completion", shell]);
            assert!(status == Some(0) && script.contains("admin-token-file"), "{program} {shell}");
        }
    }
}

#[test]
fn bad_flags_end_a_daemon_with_64() {
    for program in BOTH {
        for arguments in
            [&["--no-such-flag"][..], &["--log-format=loud"], &["--admin-address=nowhere"], &["surplus"]]
        {
            let (status, _, error) = run(program, arguments);
            assert_eq!(status, Some(64), "{program} {arguments:?}: {error}");
            assert!(!error.is_empty());
        }
    }
}

#[test]
fn a_daemon_without_plugins_or_with_a_broken_file_ends_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(folder.path().join("none")).unwrap();
    for program in BOTH {
        let state = format!("--state-dir={}", path("state"));
        for plugins in ["none", "missing"] {
            let (status, _, error) = run(
                program,
                &[&format!("--plugins-dir={}", path(plugins)), &state, "--admin-address=127.0.0.1:0"],
            );
            assert_eq!(status, Some(78), "{program} with plugins in {plugins}: {error}");
            assert!(error.contains(&path(plugins)), "{error}");
        }
    }
    let site = Site::new("broken-");
    site.configure_raw("demo.yaml", b"namespace: demo\nsurprise: 1\n");
    for program in BOTH {
        let plugins = format!("--plugins-dir={}", site.folder().join("plugins").display());
        let config = format!("--config={}", site.folder().join("config").display());
        let state = format!("--state-dir={}", path("state"));
        let (status, _, error) = run(program, &[&plugins, &config, &state, "--admin-address=127.0.0.1:0"]);
        assert_eq!(status, Some(78), "{program}: {error}");
        assert!(error.contains("demo.yaml") && error.contains("surprise"), "{error}");
    }
}

/// The first signal drains: what is held stays held. The second ends at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_stopping_dlx_at_once() {
    let site = Site::new("signals-");
    let never = site.folder().join("never").display().to_string();
    let service = Service::new(&site, "hello").arguments(&["--start-after", &never]);
    site.configure(&Namespace::new("demo").dlx("holdTimeout: 10m").with(&service));
    let launch = site.launch_dlx(binaries::folder().join("dlx"), &["--shutdown-grace=10m"]);
    let mut dlx = launch.start().ready().await;
    let mut client = TcpStream::connect(site.front()).await.unwrap();
    client.write_all(&get("hello.localhost", "/", "1")).await.unwrap();
    e2e::until("the request to be held", || async {
        let resource = dlx.resource("demo", "hello").await;
        if resource["held"] == 1 { Ok(()) } else { Err(resource.to_string()) }
    })
    .await;
    dlx.terminate();
    e2e::until("the DLX to be unready", || async {
        let response = dlx.get("/readyz").await;
        if response.status == 503 { Ok(()) } else { Err(response.text()) }
    })
    .await;
    assert_eq!(dlx.resource("demo", "hello").await["held"], 1, "the first signal gave up what was held");
    assert_eq!(site.state_entries("members").len(), 1, "it left before its last request was done");
    dlx.terminate();
    assert_eq!(dlx.ended().await.code(), Some(143));
}
