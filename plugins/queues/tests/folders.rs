//! Folders: what is counted, where links may lead, and that a new file is reported.

mod common;

use std::{fs, os::unix::fs::symlink};

use common::{Source, refused};
use scaler_types::{QueueError, QueueReading};

fn holds(waiting: u64, in_flight: u64) -> QueueReading {
    QueueReading {
        waiting: Some(waiting),
        in_flight: Some(in_flight),
        delayed: Some(0),
        ..QueueReading::default()
    }
}

#[tokio::test]
async fn files_wait_until_they_have_the_suffix_of_those_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("my jobs");
    fs::create_dir_all(jobs.join("subfolder")).unwrap();
    for file in ["a", "b", "c.working", ".hidden", "d.busy", "subfolder/e"] {
        fs::write(jobs.join(file), "").unwrap();
    }
    let source = Source::start(&format!("{{allowedHosts: ['file://{}']}}", folder.path().display())).await;
    let uri = format!("file://{}/my%20jobs", folder.path().display());
    assert_eq!(source.read_one(&uri).await, Ok(holds(3, 1)));
    assert_eq!(source.read_one(&format!("{uri}?working=.busy")).await, Ok(holds(3, 1)));
    assert_eq!(source.read_one(&format!("{uri}/subfolder/")).await, Ok(holds(1, 0)));
    fs::remove_dir_all(&jobs).unwrap();
    let error = source.read_one(&uri).await.unwrap_err();
    assert!(matches!(error, QueueError::NotFound(_)), "a folder that vanished is not empty: {error}");
}

#[tokio::test]
async fn no_link_leads_out_of_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, private) = (folder.path().join("spool"), folder.path().join("private"));
    for made in [&spool.join("inner"), &private] {
        fs::create_dir_all(made).unwrap();
    }
    fs::write(private.join("a"), "").unwrap();
    symlink(&private, spool.join("out")).unwrap();
    symlink("inner", spool.join("in")).unwrap();
    symlink(&spool, folder.path().join("link")).unwrap();
    let allowed = folder.path().join("link");
    let source = Source::start(&format!("{{allowedHosts: ['file://{}']}}", allowed.display())).await;
    let read = async |rest: &str| source.read_one(&format!("file://{}{rest}", allowed.display())).await;
    assert_eq!(
        read("/in").await,
        Ok(holds(0, 0)),
        "the operator's own folder may be a link, and one within it"
    );
    for rest in ["/out", "/../private", "2", "/inner/%2e%2e/../../private"] {
        assert!(matches!(read(rest).await, Err(QueueError::Denied(_) | QueueError::Invalid(_))), "{rest}");
    }
    let error = refused(read("/out").await);
    assert!(error.contains(&format!("file://{}", private.display())), "{error}");
    // Without its list nothing is allowed.
    let source = Source::start("{}").await;
    refused(source.read_one(&format!("file://{}", spool.display())).await);
}

#[tokio::test]
async fn a_folder_that_holds_a_file_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::start(&format!("{{allowedHosts: ['file://{}']}}", folder.path().display())).await;
    let queues = ["jobs", "mails", "gone"].map(|name| format!("file://{}/{name}", folder.path().display()));
    for name in ["jobs", "mails"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let queues = [queues[0].as_str(), &queues[1], &queues[2]];
    fs::write(folder.path().join("jobs/a.working"), "").unwrap();
    let writes = async { fs::write(folder.path().join("mails/a"), "").unwrap() };
    let (changed, ()) = tokio::join!(source.changes(&queues), writes);
    assert_eq!(changed, [queues[1]]);
    assert_eq!(source.changes(&queues).await, [queues[1]], "it was there before");
}
