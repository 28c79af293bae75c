//! Authorization.

use http::Method;
use serde_json::{Value, json};

use crate::setup::{Setup, config_map, deployment, run, send};

async fn grant(api: &Setup, account: &str, rules: Value) {
    let group = "rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": account}, "rules": rules});
    api.create(&api.path(group, "roles"), &role).await;
    let binding = json!({
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": api.namespace}],
    });
    api.create(&api.path(group, "rolebindings"), &binding).await;
}

#[test]
fn an_unknown_token_is_unauthorized() {
    run(|api| async move {
        let client = api.client_with("nobody-has-this");
        let (status, refused) = send(&client, Method::GET, "/api/v1/namespaces", "", &Value::Null).await;
        assert_eq!((status, &refused["reason"]), (401, &json!("Unauthorized")));
        assert_eq!(refused["kind"], "Status");
    });
}

#[test]
fn an_account_may_do_what_its_roles_say_and_no_more() {
    run(|api| async move {
        let client = api.account("reader").await;
        let path = api.path("apps/v1", "deployments");
        api.create(&path, &deployment("web")).await;
        let user = format!("system:serviceaccount:{}:reader", api.namespace);
        let (status, refused) = send(&client, Method::GET, &path, "", &Value::Null).await;
        assert_eq!((status, &refused["reason"]), (403, &json!("Forbidden")));
        assert_eq!(
            refused["message"],
            format!(
                "deployments.apps is forbidden: User \"{user}\" cannot list resource \"deployments\" in API group \
                 \"apps\" in the namespace \"{}\"",
                api.namespace
            )
        );
        grant(
            &api,
            "reader",
            json!([
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]},
            ]),
        )
        .await;
        let get = async |path: &str| send(&client, Method::GET, path, "", &Value::Null).await;
        // A real cluster's authorizer sees a new binding a little later.
        while get(&path).await.0 == 403 {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(&format!("{path}/web")).await.0, 200);
        assert_eq!(get(&format!("{path}/web/scale")).await.0, 403);
        let body = json!({"spec": {"replicas": 0}});
        let merge = "application/merge-patch+json";
        assert_eq!(send(&client, Method::PATCH, &format!("{path}/web/scale"), merge, &body).await.0, 200);
        let (status, refused) = send(&client, Method::PATCH, &format!("{path}/web"), merge, &body).await;
        assert_eq!(status, 403);
        assert_eq!(
            refused["message"],
            format!(
                "deployments.apps \"web\" is forbidden: User \"{user}\" cannot patch resource \"deployments\" in API \
                 group \"apps\" in the namespace \"{}\"",
                api.namespace
            )
        );
        let (status, refused) = get("/apis/apps/v1/deployments").await;
        assert_eq!(status, 403);
        assert!(refused["message"].as_str().unwrap().ends_with("at the cluster scope"), "{refused}");
        assert_eq!(get("/apis/apps/v1/namespaces/default/deployments").await.0, 403);
        assert_eq!(send(&client, Method::DELETE, &format!("{path}/web"), "", &Value::Null).await.0, 403);
    });
}

#[test]
fn a_rule_can_name_its_objects() {
    run(|api| async move {
        let client = api.account("one").await;
        let path = api.path("v1", "configmaps");
        for name in ["mine", "other"] {
            api.create(&path, &config_map(name)).await;
        }
        let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["*"]});
        grant(&api, "one", json!([rule])).await;
        let get = async |path: String| send(&client, Method::GET, &path, "", &Value::Null).await.0;
        while get(format!("{path}/mine")).await == 403 {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(format!("{path}/other")).await, 403);
        assert_eq!(get(path.clone()).await, 403);
        assert_eq!(get(format!("{path}?fieldSelector=metadata.name%3Dmine")).await, 200);
        let body = config_map("new");
        assert_eq!(send(&client, Method::POST, &path, "application/json", &body).await.0, 403);
    });
}

#[test]
fn everybody_may_discover_and_ask_what_he_may() {
    run(|api| async move {
        let client = api.account("nobody").await;
        for path in ["/version", "/api", "/apis", "/api/v1", "/apis/apps/v1"] {
            assert_eq!(send(&client, Method::GET, path, "", &Value::Null).await.0, 200, "{path}");
        }
        let review = |namespace: &str| {
            json!({
                "kind": "SelfSubjectAccessReview",
                "apiVersion": "authorization.k8s.io/v1",
                "spec": {"resourceAttributes": {"namespace": namespace, "verb": "list", "resource": "pods"}},
            })
        };
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let (status, answer) =
            send(&client, Method::POST, path, "application/json", &review(&api.namespace)).await;
        assert_eq!((status, &answer["status"]["allowed"]), (201, &json!(false)), "{answer}");
        let (_, answer) = api.post(path, &review(&api.namespace)).await;
        assert_eq!(answer["status"]["allowed"], true);
    });
}

#[test]
fn who_creates_by_an_update_may_create() {
    run(|api| async move {
        let client = api.account("updater").await;
        let path = api.path("coordination.k8s.io/v1", "leases");
        let rule = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "update", "patch"]});
        grant(&api, "updater", json!([rule])).await;
        while send(&client, Method::GET, &format!("{path}/one"), "", &Value::Null).await.0 == 403 {
            tokio::task::yield_now().await;
        }
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"}});
        for (method, content_type, query) in [
            (Method::PUT, "application/json", ""),
            (Method::PATCH, "application/apply-patch+yaml", "?fieldManager=updater"),
        ] {
            let (status, refused) =
                send(&client, method, &format!("{path}/one{query}"), content_type, &lease).await;
            assert_eq!((status, &refused["reason"]), (403, &json!("Forbidden")), "{refused}");
        }
        assert_eq!(api.get(&format!("{path}/one")).await.0, 404);
    });
}
