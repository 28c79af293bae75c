//! The commands of docs/intercept.md and docs/operate/uninstall.md, as written, with a real kubectl: each block of `sh`.

use std::{fs, path::PathBuf, process::Command};

use devcluster::{
    User,
    proxy::{NO_LAG, ProxyOptions},
};
use e2e::kubernetes::{Setting, Shop, needs_devcluster, run};

use crate::restore::{before, intercept_patch};

/// A page's blocks of `sh`, in their order.
struct Page {
    path: &'static str,
    blocks: std::vec::IntoIter<String>,
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// With nodes that follow at once: what they do late is not this module's.
fn setting() -> Setting {
    let mut setting = Setting::intercepting();
    setting.proxy = Some(ProxyOptions { lag: NO_LAG, ..ProxyOptions::default() });
    setting.flags.retain(|flag| !flag.starts_with("--endpoint-propagation-delay"));
    setting.flags.push("--endpoint-propagation-delay=1s".to_owned());
    setting
}

// === impl Page ===

impl Page {
    fn open(shop: &Shop, path: &'static str) -> Self {
        let home = shop.folder().join("home");
        fs::create_dir_all(&home).expect("making a folder for kubectl");
        let text =
            fs::read_to_string(deploy::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut lines = text.lines();
        let mut blocks = Vec::new();
        while lines.by_ref().any(|line| line == "```sh") {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
        }
        let kubeconfig = shop.cluster().kubeconfig(&home, &User::Admin).expect("writing the kubeconfig");
        Self { path, blocks: blocks.into_iter(), kubeconfig, home }
    }

    /// Runs the next block: what it prints.
    ///
    /// # Panics
    ///
    /// There is none, or it fails.
    async fn next(&mut self) -> String {
        let block = self.blocks.next().unwrap_or_else(|| panic!("{} has no more commands", self.path));
        self.bash(&block).await
    }

    /// Runs commands in the repository's folder.
    async fn bash(&self, commands: &str) -> String {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", commands]).current_dir(deploy::root());
        bash.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        let output = tokio::task::spawn_blocking(move || bash.output()).await.expect("bash's thread");
        let output = output.expect("starting bash");
        let text =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
        assert!(output.status.success(), "{}: {commands}\n{text}", self.path);
        println!("{commands}\n{text}");
        text
    }

    /// All blocks were run.
    fn ends(mut self) {
        assert_eq!(self.blocks.next(), None, "{}: it is not run", self.path);
    }
}

/// A Service before, while and after.
#[test]
fn intercept_md_intercepts_a_service_and_restores_it() {
    if needs_devcluster("writes its kubeconfig") {
        return;
    }
    run(async {
        let shop = Shop::open_with(setting()).await;
        let (web, before) = before(&shop, "web").await;
        let mut page = Page::open(&shop, "docs/intercept.md");
        let said = page.next().await;
        assert!(!said.contains("scaler.dev"), "{said}");
        page.next().await;
        shop.event(&web, "ServiceIntercepted").await;
        let said = page.next().await;
        for expected in ["\"scaler.dev/intercepted\":", "web-scaler-ipv4", "ServiceIntercepted"] {
            assert!(said.contains(expected), "{expected:?} is not in {said}");
        }
        let said = page.next().await;
        assert!(!said.contains("scaler.dev/intercepted"), "{said}");
        page.ends();
        let mut differences = before.differences(&shop.snapshot().await);
        differences.retain(|difference| {
            difference != "Deployment web /metadata /annotations: null -> {}"
                && !difference.starts_with("Deployment scaler-")
        });
        assert!(differences.is_empty(), "{differences:#?}");
    });
}

/// Both daemons are gone, and nothing was restored.
#[test]
fn uninstall_md_restores_with_kubectl_alone() {
    if needs_devcluster("writes its kubeconfig") {
        return;
    }
    run(async {
        let shop = Shop::open_with(setting()).await;
        let (web, _) = before(&shop, "web").await;
        shop.patch(&web, intercept_patch(Some("always"))).await;
        shop.asleep(&web).await;
        let mut page = Page::open(&shop, "docs/operate/uninstall.md");
        page.bash("kubectl -n shop delete deployment scaler-autoscaler scaler-dlx").await;
        page.bash("kubectl -n shop delete pods -l scaler.dev/component --force").await;
        page.next().await;
        let said = page.next().await;
        assert!(said.is_empty() || said.contains("No resources found"), "{said}");
        page.ends();
        assert_eq!(shop.object(&web).await.data["spec"]["replicas"], 2);
        shop.until_restored(&web).await;
        for (number, address) in shop.service(&web, 80).await.into_iter().enumerate() {
            shop.served_at(address, &web, &format!("by-node-{number}")).await;
        }
    });
}
