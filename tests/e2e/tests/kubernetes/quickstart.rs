//! docs/quickstart-kubernetes.md: every command of the page, as written, and what the page says that it prints.
//!
//! A block of `sh` is run by bash, in the repository's folder, with a real kubectl, helm and curl; the block of `text` behind it is its
//! output. In the expected output a line `...` is any lines; numbers, times and what is random may differ. A block behind
//! `<!-- only on kind -->` is not run: devcluster is the cluster, and its images are programs. It has no `kubectl exec`: what stands behind
//! the `--` is run where the pod's processes run.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use deploy::Release;
use devcluster::{
    Cluster, Options, User,
    controllers::Controllers,
    node::{Node, NodeOptions},
    proxy::{NO_LAG, ProxyOptions, ServiceProxy},
};
use e2e::{
    binaries,
    kubernetes::{needs_devcluster, run, shop},
    until,
};
use serde_json::Value;

const PAGE: &str = "docs/quickstart-kubernetes.md";
/// In README.md, before what is taken from the page.
const FROM_PAGE: &str = "<!-- from docs/quickstart-kubernetes.md -->\n```console\n";
const ONLY_ON_KIND: &str = "<!-- only on kind -->";
/// The image of the page's workload.
const WORKLOAD: &str = "nginx:1.29";

/// A block of commands of the page.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    commands: String,
    output: Option<String>,
    only_on_kind: bool,
}

/// The page's cluster. Its parts end in their order.
struct QuickstartCluster {
    kubeconfig: PathBuf,
    programs: PathBuf,
    _proxy: ServiceProxy,
    _node: Node,
    _controllers: Controllers,
    _cluster: Cluster,
    folder: tempfile::TempDir,
}

/// The blocks of a page, in their order.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines().enumerate();
    let mut only_on_kind = false;
    while let Some((number, line)) = lines.next() {
        if line == ONLY_ON_KIND {
            assert!(!only_on_kind, "{PAGE}:{}: the marker before it has no block", number + 1);
            only_on_kind = true;
        }
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let block = block.join("\n") + "\n";
        match language {
            "sh" => steps.push(Step { line: number + 1, commands: block, output: None, only_on_kind }),
            "text" => {
                let step = steps.last_mut().filter(|step| step.output.is_none());
                step.unwrap_or_else(|| panic!("{PAGE}:{}: the output of no command", number + 1)).output =
                    Some(block);
            }
            other => panic!("{PAGE}:{}: a block of {other:?}: it is neither `sh` nor `text`", number + 1),
        }
        only_on_kind = false;
    }
    assert!(!only_on_kind, "{PAGE} ends with a marker that has no block");
    steps
}

/// Whether a command printed what the page says.
fn is_as_expected(output: &str, expected: &str) -> bool {
    let lines = |text: &str| {
        text.lines().map(without_what_differs).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    matches(&lines(output), &lines(expected))
}

fn matches(output: &[String], expected: &[String]) -> bool {
    match expected.split_first() {
        None => output.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=output.len()).any(|skipped| matches(&output[skipped..], rest))
        }
        Some((first, rest)) => output.first() == Some(first) && matches(&output[1..], rest),
    }
}

/// A line with one blank between its words, `#` for each number, `#s` for each time, and `*` for what is random in a name or a nonce.
fn without_what_differs(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let pod = ["web-", "scaler-dlx-"]
            .into_iter()
            .find(|prefix| word.strip_prefix(prefix).is_some_and(|rest| rest.contains('-')));
        let nonce = word.trim_end_matches(')');
        match pod {
            Some(prefix) => format!("{prefix}*"),
            None if nonce.len() == 16 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) => "*".to_owned(),
            None => without_numbers(word),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn without_numbers(word: &str) -> String {
    let mut text = String::new();
    for letter in word.chars() {
        let continues = letter.is_ascii_digit() || letter == '.' && text.ends_with('#');
        match continues {
            true if text.ends_with('#') => {}
            true => text.push('#'),
            false => text.push(letter),
        }
    }
    for unit in ["#h#", "#m#"] {
        text = text.replace(unit, "#");
    }
    if ["#ms", "#m", "#h"].contains(&text.as_str()) { "#s".to_owned() } else { text }
}

// === impl QuickstartCluster ===

impl QuickstartCluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("making a folder");
        let programs = shop::programs(folder.path(), binaries::folder());
        let workload = programs.join("workload");
        let hello = binaries::folder().join("hello");
        let script = format!("#!/bin/sh\nexec {} --bind \"$POD_IP\" --port 80\n", hello.display());
        fs::write(&workload, script).expect("writing the workload's program");
        fs::set_permissions(&workload, fs::Permissions::from_mode(0o755)).expect("making it executable");

        let cluster = Cluster::start(Options::default()).expect("starting the API");
        let kubeconfig = cluster.kubeconfig(folder.path(), &User::Admin).expect("writing its kubeconfig");
        let client = cluster.client().expect("a client of the API");
        let controllers = Controllers::start(client.clone());
        let mut options = NodeOptions::new(&programs, cluster.url());
        options.folder = Some(folder.path().join("node"));
        options.images = images();
        let node = Node::start(client.clone(), options).await.expect("starting the node");
        let proxy = ProxyOptions { nodes: 1, lag: NO_LAG, ..ProxyOptions::default() };
        let proxy = ServiceProxy::start(&client, &proxy);
        Self {
            kubeconfig,
            programs,
            _proxy: proxy,
            _node: node,
            _controllers: controllers,
            _cluster: cluster,
            folder,
        }
    }

    /// What the commands print, or what they print until one of them fails.
    fn bash(&self, commands: &str) -> Result<String, String> {
        let commands = instead_of_exec(commands);
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{commands}")]);
        bash.current_dir(deploy::root()).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.folder.path());
        let helm = PathBuf::from(deploy::helm().get_program());
        let tools = helm.parent().map(Path::to_path_buf).unwrap_or_default();
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = [tools, self.programs.clone()].into_iter().chain(env::split_paths(&path));
        bash.env("PATH", env::join_paths(folders).expect("a search path"));
        let output = bash.output().expect("starting bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// Runs a step, and has it print what the page says. Those that only read are run again until they do.
    async fn does(&self, step: &Step) {
        let Step { line, commands, output, .. } = step;
        println!("{PAGE}:{line}\n{commands}");
        let attempt = || {
            let printed = self.bash(commands).map_err(|text| format!("it failed: {text}"))?;
            if let Some(expected) = output.as_ref().filter(|expected| !is_as_expected(&printed, expected)) {
                return Err(format!("it printed:\n{printed}and is to print:\n{expected}"));
            }
            println!("{printed}");
            Ok(())
        };
        if commands.starts_with("kubectl") && (commands.contains(" get ") || commands.contains(" exec ")) {
            until(&format!("{PAGE}:{line}: {commands}"), || async { attempt() }).await;
        } else if let Err(why) = attempt() {
            panic!("{PAGE}:{line}: {commands}{why}");
        }
    }

    /// What there is to know of a failure: the pods, the Events, the ends of the daemons' logs.
    fn report(&self) -> String {
        let asked = self.bash("kubectl get pods --all-namespaces; kubectl get events --all-namespaces");
        let mut report = asked.unwrap_or_else(|text| text);
        for log in fs::read_dir(self.folder.path().join("node/logs/scaler")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(30).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            report.push_str(&format!("---- {}\n{}\n", log.path().display(), lines.join("\n")));
        }
        report
    }
}

impl Drop for QuickstartCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// The command that `kubectl exec` would run.
fn instead_of_exec(commands: &str) -> &str {
    let exec = commands.starts_with("kubectl") && commands.contains(" exec ");
    commands.split_once(" -- ").filter(|_| exec).map_or(commands, |(_, command)| command)
}

/// The images that the chart names by default and that of the workload, with their programs.
fn images() -> BTreeMap<String, String> {
    let mut images = BTreeMap::from([(WORKLOAD.to_owned(), "workload".to_owned())]);
    for object in (Release { name: "scaler", namespace: "scaler", values: "" }).render() {
        let containers = object.data.pointer("/spec/template/spec/containers").and_then(Value::as_array);
        for container in containers.into_iter().flatten() {
            let text = |field: &str| container[field].as_str().unwrap_or_default().to_owned();
            if ["autoscaler", "dlx"].contains(&text("name").as_str()) {
                images.insert(text("image"), text("name"));
            }
        }
    }
    images
}

#[test]
fn each_command_of_the_quickstart_prints_what_the_page_says() {
    if needs_devcluster("stands in for the cluster that the page creates") {
        return;
    }
    run(async {
        let page = fs::read_to_string(deploy::root().join(PAGE)).expect("reading the page");
        let steps = steps(&page);
        let of_kind: String =
            steps.iter().filter(|step| step.only_on_kind).map(|step| &*step.commands).collect();
        let cluster = QuickstartCluster::start().await;
        for image in images().keys().filter(|image| *image != WORKLOAD) {
            assert!(
                of_kind.contains(image),
                "the page does not load the image {image}, which the chart runs"
            );
        }
        for step in steps.iter().filter(|step| !step.only_on_kind) {
            cluster.does(step).await;
        }
    });
}

#[test]
fn the_readme_shows_commands_and_outputs_of_the_page() {
    let read = |path: &str| fs::read_to_string(deploy::root().join(path)).expect("reading a page");
    let (page, readme) = (read(PAGE), read("README.md"));
    let (_, shown) = readme.split_once(FROM_PAGE).expect("README.md shows a part of the quickstart");
    let (shown, _) = shown.split_once("```").expect("the end of the block");
    for line in shown.lines().map(|line| line.trim_start_matches("$ ")) {
        assert!(page.lines().any(|of_page| of_page == line), "README.md: {line:?} is not in {PAGE}");
    }
    assert!(shown.contains("scaler.dev/scale-to-zero"), "{shown}");
}

#[test]
fn a_page_is_taken_apart_into_commands_and_outputs() {
    let page = "# A page\n\n<!-- only on kind -->\n```sh\nkind\n```\n\n```sh\nkubectl get a\n```\n\n```text\na 1s\n```\n";
    let step = |line, commands: &str, output: Option<&str>, only_on_kind| Step {
        line,
        commands: commands.to_owned(),
        output: output.map(str::to_owned),
        only_on_kind,
    };
    assert_eq!(
        steps(page),
        [step(4, "kind\n", None, true), step(8, "kubectl get a\n", Some("a 1s\n"), false)]
    );
}

#[test]
fn only_times_numbers_and_random_parts_may_differ() {
    let page = "NAME       AGE\nweb-1a-bc  12s\n...\nhold;dur=1.5, wake;dur=2\n";
    assert!(is_as_expected("NAME AGE\nweb-77f-x9 1h3m4s\nmore\n\nhold;dur=10, wake;dur=0.1\n", page));
    assert!(is_as_expected("NAME AGE\nweb-77f-x9 1s\nhold;dur=10, wake;dur=0.1\n", page));
    assert!(is_as_expected("(nonce 0123456789abcdef)", "(nonce fedcba9876543210)"));
    for other in [
        "",
        "NAME AGE\n",
        "NAME AGE\nweb-77f-x9 1s\nwake;dur=0.1\n",
        "NAME AGE\napi-77f-x9 1s\nhold;dur=1, wake;dur=2\n",
    ] {
        assert!(!is_as_expected(other, page), "{other}");
    }
}
