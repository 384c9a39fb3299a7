//! `PullImage` over ttRPC, called by the crate that Kata's agent calls with.

use std::path::Path;
use std::process::Command;

use strongroom_attester::Attester;
use strongroom_guest::image::PullOptions;
use strongroom_guest::{Agent, AgentConfig, Socket, TtrpcLimits, TtrpcService, serve_ttrpc};
use strongroom_testkit::fixtures::peer;

use super::support::{Image, World, anything, key, options, signed_by};

/// What the client prints for a pull, by a data hub with these options.
async fn pulled(client: &Path, options: PullOptions, image: &str, bundle: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let socket = Socket::bind(&folder.path().join("cdh.sock")).unwrap();
    // Nobody answers there: these policies are no resources.
    let config = AgentConfig::new("http://127.0.0.1:9", Attester::named("sample").unwrap());
    let served = tokio::spawn(serve_ttrpc(
        Agent::new(config).unwrap(),
        TtrpcService::DataHub(Box::new(options)),
        socket.listener().unwrap(),
        TtrpcLimits::default(),
        std::future::pending(),
    ));
    let mut command = Command::new(client);
    command
        .arg(socket.path())
        .args(["api.ImagePullService", "PullImage"])
        .arg(format!("1={image}"))
        .arg(format!("2={}", bundle.display()));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    served.abort();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn katas_client_pulls_what_the_policy_rejects_or_not_what_it_allows() {
    let (Some(client), Some(world)) = (peer("ttrpc-client"), World::start()) else {
        return;
    };
    let digest = world.push(&Image::of("hello"), "app:v1");
    let (image, bundle) = (world.name("app:v1"), world.path("bundle"));
    let pem = key().public_pem().unwrap();
    let refused = pulled(&client, options(&signed_by(&pem)), &image, &bundle).await;
    assert!(
        refused.starts_with("status PERMISSION_DENIED ") && !bundle.exists(),
        "{refused}"
    );
    let answer = pulled(&client, options(&anything()), &image, &bundle).await;
    let hex: String = digest
        .to_string()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(answer, format!("1={hex}\n"));
    assert_eq!(world.read("etc/app.conf"), "hello");
}
