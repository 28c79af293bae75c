//! Resources that their plugin lists and that cannot be read.

use plugin_host::UnreadableResource;

use super::*;

/// The resources `web` and `other`, both intercepted.
async fn two_intercepted() -> (Store, Site) {
    let store = Store::with(["plain"]);
    for name in ["web", "other"] {
        store.put(intercepted(name));
    }
    let site = Site::start(&store, &["a"]);
    site.calls(2).await;
    settle(SECOND).await;
    (store, site)
}

/// Not even by a failover: where its requests can go is not known.
#[tokio::test(start_paused = true)]
async fn the_interception_of_an_unreadable_resource_is_kept_as_it_is() {
    let (store, site) = two_intercepted().await;
    let unreadable = UnreadableResource { id: Some(id("web")), error: "field replicas".to_owned() };
    store.set(|inner| inner.unreadable = vec![unreadable]);
    store.change("other", |_| ());
    // Everything is listed again.
    store.set(|inner| inner.blind = true);
    settle(SECOND).await;
    store.set(|inner| inner.blind = false);
    settle(LONG).await;
    assert_eq!((site.gauge(Backend::Dlx), site.reports("InterceptionRemoved")), (2, 0));
    site.serve(&[]);
    settle(LONG).await;
    let to = |name: &str| store.get(name).interception.unwrap().backend;
    assert_eq!((to("web"), to("other")), (Backend::Dlx, Backend::Both));
    store.set(|inner| inner.unreadable.clear());
    store.change("web", |_| ());
    settle(LONG).await;
    assert_eq!(to("web"), Backend::Both);
}

/// It may be any that is not listed, and so nothing is done with those; also where only what changed was asked for.
#[tokio::test(start_paused = true)]
async fn interceptions_that_may_be_of_a_resource_without_a_readable_name_are_kept_as_they_are() {
    let (store, site) = two_intercepted().await;
    let web = store.get("web");
    store.set(|inner| {
        inner.resources.remove(&web.id);
        inner.unreadable = vec![UnreadableResource { id: None, error: "field name".to_owned() }];
    });
    store.change("other", |_| ());
    settle(SECOND).await;
    site.serve(&[]);
    settle(LONG).await;
    assert_eq!((site.gauge(Backend::Dlx), site.reports("InterceptionRemoved")), (1, 0));
    let calls: Vec<_> = store.inner().set_backend_calls[2..].iter().map(|call| call.name.clone()).collect();
    assert!(!calls.is_empty() && calls.iter().all(|name| name == "other"), "{calls:?}");
    store.set(|inner| inner.unreadable.clear());
    store.put(web);
    settle(LONG).await;
    assert_eq!(store.get("web").interception.unwrap().backend, Backend::Both);
}
