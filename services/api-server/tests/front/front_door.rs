//! The front door as its users see it: over TLS, with curl's and kubectl's requests.

use std::sync::Arc;

use super::support::{front_door, send_on, tls};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use rustls::HandshakeKind;
use serde_json::json;

#[tokio::test]
async fn a_cluster_is_created_used_with_kubectl_and_deleted() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;

    let (code, out, err) = cluster.run(&["get", "namespaces", "-o", "name"]).await;
    assert_eq!((code, &*err), (0, ""));
    assert!(out.contains("namespace/kube-system"), "{out}");
    let (code, out, _) = cluster.run(&["version", "-o", "json"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("\"serverVersion\""), "{out}");

    let deleted = door.rest(Method::DELETE, &format!("/v1/clusters/{}", cluster.id), Some(&token), None).await;
    assert!(deleted.code.is_success(), "{}", deleted.text);
    let gone = door.rest(Method::GET, &format!("/v1/clusters/{}", cluster.id), Some(&token), None).await;
    assert_eq!(gone.code, StatusCode::NOT_FOUND);
    // Its name is nobody's now: the management certificate answers, which the cluster's CA has not signed.
    let (code, _, err) = cluster.run(&["get", "namespaces"]).await;
    assert_eq!(code, 1, "{err}");
    assert_eq!(door.rest(Method::GET, &format!("/clusters/{}/api", cluster.id), None, None).await.code, 404);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let door = front_door().await;
    let (ours, theirs) = (door.tenant("ours").await, door.tenant("theirs").await);
    let cluster = door.cluster(&ours, "shop").await;
    let path = format!("/v1/clusters/{}", cluster.id);
    for (token, code) in [(None, 401), (Some("galley_wrong"), 401), (Some(&*theirs), 404), (Some(&*ours), 200)] {
        for path in [path.clone(), format!("{path}/kubeconfig")] {
            let answer = door.rest(Method::GET, &path, token, None).await;
            assert_eq!(answer.code, code, "{path} with {token:?}: {}", answer.text);
            if code != 200 {
                assert_eq!(answer.headers["content-type"], "application/problem+json");
            }
        }
    }
    let listed = door.rest(Method::GET, "/v1/clusters", Some(&theirs), None).await;
    assert_eq!(listed.body["items"], json!([]));
}

#[tokio::test]
async fn a_tenants_clusters_come_in_pages_or_by_name() {
    let door = front_door().await;
    let (ours, theirs) = (door.tenant("ours").await, door.tenant("theirs").await);
    for (token, name) in [(&ours, "one"), (&ours, "two"), (&theirs, "other"), (&ours, "three")] {
        door.cluster(token, name).await;
    }
    let names = |answer: &serde_json::Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap().iter();
        items.map(|cluster| cluster["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = door.rest(Method::GET, "/v1/clusters?limit=2", Some(&ours), None).await.body;
    assert_eq!(names(&first), ["one", "two"]);
    let after = first["continue"].as_str().unwrap();
    let rest = door.rest(Method::GET, &format!("/v1/clusters?limit=2&continue={after}"), Some(&ours), None).await.body;
    assert_eq!((names(&rest), rest.get("continue")), (vec!["three".to_owned()], None));
    let named = door.rest(Method::GET, "/v1/clusters?name=two", Some(&ours), None).await.body;
    assert_eq!(names(&named), ["two"]);
    let foreign = door.rest(Method::GET, "/v1/clusters?name=other", Some(&ours), None).await.body;
    assert_eq!(names(&foreign), [""; 0]);
    for query in ["limit=0", "limit=501", "limit=x", "continue=x", "colour=red"] {
        let answer = door.rest(Method::GET, &format!("/v1/clusters?{query}"), Some(&ours), None).await;
        assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{query}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
}

#[tokio::test]
async fn a_credential_of_one_cluster_is_nothing_on_another() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let (one, two) = (door.cluster(&token, "one").await, door.cluster(&token, "two").await);
    let admin = one.credential("admin", "system:masters");
    let list = "/api/v1/namespaces";
    assert_eq!(one.api(Method::GET, list, None, Some(&admin), None).await.code, 200);
    let refused = two.api(Method::GET, list, None, Some(&admin), None).await;
    assert_eq!((refused.code.as_u16(), &refused.body["reason"]), (401, &json!("Unauthorized")));

    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    one.admin(Method::POST, "/api/v1/namespaces/default/serviceaccounts", Some(json!({"metadata": {"name": "app"}})))
        .await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = one.admin(Method::POST, &path.replace("/default/token", "/app/token"), Some(request)).await;
    let jwt = made["status"]["token"].as_str().unwrap();
    // Known here, with no rights; unknown there.
    let here = one.api(Method::GET, list, Some(jwt), None, None).await;
    assert_eq!(here.code, 403, "{}", here.text);
    assert!(here.text.contains("system:serviceaccount:default:app"), "{}", here.text);
    assert_eq!(two.api(Method::GET, list, Some(jwt), None, None).await.code, 401);
    // Its account's deletion ends it.
    one.admin(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/app", None).await;
    assert_eq!(one.api(Method::GET, list, Some(jwt), None, None).await.code, 401);
}

#[tokio::test]
async fn who_comes_back_resumes_his_session_and_is_who_he_was() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let admin = cluster.credential("admin", "system:masters");
    let client = tls(cluster.authority.certificate(), Some(&admin));
    for (visit, handshake) in [HandshakeKind::Full, HandshakeKind::Resumed].into_iter().enumerate() {
        let stream = door.connect_as(&cluster.host(), Arc::clone(&client)).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(handshake), "visit {visit}");
        let request = Request::builder().uri("/api/v1/namespaces").header("host", cluster.host());
        let answer = send_on(stream, request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn who_shows_no_credential_is_anonymous_and_who_shows_a_bad_one_is_refused() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    assert_eq!(cluster.api(Method::GET, "/version", None, None, None).await.code, 200);
    let anonymous = cluster.api(Method::GET, "/api/v1/pods", None, None, None).await;
    assert_eq!(anonymous.code, 403);
    assert!(anonymous.text.contains("system:anonymous"), "{}", anonymous.text);
    for bad in ["x", "a.b.c", "galley-service_x", &token] {
        let answer = cluster.api(Method::GET, "/version", Some(bad), None, None).await;
        assert_eq!((answer.code.as_u16(), &answer.body["message"]), (401, &json!("Unauthorized")), "{bad}");
    }
    assert_eq!(door.unknown_host("/api").await.code, 404);
    assert_eq!(door.rest(Method::GET, "/clusters/nonsense/api", None, None).await.code, 404);
}

#[tokio::test]
async fn the_cloud_controller_reaches_every_cluster_by_path() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let cloud = door.store.service_token_create("cloud-controller-manager").await.unwrap().secret;
    let path = format!("/clusters/{}/api/v1/services?limit=1", cluster.id);
    let answer = door.rest(Method::GET, &path, Some(&cloud), None).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let all = door.rest(Method::GET, "/v1/cloud/clusters", Some(&cloud), None).await;
    assert_eq!(all.body["items"][0]["id"], json!(cluster.id), "{}", all.text);
    assert_eq!(door.rest(Method::GET, "/v1/cloud/clusters", Some(&token), None).await.code, 401);
}

#[tokio::test]
async fn a_request_keeps_its_id_and_the_keys_of_tokens_are_public() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let keys = cluster.api(Method::GET, "/openid/v1/jwks", None, None, None).await;
    assert_eq!(keys.body["keys"][0]["alg"], "ES256");
    assert!(!keys.headers["audit-id"].is_empty());
    let issuer = cluster.api(Method::GET, "/.well-known/openid-configuration", None, None, None).await;
    assert_eq!(issuer.body["issuer"], "https://kubernetes.default.svc.cluster.local");
}

#[tokio::test]
async fn a_shutdown_ends_watches_and_connections() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let mut watch = cluster.kubectl(&["get", "configmaps", "-w", "-o", "name"]).spawn().unwrap();
    cluster
        .admin(Method::POST, "/api/v1/namespaces/default/configmaps", Some(json!({"metadata": {"name": "c"}})))
        .await;
    let mut line = String::new();
    let mut stdout = tokio::io::BufReader::new(watch.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line).await.unwrap();
    assert_eq!(line, "configmap/c\n");
    door.shutdown.cancel();
    let patience = std::time::Duration::from_secs(10);
    tokio::time::timeout(patience, watch.wait()).await.expect("the watch ends").unwrap();
    tokio::time::timeout(patience, door.serving).await.expect("the server ends").unwrap();
}
